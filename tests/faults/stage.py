"""A scene without sockets and without waiting: the sandbox's world and faults, on time that is only counted.

Knows: what the transport promises its callers (`Http`, `Socket`), the sandbox's server, what a network
does to frames and requests. Must not know: dialects, schedules, what is right or wrong.

Everything happens in one thread. Whoever waits lets time pass, and what was planned for then happens
meanwhile. Frames are whole here: what befalls single bytes is the proxy's business.
"""

from __future__ import annotations

import asyncio
import types
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
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
from tests.faults.model import Run, Scene
from tests.faults.schedules import Schedule

#: Seconds a frame or a request is under way; after which the service knows that a guest is gone whom
#: nothing reaches; after which an answer that never comes is given up where there is no deadline.
LATENCY = 0.004
ZOMBIE = 0.1
PATIENCE = 30.0
FOR_EVER = 10.0**7

Break: TypeAlias = Literal["cut", "fin", "late", "hole", "deaf", "dumb", "stall"]
"""What may befall a socket. `late`: what was said still arrives; `deaf`: the guest hears no more;
`dumb`: is heard no more; `stall`: both, for some seconds."""
BREAKS: tuple[Break, ...] = ("cut", "fin", "late", "hole", "deaf", "dumb", "stall")

Mishap: TypeAlias = Literal["refused", "lost", "unanswered", "late", "hole"]
"""What may befall a request: nobody is there; it, or its answer, is lost; it arrives later than the guest
learns that it is lost; nothing comes back."""
MISHAPS: tuple[Mishap, ...] = ("refused", "lost", "unanswered", "late", "hole")


class Time:
    """A clock that is moved by whoever waits, and what is planned for later."""

    def __init__(self) -> None:
        self._now = 0.0
        self._plans: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def now(self) -> float:
        return START + self._now

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.until(self._now + seconds)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        heappush(self._plans, (self._now + max(0.0, seconds), next(self._number), what))

    def until(self, at: float, over: Callable[[], bool] = lambda: False) -> None:
        """Let time pass up to `at`, or until something that happens makes it `over`."""
        while not over():
            if not self._plans or self._plans[0][0] > at:
                self._now = max(self._now, at)
                return
            due, _, what = heappop(self._plans)
            self._now = max(self._now, due)
            what()


class _InOrder(set[SocketPeer]):
    """Sockets in the order in which there was something for them, so that a run is the same every time."""

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


class _Still(Sandbox):
    """A sandbox that serves no port: what is planned is the stage's, and there is one thread."""

    def __init__(self, time: Time, **settings: Any) -> None:
        super().__init__(clock=time, **settings)
        self._time = time
        self.batch.unsent = _InOrder()
        self._build_service(None)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self._time.later(seconds, what)

    def call(self, what: Callable[[], Any]) -> Any:
        return what()


