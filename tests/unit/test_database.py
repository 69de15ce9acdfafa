"""The database file: how it is made and kept private, its locks, and what happens when it is not well."""

from __future__ import annotations

import errno
import os
import shlex
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from guestctl.core.clock import Deadline, rfc3339
from guestctl.core.errors import Failure, UsageError
from guestctl.storage import database as module
from guestctl.storage.database import FILE, Database, grab_path, until_free
from guestctl.storage.state import Cursor, LedgerEntry, State
from tests.fakes import FakeClock


class Files:
    """Opens the database in `path` as one command after another does, and remembers what was told."""

    def __init__(self, path: Path, clock: FakeClock) -> None:
        self.path = path
        self.file = path / FILE
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


@pytest.fixture
def files(tmp_path: Path, clock: FakeClock) -> Iterator[Files]:
    found = Files(tmp_path / "s", clock)
    yield found
    found.close()


@pytest.fixture(params=["file", "memory"])
def database(request: pytest.FixtureRequest, files: Files) -> Iterator[Database]:
    if request.param == "file":
        yield files.open()
    else:
        memory = Database.open(None, files.clock, files.notices.append)
        yield memory
        memory.close()


def note(database: Database, word: str) -> None:
    with database.transaction(durable=True) as run:
        run("INSERT OR REPLACE INTO current (scope, name) VALUES ('s', ?)", (word,))


def noted(database: Database) -> list[str]:
    return [word for (word,) in database.rows("SELECT name FROM current")]


# --- transactions ---


def test_a_transaction_is_there_whole_or_not_at_all(database: Database) -> None:
    note(database, "before")
    for failure in (KeyboardInterrupt, ValueError):
        with suppress(failure), database.transaction(durable=True) as run:
            run("UPDATE current SET name = 'half'")
            raise failure
        assert noted(database) == ["before"]
        assert not database.connection.in_transaction, "nobody waits for it any more"
    note(database, "after")
    assert noted(database) == ["after"]


def test_what_is_durable_is_synced(database: Database) -> None:
    for durable, level in ((True, 2), (False, 1), (False, 1), (True, 2), (True, 2)):
        with database.transaction(durable=durable):
            pass
        assert database.rows("PRAGMA synchronous") == [(level,)]


def test_what_hangs_on_a_row_goes_with_it_and_is_overwritten(database: Database) -> None:
    with database.transaction(durable=True) as run:
        run("INSERT INTO session (n, scope, name) VALUES (1, 's', 'a')")
        run("INSERT INTO ledger (session, n, id) VALUES (1, 1, 'm1')")
        run("DELETE FROM session")
    assert database.rows("SELECT * FROM ledger") == []
    assert database.rows("PRAGMA secure_delete") == [(1,)]


def test_a_database_is_used_by_any_thread(database: Database) -> None:
    def work(number: int) -> None:
        note(database, f"w{number}")
        assert noted(database)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(noted(database)) == 1


def test_two_commands_see_each_other(files: Files) -> None:
    one, other = files.open(), files.open()
    note(one, "mine")
    assert noted(other) == ["mine"]
    assert one.rows("PRAGMA journal_mode") == [("wal",)], "nobody who reads waits for who writes"
    assert files.notices == []


def test_a_statement_waits_for_another_command(files: Files) -> None:
    assert files.open().rows("PRAGMA busy_timeout") == [(module.BUSY * 1000,)]


def test_what_is_no_text_is_refused(database: Database) -> None:
    with pytest.raises(UsageError, match="not valid Unicode"):
        database.rows("SELECT ?", ("caf\udce9",))
    with pytest.raises(UsageError, match="not valid Unicode"):
        note(database, "caf\udce9")
    assert noted(database) == []


# --- locks ---


def test_a_lock_is_held_by_one(database: Database) -> None:
    release = database.grab("session 1", "send")
    assert release is not None
    assert database.grab("session 1", "send") is None
    for owner, name in (("session 1", "refresh"), ("session 2", "send")):
        another = database.grab(owner, name)
        assert another is not None
        another()
    release()
    again = database.grab("session 1", "send")
    assert again is not None
    again()


