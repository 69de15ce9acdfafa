"""The `webmessaging-conversations` API as other-apis.md describes it, with an independent guest."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from guestctl.sandbox.server import Sandbox
from tests.sandbox.bare import Poller, Profiled, refused
from tests.sandbox.conftest import Make
from tests.sandbox.stranger import Control, HandClock

CONVERSATIONS = "/api/v2/webmessaging/conversations"
INVALID = "Session token is invalid or expired"


def test_create_returns_ids_and_token(sandbox: Sandbox) -> None:
    guest = Poller(sandbox)
    assert set(guest.created) == {"conversationId", "guestId", "sessionToken", "expiresIn"}
    assert guest.created["expiresIn"] == 900
    guest.ask("POST", CONVERSATIONS, status=201, token=guest.access)
    guest.ask("POST", CONVERSATIONS, {"deploymentId": sandbox.deployment_id}, status=201, token=guest.access)
    guest.ask("POST", CONVERSATIONS, {"deploymentId": 5}, status=400, token=guest.access)
    guest.ask("POST", CONVERSATIONS, {"deploymentId": "other"}, status=403, token=guest.access)
    for token in ("", "nonsense", guest.token):
        guest.ask("POST", CONVERSATIONS, {}, status=401, token=token)
    other = Profiled(sandbox)
    assert guest.ask("POST", CONVERSATIONS, {}, status=403, token=other.access)["code"] == "missing.scope"


def test_a_sent_message_is_in_history(sandbox: Sandbox) -> None:
    guest = Poller(sandbox)
    first = guest.send("hi", "m-1")
    assert set(first) == {"id", "messageId", "timestamp"}
    assert guest.send("again", "m-1") == first
    assert guest.history()["messages"][0] == {
        "id": first["id"],
        "messageId": "m-1",
        "direction": "inbound",
        "text": "hi",
        "from": {"role": "guest"},
        "timestamp": first["timestamp"],
    }
    assert refused(sandbox, guest.messages, guest.token)[0] == 404


def test_the_documented_body_without_message_id_is_accepted(sandbox: Sandbox) -> None:
    guest = Poller(sandbox)
    body = {"type": "text", "text": "Hello from custom client", "guestId": guest.guest}
    one, two = (guest.ask("POST", guest.messages, body) for _ in range(2))
    assert one["id"] != two["id"]
    assert one["messageId"] != two["messageId"]


def test_refusals_have_their_documented_order(sandbox: Sandbox) -> None:
    """Each request corrects only the first mistake of the previous one."""
    guest = Poller(sandbox)
    url = sandbox.url + guest.messages
    body: dict[str, Any] = {"text": "Hello, I need help with my order.", "sessionToken": guest.token}

    def ask(kind: str, token: str | None) -> tuple[int, str]:
        headers = {"Content-Type": kind, **({"Authorization": f"Bearer {token}"} if token else {})}
        answer = requests.post(url, data=json.dumps(body), headers=headers, timeout=5)
        return answer.status_code, answer.json().get("message", "")

    assert ask("text/plain", None)[0] == 415
    assert ask("application/json; charset=utf-8", None)[0] == 415
    assert ask("application/json", None) == (401, INVALID)
    assert ask("application/json", "nonsense") == (401, INVALID)
    assert ask("application/json", guest.access) == (401, INVALID)
    assert ask("application/json", guest.token)[0] == 400
    body["type"] = "text"
    assert ask("application/json", guest.token) == (401, INVALID)
    body["guestId"] = "somebody"
    assert ask("application/json", guest.token)[0] == 401
    body["guestId"] = guest.guest
    assert ask("application/json", guest.token)[0] == 200
    assert guest.texts()[0] == "Hello, I need help with my order."


@pytest.mark.parametrize(
    "change", [{"type": "Text"}, {"type": 5}, {"text": 5}, {"text": ""}, {"text": None}, {"messageId": 5}]
)
def test_an_invalid_message_is_refused(sandbox: Sandbox, change: dict[str, Any]) -> None:
    guest = Poller(sandbox)
    body = {"type": "text", "text": "a", "guestId": guest.guest, "messageId": "m", **change}
    guest.ask("POST", guest.messages, body, status=400)
    assert guest.texts() == []


# -- refresh


def test_both_refresh_forms_return_a_new_token(make: Make, hand_clock: HandClock) -> None:
    guest = Poller(make(clock=hand_clock))
    guest.send("one")
    for refresh in (guest.refresh, guest.refresh_by_token):
        hand_clock.advance(900)
        guest.send("late", status=401)
        before = guest.token
        made = refresh()
        assert set(made) == {"sessionToken", "expiresIn"}
        assert guest.token != before
        guest.send("in time")
        if refresh == guest.refresh:
            guest.access = ""
    assert guest.texts()[::2] == ["one", "in time", "in time"]
    (session,) = Control(guest.sandbox).sessions()
    assert session["refreshes"] == 2


@pytest.mark.parametrize("style", ["guest-refresh", "guest-token"])
def test_one_refresh_form_can_be_selected(make: Make, style: str) -> None:
    guest = Poller(make(refresh_style=style))
    served, other = guest.refresh, guest.refresh_by_token
    if style == "guest-token":
        served, other = other, served
    other(status=404)
    served()


def test_a_refresh_needs_valid_credentials(sandbox: Sandbox) -> None:
    guest, other = Poller(sandbox), Poller(sandbox)
    path = f"{CONVERSATIONS}/{guest.id}/guests/{guest.guest}/refresh"
    for token in ("", "nonsense", guest.token):
        guest.ask("POST", path, {"guestId": guest.guest}, status=401, token=token)
    for body in ({}, None, {"guestId": other.guest}, {"guestId": 5}):
        guest.ask("POST", path, body, status=400, token=guest.access)
    wrong = path.replace(guest.guest, other.guest)
    guest.ask("POST", wrong, {"guestId": other.guest}, status=404, token=guest.access)
    path = f"{CONVERSATIONS}/{guest.id}/guest-token"
    body = {"conversationId": guest.id, "guestId": guest.guest}
    for token in ("", "nonsense", other.token, guest.access):
        guest.ask("POST", path, body, status=401, token=token)
    for change in ({"conversationId": other.id}, {"guestId": other.guest}, {"guestId": None}):
        guest.ask("POST", path, {**body, **change}, status=400)
    assert all(session["messages"] == [] for session in Control(sandbox).sessions())


def test_tokens_live_fifteen_minutes(make: Make) -> None:
    assert Poller(make(token_life=0.5)).created["expiresIn"] == 0.5
    assert Poller(make(token_life=5.0)).created["expiresIn"] == 5


def test_faults_of_a_refresh(make: Make) -> None:
    guest = Poller(make(faults=("http:status=503,on=refresh,times=1", "ratelimit:on=refresh,times=1")))
    guest.refresh(status=503)
    guest.refresh(status=429)
    guest.refresh()
    (session,) = Control(guest.sandbox).sessions()
    assert session["refreshes"] == 1
    assert Control(guest.sandbox)("GET", "/sessions")["requests"]["refresh"] == 3


def test_an_ended_conversation_refuses_every_request(sandbox: Sandbox) -> None:
    guest = Poller(sandbox)
    guest.send("one", "m-1")
    Control(sandbox)("POST", "/end")
    assert guest.send("one", "m-1", status=409)["code"] == "session.invalid"
    assert guest.refresh(status=409)["code"] == "session.invalid"
    assert guest.texts() == ["one", "echo: one"]
