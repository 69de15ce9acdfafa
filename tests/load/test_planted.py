"""Lost, duplicated and swapped messages are counted exactly, while guests talk at the same time."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

from guestctl.sandbox.server import Sandbox
from tests.load.conftest import Room
from tests.load.planted import LOCUSTFILE, faulty_sandbox


def test_planted_faults_are_counted_exactly(at_sandbox: Callable[[Sandbox], Room], tmp_path: Path) -> None:
    guests = 4
    with faulty_sandbox(tmp_path, seed=7) as (served, planted):
        room = at_sandbox(served)
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
    found = json.loads(out)
    assert (process.returncode, found["complete"], found["passed"]) == (130, True, 4 * guests), err
    assert min(planted.values()) > 5
    assert {kind: found[kind] for kind in planted} == planted
    assert found["turns"] == 8 * guests
    assert found["unanswered"] == found["failed"] == found["in_doubt"] == found["gaps"] == 0
