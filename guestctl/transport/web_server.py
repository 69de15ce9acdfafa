"""A web server for this machine's other programs: one port, in a thread of its own, on tornado.

Knows: the port, its thread, TLS, the limits of heads, and an orderly stop. Must not know: what is served, who may read
it, how a request is answered (`web_routes`).

All handlers and all methods of streams run in the server's thread; `WebServer.call_soon` brings other threads there.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress

from tornado.httpserver import HTTPServer
from tornado.web import Application

from guestctl.core.server_thread import ServerThread
from guestctl.transport.hosts import address_of, authority
from guestctl.transport.web_routes import BODY_LIMIT, LAST_BYTES, MountedRoutes, WebRoute, WebSocketRoute, WebStream

#: Limit in bytes of a request's head.
HEAD_LIMIT = 32 << 10
#: Seconds that a connection may be idle between two requests, and that a body may take.
IDLE_TIMEOUT, BODY_TIMEOUT = 75.0, 30.0


class WebServer(ServerThread):
    """One port. `url` is its address once it has started.

    `allowed_hosts` are names that clients may use for this machine, with or without a port, in addition to the bound
    address and localhost. `origins` are the web pages that may use the server. `preflight_headers` are the request
    headers that they may send. `problem` is called with each exception that a handler did not expect.
    """

    def __init__(
        self,
        routes: Sequence[WebRoute | WebSocketRoute],
        *,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        allowed_hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
        preflight_headers: Sequence[str] = (),
        problem: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        super().__init__("web server")
        self.host = host
        self.port = port
        self.tls = tls
        self._mounted = MountedRoutes(
            routes,
            scheme=self.scheme,
            is_own_host=self.is_own_host,
            origins=origins,
            preflight_headers=preflight_headers,
            problem=problem,
        )
        self._allowed_hosts = frozenset(name.lower() for name in allowed_hosts)
        self._hosts: frozenset[str] = frozenset()

    @property
    def scheme(self) -> str:
        return "http" if self.tls is None else "https"

    @property
    def streams(self) -> set[WebStream]:
        """The open streams. Only the server's thread may use them."""
        return self._mounted.streams

    @property
    def url(self) -> str:
        """The base address, without a slash at its end. A wildcard address is shown as loopback."""
        return f"{self.scheme}://{authority('127.0.0.1' if _wildcard(self.host) else self.host, self.port)}"

    def start(self) -> None:
        """Start to serve, and return when the port accepts connections. Raises OSError."""
        self._start_thread()

    def stop(self, before: Callable[[], None] = lambda: None, seconds: float = LAST_BYTES) -> None:
        """Accept no more connections, and call `before` in the server's thread.

        The streams that `before` ends have some seconds for their last bytes. Then every connection is closed.
        """
        self._before_stop, self._grace = before, seconds
        self._stop_thread()

    def call_soon(self, call: Callable[[], object]) -> None:
        """Call a function in the server's thread, unless the server has stopped. Any thread may do this."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(call)

    def call_later(self, seconds: float, call: Callable[[], object]) -> asyncio.TimerHandle:
        """Call a function after some seconds. Only the server's thread may do this."""
        assert self._loop is not None
        return self._loop.call_later(seconds, call)

    async def _serve(self, started: Future[None]) -> None:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listening = socket.create_server((self.host, self.port), family=family, backlog=1024)
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        self._hosts = self._own_hosts()
        server = HTTPServer(
            Application(self._mounted.rules(), log_function=lambda handler: None),
            ssl_options=self.tls,
            max_body_size=1 << 62,  # each route has its limit; tornado would answer with an empty 400
            max_buffer_size=BODY_LIMIT + HEAD_LIMIT,
            max_header_size=HEAD_LIMIT,
            idle_connection_timeout=IDLE_TIMEOUT,
            body_timeout=BODY_TIMEOUT,
        )
        server.add_socket(listening)
        started.set_result(None)
        await self._stopping.wait()
        server.stop()
        self._before_stop()
        with suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(self._all_streams_done(), self._grace)
        for stream in tuple(self.streams):
            stream.abort()
        await server.close_all_connections()

    async def _all_streams_done(self) -> None:
        while any(not stream.done for stream in self.streams):
            await asyncio.sleep(0.005)

    def _own_hosts(self) -> frozenset[str]:
        names = {"localhost", "127.0.0.1", "[::1]", authority(self.host, self.port).rpartition(":")[0].lower()}
        own = {f"{name}:{self.port}" for name in names} | self._allowed_hosts
        own |= {f"{name}:{self.port}" for name in self._allowed_hosts}
        return frozenset(own | (names if self.port == (80 if self.tls is None else 443) else set()))

    def is_own_host(self, host: str) -> bool:
        """Return whether a Host header names this server. Any other may be a DNS rebinding attack by a web page."""
        if host.lower() in self._hosts:
            return True
        name, _, port = host.rpartition(":")
        return _wildcard(self.host) and port == str(self.port) and address_of(name.strip("[]")) is not None


def _wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::", "")
