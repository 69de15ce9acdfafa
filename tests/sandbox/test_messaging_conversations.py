"""The `messaging-conversations` API as other-apis.md describes it, with an independent guest."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from guestctl.sandbox.server import Sandbox
from tests.sandbox.bare import Line, Registrant
from tests.sandbox.conftest import Make
from tests.sandbox.stranger import Control, HandClock

CONVERSATIONS = "/api/v2/messaging/conversations"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CREATE: dict[str, Any] = {
    "conversationName": "Web Guest Session",
    "routing": {"selectedQueueId": "q-1"},
    "attributes": {"custom": {"source": "typescript-client"}},
}


@pytest.mark.parametrize("token", ["", "placeholder"])
def test_create_is_public(sandbox: Sandbox, token: str) -> None:
    made = Registrant(sandbox).ask("POST", CONVERSATIONS, {**CREATE, "more": 1}, status=201, token=token)
    assert set(made) == {"id", "guestId", "guestToken", "routing"}
    assert made["routing"] == {"selectedQueueId": "q-1"}


@pytest.mark.parametrize(
    "path",
    [("conversationName",), ("routing",), ("routing", "selectedQueueId"), ("attributes",), ("attributes", "custom")],
)
@pytest.mark.parametrize("instead", [5, None])
def test_an_invalid_create_is_refused(sandbox: Sandbox, path: tuple[str, ...], instead: Any) -> None:
    body = copy.deepcopy(CREATE)
    holder = body
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = instead
    Registrant(sandbox).ask("POST", CONVERSATIONS, body, status=400)


def test_a_sent_message_reaches_socket_and_history(sandbox: Sandbox) -> None:
    guest = Registrant(sandbox)
    line = guest.listen()
    guest.say(line, "hi", "k-1")
    echo, answer = (line.hear(type="message")["message"] for _ in range(2))
    me = {"id": guest.guest, "name": "Guest"}
    bot = {"id": "bot", "name": "Bot"}
    assert echo == {
        "id": echo["id"],
        "type": "text",
        "from": me,
        "to": bot,
        "text": "hi",
        "timestamp": echo["timestamp"],
        "attributes": {"correlationId": "k-1"},
    }
    assert set(answer) == {"id", "type", "from", "to", "text", "timestamp"}
    assert (answer["from"], answer["to"]) == (bot, me)
    Control(sandbox)("POST", "/push", text="Ada here")
    assert line.hear()["message"]["from"] == {"id": "agent", "name": "Agent"}
    guest.say(line, "again", "k-1")
    assert line.hear()["message"] == echo
    assert guest.texts() == ["hi", "echo: hi", "Ada here"]


def test_history_is_paged_by_token(sandbox: Sandbox) -> None:
    guest = Registrant(sandbox)
    line = guest.listen()
    for number in range(60):
        guest.say(line, f"n{number}", f"k{number}")
        line.hear()
        line.hear()
    seen: list[Any] = []
    sizes = []
    query: dict[str, Any] = {}
    while True:
        page = guest.history(**query)
        seen += page["messages"]
        sizes.append(len(page["messages"]))
        if "nextPageToken" not in page:
            break
        query = {"nextPageToken": page["nextPageToken"]}
    assert sizes == [50, 50, 20]
    assert [m["timestamp"] for m in seen] == sorted({m["timestamp"] for m in seen})
    assert "nextPageToken" not in guest.history(limit=20, **query)
    wrong: dict[str, Any]
    for wrong in ({"nextPageToken": "x"}, {"nextPageToken": "page-999"}, {"limit": 0}, {"conversationId": "other"}):
        guest.history(status=400, **wrong)


@pytest.mark.parametrize(
    ("frame", "key"),
    [
        ({"type": "register"}, None),
        ({"type": "register", "conversationId": 5, "guestToken": "t"}, None),
        ({"type": "register", "conversationId": "nobody", "guestToken": "t"}, None),
        ({"type": "send"}, None),
        ({"type": "send", "message": "hi"}, None),
        ({"type": "send", "message": {"text": "hi"}}, None),
        ({"type": "send", "message": {"text": "hi", "attributes": {"correlationId": 5}}}, None),
        ({"type": "send", "message": {"text": 5, "attributes": {"correlationId": "k"}}}, "k"),
        ({"type": "send", "message": {"attributes": {"correlationId": "k"}}}, "k"),
    ],
)
def test_invalid_frames_are_answered_with_errors(sandbox: Sandbox, frame: dict[str, Any], key: str | None) -> None:
    guest = Registrant(sandbox)
    line = guest.listen()
    line.socket.send(json.dumps(frame))
    error = line.hear(type="error")
    assert isinstance(error["message"], str)
    assert error["code"] in ("bad.request", "not.found")
    assert error.get("correlationId") == key
    guest.say(line, "good", "k")
    assert line.hear()["message"]["text"] == "good"


# -- tokens


def test_an_invalid_token_closes_the_socket(make: Make, hand_clock: HandClock) -> None:
    sandbox = make(clock=hand_clock, fast=True)
    guest, other = Registrant(sandbox), Registrant(sandbox)
    line = Line(sandbox, "/ws")
    guest.say(line, "too early", "k")
    assert line.closed() == 1008
    own, guest.token = guest.token, other.token
    line = Line(sandbox, "/ws")
    guest.register(line)
    assert line.closed() == 1008
    guest.token = own
    hand_clock.advance(1800)
    line = Line(sandbox, "/ws")
    guest.register(line)
    assert line.closed() == 4001
    guest.refresh()  # an expired token of the conversation suffices for a refresh
    guest.listen()
    guest.token = other.token
    guest.refresh(status=401)


def test_a_second_register_keeps_the_socket_open(make: Make, hand_clock: HandClock) -> None:
    """A registration lasts as long as its own token. Without a new register after a refresh, the socket is closed."""
    sandbox = make(clock=hand_clock, fast=True, idle_timeout=0.0)
    guest = Registrant(sandbox)
    forgetful, line = guest.listen(), guest.listen()
    hand_clock.advance(1500)
    before = guest.token
    assert set(guest.refresh()) == {"guestToken"}
    assert guest.token != before
    guest.register(line, traceparent=TRACE)
    assert line.hear() == {"type": "registered"}
    hand_clock.advance(300)
    assert forgetful.closed() == 4001
    guest.say(line, "hi", "k-1")
    assert line.hear()["message"]["text"] == "hi"
    (session,) = Control(sandbox).sessions()
    assert (session["refreshes"], session["requests"]["socket"]) == (1, 3)
    assert session["traceparents"] == {"socket": TRACE}


def test_faults_of_a_send(make: Make) -> None:
    sandbox = make(fast=True)
    control = Control(sandbox)
    guest = Registrant(sandbox)
    line = guest.listen()
    control("POST", "/faults", specs=["ratelimit:on=send,times=1", "http:status=503,on=refresh,times=1"])
    guest.say(line, "one", "k-1")
    error = line.hear(type="error")
    assert (error["code"], error["correlationId"]) == ("too.many.requests", "k-1")
    guest.refresh(status=503)
    guest.refresh()
    control("POST", "/faults", specs=["unauthorized:on=send,times=1"])
    guest.say(line, "one", "k-1")
    assert line.closed() == 4001
    assert guest.texts() == []
    line = guest.listen()
    guest.say(line, "one", "k-1")
    assert line.hear()["message"]["text"] == "one"


def test_an_ended_conversation_refuses_every_request(sandbox: Sandbox) -> None:
    guest = Registrant(sandbox)
    Control(sandbox)("POST", "/end")
    line = Line(sandbox, "/ws")
    guest.register(line)
    assert line.hear(type="error")["code"] == "session.invalid"
    assert guest.refresh(status=409)["code"] == "session.invalid"
    guest.history()
