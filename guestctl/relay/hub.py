"""Passes the events of one session from its log to the readers.

Knows: which events a reader has, which it misses, when it has fallen behind. Must not know: how events are encoded
and sent, where they come from, tornado, gRPC.

A server of any protocol reads like this, from any thread or event loop:

    reader = hub.subscribe(after, kinds, wake=notify)   # raises UsageError, or NotRetained with `strict`
    try:
        while not reader.ended:
            entries = reader.take()       # never waits; empty: nothing new
            if entries:
                send(entries)             # may wait as long as this reader needs
            else:
                wait_for(notify)          # or `reader.wait(seconds)` in a thread
    finally:
        reader.close()

`wake` is called from other threads, at most once until the next `take`, and must return at once. A `LogEntry` has the
record as JSON (`body`), its kind and its id. Three kinds are records of the relay itself. They are always delivered,
whatever `kinds` says:

* `gap`: the log no longer has the events from `first_missing` to `last_missing`. The stream continues after them.
  Where only events of kinds that the reader does not get are missing, there is no gap.
* `slow`: the reader has taken nothing while more than `QUEUE` events arrived. It is the last entry, and `resume_after`
  is the position with which the reader continues when it subscribes again.
* `end`: the last entry when the relay stops, or when the session has ended (`code` is the failure's).

After `slow` and `end`, `reader.ended` is true, and the server closes the connection of the reader.

A reader between two calls of `take` is busy, and only a busy reader can fall behind; a server that has sent everything
calls `ready`, or `take` again. No reader keeps a queue of its own: the newest events are in memory once, with their
encodings, and older ones are read from the log, page by page. So a reader that returns is served from the log and then
live, without a seam, and a slow one costs as much memory as a fast one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from guestctl.core.clock import Clock, rfc3339
from guestctl.core.errors import Failure
from guestctl.output.records import USUAL_KINDS, relay_end_record, relay_gap_record, relay_slow_record
from guestctl.output.writer import exact_json
from guestctl.relay.log import PASSING, Arrival, EventLog, LogEntry, Missing

#: Events that may arrive while a reader is busy, before it is cut.
QUEUE = 1_000
#: Bytes of the newest events that are kept in memory. At least one event is.
MEMORY = 4 << 20
#: Events of one `take`, and bytes of their records. At least one event is taken.
PAGE, PAGE_BYTES = 256, 256 << 10


class NotRetained(Exception):
    """The reader asked for events that the log no longer has, and the relay is strict. `missing` names them."""

    def __init__(self, missing: Missing) -> None:
        super().__init__(missing)
        self.missing = missing


class Subscription:
    """One reader's place in the stream (see the module). Only one thread at a time may call its methods.

    `ended` is the kind of the last entry, `slow` or `end`, once `take` has returned it; until then it is None.
    `position` is the number of the last event that was taken, or passed over because of its kind. `newest_seen` is the
    number of the newest event at the last call of `take`.
    """

    def __init__(
        self,
        hub: Hub,
        position: int,
        kinds: frozenset[str],
        first: LogEntry | None,
        wake: Callable[[], None],
        protocol: str,
    ) -> None:
        self.protocol = protocol
        self.position = position
        self.newest_seen = hub.log.last
        self.kinds = kinds
        self.ended: str | None = None
        self.closed = False
        self.busy = False
        self.is_slow = False
        self._hub = hub
        self._first = first
        self._wake = wake
        self._event = threading.Event()

    @property
    def resume_after(self) -> str:
        """The position with which a reader continues after what this one has taken."""
        return str(self._hub.log.id(self.position))

    @property
    def lag(self) -> int:
        """The number of events that the reader has not taken yet."""
        return self._hub.log.last - self.position

    @property
    def has_more(self) -> bool:
        """Whether `take` would return something, unless all of it is of other kinds."""
        return self.ended is None and (self.lag > 0 or self.is_slow or self._hub.end_entry is not None)

    def take(self, most: int = PAGE) -> Sequence[LogEntry]:
        """Return the next entries, none if nothing is new. Never waits.

        They are at most `most`, and those of the relay itself.
        """
        self._event.clear()
        self.newest_seen = self._hub.log.last
        if self.ended is not None:
            return ()
        entries = self._take(most)
        self.busy = bool(entries) and self.ended is None
        return entries

    def ready(self) -> None:
        """State that everything taken has been sent: the reader waits for new events."""
        self.busy = False

    def wait(self, seconds: float | None) -> bool:
        """Wait in this thread until there may be something to take. Return False when the time has passed."""
        return self._event.wait(seconds)

    def wake(self) -> None:
        """Notify the reader that there may be something to take. The hub calls it."""
        if not self._event.is_set():
            self._event.set()
            self._wake()

    def close(self) -> None:
        """End the subscription. Closing twice does nothing."""
        self._hub.remove(self)

    def _take(self, most: int) -> Sequence[LogEntry]:
        if self.is_slow:
            self.ended = "slow"
            return [self._hub.slow_entry(self.resume_after)]
        found = [self._first] if self._first is not None else []
        self._first = None
        while True:
            entries, dropped = self._hub.entries_after(self.position, most)
            if not entries:
                break
            for entry in _page(entries):
                assert entry.id is not None
                number = entry.id.number
                if number > self.position + 1:  # dropped, perhaps while this reader was reading older ones
                    missing = self._hub.missing(self.position, number, dropped, self.kinds)
                    if missing is not None:
                        found.append(self._hub.gap_entry(missing))
                self.position = number
                if entry.kind in self.kinds:
                    found.append(entry)
            if found:
                return found
        end = self._hub.end_entry
        if end is not None and not found:
            self.ended = "end"
            return [end]
        return found


def _page(entries: Sequence[LogEntry]) -> Sequence[LogEntry]:
    """Return as many of the first entries as a reader gets at once: a slow one must not occupy much memory."""
    size = 0
    for index, entry in enumerate(entries):
        size += len(entry.body)
        if size > PAGE_BYTES and index:
            return entries[:index]
    return entries


class Hub:
    """The readers of one session's log.

    `session` is the session's name, for the records of the relay itself. `strict`: a reader that would begin with a gap
    is refused.
    """

    def __init__(self, log: EventLog, session: str, clock: Clock, *, strict: bool = False, queue: int = QUEUE) -> None:
        self.log = log
        self.session = session
        self.strict = strict
        #: The last entry of every reader, None while the relay runs.
        self.end_entry: LogEntry | None = None
        #: Counts for metrics: stored events by kind, gaps that readers got, readers that were cut.
        self.stored: Counter[str] = Counter()
        self.gaps = 0
        self.cut = 0
        self._clock = clock
        self._queue = queue
        self._lock = threading.Lock()
        self._readers: set[Subscription] = set()
        #: The newest events, without holes: the first has the number `_begin`.
        self._newest: list[LogEntry] = []
        self._begin = log.last + 1
        self._bytes = 0

    # --- for the servers ---

    def subscribe(
        self,
        after: str = "last",
        kinds: frozenset[str] | None = None,
        *,
        wake: Callable[[], None] = lambda: None,
        strict: bool = False,
        tolerant: bool = False,
        protocol: str = "other",
    ) -> Subscription:
        """Return a new reader that continues after a position (see `EventLog.locate`).

        `kinds` are those of the wanted events; default: all but typing and connection, as `listen` prints them.
        `strict` refuses a reader that would begin with a gap, whatever the hub says, and `tolerant` accepts it.
        `protocol` is a label for metrics.
        Raises UsageError for an invalid position, and NotRetained for a refused gap.
        """
        wanted = USUAL_KINDS if kinds is None else kinds
        number, missing = self.log.locate(after)
        if missing is None and (strict or self.strict) and not tolerant:
            entries, dropped = self.entries_after(number, 1)
            if entries and entries[0].id is not None:
                missing = self.missing(number, entries[0].id.number, dropped, wanted)
        if missing is not None and not tolerant and (strict or self.strict):
            raise NotRetained(missing)
        first = None if missing is None else self.gap_entry(missing)
        reader = Subscription(self, number, wanted, first, wake, protocol)
        with self._lock:
            self._readers.add(reader)
        return reader

    @property
    def readers(self) -> list[Subscription]:
        """The present readers."""
        with self._lock:
            return list(self._readers)

    def remove(self, reader: Subscription) -> None:
        """Forget a reader. `Subscription.close` calls it."""
        reader.closed = True
        with self._lock:
            self._readers.discard(reader)

    # --- for the upstream ---

    def publish(self, arrivals: Sequence[Arrival]) -> list[LogEntry]:
        """Store events, then pass them on. Return those that the log did not have. Raises UsageError."""
        entries = self.log.append(arrivals, self._clock.now())
        if not entries:
            return entries
        for entry in entries:
            self.stored[entry.kind] += 1
        with self._lock:
            self._newest += entries
            self._bytes += sum(len(entry.body) for entry in entries)
            self._trim()
            readers = list(self._readers)
        for reader in readers:
            if reader.busy and self.log.last - reader.newest_seen > self._queue and not reader.is_slow:
                reader.is_slow = True
                self.cut += 1
            reader.wake()
        return entries

    def end(self, failure: Failure | None = None) -> None:
        """End the stream of every reader, after all events; with the failure that ended the session, if there is one.

        Later readers get what the log has, and then the end.
        """
        if self.end_entry is None:
            self.end_entry = self._own(
                "end",
                relay_end_record(
                    self.session,
                    at=self._now(),
                    resume_after=str(self.log.id(self.log.last)),
                    code=None if failure is None else failure.code,
                    reason="the relay stops" if failure is None else failure.message,
                ),
            )
        for reader in self.readers:
            reader.wake()

    # --- for subscriptions ---

    def entries_after(self, number: int, most: int) -> tuple[Sequence[LogEntry], int]:
        """Return the events after a number, and the number up to which all are dropped (see `EventLog.after`).

        They are from memory if it has them, otherwise from the log.
        """
        with self._lock:
            start = number + 1 - self._begin
            if start >= 0:
                return self._newest[start : start + most], 0
        return self.log.after(number, most)

    def missing(self, before: int, after: int, dropped: int, kinds: frozenset[str]) -> Missing | None:
        """Return what a reader of these kinds misses between the numbers of two events, None for nothing."""
        last = after - 1 if kinds & PASSING else min(dropped, after - 1)
        return Missing(self.log.id(before + 1), self.log.id(last), "not_retained") if last > before else None

    def gap_entry(self, missing: Missing) -> LogEntry:
        """Return the gap for missing events. Its id is that of the last one, so that nobody gets the gap twice."""
        self.gaps += 1
        first, last = (None if one is None else str(one) for one in (missing.first, missing.last))
        record = relay_gap_record(
            self.session, at=self._now(), first_missing=first, last_missing=last, reason=missing.reason
        )
        entry = self._own("gap", record)
        entry.id = missing.last
        return entry

    def slow_entry(self, resume_after: str) -> LogEntry:
        """Return the last entry of a reader that fell behind."""
        return self._own("slow", relay_slow_record(self.session, at=self._now(), resume_after=resume_after))

    def _own(self, kind: str, record: object) -> LogEntry:
        return LogEntry(None, kind, None, self._clock.now(), exact_json(record).encode())

    def _now(self) -> str:
        return rfc3339(self._clock.now())

    def _trim(self) -> None:
        """Remove the oldest events from memory, many at a time."""
        if len(self._newest) <= 2 * self._queue and self._bytes <= MEMORY:
            return
        kept, size = 0, 0
        for entry in reversed(self._newest):
            size += len(entry.body)
            if kept and (kept >= self._queue or size > MEMORY // 2):
                size -= len(entry.body)
                break
            kept += 1
        self._begin += len(self._newest) - kept
        del self._newest[: len(self._newest) - kept]
        self._bytes = size
