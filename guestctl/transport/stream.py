"""A connected byte stream, plain or TLS, on which no wait exceeds its deadline.

Knows: non-blocking sockets, readiness, and how many bytes were sent. Must not know: HTTP, frames, host names,
proxies.

The libraries set a timeout per read, so a peer that sends single bytes slowly can occupy them for ever
(reliability.md §2.5, W2). Here the socket never blocks. The rest of the whole deadline limits every wait, and
data that has already arrived is read without waiting. The classes are sockets because `http.client` and
websocket-client need sockets.
"""

from __future__ import annotations

import errno
import io
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from guestctl.core.clock import Deadline
from guestctl.core.interrupts import INTERRUPTS

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from guestctl.core.waker import Waker

T = TypeVar("T")

#: poll(2) if it exists: select(2) fails above descriptor 1023, and epoll needs a descriptor per wait.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Limit(threading.local):
    """The deadline of a series of socket calls, and the number of bytes sent in it.

    Each thread has its own values, so that one reader and several writers can share a stream.
    """

    def __init__(self, deadline: Deadline) -> None:
        self.begin(deadline)

    def begin(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.sent = 0
        #: The last write handed all its bytes to the operating system.
        self.whole = True

    def remaining(self) -> float | None:
        """Return the seconds left, or None without a limit. Raises TimeoutError if no time is left."""
        left = self.deadline.remaining()
        if left is not None and left <= 0:
            raise TimeoutError
        return left


class _Bounded:
    """Socket methods that wait no longer than `limit` allows. A mixin that precedes the socket class."""

    limit: Limit
    #: OpenSSL's objects cannot be read and written at the same time. Each guarded call is non-blocking.
    _guard: threading.Lock
    #: Maximum number of bytes per write.
    _piece = 1 << 20

    def adopt(self, limit: Limit) -> None:
        """Make the socket non-blocking; from now on `limit` bounds its waits."""
        self.limit = limit
        self._guard = threading.Lock()
        self.setblocking(False)  # type: ignore[attr-defined]

    def take(self, size: int) -> bytes | None:
        """Return up to `size` bytes without waiting; None if there are none, b"" at the end. Raises OSError."""
        try:
            with self._guard:
                return super().recv(size)  # type: ignore[misc, no-any-return]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def give(self, data: Buffer) -> int:
        """Write what can be written without waiting, and return its size.

        Raises OSError: BlockingIOError, SSLWantReadError or SSLWantWriteError if nothing can be written now.
        """
        with self._guard:
            return super().send(data)  # type: ignore[misc, no-any-return]

    def wait(self, seconds: float | None, event: int = selectors.EVENT_READ, *, waker: Waker | None = None) -> bool:
        """Wait up to `seconds` (None: no limit) and return whether the socket became ready. Raises OSError.

        A call of `waker.wake` ends the wait.
        """
        with _Selector() as selector:
            try:
                own = selector.register(self, event)  # type: ignore[arg-type]
            except ValueError as error:  # closed by another thread
                raise ConnectionAbortedError(errno.ECONNABORTED, "the connection was closed here") from error
            if waker is not None:
                selector.register(waker, selectors.EVENT_READ)
            with INTERRUPTS.allowed():
                return any(key is own for key, _ in selector.select(seconds))

    def put(self, data: Buffer, limit: Limit) -> None:
        """Write everything. Raises TimeoutError and OSError; `limit.sent` is the number of bytes sent before."""
        view = memoryview(data)
        limit.whole = not view
        while view:
            piece = view[: self._piece]
            count = self._retry_until_ready(limit, selectors.EVENT_WRITE, super().send, piece)  # type: ignore[misc]
            limit.sent += count
            view = view[count:]
        limit.whole = True

    def _retry_until_ready(self, limit: Limit, event: int, operation: Callable[..., T], *args: Any) -> T:
        while True:
            left = limit.remaining()
            try:
                with self._guard:
                    return operation(*args)
            except BlockingIOError:
                awaited = event
            except ssl.SSLWantReadError:
                awaited = selectors.EVENT_READ
            except ssl.SSLWantWriteError:
                awaited = selectors.EVENT_WRITE
            if not self.wait(left, awaited):
                raise TimeoutError

    def abort(self) -> None:
        """End both directions at once and wake every thread that waits on the stream. Any thread may call it."""
        try:
            # SSLSocket.shutdown would drop the TLS state, and a reader in another thread would then take
            # ciphertext for data.
            socket.socket.shutdown(self, socket.SHUT_RDWR)  # type: ignore[arg-type]
        except OSError:
            pass  # already gone

    # --- what http.client and websocket-client call ---

    def recv_into(self, buffer: Any, nbytes: int | None = 0, flags: int = 0) -> int:
        operation: Callable[..., int] = super().recv_into  # type: ignore[misc]
        return self._retry_until_ready(self.limit, selectors.EVENT_READ, operation, buffer, nbytes, flags)

    def sendall(self, data: Buffer, flags: int = 0) -> None:
        self.put(data, self.limit)

    def settimeout(self, value: float | None) -> None:
        """Ignore the per-read timeouts that libraries set here. `limit` replaces them."""


class Stream(_Bounded, socket.socket):
    """A plain TCP stream."""

    def prepare(self) -> None:
        """Send small frames at once, and let the system notice a dead peer."""
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class _Tls(_Bounded):
    """What both kinds of TLS streams share."""

    #: One TLS record. OpenSSL may send some of several records and then only report "try again", without the number
    #: of bytes sent. A single record is safe: the peer cannot read an incomplete one.
    _piece = 1 << 14

    def shake_hands(self) -> None:
        """Perform the TLS handshake. Raises ssl.SSLError, TimeoutError, OSError."""
        self._retry_until_ready(self.limit, selectors.EVENT_READ, self.do_handshake)  # type: ignore[attr-defined]


class TlsStream(_Tls, ssl.SSLSocket):
    """A TLS stream. `SSLContext.wrap_socket` creates it through `sslsocket_class`, without a handshake."""


class _NestedTls:
    """TLS inside the TLS of `outer`, with the methods of a non-blocking socket.

    A descriptor cannot be wrapped twice, so the inner TLS reads and writes memory. Its records wait in `_unsent` until
    `outer` takes them.
    """

    def __init__(self, outer: TlsStream, context: ssl.SSLContext, host: str) -> None:
        self._outer = outer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._unsent = b""
        #: Bytes of the present write that are encrypted already, and wait in `_unsent`.
        self._encrypted = 0

    def do_handshake(self) -> None:
        self._pulling(self._tls.do_handshake)
        self._push()

    def recv(self, size: int) -> bytes:
        try:
            return self._pulling(lambda: self._tls.read(size))
        except ssl.SSLEOFError:  # as SSLSocket: the end of the connection ends the data
            return b""

    def recv_into(self, buffer: Any, nbytes: int | None = 0, flags: int = 0) -> int:
        data = self.recv(nbytes or len(buffer))
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def send(self, data: Buffer) -> int:
        if not self._encrypted:
            self._encrypted = self._tls.write(data)
        self._push()
        done, self._encrypted = self._encrypted, 0
        return done

    def _pulling(self, operation: Callable[[], T]) -> T:
        """Perform an operation with what has arrived. Raises SSLWantReadError when that is not enough."""
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    self._push()
                arrived = self._outer.take(1 << 16)
                if arrived is None:
                    raise
                if arrived:
                    self._incoming.write(arrived)
                else:
                    self._incoming.write_eof()

    def _push(self) -> None:
        """Hand all records to `outer`. Raises as its `give` when it does not take them all now."""
        self._unsent += self._outgoing.read()
        while self._unsent:
            self._unsent = self._unsent[self._outer.give(self._unsent[: 1 << 14]) :]

    def getpeercert(self) -> Mapping[str, Any] | None:
        return self._tls.getpeercert()

    def version(self) -> str | None:
        return self._tls.version()

    # --- what a socket has ---

    def fileno(self) -> int:
        return self._outer.fileno()

    def setblocking(self, flag: bool) -> None:
        """Do nothing: `outer` never blocks."""

    def setsockopt(self, level: int, name: int, value: Any) -> None:
        self._outer.setsockopt(level, name, value)

    def close(self) -> None:
        self._outer.close()

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a reader, as `socket.makefile("rb")` does: the connection stays open as long as the reader."""
        self._outer._io_refs += 1  # type: ignore[attr-defined]
        return io.BufferedReader(socket.SocketIO(self, "r"))  # type: ignore[arg-type]

    def _decref_socketios(self) -> None:
        self._outer._decref_socketios()  # type: ignore[attr-defined]


class NestedTlsStream(_Tls, _NestedTls):
    """A TLS stream through the TLS connection to an https:// proxy, without a handshake."""

    def abort(self) -> None:
        """End both directions at once and wake every thread that waits on the stream. Any thread may call it."""
        self._outer.abort()


#: Any stream that `Network` opens.
AnyStream: TypeAlias = "Stream | TlsStream | NestedTlsStream"
