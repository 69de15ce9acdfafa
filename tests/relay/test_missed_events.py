"""Readers that fall behind, and events that the log no longer has."""

from __future__ import annotations

import itertools

from guestctl.sandbox.server import Sandbox
from tests.cli.conftest import Front
from tests.relay.processes import EventReader, flood, push, relaying, texts_until
from tests.sandbox.stranger import Control


def test_what_the_log_dropped_is_a_gap_or_410(sandbox: Sandbox, front: Front) -> None:
    texts = [str(n) for n in range(20)]
    with relaying(front, "--retain", "5") as relay:
        reader = EventReader(relay, "?after=first")
        first, _ = next(iter(reader))
        flood(sandbox, texts)
        assert texts_until(reader, "19") == texts
        (epoch, _, number) = str(first).partition("-")
        late = EventReader(relay, f"?after={first}&kinds=message")
        events = iter(late)
        id_, gap = next(events)
        last = int(str(id_).rpartition("-")[2])
        assert (gap["kind"], gap["reason"], gap["session"]) == ("gap", "not_retained", "default")
        assert (gap["first_missing"], gap["last_missing"]) == (f"{epoch}-{int(number) + 1}", id_)
        assert texts_until(late, "19") == texts[-5:]
        again = EventReader(relay, f"?after={id_}")
        assert texts_until(again, "19") == texts[-5:]
        other = EventReader(relay, "?after=00000000-1")
        id_, gap = next(iter(other))
        assert (gap["reason"], gap["first_missing"], gap["last_missing"]) == (
            "other_log",
            "00000000-2",
            f"{epoch}-{last}",
        )
    with relaying(front, "--retain", "5", "--strict") as relay:
        refused = relay.get(f"/v1/events?after={first}")
        assert refused.status_code == 410
        assert refused.json()["first_missing"] == f"{epoch}-{int(number) + 1}"
        assert refused.json()["error"]["code"] == "relay.not_retained"
        push(sandbox, "20")
        assert texts_until(EventReader(relay, "?after=first"), "20")[-1] == "20"


def test_connection_events_of_an_outage_push_out_no_message(sandbox: Sandbox, front: Front) -> None:
    with relaying(front, "--retain", "4") as relay:
        states = iter(EventReader(relay, "?after=last&kinds=connection"))
        flood(sandbox, ["one", "two", "three"])
        for _ in range(3):
            Control(sandbox)("POST", "/disconnect", code=1006)
            next(record for _, record in states if record["state"] == "live")
    with relaying(front, "--retain", "4") as relay:  # it has no event in memory
        reader = EventReader(relay, "?after=first")
        first, record = next(iter(reader))
        assert [record["text"], *texts_until(reader, "three")] == ["hello", "one", "two", "three"]
        late = iter(EventReader(relay, f"?after={first}&kinds=connection"))
        _, gap = next(late)
        assert (gap["kind"], gap["reason"]) == ("gap", "not_retained")
        newest = (record["state"] for _, record in late if record["kind"] == "connection")
        assert "live" in itertools.islice(newest, 4)


def test_a_reader_that_never_reads_is_cut_and_keeps_nobody_waiting(sandbox: Sandbox, front: Front) -> None:
    texts = [f"{n} {'x' * 800}" for n in range(1_500)]
    with relaying(front) as relay:
        stuck = EventReader(relay, "?after=first", buffer=4096)
        quick = EventReader(relay, "?after=first")
        flood(sandbox, texts[:500])
        assert texts_until(quick, texts[499])[1:] == texts[:500]
        flood(sandbox, texts[500:])
        assert texts_until(quick, texts[-1]) == texts[500:]
        got, last = [], None
        for id_, record in stuck:
            if record["kind"] == "slow":
                last = record["resume_after"]
                break
            assert record["kind"] == "message"
            got.append(record["text"])
            last_id = id_
        assert last == last_id
        assert list(stuck) == []
        assert 0 < len(got) < len(texts)
        back = EventReader(relay, "", Last_Event_ID=str(last))
        assert got[1:] + texts_until(back, texts[-1]) == texts
