"""Fixtures of the tests of the state database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from guestctl.storage.database import Database
from tests.fakes import FakeClock
from tests.unit.state_directory import StateDirectory


@pytest.fixture
def files(tmp_path: Path, clock: FakeClock) -> Iterator[StateDirectory]:
    found = StateDirectory(tmp_path / "s", clock)
    yield found
    found.close()


@pytest.fixture(params=["file", "memory"])
def database(request: pytest.FixtureRequest, files: StateDirectory) -> Iterator[Database]:
    if request.param == "file":
        yield files.open()
    else:
        memory = Database.open(None, files.clock, files.notices.append)
        yield memory
        memory.close()
