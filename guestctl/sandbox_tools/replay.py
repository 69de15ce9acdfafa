"""Serves a trace: a service that repeats what the recorded one sent.

Knows: the content of a trace, how a guest's actions are matched with recorded ones, and the sandbox's interfaces. Must
not know: the wire of any API, the server library, the command line.

The rules:

- An *action* is what the guest does: a request, an upgrade or a frame. A request matches a recorded one with the same
  method and path, an upgrade one with the same path, a frame one with the same `action` or `type` and the same kind of
  event. Hosts, ports, queries, headers, texts and ids are not compared.
- An action is matched with the first fitting one after the current position, else with the first in the whole trace.
  The position moves behind it. The frames of the service up to there, and from there to the next action, are sent. So
  steps may be left out, and the whole conversation may be run again.
- Ids and masked secrets that the recorded guest made are replaced by those of *this* guest. Everything else is sent as
  recorded, except the service's addresses and expiry times, which keep their distance from now, and the masked tokens
  of `guests`, which a client reads: they are replaced by tokens that it can read.
- An action without a match is answered with 404 over HTTP, and not at all on a socket.
- A strict replay also compares queries, JSON bodies and frames, except what each guest makes itself: ids, masked
  secrets, times, addresses of the service and guestctl's version. It reports an action without a match, and closes its
  socket. Clients check a connection whenever they like: a health check without a match is only not answered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from guestctl.core.clock import epoch_of, rfc3339
from guestctl.core.errors import UsageError
from guestctl.core.input_files import read_bytes
from guestctl.sandbox.interfaces import Api, Peer, Route, ServerReply, ServerRequest, SocketRoute, error

if TYPE_CHECKING:
    from guestctl.sandbox.faults import Faults
    from guestctl.sandbox.service_state import Conversation, Service, StoredMessage
    from guestctl.sandbox.settings import SandboxOptions

ActionKind = Literal["request", "upgrade", "frame"]

_ID = re.compile(r"(?=.*\d)[\w.~%-]{8,}", re.ASCII)
#: The frame with which web-messaging clients test a connection, whenever they like.
_HEALTH_CHECK = "echo/Text"
#: The name and the version that guestctl sends about itself.
_OWN_VERSION = re.compile(r"guestctl[-/][\w.+-]+", re.ASCII)
#: Most characters of a value in a report.
_SHOWN = 60
_GUEST_VALUE = re.compile(r"\*\*\*[0-9a-f]{8}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
#: Largest trace that is read, in bytes.
TRACE_LIMIT = 1 << 30
#: Seconds that a token lasts which replaces a masked one.
_TOKEN_LIFE = 1800.0
#: Members with an expiry time: epoch seconds, or RFC 3339.
_EXPIRY_MEMBERS = frozenset({"exp", "expirationDate", "expiresAt"})
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
#: Headers of a recorded reply that are sent again.
_HEADERS = ("content-type", "retry-after", "location", "www-authenticate")


@dataclass(slots=True)
class GuestAction:
    """An action of the recorded guest. `socket` numbers the trace's sockets; `status` is that of the reply, if any."""

    kind: ActionKind
    what: str
    seconds: float
    sent: Any = None
    path: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    socket: int = 0
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""


@dataclass(frozen=True, slots=True)
class ServiceFrame:
    """A frame that the service sent on a socket, or with `code` a close."""

    socket: int
    seconds: float
    text: str
    code: int | None = None


@dataclass(slots=True)
class RecordedTrace:
    """A trace that has been read. `started_at` is epoch seconds; `bases` are the addresses of the service.

    `closed_by_guest` are the sockets whose close the guest began.
    """

    events: list[GuestAction | ServiceFrame] = field(default_factory=list)
    started_at: float = 0.0
    bases: set[str] = field(default_factory=set)
    closed_by_guest: set[int] = field(default_factory=set)

    @property
    def actions(self) -> list[GuestAction]:
        return [event for event in self.events if isinstance(event, GuestAction)]


def load(paths: Sequence[Path]) -> RecordedTrace:
    """Read traces in order. Raises UsageError with file and line for a line that is not part of a trace."""
    found, sockets = RecordedTrace(), 0
    for path in paths:
        sockets = _read(path, found, sockets)
    if not found.actions:
        raise UsageError(f"{', '.join(map(str, paths))}: the trace contains no requests or frames")
    return found


