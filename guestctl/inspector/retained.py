"""The latest traffic of each session, in bounded memory.

Knows: how much is retained, and that events become bytes only when somebody reads them. Must not know: pages, sockets
of pages, what an event means.

While nobody reads, an event is only appended to a list. Every `_SETTLED_EVERY` events, or when somebody reads, they are
sorted into their sessions and the oldest are dropped.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from guestctl.core.redact import Redactor
from guestctl.inspector.feed_events import feed_event, label_of

#: Events and characters that are retained of one session, and of all together.
SESSION_EVENTS, SESSION_SIZE = 20_000, 16 << 20
TOTAL_EVENTS, TOTAL_SIZE = 60_000, 64 << 20
#: Sessions that are retained.
SESSIONS = 2_000
_SETTLED_EVERY = 128
#: Events with more characters are made into bytes at once, which shortens them.
_LARGE = 32 << 10
#: What an event costs in addition to its texts, in characters.
_OVERHEAD = 400


class FeedEntry:
    """One event. `encoded` returns its JSON."""

    __slots__ = ("_encoded", "_raw", "number", "session", "size")

    def __init__(self, number: int, raw: tuple[float, str, Mapping[str, Any]], session: str, size: int) -> None:
        self.number = number
        self.session = session
        self.size = size
        self._raw: tuple[float, str, Mapping[str, Any]] | None = raw
        self._encoded = b""

    def encoded(self, redactor: Redactor) -> bytes:
        """Return the feed event as JSON, without secrets."""
        if self._raw is not None:
            time, kind, data = self._raw
            event = feed_event(self.number, time, kind, data, redactor)
            self._encoded = json.dumps(event, separators=(",", ":"), ensure_ascii=False, default=str).encode(
                "utf-8", "replace"
            )
            self._raw = None
        return self._encoded


class SessionHistory:
    """The events of one session, oldest first, and how many there were."""

    __slots__ = ("entries", "received", "requests", "sent", "size", "sockets", "started")

    def __init__(self, started: float) -> None:
        self.entries: deque[FeedEntry] = deque()
        self.size = 0
        self.started = started
        self.sockets: set[int] = set()
        self.received = self.sent = self.requests = 0

    def count(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind == "frame_in":
            self.received += 1
        elif kind == "frame_out":
            self.sent += 1
        elif kind == "request":
            self.requests += 1
            self.sent += 1
        elif kind == "response":
            self.received += 1
        elif kind == "connect" or kind == "session":
            self.sockets.add(data.get("socket", 0))
        elif kind == "closed":
            self.sockets.discard(data.get("socket", 0))

    def drop(self, count: int) -> int:
        """Drop the oldest events. Return how many."""
        dropped = 0
        while dropped < count and self.entries:
            self.size -= self.entries.popleft().size
            dropped += 1
        return dropped

    def merge(self, other: SessionHistory) -> None:
        """Take the events of a socket whose session has become known."""
        merged = sorted([*self.entries, *other.entries], key=lambda entry: entry.number)
        self.entries = deque(merged)
        self.size += other.size
        self.sockets |= other.sockets
        self.sent += other.sent
        self.received += other.received
        self.requests += other.requests
        self.started = min(self.started, other.started)


class History:
    """Everything that was observed and is still retained. Any thread may call any method.

    `dropped` counts the events that are no longer retained.
    """

    def __init__(self, now: Callable[[], float], redactor: Redactor) -> None:
        self.sessions: dict[str, SessionHistory] = {}
        self.dropped = 0
        self._now = now
        self._redactor = redactor
        self._pending: deque[tuple[float, str, Mapping[str, Any]]] = deque()
        self._new: list[FeedEntry] | None = None  # None while nobody follows
        self._last = 0
        self._events = 0
        self._size = 0
        self._lock = threading.Lock()

    def add(self, kind: str, data: Mapping[str, Any]) -> None:
        """Retain one event."""
        pending = self._pending
        pending.append((self._now(), kind, data))
        if len(pending) >= _SETTLED_EVERY or kind == "response":
            self.settle()

    def settle(self) -> None:
        """Sort what is new into its sessions."""
        with self._lock:
            self._settle()

    def follow(self, following: bool) -> None:
        """Let `new` return what comes from now on, or nothing."""
        with self._lock:
            self._settle()
            self._new = [] if following else None

    def new(self) -> list[FeedEntry]:
        """Return what has come since the last call, oldest first."""
        with self._lock:
            self._settle()
            found, self._new = self._new or [], None if self._new is None else []
            return found

    def encode(self, entry: FeedEntry) -> bytes:
        """Return an event as JSON, without secrets."""
        with self._lock:
            return entry.encoded(self._redactor)

    def entries(self) -> list[FeedEntry]:
        """Return all events that are retained, oldest first."""
        with self._lock:
            self._settle()
            found = [entry for session in self.sessions.values() for entry in session.entries]
        found.sort(key=lambda entry: entry.number)
        return found

    def _settle(self) -> None:
        while self._pending:
            raw = self._pending.popleft()
            _, kind, data = raw
            name = label_of(data)
            if kind == "session":
                self._known(name, data)
            session = self.sessions.get(name)
            if session is None:
                session = self.sessions[name] = SessionHistory(raw[0])
            session.count(kind, data)
            self._last += 1
            entry = FeedEntry(self._last, raw, name, _size(data))
            if entry.size > _LARGE:
                entry.size = len(entry.encoded(self._redactor)) + _OVERHEAD
            session.entries.append(entry)
            session.size += entry.size
            self._events += 1
            self._size += entry.size
            if self._new is not None:
                self._new.append(entry)
            if len(session.entries) > SESSION_EVENTS or session.size > SESSION_SIZE:
                self._drop(session)
        while self._events > TOTAL_EVENTS or self._size > TOTAL_SIZE:
            self._drop(max(self.sessions.values(), key=lambda session: session.size))
        while len(self.sessions) > SESSIONS:
            oldest = self.sessions.pop(next(iter(self.sessions)))
            self._drop(oldest, everything=True)

    def _known(self, name: str, data: Mapping[str, Any]) -> None:
        """Move the events of a socket to its session."""
        earlier = self.sessions.pop(label_of({"socket": data.get("socket")}), None)
        if earlier is not None:
            self.sessions.setdefault(name, SessionHistory(earlier.started)).merge(earlier)

    def _drop(self, session: SessionHistory, *, everything: bool = False) -> None:
        """Drop the oldest eighth of a session's events: dropping one at a time would look for the largest each time."""
        before = session.size
        dropped = session.drop(len(session.entries) if everything else len(session.entries) // 8 + 1)
        self._events -= dropped
        self._size -= before - session.size
        self.dropped += dropped


def _size(data: Mapping[str, Any]) -> int:
    size = _OVERHEAD
    for value in data.values():
        if isinstance(value, (str, bytes)):
            size += len(value)
        elif isinstance(value, Mapping):
            size += sum(len(str(name)) + len(str(member)) for name, member in value.items())
    return size
