"""Random schedules on counted time. `python -m tests.faults --evidence 10000` runs more of them.

A violation is printed with the command that repeats it.
"""

from __future__ import annotations

import pytest

from tests.faults.counted import SERVICES, SLACK, Service, make_counted, run_counted
from tests.faults.figures import Figures, evidence
from tests.faults.oracles import judge
from tests.faults.schedules import APIS, OVER_REST, SENDER, Schedule, Step

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


def test_a_socket_that_breaks_while_history_is_read_is_replaced() -> None:
    """A found defect: every later read used the broken socket, so that the message stayed in doubt."""
    steps = (Step("send", "guest 0", at=1.0), Step("send", "guest 1", at=40.0))
    events = (
        Step("stored", who=SENDER, how="cut", at=0.5),
        Step("fault", "drop:code=1006,on=refresh,after=1", at=0.5),
    )
    schedule = Schedule(0, "web-messaging", steps, counted=True, keys_return=False, events=events)
    run = run_counted(schedule)
    assert judge(run, slack=SLACK) == []
    assert run.fault_counts["drop"] == 1
    assert [result.delivery for result in run.sends] == ["accepted", "accepted"]


@pytest.mark.parametrize("api", APIS)
def test_a_read_of_history_that_hangs_leaves_time_for_another(api: str) -> None:
    """A found defect: one request without an answer used up the time in which the message could be found."""
    break_ = (
        Step("request", who=SENDER, how="unanswered", at=2.0)
        if api in OVER_REST
        else Step("stored", who=SENDER, how="cut", at=2.0)
    )
    events = (break_, Step("request", who=SENDER, how="hole", at=2.0 + (api in OVER_REST) / 10))
    steps = (Step("send", "guest 0", at=0.1), Step("send", "guest 1", at=3.0))
    schedule = Schedule(0, api, steps, counted=True, keys_return=False, events=events)
    run = run_counted(schedule)
    assert judge(run, slack=SLACK) == []
    assert run.fault_counts["request hole"] == 1
    assert [result.delivery for result in run.sends] == ["accepted", "accepted"]


def test_a_seed_always_makes_the_same_schedule() -> None:
    made = [make_counted(seed, api, service) for seed in range(20) for api in APIS for service in SERVICES]
    assert made == [make_counted(seed, api, service) for seed in range(20) for api in APIS for service in SERVICES]
