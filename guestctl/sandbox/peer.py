"""One guest socket: what is said to it, and the faults inflicted on the way.

Knows: text frames (RFC 6455 §5.2), gathering, holding back, every fault that concerns frames. Must
not know: the server library (a `Line` stands for it), any dialect.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from guestctl.clock import Clock
from guestctl.sandbox.faults import Fault, Faults
from guestctl.sandbox.surface import HttpRequest
from guestctl.sandbox.world import Later

GARBAGE = "\u2620 <<< this is not JSON"
SWAP_PATIENCE = 0.5  # seconds a swapped frame waits for the next


class Line(Protocol):
    """The connection under a socket."""

    def is_closing(self) -> bool: ...

    def write(self, data: bytes) -> None:
        """Whole frames; a line that cannot take them breaks."""

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Send a close frame, without a status when there is no code."""

    def reset(self) -> None:
        """Break the connection (RST)."""

    def drop(self) -> None:
        """Close the connection, waiting for nothing."""


class Exchange:
    """One guest's frame and all that is said in answer, by whomever.

    What is said meanwhile leaves as one packet per socket: with a bot that answers at once that halves the
    cost of an exchange.
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


class _Held:
    """Texts that wait, with those behind them."""

    __slots__ = ("ready", "texts")

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.ready = False


class SocketPeer:
    """The `surface.Peer` of the faces. `clean` is true once our close frame has gone out."""

    def __init__(
        self, line: Line, request: HttpRequest, faults: Faults, clock: Clock, later: Later, exchange: Exchange
    ) -> None:
        self.note: Any = None
        self.request = request
        self.opened_at = self.active_at = clock.monotonic()
        self.clean = False
        self._line = line
        self._faults = faults
        self._clock = clock
        self._later = later
        self._exchange = exchange
        self._held: deque[_Held] = deque()
        self._swapped: list[str] | None = None
        self._unsent: list[bytes] = []

    @property
    def open(self) -> bool:
        return not self._line.is_closing()

    def send(self, text: str, route: str | None = None) -> None:
        if self._line.is_closing():
            return
        self.active_at = self._clock.monotonic()
        fired = self._faults.frame(route)
        silence = self._faults.silence()
        if not (fired or silence or self._held or self._swapped):
            self._write(text)
        else:
            self._send_faulty(text, {fault.kind: fault for fault in fired}, silence)

    def close(self, code: int = 1000, reason: str = "") -> None:
        if self._unsent:
            self.flush()
        if code == 1006:
            self.abort()
            return
        self.clean = True
        self._line.close(None if code == 1005 else code, reason or None)

    def abort(self) -> None:
        self._line.reset()

    def hang_up(self) -> None:
        """The service goes away: say so and wait for nothing."""
        self.close(1001, "Going away")
        self._line.drop()

    def heard(self) -> None:
        """The guest has said something."""
        self.active_at = self._clock.monotonic()

    def flush(self) -> None:
        """Hand what was gathered to the network."""
        data, self._unsent = b"".join(self._unsent), []
        if data:
            self._line.write(data)

    def _send_faulty(self, text: str, fired: Mapping[str, Fault], wait: float) -> None:
        if "drop" in fired:
            self.close(fired["drop"].code)
            return
        if "truncate" in fired:
            text = text[: len(text) // 2]
        if "garbage" in fired:
            text = GARBAGE
        texts = [text, text] if "duplicate" in fired else [text]
        if "delay" in fired:
            wait = max(wait, fired["delay"].seconds)
        if "swap" in fired and self._swapped is None:
            self._swapped = texts
            self._later(SWAP_PATIENCE, lambda: self._release(texts))
            return
        if self._swapped is not None:
            texts, self._swapped = texts + self._swapped, None
        self._hold(texts, wait)

    def _release(self, texts: list[str]) -> None:
        if self._swapped is texts:
            self._swapped = None
            self._hold(texts, 0.0)

    def _hold(self, texts: list[str], wait: float) -> None:
        """Send after `wait` seconds, and never before what is held already."""
        held = _Held(texts)
        self._held.append(held)

        def due() -> None:
            held.ready = True
            while self._held and self._held[0].ready:
                for text in self._held.popleft().texts:
                    if self.open:
                        self._write(text)

        if wait > 0:
            self._later(wait, due)
        else:
            due()

    def _write(self, text: str) -> None:
        """One unfragmented, unmasked text frame. The library's own way costs a task a frame."""
        data = text.encode()
        size = len(data)
        if size < 126:
            head = bytes((0x81, size))
        elif size < 65536:
            head = struct.pack("!BBH", 0x81, 126, size)
        else:
            head = struct.pack("!BBQ", 0x81, 127, size)
        self._unsent.append(head + data)
        if self._exchange.running:
            self._exchange.unsent.add(self)
        else:
            self.flush()
