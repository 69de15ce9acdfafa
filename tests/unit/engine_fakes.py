"""A small service behind a small dialect, to try the client core against faults at exact points.

Knows: the shapes of `wire`, `Dialect` and the transport. Must not know: any real API. The service
keeps the truth (`stored`, in order), so that a test can compare what the client claims with it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, cast

import pytest

from guestctl.core.clock import Deadline, rfc3339
from guestctl.core.errors import Failure, NetworkError, Unreadable
from guestctl.core.model import (
    Credential,
    CredentialKind,
    Event,
    Message,
    NewSession,
    Outgoing,
    Position,
    Profile,
    Secret,
    Session,
    SessionEvent,
    Typing,
    Unknown,
)
from guestctl.core.model import Sender as From
from guestctl.core.values import Json
from guestctl.core.wire import Frame, HttpResponse, Request, SocketAddress, load_json
from guestctl.dialects.base import Dialect, HistoryPage
from guestctl.dialects.capabilities import Ability, Paging, Standing
from guestctl.dialects.flows import Flow, Incoming, Opened, Rejection, answered, frame_request, http_request
from guestctl.engine.connect import open_socket
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.session_socket import SessionSocket
from guestctl.storage.state import State
from guestctl.transport.connector import Connector
from tests.fakes import START, FakeClock

SCOPE = "scope"


def lost(code: int | None = 1006, *, written: bool = True) -> NetworkError:
    return NetworkError("the connection broke", written=written, close_code=code)


class Toy(Dialect):
    """Declares only what is necessary. Tests set the attributes that they need on the instance."""

    name = "toy"
    summary = "for tests"
    abilities = dict.fromkeys(Ability, Standing.ASSUMED)
    paging = Paging.FORWARD
    page_size = 3
    sends_on_socket = True
    socketed = True
    refreshes: CredentialKind | None = "guest"

    def default_rest(self) -> str:
        return "https://toy.example.test"

    def default_socket(self) -> str:
        return "wss://toy.example.test"

    def create(self, new: NewSession) -> Flow[Session]:
        return Session(api=self.name, profile="p")
        yield

    def socket_address(self, session: Session) -> SocketAddress | None:
        return SocketAddress("wss://toy.example.test/") if self.socketed else None

    def attach(
        self, session: Session, *, start_new: NewSession | None = None, traceparent: str | None = None
    ) -> Flow[Session]:
        heard = yield from answered(
            frame_request(
                {"do": "attach", "token": session.token()}, lambda h: isinstance(h, (Opened, Rejection)), "create"
            )
        )
        assert isinstance(heard, Opened)
        return replace(session, state="active", new_session=bool(heard.body.get("new")))

    def refreshable(self, session: Session) -> CredentialKind | None:
        return self.refreshes

    def obtain(self, kind: CredentialKind, session: Session) -> Flow[Session]:
        reply = yield from http_request(
            Request("POST", self.rest("/refresh"), "refresh", credential="guest" if kind == "guest" else None)
        )
        body = reply.object()
        return session.having(Credential(kind, Secret(body["token"]), body.get("expires_at")))

    def send(self, session: Session, message: Outgoing) -> Flow[Message]:
        body = {"key": message.key, "text": message.text}
        if not self.sends_on_socket:
            reply = yield from http_request(
                Request("POST", self.rest("/messages"), "send", json=body, credential="guest", idempotent=False)
            )
            return read(reply.object())
        heard = yield from answered(
            frame_request(
                {"do": "send", **body},
                lambda h: (
                    (isinstance(h, Message) and h.direction == "inbound" and h.key == message.key)
                    or (isinstance(h, Rejection) and h.reply_to == message.key)
                ),
                "send",
                message=True,
            )
        )
        assert isinstance(heard, Message)
        return heard

    def history(self, session: Session, *, after: Position | None, cursor: str | None, limit: int) -> Flow[HistoryPage]:
        query = {"cursor": cursor or "", "after": after.id if after else "", "limit": str(limit)}
        reply = yield from http_request(Request("GET", self.rest("/history"), "history", query=query, idempotent=True))
        body = reply.object()
        return HistoryPage(
            tuple(read(one) for one in body["items"]),
            next=body.get("next"),
            total=body.get("total"),
            anchored=body.get("anchored", True),
        )

    def decode(self, frame: Frame, session: Session) -> Sequence[Incoming]:
        value = load_json(frame.text, "frame")
        kind = value.get("kind")
        if kind == "message":
            return (read(value),)
        if kind == "opened":
            return (Opened(value),)
        if kind == "event":
            return (SessionEvent(value["change"]),)
        if kind == "typing":
            return (Typing(From("bot")),)
        if kind == "unreadable":
            raise Unreadable("nonsense")
        return (Unknown(str(kind), value),)


def read(value: Mapping[str, Json]) -> Message:
    return Message(
        id=value["id"],
        direction=value["direction"],
        text=value["text"],
        time=value.get("time"),
        key=value.get("key"),
        sequence=value.get("sequence"),
    )


class Service:
    """The service. The scripts `sends`, `reads`, `doors` and `refreshes` list failures in order; then nothing fails.

    A send is "ok", "echo_lost" (stored, then the connection breaks), "frame_lost" (breaks, not stored),
    "silent" (nothing comes), "stored_silent", or a Failure to raise without storing it. Times are the
    service's own and never jump.
    """

    def __init__(self, clock: FakeClock, *, numbered: bool = False) -> None:
        self.clock = clock
        self.numbered = numbered
        self.stored: list[dict[str, Json]] = []
        self.sends: deque[str | Failure] = deque()
        self.reads: deque[Failure | None] = deque()
        self.doors: deque[Failure | None] = deque()
        self.refreshes: deque[Failure | HttpResponse] = deque()
        self.sockets: list[FakeSocket] = []
        self.requests: list[tuple[Request, dict[str, str]]] = []
        self.plans: list[tuple[float, Callable[[], object]]] = []
        self.keeps_keys = self.deduplicates = True
        self.by_key: dict[str, dict[str, Json]] = {}
        self.alters: Callable[[str], str] = lambda text: text
        self.bot: Callable[[str], str | None] = lambda text: None
        self.hidden = 0
        #: Seconds until a failing read fails.
        self.silence = 0.0
        self.new_session = False

    # --- stored messages ---

    def store(self, text: str, direction: str = "outbound", key: str | None = None) -> dict[str, Json]:
        number = len(self.stored) + 1
        entry = {
            "kind": "message",
            "id": f"m{number}",
            "direction": direction,
            "text": self.alters(text) if direction == "inbound" else text,
            "time": rfc3339(START + self.clock.monotonic() + number / 1000),
            "key": key,
            "sequence": number if self.numbered else None,
        }
        self.stored.append(entry)
        return entry

    def push(self, text: str, direction: str = "outbound") -> dict[str, Json]:
        """Store a message and deliver it to every open socket."""
        entry = self.store(text, direction)
        self.tell(entry)
        return entry

    def tell(self, *frames: Json) -> None:
        for socket in self.sockets:
            if not socket.gone:
                socket.queue.extend(frames)

    def break_all(self, failure: NetworkError | None = None) -> None:
        for socket in self.sockets:
            if not socket.gone:
                socket.queue.append(failure or lost())

    def texts(self, direction: str = "inbound") -> list[str]:
        return [str(one["text"]) for one in self.stored if one["direction"] == direction]

    def after(self, seconds: float, plan: Callable[[], object]) -> None:
        """Plan an action some seconds from now, while the client waits."""
        self.plans.append((self.clock.monotonic() + seconds, plan))
        self.plans.sort(key=lambda one: one[0])

    # --- what a socket asks ---

    def heard(self, socket: FakeSocket, said: Mapping[str, Json]) -> None:
        if said["do"] == "attach":
            socket.queue.append({"kind": "opened", "new": self.new_session})
            return
        self._send(said, socket)

    def _send(self, said: Mapping[str, Json], socket: FakeSocket | None) -> dict[str, Json] | None:
        what = self.sends.popleft() if self.sends else "ok"
        if isinstance(what, NetworkError):
            raise what
        if isinstance(what, Failure):
            if socket is None:
                raise what
            socket.rejections[said["key"]] = what
            socket.queue.append({"kind": "rejection", "key": said["key"]})
            return None
        entry = None
        if what in {"ok", "echo_lost", "stored_silent"}:
            entry = self.by_key.get(said["key"]) if self.deduplicates else None
            reply = self.bot(said["text"]) if entry is None else None
            if entry is None:
                entry = self.store(said["text"], "inbound", said["key"] if self.keeps_keys else None)
                self.by_key[said["key"]] = entry
            if reply is not None:
                self.after(0.05, lambda: self.push(reply))
        if what in {"echo_lost", "frame_lost"}:
            if socket is None:
                raise lost(None)
            socket.queue.append(lost())
        if what == "ok" and entry is not None:
            self.tell({**entry, "key": said["key"]})
        return entry

    # --- HTTP ---

    def perform(
        self, request: Request, *, headers: Mapping[str, str], deadline: Deadline, progress: object = None
    ) -> HttpResponse:
        self.requests.append((request, dict(headers)))
        if request.route == "send":
            entry = self._send(request.json, None)
            if entry is None:
                raise NetworkError("no answer in time", written=True)
            return self._reply(entry)
        if request.route == "refresh":
            outcome = self.refreshes.popleft()
            if isinstance(outcome, Failure):
                raise outcome
            return outcome
        fault = self.reads.popleft() if self.reads else None
        if fault is not None:
            self.clock.advance(self.silence)
            raise fault
        return self._reply(self._page(request.query))

    def _page(self, query: Mapping[str, str]) -> dict[str, Json]:
        shown = self.stored[: len(self.stored) - self.hidden]
        limit = int(query["limit"])
        if not self.numbered_pages:
            start, anchored = 0, True
            if query["cursor"]:
                start = int(query["cursor"])
            elif query["after"]:
                start = next((n for n, one in enumerate(shown, 1) if one["id"] == query["after"]), 0)
                anchored = start > 0
            items = shown[start : start + limit]
            following = str(start + limit) if start + limit < len(shown) else None
            return {"items": items, "next": following, "anchored": anchored}
        number = int(query["cursor"] or "1")
        end = max(0, len(shown) - (number - 1) * limit)
        return {"items": shown[max(0, end - limit) : end], "total": len(shown)}

    numbered_pages = False

    def _reply(self, body: Json) -> HttpResponse:
        return HttpResponse(200, {}, json.dumps(body).encode(), self.clock.now())

    def close(self) -> None:
        """Do nothing: there is no connection."""

    # --- sockets ---

    def connect(self, url: str, **_: object) -> FakeSocket:
        fault = self.doors.popleft() if self.doors else None
        if fault is not None:
            raise fault
        socket = FakeSocket(self)
        self.sockets.append(socket)
        return socket


class FakeSocket:
    """One connection to the service. Waiting advances the clock and runs the service's plans."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.queue: deque[Json | Failure] = deque()
        self.rejections: dict[str, Failure] = {}
        self.heard_at = service.clock.monotonic()
        self.unanswered = 0
        self.pings: list[float] = []
        self.answers_pings = True
        self.gone = False
        self.closed: tuple[int, str] | None = None
        self.ended: tuple[int, str] | None = None
        self.said: list[Json] = []

    def send(self, text: str, *, deadline: Deadline) -> None:
        if self.gone:
            raise lost(written=False)
        value = json.loads(text)
        self.said.append(value)
        self.service.heard(self, value)

    def receive(self, timeout: float) -> Frame | None:
        clock = self.service.clock
        until = clock.monotonic() + timeout
        while not self.queue:
            if self.gone:
                raise lost()
            plans = self.service.plans
            if plans and plans[0][0] <= until:
                at, plan = plans.pop(0)
                clock.advance(max(0.0, at - clock.monotonic()))
                plan()
                continue
            clock.advance(max(0.0, until - clock.monotonic()))
            return None
        what = self.queue.popleft()
        if isinstance(what, Failure):
            self.gone = True
            raise what
        self.heard_at = clock.monotonic()
        if isinstance(what, str):
            return Frame(what, clock.now())
        return Frame(json.dumps(what), clock.now())

    def arrived(self, most: int) -> list[Frame]:
        frames: list[Frame] = []
        while len(frames) < most and self.queue and not isinstance(self.queue[0], Failure):
            frame = self.receive(0.0)
            assert frame is not None
            frames.append(frame)
        return frames

    def ping(self) -> None:
        self.pings.append(self.service.clock.monotonic())
        self.unanswered += 1
        if self.answers_pings:
            self.unanswered = 0
            self.heard_at = self.service.clock.monotonic()

    def close(self, code: int = 1000, reason: str = "") -> list[Frame]:
        self.closed = self.closed or (code, reason)
        drained = [one for one in self.queue if not isinstance(one, Failure)]
        self.queue.clear()
        self.gone = True
        return [Frame(one if isinstance(one, str) else json.dumps(one), self.service.clock.now()) for one in drained]

    def abort(self) -> None:
        self.gone = True


