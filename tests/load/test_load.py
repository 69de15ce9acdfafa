"""`guestctl load` from outside: arguments in; record, stderr and exit code out."""

from __future__ import annotations

import csv
import signal

from guestctl.load.slo import COUNTS, TIMES
from tests.checks.html_report import data_of
from tests.load.conftest import HELLO, Room


def test_guests_in_one_process_are_measured(at_served: Room) -> None:
    done = at_served.run("load hello.yaml --guests 3 --conversations 6 -o json --csv load.csv --html load.html")
    assert done.code == 0, done.err
    found = done.record
    assert found["kind"] == "load"
    assert found["complete"]
    assert found["passed"] > 0
    assert found["turns"] >= 2 * found["passed"]
    assert {name: found[name] for name in COUNTS} == dict.fromkeys(COUNTS, 0)
    for name in TIMES:
        assert found["times"][name]["count"] > 0
        assert 0 < found["times"][name]["min"] <= found["times"][name]["p99"] <= found["times"][name]["max"]
    assert found["times"]["reply"]["count"] >= 2 * found["passed"]
    with (at_served.path / "load.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["second"] == "total"
    page = data_of((at_served.path / "load.html").read_text(encoding="utf-8"))
    assert {name: page[name] for name in found} == found
    assert sum(slot["turns"] for slot in page["slots"]) == found["turns"]
    assert int(rows[-1]["turns"]) == sum(int(row["turns"]) for row in rows[:-1]) == found["turns"]


def test_workers_are_added_and_a_missed_objective_exits_1(at_served: Room) -> None:
    slo = "reply p99.9 < 60s, failed < 0.5%, reply min < 1ms, turns > 0/s"
    done = at_served.run(f"load hello.yaml --guests 4 --ramp 100/s --conversations 6 --workers 2 -o json --slo '{slo}'")
    assert done.code == 1
    assert [one["met"] for one in done.record["objectives"]] == [True, True, False, True]
    assert "missed: reply min < 1ms" in done.err
    assert done.record["workers"] == 2
    assert done.record["complete"]
    assert done.record["passed"] > 0


def test_ctrl_c_ends_in_order_with_a_report(at_served: Room) -> None:
    with at_served.start("load hello.yaml --guests 2 --ramp 100/s -o json") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "running 2 guests against 127.0.0.1 until Ctrl-C\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert '"stopped":"interrupted"' in out


def test_a_network_that_is_down_is_the_failure(room: Room) -> None:
    room.write("hello.yaml", HELLO)
    room.write("profiles.yaml", "profiles: {down: {base_url: 'http://127.0.0.1:9', deployment_id: some}}")
    done = room.run("load hello.yaml -p down --guests 1 --for 1s -o json")
    assert done.code == 8, done.err
    assert "refused" in done.err
    assert done.record["passed"] == 0
    assert done.record["failed"] > 0
