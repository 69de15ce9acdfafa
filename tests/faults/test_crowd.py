"""After an outage everybody is back soon, and nobody is trampled. `python -m tests.faults --crowd` prints it."""

from __future__ import annotations

from random import Random

import pytest

from guestctl.engine import listener
from tests.faults.crowd import CLIENTS, crowd


def test_a_thousand_come_back_within_a_minute_and_never_all_at_once() -> None:
    found = crowd(0)
    assert found.last <= 60.0
    assert found.worst <= 150
    assert found.attempts > CLIENTS


def test_waits_without_jitter_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(random: Random, attempt: int, *, base: float, cap: float) -> float:
        return min(cap, base * 2.0**attempt)

    monkeypatch.setattr(listener, "jittered", wait)
    found = crowd(0)
    assert found.last > 60.0
    assert found.worst > 150
