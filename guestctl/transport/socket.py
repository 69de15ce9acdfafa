"""One WebSocket connection, hardened: what reliability.md §2.3 and §3 ask of a reader and a writer.

Knows: the upgrade, ping and pong, closing, and what each ending means for a frame in flight. Must
not know: any dialect, reconnecting, what a message says.

websocket-client does the handshake and the framing. Its reading loop, timeouts, proxies, redirects
and cookies are not used (W1 to W15): the stream is opened by `Network`, and the library sees only
an answer that agreed to the upgrade.
"""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import Failure, NetworkError, Unreadable, UsageError
from guestctl.core.wire import Frame
from guestctl.transport.network import CONNECT_PATIENCE, Network, Observer, authority, checked, target, why
from guestctl.transport.stream import Limit, Stream, TlsStream

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from guestctl.transport.frame_reader import Close, Ping, Pong, Violation

#: Seconds for a pong, a ping or a close frame to leave, and for the peer's close to come.
CONTROL_PATIENCE = 1.0
#: The longest answer head, and the longest refusal body, that is read.
MAX_HEAD = 64 << 10
MAX_BODY = 2 << 10

_CHUNK = 1 << 16
_NO_CODE = 1005
_NO_CLOSE = 1006
#: All that the library checks; Set-Cookie would end in its process-wide jar (W12).
_SHOWN = ("upgrade", "connection", "sec-websocket-accept", "sec-websocket-protocol")


