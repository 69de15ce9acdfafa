"""What is left over from a session that has been replaced, and processes that wait for one another's token.

Records are compared in the state database itself: each session has its own and nobody else's.
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
    """What is kept of the session of this name."""
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
def test_a_listener_left_over_records_nothing_of_its_successor(guest: Guest, room: Room, how: str) -> None:
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
    assert texts(heard)[-1] == "late", "it goes on with what it began with"
    assert successor == records(guest, "default"), "nothing of it is the successor's"
    assert ("forgotten or replaced" in heard.err) == (how != "kept")
    if how == "kept":
        mine = records(guest, "default-1")
        assert mine["last"] == heard.records[-1]["id"]
        assert mine["sent"] == ["accepted"]


@pytest.mark.parametrize("api", ["web-messaging"], indirect=True)
def test_a_conversation_begun_anew_has_no_records_of_the_old_one(guest: Guest, room: Room) -> None:
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
def test_a_client_does_not_go_over_either_once_its_session_is_known_to_be_renamed(guest: Guest, room: Room) -> None:
    """A stream that stores its session meanwhile learns the new name; `chat` still asks for the old one."""
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


# --- one renews, the others wait: real processes, real time ---


def start(guest: Guest, *argv: str) -> subprocess.Popen[str]:
    environ = {**guest.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(guest.cwd)}
    words = [sys.executable, "-m", "guestctl", *argv, "-o", "json"]
    return subprocess.Popen(words, env=environ, cwd=guest.cwd, text=True, stdout=-1, stderr=-1)


def ended(*processes: subprocess.Popen[str]) -> list[tuple[int, Mapping[str, object]]]:
    """Exit codes, and the record or the error."""
    found = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        told = json.loads(out) if process.returncode == 0 else json.loads(err.splitlines()[-1])["error"]
        found.append((process.returncode, told))
    return found


@pytest.fixture
def service(serve: Serve) -> Room:
    return Room(serve(clock=SystemClock()))


def age(guest: Guest, seconds: float) -> None:
    """The token's life as it is stored ends in so many seconds."""
    with State.open(Path(guest.environ["GUESTCTL_STATE"]), SystemClock()) as state:
        [(scope, session)] = state.sessions()
        held = session.credentials["guest"]
        old = replace(held, expires_at=SystemClock().now() + seconds, life=None)
        state.amend(scope, session, lambda stored: stored.having(old))


def test_a_stuck_renewal_ahead_of_time_fails_nobody(service: Room, enter: Enter) -> None:
    guest = enter(service.sandbox, "guests")
    guest.ok("session", "create")
    age(guest, 60.0)
    service.faults("silence:for=60s,on=refresh")
    sends = ended(*(start(guest, "send", f"text {n}", "--timeout", "20") for n in range(4)))
    assert [code for code, _ in sends] == [0] * 4, sends
    assert sorted(service.texts("inbound")) == [f"text {n}" for n in range(4)]


@pytest.mark.parametrize("why", ["expired", "refused"])
def test_where_a_new_token_is_needed_a_stuck_renewal_is_the_end_for_all(service: Room, enter: Enter, why: str) -> None:
    """Each says that the service did not answer, and that nothing was sent; and nobody needs to be killed."""
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
    assert all(str(told["code"]).startswith("network.") for _, told in found), found
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
    told = guest.ok("session", "list")
    assert [record["name"] for record in told.records] == ["good"]
    assert error["hint"] in told.err
    words = error["hint"].removeprefix("Remove the record: guestctl ").split()
    guest.ok(*words)
    assert guest.ok("session", "list").err == ""
    check(guest(*words), 10, "session.none")


@pytest.mark.parametrize("api", ["guests", "web-messaging"], indirect=True)
def test_a_client_does_not_go_over_to_whoever_has_taken_the_name(guest: Guest, room: Room) -> None:
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
        assert client.send("three").delivery == "accepted", "told once, it is the user's to go on"
    assert records(guest, "default")["sent"] == ["accepted"]
