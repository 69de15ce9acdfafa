"""The database file: transactions, full disks, damage, migrations."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from guestctl.core.clock import rfc3339
from guestctl.core.errors import UsageError
from guestctl.storage import database as module
from guestctl.storage import private_files
from guestctl.storage.database import Database
from guestctl.storage.private_files import DATABASE_FILE
from guestctl.storage.state import Cursor, LedgerEntry, State
from tests.fakes import FakeClock
from tests.unit.state_directory import StateDirectory, insert_name, stored_names

# --- transactions ---


def test_a_transaction_is_stored_as_a_whole_or_not_at_all(database: Database) -> None:
    insert_name(database, "before")
    for failure in (KeyboardInterrupt, ValueError):
        with suppress(failure), database.transaction(durable=True) as run:
            run("UPDATE current SET name = 'half'")
            raise failure
        assert stored_names(database) == ["before"]
        assert not database.connection.in_transaction, "nobody waits for it any more"
    insert_name(database, "after")
    assert stored_names(database) == ["after"]


def test_a_durable_transaction_is_synced(database: Database) -> None:
    for durable, level in ((True, 2), (False, 1), (False, 1), (True, 2), (True, 2)):
        with database.transaction(durable=durable):
            pass
        assert database.rows("PRAGMA synchronous") == [(level,)]


def test_dependent_rows_are_deleted_and_overwritten(database: Database) -> None:
    with database.transaction(durable=True) as run:
        run("INSERT INTO session (n, scope, name) VALUES (1, 's', 'a')")
        run("INSERT INTO ledger (session, n, id) VALUES (1, 1, 'm1')")
        run("DELETE FROM session")
    assert database.rows("SELECT * FROM ledger") == []
    assert database.rows("PRAGMA secure_delete") == [(1,)]


def test_a_database_is_used_by_any_thread(database: Database) -> None:
    def work(number: int) -> None:
        insert_name(database, f"w{number}")
        assert stored_names(database)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored_names(database)) == 1


def test_two_commands_see_each_others_changes(files: StateDirectory) -> None:
    one, other = files.open(), files.open()
    insert_name(one, "mine")
    assert stored_names(other) == ["mine"]
    assert one.rows("PRAGMA journal_mode") == [("wal",)], "nobody who reads waits for who writes"
    assert files.notices == []


def test_a_lone_surrogate_is_refused(database: Database) -> None:
    with pytest.raises(UsageError, match="not valid Unicode"):
        database.rows("SELECT ?", ("caf\udce9",))
    with pytest.raises(UsageError, match="not valid Unicode"):
        insert_name(database, "caf\udce9")
    assert stored_names(database) == []


# --- full disks ---


class Failing:
    """A connection on which chosen statements fail."""

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
    """Make statements fail from now on. Return the connection that works."""
    real = opened.connection
    opened.connection = Failing(real, when(start, error))  # type: ignore[assignment]
    return real


@pytest.mark.parametrize("start", ["BEGIN", "INSERT", "COMMIT"])
def test_a_full_disk_is_reported_and_loses_nothing(files: StateDirectory, start: str) -> None:
    opened = files.open()
    insert_name(opened, "before")
    real = break_(opened, start, sqlite3.OperationalError("database or disk is full"))
    with pytest.raises(UsageError) as caught:
        insert_name(opened, "after")
    assert caught.value.code == "state.unusable"
    assert caught.value.message == f"state in {files.path} cannot be used: database or disk is full"
    opened.connection = real
    assert stored_names(opened) == ["before"]
    insert_name(opened, "after")
    assert stored_names(opened) == ["after"]


def test_a_database_in_memory_reports_a_full_disk(clock: FakeClock) -> None:
    memory = Database.open(None, clock, print)
    break_(memory, "BEGIN", sqlite3.OperationalError("database or disk is full"))
    with pytest.raises(UsageError) as caught:
        insert_name(memory, "a")
    assert caught.value.message == "state in memory cannot be used: database or disk is full"
    memory.close()


@pytest.mark.parametrize("start", ["SELECT 1 FROM sqlite_master", "BEGIN EXCLUSIVE"])
def test_an_unreadable_disk_is_not_taken_for_damage(
    files: StateDirectory, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    """The database stays in its place, and the lock does not count as taken."""
    insert_name(files.open(), "a")
    files.close()
    connect, closed = private_files.connect, []

    class Broken(Failing):
        def close(self) -> None:
            super().close()
            closed.append(True)

    with monkeypatch.context() as patch:
        broken = when(start, sqlite3.OperationalError("disk I/O error"))
        patch.setattr(private_files, "connect", lambda path: Broken(connect(path), broken))
        with pytest.raises(UsageError) as caught:
            files.open().try_lock("", "x")
        files.close()
    assert caught.value.code == "state.unusable"
    assert caught.value.message == f"state in {files.path} cannot be used: disk I/O error"
    assert closed
    assert list(files.path.glob("*damaged*")) == []
    again = files.open()
    assert stored_names(again) == ["a"]
    release = again.try_lock("", "x")
    assert release is not None
    release()


@pytest.mark.parametrize("error", [sqlite3.ProgrammingError("bad"), sqlite3.IntegrityError("bad")])
def test_an_internal_error_is_not_reported_as_a_disk_error(database: Database, error: sqlite3.Error) -> None:
    real = break_(database, "SELECT", error)
    with pytest.raises(type(error)):
        stored_names(database)
    assert database.connection is not real, "and nothing is set aside for it"


# --- damage ---


GARBAGE = [b"not a database, but rather a long text " * 100, b"\0" * 5000, b"SQLite format 3\0" + b"\xff" * 4080]


def compact(files: StateDirectory) -> str:
    """Return the present time as it appears in file names."""
    return rfc3339(files.clock.now()).translate({ord(":"): None, ord("-"): None})


@pytest.mark.parametrize("content", GARBAGE)
def test_a_damaged_file_is_set_aside_and_never_deleted(files: StateDirectory, content: bytes) -> None:
    files.open()
    files.close()
    files.file.write_bytes(content)
    files.file.with_name(f"{DATABASE_FILE}-wal").write_bytes(b"old log")
    insert_name(files.open(), "a")
    kept = files.path / f"{DATABASE_FILE}.damaged-{compact(files)}"
    assert kept.read_bytes() == content
    assert files.notices == [f"the state database was damaged: it is kept as {kept}, and an empty one replaces it"]
    files.close()
    files.notices.clear()
    assert stored_names(files.open()) == ["a"]
    assert files.notices == []


def fill(opened: Database) -> None:
    """Write so many rows that the database has more pages than the first, which has the schema."""
    for number in range(50):
        with opened.transaction(durable=False) as run:
            run("INSERT INTO current (scope, name) VALUES (?, ?)", (str(number), "x" * 2000))


def spoil(files: StateDirectory) -> bytes:
    """Overwrite all pages but the first."""
    content = files.file.read_bytes()
    content = content[:4096] + b"\xa5" * (len(content) - 4096)
    files.file.write_bytes(content)
    return content


def test_damage_found_during_use_is_set_aside(files: StateDirectory) -> None:
    fill(files.open())
    files.close()
    content = spoil(files)
    opened = files.open()
    with pytest.raises(UsageError) as caught:
        stored_names(opened)
    assert caught.value.code == "state.unusable"
    assert caught.value.message.startswith(f"state in {files.path} cannot be used: ")
    assert caught.value.message.endswith("; the damaged file was set aside and an empty one is in its place")
    assert len(files.notices) == 1
    insert_name(opened, "a")
    assert stored_names(opened) == ["a"], "what comes after it can work"
    assert stored_names(files.open()) == ["a"]
    assert opened.rows("PRAGMA foreign_keys") == [(1,)]
    with opened.transaction(durable=True):
        pass
    assert opened.rows("PRAGMA synchronous") == [(2,)]
    assert (files.path / f"{DATABASE_FILE}.damaged-{compact(files)}").read_bytes() == content


def test_damage_while_another_command_has_it_open(files: StateDirectory) -> None:
    """The last changes are in the log. It is moved, too, so that SQLite does not replay it into the empty database."""
    opened, other = files.open(), files.open()
    insert_name(other, "old")
    break_(opened, "SELECT", sqlite3.DatabaseError("database disk image is malformed"))
    with pytest.raises(UsageError):
        stored_names(opened)
    assert stored_names(opened) == []
    kept = files.path / f"{DATABASE_FILE}.damaged-{compact(files)}"
    assert kept.with_name(f"{kept.name}-shm").exists()
    with closing(sqlite3.connect(kept)) as old:
        assert old.execute("SELECT name FROM current").fetchall() == [("old",)]


def test_damage_that_cannot_be_set_aside(files: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(files.open())
    files.close()
    content = spoil(files)
    opened = files.open()

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "replace", read_only)
    with pytest.raises(UsageError) as caught:
        stored_names(opened)
    assert caught.value.message == f"state in {files.path} cannot be used: Read-only file system"
    assert files.file.read_bytes() == content


def test_damage_that_another_process_has_already_replaced(files: StateDirectory) -> None:
    opened = files.open()
    break_(opened, "SELECT", sqlite3.DatabaseError("database disk image is malformed"))
    for path in files.path.glob("state.db*"):
        path.rename(files.path / f"moved-{path.name}")
    insert_name(files.open(), "theirs")
    with pytest.raises(UsageError):
        stored_names(opened)
    assert stored_names(opened) == ["theirs"]
    assert files.notices == []


def test_an_empty_file_is_completed(files: StateDirectory) -> None:
    files.path.mkdir(mode=0o700)
    files.file.touch(mode=0o600)
    insert_name(files.open(), "a")
    assert files.notices == []


def test_a_file_system_without_shared_memory(files: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_enable_write_ahead_log", lambda connection: "delete")
    opened = files.open()
    insert_name(opened, "a")
    assert opened.rows("PRAGMA journal_mode") == [("delete",)]
    said = f"{files.path}: no shared memory on this file system, so state uses a rollback journal, which is slower"
    assert files.notices == [said]
    break_(opened, "SELECT", sqlite3.DatabaseError("database disk image is malformed"))
    with pytest.raises(UsageError):
        stored_names(opened)
    assert files.notices[2:] == [said], "also of the empty one that stands in for a damaged one"


def test_opening_costs_a_handful_of_statements(files: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    files.open()
    said: list[str] = []
    connect = private_files.connect

    def traced(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.set_trace_callback(said.append)
        return connection

    monkeypatch.setattr(private_files, "connect", traced)
    files.open()
    assert len(said) <= 4, said


# --- other versions ---


def test_a_newer_schema_is_refused_with_both_versions(files: StateDirectory) -> None:
    files.open().rows("PRAGMA user_version=7")
    with pytest.raises(UsageError) as caught:
        files.open()
    assert caught.value.code == "state.version"
    known = len(module._STEPS)
    assert caught.value.message == (f"{files.file} has schema 7, written by a newer guestctl; this one knows {known}")


def test_an_older_schema_is_migrated_with_a_backup(files: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    insert_name(files.open(), "a")
    files.close()
    old = len(module._STEPS)
    later = (*module._STEPS, ("ALTER TABLE current ADD COLUMN since REAL", "UPDATE current SET since = 0"))
    monkeypatch.setattr(module, "_STEPS", later)
    opened = files.open()
    assert opened.rows("SELECT name, since FROM current") == [("a", 0.0)]
    assert opened.rows("PRAGMA user_version") == [(old + 1,)]
    backup = files.path / f"{DATABASE_FILE}.schema-{old}-{compact(files)}"
    told = f"migrated the state database from schema {old} to {old + 1}; the old one is kept as {backup}"
    assert files.notices == [told]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with closing(sqlite3.connect(backup)) as copy:
        assert copy.execute("SELECT * FROM current").fetchall() == [("s", "a")]


def test_a_migration_that_fails_changes_nothing(files: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    insert_name(files.open(), "a")
    files.close()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_STEPS", (*module._STEPS, ("DROP TABLE current", "not SQL")))
        for _ in range(5):
            assert "syntax error" in files.refusal().message
    assert not list(files.path.glob("*.schema-*")), "a copy of the tokens for each command"
    assert stored_names(files.open()) == ["a"]


#: As released. Never edit it.
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
#: A time of creation with all the digits of a float.
BODY_1 = (
    '{"api": "guests", "profile": "p", "name": "NAME", "ids": {"conversation": "c-1"}, "state": "active",'
    ' "new_session": false, "created_at": 1772615727.1234567, "expires_at": null, "credentials": {"guest":'
    ' {"kind": "guest", "secret": "tok", "expires_at": 1772616727.5, "refresh": null, "life": 900.0}},'
    ' "limits": {"attribute_bytes": null, "text_length": 4096, "file_kilobytes": null, "file_types": [],'
    ' "blocked_extensions": []}, "notes": {}}'
)


def test_a_database_of_schema_1_keeps_all_its_records(files: StateDirectory) -> None:
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
    assert files.notices[0].startswith(f"migrated the state database from schema 1 to {len(module._STEPS)}; ")