def _read(path: Path, into: RecordedTrace, sockets: int) -> int:
    try:
        lines = read_bytes(path, TRACE_LIMIT).decode("utf-8").splitlines()
    except (OSError, ValueError) as failure:
        raise UsageError(f"{path}: {getattr(failure, 'strerror', None) or 'not UTF-8'}") from failure
    offset = into.events[-1].seconds if into.events else 0.0
    before = 0.0
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            seconds = float(entry["seconds"])
            if seconds < before and into.events:  # another command has extended the trace
                offset = into.events[-1].seconds
            before = seconds
            sockets = _take(entry, seconds + offset, into, sockets)
            into.started_at = into.started_at or epoch_of(entry["time"])
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as failure:
            raise UsageError(f"{path}:{number}: not a line of a trace ({type(failure).__name__})") from failure
    return sockets


def _take(entry: Mapping[str, Any], seconds: float, into: RecordedTrace, sockets: int) -> int:
    kind = entry["kind"]
    if kind == "request" and entry.get("route") != "admin":
        parts = urlsplit(entry["url"])
        into.bases.add(f"{parts.scheme}://{parts.netloc}")
        what = f"{entry['method']} {pattern_of(parts.path)}"
        into.events.append(
            GuestAction("request", what, seconds, _json(entry.get("body")), parts.path, _query(parts.query))
        )
    elif kind == "response" and entry.get("route") != "admin":
        what = f"{entry['method']} {pattern_of(urlsplit(entry['url']).path)}"
        for action in into.actions:
            if action.kind == "request" and action.what == what and action.status is None:
                action.status, action.headers, action.body = int(entry["status"]), entry["headers"], entry["body"] or ""
                break
    elif kind == "connect":
        sockets += 1
        parts = urlsplit(entry["url"])
        into.bases.add(f"{parts.scheme}://{parts.netloc}")
        into.events.append(
            GuestAction(
                "upgrade", pattern_of(parts.path), seconds, path=parts.path, query=_query(parts.query), socket=sockets
            )
        )
    elif kind == "upgrade":
        (upgrade,) = [action for action in into.actions if action.kind == "upgrade"][-1:]
        upgrade.status, upgrade.headers, upgrade.body = int(entry["status"]), entry["headers"], entry["body"] or ""
    elif kind == "frame_out":
        sent = _json(entry["text"])
        into.events.append(GuestAction("frame", kind_of(sent), seconds, sent, socket=sockets))
    elif kind == "frame_in":
        into.events.append(ServiceFrame(sockets, seconds, str(entry["text"])))
    elif kind == "close" and entry.get("direction") == "out":
        into.closed_by_guest.add(sockets)
    elif kind == "close" and entry.get("direction") == "in" and sockets not in into.closed_by_guest:
        # After the guest's close, the service's is only the answer to it. A replay that sent it unasked would break
        # the connection of a guest that is still at work.
        into.events.append(
            ServiceFrame(sockets, seconds, str(entry.get("reason") or ""), int(entry.get("code") or 1005))
        )
    return sockets


def pattern_of(path: str) -> str:
    """Return a path with placeholders for its ids: `/guests/{1}/messages`."""
    parts = path.split("/")
    return "/".join(f"{{p{n}}}" if _ID.fullmatch(part) else part for n, part in enumerate(parts))


def kind_of(sent: Any) -> str:
    """Return what a guest's frame does: its action or type, and the kind of its event."""
    if not isinstance(sent, dict):
        return "?"
    message = sent.get("message")
    inner = message if isinstance(message, dict) else {}
    events = inner.get("events")
    event = events[0] if isinstance(events, list) and events and isinstance(events[0], dict) else {}
    presence = event.get("presence")
    named = (
        sent.get("action") or sent.get("type"),
        inner.get("type"),
        event.get("eventType"),
        presence.get("type") if isinstance(presence, dict) else None,
    )
    return "/".join(str(name) for name in named if isinstance(name, str))


