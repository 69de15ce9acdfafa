"""The log of a relay: ids, positions, retention, and what a reader has missed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from guestctl.core.errors import UsageError
from guestctl.core.model import Position
from guestctl.relay.log import Arrival, EntryId, EventLog, LogEntry, Missing


def opened(path: Path, birth: str = "1", retain: int = 5, now: float = 1_700_000_000.0) -> EventLog:
    return EventLog(path / "relay" / "log.db", birth=birth, now=now, retain=retain)


def message(id_: str, sequence: int | None = None) -> Arrival:
    body = b'{"kind":"message","id":"%s"}' % id_.encode()
    return Arrival("message", body, id_, Position(id_, sequence, None))


def numbers(log: EventLog, after: int, limit: int) -> list[int]:
    entries, _ = log.after(after, limit)
    return [entry.id.number for entry in entries if entry.id]


def fill(log: EventLog, count: int, start: int = 1) -> list[LogEntry]:
    return [entry for n in range(start, start + count) for entry in log.append([message(f"m{n}", n)], float(n))]


def test_ids_go_on_after_the_log_was_opened_again(tmp_path: Path) -> None:
    log = opened(tmp_path)
    fill(log, 2)
    log.close()
    again = opened(tmp_path)
    assert again.append([message("m3", 3)], 3.0)[0].id == EntryId(log.epoch, 3)
    assert again.position == Position("m3", 3, None)
    again.close()


def test_a_message_that_arrives_again_is_stored_once(tmp_path: Path) -> None:
    log = opened(tmp_path)
    fill(log, 2)
    assert [entry.id.number for entry in log.append([message("m2", 2), message("m3", 3)], 9.0) if entry.id] == [3]
    assert log.append([Arrival("typing", b"{}"), Arrival("typing", b"{}")], 9.0)[1].id == log.id(5)
    log.close()


def test_a_message_that_is_found_late_does_not_move_the_position_back(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append([message("m1", 1), message("m3", 3), message("m2", 2)], 1.0)
    assert log.position == Position("m3", 3, None)
    log.close()


@pytest.mark.parametrize("page", [0, 1, 2])
def test_a_damaged_log_is_set_aside(tmp_path: Path, page: int) -> None:
    log = opened(tmp_path, retain=100)
    fill(log, 50)
    log.close()
    path = tmp_path / "relay" / "log.db"
    data = bytearray(path.read_bytes())
    data[4096 * page : 4096 * (page + 1)] = b"\xff" * 4096
    path.write_bytes(data)
    again = opened(tmp_path)
    assert (again.last, again.damaged) == (0, path.with_suffix(".damaged"))
    assert path.with_suffix(".damaged").read_bytes() == data
    fill(again, 1)
    again.close()


def test_a_new_log_has_a_later_epoch_although_the_clock_was_set_back(tmp_path: Path) -> None:
    log = opened(tmp_path, now=1_700_000_000.0)
    log.close()
    other = opened(tmp_path, birth="2", now=1_600_000_000.0)
    assert (log.epoch, other.epoch) == ("1700000000000", "1700000000001")
    other.close()


def test_another_session_begins_another_log(tmp_path: Path) -> None:
    log = opened(tmp_path)
    fill(log, 2)
    log.close()
    other = opened(tmp_path, birth="2")
    assert (other.last, other.position, other.epoch != log.epoch) == (0, None, True)
    other.close()


def test_what_the_log_dropped_is_named(tmp_path: Path) -> None:
    log = opened(tmp_path)
    fill(log, 8)
    epoch = log.epoch
    assert (log.first, log.last) == (4, 8)
    assert numbers(log, 3, 2) == [4, 5]
    assert log.locate("first") == (3, None)
    assert log.locate("last") == (8, None)
    assert log.locate(f"{epoch}-3") == (3, None)
    assert log.locate(f"{epoch}-6") == (6, None)
    assert log.locate(f"{epoch}-1") == (3, Missing(log.id(2), log.id(3), "not_retained"))
    assert log.locate("00000000-7") == (3, Missing(EntryId("00000000", 8), log.id(3), "other_log"))
    assert log.locate(f"{epoch}-99") == (3, Missing(log.id(100), log.id(3), "other_log"))
    assert log.locate("1970-01-01T00:00:06Z") == (6, None)
    assert log.locate("1970-01-01T00:00:03Z") == (3, None)
    assert log.locate("1970-01-01T00:00:02.5Z") == (3, Missing(None, log.id(3), "not_retained"))
    with pytest.raises(UsageError):
        log.locate("yesterday")
    log.close()


def test_a_file_that_is_no_database_is_replaced(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.close()
    path = tmp_path / "relay" / "log.db"
    path.write_bytes(b"this is not a database " * 100)
    again = opened(tmp_path)
    assert again.last == 0
    assert path.stat().st_mode & 0o777 == 0o600
    again.close()


@pytest.mark.parametrize("size", [10, 200, 70_000])
def test_each_entry_has_three_encodings(size: int) -> None:
    body = b'{"text":"%s"}' % (b"x" * size)
    entry = LogEntry(EntryId("0000abcd", 7), "message", None, 0.0, body)
    assert entry.event == b"id: 0000abcd-7\nevent: message\ndata: " + body + b"\n\n"
    assert entry.line == body[:-1] + b',"relay_id":"0000abcd-7"}\n'
    payload = entry.line[:-1]
    assert entry.frame.endswith(payload)
    assert entry.frame[0] == 0x81
    heads = {2: len(payload), 4: int.from_bytes(entry.frame[2:4], "big"), 10: int.from_bytes(entry.frame[2:10], "big")}
    assert heads[len(entry.frame) - len(payload)] == len(payload)


def test_connection_events_do_not_push_out_messages(tmp_path: Path) -> None:
    log = opened(tmp_path, retain=3)
    fill(log, 2)
    for kind in ("connection", "typing", "connection", "connection", "connection"):
        log.append([Arrival(kind, b"{}")], 3.0)
    fill(log, 1, start=3)
    assert numbers(log, 0, 99) == [1, 2, 5, 6, 7, 8]
    assert log.locate("first") == (0, None)
    log.close()
    log = opened(tmp_path, retain=3)  # the counts are read from the file
    fill(log, 1, start=4)
    assert numbers(log, 0, 99) == [2, 5, 6, 7, 8, 9]
    assert log.locate(f"{log.epoch}-0") == (1, Missing(log.id(1), log.id(1), "not_retained"))
    fill(log, 2, start=5)  # a dropped message takes the older connection events along
    assert numbers(log, 0, 99) == [9, 10, 11]
    log.append([Arrival("connection", b"{}")], 9.0)
    assert (log.first, log.last) == (9, 12)
    log.close()


def test_a_log_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Its file does not state up to which number events were dropped."""
    log = opened(tmp_path)
    fill(log, 8)
    log.close()
    with closing(sqlite3.connect(tmp_path / "relay" / "log.db")) as database, database:
        database.execute("DELETE FROM meta WHERE name = 'dropped'")
        database.execute("DROP INDEX passing")
    log = opened(tmp_path)
    assert log.locate(f"{log.epoch}-1") == (3, Missing(log.id(2), log.id(3), "not_retained"))
    fill(log, 1, start=9)
    assert numbers(log, 0, 99) == [5, 6, 7, 8, 9]
    log.close()
