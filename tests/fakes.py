"""Fakes: a clock, a scripted transport and sockets, and a driver for a dialect's flow.

Knows: `wire`, `clock` and the interface of the transport. Must not know: any dialect, any example.
Every fake fails on an unexpected call, and on an expected call that never came.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pytest

from guestctl.core.clock import Deadline
from guestctl.core.errors import Failure, NetworkError
from guestctl.core.values import Json
from guestctl.core.wire import Frame, HttpResponse, Request
from guestctl.dialects.flows import Flow, FrameRequest, HttpRequest, Incoming

T = TypeVar("T")

#: 2026-03-04T09:15:27Z
START = 1_772_615_727.0


class FakeClock:
    """A clock that advances only by `sleep` and `advance`. Records the sleeps."""

    def __init__(self, at: float = START) -> None:
        self._epoch = at
        self._elapsed = 0.0
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self._epoch + self._elapsed

    def monotonic(self) -> float:
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"asked to sleep {seconds} s")
        self.sleeps.append(seconds)
        self._elapsed += seconds

    def advance(self, seconds: float) -> None:
        """Advance the time without a sleep."""
        self._elapsed += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock. Monotonic time does not change."""
        self._epoch += seconds


def ids(prefix: int = 0) -> Callable[[], str]:
    """Return a function that makes the same UUIDs in every run: …0001, …0002."""
    made = 0

    def new_id() -> str:
        nonlocal made
        made += 1
        return f"{prefix:08x}-0000-4000-8000-{made:012x}"

    return new_id


def reply(
    status: int = 200, body: Json = None, headers: Mapping[str, str] | None = None, *, at: float = START
) -> HttpResponse:
    """Return an HTTP response. A `str` or `bytes` body is sent as it is, None as an empty body, the rest as JSON."""
    if isinstance(body, str):
        raw = body.encode()
    elif isinstance(body, bytes) or body is None:
        raw = body or b""
    else:
        raw = json.dumps(body).encode()
    return HttpResponse(status, {name.lower(): value for name, value in (headers or {}).items()}, raw, at)


class FlowDriver(Generic[T]):
    """Drives one flow step by step. `step` is the flow's current request, None after its end.

    `result` or `failure` is the outcome. Any other exception is a bug and is raised.
    """

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self.step: HttpRequest | FrameRequest | None = None
        self.result: T | None = None
        self.failure: Failure | None = None
        self._go(lambda: next(flow))

    @property
    def request(self) -> Request:
        """The HTTP request that the flow waits for."""
        assert isinstance(self.step, HttpRequest), f"the flow wants {self.step}, not a request"
        return self.step.request

    @property
    def sent(self) -> Json:
        """The JSON object that the flow sends on the socket; None when it only waits for a frame."""
        assert isinstance(self.step, FrameRequest), f"the flow wants {self.step}, not the socket"
        return None if self.step.text is None else json.loads(self.step.text)

    def answer(self, answer: HttpResponse | Incoming | None) -> None:
        """Answer the current request."""
        assert self.step is not None, "the flow has ended"
        self._go(lambda: self._flow.send(answer))

    def fail(self, failure: Failure) -> None:
        """Let the current request fail."""
        assert self.step is not None, "the flow has ended"
        self._go(lambda: self._flow.throw(failure))

    def receive(self, received: Sequence[Incoming]) -> bool:
        """Deliver received items. Use the first that the flow accepts as its answer; return whether there was one."""
        assert isinstance(self.step, FrameRequest), f"the flow wants {self.step}, not the socket"
        accepts = self.step.answers
        if accepts is None:
            return False
        for one in received:
            if accepts(one):
                self.answer(one)
                return True
        return False

    def time_out(self) -> None:
        """Let the wait time out. Also for a frame that needs no answer."""
        assert isinstance(self.step, FrameRequest)
        assert self.step.answers is None or self.step.timeout is not None, "it waits until it is answered"
        self.answer(None)

    def done(self) -> T:
        """Return the result, or raise the failure of the flow."""
        assert self.step is None, f"the flow still wants {self.step}"
        if self.failure is not None:
            raise self.failure
        return self.result  # type: ignore[return-value]

    def _go(self, resume: Callable[[], HttpRequest | FrameRequest]) -> None:
        try:
            self.step = resume()
        except StopIteration as stop:
            self.step, self.result = None, stop.value
        except Failure as failure:
            self.step, self.failure = None, failure


@dataclass
class _Expected:
    method: str
    url: str
    outcome: HttpResponse | Failure
    headers: Mapping[str, str]
    json: Json


@dataclass
class _Script:
    url: str
    headers: Mapping[str, str]
    lines: deque[tuple[str, Any]] = field(default_factory=deque)
    failure: Exception | None = None


