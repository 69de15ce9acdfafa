"""One WebSocket connection that meets the demands of reliability.md §2.3 and §3 on reading and writing.

Knows: the upgrade, ping and pong, closing, and what each ending means for a frame in flight. Must not know: any
dialect, reconnecting, the content of a message.

websocket-client performs the handshake and the framing. Its reading loop, timeouts, proxies, redirects and cookies
are not used (W1 to W15): `Network` opens the stream, and the library sees only responses that accept the upgrade.
"""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import Failure, NetworkError, Unreadable
from guestctl.core.wire import Frame, utf8
from guestctl.transport.hosts import authority, target, why
from guestctl.transport.network import CONNECT_TIMEOUT, Network, Observer, checked
from guestctl.transport.stream import AnyStream, Limit, NestedTlsStream

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from guestctl.core.waker import Waker
    from guestctl.transport.frame_reader import Close, Ping, Pong, Violation

#: Seconds to send a pong, a ping or a close frame, and to wait for the peer's close.
CONTROL_PATIENCE = 1.0
#: Maximum bytes read of a response's head, and of a refusal's body.
MAX_HEAD = 64 << 10
MAX_BODY = 2 << 10

_CHUNK = 1 << 16
_NO_CODE = 1005
_NO_CLOSE = 1006
#: The headers that the library must check. It would store Set-Cookie in its process-wide jar (W12).
_SHOWN = ("upgrade", "connection", "sec-websocket-accept", "sec-websocket-protocol")


