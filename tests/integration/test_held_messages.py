"""Messages that `listen` has received and holds back are printed at every way to end, after a gap if one is open.

Knows: why messages are held, and what ends a stream. Must not know: the buffers that hold them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from guestctl.core.model import Message
from guestctl.core.timings import Timings
from guestctl.dialects import NAMES, dialect_class
from guestctl.engine.merge import Merge
from tests.integration.front import Guest, Room, listen, texts

SOCKETS = [name for name in NAMES if dialect_class(name).has_socket]


@dataclass
class Held:
    """A reason to hold messages: what happens on the wire, the text that is held last, and what is printed."""

    happens: Callable[[Room], None]
    again: Callable[[Room], None]
    last: str
    printed: list[str]
    gap: bool


def after_a_break(room: Room) -> None:
    """A message is lost with the connection, and history lags: nothing shows what came before the next message."""
    room.faults("drop:code=1006,after=1", "lag:ms=600000")
    room.push("lost")


def unreadable(room: Room) -> None:
    """The frame of a message is unreadable, and history lags."""
    room.faults("garbage:times=1", "lag:ms=600000")
    for text in ("lost", "a", "b"):
        room.push(text)


def out_of_order(room: Room) -> None:
    """Messages are held until none that came before them can arrive late."""
    room.faults("swap:times=1")
    for text in ("a", "b", "c"):
        room.push(text)


def two(room: Room) -> None:
    room.push("a")
    room.push("b")


def refuse(room: Room) -> None:
    """Break the connection, and refuse every other one."""
    room.faults("refuse:status=503")
    room.disconnect()


REASONS = {
    "break": Held(after_a_break, two, "b", ["a", "b"], gap=True),
    "unreadable": Held(unreadable, lambda room: None, "b", ["a", "b"], gap=True),
    "order": Held(out_of_order, lambda room: None, "c", ["a", "b", "c"], gap=False),
}
#: What ends the stream, the options for it, and the exit code.
ENDS = {
    "for": (("--for", "1.2"), 0),
    "idle": (("--idle", "700ms"), 0),
    "SIGINT": ((), 130),
    "SIGTERM": ((), 143),
    "SIGHUP": ((), 129),
    "gave up": ((), 8),
}


def when_held(monkeypatch: pytest.MonkeyPatch, text: str, act: Callable[[], object]) -> None:
    """Act once as soon as the client has received the message with this text live."""
    add_live, left = Merge.add_live, [True]

    def added(merge: Merge, item: object, now: float) -> None:
        add_live(merge, item, now)  # type: ignore[arg-type]
        if isinstance(item, Message) and item.text == text and left:
            left.pop()
            act()

    monkeypatch.setattr(Merge, "add_live", added)


@pytest.mark.parametrize("api", SOCKETS, indirect=True)
@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("end", ENDS)
def test_held_messages_are_printed_at_the_end(
    guest: Guest, room: Room, monkeypatch: pytest.MonkeyPatch, reason: str, end: str
) -> None:
    held, (options, code) = REASONS[reason], ENDS[end]
    if reason == "break" and options and guest.api == "guest-sessions":
        pytest.skip("after a break, this API locks the session for longer than the stream lasts")
    # A stream that holds messages is not idle, so that the time for which they are held must be short.
    monkeypatch.setattr(
        "tests.integration.front.TIMINGS", Timings(second_look=0.2, fill_deadline=2.0, quiet_window=2.0)
    )
    guest.ok("session", "create")
    guest.ok("send", "before")
    if end.startswith("SIG"):
        when_held(monkeypatch, held.last, lambda: signal.raise_signal(getattr(signal, end)))
    if end == "gave up":
        when_held(monkeypatch, held.last, lambda: refuse(room))
    lives = [lambda: held.happens(room)]
    if reason == "break":
        lives.append(lambda: held.again(room))
    result = listen(guest, *options, lives=lives)
    assert result.code == code, (result.out, result.err)
    assert texts(result) == held.printed
    kinds = [record["kind"] for record in result.records if record["kind"] in {"message", "gap"}]
    # Without a new connection, nothing proves what follows the last message.
    after = end == "gave up"
    assert kinds == ["gap"] * held.gap + ["message"] * len(held.printed) + ["gap"] * after
