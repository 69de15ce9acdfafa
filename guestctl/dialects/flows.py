"""The vocabulary in which a dialect and the engine talk to each other.

Knows: the steps that a flow may ask for, and the signals that a decoded frame may carry. Must not know:
HTTP or WebSocket libraries, any API.

A *flow* is a generator. A dialect yields what it wants done (`HttpRequest` over HTTP, `FrameRequest` on the
open socket), the engine performs it and sends the answer back into the generator. A flow does no I/O itself,
so a test can drive every flow by hand. Call `http_request` and `frame_request` with `yield from`: they keep
the types.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import field
from typing import Any, TypeAlias, TypeVar

from guestctl.core.errors import Failure
from guestctl.core.model import CredentialKind, Event, Secret
from guestctl.core.values import Json, immutable
from guestctl.core.wire import HttpResponse, Request, Route

T = TypeVar("T")

# --- signals: what a frame may mean besides the events that a listener prints ---


@immutable
class Opened:
    """The service confirmed the attach. Only the dialect can read `body`."""

    body: Mapping[str, Json] = field(default_factory=dict)
    reply_to: str | None = None


@immutable
class Granted:
    """The service issued a credential over the socket. `expires_at` is in epoch seconds."""

    kind: CredentialKind
    secret: Secret
    expires_at: float | None
    reply_to: str | None = None


@immutable
class Accepted:
    """The service accepted the message that has our client `key`, and gave it the service id `id`."""

    key: str
    id: str
    time: str | None = None
    sequence: int | None = None


@immutable
class Alive:
    """The service answered a heartbeat. `expires_at` is the end of the session, if the answer contains it."""

    reply_to: str | None = None
    expires_at: float | None = None


@immutable
class Rejection:
    """The service refused a request on the socket. `reply_to` is the request's id, if the refusal contains it."""

    failure: Failure
    reply_to: str | None = None


@immutable
class FlowAnswer:
    """An answer that only the requesting flow can read (a presigned URL, the outcome of an upload)."""

    label: str
    body: Mapping[str, Json]
    reply_to: str | None = None


Signal: TypeAlias = Opened | Granted | Accepted | Alive | Rejection | FlowAnswer
Incoming: TypeAlias = Event | Signal
"""One decoded event or signal from the socket."""


# --- steps: what a flow may ask for ---


@immutable
class HttpRequest:
    """Perform an HTTP request. The answer is an `HttpResponse` with a 2xx status; any other status raises."""

    request: Request


@immutable
class FrameRequest:
    """Send one frame on the open socket and receive until `answers` returns True.

    `text` is the frame; None sends nothing. `answers` sees each `Incoming` and returns True for the awaited
    one; with None, the step does not wait. A `Rejection` that `answers` does not claim does not end the wait.
    The listener sees everything that is received. `timeout` (seconds) limits the wait in addition to the
    command's deadline. `message` marks a frame that carries a guest message: if the connection breaks after
    the write, that message is in doubt.
    """

    text: str | None
    answers: Callable[[Incoming], bool] | None
    route: Route
    timeout: float | None = None
    message: bool = False


Step: TypeAlias = HttpRequest | FrameRequest
Flow: TypeAlias = Generator[Step, Any, T]


def http_request(request: Request) -> Flow[HttpResponse]:
    """Perform one HTTP request and return its response."""
    response = yield HttpRequest(request)
    assert isinstance(response, HttpResponse)
    return response


def done(value: T) -> Flow[T]:
    """Return a known value without performing any step."""
    return value
    yield


def frame_request(
    frame: Json | None,
    answers: Callable[[Incoming], bool] | None,
    route: Route,
    *,
    timeout: float | None = None,
    message: bool = False,
) -> Flow[Incoming | None]:
    """Send one JSON object on the socket and return what `answers` accepts (see `FrameRequest`)."""
    text = None if frame is None else json.dumps(frame, ensure_ascii=False, separators=(",", ":"))
    answer = yield FrameRequest(text, answers, route, timeout, message)
    return answer  # type: ignore[no-any-return]


def answered(flow: Flow[Incoming | None]) -> Flow[Incoming]:
    """Return the answer of a `frame_request` that waits for one. Raises the failure of a `Rejection`."""
    answer = yield from flow
    assert answer is not None
    if isinstance(answer, Rejection):
        raise answer.failure
    return answer
