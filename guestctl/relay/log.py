"""The log of a relay: every event of one session, in the order in which readers get it.

Knows: SQLite, ids of events, how many events are kept, what a reader has missed. Must not know: where events come
from, readers, formats other than the JSON of a record.

`append` returns after the events are on the disk, so a reader never gets an event that a crash can undo. The position
of the newest message is stored in the same transaction: after a crash the upstream continues there. A message that it
then brings again is recognised by the service's id and is not stored twice.

The log has the last `retain` events of the usual kinds and everything since, and of the passing kinds (typing and
connection) the last `retain`. So there may be holes where passing events were, but nowhere else.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guestctl.core.clock import epoch_of
from guestctl.core.errors import UsageError
from guestctl.core.model import Position
from guestctl.core.values import immutable
from guestctl.output.records import EVENT_KINDS, USUAL_KINDS
from guestctl.storage import private_files
from guestctl.transport.server_frames import text_frame

#: The number of events that `relay serve` keeps by default.
RETAIN = 10_000
#: Kinds that are kept apart: a long outage brings thousands of connection events, which must not push out messages.
PASSING = frozenset(EVENT_KINDS) - USUAL_KINDS
_IS_PASSING = f"kind IN ({', '.join(repr(kind) for kind in sorted(PASSING))})"
#: Settled sends that are remembered for a repeated `Idempotency-Key`.
SENDS_KEPT = 10_000

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, conversation TEXT, service_id TEXT,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS one_event ON event (kind, service_id) WHERE service_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS passing ON event (number) WHERE {_IS_PASSING};
CREATE TABLE IF NOT EXISTS send (
    n INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, body_hash TEXT NOT NULL, client_key TEXT NOT NULL, answer TEXT
);
"""
_ID = re.compile(r"([0-9]{1,15})-([0-9]{1,18})")


@immutable
class EntryId:
    """The id of an event: the epoch of its log, and its number there, from 1 without holes.

    The epoch is the time at which the log was created, in milliseconds since 1970. So ids increase across logs, too,
    and each is a valid id of a Redis stream.
    """

    epoch: str
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"


class LogEntry:
    """One event as every reader gets it. `body` is the JSON of its record in UTF-8; `at` is in epoch seconds.

    `id` is None for a record of the relay itself (`slow`, `end`) and for a gap whose end is unknown. The encodings for
    the kinds of readers are made once, and all readers share them. `message` is set by `chat_messages`.
    """

    __slots__ = ("_event", "_frame", "_line", "at", "body", "conversation", "id", "kind", "message")

    def __init__(self, id: EntryId | None, kind: str, conversation: str | None, at: float, body: bytes) -> None:
        self.id = id
        self.kind = kind
        self.conversation = conversation
        self.at = at
        self.body = body
        self.message: bytes | None = None
        self._event: bytes | None = None
        self._line: bytes | None = None
        self._frame: bytes | None = None

    @property
    def line(self) -> bytes:
        """The record with the `relay_id`, as a line of JSON."""
        if self._line is None:
            shown = b"null" if self.id is None else b'"%s"' % str(self.id).encode()
            self._line = b'%s,"relay_id":%s}\n' % (self.body[:-1], shown)
        return self._line

    @property
    def event(self) -> bytes:
        """The record as an event of a `text/event-stream`."""
        if self._event is None:
            named = b"" if self.id is None else b"id: %s\n" % str(self.id).encode()
            self._event = b"%sevent: %s\ndata: %s\n\n" % (named, self.kind.encode(), self.body)
        return self._event

    @property
    def frame(self) -> bytes:
        """The record with the `relay_id`, as a text frame of a WebSocket server (RFC 6455 §5.2)."""
        if self._frame is None:
            self._frame = text_frame(self.line[:-1])
        return self._frame


@immutable
class Arrival:
    """An event that is about to be stored.

    `service_id` is the service's id of a message or presence, which the log has once. `position` is where the upstream
    continues after this event, None for an event that does not change it.
    """

    kind: str
    body: bytes
    service_id: str | None = None
    position: Position | None = None
    conversation: str | None = None


@immutable
class Missing:
    """What a reader asks for and the log does not have: the first and the last id, None where unknown.

    `reason`: `not_retained` (the log has dropped it), or `other_log` (the id belongs to a log that was replaced).
    """

    first: EntryId | None
    last: EntryId | None
    reason: str


@immutable
class SendRow:
    """A send that was asked for under an `Idempotency-Key`. `answer` is its settled answer as JSON, None before."""

    body_hash: str
    client_key: str
    answer: str | None