def test_a_lock_is_held_among_commands(files: Files) -> None:
    one, other = files.open(), files.open()
    release = one.grab("o", "n")
    assert release is not None
    assert other.grab("o", "n") is None
    release()
    taken = other.grab("o", "n")
    assert taken is not None
    taken()


def test_every_version_looks_for_a_lock_in_one_place(files: Files) -> None:
    """Two of them may be at work at once."""
    release = files.open().grab("session 1", "send")
    assert release is not None
    assert (files.path / "locks" / "7dbd06d023712b32-27ce1d1bf4270020.lock").exists()
    release()


def test_a_lock_outlives_another_try_for_it(files: Files) -> None:
    """Closing any descriptor of a file would give its locks back, and only other processes would notice."""
    opened = files.open()
    release = opened.grab("o", "n")
    assert release is not None
    assert opened.grab("o", "n") is None
    (path,) = module._locks(files.path, "o", "n")
    words = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN EXCLUSIVE')"

    def other() -> str:
        return subprocess.run([sys.executable, "-c", words, str(path)], capture_output=True, text=True).stderr

    assert "database is locked" in other()
    release()
    assert other() == ""


def test_a_file_anywhere_can_be_a_lock(tmp_path: Path) -> None:
    release = grab_path(tmp_path / "any.lock")
    assert release is not None
    assert grab_path(tmp_path / "any.lock") is None
    release()


