"""A state directory that tests open again and again, like successive commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestctl.core.errors import UsageError
from guestctl.storage.database import Database
from guestctl.storage.private_files import DATABASE_FILE
from tests.fakes import FakeClock


class StateDirectory:
    """Opens the database in `path` like successive commands, and records the notices."""

    def __init__(self, path: Path, clock: FakeClock) -> None:
        self.path = path
        self.file = path / DATABASE_FILE
        self.clock = clock
        self.notices: list[str] = []
        self._opened: list[Database] = []

    def open(self) -> Database:
        self._opened.append(Database.open(self.path, self.clock, self.notices.append))
        return self._opened[-1]

    def close(self) -> None:
        while self._opened:
            self._opened.pop().close()

    def refusal(self, path: Path | None = None) -> UsageError:
        with pytest.raises(UsageError) as caught:
            Database.open(path or self.path, self.clock, self.notices.append).close()
        assert caught.value.code == "state.unusable"
        return caught.value


def insert_name(database: Database, word: str) -> None:
    with database.transaction(durable=True) as run:
        run("INSERT OR REPLACE INTO current (scope, name) VALUES ('s', ?)", (word,))


def stored_names(database: Database) -> list[str]:
    return [word for (word,) in database.rows("SELECT name FROM current")]
