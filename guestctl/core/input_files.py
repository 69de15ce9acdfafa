"""Reading a file that the user named, which may be a pipe.

Knows: files, pipes, the command's deadline. Must not know: what is in the file.

A pipe may have no writer, or a writer that never writes: the read of one ends at the command's deadline.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from contextvars import ContextVar
from pathlib import Path

from guestctl.core.clock import Deadline
from guestctl.core.errors import TimedOut

#: The deadline of the running command, where it has one for the command as a whole.
DEADLINE: ContextVar[Deadline | None] = ContextVar("DEADLINE", default=None)
_CHUNK = 1 << 16


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a file or a pipe, at most `limit` bytes of it.

    Raises OSError or ValueError when it cannot be read, and TimedOut when the command's deadline passes first.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        return read_descriptor(descriptor, str(path), limit)
    finally:
        os.close(descriptor)


def read_descriptor(descriptor: int, name: str, limit: int) -> bytes:
    """Return what an open file or pipe has, at most `limit` bytes of it. `name` is its name for errors.

    Raises OSError when it cannot be read, and TimedOut when the command's deadline passes first.
    """
    content = bytearray()
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    waits = not stat.S_ISREG(mode) and hasattr(select, "poll")
    while len(content) < limit:
        if waits:
            _wait_until_readable(descriptor, name)
        try:
            piece = os.read(descriptor, min(_CHUNK, limit - len(content)))
        except BlockingIOError:
            continue
        if not piece:
            break
        content += piece
    return bytes(content)


def _wait_until_readable(descriptor: int, name: str) -> None:
    """Wait until there is data, or the last writer has closed the pipe. Raises TimedOut at the deadline."""
    deadline = DEADLINE.get()
    left = None if deadline is None else deadline.remaining()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(None if left is None else max(0, int(left * 1000))):
        raise TimedOut(f"timed out reading {name}: its writer has not closed it", code="timeout.input")
