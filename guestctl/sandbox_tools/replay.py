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
- A trace may have several guests: of a `check`, or of a sandbox. Each has a position of its own. An action belongs to
  the guest whose ids or tokens it contains. Otherwise it is that of a guest who has not appeared yet; if all have, and
  it is what a guest does first, the guest who appeared longest ago starts again. So guests that meet a replay one after
  another, or at once, repeat different guests. An upgrade without ids belongs to the guest of the first frame on it.
- A strict replay also compares queries, JSON bodies and frames, except what each guest makes itself: ids, masked
  secrets, times, addresses of the service and guestctl's version. It reports an action without a match, and closes its
  socket. Clients check a connection whenever they like: a health check without a match is only not answered.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from guestctl.core.clock import epoch_of, rfc3339
from guestctl.core.errors import UsageError
from guestctl.core.input_files import read_bytes
from guestctl.sandbox.interfaces import Api, Peer, Route, ServerReply, ServerRequest, SocketRoute, error
from guestctl.transport.recorded_trace import WRONG_LINE, guests_of, parsed_line, wrong_line

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
    """An action of a recorded guest. `socket` numbers the trace's sockets; `status` is that of the reply, if any.

    `exchange` is the number of a request in the trace of a server.
    """

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
    exchange: int | None = None


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

    `guests` has the same events by guest, in the order of their first events. `closed_by_guest` are the sockets whose
    close the guest began.
    """

    events: list[GuestAction | ServiceFrame] = field(default_factory=list)
    guests: dict[object, list[GuestAction | ServiceFrame]] = field(default_factory=dict)
    started_at: float = 0.0
    bases: set[str] = field(default_factory=set)
    closed_by_guest: set[int] = field(default_factory=set)
    sockets: int = 0

    @property
    def actions(self) -> list[GuestAction]:
        return [event for event in self.events if isinstance(event, GuestAction)]

    def add(self, guest: object, event: GuestAction | ServiceFrame) -> None:
        self.events.append(event)
        self.guests.setdefault(guest, []).append(event)


def load(paths: Sequence[Path]) -> RecordedTrace:
    """Read traces in order. Raises UsageError with file and line for a line that is not part of a trace."""
    found = RecordedTrace()
    for path in paths:
        _read(path, found)
    if not found.actions:
        raise UsageError(f"{', '.join(map(str, paths))}: the trace contains no requests or frames")
    return found


def _read(path: Path, into: RecordedTrace) -> None:
    try:
        lines = read_bytes(path, TRACE_LIMIT).decode("utf-8").splitlines()
    except (OSError, ValueError) as failure:
        raise UsageError(f"{path}: {getattr(failure, 'strerror', None) or 'not UTF-8'}") from failure
    entries: list[tuple[int, Mapping[str, Any]]] = []  # with the number of the command
    command, before, number = 0, 0.0, 0
    offset = into.events[-1].seconds if into.events else 0.0
    try:
        for number, line in enumerate(lines, 1):  # noqa: B007 (the number of the line that fails)
            entry = parsed_line(line)
            seconds = float(entry["seconds"])
            if seconds < before:  # another command has extended the trace
                command += 1
            before = seconds
            entries.append((command, dict(entry)))
        reader, last = _TraceReader(path, into), 0
        guests = guests_of(entries)
        for number, ((command, entry), guest) in enumerate(zip(entries, guests, strict=True), 1):  # noqa: B007
            if command != last and into.events:
                offset, last = into.events[-1].seconds, command
            reader.take(entry, float(entry["seconds"]) + offset, command, guest)
            into.started_at = into.started_at or epoch_of(entry["time"])
    except WRONG_LINE as failure:
        raise wrong_line(path, number) from failure


class _TraceReader:
    """Turns the lines of one file into actions and frames. A line of a server has the number of its socket."""

    def __init__(self, path: Path, into: RecordedTrace) -> None:
        self._path = path
        self._into = into
        self._sockets: dict[object, int] = {}  # the sockets that are open, or the last one of each client
        self._upgrades: dict[int, GuestAction] = {}

    def take(self, entry: Mapping[str, Any], seconds: float, command: int, guest: str) -> None:
        """Add a line. Raises LookupError, ValueError, TypeError or AttributeError for one without its members."""
        into, kind = self._into, entry["kind"]
        # A session keeps its id when a sandbox is started again; the other names belong to one command.
        shared = not guest or ("guest" not in entry and not guest.startswith("socket "))
        owner: object = guest if shared else (self._path, command, guest)
        line = entry["socket"] if entry.get("socket") is not None else owner
        key = (command, str(line)) if entry.get("socket") is not None else line
        socket = self._sockets.get(key, 0)
        if kind == "request" and entry.get("route") != "admin":
            parts = urlsplit(entry["url"])
            into.bases.add(f"{parts.scheme}://{parts.netloc}")
            what = f"{entry['method']} {pattern_of(parts.path)}"
            sent, query = _json(entry.get("body")), _query(parts.query)
            into.add(owner, GuestAction("request", what, seconds, sent, parts.path, query, exchange=_exchange(entry)))
        elif kind == "response" and entry.get("route") != "admin":
            self._answer(entry, owner)
        elif kind == "connect":
            into.sockets += 1
            self._sockets[key] = into.sockets
            parts = urlsplit(entry["url"])
            into.bases.add(f"{parts.scheme}://{parts.netloc}")
            what, query = pattern_of(parts.path), _query(parts.query)
            action = GuestAction("upgrade", what, seconds, path=parts.path, query=query, socket=into.sockets)
            self._upgrades[into.sockets] = action
            into.add(owner, action)
        elif kind == "upgrade":
            action = self._upgrades[socket]
            action.status, action.headers, action.body = int(entry["status"]), entry["headers"], entry["body"] or ""
        elif kind == "frame_out":
            sent = _json(entry["text"])
            into.add(owner, GuestAction("frame", kind_of(sent), seconds, sent, socket=socket))
        elif kind == "frame_in":
            into.add(owner, ServiceFrame(socket, seconds, str(entry["text"])))
        elif kind == "close" and entry.get("direction") == "out":
            into.closed_by_guest.add(socket)
        elif kind == "close" and entry.get("direction") == "in" and socket not in into.closed_by_guest:
            # After the guest's close, the service's is only the answer to it. A replay that sent it unasked would break
            # the connection of a guest that is still at work.
            code = int(entry.get("code") or 1005)
            into.add(owner, ServiceFrame(socket, seconds, str(entry.get("reason") or ""), code))

    def _answer(self, entry: Mapping[str, Any], owner: object) -> None:
        what = f"{entry['method']} {pattern_of(urlsplit(entry['url']).path)}"
        exchange = _exchange(entry)
        for action in self._into.guests.get(owner, ()):
            if isinstance(action, GuestAction) and (action.kind, action.what, action.exchange, action.status) == (
                "request",
                what,
                exchange,
                None,
            ):
                action.status, action.headers, action.body = int(entry["status"]), entry["headers"], entry["body"] or ""
                break


def _exchange(entry: Mapping[str, Any]) -> int | None:
    return None if entry.get("exchange") is None else int(entry["exchange"])


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
    """The position in a trace, and this guest's values for those the recorded guest made.

    `events` are those of one guest of the trace (default: all). `fresh` is true until the guest has done something
    besides opening a socket. `own` are the ids and masked secrets that no other guest of the trace has.
    """

    def __init__(
        self,
        trace: RecordedTrace,
        now: Callable[[], float],
        new_token: Callable[[], str],
        events: Sequence[GuestAction | ServiceFrame] | None = None,
    ) -> None:
        self.events = trace.events if events is None else events
        self.fresh = True
        self.own: frozenset[str] = frozenset()
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
        index = self._find(kind, what, fits)
        if index is None:
            return None
        begin, self._position = self._position, index + 1
        action = self.events[index]
        assert isinstance(action, GuestAction)
        return action, [event for event in self.events[begin:index] if isinstance(event, ServiceFrame)]

    def _find(self, kind: ActionKind, what: str, fits: Callable[[GuestAction], bool]) -> int | None:
        """Return the place of the matching action: the first after the position, or else the first of all."""
        for index in chain(range(self._position, len(self.events)), range(self._position)):
            event = self.events[index]
            if isinstance(event, GuestAction) and event.kind == kind and event.what == what and fits(event):
                return index
        return None

    def accepts(self, what: str, fits: Callable[[GuestAction], bool]) -> bool:
        """Return whether the next upgrade that matches was accepted."""
        index = self._find("upgrade", what, fits)
        return index is not None and getattr(self.events[index], "status", None) == 101

    def begins_with(self, kind: ActionKind, what: str) -> bool:
        """Return whether this is what the guest does first, besides opening a socket."""
        actions = (one for one in self.events if isinstance(one, GuestAction) and one.kind != "upgrade")
        return any(one.kind == kind and one.what == what for one in islice(actions, 1))

    def restart(self) -> None:
        """Go back to the start, for another guest."""
        self._position = 0
        self._values.clear()

    def difference(self, kind: ActionKind, what: str, sent: Any, query: Mapping[str, str]) -> str:
        """Return how an action without a match differs from the recorded one that is next, empty if there is none."""
        events = self.events
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

    def knows(self, values: Iterable[str]) -> bool:
        """Return whether one of these values belongs to this guest, as it was recorded or as this replay changed it."""
        mine = self._values.values()
        return any(value in self.own or value in mine for value in values)

    def next_frames(self) -> Iterator[ServiceFrame]:
        """Yield the service's frames up to the next action, and move the position."""
        events = self.events
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


