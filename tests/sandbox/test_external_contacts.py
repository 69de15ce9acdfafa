"""The `external-contacts` API as other-apis.md describes it, with an independent guest."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from guestctl.sandbox.server import Sandbox
from tests.sandbox.bare import ExternalContact, GuestSession, gone, refused
from tests.sandbox.stranger import Control

ADDRESSES = "/api/v2/conversations/messaging/addresses"


def test_create_returns_guest_and_token(sandbox: Sandbox) -> None:
    one, two = ExternalContact(sandbox), ExternalContact(sandbox)
    assert set(one.created) == {"guestId", "sessionToken"}
    assert one.guest != two.guest  # an address proves nothing: naming it does not give access to its transcript


def test_create_accepts_the_documented_body(sandbox: Sandbox) -> None:
    """The request has no content type."""
    answer = requests.post(sandbox.url + ADDRESSES, data=b'{"address":"email:ada@shop.example"}', timeout=5)
    assert answer.status_code == 201


@pytest.mark.parametrize(
    "body",
    [None, {}, [], {"address": 5}, {"address": ""}, {"address": "ada@shop.example"}, {"address": "email:ada"},
     {"address": "tel:+49301234"}, {"address": "email:a b@c"}],
)  # fmt: skip
def test_an_invalid_address_is_refused(sandbox: Sandbox, body: Any) -> None:
    guest = ExternalContact(sandbox)
    guest.ask("POST", ADDRESSES, body, status=400)
    assert len(Control(sandbox).sessions()) == 1


def test_a_message_sent_twice_is_stored_once(sandbox: Sandbox) -> None:
    guest = ExternalContact(sandbox)
    line = guest.listen()
    first = guest.send("once", "m-1")
    assert guest.send("once", "m-1") == first
    assert (first["messageId"], first["sequenceNumber"]) == ("m-1", 1)
    assert guest.texts() == ["once", "echo: once"]
    assert [line.hear()["message"]["text"] for _ in range(2)] == ["once", "echo: once"]
    line.hear_nothing()
    assert [m["text"] for m in guest.history(lastSequenceNumber=1)["messages"]] == ["echo: once"]


def test_the_socket_is_that_of_guest_sessions(sandbox: Sandbox) -> None:
    guest, other = ExternalContact(sandbox), GuestSession(sandbox)
    assert refused(sandbox, guest.socket)[0] == 401
    assert refused(sandbox, guest.socket, other.token)[0] == 401
    assert refused(sandbox, f"/v2/guest/webmessaging/events?guestId={other.guest}", other.token)[0] == 404
    assert refused(sandbox, f"/v2/guest/webmessaging/events?sessionId={guest.guest}", guest.token)[0] == 404


def test_a_broken_socket_does_not_lock_the_session(sandbox: Sandbox) -> None:
    """Only `guest-sessions` locks a session."""
    guest = ExternalContact(sandbox)
    guest.listen().tear()
    gone(sandbox)
    guest.send("at once")
    guest.listen()


def test_typing_is_accepted(sandbox: Sandbox) -> None:
    guest, other = ExternalContact(sandbox), GuestSession(sandbox)
    guest.typing()
    guest.token = other.token
    guest.typing(status=401)
    guest.guest = "nobody"
    guest.typing(status=404)
    requested = {session["api"]: session["requests"].get("typing", 0) for session in Control(sandbox).sessions()}
    assert requested == {"external-contacts": 2, "guest-sessions": 0}


def test_an_ended_conversation_refuses_every_request(sandbox: Sandbox) -> None:
    guest = ExternalContact(sandbox)
    Control(sandbox)("POST", "/end")
    for answer in (guest.send("late", status=409), guest.history(status=409)):
        assert answer["code"] == "session.invalid"
    assert refused(sandbox, guest.socket, guest.token)[1]["code"] == "session.invalid"
