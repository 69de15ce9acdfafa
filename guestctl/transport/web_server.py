"""A web server for this machine's other programs: one port, in a thread of its own, on tornado.

Knows: tornado, routes, the Host and Origin checks, CORS, TLS, the limits of heads and bodies, streams that stay open,
and an orderly stop. Must not know: what is served, who may read it.

A handler gets a `WebRequest` and returns a `WebReply`, or opens a `WebStream` and returns None. All handlers and all
methods of streams run in the server's thread; `WebServer.call_soon` brings other threads there.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import field
from http.client import responses
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamClosedError
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from guestctl.core.values import immutable
from guestctl.transport.hosts import address_of, authority

#: Limits in bytes of a request's head and body, and of a message that arrives on a WebSocket.
HEAD_LIMIT, BODY_LIMIT, MESSAGE_LIMIT = 32 << 10, 1 << 20, 64 << 10
#: Bytes that the system buffers for one open stream. Linux takes twice as many.
SEND_BUFFER = 128 << 10
#: Seconds that a connection may be idle between two requests, and that a body may take.
IDLE_TIMEOUT, BODY_TIMEOUT = 75.0, 30.0
#: Seconds between two pings of a WebSocket: a peer that is gone is noticed by the second.
PING_INTERVAL = 30.0
#: Seconds that the last bytes of a stream may take before its connection is closed anyway.
LAST_BYTES = 5.0
#: Seconds for which a browser may remember the answer to a preflight request.
_PREFLIGHT_AGE = "600"
JSON = "application/json"


@immutable
class WebReply:
    """A complete answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class WebRefusal(Exception):
    """Ends a handler with this answer."""

    def __init__(self, reply: WebReply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class WebRequest:
    """A request whose Host and Origin have been checked.

    `headers` finds names in any case. `query` has every value of each parameter, decoded. `origin` is the Origin header
    of a permitted web page, None without one.
    """

    def __init__(self, handler: Any, headers: Mapping[str, str]) -> None:
        request = handler.request
        self.method: str = request.method
        self.path: str = request.path
        self.headers: Mapping[str, str] = request.headers
        self.query: dict[str, list[str]] = parse_qs(request.query, keep_blank_values=True)
        self.body: bytes = request.body
        self.origin: str | None = request.headers.get("Origin")
        self._handler = handler
        self._headers = headers

    def stream(self, content_type: str, headers: Mapping[str, str] | None = None, *, status: int = 200) -> WebStream:
        """Answer with a stream, whose end is the end of the connection. Its head is written at once."""
        lines = [f"HTTP/1.1 {status} {responses.get(status, '')}"]
        sent = {"Content-Type": content_type, "Cache-Control": "no-store", **self._headers, **(headers or {})}
        lines += [f"{name}: {value}" for name, value in sent.items()]
        # In chunks, because several clients wait for a full buffer otherwise. HTTP/1.0 has none.
        chunked = self._handler.request.version != "HTTP/1.0"
        lines += ["Transfer-Encoding: chunked"] * chunked
        head = "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")
        stream: WebStream = self._handler.open_stream(head, chunked)
        return stream


Handle: TypeAlias = Callable[[WebRequest], Awaitable["WebReply | None"]]
"""Answers a request. Raises WebRefusal."""


@immutable
class WebRoute:
    """A method and a path, and the function that answers."""

    method: str
    path: str
    handle: Handle


@immutable
class WebSocketRoute:
    """The path of a WebSocket.

    `admit` returns the subprotocol to select, None for none; it raises WebRefusal to refuse the upgrade. `opened` gets
    the stream: what is written to it must be whole frames of a server, and messages from the peer end it.
    """

    path: str
    admit: Callable[[WebRequest], str | None]
    opened: Callable[[WebRequest, WebStream], None]


class WebStream:
    """A response or a WebSocket that stays open. Only the server's thread may use it."""

    def __init__(self, server: WebServer, stream: IOStream, *, chunked: bool = False) -> None:
        self._server = server
        self._chunked = chunked
        self._stream = stream
        self._on_close: Callable[[], None] = lambda: None
        self._ending = self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def done(self) -> bool:
        """Whether the last bytes have been handed to the system."""
        return self._closed or (self._ending and not self._stream.writing())

    def on_close(self, call: Callable[[], None]) -> None:
        """Call a function once when the connection has ended, from either side."""
        self._on_close = call

    def write(self, data: bytes, then: Callable[[], None]) -> bool:
        """Write bytes. Return True if the system has taken them all; otherwise call `then` when it has.

        After `end` and after the end of the connection, nothing is written and `then` is not called.
        """
        return not self._ending and self._write(self._chunk(data), then)

    def _write(self, data: bytes, then: Callable[[], None]) -> bool:
        try:
            written = self._stream.write(data)
        except (StreamClosedError, WebSocketClosedError):
            return False
        if written.done():
            return written.exception() is None

        def done(future: Any) -> None:
            if future.exception() is None and not self._closed:
                then()

        written.add_done_callback(done)
        return False

    def end(self, data: bytes, code: int = 1000) -> None:
        """Write the last bytes, then close the connection; a WebSocket with this close code."""
        self._ending = True
        if self._write(self._chunk(data) + (b"0\r\n\r\n" if self._chunked else b""), self._finish):
            self._finish()
        else:
            self._server.call_later(LAST_BYTES, self.abort)

    def _chunk(self, data: bytes) -> bytes:
        """Return bytes as the transfer encoding has them. An empty chunk would be the end."""
        return b"%x\r\n%s\r\n" % (len(data), data) if self._chunked and data else data

    def abort(self) -> None:
        """Close the connection now."""
        self._stream.close()

    def _finish(self) -> None:
        self._stream.close()

    def gone(self) -> None:
        """Note the end of the connection. The server calls it."""
        if not self._closed:
            self._closed = True
            self._server.streams.discard(self)
            self._on_close()