def test_what_cannot_be_a_lock(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("not a database, but rather a long text " * 100)
    for name, why in (("folder", "unable to open database file"), ("text", "file is not a database")):
        with pytest.raises(OSError, match=why) as caught:
            grab_path(tmp_path / name)
        assert caught.value.errno == errno.EIO


def test_a_name_that_is_no_text_can_be_locked(database: Database) -> None:
    release = database.grab("\ud800", "caf\udce9")
    assert release is not None
    release()


def test_the_locks_of_one_owner_can_be_dropped(files: Files) -> None:
    opened = files.open()
    before = set((files.path / "locks").iterdir())
    for owner in ("a", "b"):
        for name in ("send", "slot 0"):
            release = opened.grab(owner, name)
            assert release is not None
            release()
    opened.drop_locks("a")
    left = set((files.path / "locks").iterdir()) - before
    assert len(left) == 2
    opened.drop_locks("b")
    assert set((files.path / "locks").iterdir()) == before
    opened.drop_locks("nobody")


def test_a_lock_file_that_cannot_be_dropped_stays(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where somebody still has it open."""
    opened = files.open()
    release = opened.grab("a", "send")
    assert release is not None
    release()

    def in_use(*_: object, **__: object) -> None:
        raise PermissionError(13, "in use")

    monkeypatch.setattr(Path, "unlink", in_use)
    opened.drop_locks("a")


def test_memory_has_no_lock_files() -> None:
    memory = Database.open(None, FakeClock(), print)
    memory.drop_locks("a")
    memory.close()


def test_whoever_waits_asks_ever_less_often_and_once_at_least(clock: FakeClock) -> None:
    asked: list[float] = []

    def attempt() -> None:
        asked.append(clock.monotonic())

    assert until_free(attempt, Deadline.after(clock, 0)) is None
    assert asked == [0.0]
    assert clock.sleeps == []
    assert until_free(attempt, Deadline.after(clock, 0.5)) is None
    assert clock.monotonic() == pytest.approx(0.5), "to the end, and not beyond it"
    pauses = clock.sleeps[:-1]
    assert pauses == sorted(pauses)
    assert pauses[0] == 0.002
    assert pauses[1] == pytest.approx(0.003)
    assert pauses[-1] == 0.05


def test_whoever_waits_gets_it_when_it_comes_free(clock: FakeClock) -> None:
    def release() -> None: ...

    answers = iter([None, None, release])
    assert until_free(lambda: next(answers), Deadline.after(clock, None)) is release
    assert len(clock.sleeps) == 2


# --- that it is private ---


posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners are POSIX")


@posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_nobody_else_can_read_it_whatever_the_umask(files: Files, umask: int) -> None:
    files.path = files.path / "s"
    files.path.parent.mkdir()
    before = os.umask(umask)
    try:
        opened = files.open()
        note(opened, "a")
        release = opened.grab("", "a")
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in files.path.rglob("*")}
        assert release is not None
        release()
    finally:
        os.umask(before)
    assert stat.S_IMODE(files.path.stat().st_mode) == 0o700
    assert {path.name for path in modes} >= {"state.db", "state.db-wal", "state.db-shm", "locks"}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items()), modes


@posix
def test_it_is_private_from_the_first_instant(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not made so afterwards, when somebody else may have it open."""
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    before = os.umask(0)
    try:
        release = files.open().grab("", "x")
        modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in (files.path, *files.path.rglob("*"))}
        assert release is not None
        release()
    finally:
        os.umask(before)
    assert modes == {True: 0o700, False: 0o600}


@posix
@pytest.mark.parametrize("mode", [0o755, 0o750, 0o777, 0o701])
def test_a_directory_others_can_enter_is_refused_with_the_mending_command(
    tmp_path: Path, files: Files, mode: int
) -> None:
    directory = tmp_path / "my state"
    directory.mkdir()
    directory.chmod(mode)
    refused = files.refusal(directory)
    assert refused.message == f"{directory} can be reached by other users (mode {mode:04o}); it holds tokens"
    assert refused.hint == f"Run: chmod 700 '{directory}'"
    directory.chmod(0o700)
    files.path = directory
    files.open()


@posix
def test_a_file_others_can_read_is_refused(files: Files) -> None:
    files.open()
    files.file.chmod(0o640)
    assert files.refusal().hint == f"Run: chmod 600 {shlex.quote(str(files.file))}"


@posix
def test_links_are_refused(tmp_path: Path, files: Files) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    refused = files.refusal(tmp_path / "link")
    assert refused.message == f"{tmp_path / 'link'} is a symbolic link; state is kept only in a real directory"
    assert refused.hint == f"Set GUESTCTL_STATE to the real directory, or remove the link: rm {tmp_path / 'link'}"
    planted = tmp_path / "elsewhere"
    (tmp_path / "real" / FILE).symlink_to(planted)
    assert "is a symbolic link; state is kept only in a real file" in files.refusal(tmp_path / "real").message
    assert not planted.exists()


@posix
def test_a_foreign_owner_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.open()
    real = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    refused = files.refusal()
    assert refused.message == f"{files.path} belongs to another user (uid {real})"
    assert refused.hint.endswith(f"or: sudo chown $(id -u) {files.path}")


def test_a_file_where_the_directory_should_be(tmp_path: Path, files: Files) -> None:
    files.path.write_text("")
    assert files.refusal().message == f"{files.path} is not a directory"
    assert "cannot be used" in files.refusal(files.path / "deeper").message
    (tmp_path / "d" / FILE).mkdir(parents=True)
    (tmp_path / "d").chmod(0o700)
    assert files.refusal(tmp_path / "d").message == f"{tmp_path / 'd' / FILE} is not a file"


@pytest.mark.parametrize(("owner", "call"), [(Path, "mkdir"), (os, "open")])
def test_a_place_that_cannot_be_written(
    files: Files, monkeypatch: pytest.MonkeyPatch, owner: object, call: str
) -> None:
    def read_only(*_: object, **__: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(owner, call, read_only)
    error = files.refusal()
    assert error.message == f"state in {files.path} cannot be used: Read-only file system"
    assert "GUESTCTL_STATE" in error.hint


def test_trouble_without_words_is_named_by_its_kind(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> int:
        raise TimeoutError

    monkeypatch.setattr(os, "open", failing)
    assert files.refusal().message.endswith("cannot be used: TimeoutError")


def test_windows_has_no_owners_to_compare(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "geteuid", raising=False)
    monkeypatch.delattr(os, "fchmod", raising=False)
    files.path.mkdir(mode=0o755)
    note(files.open(), "a")


def test_a_place_of_any_depth_is_made(tmp_path: Path, files: Files) -> None:
    files.path = tmp_path / "some" / "where" / "s"
    note(files.open(), "a")


def test_two_commands_make_the_directory_at_once(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir

    def late(path: Path, *words: Any, **more: Any) -> None:
        make(path, *words, **more)
        if path == files.path:
            raise FileExistsError

    monkeypatch.setattr(Path, "mkdir", late)
    note(files.open(), "a")


def test_a_name_no_address_has_is_only_a_name(tmp_path: Path, files: Files) -> None:
    files.path = tmp_path / "a?mode=memory#b%20c"
    note(files.open(), "a")
    assert noted(files.open()) == ["a"]
    assert (files.path / FILE).is_file()


def test_a_relative_place(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files.path = Path("s")
    note(files.open(), "a")
    assert (tmp_path / "s" / FILE).is_file()


def test_only_failures_come_out_of_a_directory_of_any_kind(tmp_path: Path, clock: FakeClock) -> None:
    for directory in (Path("/dev/null"), Path("/dev/null/x"), tmp_path / ("x" * 300), Path("/proc/none/x")):
        with pytest.raises(Failure):
            Database.open(directory, clock, print)


# --- full disks ---


class Failing:
    """A connection on which some statements fail."""

    def __init__(self, real: sqlite3.Connection, fails: Callable[[str], sqlite3.Error | None]) -> None:
        self._real = real
        self._fails = fails

    def execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
        if (error := self._fails(sql)) is not None:
            raise error
        return self._real.execute(sql, values)

    def close(self) -> None:
        self._real.close()


def when(start: str, error: sqlite3.Error) -> Callable[[str], sqlite3.Error | None]:
    return lambda sql: error if sql.startswith(start) else None


def break_(opened: Database, start: str, error: sqlite3.Error) -> sqlite3.Connection:
    """Let statements fail from now on; returns the connection that works."""
    real = opened.connection
    opened.connection = Failing(real, when(start, error))  # type: ignore[assignment]
    return real


@pytest.mark.parametrize("start", ["BEGIN", "INSERT", "COMMIT"])
def test_a_full_disk_loses_nothing_and_says_so(files: Files, start: str) -> None:
    opened = files.open()
    note(opened, "before")
    real = break_(opened, start, sqlite3.OperationalError("database or disk is full"))
    with pytest.raises(UsageError) as caught:
        note(opened, "after")
    assert caught.value.code == "state.unusable"
    assert caught.value.message == f"state in {files.path} cannot be used: database or disk is full"
    opened.connection = real
    assert noted(opened) == ["before"]
    note(opened, "after")
    assert noted(opened) == ["after"]


def test_a_full_disk_under_memory(clock: FakeClock) -> None:
    memory = Database.open(None, clock, print)
    break_(memory, "BEGIN", sqlite3.OperationalError("database or disk is full"))
    with pytest.raises(UsageError) as caught:
        note(memory, "a")
    assert caught.value.message == "state in memory cannot be used: database or disk is full"
    memory.close()


@pytest.mark.parametrize("start", ["SELECT 1 FROM sqlite_master", "BEGIN EXCLUSIVE"])
def test_a_disk_that_cannot_be_read_is_no_damage(files: Files, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    """Neither to the database, which stays where it is, nor a lock that somebody else holds."""
    note(files.open(), "a")
    files.close()
    connect, closed = module._connect, []

    class Broken(Failing):
        def close(self) -> None:
            super().close()
            closed.append(True)

    with monkeypatch.context() as patch:
        broken = when(start, sqlite3.OperationalError("disk I/O error"))
        patch.setattr(module, "_connect", lambda path: Broken(connect(path), broken))
        with pytest.raises(UsageError) as caught:
            files.open().grab("", "x")
        files.close()
    assert caught.value.code == "state.unusable"
    assert caught.value.message == f"state in {files.path} cannot be used: disk I/O error"
    assert closed
    assert list(files.path.glob("*damaged*")) == []
    again = files.open()
    assert noted(again) == ["a"]
    release = again.grab("", "x")
    assert release is not None
    release()


@pytest.mark.parametrize("error", [sqlite3.ProgrammingError("bad"), sqlite3.IntegrityError("bad")])
def test_a_bug_of_ours_is_not_blamed_on_the_disk(database: Database, error: sqlite3.Error) -> None:
    real = break_(database, "SELECT", error)
    with pytest.raises(type(error)):
        noted(database)
    assert database.connection is not real, "and nothing is set aside for it"


# --- damage ---


GARBAGE = [b"not a database, but rather a long text " * 100, b"\0" * 5000, b"SQLite format 3\0" + b"\xff" * 4080]


def compact(files: Files) -> str:
    """The present time as it stands in names of files."""
    return rfc3339(files.clock.now()).translate({ord(":"): None, ord("-"): None})


@pytest.mark.parametrize("content", GARBAGE)
def test_a_damaged_file_is_set_aside_and_never_deleted(files: Files, content: bytes) -> None:
    files.open()
    files.close()
    files.file.write_bytes(content)
    files.file.with_name(f"{FILE}-wal").write_bytes(b"old log")
    note(files.open(), "a")
    kept = files.path / f"{FILE}.damaged-{compact(files)}"
    assert kept.read_bytes() == content
    assert files.notices == [
        f"the state database was damaged: it is kept as {kept}, and guestctl starts with an empty one"
    ]
    files.close()
    files.notices.clear()
    assert noted(files.open()) == ["a"]
    assert files.notices == []


def fill(opened: Database) -> None:
    """So much that the first page, with the schema, is not all."""
    for number in range(50):
        with opened.transaction(durable=False) as run:
            run("INSERT INTO current (scope, name) VALUES (?, ?)", (str(number), "x" * 2000))


def spoil(files: Files) -> bytes:
    """Overwrite all but the first page."""
    content = files.file.read_bytes()
    content = content[:4096] + b"\xa5" * (len(content) - 4096)
    files.file.write_bytes(content)
    return content


def test_damage_found_only_in_use(files: Files) -> None:
    fill(files.open())
    files.close()
    content = spoil(files)
    opened = files.open()
    with pytest.raises(UsageError) as caught:
        noted(opened)
    assert caught.value.code == "state.unusable"
    assert caught.value.message.startswith(f"state in {files.path} cannot be used: ")
    assert caught.value.message.endswith("; the damaged file was set aside and an empty one is in its place")
    assert len(files.notices) == 1
    note(opened, "a")
    assert noted(opened) == ["a"], "what comes after it can work"
    assert noted(files.open()) == ["a"]
    assert opened.rows("PRAGMA foreign_keys") == [(1,)]
    with opened.transaction(durable=True):
        pass
    assert opened.rows("PRAGMA synchronous") == [(2,)]
    assert (files.path / f"{FILE}.damaged-{compact(files)}").read_bytes() == content


def test_damage_while_another_command_has_it_open(files: Files) -> None:
    """What it wrote last is in the log, which goes along and is not replayed into the empty one."""
    opened, other = files.open(), files.open()
    note(other, "old")
    break_(opened, "SELECT", sqlite3.DatabaseError("database disk image is malformed"))
    with pytest.raises(UsageError):
        noted(opened)
    assert noted(opened) == []
    kept = files.path / f"{FILE}.damaged-{compact(files)}"
    assert kept.with_name(f"{kept.name}-shm").exists()
    with closing(sqlite3.connect(kept)) as old:
        assert old.execute("SELECT name FROM current").fetchall() == [("old",)]


def test_damage_that_cannot_be_set_aside(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(files.open())
    files.close()
    content = spoil(files)
    opened = files.open()

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "replace", read_only)
    with pytest.raises(UsageError) as caught:
        noted(opened)
    assert caught.value.message == f"state in {files.path} cannot be used: Read-only file system"
    assert files.file.read_bytes() == content


def test_damage_that_another_process_has_dealt_with(files: Files) -> None:
    opened = files.open()
    break_(opened, "SELECT", sqlite3.DatabaseError("database disk image is malformed"))
    for path in files.path.glob("state.db*"):
        path.rename(files.path / f"moved-{path.name}")
    note(files.open(), "theirs")
    with pytest.raises(UsageError):
        noted(opened)
    assert noted(opened) == ["theirs"]
    assert files.notices == []


def test_an_empty_file_is_a_creation_cut_off(files: Files) -> None:
    files.path.mkdir(mode=0o700)
    files.file.touch(mode=0o600)
    note(files.open(), "a")
    assert files.notices == []


def test_a_file_system_without_shared_memory(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_write_ahead", lambda connection: "delete")
    opened = files.open()
    note(opened, "a")
    assert opened.rows("PRAGMA journal_mode") == [("delete",)]
    said = f"{files.path}: this file system has no shared memory, state uses a rollback journal and is slower"
    assert files.notices == [said]
    break_(opened, "SELECT", sqlite3.DatabaseError("database disk image is malformed"))
    with pytest.raises(UsageError):
        noted(opened)
    assert files.notices[2:] == [said], "also of the empty one that stands in for a damaged one"


def test_somebody_else_prepares_for_ever(files: Files) -> None:
    files.open()
    files.close()
    files.file.unlink()
    with module._alone(files.path, files.clock):
        assert files.refusal().message == f"{files.path}: another guestctl process is still preparing it"
    assert files.clock.monotonic() == pytest.approx(module.BUSY)
    files.open()


def test_opening_costs_a_handful_of_statements(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.open()
    said: list[str] = []
    connect = module._connect

    def traced(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.set_trace_callback(said.append)
        return connection

    monkeypatch.setattr(module, "_connect", traced)
    files.open()
    assert len(said) <= 4, said


# --- other versions ---


def test_a_newer_schema_is_refused_with_both_versions(files: Files) -> None:
    files.open().rows("PRAGMA user_version=7")
    with pytest.raises(UsageError) as caught:
        files.open()
    assert caught.value.code == "state.version"
    known = len(module._STEPS)
    assert caught.value.message == (f"{files.file} has schema 7, written by a newer guestctl; this one knows {known}")


def test_an_older_schema_is_migrated_with_a_backup(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    note(files.open(), "a")
    files.close()
    old = len(module._STEPS)
    later = (*module._STEPS, ("ALTER TABLE current ADD COLUMN since REAL", "UPDATE current SET since = 0"))
    monkeypatch.setattr(module, "_STEPS", later)
    opened = files.open()
    assert opened.rows("SELECT name, since FROM current") == [("a", 0.0)]
    assert opened.rows("PRAGMA user_version") == [(old + 1,)]
    backup = files.path / f"{FILE}.schema-{old}-{compact(files)}"
    assert files.notices == [f"state brought from schema {old} to {old + 1}; the old database is kept as {backup}"]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with closing(sqlite3.connect(backup)) as copy:
        assert copy.execute("SELECT * FROM current").fetchall() == [("s", "a")]


def test_a_migration_that_fails_changes_nothing(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    note(files.open(), "a")
    files.close()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_STEPS", (*module._STEPS, ("DROP TABLE current", "not SQL")))
        assert "syntax error" in files.refusal().message
    assert noted(files.open()) == ["a"]


#: As published; never edited.
SCHEMA_1 = """
CREATE TABLE session (n INTEGER PRIMARY KEY, scope TEXT NOT NULL, name TEXT NOT NULL, body TEXT, UNIQUE (scope, name));
CREATE TABLE current (scope TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE credential (scope TEXT, kind TEXT, body TEXT NOT NULL, PRIMARY KEY (scope, kind)) WITHOUT ROWID;
CREATE TABLE outbox (session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE, n INTEGER NOT NULL,
 key TEXT NOT NULL, text TEXT NOT NULL, state TEXT NOT NULL, message_id TEXT, time TEXT,
 begun_at REAL NOT NULL, written_at REAL, PRIMARY KEY (session, n)) WITHOUT ROWID;
CREATE UNIQUE INDEX outbox_key ON outbox (session, key);
CREATE INDEX outbox_state ON outbox (session, state);
CREATE TABLE ledger (session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE, n INTEGER NOT NULL,
 id TEXT NOT NULL, key TEXT, sequence INTEGER, time TEXT, PRIMARY KEY (session, n)) WITHOUT ROWID;
CREATE UNIQUE INDEX ledger_id ON ledger (session, id);
CREATE TABLE cursor (session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE, path TEXT NOT NULL,
 identity TEXT NOT NULL, position INTEGER NOT NULL, id TEXT, PRIMARY KEY (session, path)) WITHOUT ROWID;
CREATE TABLE activity (session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE, n INTEGER NOT NULL,
 at REAL NOT NULL, event TEXT NOT NULL, details TEXT NOT NULL, PRIMARY KEY (session, n)) WITHOUT ROWID;
CREATE TABLE budget (bucket TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX budget_at ON budget (bucket, at);
CREATE TABLE deployment (scope TEXT PRIMARY KEY, at REAL NOT NULL, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sandbox (n INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE, body TEXT NOT NULL);
PRAGMA user_version = 1;
"""
#: A birth that takes all the digits a double has.
BODY_1 = (
    '{"api": "guests", "profile": "p", "name": "NAME", "ids": {"conversation": "c-1"}, "state": "active",'
    ' "new_session": false, "created_at": 1772615727.1234567, "expires_at": null, "credentials": {"guest":'
    ' {"kind": "guest", "secret": "tok", "expires_at": 1772616727.5, "refresh": null, "life": 900.0}},'
    ' "limits": {"attribute_bytes": null, "text_length": 4096, "file_kilobytes": null, "file_types": [],'
    ' "blocked_extensions": []}, "notes": {}}'
)


def test_a_database_of_schema_1_keeps_all_its_records(files: Files) -> None:
    files.path.mkdir(mode=0o700)
    files.file.touch(mode=0o600)
    old = sqlite3.connect(files.file)
    old.executescript("PRAGMA journal_mode=WAL;" + SCHEMA_1)
    rows = [(1, "cart", BODY_1.replace("NAME", "cart")), (2, "edited by hand", "{"), (3, "orphans", None)]
    old.executemany("INSERT INTO session (n, scope, name, body) VALUES (?, 'x', ?, ?)", rows)
    for n in (1, 3):
        old.execute("INSERT INTO outbox VALUES (?, 1, 'k', '{}', 'in_doubt', NULL, NULL, 5.0, 6.0)", (n,))
        old.execute("INSERT INTO ledger VALUES (?, 1, 'm1', NULL, 1, 't1')", (n,))
        old.execute("INSERT INTO cursor VALUES (?, '/f', '1:2', 10, 'm1')", (n,))
        old.execute("INSERT INTO activity VALUES (?, 1, 7.0, 'session_started', '{}')", (n,))
    old.execute("INSERT INTO current VALUES ('x', 'cart')")
    old.commit()
    old.close()
    with State.open(files.path, files.clock, notice=files.notices.append) as state:
        cart = state.get("x", "cart")
        assert cart is not None
        assert (cart.created_at, cart.token(), cart.limits.text_length) == (1772615727.1234567, "tok", 4096)
        assert state.find("x", cart) == cart
        assert [(row.key, row.state) for row in state.outbox("x", cart)] == [("k", "in_doubt")]
        assert state.last_position("x", cart) == LedgerEntry("m1", None, 1, "t1")
        assert state.cursor("x", cart, "/f") == Cursor("1:2", 10, "m1")
        assert [line.event for line in state.activity("x", cart)] == ["session_started"]
        assert state.current("x") == "cart"
        for table in ("outbox", "ledger", "cursor", "activity"):
            assert state._rows(f"SELECT session FROM {table}") == [(1,)], "what belonged to no session is gone"
        with pytest.raises(UsageError):
            state.get("x", "edited by hand")
        assert state.forget("x", "edited by hand")
    assert len(files.notices) == 1
    assert files.notices[0].startswith(f"state brought from schema 1 to {len(module._STEPS)}; ")
