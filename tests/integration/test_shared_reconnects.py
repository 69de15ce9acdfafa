"""Listeners of one session share a reconnect and what is read after it; the sessions of a profile share a budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.capabilities import Rate
from guestctl.engine import exchange, shared_history
from guestctl.storage.state import State, owner_of
from tests.cli.conftest import Result
from tests.integration.front import Guest, InstantClock, Room, listen, messages, texts
from tests.integration.several import Listeners

WITH_SOCKET = [name for name in NAMES if dialect_class(name).has_socket]
LISTENERS = 3


def dropped_together(guest: Guest, room: Room, meanwhile: Callable[[], object]) -> tuple[list[Result], int, int]:
    """Drop three listeners together.

    Return what they printed, how often history was read to fill the gap, and how many sockets they opened in all.
    """
    listeners = Listeners(guest)
    for _ in range(LISTENERS):
        listeners.start("-v", "--until", "^last$")
    listeners.wait_for("live")
    room.push("first")
    listeners.wait_for("first")
    before = room.requests["history"]
    meanwhile()
    room.say("missed")
    room.disconnect(1006)
    listeners.wait_for("missed")
    listeners.wait_for("live", 2)
    fills = room.requests["history"] - before
    room.push("last")
    results = [listener.result for listener in listeners.all]
    return results, fills, sum(result.err.count("< upgrade 101") for result in results)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("api", WITH_SOCKET)
def test_listeners_that_are_dropped_together_read_history_once(real: tuple[Guest, Room]) -> None:
    printed, fills, sockets = dropped_together(*real, lambda: None)
    assert (fills, sockets) == (1, 2)
    for result in printed:
        assert [(m["text"], m["source"]) for m in messages(result)] == [
            ("first", "live"),
            ("missed", "replayed"),
            ("last", "live"),
        ]
        assert not [record for record in result.records if record["kind"] == "gap"]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("api", ["web-messaging"])
def test_each_of_them_prints_the_gap_that_one_has_found(real: tuple[Guest, Room]) -> None:
    guest, room = real

    def delete_first() -> None:
        (conversation,) = room.sandbox.service.conversations.values()
        room.sandbox.call(lambda: conversation.messages.pop())

    printed, fills, sockets = dropped_together(guest, room, delete_first)
    assert (fills, sockets) == (1, 2)
    kinds = [[record["kind"] for record in result.records if record["kind"] != "connection"] for result in printed]
    assert kinds == [["message", "gap", "message", "message"]] * LISTENERS
    gaps = [(r["after"], r["before"], r["reason"]) for result in printed for r in result.records if r["kind"] == "gap"]
    assert len(set(gaps)) == 1


@pytest.mark.parametrize("api", WITH_SOCKET, indirect=True)
def test_a_listener_reads_for_itself_when_the_leader_publishes_nothing(
    talking: Guest, room: Room, time: InstantClock
) -> None:
    with State.open(Path(talking.environ["GUESTCTL_STATE"]), time) as state:
        ((scope, session),) = state.sessions()
        release = state.shared_reads.try_lead(owner_of(scope, session))
        assert release is not None
        waits: list[float] = []

        def lose() -> None:
            room.say("missed")
            room.disconnect(1006)
            waits.append(time.monotonic())

        def found() -> None:
            waits.append(time.monotonic())

        result = listen(
            talking,
            "--until",
            "^last$",
            lives=[lambda: room.push("first"), lambda: room.push("last")],
            said={"first": lose, "missed": found},
        )
        release()
    assert texts(result) == ["first", "missed", "last"]
    assert waits[1] - waits[0] >= shared_history.PATIENCE


@pytest.mark.parametrize("api", ["web-messaging"], indirect=True)
def test_nothing_is_left_of_the_answers_that_were_shared(talking: Guest, room: Room, time: InstantClock) -> None:
    """A listener without others publishes nothing; with another one, it removes what it published when it ends."""
    with State.open(Path(talking.environ["GUESTCTL_STATE"]), time) as state:
        ((scope, session),) = state.sessions()
        owner = owner_of(scope, session)
        published: list[bool] = []
        for others in (False, True):
            listening = state.shared_reads.join(owner) if others else None

            def lose() -> None:
                room.say("missed")
                room.disconnect(1006)

            def found() -> None:
                published.append(state.shared_reads.get(owner, 0.0) is not None)

            listen(
                talking,
                "--until",
                "^last$",
                lives=[lambda: room.push("first"), lambda: room.push("last")],
                said={"first": lose, "missed": found},
            )
            if listening is not None:
                listening.release()
            assert state.shared_reads.get(owner, 0.0) is None
    assert published == [False, True]


@pytest.mark.parametrize("api", WITH_SOCKET, indirect=True)
def test_fifty_sessions_never_reconnect_more_than_twenty_times_a_minute(
    guest: Guest, room: Room, time: InstantClock
) -> None:
    times: list[float] = []

    def reconnected() -> None:
        times.append(time.monotonic())
        room.push("last")

    for number in range(50):
        guest.ok("session", "create", "--as", f"guest-{number}")
        listen(guest, "--max", "1", lives=[lambda: room.disconnect(1012), reconnected])
    assert len(times) == 50
    assert all(after - before >= 60 for before, after in zip(times, times[20:], strict=False))


@pytest.mark.parametrize("api", WITH_SOCKET, indirect=True)
def test_a_reconnect_leaves_room_for_the_connects_of_commands_which_never_wait(
    talking: Guest, room: Room, time: InstantClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    time.advance(60)  # since the connect of `session create`
    monkeypatch.setattr(exchange, "CONNECTS", Rate(2, 1200.0))
    times: list[float] = []
    for _ in range(4):
        time.sleeps.clear()
        talking.ok("resume")
        assert sum(time.sleeps) < 60

    def lose() -> None:
        times.append(time.monotonic())
        room.disconnect(1012)

    def reconnected() -> None:
        times.append(time.monotonic())
        room.push("last")

    listen(talking, "--max", "1", lives=[lose, reconnected])
    assert times[1] - times[0] > 300
