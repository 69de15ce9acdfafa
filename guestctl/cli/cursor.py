"""`listen --cursor FILE`: each message is written once, whatever kills the command.

Knows: the cursor file, and how to find out whether a line reached stdout. Must not know: events,
formats. A line and the note that it was written cannot be one step, so an intent is committed first:
which file, from which byte to which, which message. At the next start the file's size tells whether
that line is there, torn, or was never written. That needs stdout to be a regular file; into a pipe a
kill between line and note repeats the line rather than losing it.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from guestctl.errors import UsageError
from guestctl.model import Message
from guestctl.state import Cursor, State


class CursorFile:
    """The position in one cursor file, for one session's listener.

    `after` is the id of the last message written, None: from the start of the conversation.
    Raises UsageError when the file is no cursor or cannot be written.
    """

    def __init__(self, path: Path, state: State, scope: str, session: str, stdout: IO[Any]) -> None:
        self._path = path.absolute()
        self._note: Callable[[Cursor], None] = lambda cursor: state.set_cursor(scope, session, str(self._path), cursor)
        self._stdout = _regular(stdout)
        self.after = self._read()
        intent = state.cursor(scope, session, str(self._path)) if self._path.exists() else None
        if intent is not None and intent.id != self.after and self._reached(intent):
            self.after = intent.id
        self._write(self.after)

    def writing(self, message: Message, size: int) -> None:
        """A line of `size` bytes for this message is about to be written."""
        if self._stdout is not None:
            found = os.fstat(self._stdout)
            begin = _offset(self._stdout)
            self._note(Cursor(f"{found.st_dev}:{found.st_ino}:{begin}", begin + size, message.id))

    def written(self, message: Message) -> None:
        """The line is out."""
        self.after = message.id
        self._write(self.after)

    def _reached(self, intent: Cursor) -> bool:
        """Whether the line of an earlier run is in the file that is our stdout. A torn one is removed."""
        if self._stdout is None:
            return False
        found = os.fstat(self._stdout)
        where, _, begin = intent.identity.rpartition(":")
        if where != f"{found.st_dev}:{found.st_ino}":
            return False
        if found.st_size >= intent.position:
            return True
        if int(begin) < found.st_size:
            os.ftruncate(self._stdout, int(begin))
        return False

    def _read(self) -> str | None:
        try:
            text = self._path.read_text("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._bad(getattr(error, "strerror", None) or "not text") from error
        try:
            value = json.loads(text)
            after = value["after"]
            if after is None or isinstance(after, str):
                return after
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise self._bad("not a cursor file")

    def _write(self, after: str | None) -> None:
        """Replace the file as a whole, so that no kill leaves half of it."""
        try:
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=".guestctl-cursor-")
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(json.dumps({"after": after}) + "\n")
                os.replace(name, self._path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise self._bad(error.strerror or str(error)) from error

    def _bad(self, why: str) -> UsageError:
        return UsageError(f"--cursor {self._path}: {why}", hint="Name a file that listen itself wrote, or a new one.")


def _regular(stdout: IO[Any]) -> int | None:
    """The descriptor of stdout when it is a regular file."""
    try:
        descriptor = stdout.fileno()
        return descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except (OSError, ValueError):
        return None


def _offset(descriptor: int) -> int:
    """Where the next write goes."""
    import fcntl

    appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
    return os.fstat(descriptor).st_size if appends else os.lseek(descriptor, 0, os.SEEK_CUR)
