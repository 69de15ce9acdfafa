"""`listen --cursor FILE`: print each message once, even if the command is killed.

Knows: the cursor file, and how to find out whether a line reached stdout. Must not know: events, formats.

Writing a line and storing that it was written cannot be one step. So an intent is stored first: the file, the byte
range and the message. At the next start, the size of that file shows whether the line is complete, partial or
missing, even if stdout is a different file by then. This needs a regular file that still has its name. In a pipe, a
kill between the two steps repeats the line rather than losing it.

With hooks, a message counts as written only after its hooks have succeeded. Its line is not repeated for that.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from guestctl.cli.commands.position_file import PositionFile
from guestctl.core.model import Message, Position, Session
from guestctl.engine.merge import position_of
from guestctl.storage.state import Cursor, State

#: Positions of a run that are remembered, to go back before a late message.
_REMEMBERED = 1000


class CursorFile:
    """The position in one cursor file, for one session's listener.

    `after` is the last message written; None means the start of the conversation. Its sequence number and its time
    are stored too, because history that lacks the message can then still be split into before and after. `hooked`: a
    line alone does not settle its message.
    Raises UsageError if the file is not a cursor file or cannot be written.
    """

    def __init__(
        self, path: Path, state: State, scope: str, session: Session, stdout: IO[Any], *, hooked: bool = False
    ) -> None:
        self._file = PositionFile(path, "listen --cursor")
        name = str(self._file.path)
        self._store_intent: Callable[[Cursor], None] = lambda cursor: state.set_cursor(scope, session, name, cursor)
        self._stdout = regular_file(stdout)
        self.after = self._read()
        intent = state.cursor(scope, session, name) if self._file.path.exists() else None
        last = self.after.id if self.after else None
        #: The message whose line an earlier run has written, and whose hooks it did not finish.
        self._has_line: str | None = None
        # Asked in any case, because it removes a partial line: a message found late does not move the position.
        complete = intent is not None and line_is_complete(self._stdout, intent.identity, intent.position)
        if complete and intent is not None and intent.id is not None and intent.id != last:
            if hooked:
                self._has_line = intent.id
            else:
                self.after = Position(intent.id, intent.sequence, intent.time)
        self._begun_after = self.after
        self._earlier: deque[Position] = deque(maxlen=_REMEMBERED)
        self._write(self.after)

    def has_line(self, message: Message) -> bool:
        """Return whether an earlier run has written the line of this message."""
        return message.id == self._has_line

    def before_hooks(self, message: Message) -> None:
        """Make sure that a run that ends here does not count the message as written.

        Only a message that was found after later ones needs this: the position goes back before it until `written`.
        """
        if self.after is not None and self._place_after(message) == self.after:
            place = position_of(message)
            older = (earlier for earlier in reversed(self._earlier) if earlier != place and _later(place, earlier))
            self._write(next(older, self._begun_after))

    def writing(self, message: Message, size: int) -> None:
        """Store that a line of `size` bytes for this message is about to be written."""
        if self._stdout is not None:
            identity, begin = place_of_next_line(self._stdout)
            place = self._place_after(message)
            self._store_intent(Cursor(identity, begin + size, place.id, place.sequence, place.time))

    def written(self, message: Message) -> None:
        """Store that the line was written."""
        self.after = self._place_after(message)
        self._earlier.append(self.after)
        self._write(self.after)

    def _place_after(self, message: Message) -> Position:
        """Return the position once this message is written.

        A message that was found after later ones were written does not move it back: they would be written again.
        """
        place, last = position_of(message), self.after
        return last if last is not None and _later(last, place) else place

    def _read(self) -> Position | None:
        value = self._file.read()
        if value is None:
            return None
        after, sequence, time = value.get("after", ""), value.get("sequence"), value.get("time")
        if after is None:
            return None
        if not (after and isinstance(after, str) and isinstance(sequence, int | None) and isinstance(time, str | None)):
            raise self._file.bad("not a cursor file")
        return Position(after, sequence, time)

    def _write(self, after: Position | None) -> None:
        self._file.replace(_cursor_values(after))


def _later(one: Position, other: Position) -> bool:
    """Return whether one position is after another one, as far as their numbers or times show it."""
    if one.sequence is not None and other.sequence is not None:
        return one.sequence > other.sequence
    return one.time is not None and other.time is not None and one.time > other.time


def place_of_next_line(stdout: int) -> tuple[str, int]:
    """Return what identifies the file and the offset of the next write, for `line_is_complete`, and that offset."""
    found, begin = os.fstat(stdout), _offset(stdout)
    return f"{found.st_dev}:{found.st_ino}:{begin}:{_name(stdout)}", begin


def line_is_complete(stdout: int | None, place: str, end: int) -> bool:
    """Return whether the line of an earlier run is complete in its file, which then reaches `end`.

    Removes a partial line. `stdout` may be the same file, another one or, as None, no file.
    """
    try:
        device, inode, begin, path = [*place.split(":", 3), ""][:4]
        same = (int(device), int(inode))
        if stdout is not None and _identity(stdout) == same:
            return _holds(stdout, end, int(begin))
        # Another file may have the name by now: follow no link and wait for no pipe.
        flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(path, os.O_WRONLY | flags)
    except (OSError, ValueError):
        return False
    try:
        return _identity(descriptor) == same and _holds(descriptor, end, int(begin))
    finally:
        os.close(descriptor)


def _cursor_values(after: Position | None) -> dict[str, str | int | None]:
    """Return the content of the file. Values that the API does not have are left out."""
    if after is None:
        return {"after": None}
    place = {"sequence": after.sequence, "time": after.time}
    return {"after": after.id, **{name: value for name, value in place.items() if value is not None}}


def regular_file(stdout: IO[Any]) -> int | None:
    """Return the descriptor of stdout if it is a regular file, otherwise None."""
    try:
        descriptor = stdout.fileno()
        return descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except (OSError, ValueError):
        return None


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _holds(descriptor: int, end: int, begin: int) -> bool:
    """Return whether a file reaches `end`. If not, remove everything from `begin` on."""
    size = os.fstat(descriptor).st_size
    if begin < size < end:
        os.ftruncate(descriptor, begin)
    return size >= end


def _name(descriptor: int) -> str:
    """Return the path of an open descriptor, empty where the system has no way to find it."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        pass
    try:
        import fcntl

        found: bytes = fcntl.fcntl(descriptor, getattr(fcntl, "F_GETPATH"), bytes(1024))  # noqa: B009 (macOS)
    except (ImportError, AttributeError, OSError):
        return ""
    return os.fsdecode(found.rstrip(b"\0"))


def _offset(descriptor: int) -> int:
    """Return the offset of the next write."""
    try:
        import fcntl
    except ImportError:
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
    return os.fstat(descriptor).st_size if appends else os.lseek(descriptor, 0, os.SEEK_CUR)
