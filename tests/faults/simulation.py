"""A simulated network for the rule machine: no sockets and no real waiting, with the real sandbox on counted time.

Knows: what the transport promises its callers (`Http`, `Socket`), the sandbox's server, and what a network
does to frames and requests. Must not know: dialects, schedules, what is right or wrong.

Everything happens in one thread. A wait advances the clock, and the actions that are due by then run during it.
Frames are always whole here; the proxy is for faults within a frame.
"""

from __future__ import annotations

import json
import re
import types
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from email.utils import formatdate
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeAlias
from unittest.mock import patch
from urllib.parse import parse_qsl, urlsplit

from guestctl.core.clock import Deadline
from guestctl.core.errors import NetworkError
from guestctl.core.wire import Frame, HttpResponse, Request
from guestctl.sandbox.handler import GuestSocket, RequestDispatcher
from guestctl.sandbox.interfaces import Api, ServerReply, ServerRequest, error
from guestctl.sandbox.peer import SocketPeer
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.service_state import Conversation, StoredMessage
from guestctl.transport.frame_reader import Close, Frames
from guestctl.transport.http import _body
from guestctl.transport.network import Observer
from guestctl.transport.socket import Refusal
from tests.examples import numbered
from tests.fakes import START
from tests.faults.model import Environment, Run
from tests.faults.schedules import Schedule

#: `LATENCY`: seconds a frame or a request is in transit. `ZOMBIE`: seconds after which the service notices that an
#: unreachable guest has gone. `PATIENCE`: seconds after which a missing response fails if there is no deadline.
LATENCY = 0.004
ZOMBIE = 0.1
PATIENCE = 30.0
FOR_EVER = 10.0**7

SocketFault: TypeAlias = Literal["cut", "fin", "torn", "late", "held", "hole", "outbound lost", "inbound lost", "stall"]
"""Faults of a socket. `torn`: the socket breaks before the last byte of the guest's next message has left. `late`: the
socket breaks, and what the guest had sent still arrives. `held`: a proxy holds the guest's next message for some
seconds, and the socket breaks before it arrives. `outbound lost`: the guest receives nothing more. `inbound lost`: the
service receives nothing more. `stall`: both wait some seconds."""
SOCKET_FAULTS: tuple[SocketFault, ...] = (
    "cut", "fin", "torn", "late", "held", "hole", "outbound lost", "inbound lost", "stall",
)  # fmt: skip

RequestFault: TypeAlias = Literal["refused", "torn", "lost", "unanswered", "gateway", "late", "hole"]
"""Faults of a request. `refused`: no connection. `torn`: the connection breaks before the last byte has left. `lost`,
`unanswered`: the request or its response is lost. `gateway`: the service performs the request, and a proxy answers with
504. `late`: the request arrives after the guest has got an error. `hole`: no response before the deadline."""
REQUEST_FAULTS: tuple[RequestFault, ...] = ("refused", "torn", "lost", "unanswered", "gateway", "late", "hole")


class Time:
    """A clock that advances when the caller waits, and the actions planned for later."""

    def __init__(self) -> None:
        self._now = 0.0
        self._plans: list[tuple[float, int, Callable[[], object]]] = []
        self._number = count()

    def now(self) -> float:
        return START + self._now

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.until(self._now + seconds)

    def later(self, seconds: float, what: Callable[[], object]) -> None:
        heappush(self._plans, (self._now + max(0.0, seconds), next(self._number), what))

    def until(self, at: float, over: Callable[[], bool] = lambda: False) -> None:
        """Advance the clock to `at`, or until `over` is true after an action."""
        while not over():
            if not self._plans or self._plans[0][0] > at:
                self._now = max(self._now, at)
                return
            due, _, what = heappop(self._plans)
            self._now = max(self._now, due)
            what()


class SkewedClock:
    """The guest's clock, which is ahead of the service's by some seconds."""

    def __init__(self, time: Time, ahead: float) -> None:
        self._time, self._ahead = time, ahead

    def now(self) -> float:
        return self._time.now() + self._ahead

    def monotonic(self) -> float:
        return self._time.monotonic()

    def sleep(self, seconds: float) -> None:
        self._time.sleep(seconds)


