"""What readers of a relay get, over real connections to a real `guestctl relay serve`."""

from __future__ import annotations

import signal

import pytest

from guestctl.sandbox.server import Sandbox
from tests.cli.conftest import Front
from tests.relay.processes import READERS, EventReader, SocketReader, push, relaying, sockets, texts_until


def test_readers_of_every_kind_get_the_same_records_and_a_last_event(sandbox: Sandbox, front: Front) -> None:
    with relaying(front) as relay:
        readers = {kind: make(relay, "?after=first") for kind, make in READERS.items()}
        got: dict[str, list[object]] = {kind: [] for kind in readers}
        push(sandbox, "one", "two", "three")
        for kind, reader in readers.items():
            for id_, record in reader:
                got[kind].append((id_, record))
                if record.get("text") == "three":
                    break
        assert sockets(sandbox) == 1
        assert relay.get("/readyz").status_code == 200
        late = EventReader(relay, "?after=first")
        assert texts_until(late, "three") == ["hello", "one", "two", "three"]
        code, err = relay.stop()
        assert (code, err) == (0, "")
        assert got["sse"] == got["json lines"] == got["websocket"]
        for reader in (*readers.values(), late):
            rest = list(reader)
            assert [record["kind"] for _, record in rest] == ["end"]
            assert rest[0][1]["code"] is None
        web_socket = readers["websocket"]
        assert isinstance(web_socket, SocketReader)
        assert web_socket.code == 1001


def test_a_record_is_that_of_listen(sandbox: Sandbox, front: Front) -> None:
    with relaying(front) as relay:
        reader = EventReader(relay)
        push(sandbox, "to all")
        _, record = next(iter(reader))
        listened = front("listen", "--replay", "1", "--max", "1", "-o", "jsonl").record
        assert {**record, "source": "any"} == {**listened, "source": "any"}


@pytest.mark.parametrize("kind", READERS)
def test_a_reader_that_returns_continues_after_its_last_id(sandbox: Sandbox, front: Front, kind: str) -> None:
    make = READERS[kind]
    with relaying(front) as relay:
        push(sandbox, "one", "two")
        reader = make(relay, "?after=first")
        last = next(id_ for id_, record in reader if record.get("text") == "two")
        reader.close()
        push(sandbox, "three", "four")
        assert texts_until(make(relay, f"?after={last}"), "four") == ["three", "four"]
        assert texts_until(EventReader(relay, "?after=first", Last_Event_ID=str(last)), "four") == ["three", "four"]
        header = [f"Authorization: Bearer {relay.key}", f"Last-Event-ID: {last}"]
        assert texts_until(SocketReader(relay, "?after=first", header=header), "four") == ["three", "four"]


def test_after_takes_a_time_and_kinds_choose_records(sandbox: Sandbox, front: Front) -> None:
    with relaying(front) as relay:
        push(sandbox, "one")
        reader = EventReader(relay, "?after=2020-01-01T00:00:00Z&kinds=connection,message")
        kinds = []
        for _, record in reader:
            kinds.append((record["kind"], record.get("state") or record.get("text")))
            if record.get("text") == "one":
                break
        assert kinds[0] == ("connection", "connecting")
        assert ("connection", "live") in kinds
        assert [text for kind, text in kinds if kind == "message"] == ["hello", "one"]
        newer = EventReader(relay, "?after=2099-01-01T00:00:00Z")
        push(sandbox, "two")
        assert texts_until(newer, "two") == ["two"]


def test_the_relay_continues_after_kill_9(sandbox: Sandbox, front: Front) -> None:
    """Nothing is lost or repeated: ids go on, and what arrived in between is read from history."""
    with relaying(front) as relay:
        push(sandbox, "one")
        reader = EventReader(relay, "?after=first")
        last = next(id_ for id_, record in reader if record.get("text") == "one")
        relay.stop(signal.SIGKILL)
    push(sandbox, "two")
    with relaying(front) as relay:
        push(sandbox, "three")
        assert texts_until(EventReader(relay, f"?after={last}"), "three") == ["two", "three"]
        assert texts_until(EventReader(relay, "?after=first"), "three") == ["hello", "one", "two", "three"]


def test_the_end_of_the_session_ends_readers_and_the_relay(sandbox: Sandbox, front: Front) -> None:
    with relaying(front) as relay:
        reader = EventReader(relay, "?after=first")
        assert texts_until(reader, "hello") == ["hello"]
        assert front("session", "clear", "--yes", "-q").code == 0
        *_, (_, last) = reader
        assert (last["kind"], last["code"]) == ("end", "session.cleared")
        _, err = relay.process.communicate(timeout=60)
        assert relay.process.returncode == 10
        assert "session.cleared" in err.decode()


def test_only_one_relay_serves_a_session(front: Front) -> None:
    with relaying(front):
        refused = front("relay", "serve", "--http", "127.0.0.1:0")
        assert refused.code == 2
        assert 'another relay serves the session "default"' in refused.err
