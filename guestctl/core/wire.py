"""The shape of an exchange between guest and service, without any library.

Knows: what a request, a reply, a frame and a door are, and what a dialect may ask of whoever
performs its flows. Must not know: requests, websocket-client, any dialect, the profile.

A *flow* is a generator: a dialect yields what it wants done (`HttpRequest` over HTTP, `FrameRequest` over the
open socket) and is given the answer. It performs nothing itself, so every flow can be driven by
hand in a test. Use `call` and `turn` with `yield from`: they keep the types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import field
from typing import Any, Literal, TypeAlias, TypeVar

from guestctl.core.errors import Failure, Unreadable
from guestctl.core.model import CredentialKind, Event, Secret
from guestctl.core.values import Json, immutable

T = TypeVar("T")

#: A decoded answer may nest this deep before it is refused (hostile input).
MAX_DEPTH = 100

#: Version ff is forbidden, ids of zeros alone are invalid (W3C Trace Context §3.2).
_TRACE_CONTEXT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Route: TypeAlias = Literal[
    "create",
    "send",
    "history",
    "socket",
    "refresh",
    "typing",
    "upload",
    "download",
    "configuration",
    "oauth",
    "sync",
    "sign-in",
]
"""What a request is for; named in traces and errors."""


def is_trace_context(text: str) -> bool:
    """Whether it can be sent as `traceparent`."""
    return _TRACE_CONTEXT.fullmatch(text) is not None


@immutable
class Request:
    """One HTTP request. `credential` names what authorises it; the performer adds the header.

    `body` is JSON (a dict), a form (when `form` is set) or raw bytes. `idempotent` says whether
    repeating it can do harm; a GET cannot. `public` marks one that must carry no credential.
    """

    method: str
    url: str
    route: Route
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Json = None
    form: Mapping[str, str] | None = None
    content: bytes | None = None
    credential: CredentialKind | None = None
    idempotent: bool = False


@immutable
class HttpResponse:
    """An HTTP answer, read whole. Header names are lower case; `at` is epoch seconds on arrival."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    at: float
    url: str = ""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def text(self) -> str:
        return self.body.decode("utf-8", errors="replace")

    def json(self) -> Json:
        """The body as JSON. Raises Unreadable for anything else (HTML, truncated, too deep)."""
        try:
            text = self.body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Unreadable(f"HTTP {self.status}: the body is not UTF-8", http_status=self.status) from error
        return load_json(text, f"HTTP {self.status} body", status=self.status)

    def object(self) -> dict[str, Json]:
        """The body as a JSON object. Raises Unreadable."""
        value = self.json()
        if not isinstance(value, dict):
            raise Unreadable(
                f"HTTP {self.status}: expected a JSON object, got {type(value).__name__}",
                http_status=self.status,
                body=self.text()[:500],
            )
        return value


def load_json(text: str, what: str, *, status: int | None = None) -> Json:
    """Parse remote JSON. Raises Unreadable, whatever is wrong with it (web: reliability.md §2.5)."""
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(
            f"{what} is not JSON ({error.__class__.__name__})", http_status=status, body=text[:500]
        ) from error
    # Only what has more brackets than that can nest deeper; most answers have not.
    if text.count("{") + text.count("[") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise Unreadable(f"{what} nests deeper than {MAX_DEPTH} levels", http_status=status, body=text[:500])
    return value


def _deeper(value: Json, depth: int) -> bool:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(depth):
        # Spelled out, without a call for each member: a page of history has thousands.
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


#: Made once: `json.loads` would make one for every frame.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


_MISSING = object()


def required(source: Mapping[str, Json], key: str, kind: type[T] | tuple[type[T], ...], what: str) -> T:
    """A required member of an answer, type-checked. Raises Unreadable naming what is wrong."""
    value = source.get(key, _MISSING)
    if value is _MISSING or value is None:
        raise Unreadable(f"{what}: `{key}` is missing", body=json.dumps(source, default=str)[:500])
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Unreadable(f"{what}: `{key}` has the wrong type ({type(value).__name__})")
    return value


