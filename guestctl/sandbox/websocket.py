"""The server side of one WebSocket connection (RFC 6455), on a stream that tornado has handed over.

Knows: the opening handshake, frames, masks, close codes, the limits per frame and per message (web-messaging.md §2.5).
Must not know: APIs, conversations, faults other than a silence that delays pongs.

The frames are read here, not by `tornado.websocket`: that class has no limit per frame, ends a broken connection
without a close code, and accepts unmasked frames. All of it can only be changed through its private members.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import struct
from collections.abc import Callable, Mapping
from functools import partial

from tornado.iostream import IOStream, StreamBufferFullError, StreamClosedError

from guestctl.sandbox.events import SocketEvents

UNSENT_LIMIT = 16 * 1024 * 1024  # bytes that a guest may leave unread before the connection is reset
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_ACCEPT_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CLOSE_TIMEOUT = 5.0  # seconds to wait for the guest's close frame after ours
_READ_SIZE = 64 * 1024
_READ_COST = 1024  # what one read counts towards `_READ_SIZE`, so that many small reads yield, too
#: Close codes below 3000 that may be sent (the IANA registry: all except 1004, 1005, 1006 and 1015).
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


def handshake_problem(headers: Mapping[str, str]) -> tuple[int, str] | None:
    """Return the HTTP status and the body that refuse an upgrade, or None when its headers are complete."""
    if "upgrade" not in (part.strip().lower() for part in headers.get("Connection", "").split(",")):
        return 400, '"Connection" must be "Upgrade".'
    if headers.get("Sec-WebSocket-Version") != "13":
        return 426, ""
    if not (headers.get("Host") and headers.get("Sec-WebSocket-Key")):
        return 400, "Missing/Invalid WebSocket headers"
    return None


def accept_value(key: str) -> str:
    """Return the `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key` (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1((key + _ACCEPT_GUID).encode()).digest()).decode()


