"""One socket of a guest: the frames sent to it, and the faults that affect them.

Knows: text frames (RFC 6455 §5.2), batching, delaying, every fault on frames. Must not know: the server library (a
`RawConnection` stands for it), any API.

A close frame, ours or the answer to the guest's, is sent after all delayed frames, so no frame is lost. A reset waits
for nothing, and neither does the end of the sandbox.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from guestctl.core.clock import Clock
from guestctl.sandbox.events import SocketEvents
from guestctl.sandbox.faults import Fault, Faults
from guestctl.sandbox.interfaces import ServerRequest
from guestctl.sandbox.service_state import Later

GARBAGE = "\u2620 <<< this is not JSON"
SWAP_PATIENCE = 0.5  # seconds that a swapped frame waits for the next


class RawConnection(Protocol):
    """The connection below a socket."""

    def is_closing(self) -> bool: ...

    def write(self, data: bytes) -> None:
        """Write whole frames. Reset the connection if it cannot accept them."""

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Send a close frame, without a status if there is no code."""

    def reset(self) -> None:
        """Reset the connection (RST)."""

    def drop(self) -> None:
        """Close the connection at once."""


class WriteBatch:
    """The frames sent while one frame of a guest is handled.

    They leave as one packet per socket. With a bot that answers at once this halves the cost of a message and its
    reply.
    """

    def __init__(self) -> None:
        self.running = False
        self.unsent: set[SocketPeer] = set()

    def begin(self) -> None:
        self.running = True

    def end(self) -> None:
        self.running = False
        while self.unsent:
            self.unsent.pop().flush()


class _DelayedAction:
    """A delayed action and the ones that wait for it."""

    __slots__ = ("perform", "ready")

    def __init__(self, perform: Callable[[], object]) -> None:
        self.perform = perform
        self.ready = False


class SocketPeer:
    """The `interfaces.Peer` of an API. `clean` is true once either side has sent a close frame."""

    def __init__(
        self,
        connection: RawConnection,
        request: ServerRequest,
        faults: Faults,
        clock: Clock,
        later: Later,
        batch: WriteBatch,
        events: SocketEvents,
    ) -> None:
        self.state: Any = None
        self.request = request
        self.opened_at = self.active_at = clock.monotonic()
        self.clean = False
        self._connection = connection
        self._faults = faults
        self._clock = clock
        self._later = later
        self._batch = batch
        self._events = events
        self._delayed: deque[_DelayedAction] = deque()
        self._swapped: Sequence[str] | None = None
        self._closing = False  # the last frame has been scheduled
        self._unsent: list[bytes] = []

    @property
    def open(self) -> bool:
        return not (self._closing or self._connection.is_closing())

    def send(self, text: str, route: str | None = None) -> None:
        if self._closing or self._connection.is_closing():
            return
        self.active_at = self._clock.monotonic()
        fired = self._faults.frame(route)
        if not (fired or self._delayed or self._swapped or self._faults.silence()):
            self._write(text)
        else:
            self._send_faulty(text, {fault.kind: fault for fault in fired})

    def close(self, code: int = 1000, reason: str = "") -> None:
        if code == 1006:
            self.flush()
            self.abort()
        elif not self._closing:
            self._schedule_last(partial(self._close, code, reason))

    def abort(self) -> None:
        self._connection.reset()

    def shut_down(self) -> None:
        """Send a close frame and end the connection at once, because the service stops."""
        self._close(1001, "Going away")
        self._connection.drop()

    def answer_close(self, answer: Callable[[], object]) -> None:
        """Send `answer`, our close frame, in reply to the guest's."""
        self.clean = True
        self._schedule_last(answer)

    def mark_active(self) -> None:
        """Note the time of the guest's latest frame, for the idle timeout."""
        self.active_at = self._clock.monotonic()

    def flush(self) -> None:
        """Write the batched frames to the connection."""
        data, self._unsent = b"".join(self._unsent), []
        if data:
            self._connection.write(data)

    def _close(self, code: int, reason: str) -> None:
        self.flush()
        self.clean = True
        self._connection.close(None if code == 1005 else code, reason or None)

    def _schedule_last(self, last: Callable[[], object]) -> None:
        """Perform the last action of this socket after all delayed ones. Frames sent later are ignored."""
        self._closing = True
        if self._swapped is not None:
            self._release(self._swapped)
        self._delay(last, 0.0)

    def _send_faulty(self, text: str, fired: Mapping[str, Fault]) -> None:
        if "drop" in fired:
            self.close(fired["drop"].code)
            return
        if "truncate" in fired:
            text = text[: len(text) // 2]
        if "garbage" in fired:
            text = GARBAGE
        texts: Sequence[str] = (text, text) if "duplicate" in fired else (text,)
        if "swap" in fired and self._swapped is None:
            self._swapped = texts
            self._later(SWAP_PATIENCE, lambda: self._release(texts))
            return
        if self._swapped is not None:
            texts, self._swapped = (*texts, *self._swapped), None
        self._delay(partial(self._write_all, texts), fired["delay"].seconds if "delay" in fired else 0.0)

    def _release(self, texts: Sequence[str]) -> None:
        if self._swapped is texts:
            self._swapped = None
            self._delay(partial(self._write_all, texts), 0.0)

    def _write_all(self, texts: Sequence[str]) -> None:
        for text in texts:
            if not self._connection.is_closing():
                self._write(text)

    def _delay(self, perform: Callable[[], object], wait: float) -> None:
        """Perform an action after `wait` seconds, after any silence and after all earlier delayed actions."""
        delayed = _DelayedAction(perform)
        self._delayed.append(delayed)

        def due() -> None:
            delayed.ready = True
            while self._delayed and self._delayed[0].ready:
                self._delayed.popleft().perform()

        wait = max(wait, self._faults.silence())
        if wait > 0:
            self._later(wait, due)
        else:
            due()

    def _write(self, text: str) -> None:
        """Write one unfragmented, unmasked text frame."""
        if self._events.observed:
            self._events.frame_in(text)
        data = text.encode()
        size = len(data)
        if size < 126:
            head = bytes((0x81, size))
        elif size < 65536:
            head = struct.pack("!BBH", 0x81, 126, size)
        else:
            head = struct.pack("!BBQ", 0x81, 127, size)
        self._unsent.append(head + data)
        if self._batch.running:
            self._batch.unsent.add(self)
        else:
            self.flush()
