"""How often history is requested after a reconnect (source 002): from the last position or page token."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from guestctl.dialects import NAMES, dialect_class
from tests.integration.front import Guest, InstantClock, Record, Room, listen, messages, texts

WITH_SOCKET = [name for name in NAMES if dialect_class(name).has_socket]


def counting(room: Room, counts: list[int], *then: Callable[[], object]) -> Callable[[], object]:
    """Return an action that notes how often history was requested so far, and does something."""

    def noted() -> None:
        counts.append(room.requests["history"])
        for action in then:
            action()

    return noted


def lost_and_missed(room: Room) -> Callable[[], object]:
    def lose() -> None:
        room.disconnect(1006)
        room.say("missed")

    return lose


@pytest.mark.parametrize("api", WITH_SOCKET, indirect=True)
def test_a_reconnect_in_a_long_conversation_requests_history_twice_at_most(talking: Guest, room: Room) -> None:
    room.say(*[f"old {n}" for n in range(241)])
    counts: list[int] = []
    result = listen(
        talking,
        "--until",
        "^last$",
        lives=[lambda: room.push("first"), lambda: room.push("last")],
        said={"first": counting(room, counts, lost_and_missed(room))},
    )
    assert [(m["text"], m["source"]) for m in messages(result)] == [
        ("first", "live"),
        ("missed", "replayed"),
        ("last", "live"),
    ]
    assert not [record for record in result.records if record["kind"] == "gap"]
    assert room.requests["history"] - counts[0] <= 2


@pytest.mark.parametrize("api", ["messaging-conversations"], indirect=True)
@pytest.mark.parametrize(("old", "live"), [(3, 0), (60, 0), (30, 30), (120, 60)])
def test_pages_with_tokens_are_read_from_the_last_one(
    talking: Guest, room: Room, time: InstantClock, old: int, live: int
) -> None:
    """Whether the messages before the break came from history or on the socket."""
    room.say(*[f"old {n}" for n in range(old)])
    counts: list[int] = []
    shown: list[str] = []

    def on(record: Record) -> None:
        text, state = record.get("text"), record.get("state")
        if text is not None:
            shown.append(text)
        if text == f"live {live}":
            room.disconnect(1006)
        elif (text is not None and text.startswith("live")) or (state == "live" and not counts):
            time.advance(1)
            room.push(f"live {len(shown)}")
        elif state == "retrying":
            counting(room, counts, lambda: room.say("missed"))()
        elif state == "live":
            room.push("last")

    talking.ok("listen", "--until", "^last$", "--only", "message,connection", "-o", "jsonl", on=on)
    assert shown == [*(f"live {n}" for n in range(live + 1)), "missed", "last"]
    assert room.requests["history"] - counts[0] == 2


@pytest.mark.parametrize("api", ["messaging-conversations"], indirect=True)
def test_a_refused_page_token_is_replaced_by_reading_from_the_start(talking: Guest, room: Room) -> None:
    room.say(*[f"old {n}" for n in range(60)])

    def lose() -> None:
        room.faults("http:status=400,on=history,times=1")
        lost_and_missed(room)()

    result = listen(
        talking,
        "--until",
        "^last$",
        lives=[lambda: room.push("first"), lambda: room.push("last")],
        said={"first": lose},
    )
    assert texts(result) == ["first", "missed", "last"]
    assert not [record for record in result.records if record["kind"] == "gap"]
