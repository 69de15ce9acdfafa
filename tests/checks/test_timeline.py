"""Order, turns and duplicates: the same conversation gets the same verdict in any order of arrival."""

from __future__ import annotations

from itertools import permutations

from guestctl.checks.timeline import Timeline
from guestctl.core.model import Message


def out(name: str, second: int | None, sequence: int | None = None) -> Message:
    time = None if second is None else f"2026-03-04T09:15:{second:02d}.000Z"
    return Message(name, "outbound", name, time, sequence=sequence)


def ours(name: str, second: int) -> Message:
    return Message(name, "inbound", name, f"2026-03-04T09:15:{second:02d}.000Z", key=f"key-{name}")


def names(timeline: Timeline, *, in_order: bool = True) -> list[str]:
    return [message.id for _, message in timeline.candidates(in_order=in_order)]


def test_replies_have_the_order_of_the_service() -> None:
    for order in permutations([out("a", 1), out("b", 2), out("c", 3)]):
        timeline = Timeline()
        for message in order:
            timeline.add_received(message, 0.0)
        assert names(timeline) == ["a", "b", "c"]


def test_sequence_numbers_take_precedence_over_times() -> None:
    timeline = Timeline()
    for message in (out("b", 1, 8), out("a", 5, 7)):
        timeline.add_received(message, 0.0)
    assert names(timeline) == ["a", "b"]


def test_a_message_without_a_time_keeps_its_position() -> None:
    timeline = Timeline()
    for message in (out("a", None), out("b", 9), out("c", None)):
        timeline.add_received(message, 0.0)
    timeline.remark("lost", 0.0)
    timeline.add_received(out("d", None), 0.0)
    assert names(timeline) == ["a", "b", "c", "d"]


def test_a_late_reply_is_inserted_before_a_remark() -> None:
    timeline = Timeline()
    timeline.add_received(out("b", 2), 0.0)
    timeline.remark("lost", 0.0)
    timeline.add_received(out("a", 1), 0.0)
    assert names(timeline) == ["a", "b"]


def test_duplicates_and_echoes_are_dropped() -> None:
    timeline = Timeline()
    timeline.add_sent(ours("q", 1), 0.0)
    timeline.add_received(Message("other", "inbound", "q", None, key="key-q"), 0.0)
    timeline.add_received(out("a", 2), 0.0)
    timeline.add_received(out("a", 2), 0.0)
    assert [entry.message.id for entry in timeline.entries if entry.message] == ["q", "a"]


def test_after_a_match_only_later_replies_count() -> None:
    timeline = Timeline()
    for message in (out("a", 1), out("b", 2), out("c", 3)):
        timeline.add_received(message, 0.0)
    timeline.mark_met([timeline.candidates(in_order=True)[1][0]])
    assert names(timeline) == ["c"]
    assert names(timeline, in_order=False) == ["a", "c"]
    assert [message.id for _, message in timeline.since_last_match()] == ["c"]


def test_two_replies_of_the_same_millisecond_have_no_order() -> None:
    timeline = Timeline()
    for message in (out("b", 1), out("a", 1)):
        timeline.add_received(message, 0.0)
    timeline.mark_met([timeline.candidates(in_order=True)[1][0]])
    assert names(timeline) == ["b"]
    assert timeline.since_last_match() == []


def test_a_new_turn_ignores_replies_of_the_last_turn() -> None:
    timeline = Timeline()
    timeline.add_sent(ours("q1", 1), 0.0)
    timeline.expect()
    timeline.add_received(out("ok", 2), 0.0)
    timeline.mark_met([timeline.candidates(in_order=True)[0][0]])
    timeline.add_sent(ours("q2", 5), 0.0)
    # The double of the first answer comes only now, and is none to the second question.
    timeline.add_received(out("ok-again", 3), 0.0)
    assert names(timeline) == []
    assert names(timeline, in_order=False) == []
    timeline.add_received(out("ok-2", 6), 0.0)
    assert names(timeline) == ["ok-2"]


def test_several_messages_in_a_row_are_one_turn() -> None:
    timeline = Timeline()
    timeline.add_sent(ours("q1", 1), 0.0)
    timeline.add_received(out("a1", 2), 0.0)
    timeline.add_sent(ours("q2", 3), 0.0)
    assert names(timeline) == ["a1"]


def test_a_greeting_counts_for_the_first_turn() -> None:
    timeline = Timeline()
    timeline.add_received(out("welcome", 1), 0.0)
    timeline.add_sent(ours("q", 2), 0.0)
    assert names(timeline) == ["welcome"]
