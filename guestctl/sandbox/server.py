"""The sandbox's ears and mouth: one port for HTTP and WebSocket, and a thread to serve it.

Knows: the server library, sockets, limits, who may connect, and how a fault is inflicted. Must not
know: any dialect, what a conversation is. The only file of the sandbox that imports tornado.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import struct
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from ssl import SSLContext
from typing import Any, TypeVar

from tornado.httpserver import HTTPServer
from tornado.iostream import StreamBufferFullError, StreamClosedError
from tornado.web import Application
from tornado.websocket import WebSocketHandler, WebSocketProtocol13, _WebSocketParams

from guestctl.core.clock import Clock, SystemClock
from guestctl.sandbox import CLIENT_ID, CLIENT_SECRET, DEPLOYMENT_ID
from guestctl.sandbox.admin import PATH as ADMIN_PATH
from guestctl.sandbox.admin import Admin
from guestctl.sandbox.apis import build
from guestctl.sandbox.bot.bots import Bot
from guestctl.sandbox.faults import ON, Fault, Faults
from guestctl.sandbox.interfaces import Api, RequestRefused, Route, ServerReply, ServerRequest, Table, error
from guestctl.sandbox.issued_tokens import Tokens
from guestctl.sandbox.peer import GARBAGE, SocketPeer, WriteBatch
from guestctl.sandbox.service_state import Conversation, SandboxDeployment, Service, StoredMessage, dumps, random_hex
from guestctl.sandbox.settings import SandboxOptions
from guestctl.sandbox.store import Store

T = TypeVar("T")
LOG = logging.getLogger("guestctl.sandbox")
SERVER = "guestctl-sandbox"

_BODY_LIMIT = 1024 * 1024
_FILE_LIMIT = 26 * 1024 * 1024
_UNSENT_LIMIT = 16 * 1024 * 1024  # bytes a guest may leave unread before it is cut off
_SWEEP = 0.5
_CLOSE = 0x8
#: Close codes below 3000 that may be sent (the IANA registry: all but 1004, 1005, 1006 and 1015).
_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


class Sandbox:
    """A guest messaging service in a thread of its own.

    Settings are those of `SandboxOptions`, given as one value or as keywords; `deployment` overlays
    fields of the default `SandboxDeployment`. `also_hosts` are `host:port` names a proxy in front may use.
    `watch` is told of every stored message, in the sandbox's thread. `apis` makes what is spoken.
    """

    deployment_id = DEPLOYMENT_ID
    client_id = CLIENT_ID
    client_secret = CLIENT_SECRET

    def __init__(
        self,
        options: SandboxOptions | None = None,
        *,
        clock: Clock | None = None,
        bot: Bot | None = None,
        deployment: Mapping[str, Any] | None = None,
        ids: Callable[[], str] = random_hex,
        also_hosts: Sequence[str] = (),
        watch: Callable[[Conversation, StoredMessage], None] | None = None,
        apis: Callable[[Service, Faults, SandboxOptions], Sequence[Api]] = build,
        tls: SSLContext | None = None,
        ca: str | None = None,
        **settings: Any,
    ) -> None:
        self.options = options or SandboxOptions(**settings)
        self.clock = clock or SystemClock()
        self.admin_key = secrets.token_urlsafe(24)
        self.ca = ca
        self.port = 0
        self.service: Service
        self.faults: Faults
        self.admin: Admin
        self.table: Table
        self.peers: set[SocketPeer] = set()
        self.batch = WriteBatch()
        self.hosts: frozenset[str] = frozenset()
        self._bot = bot
        self._deployment = deployment or {}
        self._ids = ids
        self._also_hosts = also_hosts
        self._watch = watch
        self._build = apis
        self._tls = tls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Event

    @property
    def scheme(self) -> str:
        return "https" if self._tls is not None else "http"

    @property
    def url(self) -> str:
        """Base of all REST addresses."""
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"{self.scheme}://{'127.0.0.1' if _wildcard(self.options.host) else host}:{self.port}"

    @property
    def socket_url(self) -> str:
        """The `web-messaging` socket."""
        return f"ws{self.url[4:]}/v1"

    @property
    def config_url(self) -> str:
        return self.url

    @property
    def admin_url(self) -> str:
        return self.url + ADMIN_PATH

    def start(self) -> Sandbox:
        """Serve; returns when the port accepts. Raises what prevented it: OSError, StoreError, FaultError, …"""
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name=SERVER, daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread.join()
            self._thread = None
            raise
        return self

    def stop(self) -> None:
        """Close everything and join the thread. Harmless when it is not running."""
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            thread.join()

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def call(self, what: Callable[[], T]) -> T:
        """Run something in the sandbox's thread, where the service may be touched, and give its result."""
        assert self._loop is not None
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(what())
            except BaseException as problem:
                done.set_exception(problem)

        self._loop.call_soon_threadsafe(run)
        return done.result(30)

    def _run(self, started: Future[None]) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as problem:
            if started.done():
                raise
            started.set_exception(problem)

    async def _serve(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        store = Store(self.options.state) if self.options.state else None
        server = None
        try:
            self._build_service(store)
            family = socket.AF_INET6 if ":" in self.options.host else socket.AF_INET
            listening = socket.create_server((self.options.host, self.options.port), family=family, backlog=1024)
            listening.setblocking(False)
            self.port = listening.getsockname()[1]
            self.hosts = self._own_names()
            server = HTTPServer(
                self._application(),
                ssl_options=self._tls,
                max_body_size=_FILE_LIMIT,
                max_header_size=64 * 1024,
                idle_connection_timeout=600,
            )
            server.add_socket(listening)
            self._loop.call_later(_SWEEP, self._sweep)
            started.set_result(None)
            await self._stopping.wait()
        finally:
            if server is not None:
                server.stop()
                for peer in tuple(self.peers):
                    peer.shut_down()
                await server.close_all_connections()
            if store is not None:
                store.close()

    def _application(self) -> Application:
        return Application([(r".*", Guest, {"sandbox": self})], log_function=lambda handler: None)

    def _build_service(self, store: Store | None) -> None:
        options = self.options
        deployment = SandboxDeployment(
            origins=options.origins,
            auto_start=options.auto_start,
            typing=options.typing,
            clear=options.clear,
            disconnect=options.disconnect,
            sign_in=options.sign_in,
            session_upgrade=options.sign_in,
            session_life=options.session_life,
            text_limit=options.text_limit,
            attributes_limit=options.attributes_limit,
            strict_attributes=options.strict_attributes,
        )
        key = store.key() if store else None
        tokens = Tokens(self.clock, life=options.token_life, key=key, store=store)
        self.faults = options.make_faults(self.clock)
        self.service = Service(
            clock=self.clock,
            later=self.later,
            bot=self._bot or options.make_bot(),
            deployments=[replace(deployment, **self._deployment)],
            tokens=tokens,
            ids=self._ids,
            store=store,
            fast=options.fast,
            agent=options.agent,
            watch=self._watch,
        )
        if store is not None:
            store.save_key(tokens.key)
            store.load(self.service, tokens)
        self.table = Table()
        for api in self._build(self.service, self.faults, options):
            self.service.apis[api.name] = api
            self.table.add(api)
        self.admin = Admin(self.service, self.faults, self.admin_key)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Do something in the sandbox's thread; asked from that thread."""
        assert self._loop is not None
        if seconds > 0:
            self._loop.call_later(seconds, what)
        else:
            self._loop.call_soon(what)

    def _sweep(self) -> None:
        assert self._loop is not None
        now = self.clock.monotonic()
        idle, life = self.options.idle_timeout, self.options.socket_life
        for peer in tuple(self.peers):
            if (idle and now - peer.active_at >= idle) or (life and now - peer.opened_at >= life):
                peer.close(1001, "Going away")
        self.service.sweep()
        self._loop.call_later(_SWEEP, self._sweep)

    def _own_names(self) -> frozenset[str]:
        names = {"localhost", "127.0.0.1", "[::1]", self.options.host.lower()}
        own = {f"{name}:{self.port}" for name in names} | set(self._also_hosts)
        return frozenset(own | (names if self.port == (443 if self._tls else 80) else set()))

    def is_own_host(self, host: str) -> bool:
        """Whether a Host header names us; anything else may be a web page's DNS trick."""
        if host.lower() in self.hosts:
            return True
        name, _, port = host.rpartition(":")
        return _wildcard(self.options.host) and port == str(self.port) and _is_address(name.strip("[]"))


def _wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::", "")


def _is_address(name: str) -> bool:
    try:
        return bool(ip_address(name))
    except ValueError:
        return False


class _Protocol(WebSocketProtocol13):
    """The library's connection, as a `peer.Line`, with the gateway's limits per frame and per message (§2.5).

    `_read_bytes` is the one place every payload passes; the library itself only knows a limit per message, and
    breaks the connection before the close frame can be read.
    """

    frame_limit = 0
    message_limit = 0
    silence: Callable[[], float]
    answer_close: Callable[[Callable[[], object]], None]

    def _read_bytes(self, n: int) -> Coroutine[Any, Any, bytes]:
        held = self._fragmented_message_buffer
        # What is shorter than 14 bytes may be a header or a mask; it counts once it is held.
        if n > self.frame_limit or (held is not None and len(held) + (n if n > 14 else 0) > self.message_limit):
            return self._refuse(n)
        # Handed on, not awaited: it is called five times for each frame.
        return super()._read_bytes(n)

    async def _refuse(self, n: int) -> bytes:
        self.close(1009, "Message too big")
        while n > 0:  # an unread rest would turn our answer_close into a reset
            n -= len(await self.stream.read_bytes(min(n, 65536), partial=True))
        raise StreamClosedError()

    def _handle_message(self, opcode: int, data: bytes) -> asyncio.Future[None] | None:
        """Refuse what the library lets pass: frames without a mask, closes nobody may send (RFC 6455 §5.1, §7.4)."""
        masked, self._frame_mask = self._frame_mask, None
        code = 1002 if masked is None else _broken(data) if opcode == _CLOSE else None
        if code is None and opcode != _CLOSE:
            return super()._handle_message(opcode, data)
        if code is None:
            self.answer_close(partial(super()._handle_message, opcode, data))
        else:
            self._fail(code)
        return None

    def _abort(self) -> None:
        """The library ends a broken protocol without a word; a client's author wants to know why."""
        if not self.is_closing():
            error = sys.exc_info()[1]
            if error is None:
                self._fail(1002)
            elif isinstance(error, UnicodeDecodeError):
                self._fail(1007)
        super()._abort()

    def _fail(self, code: int) -> None:
        self.client_terminated = True  # whatever it says next
        self.close_code = code
        self.close(code)

    def write(self, data: bytes) -> None:
        try:
            self.stream.write(data)
        except (StreamClosedError, StreamBufferFullError):
            self.reset()

    def reset(self) -> None:
        if not self.stream.closed():
            self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.stream.close()

    def drop(self) -> None:
        self.stream.close()

    def _send_pong(self, data: bytes) -> None:
        wait = self.silence()
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._send_pong, data)
        else:
            super()._send_pong(data)


