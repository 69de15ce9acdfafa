"""Locks between processes."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from guestctl.core.clock import Deadline
from guestctl.storage import locks, private_files
from guestctl.storage.database import Database
from guestctl.storage.locks import lock_file, try_lock_path, wait_for_lock
from tests.fakes import FakeClock
from tests.unit.state_directory import StateDirectory


def test_a_lock_has_one_holder(database: Database) -> None:
    release = database.try_lock("session 1", "send")
    assert release is not None
    assert database.try_lock("session 1", "send") is None
    for owner, name in (("session 1", "refresh"), ("session 2", "send")):
        another = database.try_lock(owner, name)
        assert another is not None
        another()
    release()
    again = database.try_lock("session 1", "send")
    assert again is not None
    again()


def test_a_lock_holds_between_commands(files: StateDirectory) -> None:
    one, other = files.open(), files.open()
    release = one.try_lock("o", "n")
    assert release is not None
    assert other.try_lock("o", "n") is None
    release()
    taken = other.try_lock("o", "n")
    assert taken is not None
    taken()


def test_the_file_name_of_a_lock_never_changes(files: StateDirectory) -> None:
    """Two versions may run at the same time."""
    release = files.open().try_lock("session 1", "send")
    assert release is not None
    assert (files.path / "locks" / "7dbd06d023712b32-27ce1d1bf4270020.lock").exists()
    release()


def test_a_lock_survives_another_attempt_to_take_it(files: StateDirectory) -> None:
    """Closing any descriptor of a file would release its locks, and only other processes would notice."""
    opened = files.open()
    release = opened.try_lock("o", "n")
    assert release is not None
    assert opened.try_lock("o", "n") is None
    path = lock_file(files.path, "o", "n")
    words = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN EXCLUSIVE')"

    def other() -> str:
        return subprocess.run([sys.executable, "-c", words, str(path)], capture_output=True, text=True).stderr

    assert "database is locked" in other()
    release()
    assert other() == ""


def test_a_file_anywhere_can_be_a_lock(tmp_path: Path) -> None:
    release = try_lock_path(tmp_path / "any.lock")
    assert release is not None
    assert try_lock_path(tmp_path / "any.lock") is None
    release()


def test_a_path_that_cannot_be_a_lock_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("not a database, but rather a long text " * 100)
    for name, why in (("folder", "unable to open database file"), ("text", "file is not a database")):
        with pytest.raises(OSError, match=why) as caught:
            try_lock_path(tmp_path / name)
        assert caught.value.errno == errno.EIO


def test_a_name_with_a_lone_surrogate_can_be_locked(database: Database) -> None:
    release = database.try_lock("\ud800", "caf\udce9")
    assert release is not None
    release()


def test_the_locks_of_one_owner_can_be_removed(files: StateDirectory) -> None:
    opened = files.open()
    before = set((files.path / "locks").iterdir())
    for owner in ("a", "b"):
        for name in ("send", "slot 0"):
            release = opened.try_lock(owner, name)
            assert release is not None
            release()
    opened.remove_locks("a")
    left = set((files.path / "locks").iterdir()) - before
    assert len(left) == 2
    opened.remove_locks("b")
    assert set((files.path / "locks").iterdir()) == before
    opened.remove_locks("nobody")


def test_a_lock_file_that_cannot_be_removed_stays(files: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows a file that another process has open cannot be removed."""
    opened = files.open()
    release = opened.try_lock("a", "send")
    assert release is not None
    release()

    def in_use(*_: object, **__: object) -> None:
        raise PermissionError(13, "in use")

    monkeypatch.setattr(Path, "unlink", in_use)
    opened.remove_locks("a")


def test_memory_has_no_lock_files() -> None:
    memory = Database.open(None, FakeClock(), print)
    assert memory.try_lock("a", "send") is not None
    assert memory.try_lock("a", "send") is None
    memory.remove_locks("a")
    assert memory.try_lock("a", "send") is not None
    memory.close()


def test_waiting_tries_once_and_then_less_and_less_often(clock: FakeClock) -> None:
    asked: list[float] = []

    def attempt() -> None:
        asked.append(clock.monotonic())

    assert wait_for_lock(attempt, Deadline.after(clock, 0)) is None
    assert asked == [0.0]
    assert clock.sleeps == []
    assert wait_for_lock(attempt, Deadline.after(clock, 0.5)) is None
    assert clock.monotonic() == pytest.approx(0.5), "to the end, and not beyond it"
    pauses = clock.sleeps[:-1]
    assert pauses == sorted(pauses)
    assert pauses[0] == 0.002
    assert pauses[1] == pytest.approx(0.003)
    assert pauses[-1] == 0.05


def test_waiting_returns_the_lock_once_it_is_free(clock: FakeClock) -> None:
    def release() -> None: ...

    answers = iter([None, None, release])
    assert wait_for_lock(lambda: next(answers), Deadline.after(clock, None)) is release
    assert len(clock.sleeps) == 2


def test_a_process_that_never_finishes_preparing_is_reported(files: StateDirectory) -> None:
    files.open()
    files.close()
    files.file.unlink()
    with locks.database_file_locked(files.path, files.clock):
        assert files.refusal().message == f"{files.path}: another guestctl process is still preparing it"
    assert files.clock.monotonic() == pytest.approx(private_files.BUSY_TIMEOUT)
    files.open()
