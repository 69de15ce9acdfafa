"""Locks between processes, each in a file of its own.

Knows: files and SQLite's file locks. Must not know: the schema, records, what a lock protects.

The kernel holds each lock, and releases it when the process that took it ends.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import UsageError
from guestctl.storage import private_files

Release: TypeAlias = Callable[[], None]
"""Releases a lock that was taken."""


def lock_file(directory: Path, owner: str, name: str) -> Path:
    """Return the path of the lock `name` of `owner`. It is the same in every version of guestctl."""
    return directory / "locks" / f"{_digest(owner)}-{_digest(name)}.lock"


def lock_files(directory: Path, owner: str) -> list[Path]:
    """Return all existing lock files of an owner."""
    return list((directory / "locks").glob(f"{_digest(owner)}-*.lock"))


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def try_lock(directory: Path, owner: str, name: str) -> Release | None:
    """Try to take the lock `name` of `owner` in this state directory; return None when it is taken."""
    path = lock_file(directory, owner, name)
    with suppress(FileExistsError):
        path.parent.mkdir(mode=0o700)
        path.parent.chmod(0o700)
    return try_lock_path(path)


def try_lock_path(path: Path) -> Release | None:
    """Try to lock a file, which is created if needed; return None when it is locked.

    The file is an empty SQLite database: `BEGIN EXCLUSIVE` takes a kernel lock on every platform, and writes nothing.
    Raises OSError when the file cannot be used for that.
    """
    private_files.create_file(path)
    try:
        connection = private_files.connect(path)
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


def wait_for_lock(attempt: Callable[[], Release | None], deadline: Deadline) -> Release | None:
    """Repeat an attempt, at least once, until it succeeds; return None when the deadline expires first."""
    pause = 0.002
    while (release := attempt()) is None:
        if deadline.expired:
            return None
        deadline.clock.sleep(deadline.bound(pause))
        pause = min(0.05, pause * 1.5)
    return release


@contextmanager
def database_file_locked(directory: Path, clock: Clock) -> Iterator[None]:
    """Let only this process create, migrate or move the database file. Raises UsageError when another one does not
    finish."""
    deadline = Deadline.after(clock, private_files.BUSY_TIMEOUT)
    release = wait_for_lock(lambda: try_lock(directory, "", "database file"), deadline)
    if release is None:
        raise UsageError(f"{directory}: another guestctl process is still preparing it", code="state.unusable")
    try:
        yield
    finally:
        release()
