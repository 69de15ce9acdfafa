"""What other clients of the service need, each with an independent guest."""

from __future__ import annotations

from typing import Any

import pytest
import requests
import websocket

from guestctl.sandbox import DEPLOYMENT_ID
from guestctl.sandbox.server import Sandbox
from tests.sandbox.conftest import Make
from tests.sandbox.stranger import Control, HandClock, Join, Stranger
from tests.sandbox.test_web_messaging_api import SIGN_IN, exchange, sign_in

OTHER = "11111111-2222-4333-8444-555555555555"


def signed_in_with_a_new_token(make: Make, join: Join) -> tuple[Sandbox, Stranger, Stranger, Any]:
    """Let a guest with two sockets sign in on the first, with a new token, as the mobile SDK does since 2.8."""
    sandbox = make(fast=True, auto_start=True, deployment=SIGN_IN)
    guest, device = join(sandbox, "old"), join(sandbox, "old")
    guest.configure()
    device.configure()
    guest.message("before")
    for one in (guest, device):
        one.expect("StructuredMessage")
        one.expect("StructuredMessage")
    sign_in(guest, exchange(sandbox)["jwt"], token="new")
    return sandbox, guest, device, guest.receive()


def test_a_sign_in_with_a_new_token_continues_the_session(make: Make, join: Join) -> None:
    sandbox, guest, device, answer = signed_in_with_a_new_token(make, join)
    assert answer["class"] == "SessionResponse"
    assert (answer["body"]["clearedExistingSession"], answer["body"]["newSession"]) == (True, False)
    presence = guest.expect("StructuredMessage")["body"]
    assert (presence["direction"], presence["events"][0]["presence"]["type"]) == ("Inbound", "SignIn")
    assert device.expect("ConnectionClosedEvent")["body"]["reason"] == "signedIn"
    guest.token = "new"
    guest.message("after")
    assert guest.expect("StructuredMessage")["body"]["metadata"]["authenticated"] == "true"
    guest.expect("StructuredMessage")
    assert "before" in [entity.get("text") for entity in guest.history()["entities"]]
    assert len(Control(sandbox).sessions()) == 1


def test_the_old_token_starts_a_new_session_after_the_sign_in(make: Make, join: Join) -> None:
    sandbox = signed_in_with_a_new_token(make, join)[0]
    stranger = join(sandbox, "old")
    assert stranger.configure()["newSession"] is True
    again = join(sandbox, "new")
    sign_in(again, exchange(sandbox)["jwt"])
    assert again.expect("SessionResponse")["body"]["newSession"] is False


def test_a_new_token_is_no_step_up_where_upgrades_are_off(make: Make, join: Join) -> None:
    sandbox = make(fast=True, deployment={**SIGN_IN, "session_upgrade": False})
    guest = join(sandbox, "old")
    guest.configure()
    sign_in(guest, exchange(sandbox)["jwt"], token="new")
    body = guest.expect("SessionResponse")["body"]
    assert (body["newSession"], body["clearedExistingSession"]) == (True, False)


def test_history_can_be_read_with_a_stale_token_after_sign_in(make: Make, join: Join) -> None:
    sandbox, guest, _, _ = signed_in_with_a_new_token(make, join)
    guest.expect("StructuredMessage")
    assert guest.token == "old"
    guest.send("getJwt")
    assert guest.expect("JwtResponse")["body"]["jwt"]
    guest.send("getJwt", token="third")
    guest.expect("JwtResponse")
    fresh = join(sandbox, "guest")
    fresh.configure()
    fresh.send("getJwt", token="old")
    fresh.expect_error(4007)


