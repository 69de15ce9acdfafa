"""A connected byte stream on which no wait outlives its deadline, plain or TLS.

Knows: non-blocking sockets, readiness, and how many bytes have left. Must not know: HTTP, frames,
names, proxies.

The libraries set timeouts per read, so a peer that drips bytes holds them for ever
(reliability.md §2.5, W2). Here the socket never blocks: every wait is bounded by what is left of
the whole deadline, and data that is already there costs no wait at all. The classes are sockets,
because `http.client` and websocket-client want sockets.
"""

from __future__ import annotations

import errno
import selectors
import socket
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from guestctl.core.clock import Deadline

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

#: poll(2) where it exists: `select` stops at descriptor 1024, epoll costs a descriptor per wait.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Limit(threading.local):
    """How long the socket calls of one exchange may take, and the bytes that left meanwhile.

    Per thread: one reader and several writers can share a stream without sharing a deadline.
    """

    def __init__(self, deadline: Deadline) -> None:
        self.begin(deadline)

    def begin(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.sent = 0

    def remaining(self) -> float | None:
        """Seconds left, None without limit. Raises TimeoutError when there are none."""
        left = self.deadline.remaining()
        if left is not None and left <= 0:
            raise TimeoutError
        return left


class _Bounded:
    """Socket methods that wait no longer than `limit` allows. Mixed in before the socket class."""

    limit: Limit
    #: OpenSSL's objects may not be read and written at once; each call under it is non-blocking.
    _guard: threading.Lock
    #: Bytes per write.
    _piece = 1 << 20

    def adopt(self, limit: Limit) -> None:
        """Take charge: from here on the socket never blocks by itself."""
        self.limit = limit
        self._guard = threading.Lock()
        self.setblocking(False)  # type: ignore[attr-defined]

    def take(self, size: int) -> bytes | None:
        """What is there now, up to `size` bytes; None when nothing is, b"" at the end. Raises OSError."""
        try:
            with self._guard:
                return super().recv(size)  # type: ignore[misc, no-any-return]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def wait(self, seconds: float | None, event: int = selectors.EVENT_READ) -> bool:
        """Whether the socket became ready within `seconds` (None: wait without limit). Raises OSError."""
        with _Selector() as selector:
            try:
                selector.register(self, event)  # type: ignore[arg-type]
            except ValueError as error:  # closed by another thread
                raise ConnectionAbortedError(errno.ECONNABORTED, "the connection was closed here") from error
            return bool(selector.select(seconds))

    def put(self, data: Buffer, limit: Limit) -> None:
        """Write everything. Raises TimeoutError and OSError; `limit.sent` tells how much had left."""
        view = memoryview(data)
        while view:
            piece = view[: self._piece]
            count = self._insist(limit, selectors.EVENT_WRITE, super().send, piece)  # type: ignore[misc]
            limit.sent += count
            view = view[count:]

    def _insist(self, limit: Limit, event: int, operation: Callable[..., T], *args: Any) -> T:
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
        """End both directions now; wakes whoever waits on the stream. Any thread may call it."""
        try:
            # Not SSLSocket.shutdown: that one forgets the TLS state, and a reader in another
            # thread would take ciphertext for data.
            socket.socket.shutdown(self, socket.SHUT_RDWR)  # type: ignore[arg-type]
        except OSError:
            pass  # already gone

    # --- what http.client and websocket-client call ---

    def recv_into(self, buffer: Any, nbytes: int | None = 0, flags: int = 0) -> int:
        operation: Callable[..., int] = super().recv_into  # type: ignore[misc]
        return self._insist(self.limit, selectors.EVENT_READ, operation, buffer, nbytes, flags)

    def sendall(self, data: Buffer, flags: int = 0) -> None:
        self.put(data, self.limit)

    def settimeout(self, value: float | None) -> None:
        """Libraries set per-read timeouts here; the deadline of the exchange replaces them all."""


class Stream(_Bounded, socket.socket):
    """A plain TCP stream."""


class TlsStream(_Bounded, ssl.SSLSocket):
    """A TLS stream; made by `SSLContext.wrap_socket` through `sslsocket_class`, without a handshake."""

    #: One record. OpenSSL writes several and then says only "try again": nobody would know that
    #: some have left. Of a single record that did not leave whole, the peer can read nothing.
    _piece = 1 << 14

    def shake_hands(self) -> None:
        """The TLS handshake. Raises ssl.SSLError, TimeoutError, OSError."""
        self._insist(self.limit, selectors.EVENT_READ, self.do_handshake)
