"""The proxy in a thread of its own: one port on loopback.

Knows: tornado's server, the thread, start and stop, the Host check, and how the parts of a proxy are put together. Must
not know: how a request or a socket passes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from ssl import SSLContext
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, HTTPServerConnectionDelegate
from tornado.web import Application

from guestctl.core.clock import Clock
from guestctl.core.errors import NetworkError
from guestctl.core.server_thread import ServerThread
from guestctl.inspector.page_access import PATH as INSPECTOR_PATH
from guestctl.proxy.faulty_socket import SocketFaults
from guestctl.proxy.http_exchange import BODY_LIMIT, HEAD_LIMIT, ProxiedRequest
from guestctl.proxy.route_names import RouteNames
from guestctl.proxy.service_streams import BUFFER, IdleConnections, ServiceStream, connect
from guestctl.proxy.socket_relay import SocketRelay, SocketUpgrade
from guestctl.proxy.target import ServiceAddress, Target
from guestctl.sandbox.events import WireEvents, WireObserver
from guestctl.sandbox.faults import Fault, FaultError, Faults, parse
from guestctl.sandbox.interfaces import error
from guestctl.transport.network import Network

HOST = "127.0.0.1"
#: Connections to the service that are being opened at the same time.
_MOST_OPENING = 32
#: Seconds that a connection of a client may be idle between two requests.
_IDLE = 3600.0
_STOPS = "the proxy stops"
#: Faults that only a sandbox has, and the reason.
WITHOUT = {"lag": "only a sandbox can leave messages out of history; the proxy does not know when they were stored"}


class RecordingProxy(ServerThread):
    """A reverse proxy for `target`. `observer` receives everything that passes, in the proxy's thread.

    `origin` replaces the Origin header of clients. `faults` are specs; raises FaultError.
    """

    def __init__(
        self,
        target: Target,
        network: Network,
        *,
        clock: Clock,
        port: int = 0,
        origin: str | None = None,
        tls: SSLContext | None = None,
        observer: WireObserver | None = None,
        faults: Sequence[str] = (),
    ) -> None:
        super().__init__("proxy")
        self.target = target
        self.origin = origin
        self.port = port
        self.events = WireEvents(observer)
        self.faults = Faults(clock)
        self.faults.add_all(faults, check_fault)
        self._pages: Application | None = None
        self._before_stop: Callable[[], None] = lambda: None
        self._network = network
        self._clock = clock
        self._tls = tls
        self._names = RouteNames(clock)
        self._relays: dict[SocketRelay, asyncio.Task[None]] = {}
        self._hosts: frozenset[str] = frozenset()
        self._room = asyncio.Semaphore(_MOST_OPENING)
        self._opening: set[asyncio.Future[Any]] = set()

    @property
    def secure(self) -> bool:
        """Whether clients use TLS."""
        return self._tls is not None

    @property
    def has_pages(self) -> bool:
        """Whether pages of the proxy itself have the same origin as the answers of the service."""
        return self._pages is not None

    @property
    def url(self) -> str:
        """The base address for clients."""
        return f"http{'s' if self.secure else ''}://{HOST}:{self.port}"

    @property
    def socket_url(self) -> str:
        """The base address of all sockets."""
        return f"ws{self.url[4:]}"

    def mount(self, rules: Sequence[Any], before_stop: Callable[[], None]) -> None:
        """Serve tornado's rules for paths below `/_inspector`. Call this before `start`.

        Their handlers check hosts, origins and access themselves. `before_stop` is called in the proxy's thread.
        """
        self._pages = Application(list(rules), log_function=lambda handler: None)
        self._before_stop = before_stop

    def start(self) -> RecordingProxy:
        """Start serving, and return when the port accepts connections. Raises OSError."""
        self._start_thread()
        return self

    def stop(self) -> None:
        """Close all sockets and connections, and wait for the thread to end."""
        self._stop_thread()

    def __enter__(self) -> RecordingProxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _serve(self, started: Future[None]) -> None:
        listening = socket.create_server((HOST, self.port), family=socket.AF_INET, backlog=1024)
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        names = ("localhost", HOST, "[::1]")
        usual = self.port == (443 if self.secure else 80)
        self._hosts = frozenset({f"{name}:{self.port}" for name in names} | (set(names) if usual else set()))
        requests = _Requests(self, self._pages)
        server = _Server(
            requests,
            ssl_options=self._tls,
            max_header_size=HEAD_LIMIT,
            max_body_size=BODY_LIMIT,
            max_buffer_size=BUFFER,
            idle_connection_timeout=_IDLE,
        )
        server.requests = requests
        server.add_socket(listening)
        started.set_result(None)
        await self._stopping.wait()
        server.stop()
        self._before_stop()
        for waiting in tuple(self._opening):
            if not waiting.done():
                waiting.set_exception(NetworkError(_STOPS, code="network.connect"))
        for relay in tuple(self._relays):
            relay.stop()
        if self._relays:
            await asyncio.wait(self._relays.values(), timeout=1.0)
        await server.close_all_connections()

    # -- what requests use (see `http_exchange.ProxyContext`)

    def refusal(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Return the status and the text that refuse a request because of its Host header.

        A Host that is not the proxy's may be a DNS rebinding attack by a web page.
        """
        if headers.get("Host", "").lower() in self._hosts:
            return None
        return 421, f"this Host is not served here: use localhost or 127.0.0.1 with port {self.port}"

    async def connect(self, upstream: ServiceAddress) -> ServiceStream:
        async with self._room:
            if self._stopping.is_set():
                raise NetworkError(_STOPS, code="network.connect")
            return await connect(self._network, self._clock, upstream, self._opening)

    def route_of(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[str | None, bool]:
        return self._names.of_request(method, path, headers, body)

    def now(self) -> float:
        return self._clock.now()

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def upgrade(self, request: ProxiedRequest, upstream: ServiceAddress, headers: HTTPHeaders) -> None:
        events = self.events.socket(upstream.url(socket=True))
        fault = self.faults.upgrade()
        if fault is not None:
            events.connect(headers, None)
            refusal = error(fault.status, fault.message)
            events.upgrade(fault.status, dict(headers.items()), refusal.headers, refusal.body)
            request.reply(fault.status, refusal.body)
            return
        opened = await SocketUpgrade(request, upstream, headers, events).perform()
        if opened is None:
            return
        faults = SocketFaults(self.faults, self._names, self._clock, upstream.path, headers, events)
        relay = SocketRelay(*opened, events, request.replaced, faults)
        task = asyncio.ensure_future(relay.run())
        self._relays[relay] = task
        task.add_done_callback(lambda _: self._relays.pop(relay, None))


def check_fault(spec: str) -> Fault:
    """Return a fault. Raises FaultError for one that is invalid, or that a proxy cannot inject."""
    fault = parse(spec)
    if fault.kind in WITHOUT:
        raise FaultError(f'fault "{spec}": {WITHOUT[fault.kind]}')
    return fault


class _Requests(HTTPServerConnectionDelegate):
    """Makes what handles each request."""

    def __init__(self, proxy: RecordingProxy, pages: Application | None) -> None:
        self._proxy = proxy
        self._pages = pages
        self._idle: dict[object, IdleConnections] = {}

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        idle = self._idle.get(server_conn)
        if idle is None:
            idle = self._idle[server_conn] = IdleConnections(lambda: _close(server_conn))
        passing = ProxiedRequest(self._proxy, request_conn, idle)
        if self._pages is None:
            return passing
        return _Choice(passing, self._pages, server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        idle = self._idle.pop(server_conn, None)
        if idle is not None:
            idle.close()


class _Server(HTTPServer):
    """Tornado's server, which also reports the end of a connection."""

    requests: _Requests

    def on_close(self, server_conn: object) -> None:
        super().on_close(server_conn)
        self.requests.on_close(server_conn)


def _close(server_conn: Any) -> None:
    with suppress(AttributeError):
        server_conn.stream.close()


class _Choice(HTTPMessageDelegate):
    """Chooses between the proxy and its own pages when the path of a request is known."""

    def __init__(
        self, passing: HTTPMessageDelegate, pages: Application, server_conn: object, request_conn: Any
    ) -> None:
        self._chosen = passing
        self._pages = pages
        self._connections = server_conn, request_conn

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Any:
        if start_line.path.partition("?")[0] == INSPECTOR_PATH or start_line.path.startswith(INSPECTOR_PATH + "/"):
            self._chosen = self._pages.start_request(*self._connections)
        return self._chosen.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Any:
        return self._chosen.data_received(chunk)

    def finish(self) -> None:
        self._chosen.finish()

    def on_connection_close(self) -> None:
        self._chosen.on_connection_close()
