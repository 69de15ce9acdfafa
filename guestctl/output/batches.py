"""Print the records of a busy stream: several lines with one write.

Knows: how much a pipe takes at once. Must not know: formats, where records come from, what follows a printed one.
"""

from __future__ import annotations

import select
from collections.abc import Iterable, Iterator
from typing import TypeVar

from guestctl.output.records import Record
from guestctl.output.writer import Output

T = TypeVar("T")


def print_together(out: Output, records: Iterable[tuple[T, Record]]) -> Iterator[T]:
    """Print records as `Output.event` does, and yield the key of the last one of each write.

    A pipe that can be written takes such a write at once, unless it is a single long line. The records are taken as
    they are needed. Raises as `Output.raw` does.
    """
    lines, keys = b"", list[T]()
    for key, record in records:
        line = out.line(record)
        if lines and len(lines) + len(line) > select.PIPE_BUF:
            out.raw(lines)
            yield keys[-1]
            lines, keys = b"", []
        lines += line
        keys.append(key)
    if lines:
        out.raw(lines)
        yield keys[-1]
