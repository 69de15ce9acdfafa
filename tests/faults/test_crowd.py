"""Listeners reconnect soon after an outage and never all at once. `python -m tests.faults --crowd` prints figures."""

from __future__ import annotations

from random import Random

import pytest

from guestctl.engine import listener
from tests.faults.crowd import CLIENTS, crowd


def test_a_thousand_listeners_reconnect_within_a_minute_and_never_all_at_once() -> None:
    found = crowd(0)
    assert found.last <= 60.0
    assert found.worst <= 150
    assert found.attempts > CLIENTS


def test_waits_without_jitter_exceed_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(random: Random, attempt: int, *, base: float, cap: float) -> float:
        return min(cap, base * 2.0**attempt)

    monkeypatch.setattr(listener, "jittered", wait)
    found = crowd(0)
    assert found.last > 60.0
    assert found.worst > 150
