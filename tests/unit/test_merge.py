"""`Merge`: each id once, in order, nothing lost, whatever the stream and history do to each other."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as some

from guestctl.core.clock import rfc3339
from guestctl.core.model import Event, Gap, Message, Position, Presence, Sender, Typing
from guestctl.core.timings import Timings
from guestctl.engine.merge import CALM_AFTER, OVERLAP, Merge, position_of
from tests.fakes import START
from tests.properties import examples

TIMINGS = Timings()


def message(n: int, *, numbered: bool = True, timed: bool = True) -> Message:
    return Message(
        id=f"m{n}",
        direction="outbound",
        text=str(n),
        time=rfc3339(START + n / 10) if timed else None,
        sequence=n if numbered else None,
    )


def numbers(events: list[Event]) -> list[int]:
    return [int(event.text) for event in events if isinstance(event, Message)]


ORIGIN = position_of(message(0))
ORIGIN_TIMED = position_of(message(0, numbered=False))


# --- properties ---

#: Per message: how late it arrives, in hundredths of a second, and after how much longer a copy of it comes.
ARRIVALS = some.lists(
    some.tuples(some.integers(0, 45), some.one_of(some.none(), some.integers(0, 300))), min_size=1, max_size=40
)


def arrivals(course: list[tuple[int, int | None]], *, numbered: bool) -> list[tuple[float, Message]]:
    """(when, message) in order of arrival; message n is sent at n/10."""
    found: list[tuple[float, Message]] = []
    for n, (late, copy) in enumerate(course, 1):
        at = n / 10 + late / 100
        found.append((at, message(n, numbered=numbered)))
        if copy is not None:
            found.append((at + copy / 100, message(n, numbered=numbered)))
    return sorted(found, key=lambda one: one[0])


@settings(max_examples=examples(200))
@given(ARRIVALS)
def test_numbered_messages_are_released_once_and_in_order(course: list[tuple[int, int | None]]) -> None:
    merge = Merge(ORIGIN)
    shown: list[Event] = []
    for at, one in arrivals(course, numbered=True):
        shown += merge.ready(at)
        merge.add_live(one, at)
        shown += merge.ready(at)
    shown += merge.ready(1e9)
    assert numbers(shown) == list(range(1, len(course) + 1))
    assert not any(isinstance(event, Gap) for event in shown)


@settings(max_examples=examples(200))
@given(ARRIVALS)
def test_timed_messages_are_released_once_and_in_order_within_the_window(course: list[tuple[int, int | None]]) -> None:
    merge = Merge(ORIGIN_TIMED, timings=Timings(quiet_window=0.5))
    shown: list[Event] = []
    for at, one in arrivals(course, numbered=False):
        shown += merge.ready(at)
        merge.add_live(one, at)
        shown += merge.ready(at)
    shown += merge.ready(1e9)
    assert numbers(shown) == list(range(1, len(course) + 1))


@settings(max_examples=examples(200))
@given(
    course=some.lists(some.tuples(some.sampled_from(["live", "lost", "twice"]), some.integers(0, 60)), max_size=60),
    breaks=some.sets(some.integers(1, 60), max_size=4),
    numbered=some.booleans(),
)
def test_no_message_is_lost_over_breaks(course: list[tuple[str, int]], breaks: set[int], numbered: bool) -> None:
    """Messages arrive or do not, late or not; at each break, and at the end, history is read from the anchor."""
    merge = Merge(ORIGIN if numbered else ORIGIN_TIMED)
    shown: list[Event] = []
    under_way: list[tuple[float, Message]] = []

    def catch_up(at: float, newest: int) -> None:
        nonlocal under_way
        under_way = []
        shown.extend(merge.ready(at, flush=True, over_gaps=False))
        anchor = merge.anchor
        assert anchor is not None
        begin = int(anchor.id[1:])
        history = [message(n, numbered=numbered) for n in range(begin + 1, newest + 1)]
        shown.extend(merge.replay(history))

    for n, (fate, late) in enumerate(course, 1):
        at = n / 10
        if fate != "lost":
            under_way += [(at + late / 100, message(n, numbered=numbered))] * (2 if fate == "twice" else 1)
        due = sorted((one for one in under_way if one[0] <= at), key=lambda one: one[0])
        under_way = [one for one in under_way if one[0] > at]
        for when, one in due:
            merge.add_live(one, when)
            shown.extend(merge.ready(when))
        if n in breaks or n % OVERLAP == 0:
            catch_up(at, n)
    catch_up(1e9, len(course))
    found = numbers(shown)
    assert len(found) == len(set(found)), "something was shown twice"
    assert set(found) == set(range(1, len(course) + 1)), "something was lost"
    if numbered and not any(isinstance(event, Gap) for event in shown):
        assert found == sorted(found)


# --- in particular ---


def test_messages_in_order_do_not_wait() -> None:
    merge = Merge(ORIGIN)
    merge.add_live(message(1), 0.0)
    assert numbers(merge.ready(0.0)) == [1]
    assert merge.wait(0.0) is None


def test_a_missing_number_is_awaited_and_then_reported_as_a_gap() -> None:
    merge = Merge(ORIGIN)
    merge.add_live(message(2), 0.0)
    assert merge.ready(0.0) == []
    assert merge.after_missing
    assert merge.wait(0.25) == TIMINGS.missing_window - 0.25
    gap, event = merge.ready(TIMINGS.missing_window)
    assert isinstance(gap, Gap)
    assert (gap.after, gap.before) == ("m0", "m2")
    assert isinstance(event, Message)
    assert not merge.after_missing


def test_numbers_missing_from_history_are_no_gap() -> None:
    merge = Merge(ORIGIN)
    merge.add_live(message(3), 0.0)
    assert [type(event) for event in merge.replay([message(3), message(5)])] == [Message, Message]
    merge.add_live(message(6), 1.0)
    assert numbers(merge.ready(1.0)) == [6]


def test_history_is_merged_with_held_messages() -> None:
    merge = Merge(position_of(message(3)))
    for n in (5, 7):
        merge.add_live(message(n), 0.0)
    shown = merge.replay([message(n) for n in (4, 5, 6, 7)])
    assert numbers(shown) == [4, 5, 6, 7]
    assert [event.source for event in shown if isinstance(event, Message)] == ["replayed", "live", "replayed", "live"]


def test_a_break_does_not_skip_a_missing_number() -> None:
    merge = Merge(ORIGIN)
    for n in (1, 3):
        merge.add_live(message(n), 0.0)
    assert numbers(merge.ready(0.0, flush=True, over_gaps=False)) == [1]
    assert merge.position == position_of(message(1))
    assert numbers(merge.replay([message(n) for n in (1, 2, 3)])) == [2, 3]


def test_an_overtaken_message_comes_after_the_anchor() -> None:
    """2 was shown, 1 was still on its way when the connection broke."""
    merge = Merge(ORIGIN_TIMED)
    merge.add_live(message(2, numbered=False), 0.0)
    merge.ready(0.0, flush=True)
    assert merge.anchor == ORIGIN_TIMED
    assert numbers(merge.replay([message(n, numbered=False) for n in (1, 2)])) == [1]


def test_the_anchor_stays_a_fixed_number_of_messages_behind() -> None:
    merge = Merge(ORIGIN)
    for n in range(1, 100):
        merge.add_live(message(n), 0.0)
        merge.ready(0.0)
    assert merge.anchor == position_of(message(100 - OVERLAP))


def test_a_starting_message_that_was_not_shown_is_released() -> None:
    merge = Merge(ORIGIN, shown=False)
    merge.add_live(message(0), 0.0)
    merge.add_live(message(0), 0.0)
    assert numbers(merge.ready(0.0)) == [0]


def test_the_first_two_messages_of_a_conversation_in_reverse_order() -> None:
    merge = Merge()
    merge.add_live(message(2), 0.0)
    assert merge.ready(0.0) == []
    merge.add_live(message(1), 0.0)
    assert numbers(merge.ready(TIMINGS.quiet_window * 2)) == [1, 2]


def test_the_hold_time_grows_after_a_late_message_and_shrinks_again() -> None:
    merge = Merge(ORIGIN_TIMED)
    merge.add_live(message(2, numbered=False), 0.0)
    merge.ready(1.0)
    merge.add_live(message(1, numbered=False), 1.0)
    merge.ready(1.0, flush=True)
    merge.add_live(message(3, numbered=False), 2.0)
    wait = merge.wait(2.0)
    assert wait is not None
    assert wait > 0.2
    for n in range(4, 5 + CALM_AFTER):
        merge.add_live(message(n, numbered=False), 3.0)
        merge.ready(3.0, flush=True)
    merge.add_live(message(99, numbered=False), 4.0)
    wait = merge.wait(4.0)
    assert wait is not None
    assert wait < 2 * TIMINGS.quiet_window


def test_an_event_without_time_and_number_keeps_its_place() -> None:
    merge = Merge(ORIGIN)
    typing = Typing(Sender("bot"))
    merge.add_live(message(2), 0.0)
    merge.add_live(typing, 0.0)
    assert merge.ready(0.0) == []
    merge.add_live(message(1), 0.1)
    assert merge.ready(0.1) == [message(1), message(2), typing]
    merge.add_live(typing, 0.2)
    assert merge.ready(0.2) == [typing]


def test_a_presence_event_is_released_once() -> None:
    joined = Presence("Join", "outbound", id="p1", time=rfc3339(START + 1))
    merge = Merge(ORIGIN_TIMED)
    merge.add_live(joined, 0.0)
    merge.add_live(joined, 0.0)
    assert merge.ready(1.0) == [joined]
    assert merge.replay([joined]) == []
    assert merge.position == Position("p1", None, joined.time)


def test_a_sequence_number_may_be_enormous() -> None:
    merge = Merge(ORIGIN)
    merge.add_live(message(1), 0.0)
    huge = Message("mx", "outbound", "x", None, sequence=10**400)
    merge.add_live(huge, 0.0)
    assert numbers(merge.ready(0.0)) == [1]
    assert merge.ready(TIMINGS.missing_window)[-1] == huge


def test_a_wait_too_short_to_measure_is_over() -> None:
    merge = Merge(ORIGIN)
    merge.add_live(message(2), 0.1)
    now = 0.1 + TIMINGS.missing_window - 1e-9
    assert merge.wait(now) == 0.0
    assert numbers(merge.ready(now)) == [2]


def test_while_history_may_lag_only_numbered_messages_pass() -> None:
    timed = Message("m2", "outbound", "two", "2026-03-04T09:15:02.000Z")
    merge = Merge(Position("m0", None, "2026-03-04T09:15:00.000Z"))
    merge.wait_for_history(2.0)
    merge.add_live(timed, 0.0)
    assert merge.ready(1.0) == []
    assert merge.ready(1.0, flush=True, over_gaps=False) == [], "a break put it before what history still hides"
    assert merge.wait(1.0) == 1.0
    hidden = Message("m1", "outbound", "one", "2026-03-04T09:15:01.000Z")
    assert [event.id for event in merge.replay([hidden, timed]) if isinstance(event, Message)] == ["m1", "m2"]
    numbered = Merge(ORIGIN)
    numbered.wait_for_history(2.0)
    numbered.add_live(message(1), 0.0)
    assert numbers(numbered.ready(0.0)) == [1]


def test_the_first_sequence_number_of_a_conversation_is_one() -> None:
    merge = Merge(begins=True)
    merge.add_live(message(2), 0.0)
    assert merge.after_missing
    merge.add_live(message(1), 0.1)
    assert numbers(merge.ready(0.1)) == [1, 2]
