"""Lists as CSV: one header line, one row for each record (RFC 4180, lines end with a line feed).

Knows: the columns of each kind of list, and how a member becomes a cell. Must not know: where rows are written, where
records come from.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from guestctl.output.records import Record

_HISTORY = (
    *("kind", "id", "key", "session", "direction", "from.role", "from.name", "text", "time", "source"),
    *("presence", "read_only", "label", "content", "options", "attachments"),
)
_SESSIONS = (
    *("kind", "name", "api", "profile", "ids.conversation", "ids.guest", "ids.session", "state", "new_session"),
    *("read_only", "created_at", "expires_at", "token_expires_at"),
)
#: Kind of the records -> the columns of their list. They are fixed where records differ or a list may be empty.
#: Other lists have the members of their first record.
COLUMNS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("message", "presence", "unknown"), _HISTORY),
    "session": _SESSIONS,
    "profile": ("kind", "name", "default", "api", "address"),
}
#: Members whose own members have columns. Every other object or array is JSON in one cell.
_NESTED = frozenset({"from", "ids", "operations"})
#: A spreadsheet takes a text that starts with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class CsvRows:
    """The rows of one list. `write` receives each line without its end. `kind`: the kind of an empty list's header."""

    def __init__(self, write: Callable[[str], None], kind: str | None) -> None:
        self._write = write
        self._columns = () if kind is None else COLUMNS.get(kind, ())
        self._begun = False

    def add(self, record: Record) -> None:
        """Write one row, after the header if it is the first."""
        members = dict(_members(record))
        if not self._begun:
            self._columns = COLUMNS.get(str(record.get("kind")), tuple(members))
            self._begin()
        self._write(_line([_cell(members.get(column)) for column in self._columns]))

    def close(self) -> None:
        """Write the header of an empty list."""
        if not self._begun and self._columns:
            self._begin()

    def _begin(self) -> None:
        self._begun = True
        self._write(_line(self._columns))


def _members(record: Record, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if name in _NESTED and isinstance(value, Mapping):
            yield from _members(value, f"{name}.")
        else:
            yield above + name, value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
