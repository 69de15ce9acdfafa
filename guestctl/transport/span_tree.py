"""The spans of a command: what it did, as a tree, in the terms of OpenTelemetry.

Knows: which event of the observer begins, describes and ends which span. Must not know: OpenTelemetry's packages, any
API, how spans are exported. So the tree of a recorded trace is made in the same way as that of a running command.

    guestctl send                     the command, or a scenario of `check`
    ├── turn                          one guest message and its replies; events: write, accepted, first_reply, reply
    │   ├── websocket                 a connection, from its beginning to its end
    │   │   ├── connect               resolving the name, TCP and TLS
    │   │   ├── upgrade
    │   │   └── configure             until the service has confirmed the session
    │   └── POST send                 a request
    └── GET history

A connection and a request belong to the turn in which they begin, or to the command. Every connection after the first
links to the last one that the service had accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random, SystemRandom
from typing import Any, Literal, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from guestctl.core.model import TraceContext

Value: TypeAlias = str | bool | int | float
"""The value of an attribute."""

#: Events of one span. A turn with more replies counts the others only.
MOST_EVENTS = 128
#: Query parameters whose values are no secrets. The others are masked.
_OPEN_PARAMETERS = frozenset(
    {
        "application",
        "deploymentid",
        "pagesize",
        "pagenumber",
        "pagetoken",
        "limit",
        "after",
        "before",
        "since",
        "sequence",
        "cursor",
    }
)
_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@dataclass
class SpanEvent:
    """Something that happened at one moment of a span. `time` is in epoch seconds."""

    name: str
    time: float
    attributes: dict[str, Value]


@dataclass
class Span:
    """One span. `start` and `end` are in epoch seconds, ids are hexadecimal.

    `parent_id` is None for the first span of a trace. `links` are ids of spans in the same trace. `error` is the type
    of the failure (`error.type`), None for success. `sampled` is False for a trace that is not to be exported, and
    `trace_state` is the `tracestate` of the context above.
    """

    name: str
    kind: Literal["internal", "client"]
    trace_id: str
    span_id: str
    parent_id: str | None
    start: float
    end: float = 0.0
    attributes: dict[str, Value] = field(default_factory=dict)
    events: list[SpanEvent] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    error: str | None = None
    sampled: bool = True
    trace_state: str | None = None


class SpanTree:
    """Makes the spans of one command, or of one scenario. It is the observer of one client.

    `now` returns the time in epoch seconds. `finished` receives each span when it ends: first the inner ones.
    `sampled` decides by its id whether a new trace is exported. `text` masks the secrets of a text for `guestctl.text`;
    without it, no text of a message becomes part of a span.
    """

    def __init__(
        self,
        name: str,
        *,
        now: Callable[[], float],
        finished: Callable[[Span], object],
        attributes: Mapping[str, Value] | None = None,
        sampled: Callable[[str], bool] = lambda trace_id: True,
        text: Callable[[str], str] | None = None,
        random: Random | None = None,
    ) -> None:
        self._name = name
        self._now = now
        self._started_at = now()
        self._finished = finished
        self._attributes = dict(attributes or {})
        self._sampled = sampled
        self._text = text
        self._random = random or SystemRandom()
        self._flags = "01"
        self._state: str | None = None
        self._root: Span | None = None
        #: The id that the next request or connection was promised by `next`.
        self._promised: str | None = None
        self._turn: Span | None = None
        self._turn_key: object = None
        #: When the last thing happened in the turn. A turn ends there, and not when the next one begins.
        self._turn_active_at = 0.0
        self._replies = 0
        self._request: Span | None = None
        self._requested: tuple[object, object] | None = None
        self._resent = 0
        self._socket: Span | None = None
        #: The step of opening it: connect, upgrade or configure.
        self._step: Span | None = None
        self._close_code: int | None = None
        #: The last connection that the service accepted, or else the last attempt; and whether it was accepted.
        self._earlier: str | None = None
        self._accepted = False

    # --- the context ---

    def begin(self, context: TraceContext | None, *, root: bool = False) -> TraceContext:
        """Begin the first span below `context`, or in a new trace, unless it has begun. Return its context.

        `root`: only the trace is that of the context, and no span is above the first one.
        """
        if self._root is None:
            trace_id, parent = (self._id(128), None) if context is None else context.traceparent.split("-")[1:3]
            if context is None:
                self._flags = "01" if self._sampled(trace_id) else "00"
            else:
                self._flags, self._state = context.traceparent.split("-")[3], context.tracestate
            above = None if root else parent
            self._root = Span(self._name, "internal", trace_id, self._id(64), above, self._started_at)
            self._root.attributes.update(self._attributes)
            self._root.sampled, self._root.trace_state = bool(int(self._flags, 16) & 1), self._state
        return self._context(self._root.span_id)

    def next(self) -> TraceContext:
        """Return the context that the next request, or the next connection, sends. Its span gets that id."""
        self.begin(None)
        self._promised = self._id(64)
        return self._context(self._promised)

    def _context(self, span_id: str) -> TraceContext:
        assert self._root is not None
        return TraceContext(f"00-{self._root.trace_id}-{span_id}-{self._flags}", self._state)

    def _id(self, bits: int) -> str:
        return f"{self._random.getrandbits(bits) or 1:0{bits // 4}x}"

    # --- the observer ---

    def __call__(self, kind: str, data: Mapping[str, Any]) -> None:
        """Note an event of the client (see `network.Observer`)."""
        handler: Callable[[Mapping[str, Any]], None] | None = getattr(self, f"_on_{kind}", None)
        if handler is not None:
            self.begin(None)
            handler(data)

    def end(self, *, error: str | None = None, attributes: Mapping[str, Value] | None = None) -> None:
        """End everything that has not ended. `error` is the failure with which the command ends."""
        self.begin(None)
        assert self._root is not None
        self._end_request("unfinished")
        self._end_socket("unfinished")
        self._end_turn()
        self._root.attributes.update(attributes or {})
        self._end(self._root, error)

    # --- requests ---

    def _on_request(self, data: Mapping[str, Any]) -> None:
        self._end_request("unfinished")
        method, route = str(data.get("method", "")), str(data.get("route", ""))
        wanted = (method, data.get("url"))
        self._resent = self._resent + 1 if wanted == self._requested else 0
        self._requested = wanted
        self._request = self._client_span(f"{method} {route}".strip(), data, _header(data.get("headers")))
        self._request.attributes |= {"http.request.method": method, "network.protocol.name": "http"}
        if route:
            self._request.attributes["guestctl.route"] = route
        if self._resent:
            self._request.attributes["http.request.resend_count"] = self._resent

    def _on_response(self, data: Mapping[str, Any]) -> None:
        if self._request is not None and isinstance(data.get("status"), int):
            status = int(data["status"])
            self._request.attributes["http.response.status_code"] = status
            self._end_request(None if status < 400 else str(status))
            if status < 400:
                self._requested = None

    def _on_lost(self, data: Mapping[str, Any]) -> None:
        self._end_request(str(data.get("code") or "lost"))

    def _end_request(self, error: str | None) -> None:
        if self._request is not None:
            span, self._request = self._request, None
            self._end(span, error)

    def _on_retry(self, data: Mapping[str, Any]) -> None:
        self._note("retry", {"guestctl.route": str(data.get("route")), "guestctl.wait": _number(data.get("wait"))})

    # --- connections ---

    def _on_connect(self, data: Mapping[str, Any]) -> None:
        self._end_socket("unfinished")
        self._socket = self._client_span("websocket", data, data.get("traceparent"))
        self._socket.attributes["network.protocol.name"] = "websocket"
        if self._earlier is not None:
            self._socket.links.append(self._earlier)
        self._close_code = None
        self._begin_step("connect")

    def _on_connected(self, data: Mapping[str, Any]) -> None:
        if self._socket is not None:
            if data.get("address"):
                self._socket.attributes |= {
                    "network.peer.address": str(data["address"]),
                    "network.peer.port": int(data.get("port") or 0),
                }
            self._begin_step("upgrade")

    def _on_upgrade(self, data: Mapping[str, Any]) -> None:
        if self._socket is None:
            return
        if self._step is not None and self._step.name == "connect":
            self._begin_step("upgrade")  # a trace of an earlier version has no `connected`
        status = data.get("status")
        if isinstance(status, int):
            self._socket.attributes["http.response.status_code"] = status
        if status == 101:
            self._begin_step("configure")
        else:
            self._end_step(str(status))

    def _on_attached(self, data: Mapping[str, Any]) -> None:
        self._end_step(None)

    def _on_close(self, data: Mapping[str, Any]) -> None:
        """The side that closes first chooses the code; the answer to it says nothing new."""
        if self._socket is not None and self._close_code is None and data.get("code") is not None:
            self._close_code = int(data["code"])
            self._socket.attributes["guestctl.close.code"] = self._close_code
            self._socket.attributes["guestctl.close.by"] = "service" if data.get("direction") == "in" else "guest"

    def _on_closed(self, data: Mapping[str, Any]) -> None:
        by_guest = self._socket is not None and self._socket.attributes.get("guestctl.close.by") == "guest"
        error, code = data.get("error"), data.get("code") if self._close_code is None else self._close_code
        if error is None and not by_guest and code not in {None, 1000}:
            error = str(code)
        self._end_socket(None if error is None else str(error))

    def _end_socket(self, error: str | None) -> None:
        if self._socket is not None:
            span, self._socket = self._socket, None
            accepted = span.attributes.get("http.response.status_code") == 101
            if accepted or not self._accepted:
                self._earlier, self._accepted = span.span_id, accepted
            self._end_step(error)
            self._end(span, error)

    def _begin_step(self, name: str) -> None:
        self._end_step(None)
        assert self._socket is not None
        self._step = self._span(name, "client", self._socket)

    def _end_step(self, error: str | None) -> None:
        if self._step is not None:
            span, self._step = self._step, None
            self._end(span, error)

    # --- turns ---

    def _on_turn(self, data: Mapping[str, Any]) -> None:
        event, key = data.get("event"), data.get("key")
        if event == "begin":
            if self._turn is None or key != self._turn_key:
                self._end_turn()
                assert self._root is not None
                self._turn, self._turn_key = self._span("turn", "internal", self._root), key
                self._turn.attributes["guestctl.message.key"] = str(key)
                self._replies = 0
                self._turn_active_at = self._turn.start
            for name, attribute in (("api", "guestctl.api"), ("conversation", "guestctl.conversation.id")):
                if data.get(name):
                    self._turn.attributes[attribute] = str(data[name])
        elif event == "reply":
            self._reply(data)
        elif self._turn is None or key != self._turn_key:
            self._note(f"earlier message {event}", {"guestctl.message.key": str(key)})
        elif event == "write":
            self._note("write", self._content(data))
        else:
            self._outcome(str(event), data)

    def _reply(self, data: Mapping[str, Any]) -> None:
        if self._turn is None:
            assert self._root is not None
            count = self._root.attributes.get("guestctl.messages", 0)
            self._root.attributes["guestctl.messages"] = int(count) + 1
            return
        self._replies += 1
        self._turn.attributes["guestctl.replies"] = self._replies
        found = {"guestctl.message.id": str(data.get("id")), **self._content(data)}
        self._note("first_reply" if self._replies == 1 else "reply", found)

    def _outcome(self, delivery: str, data: Mapping[str, Any]) -> None:
        assert self._turn is not None
        if self._turn.attributes.get("guestctl.delivery") == delivery:
            return
        self._turn.attributes["guestctl.delivery"] = delivery
        found: dict[str, Value] = {}
        if data.get("id"):
            found["guestctl.message.id"] = self._turn.attributes["guestctl.message.id"] = str(data["id"])
        self._turn.error = None if delivery == "accepted" else f"send.{delivery}"
        self._note(delivery, found)

    def _end_turn(self) -> None:
        if self._turn is not None:
            span, self._turn = self._turn, None
            self._end(span, span.error, at=max(span.start, self._turn_active_at))

    def _content(self, data: Mapping[str, Any]) -> dict[str, Value]:
        if self._text is None or not data.get("text"):
            return {}
        return {"guestctl.text": self._text(str(data["text"]))}

    # --- spans ---

    def _note(self, name: str, attributes: dict[str, Value]) -> None:
        """Add an event to the turn, or to the command."""
        span = self._turn or self._root
        assert span is not None
        self._turn_active_at = now = self._now()
        if len(span.events) < MOST_EVENTS:
            span.events.append(SpanEvent(name, now, attributes))

    def _client_span(self, name: str, data: Mapping[str, Any], traceparent: object) -> Span:
        """Begin the span of a request or a connection. It has the id in the context that it sends, if that is ours."""
        parent = self._turn or self._root
        assert parent is not None
        span = self._span(name, "client", parent)
        self._turn_active_at = span.start
        if self._promised is not None and str(traceparent).split("-")[2:3] == [self._promised]:
            span.span_id, self._promised = self._promised, None
        parts = urlsplit(str(data.get("url", "")))
        span.attributes |= {"url.full": public_url(parts.geturl()), "server.address": parts.hostname or ""}
        port = parts.port or _PORTS.get(parts.scheme)
        if port is not None:
            span.attributes["server.port"] = port
        return span

    def _span(self, name: str, kind: Literal["internal", "client"], parent: Span) -> Span:
        made = Span(name, kind, parent.trace_id, self._id(64), parent.span_id, self._now())
        made.sampled, made.trace_state = parent.sampled, parent.trace_state
        return made

    def _end(self, span: Span, error: str | None, *, at: float | None = None) -> None:
        span.end = max(span.start, self._now() if at is None else at)
        if span.kind == "client" and span.name != "websocket":
            self._turn_active_at = max(self._turn_active_at, span.end)
        if error is not None:
            span.error = error
            span.attributes["error.type"] = error
        self._finished(span)


def public_url(url: str) -> str:
    """Return an address without user, password and fragment. Values of its query that may be secrets are masked."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    pairs = [
        (name, value if name.lower() in _OPEN_PARAMETERS else "REDACTED")
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return urlunsplit((parts.scheme, place, parts.path, urlencode(pairs), ""))


def _header(headers: object) -> str | None:
    """Return the `traceparent` among the headers of a request."""
    if not isinstance(headers, Mapping):
        return None
    return next((str(value) for name, value in headers.items() if str(name).lower() == "traceparent"), None)


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
