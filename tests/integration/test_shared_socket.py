"""All listeners of one session use the socket of one of them, the leader."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guestctl.client import Client
from guestctl.core.model import Connection, Message
from guestctl.dialects import NAMES, dialect_class
from guestctl.engine import shared_socket
from guestctl.storage.private_files import DATABASE_FILE
from guestctl.storage.shared_frames import Seat, SharedFrames, SharedRow
from guestctl.storage.state import State, owner_of
from tests.cli.conftest import Result
from tests.integration.front import Guest, InstantClock, Record, Room, check, listen, texts
from tests.integration.several import STUCK, Listeners

WITH_SOCKET = [name for name in NAMES if dialect_class(name).has_socket]
FOLLOWS = "using the connection of another guestctl process"


def connects(*results: Result) -> int:
    """Return how many sockets were opened, by listeners with -v."""
    return sum(result.err.count("< upgrade 101") for result in results)


def rows(guest: Guest) -> int:
    """Return how many rows of a leader are in the state database."""
    connection = sqlite3.connect(Path(guest.environ["GUESTCTL_STATE"]) / DATABASE_FILE)
    try:
        return int(connection.execute("SELECT count(*) FROM shared_frame").fetchone()[0])
    finally:
        connection.close()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("api", WITH_SOCKET)
def test_followers_go_on_when_the_leader_ends(real: tuple[Guest, Room]) -> None:
    guest, room = real
    listeners = Listeners(guest)
    leader = listeners.live("-v", "--max", "2")
    followers = [listeners.live("-v", "--until", "^last$") for _ in range(2)]
    for text in ("one", "two"):
        room.push(text)
    assert texts(leader.result) == ["one", "two"]
    room.push("three")
    for follower in followers:
        listeners.wait_for("three", of=follower)
    room.push("last")
    results = [follower.result for follower in followers]
    assert [texts(result) for result in results] == [["one", "two", "three", "last"]] * 2
    assert all(FOLLOWS in result.err for result in results)
    assert connects(leader.result) == connects(*results) == 1
    assert not rows(guest)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("api", WITH_SOCKET)
def test_a_follower_joins_in_the_middle_of_a_flood(real: tuple[Guest, Room]) -> None:
    guest, room = real
    listeners = Listeners(guest)
    leader = listeners.live("-v", "--until", "^end$")
    all_texts = [f"text {number}" for number in range(200)]

    def push() -> None:
        for text in [*all_texts, "last"]:
            room.push(text)

    pusher = threading.Thread(target=push)
    pusher.start()
    listeners.wait_for("text 20", of=leader)
    follower = listeners.live("-v", "--until", "^last$", "--replay", "1")
    pusher.join(STUCK)
    shown = texts(follower.result)
    room.push("end")
    assert texts(leader.result) == [*all_texts, "last", "end"]
    assert shown == [*all_texts, "last"][-len(shown) :]
    assert connects(follower.result) == 0
    assert "gap" not in follower.happened


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("api", ["web-messaging", "guests", "guest-sessions"])
def test_a_cursor_of_a_follower_misses_and_repeats_nothing(real: tuple[Guest, Room], tmp_path: Path) -> None:
    guest, room = real
    listeners = Listeners(guest)
    leader = listeners.live("-v", "--until", "^last$")
    room.push("one")
    listeners.wait_for("one")
    argv = ("-v", "--cursor", str(tmp_path / "cursor"))
    first = listeners.start(*argv, "--max", "2")
    listeners.wait_for("one", of=first)
    room.push("two")
    assert texts(first.result) == ["one", "two"]
    room.push("three")
    listeners.wait_for("three", of=leader)
    second = listeners.start(*argv, "--until", "^last$")
    listeners.wait_for("three", of=second)
    room.push("last")
    assert texts(second.result) == ["three", "last"]
    assert texts(leader.result) == ["one", "two", "three", "last"]
    assert connects(leader.result) == 1
    assert connects(first.result, second.result) == 0
    assert guest.ok("resume", "-o", "json").record["missed"] == [], "all is in the ledger"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("api", ["web-messaging", "messaging-conversations"])
def test_a_frame_that_cannot_be_read_reaches_each_listener(real: tuple[Guest, Room]) -> None:
    guest, room = real
    listeners = Listeners(guest)
    results = [listeners.live("-v", "--until", "^last$") for _ in range(2)]
    room.frame("not JSON")
    listeners.wait_for("unknown")
    room.push("last")
    listeners.wait_for("last")
    printed = [[record["kind"] for record in one.result.records if record["kind"] != "connection"] for one in results]
    assert printed == [["unknown", "message"]] * 2
    assert connects(*(one.result for one in results)) == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("api", WITH_SOCKET)
def test_the_end_of_the_session_ends_each_listener(real: tuple[Guest, Room]) -> None:
    guest, room = real
    listeners = Listeners(guest)
    started = [listeners.live("-v") for _ in range(3)]
    if guest.api == "web-messaging":
        room.expire()
    else:
        room.end()
    ended = [one.result for one in started]
    failures = [json.loads(result.err.splitlines()[-1])["error"] for result in ended]
    assert len({(failure["exit"], failure["code"]) for failure in failures}) == 1
    assert failures[0]["exit"] in {6, 10}
    assert connects(*ended) == 1 or guest.api == "guests", "there, only a connect shows the end"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("api", ["web-messaging", "external-contacts"])
def test_listeners_of_a_session_that_was_forgotten_go_on_alone(real: tuple[Guest, Room]) -> None:
    guest, room = real
    listeners = Listeners(guest)
    leader, follower = (listeners.live("-v", "--until", "^last$") for _ in range(2))
    room.push("first")
    listeners.wait_for("first")
    guest.ok("session", "forget", "default")
    listeners.wait_for("live", 2, of=follower)
    room.push("last")
    for one in (leader, follower):
        assert texts(one.result) == ["first", "last"]
        assert connects(one.result) == 1
    assert not rows(guest)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("api", ["web-messaging"])
def test_listeners_of_a_session_that_was_replaced_end(real: tuple[Guest, Room]) -> None:
    guest, _ = real
    listeners = Listeners(guest)
    started = [listeners.live("-v") for _ in range(2)]
    guest.ok("session", "create", "--new")
    ended = [one.result for one in started]
    assert [result.code for result in ended] == [10, 10]
    assert connects(*ended) == 1
    assert not rows(guest)


@pytest.mark.parametrize("api", WITH_SOCKET, indirect=True)
def test_a_follower_opens_a_socket_when_the_leader_does_nothing(talking: Guest, room: Room, time: InstantClock) -> None:
    with State.open(Path(talking.environ["GUESTCTL_STATE"]), time) as state:
        ((scope, session),) = state.sessions()
        release = state.shared_frames.try_lead(owner_of(scope, session))
        assert release is not None
        begun = time.monotonic()
        waited: list[float] = []

        def live() -> None:
            waited.append(time.monotonic() - begun)
            room.push("hello")

        result = listen(talking, "--max", "1", lives=[live])
        release()
    assert texts(result) == ["hello"]
    assert waited[0] >= shared_socket.PATIENCE


@pytest.fixture
def led(talking: Guest, time: InstantClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SharedRow]]:
    """A leader that admits a follower as soon as there is one, publishes the rows in the list, and nothing more."""
    rows: list[SharedRow] = []
    with State.open(Path(talking.environ["GUESTCTL_STATE"]), time) as state:
        frames = state.shared_frames
        ((scope, session),) = state.sessions()
        release = frames.try_lead(owner_of(scope, session))
        number = frames.begin(scope, session)
        assert release is not None
        assert number is not None
        take_seat = SharedFrames.take_seat

        def admit(*args: Any) -> Seat | None:
            seat = take_seat(*args)
            assert seat is not None
            assert frames.write(scope, session, number, rows, admit=[seat.number])
            rows.clear()
            return seat

        monkeypatch.setattr(SharedFrames, "take_seat", admit)
        yield rows
        release()


@pytest.mark.parametrize("api", ["guest-sessions"], indirect=True)
def test_a_leader_that_does_nothing_any_more_is_left(talking: Guest, room: Room, led: list[SharedRow]) -> None:
    led.append(SharedRow(1, 0.0, "attached", ""))
    result = listen(talking, "-v", "--max", "1", lives=[lambda: None, lambda: room.push("hello")])
    assert texts(result) == ["hello"]
    assert FOLLOWS in result.err
    assert connects(result) == 1
    (lost,) = (record for record in result.records if record["kind"] == "connection" and record["state"] == "lost")
    assert "has done nothing for 5 s" in lost["detail"]


@pytest.mark.parametrize("api", ["web-messaging"], indirect=True)
def test_a_follower_that_needs_a_token_from_a_socket_opens_one(
    talking: Guest, room: Room, led: list[SharedRow]
) -> None:
    """The token for history is requested on a socket, and the leader of this test has not requested one."""
    led.append(SharedRow(1, 0.0, "attached", ""))
    result = listen(talking, "-v", "--max", "1", lives=[lambda: None, lambda: room.push("hello")])
    assert texts(result) == ["hello"]
    assert FOLLOWS in result.err
    assert connects(result) == 1


@pytest.mark.parametrize("api", ["guest-sessions"], indirect=True)
def test_a_follower_fails_as_the_leader_does(talking: Guest, led: list[SharedRow]) -> None:
    failure = {"kind": "NetworkError", "message": "no such certificate", "code": "network.tls", "transient": False}
    led.append(SharedRow(1, 0.0, "lost", json.dumps(failure)))
    result = talking("listen", "-v", "-o", "jsonl")
    check(result, 8, "network.tls", "no such certificate")
    assert connects(result) == 0


@pytest.mark.parametrize("api", ["guest-sessions"], indirect=True)
def test_rows_of_another_version_break_the_stream(talking: Guest, room: Room, led: list[SharedRow]) -> None:
    """The follower reads history then, as after any break."""
    led += [SharedRow(1, 0.0, "attached", ""), SharedRow(2, 0.0, "lost", "{}")]
    result = listen(talking, "-v", "--max", "1", lives=[lambda: None, lambda: room.push("hello")])
    assert texts(result) == ["hello"]
    assert connects(result) == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("api", ["web-messaging"])
def test_a_listener_that_ends_soon_has_a_socket_of_its_own(
    real: tuple[Guest, Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not wait for a leader that does nothing."""
    guest, room = real
    listeners = Listeners(guest)
    leader = listeners.live("-v", "--until", "^last$")
    short = listeners.live("-v", "--for", "59", "--until", "^last$")
    room.push("last")
    assert [texts(one.result) for one in (leader, short)] == [["last"]] * 2
    assert connects(short.result) == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("api", ["web-messaging", "guest-sessions"])
