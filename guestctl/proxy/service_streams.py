"""Connections to the service behind the proxy, as tornado's streams.

Knows: `Network` (TLS, certificate authorities, proxies), threads in which it connects, and how a connection ends. Must
not know: HTTP, frames.

Tornado's own clients know neither SOCKS nor proxies with TLS, and no certificate settings of a profile. `Network` opens
the connection, in a thread because it waits; from then on, tornado's loop reads and writes it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tornado.iostream import BaseIOStream, IOStream

from guestctl.core.clock import Clock, Deadline
from guestctl.transport.network import CONNECT_TIMEOUT, Network
from guestctl.transport.stream import Limit

if TYPE_CHECKING:
    from guestctl.proxy.target import ServiceAddress
    from guestctl.transport.stream import AnyStream

#: Bytes that are read ahead of a reader that waits for its own peer.
BUFFER = 1 << 20
#: Seconds without an answer after which the system asks whether the other end is still there, between two such
#: questions, and how many may stay unanswered.
_ALIVE = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))

#: The linger option that turns the end of a connection into a reset.
_AT_ONCE = struct.pack("ii", 1, 0)


class ServiceStream(BaseIOStream):
    """A connection to the service.

    If the service has closed the connection, later writes are dropped: what it sent before can still be read.
    """

    def __init__(self, stream: AnyStream) -> None:
        self._stream = stream
        self._write_error: OSError | None = None
        super().__init__(max_buffer_size=BUFFER)

    def fileno(self) -> Any:
        return self._stream.fileno()

    def close_fd(self) -> None:
        self._stream.close()

    def read_from_fd(self, buf: Any) -> int | None:
        data = self._stream.take(len(buf))
        if data is None:
            return None
        buf[: len(data)] = data
        return len(data)

    def write_to_fd(self, data: memoryview) -> int:
        if self._write_error is not None:
            return len(data)
        try:
            return self._stream.give(bytes(data[: 1 << 14]))
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except OSError as error:
            self._write_error = error
            return len(data)

    @property
    def broken(self) -> bool:
        """Whether the connection ended with a reset or another error. The system reports a reset only once."""
        return self.error is not None or isinstance(self._write_error, ConnectionResetError)

    def reset(self) -> None:
        """End the connection with a reset."""
        if not self.closed():
            self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self.close()

    def watch(self) -> None:
        """Let the system notice that the other end is gone."""
        _keep_alive(self._stream)


def reset(stream: IOStream) -> None:
    """End a client's connection with a reset."""
    if not stream.closed():
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        stream.close()


def watch(stream: IOStream) -> None:
    """Let the system notice that a client is gone."""
    _keep_alive(stream.socket)


def _keep_alive(raw: Any) -> None:
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _ALIVE:
        if hasattr(socket, name):  # macOS has other names
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def connect(
    network: Network, clock: Clock, upstream: ServiceAddress, opening: set[asyncio.Future[Any]]
) -> ServiceStream:
    """Open a connection. Raises NetworkError and UsageError. Who waits for it is in `opening` in the meantime.

    Each has a thread of its own, which does not keep the program from ending, as those of an executor would.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[AnyStream] = loop.create_future()

    def take(stream: AnyStream | None, failure: BaseException | None) -> None:
        if done.done():  # given up
            if stream is not None:
                stream.close()
        elif failure is not None:
            done.set_exception(failure)
        elif stream is not None:
            done.set_result(stream)

    def work() -> None:
        stream: AnyStream | None = None
        failure: BaseException | None = None
        try:
            stream = network.open(upstream.url(), Limit(Deadline.after(clock, CONNECT_TIMEOUT)))
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(take, stream, failure)
        except RuntimeError:  # the proxy has stopped
            if stream is not None:
                stream.close()

    threading.Thread(target=work, name="proxy-connect", daemon=True).start()
    opening.add(done)
    try:
        made = ServiceStream(await done)
    finally:
        opening.discard(done)
    made.watch()
    return made


class IdleConnections:
    """The connections to the service that one client's connection uses again.

    They belong to this client alone: if the service ends one while it is idle, the client's connection ends too, as it
    would without the proxy. `ended` is called then.
    """

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._closed = False
        self._idle: dict[tuple[bool, str, int], ServiceStream] = {}

    def take(self, upstream: ServiceAddress) -> ServiceStream | None:
        """Return an idle connection to the host of `upstream`, None without one."""
        stream = self._idle.pop(upstream[:3], None)
        if stream is None:
            return None
        stream.set_close_callback(None)
        return None if stream.closed() else stream

    def keep(self, upstream: ServiceAddress, stream: ServiceStream) -> None:
        """Keep a connection for the client's next request to this host."""
        if self._closed:
            stream.close()
            return
        before = self._idle.pop(upstream[:3], None)
        if before is not None:
            before.set_close_callback(None)
            before.close()
        self._idle[upstream[:3]] = stream
        stream.set_close_callback(self._ended)

    def close(self) -> None:
        """Close all of them: the client has gone."""
        self._closed = True
        for stream in self._idle.values():
            stream.set_close_callback(None)
            stream.close()
        self._idle.clear()