class _SocketStream(WebStream):
    """A WebSocket: it ends with a close frame."""

    def __init__(self, server: WebServer, handler: _SocketHandler) -> None:
        connection: Any = handler.ws_connection
        super().__init__(server, connection.stream)
        self._handler = handler
        self._code = 1000

    def end(self, data: bytes, code: int = 1000) -> None:
        self._code = code
        super().end(data, code)

    def _finish(self) -> None:
        self._handler.close(self._code)  # tornado waits 5 s for the peer's close frame


class WebServer:
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
        body_limit: int = BODY_LIMIT,
        problem: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.host = host
        self.port = port
        self.origins = frozenset(origins)
        self.preflight_headers = ", ".join(preflight_headers)
        self.problem = problem
        #: The open streams.
        self.streams: set[WebStream] = set()
        self.tls = tls
        self._routes = {(one.method, one.path): one.handle for one in routes if isinstance(one, WebRoute)}
        self._sockets = {one.path: one for one in routes if isinstance(one, WebSocketRoute)}
        self._allowed_hosts = frozenset(name.lower() for name in allowed_hosts)
        self._hosts: frozenset[str] = frozenset()
        self._body_limit = body_limit
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event
        self._thread: threading.Thread | None = None

    @property
    def scheme(self) -> str:
        return "http" if self.tls is None else "https"

    @property
    def url(self) -> str:
        """The base address, without a slash at its end. A wildcard address is shown as loopback."""
        return f"{self.scheme}://{authority('127.0.0.1' if _wildcard(self.host) else self.host, self.port)}"

    def start(self) -> None:
        """Start to serve, and return when the port accepts connections. Raises OSError."""
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="web server", daemon=True)
        self._thread.start()
        started.result()

    def stop(self, before: Callable[[], None] = lambda: None, seconds: float = LAST_BYTES) -> None:
        """Accept no more connections, and call `before` in the server's thread.

        The streams that `before` ends have some seconds for their last bytes. Then every connection is closed.
        """
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None:
            self._before_stop, self._grace = before, seconds
            self._loop.call_soon_threadsafe(self._stopping.set)
            thread.join()

    def call_soon(self, call: Callable[[], object]) -> None:
        """Call a function in the server's thread, unless the server has stopped. Any thread may do this."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(call)

    def call_later(self, seconds: float, call: Callable[[], object]) -> asyncio.TimerHandle:
        """Call a function after some seconds. Only the server's thread may do this."""
        assert self._loop is not None
        return self._loop.call_later(seconds, call)

    def _run(self, started: Future[None]) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listening = socket.create_server((self.host, self.port), family=family, backlog=1024)
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        self._hosts = self._own_hosts()
        rules: list[Any] = [
            (re.escape(path), _SocketHandler, {"server": self, "route": route}) for path, route in self._sockets.items()
        ]
        rules.append((r".*", _DispatchingHandler, {"server": self}))
        server = HTTPServer(
            Application(rules, log_function=lambda handler: None, websocket_ping_interval=PING_INTERVAL),
            ssl_options=self.tls,
            max_body_size=self._body_limit,
            max_buffer_size=self._body_limit + HEAD_LIMIT,
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

    def handler_of(self, method: str, path: str) -> Handle | None:
        """Return the function that answers a request, None without one."""
        return self._routes.get((method, path))

    def methods_of(self, path: str) -> list[str]:
        """Return the methods of a path; none if there is no such path."""
        return [method for method, known in self._routes if known == path] or ["GET"] * (path in self._sockets)


def error_body(message: str) -> bytes:
    """Return the body of an error of the server itself."""
    return json.dumps({"error": {"message": message}}).encode() + b"\n"


class _Checks:
    """What every request must pass, and the headers that every answer to a web page has."""

    def __init__(self, server: WebServer, handler: RequestHandler) -> None:
        self._server = server
        self._request = handler.request
        self.cors: dict[str, str] = {}

    def refusal(self) -> WebReply | None:
        """Return the answer to a request that is refused because of its head; None for any other."""
        request, server = self._request, self._server
        host = request.headers.get("Host", "")
        if not server.is_own_host(host):
            return _error(403, "the Host header does not name this server")
        origin = request.headers.get("Origin")
        if origin is not None:
            if origin in server.origins:
                self.cors = {
                    "Access-Control-Allow-Origin": origin,
                    "Access-Control-Expose-Headers": "*",
                    "Vary": "Origin",
                }
            elif origin.lower() != f"{server.scheme}://{host}".lower():
                return _error(403, "this web page may not use the server")
        return None

    def preflight(self) -> WebReply:
        """Return the answer to the request that a browser sends before the actual one."""
        methods = ", ".join(self._server.methods_of(self._request.path))
        return WebReply(
            204,
            headers={
                "Access-Control-Allow-Methods": methods,
                "Access-Control-Allow-Headers": self._server.preflight_headers,
                "Access-Control-Max-Age": _PREFLIGHT_AGE,
            },
        )


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> WebReply:
    return WebReply(status, error_body(message), {"Content-Type": JSON, **(headers or {})})


class _Answering:
    """Sends replies through tornado. A mixin of both handlers."""

    server: WebServer
    checks: _Checks

    def begin(self: Any, server: WebServer) -> None:
        self.server = server
        self.checks = _Checks(server, self)

    def send_reply(self: Any, reply: WebReply) -> None:
        self.clear()
        for name in ("Server", "Date", "Content-Type"):
            self.clear_header(name)
        self.set_status(reply.status)
        sent = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **self.checks.cors, **reply.headers}
        for name, value in sent.items():
            self.set_header(name, value)
        self.finish(reply.body if reply.body else None)

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Pass an unexpected exception on. tornado would write it, with its values, to stderr."""
        if value is not None:
            self.server.problem(value)

    def compute_etag(self) -> None:
        """Return None: no answer is cached."""

    def write_error(self, status_code: int, **more: Any) -> None:
        self.send_reply(_error(status_code, "an internal error" if status_code == 500 else responses[status_code]))


class _DispatchingHandler(_Answering, RequestHandler):
    """Every request that is no WebSocket."""

    def initialize(self, server: WebServer) -> None:
        self.begin(server)

    async def prepare(self) -> None:
        refusal = self.checks.refusal()
        method, path = self.request.method, self.request.path
        if refusal is None and method == "OPTIONS":
            known = self.server.methods_of(path)
            refusal = self.checks.preflight() if known else _error(404, "no such path")
        if refusal is None and self.server.handler_of(method, path) is None:
            methods = self.server.methods_of(path)
            refusal = (
                _error(405, "no such method", {"Allow": ", ".join(methods)}) if methods else _error(404, "no such path")
            )
        if refusal is None:
            handle = self.server.handler_of(method, path)
            assert handle is not None
            try:
                refusal = await handle(WebRequest(self, self.checks.cors))
            except WebRefusal as refused:
                refusal = refused.reply
            if refusal is None:
                return  # a stream was opened
        self.send_reply(refusal)

    def open_stream(self, head: bytes, chunked: bool) -> WebStream:
        """Take the connection from tornado, and write the head of a response to it."""
        raw: IOStream = self.detach()
        raw.set_nodelay(True)
        _bound_buffer(raw)
        stream = WebStream(self.server, raw, chunked=chunked)
        self.server.streams.add(stream)
        raw.set_close_callback(stream.gone)
        with suppress(StreamClosedError):
            raw.write(head)
        return stream


class _SocketHandler(_Answering, WebSocketHandler):
    """One WebSocket."""

    def initialize(self, server: WebServer, route: WebSocketRoute) -> None:
        self.begin(server)
        self._route = route
        self._stream: _SocketStream | None = None
        self._subprotocol: str | None = None

    def prepare(self) -> None:
        refusal = self.checks.refusal()
        if refusal is None:
            self._request = WebRequest(self, self.checks.cors)
            try:
                self._subprotocol = self._route.admit(self._request)
            except WebRefusal as refused:
                refusal = refused.reply
        if refusal is not None:
            self.send_reply(refusal)

    def check_origin(self, origin: str) -> bool:
        return True  # `prepare` has checked it

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return self._subprotocol

    @property
    def max_message_size(self) -> int:
        return MESSAGE_LIMIT

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)
        connection: Any = self.ws_connection
        _bound_buffer(connection.stream)
        self._stream = _SocketStream(self.server, self)
        self.server.streams.add(self._stream)
        self._route.opened(self._request, self._stream)

    def on_message(self, message: str | bytes) -> None:
        if self._stream is not None:
            self._stream.end(b"", 1003)  # this socket only delivers events

    def on_close(self) -> None:
        if self._stream is not None:
            self._stream.gone()


def _bound_buffer(stream: IOStream) -> None:
    """Keep the system from buffering megabytes for a peer that does not read."""
    with suppress(OSError):
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


def _wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::", "")
