"""The feed: what pages receive, in batches, however slowly they read.

Knows: the messages of the feed, when they are written, and that a slow page misses events instead of filling the
memory. Must not know: tornado, cookies, where events come from.

Everything runs in the thread of the server's event loop.

What a page costs must not slow the source down. After it has worked for the pages, the feed pauses for a multiple of
that time, if the source has been busy since; then pages lag behind, and catch up when the source has less to do.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from guestctl.core.clock import epoch_of
from guestctl.inspector.retained import Raw, Retained, RetainedSession, size_of
from guestctl.transport.server_frames import text_frame
from guestctl.transport.web_routes import WebStream

Message: TypeAlias = Mapping[str, Any]

#: Seconds that events wait for more, so that many travel in one message.
BATCH_TIME = 0.01
#: Seconds between two looks at what changes without an event: sessions that expire, faults that fire.
POLL_TIME = 0.5
#: The feed pauses for so many times as long as it has worked, while the source is busy; and the longest pause.
_PAUSE, _LONGEST_PAUSE = 8.0, 0.05
#: Seconds without an event after which the source is not busy any more.
_BUSY_TIME = 0.1
#: Events and bytes in one message.
_BATCH_EVENTS, _BATCH_BYTES = 100, 256 << 10
#: Events and characters that wait for one page. A page that lags behind further misses the oldest.
WAITING_EVENTS, WAITING_SIZE = 60_000, 64 << 20
#: Pages at the same time.
PAGES = 16


class PageReader:
    """One page. `gap` counts the events that it missed and does not know of yet."""

    def __init__(self, stream: WebStream, encode: Callable[[Raw], bytes]) -> None:
        self.stream = stream
        self.gap = 0
        self._encode = encode
        self._messages: deque[bytes] = deque()
        self._waiting: deque[Raw] = deque()
        self._size = 0
        self._busy = False

    @property
    def behind(self) -> bool:
        """Whether something waits that could be written now."""
        return not self._busy and not self.stream.closed and bool(self._messages or self._waiting or self.gap)

    def say(self, message: Message) -> None:
        """Let a message wait that is not an event."""
        self._messages.append(_json(message))

    def add(self, events: Iterable[Raw]) -> None:
        """Let events wait, and drop the oldest if too many do."""
        for raw in events:
            self._waiting.append(raw)
            self._size += size_of(raw)
        while len(self._waiting) > WAITING_EVENTS or self._size > WAITING_SIZE:
            self._size -= size_of(self._waiting.popleft())
            self.gap += 1

    def write(self) -> None:
        """Write one batch, unless the last one is still on its way."""
        if not self.behind:
            return
        frames = [text_frame(self._messages.popleft()) for _ in range(len(self._messages))]
        if self.gap:
            frames.append(text_frame(_json({"type": "gap", "count": self.gap})))
            self.gap = 0
        events: list[bytes] = []
        size = 0
        while self._waiting and len(events) < _BATCH_EVENTS and size < _BATCH_BYTES:
            raw = self._waiting.popleft()
            self._size -= size_of(raw)
            events.append(self._encode(raw))
            size += len(events[-1])
        if events:
            frames.append(text_frame(b'{"type":"events","events":[' + b",".join(events) + b"]}"))
        self._busy = not self.stream.write(b"".join(frames), self._drained)

    def _drained(self) -> None:
        self._busy = False


class Feed:
    """The pages that read now, and what they get.

    `hello` is the first message. `sessions` returns what is known about sessions in addition to the counts of the
    history, by their ids; `faults` the message about faults, None without any. `watched` is called with True before the
    first page reads, and with False after the last one has left.
    """

    def __init__(
        self,
        retained: Retained,
        *,
        hello: Callable[[], Message],
        sessions: Callable[[], Mapping[str, Message]],
        faults: Callable[[], Message | None],
        watched: Callable[[bool], None],
    ) -> None:
        self._retained = retained
        self._hello = hello
        self._known_sessions = sessions
        self._faults = faults
        self._watched = watched
        self._readers: set[PageReader] = set()
        retained.woken = self.observed
        self._pause = 0.0
        self._busy_until = 0.0  # in the time of the event loop
        self._scheduled = False
        self._polling = False
        self._shared: dict[int, bytes] = {}  # what several pages get in one round, by the numbers of events
        self._shown_sessions: dict[str, Message] = {}
        self._shown_faults: Message | None = None
        self._ended = False

    @property
    def has_room(self) -> bool:
        return len(self._readers) < PAGES and not self._ended

    def observed(self) -> None:
        """Write soon."""
        if not self._scheduled:
            self._schedule(max(BATCH_TIME, self._pause))

    def open(self, stream: WebStream) -> None:
        """Let a page read: first what is retained, then what comes."""
        if not self._readers:
            self._watched(True)
            self._retained.follow(True)
            self._shown_sessions, self._shown_faults = self._sessions(), self._faults()
        else:
            self._distribute()
        reader = PageReader(stream, self._encoded)
        reader.say(self._hello())
        reader.say({"type": "sessions", "sessions": list(self._shown_sessions.values())})
        if self._shown_faults is not None:
            reader.say(self._shown_faults)
        reader.gap = self._retained.dropped
        reader.add(self._retained.all())
        self._readers.add(reader)

        def gone() -> None:
            self._readers.discard(reader)
            if not self._readers:
                self._retained.follow(False)
                self._watched(False)

        stream.on_close(gone)
        if stream.closed:
            gone()
            return
        self._write()
        if not self._polling:
            self._polling = True
            asyncio.get_running_loop().call_later(POLL_TIME, self._poll)

    def end(self) -> None:
        """Tell all pages that the source ends, and close their connections."""
        self._ended = True
        self._distribute()
        for reader in tuple(self._readers):
            reader.write()
            reader.stream.end(text_frame(_json({"type": "gone"})), 1001)

    def refresh(self) -> None:
        """Tell the pages now what has changed without an event."""
        if self._readers:
            self._look()
            self._write()

    def _poll(self) -> None:
        self._polling = bool(self._readers) and not self._ended
        if self._polling:
            self._look()
            self._write()
            asyncio.get_running_loop().call_later(POLL_TIME, self._poll)

    def _look(self) -> None:
        sessions = self._sessions()
        changed = [one for name, one in sessions.items() if self._shown_sessions.get(name) != one]
        faults = self._faults()
        for reader in self._readers:
            if changed:
                reader.say({"type": "sessions", "sessions": changed})
            if faults is not None and faults != self._shown_faults:
                reader.say(faults)
        self._shown_sessions, self._shown_faults = sessions, faults

    def _sessions(self) -> dict[str, Message]:
        known = self._known_sessions()
        seen = self._retained.sessions
        return {name: _session(name, seen.get(name), known.get(name, {})) for name in {**seen, **known}}

    def _schedule(self, seconds: float) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_later(seconds, self._write)

    def _distribute(self) -> None:
        """Let all pages have what is new."""
        new = self._retained.new()
        for reader in self._readers:
            reader.add(new)
        if new:
            self._busy_until = asyncio.get_running_loop().time() + _BUSY_TIME

    def _encoded(self, raw: Raw) -> bytes:
        """Return an event as JSON. Pages that are equally far share the work."""
        if len(self._readers) < 2:
            return self._retained.encode(raw)
        found = self._shared.get(raw[0])
        if found is None:
            found = self._shared[raw[0]] = self._retained.encode(raw)
        return found

    def _write(self) -> None:
        self._scheduled = False
        begun = time.thread_time()
        self._distribute()
        for reader in tuple(self._readers):
            reader.write()
        self._shared.clear()
        self._pause = min(_LONGEST_PAUSE, (time.thread_time() - begun) * _PAUSE)
        if any(reader.behind for reader in self._readers):
            busy = asyncio.get_running_loop().time() < self._busy_until
            self._schedule(self._pause if busy else 0)


def _session(name: str, seen: RetainedSession | None, known: Message) -> Message:
    found: dict[str, Any] = {"id": name, "api": None, "state": None, "messages": 0, "started": None, "sockets": 0}
    found |= {"received": 0, "sent": 0, "requests": 0}
    if seen is not None:
        found |= {"sockets": len(seen.sockets), "started": seen.started}
        found |= {"received": seen.received, "sent": seen.sent, "requests": seen.requests}
    found |= known
    if isinstance(found["started"], str):
        found["started"] = epoch_of(found["started"])
    return found


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str).encode("utf-8", "replace")
