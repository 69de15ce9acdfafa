"""A reader of a relay: the records of its stream, each once and in order, across reconnects.

Knows: the relay's WebSocket, its last records, what each refusal means, when to reconnect. Must not know: printing,
files, the service behind the relay, tornado.

The reader continues after the last id that it has yielded, so nothing is lost or repeated at a reconnect. `slow` and
`end` are handled here: after `slow` it continues at once, after the `end` of a relay that stops it waits for the next
one, and the end of the session is a failure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from random import Random
from urllib.parse import urlencode, urlsplit, urlunsplit

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import (
    Failure,
    NetworkError,
    Refused,
    SessionOver,
    TimedOut,
    Unauthorised,
    Unreadable,
    UsageError,
)
from guestctl.core.interrupts import INTERRUPTS
from guestctl.core.model import Secret
from guestctl.core.values import Json
from guestctl.engine.retry import jittered
from guestctl.output.records import Record
from guestctl.relay.wrong_scheme import wrong_scheme
from guestctl.transport.connector import USER_AGENT
from guestctl.transport.network import Network, Observer
from guestctl.transport.socket import Refusal, Socket

#: Seconds after which the caller gets control.
TICK = 0.5
#: Seconds that the first attempt over TLS may take. The others may take `step`.
FIRST_STEP = 4.0
#: Seconds without any frame after which the connection counts as dead. The relay sends a ping every 30 s.
SILENCE = 75.0
#: Reconnects without success before the reader gives up, and the bounds of the wait before each, in seconds.
ATTEMPTS, BASE, CAP = 8, 0.25, 15.0
#: Statuses of a refusal that may pass.
_PASSING = frozenset({429, 502, 503, 504})


class RelayReader:
    """One reader.

    `url` is the relay's base address. `after` is where it starts (see contract.md §9), and `kinds` chooses records.
    `session` names one of several sessions. `forever`: never give up reconnecting. `step` limits each connection
    attempt, in seconds, and `left` returns the seconds until the caller stops. `notice` is called with a line of text
    for each reconnect.

    `after` becomes the id of the last record that was yielded. `lost` is the last failure to connect, None while the
    reader is connected.
    """

    def __init__(
        self,
        url: str,
        key: Secret,
        *,
        after: str,
        kinds: frozenset[str],
        session: str | None,
        network: Network,
        clock: Clock,
        random: Random,
        forever: bool = False,
        step: float | None = 30.0,
        left: Callable[[], float | None] = lambda: None,
        notice: Callable[[str], None] = lambda text: None,
        observer: Observer | None = None,
    ) -> None:
        self.after = after
        self.lost: Failure | None = None
        #: Whether a connection has been open.
        self.connected = False
        self._address = socket_address(url)
        self._key = key
        self._kinds = kinds
        self._session = session
        self._network = network
        self._clock = clock
        self._random = random
        self._forever = forever
        self._step = step
        self._left = left
        self._notice = notice
        self._observer = observer

    def records(self) -> Generator[Record | None, None, None]:
        """Yield records with their `relay_id`, and None at a tick without one. Ends only by raising a failure.

        Raises Unauthorised (`relay.key`), Refused (`relay.not_retained`, `relay.refused`), UsageError, SessionOver when
        the session has ended, and NetworkError when every reconnect failed.
        """
        attempt = 0
        while True:
            try:
                socket = self._connect(first=attempt == 0)
                self.lost, self.connected = None, True
                try:
                    for record in self._receive(socket):
                        if record is not None:
                            attempt = 0
                        yield record
                finally:
                    socket.close()
            except (NetworkError, TimedOut, Unreadable) as failure:
                if isinstance(failure, NetworkError) and not failure.transient:
                    raise
                self.lost = failure
            attempt += 1
            if attempt > ATTEMPTS and not self._forever:
                reason = "the relay ended the stream" if self.lost is None else self.lost.message
                raise NetworkError(f"gave up after {ATTEMPTS} reconnects: {reason}", code="network.gave_up")
            yield from self._pause(attempt)

    def _connect(self, *, first: bool) -> Socket:
        """Open the socket. Raises the failures of `records`, and UsageError for an address with the wrong scheme.

        A port without TLS leaves a TLS handshake without an answer. So the first attempt does not wait long for it.
        """
        step = self._step
        if first and self._address.startswith("wss:"):
            step = FIRST_STEP if step is None else min(step, FIRST_STEP)
        try:
            return self._upgraded(step)
        except (NetworkError, TimedOut, Unreadable) as failure:
            wrong = wrong_scheme(self._address, failure, self._network, self._clock) if first else None
            if wrong is None:
                raise
            raise wrong from failure

    def _upgraded(self, step: float | None) -> Socket:
        query = {"after": self.after, "kinds": ",".join(sorted(self._kinds))}
        if self._session is not None:
            query["session"] = self._session
        try:
            return Socket.connect(
                f"{self._address}?{urlencode(query)}",
                headers={"Authorization": f"Bearer {self._key.reveal()}"},
                network=self._network,
                clock=self._clock,
                deadline=Deadline.after(self._clock, step).sooner(self._left()),
                observer=self._observer,
                user_agent=USER_AGENT,
            )
        except Refusal as refusal:
            raise _failure_of(refusal) from None

    def _receive(self, socket: Socket) -> Iterator[Record | None]:
        """Yield records until the relay ends the stream. Raises NetworkError when the connection breaks."""
        while True:
            INTERRUPTS.check()
            frame = socket.receive(self._bounded(TICK))
            if frame is None:
                if self._clock.monotonic() - socket.heard_at > SILENCE:
                    raise NetworkError("the connection to the relay is dead: no ping for 75 s", written=True)
                yield None
                continue
            record = _record_of(frame.text)
            if record["kind"] == "slow":
                self._notice(f"this reader fell behind; continuing after {record['resume_after']}")
                return
            if record["kind"] == "end":
                if record.get("code") is None:
                    self._notice("the relay stopped; reconnecting")
                    return
                raise _end_of(record)
            if record.get("relay_id") is not None:
                self.after = record["relay_id"]
            yield record

    def _pause(self, attempt: int) -> Iterator[None]:
        if self.lost is not None:
            self._notice(f"{self.lost.message}; reconnecting")
        until = self._clock.monotonic() + jittered(self._random, attempt - 1, base=BASE, cap=CAP)
        while (rest := until - self._clock.monotonic()) > 0:
            self._clock.sleep(self._bounded(min(TICK, rest)))
            yield None
        yield None

    def _bounded(self, seconds: float) -> float:
        left = self._left()
        return seconds if left is None else max(0.0, min(seconds, left))


def socket_address(url: str) -> str:
    """Return the address of the WebSocket of a relay. Raises UsageError."""
    hint = "give the address that `guestctl relay serve` prints: http://127.0.0.1:8787"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError("--relay: not an address", hint=hint) from error
    if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment:
        raise UsageError("--relay: not an http or https address", hint=hint)
    if parts.username is not None or parts.password is not None:
        raise UsageError("--relay: the address contains a user name", hint="GUESTCTL_RELAY_KEY is the relay's key")
    scheme = "wss" if parts.scheme == "https" else "ws"
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + "/v1/ws", "", ""))


def _record_of(text: str) -> Record:
    try:
        record: Json = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("the relay sent a message that is not JSON", code="answer.frame") from error
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        raise Unreadable("the relay sent a message that is not a record", code="answer.frame")
    return record


def _end_of(record: Record) -> Failure:
    """Return the failure for the last record of a session that has ended."""
    code = str(record["code"])
    known = code if code.startswith("session.") else "session.ended"
    return SessionOver(f"the session of the relay has ended ({code}): {record.get('reason')}", code=known)


def _failure_of(refusal: Refusal) -> Failure:
    """Return the failure for a refused upgrade."""
    try:
        answer: Json = json.loads(refusal.body)
        message = str(answer["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message = "no reason given"
    text = f"the relay answered HTTP {refusal.status}: {message}"
    if refusal.status == 401:
        return Unauthorised(text, code="relay.key", http_status=401)
    if refusal.status == 410:
        return Refused(text, code="relay.not_retained", http_status=410)
    if refusal.status in _PASSING:
        return NetworkError(text, written=False, http_status=refusal.status)
    return Refused(text, code="relay.refused", http_status=refusal.status)
