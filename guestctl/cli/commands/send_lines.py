"""`send - --lines`: each line of stdin as one message, and how an interrupted run goes on.

Knows: line numbers, the cursor file, the progress on a terminal. Must not know: how a message is sent or printed.

The cursor file has the number of a line and its client key before the line is sent. The key finds the outcome of
that line in the outbox, so that the next run neither skips the line nor sends it twice.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from guestctl.cli.commands.position_file import PositionFile
from guestctl.cli.invocation import Invocation
from guestctl.core.errors import Failure


class LineCursor:
    """The file of `--cursor`. `line` is the last line with a known outcome. `key` is the client key of the line after
    it, if that line was begun. Raises UsageError if the file is not such a file or cannot be written."""

    def __init__(self, path: Path) -> None:
        self._file = PositionFile(path, "send - --lines --cursor")
        self.line, self.key = self._read()

    def begin(self, line: int, key: str) -> None:
        """Store that a line is about to be sent with this key."""
        self._write(line - 1, key)

    def settle(self, line: int) -> None:
        """Store that a line was accepted."""
        self._write(line, None)

    def _read(self) -> tuple[int, str | None]:
        value = self._file.read()
        if value is None:
            return 0, None
        line, key = value.get("line"), value.get("key", "")
        with suppress(ValueError, TypeError, AttributeError):  # a key that is no UUID
            if type(line) is int and line >= 0 and (key is None or str(uuid.UUID(key)) == key):
                return line, key
        raise self._file.bad("not a cursor file of `send --lines`")

    def _write(self, line: int, key: str | None) -> None:
        """Store both on the disk: without the key, the line would be sent twice."""
        self.line, self.key = line, key
        self._file.replace({"line": line, "key": key}, durable=True)


class LineProgress:
    """The progress of the lines on a terminal: a bar where the size of stdin is known, otherwise a count."""

    def __init__(self, run: Invocation) -> None:
        self._bar = run.out.progress("sending", run.clock.monotonic)
        self._size = _size_of_stdin(run)
        self._done = self._count = 0

    def count(self, line: str) -> None:
        """Count a line that has an outcome."""
        self._done += len(line.encode("utf-8", "surrogatepass"))
        self._count += 1

    def show(self) -> None:
        if self._bar is None:
            return
        if self._size is None:
            self._bar.line(f"sending: {self._count} lines")
        else:
            self._bar(min(self._done, self._size - 1), self._size)  # the last step would end the line

    def hide(self) -> None:
        """Remove it before a record is printed."""
        if self._bar is not None:
            self._bar.line("")


def _size_of_stdin(run: Invocation) -> int | None:
    """Return the bytes of stdin if it is a regular file that is not empty, otherwise None."""
    try:
        found = os.fstat(run.world.stdin.fileno())
    except (OSError, ValueError):
        return None
    return found.st_size or None if stat.S_ISREG(found.st_mode) else None


def send_lines(run: Invocation, cursor: LineCursor | None, send: Callable[[str, str, LineProgress], None]) -> None:
    """Send each line that is not empty, and report the outcome of the last one when a signal ends the command.

    `send` sends a text with a client key, and hides the progress while it prints.
    """
    progress = LineProgress(run)
    accepted = 0
    current: tuple[int, str] | None = None
    try:
        for number, line in enumerate(run.world.lines(), 1):
            text = line.rstrip("\r\n")
            if text.strip() and (cursor is None or number > cursor.line):
                begun = None if cursor is None or number != cursor.line + 1 else cursor.key
                current = number, begun or str(uuid.uuid4())
                if cursor is not None:
                    cursor.begin(*current)
                send(text, current[1], progress)
                accepted, current = accepted + 1, None
                if cursor is not None:
                    cursor.settle(number)
            progress.count(line)
            progress.show()
    except BaseException as error:
        progress.hide()
        if not isinstance(error, Exception):
            run.out.warning(_summary(run, accepted, current))
        raise
    progress.hide()


def _summary(run: Invocation, accepted: int, current: tuple[int, str] | None) -> str:
    """Return what became of the lines: all before the last were accepted."""
    outcome = None
    if current is not None:
        with suppress(Failure):
            outcome = run.client.outcome(current[1])
    if outcome == "accepted":
        accepted += 1
    if current is None or outcome == "accepted":
        return f"{accepted} accepted"
    return f"{accepted} accepted, line {current[0]} {(outcome or 'not_sent').replace('_', ' ')}"


def texts(run: Invocation) -> Iterator[str]:
    """Yield the lines of stdin as they arrive, without the empty ones."""
    return (line for line in (line.rstrip("\r\n") for line in run.world.lines()) if line.strip())