class _FirstInFirstOut(set[SocketPeer]):
    """A set of sockets that pops them in the order of adding, so that every run is the same."""

    def __init__(self) -> None:
        super().__init__()
        self._order: deque[SocketPeer] = deque()

    def add(self, peer: SocketPeer) -> None:
        if peer not in self:
            self._order.append(peer)
        super().add(peer)

    def pop(self) -> SocketPeer:
        first = self._order.popleft()
        self.remove(first)
        return first


class _PortlessSandbox(Sandbox):
    """A sandbox without a port. It plans actions on the simulation's clock, in the same thread."""

    def __init__(self, time: Time, **settings: Any) -> None:
        super().__init__(clock=time, **settings)
        self._time = time
        self.batch.unsent = _FirstInFirstOut()
        self._build_service(None)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self._time.later(seconds, what)

    def call(self, what: Callable[[], Any]) -> Any:
        return what()


class Simulation(Environment):
    """Connects the clients' transport to the sandbox, without a network."""

    def __init__(self, schedule: Schedule, run: Run, directory: Path, time: Time | None = None) -> None:
        time, named = time or Time(), Random(schedule.seed)
        self.sockets: list[SimulatedSocket] = []
        self.attempts: Counter[str] = Counter()
        #: Faults of the next sockets of each actor, in order.
        self.socket_faults: dict[str, deque[tuple[SocketFault, float]]] = {}
        #: Faults of the next requests of each actor, in order.
        self.request_faults: dict[str, deque[tuple[RequestFault, float]]] = {}
        #: Actions to run when the service has stored the guest's next messages, one each.
        self.when_stored: deque[Callable[[], object]] = deque()
        #: Actions to run after the next pages of history, one each.
        self.on_history: deque[Callable[[], object]] = deque()
        #: Called with each frame that a client reads, and the client's trace id.
        self.on_frame: Callable[[str, str], object] = lambda who, text: None
        #: Called when a message of the guest has been handed to the network.
        self.on_sent: Callable[[], object] = lambda: None
        #: Whether another thread wakes the one that waits for a frame.
        self.woken: Callable[[], bool] = lambda: False
        self._down_until = -inf
        sandbox = _PortlessSandbox(
            time,
            fast=True,
            watch=self._stored,
            ids=lambda: f"{named.getrandbits(128):032x}",
            keys="returned" if schedule.keys_return else "withheld",
            deduplicates="yes" if schedule.deduplicates else "no",
            answers="published" if schedule.bare else "full",
            # If a token cannot be renewed, its expiry ends the session, which is no fault.
            token_life=FOR_EVER if numbered(schedule.api) else None,
        )
        self.time = time
        super().__init__(schedule, run, directory, sandbox, SkewedClock(time, schedule.skew))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Replace the client's transport."""
        with ExitStack() as patches:
            patches.enter_context(patch("guestctl.transport.http.Http", self._http))
            patches.enter_context(patch("guestctl.transport.socket.Socket.connect", self._connect))
            patches.enter_context(patch.object(RequestDispatcher, "_pause", lambda self, seconds: _pause(seconds)))
            if self.schedule.bare:
                patches.enter_context(patch.object(SocketPeer, "send", _send_without_keys))
            if self.schedule.most_missed is not None:
                patches.enter_context(patch("guestctl.engine.history.MISSED_ENTRIES", self.schedule.most_missed))
            yield

    # --- faults ---

    def down(self, seconds: float) -> None:
        self.run.fault_counts["down"] += 1
        self._down_until = self.time.monotonic() + seconds
        for socket in self.open_sockets():
            socket.inject("cut", 0.0)

    def inject(self, who: str, how: SocketFault, seconds: float) -> None:
        """Inject a fault into every socket of an actor, or into its next one if none is open."""
        sockets = [socket for socket in self.open_sockets() if socket.who == who]
        if not sockets:
            self.socket_faults.setdefault(who, deque()).append((how, seconds))
        for socket in sockets:
            self.run.fault_counts[how] += 1
            socket.inject(how, seconds)

    def close(self, who: str, code: int) -> None:
        """Let the service close every socket of an actor."""
        for socket in self.open_sockets():
            if socket.who == who:
                self.run.fault_counts[f"close {code}"] += 1
                socket.peer.close(code)

    def heal(self) -> None:
        """Remove all faults. The client must detect a dead socket itself."""
        self._down_until = -inf
        self.socket_faults.clear()
        self.request_faults.clear()
        self.when_stored.clear()
        self.on_history.clear()
        self.sandbox.faults.clear()

    def service_time(self) -> float:
        return self.time.now()

    def open_sockets(self) -> list[SimulatedSocket]:
        self.sockets = [socket for socket in self.sockets if not socket.left]
        return list(self.sockets)

    def has_message(self, data: str) -> bool:
        """Return whether a frame or a body has a message of the guest."""
        return any(result.key in data for result in self.run.sends)

    def note_handed_over(self, data: str) -> None:
        """Note the messages of the guest that are in a frame or a body that left."""
        for result in self.run.sends:
            if result.key in data:
                self.run.handed_over.setdefault(result.key, self.time.now())

    @property
    def is_down(self) -> bool:
        return self.time.monotonic() < self._down_until

    def _stored(self, conversation: Conversation, message: StoredMessage) -> None:
        if message.direction == "inbound" and self.when_stored:
            self.when_stored.popleft()()

    # --- what the clients call ---

    def _http(self, network: object, clock: object, *, observer: Observer | None, user_agent: str) -> SimulatedHttp:
        return SimulatedHttp(self, observer)

    def _connect(
        self, url: str, *, headers: Mapping[str, str], observer: Observer | None, deadline: Deadline, **_: object
    ) -> SimulatedSocket:
        who = _who(headers)
        self.attempts[who] += 1
        _notify(observer, "connect", url=url, traceparent=headers["traceparent"])
        self.time.sleep(LATENCY)
        if self.is_down:
            _notify(observer, "closed", code=None, error="network.connect")
            raise NetworkError("connection refused", code="network.connect")
        request = _request("GET", url, headers, b"")
        found = self.sandbox.table.socket_route(request.path)
        assert found is not None, url
        handler, api, request.params = found
        fault = self.sandbox.faults.upgrade()
        refusal = error(fault.status, f"Fault on demand: {fault.spec}") if fault else handler.admit(request)
        self.sandbox.service.count(None, "socket")
        self.time.sleep(LATENCY)
        _notify(observer, "upgrade", status=101 if refusal is None else refusal.status)
        if refusal is not None:
            _notify(observer, "closed", code=None, error=str(refusal.status))
            self.run.fault_counts["refuse"] += fault is not None
            head = {name.lower(): value for name, value in refusal.headers.items()}
            raise Refusal(refusal.status, head, refusal.body.decode()[:2048])
        socket = SimulatedSocket(self, who, request, api, observer)
        self.sockets.append(socket)
        if waiting := self.socket_faults.get(who):
            self.inject(who, *waiting.popleft())
        return socket


