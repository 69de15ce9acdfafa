"""The latest traffic of each session, in bounded memory.

Knows: how much is retained, and that events become bytes only when somebody reads them. Must not know: pages, sockets
of pages, what an event means beyond its session and its direction.

Every frame of a guest passes here, also while nobody reads: `add` does little more than append to a list. Bounds are
applied now and then, and events are masked and encoded when a page reads. A frame is retained as a tuple of numbers
and texts, which is small and which the garbage collector of Python does not visit again and again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from guestctl.core.redact import Redactor
from guestctl.inspector.feed_events import OF_FRAMES, encoded_event, encoded_frame, label_of

Raw: TypeAlias = tuple[int, float, str, str, int, "str | Mapping[str, Any]"]
"""An event as it was observed: its number, its time in epoch seconds, its kind, and then either the session, the socket
and the text of a frame, or two blanks and all members of anything else."""

#: Events and characters that are retained of one session, and of all together.
SESSION_EVENTS, SESSION_SIZE = 20_000, 16 << 20
TOTAL_EVENTS, TOTAL_SIZE = 60_000, 64 << 20
#: Sessions that are retained.
SESSIONS = 2_000
#: The bounds are applied once for so many events.
_BOUNDED_EVERY = 1_024
#: An event with more characters is shortened at once.
_LARGE = 32 << 10
#: What an event costs in addition to its text, in characters.
_OVERHEAD = 400
#: The member of an event that was large: the feed event.
_ENCODED = "encoded"


class RetainedSession:
    """The events of one session, oldest first, and how many there were."""

    __slots__ = ("events", "name", "received", "redactor", "requests", "sent", "size", "sockets", "started")

    def __init__(self, name: str, started: float) -> None:
        self.name = name
        self.events: deque[Raw] = deque()
        self.size = 0
        self.started = started
        self.sockets: set[int] = set()
        self.received = self.sent = self.requests = 0
        #: Knows the secrets of this session. One for all sessions would look for all of them in each text.
        self.redactor: Redactor | None = None

    def count(self, kind: str, data: Mapping[str, Any]) -> None:
        """Count an event."""
        if kind == "frame_in" or kind == "response":
            self.received += 1
        elif kind == "frame_out":
            self.sent += 1
        elif kind == "request":
            self.requests += 1
            self.sent += 1
        elif kind == "connect" or kind == "session":
            self.sockets.add(data.get("socket", 0))
        elif kind == "closed":
            self.sockets.discard(data.get("socket", 0))

    def drop(self, count: int) -> None:
        """Drop the oldest events."""
        for _ in range(count):
            self.size -= size_of(self.events.popleft())

    def merge(self, other: RetainedSession) -> None:
        """Take the events of a socket whose session has become known."""
        self.events = deque(sorted([*self.events, *other.events], key=lambda raw: raw[0]))
        self.size += other.size
        self.sockets |= other.sockets
        self.sent += other.sent
        self.received += other.received
        self.requests += other.requests
        self.started = min(self.started, other.started)


class Retained:
    """Everything that was observed and is still retained. `dropped` counts the events that are not.

    Only one thread may use it. `woken` is called for each event while `follow` is on.
    """

    def __init__(self, now: Callable[[], float], redactor: Redactor) -> None:
        self.sessions: dict[str, RetainedSession] = {}
        self.dropped = 0
        self.woken: Callable[[], None] = lambda: None
        self._now = now
        self._redactor = redactor
        self._new: list[Raw] | None = None  # None while nobody follows
        self._last = 0

    def add(self, kind: str, data: Mapping[str, Any]) -> None:
        """Retain one event."""
        self._last = number = self._last + 1
        session, text = self.sessions.get(data.get("session", "")), data.get("text")
        large = False
        raw: Raw
        # Almost everything is a frame of a known session.
        if session is not None and isinstance(text, str) and len(text) <= _LARGE and data.keys() == OF_FRAMES:
            raw = (number, self._now(), kind, data["session"], data["socket"], text)
            size = len(text) + _OVERHEAD
            if kind == "frame_in":
                session.received += 1
            elif kind == "frame_out":
                session.sent += 1
        else:
            session = self._session(data)
            session.count(kind, data)
            raw = (number, self._now(), kind, "", 0, data)
            size = size_of(raw)
            large = size > _LARGE
            if large or kind == "session":
                raw = self._special(session, raw)
                size = size_of(raw)
        session.events.append(raw)
        session.size += size
        if self._new is not None:
            self._new.append(raw)
            self.woken()
        if large or not number % _BOUNDED_EVERY:
            self._bound()

    def follow(self, following: bool) -> None:
        """Let `new` return what comes from now on, or nothing."""
        self._new = [] if following else None

    def new(self) -> list[Raw]:
        """Return what has come since the last call, oldest first."""
        found, self._new = self._new or [], None if self._new is None else []
        return found

    def all(self) -> list[Raw]:
        """Return all events that are retained, oldest first."""
        found = [raw for session in self.sessions.values() for raw in session.events]
        return sorted(found, key=lambda raw: raw[0])

    def encode(self, raw: Raw) -> bytes:
        """Return the feed event as JSON, without secrets."""
        number, time, kind, session, socket, content = raw
        if isinstance(content, str):
            return encoded_frame(number, time, kind, session, socket, content, self._redactor_of(session))
        if _ENCODED in content:
            return bytes(content[_ENCODED])
        return encoded_event(number, time, kind, content, self._redactor_of(content.get("session", "")))

    def _redactor_of(self, name: str) -> Redactor:
        session = self.sessions.get(name)
        if session is None:
            return self._redactor.copy()
        if session.redactor is None:
            session.redactor = self._redactor.copy()
        return session.redactor

    def _session(self, data: Mapping[str, Any]) -> RetainedSession:
        """Return the session of an event, which may be new."""
        name = label_of(data)
        session = self.sessions.get(name)
        if session is None:
            session = self.sessions[name] = RetainedSession(name, self._now())
        return session

    def _special(self, session: RetainedSession, raw: Raw) -> Raw:
        """Move the events of a socket to its session, or shorten a large event."""
        number, time, kind, _, _, data = raw
        assert not isinstance(data, str)
        if kind == "session":
            earlier = self.sessions.pop(label_of({"socket": data.get("socket")}), None)
            if earlier is not None:
                session.merge(earlier)
            return raw
        kept = {name: data[name] for name in ("session", "socket") if name in data}
        return number, time, kind, "", 0, {**kept, _ENCODED: self.encode(raw)}

    def _bound(self) -> None:
        for session in self.sessions.values():
            while len(session.events) > SESSION_EVENTS or session.size > SESSION_SIZE:
                self._drop(session)
        while sum(len(session.events) for session in self.sessions.values()) > TOTAL_EVENTS:
            self._drop(max(self.sessions.values(), key=lambda session: len(session.events)))
        while sum(session.size for session in self.sessions.values()) > TOTAL_SIZE:
            self._drop(max(self.sessions.values(), key=lambda session: session.size))
        while len(self.sessions) > SESSIONS:
            oldest = self.sessions.pop(next(iter(self.sessions)))
            self.dropped += len(oldest.events)

    def _drop(self, session: RetainedSession) -> None:
        """Drop the oldest eighth of a session's events: dropping one at a time would look for the largest each time."""
        count = len(session.events) // 8 + 1
        session.drop(min(count, len(session.events)))
        self.dropped += count


def size_of(raw: Raw) -> int:
    """Return about how much memory an event takes, in characters."""
    content = raw[5]
    if isinstance(content, str):
        return len(content) + _OVERHEAD
    size = _OVERHEAD
    for value in content.values():
        if isinstance(value, (str, bytes)):
            size += len(value)
        elif isinstance(value, Mapping):
            size += sum(len(str(name)) + len(str(member)) for name, member in value.items())
    return size
