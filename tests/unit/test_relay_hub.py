"""Readers of a relay's hub: seams, slow readers, gaps, the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestctl.core.errors import SessionOver
from guestctl.relay.hub import Hub, NotRetained, Subscription
from guestctl.relay.log import Arrival, EventLog
from tests.fakes import FakeClock


@pytest.fixture
def hub(tmp_path: Path, clock: FakeClock) -> Iterator[Hub]:
    log = EventLog(tmp_path / "relay" / "log.db", birth="1", now=clock.now(), retain=20)
    yield Hub(log, "cart", clock, queue=4)
    log.close()


def publish(hub: Hub, *numbers: int, kind: str = "message") -> None:
    hub.publish([Arrival(kind, b'{"kind":"%s","n":%d}' % (kind.encode(), n), str(n)) for n in numbers])


def taken(reader: Subscription, most: int = 256) -> list[object]:
    """Return the numbers of the events, or the whole records of the relay itself."""
    records = [json.loads(entry.body) for entry in reader.take(most)]
    return [record.get("n", record) for record in records]


def test_a_reader_is_served_from_the_log_and_then_live(hub: Hub) -> None:
    publish(hub, *range(1, 13))
    reader = hub.subscribe("first")
    assert taken(reader, 3) == [1, 2, 3]
    publish(hub, 13)
    got = [n for _ in range(9) for n in taken(reader, 3)]
    assert got == list(range(4, 14))
    publish(hub, 14)
    assert taken(reader) == [14]
    assert taken(reader) == []


def test_a_page_is_bounded_in_bytes(hub: Hub) -> None:
    hub.publish([Arrival("message", b'"%s"' % (b"x" * 100_000), str(n)) for n in range(7)])
    reader = hub.subscribe("first")
    assert [len(reader.take()) for _ in range(5)] == [2, 2, 2, 1, 0]
    hub.publish([Arrival("message", b'"%s"' % (b"x" * 1_000_000), "large")])
    assert len(reader.take()) == 1


def test_a_new_event_wakes_each_reader_once(hub: Hub) -> None:
    woken: list[str] = []
    reader = hub.subscribe(wake=lambda: woken.append("woken"))
    publish(hub, 1)
    publish(hub, 2)
    assert woken == ["woken"]
    assert reader.wait(0)
    assert taken(reader) == [1, 2]
    assert not reader.wait(0)
    publish(hub, 3)
    assert woken == ["woken", "woken"]
    reader.close()
    publish(hub, 4)
    assert woken == ["woken", "woken"]


def test_only_a_busy_reader_is_cut_and_it_can_resume(hub: Hub) -> None:
    busy, idle = hub.subscribe(), hub.subscribe()
    publish(hub, 1)
    assert taken(busy) == [1]
    publish(hub, *range(2, 6))
    assert not busy.is_slow
    publish(hub, 6)
    assert busy.is_slow
    (slow,) = taken(busy)
    assert slow == {
        "kind": "slow",
        "session": "cart",
        "resume_after": f"{hub.log.epoch}-1",
        "time": "2026-03-04T09:15:27.000Z",
    }
    assert busy.ended == "slow"
    assert taken(busy) == []
    assert taken(hub.subscribe(f"{hub.log.epoch}-1")) == [2, 3, 4, 5, 6]
    assert taken(idle) == [1, 2, 3, 4, 5, 6]


def test_a_reader_that_said_it_is_ready_is_not_cut(hub: Hub) -> None:
    reader = hub.subscribe()
    publish(hub, 1)
    assert taken(reader) == [1]
    reader.ready()
    publish(hub, *range(2, 20))
    assert taken(reader) == list(range(2, 20))


def test_dropped_events_are_a_gap_with_its_first_and_last_id(hub: Hub) -> None:
    epoch = hub.log.epoch
    publish(hub, *range(1, 31))
    reader = hub.subscribe(f"{epoch}-4", frozenset({"message"}))
    gap = {"kind": "gap", "session": "cart", "after": None, "before": None, "reason": "not_retained"}
    named = {"time": "2026-03-04T09:15:27.000Z", "first_missing": f"{epoch}-5", "last_missing": f"{epoch}-10"}
    entries = reader.take()
    assert json.loads(entries[0].body) == gap | named
    assert str(entries[0].id) == f"{epoch}-10"
    assert [json.loads(entry.body)["n"] for entry in entries[1:]] == list(range(11, 31))


def test_dropped_connection_events_are_a_gap_for_their_readers_only(hub: Hub) -> None:
    epoch = hub.log.epoch
    publish(hub, 1)
    publish(hub, *range(2, 42), kind="connection")
    publish(hub, 42)
    assert taken(hub.subscribe(f"{epoch}-0")) == [1, 42]
    hub.strict = True
    assert taken(hub.subscribe(f"{epoch}-0")) == [1, 42]
    both = hub.subscribe(f"{epoch}-0", frozenset({"message", "connection"}))
    first, gap, *rest = taken(both)
    assert (first, rest) == (1, list(range(22, 43)))
    assert isinstance(gap, dict)
    assert (gap["first_missing"], gap["last_missing"]) == (f"{epoch}-2", f"{epoch}-21")
    with pytest.raises(NotRetained) as refused:
        hub.subscribe(f"{epoch}-1", frozenset({"connection"}))
    assert refused.value.missing.last == hub.log.id(21)


def test_events_dropped_while_a_reader_catches_up_are_a_gap(hub: Hub) -> None:
    publish(hub, *range(1, 21))
    reader = hub.subscribe("first")
    assert taken(reader, 2) == [1, 2]
    reader.ready()
    publish(hub, *range(21, 31))
    first, *rest = taken(reader)
    assert isinstance(first, dict)
    assert (first["first_missing"], first["last_missing"]) == (f"{hub.log.epoch}-3", f"{hub.log.epoch}-10")
    assert rest == list(range(11, 31))


def test_a_strict_hub_refuses_a_reader_that_would_begin_with_a_gap(hub: Hub) -> None:
    publish(hub, *range(1, 31))
    hub.strict = True
    with pytest.raises(NotRetained) as refused:
        hub.subscribe(f"{hub.log.epoch}-4")
    assert refused.value.missing.first == hub.log.id(5)
    assert hub.readers == []


def test_kinds_choose_events_but_not_the_last_one(hub: Hub) -> None:
    reader = hub.subscribe("first", frozenset({"presence"}))
    publish(hub, 1)
    assert taken(reader) == []
    publish(hub, 2, kind="presence")
    assert taken(reader) == [2]
    hub.end(SessionOver("the conversation was cleared", code="session.cleared"))
    (end,) = taken(reader)
    assert isinstance(end, dict)
    assert (end["kind"], end["code"], end["resume_after"]) == ("end", "session.cleared", f"{hub.log.epoch}-2")
    assert reader.ended == "end"


def test_a_reader_after_the_end_gets_what_the_log_has(hub: Hub) -> None:
    publish(hub, 1, 2)
    hub.end()
    reader = hub.subscribe("first")
    assert taken(reader) == [1, 2]
    assert reader.has_more
    (end,) = taken(reader)
    assert isinstance(end, dict)
    assert (end["kind"], end["code"], end["reason"]) == ("end", None, "the relay stops")
