"""The admin endpoint, with plain requests."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from guestctl.sandbox.server import Sandbox
from tests.sandbox.conftest import Make
from tests.sandbox.stranger import Control, HandClock, Join, history


@pytest.mark.parametrize("key", [None, "", "wrong", "Basic x"])
def test_requests_without_the_admin_key_are_refused(sandbox: Sandbox, key: str | None) -> None:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    for method, path in (("GET", "/sessions"), ("POST", "/push"), ("DELETE", "/faults"), ("GET", "/nothing")):
        answer = requests.request(method, sandbox.admin_url + path, headers=headers, timeout=5)
        assert answer.status_code == 401
        assert "key" in answer.json()["message"]


def test_requests_from_a_web_page_are_refused(sandbox: Sandbox) -> None:
    headers = {"Authorization": f"Bearer {sandbox.admin_key}"}
    for origin, status in (("https://shop.example", 403), ("null", 403), (sandbox.url, 200)):
        answer = requests.get(sandbox.admin_url + "/sessions", headers={**headers, "Origin": origin}, timeout=5)
        assert answer.status_code == status
        assert "Access-Control-Allow-Origin" not in answer.headers
    preflight = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    answer = requests.options(sandbox.admin_url + "/push", headers=preflight, timeout=5)
    assert answer.status_code == 403
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_health_and_unknown_operations(sandbox: Sandbox) -> None:
    control = Control(sandbox)
    assert control("GET", "/health") == {"status": "ok"}
    assert "no such" in control("GET", "/nothing", 404)["message"]
    assert "use POST" in control("GET", "/push", 405)["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/push", {}),
        ("/push", {"text": ""}),
        ("/push", {"text": 5}),
        ("/push", {"text": "a", "frame": "b"}),
        ("/push", {"text": "a", "too": "x"}),
        ("/push", {"text": "a", "to": 5}),
        ("/faults", {"specs": "drop"}),
        ("/faults", {"specs": ["drop", "dance"]}),
        ("/disconnect", {"code": "x"}),
        ("/disconnect", {"code": 0}),
        ("/expire", {"token": "yes"}),
    ],
)
def test_invalid_requests_are_refused(sandbox: Sandbox, path: str, body: dict[str, Any]) -> None:
    control = Control(sandbox)
    assert control("POST", path, 400, **body)["message"]
    assert control("GET", "/faults") == {"specs": []}, "a bad list arms nothing"


def test_body_must_be_a_json_object(sandbox: Sandbox) -> None:
    headers = {"Authorization": f"Bearer {sandbox.admin_key}"}
    for data in (b"{", b"[]", b'{"text":"\\ud800"}'):
        answer = requests.post(sandbox.admin_url + "/push", data=data, headers=headers, timeout=5)
        assert answer.status_code == 400


def test_sessions_report_lists_accepted_messages(sandbox: Sandbox, join: Join) -> None:
    control = Control(sandbox)
    assert control("GET", "/sessions") == {"sessions": [], "requests": {}}
    guests = [join(sandbox, "secret-token"), join(sandbox, "secret-token")]
    for guest in guests:
        guest.configure()
    ids = []
    for number in range(3):
        guests[number % 2].message(f"m{number}", f"k{number}")
        for guest in guests:
            ids.append(guest.expect("StructuredMessage")["body"]["id"])
            ids.append(guest.expect("StructuredMessage")["body"]["id"])
    guests[0].event("Typing", "On")
    jwt = guests[0].jwt()
    history(sandbox, jwt)
    (session,) = control.sessions()
    assert [m["id"] for m in session["messages"]] == list(dict.fromkeys(ids))
    assert [m["key"] for m in session["messages"]] == ["k0", None, "k1", None, "k2", None]
    assert [m["direction"] for m in session["messages"]] == ["inbound", "outbound"] * 3
    assert [m["text"] for m in session["messages"]][:2] == ["m0", "echo: m0"]
    assert (session["api"], session["state"], session["sockets"]) == ("web-messaging", "active", 2)
    assert (session["configures"], session["refreshes"]) == (2, 1)
    assert session["requests"] == {"create": 2, "send": 3, "typing": 1, "refresh": 1, "history": 1}
    report = control("GET", "/sessions")
    assert report["requests"] == {"socket": 2, "create": 2, "send": 3, "typing": 1, "refresh": 1, "history": 1}
    written = json.dumps(report)
    assert "secret-token" not in written
    assert jwt not in written


def test_push_to_all_that_have_not_ended_connected_or_not(make: Make, join: Join) -> None:
    sandbox = make(fast=True)
    control = Control(sandbox)
    here, away, over = join(sandbox, "A"), join(sandbox, "B"), join(sandbox, "C")
    for guest in (here, away, over):
        guest.configure()
    away.leave()
    over.event("Presence", "Disconnect")
    over.expect("StructuredMessage")
    over.expect("StructuredMessage")
    assert control("POST", "/push", text="hello") == {"pushed": 2}
    body = here.expect("StructuredMessage")["body"]
    assert (body["text"], body["direction"], body["originatingEntity"]) == ("hello", "Outbound", "Human")
    over.expect_nothing()
    back = join(sandbox, "B")
    back.configure()
    assert back.texts() == ["hello"]
    ended = next(s["id"] for s in control.sessions() if s["state"] == "read-only")
    assert "has ended" in control("POST", "/push", 409, text="x", to=ended)["message"]
    control("POST", "/push", 404, text="x", to="nobody")


def test_push_to_one(sandbox: Sandbox, join: Join) -> None:
    control = Control(sandbox)
    one, other = join(sandbox, "A"), join(sandbox, "B")
    one.configure()
    other.configure()
    identifier = control.sessions()[0]["id"]
    assert control("POST", "/push", text="for you", to=identifier, name="Mina") == {"pushed": 1}
    body = one.expect("StructuredMessage")["body"]
    assert (body["text"], body["channel"]["from"]) == ("for you", {"nickname": "Mina"})
    other.expect_nothing()


def test_push_without_sessions_counts_zero(sandbox: Sandbox) -> None:
    assert Control(sandbox)("POST", "/push", text="hello?") == {"pushed": 0}


def test_push_raw_frames(sandbox: Sandbox, join: Join) -> None:
    """A frame is sent as it is; a message in it is also stored in history."""
    control = Control(sandbox)
    guest = join(sandbox)
    guest.configure()
    gateway = {"message": "Internal server error", "connectionId": "x", "requestId": "y"}
    for frame in (gateway, "{not json", '{"class":"New","extra":[1]}', {"body": {"id": "1", "content": 5}}):
        assert control("POST", "/push", frame=frame) == {"pushed": 1}
        heard = guest.socket.recv()
        assert heard == frame if isinstance(frame, str) else json.loads(heard) == frame
    assert guest.history()["total"] == 0
    body = {"id": "a" * 32, "type": "Text", "direction": "Outbound", "originatingEntity": "Bot", "text": "kept"}
    message = {"type": "message", "class": "StructuredMessage", "code": 200, "body": body}
    control("POST", "/push", frame=message)
    assert json.loads(guest.socket.recv()) == message
    (entity,) = guest.history()["entities"]
    assert (entity["id"], entity["text"], entity["originatingEntity"]) == ("a" * 32, "kept", "Bot")


def test_a_frame_pushed_twice_is_stored_once_and_unchanged(sandbox: Sandbox, join: Join) -> None:
    """Id, time and sender are those of the frame (web-messaging.md §11.5)."""
    control = Control(sandbox)
    guest = join(sandbox)
    guest.configure()
    channel = {"time": "2026-03-04T09:15:31.020Z", "type": "Private", "from": {"nickname": "Mina"}, "to": {}}
    said = {"id": "ab" * 16, "type": "Text", "direction": "Outbound", "originatingEntity": "Human", "text": "once"}
    body = {**said, "channel": channel, "metadata": {"m": "1"}}
    for _ in range(2):
        control("POST", "/push", frame={"type": "message", "class": "StructuredMessage", "code": 200, "body": body})
        assert guest.expect("StructuredMessage")["body"] == body
    (entity,) = guest.history()["entities"]
    assert said.items() <= entity.items()
    assert (entity["channel"], entity["metadata"]["m"]) == (channel, "1")
    for spoilt in ({"time": "noon"}, {"time": 5}, {"from": "Mina"}, {"from": {"nickname": 5}}):
        wrong = {**body, "id": "cd" * 16, "channel": {**channel, **spoilt}}
        control("POST", "/push", frame={"type": "message", "class": "StructuredMessage", "code": 200, "body": wrong})
        guest.socket.recv()
    assert guest.history()["total"] == 1, "that is no message of this dialect"


def test_end_ends_the_conversation(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.configure()
    assert Control(sandbox)("POST", "/end") == {"ended": 1}
    assert guest.expect("StructuredMessage")["body"]["metadata"]["readOnly"] == "true"
    assert Control(sandbox)("POST", "/end") == {"ended": 0}


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4001, 1005, 1006, 999, 5000])
def test_disconnect_closes_sockets(sandbox: Sandbox, join: Join, code: int) -> None:
    guests = [join(sandbox, "A"), join(sandbox, "A"), join(sandbox, "B")]
    for guest in guests:
        guest.configure()
    control = Control(sandbox)
    first = control.sessions()[0]["id"]
    assert control("POST", "/disconnect", to=first, code=code) == {"disconnected": 2}
    assert [guest.expect_close() for guest in guests[:2]] == [code, code]
    guests[2].expect_nothing()
    assert control("POST", "/disconnect") == {"disconnected": 1}
    assert guests[2].expect_close() == 1001
    back = join(sandbox, "A")
    assert back.configure()["newSession"] is False


def test_expire_a_session_or_only_its_token(make: Make, join: Join, hand_clock: HandClock) -> None:
    sandbox = make(fast=True, clock=hand_clock)
    control = Control(sandbox)
    one, other = join(sandbox, "A"), join(sandbox, "B")
    one.configure()
    other.configure()
    tokens = [one.jwt(), other.jwt()]
    ids = [session["id"] for session in control.sessions()]
    assert control("POST", "/expire", to=ids[0], token=True) == {"expired": 1}
    history(sandbox, tokens[0], 401)
    history(sandbox, tokens[1])
    one.message("still here")
    one.expect("StructuredMessage")
    one.expect("StructuredMessage")
    history(sandbox, one.jwt())
    assert control("POST", "/expire", to=ids[1]) == {"expired": 1}
    assert other.expect("SessionExpiredEvent")["type"] == "message"
    one.expect_nothing()
    assert [session["state"] for session in control.sessions()] == ["active", "expired"]
    assert control("POST", "/expire") == {"expired": 1}


def test_faults_are_armed_listed_and_cleared(sandbox: Sandbox, join: Join) -> None:
    control = Control(sandbox)
    specs = ["duplicate", "http:status=503,on=history"]
    assert control("POST", "/faults", specs=specs) == {"specs": specs}
    assert control("GET", "/faults") == {"specs": specs}
    guest = join(sandbox)
    guest.configure()
    guest.expect("SessionResponse")
    assert control("DELETE", "/faults") == {"specs": []}
    history(sandbox, guest.jwt())
