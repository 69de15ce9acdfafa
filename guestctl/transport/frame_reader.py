"""A strict RFC 6455 reader: it turns bytes into whole messages and control frames.

Knows: websocket-client's frame classes and what they fail to check (reliability.md §2.3, §3). Must not know:
sockets, time, the content of a message.

websocket-client parses the frames. This module adds the checks that it lacks: it gives the library the bytes that it
asks for, and looks at them first, so that a frame is refused before its payload arrives. The most frequent frame, a
complete short text in one piece, takes a shortcut: a listener spent a third of its time in the library's steps for it.
"""

from __future__ import annotations

import codecs

from websocket import ABNF, WebSocketProtocolException, frame_buffer

from guestctl.core.values import immutable

#: Maximum size of a message in bytes, and the maximum number of its fragments.
MAX_MESSAGE = 1 << 20
MAX_FRAGMENTS = 1024

_CONTROL = 0x8
#: First byte of a text in one piece; second byte if the next two bytes hold the length (RFC 6455 §5.2).
_WHOLE_TEXT = 0x81
_LENGTH_FOLLOWS = 126
#: Bytes that the shortcut for short texts needs: a header with its length. A shorter frame takes the other way.
_SHORTEST = 4
_MAX_CONTROL = 125
#: Bits of the two bytes of a header.
_FIN, _RESERVED, _MASKED = 0x80, 0x70, 0x80


class Violation(Exception):
    """The peer violated the protocol. `code` is the close code that reports it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Short(Exception):
    """The frame is not complete yet."""


@immutable
class Ping:
    payload: bytes


@immutable
class Pong:
    payload: bytes


@immutable
class Close:
    """A close frame. `code` is 1005 if the frame has none."""

    code: int
    reason: str


class Frames:
    """A frame reader: feed bytes in pieces of any size, then take complete messages. Unusable after Violation.

    Binary messages are a violation (1003) unless `binary` is set, because no API sends any. `max_message` must be
    at least 64 KiB, because the shortcut for short texts does not check it.
    """

    def __init__(
        self, *, binary: bool = False, max_message: int = MAX_MESSAGE, max_fragments: int = MAX_FRAGMENTS
    ) -> None:
        self._buffer = frame_buffer(self._take, skip_utf8_validation=True)
        self._binary = binary
        self._max_message = max_message
        self._max_fragments = max_fragments
        self._data = bytearray()
        self._at = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._texts: list[str] = []
        self._blob: bytearray | None = None
        self._size = 0
        self._fragments = 0

    def feed(self, data: bytes) -> None:
        """Add bytes that have arrived from the peer."""
        del self._data[: self._at]
        self._at = 0
        self._data += data

    def next(self) -> str | bytes | Ping | Pong | Close | None:
        """Return the next message (text as str) or control frame; None if bytes are missing. Raises Violation."""
        try:
            if texts := self.short_texts(1):
                return texts[0]
            while True:
                frame = self._buffer.recv_frame()
                opcode, payload = frame.opcode, frame.data
                assert isinstance(payload, bytes)
                if opcode >= _CONTROL:
                    return _control(opcode, payload)
                if (message := self._add(opcode, payload, bool(frame.fin))) is not None:
                    return message
        except _Short:
            return None
        except UnicodeDecodeError as error:
            raise Violation(1007, "text that is not UTF-8") from error
        except WebSocketProtocolException as error:  # raised by ABNF.validate
            raise Violation(1002, str(error)) from error

    def _add(self, opcode: int, payload: bytes, fin: bool) -> str | bytes | None:
        """Add a data frame and return the message that it completes, or None."""
        if opcode == ABNF.OPCODE_BINARY:
            self._blob = bytearray()
        if self._blob is None:
            self._texts.append(self._decoder.decode(payload, final=fin))
        else:
            self._blob += payload
        if not fin:
            self._fragments += 1
            self._size += len(payload)
            return None
        message = "".join(self._texts) if self._blob is None else bytes(self._blob)
        self._texts.clear()
        self._blob = None
        self._fragments = self._size = 0
        return message

    def short_texts(self, most: int) -> list[str]:
        """Return up to `most` messages that come next and are unfragmented texts of less than 64 KiB.

        It stops before anything else, also before an invalid text: `next` reads that.
        """
        texts: list[str] = []
        if self._buffer.header is not None or self._fragments:
            return texts
        data, at = self._data, self._at
        count = len(data)
        while len(texts) < most and at + _SHORTEST <= count and data[at] == _WHOLE_TEXT:
            size, begin = data[at + 1], at + 2
            if size == _LENGTH_FOLLOWS:
                size, begin = data[at + 2] << 8 | data[at + 3], at + 4
            elif size > _LENGTH_FOLLOWS:
                break
            end = begin + size
            if end > count:
                break
            try:
                texts.append(data[begin:end].decode())
            except UnicodeDecodeError:
                break
            at = end
        self._at = at
        return texts

    def _take(self, count: int) -> bytes:
        """Return the next bytes to the library, after a check of what they announce. Raises _Short, Violation.

        The library asks for a header in one piece, then for the rest of the length, then for the payload in pieces.
        """
        header, length = self._buffer.header, self._buffer.length
        if header is not None and length is not None:
            self._check_size(header[4], length)
        end = self._at + count
        if end > len(self._data):
            raise _Short
        part = bytes(self._data[self._at : end])  # the library's checks need bytes
        if header is None:
            self._check_header(part[0], part[1])
        self._at = end
        return part

    def _check_header(self, first: int, second: int) -> None:
        opcode = first & 0xF
        if first & _RESERVED:
            raise Violation(1002, "a reserved bit is set")
        if second & _MASKED:
            raise Violation(1002, "a masked frame from the server")
        if opcode >= _CONTROL:
            if opcode not in ABNF.OPCODES:
                raise Violation(1002, f"reserved opcode {opcode}")
            if not first & _FIN:
                raise Violation(1002, "a fragmented control frame")
            if second > _MAX_CONTROL:
                raise Violation(1002, "a control frame over 125 bytes")
        elif opcode == ABNF.OPCODE_BINARY and not self._binary:
            raise Violation(1003, "a binary message")
        elif opcode not in ABNF.OPCODES:
            raise Violation(1002, f"reserved opcode {opcode}")
        elif (opcode == ABNF.OPCODE_CONT) != bool(self._fragments):
            raise Violation(1002, "a fragment out of place")
        elif self._fragments >= self._max_fragments:
            raise Violation(1009, f"a message in more than {self._max_fragments} fragments")

    def _check_size(self, opcode: int, length: int) -> None:
        # Control frames may come between fragments. They do not count towards the message.
        if opcode < _CONTROL and self._size + length > self._max_message:
            raise Violation(1009, f"a message over {self._max_message} bytes")


def _control(opcode: int, payload: bytes) -> Ping | Pong | Close:
    if opcode == ABNF.OPCODE_PING:
        return Ping(payload)
    if opcode == ABNF.OPCODE_PONG:
        return Pong(payload)
    if not payload:
        return Close(1005, "")
    return Close(int.from_bytes(payload[:2], "big"), payload[2:].decode())
