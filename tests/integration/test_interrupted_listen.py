"""A signal at any point of a busy stream: `listen` prints every message that it had received, once and in order.

Knows: the steps between a frame and its line, at which the signal arrives. Must not know: how they hold signals back.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

from guestctl.core.errors import UsageError
from guestctl.engine.inbox import Inbox
from guestctl.engine.listener import Listener
from guestctl.engine.merge import Merge
from guestctl.engine.session_record import StoredSession
from guestctl.engine.session_socket import SessionSocket
from guestctl.engine.shown_events import ShownEvents
from guestctl.output.writer import Output
from guestctl.transport.frame_reader import Frames
from tests.integration.front import Guest, Room, check, listen, texts

#: Enough for several writes.
COUNT = 80
#: The steps of a message from the wire to its line.
STEPS: dict[str, tuple[type, str]] = {
    "frame": (Frames, "next"),
    "frames": (Frames, "short_texts"),
    "inbox": (Inbox, "add"),
    "received": (SessionSocket, "receive"),
    "handled": (Listener, "_handle"),
    "merged": (Merge, "add_live"),
    "ready": (Merge, "ready"),
    "taken": (ShownEvents, "take"),
    "printed": (Output, "_write_data"),
    "noted": (ShownEvents, "shown"),
    "recorded": (StoredSession, "store_offer"),
}


class Interrupted:
    """Sends a signal before or after a step, at its nth time since `armed`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: str, after: bool, nth: int, number: int) -> None:
        self.armed = False
        owner, name = STEPS[step]
        original: Callable[..., Any] = getattr(owner, name)

        def stepped(*positional: Any, **named: Any) -> Any:
            if not after:
                self._count(nth, number)
            result = original(*positional, **named)
            if after:
                self._count(nth, number)
            return result

        self._left = nth
        monkeypatch.setattr(owner, name, stepped)

    def _count(self, nth: int, number: int) -> None:
        if self.armed:
            self._left -= 1
            if self._left == 0:
                signal.raise_signal(number)


@pytest.mark.parametrize("api", ["web-messaging", "guest-sessions"], indirect=True)
@pytest.mark.parametrize("nth", [1, 6])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_signal_loses_no_received_message(
    guest: Guest, room: Room, monkeypatch: pytest.MonkeyPatch, step: str, after: bool, nth: int
) -> None:
    number, code = (signal.SIGTERM, 143) if nth % 2 else (signal.SIGINT, 130)
    if step == "received":  # the others treat it as SIGTERM
        number, code = signal.SIGHUP, 129
    guest.ok("session", "create")
    guest.ok("send", "before")
    interrupted = Interrupted(monkeypatch, step, after, nth, number)

    def burst() -> None:
        service = room.sandbox.service
        (conversation,) = service.conversations.values()
        room.sandbox.call(lambda: [service.send(conversation, f"news {n}") for n in range(COUNT)])
        interrupted.armed = True

    trace = guest.cwd / "trace"
    result = listen(guest, "--for", "5", "--trace", str(trace), lives=[burst])
    assert result.code == code, (result.out, result.err)
    # What arrives after the close frame came after the end.
    received, _, _ = trace.read_text().partition('"kind":"close"')
    arrived = list(dict.fromkeys(re.findall(r"news \d+", received.replace("\\u0020", " "))))
    assert texts(result) == arrived


def test_a_failed_write_leaves_exactly_the_unprinted_messages(
    guest: Guest, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.ok("session", "create")
    guest.ok("send", "before")
    write, writes = Output._write_data, [0]

    def full(output: Output, data: bytes) -> None:
        writes[0] += b'"news' in data
        if writes[0] == 3:
            raise UsageError("stdout: no space left", code="output.failed")
        write(output, data)

    def burst() -> None:
        monkeypatch.setattr(Output, "_write_data", full)
        (conversation,) = room.sandbox.service.conversations.values()
        room.sandbox.call(lambda: [room.sandbox.service.send(conversation, f"news {n}") for n in range(COUNT)])

    failed = listen(guest, "--for", "5", lives=[burst])
    monkeypatch.setattr(Output, "_write_data", write)
    check(failed, 2, "output.failed")
    printed = texts(failed)
    assert 1 < len(printed) < COUNT
    missed = [record["text"] for record in guest.ok("resume", "-o", "json").record["missed"]]
    assert printed + missed == [f"news {n}" for n in range(COUNT)]
