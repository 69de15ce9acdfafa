"""`explain`: what a code or a message means. Knows: how it is asked and shown. Must not know: any meaning."""

from __future__ import annotations

from typing import Annotated

import typer

from guestctl.cli.commands.explanations import KINDS, Explanation, everything, nearest
from guestctl.cli.commands.explanations import explain as meanings
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command
from guestctl.core.errors import UsageError
from guestctl.output.records import Record


@command("guestctl explain 1009 --api web-messaging", "guestctl explain send.in_doubt 4006 -o json", needs="nothing")
def explain(
    run: Invocation,
    codes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CODE...]", help="a status, close code, service code, failure, frame class or message"),
    ] = None,
    api: Annotated[str | None, typer.Option("--api", metavar="NAME", help="only what concerns this API")] = None,
) -> None:
    """Explain a code offline: meaning, cause, what guestctl does, next step, and where it is stated.

    `exit 4`, `http 403`, `close 1006`, `code 4001` name one kind of number. Without a code, lists all.
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
    found = [entry for code in _asked(codes) for entry in _known(code, api)]
    if run.out.human:
        for number, entry in enumerate(found):
            run.out.verbatim("\n" if number else "")
            run.out.one(_record(entry))
        return
    with run.out.listing() as add:
        for entry in found:
            add(_record(entry))


def _asked(codes: list[str]) -> list[str]:
    """What is asked for, one by one. Words that mean something together are one; a kind's name belongs to
    the word after it."""
    if meanings(" ".join(codes)):
        return [" ".join(codes)]
    asked: list[str] = []
    for code in codes:
        if asked and asked[-1].lower() in KINDS:
            asked[-1] += f" {code}"
        else:
            asked.append(code)
    return asked


def _known(code: str, api: str | None) -> list[Explanation]:
    found = meanings(code, api=api)
    if found:
        return found
    if api is not None and meanings(code):
        having = sorted({name for entry in meanings(code) for name in entry.apis})
        raise UsageError(f"{code!r} means nothing on {api}; it does on {', '.join(having)}", hint="Leave out --api.")
    alike = "`, `guestctl explain ".join(nearest(code))
    hint = f"Did you mean `guestctl explain {alike}`?" if alike else "`guestctl explain` lists all there is."
    raise UsageError(f"nothing is known of {code!r}", hint=hint)


def _record(entry: Explanation) -> Record:
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
