"""`apis` and `schema`: what there is; and where things stand, for a bare `guestctl`.

Knows: declarations, the profile, the name and state of the session. Must not know: the network.
"""

from __future__ import annotations

from typing import Annotated

import typer

from guestctl.cli.invocation import Invocation
from guestctl.cli.options import Completes, command
from guestctl.core.errors import UsageError
from guestctl.dialects.base import Dialect
from guestctl.dialects.capabilities import Ability, Standing


@command("guestctl apis", "guestctl apis -o json | jq -r '.[].name'", needs="nothing")
def apis(run: Invocation) -> None:
    """List the API families and what a guest can do with each.

    `documented`: the wire is as documented; `assumed`: the source is silent and guestctl decided.
    """
    from guestctl.dialects import NAMES, dialect_class

    classes = [dialect_class(name) for name in NAMES]
    if run.out.human:
        _drawn(run, classes)
        return
    with run.out.listing() as add:
        for found in classes:
            operations = {a.value: found.abilities[a].value if a in found.abilities else None for a in Ability}
            add(
                {
                    "kind": "api",
                    "name": found.name,
                    "summary": found.summary,
                    "operations": operations,
                    "fields": sorted(found.fields),
                }
            )


def _drawn(run: Invocation, classes: list[type[Dialect]]) -> None:
    """Operation by API where that fits; else what each API has, in words."""
    rows = [
        [ability.value, *(found.abilities[ability].value if ability in found.abilities else "–" for found in classes)]
        for ability in Ability
    ]
    headers = ["OPERATION", *(found.name for found in classes)]
    needed = sum(max(map(len, column)) + 2 for column in zip(headers, *rows, strict=True))
    if run.out.terminal.width is None or needed <= run.out.terminal.width:
        run.out.grid(headers, rows)
        return

    def having(found: type[Dialect], standing: Standing) -> str:
        return ", ".join(ability.value for ability, how in found.abilities.items() if how is standing) or "–"

    columns = [Standing.DOCUMENTED, Standing.ASSUMED]
    run.out.grid(
        ["API", *(standing.value.upper() for standing in columns)],
        [[found.name, *(having(found, standing) for standing in columns)] for found in classes],
    )


def standing(run: Invocation) -> None:
    """For a person who has a profile: where commands lead, and what can be done next. Asks nobody."""
    from guestctl.cli.help import next_commands
    from guestctl.core.errors import SessionOver

    profile = run.resolved.profile
    where = profile.base_url or profile.region or profile.environment or profile.org
    run.out.text(f"Profile {profile.name}: {profile.api}" + (f" at {where}" if where else ""))
    try:
        session = run.client.session()
        run.out.text(f"Session {session.name}: {session.state}")
    except SessionOver:
        run.out.text("No session yet; `guestctl ask TEXT` makes one.")
    run.out.verbatim("\n" + next_commands(profile=True))


@command("guestctl schema", "guestctl schema message -o json", needs="nothing")
def schema(
    run: Invocation,
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="one record kind"), Completes("record")] = None,
) -> None:
    """Print the JSON Schema of the records guestctl writes: all of them, or one kind."""
    from guestctl.output.schema import SCHEMAS, document, documents

    if kind is not None and kind not in SCHEMAS:
        raise UsageError(f"no record kind {kind!r}; there are {', '.join(SCHEMAS)}")
    if kind is None and run.out.human:
        with run.out.listing() as add:
            for name, found in SCHEMAS.items():
                add({"kind": "schema", "name": name, "title": found["title"]})
        return
    run.out.document(documents() if kind is None else document(kind))