class ReplayState:
    """The position in a trace, and this guest's values for those the recorded guest made."""

    def __init__(self, trace: RecordedTrace, now: Callable[[], float], new_token: Callable[[], str]) -> None:
        self._trace = trace
        self._now = now
        self._new_token = new_token
        self._position = 0
        self._values: dict[str, str] = {}
        self._shift = now() - trace.started_at

    def match(
        self, kind: ActionKind, what: str, fits: Callable[[GuestAction], bool] = lambda action: True
    ) -> tuple[GuestAction, list[ServiceFrame]] | None:
        """Return the matching recorded action, and the service's frames between the position and it."""
        events = self._trace.events
        for begin in (self._position, 0):
            for index in range(begin, len(events)):
                event = events[index]
                if isinstance(event, GuestAction) and event.kind == kind and event.what == what and fits(event):
                    skipped = (
                        [e for e in events[self._position : index] if isinstance(e, ServiceFrame)]
                        if begin == self._position
                        else []
                    )
                    self._position = index + 1
                    return event, skipped
        return None

    def difference(self, kind: ActionKind, what: str, sent: Any, query: Mapping[str, str]) -> str:
        """Return how an action without a match differs from the recorded one that is next, empty if there is none."""
        events = self._trace.events
        found = (event for event in (*events[self._position :], *events) if isinstance(event, GuestAction))
        nearest = next((action for action in found if action.kind == kind and action.what == what), None)
        return "" if nearest is None else self.compared(nearest, sent, query) or ""

    def compared(self, action: GuestAction, sent: Any, query: Mapping[str, str]) -> str | None:
        """Return the first difference between a recorded action and one of this guest, None without a difference."""
        return self._different("query", dict(action.query), dict(query)) or self._different("", action.sent, sent)

    def _different(self, place: str, recorded: Any, actual: Any) -> str | None:
        if isinstance(recorded, dict) and isinstance(actual, dict):
            inner = f"{place}." if place else ""
            for key in {**recorded, **actual}:
                if key not in actual or key not in recorded:
                    return f"{inner}{key} is {'missing' if key in recorded else 'not in the trace'}"
                if found := self._different(f"{inner}{key}", recorded[key], actual[key]):
                    return found
            return None
        if isinstance(recorded, list) and isinstance(actual, list) and len(recorded) == len(actual):
            pairs = enumerate(zip(recorded, actual, strict=True))
            return next((found for n, pair in pairs if (found := self._different(f"{place}[{n}]", *pair))), None)
        if isinstance(recorded, str) and isinstance(actual, str) and self._stands_for(recorded, actual):
            return None
        if type(recorded) is type(actual) and recorded == actual:
            return None
        return f"{place or 'body'} is {_shown(actual)}, and {_shown(recorded)} in the trace"

    def _stands_for(self, recorded: str, actual: str) -> bool:
        """Return whether two texts are equal, or the same thing of two guests."""
        if recorded == actual or _GUEST_VALUE.fullmatch(recorded) or recorded.startswith(tuple(self._trace.bases)):
            return True
        if _OWN_VERSION.sub("guestctl", recorded) == _OWN_VERSION.sub("guestctl", actual):
            return True
        return _is_time(recorded) and _is_time(actual)

    def next_frames(self) -> Iterator[ServiceFrame]:
        """Yield the service's frames up to the next action, and move the position."""
        events = self._trace.events
        while self._position < len(events):
            event = events[self._position]
            if isinstance(event, GuestAction):
                return
            self._position += 1
            yield event

    def pair_values(self, recorded: Any, actual: Any) -> None:
        """Pair the values that the recorded guest made (ids, masked secrets) with those of this guest."""
        if isinstance(recorded, dict) and isinstance(actual, dict):
            for key in recorded.keys() & actual.keys():
                self.pair_values(recorded[key], actual[key])
        elif isinstance(recorded, list) and isinstance(actual, list):
            for recorded_value, actual_value in zip(recorded, actual, strict=False):
                self.pair_values(recorded_value, actual_value)
        elif (
            isinstance(recorded, str)
            and isinstance(actual, str)
            and recorded != actual
            and _GUEST_VALUE.fullmatch(recorded)
        ):
            self._values[recorded] = actual

    def pair_path(self, recorded: str, actual: str) -> None:
        for recorded_part, actual_part in zip(recorded.split("/"), actual.split("/"), strict=False):
            if recorded_part != actual_part and _ID.fullmatch(recorded_part):
                self._values[recorded_part] = actual_part

    def rewrite(self, text: str, base: str, socket_base: str) -> str:
        """Return a recorded body or frame with this guest's values and the service's current addresses."""
        value = _json(text)
        if value is None or isinstance(value, (str, int, float)):
            return self._rewrite_text(text, base, socket_base)
        sent = self._rewrite_value(value, base, socket_base)
        return json.dumps(sent, ensure_ascii=False, separators=(",", ":"))

    def _rewrite_value(self, value: Any, base: str, socket_base: str, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: self._rewrite_value(member, base, socket_base, name) for name, member in value.items()}
        if isinstance(value, list):
            return [self._rewrite_value(item, base, socket_base) for item in value]
        if key in _EXPIRY_MEMBERS:
            return self._move_expiry(value)
        if key == "guestToken" and isinstance(value, str) and _GUEST_VALUE.fullmatch(value):
            return self._values.setdefault(value, self._new_token())
        return self._rewrite_text(value, base, socket_base) if isinstance(value, str) else value

    def _rewrite_text(self, text: str, base: str, socket_base: str) -> str:
        if text in self._values:
            return self._values[text]
        for known in self._trace.bases:
            current = socket_base if known.startswith("ws") else base
            text = text.replace(known, current)
        return text

    def _move_expiry(self, value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            milliseconds = value > 1e11
            return type(value)(value + self._shift * (1000 if milliseconds else 1))
        try:
            return rfc3339(epoch_of(value) + self._shift)
        except (TypeError, ValueError, OverflowError):
            return value


@dataclass(slots=True)
class _ReplaySocket:
    """The state of an open socket: the recorded socket that it repeats, and the addresses its guest used."""

    socket: int
    base: str
    socket_base: str


@dataclass(frozen=True, slots=True)
class _NotRecorded:
    """Why an action is refused, and the status that refuses a request."""

    reason: str
    status: int


class ReplayApi:
    """A trace as an API of a sandbox. It serves the recorded addresses and nothing else.

    `pace` preserves the recorded pauses; otherwise the frames after an action are sent at once. With `strict` the
    content must match, too, and `refused` is called with a line about each action that was refused, in the sandbox's
    thread.
    """

    name = "replay"
    agent_files = None

    def __init__(
        self,
        trace: RecordedTrace,
        service: Service,
        *,
        pace: bool = False,
        strict: bool = False,
        refused: Callable[[str], object] = lambda line: None,
    ) -> None:
        self._trace = trace
        self._strict = strict
        self._refused = refused
        self._service = service
        self._pace = pace
        self._state = ReplayState(trace, service.clock.now, self._new_token)
        self._peers: dict[int, Peer] = {}
        self._admitted: _ReplaySocket | None = None

    # --- routes ---

    def _new_token(self) -> str:
        claims = {"sub": "recorded", "routing_hints": {"queue": "recorded"}, "attributes": {}}
        return self._service.tokens.jwt("guest", life=_TOKEN_LIFE, conversation="recorded", claims=claims).token

    def routes(self) -> Sequence[Route]:
        found = dict.fromkeys(action.what for action in self._trace.actions if action.kind == "request")
        pairs = [what.split(" ", 1) for what in found]
        # A strict replay reports requests to all other addresses.
        pairs += [[method, "/{path*}"] for method in _METHODS] if self._strict else []
        return [Route(method, path, None, self._answer, any_origin=True, large=True) for method, path in pairs]

    def route_of(self, text: str) -> str | None:
        return None

    def socket_routes(self) -> Sequence[SocketRoute]:
        found = dict.fromkeys(action.what for action in self._trace.actions if action.kind == "upgrade")
        return [SocketRoute(pattern, self._admit) for pattern in (*found, *(["/{path*}"] if self._strict else []))]

    # --- matching ---

    def _match(
        self, kind: ActionKind, what: str, label: str, sent: Any = None, query: Mapping[str, str] | None = None
    ) -> tuple[GuestAction, list[ServiceFrame]] | _NotRecorded:
        """Return what `ReplayState.match` finds, or why the action is refused. `label` names it for people."""
        given = {} if query is None else query

        def fits(action: GuestAction) -> bool:
            return not self._strict or self._state.compared(action, sent, given) is None

        found = self._state.match(kind, what, fits)
        if found is not None:
            return found
        difference = self._state.difference(kind, what, sent, given)
        reason = f"not in the trace: {label}{f': {difference}' if difference else ''}"
        if self._strict and what != _HEALTH_CHECK:
            self._refused(reason)
        return _NotRecorded(reason, 400 if difference else 404)

    # --- requests ---

    def _answer(self, request: ServerRequest) -> ServerReply:
        sent = _json(request.body)
        what, label = f"{request.method} {pattern_of(request.path)}", f"{request.method} {_shown_path(request.path)}"
        found = self._match("request", what, label, sent, request.query)
        if isinstance(found, _NotRecorded):
            return error(found.status, found.reason)
        action, skipped = found
        self._state.pair_path(action.path, request.path)
        self._state.pair_values(action.sent, sent)
        self._send_all(skipped, action.seconds)
        self._service.later(0.0, lambda: self._send_all(self._state.next_frames(), action.seconds))
        if action.status is None:
            return error(504, "the trace has no answer to this request: the connection broke")
        headers = {name.title(): action.headers[name] for name in _HEADERS if name in action.headers}
        return ServerReply(
            action.status, self._state.rewrite(action.body, request.base, request.socket_base).encode(), headers
        )

    # --- sockets ---

    def _admit(self, request: ServerRequest) -> ServerReply | None:
        found = self._match(
            "upgrade", pattern_of(request.path), f"socket {_shown_path(request.path)}", query=request.query
        )
        if isinstance(found, _NotRecorded):
            return error(found.status, found.reason)
        action, skipped = found
        self._state.pair_path(action.path, request.path)
        self._send_all(skipped, action.seconds)
        self._admitted = _ReplaySocket(action.socket, request.base, request.socket_base)
        if action.status == 101:
            return None
        if action.status is None:
            return error(504, "the trace has no answer to this upgrade: the connection broke")
        headers = {name.title(): action.headers[name] for name in _HEADERS if name in action.headers}
        return ServerReply(action.status, action.body.encode(), headers)

    def opened(self, peer: Peer) -> None:
        assert self._admitted is not None
        peer.state, self._admitted = self._admitted, None
        self._peers[peer.state.socket] = peer
        self._send_all(self._state.next_frames())

    def received(self, peer: Peer, text: str) -> None:
        sent = _json(text)
        what = kind_of(sent)
        found = self._match("frame", what, f"frame {what}", sent)
        if isinstance(found, _NotRecorded):
            if self._strict and what != _HEALTH_CHECK:
                peer.close(1008, "not in the trace")
            return
        action, skipped = found
        # From here on this socket repeats the recorded one of the matched frame.
        self._peers[action.socket] = peer
        self._state.pair_values(action.sent, sent)
        self._send_all(skipped, action.seconds)
        self._send_all(self._state.next_frames(), action.seconds)

    def closed(self, peer: Peer, clean: bool) -> None:
        self._peers = {socket: other for socket, other in self._peers.items() if other is not peer}

    def _send_all(self, frames: Iterable[ServiceFrame], since: float | None = None) -> None:
        for frame in list(frames):
            since = frame.seconds if since is None else since
            wait = max(0.0, frame.seconds - since) if self._pace else 0.0
            if wait > 0:
                self._service.later(wait, lambda frame=frame: self._say(frame))  # type: ignore[misc]
            else:
                self._say(frame)

    def _say(self, frame: ServiceFrame) -> None:
        peer = self._peers.get(frame.socket)
        if peer is None or not peer.open:
            return
        if frame.code is not None:
            peer.close(frame.code, frame.text if frame.code not in {1005, 1006} else "")
            return
        socket_state: _ReplaySocket = peer.state
        peer.send(self._state.rewrite(frame.text, socket_state.base, socket_state.socket_base))

    # --- callbacks of the service: a replay has no conversations, so these are never called ---

    def message_stored(self, conversation: Conversation, message: StoredMessage, cause: Any) -> None: ...

    def typing(self, conversation: Conversation, role: Any, name: str | None, millis: int) -> None: ...

    def ended(self, conversation: Conversation, role: Any) -> None: ...

    def expired(self, conversation: Conversation) -> None: ...

    def token_expired(self, conversation: Conversation) -> None: ...

    def pushed(self, conversation: Conversation, frame: str) -> None: ...


def replay_apis(
    trace: RecordedTrace,
    *,
    pace: bool = False,
    strict: bool = False,
    refused: Callable[[str], object] = lambda line: None,
) -> Callable[[Service, Faults, SandboxOptions], list[Api]]:
    """Return the function that builds the APIs of a sandbox, here only the replay."""
    return lambda service, faults, options: [ReplayApi(trace, service, pace=pace, strict=strict, refused=refused)]


def apis_of(trace: RecordedTrace) -> list[str]:
    """Return the APIs to which this trace may belong: those that have every address in it."""
    from guestctl.dialects import NAMES
    from guestctl.dialects.addresses import matching_addresses

    common: set[str] = set(NAMES)
    for action in trace.actions:
        if action.kind != "frame":
            fitting = {place.api for place in matching_addresses(f"http://replay{action.path}")}
            common &= fitting or common
    return [name for name in NAMES if name in common]


def _query(text: str) -> dict[str, str]:
    return dict(parse_qsl(text, keep_blank_values=True))


def _is_time(text: str) -> bool:
    try:
        epoch_of(text)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _shown_path(path: str) -> str:
    """Return a path without its ids, some of which may be secrets."""
    return re.sub(r"\{p\d+\}", "*", pattern_of(path))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _json(text: Any) -> Any:
    """Parse JSON; None if it is invalid."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