class ScriptedTransport:
    """Checks each request, answers in order, and fails if an expected request never came.

        with ScriptedTransport(clock) as transport:
            transport.expect("GET", "https://api.example.test/x", reply(200, {}))
            transport.expect_socket("wss://…").expects({"action": "…"}).delivers({"class": "…"})
            transport.install(monkeypatch)

    `requests` holds all requests, with the headers as sent. Sockets advance the clock while they wait.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.requests: list[tuple[Request, dict[str, str]]] = []
        self.sockets: list[ScriptedSocket] = []
        self._expected: deque[_Expected] = deque()
        self._expected_sockets: deque[ScriptedSocket] = deque()

    def __enter__(self) -> ScriptedTransport:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: object) -> None:
        if kind is None:
            self.finish()

    def expect(
        self,
        method: str,
        url: str,
        outcome: HttpResponse | Failure,
        *,
        headers: Mapping[str, str] | None = None,
        json: Json = None,
    ) -> None:
        """Expect this request next, with at least these headers and, if given, exactly this JSON body."""
        self._expected.append(_Expected(method, url, outcome, headers or {}, json))

    def expect_socket(
        self, url: str, *, headers: Mapping[str, str] | None = None, failure: Exception | None = None
    ) -> ScriptedSocket:
        """Expect this socket next. `failure`: opening it fails."""
        socket = ScriptedSocket(self.clock, _Script(url, headers or {}, failure=failure))
        self._expected_sockets.append(socket)
        return socket

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Replace the client's transport."""
        patch.setattr("guestctl.transport.http.Http", lambda *args, **options: self)
        patch.setattr("guestctl.transport.socket.Socket.connect", self.connect)

    def finish(self) -> None:
        """Fail if something expected never came."""
        left = [f"{one.method} {one.url}" for one in self._expected] + [
            f"socket {one.script.url}" for one in self._expected_sockets
        ]
        left += [f"on {one.script.url}: {line}" for one in self.sockets for line in one.script.lines]
        assert not left, f"expected, but never requested: {left}"

    # --- what the client calls ---

    def perform(
        self, request: Request, *, headers: Mapping[str, str], deadline: Deadline, progress: object = None
    ) -> HttpResponse:
        sent = {**request.headers, **headers}
        self.requests.append((request, sent))
        assert self._expected, f"unexpected request: {request.method} {request.url}"
        due = self._expected.popleft()
        assert (request.method, request.url) == (due.method, due.url)
        for name, value in due.headers.items():
            assert sent.get(name) == value, f"header {name}: {sent.get(name)!r} instead of {value!r}"
        if due.json is not None:
            assert request.json == due.json
        if isinstance(due.outcome, Failure):
            raise due.outcome
        return due.outcome

    def download(
        self,
        request: Request,
        *,
        headers: Mapping[str, str],
        deadline: Deadline,
        write: Callable[[bytes], object],
        limit: int,
        progress: object = None,
    ) -> HttpResponse:
        answer = self.perform(request, headers=headers, deadline=deadline)
        if answer.ok:
            assert len(answer.body) <= limit
            write(answer.body)
        return answer

    def connect(self, url: str, *, headers: Mapping[str, str], **options: object) -> ScriptedSocket:
        assert self._expected_sockets, f"unexpected socket: {url}"
        socket = self._expected_sockets.popleft()
        assert url == socket.script.url
        for name, value in socket.script.headers.items():
            assert headers.get(name) == value, f"header {name}: {headers.get(name)!r} instead of {value!r}"
        if socket.script.failure is not None:
            raise socket.script.failure
        self.sockets.append(socket)
        return socket

    def close(self) -> None:
        """Do nothing: a fake has no connections."""


class ScriptedSocket:
    """A socket that follows a script: `expects` names the next frame of the client, `delivers` frames for it."""

    def __init__(self, clock: FakeClock, script: _Script) -> None:
        self.clock = clock
        self.script = script
        self.heard_at = clock.monotonic()
        self.pings = 0
        self.sent: list[Json] = []
        self.closed: tuple[int, str] | None = None

    def expects(self, expected: Json | Callable[[Json], bool]) -> ScriptedSocket:
        """Expect this frame next: an object whose members must all be present, or a predicate."""
        self.script.lines.append(("expects", expected))
        return self

    def delivers(self, *frames: Json | Callable[[list[Json]], Json]) -> ScriptedSocket:
        """Deliver frames: a text as it is, an object as JSON, or the result of a function of the frames sent so far."""
        self.script.lines.extend(("delivers", frame) for frame in frames)
        return self

    def breaks(self, failure: NetworkError) -> ScriptedSocket:
        """Lose the connection at this point."""
        self.script.lines.append(("breaks", failure))
        return self

    def send(self, text: str, *, deadline: Deadline) -> None:
        value = json.loads(text)
        self.sent.append(value)
        due = self.script.lines.popleft() if self.script.lines else None
        assert due is not None, f"unexpected frame: {value}"
        assert due[0] == "expects", f"unexpected frame: {value}; {due} was due"
        if callable(due[1]):
            assert due[1](value), f"not the frame that was due: {value}"
        else:
            assert {key: value.get(key) for key in due[1]} == due[1]

    def receive(self, timeout: float) -> Frame | None:
        kind: str
        what: Any
        kind, what = self.script.lines[0] if self.script.lines else ("", None)
        if kind == "breaks":
            self.script.lines.popleft()
            raise what
        if kind != "delivers":
            self.clock.advance(timeout)
            return None
        self.script.lines.popleft()
        frame = what(self.sent) if callable(what) else what
        self.heard_at = self.clock.monotonic()
        return Frame(frame if isinstance(frame, str) else json.dumps(frame), self.clock.now())

    def ping(self) -> None:
        self.pings += 1

    def close(self, code: int = 1000, reason: str = "") -> list[Frame]:
        self.closed = (code, reason)
        return []

    def abort(self) -> None:
        self.closed = self.closed or (1006, "")
