"""The doctor's probes: real connections, requests and upgrades, each limited to `findings.CHECK_TIMEOUT`.

Knows: transport, flows and the state database. Must not know: what an answer means for a check, the
command line. Nothing is retried here, so that a check shows what happened.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from random import SystemRandom
from typing import Any
from urllib.parse import urlsplit

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import Failure, Forbidden, NetworkError, Unsupported, UsageError
from guestctl.core.model import Credential, Deployment, NewSession, Secret, Session
from guestctl.core.wire import HttpResponse, Request, SocketAddress
from guestctl.dialects.base import Dialect
from guestctl.dialects.flows import Flow, HttpRequest
from guestctl.doctor.findings import (
    CHECK_TIMEOUT,
    Certificate,
    EffectiveProfile,
    QueueAnswer,
    TokenSummary,
    UpgradeAnswer,
)
from guestctl.engine.connect import open_socket_once
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.session_socket import SessionSocket
from guestctl.storage.state import State
from guestctl.transport.connector import USER_AGENT, Connector
from guestctl.transport.hosts import is_loopback, resolve, target
from guestctl.transport.network import Network, Observer, dial
from guestctl.transport.propagation import Propagation
from guestctl.transport.socket import Refusal, Socket
from guestctl.transport.stream import Limit, NestedTlsStream, TlsStream


class ThrowAwaySession:
    """A session with a new random token, stored in memory only."""

    def __init__(self, exchange: SessionEngine, line: SessionSocket, deadline: Callable[[], Deadline]) -> None:
        self.session = exchange.session
        self._exchange = exchange
        self._line = line
        self._deadline = deadline

    def echo(self) -> bool:
        beat = self._exchange.dialect.heartbeat(self.session)
        if beat is None:
            return False
        self._line.ask(beat, self._deadline())
        return True

    def history_token(self) -> Credential | None:
        dialect = self._exchange.dialect
        if dialect.refreshable(self.session) != "history":
            return None
        granted = self._exchange.perform(dialect.obtain("history", self.session), self._deadline(), socket=self._line)
        return granted.credential("history")

    def close(self) -> None:
        self._line.close()
        self._exchange.state.close()


class RealProbes:
    """Probes of one profile.

    `profile` resolves it, `open_state` opens the state and names its place, `make_dialect` makes the dialect,
    `find_session` finds the scope and the stored session. Each may raise Failure, which the check then
    reports. `deadline` is the deadline of the whole command.
    """

    def __init__(
        self,
        *,
        profile: Callable[[], EffectiveProfile],
        open_state: Callable[[], tuple[State, str]],
        make_dialect: Callable[[], Dialect],
        find_session: Callable[[], tuple[str, Session | None]],
        network: Callable[[], Network],
        clock: Clock,
        deadline: Deadline,
        observer: Observer | None = None,
        propagation: Propagation | None = None,
    ) -> None:
        self.profile = profile
        self._open_state = open_state
        self._make_dialect = make_dialect
        self._find_session = find_session
        self._network = network
        self._clock = clock
        self._command_deadline = deadline
        self._connector = Connector(network, clock, observer, propagation=propagation)
        self._exchanges: list[SessionEngine] = []
        self._oauth_credential: Credential | None = None

    def close(self) -> None:
        self._connector.close()

    def secrets(self) -> Iterator[Secret]:
        """Yield the secrets that the service has given a probe, for the caller to mask."""
        for exchange in self._exchanges:
            yield from exchange.credentials.secrets()
        if self._oauth_credential is not None:
            yield self._oauth_credential.secret

    def state(self) -> str:
        return self._open_state()[1]

    @property
    def dialect(self) -> Dialect:
        return self._make_dialect()

    def _deadline(self) -> Deadline:
        return self._command_deadline.sooner(CHECK_TIMEOUT)

    # --- network path ---

    def proxy(self, url: str) -> str | None:
        return str(self._network().proxy_for(url) or "") or None

    def _next_hop(self, url: str) -> tuple[str, int]:
        proxy = self._network().proxy_for(url)
        return (proxy.host, proxy.port) if proxy else target(url)[1:]

    def resolve(self, url: str) -> list[str]:
        host, port = self._next_hop(url)
        if is_loopback(host) or host.replace(".", "").isdigit() or ":" in host:
            return [] if host != "localhost" else ["this machine"]
        try:
            found = resolve(host, port, self._deadline().remaining())
        except TimeoutError:
            raise NetworkError(f"{host}: timed out resolving the host name", code="network.dns") from None
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise NetworkError(f"{host}: the host name does not resolve ({why})", code="network.dns") from None
        return list(dict.fromkeys(str(address[4][0]) for address in found))

    def connect(self, url: str) -> None:
        host, port = self._next_hop(url)
        dial(host, port, Limit(self._deadline()), proxy=self._network().proxy_for(url)).close()

    def certificate(self, url: str) -> Certificate:
        network = self._network()
        stream = network.open(url, Limit(self._deadline()))
        with closing(stream):
            assert isinstance(stream, (TlsStream, NestedTlsStream))
            shown = stream.getpeercert() or {}
            version = stream.version() or "TLS"
        origin, path = network.authorities()
        ends = shown.get("notAfter")
        return Certificate(
            version,
            _common_name(shown.get("subject")),
            (_common_name(shown.get("issuer")),),
            float(ssl.cert_time_to_seconds(ends)) if isinstance(ends, str) else None,
            f"{origin} ({path})" if path else "the system's authorities",
        )

    def clock_skew(self, url: str) -> float | None:
        from email.utils import parsedate_to_datetime

        parts = urlsplit(url)
        scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
        sent_at = self._clock.now()
        reply = self._ask(Request("GET", f"{scheme}://{parts.netloc}/", "configuration", idempotent=True))
        try:
            moment = parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
        except (TypeError, ValueError, OverflowError):
            return None
        # The header has whole seconds only. The middle of the round trip is the best estimate of its time.
        return (sent_at + reply.at) / 2 - (moment + 0.5)

    def _ask(self, request: Request, credential: Credential | None = None) -> HttpResponse:
        headers = dict(request.headers)
        if credential is not None:
            headers["Authorization"] = f"Bearer {credential.secret.reveal()}"
        headers |= self._connector.trace_headers(None)
        return self._connector.http.perform(request, headers=headers, deadline=self._deadline())

    # --- deployment ---

    def _perform(self, flow: Flow[Any], credential: Credential | None = None) -> Any:
        """Run a flow once that uses HTTP only, and no credential but this one."""
        dialect = self.dialect
        try:
            step = next(flow)
            while True:
                assert isinstance(step, HttpRequest)
                reply = self._ask(step.request, credential)
                step = flow.send(reply) if reply.ok else flow.throw(dialect.refusal(step.request, reply))
        except StopIteration as stop:
            return stop.value

    def deployment(self) -> Deployment | None:
        published = self.dialect.deployment_configuration
        return None if published is None else published.parse(self._perform(published.fetch()))

    def oauth_credential(self) -> Credential | None:
        if not self.dialect.uses_oauth:
            return None
        granted = self._perform(self.dialect.oauth())
        assert isinstance(granted, Credential)
        self._oauth_credential = granted
        return granted

    def queue(self, queue: str) -> QueueAnswer:
        flow = self.dialect.read_queue(queue)
        if flow is None:
            return QueueAnswer(False, "no call of this API reads a queue: `guestctl session create` tries it")
        try:
            credential = self._oauth_credential or self.oauth_credential()
        except Failure:  # the oauth check reports it
            return QueueAnswer(False, "the OAuth client is not accepted")
        try:
            return QueueAnswer(True, self._perform(flow, credential))
        except Forbidden:
            return QueueAnswer(False, "the OAuth client may not read queues")

    # --- upgrade ---

    def upgrade(self, origin: str | None) -> UpgradeAnswer | None:
        dialect = self.dialect
        with_origin = type(dialect)(replace(dialect.profile, origin=origin), new_id=dialect.new_id)
        try:
            session = self.stored_session()
        except Failure:  # the session check reports it
            session = None
        session = session or Session(api=dialect.name, profile=dialect.profile.name)
        try:
            address = with_origin.socket_address(session)
        except (KeyError, Unsupported):  # the address contains an id that only a session has
            return None
        return None if address is None else self._upgrade(with_origin, address, session)

    def _upgrade(self, dialect: Dialect, address: SocketAddress, session: Session) -> UpgradeAnswer | None:
        headers = dict(address.headers)
        if address.credential is not None:
            held = session.credential(address.credential)
            if held is None:
                return None
            headers["Authorization"] = f"Bearer {held.secret.reveal()}"
        headers |= self._connector.trace_headers(session.trace_context)
        try:
            socket = Socket.connect(
                address.url,
                headers=headers,
                network=self._network(),
                clock=self._clock,
                deadline=self._deadline(),
                observer=self._connector.observer,
                user_agent=USER_AGENT,
            )
        except Refusal as refusal:
            reply = HttpResponse(refusal.status, refusal.headers, refusal.body.encode(), self._clock.now(), address.url)
            failure = dialect.refusal(Request("GET", address.url, "socket", idempotent=True), reply)
            return UpgradeAnswer(refusal.status, refusal.body, failure)
        socket.close(*dialect.close_frame)
        return UpgradeAnswer(101)

    # --- sessions ---

    def open_trial_session(self) -> ThrowAwaySession | None:
        dialect = self.dialect
        flow = dialect.create(NewSession(name="doctor"))
        try:
            next(flow)
        except StopIteration as stop:
            draft: Session = stop.value
        except UsageError:  # a value is missing that only a real session needs
            return None
        else:
            flow.close()
            return None
        state = State.open(None, self._clock)
        exchange = self._exchange(draft, state, "doctor")
        try:
            line = open_socket_once(exchange, self._deadline())
        except BaseException:
            state.close()
            raise
        return ThrowAwaySession(exchange, line, self._deadline)

    def _exchange(self, session: Session, state: State, scope: str) -> SessionEngine:
        exchange = SessionEngine(
            dialect=self.dialect,
            connector=self._connector,
            state=state,
            scope=scope,
            clock=self._clock,
            random=SystemRandom(),
            notice=lambda text: None,
            session=session,
        )
        exchange.open_socket = lambda deadline: open_socket_once(exchange, deadline)
        self._exchanges.append(exchange)
        return exchange

    def stored_session(self) -> Session | None:
        return self._find_session()[1]

    def verify_session(self, session: Session) -> Session:
        exchange = self._exchange(session, self._open_state()[0], self._find_session()[0])
        try:
            exchange.perform(self.dialect.history(session, after=None, cursor=None, limit=1), self._deadline())
            if self.dialect.sends_on_socket:
                exchange.attached(self._deadline())  # history may outlive the session that accepts messages
        finally:
            if exchange.socket is not None:
                exchange.socket.close()
        return exchange.session

    def token_summary(self, session: Session) -> TokenSummary:
        from guestctl.core import jwt_claims

        held = session.credential("guest")
        if held is None:
            return TokenSummary("stored in memory only")
        found = jwt_claims.inspect(
            held.secret, self._clock.now(), required=self.dialect.token_claims, known_expiry=held.expires_at
        )
        names = ", ".join(sorted(found.claims))
        kind = f"a JWT ({names})" if found.form == "jwt" else "opaque"
        left = "" if found.expires_at is None else f", {_left(found.expires_at - self._clock.now())}"
        return TokenSummary(f"{kind}{left}; not verified", found.problems)


def _left(seconds: float) -> str:
    from guestctl.core.humanize import format_duration

    return f"{format_duration(seconds)} left" if seconds > 0 else "expired"


def _common_name(name: object) -> str:
    """Return the most specific part of a certificate's name, as `getpeercert` returns it."""
    found: dict[str, str] = {}
    for part in name if isinstance(name, tuple) else ():
        for key, value in part:
            found.setdefault(key, value)
    return next((found[key] for key in ("commonName", "organizationName") if key in found), "no name")
