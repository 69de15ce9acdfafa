"""Ending a session prints its report: on stderr, and in the JSON record."""

from __future__ import annotations

import pytest

from guestctl.dialects.capabilities import Ability
from guestctl.output.schema import SCHEMAS
from tests.integration.front import Guest, InstantClock, able
from tests.unit.test_records import faults

#: Each API with an end, and the one with a clear.
ENDINGS = [*((api, "end") for api in able(Ability.END)), *((api, "clear") for api in able(Ability.CLEAR))]


@pytest.mark.parametrize(("api", "command"), ENDINGS)
def test_the_report_of_an_ended_session(talking: Guest, time: InstantClock, command: str) -> None:
    talking.ok("send", "hi")
    time.advance(3600)
    ended = talking.ok("session", command, "--yes", "-o", "json")
    report = ended.record["report"]
    assert not faults(ended.record, SCHEMAS["session"])
    assert 3600_000 <= report["duration_ms"] < 3700_000
    assert [line["event"] for line in report["activity"]][-1] == "session_terminated"
    assert talking.ok("session", "report").record == report
    assert "session_terminated" in ended.err
    assert ["duration_ms", str(report["duration_ms"])] in [line.split() for line in ended.err.splitlines()]


@pytest.mark.parametrize("api", ["web-messaging"])
def test_the_report_is_a_notice(talking: Guest) -> None:
    """A table shows the session alone on stdout, and --quiet drops the report."""
    shown = talking.ok("session", "end", "--yes", "-o", "table")
    assert "session_started" in shown.err
    assert "session_started" not in shown.out
    talking.ok("session", "create", "--new")
    assert talking.ok("session", "end", "--yes", "-q").err == ""