def test_a_follower_that_falls_behind_reads_history(real: tuple[Guest, Room], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_socket, "MOST_ROWS", 3)
    guest, room = real
    listeners = Listeners(guest)
    leader = listeners.live("-v", "--until", "^last$")
    printed, go_on = threading.Event(), threading.Event()

    def hold(record: Record) -> None:
        if record.get("text") == "text 0":
            printed.set()
            assert go_on.wait(STUCK)

    follower = listeners.live("-v", "--until", "^last$", on=hold)
    expected = [f"text {number}" for number in range(12)]
    room.push(expected[0])
    assert printed.wait(STUCK)
    for text in expected[1:]:
        room.push(text)
    listeners.wait_for(expected[-1], of=leader)
    go_on.set()
    listeners.wait_for("live", 2, of=follower)
    room.push("last")
    for one in (leader, follower):
        assert texts(one.result) == [*expected, "last"]
        assert "gap" not in one.happened
    assert connects(leader.result, follower.result) == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("api", ["web-messaging", "guests"])
def test_a_library_client_that_sends_while_it_follows_gets_a_socket(real: tuple[Guest, Room]) -> None:
    guest, room = real
    listeners = Listeners(guest)
    leader = listeners.live("-v", "--until", "^last$")
    shown: list[str] = []
    with Client(environ=guest.environ) as client:
        events = client.listen(shared=True)
        for event in events:
            if isinstance(event, Connection) and event.state == "live" and not shown:
                shown.append("sent")
                client.send("from here")
            elif isinstance(event, Message):
                shown.append(event.text)
                if event.text == "from here":
                    room.push("last")
                if event.text == "last":
                    break
        events.close()
    assert [text for text in shown if not text.startswith("echo")] == ["sent", "from here", "last"]
    assert [text for text in texts(leader.result) if not text.startswith("echo")] == ["from here", "last"]


