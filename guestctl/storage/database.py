"""The database file: created, migrated, and set aside when it is damaged.

Knows: SQLite, the schema and its versions (reliability.md §7). Must not know: what the records mean (`state`), any
dialect, the wire.

A durable transaction is committed with `synchronous=FULL` and survives a power loss. The others use `NORMAL`: they
survive kill -9, and a power loss may undo the last of them. No transaction is ever stored in part.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from guestctl.core.clock import Clock
from guestctl.core.errors import UsageError
from guestctl.storage import private_files
from guestctl.storage.locks import Release, database_file_locked, lock_files, try_lock
from guestctl.storage.private_files import (
    DATABASE_FILE,
    create_directory,
    create_file,
    failures_explained,
    file_identity,
    file_stamp,
    unusable,
)

Run: TypeAlias = Callable[..., sqlite3.Cursor]
"""Executes one statement of a transaction."""

#: The statements of each schema version. Never edit a released version; append the next one.
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
        # Rows without a session were written by processes that ran on after it was forgotten.
        "DELETE FROM session WHERE body IS NULL",
        "CREATE INDEX session_birth ON session (scope, birth)",
    ),
    (
        "ALTER TABLE cursor ADD COLUMN sequence INTEGER",
        "ALTER TABLE cursor ADD COLUMN time TEXT",
    ),
    (
        "DROP TABLE budget",
        "CREATE TABLE budget (bucket TEXT PRIMARY KEY, full_at REAL NOT NULL, used_at REAL NOT NULL) WITHOUT ROWID",
    ),
    ("CREATE TABLE shared_read (owner TEXT PRIMARY KEY, begun_at REAL NOT NULL, body TEXT NOT NULL) WITHOUT ROWID",),
    (
        "CREATE TABLE leader (session INTEGER PRIMARY KEY REFERENCES session ON DELETE CASCADE,"
        " number INTEGER NOT NULL, beat INTEGER NOT NULL)",
        "CREATE TABLE follower (session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE, seat INTEGER NOT NULL,"
        " leader INTEGER, after INTEGER NOT NULL, PRIMARY KEY (session, seat)) WITHOUT ROWID",
        "CREATE TABLE shared_frame (session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE,"
        " leader INTEGER NOT NULL, n INTEGER NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,"
        " PRIMARY KEY (session, leader, n)) WITHOUT ROWID",
    ),
)


class Database:
    """One connection to the database in a directory (None: in memory), and the locks next to it. Any number of
    processes and threads may use the database at once.

    Every method raises UsageError `state.unusable` when the database cannot be read or written.
    """

    def __init__(
        self, connection: sqlite3.Connection, directory: Path | None, clock: Clock, notice: Callable[[str], None]
    ) -> None:
        self.directory = directory
        self._clock = clock
        self._notice = notice
        self._mutex = threading.RLock()
        self._memory_locks: dict[tuple[str, str], threading.Lock] = {}
        self._use(connection)

    @classmethod
    def open(cls, directory: Path | None, clock: Clock, notice: Callable[[str], None]) -> Database:
        """Open the database, and create it if needed; None keeps everything in memory (`--no-state`).

        A damaged file is set aside, and `notice` reports its new name. Raises UsageError
        `state.unusable` (unsafe or unwritable place) or `state.version` (written by a newer guestctl).
        """
        if directory is None:
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            _migrate(connection, 0)
            return cls(connection, None, clock, notice)
        with failures_explained(directory):
            create_directory(directory)
            connection = _open_current(directory / DATABASE_FILE) or _prepare(directory, clock, notice)
            return cls(connection, directory, clock, notice)

    def close(self) -> None:
        with self._mutex:
            self.connection.close()

    def _use(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._synchronous = ""
        self._identity = file_identity(self.directory / DATABASE_FILE) if self.directory is not None else None
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._mutex, self._failures_handled():
            return self.connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[Run]:
        """Run one write transaction, as a whole or not at all. `durable`: on the disk when it returns."""
        level = "FULL" if durable else "NORMAL"
        with self._mutex, self._failures_handled():
            connection = self.connection  # another thread may have replaced a damaged database
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

    @contextmanager
    def _failures_handled(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            raise UsageError("a name or text is not valid Unicode (a lone surrogate)") from error
        except sqlite3.OperationalError as error:
            raise unusable(self.directory, str(error)) from error
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError or self.directory is None:
                raise
            raise self._set_aside(self.directory, error) from error

    def _set_aside(self, directory: Path, error: sqlite3.DatabaseError) -> UsageError:
        """Replace the damaged database by an empty one, unless another process has done so already.

        Return the failure of the present operation. Later operations can succeed.
        """
        self.connection.close()
        with failures_explained(directory):
            with database_file_locked(directory, self._clock):
                if file_identity(directory / DATABASE_FILE) == self._identity:
                    self._notice(_move_damaged(directory, self._clock))
            self._use(_prepare(directory, self._clock, self._notice))
        return unusable(directory, f"{error}; the damaged file was set aside and an empty one is in its place")

    # --- locks ---

    def try_lock(self, owner: str, name: str) -> Release | None:
        """Try to take the lock `name` of `owner`; return None when any process has it."""
        if self.directory is None:
            with self._mutex:
                lock = self._memory_locks.setdefault((owner, name), threading.Lock())
            return lock.release if lock.acquire(blocking=False) else None
        with failures_explained(self.directory):
            return try_lock(self.directory, owner, name)

    def remove_locks(self, owner: str) -> None:
        """Remove the locks of an owner that no longer exists."""
        if self.directory is None:
            with self._mutex:
                for name in [name for name in self._memory_locks if name[0] == owner]:
                    del self._memory_locks[name]
            return
        with suppress(OSError):
            for path in lock_files(self.directory, owner):
                path.unlink()


# --- opening ---


def _open_current(path: Path) -> sqlite3.Connection | None:
    """Open a database that exists and has the present schema, as nearly every command finds it.

    Return None when it has to be created, migrated or replaced first. Raises UsageError when the file is unsafe, or
    was written by a newer guestctl.
    """
    if file_identity(path) is None:
        return None
    connection = private_files.connect(path)
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
    """Create, migrate or replace the database. One process does so while the others wait."""
    path = directory / DATABASE_FILE
    with database_file_locked(directory, clock):
        if (current := _open_current(path)) is not None:
            return current
        if file_identity(path) is not None:
            try:
                return _open_and_migrate(path, clock, notice)
            except sqlite3.DatabaseError as error:
                if type(error) is not sqlite3.DatabaseError:
                    raise
            notice(_move_damaged(directory, clock))
        create_file(path)
        return _open_and_migrate(path, clock, notice)


def _open_and_migrate(path: Path, clock: Clock, notice: Callable[[str], None]) -> sqlite3.Connection:
    """Open the database and migrate it to the present schema. The old file is kept as a backup."""
    connection = private_files.connect(path)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version:
            _migrate_with_backup(connection, version, path, clock, notice)
            return connection
        if _enable_write_ahead_log(connection) != "wal":
            reason = "no shared memory on this file system"
            notice(f"{path.parent}: {reason}, so state uses a rollback journal, which is slower")
        _migrate(connection, version)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate_with_backup(
    connection: sqlite3.Connection, version: int, path: Path, clock: Clock, notice: Callable[[str], None]
) -> None:
    """Migrate the database and keep a copy of the old one. If the migration fails, the copy is removed.

    The database itself is unchanged then, and each further command would leave one more copy of all tokens.
    """
    backup = path.with_name(f"{DATABASE_FILE}.schema-{version}-{file_stamp(clock)}")
    create_file(backup)
    try:
        connection.execute("VACUUM INTO ?", (str(backup),))
        _migrate(connection, version)
    except BaseException:
        with suppress(OSError):
            backup.unlink()
        raise
    now = len(_STEPS)
    notice(f"migrated the state database from schema {version} to {now}; the old one is kept as {backup}")


def _enable_write_ahead_log(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Apply all later schema versions in one transaction."""
    connection.create_function("birth_of", 1, _birth_of)
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("BEGIN EXCLUSIVE")
    for step in _STEPS[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version={len(_STEPS)}")
    connection.execute("COMMIT")


def _birth_of(body: Any) -> float | None:
    """Return when the session of a stored record was created. SQLite's own JSON functions may round the number."""
    try:
        return float(json.loads(body)["created_at"])
    except (ValueError, KeyError, TypeError):
        return None


def _move_damaged(directory: Path, clock: Clock) -> str:
    """Rename the damaged database and return the notice.

    Its log is moved first, because SQLite would replay a log that stays into the next database.
    """
    target = directory / f"{DATABASE_FILE}.damaged-{file_stamp(clock)}"
    for suffix in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            os.replace(f"{directory / DATABASE_FILE}{suffix}", f"{target}{suffix}")
    return f"the state database was damaged: it is kept as {target}, and an empty one replaces it"
