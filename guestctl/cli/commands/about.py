"""`apis`, `schema`, and the overview that `guestctl` without arguments prints.

Knows: the APIs' declarations, the profile, the session's name and state. Must not know: the network.
"""

from __future__ import annotations

from typing import Annotated

from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command
from guestctl.cli.parameters import CommandArgument
from guestctl.core.errors import UsageError
from guestctl.dialects.base import Dialect
from guestctl.dialects.capabilities import Ability, Standing
from guestctl.output.columns import Column, fitted


@command("guestctl apis", "guestctl apis -o json | jq -r '.[].name'", needs="nothing")
def apis(run: Invocation) -> None:
    """List the APIs and what a guest can do with each.

    An operation is `documented` if the published sources describe it, and `assumed` if they do not.
    """
    from guestctl.dialects import NAMES, dialect_class

    classes = [dialect_class(name) for name in NAMES]
    if run.out.human:
        _print_table(run, classes)
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


def _print_table(run: Invocation, classes: list[type[Dialect]]) -> None:
    """Print operations by API if the terminal is wide enough, otherwise one line per API."""
    rows = [
        [ability.value, *(found.abilities[ability].value if ability in found.abilities else "–" for found in classes)]
        for ability in Ability
    ]
    columns = [Column("OPERATION", 14), *(Column(found.name, max(10, len(found.name))) for found in classes)]
    if fitted(columns, run.out.terminal.drawing_width) is not None:
        run.out.grid(columns, rows)
        return

    def having(found: type[Dialect], standing: Standing) -> str:
        return ", ".join(ability.value for ability, how in found.abilities.items() if how is standing) or "–"

    standings = [Standing.DOCUMENTED, Standing.ASSUMED]
    run.out.grid(
        [Column("API", 13, 26), *(Column(standing.value.upper(), 16, 60) for standing in standings)],
        [[found.name, *(having(found, standing) for standing in standings)] for found in classes],
    )


def overview(run: Invocation) -> None:
    """Print the profile, the session and the next commands. Uses no network."""
    from guestctl.cli.commands.session import as_of_now
    from guestctl.cli.help import next_commands
    from guestctl.core.errors import SessionOver

    profile = run.resolved.profile
    where = profile.base_url or profile.region or profile.environment or profile.org
    run.out.text(f"Profile {profile.name}: {profile.api}" + (f" at {where}" if where else ""), prose=True)
    try:
        session = as_of_now(run, run.client.session())
        run.out.text(f"Session {session.name}: {session.state}", prose=True)
    except SessionOver:
        run.out.text("No session yet. `guestctl ask TEXT` creates one.", prose=True)
    run.out.verbatim("\n" + next_commands(run.out.terminal.width, profile=True))


@command("guestctl schema", "guestctl schema message -o json", needs="nothing")
def schema(
    run: Invocation,
    kind: Annotated[
        str | None, CommandArgument(metavar="[KIND]", help="record kind (default: all)", completes="record")
    ] = None,
) -> None:
    """Print the JSON Schema of the records that guestctl writes.

    On a terminal it lists the kinds by default; elsewhere it prints every schema.
    """
    from guestctl.output.schema import SCHEMAS, document, documents

    if kind is not None and kind not in SCHEMAS:
        raise UsageError(f'no record kind "{kind}"', hint=f"available kinds: {', '.join(SCHEMAS)}")
    if kind is None and run.out.human:
        with run.out.listing() as add:
            for name, found in SCHEMAS.items():
                add({"kind": "schema", "name": name, "title": found["title"]})
        return
    run.out.document(documents() if kind is None else document(kind))