class EventLog:
    """The log of one session in one SQLite file, which only its owner can read. Threads may share it.

    `birth` identifies the session: a file of another session is replaced. So is a damaged one: `damaged` is its new
    name then, otherwise None. `now` is the current time in epoch seconds. Raises UsageError `state.unusable` if the
    file cannot be used.
    """

    def __init__(self, path: Path, *, birth: str, now: float, retain: int = RETAIN) -> None:
        self.damaged: Path | None = None
        self._path = path
        self._retain = retain
        self._writing, self._reading = threading.Lock(), threading.Lock()
        private_files.create_directory(path.parent)
        with self._failures():
            private_files.file_identity(path)
            epoch = max(int(now * 1000), self._remove_other(birth) + 1)
            private_files.create_file(path)
            self._writer = private_files.connect(path)
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._writer.execute("PRAGMA synchronous=FULL")
            self._writer.executescript(_SCHEMA)
            self._reader = private_files.connect(path)
            self._reader.execute("PRAGMA query_only=1")
            with self._transaction() as run:
                run("INSERT OR IGNORE INTO meta VALUES ('birth', ?)", (birth,))
                run("INSERT OR IGNORE INTO meta VALUES ('epoch', ?)", (str(epoch),))
                run("INSERT OR IGNORE INTO meta SELECT 'dropped', coalesce(min(number), 1) - 1 FROM event")
            self.epoch = str(self._meta("epoch"))
            position = self._meta("position")
            self._position = None if position is None else Position(*json.loads(position))
            newest = self._reader.execute("SELECT max(number) FROM event").fetchone()[0]
            self._last: int = newest or 0
            counts = dict(self._reader.execute(f"SELECT {_IS_PASSING}, count(*) FROM event GROUP BY 1"))
            #: How many events the log has of the usual kinds, and of the passing ones.
            self._counts = (counts.get(0, 0), counts.get(1, 0))

    def _remove_other(self, birth: str) -> int:
        """Remove the log of another session, and set a damaged file aside. Return the epoch of what was removed, or 0.

        A new log has a later epoch than the one before, even if the clock was set back in between.
        """
        if not self._path.exists():
            self._remove_rest()  # of a file that somebody removed: it must not become a part of the new one
            return 0
        epoch, birth_found, damaged = self._look()
        if not damaged and birth_found in (None, birth):
            return 0
        if damaged:
            self.damaged = self._path.with_suffix(".damaged")
            self._path.replace(self.damaged)
        self._path.unlink(missing_ok=True)
        self._remove_rest()
        return epoch

    def _look(self) -> tuple[int, str | None, bool]:
        """Return the epoch and the session of the existing file as far as it has them, and whether it is damaged."""
        epoch, birth = 0, None
        found = private_files.connect(self._path)
        try:
            if found.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                return epoch, birth, False  # a crash came before the first transaction
            meta = dict(found.execute("SELECT name, value FROM meta"))
            epoch, birth = int(meta.get("epoch", 0)), meta.get("birth")
            return epoch, birth, found.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok"
        except (sqlite3.DatabaseError, ValueError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            return epoch, birth, True
        finally:
            found.close()

    def _remove_rest(self) -> None:
        """Remove what belongs to a database file that is no longer there."""
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Move everything into the database file, and close it."""
        with self._writing, self._reading, self._failures():
            self._reader.close()
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._writer.close()

    # --- what the log has ---

    @property
    def position(self) -> Position | None:
        """The position of the newest message, where the upstream continues; None before the first message."""
        return self._position

    @property
    def last(self) -> int:
        """The number of the newest event, 0 if there is none."""
        return self._last

    @property
    def first(self) -> int:
        """The number of the oldest event that the log has; one more than `last` if there is none."""
        with self._reading, self._failures():
            oldest = self._reader.execute("SELECT min(number) FROM event").fetchone()[0]
        return oldest or self._last + 1

    def id(self, number: int) -> EntryId:
        """Return the id with this number in this log."""
        return EntryId(self.epoch, number)

    def after(self, number: int, limit: int) -> tuple[list[LogEntry], int]:
        """Return up to `limit` events that follow the one with this number, and the number up to which all are dropped.

        A hole after that number is one of passing events only.
        """
        with self._reading, self._failures():
            # One statement, so that both are of the same moment.
            rows = self._reader.execute(
                "SELECT number, kind, conversation, at, body, (SELECT value FROM meta WHERE name = 'dropped')"
                " FROM event WHERE number > ? ORDER BY number LIMIT ?",
                (number, limit),
            ).fetchall()
        entries = [LogEntry(self.id(row[0]), row[1], row[2], row[3], bytes(row[4])) for row in rows]
        return entries, int(rows[0][5]) if rows else 0

    @property
    def _dropped(self) -> int:
        """The number up to which all events are dropped."""
        return int(self._meta("dropped") or 0)

    def locate(self, after: str) -> tuple[int, Missing | None]:
        """Return the number after which a reader continues, and what it misses.

        `after` is the id of the last event that the reader has, `first` (everything that is kept), `last` (only new
        events) or an RFC 3339 time. Raises UsageError for any other text.
        """
        if after == "last":
            return self._last, None
        if after == "first":
            return self.first - 1, None
        found = _ID.fullmatch(after)
        if found is not None:
            return self._after_id(EntryId(found[1], int(found[2])))
        try:
            at = epoch_of(after)
        except ValueError:
            raise UsageError(
                f'after: "{after}" is not a position',
                hint="give the id of an event, first, last or a time such as 2026-03-09T12:00:00Z",
            ) from None
        return self._after_time(at)

    def _after_id(self, wanted: EntryId) -> tuple[int, Missing | None]:
        dropped = self._dropped
        if wanted.epoch != self.epoch or wanted.number > self._last:
            # The events after it are unknown. Everything that this log has follows them.
            last = self.id(dropped) if dropped else None
            return dropped, Missing(EntryId(wanted.epoch, wanted.number + 1), last, "other_log")
        if wanted.number < dropped:
            return dropped, Missing(self.id(wanted.number + 1), self.id(dropped), "not_retained")
        return wanted.number, None

    def _after_time(self, at: float) -> tuple[int, Missing | None]:
        with self._reading, self._failures():
            number = self._reader.execute("SELECT max(number) FROM event WHERE at <= ?", (at,)).fetchone()[0]
        if number is not None:
            return number, None
        dropped, dropped_at = self._dropped, self._meta("dropped_at")
        if dropped_at is not None and float(dropped_at) > at:
            return dropped, Missing(None, self.id(dropped), "not_retained")
        return dropped, None

    # --- writing ---

    def append(self, arrivals: Sequence[Arrival], at: float) -> list[LogEntry]:
        """Store events, and return those that the log did not have, with their ids. They are on the disk then."""
        stored: list[LogEntry] = []
        position = self._position
        with self._writing, self._failures():
            counts = self._counts
            with self._transaction() as run:
                number = self._last
                for one in arrivals:
                    row = (number + 1, at, one.kind, one.conversation, one.service_id, one.body)
                    if run("INSERT OR IGNORE INTO event VALUES (?, ?, ?, ?, ?, ?)", row).rowcount == 0:
                        continue
                    number += 1
                    stored.append(LogEntry(self.id(number), one.kind, one.conversation, at, one.body))
                    if one.position is not None and not _later(position, one.position):
                        position = one.position
                if position is not None and position is not self._position:
                    value = json.dumps([position.id, position.sequence, position.time])
                    run("INSERT OR REPLACE INTO meta VALUES ('position', ?)", (value,))
                passing = sum(entry.kind in PASSING for entry in stored)
                counts = self._drop(run, counts[0] + len(stored) - passing, counts[1] + passing)
            # Readers may ask for the new events only now: they are committed.
            self._last, self._position, self._counts = number, position, counts
        return stored

    def _drop(self, run: Any, usual: int, passing: int) -> tuple[int, int]:
        """Delete the oldest events beyond the limits. Take and return the number of events of both groups.

        The newest usual event that is deleted takes everything before it along. Its number and time are stored.
        """
        if usual > self._retain:
            number, at = run(
                f"SELECT number, at FROM event WHERE NOT {_IS_PASSING} ORDER BY number LIMIT 1 OFFSET ?",
                (usual - self._retain - 1,),
            ).fetchone()
            run("INSERT OR REPLACE INTO meta VALUES ('dropped', ?), ('dropped_at', ?)", (str(number), repr(at)))
            deleted = run("DELETE FROM event WHERE number <= ?", (number,)).rowcount
            usual, passing = self._retain, passing - (deleted - (usual - self._retain))
        if passing > self._retain:
            run(
                f"DELETE FROM event WHERE number IN"
                f" (SELECT number FROM event WHERE {_IS_PASSING} ORDER BY number LIMIT ?)",
                (passing - self._retain,),
            )
            passing = self._retain
        return usual, passing

    # --- sends ---

    def send_row(self, key: str) -> SendRow | None:
        """Return what is stored for an `Idempotency-Key`, None for a new one."""
        with self._reading, self._failures():
            row = self._reader.execute(
                "SELECT body_hash, client_key, answer FROM send WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else SendRow(*row)

    def begin_send(self, key: str, body_hash: str, client_key: str) -> None:
        """Store a send before it is attempted."""
        with self._writing, self._failures(), self._transaction() as run:
            run("INSERT INTO send (key, body_hash, client_key) VALUES (?, ?, ?)", (key, body_hash, client_key))
            run("DELETE FROM send WHERE n <= (SELECT max(n) - ? FROM send) AND answer IS NOT NULL", (SENDS_KEPT,))

    def settle_send(self, key: str, answer: str) -> None:
        """Store the answer to a send whose outcome cannot change any more."""
        with self._writing, self._failures(), self._transaction() as run:
            run("UPDATE send SET answer = ? WHERE key = ?", (answer, key))

    # --- the database ---

    def _meta(self, name: str) -> str | None:
        with self._reading, self._failures():
            row = self._reader.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield self._writer.execute
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:  # SQLite has ended it already after some failures, such as a full disk
                self._writer.execute("ROLLBACK")
            raise

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn errors of the system and of SQLite into UsageError `state.unusable`."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise private_files.unusable(self._path.parent, reason) from error


def _later(one: Position | None, other: Position) -> bool:
    """Return whether a position is after another one, as far as their numbers or times show it.

    A message that was found late must not move the position back: later ones would be read again.
    """
    if one is None:
        return False
    if one.sequence is not None and other.sequence is not None:
        return one.sequence > other.sequence
    return one.time is not None and other.time is not None and one.time > other.time
