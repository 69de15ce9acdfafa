"""The `guests` API as other-apis.md describes it, with an independent guest."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
import requests

from guestctl.sandbox import CLIENT_ID, CLIENT_SECRET
from guestctl.sandbox.server import Sandbox
from tests.sandbox.bare import Line, Poller, Profiled, refused
from tests.sandbox.conftest import Make
from tests.sandbox.stranger import Control, HandClock

GUESTS = "/api/v2/guests"
SCOPE = "guest:create guest:read webchat:send"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FORM = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "scope": SCOPE}


def claims(token: str) -> Any:
    return jwt.decode(token, options={"verify_signature": False})


# -- OAuth


def test_client_credentials_return_an_access_token(sandbox: Sandbox) -> None:
    answer = requests.post(sandbox.url + "/oauth/token", data=FORM, timeout=5)
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"access_token", "token_type", "expires_in", "scope"}
    assert (body["token_type"], body["scope"]) == ("bearer", SCOPE)
    assert body["expires_in"] > 0
    requested = Control(sandbox)("GET", "/sessions")["requests"]
    assert requested == {"oauth": 1}


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_id": "wrong"}, 401, "invalid_client"),
        ({"client_secret": None}, 401, "invalid_client"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": None}, 400, "invalid_request"),
        ({"scope": "root"}, 400, "invalid_scope"),
        ({"scope": [SCOPE, SCOPE]}, 400, "invalid_request"),
    ],
)
def test_invalid_client_credentials_are_refused(
    sandbox: Sandbox, change: dict[str, Any], status: int, error: str
) -> None:
    answer = requests.post(sandbox.url + "/oauth/token", data={**FORM, **change}, timeout=5)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert CLIENT_SECRET not in answer.text


def test_a_json_token_request_is_refused(sandbox: Sandbox) -> None:
    assert requests.post(sandbox.url + "/oauth/token", json=FORM, timeout=5).status_code == 400


def test_faults_of_oauth(make: Make) -> None:
    sandbox = make(faults=("ratelimit:retry_after=2,times=1",))
    answer = requests.post(sandbox.url + "/oauth/token", data=FORM, timeout=5)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "2")


def test_access_tokens_expire_and_have_scopes(make: Make, hand_clock: HandClock) -> None:
    guest = Profiled(make(clock=hand_clock))
    weak = guest.oauth("guest:read")
    body = {"name": "Web Guest"}
    assert guest.ask("POST", GUESTS, body, status=403, token=weak)["code"] == "missing.scope"
    guest.ask("POST", f"{GUESTS}/{guest.guest}/sessions", status=403, token=weak)
    guest.ask("PUT", f"{GUESTS}/{guest.guest}", {"attributes": {}}, status=403, token=guest.oauth("guest:create"))
    for token in ("", "nonsense", guest.token):
        guest.ask("POST", GUESTS, body, status=401, token=token)
    hand_clock.advance(3600)
    guest.ask("POST", GUESTS, body, status=401, token=guest.access)


# -- create, and the JWT


def test_create_returns_guest_token_and_session(make: Make, hand_clock: HandClock) -> None:
    guest = Profiled(make(clock=hand_clock))
    assert set(guest.created) == {"id", "guestToken", "sessions", "attributes"}
    assert guest.created["attributes"] == {"plan": "gold"}
    assert jwt.get_unverified_header(guest.token)["alg"] == "HS256"
    found = claims(guest.token)
    assert found["sub"] == guest.guest
    assert (found["iat"], found["exp"]) == (hand_clock.now(), hand_clock.now() + 1800)
    assert found["routing_hints"] == {"queue": "q-1", "skill": "s-1", "language": "de"}
    assert found["attributes"] == {"plan": "gold"}


def test_routing_hints_are_returned_as_given(sandbox: Sandbox) -> None:
    guest = Profiled(sandbox)
    for body, hints in (({}, {}), ({"routing": {}}, {}), ({"routing": {"skill": {"id": "s"}}}, {"skill": "s"})):
        made = guest.ask("POST", GUESTS, {"name": "N", **body}, status=201, token=guest.access)
        assert claims(made["guestToken"])["routing_hints"] == hints


def test_tokens_come_in_every_base64_length(sandbox: Sandbox) -> None:
    """A decoder that pads incorrectly fails with some of them."""
    guest = Profiled(sandbox)
    lengths: set[int] = set()
    while lengths != {0, 2, 3}:
        guest.refresh()
        part = guest.token.split(".")[1]
        lengths.add(len(part) % 4)
        assert json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["sub"] == guest.guest


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"name": 5},
        {"name": "N", "attributes": "x"},
        {"name": "N", "attributes": {"big": "x" * 10_240}},
        {"name": "N", "routing": "q"},
        {"name": "N", "routing": {"queue": "q"}},
        {"name": "N", "routing": {"queue": {"id": 5}}},
        {"name": "N", "routing": {"skill": {}}},
        {"name": "N", "routing": {"language": 5}},
    ],
)
def test_an_invalid_create_is_refused(sandbox: Sandbox, body: Any) -> None:
    guest = Profiled(sandbox)
    guest.ask("POST", GUESTS, body, status=400, token=guest.access)


# -- the socket


def test_a_sent_message_reaches_socket_and_history(sandbox: Sandbox) -> None:
    guest = Profiled(sandbox)
    line = guest.listen()
    guest.say(line, "hi", "k-1")
    echo, answer = (guest.pushed(line) for _ in range(2))
    assert echo == {
        "id": echo["id"],
        "correlationId": "k-1",
        "direction": "inbound",
        "text": "hi",
        "from": {"role": "guest", "name": "Web Guest"},
        "timestamp": echo["timestamp"],
    }
    assert (answer["direction"], answer["text"]) == ("outbound", "echo: hi")
    guest.say(line, "again", "k-1")
    assert guest.pushed(line) == echo
    assert guest.history()["messages"] == [echo, answer]


def test_a_handshake_with_an_invalid_token_breaks_the_connection(make: Make, hand_clock: HandClock) -> None:
    sandbox = make(clock=hand_clock, fast=True)
    guest, other = Profiled(sandbox), Profiled(sandbox)

    def handshake_close_code(token: str) -> int:
        line = guest.connect()
        line.say(type="handshake", token=token)
        return line.closed()

    assert handshake_close_code("nonsense") == 1006
    assert handshake_close_code(other.token) == 1006
    forged = jwt.encode({**claims(guest.token), "exp": 4_000_000_000}, "another key of thirty-two bytes!!", "HS256")
    assert handshake_close_code(forged) == 1006
    hand_clock.advance(1800)
    assert handshake_close_code(guest.token) == 1006
    guest.refresh()
    guest.listen()
    Control(sandbox)("POST", "/end")
    assert handshake_close_code(guest.token) == 1006


def test_only_known_sessions_have_a_socket(sandbox: Sandbox) -> None:
    guest, other = Profiled(sandbox), Profiled(sandbox)
    assert refused(sandbox, f"{GUESTS}/nobody/sessions/{guest.session}/ws")[0] == 404
    assert refused(sandbox, f"{GUESTS}/{guest.guest}/sessions/{other.session}/ws")[0] == 404


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "handshake"},
        {"type": "handshake", "token": 5},
        {"type": "message"},
        {"type": "message", "payload": "hi"},
        {"type": "message", "payload": {"text": "hi"}},
        {"type": "message", "payload": {"text": 5, "correlationId": "k"}},
        {"type": "message", "payload": {"text": "too early", "correlationId": "k"}},
    ],
)
def test_invalid_frames_are_answered_with_errors(sandbox: Sandbox, frame: dict[str, Any]) -> None:
    guest = Profiled(sandbox)
    line = guest.connect()
    line.say(**frame)
    error = line.hear(type="error")["payload"]
    assert error["status"] in (400, 403)
    assert error.get("correlationId") == ("k" if "k" in str(frame.get("payload", {})).split("'") else None)
    line.say(type="handshake", token=guest.token)
    line.hear(type="handshake")
    assert guest.texts() == []


def test_a_fault_on_send_closes_the_socket(make: Make) -> None:
    sandbox = make(fast=True)
    guest = Profiled(sandbox)
    for spec, code in (
        ("unauthorized", 4001), ("http:status=403", 1008), ("ratelimit", 1013), ("http", 1011), ("conflict", 1011),
    ):  # fmt: skip
        line = guest.listen()
        control = Control(sandbox)
        control("DELETE", "/faults")
        control("POST", "/faults", specs=[f"{spec}{',' if ':' in spec else ':'}on=send"])
        guest.say(line, "one", "k-1")
        assert line.closed() == code
    assert guest.texts() == []


# -- refresh and sync


def test_a_new_session_has_the_same_transcript(make: Make, hand_clock: HandClock) -> None:
    sandbox = make(clock=hand_clock, fast=True, idle_timeout=0.0)
    guest = Profiled(sandbox)
    line = guest.listen()
    guest.say(line, "one", "k-1")
    first, token = guest.session, guest.token
    hand_clock.advance(1500)
    assert set(guest.refresh()) == {"guestToken", "sessions"}
    assert guest.session != first
    hand_clock.advance(400)  # the first token has expired
    Control(sandbox)("POST", "/push", text="two")
    assert [guest.pushed(line)["text"] for _ in range(3)] == ["one", "echo: one", "two"]
    assert guest.texts() == ["one", "echo: one", "two"]
    guest.session = first
    assert guest.texts() == ["one", "echo: one", "two"]
    guest.listen()
    guest.token = token
    guest.history(status=401)
    (session,) = Control(sandbox).sessions()
    assert session["refreshes"] == 1


def test_sync_merges_attributes(sandbox: Sandbox) -> None:
    guest = Profiled(sandbox)
    synced = {"external_provider_id": "idp", "external_email": "ada@shop.example", "delegation_verified": True}
    answer = guest.sync(synced)
    assert answer == {"id": guest.guest, "attributes": {"plan": "gold", **synced}}
    guest.refresh()
    assert claims(guest.token)["attributes"] == answer["attributes"]
    (session,) = Control(sandbox).sessions()
    assert session["attributes"]["delegation_verified"] == "true"
    assert session["requests"]["sync"] == 1


def test_an_invalid_sync_is_refused(sandbox: Sandbox) -> None:
    guest = Profiled(sandbox)
    room = 10_240 - len('{"plan":"gold","x":""}')
    guest.sync({"x": "y" * room})
    assert "10240" in guest.sync({"x": "y" * (room + 1)}, status=400)["message"]
    assert "10240" in guest.sync({"x": "ü" * (room // 2 + 1)}, status=400)["message"]
    guest.sync("x", status=400)
    assert guest.sync({}, status=404, guest="nobody")["message"] == "Guest not found. Session may have expired."
    Control(sandbox)("POST", "/expire")
    assert guest.sync({}, status=404)["message"] == "Guest not found. Session may have expired."
    guest.refresh(status=404)


def test_guests_of_other_apis_are_unknown(sandbox: Sandbox) -> None:
    guest, other = Profiled(sandbox), Poller(sandbox)
    guest.sync({}, status=404, guest=other.guest)


def test_trace_context_of_requests_and_handshake_is_reported(sandbox: Sandbox) -> None:
    guest = Profiled(sandbox)
    line = Line(sandbox, f"{GUESTS}/{guest.guest}/sessions/{guest.session}/ws")
    line.say(type="handshake", token=guest.token, traceparent=TRACE)
    line.hear(type="handshake")
    guest.ask(
        "POST", f"{GUESTS}/{guest.guest}/sessions", status=201, token=guest.access, headers={"traceparent": TRACE}
    )
    (session,) = Control(sandbox).sessions()
    assert session["traceparents"] == {"socket": TRACE, "refresh": TRACE}


def test_more_than_two_hundred_requests_a_minute_are_refused(make: Make, hand_clock: HandClock) -> None:
    """A fast sandbox has no limit."""
    guest = Profiled(make(clock=hand_clock))
    for _ in range(199):
        guest.history()
    assert guest.history(status=429)
    assert guest.headers["Retry-After"] == "1"
    hand_clock.advance(1)
    guest.history()
