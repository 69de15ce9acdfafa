"""After an outage everybody is back soon, and nobody is trampled. `python -m tests.faults --crowd` prints it."""

from __future__ import annotations

from tests.faults.crowd import CLIENTS, crowd


def test_a_thousand_come_back_within_a_minute_and_never_all_at_once() -> None:
    found = crowd(0)
    assert found.last <= 60.0
    assert found.worst <= 150
    assert found.attempts > CLIENTS
