"""The database file itself: private, made, migrated, set aside when damaged; and the locks beside it.

Knows: SQLite, files and modes, the schema and its versions (reliability.md §7). Must not know: what the
records mean (`state`), any dialect, the wire.

Durability. A durable transaction is committed with `synchronous=FULL` and survives power loss; the others use
`NORMAL`: they survive kill -9, and lose at most their tail to a power cut. Either way a transaction is there
whole or not at all. Locks are the kernel's, which frees them when their holder dies.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

from guestctl.core.clock import Clock, Deadline, rfc3339
from guestctl.core.errors import UsageError

FILE = "state.db"

Run: TypeAlias = Callable[..., sqlite3.Cursor]
"""Executes one statement within a transaction."""

BUSY = 10.0
"""Seconds a statement waits for another process's transaction (milliseconds long) to end."""

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
    (
        "ALTER TABLE cursor ADD COLUMN sequence INTEGER",
        "ALTER TABLE cursor ADD COLUMN time TEXT",
    ),
)

#: Closing *any* descriptor of a file drops the process's POSIX locks on it, SQLite's too. Ours is only ever
#: open while the file is being made, and this mutex keeps other threads from locking it meanwhile.
_CREATING = threading.Lock()


class Database:
    """One connection to the database in a directory (None: in memory) and its locks. Any number of processes,
    and threads of this one, may use it at once.

    Every method raises UsageError `state.unusable` when the database cannot be read or written.
    """

    def __init__(
        self, connection: sqlite3.Connection, directory: Path | None, clock: Clock, notice: Callable[[str], None]
    ) -> None:
        self.directory = directory
        self._clock = clock
        self._notice = notice
        self._mutex = threading.RLock()
        self._held: dict[tuple[str, str], threading.Lock] = {}
        self._adopt(connection)

    @classmethod
    def open(cls, directory: Path | None, clock: Clock, notice: Callable[[str], None]) -> Database:
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
            self.connection.close()

    def _adopt(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._synchronous = ""
        self._identity = _identity(self.directory / FILE) if self.directory is not None else None
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._mutex, self._guarded():
            return self.connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[Run]:
        """One write transaction, entire or not at all. `durable`: on the disk when it returns."""
        level = "FULL" if durable else "NORMAL"
        with self._mutex, self._guarded():
            connection = self.connection  # whoever held the mutex may have set a damaged file aside
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
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            raise UsageError("a name or text is not valid Unicode (a lone surrogate)") from error
        except sqlite3.OperationalError as error:
            raise _unusable(self.directory, str(error)) from error
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError or self.directory is None:
                raise
            raise self._set_aside(self.directory, error) from error

    def _set_aside(self, directory: Path, error: sqlite3.DatabaseError) -> UsageError:
        """Move the damaged database away, unless another process has done so already, and go on with
        an empty one: what failed is reported, what comes after it can work."""
        self.connection.close()
        with _explained(directory):
            with _alone(directory, self._clock):
                if _identity(directory / FILE) == self._identity:
                    self._notice(_move_away(directory, self._clock))
            self._adopt(_prepare(directory, self._clock, self._notice))
        return _unusable(directory, f"{error}; the damaged file was set aside and an empty one is in its place")

    # --- locks ---

    def grab(self, owner: str, name: str) -> Callable[[], None] | None:
        if self.directory is None:
            with self._mutex:
                held = self._held.setdefault((owner, name), threading.Lock())
            return held.release if held.acquire(blocking=False) else None
        with _explained(self.directory):
            return _grab_file(self.directory, owner, name)

    def drop_locks(self, owner: str) -> None:
        """Remove an owner's lock files: nobody else comes to take turns on it."""
        if self.directory is not None:
            with suppress(OSError):
                for path in _locks(self.directory, owner):
                    path.unlink()


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


def _birth_of(body: Any) -> float | None:
    """When the session of a stored record was created; read here, since SQLite may round what it reads."""
    try:
        return float(json.loads(body)["created_at"])
    except (ValueError, KeyError, TypeError):
        return None


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: SQLite never creates the file, which it would do readable by others.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY, isolation_level=None, check_same_thread=False
    )


def _create(path: Path) -> None:
    """Make an empty file that only its owner can read. Nothing happens when it exists."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL  # exclusive: nor is a link followed
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
    return grab_path(path)


def grab_path(path: Path) -> Callable[[], None] | None:
    """The same for a lock file anywhere, which is made when absent. Raises OSError when it cannot be one."""
    _create(path)
    try:
        connection = _connect(path)
    except sqlite3.OperationalError as error:
        raise OSError(errno.EIO, str(error)) from error
    try:
        connection.execute("PRAGMA busy_timeout=0")
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.DatabaseError as error:
        connection.close()
        if "locked" in str(error):
            return None
        raise OSError(errno.EIO, str(error)) from error
    return connection.close


def until_free(attempt: Callable[[], Callable[[], None] | None], deadline: Deadline) -> Callable[[], None] | None:
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
    release = until_free(lambda: _grab_file(directory, "", "database file"), Deadline.after(clock, BUSY))
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