class Stage(Scene):
    """Where the clients' transport ends, and the service begins."""

    def __init__(self, schedule: Schedule, run: Run, directory: Path) -> None:
        time, named = Time(), Random(schedule.seed)
        self.sockets: list[StageSocket] = []
        self.attempts: Counter[str] = Counter()
        #: What befalls the next requests of each actor, in order; what is done once the service has stored
        #: the guest's next message.
        self.mishaps: dict[str, deque[tuple[Mishap, float]]] = {}
        self.when_stored: deque[Callable[[], object]] = deque()
        #: What is done after the next answers that are pages of history, one each.
        self.on_history: deque[Callable[[], object]] = deque()
        self._down_until = -inf
        sandbox = _Still(
            time,
            fast=True,
            watch=self._stored,
            ids=lambda: f"{named.getrandbits(128):032x}",
            deployment={"return_message_id": schedule.keys_return},
            # Where a token has no successor, its end is the session's, and no fault.
            token_life=FOR_EVER if numbered(schedule.api) else None,
        )
        self.time = time
        super().__init__(schedule, run, directory, sandbox, time)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Stand where the client looks for its transport."""
        with ExitStack() as patches:
            patches.enter_context(patch("guestctl.transport.http.Http", self._http))
            patches.enter_context(patch("guestctl.transport.socket.Socket.connect", self._connect))
            yield

    # --- what goes wrong ---

    def down(self, seconds: float) -> None:
        self.run.struck["down"] += 1
        self._down_until = self.time.monotonic() + seconds
        for socket in self.open_sockets():
            socket.strike("cut", 0.0)

    def strike(self, who: str, how: Break, seconds: float) -> None:
        """Do this to every socket of an actor."""
        for socket in self.open_sockets():
            if socket.who == who:
                self.run.struck[how] += 1
                socket.strike(how, seconds)

    def close(self, who: str, code: int) -> None:
        """The service closes every socket of an actor."""
        for socket in self.open_sockets():
            if socket.who == who:
                self.run.struck[f"close {code}"] += 1
                socket.peer.close(code)

    def heal(self) -> None:
        """No more faults, but that a socket is in a hole is to be found out."""
        self._down_until = -inf
        self.mishaps.clear()
        self.when_stored.clear()
        self.on_history.clear()
        self.sandbox.faults.clear()

    def open_sockets(self) -> list[StageSocket]:
        self.sockets = [socket for socket in self.sockets if not socket.left]
        return list(self.sockets)

    @property
    def is_down(self) -> bool:
        return self.time.monotonic() < self._down_until

    def _stored(self, conversation: Conversation, message: StoredMessage) -> None:
        if message.direction == "inbound" and self.when_stored:
            self.when_stored.popleft()()

    # --- what the clients call ---

    def _http(self, network: object, clock: object, *, observer: Observer | None, user_agent: str) -> StageHttp:
        return StageHttp(self, observer)

    def _connect(
        self, url: str, *, headers: Mapping[str, str], observer: Observer | None, deadline: Deadline, **_: object
    ) -> StageSocket:
        who = _who(headers)
        self.attempts[who] += 1
        _tell(observer, "connect")
        self.time.sleep(LATENCY)
        if self.is_down:
            raise NetworkError("connection refused", code="network.connect")
        request = _request("GET", url, headers, b"")
        found = self.sandbox.table.socket_route(request.path)
        assert found is not None, url
        door, api, request.params = found
        fault = self.sandbox.faults.upgrade()
        refusal = error(fault.status, f"Fault on demand: {fault.spec}") if fault else door.admit(request)
        self.sandbox.service.count(None, "socket")
        self.time.sleep(LATENCY)
        _tell(observer, "upgrade")
        if refusal is not None:
            self.run.struck["refuse"] += fault is not None
            head = {name.lower(): value for name, value in refusal.headers.items()}
            raise Refusal(refusal.status, head, refusal.body.decode()[:2048])
        socket = StageSocket(self, who, request, api, observer)
        self.sockets.append(socket)
        return socket


class StageHttp:
    """What `Http` is to the client: a request, and its whole answer or what became of it."""

    def __init__(self, stage: Stage, observer: Observer | None) -> None:
        self._stage = stage
        self._observer = observer

    def perform(
        self, request: Request, *, headers: Mapping[str, str], deadline: Deadline, progress: object = None
    ) -> HttpResponse:
        stage, time = self._stage, self._stage.time
        sent = {**request.headers, **headers}
        kind, body = _body(request)
        if kind is not None:
            sent["Content-Type"] = kind
        asked = _request(request.method, request.url, sent, body or b"", request.query)
        who = _who(sent)
        stage.attempts[who] += 1
        _tell(self._observer, "request")
        if stage.is_down:
            raise NetworkError("connection refused", code="network.connect")
        waiting = stage.mishaps.get(who)
        mishap, seconds = waiting.popleft() if waiting else (None, 0.0)
        if mishap is not None:
            stage.run.struck[f"request {mishap}"] += 1
        time.sleep(LATENCY)
        if mishap == "refused":
            raise NetworkError("connection refused", code="network.connect")
        if mishap == "lost":
            raise NetworkError("the connection broke", written=True)
        if mishap == "late":
            time.later(seconds, lambda: self._arrives_late(asked))
            raise NetworkError("the connection broke", written=True)
        left = deadline.remaining()
        limit = time.monotonic() + (PATIENCE if left is None else left)
        if mishap == "hole":
            return self._silent(limit)
        took = [0.0]
        reply = self._handled(asked, took.append)
        if time.monotonic() + sum(took) >= limit:
            return self._silent(limit)
        time.sleep(sum(took) + LATENCY)
        if mishap == "unanswered" or stage.is_down:
            _tell(self._observer, "lost")
            raise NetworkError("the connection broke", written=True)
        _tell(self._observer, "response")
        if request.route == "history" and stage.on_history:
            stage.on_history.popleft()()
        names = {name.lower(): value for name, value in reply.headers.items()}
        return HttpResponse(
            reply.status, names, reply.body, time.now(), urlsplit(request.url)._replace(query="").geturl()
        )

    def close(self) -> None:
        """There is nothing to close."""

    def _silent(self, limit: float) -> HttpResponse:
        self._stage.time.until(limit)
        raise NetworkError("timed out before the response was complete", written=True)

    def _arrives_late(self, asked: ServerRequest) -> None:
        self._handled(asked, lambda wait: None)

    def _handled(self, asked: ServerRequest, wait: Callable[[float], object]) -> ServerReply:
        """What the sandbox's server makes of a request; `wait` is told of each pause it makes in it."""
        handling = RequestDispatcher(self._stage.sandbox).answer_guest(asked)
        with patch.object(asyncio, "sleep", _pause):
            try:
                while True:
                    wait(handling.send(None))
            except StopIteration as stop:
                reply: ServerReply = stop.value
        return reply


