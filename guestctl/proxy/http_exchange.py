"""One request through the proxy, and its answer.

Knows: HTTP/1.1 as far as a proxy is concerned, with tornado's implementation on both sides; which headers belong to
one connection. Must not know: which host serves a path (`target`), frames (`socket_relay`), threads.

Bodies pass in pieces, and the slower side sets the pace. Only JSON answers are collected, because addresses in them may
change. If the service ends a connection without an answer, so does the proxy. Only if nothing was sent yet, it answers
502 itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from http.client import responses
from typing import TYPE_CHECKING, Any, Protocol

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httputil import (
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPOutputError,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError

from guestctl.core.errors import Failure
from guestctl.proxy import rewriting
from guestctl.proxy.service_streams import IdleConnections, ServiceStream, reset
from guestctl.sandbox.faults import ON
from guestctl.sandbox.interfaces import error
from guestctl.sandbox.peer import GARBAGE

if TYPE_CHECKING:
    from guestctl.proxy.target import ServiceAddress, Target
    from guestctl.sandbox.events import Exchange, WireEvents
    from guestctl.sandbox.faults import Fault, Faults

HEAD_LIMIT = 64 << 10
#: Largest body that passes, in bytes. It passes in pieces.
BODY_LIMIT = 1 << 40
#: Bytes of a body that events contain. Of a larger one, they have none.
RECORDED = 1 << 20
#: Largest body of a request that is collected because faults are armed, in bytes.
HELD_LIMIT = 64 << 20
#: Headers of one connection (RFC 9110 §7.6.1). Expect is answered by each side itself.
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer", "upgrade", "expect"}
)
#: Headers that the Connection header cannot remove: without them, the service would read another request.
_NEEDED = frozenset({"host", "content-length", "transfer-encoding"})
#: Gives a document an origin of its own, so that a page of the service cannot act as the inspector's page.
_APART = "sandbox allow-downloads allow-forms allow-popups allow-scripts"
_PARAMETERS = HTTP1ConnectionParameters(max_header_size=HEAD_LIMIT, max_body_size=BODY_LIMIT)


class ProxyContext(Protocol):
    """The parts of a running proxy that requests use. `proxy_server.RecordingProxy` is one."""

    target: Target
    events: WireEvents
    faults: Faults
    origin: str | None

    @property
    def secure(self) -> bool: ...

    @property
    def has_pages(self) -> bool: ...

    def refusal(self, headers: Mapping[str, str]) -> tuple[int, str] | None: ...

    async def connect(self, upstream: ServiceAddress) -> ServiceStream: ...

    def route_of(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[str | None, bool]: ...

    def now(self) -> float: ...

    async def pause(self, seconds: float) -> None: ...

    async def upgrade(self, request: ProxiedRequest, upstream: ServiceAddress, headers: HTTPHeaders) -> None: ...


class _Recorded:
    """The body of a request or an answer, as far as events contain it."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[bytes] | None = []

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if self._pieces is not None:
            self._pieces.append(piece)
            if self.size > RECORDED:
                self._pieces = None

    @property
    def whole(self) -> bytes | None:
        """The body, None if it is too large."""
        return None if self._pieces is None else b"".join(self._pieces)


