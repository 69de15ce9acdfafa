"""Answers HTTP requests and upgrades: of guests, of web pages and of the admin endpoint.

Knows: tornado's request handler, hosts and origins, body limits, and where a fault takes effect in a request. Must not
know: any API, what a conversation is.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any, Protocol

from tornado.web import RequestHandler, stream_request_body

from guestctl.core.clock import Clock
from guestctl.sandbox.admin import PATH as ADMIN_PATH
from guestctl.sandbox.admin import Admin
from guestctl.sandbox.events import Exchange, SocketEvents, WireEvents
from guestctl.sandbox.faults import ON, Fault, Faults
from guestctl.sandbox.interfaces import Api, RequestRefused, Route, ServerReply, ServerRequest, Table, error
from guestctl.sandbox.peer import GARBAGE, RawConnection, SocketPeer, WriteBatch
from guestctl.sandbox.service_state import Service, dumps
from guestctl.sandbox.settings import SandboxOptions
from guestctl.sandbox.websocket import UNSENT_LIMIT, WebSocketConnection, accept_value, handshake_problem

LOG = logging.getLogger("guestctl.sandbox")
SERVER = "guestctl-sandbox"
BODY_LIMIT = 1024 * 1024
FILE_LIMIT = 26 * 1024 * 1024
BODIES_LIMIT = 64 * 1024 * 1024  # of all requests together


class SandboxContext(Protocol):
    """The parts of a running sandbox that requests and sockets use. `server.Sandbox` is one."""

    options: SandboxOptions
    clock: Clock
    service: Service
    faults: Faults
    admin: Admin
    table: Table
    peers: set[SocketPeer]
    batch: WriteBatch
    bodies: BodyBudget
    events: WireEvents

    @property
    def scheme(self) -> str: ...

    def later(self, seconds: float, what: Callable[[], None]) -> None: ...

    def is_own_host(self, host: str) -> bool: ...


class BodyBudget:
    """Counts the bytes of all request bodies in memory, and bounds them. `peak` is the highest count so far."""

    def __init__(self, limit: int = BODIES_LIMIT) -> None:
        self.peak = 0
        self._limit = limit
        self._used = 0

    def take(self, size: int) -> bool:
        """Count `size` more bytes, unless they exceed the limit. Return whether they were counted."""
        if self._used + size > self._limit:
            return False
        self._used += size
        self.peak = max(self.peak, self._used)
        return True

    def release(self, size: int) -> None:
        self._used -= size


class RequestDispatcher:
    """Finds the route of a request and returns its reply."""

    def __init__(self, sandbox: SandboxContext) -> None:
        self._sandbox = sandbox

    def check_head(self, request: ServerRequest, size: int) -> ServerReply | None:
        """Return the reply that refuses a request because of its head, before its body of `size` bytes is read.

        The bodies of refused requests are never buffered: anyone can send one, even a web page.
        """
        refusal = self._refuse_host(request)
        if refusal is not None:
            return refusal
        if request.path.startswith(ADMIN_PATH + "/"):
            if request.origin is not None and request.origin != request.base:
                return error(403, "The admin endpoint takes no request from a web page.")
            return self._sandbox.admin.check_key(request) or (error(413) if size > BODY_LIMIT else None)
        if request.method == "OPTIONS":
            return error(413) if size > BODY_LIMIT else None
        return self._check_guest_head(request, size)

    def _check_guest_head(self, request: ServerRequest, size: int) -> ServerReply | None:
        found = self._sandbox.table.route(request.method, request.path)
        cors = self._cors(request, found[0] if found else None)
        if found is None:
            refusal: ServerReply | None
            methods = self._sandbox.table.methods(request.path)
            refusal = error(405, Allow=", ".join(methods)) if methods else error(404, f"No such path: {request.path}")
        else:
            route, _, request.params = found
            if request.origin is not None and not cors:
                return error(403, "The origin is not allowed by the deployment.", "origin.not.allowed")
            if size > (FILE_LIMIT if route.large else BODY_LIMIT):
                return error(413)
            refusal = route.check(request) if route.check is not None else None
        if refusal is not None:
            refusal.headers.update(cors)
        return refusal

    async def answer(self, request: ServerRequest) -> ServerReply:
        """Return the reply to a request that `check_head` admits and that is not an upgrade."""
        if request.path.startswith(ADMIN_PATH + "/"):
            return await self._sandbox.admin.answer(request)
        if request.method == "OPTIONS":
            return self._answer_preflight(request)
        return await self.answer_guest(request)

    async def answer_guest(self, request: ServerRequest) -> ServerReply:
        """Return the reply to a guest's request, with the faults that are due."""
        sandbox = self._sandbox
        refusal = self._check_guest_head(request, len(request.body))
        if refusal is not None:
            return refusal
        found = sandbox.table.route(request.method, request.path)
        assert found is not None
        route, _, request.params = found
        cors = self._cors(request, route)
        fault = None
        name = route.name_of(request)
        if route.counted:
            fault = sandbox.faults.http(name if name in ON else None)
            if name == "history":
                request.lag = sandbox.faults.lag()
        reply = await self._perform(route, request, fault)
        if route.counted:
            sandbox.service.count(request.conversation, name or "other", request.headers.get("traceparent"))
        reply.headers.update(cors)
        return reply

    def admit(self, request: ServerRequest) -> Api | ServerReply:
        """Return the API that serves this upgrade, or the reply that refuses it."""
        sandbox = self._sandbox
        refusal = self._refuse_host(request)
        if refusal is not None:
            return refusal
        found = sandbox.table.socket_route(request.path)
        if found is None:
            return error(404, f"No socket at {request.path}")
        route, api, request.params = found
        fault = sandbox.faults.upgrade()
        refusal = error(fault.status, fault.message) if fault else route.admit(request)
        sandbox.service.count(None, "socket")
        return refusal or api

    def describe(self, request: ServerRequest) -> tuple[str, str | None]:
        """Return the name of a request's route, and the id of the conversation if the request shows it, for events."""
        found = self._sandbox.table.route(request.method, request.path)
        if found is None:
            return "other", self.find_session(request, {})
        route, _, params = found
        return route.name_of(request) or "other", self.find_session(request, params)

    def find_session(self, request: ServerRequest, params: Mapping[str, str]) -> str | None:
        """Return the id of the conversation that a request names in its address or by its token, for events."""
        service = self._sandbox.service
        for named in (*params.values(), *request.query.values()):
            conversation = service.conversations.get(named) or service.by_guest(named)
            if conversation is not None:
                return conversation.id
        return service.tokens.conversation_of(request.bearer)

    async def _perform(self, route: Route, request: ServerRequest, fault: Fault | None) -> ServerReply:
        if fault is not None and fault.status:
            headers = {}
            if fault.kind == "ratelimit":
                headers["Retry-After"] = fault.retry_after_header(self._sandbox.clock.now())
            return error(fault.status, fault.message, **headers)
        if fault is not None and fault.kind == "late":
            await self._pause(fault.seconds)  # the work is done even if the guest's connection breaks
        try:
            reply = route.handle(request)
        except RequestRefused as refused:
            reply = refused.reply
        if fault is not None:
            if fault.kind in ("delay", "silence"):
                await self._pause(fault.seconds)
            elif fault.kind == "truncate":
                reply.body = reply.body[: len(reply.body) // 2]
            elif fault.kind == "garbage":
                reply.body = GARBAGE.encode()
        return reply

    async def _pause(self, seconds: float) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sandbox.later(seconds, partial(done.set_result, None))
        await asyncio.shield(done)

    def _refuse_host(self, request: ServerRequest) -> ServerReply | None:
        if self._sandbox.is_own_host(request.headers.get("host", "")):
            return None
        return error(421, "This Host is not served here: use localhost or 127.0.0.1 with the sandbox's port.")

    def _answer_preflight(self, request: ServerRequest) -> ServerReply:
        table = self._sandbox.table
        methods = table.methods(request.path)
        if not methods:
            return error(404)
        found = table.route(methods[0], request.path)
        headers = self._cors(request, found[0] if found else None)
        if headers:
            headers["Access-Control-Allow-Methods"] = ", ".join(methods)
            headers["Access-Control-Max-Age"] = "600"
            wanted = request.headers.get("access-control-request-headers", "authorization, content-type")
            headers["Access-Control-Allow-Headers"] = wanted
            if "access-control-request-private-network" in request.headers:
                headers["Access-Control-Allow-Private-Network"] = "true"
        return ServerReply(204 if headers or request.origin is None else 403, b"", headers)

    def _cors(self, request: ServerRequest, route: Route | None) -> dict[str, str]:
        allowed = (route is not None and route.any_origin) or self._sandbox.service.allows(request.origin)
        if request.origin is None or not allowed:
            return {}
        return {
            "Access-Control-Allow-Origin": request.origin,
            "Access-Control-Expose-Headers": "Retry-After",
            "Vary": "Origin",
        }


class GuestSocket:
    """One open socket of a guest. It passes messages from the connection to the API."""

    def __init__(
        self,
        sandbox: SandboxContext,
        api: Api,
        request: ServerRequest,
        connection: RawConnection,
        events: SocketEvents | None = None,
    ) -> None:
        self._events = events or sandbox.events.socket(request.path)
        self._events.find_session = self._find_session
        self.peer = SocketPeer(
            connection, request, sandbox.faults, sandbox.clock, sandbox.later, sandbox.batch, self._events
        )
        self._sandbox = sandbox
        self._api = api
        self._left: Any = None  # the API's state of the socket when the connection ended

    def open(self) -> None:
        """Report the socket to the API."""
        self._sandbox.peers.add(self.peer)
        self._api.opened(self.peer)
        self._events.find()

    def _find_session(self) -> str | None:
        conversation = getattr(self.peer.state, "conversation", None)  # a replay has no conversations
        return None if conversation is None else str(conversation.id)

    def receive(self, message: str | bytes) -> None:
        """Handle one message of the guest."""
        peer = self.peer
        if self._events.observed:
            self._events.frame_out(message)
        if not peer.open:
            return
        peer.mark_active()
        if isinstance(message, bytes):
            peer.close(1003, "Text only")
            return
        late = self._sandbox.faults.late(self._api.route_of(message)) if self._sandbox.faults.list() else 0.0
        if late > 0:
            self._sandbox.later(late, partial(self._receive_late, message))
        else:
            self._perform(message)

    def _receive_late(self, message: str) -> None:
        """Handle a frame that a fault has held back. Its connection may have broken: then its session still counts.

        A service, or a proxy in front of it, may work on a frame long after the guest has stopped waiting.
        """
        peer, left = self.peer, self._left
        if left is None:
            self._perform(message)
            return
        peer.state = copy(left)
        try:
            self._perform(message)
        finally:
            self._api.closed(peer, True)

    def _perform(self, message: str) -> None:
        peer = self.peer
        self._sandbox.batch.begin()
        try:
            self._api.received(peer, message)
        except Exception:
            # The gateway in front of the real service sends this frame when the service fails (§2.5).
            LOG.exception("a frame could not be handled")
            ids = {"connectionId": secrets.token_urlsafe(8), "requestId": secrets.token_urlsafe(8)}
            peer.send(dumps({"message": "Internal server error", **ids}))
        finally:
            self._sandbox.batch.end()
            self._events.find()

    def closed(self, *, clean: bool) -> None:
        """The connection has ended; `clean` is true after the guest's close frame."""
        self._sandbox.peers.discard(self.peer)
        self._left = copy(self.peer.state)
        self._api.closed(self.peer, clean or self.peer.clean)


@stream_request_body
class GuestHandler(RequestHandler):
    """One request. The same address may serve plain requests and upgrades.

    The head is judged before the body is read. The body of a refused request is read and dropped, so that the guest
    receives the reply instead of a reset.
    """

    unsent_limit = UNSENT_LIMIT
    socket_class = GuestSocket

    def initialize(self, sandbox: SandboxContext) -> None:
        self.sandbox = sandbox
        self.dispatcher = RequestDispatcher(sandbox)
        self._refusal: ServerReply | None = None
        self._body: list[bytes] = []
        self._buffered = 0
        self._exchange: Exchange | None = None

    def prepare(self) -> None:
        if not self._is_upgrade():
            size = self.request.headers.get("Content-Length", "0")[:16]  # the server refuses what is not a number
            self._refusal = self.dispatcher.check_head(self._request(), int(size) if size.isdecimal() else 0)

    def data_received(self, chunk: bytes) -> None:
        if self._refusal is not None:
            return
        if not self.sandbox.bodies.take(len(chunk)):
            self._refuse_body(error(503, "Too many requests with large bodies at once."))
            return
        self._buffered += len(chunk)
        self._body.append(chunk)
        refusal = self.dispatcher.check_head(self._request(), self._buffered)  # a chunked body states no size
        if refusal is not None:
            self._refuse_body(refusal)

    def _refuse_body(self, refusal: ServerReply) -> None:
        self._refusal = refusal
        self._release_body()

    def _release_body(self) -> None:
        self.sandbox.bodies.release(self._buffered)
        self._buffered = 0
        self._body.clear()

    def on_finish(self) -> None:
        self._release_body()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._release_body()
        if not self._is_upgrade():
            self._report_request(self._request(), None)
        if self._exchange is not None:
            self._exchange.lost("the guest's connection ended before the answer")

    def set_default_headers(self) -> None:
        self.set_header("Server", SERVER)

    def compute_etag(self) -> None:
        return None

    async def get(self) -> None:
        if self._is_upgrade():
            await self._upgrade()
        else:
            await self._answer()

    def _is_upgrade(self) -> bool:
        return self.request.method == "GET" and self.request.headers.get("Upgrade", "").lower() == "websocket"

    async def _answer(self) -> None:
        request = self._request(b"".join(self._body))
        self._report_request(request, request.body if self._refusal is None else None)
        reply = self._refusal or await self.dispatcher.answer(request)
        self._prepare_reply(reply)
        if self._exchange is not None:
            session = None if request.conversation is None else request.conversation.id
            shown = b"" if self.request.method == "HEAD" else reply.body
            self._exchange.answered(reply.status, self._sent_headers(), shown, session)
        self.finish(reply.body or None)

    head = post = put = patch = delete = options = _answer

    def _report_request(self, request: ServerRequest, body: bytes | None) -> None:
        """Report a guest's request to the observer, once. `body` is None if it was not read."""
        events = self.sandbox.events
        if events.observer is None or self._exchange is not None or request.path.startswith(ADMIN_PATH + "/"):
            return
        route, session = self.dispatcher.describe(request)
        self._exchange = events.exchange(self.request.method or "", self._url(), route, session)
        self._exchange.sent(dict(self.request.headers.items()), body or None)

    def _url(self, scheme: str = "http") -> str:
        """Return the whole address as the guest wrote it. `scheme` is http or ws."""
        secure = "s" if self.sandbox.scheme == "https" else ""
        return f"{scheme}{secure}://{self.request.headers.get('Host', '')}{self.request.uri}"

    def _prepare_reply(self, reply: ServerReply) -> None:
        """Set the status and the headers of a reply."""
        self.set_status(reply.status, None if reply.status < 600 else "Unknown")
        self.clear_header("Content-Type")
        for name, value in reply.headers.items():
            self.set_header(name, value)
        if reply.status in (204, 304):
            reply.body = b""
        else:
            self.set_header("Content-Length", str(len(reply.body)))

    def _sent_headers(self) -> dict[str, str]:
        return dict(self._headers.items())

    def _request(self, body: bytes = b"") -> ServerRequest:
        raw = self.request
        host = raw.headers.get("Host", "")
        domain = self.sandbox.options.domain
        hosts = [_in_domain(host, name, domain) if domain else host for name in ("api", "webmessaging")]
        secure = self.sandbox.scheme == "https"
        return ServerRequest(
            # HEAD is answered like GET; tornado leaves out the body.
            method="GET" if raw.method in (None, "HEAD") else raw.method,
            path=raw.path,
            query={name: values[-1].decode("utf-8", "replace") for name, values in raw.query_arguments.items()},
            headers={name.lower(): value for name, value in raw.headers.items()},
            body=body,
            base=f"{'https' if secure else 'http'}://{hosts[0]}",
            socket_base=f"{'wss' if secure else 'ws'}://{hosts[1]}",
        )

    async def _upgrade(self) -> None:
        request = self._request()
        events = self.sandbox.events.socket(self._url("ws"))
        sent = self.request.headers
        if events.observed:
            found = self.sandbox.table.socket_route(request.path)
            events.connect(sent, self.dispatcher.find_session(request, found[2] if found is not None else {}))
        api = self.dispatcher.admit(request)
        if isinstance(api, ServerReply):
            self._prepare_reply(api)
            events.upgrade(api.status, dict(sent.items()), self._sent_headers(), api.body)
            self.finish(api.body or None)
            return
        problem = handshake_problem(sent)
        if problem is not None:
            status, body = problem
            headers = {"Sec-WebSocket-Version": "13"} if status == 426 else {}
            self._prepare_reply(ServerReply(status, body.encode(), headers))
            events.upgrade(status, dict(sent.items()), self._sent_headers(), body.encode())
            self.finish(body or None)
            return
        await self._serve_socket(self._switch_protocols(events), api, request, events)

    def _switch_protocols(self, events: SocketEvents) -> WebSocketConnection:
        self.clear_header("Content-Type")
        self.set_status(101)
        self.set_header("Upgrade", "websocket")
        self.set_header("Connection", "Upgrade")
        self.set_header("Sec-WebSocket-Accept", accept_value(self.request.headers["Sec-WebSocket-Key"]))
        if events.observed:
            events.upgrade(101, dict(self.request.headers.items()), self._sent_headers())
        self.finish()
        stream = self.detach()
        stream.set_nodelay(True)
        stream.max_write_buffer_size = self.unsent_limit
        options = self.sandbox.options
        return WebSocketConnection(
            stream,
            frame_limit=options.frame_limit,
            message_limit=options.message_limit,
            silence=self.sandbox.faults.silence,
            events=events,
        )

    async def _serve_socket(
        self, connection: WebSocketConnection, api: Api, request: ServerRequest, events: SocketEvents
    ) -> None:
        socket = self.socket_class(self.sandbox, api, request, connection, events)
        try:
            socket.open()
            await connection.run(socket.receive, socket.peer.answer_close)
        finally:
            socket.closed(clean=connection.close_code is not None)


def _in_domain(host: str, name: str, domain: str) -> str:
    """Return the host `name` of a region instead of another host of the same region; any other host as it is."""
    before, port = host.lower().partition(":")[::2]
    return f"{name}.{domain}{':' * bool(port)}{port}" if before.endswith(f".{domain}") else host