def test_an_echo_without_a_token_is_answered_and_reported(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.socket.send('{"action":"echo","message":{"type":"Text","text":"ping"}}')
    guest.expect_error(4020)
    guest.configure()
    guest.socket.send('{"action":"echo","message":{"type":"Text","text":"ping"}}')
    assert guest.expect("StructuredMessage")["body"]["text"] == "ping"
    (session,) = Control(sandbox).sessions()
    assert session["complaints"] == ["echo without a token"]


def test_echoes_carry_the_custom_attributes_of_their_message(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.configure()
    guest.message("Hi", channel={"metadata": {"customAttributes": {"plan": "gold"}}})
    body = guest.expect("StructuredMessage")["body"]
    assert body["channel"]["metadata"] == {"customAttributes": {"plan": "gold"}}
    guest.expect("StructuredMessage")
    guest.message("again")
    assert "metadata" not in guest.expect("StructuredMessage")["body"]["channel"]


def test_an_unknown_deployment_is_answered_on_the_socket(make: Make) -> None:
    guest = Stranger(make(), query=f"deploymentId={OTHER}")
    with guest:
        for action in ("configureSession", "getConfiguration"):
            guest.send(action, deploymentId=OTHER)
            guest.expect_error(400, "Deployment not found")


@pytest.mark.parametrize("query", ["", "deploymentId="])
def test_a_socket_without_a_deployment_is_refused(make: Make, query: str) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException):
        Stranger(make(), query=query)


@pytest.mark.parametrize("kind", ["On", "Off"])
def test_typing_can_begin_and_end(sandbox: Sandbox, join: Join, kind: str) -> None:
    guest = join(sandbox)
    guest.configure()
    guest.send("onMessage", message={"type": "Event", "events": [{"eventType": "Typing", "typing": {"type": kind}}]})
    guest.expect_nothing()


def test_several_buttons_can_be_answered_in_one_message(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.configure()
    buttons = [{"type": "QuickReply", "text": text, "payload": text} for text in ("a", "b")]
    guest.message(
        type="Structured", content=[{"contentType": "ButtonResponse", "buttonResponse": button} for button in buttons]
    )
    content = guest.expect("StructuredMessage")["body"]["content"]
    assert [item["buttonResponse"]["text"] for item in content] == ["a", "b"]


def test_published_answers_of_guest_sessions_have_no_guest_id(make: Make) -> None:
    sandbox = make(answers="published")
    sessions = sandbox.url + "/api/v2/guest/webmessaging/sessions"
    created = requests.post(sessions, json={"deploymentId": DEPLOYMENT_ID}, timeout=5).json()
    assert set(created) == {"webMessagingSessionId", "token"}
    bearer = {"Authorization": f"Bearer {created['token']}"}
    path = f"{sessions}/{created['webMessagingSessionId']}/messages"
    sent = requests.post(path, json={"text": "hi", "messageId": "m"}, headers=bearer, timeout=5).json()
    assert set(sent) == {"messageId"}
    assert requests.get(path, headers=bearer, timeout=5).json()["messages"][0]["text"] == "hi"


def test_published_answers_of_webmessaging_conversations_have_no_guest_id(make: Make) -> None:
    sandbox = make(answers="published")
    form = {"grant_type": "client_credentials"}
    client = (sandbox.client_id, sandbox.client_secret)
    access = requests.post(sandbox.url + "/oauth/token", data=form, auth=client, timeout=5).json()["access_token"]
    base = sandbox.url + "/api/v2/webmessaging/conversations"
    created = requests.post(base, json={}, headers={"Authorization": f"Bearer {access}"}, timeout=5).json()
    assert set(created) == {"conversationsId", "sessionToken"}
    bearer = {"Authorization": f"Bearer {created['sessionToken']}"}
    path = f"{base}/{created['conversationsId']}/messages"
    for extra, status in (({}, 200), ({"guestId": "another"}, 401)):
        answer = requests.post(path, json={"type": "text", "text": "hi", **extra}, headers=bearer, timeout=5)
        assert answer.status_code == status


def test_the_limit_of_guests_is_a_token_bucket(make: Make, hand_clock: HandClock) -> None:
    """After a burst of 200 the next request waits 0.3 s, not a minute."""
    sandbox = make(clock=hand_clock)
    path = sandbox.url + "/api/v2/guests/x/sessions/y/messages"
    with requests.Session() as http:
        assert [http.get(path, timeout=5).status_code for _ in range(201)].count(429) == 1
        hand_clock.advance(0.3)
        assert [http.get(path, timeout=5).status_code for _ in range(2)] == [404, 429]
