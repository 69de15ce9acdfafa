"""No SQL statement makes any supported Python print a warning.

Knows: how Python 3.12.0 to 3.12.3 judge placeholders. Must not know: which statements guestctl has.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Front

#: A named or numbered placeholder, outside of texts in quotes.
_NAMED = re.compile(r"'[^']*'|(?P<named>[?:@$]\w+)")
COMMANDS = (
    ("session", "create", "--as", "a"),
    ("session", "create", "--as", "a"),
    ("send", "one", "--id", "0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10"),
    ("send", "one", "--id", "0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10"),
    ("ask", "two"),
    ("typing",),
    ("listen", "--max", "1", "--cursor", "position"),
    ("listen", "--max", "1", "--replay", "2"),
    ("resume",),
    ("history",),
    ("session", "list"),
    ("session", "report"),
    ("session", "forget", "a"),
)


class Connection(sqlite3.Connection):
    """Warns as those versions do: a placeholder with a name needs a mapping, and they take `?1` for a name."""

    warned: list[str]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self._judge(sql, parameters)
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        rows = list(parameters)
        for row in rows:
            self._judge(sql, row)
        return super().executemany(sql, rows)

    def _judge(self, sql: str, parameters: Any) -> None:
        if not isinstance(parameters, Mapping) and any(found["named"] for found in _NAMED.finditer(sql)):
            self.warned.append(sql)


def test_no_command_prints_a_warning_about_placeholders(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    ours = type("Ours", (Connection,), {"warned": warned})
    connect = sqlite3.connect
    opened: list[Any] = []

    def connecting(*positional: Any, **named: Any) -> Any:
        opened.append(positional)
        return connect(*positional, **{**named, "factory": ours})

    monkeypatch.setattr(sqlite3, "connect", connecting)
    monkeypatch.chdir(tmp_path)
    for argv in COMMANDS:
        result = front(*argv)
        assert result.code == 0, (argv, result.err)
    assert opened
    assert warned == []
