"""The `conversation-guests` API as other-apis.md describes it, with an independent guest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guestctl.sandbox.server import Sandbox
from tests.sandbox.bare import GUESTS, ConversationGuest, Line, gone, refused
from tests.sandbox.conftest import Make
from tests.sandbox.stranger import Control, HandClock

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FORBIDDEN = {"type": "ERROR", "status": 403, "message": "Forbidden"}


def test_create_returns_ids_and_token(sandbox: Sandbox) -> None:
    guest = ConversationGuest(sandbox)
    assert set(guest.created) == {"conversationId", "guestId", "token"}
    for body in (None, {}, {"deploymentId": sandbox.deployment_id, "more": 1}):
        guest.ask("POST", GUESTS, body, status=201, token="whatever")
    for wrong, status in (
        ({"attributes": 5}, 400),
        ({"deploymentId": 5}, 400),
        ({"deploymentId": "x"}, 403),
        ("x", 400),
    ):
        guest.ask("POST", GUESTS, wrong, status=status)


def test_connect_works_on_the_three_documented_sockets(sandbox: Sandbox) -> None:
    guest, other = ConversationGuest(sandbox), ConversationGuest(sandbox)
    for path in (
        "/api/v2/conversations/webmessaging/websocket",
        f"{GUESTS}/{guest.guest}/ws",
        f"{GUESTS}/{guest.id}/messages",
    ):
        guest.reattach()
        line = guest.connect(path)
        assert line.hear() == {"type": "CONVERSATION_UPDATED", "conversationId": guest.id, "state": "connected"}
        guest.say(line, "hi", path)
        line.hear(type="MESSAGE_ACCEPTED", messageId=path)
    for path in (f"{GUESTS}/{guest.id}/ws", f"{GUESTS}/{guest.guest}/messages", f"{GUESTS}/nobody/ws"):
        assert refused(sandbox, path)[0] == 404
    guest.connect(f"{GUESTS}/{other.guest}/ws").hear(type="ERROR", status=400)


def test_a_sent_message_is_accepted_then_received(sandbox: Sandbox) -> None:
    guest = ConversationGuest(sandbox)
    line, other = guest.listen(), guest.listen()
    guest.say(line, "hi", "m-1")
    accepted = line.hear()
    message = line.hear(type="MESSAGE_RECEIVED")["message"]
    assert accepted == {
        "type": "MESSAGE_ACCEPTED",
        "messageId": "m-1",
        "id": message["id"],
        "timestamp": message["timestamp"],
    }
    assert message == {
        "id": message["id"],
        "messageId": "m-1",
        "direction": "inbound",
        "text": "hi",
        "from": {"role": "guest"},
        "timestamp": message["timestamp"],
    }
    assert line.hear()["message"]["text"] == "echo: hi"
    guest.say(other, "hi again", "m-1")
    assert [other.hear()["type"] for _ in range(3)] == ["MESSAGE_RECEIVED", "MESSAGE_RECEIVED", "MESSAGE_ACCEPTED"]
    line.hear_nothing()
    assert guest.texts() == ["hi", "echo: hi"]


def test_connect_replays_no_messages(sandbox: Sandbox) -> None:
    guest = ConversationGuest(sandbox)
    Control(sandbox)("POST", "/push", text="missed")
    guest.listen().hear_nothing()
    assert guest.texts() == ["missed"]


@pytest.mark.parametrize(
    ("frame", "key"),
    [
        ({"type": "CONNECT"}, None),
        ({"type": "CONNECT", "conversationId": "c", "guestId": "g", "token": 5}, None),
        ({"type": "CONNECT", "conversationId": "c", "guestId": "g", "token": "t"}, None),
        ({"type": "SEND_MESSAGE", "text": "a"}, None),
        ({"type": "SEND_MESSAGE", "messageId": 5, "text": "a"}, None),
        ({"type": "SEND_MESSAGE", "messageId": "m", "text": 5}, "m"),
        ({"type": "SEND_MESSAGE", "messageId": "m"}, "m"),
        ({"type": "SEND_MESSAGE", "messageId": "m", "text": "a"}, "m"),
        ({"type": "SEND_MESSAGE", "conversationId": "other", "messageId": "m", "text": "a"}, "m"),
    ],
)
def test_invalid_frames_are_answered_with_errors(sandbox: Sandbox, frame: dict[str, Any], key: str | None) -> None:
    guest = ConversationGuest(sandbox)
    line = guest.listen()
    line.socket.send(json.dumps(frame))
    error = line.hear(type="ERROR")
    assert error["status"] in (400, 403, 404)
    assert error.get("messageId") == key
    guest.say(line, "good", "m")
    line.hear(type="MESSAGE_ACCEPTED")
    assert guest.texts()[0] == "good"


def test_connect_needs_a_live_token_of_the_conversation(make: Make, hand_clock: HandClock) -> None:
    sandbox = make(clock=hand_clock, fast=True)
    guest, other = ConversationGuest(sandbox), ConversationGuest(sandbox)
    own = guest.token
    for wrong in (other.token, "nonsense"):
        guest.token = wrong
        line = guest.connect()
        assert line.hear() == {"type": "ERROR", "status": 401, "message": "Unauthorized"}
        assert line.closed() == 1008
    guest.token = own
    guest.guest, real = other.guest, guest.guest
    guest.connect().hear(type="ERROR", status=404)
    guest.guest = real
    hand_clock.advance(1800)
    line = guest.connect()
    line.hear(type="ERROR", status=401)
    assert line.closed() == 4001


def test_a_send_before_connect_is_refused(sandbox: Sandbox) -> None:
    guest = ConversationGuest(sandbox)
    line = Line(sandbox, "/api/v2/conversations/webmessaging/websocket")
    guest.say(line, "too early", "m-1")
    assert line.hear() == {**FORBIDDEN, "messageId": "m-1"}
    assert guest.texts() == []


# -- tokens that serve one socket


@pytest.mark.parametrize("way", ["leave", "tear"])
def test_a_token_of_a_closed_socket_connects_but_cannot_send(sandbox: Sandbox, way: str) -> None:
    guest = ConversationGuest(sandbox)
    getattr(guest.listen(), way)()
    gone(sandbox)
    line = guest.connect()
    line.hear(type="CONVERSATION_UPDATED", state="connected")
    guest.say(line, "lost", "m-1")
    assert line.hear() == {**FORBIDDEN, "messageId": "m-1"}
    Control(sandbox)("POST", "/push", text="still heard")
    line.hear(type="MESSAGE_RECEIVED")
    assert guest.texts() == ["still heard"]
    before = guest.token
    made = guest.reattach()
    assert (made["conversationId"], made["guestId"]) == (guest.id, guest.guest)
    assert made["token"] != before
    line = guest.connect()
    line.hear(type="CONVERSATION_UPDATED")
    guest.say(line, "lost", "m-1")
    line.hear(type="MESSAGE_ACCEPTED", messageId="m-1")
    (session,) = Control(sandbox).sessions()
    assert (session["refreshes"], session["configures"], session["requests"]["socket"]) == (1 + 1, 1, 3)


def test_a_second_connect_with_a_new_token_restores_sending(sandbox: Sandbox) -> None:
    guest = ConversationGuest(sandbox)
    guest.listen().leave()
    gone(sandbox)
    line = guest.connect()
    line.hear(type="CONVERSATION_UPDATED")
    guest.reattach()
    line.say(type="CONNECT", conversationId=guest.id, guestId=guest.guest, token=guest.token)
    line.hear(type="CONVERSATION_UPDATED")
    guest.say(line, "hi", "m-1")
    assert [line.hear()["type"] for _ in range(3)] == ["MESSAGE_ACCEPTED", "MESSAGE_RECEIVED", "MESSAGE_RECEIVED"]
    line.hear_nothing()


def test_open_sockets_survive_a_reattach_and_the_expiry_of_the_old_token(make: Make, hand_clock: HandClock) -> None:
    sandbox = make(clock=hand_clock, fast=True, idle_timeout=0.0)
    guest = ConversationGuest(sandbox)
    first = guest.connect()
    first.hear(type="CONVERSATION_UPDATED")
    second = guest.connect()  # one token, two sockets
    second.hear(type="CONVERSATION_UPDATED")
    second.leave()
    gone(sandbox, left=1)
    hand_clock.advance(1000)
    guest.reattach()
    hand_clock.advance(1000)  # the first token has expired
    guest.say(first, "still here", "m-1")
    first.hear(type="MESSAGE_ACCEPTED")


def test_reattach_returns_a_new_token(make: Make, hand_clock: HandClock) -> None:
    sandbox = make(clock=hand_clock)
    guest, other = ConversationGuest(sandbox), ConversationGuest(sandbox)
    hand_clock.advance(1800)
    guest.history(status=401)
    old = guest.token
    guest.reattach()  # with an expired token
    guest.history()
    guest.token = old
    guest.reattach()  # and again
    for ids in ({"conversationId": guest.id}, {"guestId": guest.guest}, {"conversationId": 5, "guestId": guest.guest}):
        guest.ask("POST", GUESTS, ids, status=400)
    guest.ask("POST", GUESTS, {"conversationId": guest.id, "guestId": other.guest}, status=404)
    guest.ask("POST", GUESTS, {"conversationId": "nobody", "guestId": guest.guest}, status=404)
    for token in ("", "nonsense", other.token):
        guest.ask("POST", GUESTS, {"conversationId": guest.id, "guestId": guest.guest}, status=401, token=token)
    Control(sandbox)("POST", "/end")
    assert guest.reattach(status=409)["code"] == "session.invalid"
    guest.history()


# -- the rest


def test_traces_on_connect_and_reconnect(sandbox: Sandbox) -> None:
    guest = ConversationGuest(sandbox)
    for number in ("01", "00"):
        line = guest.connect(traceparent=TRACE[:-2] + number)
        line.hear(type="CONVERSATION_UPDATED")
        (session,) = Control(sandbox).sessions()
        assert session["traceparents"] == {"socket": TRACE[:-2] + number}
    body = {"conversationId": guest.id, "guestId": guest.guest}
    guest.ask("POST", GUESTS, body, headers={"traceparent": TRACE})
    (session,) = Control(sandbox).sessions()
    assert session["traceparent"] == session["traceparents"]["refresh"] == TRACE


def test_faults_of_a_send_and_of_a_reattach(make: Make) -> None:
    sandbox = make(fast=True)
    control = Control(sandbox)
    guest = ConversationGuest(sandbox)
    line = guest.listen()
    control("POST", "/faults", specs=["unauthorized:on=send,times=1", "http:status=503,on=refresh,times=1"])
    guest.say(line, "one", "m-1")
    assert line.hear(type="ERROR", status=401)["messageId"] == "m-1"
    guest.reattach(status=503)
    guest.reattach()
    guest.say(line, "one", "m-1")
    line.hear(type="MESSAGE_ACCEPTED")
    control("POST", "/faults", specs=["drop:code=1006,on=send,after=1"])
    guest.say(line, "two", "m-2")
    line.hear(type="MESSAGE_RECEIVED")
    line.hear(type="MESSAGE_RECEIVED")
    assert line.closed() == 1006
    assert guest.texts() == ["one", "echo: one", "two", "echo: two"]


def test_the_end_is_announced_before_the_close(sandbox: Sandbox) -> None:
    guest = ConversationGuest(sandbox)
    Control(sandbox)("POST", "/end")
    line = guest.connect()
    assert line.hear(type="ERROR")["status"] == 409
