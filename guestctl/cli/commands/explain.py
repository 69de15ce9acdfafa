"""The `explain` command. Knows: its arguments and output. Must not know: what any code means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from guestctl.cli.commands.explanations import KINDS, Explanation, everything, nearest
from guestctl.cli.commands.explanations import explain as explanations_of
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command
from guestctl.cli.parameters import CommandArgument, CommandOption
from guestctl.core.errors import UsageError

if TYPE_CHECKING:
    from guestctl.output.record_types import ExplanationRecord


@command("guestctl explain 1009 --api web-messaging", "guestctl explain send.in_doubt 4006 -o json", needs="nothing")
def explain(
    run: Invocation,
    codes: Annotated[
        list[str] | None,
        CommandArgument(
            metavar="[CODE...]", help="a status, close code, service code, failure, frame class or message"
        ),
    ] = None,
    api: Annotated[
        str | None, CommandOption("--api", metavar="NAME", help="only entries of this API", completes="api")
    ] = None,
) -> None:
    """Explain a code offline: its meaning, its cause, what guestctl does, the next step and the source.

    A number may have several meanings: `exit 4`, `http 403`, `close 1006` and `code 4001` select one kind.
    Without a code, explain lists all entries.
    """
    if api is not None:
        from guestctl.dialects import dialect_class

        dialect_class(api)
    if not codes:
        found = [entry for entry in everything() if api is None or not entry.apis or api in entry.apis]
        with run.out.listing() as add:
            for entry in found:
                add(_record(entry))
        return
    found = [entry for code in _queries(codes) for entry in _entries(code, api)]
    if run.out.human:
        for number, entry in enumerate(found):
            run.out.verbatim("\n" if number else "")
            run.out.one(_record(entry))
        return
    with run.out.listing() as add:
        for entry in found:
            add(_record(entry))


def _queries(codes: list[str]) -> list[str]:
    """Return the arguments as separate queries. Words that have an entry together are one query, and the name
    of a kind belongs to the word after it."""
    if explanations_of(" ".join(codes)):
        return [" ".join(codes)]
    queries: list[str] = []
    for code in codes:
        if queries and queries[-1].lower() in KINDS:
            queries[-1] += f" {code}"
        else:
            queries.append(code)
    return queries


def _entries(code: str, api: str | None) -> list[Explanation]:
    found = explanations_of(code, api=api)
    if found:
        return found
    if api is not None and explanations_of(code):
        others = sorted({name for entry in explanations_of(code) for name in entry.apis})
        raise UsageError(
            f'"{code}" has no meaning on {api}', hint=f"leave out --api: it belongs to {', '.join(others)}"
        )
    alike = "`, `guestctl explain ".join(nearest(code))
    hint = f"did you mean `guestctl explain {alike}`?" if alike else "`guestctl explain` lists all entries"
    raise UsageError(f'no explanation for "{code}"', hint=hint)


def _record(entry: Explanation) -> ExplanationRecord:
    return {
        "kind": "explanation",
        "code": entry.code,
        "type": entry.kind,
        "meaning": entry.meaning,
        "cause": entry.cause or None,
        "guestctl": entry.does or None,
        "next_step": entry.next_step or None,
        "failure": entry.failure,
        "exit": None if entry.exit is None else int(entry.exit),
        "apis": list(entry.apis),
        "source": entry.source,
    }
