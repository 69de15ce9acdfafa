"""Processes that still use a replaced session, and processes that wait for the token of another one.

Records are compared in the state database itself: each session has only its own.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from guestctl.client import Client
from guestctl.core.clock import SystemClock
from guestctl.core.errors import SessionOver
from guestctl.core.model import Connection, Message, Session
from guestctl.storage.state import State
from tests.integration.conftest import Enter, Serve
from tests.integration.front import Guest, Room, check, listen, texts


def stored(guest: Guest) -> dict[str, Session]:
    with State.open(Path(guest.environ["GUESTCTL_STATE"]), guest.clock) as state:
        return {session.name: session for _, session in state.sessions()}


def records(guest: Guest, name: str) -> dict[str, object]:
    """Return what is stored for the session of this name."""
    with State.open(Path(guest.environ["GUESTCTL_STATE"]), guest.clock) as state:
        [(scope, session)] = [found for found in state.sessions() if found[1].name == name]
        last = state.last_position(scope, session)
        return {
            "last": last and last.id,
            "sent": [row.state for row in state.outbox(scope, session)],
            "log": [line.event for line in state.activity(scope, session)],
        }


@pytest.mark.parametrize("api", ["guests", "guest-sessions"], indirect=True)
@pytest.mark.parametrize("how", ["kept", "replaced", "forgotten"])
def test_an_old_listener_records_nothing_in_the_new_session(guest: Guest, room: Room, how: str) -> None:
    guest.ok("session", "create")
    guest.ok("send", "mine")
    (old,) = room.sessions()
    successor = {}

    def replaced() -> None:
        if how == "forgotten":
            guest.ok("session", "forget", "default")
        guest.ok("session", "create", *(["--new"] if how == "replaced" else []))
        successor.update(records(guest, "default"))
        room.push("late", to=old["id"])

    heard = listen(guest, "--until", "^late$", "--cursor", str(guest.cwd / "cursor"), lives=[replaced])
    assert heard.code == 0, heard.err
    assert texts(heard)[-1] == "late", "it continues with its own session"
    assert successor == records(guest, "default"), "the new session has none of its records"
    assert ("forgotten or replaced" in heard.err) == (how != "kept")
    if how == "kept":
        mine = records(guest, "default-1")
        assert mine["last"] == heard.records[-1]["id"]
        assert mine["sent"] == ["accepted"]


@pytest.mark.parametrize("api", ["web-messaging"], indirect=True)
def test_a_new_conversation_has_no_records_of_the_old_one(guest: Guest, room: Room) -> None:
    guest.ok("session", "create")
    guest.ok("send", "one")
    before = stored(guest)["default"]
    guest.ok("session", "create", "--new")
    after = stored(guest)["default"]
    assert after.created_at > before.created_at
    found = records(guest, "default")
    assert (found["last"], found["sent"]) == (None, [])
    guest.ok("session", "create", "--new")
    assert stored(guest)["default"].root == before.created_at, "one connection, one set of turns"
    guest.ok("send", "two")
    assert records(guest, "default")["sent"] == ["accepted"]


#: What `listen` stores, so that it can be answered (web-messaging.md §7.1).
OFFER = {
    "type": "message",
    "class": "StructuredMessage",
    "code": 200,
    "body": {
        "id": "offer",
        "type": "Structured",
        "direction": "Outbound",
        "originatingEntity": "Bot",
        "text": "choose",
        "channel": {"time": "2099-01-01T00:00:00.000Z"},
        "content": [
            {
                "contentType": "QuickReplyV2",
                "quickReplyV2": {"title": "t", "actions": [{"action": "Message", "text": "a", "payload": "a"}]},
            }
        ],
    },
}


@pytest.mark.parametrize("api", ["web-messaging"], indirect=True)
def test_a_client_does_not_switch_sessions_after_a_rename(guest: Guest, room: Room) -> None:
    """A stream that stores its session learns the new name, while `chat` still uses the old one."""
    guest.ok("session", "create")
    with (
        State.open(Path(guest.environ["GUESTCTL_STATE"]), guest.clock) as state,
        Client("sandbox", state=state, clock=guest.clock, environ=guest.environ) as client,
    ):
        events = client.listen()
        next(event for event in events if isinstance(event, Connection) and event.state == "live")
        guest.ok("session", "create")
        room.frame(OFFER)
        next(event for event in events if isinstance(event, Message))
        next(events)
        assert stored(guest)["default-1"].offer is not None
        with pytest.raises(SessionOver) as caught:
            client.send("two")
    assert caught.value.code == "session.replaced"
    assert "two" not in [m["text"] for session in room.sessions() for m in session["messages"]]


# --- one process renews a token, the others wait: real processes, real time ---


def start(guest: Guest, *argv: str) -> subprocess.Popen[str]:
    environ = {**guest.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(guest.cwd)}
    words = [sys.executable, "-m", "guestctl", *argv, "-o", "json"]
    return subprocess.Popen(words, env=environ, cwd=guest.cwd, text=True, stdout=-1, stderr=-1)


def ended(*processes: subprocess.Popen[str]) -> list[tuple[int, Mapping[str, object]]]:
    """Wait for the processes. Return their exit codes, each with the record or the error."""
    found = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        result = json.loads(out) if process.returncode == 0 else json.loads(err.splitlines()[-1])["error"]
        found.append((process.returncode, result))
    return found


@pytest.fixture
def service(serve: Serve) -> Room:
    return Room(serve(clock=SystemClock()))


def age(guest: Guest, seconds: float) -> None:
    """Change the stored token so that it expires in some seconds."""
    with State.open(Path(guest.environ["GUESTCTL_STATE"]), SystemClock()) as state:
        [(scope, session)] = state.sessions()
        held = session.credentials["guest"]
        old = replace(held, expires_at=SystemClock().now() + seconds, life=None)
        state.amend(scope, session, lambda stored: stored.having(old))


def test_a_stuck_early_renewal_fails_no_command(service: Room, enter: Enter) -> None:
    guest = enter(service.sandbox, "guests")
    guest.ok("session", "create")
    age(guest, 60.0)
    service.faults("silence:for=60s,on=refresh")
    sends = ended(*(start(guest, "send", f"text {n}", "--timeout", "20") for n in range(4)))
    assert [code for code, _ in sends] == [0] * 4, sends
    assert sorted(service.texts("inbound")) == [f"text {n}" for n in range(4)]


@pytest.mark.parametrize("why", ["expired", "refused"])
def test_a_stuck_necessary_renewal_fails_every_command(service: Room, enter: Enter, why: str) -> None:
    """Each command reports that the service did not answer and nothing was sent. All end by themselves."""
    guest = enter(service.sandbox, "guests")
    guest.ok("session", "create")
    if why == "expired":
        age(guest, -1.0)
    else:
        service.expire(token=True)
    service.faults("silence:for=60s,on=refresh")
    processes = [start(guest, "send", f"text {n}", "--timeout", "4") for n in range(3)]
    found = ended(*processes)
    assert [code for code, _ in found] == [8] * 3, found
    assert all(str(error["code"]).startswith("network.") for _, error in found), found
    assert service.texts("inbound") == []
    with State.open(Path(guest.environ["GUESTCTL_STATE"]), SystemClock()) as state:
        [(scope, session)] = state.sessions()
        assert {row.state for row in state.outbox(scope, session)} <= {"not_sent"}
    service.clear()
    assert ended(start(guest, "send", "at last"))[0][0] == 0
    assert service.texts("inbound") == ["at last"]


@pytest.mark.parametrize("api", ["guests"], indirect=True)
def test_an_unreadable_record_is_removed_as_the_hint_says(guest: Guest) -> None:
    guest.ok("session", "create", "--as", "good")
    guest.ok("session", "create", "--as", "bad")
    database = sqlite3.connect(Path(guest.environ["GUESTCTL_STATE"]) / "state.db")
    database.execute("UPDATE session SET body = '{' WHERE name = 'bad'")
    database.commit()
    database.close()
    error = check(guest("send", "hi"), 2, "state.unusable", '"bad"')
    listed = guest.ok("session", "list")
    assert [record["name"] for record in listed.records] == ["good"]
    assert error["hint"] in listed.err
    words = error["hint"].removeprefix("remove the record: `guestctl ").removesuffix("`").split()
    guest.ok(*words)
    assert guest.ok("session", "list").err == ""
    check(guest(*words), 10, "session.none")


@pytest.mark.parametrize("api", ["guests", "web-messaging"], indirect=True)
def test_a_client_does_not_switch_to_a_new_session_with_its_name(guest: Guest, room: Room) -> None:
    """`send --lines` and `chat` ask for their session by name before each message."""
    guest.ok("session", "create")
    with (
        State.open(Path(guest.environ["GUESTCTL_STATE"]), guest.clock) as state,
        Client("sandbox", state=state, clock=guest.clock, environ=guest.environ) as client,
    ):
        client.send("one")
        guest.ok("session", "create", "--new")
        with pytest.raises(SessionOver) as caught:
            client.send("two")
        assert caught.value.code == "session.replaced"
        assert "two" not in [m["text"] for session in room.sessions() for m in session["messages"]]
        assert records(guest, "default")["sent"] == []
        assert client.send("three").delivery == "accepted", "after one error the user decides to continue"
    assert records(guest, "default")["sent"] == ["accepted"]