class ReplayGuests:
    """The guests of a trace, and to which of them an action belongs."""

    def __init__(self, trace: RecordedTrace, now: Callable[[], float], new_token: Callable[[], str]) -> None:
        states = {guest: ReplayState(trace, now, new_token, events) for guest, events in trace.guests.items()}
        self._states = list(states.values())
        self._rest = states.get("")  # with several guests: the requests whose guest is not known
        if self._rest is not None:
            self._rest.fresh = False
        self._by_socket = {event.socket: state for state in self._states for event in state.events}
        if len(self._states) > 1:
            found = [frozenset(_ids_in(state.events)) for state in self._states]
            counts = Counter(value for values in found for value in values)
            for state, values in zip(self._states, found, strict=True):
                state.own = frozenset(value for value in values if counts[value] == 1)

    def of_socket(self, socket: int) -> ReplayState:
        """Return the guest of a recorded socket."""
        return self._by_socket[socket]

    def ranked(self, values: Sequence[str], bound: ReplayState | None) -> list[ReplayState]:
        """Return all guests, first those to which an action with these values may belong.

        `bound` is the guest that the action's socket repeats.
        """
        if len(self._states) == 1:
            return self._states
        ranks = {id(state): place for place, state in enumerate(self._states)}

        def rank(state: ReplayState) -> tuple[bool, bool, bool, int]:
            return not state.knows(values), state is not bound, not state.fresh, ranks[id(state)]

        return sorted(self._states, key=rank)

    def unknown(self, values: Sequence[str]) -> list[ReplayState]:
        """Return all guests if there are several, and these values belong to none of them."""
        several = len(self._states) > 1 and not any(state.knows(values) for state in self._states)
        return self._states if several else []

    def again(
        self,
        ranked: Sequence[ReplayState],
        values: Sequence[str],
        bound: ReplayState | None,
        kind: ActionKind,
        what: str,
    ) -> ReplayState | None:
        """Return the guest who starts again with this action, because all have appeared and it belongs to none."""
        if bound is not None or not self.unknown(values) or any(state.fresh for state in self._states):
            return None
        return next((state for state in ranked if state.begins_with(kind, what) and state is not self._rest), None)

    def used(self, state: ReplayState, kind: ActionKind) -> None:
        """Note that a guest has acted. The one that has acted longest ago comes first among the others."""
        if kind != "upgrade":
            state.fresh = False
            self._states.remove(state)
            self._states.append(state)


