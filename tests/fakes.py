"""Fakes: a clock, and a driver for a dialect's flow.

Knows: `wire` and `clock`. Must not know: any dialect, any example. `responses` stands in for HTTP services, and the
sandbox for sockets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from guestctl.core.errors import Failure
from guestctl.core.values import Json
from guestctl.core.wire import HttpResponse, Request
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
