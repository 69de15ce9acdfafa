"""WebSocket frames that pass through (RFC 6455 §5.2): where one ends, and what is in it.

Knows: the head of a frame, masks, fragments. Must not know: which frames are valid. The bytes pass unchanged, and the
other end judges them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NO_STATUS, NO_CLOSE = 1005, 1006
#: Bytes of one message that are collected. Larger messages pass in pieces, unread.
MESSAGE_LIMIT = 4 << 20


class WireFrame(NamedTuple):
    """A whole frame, or with the opcode None a piece of one that is too large to be collected.

    `payload` is unmasked; it is empty for a piece. `raw` are the bytes on the wire.
    """

    opcode: int | None
    final: bool
    payload: bytes
    raw: bytes


class FrameSplitter:
    """Splits the bytes of one direction into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._unread = 0  # bytes of a large frame that are still to come

    def feed(self, data: bytes) -> Iterator[WireFrame]:
        """Yield the frames that `data` completes."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while True:
                if self._unread:
                    piece = bytes(buffer[at : at + self._unread])
                    if not piece:
                        return
                    at += len(piece)
                    self._unread -= len(piece)
                    yield WireFrame(None, False, b"", piece)
                    continue
                size = _size_of(buffer, at)
                if size is None:
                    return
                head, length = size
                if length > MESSAGE_LIMIT:
                    self._unread = head + length
                    continue
                end = at + head + length
                if len(buffer) < end:
                    return
                yield _frame(bytes(buffer[at:end]), head)
                at = end
        finally:
            del buffer[:at]


def _size_of(buffer: bytearray, at: int) -> tuple[int, int] | None:
    """Return the sizes of the head and of the payload of the frame at `at`; None if more bytes are needed."""
    if len(buffer) < at + 2:
        return None
    size, head = buffer[at + 1] & 0x7F, 2
    if size > 125:
        head = 4 if size == 126 else 10
        if len(buffer) < at + head:
            return None
        size = int.from_bytes(buffer[at + 2 : at + head], "big")
    return head + (4 if buffer[at + 1] & 0x80 else 0), size


def _frame(raw: bytes, head: int) -> WireFrame:
    payload = raw[head:]
    if raw[1] & 0x80:
        payload = masked(raw[head - 4 : head], payload)
    return WireFrame(raw[0] & 0x0F, bool(raw[0] & 0x80), payload, raw)


def masked(mask: bytes, data: bytes) -> bytes:
    """Return data with a mask applied, or removed."""
    size = len(data)
    # One exclusive-or of two large integers is much faster than a loop over bytes.
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(data, "little") ^ key).to_bytes(size, "little")


def close_frame(code: int | None, reason: str = "", *, mask: bytes = b"") -> bytes:
    """Return a close frame, masked if a client sends it. Without a code it has no status."""
    payload = b"" if code is None else code.to_bytes(2, "big") + reason.encode()[:123]
    if not mask:
        return bytes((0x80 | CLOSE, len(payload))) + payload
    return bytes((0x80 | CLOSE, 0x80 | len(payload))) + mask + masked(mask, payload)


def close_status(payload: bytes) -> tuple[int, str]:
    """Return the code (1005 without one) and the reason of a close frame."""
    if len(payload) < 2:
        return NO_STATUS, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode("utf-8", "replace")
