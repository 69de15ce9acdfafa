"""What the server and an API exchange: requests, replies, sockets, routes.

Knows: the shape of a request and of a socket, and what an API offers. Must not know: the server library, any one API,
the state of the service.
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
    """One request of a guest, or the request for an upgrade. Header names are in lower case.

    `base` and `socket_base` are the sandbox's addresses as this client wrote them. An API sets `conversation` so that
    the request is counted there. `lag` is how many seconds history is behind.
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
        """The token of `Authorization: Bearer …`. The case of the scheme does not matter."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" and token.strip() else None

    def json(self) -> Any:
        """Return the body. Raises ValueError."""
        return decode(self.body)


@dataclass(slots=True)
class ServerReply:
    """One reply. `body` is sent as it is."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, status: int, value: Any, **headers: str) -> ServerReply:
        return cls(status, dumps(value).encode(), {"Content-Type": "application/json", **headers})


class RequestRefused(Exception):
    """Raised by a route's handler to send this reply at once."""

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
    except ValueError:  # a fault may use any number
        return f"Status {status}"


def error(status: int, message: str | None = None, code: str | None = None, **headers: str) -> ServerReply:
    """Return an error reply with the body that all REST APIs share (web-messaging.md §7.1)."""
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
    """One open socket of a guest. `state` belongs to the API that serves it."""

    state: Any
    request: ServerRequest

    @property
    def open(self) -> bool:
        """False once either side has begun to close."""

    def send(self, text: str, route: str | None = None) -> None:
        """Send one text frame. `route` is the action that it answers; None for a push."""

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame with any code. 1005 sends one without a status; 1006 resets the connection."""

    def abort(self) -> None:
        """Reset the connection (RST)."""


@dataclass(frozen=True, slots=True)
class Route:
    """One REST operation.

    `name` is its name in fault specs (`send`, `history`, …), or a function of the request where one address does two
    things. None: no fault affects it. `{part}` in a pattern is one path segment, passed in `ServerRequest.params`, and
    `{part*}` is any number of them.
    `any_origin` marks what every web page may read: public configuration, presigned addresses.
    """

    method: str
    pattern: str
    name: str | Callable[[ServerRequest], str] | None
    handle: Handler
    any_origin: bool = False
    check: Callable[[ServerRequest], ServerReply | None] | None = None
    large: bool = False  # accepts files
    counted: bool = True  # False: public configuration; not counted, and no fault affects it

    def name_of(self, request: ServerRequest) -> str | None:
        return self.name(request) if callable(self.name) else self.name


@dataclass(frozen=True, slots=True)
class SocketRoute:
    """One socket address. `admit` returns the reply that refuses an upgrade, or None to accept it."""

    pattern: str
    admit: Callable[[ServerRequest], ServerReply | None]


class Api(ApiCallbacks, Protocol):
    """One API of the service."""

    name: str

    def routes(self) -> Sequence[Route]: ...

    def socket_routes(self) -> Sequence[SocketRoute]: ...

    def route_of(self, text: str) -> str | None:
        """Return the action in `faults.ON` that a guest's frame asks for, None if it asks for none of them."""

    def opened(self, peer: Peer) -> None: ...

    def received(self, peer: Peer, text: str) -> None: ...

    def closed(self, peer: Peer, clean: bool) -> None:
        """The connection has ended. `clean` is true if either side sent a close frame."""


def decode(text: str | bytes) -> Any:
    """Parse JSON from a guest. Raises ValueError if it is invalid, nested too deep, or not representable in UTF-8."""
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value = _DECODER.decode(text)
        # A lone surrogate can only come from an escape, so most texts need no second check.
        if "\\u" in text:
            dumps(value).encode()
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


class Table:
    """Finds a REST route or a socket route by its path."""

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
        """Return the methods of a path; empty if the path is unknown."""
        exact = [method for method, known in self._exact if known == path]
        return sorted({*exact, *(route.method for pattern, route, _ in self._routes if pattern.fullmatch(path))})

    def socket_route(self, path: str) -> tuple[SocketRoute, Api, Mapping[str, str]] | None:
        for pattern, door, api in self._socket_routes:
            if found := pattern.fullmatch(path):
                return door, api, _params(found)
        return None


def _compiled(pattern: str) -> re.Pattern[str]:
    segments = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(pattern))
    return re.compile(re.sub(r"\\{(\w+)\\\*\\}", r"(?P<\1>.*)", segments))


def _params(found: re.Match[str]) -> dict[str, str]:
    return {name: unquote(value) for name, value in found.groupdict().items()}
