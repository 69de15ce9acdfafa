"""Output files that an option names: traces and reports.

Knows: how to open one without losing its content and without waiting for a pipe. Must not know: what is written.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from guestctl.core.errors import UsageError


def open_output(path: Path, option: str, flags: int = 0) -> int:
    """Open a file or a pipe for writing, with `flags` of `os.open`, and return its descriptor.

    A pipe without a reader is an error: a command must not wait for one. Raises UsageError `output.failed`.
    """
    quick = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, os.O_WRONLY | flags | quick, 0o600)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno == errno.ENXIO:
            hint = "start the program that reads the pipe first"
            raise UsageError(f"{option} {path}: no program reads this pipe", code="output.failed", hint=hint) from error
        raise UsageError(f"{option} {path}: {error.strerror or error}", code="output.failed") from error
    if hasattr(os, "set_blocking"):
        os.set_blocking(descriptor, True)
    return descriptor


def is_pipe(path: Path) -> bool:
    """Return whether a path names something that exists and is not a regular file or a directory."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_all(descriptor: int, data: bytes) -> None:
    """Write all data. Raises OSError."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