class ProxiedRequest(HTTPMessageDelegate):
    """A request of a client. `idle` has the connections of this client to the service."""

    def __init__(self, proxy: ProxyContext, client: Any, idle: IdleConnections) -> None:
        self.proxy = proxy
        self.client = client
        self.idle = idle
        self.exchange: Exchange | None = None
        self.own = ""
        self._headers: dict[str, str] = {}
        self.client_origin: str | None = None
        self.method = ""
        self._upstream: ServiceAddress | None = None
        self._stream: ServiceStream | None = None
        self._service: HTTP1Connection | None = None
        self._body = _Recorded()
        self._chunked_by_hand = False
        self._refused: tuple[int, str, str] | None = None
        self._answer: _Answer | None = None
        self._answering: asyncio.Task[None] | None = None
        self._request_read = False
        self._upgrade = False
        self._held: list[bytes] | None = None  # the body, collected because a fault may concern the request
        self._received: HTTPHeaders | None = None
        self._performing: asyncio.Task[None] | None = None

    # -- the request

    async def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        self.client.stream.set_nodelay(True)
        self.method, path = start_line.method, start_line.path
        self.own = headers.get("Host", "")
        self.client_origin = headers.get("Origin")
        refusal = self.proxy.refusal(headers) or _unclear(path, headers)
        self._upgrade = self.method == "GET" and headers.get("Upgrade", "").lower() == "websocket"
        if refusal is None:
            self._upstream = self.proxy.target.locate(path, socket=self._upgrade)
            if self._upstream is None:
                refusal = 403, "this address does not belong to the target of the proxy"
        if refusal is not None:
            self._refused = (*refusal, "proxy.refused")
            return
        assert self._upstream is not None
        if self._upgrade:
            await self.proxy.upgrade(self, self._upstream, headers)
            return
        self._headers = dict(headers.items())
        if self.method != "OPTIONS" and self.proxy.faults.list():
            self._held = []
            self._received = headers
        else:
            await self._open(headers)

    async def _open(self, headers: HTTPHeaders, fault: Fault | None = None) -> None:
        """Connect to the service and send the head of the request. `fault` damages or delays the answer."""
        assert self._upstream is not None
        try:
            self._stream = self.idle.take(self._upstream)
            if self._stream is None:
                self._stream = await self.proxy.connect(self._upstream)
        except Failure as failure:
            self._refused = 502, failure.message, failure.code
            return
        self._service = HTTP1Connection(self._stream, True, _PARAMETERS)  # type: ignore[arg-type]
        sent = self.outgoing(headers, self._upstream)
        self._headers = dict(sent.items())
        with_body = "Content-Length" in headers or "Transfer-Encoding" in headers
        if not with_body and self.method in ("POST", "PUT", "PATCH"):
            sent["Content-Length"] = "0"
        self._chunked_by_hand = "Transfer-Encoding" in headers and self.method not in ("POST", "PUT", "PATCH")
        with suppress(StreamClosedError):
            self._service.write_headers(RequestStartLine(self.method, self._upstream.path, ""), sent)
        self._answer = _Answer(self, fault)
        self._answering = asyncio.ensure_future(self._receive())

    async def _perform_held(self, body: bytes) -> None:
        """Perform a request whose body has been collected, with the fault that is due for it."""
        assert self._upstream is not None
        assert self._received is not None
        faults = self.proxy.faults
        name, counted = self.proxy.route_of(self.method, self._upstream.path, self._headers, body)
        fault = faults.http(name if name in ON else None) if counted else None
        if fault is not None and fault.status:
            refusal = error(fault.status, fault.message)
            wait = {"Retry-After": fault.retry_after_header(self.proxy.now())} if fault.kind == "ratelimit" else {}
            self.reply(fault.status, refusal.body, wait)
            return
        if fault is not None and fault.kind == "late":
            await self.proxy.pause(fault.seconds)  # the service gets the request even if the client has gone
        await self._open(self._received, fault)
        if self._refused is not None:
            self._refuse()
            return
        await self._forward(body)
        self._finish_request()

    def _report(self) -> None:
        """Report the request once, with its body if all of it has been read."""
        upstream = self._upstream
        if self.proxy.events.observer is None or self._upgrade or upstream is None:
            return
        if self.exchange is None:
            body = self._body.whole if self._request_read else None
            name, _ = self.proxy.route_of(self.method, upstream.path, self._headers, body or b"")
            self.exchange = self.proxy.events.exchange(self.method, upstream.url(), name or "other", None)
            self.exchange.sent(self._headers, body or None)

    def outgoing(self, headers: HTTPHeaders, upstream: ServiceAddress) -> HTTPHeaders:
        """Return the headers for the service: those of the client, except what belongs to its connection."""
        named = _connection(headers) - _NEEDED
        sent = HTTPHeaders()
        for name, value in headers.get_all():
            lower = name.lower()
            if lower in _HOP_BY_HOP or lower in named:
                continue
            if lower == "host":
                value = upstream.authority
            elif lower == "origin" and self.proxy.origin is not None:
                value = self.proxy.origin
            elif lower == "accept-encoding":
                value = rewriting.acceptable(value)
            sent.add(name, value)
        return sent

    async def data_received(self, chunk: bytes) -> None:
        self._body.add(chunk)
        if self._held is not None:
            self._held.append(chunk)
            if self._body.size > HELD_LIMIT:
                self._held = None
                self._refused = 413, "too large a body while faults are armed", "proxy.refused"
            return
        await self._forward(chunk)

    async def _forward(self, chunk: bytes) -> None:
        """Send a piece of the body to the service."""
        if self._service is None or not chunk or (self._answer is not None and self._answer.complete):
            return  # refused, or answered before the whole body was there: the rest is only read
        if self._chunked_by_hand:
            chunk = b"%x\r\n%s\r\n" % (len(chunk), chunk)
        try:
            await self._service.write(chunk)
        except (StreamClosedError, HTTPOutputError):
            pass  # `_receive` meets the end of the connection

    def finish(self) -> None:
        self._request_read = True
        self._report()
        if self._refused is not None:
            self._refuse()
            return
        if self._held is not None:
            self.client.set_close_callback(self._client_gone)
            self._performing = asyncio.ensure_future(self._perform_held(b"".join(self._held)))
        elif self._service is not None:  # not an upgrade
            self.client.set_close_callback(self._client_gone)
            self._finish_request()

    def _finish_request(self) -> None:
        assert self._service is not None
        if self._answer is not None and self._answer.complete:
            self._finish_answer()
            return
        with suppress(StreamClosedError, HTTPOutputError):
            if self._chunked_by_hand:
                self._service.write(b"0\r\n\r\n")
            self._service.finish()

    def on_connection_close(self) -> None:
        """The client has ended its connection before its request was complete."""
        self._client_gone()

    def _client_gone(self) -> None:
        self._report()
        if self.exchange is not None:
            self.exchange.lost("the client's connection ended before the answer")
        if self._stream is not None:
            if self.client.stream is not None and self.client.stream.error is not None:
                self._stream.reset()
            else:
                self._stream.close()

    # -- the answer

    async def _receive(self) -> None:
        """Read the answer of the service and pass it on."""
        assert self._service is not None
        assert self._answer is not None
        assert self._stream is not None
        assert self._upstream is not None
        usable = False
        try:
            usable = await self._service.read_response(self._answer)
        except (StreamClosedError, HTTPInputError):
            pass
        if self._answer.passing is not None:
            await self._answer.passing
        if not self._answer.complete or (self._answer.until_close and self._stream.broken):
            self._lost()
        elif usable and self._request_read and self._answer.reusable:
            self.idle.keep(self._upstream, self._stream)
        else:
            self._stream.close()

    def answered(self) -> None:
        """The answer has been passed on. If the client still sends its request, it has to come to its end first."""
        if self._request_read:
            self._finish_answer()
        elif self._service is not None:
            self._service.close()

    def report_answer(self, status: int, headers: HTTPHeaders, body: bytes) -> None:
        """Report the answer, with its body decompressed."""
        self._report()
        if self.exchange is not None:
            plain = rewriting.decompressed(body, headers.get("Content-Encoding", ""))
            self.exchange.answered(status, dict(headers.items()), body if plain is None else plain, None)

    def _finish_answer(self) -> None:
        with suppress(StreamClosedError, HTTPOutputError):
            self.client.finish()

    def _lost(self) -> None:
        """End the client's connection as the service ended its own."""
        assert self._stream is not None
        broken = self._stream.broken
        self._report()
        if self.exchange is not None:
            self.exchange.lost("the service ended the connection without a complete answer")
        self._stream.close()
        client = self.client.stream
        if client is not None and not client.closed():
            if broken:
                reset(client)
            else:
                client.close()

    def refuse_upgrade(self, failure: Failure) -> None:
        """Answer 502, because the service cannot be reached."""
        self._refused = 502, failure.message, failure.code

    def _refuse(self) -> None:
        assert self._refused is not None
        status, message, code = self._refused
        self.reply(status, error_body(status, message, code))

    def reply(self, status: int, body: bytes, more: Mapping[str, str] | None = None) -> None:
        """Answer the request without the service."""
        headers = HTTPHeaders({"Content-Type": "application/json", "Content-Length": str(len(body)), **(more or {})})
        if self.client_origin is not None and self._upstream is not None:
            headers["Access-Control-Allow-Origin"] = self.client_origin  # so that a page can read the reason
            headers["Access-Control-Expose-Headers"] = "Retry-After"
        self.report_answer(status, headers, body)
        with suppress(StreamClosedError, HTTPOutputError):
            self.client.write_headers(
                ResponseStartLine("HTTP/1.1", status, responses.get(status, "Unknown")),
                headers,
                None if self.method == "HEAD" or status in (204, 304) else body,
            )
            self.client.finish()

    def incoming(self, headers: HTTPHeaders) -> HTTPHeaders:
        """Return the headers for the client: those of the service, except what belongs to its connection."""
        upstream = self._upstream
        assert upstream is not None
        named = _connection(headers) - _NEEDED
        place = upstream_prefix(self.proxy.target, upstream)
        sent = HTTPHeaders()
        for name, value in headers.get_all():
            lower = name.lower()
            if lower in _HOP_BY_HOP or lower in named or lower == "transfer-encoding":
                continue
            if lower in ("location", "content-location"):
                value = self.proxy.target.through(value, self.own, secure=self.proxy.secure) or value
            elif lower == "set-cookie":
                value = rewriting.cookie(value, place, secure=self.proxy.secure)
            sent.add(name, value)
        if self.proxy.has_pages:
            sent.add("Content-Security-Policy", _APART)
        allowed = rewriting.allowed_origin(headers, self.proxy.origin, self.client_origin)
        if allowed is not None:
            sent["Access-Control-Allow-Origin"] = allowed
        if "Access-Control-Request-Private-Network" in self._headers and "Access-Control-Allow-Origin" in sent:
            # Browsers ask this before a public page may use an address of this machine.
            sent["Access-Control-Allow-Private-Network"] = "true"
        return sent

    def replaced(self, text: str) -> str:
        """Return a JSON text in which the target's addresses lead to the proxy."""
        target, own, secure = self.proxy.target, self.own, self.proxy.secure
        return rewriting.rewritten(text, lambda url: target.through(url, own, secure=secure))


