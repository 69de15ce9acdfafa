"""Times, percentiles and planned times, without a service."""

from __future__ import annotations

import random

import pytest

from guestctl.load.slo import parse

#: The samples of two workers. `python -m tests.load.measure percentiles` takes a million.
SAMPLES = 40_000


def test_percentiles_of_two_workers_are_at_most_one_percent_off() -> None:
    from tests.load.measure import largest_error

    assert largest_error(SAMPLES) <= 0.01


def test_a_report_of_a_worker_survives_the_way_to_the_master() -> None:
    from guestctl.load.measurements import Measurements

    sent = Measurements()
    sent.count("turns", 3)
    sent.failure("timeout")
    for milliseconds in (5, 20, 700):
        sent.time("reply", milliseconds / 1000)
    received = Measurements.decoded(sent.encoded())
    received.add(sent)
    assert received.counts == {"turns": 6}
    assert received.failures == {"timeout": 2}
    assert received.samples("reply") == 6
    assert received.statistic("reply", "mean") == pytest.approx(0.725 / 3)
    assert received.statistic("reply", "p50") == pytest.approx(0.02, rel=0.01)
    assert received.statistic("reply", "max") == pytest.approx(0.7, rel=0.01)
    assert received.statistic("connect", "p50") is None


@pytest.mark.parametrize("report", [{}, {"counts": {"turns": "many"}}, {"counts": [], "times": {"reply": "x"}}])
def test_other_reports_are_refused(report: dict[str, object]) -> None:
    from guestctl.load.measurements import Measurements

    with pytest.raises(ValueError, match="not the measurements"):
        Measurements.decoded(report)


def test_many_different_failures_need_little_memory() -> None:
    from guestctl.load.measurements import MOST_FAILURES, OTHERS, Measurements

    found = Measurements()
    for number in range(1000):
        found.failure(f"failure {number}")
    assert len(found.failures) == MOST_FAILURES + 1
    assert found.failures[OTHERS] == 1000 - MOST_FAILURES


def test_percentiles_are_those_of_the_library() -> None:
    from guestctl.load.measurements import Measurements

    chance = random.Random(8)
    for size in (1, 2, 10, 999):
        found = Measurements()
        for _ in range(size):
            found.time("reply", chance.expovariate(0.5))
        for percentile in (0, 0.1, 1, 25, 50, 75, 90, 99, 99.9, 100):
            expected = found._times["reply"].get_value_at_percentile(percentile) / 1e6
            if percentile:  # of the shortest value, the library returns the lower bound
                assert found.statistic("reply", f"p{percentile:g}") == expected


def test_a_stalled_bot_shows_in_our_percentiles_and_not_in_those_of_a_closed_loop() -> None:
    """100 guests send a message each 0.5 s for 60 s; at 30 s, the bot answers nothing for 5 s."""
    from tests.load.measure import simulated_stall

    ours, closed = simulated_stall(guests=100, seconds=60.0, think=0.5, stall=5.0)
    assert ours.statistic("reply", "p95") >= 1.5  # type: ignore[operator]
    assert closed.statistic("reply", "p95") <= 0.3  # type: ignore[operator]


def test_messages_without_a_reply_between_them_are_one_turn() -> None:
    from guestctl.load.measurements import Measurements
    from guestctl.load.turn_meter import TurnMeter

    found = Measurements()
    meter = TurnMeter(lambda: found)
    meter.begin_message(10.0)
    meter.begin_message(11.0)
    meter.await_reply()
    meter.reply(12.0)
    meter.reply(13.0)
    meter.begin_message(14.0)
    meter.await_reply()
    meter.end_turn()
    assert found.counts == {"turns": 2, "unanswered": 1, "failed": 1}
    assert found.statistic("reply", "max") == pytest.approx(2.0, rel=0.01)
    assert found.statistic("last_reply", "max") == pytest.approx(3.0, rel=0.01)


def test_a_reply_that_nobody_awaits_may_be_missing() -> None:
    from guestctl.load.measurements import Measurements
    from guestctl.load.turn_meter import TurnMeter

    found = Measurements()
    meter = TurnMeter(lambda: found)
    meter.reply(9.0)  # a greeting
    meter.begin_message(10.0)
    meter.end_turn()
    meter.begin_message(11.0)
    meter.await_reply()
    meter.end_turn(unfinished=True)
    assert found.counts == {"turns": 2}


def test_random_reports_add_up() -> None:
    """However the samples are divided among workers and slots, the total is the same."""
    from guestctl.load.measurements import Measurements, SlottedMeasurements

    chance = random.Random(3)
    whole, master = Measurements(), SlottedMeasurements(1.0)
    for _ in range(5):
        worker = SlottedMeasurements(1.0)
        for _ in range(200):
            seconds = chance.expovariate(2.0)
            whole.time("reply", seconds)
            whole.count("turns")
            slot = worker.at(chance.uniform(0.0, 20.0))
            slot.time("reply", seconds)
            slot.count("turns")
        master.add({number: Measurements.decoded(found.encoded()) for number, found in worker.take().items()})
        assert not worker.slots
    total = master.total()
    assert total.counts == whole.counts
    for objective in parse("reply p50 < 1s, reply p99.9 < 1s, reply max < 1s"):
        assert objective.statistic is not None
        assert total.statistic("reply", objective.statistic) == whole.statistic("reply", objective.statistic)
