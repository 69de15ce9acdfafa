"""The doctor's hands: real connections, requests and upgrades, each bounded by `doctor.PATIENCE`.

Knows: transport, flows and the state database. Must not know: what an answer means for a patient,
the command line. Nothing here is retried: a check shows what happened.
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
from guestctl.core.errors import Failure, NetworkError, UsageError
from guestctl.core.model import Credential, Deployment, NewSession, Secret, Session
from guestctl.core.wire import HttpResponse, Request, SocketAddress
from guestctl.dialects.base import Dialect
from guestctl.dialects.flows import Flow, HttpRequest
from guestctl.doctor.checks import PATIENCE, Certificate, Claims, Facts, ProbeAnswer
from guestctl.engine.connect import open_once
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.session_socket import SessionSocket
from guestctl.storage.state import State
from guestctl.transport.connector import USER_AGENT, Connector
from guestctl.transport.network import Network, Observer, dial, is_loopback, resolve, target
from guestctl.transport.socket import Refusal, Socket
from guestctl.transport.stream import Limit, TlsStream


class ThrowAway:
    """A session under a token nobody else knows, kept in memory only."""

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
        granted = self._exchange.perform(dialect.obtain("history", self.session), self._deadline(), line=self._line)
        return granted.credential("history")

    def close(self) -> None:
        self._line.close()
        self._exchange.state.close()


class RealProbes:
    """Probes of one profile. `facts` resolves it, `opened` opens the state and says where, `made` makes the
    dialect, `stored` finds the scope and the stored session; each may raise Failure, which is then what the
    check shows. `deadline` is the whole command's."""

    def __init__(
        self,
        *,
        facts: Callable[[], Facts],
        opened: Callable[[], tuple[State, str]],
        made: Callable[[], Dialect],
        stored: Callable[[], tuple[str, Session | None]],
        network: Callable[[], Network],
        clock: Clock,
        deadline: Deadline,
        observer: Observer | None = None,
    ) -> None:
        self.profile = facts
        self._opened = opened
        self._made = made
        self._stored = stored
        self._network = network
        self._clock = clock
        self._whole = deadline
        self._connector = Connector(network, clock, observer)
        self._exchanges: list[SessionEngine] = []
        self._granted: Credential | None = None

    def close(self) -> None:
        self._connector.close()

    def secrets(self) -> Iterator[Secret]:
        """What the service has given a probe, for whoever must keep it from being shown."""
        for exchange in self._exchanges:
            yield from exchange.secrets()
        if self._granted is not None:
            yield self._granted.secret

    def state(self) -> str:
        return self._opened()[1]

    @property
    def dialect(self) -> Dialect:
        return self._made()

    def _deadline(self) -> Deadline:
        return self._whole.sooner(PATIENCE)

    # --- the way there ---

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
            raise NetworkError(f"{host}: the name was not resolved in time", code="network.dns") from None
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise NetworkError(f"{host}: the name does not resolve ({why})", code="network.dns") from None
        return list(dict.fromkeys(str(address[4][0]) for address in found))

    def reach(self, url: str) -> None:
        host, port = self._next_hop(url)
        dial(host, port, Limit(self._deadline()), proxy=self._network().proxy_for(url)).close()

    def secure(self, url: str) -> Certificate:
        network = self._network()
        stream = network.open(url, Limit(self._deadline()))
        with closing(stream):
            assert isinstance(stream, TlsStream)
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

    def skew(self, url: str) -> float | None:
        from email.utils import parsedate_to_datetime

        parts = urlsplit(url)
        scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
        asked = self._clock.now()
        reply = self._ask(Request("GET", f"{scheme}://{parts.netloc}/", "configuration", idempotent=True))
        try:
            moment = parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
        except (TypeError, ValueError, OverflowError):
            return None
        # The header is cut to whole seconds; half the way there and back is the best guess of when.
        return (asked + reply.at) / 2 - (moment + 0.5)

    def _ask(self, request: Request) -> HttpResponse:
        return self._connector.http.perform(request, headers=request.headers, deadline=self._deadline())

    # --- the deployment ---

    def _perform(self, flow: Flow[Any]) -> Any:
        """Run a flow that only asks over HTTP, without any credential, once."""
        dialect = self.dialect
        try:
            step = next(flow)
            while True:
                assert isinstance(step, HttpRequest)
                reply = self._ask(step.request)
                step = flow.send(reply) if reply.ok else flow.throw(dialect.refusal(step.request, reply))
        except StopIteration as stop:
            return stop.value

    def deployment(self) -> Deployment | None:
        published = self.dialect.published
        return None if published is None else published.deployment(self._perform(published.configuration()))

    def grant(self) -> Credential | None:
        if not self.dialect.uses_oauth:
            return None
        granted = self._perform(self.dialect.oauth())
        assert isinstance(granted, Credential)
        self._granted = granted
        return granted

    # --- the door ---

    def knock(self, origin: str | None) -> ProbeAnswer | None:
        dialect = self.dialect
        spoken = type(dialect)(replace(dialect.profile, origin=origin), new_id=dialect.new_id)
        try:
            session = self.stored()
        except Failure:  # told where it belongs
            session = None
        session = session or Session(api=dialect.name, profile=dialect.profile.name)
        try:
            door = spoken.door(session)
        except KeyError:  # an id only a session has
            return None
        return None if door is None else self._upgrade(spoken, door, session)

    def _upgrade(self, dialect: Dialect, door: SocketAddress, session: Session) -> ProbeAnswer | None:
        headers = dict(door.headers)
        if door.credential is not None:
            held = session.credential(door.credential)
            if held is None:
                return None
            headers["Authorization"] = f"Bearer {held.secret.reveal()}"
        try:
            socket = Socket.connect(
                door.url,
                headers=headers,
                network=self._network(),
                clock=self._clock,
                deadline=self._deadline(),
                observer=self._connector.observer,
                user_agent=USER_AGENT,
            )
        except Refusal as refusal:
            reply = HttpResponse(refusal.status, refusal.headers, refusal.body.encode(), self._clock.now(), door.url)
            failure = dialect.refusal(Request("GET", door.url, "socket", idempotent=True), reply)
            return ProbeAnswer(refusal.status, refusal.body, failure)
        socket.close(*dialect.goodbye)
        return ProbeAnswer(101)

    # --- sessions ---

    def visit(self) -> ThrowAway | None:
        dialect = self.dialect
        flow = dialect.create(NewSession(name="doctor"))
        try:
            next(flow)
        except StopIteration as stop:
            draft: Session = stop.value
        except UsageError:  # a value only a real opening needs
            return None
        else:
            flow.close()
            return None
        state = State.open(None, self._clock)
        exchange = self._exchange(draft, state, "doctor")
        try:
            line = open_once(exchange, self._deadline())
        except BaseException:
            state.close()
            raise
        return ThrowAway(exchange, line, self._deadline)

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
        exchange.open_line = lambda deadline: open_once(exchange, deadline)
        self._exchanges.append(exchange)
        return exchange

    def stored(self) -> Session | None:
        return self._stored()[1]

    def alive(self, session: Session) -> Session:
        exchange = self._exchange(session, self._opened()[0], self._stored()[0])
        try:
            exchange.perform(self.dialect.history(session, after=None, cursor=None, limit=1), self._deadline())
            if self.dialect.sends_on_socket:
                exchange.attached(self._deadline())  # history may outlive what messages are taken on
        finally:
            if exchange.line is not None:
                exchange.line.close()
        return exchange.session

    def token(self, session: Session) -> Claims:
        from guestctl.core import jwt_claims

        held = session.credential("guest")
        if held is None:
            return Claims("kept in memory only")
        found = jwt_claims.inspect(
            held.secret, self._clock.now(), required=self.dialect.token_claims, known_expiry=held.expires_at
        )
        names = ", ".join(sorted(found.claims))
        kind = f"a JWT ({names})" if found.form == "jwt" else "opaque"
        left = "" if found.expires_at is None else f", {_left(found.expires_at - self._clock.now())}"
        return Claims(f"{kind}{left}; not verified", found.problems)


def _left(seconds: float) -> str:
    from guestctl.core.humanize import format_duration

    return f"{format_duration(seconds)} left" if seconds > 0 else "expired"


def _common_name(name: object) -> str:
    """The most telling part of a certificate's name, as `getpeercert` gives it."""
    found: dict[str, str] = {}
    for part in name if isinstance(name, tuple) else ():
        for key, value in part:
            found.setdefault(key, value)
    return next((found[key] for key in ("commonName", "organizationName") if key in found), "no name")