class ProtocolViolation(Exception):
    """A frame that RFC 6455 forbids. `code` is the close code that answers it."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class MessageTooBig(Exception):
    """A frame or message above its limit. `unread` is how many bytes of the frame are still to come."""

    def __init__(self, unread: int) -> None:
        super().__init__(unread)
        self.unread = unread


class MessageReader:
    """Reads a guest's frames from bytes. Does no I/O."""

    def __init__(self, frame_limit: int, message_limit: int) -> None:
        self._frame_limit = frame_limit
        self._message_limit = message_limit
        self._buffer = bytearray()
        self._opcode: int | None = None  # of the message whose fragments are being collected
        self._fragments = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> tuple[int, bytes] | None:
        """Return the opcode and payload of the next message or control frame; None when more bytes are needed.

        Raises ProtocolViolation or MessageTooBig, after which the reader must not be used again.
        """
        while (frame := self._frame()) is not None:
            final, opcode, payload = frame
            if opcode >= CLOSE:
                return opcode, payload
            if final and self._opcode is None:
                return opcode, payload
            if self._opcode is None:
                self._opcode = opcode
            self._fragments += payload
            if final:
                opcode, self._opcode = self._opcode, None
                payload, self._fragments = bytes(self._fragments), bytearray()
                return opcode, payload
        return None

    def _frame(self) -> tuple[bool, int, bytes] | None:
        """Take one whole frame from the buffer. The header is judged as soon as it is complete."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        final, opcode, size = bool(buffer[0] & 0x80), buffer[0] & 0x0F, buffer[1] & 0x7F
        self._check_header(final, opcode, reserved=buffer[0] & 0x70, masked=buffer[1] & 0x80, size=size)
        start = 2
        if size > 125:
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return None
            size = int.from_bytes(buffer[2:start], "big")
        end = start + 4 + size
        if size > self._frame_limit or (opcode < CLOSE and len(self._fragments) + size > self._message_limit):
            raise MessageTooBig(max(0, end - len(buffer)))
        if len(buffer) < end:
            return None
        payload = _unmask(bytes(buffer[start : start + 4]), bytes(buffer[start + 4 : end]))
        del buffer[:end]
        return final, opcode, payload

    def _check_header(self, final: bool, opcode: int, *, reserved: int, masked: int, size: int) -> None:
        if reserved or not masked or opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise ProtocolViolation(1002)
        if opcode >= CLOSE:
            if not final or size > 125:
                raise ProtocolViolation(1002)
        elif (opcode == CONTINUATION) != (self._opcode is not None):
            # A continuation without a beginning, or a new message before the last one has ended.
            raise ProtocolViolation(1002)


class WebSocketConnection:
    """One open WebSocket: a `peer.RawConnection`.

    `silence` returns for how many seconds nothing may be sent now; pongs wait for its end. `close_code` is the code
    of the guest's close frame or of its protocol violation; None when the connection ended in another way.
    """

    def __init__(
        self,
        stream: IOStream,
        *,
        frame_limit: int,
        message_limit: int,
        silence: Callable[[], float],
        events: SocketEvents,
    ) -> None:
        self.close_code: int | None = None
        self._events = events
        self._stream = stream
        self._reader = MessageReader(frame_limit, message_limit)
        self._silence = silence
        self._sent_close = False
        self._finished = False  # the guest's close frame has been answered, or the connection has failed
        self._timeout: asyncio.TimerHandle | None = None
        self._pong: asyncio.Future[None] | None = None
        self._pending_pong: bytes | None = None

    async def run(
        self, on_message: Callable[[str | bytes], None], on_close: Callable[[Callable[[], object]], None]
    ) -> None:
        """Read until the connection ends; then it is closed.

        `on_message` gets each text or binary message. `on_close` gets a function that answers the guest's close
        frame, and calls it when everything that must precede the answer has been sent.
        """
        work = 0
        try:
            while not self._finished:
                data = await self._stream.read_bytes(_READ_SIZE, partial=True)
                self._receive(data, on_message, on_close)
                work += len(data) + _READ_COST
                if work >= _READ_SIZE:  # a guest that sends without pause must not keep others waiting
                    work = 0
                    await asyncio.sleep(0)
        except ProtocolViolation as violation:
            self._fail(violation.code)
        except MessageTooBig as problem:
            self.close(1009, "Message too big")
            await self._discard(problem.unread)
        except StreamClosedError:
            self._events.broke("the guest's connection ended without a close frame", sent=False)
        finally:
            self._abort()
            self._events.closed()

    def _receive(
        self,
        data: bytes,
        on_message: Callable[[str | bytes], None],
        on_close: Callable[[Callable[[], object]], None],
    ) -> None:
        self._reader.feed(data)
        while not self._finished and (received := self._reader.next()) is not None:
            opcode, payload = received
            if opcode == TEXT:
                on_message(_decoded(payload))
            elif opcode == BINARY:
                on_message(payload)
            elif opcode == PING:
                self._events.ping()
                self._send_pong(payload)
            elif opcode == PONG:
                self._events.pong(sent=False)
            elif opcode == CLOSE:
                code = _close_code(payload)
                self._events.close(code, payload[2:].decode(), sent=False)
                on_close(partial(self._answer_close, code))

    async def _discard(self, size: int) -> None:
        """Read the rest of a frame that is too big: unread bytes would turn our close frame into a reset."""
        try:
            while size > 0:
                size -= len(await self._stream.read_bytes(min(size, _READ_SIZE), partial=True))
        except StreamClosedError:
            pass

    # -- sending

    def is_closing(self) -> bool:
        return self._sent_close or self._finished or self._stream.closed()

    def write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
        except (StreamClosedError, StreamBufferFullError):
            self.reset()

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        if not self._sent_close:
            self._sent_close = True
            if not self._stream.closed():
                if code is None and reason is not None:
                    code = 1000
                status = b"" if code is None else code.to_bytes(2, "big")
                self._events.close(code, reason or "", sent=True)
                self.write(_control_frame(CLOSE, status + (reason or "").encode()))
        if self._finished:
            self._abort()
        elif self._timeout is None:
            self._timeout = asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT, self._abort)

    def reset(self) -> None:
        if not self._stream.closed():
            self._events.broke("the service reset the connection", sent=True)
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._stream.close()

    def drop(self) -> None:
        self._stream.close()

    def _answer_close(self, code: int | None) -> None:
        """Answer the guest's close frame with its own code (RFC 6455 §5.5.1) and end the connection."""
        if not self._finished:
            self._finished = True
            self.close_code = code
            self.close(code)

    def _fail(self, code: int) -> None:
        """End the connection after a protocol violation. The close code tells the client's author why."""
        self._finished = True
        self.close_code = code
        self.close(code)

    def _abort(self) -> None:
        self._finished = True
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        self._stream.close()

    def _send_pong(self, data: bytes) -> None:
        wait = self._silence()
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._send_pong, data)
        elif self._pong is not None and not self._pong.done():
            # Only the latest ping is answered while a pong is still unsent (RFC 6455 §5.5.3): a guest that pings
            # and never reads must not fill the memory.
            self._pending_pong = data
        elif not self._sent_close:  # nothing may follow a close frame
            self._pending_pong = None
            try:
                self._pong = self._stream.write(_control_frame(PONG, data))
            except StreamClosedError:
                return
            self._events.pong(sent=True)
            self._pong.add_done_callback(self._pong_sent)

    def _pong_sent(self, pong: asyncio.Future[None]) -> None:
        data, self._pending_pong = self._pending_pong, None
        if data is not None and not pong.cancelled() and pong.exception() is None:
            self._send_pong(data)


def _control_frame(opcode: int, payload: bytes) -> bytes:
    payload = payload[:125]
    return bytes((0x80 | opcode, len(payload))) + payload


def _unmask(mask: bytes, data: bytes) -> bytes:
    # One exclusive-or of two large integers is much faster than a loop over bytes.
    size = len(data)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(data, "little") ^ key).to_bytes(size, "little")


def _decoded(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise ProtocolViolation(1007) from None


def _close_code(payload: bytes) -> int | None:
    """Return the code of a close frame, None when it has none. Raises ProtocolViolation (RFC 6455 §5.5.1, §7.4)."""
    if not payload:
        return None
    code = int.from_bytes(payload[:2], "big") if len(payload) > 1 else 0
    if not (code in _CLOSE_CODES or 3000 <= code < 5000):
        raise ProtocolViolation(1002)
    _decoded(payload[2:])
    return code
