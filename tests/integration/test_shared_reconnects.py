"""Listeners of one session share what they read after a break, and all listeners share the reconnects of a profile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from guestctl.core.clock import SystemClock
from guestctl.dialects import NAMES, dialect_class
from guestctl.engine import shared_history
from guestctl.storage.state import State, owner_of
from tests.cli.conftest import Result
from tests.integration import front
from tests.integration.conftest import Serve
from tests.integration.front import Guest, InstantClock, Record, Room, listen, messages, texts

WITH_SOCKET = [name for name in NAMES if dialect_class(name).has_socket]
LISTENERS = 3


class Listeners:
    """Several listeners of one session, each in its own thread and with its own connection to the state."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._pool = ThreadPoolExecutor(LISTENERS)
        self._changed = threading.Condition()
        self._happened: list[str] = []
        self.results = [self._pool.submit(self._listen) for _ in range(LISTENERS)]

    def _listen(self) -> Result:
        kinds = "message,gap,connection"
        return self._guest("listen", "--until", "^last$", "--only", kinds, "-o", "jsonl", on=self._on)

    def _on(self, record: Record) -> None:
        with self._changed:
            self._happened.append(record.get("text") or record.get("state") or record["kind"])
            self._changed.notify_all()

    def wait_for(self, what: str, times: int = 1) -> None:
        """Wait until each listener has printed a record with this text or state so often."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._happened.count(what) >= times * LISTENERS, 60), self._happened


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, followers wait, and nobody reads history again because time has passed."""
    monkeypatch.setattr(shared_history, "PATIENCE", 60.0)
    monkeypatch.setattr(shared_history, "SLACK", 60.0)
    monkeypatch.setattr(front, "TIMINGS", replace(front.TIMINGS, quiet_look=60.0))


@pytest.fixture
def real(serve: Serve, tmp_path: Path, api: str) -> tuple[Guest, Room]:
    """A guest with a session, and its sandbox, on the real clock."""
    sandbox = serve(clock=SystemClock())
    environ = {
        "GUESTCTL_PROFILE": "sandbox",
        "GUESTCTL_API": api,
        "GUESTCTL_SANDBOX_URL": sandbox.url,
        "GUESTCTL_STATE": str(tmp_path / "state"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    guest = Guest(api, environ, tmp_path, SystemClock())  # type: ignore[arg-type]
    guest.ok("session", "create")
    return guest, Room(sandbox)


def dropped_together(guest: Guest, room: Room, meanwhile: Callable[[], object]) -> tuple[list[Result], int]:
    """Drop three listeners together; return what they printed, and how often history was read to fill the gap."""
    listeners = Listeners(guest)
    listeners.wait_for("live")
    room.push("first")
    listeners.wait_for("first")
    before = room.requests["history"]
    meanwhile()
    room.say("missed")
    room.disconnect(1006)
    listeners.wait_for("missed")
    fills = room.requests["history"] - before
    listeners.wait_for("live", 2)
    room.push("last")
    return [future.result(60) for future in listeners.results], fills


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("api", WITH_SOCKET)
def test_listeners_that_are_dropped_together_read_history_once(real: tuple[Guest, Room]) -> None:
    printed, fills = dropped_together(*real, lambda: None)
    assert fills == 1
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

    printed, fills = dropped_together(guest, room, delete_first)
    assert fills == 1
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
