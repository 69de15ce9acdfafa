"""A large state database, compared with an empty one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from guestctl.core.clock import SystemClock
from guestctl.storage.state import LedgerEntry, State
from tests.bench.figures import Figure, Scale, side_by_side
from tests.bench.processes import environment, guestctl, run, sandbox, timed
from tests.bench.startup import NAMES, turns


def state(scale: Scale) -> Iterator[Figure]:
    with TemporaryDirectory() as place:
        full, empty = (environment(Path(place) / name) for name in ("full", "empty"))
        with sandbox(full) as (found, _):
            for environ in (full, empty):
                environ["GUESTCTL_SANDBOX_URL"] = found["url"]
                for name in NAMES:
                    run(guestctl("session", "create", "--as", name), environ)
            grow(Path(full["GUESTCTL_STATE"]), scale.sessions, scale.rows)
            mine, theirs = turns(NAMES), turns(NAMES)
            yield side_by_side(
                f"send, {scale.sessions:,} sessions, {scale.rows:,} ids",
                lambda: timed(guestctl("-s", mine(), "send", "hello"), full),
                lambda: timed(guestctl("-s", theirs(), "send", "hello"), empty),
                runs=scale.runs,
                aim=1.1,
                baseline="an empty state database",
                warm=2,
                note=f"{(Path(full['GUESTCTL_STATE']) / 'state.db').stat().st_size / 2**20:.0f} MB",
            )


def grow(directory: Path, sessions: int, rows: int) -> None:
    """Add sessions to the same profile, with the ledger rows spread over them."""
    each = rows // sessions
    with State.open(directory, SystemClock()) as filled:
        scope, pattern = filled.sessions()[0]
        for number in range(sessions):
            old = replace(pattern, name=f"old-{number}", created_at=pattern.created_at - 1 - number)
            filled.put(scope, old)
            ids = (f"{number:08x}{at:024x}" for at in range(each))
            filled.record(scope, old, [LedgerEntry(one, None, None, "2026-03-04T09:15:27.412Z") for one in ids])
