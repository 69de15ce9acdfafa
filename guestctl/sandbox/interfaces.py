"""What passes between the server and a api: requests, replies, sockets, routes.

Knows: the shape of an HTTP exchange and of a socket, and what a api offers. Must not know: the
server library, any dialect, what is true in the service.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol, TypeAlias
from urllib.parse import unquote
from uuid import uuid4

from guestctl.sandbox.service_state import ApiCallbacks, Conversation, dumps

Handler: TypeAlias = "Callable[[ServerRequest], ServerReply]"


@dataclass(slots=True)
class ServerRequest:
    """One request of a guest, or the request that asks for an upgrade. Header names are lower case.

    `base` and `socket_base` are our own address as this client wrote it. A api sets `conversation`
    so that the request is booked to it. `lag` is how many seconds history is behind.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    base: str
    socket_base: str
    params: Mapping[str, str] = field(default_factory=dict)
    conversation: Conversation | None = None
    lag: float = 0.0

    @property
    def origin(self) -> str | None:
        return self.headers.get("origin")

    @property
    def bearer(self) -> str | None:
        """The token of `Authorization: Bearer ...`; the scheme's case does not matter."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" and token.strip() else None

    def json(self) -> Any:
        """The body. Raises ValueError."""
        return decode(self.body)


@dataclass(slots=True)
class ServerReply:
    """What is answered. `body` is sent as it is."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, status: int, value: Any, **headers: str) -> ServerReply:
        return cls(status, dumps(value).encode(), {"Content-Type": "application/json", **headers})


class RequestRefused(Exception):
    """Raised by a handler to answer at once."""

    def __init__(self, reply: ServerReply) -> None:
        super().__init__(reply.status)
        self.reply = reply


#: HTTP status -> `code` of the error body
_CODES = {
    400: "bad.request",
    401: "bad.credentials",
    403: "forbidden",
    404: "not.found",
    405: "method.not.allowed",
    409: "session.locked",
    413: "request.too.large",
    415: "unsupported.media.type",
    421: "misdirected.request",
    429: "too.many.requests",
}
_MESSAGES = {
    401: "The token is invalid or expired.",
    409: "The session is locked; try again shortly.",
    429: "Rate limit exceeded.",
}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # a fault may ask for any number
        return f"Status {status}"


def error(status: int, message: str | None = None, code: str | None = None, **headers: str) -> ServerReply:
    """The error body all REST families share (web-messaging.md §7.1)."""
    body = {
        "message": message or _MESSAGES.get(status) or _phrase(status),
        "code": code or _CODES.get(status, "internal.server.error" if status >= 500 else "bad.request"),
        "status": status,
        "contextId": str(uuid4()),
        "details": [],
        "errors": [],
    }
    return ServerReply.json(status, body, **headers)


class Peer(Protocol):
    """One open socket of a guest. `note` belongs to the api that opened it."""

    state: Any
    request: ServerRequest

    @property
    def open(self) -> bool:
        """False once closing has begun on either side."""

    def send(self, text: str, route: str | None = None) -> None:
        """One complete text frame; `route` is the action it answers, None for a push."""

    def close(self, code: int = 1000, reason: str = "") -> None:
        """A close frame with any code; 1005 sends none, 1006 breaks the connection."""

    def abort(self) -> None:
        """Break the connection (RST)."""


@dataclass(frozen=True, slots=True)
class Route:
    """One REST operation. `name` is what faults call it (`send`, `history`, …), None when they cannot;
    where one address does two things, the request says which.

    `{part}` in a pattern is one path segment, found in `HttpRequest.params`. `any_origin` marks what
    every web page may read (public configuration, presigned addresses).
    """

    method: str
    pattern: str
    name: str | Callable[[ServerRequest], str] | None
    handle: Handler
    any_origin: bool = False
    large: bool = False  # takes files
    counted: bool = True  # False: public configuration, outside faults and reports

    def name_of(self, request: ServerRequest) -> str | None:
        return self.name(request) if callable(self.name) else self.name


@dataclass(frozen=True, slots=True)
class SocketRoute:
    """One socket address. `admit` returns the refusal, or None to let the guest in."""

    pattern: str
    admit: Callable[[ServerRequest], ServerReply | None]


class Api(ApiCallbacks, Protocol):
    """One dialect over the service."""

    name: str

    def routes(self) -> Sequence[Route]: ...

    def socket_routes(self) -> Sequence[SocketRoute]: ...

    def opened(self, peer: Peer) -> None: ...

    def received(self, peer: Peer, text: str) -> None: ...

    def closed(self, peer: Peer, clean: bool) -> None:
        """The socket is gone. `clean` is true after a close frame from either side."""


def decode(text: str | bytes) -> Any:
    """JSON from a guest. Raises ValueError for what is not JSON, nests too deep, or cannot be written as UTF-8."""
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value = _DECODER.decode(text)
        # A lone surrogate can only come from an escape, so most texts need no second look.
        if "\\u" in text:
            dumps(value).encode()
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


class Table:
    """Finds a route or a door by path."""

    def __init__(self) -> None:
        self._routes: list[tuple[re.Pattern[str], Route, Api]] = []
        self._socket_routes: list[tuple[re.Pattern[str], SocketRoute, Api]] = []
        self._exact: dict[tuple[str, str], tuple[Route, Api]] = {}

    def add(self, api: Api) -> None:
        for route in api.routes():
            if "{" in route.pattern:
                self._routes.append((_compiled(route.pattern), route, api))
            else:
                self._exact.setdefault((route.method, route.pattern), (route, api))
        for door in api.socket_routes():
            self._socket_routes.append((_compiled(door.pattern), door, api))

    def route(self, method: str, path: str) -> tuple[Route, Api, Mapping[str, str]] | None:
        exact = self._exact.get((method, path))
        if exact is not None:
            return (*exact, {})
        for pattern, route, api in self._routes:
            if route.method == method and (found := pattern.fullmatch(path)):
                return route, api, _params(found)
        return None

    def methods(self, path: str) -> list[str]:
        """What can be done at a path; empty when nothing is there."""
        exact = [method for method, known in self._exact if known == path]
        return sorted({*exact, *(route.method for pattern, route, _ in self._routes if pattern.fullmatch(path))})

    def socket_route(self, path: str) -> tuple[SocketRoute, Api, Mapping[str, str]] | None:
        for pattern, door, api in self._socket_routes:
            if found := pattern.fullmatch(path):
                return door, api, _params(found)
        return None


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(pattern)))


def _params(found: re.Match[str]) -> dict[str, str]:
    return {name: unquote(value) for name, value in found.groupdict().items()}