class Refusal(Exception):
    """The service refused the upgrade: it answered with another status than 101.

    `headers` have lower-case names; `body` is at most 2 KiB of text. The exception's own text contains only the
    status, because the rest may contain tokens (W13).
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: str) -> None:
        super().__init__(f"the upgrade was answered with HTTP {status}")
        self.status = status
        self.headers = headers
        self.body = body


class Socket:
    """An open connection. Only one thread may call `receive` and `close`; any may call `send`, `ping` and `abort`.

    `heard_at` is the monotonic time at which the last frame of any kind arrived. `ended` is the code and the reason
    with which the connection ended, None while it is open or if it was aborted. The side that ended it chose them;
    without a close frame the code is 1006.
    """

    def __init__(
        self,
        stream: AnyStream,
        rest: bytes,
        *,
        clock: Clock,
        observer: Observer | None,
        place: str,
        waker: Waker | None = None,
    ) -> None:
        # Imported with the first connection, because websocket-client is slow to import.
        from websocket import ABNF

        from guestctl.transport.frame_reader import Close, Frames, Ping, Violation

        self._abnf = ABNF
        self._violation, self._ping, self._close = Violation, Ping, Close
        self._stream = stream
        self._frames = Frames()
        self._frames.feed(rest)
        self._clock = clock
        self._observer = observer
        self._reported_end = False
        self._place = place
        self._waker = waker
        self._writing = threading.Lock()
        self._write_failure: NetworkError | None = None
        self._read_failure: Failure | None = None
        self.ended: tuple[int, str] | None = None
        self.heard_at = self._read_at = clock.monotonic()
        self._arrived = clock.now()

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        headers: Mapping[str, str],
        network: Network,
        clock: Clock,
        deadline: Deadline,
        observer: Observer | None = None,
        user_agent: str,
    ) -> Socket:
        """Open `url` (ws or wss). Raises Refusal, NetworkError (`written` False), Unreadable, UsageError.

        `headers` are sent as given; there is no Origin header unless they contain one. Name resolution, connect, TLS
        and upgrade take CONNECT_TIMEOUT together at most, even if the response arrives byte by byte.
        """
        _, host, port = target(url)
        place = authority(host, port)
        sent = checked({"User-Agent": user_agent, **headers})
        if observer is not None:
            trace = {"traceparent": sent["traceparent"]} if "traceparent" in sent else {}
            observer("connect", {"url": url, "proxy": str(network.proxy_for(url) or "") or None, **trace})
        try:
            stream = network.open(url, Limit(deadline.sooner(CONNECT_TIMEOUT)))
            if observer is not None:
                observer("connected", _peer(stream))
            upgrade = _Upgrade(stream, place)
            try:
                upgrade.perform(url, sent)
            except BaseException:
                stream.close()
                raise
            finally:
                if observer is not None and upgrade.status:
                    told = {"status": upgrade.status, "headers": upgrade.headers, "body": upgrade.body}
                    observer("upgrade", {"url": url, "request_headers": sent, **told})
        except (Failure, Refusal) as failure:
            if observer is not None:
                error = str(failure.status) if isinstance(failure, Refusal) else failure.code
                observer("closed", {"code": None, "error": error})
            raise
        return cls(stream, upgrade.rest, clock=clock, observer=observer, place=place, waker=network.waker)

    def send(self, text: str, *, deadline: Deadline) -> None:
        """Send one text message. Raises NetworkError; `written` False proves that no byte was sent.

        A failure ends the connection, because part of a frame may be on the wire (W7).
        """
        payload = utf8(text)
        self._write(self._abnf.create_frame(payload, self._abnf.OPCODE_TEXT).format(), deadline)
        if self._observer is not None:
            self._observer("frame_out", {"text": text})

    def ping(self) -> None:
        """Send a ping. Raises NetworkError."""
        data = self._abnf.create_frame(b"", self._abnf.OPCODE_PING).format()
        self._write(data, Deadline.after(self._clock, CONTROL_PATIENCE))
        if self._observer is not None:
            self._observer("ping", {"direction": "out"})

    def receive(self, timeout: float) -> Frame | None:
        """Return the next text message, or None if none arrives within `timeout` seconds (0: do not wait).

        Answers pings, which do not extend the wait. Raises NetworkError with `close_code` at the end of the
        connection (1005: a close without a code, 1006: no close frame), and Unreadable if the peer violates the
        protocol. Messages that arrived before the end are returned first. The network's waker ends the wait early.
        """
        frame = self._next()
        if frame is not None:
            return frame
        deadline = Deadline.after(self._clock, timeout)
        while True:
            self._read(deadline)
            frame = self._next()
            if frame is not None or deadline.expired or (self._waker is not None and self._waker.take()):
                return frame

    def arrived(self, most: int) -> list[Frame]:
        """Return up to `most` messages that have arrived with the last one, without reading from the connection.

        Never raises: the next `receive` raises what ends the connection.
        """
        frames: list[Frame] = []
        try:
            while len(frames) < most:
                if texts := self._frames.short_texts(most - len(frames)):
                    frames += [self._message(text) for text in texts]
                elif (frame := self._next()) is not None:
                    frames.append(frame)
                else:
                    break
        except (NetworkError, Unreadable):
            pass
        return frames

    def close(self, code: int = 1000, reason: str = "") -> list[Frame]:
        """Close the connection and return the messages that were still in flight (W8).

        Takes one second at most and never raises. The stream is closed afterwards.
        """
        drained: list[Frame] = []
        deadline = Deadline.after(self._clock, CONTROL_PATIENCE)
        self.ended = self.ended or (code, reason)
        try:
            self._send_close(code, reason)
            while not deadline.expired and (frame := self.receive(deadline.bound(CONTROL_PATIENCE))) is not None:
                drained.append(frame)
        except (NetworkError, Unreadable):
            pass  # the peer's close frame or another end of the connection
        finally:
            self._read_failure = self._read_failure or self._lost("the connection was closed here", code)
            self._stream.close()
            self._report_end()
        return drained

    def abort(self) -> None:
        """End the connection at once and wake its reader. Any thread may call it."""
        self._stream.abort()
        self._report_end()

    def _report_end(self) -> None:
        """Report once that the connection is over: a close frame is only the wish to end it."""
        if self._observer is not None and not self._reported_end:
            self._reported_end = True
            self._observer("closed", {"code": self.ended[0] if self.ended else _NO_CLOSE, "error": None})

    def _next(self) -> Frame | None:
        """Return the next message in the bytes that have arrived, or None."""
        if self._read_failure is not None:
            raise self._read_failure
        pongs = b""
        try:
            while True:
                frame = self._frames.next()
                if frame is None:
                    return None
                self.heard_at = self._read_at
                if isinstance(frame, (str, bytes)):
                    return self._message(frame)
                if isinstance(frame, self._close):
                    break
                pongs += self._answer(frame)
        except self._violation as violation:
            raise self._protocol_error(violation) from violation
        finally:
            if pongs:
                self._send_pongs(pongs)
        raise self._closed_by_peer(frame)

    def _message(self, text: str | bytes) -> Frame:
        assert isinstance(text, str)  # the frame reader refuses binary messages
        if self._observer is not None:
            self._observer("frame_in", {"text": text})
        return Frame(text, self._arrived)

    def _read(self, deadline: Deadline) -> None:
        """Read the bytes that have arrived. If there are none, wait for some until the deadline."""
        try:
            data = self._stream.take(_CHUNK)
            if data is None:
                if left := deadline.remaining():
                    self._stream.wait(left, waker=self._waker)
                return
        except OSError as error:
            raise self._end(self._broken(why(error))) from error
        if not data:
            raise self._end(self._write_failure or self._broken("the connection ended without a close"))
        self._read_at = self._clock.monotonic()
        self._arrived = self._clock.now()
        self._frames.feed(data)

    def _answer(self, frame: Ping | Pong) -> bytes:
        """Return the pong frame that answers a ping; empty for a pong."""
        ping = isinstance(frame, self._ping)
        if self._observer is not None:
            self._observer("ping" if ping else "pong", {"direction": "in"})
        if ping:
            return self._abnf.create_frame(frame.payload, self._abnf.OPCODE_PONG).format()
        return b""

    def _send_pongs(self, pongs: bytes) -> None:
        """Answer all pings that arrived together with one write, so that a flood of pings costs little."""
        try:
            self._write(pongs, Deadline.after(self._clock, CONTROL_PATIENCE))
            if self._observer is not None:
                self._observer("pong", {"direction": "out"})
        except NetworkError:
            pass  # read the messages that have arrived; the reader will meet the end of the connection

    def _closed_by_peer(self, close: Close) -> Failure:
        reason = _plain(close.reason)
        self.ended = self.ended or (close.code, reason)
        if self._observer is not None:
            self._observer("close", {"direction": "in", "code": close.code, "reason": close.reason})
        self._send_close(None if close.code == _NO_CODE else close.code, "")
        self._stream.abort()
        code = f"{close.code}: {reason}" if reason else str(close.code)
        return self._end(self._lost(f"the service closed the connection ({code})", close.code))

    def _protocol_error(self, violation: Violation) -> Failure:
        self.ended = self.ended or (violation.code, str(violation))
        self._send_close(violation.code, "")
        self._stream.abort()
        return self._end(Unreadable(f"{self._place} violated the WebSocket protocol: {violation}", code="answer.frame"))

    def _send_close(self, code: int | None, reason: str) -> None:
        """Send a close frame. Nothing is sent after it, not even a second close frame."""
        payload = b"" if code is None else code.to_bytes(2, "big") + _cut(reason)
        data = self._abnf.create_frame(payload, self._abnf.OPCODE_CLOSE).format()
        last = self._lost("the connection was closed here", code or _NO_CODE)
        try:
            self._write(data, Deadline.after(self._clock, CONTROL_PATIENCE), last)
        except NetworkError:
            return
        if self._observer is not None:
            self._observer("close", {"direction": "out", "code": code, "reason": reason})

    def _end(self, failure: Failure) -> Failure:
        """Stop reading: every later read raises this failure."""
        self._read_failure = failure
        return failure

    def _lost(self, what: str, code: int | None, *, written: bool = True) -> NetworkError:
        return NetworkError(f"{self._place}: {what}", close_code=code, written=written)

    def _broken(self, what: str) -> NetworkError:
        """Return the failure for an end without a close frame (1006)."""
        self.ended = self.ended or (_NO_CLOSE, what)
        if self._observer is not None:
            self._observer("close", {"direction": "in", "code": _NO_CLOSE, "reason": what})
        return self._lost(what, _NO_CLOSE)

    def _write(self, data: bytes, deadline: Deadline, last: NetworkError | None = None) -> None:
        """Write whole frames. After it, later writes raise `last`, if given. Raises NetworkError."""
        limit = Limit(deadline)
        left = deadline.remaining()
        if not self._writing.acquire(timeout=-1 if left is None else left):
            raise self._lost("timed out while another thread was sending", None, written=False)
        try:
            ended = self._write_failure or self._read_failure
            if ended is not None:
                raise NetworkError(ended.message, close_code=getattr(ended, "close_code", None))
            try:
                self._stream.put(data, limit)
                self._write_failure = last
            except BaseException as error:
                # Also after Ctrl-C: the peer would take the next frame for the rest of an incomplete one.
                self._write_failure = self._lost(f"sending failed ({why(error)})", _NO_CLOSE)
                self.ended = self.ended or (_NO_CLOSE, f"sending failed ({why(error)})")
                self._stream.abort()
                if isinstance(error, OSError):
                    raise self._lost(f"sending failed ({why(error)})", None, written=False) from error
                raise
        finally:
            self._writing.release()


class _Upgrade:
    """The upgrade. It serves as the socket of the library's handshake."""

    def __init__(self, stream: AnyStream, place: str) -> None:
        self._stream = stream
        self._place = place
        self._shown = b""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = ""
        self.rest = b""

    def perform(self, url: str, headers: Mapping[str, str]) -> None:
        """Perform the upgrade. Raises Refusal, NetworkError, Unreadable."""
        from websocket import WebSocket, WebSocketException

        lines = [f"{name}: {value}" for name, value in headers.items()]
        try:
            WebSocket().connect(url, socket=self, header=lines, suppress_origin=True)  # type: ignore[no-untyped-call]
        except WebSocketException as error:
            # Its text contains headers (W13). Only the accept key can be wrong: this class has checked the rest.
            message = f"{self._place}: accepted the upgrade without a valid WebSocket handshake"
            raise Unreadable(message, code="answer.frame") from error

    def gettimeout(self) -> float | None:
        return None

    def close(self) -> None:
        """Do nothing when the library drops a failed connection. The owner of the stream closes it."""

    def send(self, data: bytes) -> int:
        try:
            self._stream.sendall(data)
            self._read_head()
        except TimeoutError as error:
            raise NetworkError(f"{self._place}: the upgrade timed out", code="network.connect") from error
        except OSError as error:
            raise NetworkError(f"{self._place}: the upgrade failed ({why(error)})") from error
        return len(data)

    def recv(self, size: int) -> bytes:
        part, self._shown = self._shown[:size], self._shown[size:]
        return part

    def _read_head(self) -> None:
        """Read the head of the response, and pass only the headers that the library must check."""
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > MAX_HEAD:
                raise Unreadable(f"{self._place}: the response to the upgrade has too long a head", code="answer.frame")
            piece = bytearray(_CHUNK)
            count = self._stream.recv_into(piece)
            if not count:
                raise ConnectionResetError(errno.ECONNRESET, "closed without a response")
            data += piece[:count]
        if not data.startswith((b"HTTP/1.1 101", b"HTTP/1.0 101")):
            self._raise_refusal(bytes(data))
        self.status = 101
        self.rest = bytes(data[end + 4 :])
        shown = ["HTTP/1.1 101 Switching Protocols"]
        for line in data[:end].decode("latin-1").split("\r\n")[1:]:
            name, _, value = line.partition(":")
            name, value = name.strip().lower(), value.strip()
            self.headers[name] = value
            if name in _SHOWN:
                shown.append(f"{name}: {value}")
        self._shown = "\r\n".join([*shown, "", ""]).encode("latin-1")

    def _raise_refusal(self, seen: bytes) -> NoReturn:
        import http.client

        body = b""
        with closing(http.client.HTTPResponse(_Replay(seen, self._stream))) as answer:  # type: ignore[arg-type]
            try:
                answer.begin()
            except http.client.HTTPException as error:
                message = f"{self._place}: the response to the upgrade is not HTTP"
                raise Unreadable(message, code="answer.frame") from error
            self._stream.limit.begin(self._stream.limit.deadline.sooner(CONTROL_PATIENCE))
            try:
                while len(body) < MAX_BODY and (piece := answer.read1(MAX_BODY - len(body))):
                    body += piece
            except (OSError, http.client.HTTPException):
                pass  # an incomplete body is fine: the status matters
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.headers.items()}
        self.body = body.decode(errors="replace")
        raise Refusal(self.status, self.headers, self.body)


class _Replay(io.RawIOBase):
    """A socket for `http.client` that returns the bytes already read before those of the stream."""

    def __init__(self, seen: bytes, stream: AnyStream) -> None:
        self._seen = seen
        self._stream = stream

    def makefile(self, mode: str) -> Any:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        if not self._seen:
            return self._stream.recv_into(buffer)
        view = memoryview(buffer)
        part, self._seen = self._seen[: len(view)], self._seen[len(view) :]
        view[: len(part)] = part
        return len(part)


def _peer(stream: AnyStream) -> dict[str, Any]:
    """Return the address and the port of the other end, empty where they are not known."""
    if isinstance(stream, NestedTlsStream):  # it is inside the stream to the proxy, and has no address
        return {}
    try:
        address, port, *_ = stream.getpeername()
    except (OSError, ValueError):  # it has just broken
        return {}
    return {"address": address, "port": port}


def _plain(text: str) -> str:
    """Return remote text for an error message, with unprintable characters escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _cut(reason: str) -> bytes:
    """Return a close reason, shortened to the 123 bytes that a close frame has for it."""
    return reason.encode(errors="replace")[:123].decode(errors="ignore").encode()
