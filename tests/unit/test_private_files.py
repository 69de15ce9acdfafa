"""State files and directories: private, and refused where they are not."""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from guestctl.core.errors import Failure, UsageError
from guestctl.storage import private_files
from guestctl.storage.database import Database
from guestctl.storage.private_files import DATABASE_FILE
from tests.fakes import FakeClock
from tests.unit.state_directory import StateDirectory, insert_name, stored_names

posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners are POSIX")


@posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_state_is_private_under_any_umask(files: StateDirectory, umask: int) -> None:
    files.path = files.path / "s"
    files.path.parent.mkdir()
    before = os.umask(umask)
    try:
        opened = files.open()
        insert_name(opened, "a")
        release = opened.try_lock("", "a")
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in files.path.rglob("*")}
        assert release is not None
        release()
    finally:
        os.umask(before)
    assert stat.S_IMODE(files.path.stat().st_mode) == 0o700
    assert {path.name for path in modes} >= {"state.db", "state.db-wal", "state.db-shm", "locks"}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items()), modes


@posix
def test_state_is_private_from_its_creation_on(files: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode is not set afterwards, when another user may have opened the file."""
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    before = os.umask(0)
    try:
        release = files.open().try_lock("", "x")
        modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in (files.path, *files.path.rglob("*"))}
        assert release is not None
        release()
    finally:
        os.umask(before)
    assert modes == {True: 0o700, False: 0o600}


@posix
@pytest.mark.parametrize("mode", [0o755, 0o750, 0o777, 0o701])
def test_a_directory_open_to_others_is_refused_with_the_command_that_fixes_it(
    tmp_path: Path, files: StateDirectory, mode: int
) -> None:
    directory = tmp_path / "my state"
    directory.mkdir()
    directory.chmod(mode)
    refused = files.refusal(directory)
    assert refused.message == f"{directory} can be reached by other users (mode {mode:04o}); it holds tokens"
    assert refused.hint == f"run `chmod 700 '{directory}'`"
    directory.chmod(0o700)
    files.path = directory
    files.open()


@posix
def test_a_file_open_to_others_is_refused(files: StateDirectory) -> None:
    files.open()
    files.file.chmod(0o640)
    assert files.refusal().hint == f"run `chmod 600 {shlex.quote(str(files.file))}`"


@posix
def test_symbolic_links_are_refused(tmp_path: Path, files: StateDirectory) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    refused = files.refusal(tmp_path / "link")
    assert refused.message == f"{tmp_path / 'link'} is a symbolic link; state is kept only in a real directory"
    assert refused.hint == f"set GUESTCTL_STATE to the real directory, or remove the link: `rm {tmp_path / 'link'}`"
    planted = tmp_path / "elsewhere"
    (tmp_path / "real" / DATABASE_FILE).symlink_to(planted)
    assert "is a symbolic link; state is kept only in a real file" in files.refusal(tmp_path / "real").message
    assert not planted.exists()


@posix
def test_a_directory_of_another_user_is_refused(files: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    files.open()
    real = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    refused = files.refusal()
    assert refused.message == f"{files.path} belongs to another user (uid {real})"
    assert refused.hint.endswith(f"or run `sudo chown $(id -u) {files.path}`")


def test_a_file_instead_of_the_directory_is_refused(tmp_path: Path, files: StateDirectory) -> None:
    files.path.write_text("")
    assert files.refusal().message == f"{files.path} is not a directory"
    assert "cannot be used" in files.refusal(files.path / "deeper").message
    (tmp_path / "d" / DATABASE_FILE).mkdir(parents=True)
    (tmp_path / "d").chmod(0o700)
    assert files.refusal(tmp_path / "d").message == f"{tmp_path / 'd' / DATABASE_FILE} is not a file"


@pytest.mark.parametrize(("owner", "call"), [(Path, "mkdir"), (os, "open")])
def test_an_unwritable_directory_is_reported(
    files: StateDirectory, monkeypatch: pytest.MonkeyPatch, owner: object, call: str
) -> None:
    def read_only(*_: object, **__: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(owner, call, read_only)
    error = files.refusal()
    assert error.message == f"state in {files.path} cannot be used: Read-only file system"
    assert "GUESTCTL_STATE" in error.hint


def test_an_error_without_a_message_is_named_by_its_type(
    files: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> int:
        raise TimeoutError

    monkeypatch.setattr(os, "open", failing)
    assert files.refusal().message.endswith("cannot be used: TimeoutError")


def test_without_owners_as_on_windows_nothing_is_compared(
    files: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "geteuid", raising=False)
    monkeypatch.delattr(os, "fchmod", raising=False)
    files.path.mkdir(mode=0o755)
    insert_name(files.open(), "a")


def test_missing_parent_directories_are_created(tmp_path: Path, files: StateDirectory) -> None:
    files.path = tmp_path / "some" / "where" / "s"
    insert_name(files.open(), "a")


def test_two_commands_create_the_directory_at_the_same_time(
    files: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def late(path: Path, *words: Any, **more: Any) -> None:
        make(path, *words, **more)
        if path == files.path:
            raise FileExistsError

    monkeypatch.setattr(Path, "mkdir", late)
    insert_name(files.open(), "a")


def test_a_directory_name_with_url_characters(tmp_path: Path, files: StateDirectory) -> None:
    files.path = tmp_path / "a?mode=memory#b%20c"
    insert_name(files.open(), "a")
    assert stored_names(files.open()) == ["a"]
    assert (files.path / DATABASE_FILE).is_file()


def test_a_relative_directory(tmp_path: Path, files: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files.path = Path("s")
    insert_name(files.open(), "a")
    assert (tmp_path / "s" / DATABASE_FILE).is_file()


def test_any_unusable_directory_raises_a_failure(tmp_path: Path, clock: FakeClock) -> None:
    for directory in (Path("/dev/null"), Path("/dev/null/x"), tmp_path / ("x" * 300), Path("/proc/none/x")):
        with pytest.raises(Failure):
            Database.open(directory, clock, print)


def test_a_statement_waits_for_another_command(files: StateDirectory) -> None:
    assert files.open().rows("PRAGMA busy_timeout") == [(private_files.BUSY_TIMEOUT * 1000,)]


def test_creating_a_file_twice_keeps_its_content(tmp_path: Path) -> None:
    private_files.create_file(tmp_path / "f")
    (tmp_path / "f").write_text("kept")
    private_files.create_file(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "kept"


def test_a_failure_of_sqlite_names_the_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught, private_files.failures_explained(tmp_path):
        raise sqlite3.OperationalError("disk I/O error")
    assert caught.value.message == f"state in {tmp_path} cannot be used: disk I/O error"


def test_a_file_is_identified_by_device_and_inode(tmp_path: Path) -> None:
    private_files.create_file(tmp_path / "f")
    found = (tmp_path / "f").stat()
    assert private_files.file_identity(tmp_path / "f") == (found.st_dev, found.st_ino)
    assert private_files.file_identity(tmp_path / "none") is None


def test_a_file_stamp_fits_into_a_file_name(clock: FakeClock) -> None:
    assert private_files.file_stamp(clock) == "20260304T091527.000Z"