class SimulatedHttp:
    """Replaces the client's `Http`: performs each request at the sandbox, with its fault."""

    def __init__(self, simulation: Simulation, observer: Observer | None) -> None:
        self._simulation = simulation
        self._observer = observer

    def perform(
        self, request: Request, *, headers: Mapping[str, str], deadline: Deadline, progress: object = None
    ) -> HttpResponse:
        simulation, time = self._simulation, self._simulation.time
        sent = {**request.headers, **headers}
        kind, body = _body(request)
        if kind is not None:
            sent["Content-Type"] = kind
        asked = _request(request.method, request.url, sent, body or b"", request.query)
        who = _who(sent)
        simulation.attempts[who] += 1
        told = {"method": request.method, "route": request.route, "url": request.url, "headers": sent}
        _notify(self._observer, "request", **told)
        if simulation.is_down:
            raise NetworkError("connection refused", code="network.connect")
        waiting = simulation.request_faults.get(who)
        request_fault, seconds = waiting.popleft() if waiting else (None, 0.0)
        if request_fault is not None:
            simulation.run.fault_counts[f"request {request_fault}"] += 1
        time.sleep(LATENCY)
        if request_fault == "refused":
            raise NetworkError("connection refused", code="network.connect")
        if request_fault == "torn":
            raise NetworkError("the connection broke", written=False)
        simulation.note_handed_over((body or b"").decode("utf-8", "replace"))
        if request_fault == "lost":
            raise NetworkError("the connection broke", written=True)
        if request_fault == "late":
            time.later(seconds, partial(self._begin, asked))
            raise NetworkError("the connection broke", written=True)
        left = deadline.remaining()
        limit = time.monotonic() + (PATIENCE if left is None else left)
        if request_fault == "hole":
            return self._silent(limit)
        replies = self._begin(asked)
        time.until(limit, lambda: bool(replies) or simulation.is_down)
        if not replies and not simulation.is_down:
            return self._silent(limit)
        time.sleep(LATENCY)
        if request_fault == "unanswered" or not replies or simulation.is_down:
            _notify(self._observer, "lost")
            raise NetworkError("the connection broke", written=True)
        reply = ServerReply(504, b"Gateway Timeout", {}) if request_fault == "gateway" else replies[0]
        _notify(self._observer, "response", status=reply.status)
        if request.route == "history" and simulation.on_history:
            simulation.on_history.popleft()()
        # As the HTTP server of the sandbox does, so that a client with a wrong clock can tell.
        names = {"date": formatdate(time.now(), usegmt=True)}
        names |= {name.lower(): value for name, value in reply.headers.items()}
        return HttpResponse(
            reply.status, names, reply.body, simulation.clock.now(), urlsplit(request.url)._replace(query="").geturl()
        )

    def close(self) -> None:
        """There is nothing to close."""

    def _silent(self, limit: float) -> HttpResponse:
        self._simulation.time.until(limit)
        raise NetworkError("timed out before the response was complete", written=True)

    def _begin(self, asked: ServerRequest) -> list[ServerReply]:
        """Let the sandbox handle a request, with its pauses. The returned list gets the reply when it is ready."""
        handling = RequestDispatcher(self._simulation.sandbox).answer_guest(asked)
        replies: list[ServerReply] = []

        def proceed() -> None:
            try:
                self._simulation.time.later(handling.send(None), proceed)
            except StopIteration as stop:
                replies.append(stop.value)

        proceed()
        return replies