@pytest.mark.parametrize("api", ["web-messaging"], indirect=True)
def test_a_single_listener_publishes_nothing(talking: Guest, room: Room) -> None:
    written: list[int] = []

    def lose() -> None:
        written.append(rows(talking))
        room.disconnect(1006)

    result = listen(
        talking,
        "--until",
        "^last$",
        lives=[lambda: room.push("first"), lambda: room.push("last")],
        said={"first": lose},
    )
    assert texts(result) == ["first", "last"]
    assert written == [0]


@pytest.mark.parametrize("api", ["web-messaging"], indirect=True)
def test_rows_of_a_leader_that_was_killed_are_removed_after_a_minute(
    talking: Guest, room: Room, time: InstantClock
) -> None:
    with State.open(Path(talking.environ["GUESTCTL_STATE"]), time) as state:
        ((scope, session),) = state.sessions()
        number = state.shared_frames.begin(scope, session)
        assert number is not None
        row = SharedRow(1, time.now(), "frame", json.dumps({"secret": "text"}))
        assert state.shared_frames.write(scope, session, number, [row])
    left: list[int] = []

    def look() -> None:
        left.append(rows(talking))
        room.push("hello")

    listen(talking, "--max", "1", lives=[look])
    time.advance(61)
    listen(talking, "--max", "1", lives=[look])
    assert left == [1, 0]