def optional(source: Mapping[str, Json], key: str, kind: type[T], default: T | None = None) -> T | None:
    """An optional member of an answer; one of the wrong type counts as absent."""
    value = source.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return default
    return value


@immutable
class Frame:
    """One text message from the socket, and when it arrived (epoch seconds)."""

    text: str
    at: float


@immutable
class SocketAddress:
    """A socket to open: where, with which headers, and which credential goes into `Authorization`."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    credential: CredentialKind | None = None


# --- what a dialect hears on the socket, beyond the events a listener sees ---


@immutable
class Opened:
    """The service confirmed our first frame. `body` is the dialect's to read."""

    body: Mapping[str, Json] = field(default_factory=dict)
    reply_to: str | None = None


@immutable
class Granted:
    """A credential came over the socket. `expires_at` in epoch seconds."""

    kind: CredentialKind
    secret: Secret
    expires_at: float | None
    reply_to: str | None = None


@immutable
class Accepted:
    """The service accepted the message with our `key`, as its own `id`."""

    key: str
    id: str
    time: str | None = None
    sequence: int | None = None


@immutable
class Alive:
    """An application heartbeat was answered. `expires_at`: the session's end, if told."""

    reply_to: str | None = None
    expires_at: float | None = None


@immutable
class Rejection:
    """The service said no inside the stream. `reply_to` names the request, when it said which."""

    failure: Failure
    reply_to: str | None = None


@immutable
class Noted:
    """An answer only the flow that asked understands (a presigned URL, an upload verdict)."""

    label: str
    body: Mapping[str, Json]
    reply_to: str | None = None


Signal: TypeAlias = Opened | Granted | Accepted | Alive | Rejection | Noted
Incoming: TypeAlias = Event | Signal
"""One decoded thing from the socket."""


# --- what a flow may ask for ---


@immutable
class HttpRequest:
    """Ask over HTTP; the answer is a Reply with a 2xx status (anything else is raised)."""

    request: Request


@immutable
class FrameRequest:
    """Say something on the open socket (None: say nothing) and hear until `answers` accepts.

    `answers` sees each decoded thing and returns True for the one awaited; a `Rejection` it does
    not claim passes by. Everything heard also reaches the listener. `patience` in seconds bounds
    the wait below the command's deadline. `message` marks a turn whose frame is a guest message,
    so that a break after the write is *in doubt*. With `answers` None nothing is awaited.
    """

    say: str | None
    answers: Callable[[Incoming], bool] | None
    route: Route
    patience: float | None = None
    message: bool = False


Step: TypeAlias = HttpRequest | FrameRequest
Flow: TypeAlias = Generator[Step, Any, T]


def http_request(request: Request) -> Flow[HttpResponse]:
    """Perform one request and return its reply."""
    reply = yield HttpRequest(request)
    assert isinstance(reply, HttpResponse)
    return reply


def done(value: T) -> Flow[T]:
    """Say nothing: the flow of what is known already."""
    return value
    yield


def frame_request(
    say: Json | None,
    answers: Callable[[Incoming], bool] | None,
    route: Route,
    *,
    patience: float | None = None,
    message: bool = False,
) -> Flow[Incoming | None]:
    """Say one JSON object on the socket and return the answering thing."""
    text = None if say is None else json.dumps(say, ensure_ascii=False, separators=(",", ":"))
    heard = yield FrameRequest(text, answers, route, patience, message)
    return heard  # type: ignore[no-any-return]


def answered(flow: Flow[Incoming | None]) -> Flow[Incoming]:
    """As `turn`, for one that always awaits: raises the failure when the answer is a Rejection."""
    heard = yield from flow
    assert heard is not None
    if isinstance(heard, Rejection):
        raise heard.failure
    return heard
