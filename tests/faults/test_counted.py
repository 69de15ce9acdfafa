"""Random schedules on counted time. `python -m tests.faults --evidence 10000` runs more of them.

A violation is printed with the command that repeats it.
"""

from __future__ import annotations

import pytest

from tests.faults.counted import SERVICES, SLACK, Service, make_counted, run_counted
from tests.faults.figures import Figures, evidence
from tests.faults.mutants import MUTANTS, Mutant
from tests.faults.oracles import judge
from tests.faults.schedules import APIS, OVER_REST, SENDER, WATCHER, Schedule, Step

#: Schedules in the default run, and in the slow suite.
FEW, MANY = 14, 280

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


def listened(api: str, seconds: float, *events: Step) -> list[tuple[object, ...]]:
    """Run `listen --for` and return its messages and gaps: a gap as the texts around it and its reason."""
    steps = (Step("watch", seconds=seconds, at=1.0),)
    run = run_counted(Schedule(0, api, steps, counted=True, keys_return=False, events=events))
    assert judge(run, slack=SLACK) == []
    texts = {one["id"]: one["text"] for one in run.log}
    [watch] = run.watches
    assert watch.code == 0
    return [
        (line["text"],)
        if line["kind"] == "message"
        else (texts.get(line["after"]), texts.get(line["before"]), line["reason"])
        for line in watch.output
        if line["kind"] != "connection"
    ]


def breaks(at: float) -> Step:
    return Step("socket", who=WATCHER, how="cut", at=at)


@pytest.mark.parametrize("api", ["web-messaging", "conversation-guests", "messaging-conversations", "guests"])
def test_every_broken_connection_has_a_gap_of_its_own(api: str) -> None:
    """A found defect: a gap before the messages of one socket was taken for the gap before the next socket, too."""
    lag = Step("fault", "lag:ms=60000,times=1000", at=4.9)
    lost = (breaks(5.0), Step("push", "agent 1", at=5.001))
    lost_again = (breaks(9.0), Step("push", "agent 3", at=9.001))
    shown = listened(
        api,
        30.0,
        Step("push", "agent 0", at=2.0),
        lag,
        *lost,
        Step("push", "agent 2", at=8.0),
        *lost_again,
        Step("push", "agent 4", at=25.0),
    )
    assert shown == [
        ("agent 0",),
        ("agent 0", "agent 2", "missing"),
        ("agent 2",),
        ("agent 2", "agent 4", "unproved"),
        ("agent 4",),
    ]


@pytest.mark.parametrize("api", ["web-messaging", "external-contacts", "guests"])
def test_a_break_after_the_last_message_has_a_gap_after_it(api: str) -> None:
    """A found defect: `listen` printed a gap before the messages that waited, and none after them."""
    shown = listened(
        api,
        14.0,
        Step("push", "agent 0", at=2.0),
        Step("fault", "lag:ms=60000,times=1000", at=4.9),
        breaks(5.0),
        Step("push", "agent 1", at=5.001),
        Step("push", "agent 2", at=8.0),
        Step("down", seconds=30.0, at=9.0),
        Step("push", "agent 3", at=9.001),
    )
    assert [line[0] for line in shown] == ["agent 0", "agent 0", "agent 2", "agent 2"]
    assert shown[-1] == ("agent 2", None, "unproved")


@pytest.mark.parametrize("api", ["webmessaging-conversations"])
def test_polls_that_fail_until_the_end_leave_a_gap(api: str) -> None:
    """A found defect: without a socket, `listen --for` ended as if nothing could be missing."""
    shown = listened(
        api,
        10.0,
        Step("push", "agent 0", at=3.0),
        Step("down", seconds=20.0, at=5.0),
        Step("push", "agent 1", at=8.0),
    )
    assert shown == [("agent 0",), ("agent 0", None, "connection refused")]


@pytest.mark.parametrize("api", ["web-messaging", "guest-sessions", "external-contacts"])
def test_a_break_while_history_cannot_be_read_leaves_a_gap(api: str) -> None:
    """A found defect: a live message after it was taken for the start of the stream."""
    shown = listened(
        api,
        20.0,
        Step("fault", "http:status=500,on=history,times=1000", at=0.5),
        Step("push", "agent 0", at=0.6),
        breaks(5.0),
        Step("push", "agent 1", at=5.001),
        Step("push", "agent 2", at=12.0),
    )
    (after, before, reason), last = shown
    assert (after, before, last) == (None, None, ("agent 2",))
    assert "HTTP 500" in str(reason)


#: Mutants, and a random schedule that finds each one, as `python -m tests.faults --hunt 700 --seed 5000` did.
FOUND = {
    "takes history for complete after two seconds": ("web-messaging", 5000),
    "takes history for complete after 15 seconds": ("web-messaging", 5000),
    "repeats what history does not show for a second": ("guest-sessions", 5001),
    "repeats what history does not show for 20 seconds": ("guest-sessions", 5001),
    "drops what waits for its place when --for ends it": ("guest-sessions", 5023),
    "gives every page of history a deadline of its own": ("guest-sessions", 5001),
}


@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.name in FOUND], ids=lambda one: one.name)
def test_random_schedules_find_the_mutants(mutant: Mutant) -> None:
    """The schedules written for them are not needed."""
    api, seed = FOUND[mutant.name]
    schedule = make_counted(seed, api, "withholding")
    assert judge(run_counted(schedule), slack=SLACK) == []
    with mutant.installed():
        assert mutant.caught_by in {violation.oracle for violation in judge(run_counted(schedule), slack=SLACK)}


def test_a_seed_always_makes_the_same_schedule() -> None:
    made = [make_counted(seed, api, service) for seed in range(20) for api in APIS for service in SERVICES]
    assert made == [make_counted(seed, api, service) for seed in range(20) for api in APIS for service in SERVICES]