class RejectingToy(Toy):
    """Decodes a rejection as the failure in the service's script."""

    service: Service

    def decode(self, frame: Frame, session: Session) -> Sequence[Incoming]:
        value = load_json(frame.text, "frame")
        if value.get("kind") == "rejection":
            for socket in self.service.sockets:
                if value["key"] in socket.rejections:
                    return (Rejection(socket.rejections.pop(value["key"]), value["key"]),)
        return super().decode(frame, session)


class World:
    """A session engine with the small dialect and service, and with state in memory."""

    def __init__(self, patch: pytest.MonkeyPatch, **declared: object) -> None:
        self.clock = FakeClock()
        self.service = Service(self.clock)
        self.dialect = RejectingToy(Profile("p", api="toy"), new_id=lambda: "id")
        self.dialect.service = self.service
        for name, value in declared.items():
            setattr(self.dialect, name, value)
        self.service.numbered_pages = self.dialect.paging is Paging.BY_PAGE_NUMBER
        self.service.deduplicates = self.dialect.deduplicates
        self.notices: list[str] = []
        self.state = State.open(None, self.clock, notice=self.notices.append)
        patch.setattr("guestctl.transport.socket.Socket.connect", self.service.connect)
        self.exchange = self.another()

    def another(self, state: State | None = None) -> SessionEngine:
        """Return another client of the same session, like one in another process."""
        held = (state or self.state).get(SCOPE, "default")
        if held is None:
            held = Session(
                api="toy",
                profile="p",
                state="active",
                new_session=False,
                created_at=self.clock.now(),
                credentials={"guest": Credential("guest", Secret("token-of-the-guest"))},
            )
            (state or self.state).put(SCOPE, held)
        exchange = SessionEngine(
            dialect=self.dialect,
            connector=Connector(cast(Any, lambda: None), self.clock, None, cast(Any, self.service)),
            state=state or self.state,
            scope=SCOPE,
            clock=self.clock,
            random=Random(7),
            notice=self.notices.append,
            session=held,
        )

        def attach(deadline: Deadline) -> SessionSocket:
            return open_socket(exchange, deadline)

        exchange.open_socket = attach
        return exchange

    def deadline(self, seconds: float | None = 30.0) -> Deadline:
        return Deadline.after(self.clock, seconds)


def shown(events: Iterable[Event | None]) -> list[str]:
    """Return the texts of the messages among events."""
    return [event.text for event in events if isinstance(event, Message)]
