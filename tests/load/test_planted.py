"""Lost, duplicated and swapped messages are counted exactly, while guests talk at the same time."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guestctl.sandbox.server import Sandbox
from tests.load.conftest import HELLO, Room
from tests.load.planted import LOCUSTFILE, faulty_sandbox


def run_planted(room: Room, guests: int) -> dict[str, Any]:
    """Return the results of a test that is stopped when every guest has had its conversations."""
    room.write("locustfile.py", LOCUSTFILE)
    with room.start(f"load locustfile.py --guests {guests} --ramp 100/s --workers 2 -o json") as process:
        assert process.stderr is not None
        finished = 0
        while finished < guests:
            line = process.stderr.readline()
            assert line, "the command ended before its guests had finished"
            finished += line == "finished\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    found: dict[str, Any] = json.loads(out)
    assert (process.returncode, found["complete"], found["passed"]) == (130, True, 4 * guests), err
    return found


def test_planted_faults_are_counted_exactly(at_sandbox: Callable[[Sandbox], Room], tmp_path: Path) -> None:
    guests = 4
    with faulty_sandbox(tmp_path, seed=7) as (served, planted):
        found = run_planted(at_sandbox(served), guests)
    assert min(planted.values()) > 5
    assert {kind: found[kind] for kind in planted} == planted
    assert found["turns"] == 8 * guests
    assert found["unanswered"] == found["failed"] == found["in_doubt"] == found["gaps"] == 0


def test_a_reply_is_not_lost_if_it_could_still_have_come(at_sandbox: Callable[[Sandbox], Room], tmp_path: Path) -> None:
    """A service that resets the connection may have had the reply on its way."""
    with faulty_sandbox(tmp_path, seed=7, closes=False) as (served, planted):
        found = run_planted(at_sandbox(served), 2)
    assert planted["lost"]
    assert (found["lost"], found["gaps"]) == (0, planted["lost"])


def test_a_message_is_not_lost_if_history_is_behind(at_sandbox: Callable[[Sandbox], Room]) -> None:
    with Sandbox(fast=True, faults=("lag:ms=600000",)) as served:
        room = at_sandbox(served)
        room.write("hello.yaml", HELLO)
        found = room.run("load hello.yaml --guests 2 --conversations 2 -o json").record
    assert (found["lost"], found["gaps"] > 0) == (0, True)
