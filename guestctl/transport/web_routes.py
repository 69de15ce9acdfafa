"""Routes of a web server, which can be mounted into any tornado application on this machine's own ports.

Knows: tornado, routes, the Host and Origin checks, CORS, the limits of bodies, and streams that stay open. Must not
know: ports, threads, TLS, what is served, who may read it.

A handler gets a `WebRequest` and returns a `WebReply`, or opens a `WebStream` and returns None. All handlers and all
methods of streams run in the thread of the server's event loop.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from http.client import responses
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from tornado.iostream import IOStream, StreamClosedError
from tornado.web import RequestHandler, stream_request_body
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from guestctl.core.values import immutable

#: Limits in bytes of a request's body, and of a message that arrives on a WebSocket.
BODY_LIMIT, MESSAGE_LIMIT = 1 << 20, 64 << 10
#: Bytes of the body of a refused request that are read and dropped before the connection is closed.
DROPPED = 16 << 20
#: Bytes that the system buffers for one open stream. Linux takes twice as many.
SEND_BUFFER = 128 << 10
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
        self.body: bytes = b"".join(handler.body)
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
    """A method and a path, and the function that answers.

    `admit` is called with the head, before the body is read; it raises WebRefusal to refuse the request. `body_limit`
    is in bytes.
    """

    method: str
    path: str
    handle: Handle
    admit: Callable[[WebRequest], None] | None = None
    body_limit: int = BODY_LIMIT


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

    def __init__(self, mounted: MountedRoutes, stream: IOStream, *, chunked: bool = False) -> None:
        self._mounted = mounted
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
            asyncio.get_running_loop().call_later(LAST_BYTES, self.abort)

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
            self._mounted.streams.discard(self)
            self._on_close()


class _SocketStream(WebStream):
    """A WebSocket: it ends with a close frame."""

    def __init__(self, mounted: MountedRoutes, handler: _SocketHandler) -> None:
        connection: Any = handler.ws_connection
        super().__init__(mounted, connection.stream)
        self._handler = handler
        self._code = 1000

    def end(self, data: bytes, code: int = 1000) -> None:
        self._code = code
        super().end(data, code)

    def _finish(self) -> None:
        self._handler.close(self._code)  # tornado waits 5 s for the peer's close frame


class MountedRoutes:
    """Routes for a tornado application, and their open streams.

    `scheme` is that of the application, http or https. `is_own_host` returns whether a Host header names it; any other
    may be a DNS rebinding attack by a web page. `origins` are the web pages that may use the routes, in addition to the
    application's own. `preflight_headers` are the request headers that they may send. `problem` is called with each
    exception that a handler did not expect.
    """

    def __init__(
        self,
        routes: Sequence[WebRoute | WebSocketRoute],
        *,
        scheme: str,
        is_own_host: Callable[[str], bool],
        origins: Sequence[str] = (),
        preflight_headers: Sequence[str] = (),
        problem: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.scheme = scheme
        self.is_own_host = is_own_host
        self.origins = frozenset(origins)
        self.preflight_headers = ", ".join(preflight_headers)
        self.problem = problem
        #: The open streams.
        self.streams: set[WebStream] = set()
        self._routes = {(one.method, one.path): one for one in routes if isinstance(one, WebRoute)}
        self._sockets = {one.path: one for one in routes if isinstance(one, WebSocketRoute)}

    def rules(self, pattern: str = ".*") -> list[Any]:
        """Return the rules of a tornado application. Requests with another path that fits the pattern get 404."""
        rules: list[Any] = [
            (re.escape(path), _SocketHandler, {"mounted": self, "route": route})
            for path, route in self._sockets.items()
        ]
        return [*rules, (pattern, _DispatchingHandler, {"mounted": self})]

    def route_of(self, method: str, path: str) -> WebRoute | None:
        """Return the route of a request, None without one."""
        return self._routes.get((method, path))

    def methods_of(self, path: str) -> list[str]:
        """Return the methods of a path; none if there is no such path."""
        return [method for method, known in self._routes if known == path] or ["GET"] * (path in self._sockets)


def error_body(message: str) -> bytes:
    """Return the body of an error of the server itself."""
    return json.dumps({"error": {"message": message}}).encode() + b"\n"


class _Checks:
    """What every request must pass, and the headers that every answer to a web page has."""

    def __init__(self, mounted: MountedRoutes, handler: RequestHandler) -> None:
        self._mounted = mounted
        self._request = handler.request
        self.cors: dict[str, str] = {}

    def refusal(self) -> WebReply | None:
        """Return the answer to a request that is refused because of its head; None for any other."""
        request, mounted = self._request, self._mounted
        host = request.headers.get("Host", "")
        if not mounted.is_own_host(host):
            return _error(403, "the Host header does not name this server")
        origin = request.headers.get("Origin")
        if origin is not None:
            if origin in mounted.origins:
                self.cors = {
                    "Access-Control-Allow-Origin": origin,
                    "Access-Control-Expose-Headers": "*",
                    "Vary": "Origin",
                }
            elif origin.lower() != f"{mounted.scheme}://{host}".lower():
                return _error(403, "this web page may not use the server")
        return None

    def preflight(self) -> WebReply:
        """Return the answer to the request that a browser sends before the actual one."""
        methods = ", ".join(self._mounted.methods_of(self._request.path))
        return WebReply(
            204,
            headers={
                "Access-Control-Allow-Methods": methods,
                "Access-Control-Allow-Headers": self._mounted.preflight_headers,
                "Access-Control-Max-Age": _PREFLIGHT_AGE,
            },
        )


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> WebReply:
    return WebReply(status, error_body(message), {"Content-Type": JSON, **(headers or {})})


class _Answering:
    """Sends replies through tornado. A mixin of both handlers."""

    mounted: MountedRoutes
    checks: _Checks

    def begin(self: Any, mounted: MountedRoutes) -> None:
        self.mounted = mounted
        self.checks = _Checks(mounted, self)
        self.body: list[bytes] = []

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
            self.mounted.problem(value)

    def compute_etag(self) -> None:
        """Return None: no answer is cached."""

    def write_error(self, status_code: int, **more: Any) -> None:
        self.send_reply(_error(status_code, "an internal error" if status_code == 500 else responses[status_code]))


@stream_request_body
class _DispatchingHandler(_Answering, RequestHandler):
    """Every request that is no WebSocket.

    The head is judged before the body is read. The body of a refused request is read and dropped, so that the client
    gets the answer instead of a reset. Of a body that is much too large, the rest is not read.
    """

    def initialize(self, mounted: MountedRoutes) -> None:
        self.begin(mounted)
        self._refusal: WebReply | None = None
        self._route: WebRoute | None = None
        self._size = 0

    def prepare(self) -> None:
        self._judge_head()
        length = self.request.headers.get("Content-Length", "")
        if length.isascii() and length.isdigit() and len(length) < 20 and int(length) > DROPPED:
            self.send_reply(self._refusal or self._too_large())

    def _judge_head(self) -> None:
        mounted, method, path = self.mounted, str(self.request.method), self.request.path
        self._refusal = self.checks.refusal()
        self._route = mounted.route_of(method, path)
        if self._refusal is not None:
            return
        if method == "OPTIONS":
            self._refusal = self.checks.preflight() if mounted.methods_of(path) else _error(404, "no such path")
        elif self._route is None:
            methods = mounted.methods_of(path)
            self._refusal = (
                _error(405, "no such method", {"Allow": ", ".join(methods)}) if methods else _error(404, "no such path")
            )
        elif self._route.admit is not None:
            try:
                self._route.admit(WebRequest(self, self.checks.cors))
            except WebRefusal as refused:
                self._refusal = refused.reply

    def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._refusal is not None:
            if self._size > DROPPED and not self._finished:
                self.send_reply(self._refusal)
        elif self._route is not None and self._size > self._route.body_limit:
            self._refusal = self._too_large()
            self.body.clear()
        else:
            self.body.append(chunk)

    def _too_large(self) -> WebReply:
        limit = BODY_LIMIT if self._route is None else self._route.body_limit
        return _error(413, f"the body has more than {limit:,} bytes")

    async def _answer(self) -> None:
        reply = self._refusal
        if reply is None:
            assert self._route is not None
            try:
                reply = await self._route.handle(WebRequest(self, self.checks.cors))
            except WebRefusal as refused:
                reply = refused.reply
            if reply is None:
                return  # a stream was opened
        self.send_reply(reply)

    get = head = post = put = patch = delete = options = _answer

    def open_stream(self, head: bytes, chunked: bool) -> WebStream:
        """Take the connection from tornado, and write the head of a response to it."""
        raw: IOStream = self.detach()
        raw.set_nodelay(True)
        _bound_buffer(raw)
        stream = WebStream(self.mounted, raw, chunked=chunked)
        self.mounted.streams.add(stream)
        raw.set_close_callback(stream.gone)
        with suppress(StreamClosedError):
            raw.write(head)
        return stream


class _SocketHandler(_Answering, WebSocketHandler):
    """One WebSocket."""

    def initialize(self, mounted: MountedRoutes, route: WebSocketRoute) -> None:
        self.begin(mounted)
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

    @property
    def ping_interval(self) -> float:
        return PING_INTERVAL

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)
        connection: Any = self.ws_connection
        _bound_buffer(connection.stream)
        self._stream = _SocketStream(self.mounted, self)
        self.mounted.streams.add(self._stream)
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
