"""What guestctl remembers between commands, and how its processes take turns.

Knows: one SQLite database in a private directory, its schema and its locks (contract.md §6,
reliability.md §7). Must not know: any dialect, the wire, profiles, how a scope is made.

Durability. Sessions, credentials, the outbox and cursors are committed with `synchronous=FULL`:
they survive power loss. The ledger, budgets, the activity log and caches use `NORMAL`: they survive
kill -9, and whatever a power cut takes from their tail is read again from history. Either way a
transaction is there whole or not at all.

Records belong to a session, not to its name: a session is known by when it was created, so that a
process left over from one that was renamed, replaced or forgotten neither writes among its successor's
records nor reads them. What such a process records of a session that is gone is dropped, and `notice` told.

Secrets are plain text in this database, which only its owner can read (file 0600, directory 0700);
`secure_delete` overwrites what is removed. Retention: per session the newest 10,000 ledger entries,
10,000 settled sends and 10,000 activity lines; an unsettled send is never dropped.
"""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeAlias

from guestctl.clock import Clock, Deadline, rfc3339
from guestctl.errors import SessionOver, TimedOut, UsageError
from guestctl.model import Credential, CredentialKind, Json, Limits, Secret, Session
from guestctl.values import immutable

FILE = "state.db"
KEPT = 10_000
"""Ledger entries, settled sends and activity lines kept for one session."""

DAY = 86_400.0
"""Seconds after which no budget asks for a booking any more."""

PATIENCE = 1.0
"""Seconds a turn is waited for before that is told."""

BUSY = 10.0
"""Seconds a statement waits for another process's transaction (milliseconds long) to end."""

SendState: TypeAlias = Literal["queued", "writing", "accepted", "rejected", "not_sent", "in_doubt"]

#: One tuple of statements per schema version; never edit a published one, append the next.
_STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE session (n INTEGER PRIMARY KEY, scope TEXT NOT NULL, name TEXT NOT NULL, body TEXT,"
        " UNIQUE (scope, name))",
        "CREATE TABLE current (scope TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE credential (scope TEXT, kind TEXT, body TEXT NOT NULL, PRIMARY KEY (scope, kind)) WITHOUT ROWID",
        "CREATE TABLE outbox (session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE, n INTEGER NOT NULL,"
        " key TEXT NOT NULL, text TEXT NOT NULL, state TEXT NOT NULL, message_id TEXT, time TEXT,"
        " begun_at REAL NOT NULL, written_at REAL, PRIMARY KEY (session, n)) WITHOUT ROWID",
        "CREATE UNIQUE INDEX outbox_key ON outbox (session, key)",
        "CREATE INDEX outbox_state ON outbox (session, state)",
        "CREATE TABLE ledger (session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE, n INTEGER NOT NULL,"
        " id TEXT NOT NULL, key TEXT, sequence INTEGER, time TEXT, PRIMARY KEY (session, n)) WITHOUT ROWID",
        "CREATE UNIQUE INDEX ledger_id ON ledger (session, id)",
        "CREATE TABLE cursor (session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE, path TEXT NOT NULL,"
        " identity TEXT NOT NULL, position INTEGER NOT NULL, id TEXT, PRIMARY KEY (session, path)) WITHOUT ROWID",
        "CREATE TABLE activity (session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE, n INTEGER NOT NULL,"
        " at REAL NOT NULL, event TEXT NOT NULL, details TEXT NOT NULL, PRIMARY KEY (session, n)) WITHOUT ROWID",
        "CREATE TABLE budget (bucket TEXT NOT NULL, at REAL NOT NULL)",
        "CREATE INDEX budget_at ON budget (bucket, at)",
        "CREATE TABLE deployment (scope TEXT PRIMARY KEY, at REAL NOT NULL, body TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE sandbox (n INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE, body TEXT NOT NULL)",
    ),
    (
        "ALTER TABLE session ADD COLUMN birth REAL",
        "UPDATE session SET birth = birth_of(body)",
        # Records of no session: a process had outlived it.
        "DELETE FROM session WHERE body IS NULL",
        "CREATE INDEX session_birth ON session (scope, birth)",
    ),
)

#: The row of a session: scope, birth, name. Of several born in one instant, the one called so.
_SESSION = "(SELECT n FROM session WHERE scope = ? AND birth = ? ORDER BY name <> ? LIMIT 1)"