class _ServiceEnd:
    """The service's end of a socket, with the methods that its `SocketPeer` calls."""

    def __init__(self, socket: SimulatedSocket) -> None:
        self._socket = socket
        self._closing = False

    def is_closing(self) -> bool:
        return self._closing or self._socket.left

    def write(self, data: bytes) -> None:
        self._socket.down(lambda: self._socket.arrive(data))

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        payload = b"" if code is None else code.to_bytes(2, "big") + (reason or "").encode()
        self._closing = True
        self._socket.down(lambda: self._socket.arrive(bytes((0x88, len(payload))) + payload))
        self._socket.up(lambda: self._socket.leave(code))

    def reset(self) -> None:
        self._socket.inject("cut", 0.0)

    def drop(self) -> None:
        self.reset()


class SimulatedSocket:
    """Replaces the client's `Socket`, and simulates the network between it and the service's peer.

    `forsaken`: the guest has gone. `left`: the service knows that it has gone.
    """

    def __init__(
        self, simulation: Simulation, who: str, request: ServerRequest, api: Api, observer: Observer | None
    ) -> None:
        self.who = who
        self.left = self.forsaken = False
        self._simulation, self._time, self._observer = simulation, simulation.time, observer
        self._frames = Frames()
        self._arrived: deque[str | Close | None] = deque()
        self._over: NetworkError | None = None
        self._loses_outbound = self._loses_inbound = False
        self._stalled_until = -inf
        #: Seconds for which the network holds the guest's next message.
        self._held_for: float | None = None
        #: Whether the connection breaks before the guest's next message has left.
        self._tears = False
        self.heard_at = self._time.monotonic()
        self.ended: tuple[int, str] | None = None
        self._reported_end = False
        sandbox = simulation.sandbox
        self._guest = GuestSocket(sandbox, api, request, _ServiceEnd(self))
        self.peer = self._guest.peer
        self._guest.open()

    # --- the network ---

    def up(self, what: Callable[[], None]) -> None:
        """Run an action at the service after the delay."""
        if not self._loses_inbound:
            self._time.later(self._delay(), lambda: None if self.left else what())

    def down(self, what: Callable[[], None]) -> None:
        """Run an action at the guest after the delay."""
        if not self._loses_outbound:
            self._time.later(self._delay(), lambda: None if self._loses_outbound else what())

    def _delay(self) -> float:
        return max(LATENCY, self._stalled_until + LATENCY - self._time.monotonic())

    def arrive(self, data: bytes) -> None:
        self._frames.feed(data)
        while (item := self._frames.next()) is not None:
            assert isinstance(item, (str, Close))
            self._arrived.append(item)

    def leave(self, code: int | None) -> None:
        """Inform the service that the guest has gone. A code means that it sent a close frame."""
        if not self.left:
            self.left = True
            self._guest.closed(clean=code is not None)

    def inject(self, how: SocketFault, seconds: float) -> None:
        if how == "cut":
            self._arrived.append(None)
            self._loses_outbound = True
            self.leave(None)
        elif how == "fin":
            self.down(lambda: self._arrived.append(None))
            self._time.later(LATENCY, lambda: self.leave(None))
        elif how == "late":
            self._arrived.append(None)
            self._loses_outbound = self.forsaken = True
            self._stalled_until = self._time.monotonic() + seconds
            self._time.later(seconds + ZOMBIE, lambda: self.leave(None))
        elif how == "held":
            self._held_for = seconds
        elif how == "torn":
            self._tears = True
        elif how == "stall":
            self._stalled_until = max(self._stalled_until, self._time.monotonic() + seconds)
        else:
            self._loses_outbound = self._loses_outbound or how != "inbound lost"
            self._loses_inbound = self._loses_inbound or how != "outbound lost"

    # --- what the client calls ---

    def send(self, text: str, *, deadline: Deadline) -> None:
        if self._over is not None:
            raise NetworkError(self._over.message, close_code=self._over.close_code)
        if None in self._arrived:
            raise NetworkError("sending failed (broken pipe)", written=False)
        if self._tears and self._simulation.has_message(text):
            self.inject("cut", 0.0)
            raise NetworkError("sending failed (broken pipe)", written=False)
        handed_over = len(self._simulation.run.handed_over)
        self._simulation.note_handed_over(text)
        if self._held_for is not None and len(self._simulation.run.handed_over) > handed_over:
            self._arrives_held(text, self._held_for)
        else:
            self.up(lambda: self._guest.receive(text))
        _notify(self._observer, "frame_out")
        if len(self._simulation.run.handed_over) > handed_over:
            self._simulation.on_sent()

    def _arrives_held(self, text: str, seconds: float) -> None:
        """Let a message arrive later, on a connection whose other end is closed by then."""
        self._held_for = None
        self.down(lambda: self._arrived.append(None))
        self._time.later(LATENCY, lambda: setattr(self, "_loses_outbound", True))
        self._loses_inbound = self.forsaken = True
        self._time.later(seconds, lambda: None if self.left else self._guest.receive(text))
        self._time.later(seconds + ZOMBIE, lambda: self.leave(None))

    def receive(self, timeout: float) -> Frame | None:
        if self._over is not None:
            raise self._over
        if not self._arrived and timeout > 0:
            self._time.until(self._time.monotonic() + timeout, lambda: bool(self._arrived) or self._simulation.woken())
        if not self._arrived:
            return None
        item = self._arrived.popleft()
        if isinstance(item, str):
            self.heard_at = self._time.monotonic()
            self._simulation.on_frame(self.who, item)
            _notify(self._observer, "frame_in")
            return Frame(item, self._simulation.clock.now())
        code = 1006 if item is None else item.code
        self._over = NetworkError(f"the connection ended ({code})", written=True, close_code=code)
        raise self._over

    def arrived(self, most: int) -> list[Frame]:
        frames: list[Frame] = []
        while len(frames) < most and self._arrived and isinstance(self._arrived[0], str):
            frame = self.receive(0.0)
            assert frame is not None
            frames.append(frame)
        return frames

    def ping(self) -> None:
        if self._over is not None:
            raise NetworkError(self._over.message, close_code=self._over.close_code)
        self.up(self._ping_arrived)

    def _ping_arrived(self) -> None:
        self._time.later(self._simulation.sandbox.faults.silence(), lambda: self.down(self._pong_arrived))

    def _pong_arrived(self) -> None:
        self.heard_at = self._time.monotonic()

    def close(self, code: int = 1000, reason: str = "") -> list[Frame]:
        drained: list[Frame] = []
        until = self._time.monotonic() + 1.0
        try:
            if self._over is None:
                self.up(lambda: self._close_arrived(code))
            while (left := until - self._time.monotonic()) > 0 and (frame := self.receive(left)) is not None:
                drained.append(frame)
        except NetworkError:
            pass
        self.abort()
        return drained

    def _close_arrived(self, code: int) -> None:
        self.down(lambda: self._arrived.append(Close(code, "")))
        self.leave(code)

    def abort(self) -> None:
        """The guest has gone. The service notices, as soon as the network allows it."""
        if not self._reported_end:
            self._reported_end = True
            _notify(self._observer, "closed", code=1006 if self._over is None else self._over.close_code, error=None)
        self._over = self._over or NetworkError("the connection was closed here", written=True, close_code=1006)
        self._loses_outbound = True
        if self.forsaken:
            return  # a proxy keeps the connection to the service for a while
        self.forsaken = True
        self._time.later(ZOMBIE if self._loses_inbound else self._delay(), lambda: self.leave(None))