def _broken(close: bytes) -> int | None:
    """The code that answers a close nobody may send; None for a good one."""
    code = int.from_bytes(close[:2], "big") if len(close) > 1 else 0
    if close and not (code in _CODES or 3000 <= code < 5000):
        return 1002
    try:
        close[2:].decode()
    except UnicodeDecodeError:
        return 1007
    return None


class Guest(WebSocketHandler):
    """One request of a guest or of the admin, or one socket: the same address may be both."""

    def initialize(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.peer: SocketPeer | None = None

    def set_default_headers(self) -> None:
        self.set_header("Server", SERVER)

    def compute_etag(self) -> None:
        return None

    async def get(self) -> None:
        if self.request.headers.get("Upgrade", "").lower() == "websocket":
            await self._upgrade()
        else:
            await self._answer()

    async def _answer(self) -> None:
        request = self._request()
        reply = self._refuse_host(request)
        if reply is None:
            if request.path.startswith(ADMIN_PATH + "/"):
                reply = self._admin(request)
            elif request.method == "OPTIONS":
                reply = self._preflight(request)
            else:
                reply = await self._guest(request)
        self._write_reply(reply)

    head = post = put = patch = delete = options = _answer

    def _write_reply(self, reply: ServerReply) -> None:
        self.set_status(reply.status, None if reply.status < 600 else "Unknown")
        self.clear_header("Content-Type")
        for name, value in reply.headers.items():
            self.set_header(name, value)
        self.finish(reply.body if reply.status not in (204, 304) else None)

    def _request(self) -> ServerRequest:
        raw = self.request
        host = raw.headers.get("Host", "")
        secure = self.sandbox.scheme == "https"
        return ServerRequest(
            # The answer to HEAD is that to GET; the library keeps its body to itself.
            method="GET" if raw.method in (None, "HEAD") else raw.method,
            path=raw.path,
            query={name: values[-1].decode("utf-8", "replace") for name, values in raw.query_arguments.items()},
            headers={name.lower(): value for name, value in raw.headers.items()},
            body=raw.body,
            base=f"{'https' if secure else 'http'}://{host}",
            socket_base=f"{'wss' if secure else 'ws'}://{host}",
        )

    def _refuse_host(self, request: ServerRequest) -> ServerReply | None:
        if self.sandbox.is_own_host(request.headers.get("host", "")):
            return None
        return error(421, "This Host is not served here: use localhost or 127.0.0.1 with the sandbox's port.")

    def _admin(self, request: ServerRequest) -> ServerReply:
        if request.origin is not None and request.origin != request.base:
            return error(403, "The admin endpoint takes no request from a web page.")
        if len(request.body) > _BODY_LIMIT:
            return error(413)
        return self.sandbox.admin.handle(request)

    def _preflight(self, request: ServerRequest) -> ServerReply:
        methods = self.sandbox.table.methods(request.path)
        if not methods:
            return error(404)
        found = self.sandbox.table.route(methods[0], request.path)
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
        if request.origin is None or not ((route and route.any_origin) or self.sandbox.service.allows(request.origin)):
            return {}
        return {
            "Access-Control-Allow-Origin": request.origin,
            "Access-Control-Expose-Headers": "Retry-After",
            "Vary": "Origin",
        }

    async def _guest(self, request: ServerRequest) -> ServerReply:
        sandbox = self.sandbox
        found = sandbox.table.route(request.method, request.path)
        cors = self._cors(request, found[0] if found else None)
        if found is None:
            methods = sandbox.table.methods(request.path)
            reply = error(405, Allow=", ".join(methods)) if methods else error(404, f"No such path: {request.path}")
            reply.headers.update(cors)
            return reply
        route, _, request.params = found
        if request.origin is not None and not cors:
            return error(403, "The origin is not allowed by the deployment.", "origin.not.allowed")
        if len(request.body) > (_FILE_LIMIT if route.large else _BODY_LIMIT):
            return error(413)
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

    async def _perform(self, route: Route, request: ServerRequest, fault: Fault | None) -> ServerReply:
        if fault is not None and fault.status:
            headers = {}
            if fault.kind == "ratelimit":
                headers["Retry-After"] = fault.retry_after_header(self.sandbox.clock.now())
            return error(fault.status, f"Fault on demand: {fault.spec}", **headers)
        try:
            reply = route.handle(request)
        except RequestRefused as refused:
            reply = refused.reply
        if fault is not None:
            if fault.kind in ("delay", "silence"):
                await asyncio.sleep(fault.seconds)
            elif fault.kind == "truncate":
                reply.body = reply.body[: len(reply.body) // 2]
            elif fault.kind == "garbage":
                reply.body = GARBAGE.encode()
        return reply

    # -- sockets

    async def _upgrade(self) -> None:
        sandbox = self.sandbox
        request = self._request()
        reply = self._refuse_host(request)
        found = sandbox.table.socket_route(request.path)
        if reply is None and found is None:
            reply = error(404, f"No socket at {request.path}")
        if reply is None and found is not None:
            request.params = found[2]
            fault = sandbox.faults.upgrade()
            reply = error(fault.status, f"Fault on demand: {fault.spec}") if fault else found[0].admit(request)
            sandbox.service.count(None, "socket")
        if reply is not None or found is None:
            self._write_reply(reply or error(404))
            return
        self._api, self._asked = found[1], request
        await super().get()

    def check_origin(self, origin: str) -> bool:
        # The door has already compared it with the deployment.
        return True

    def get_websocket_protocol(self) -> WebSocketProtocol13 | None:
        if self.request.headers.get("Sec-WebSocket-Version") != "13":
            return None
        options = self.sandbox.options
        protocol = _Protocol(self, False, _WebSocketParams(max_message_size=2**62))
        protocol.frame_limit, protocol.message_limit = options.frame_limit, options.message_limit
        protocol.silence = self.sandbox.faults.silence
        return protocol

    def open(self) -> None:
        protocol = self.ws_connection
        assert isinstance(protocol, _Protocol)
        self.set_nodelay(True)
        protocol.stream.max_write_buffer_size = _UNSENT_LIMIT
        sandbox = self.sandbox
        self.peer = SocketPeer(protocol, self._asked, sandbox.faults, sandbox.clock, sandbox.later, sandbox.batch)
        protocol.answer_close = self.peer.answer_close
        sandbox.peers.add(self.peer)
        self._api.opened(self.peer)

    def on_message(self, message: str | bytes) -> None:
        peer = self.peer
        if peer is None or not peer.open:
            return
        peer.mark_active()
        if isinstance(message, bytes):
            peer.close(1003, "Text only")
            return
        limit = self.sandbox.options.message_limit
        if len(message) * 4 > limit and len(message.encode()) > limit:
            peer.close(1009, "Message too big")
            return
        self.sandbox.batch.begin()
        try:
            self._api.received(peer, message)
        except Exception:
            # What the gateway in front of the real service says when the service fails (§2.5).
            LOG.exception("a frame could not be handled")
            ids = {"connectionId": secrets.token_urlsafe(8), "requestId": secrets.token_urlsafe(8)}
            peer.send(dumps({"message": "Internal server error", **ids}))
        finally:
            self.sandbox.batch.end()

    def on_close(self) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            self.sandbox.peers.discard(peer)
            self._api.closed(peer, peer.clean or self.close_code is not None)