class _Line:
    """The service's end of a socket, as its `SocketPeer` knows it."""

    def __init__(self, socket: StageSocket) -> None:
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
        self._socket.strike("cut", 0.0)

    def drop(self) -> None:
        self.reset()


class StageSocket:
    """What `Socket` is to the client, and the way between it and the service's peer.

    `forsaken`: the guest is gone; `left`: and the service knows it.
    """

    def __init__(self, stage: Stage, who: str, request: ServerRequest, api: Api, observer: Observer | None) -> None:
        self.who = who
        self.left = self.forsaken = False
        self._stage, self._time, self._observer = stage, stage.time, observer
        self._frames = Frames()
        self._heard: deque[str | Close | None] = deque()
        self._over: NetworkError | None = None
        self._deaf = self._dumb = False
        self._stalled_until = self._broken_at = -inf
        self.heard_at = self._time.monotonic()
        sandbox = stage.sandbox
        self._guest = GuestSocket(sandbox, api, request, _Line(self))
        self.peer = self._guest.peer
        self._guest.open()

    # --- the way ---

    def up(self, what: Callable[[], None]) -> None:
        """Something for the service."""
        if not self._dumb:
            self._time.later(self._delay(), lambda: None if self.left else what())

    def down(self, what: Callable[[], None]) -> None:
        """Something for the guest."""
        if not self._deaf:
            self._time.later(self._delay(), lambda: None if self._deaf else what())

    def _delay(self) -> float:
        return max(LATENCY, self._stalled_until + LATENCY - self._time.monotonic())

    def arrive(self, data: bytes) -> None:
        self._frames.feed(data)
        while (heard := self._frames.next()) is not None:
            assert isinstance(heard, (str, Close))
            self._heard.append(heard)

    def leave(self, code: int | None) -> None:
        """The service learns that the guest is gone; with a code, after a close frame."""
        if not self.left:
            self.left = True
            self._guest.closed(clean=code is not None)

    def strike(self, how: Break, seconds: float) -> None:
        if how == "cut":
            self._heard.append(None)
            self._deaf = True
            self.leave(None)
        elif how == "fin":
            self.down(lambda: self._heard.append(None))
            self._time.later(LATENCY, lambda: self.leave(None))
        elif how == "late":
            self._heard.append(None)
            self._deaf = self.forsaken = True
            self._stalled_until = self._time.monotonic() + seconds
            self._time.later(seconds + ZOMBIE, lambda: self.leave(None))
        elif how == "stall":
            self._stalled_until = max(self._stalled_until, self._time.monotonic() + seconds)
        else:
            self._deaf = self._deaf or how != "dumb"
            self._dumb = self._dumb or how != "deaf"

    # --- what the client calls ---

    def send(self, text: str, *, deadline: Deadline) -> None:
        if self._over is not None:
            raise NetworkError(self._over.message, close_code=self._over.close_code)
        if None in self._heard:
            raise NetworkError("sending failed (broken pipe)", written=False)
        self.up(lambda: self._guest.receive(text))
        _tell(self._observer, "frame_out")

    def receive(self, timeout: float) -> Frame | None:
        if self._over is not None:
            raise self._over
        if not self._heard and timeout > 0:
            self._time.until(self._time.monotonic() + timeout, lambda: bool(self._heard))
        if not self._heard:
            return None
        heard = self._heard.popleft()
        if isinstance(heard, str):
            self.heard_at = self._time.monotonic()
            _tell(self._observer, "frame_in")
            return Frame(heard, self._time.now())
        code = 1006 if heard is None else heard.code
        self._over = NetworkError(f"the connection ended ({code})", written=True, close_code=code)
        raise self._over

    def ping(self) -> None:
        if self._over is not None:
            raise NetworkError(self._over.message, close_code=self._over.close_code)
        self.up(self._asked)

    def _asked(self) -> None:
        self._time.later(self._stage.sandbox.faults.silence(), lambda: self.down(self._answered))

    def _answered(self) -> None:
        self.heard_at = self._time.monotonic()

    def close(self, code: int = 1000, reason: str = "") -> list[Frame]:
        drained: list[Frame] = []
        until = self._time.monotonic() + 1.0
        try:
            if self._over is None:
                self.up(lambda: self._said_goodbye(code))
            while (left := until - self._time.monotonic()) > 0 and (frame := self.receive(left)) is not None:
                drained.append(frame)
        except NetworkError:
            pass
        self.abort()
        return drained

    def _said_goodbye(self, code: int) -> None:
        self.down(lambda: self._heard.append(Close(code, "")))
        self.leave(code)

    def abort(self) -> None:
        """The guest is gone; the service hears of it, where it can."""
        self._over = self._over or NetworkError("the connection was closed here", written=True, close_code=1006)
        self._deaf = self.forsaken = True
        self._time.later(ZOMBIE if self._dumb else self._delay(), lambda: self.leave(None))


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


def _tell(observer: Observer | None, kind: str) -> None:
    if observer is not None:
        observer(kind, {})