def _ids_in(events: Iterable[GuestAction | ServiceFrame]) -> Iterator[str]:
    """Yield the ids and masked secrets in the events of a guest."""
    for event in events:
        if isinstance(event, ServiceFrame):
            texts = _strings(_json(event.text))
        else:
            texts = [*event.path.split("/"), *event.query.values(), *_strings(event.sent), *_strings(_json(event.body))]
        yield from (text for text in texts if _GUEST_VALUE.fullmatch(text))


def _strings(value: Any) -> list[str]:
    """Return all texts in a JSON value."""
    if isinstance(value, str):
        return [value]
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for member in members for text in _strings(member)]


@dataclass(slots=True)
class _ReplaySocket:
    """The state of an open socket: the recorded socket that it repeats, and the addresses its guest used.

    `socket` is 0 as long as the guest, and so the recorded socket, is not known. `guest` is the one whose frames it
    repeats, None until it has sent one.
    """

    socket: int
    base: str
    socket_base: str
    guest: ReplayState | None = None


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
        self._guests = ReplayGuests(trace, service.clock.now, self._new_token)
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
        self,
        kind: ActionKind,
        what: str,
        label: str,
        sent: Any = None,
        query: Mapping[str, str] | None = None,
        *,
        values: Sequence[str] = (),
        bound: ReplayState | None = None,
    ) -> tuple[ReplayState, GuestAction, list[ServiceFrame]] | _NotRecorded:
        """Return the guest to which an action belongs, and what `ReplayState.match` finds; or why it is refused.

        `label` names the action for people. `values` are its ids and tokens, `bound` is the guest of its socket.
        """
        given = {} if query is None else query
        ranked = self._guests.ranked(values, bound)
        again = self._guests.again(ranked, values, bound, kind, what)
        if again is not None:
            again.restart()
            ranked = [again, *ranked]
        for state in ranked:
            found = state.match(kind, what, self._fits(state, sent, given))
            if found is not None:
                self._guests.used(state, kind)
                return state, *found
        difference = next((text for state in ranked if (text := state.difference(kind, what, sent, given))), "")
        reason = f"not in the trace: {label}{f': {difference}' if difference else ''}"
        if self._strict and what != _HEALTH_CHECK:
            self._refused(reason)
        return _NotRecorded(reason, 400 if difference else 404)

    def _fits(self, state: ReplayState, sent: Any, query: Mapping[str, str]) -> Callable[[GuestAction], bool]:
        return lambda action: not self._strict or state.compared(action, sent, query) is None

    # --- requests ---

    def _answer(self, request: ServerRequest) -> ServerReply:
        sent = _json(request.body)
        what, label = f"{request.method} {pattern_of(request.path)}", f"{request.method} {_shown_path(request.path)}"
        found = self._match("request", what, label, sent, request.query, values=_values(request, sent))
        if isinstance(found, _NotRecorded):
            return error(found.status, found.reason)
        state, action, skipped = found
        state.pair_path(action.path, request.path)
        state.pair_values(action.sent, sent)
        self._send_all(skipped, action.seconds)
        self._service.later(0.0, lambda: self._send_all(state.next_frames(), action.seconds))
        if action.status is None:
            return error(504, "the trace has no answer to this request: the connection broke")
        headers = {name.title(): action.headers[name] for name in _HEADERS if name in action.headers}
        return ServerReply(
            action.status, state.rewrite(action.body, request.base, request.socket_base).encode(), headers
        )

    # --- sockets ---

    def _admit(self, request: ServerRequest) -> ServerReply | None:
        what, values = pattern_of(request.path), _values(request)
        unknown = self._guests.unknown(values)
        if any(state.accepts(what, self._fits(state, None, request.query)) for state in unknown):
            self._admitted = _ReplaySocket(0, request.base, request.socket_base)
            return None
        label = f"socket {_shown_path(request.path)}"
        found = self._match("upgrade", what, label, query=request.query, values=values)
        if isinstance(found, _NotRecorded):
            return error(found.status, found.reason)
        state, action, skipped = found
        state.pair_path(action.path, request.path)
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
        if peer.state.socket:
            self._peers[peer.state.socket] = peer
            self._send_all(self._guests.of_socket(peer.state.socket).next_frames())

    def received(self, peer: Peer, text: str) -> None:
        sent = _json(text)
        what = kind_of(sent)
        found = self._match("frame", what, f"frame {what}", sent, values=_strings(sent), bound=peer.state.guest)
        if isinstance(found, _NotRecorded):
            if self._strict and what != _HEALTH_CHECK:
                peer.close(1008, "not in the trace")
            return
        state, action, skipped = found
        # From here on this socket repeats the recorded one of the matched frame.
        self._peers[action.socket] = peer
        peer.state.guest = state
        state.pair_values(action.sent, sent)
        self._send_all(skipped, action.seconds)
        self._send_all(state.next_frames(), action.seconds)

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
        state = self._guests.of_socket(frame.socket)
        peer.send(state.rewrite(frame.text, socket_state.base, socket_state.socket_base))

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


def _values(request: ServerRequest, sent: Any = None) -> list[str]:
    """Return the texts in a request that may be ids or tokens."""
    token = [] if request.bearer is None else [request.bearer]
    return [*request.path.split("/"), *request.query.values(), *token, *_strings(sent)]


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
