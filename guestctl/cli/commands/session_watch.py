"""`sandbox sessions --watch`: a table that follows the sessions of a sandbox, or one JSON object for each change.

Knows: the terminal, and what happens when the sandbox stops or is started again. Must not know: how changes are found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from guestctl.cli.invocation import Invocation
from guestctl.core.errors import NetworkError, UsageError
from guestctl.output.columns import Column, fitted
from guestctl.output.records import Record

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from guestctl.sandbox_tools.admin_client import SandboxAdmin, SessionsSeen

#: Seconds that one request for changes waits.
WAIT = 20.0
#: Seconds between two looks whether a sandbox has been started again.
PAUSE = 1.0
#: Characters of the start of an id.
_SHORT = 8
#: Lines of the terminal that the table leaves for its header, the line below it and the prompt.
_OTHER_LINES = 4


def watch_sessions(run: Invocation, locate: Callable[[], SandboxAdmin]) -> None:
    """Show every change until a signal. Raises like `SandboxAdmin`, unless a sandbox has answered before.

    A sandbox that no longer answers has been stopped: `locate` is asked for the one started last, which may be another.
    """
    if run.out.mode == "csv":
        raise UsageError("-o csv: --watch prints changes and no list", hint="use -o jsonl")
    admin = locate()
    seen: SessionsSeen | None = None
    sessions: dict[str, Record] = {}
    with _display(run) as show:
        while True:
            try:
                found, changed = admin.changes(seen, WAIT)
            except NetworkError:
                if seen is None:
                    raise
                show(sessions, [], "the sandbox has stopped; waiting until one is started")
                admin, (found, changed) = _next_sandbox(run, locate)
            if seen is None or found.instance != seen.instance:
                sessions.clear()
            seen = found
            records = [_record(one) for one in changed]
            sessions |= {str(record["id"]): record for record in records}
            show(sessions, records, f"sandbox at {admin.url}")


def _next_sandbox(
    run: Invocation, locate: Callable[[], SandboxAdmin]
) -> tuple[SandboxAdmin, tuple[SessionsSeen, list[dict[str, Any]]]]:
    """Wait until a sandbox answers, and return it with all its sessions."""
    while True:
        try:
            admin = locate()
            return admin, admin.changes(None, 0)
        except NetworkError:
            pass
        except UsageError as failure:
            if failure.code != "sandbox.absent":
                raise
        run.clock.sleep(PAUSE)


def _record(found: Any) -> Record:
    return {"kind": "sandbox-change", **{("created_at" if k == "started" else k): v for k, v in dict(found).items()}}


@contextmanager
def _display(run: Invocation) -> Iterator[Callable[[dict[str, Record], list[Record], str], None]]:
    """Yield what shows all sessions, those that have changed, and a line about the sandbox."""
    told = ""

    def lines(sessions: dict[str, Record], changed: list[Record], status: str) -> None:
        nonlocal told
        if told and status != told:
            run.out.diagnostic(status)
        told = status
        for record in changed:
            if run.out.human:
                columns = _columns(run.out.terminal.drawing_width)
                run.out.row(columns, [(cell, "") for cell in _cells(record, columns)])
            else:
                run.out.event(record)

    if not (run.out.human and run.out.terminal.stdout) or run.world.environ.get("TERM") == "dumb":
        yield lines
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(
        file=run.world.stdout,
        force_terminal=True,
        no_color=not run.out.terminal.colour,
        highlight=False,
        markup=False,
    )
    with Live(console=console, auto_refresh=False) as live:
        yield lambda sessions, changed, status: _draw(run, live, console, sessions, status)


def _draw(run: Invocation, live: Live, console: Console, sessions: dict[str, Record], status: str) -> None:
    from rich.text import Text

    from guestctl.output.views import View

    width, height = _size(run) or console.size
    columns = _columns(width)
    rows = [_cells(record, columns) for record in sessions.values()][-max(1, height - _OTHER_LINES) :]
    view = View(replace(run.out.terminal, width=width), run.clock.now)
    hidden = f", {len(sessions) - len(rows)} older ones not shown" if len(sessions) > len(rows) else ""
    count = f"{len(sessions)} session{'s' * (len(sessions) != 1)}"
    lines = [view.grid(columns, rows).rstrip("\n")] if rows else []
    lines.append(f"{count}{hidden}; {status}; Ctrl-C ends")
    live.update(Text.from_ansi("\n".join(lines)), refresh=True)


def _columns(width: int) -> list[Column]:
    """Return the columns of the table. A narrow terminal has room for the start of an id only."""
    columns = [
        Column("API", 13, 26, breaks=True),
        Column("STATE", 9),
        Column("SOCKETS", 7),
        Column("MESSAGES", 8),
        Column("REQUESTS", 8),
    ]
    whole = [Column("ID", 36), *columns]
    if fitted(whole, width) is not None:
        return whole
    short = [Column("ID", _SHORT), *columns]
    return short if fitted(short, width) is not None else short[:-1]


def _cells(record: Record, columns: list[Column]) -> list[str]:
    id = str(record.get("id"))[: columns[0].least]
    return [id, *(str(record.get(column.header.lower())) for column in columns[1:])]


def _size(run: Invocation) -> tuple[int, int] | None:
    """Return the columns and lines of the terminal now, None if it does not state them."""
    try:
        width, height = os.get_terminal_size(run.world.stdout.fileno())
    except (OSError, ValueError):
        return None
    return (width, height) if width > 0 and height > 0 else None