class Refusal(Exception):
    """The service answered the upgrade with something else than 101.

    `headers` have lower-case names; `body` is at most 2 KiB of text. Its own text shows only the
    status, because the rest may hold tokens (W13).
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: str) -> None:
        super().__init__(f"the upgrade was answered with HTTP {status}")
        self.status = status
        self.headers = headers
        self.body = body


class Socket:
    """An open connection. One thread reads (`receive`, `close`); any may `send`, `ping`, `abort`.

    `heard_at`: monotonic seconds when the last frame, of any kind, came.
    """

    def __init__(
        self, stream: Stream | TlsStream, rest: bytes, *, clock: Clock, observer: Observer | None, place: str
    ) -> None:
        # Loaded with the first connection: websocket-client is no cheap import.
        from websocket import ABNF

        from guestctl.transport.frame_reader import Close, Frames, Ping, Violation

        self._abnf = ABNF
        self._violation, self._ping, self._close = Violation, Ping, Close
        self._stream = stream
        self._frames = Frames()
        self._frames.feed(rest)
        self._clock = clock
        self._observer = observer
        self._place = place
        self._writing = threading.Lock()
        self._mute: NetworkError | None = None
        self._deaf: Failure | None = None
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
        """Open `url` (ws or wss). Raises Refusal, NetworkError (written False), Unreadable, UsageError.

        `headers` are sent as given, with Origin only if it is among them. Resolving, connecting,
        TLS and upgrade together take at most CONNECT_PATIENCE, even if the answer drips.
        """
        _, host, port = target(url)
        place = authority(host, port)
        sent = checked({"User-Agent": user_agent, **headers})
        if observer is not None:
            observer("connect", {"url": url, "proxy": str(network.proxy_for(url) or "") or None})
        stream = network.open(url, Limit(deadline.sooner(CONNECT_PATIENCE)))
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
        return cls(stream, upgrade.rest, clock=clock, observer=observer, place=place)

    def send(self, text: str, *, deadline: Deadline) -> None:
        """Send one text message. Raises NetworkError; `written` False proves that nothing left.

        After any failure the connection is over, since half a frame may be on the wire (W7).
        """
        try:
            payload = text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the text has half a character at position {error.start}") from error
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
        """The next text message, or None if none is complete within `timeout` seconds (0: do not wait).

        Pings are answered on the way and never extend the wait. Raises NetworkError with
        `close_code` when the connection is over (1005: a close without a code, 1006: no close at
        all), and Unreadable when the peer broke the protocol; whatever came before is returned first.
        """
        frame = self._next()
        if frame is not None:
            return frame
        deadline = Deadline.after(self._clock, timeout)
        while True:
            self._read(deadline)
            frame = self._next()
            if frame is not None or deadline.expired:
                return frame

    def close(self, code: int = 1000, reason: str = "") -> list[Frame]:
        """Close, and return the messages that were still on their way (W8). Takes a second at most.

        Never raises; the stream is gone afterwards.
        """
        drained: list[Frame] = []
        deadline = Deadline.after(self._clock, CONTROL_PATIENCE)
        try:
            self._say_goodbye(code, reason)
            while not deadline.expired and (frame := self.receive(deadline.bound(CONTROL_PATIENCE))) is not None:
                drained.append(frame)
        except (NetworkError, Unreadable):
            pass  # the peer's close, or whatever else ended it
        finally:
            self._deaf = self._deaf or self._lost("the connection was closed here", code)
            self._stream.close()
        return drained

    def abort(self) -> None:
        """End the connection at once and wake its reader, from any thread."""
        self._stream.abort()

    def _next(self) -> Frame | None:
        """The next message among the bytes that are here."""
        if self._deaf is not None:
            raise self._deaf
        pongs = b""
        try:
            while True:
                heard = self._frames.next()
                if heard is None:
                    return None
                self.heard_at = self._read_at
                if isinstance(heard, (str, bytes)):
                    return self._message(heard)
                if isinstance(heard, self._close):
                    break
                pongs += self._answer(heard)
        except self._violation as violation:
            raise self._objected(violation) from violation
        finally:
            if pongs:
                self._owe(pongs)
        raise self._closed_by_peer(heard)

    def _message(self, heard: str | bytes) -> Frame:
        assert isinstance(heard, str)  # the frame reader has refused anything else
        if self._observer is not None:
            self._observer("frame_in", {"text": heard})
        return Frame(heard, self._arrived)

    def _read(self, deadline: Deadline) -> None:
        """Take what the stream has, or else wait until it has something."""
        try:
            data = self._stream.take(_CHUNK)
            if data is None:
                if left := deadline.remaining():
                    self._stream.wait(left)
                return
        except OSError as error:
            raise self._over(self._broken(why(error))) from error
        if not data:
            raise self._over(self._mute or self._broken("the connection ended without a close"))
        self._read_at = self._clock.monotonic()
        self._arrived = self._clock.now()
        self._frames.feed(data)

    def _answer(self, heard: Ping | Pong) -> bytes:
        """The pong a ping is owed, as a frame."""
        ping = isinstance(heard, self._ping)
        if self._observer is not None:
            self._observer("ping" if ping else "pong", {"direction": "in"})
        if ping:
            return self._abnf.create_frame(heard.payload, self._abnf.OPCODE_PONG).format()
        return b""

    def _owe(self, pongs: bytes) -> None:
        """Answer all pings that came at once with one write, so that a flood of them costs little."""
        try:
            self._write(pongs, Deadline.after(self._clock, CONTROL_PATIENCE))
            if self._observer is not None:
                self._observer("pong", {"direction": "out"})
        except NetworkError:
            pass  # what has arrived is still worth reading; the reader meets the end by itself

    def _closed_by_peer(self, close: Close) -> Failure:
        reason = _plain(close.reason)
        if self._observer is not None:
            self._observer("close", {"direction": "in", "code": close.code, "reason": close.reason})
        self._say_goodbye(None if close.code == _NO_CODE else close.code, "")
        self._stream.abort()
        said = f"{close.code}: {reason}" if reason else str(close.code)
        return self._over(self._lost(f"the service closed the connection ({said})", close.code))

    def _objected(self, violation: Violation) -> Failure:
        self._say_goodbye(violation.code, "")
        self._stream.abort()
        return self._over(Unreadable(f"{self._place} broke the WebSocket protocol: {violation}", code="answer.frame"))

    def _say_goodbye(self, code: int | None, reason: str) -> None:
        """Send a close frame, once, and nothing after it."""
        payload = b"" if code is None else code.to_bytes(2, "big") + _cut(reason)
        data = self._abnf.create_frame(payload, self._abnf.OPCODE_CLOSE).format()
        last = self._lost("the connection was closed here", code or _NO_CODE)
        try:
            self._write(data, Deadline.after(self._clock, CONTROL_PATIENCE), last)
        except NetworkError:
            return
        if self._observer is not None:
            self._observer("close", {"direction": "out", "code": code, "reason": reason})

    def _over(self, failure: Failure) -> Failure:
        """Nothing is read any more; from now on every reader gets this failure."""
        self._deaf = failure
        return failure

    def _lost(self, what: str, code: int | None, *, written: bool = True) -> NetworkError:
        return NetworkError(f"{self._place}: {what}", close_code=code, written=written)

    def _broken(self, what: str) -> NetworkError:
        """The end without a close frame, which 1006 stands for."""
        if self._observer is not None:
            self._observer("close", {"direction": "in", "code": _NO_CLOSE, "reason": what})
        return self._lost(what, _NO_CLOSE)

    def _write(self, data: bytes, deadline: Deadline, last: NetworkError | None = None) -> None:
        """Write whole frames. `last`: what any later write gets instead. Raises NetworkError."""
        limit = Limit(deadline)
        left = deadline.remaining()
        if not self._writing.acquire(timeout=-1 if left is None else left):
            raise self._lost("another message was still being written", None, written=False)
        try:
            over = self._mute or self._deaf
            if over is not None:
                raise NetworkError(over.message, close_code=getattr(over, "close_code", None))
            try:
                self._stream.put(data, limit)
                self._mute = last
            except BaseException as error:
                # Also after Ctrl-C: half a frame on the wire would swallow the next one.
                self._mute = self._lost(f"sending failed ({why(error)})", _NO_CLOSE)
                self._stream.abort()
                if isinstance(error, OSError):
                    raise self._lost(f"sending failed ({why(error)})", None, written=limit.sent > 0) from error
                raise
        finally:
            self._writing.release()


class _Upgrade:
    """The upgrade, and what the library's handshake takes for a socket while it lasts."""

    def __init__(self, stream: Stream | TlsStream, place: str) -> None:
        self._stream = stream
        self._place = place
        self._shown = b""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = ""
        self.rest = b""

    def perform(self, url: str, headers: Mapping[str, str]) -> None:
        """Raises Refusal, NetworkError, Unreadable."""
        from websocket import WebSocket, WebSocketException

        lines = [f"{name}: {value}" for name, value in headers.items()]
        try:
            WebSocket().connect(url, socket=self, header=lines, suppress_origin=True)  # type: ignore[no-untyped-call]
        except WebSocketException as error:
            # Its text shows headers (W13). Only the accept key can be wrong: the rest was read here.
            message = f"{self._place}: the upgrade was accepted without the WebSocket handshake"
            raise Unreadable(message, code="answer.frame") from error

    def gettimeout(self) -> float | None:
        return None

    def close(self) -> None:
        """The library drops a failed connection; the stream's owner closes it."""

    def send(self, data: bytes) -> int:
        try:
            self._stream.sendall(data)
            self._hear()
        except TimeoutError as error:
            raise NetworkError(f"{self._place}: the upgrade timed out", code="network.connect") from error
        except OSError as error:
            raise NetworkError(f"{self._place}: the upgrade failed ({why(error)})") from error
        return len(data)

    def recv(self, size: int) -> bytes:
        part, self._shown = self._shown[:size], self._shown[size:]
        return part

    def _hear(self) -> None:
        """Read the answer's head, and show the library only what it must check."""
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > MAX_HEAD:
                raise Unreadable(f"{self._place}: the answer to the upgrade has an endless head", code="answer.frame")
            piece = bytearray(_CHUNK)
            count = self._stream.recv_into(piece)
            if not count:
                raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
            data += piece[:count]
        if not data.startswith((b"HTTP/1.1 101", b"HTTP/1.0 101")):
            self._refused(bytes(data))
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

    def _refused(self, seen: bytes) -> NoReturn:
        import http.client

        body = b""
        with closing(http.client.HTTPResponse(_Replay(seen, self._stream))) as answer:  # type: ignore[arg-type]
            try:
                answer.begin()
            except http.client.HTTPException as error:
                message = f"{self._place}: the answer to the upgrade is not HTTP"
                raise Unreadable(message, code="answer.frame") from error
            self._stream.limit.begin(self._stream.limit.deadline.sooner(CONTROL_PATIENCE))
            try:
                while len(body) < MAX_BODY and (piece := answer.read1(MAX_BODY - len(body))):
                    body += piece
            except (OSError, http.client.HTTPException):
                pass  # the status is what matters
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.headers.items()}
        self.body = body.decode(errors="replace")
        raise Refusal(self.status, self.headers, self.body)


class _Replay(io.RawIOBase):
    """Bytes already read, then the stream: what `http.client` takes for a socket."""

    def __init__(self, seen: bytes, stream: Stream | TlsStream) -> None:
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


def _plain(text: str) -> str:
    """Remote text for an error message: what cannot be printed is escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _cut(reason: str) -> bytes:
    """A close reason in the 123 bytes a close frame has for it."""
    return reason.encode(errors="replace")[:123].decode(errors="ignore").encode()