def upstream_prefix(target: Target, upstream: ServiceAddress) -> str:
    """Return what precedes the path of a host's cookies at the proxy."""
    found = target.locate(upstream.path, socket=False)
    if found is not None and found[:3] == upstream[:3]:
        return ""
    return f"/_host/{upstream.authority}"


def error_body(status: int, message: str, code: str) -> bytes:
    """Return the body of an error of the proxy itself, in the form of the service's errors."""
    return json.dumps({"message": message, "code": code, "status": status}).encode()


class _Answer(HTTPMessageDelegate):
    """The answer of the service. `complete` is true once the client has all of it but its end."""

    def __init__(self, request: ProxiedRequest, fault: Fault | None) -> None:
        self._fault = fault
        self.complete = False
        self.passing: asyncio.Future[None] | None = None
        self.reusable = False
        self.until_close = False
        self._request = request
        self._recorded = _Recorded()
        self._bare = False
        self._collected: list[bytes] | None = None
        self._line = ResponseStartLine("HTTP/1.1", 502, "")
        self._headers = HTTPHeaders()

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Awaitable[None] | None:
        if 100 <= start_line.code < 200:
            return None
        self._line, self._headers = start_line, headers
        bare = self._bare = self._request.method == "HEAD" or start_line.code in (204, 304)
        framed = bare or "Content-Length" in headers or "Transfer-Encoding" in headers
        self.until_close = not framed
        self.reusable = framed and start_line.version == "HTTP/1.1" and "close" not in _connection(headers)
        length = headers.get("Content-Length", "")
        large = length.isdecimal() and int(length) > rewriting.BODY_LIMIT
        if self._fault is not None or (not bare and not large and rewriting.is_json(headers.get("Content-Type", ""))):
            self._collected = []
            return None
        return self._write_head()

    async def _write_head(self, body: bytes | None = None) -> None:
        sent = self._request.incoming(self._headers)
        if body is not None:
            sent["Content-Length"] = str(len(body))
        with suppress(StreamClosedError, HTTPOutputError):
            await self._request.client.write_headers(
                ResponseStartLine("HTTP/1.1", self._line.code, self._line.reason), sent, body
            )

    async def data_received(self, chunk: bytes) -> None:
        self._recorded.add(chunk)
        if self._collected is not None:
            self._collected.append(chunk)
            if self._recorded.size <= rewriting.BODY_LIMIT or self._fault is not None:
                return
            chunk, self._collected = b"".join(self._collected), None
            await self._write_head()
        with suppress(StreamClosedError, HTTPOutputError):
            await self._request.client.write(chunk)

    def finish(self) -> None:
        self.passing = asyncio.ensure_future(self._pass_on())

    async def _pass_on(self) -> None:
        if self._collected is not None:
            body = self._replaced(b"".join(self._collected))
            if self._fault is not None:
                body = await self._damaged(body, self._fault)
            await self._write_head(body if body or not self._bare else None)
        self.complete = True
        self._request.report_answer(self._line.code, self._headers, self._recorded.whole or b"")
        self._request.answered()

    async def _damaged(self, body: bytes, fault: Fault) -> bytes:
        """Wait, or return a damaged body, as the fault demands."""
        if fault.kind in ("delay", "silence"):
            await self._request.proxy.pause(fault.seconds)
        elif fault.kind == "truncate":
            return body[: len(body) // 2]
        elif fault.kind == "garbage":
            return GARBAGE.encode()
        return body

    def _replaced(self, body: bytes) -> bytes:
        """Return the body with its addresses replaced. A body without any stays as it is, compressed or not."""
        encoding = self._headers.get("Content-Encoding", "")
        plain = rewriting.decompressed(body, encoding)
        if plain is None:
            return body
        try:
            text = plain.decode()
        except UnicodeDecodeError:
            return body
        new = self._request.replaced(text)
        if new == text:
            return body
        if "Content-Encoding" in self._headers:
            del self._headers["Content-Encoding"]
        return new.encode()

    def on_connection_close(self) -> None:
        """Do nothing: the request meets the end of the connection."""


def _unclear(path: str, headers: HTTPHeaders) -> tuple[int, str] | None:
    """Return the status and the text that refuse a request that a service could read in another way."""
    if not path.startswith("/"):
        return 400, "the request does not name a path"  # `@host/` would continue the host of the address
    lengths = headers.get_list("Content-Length")
    coding = headers.get("Transfer-Encoding")
    if coding is not None and (lengths or coding.lower() != "chunked"):
        return 400, "the Transfer-Encoding is not chunked, or comes with a Content-Length"
    if lengths and (len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdecimal())):
        return 400, "the Content-Length is not one number"
    return None


def _connection(headers: HTTPHeaders) -> set[str]:
    return {part.strip().lower() for part in headers.get("Connection", "").split(",")}