_send = SocketPeer.send


def _send_without_keys(peer: SocketPeer, text: str, route: str | None = None) -> None:
    """Send a frame as a gateway passes it on: an echo of a guest's message has no client key."""
    frame = json.loads(text)
    if frame.get("type") == "MESSAGE_ACCEPTED":
        return
    if _ECHO.search(text):
        frame.pop("tracingId", None)
        for part in (frame, *(value for value in frame.values() if isinstance(value, dict))):
            # Where there is no other id, `messageId` is the service's own.
            for name in ("correlationId", "attributes", "metadata", *(("messageId",) if "id" in part else ())):
                part.pop(name, None)
        text = json.dumps(frame)
    _send(peer, text, route)


#: A text of the guest in a frame, and not the bot's answer to it.
_ECHO = re.compile(r'"guest [0-9]+"')


@types.coroutine
def _pause(seconds: float) -> Generator[float, None, None]:
    yield seconds


def _who(headers: Mapping[str, str]) -> str:
    return headers["traceparent"].split("-")[1]


def _request(
    method: str, url: str, headers: Mapping[str, str], body: bytes, query: Mapping[str, str] | None = None
) -> ServerRequest:
    parts = urlsplit(url)
    names = {name.lower(): value for name, value in headers.items()}
    return ServerRequest(
        method=method,
        path=parts.path,
        query={**dict(parse_qsl(parts.query)), **(query or {})},
        headers={"host": parts.netloc, **names},
        body=body,
        base=f"http://{parts.netloc}",
        socket_base=f"ws://{parts.netloc}",
    )


def _notify(observer: Observer | None, kind: str, **data: object) -> None:
    if observer is not None:
        observer(kind, data)
