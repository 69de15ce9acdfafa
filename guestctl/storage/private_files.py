"""Files and directories that only their owner can read, and the SQLite connections to them.

Knows: files, modes, symbolic links, SQLite's connection options. Must not know: the schema, records, locks.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from guestctl.core.clock import Clock, rfc3339
from guestctl.core.errors import UsageError

DATABASE_FILE = "state.db"

BUSY_TIMEOUT = 10.0
"""Seconds a statement waits for a transaction of another process, which takes milliseconds."""

#: Closing any descriptor of a file releases all POSIX locks that the process has on it, SQLite's too. So a descriptor
#: is only open while the file is created, and this mutex keeps other threads from locking the file during that time.
_CREATING = threading.Lock()


def connect(path: Path) -> sqlite3.Connection:
    """Open an existing database file."""
    # mode=rw: SQLite never creates the file, because it would make it readable by others.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
    )


def create_file(path: Path) -> None:
    """Create an empty file that only its owner can read, unless it exists."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL  # exclusive: a symbolic link is not followed either
    with _CREATING:
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileExistsError:
            return
        try:
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, 0o600)  # a umask such as 777 removes even the owner's access
        finally:
            os.close(descriptor)


def create_directory(directory: Path) -> None:
    """Create the directory, unless it exists. Raises UsageError when other users can reach its files."""
    try:
        found = os.lstat(directory)
    except FileNotFoundError:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            directory.chmod(0o700)
        found = os.lstat(directory)
    _refuse_unsafe(directory, found, stat.S_ISDIR, "directory", "700")


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file, None when it does not exist. Raises UsageError when it is not private."""
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
            hint=f"set GUESTCTL_STATE to the real directory, or remove the link: `rm {quoted}`",
        )
    if not expected(found.st_mode):
        raise UsageError(f"{path} is not a {kind}", code="state.unusable")
    if not hasattr(os, "geteuid"):
        return  # Windows: the access list of the user's profile directory makes it private
    if found.st_uid != os.geteuid():
        raise UsageError(
            f"{path} belongs to another user (uid {found.st_uid})",
            code="state.unusable",
            hint=f"set GUESTCTL_STATE to a directory of your own, or run `sudo chown $(id -u) {quoted}`",
        )
    if found.st_mode & 0o077:
        raise UsageError(
            f"{path} can be reached by other users (mode {stat.S_IMODE(found.st_mode):04o}); it holds tokens",
            code="state.unusable",
            hint=f"run `chmod {private} {quoted}`",
        )


def file_stamp(clock: Clock) -> str:
    """Return the current time in a form that fits into a file name."""
    return rfc3339(clock.now()).replace(":", "").replace("-", "")


@contextmanager
def failures_explained(directory: Path) -> Iterator[None]:
    """Turn errors of the system and of SQLite into UsageError `state.unusable`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise unusable(directory, str(error)) from error
    except OSError as error:
        raise unusable(directory, error.strerror or error.__class__.__name__) from error


def unusable(directory: Path | None, reason: str) -> UsageError:
    """Return the failure for state that cannot be read or written. None: state in memory."""
    return UsageError(f"state in {directory or 'memory'} cannot be used: {reason}", code="state.unusable")