#: Closing *any* descriptor of a file drops the process's POSIX locks on it, SQLite's too. Ours is only ever
#: open while the file is being made, and this mutex keeps other threads from locking it meanwhile.
_CREATING = threading.Lock()


@immutable
class OutboxRow:
    """One send. Times are epoch seconds, except `time`, the service's own timestamp of the message."""

    key: str
    text: str
    state: SendState
    message_id: str | None
    time: str | None
    begun_at: float
    written_at: float | None


@immutable
class LedgerEntry:
    """One message this session has seen: the service's id, the guest's key, number and time if any."""

    id: str
    key: str | None = None
    sequence: int | None = None
    time: str | None = None


@immutable
class Cursor:
    """What `listen --cursor` is about to write: which file (device and inode, say), the offset, the message id."""

    identity: str
    position: int
    id: str | None


@immutable
class Activity:
    """One line of a session's activity log; `at` in epoch seconds."""

    at: float
    event: str
    details: Mapping[str, Json]


class State:
    """The state database. Any number of processes, and threads of this one, may use it at once.

    Every method raises UsageError `state.unusable` when the database cannot be read or written.
    """

    def __init__(
        self, connection: sqlite3.Connection, directory: Path | None, clock: Clock, notice: Callable[[str], None]
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._notice = notice
        self._mutex = threading.RLock()
        self._held: dict[tuple[str, str], threading.Lock] = {}
        self._missed: set[float] = set()
        self._untold: list[str] = []
        self._adopt(connection)

    # --- opening ---

    @staticmethod
    def directory(environ: Mapping[str, str]) -> Path:
        """Where state lives: `GUESTCTL_STATE`, else the platform's user state directory."""
        if named := environ.get("GUESTCTL_STATE"):
            return Path(named).expanduser()
        from platformdirs import user_state_path

        return user_state_path("guestctl", appauthor=False)

    @classmethod
    def open(cls, directory: Path | None, clock: Clock, *, notice: Callable[[str], None] = lambda text: None) -> State:
        """Open the database, making what is missing; None keeps everything in memory (`--no-state`).

        A damaged file is set aside and `notice` is told its new name. Raises UsageError
        `state.unusable` (unsafe or unwritable place) or `state.version` (written by a newer guestctl).
        """
        if directory is None:
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            _migrate(connection, 0)
            return cls(connection, None, clock, notice)
        with _explained(directory):
            _private_directory(directory)
            connection = _ready(directory / FILE) or _prepare(directory, clock, notice)
            return cls(connection, directory, clock, notice)

    def close(self) -> None:
        with self._mutex:
            self._connection.close()

    def __enter__(self) -> State:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- sessions ---

    def put(self, scope: str, session: Session) -> None:
        """Store a session under its name, credentials included. Another one of that name is forgotten first."""
        with self._transaction(durable=True) as run:
            run(
                "DELETE FROM session WHERE scope = ? AND name = ? AND birth IS NOT ?",
                (scope, session.name, session.created_at),
            )
            run(
                "INSERT INTO session (scope, name, birth, body) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (scope, name) DO UPDATE SET body = excluded.body",
                (scope, session.name, session.created_at, _dump_session(session)),
            )
            run("DELETE FROM budget WHERE at < ?", (self._clock.now() - DAY,))

    def amend(self, scope: str, session: Session, change: Callable[[Session], Session]) -> bool:
        """Replace what is stored of a session, under whatever name that is now, by what `change` makes of it;
        no other process writes between. Says whether it was there."""
        with self._transaction(durable=True) as run:
            number = self._place(run, scope, session)
            for name, body in run("SELECT name, body FROM session WHERE n = ?", (number,)).fetchall():
                changed = change(_load_session(name, body))
                run("UPDATE session SET body = ? WHERE n = ?", (_dump_session(changed), number))
        return number is not None

    def get(self, scope: str, name: str) -> Session | None:
        """The session that has this name now."""
        for (body,) in self._rows("SELECT body FROM session WHERE scope = ? AND name = ?", (scope, name)):
            return _load_session(name, body)
        return None

    def find(self, scope: str, session: Session) -> Session | None:
        """A session as it is stored now, under whatever name; None when it was forgotten or replaced."""
        for name, body in self._rows(f"SELECT name, body FROM session WHERE n = {_SESSION}", _known_by(scope, session)):
            return _load_session(name, body)
        return None

    def sessions(self, scope: str | None = None, *, tell: bool = False) -> list[tuple[str, Session]]:
        """Every stored session with its scope, in the order they were first stored. One whose record
        cannot be read hides no other; with `tell`, `notice` hears of it."""
        rows = self._rows(
            "SELECT scope, name, body FROM session WHERE ? IS NULL OR scope = ? ORDER BY n",
            (scope, scope),
        )
        found = []
        for where, name, body in rows:
            try:
                found.append((where, _load_session(name, body)))
            except UsageError as error:
                if tell:
                    self._notice(f"{error.message}. {error.hint}")
        return found

    def names(self, scope: str) -> set[str]:
        """Every name that is taken, also by a record that cannot be read."""
        return {str(name) for (name,) in self._rows("SELECT name FROM session WHERE scope = ?", (scope,))}

    def current(self, scope: str) -> str | None:
        """The name commands use when none is given."""
        for (name,) in self._rows("SELECT name FROM current WHERE scope = ?", (scope,)):
            return str(name)
        return None

    def use(self, scope: str, name: str) -> None:
        with self._transaction(durable=True) as run:
            run("INSERT OR REPLACE INTO current (scope, name) VALUES (?, ?)", (scope, name))

    def forget(self, scope: str, name: str) -> bool:
        """Remove a session and everything recorded of it. Says whether there was one."""
        with self._transaction(durable=True) as run:
            found = run("SELECT body FROM session WHERE scope = ? AND name = ?", (scope, name)).fetchone()
            run("DELETE FROM session WHERE scope = ? AND name = ?", (scope, name))
            run("DELETE FROM current WHERE scope = ? AND name = ?", (scope, name))
        if found is not None and self._directory is not None:
            # The token is also in the write-ahead log until that is reused; other readers may prevent this.
            self._rows("PRAGMA wal_checkpoint(TRUNCATE)")
            # Nobody else comes to take turns on it: whoever still does is told that it is gone.
            with suppress(UsageError, OSError):
                for path in _locks(self._directory, owner_of(scope, _load_session(name, *found))):
                    path.unlink()
        return found is not None

    def rename(self, scope: str, old: str, new: str) -> None:
        """Give a session and all its records another name; one already called `new` is forgotten first.
        Nothing happens when there is no `old`, or it is called that already."""
        with self._transaction(durable=True) as run:
            row = run("SELECT n FROM session WHERE scope = ? AND name = ?", (scope, old)).fetchone()
            if row is None or old == new:
                return
            run("DELETE FROM session WHERE scope = ? AND name = ?", (scope, new))
            run("UPDATE session SET name = ? WHERE n = ?", (new, *row))
            run("UPDATE current SET name = ? WHERE scope = ? AND name = ?", (new, scope, old))

    def put_credential(self, scope: str, credential: Credential) -> None:
        """Store a credential that the sessions of a scope share (OAuth)."""
        with self._transaction(durable=True) as run:
            run(
                "INSERT OR REPLACE INTO credential (scope, kind, body) VALUES (?, ?, ?)",
                (scope, credential.kind, json.dumps(_credential_out(credential))),
            )

    def get_credential(self, scope: str, kind: CredentialKind) -> Credential | None:
        for (body,) in self._rows("SELECT body FROM credential WHERE scope = ? AND kind = ?", (scope, kind)):
            return _credential_in(json.loads(body))
        return None

    # --- outbox ---

    def begin(self, scope: str, session: Session, key: str, text: str) -> OutboxRow:
        """Enter a send as `queued`, before a byte of it leaves, and return its row.

        A key that was rejected, or never left, starts over; one that is being written, in doubt or
        accepted is returned as it stands, for the caller to settle or to leave. Raises SessionOver
        `session.replaced` when the session is not there any more.
        """
        with self._transaction(durable=True) as run:
            number = _number(run, scope, session)
            if number is None:
                raise replaced(session)
            run(
                "INSERT INTO outbox (session, n, key, text, state, begun_at)"
                " VALUES (?1, (SELECT coalesce(max(n), 0) + 1 FROM outbox WHERE session = ?1), ?2, ?3, 'queued', ?4)"
                " ON CONFLICT (session, key) DO UPDATE SET state = 'queued', text = excluded.text,"
                " begun_at = excluded.begun_at, written_at = NULL, message_id = NULL, time = NULL"
                " WHERE state IN ('queued', 'rejected', 'not_sent')",
                (number, key, text, self._clock.now()),
            )
            run(
                "DELETE FROM outbox WHERE session = ?1 AND n <= (SELECT max(n) - ?2 FROM outbox WHERE session = ?1)"
                " AND state IN ('accepted', 'rejected', 'not_sent')",
                (number, KEPT),
            )
            row = run(_OUTBOX + "AND o.key = ?", (*_known_by(scope, session), key)).fetchone()
        return OutboxRow(*row)

    def mark(
        self,
        scope: str,
        session: Session,
        key: str,
        state: SendState,
        message_id: str | None = None,
        time: str | None = None,
    ) -> None:
        """Move a send on. `writing` must be marked before its first byte leaves; raises SessionOver
        `session.replaced` when the session is not there any more, and so nothing may."""
        with self._transaction(durable=True) as run:
            number = self._place(run, scope, session)
            if number is None and state == "writing":
                raise replaced(session)
            run(
                "UPDATE outbox SET state = ?, message_id = coalesce(?, message_id), time = coalesce(?, time),"
                " written_at = CASE WHEN ? = 'writing' THEN ? ELSE written_at END WHERE session = ? AND key = ?",
                (state, message_id, time, state, self._clock.now(), number, key),
            )

    def outbox(self, scope: str, session: Session, *states: SendState) -> list[OutboxRow]:
        """The session's sends in the order they were begun; only those in `states`, when given."""
        wanted = f"AND o.state IN ({', '.join('?' * len(states))}) " if states else ""
        rows = self._rows(f"{_OUTBOX}{wanted}ORDER BY o.n", (*_known_by(scope, session), *states))
        return [OutboxRow(*row) for row in rows]

    def sent(self, scope: str, session: Session, key: str) -> OutboxRow | None:
        """The send with this key, whatever became of it."""
        for row in self._rows(_OUTBOX + "AND o.key = ?", (*_known_by(scope, session), key)):
            return OutboxRow(*row)
        return None

    # --- ledger ---

    def record(self, scope: str, session: Session, entries: Sequence[LedgerEntry]) -> None:
        """Add messages in the order they were seen, in one commit. An id already there keeps its place;
        what is newly known of it (key, sequence, time) is added."""
        if not entries:
            return
        with self._transaction(durable=False) as run:
            number = self._place(run, scope, session)
            if number is None:
                return
            self._connection.executemany(
                "INSERT INTO ledger (session, n, id, key, sequence, time)"
                " VALUES (?1, (SELECT coalesce(max(n), 0) + 1 FROM ledger WHERE session = ?1), ?2, ?3, ?4, ?5)"
                " ON CONFLICT (session, id) DO UPDATE SET key = coalesce(key, excluded.key),"
                " sequence = coalesce(sequence, excluded.sequence), time = coalesce(time, excluded.time)",
                [(number, entry.id, entry.key, entry.sequence, entry.time) for entry in entries],
            )
            _trim(run, "ledger", number)

    def seen(self, scope: str, session: Session, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that are in the ledger."""
        found: set[str] = set()
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            marks = ", ".join("?" * len(some))
            rows = self._rows(
                f"SELECT id FROM ledger WHERE session = {_SESSION} AND id IN ({marks})",
                (*_known_by(scope, session), *some),
            )
            found.update(id_ for (id_,) in rows)
        return found

    def last_position(self, scope: str, session: Session) -> LedgerEntry | None:
        """The message recorded last."""
        for row in self._rows(
            f"SELECT id, key, sequence, time FROM ledger WHERE session = {_SESSION} ORDER BY n DESC LIMIT 1",
            _known_by(scope, session),
        ):
            return LedgerEntry(*row)
        return None

    def cursor(self, scope: str, session: Session, path: str) -> Cursor | None:
        """What was last about to be written to this cursor file."""
        for row in self._rows(
            f"SELECT identity, position, id FROM cursor WHERE session = {_SESSION} AND path = ?",
            (*_known_by(scope, session), path),
        ):
            return Cursor(*row)
        return None

    def set_cursor(self, scope: str, session: Session, path: str, cursor: Cursor) -> None:
        with self._transaction(durable=True) as run:
            number = self._place(run, scope, session)
            if number is not None:
                run(
                    "INSERT OR REPLACE INTO cursor (session, path, identity, position, id) VALUES (?, ?, ?, ?, ?)",
                    (number, path, cursor.identity, cursor.position, cursor.id),
                )

    # --- taking turns ---

    @contextmanager
    def lock(self, name: str, deadline: Deadline, *, owner: str = "") -> Iterator[None]:
        """Hold `name` among all processes of this directory, across network calls if need be.

        `owner`: whose lock it is (`owner_of` a session); it goes when that is forgotten. The kernel gives
        it back when the holder dies. Not re-entrant. Raises TimedOut when it did not come free in time.
        """
        with self._one_of(owner, [name], deadline, f"another guestctl process still holds the lock {name!r}"):
            yield

    @contextmanager
    def slot(self, scope: str, session: Session, limit: int, deadline: Deadline) -> Iterator[None]:
        """Hold one of the `limit` socket places of a session; otherwise as `lock`."""
        places = [f"slot {number}" for number in range(limit)]
        what = f"other guestctl processes hold all {limit} connections of session {session.name!r}"
        with self._one_of(owner_of(scope, session), places, deadline, what):
            yield

    @contextmanager
    def _one_of(self, owner: str, names: Sequence[str], deadline: Deadline, refusal: str) -> Iterator[None]:
        release = _await(lambda: self._grab_first(owner, names), deadline.sooner(PATIENCE))
        if release is None and not deadline.expired:
            self._notice(f"{refusal}: waiting")
            release = _await(lambda: self._grab_first(owner, names), deadline)
        if release is None:
            raise TimedOut(refusal, code="timeout.busy")
        try:
            yield
        finally:
            release()

    def _grab_first(self, owner: str, names: Sequence[str]) -> Callable[[], None] | None:
        for name in names:
            if (release := self._grab(owner, name)) is not None:
                return release
        return None

    def _grab(self, owner: str, name: str) -> Callable[[], None] | None:
        if self._directory is None:
            with self._mutex:
                held = self._held.setdefault((owner, name), threading.Lock())
            return held.release if held.acquire(blocking=False) else None
        with _explained(self._directory):
            return _grab_file(self._directory, owner, name)

    def take(self, bucket: str, count: int, period: float) -> float:
        """Book one of `count` turns in any `period` seconds, shared by all processes.

        0.0: booked, go. Else nothing is booked, and the seconds to wait before asking again.
        """
        with self._transaction(durable=False) as run:
            now = self._clock.now()
            # A booking in the future means the clock was set back: it was made now at the latest.
            run("UPDATE budget SET at = ?1 WHERE bucket = ?2 AND at > ?1", (now, bucket))
            run("DELETE FROM budget WHERE bucket = ? AND at <= ?", (bucket, now - period))
            row = run(
                "SELECT at FROM budget WHERE bucket = ? ORDER BY at DESC LIMIT 1 OFFSET ?", (bucket, count - 1)
            ).fetchone()
            if row is None:
                run("INSERT INTO budget (bucket, at) VALUES (?, ?)", (bucket, now))
                return 0.0
            # Rounding must not make it 0.0, which would read as booked.
            return max(0.001, min(period, float(row[0]) + period - now))

    # --- activity, caches, sandbox ---

    def log(self, scope: str, session: Session, event: str, details: Mapping[str, Json]) -> None:
        """Add a line to the session's activity log, at the present time. `details` holds no secret."""
        with self._transaction(durable=False) as run:
            number = self._place(run, scope, session)
            if number is None:
                return
            run(
                "INSERT INTO activity (session, n, at, event, details)"
                " VALUES (?1, (SELECT coalesce(max(n), 0) + 1 FROM activity WHERE session = ?1), ?2, ?3, ?4)",
                (number, self._clock.now(), event, json.dumps(dict(details))),
            )
            _trim(run, "activity", number)

    def activity(self, scope: str, session: Session) -> list[Activity]:
        rows = self._rows(
            f"SELECT at, event, details FROM activity WHERE session = {_SESSION} ORDER BY n", _known_by(scope, session)
        )
        return [Activity(at, event, json.loads(details)) for at, event, details in rows]

    def put_deployment(self, scope: str, body: str) -> None:
        """Keep a deployment's configuration (JSON text) for later commands."""
        with self._transaction(durable=False) as run:
            run(
                "INSERT OR REPLACE INTO deployment (scope, at, body) VALUES (?, ?, ?)", (scope, self._clock.now(), body)
            )

    def deployment(self, scope: str, max_age: float) -> str | None:
        """The configuration kept, if at most `max_age` seconds old."""
        now = self._clock.now()
        for at, body in self._rows("SELECT at, body FROM deployment WHERE scope = ?", (scope,)):
            if now - max_age <= at <= now:
                return str(body)
        return None

    def put_sandbox(self, running: Mapping[str, Json]) -> None:
        """Register a running sandbox, known by its `url`; it becomes the one used by default."""
        with self._transaction(durable=True) as run:
            run("INSERT OR REPLACE INTO sandbox (url, body) VALUES (?, ?)", (running["url"], json.dumps(dict(running))))

    def sandbox(self) -> Json | None:
        """The sandbox registered last and not yet forgotten."""
        for (body,) in self._rows("SELECT body FROM sandbox ORDER BY n DESC LIMIT 1"):
            return json.loads(body)
        return None

    def forget_sandbox(self, url: str) -> None:
        with self._transaction(durable=True) as run:
            run("DELETE FROM sandbox WHERE url = ?", (url,))

    # --- the database itself ---

    def _adopt(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._synchronous = ""
        self._identity = _identity(self._directory / FILE) if self._directory is not None else None
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")

    def _place(self, run: Callable[..., sqlite3.Cursor], scope: str, session: Session) -> int | None:
        """The row number records of a session go under; None when it is gone, which is told once."""
        number = _number(run, scope, session)
        if number is None and session.created_at not in self._missed:
            self._missed.add(session.created_at)
            self._untold.append(f"{_gone(session)}: nothing more is recorded of it")
        return number

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._mutex, self._guarded():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """One write transaction, entire or not at all. `durable`: on the disk when it returns."""
        level = "FULL" if durable else "NORMAL"
        connection = self._connection
        with self._mutex, self._guarded():
            if level != self._synchronous:
                connection.execute(f"PRAGMA synchronous={level}")
                self._synchronous = level
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection.execute
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        while self._untold:  # not before: nobody waits for the database while somebody reads
            self._notice(self._untold.pop())

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            raise UsageError("a name or text is not valid Unicode (a lone surrogate)") from error
        except sqlite3.OperationalError as error:
            raise _unusable(self._directory, str(error)) from error
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError or self._directory is None:
                raise
            raise self._set_aside(self._directory, error) from error

    def _set_aside(self, directory: Path, error: sqlite3.DatabaseError) -> UsageError:
        """Move the damaged database away, unless another process has done so already, and go on with
        an empty one: what failed is reported, what comes after it can work."""
        self._connection.close()
        with _explained(directory):
            with _alone(directory, self._clock):
                if _identity(directory / FILE) == self._identity:
                    self._notice(_move_away(directory, self._clock))
            self._adopt(_prepare(directory, self._clock, self._notice))
        return _unusable(directory, f"{error}; the damaged file was set aside and an empty one is in its place")


_OUTBOX = (
    "SELECT o.key, o.text, o.state, o.message_id, o.time, o.begun_at, o.written_at"
    f" FROM outbox o WHERE o.session = {_SESSION} "
)


def _known_by(scope: str, session: Session) -> tuple[str, float, str]:
    """What `_SESSION` asks for."""
    return scope, session.created_at, session.name


def _number(run: Callable[..., sqlite3.Cursor], scope: str, session: Session) -> int | None:
    (number,) = run(f"SELECT {_SESSION}", _known_by(scope, session)).fetchone()
    return number if number is None else int(number)


def owner_of(scope: str, session: Session) -> str:
    """Whose turns and limits a session's are, whatever it is called meanwhile."""
    return f"{scope} {session.created_at if session.root is None else session.root!r}"


def _gone(session: Session) -> str:
    return f"session {session.name!r} was forgotten or replaced by another command"


def replaced(session: Session) -> SessionOver:
    """Why nothing is done any more for a session that is not stored."""
    return SessionOver(_gone(session), code="session.replaced", api=session.api)


def _trim(run: Callable[..., sqlite3.Cursor], table: str, session: int) -> None:
    """Keep the newest. `n` is dense within a session, so this costs what it deletes and no more."""
    run(
        f"DELETE FROM {table} WHERE session = ?1 AND n <= (SELECT max(n) - ?2 FROM {table} WHERE session = ?1)",
        (session, KEPT),
    )


# --- opening, step by step ---


def _ready(path: Path) -> sqlite3.Connection | None:
    """A connection when the database is there and current: the short way of every command.
    None when something must be done first. Raises UsageError for an unsafe or newer file."""
    if _identity(path) is None:
        return None
    connection = _connect(path)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1")
    except sqlite3.DatabaseError as error:
        connection.close()
        if type(error) is sqlite3.DatabaseError:
            return None
        raise
    if version == len(_STEPS):
        return connection
    connection.close()
    if version > len(_STEPS):
        raise UsageError(
            f"{path} has schema {version}, written by a newer guestctl; this one knows {len(_STEPS)}",
            code="state.version",
        )
    return None


def _prepare(directory: Path, clock: Clock, notice: Callable[[str], None]) -> sqlite3.Connection:
    """Make, migrate or replace the database; one process does it while the others wait."""
    path = directory / FILE
    with _alone(directory, clock):
        if (ready := _ready(path)) is not None:
            return ready
        if _identity(path) is not None:
            try:
                return _current(path, clock, notice)
            except sqlite3.DatabaseError as error:
                if type(error) is not sqlite3.DatabaseError:
                    raise
            notice(_move_away(directory, clock))
        _create(path)
        return _current(path, clock, notice)


def _current(path: Path, clock: Clock, notice: Callable[[str], None]) -> sqlite3.Connection:
    """A connection to the database at `path`, brought to the present schema."""
    connection = _connect(path)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version:
            backup = path.with_name(f"{FILE}.schema-{version}-{_stamp(clock)}")
            _create(backup)
            connection.execute("VACUUM INTO ?", (str(backup),))
            notice(f"state brought from schema {version} to {len(_STEPS)}; the old database is kept as {backup}")
        elif _write_ahead(connection) != "wal":
            notice(f"{path.parent}: this file system has no shared memory, state uses a rollback journal and is slower")
        _migrate(connection, version)
    except BaseException:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Apply the steps after `version` in one transaction."""
    connection.create_function("birth_of", 1, _birth_of)
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("BEGIN EXCLUSIVE")
    for step in _STEPS[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version={len(_STEPS)}")
    connection.execute("COMMIT")


def _birth_of(body: str | None) -> float | None:
    """When the session of a stored record was created; read here, since SQLite may round what it reads."""
    try:
        return float(json.loads(body or "")["created_at"])
    except (ValueError, KeyError, TypeError):
        return None


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: SQLite never creates the file, which it would do readable by others.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY, isolation_level=None, check_same_thread=False
    )


def _create(path: Path) -> None:
    """Make an empty file that only its owner can read. Nothing happens when it exists."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with _CREATING:
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileExistsError:
            return
        try:
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, 0o600)  # a umask such as 777 leaves less than asked for
        finally:
            os.close(descriptor)


def _private_directory(directory: Path) -> None:
    """Make the directory if need be. Raises UsageError when others could get at what is in it."""
    try:
        found = os.lstat(directory)
    except FileNotFoundError:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            directory.chmod(0o700)
        found = os.lstat(directory)
    _refuse_unsafe(directory, found, stat.S_ISDIR, "directory", "700")


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a database file, None when absent. Raises UsageError when it is not private."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    _refuse_unsafe(path, found, stat.S_ISREG, "file", "600")
    return found.st_dev, found.st_ino


def _refuse_unsafe(path: Path, found: os.stat_result, expected: Callable[[int], bool], kind: str, private: str) -> None:
    quoted = shlex.quote(str(path))
    if stat.S_ISLNK(found.st_mode):
        raise UsageError(
            f"{path} is a symbolic link; state is kept only in a real {kind}",
            code="state.unusable",
            hint=f"Set GUESTCTL_STATE to the real directory, or remove the link: rm {quoted}",
        )
    if not expected(found.st_mode):
        raise UsageError(f"{path} is not a {kind}", code="state.unusable")
    if not hasattr(os, "geteuid"):
        return  # Windows: the user's profile directory is private by its access list
    if found.st_uid != os.geteuid():
        raise UsageError(
            f"{path} belongs to another user (uid {found.st_uid})",
            code="state.unusable",
            hint=f"Set GUESTCTL_STATE to a directory of your own, or: sudo chown $(id -u) {quoted}",
        )
    if found.st_mode & 0o077:
        raise UsageError(
            f"{path} can be reached by other users (mode {stat.S_IMODE(found.st_mode):04o}); it holds tokens",
            code="state.unusable",
            hint=f"Run: chmod {private} {quoted}",
        )


def _move_away(directory: Path, clock: Clock) -> str:
    """Rename the damaged database and return the notice. Its log goes first: a log left behind would be
    replayed into the next database."""
    target = directory / f"{FILE}.damaged-{_stamp(clock)}"
    for suffix in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            os.replace(f"{directory / FILE}{suffix}", f"{target}{suffix}")
    return f"the state database was damaged: it is kept as {target}, and guestctl starts with an empty one"


def _stamp(clock: Clock) -> str:
    return rfc3339(clock.now()).replace(":", "").replace("-", "")


# --- locks ---


def _locks(directory: Path, owner: str, name: str | None = None) -> Iterator[Path]:
    """The lock file of this name, or all there are of the owner's."""
    part = _digest(owner)
    if name is not None:
        yield directory / "locks" / f"{part}-{_digest(name)}.lock"
    else:
        yield from (directory / "locks").glob(f"{part}-*.lock")


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _grab_file(directory: Path, owner: str, name: str) -> Callable[[], None] | None:
    """Try to lock `name`; returns what releases it, None when it is held.

    An empty SQLite database is the lock file: `BEGIN EXCLUSIVE` is a kernel lock that dies with its
    holder, on every platform, and writes nothing.
    """
    locks = directory / "locks"
    with suppress(FileExistsError):
        locks.mkdir(mode=0o700)
        locks.chmod(0o700)
    (path,) = _locks(directory, owner, name)
    _create(path)
    connection = _connect(path)
    try:
        connection.execute("PRAGMA busy_timeout=0")
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        connection.close()
        if "locked" in str(error):
            return None
        raise
    return connection.close


def _await(attempt: Callable[[], Callable[[], None] | None], deadline: Deadline) -> Callable[[], None] | None:
    """Try until it succeeds or the deadline expires (None); at least once."""
    pause = 0.002
    while (release := attempt()) is None:
        if deadline.expired:
            return None
        deadline.clock.sleep(deadline.bound(pause))
        pause = min(0.05, pause * 1.5)
    return release


@contextmanager
def _alone(directory: Path, clock: Clock) -> Iterator[None]:
    """While the database file itself is made, migrated or moved."""
    release = _await(lambda: _grab_file(directory, "", "database file"), Deadline.after(clock, BUSY))
    if release is None:
        raise UsageError(f"{directory}: another guestctl process is still preparing it", code="state.unusable")
    try:
        yield
    finally:
        release()


# --- trouble ---


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """What the system or SQLite has against this directory, as our failure."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _unusable(directory, str(error)) from error
    except OSError as error:
        raise _unusable(directory, error.strerror or error.__class__.__name__) from error


def _unusable(directory: Path | None, why: str) -> UsageError:
    return UsageError(f"state in {directory or 'memory'} cannot be used: {why}", code="state.unusable")


# --- sessions as text ---


#: What is not a dialect's own stands among its notes in the record, where it always has: an older guestctl
#: reads what a newer one has written, and the other way round.
_AMONG_NOTES = ("used_token", "offer", "root")


def _dump_session(session: Session) -> str:
    return json.dumps(
        {
            "api": session.api,
            "profile": session.profile,
            "name": session.name,
            "ids": dict(session.ids),
            "state": session.state,
            "new_session": session.new_session,
            "created_at": session.created_at,
            "expires_at": session.expires_at,
            "credentials": {key: _credential_out(held) for key, held in session.credentials.items()},
            "limits": {field: getattr(session.limits, field) for field in Limits.__dataclass_fields__},
            "notes": {**session.notes, **_kept(session)},
        }
    )


def _kept(session: Session) -> dict[str, Json]:
    return {field: kept for field in _AMONG_NOTES if (kept := getattr(session, field)) is not None}


def _load_session(name: str, body: str) -> Session:
    try:
        values = json.loads(body)
        limits: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values["limits"].items()}
        notes = dict(values["notes"])
        kept = {field: notes.pop(field, None) for field in _AMONG_NOTES}
        return Session(
            **{
                **values,
                **kept,
                "name": name,
                "notes": notes,
                "credentials": {key: _credential_in(held) for key, held in values["credentials"].items()},
                "limits": Limits(**limits),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the stored record of session {name!r} cannot be read",
            code="state.unusable",
            hint=f"Remove the record: guestctl session forget {shlex.quote(name)}",
        ) from error


def _credential_out(credential: Credential) -> dict[str, Json]:
    return {
        "kind": credential.kind,
        "secret": credential.secret.reveal(),
        "expires_at": credential.expires_at,
        "refresh": None if credential.refresh is None else credential.refresh.reveal(),
        "life": credential.life,
    }


def _credential_in(values: Mapping[str, Json]) -> Credential:
    refresh = values["refresh"]
    return Credential(
        kind=values["kind"],
        secret=Secret(values["secret"]),
        expires_at=values["expires_at"],
        refresh=None if refresh is None else Secret(refresh),
        life=values.get("life"),
    )
