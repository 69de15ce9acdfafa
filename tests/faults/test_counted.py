"""Random schedules on counted time. `python -m tests.faults --evidence 10000` runs more of them.

A violation is printed with the command that repeats it.
"""

from __future__ import annotations

import pytest

from tests.faults.counted import SERVICES, Figures, Service, evidence, make_counted
from tests.faults.schedules import APIS

#: Schedules in the default run, and in the slow suite.
FEW, MANY = 14, 700

pytestmark = pytest.mark.timeout(600)


def ran(service: Service, count: int, seed: int) -> Figures:
    """Run the schedules and assert that no oracle found a violation."""
    total = Figures()
    for found in evidence(service, count, seed, jobs=1):
        total.add(found)
    assert not total.violations, "\n".join(total.violations)
    assert total.schedules == count
    return total


@pytest.mark.parametrize("service", SERVICES)
def test_a_few_random_schedules_on_counted_time(service: Service) -> None:
    ran(service, FEW, seed=0)


def test_promises_and_shares_hold_in_a_sample_on_the_withholding_service() -> None:
    total = ran("withholding", MANY, seed=0)
    assert not total.goal_missed, total


def test_promises_hold_in_a_sample_on_the_helpful_service() -> None:
    ran("helpful", MANY // 4, seed=0)


def test_a_seed_always_makes_the_same_schedule() -> None:
    made = [make_counted(seed, api, service) for seed in range(20) for api in APIS for service in SERVICES]
    assert made == [make_counted(seed, api, service) for seed in range(20) for api in APIS for service in SERVICES]
