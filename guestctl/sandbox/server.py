"""A sandbox in a thread of its own: one port for HTTP and WebSocket.

Knows: tornado's server, the thread, start and stop, and how the parts of a sandbox are put together. Must not know: any
API, how a request is answered.
"""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from ssl import SSLContext
from typing import Any, TypeVar

from tornado.httpserver import HTTPServer
from tornado.web import Application

from guestctl.core.clock import Clock, SystemClock
from guestctl.core.server_thread import ServerThread
from guestctl.sandbox import CLIENT_ID, CLIENT_SECRET, DEPLOYMENT_ID
from guestctl.sandbox.admin import PATH as ADMIN_PATH
from guestctl.sandbox.admin import Admin
from guestctl.sandbox.apis import build
from guestctl.sandbox.bot.bots import Bot
from guestctl.sandbox.events import WireEvents, WireObserver
from guestctl.sandbox.faults import Faults
from guestctl.sandbox.handler import FILE_LIMIT, SERVER, BodyBudget, GuestHandler
from guestctl.sandbox.interfaces import Api, Table
from guestctl.sandbox.issued_tokens import Tokens
from guestctl.sandbox.peer import SocketPeer, WriteBatch
from guestctl.sandbox.service_state import Conversation, SandboxDeployment, Service, StoredMessage, random_hex
from guestctl.sandbox.session_changes import SessionChanges
from guestctl.sandbox.settings import SandboxOptions
from guestctl.sandbox.store import Store

T = TypeVar("T")
_MOST_ASIDE = 16  # slow matches of a bot's patterns at the same time
_SWEEP = 0.5  # seconds between two checks for idle sockets and expired conversations


class Sandbox(ServerThread):
    """A guest messaging service in its own thread.

    Pass the settings as one `SandboxOptions` or as its keywords. `deployment` replaces fields of the default
    `SandboxDeployment`. `also_hosts` are further `host:port` names to accept, such as those of a proxy in front.
    `watch` is called in the sandbox's thread with every stored message. `apis` builds the APIs to serve. `observer`
    receives everything that passes between guests and the sandbox (`sandbox.events`). `extra_rules` are tornado's rules
    for more addresses on the same port. They come first, and their handlers check hosts, origins and access themselves.
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
        observer: WireObserver | None = None,
        extra_rules: Sequence[Any] = (),
        **settings: Any,
    ) -> None:
        super().__init__(SERVER)
        self.options = options or SandboxOptions(**settings)
        self.clock = clock or SystemClock()
        self.admin_key = secrets.token_urlsafe(24)
        self.ca = ca
        self.port = 0
        self.ui_url: str | None = None  # the address of a page for the browser, which contains a secret
        self.service: Service
        self.faults: Faults
        self.admin: Admin
        self.table: Table
        self._socket_paths: dict[str, list[str]] = {}
        self.peers: set[SocketPeer] = set()
        self.batch = WriteBatch()
        self.bodies = BodyBudget()
        self.events = WireEvents(observer)
        self.hosts: frozenset[str] = frozenset()
        self._bot = bot
        self._deployment = deployment or {}
        self._ids = ids
        self._also_hosts = also_hosts
        self._watch = watch
        self._build = apis
        self.extra_rules = extra_rules
        self._aside = 0
        self._tls = tls

    @property
    def observer(self) -> WireObserver | None:
        """What receives the events of all guests. Set and clear it in the sandbox's thread only (`call`)."""
        return self.events.observer

    @observer.setter
    def observer(self, observer: WireObserver | None) -> None:
        self.events.observer = observer

    @property
    def scheme(self) -> str:
        return "https" if self._tls is not None else "http"

    @property
    def url(self) -> str:
        """The base address of all REST requests."""
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"{self.scheme}://{'127.0.0.1' if _wildcard(self.options.host) else host}:{self.port}"

    @property
    def socket_url(self) -> str:
        """The address of the `web-messaging` socket."""
        return f"ws{self.url[4:]}/v1"

    @property
    def sockets(self) -> dict[str, list[str]]:
        """The addresses of the sockets of each API that has any; `{id}` stands for an id."""
        return {
            api: [f"ws{self.url[4:]}{path}" for path in paths] for api, paths in self._socket_paths.items() if paths
        }

    @property
    def config_url(self) -> str:
        """The base address of the public deployment configuration."""
        return self.url

    @property
    def admin_url(self) -> str:
        """The base address of the admin endpoint."""
        return self.url + ADMIN_PATH

    def start(self) -> Sandbox:
        """Start serving and return when the port accepts connections.

        Raises OSError, StoreError, FaultError or ScriptError if the sandbox cannot start.
        """
        self._start_thread()
        return self

    def stop(self) -> None:
        """Close all sockets and wait for the thread to end. Do nothing if the sandbox is not running."""
        self._stop_thread()

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def call(self, what: Callable[[], T]) -> T:
        """Run `what` in the sandbox's thread and return its result. Only that thread may access `service`."""
        assert self._loop is not None
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(what())
            except BaseException as problem:
                done.set_exception(problem)

        self._loop.call_soon_threadsafe(run)
        return done.result(30)

    async def _serve(self, started: Future[None]) -> None:
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
                max_body_size=FILE_LIMIT,
                max_header_size=64 * 1024,
                idle_connection_timeout=self.options.head_timeout,
                body_timeout=self.options.body_timeout,
            )
            server.add_socket(listening)
            self.later(_SWEEP, self._sweep)
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
        rules = [*self.extra_rules, (r".*", GuestHandler, {"sandbox": self})]
        return Application(rules, log_function=lambda handler: None)

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
            aside=self.aside,
        )
        if store is not None:
            store.save_key(tokens.key)
            store.load(self.service, tokens)
        self.table = Table()
        for api in self._build(self.service, self.faults, options):
            self.service.apis[api.name] = api
            self.table.add(api)
            self._socket_paths[api.name] = [r.pattern for r in api.socket_routes() if "*" not in r.pattern]
        self.admin = Admin(self.service, self.faults, self.admin_key, SessionChanges(self.service, self.later))

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Call `what` after this many seconds. Call this method in the sandbox's thread only."""
        assert self._loop is not None
        if seconds > 0:
            self._loop.call_later(seconds, what)
        else:
            self._loop.call_soon(what)

    def aside(self, work: Callable[[], object], then: Callable[[], None]) -> bool:
        """Run `work` in another thread, then `then` in the sandbox's. Return False if too many others are running."""
        loop = self._loop
        assert loop is not None
        if self._aside >= _MOST_ASIDE:
            return False
        self._aside += 1

        def done() -> None:
            self._aside -= 1
            then()

        def run() -> None:
            try:
                work()
            finally:
                with suppress(RuntimeError):  # the sandbox has stopped
                    loop.call_soon_threadsafe(done)

        threading.Thread(target=run, name="sandbox-aside", daemon=True).start()
        return True

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
        # Clients of a region name no port: whatever leads them here listens on the usual one.
        own |= {host for name in self.options.domain_hosts for host in (name, f"{name}:{self.port}")}
        return frozenset(own | (names if self.port == (443 if self._tls else 80) else set()))

    def is_own_host(self, host: str) -> bool:
        """Return whether a Host header names this sandbox. Any other may be a DNS rebinding attack by a web page."""
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
