"""The rate limits that the workers of a load test share, on counted time."""

from __future__ import annotations

import random

import pytest

from guestctl.load.pace import CONNECTS, Governor, GuestBudgets
from tests.fakes import FakeClock


def test_no_minute_has_more_connections_than_the_deployment_allows(clock: FakeClock) -> None:
    """However many guests of however many workers ask, and whenever they do."""
    governor, chance = Governor(clock), random.Random(4)
    workers = [GuestBudgets(clock, governor.take) for _ in range(3)]
    made: list[float] = []
    for _ in range(6000):
        if chance.random() < 0.02:
            clock.advance(chance.uniform(0.0, 4.0))
        budgets = chance.choice(workers)
        if chance.random() < 0.7:
            wait = budgets.first_connect()
            assert budgets.take("scope/reconnects", 15, 60.0, burst=5, within=0.0) == 0.0  # the same connection
        else:
            wait = budgets.take("scope/reconnects", 15, 60.0, burst=5, within=None)
        made.append(clock.monotonic() + wait)
    made.sort()
    for first, later in zip(made, made[1000:], strict=False):
        assert later - first >= 60.0 - 1e-6
    assert made[-1] - made[0] == pytest.approx(6000 * 60 / CONNECTS[0], rel=0.05)  # and not much slower


def test_a_connection_that_nobody_waited_for_delays_the_next_ones(clock: FakeClock) -> None:
    governor = Governor(clock)
    budgets = GuestBudgets(clock, governor.take)
    for _ in range(CONNECTS[2]):
        assert budgets.take("scope/reconnects", 15, 60.0, burst=5, within=0.0) == 0.0
    assert budgets.first_connect() > 0.0


def test_limits_of_a_profile_are_shared_and_those_of_a_session_are_not(clock: FakeClock) -> None:
    governor = Governor(clock)
    one, two = (GuestBudgets(clock, governor.take) for _ in range(2))
    for _ in range(100):
        assert one.take("scope/requests", 200, 60.0) == two.take("scope/requests", 200, 60.0) == 0.0
    assert one.take("scope/requests", 200, 60.0, within=None) == pytest.approx(0.3)
    assert one.take("scope 1.0/sends", 2, 1.0, burst=1, within=None) == 0.0
    assert two.take("scope 1.0/sends", 2, 1.0, burst=1, within=None) == 0.0
    assert one.take("scope 1.0/sends", 2, 1.0, burst=1, within=None) == pytest.approx(0.5)


def test_a_wait_that_is_too_long_reserves_nothing(clock: FakeClock) -> None:
    governor = Governor(clock)
    assert governor.take("x", 1, 10.0) == 0.0
    assert governor.take("x", 1, 10.0, within=5.0) == pytest.approx(10.0)
    assert governor.take("x", 1, 10.0, within=None) == pytest.approx(10.0)
    governor.give_back("x", 1, 10.0)
    assert governor.take("x", 1, 10.0, within=None) == pytest.approx(10.0)


def test_the_buckets_of_a_session_are_removed_with_it(clock: FakeClock) -> None:
    budgets = GuestBudgets(clock, Governor(clock).take)
    budgets.take("scope 1.0/sends", 2, 1.0, burst=1)
    budgets.forget("scope 1.0")
    assert budgets.take("scope 1.0/sends", 2, 1.0, burst=1, within=None) == 0.0
