"""The web-messaging API with an independent guest: literal frames in, documented frames out.

Sections are those of web-messaging.md.
"""

from __future__ import annotations

import gc
import json
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
import requests
import websocket

from guestctl.sandbox import DEPLOYMENT_ID
from guestctl.sandbox.bot.bot_script import load
from guestctl.sandbox.bot.bots import BotAction, EchoBot, ScriptedBot
from guestctl.sandbox.server import Sandbox
from tests.sandbox.bare import gone
from tests.sandbox.conftest import Make
from tests.sandbox.published import check_error, check_frame
from tests.sandbox.stranger import PATIENCE, Control, HandClock, Join, Stranger, history

OTHER = "11111111-2222-4333-8444-555555555555"


class Greeter(EchoBot):
    """A bot that greets, echoes, and answers `bye` with goodbye."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def greeting(self, attributes: Mapping[str, str]) -> list[BotAction]:
        return [BotAction("typing", name="Helper"), BotAction("message", text="Hello!", name="Helper")]

    def reply_to(
        self, text: str, *, payload: str | None, attributes: Mapping[str, str], count: int, memory: dict[str, Any]
    ) -> list[BotAction]:
        if text == "bye":
            return [BotAction("message", text="So long"), BotAction("disconnect")]
        return super().reply_to(text, payload=payload, attributes=attributes, count=count, memory=memory)


def scripted(text: str) -> ScriptedBot:
    return load(text, "bot.yaml", delay=0.0)


def event_of(frame: Any) -> str:
    (event,) = frame["body"]["events"]
    return str(event["presence"]["type"])


# -- §13


def test_a_whole_conversation(make: Make, join: Join) -> None:
    sandbox = make(auto_start=True, bot=Greeter())
    guest = join(sandbox)
    literal = guest.socket.send

    literal(
        f'{{"action":"configureSession","deploymentId":"{DEPLOYMENT_ID}","token":"T","startNew":false,"tracingId":"a1"}}'
    )
    opened = guest.expect("SessionResponse")
    assert opened["tracingId"] == "a1"
    assert (opened["body"]["connected"], opened["body"]["newSession"], opened["body"]["readOnly"]) == (
        True,
        True,
        False,
    )

    literal(
        '{"action":"onMessage","token":"T","tracingId":"a2","message":{"type":"Event",'
        '"events":[{"eventType":"Presence","presence":{"type":"Join"}}]}}'
    )
    joined = guest.expect("StructuredMessage")
    assert (joined["tracingId"], joined["type"], joined["body"]["direction"]) == ("a2", "message", "Inbound")
    assert event_of(joined) == "Join"
    typing = guest.expect("StructuredMessage")["body"]
    assert typing["events"] == [{"eventType": "Typing", "typing": {"type": "On", "duration": 5000}}]
    greeting = guest.expect("StructuredMessage")["body"]
    assert (greeting["text"], greeting["direction"], greeting["originatingEntity"]) == ("Hello!", "Outbound", "Bot")
    assert greeting["channel"]["from"] == {"nickname": "Helper"}

    literal('{"action":"onMessage","token":"T","tracingId":"a3","message":{"type":"Text","text":"Hi"}}')
    echo = guest.expect("StructuredMessage")
    assert (echo["type"], echo["tracingId"], echo["body"]["direction"], echo["body"]["text"]) == (
        "message", "a3", "Inbound", "Hi",
    )  # fmt: skip
    assert guest.expect("StructuredMessage")["body"]["text"] == "echo: Hi"

    mark = "SGVhbHRoQ2hlY2tNZXNzYWdlSWQ="
    literal(f'{{"action":"echo","token":"T","tracingId":"{mark}","message":{{"type":"Text","text":"ping"}}}}')
    health = guest.expect("StructuredMessage")
    assert (health["type"], health["tracingId"], health["body"]["text"]) == ("response", mark, "ping")
    assert health["body"]["direction"] == "Inbound"
    assert health["body"]["metadata"]["durationSeconds"] == "259200"
    moved = int(health["body"]["metadata"]["expirationDate"]) - opened["body"]["expirationDate"]
    assert 0 <= moved <= 60, "each message moves the end of the session on, by the time that has passed"

    literal('{"action":"getJwt","token":"T","tracingId":"a4"}')
    answer = guest.expect("JwtResponse")
    assert answer["tracingId"] == "a4"
    page = history(sandbox, answer["body"]["jwt"], pageNumber=1, pageSize=25)
    assert [entity.get("text") or entity["events"][0]["presence"]["type"] for entity in page["entities"]] == [
        "echo: Hi", "Hi", "Hello!", "Join",
    ]  # fmt: skip

    Control(sandbox)("POST", "/end")
    ended = guest.expect("StructuredMessage")["body"]
    assert (ended["direction"], event_of({"body": ended}), ended["metadata"]["readOnly"]) == (
        "Outbound",
        "Disconnect",
        "true",
    )
    guest.socket.close(1000)


# -- §2: the handshake


@pytest.mark.parametrize(
    ("query", "origin", "domains"),
    [
        ("", None, ()),
        ("deploymentId=", None, ()),
        (f"deploymentId={OTHER}", None, ()),
        (f"deploymentId={DEPLOYMENT_ID}", "https://evil.example", ("shop.example",)),
        (f"deploymentId={DEPLOYMENT_ID}", "https://notshop.example", ("shop.example",)),
        (f"deploymentId={DEPLOYMENT_ID}", None, ("shop.example",)),
    ],
)
def test_refused_upgrade(make: Make, query: str, origin: str | None, domains: tuple[str, ...]) -> None:
    sandbox = make(origins=domains, unknown_deployment="refused")
    options = {"origin": origin} if origin else {"suppress_origin": True}
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        Stranger(sandbox, query=query, **options)
    assert refused.value.status_code == 403
    assert json.loads(refused.value.resp_body or b"") == {
        "message": "User is not authorized to access this resource with an explicit deny"
    }


@pytest.mark.parametrize("origin", ["https://shop.example", "shop.example", "HTTP://WWW.Shop.Example:8443"])
def test_allowed_origins(make: Make, join: Join, origin: str) -> None:
    """Scheme, port and case do not matter; subdomains are included; Java sends no scheme (§2.3)."""
    sandbox = make(origins=("shop.example",))
    guest = join(sandbox, origin=origin, header={"deploymentId": DEPLOYMENT_ID, "X-Whatever": "1"})
    assert guest.configure()["connected"]


def test_any_origin_by_default_and_application_is_ignored(sandbox: Sandbox, join: Join) -> None:
    query = f"deploymentId={DEPLOYMENT_ID}&application=YourClient-1.2.3&more=1"
    assert join(sandbox, origin="https://anything.example", query=query).configure()["newSession"]
    assert join(sandbox, suppress_origin=True).configure()


# -- §5.1: what configure returns


def read_only(sandbox: Sandbox, guest: Stranger) -> None:
    guest.message("bye")
    for _ in range(3):
        guest.expect("StructuredMessage")


STATES = ["never seen", "active", "expired", "read-only", "cleared"]


@pytest.mark.parametrize("start_new", [None, False, True])
@pytest.mark.parametrize("state", STATES)
def test_start_new_table(make: Make, join: Join, state: str, start_new: bool | None) -> None:
    sandbox = make(fast=True, bot=Greeter())
    control = Control(sandbox)
    if state != "never seen":
        first = join(sandbox)
        first.configure()
        first.message("before")
        first.expect("StructuredMessage")
        first.expect("StructuredMessage")
        if state == "expired":
            control("POST", "/expire")
        elif state == "read-only":
            read_only(sandbox, first)
        elif state == "cleared":
            first.event("Presence", "Clear")
            first.expect("StructuredMessage")
            first.expect("SessionClearedEvent")
        first.socket.close()
    guest = join(sandbox)
    answer = guest.configure(**({} if start_new is None else {"startNew": start_new}))
    resumed = state in ("active", "read-only") and not start_new
    assert answer["connected"] is True
    assert answer["newSession"] is not resumed
    assert answer["readOnly"] is (state == "read-only" and resumed)
    guest.expect_nothing()  # no replay of old messages (§11.3)
    kept = resumed or (state == "expired" and not start_new)
    texts = guest.texts()
    assert "before" in texts if kept else texts == []
    if start_new and state in ("active", "read-only"):
        assert len({session["id"] for session in control.sessions()}) == 2


def test_session_response_again_on_the_same_socket(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    assert guest.configure()["newSession"] is True
    assert guest.configure()["newSession"] is False
    assert len(Control(sandbox).sessions()) == 1
    assert Control(sandbox).sessions()[0]["configures"] == 2


def test_closing_does_not_end_the_conversation(sandbox: Sandbox, join: Join) -> None:
    first = join(sandbox)
    first.configure()
    first.message("kept")
    first.expect("StructuredMessage")
    first.expect("StructuredMessage")
    first.socket.close(1000)
    second = join(sandbox)
    assert second.configure()["newSession"] is False
    assert second.texts() == ["echo: kept", "kept"]


def test_start_new_hides_old_messages_and_closes_other_sockets(sandbox: Sandbox, join: Join) -> None:
    first, second = join(sandbox), join(sandbox)
    first.configure()
    second.configure()
    first.message("old")
    old = first.expect("StructuredMessage")["body"]["channel"]["time"]
    second.expect("StructuredMessage")
    for guest in (first, second):
        guest.expect("StructuredMessage")
    jwt = first.jwt()
    assert first.configure(startNew=True)["newSession"]
    second.expect("ConnectionClosedEvent")
    assert first.texts() == []
    history(sandbox, jwt, 401)
    first.message("new")
    assert first.expect("StructuredMessage")["body"]["channel"]["time"] > old


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"deploymentId": None}, 4020),
        ({"deploymentId": OTHER}, 403),
        ({"token": None}, 4020),
        ({"token": ""}, 4020),
        ({"token": "x" * 2049}, 400),
        ({"startNew": "yes"}, 400),
    ],
)
def test_an_invalid_configure_is_refused(sandbox: Sandbox, join: Join, fields: dict[str, Any], code: int) -> None:
    guest = join(sandbox)
    wanted = {"action": "configureSession", "deploymentId": DEPLOYMENT_ID, "token": "T", "tracingId": "t"} | fields
    guest.socket.send(json.dumps({key: value for key, value in wanted.items() if value is not None}))
    assert guest.expect_error(code)["tracingId"] == "t"


def test_the_longest_token_is_accepted(sandbox: Sandbox, join: Join) -> None:
    assert join(sandbox, "x" * 2048).configure()["connected"]


# -- §11.3: which socket receives what


def test_messages_reach_every_socket_of_the_token_and_no_other(sandbox: Sandbox, join: Join) -> None:
    first, second, foreign = join(sandbox), join(sandbox), join(sandbox, "U")
    for guest in (first, second, foreign):
        guest.configure()
    first.message("Hi", "a1")
    heard = [[guest.receive() for _ in range(2)] for guest in (first, second)]
    assert heard[0] == heard[1]
    assert [frame.get("tracingId") for frame in heard[0]] == ["a1", None]
    foreign.expect_nothing()


@pytest.mark.parametrize("action", ["echo", "getJwt", "getConfiguration", "onAttachment"])
def test_answers_go_to_the_caller_only(sandbox: Sandbox, join: Join, action: str) -> None:
    first, second = join(sandbox), join(sandbox)
    first.configure()
    second.configure()
    more: dict[str, dict[str, Any]] = {
        "echo": {"message": {"type": "Text", "text": "ping"}},
        "getConfiguration": {"deploymentId": DEPLOYMENT_ID},
        "onAttachment": {"fileName": "a.png", "fileType": "image/png", "fileSize": 3},
    }
    first.send(action, tracingId="t", **more.get(action, {}))
    frame = first.receive()
    assert (frame["type"], frame["tracingId"]) == ("response", "t")
    second.expect_nothing()


def test_typing_has_no_reply(sandbox: Sandbox, join: Join) -> None:
    first, second = join(sandbox), join(sandbox)
    first.configure()
    second.configure()
    first.event("Typing", "On")
    first.expect_nothing()
    second.expect_nothing()
    assert first.history()["total"] == 0


def test_faults_on_typing_affect_the_bots_typing(make: Make, join: Join) -> None:
    sandbox = make(fast=True, bot=scripted("otherwise: {typing: true, reply: Hi}"))
    guest = join(sandbox)
    guest.configure()
    Control(sandbox)("POST", "/faults", specs=["duplicate:on=typing"])
    guest.message("hello")
    assert [guest.expect("StructuredMessage")["body"]["type"] for _ in range(4)] == ["Text", "Event", "Event", "Text"]


def test_typing_is_refused_when_disabled(make: Make, join: Join) -> None:
    guest = join(make(typing=False))
    guest.configure()
    guest.event("Typing", "On")
    guest.expect_error(403, "Turn on the Feature Toggle or fix the configuration.")


def test_clear_ends_the_conversation(sandbox: Sandbox, join: Join) -> None:
    guests = [join(sandbox), join(sandbox)]
    for guest in guests:
        guest.configure()
    guests[0].message("gone")
    for guest in guests:
        guest.expect("StructuredMessage")
        guest.expect("StructuredMessage")
    jwt = guests[0].jwt()
    guests[0].send(
        "onMessage",
        tracingId="c1",
        message={"type": "Event", "events": [{"eventType": "Presence", "presence": {"type": "Clear"}}]},
    )
    for guest in guests:
        echo = guest.expect("StructuredMessage")
        assert (event_of(echo), echo["body"]["direction"], echo["tracingId"]) == ("Clear", "Inbound", "c1")
        guest.expect("SessionClearedEvent")
        guest.expect("ConnectionClosedEvent")
    history(sandbox, jwt, 401)
    guests[0].message("too late")
    guests[0].expect_error(4007)
    assert guests[1].expect_close() == 1000  # a client that does not close is closed


def test_clear_is_refused_when_disabled(make: Make, join: Join) -> None:
    guest = join(make(clear=False))
    guest.configure()
    guest.event("Presence", "Clear")
    guest.expect_error(403, "Presence events Conversation Clear are not supported")
    guest.message("still here")
    guest.expect("StructuredMessage")


def test_close_session_and_start_a_new_chat_on_the_same_socket(make: Make, join: Join) -> None:
    """The Transport SDK needs `connected: false` and `readOnly: true` in between (§10.6)."""
    sandbox = make(fast=True, bot=Greeter())
    first, second = join(sandbox), join(sandbox)
    first.configure()
    second.configure()
    read_only(sandbox, first)
    for _ in range(3):
        second.expect("StructuredMessage")
    first.send("closeSession", tracingId="x")
    first.expect_error(4020, "closeAllConnections")
    first.send("closeSession", closeAllConnections=True, tracingId="x")
    answer = first.expect("SessionResponse")
    assert answer["tracingId"] == "x"
    assert [answer["body"][key] for key in ("connected", "readOnly", "newSession")] == [False, True, False]
    second.expect("ConnectionClosedEvent")
    first.message("not yet")
    first.expect_error(4007)
    answer = first.configure(startNew=True)
    assert [answer[key] for key in ("connected", "readOnly", "newSession")] == [True, False, True]


def test_a_socket_cannot_configure_after_its_closed_event(sandbox: Sandbox, join: Join) -> None:
    first, second = join(sandbox), join(sandbox)
    first.configure()
    second.configure()
    first.send("closeSession", closeAllConnections=True)
    first.expect("SessionResponse")
    second.expect("ConnectionClosedEvent")
    second.send("configureSession", deploymentId=DEPLOYMENT_ID)
    second.expect_error(4007, "given up")
    assert second.expect_close() == 1000
    assert first.configure()["connected"]


@pytest.mark.parametrize(("policy", "marked"), [("ReadOnly", True), ("Send", False)])
def test_an_ended_conversation_is_read_only(make: Make, join: Join, policy: str, marked: bool) -> None:
    guest = join(make(fast=True, disconnect=policy, bot=Greeter()))
    guest.configure()
    guest.message("bye")
    guest.expect("StructuredMessage")
    assert guest.expect("StructuredMessage")["body"]["text"] == "So long"
    ended = guest.expect("StructuredMessage")
    assert (event_of(ended), ended["body"]["direction"]) == ("Disconnect", "Outbound")
    assert ("readOnly" in ended["body"]["metadata"]) is marked
    guest.message("more", "m")
    if marked:
        assert guest.expect_error(409, "Session is read-only, no new messages allowed")["tracingId"] == "m"
        assert guest.history()["total"] == 3  # reading stays allowed (§5.8)
    else:
        assert guest.expect("StructuredMessage")["body"]["text"] == "more"


@pytest.mark.parametrize("agent", [False, True])
@pytest.mark.parametrize("policy", ["Send", "off"])
def test_a_message_after_the_end_starts_a_new_conversation(make: Make, join: Join, policy: str, agent: bool) -> None:
    """A message after the end belongs to a new conversation that the bot does not know (§10.6)."""
    bot = scripted(
        "rules: [{equals: bye, disconnect: true}, {equals: hi, times: 1, reply: Hello}, "
        "{equals: human, reply: Wait, handover: {name: Mina}}]\notherwise: Enough"
    )
    sandbox = make(fast=True, deployment={"disconnect": policy}, bot=bot, agent=agent)
    guest = join(sandbox)
    guest.configure()
    for _ in range(2):
        for text, answer in (("hi", "Hello"), ("hi", "Enough"), ("human", "Wait")):
            guest.message(text)
            guest.expect("StructuredMessage")
            body = guest.expect("StructuredMessage")["body"]
            assert (body["text"], body["originatingEntity"]) == (answer, "Bot")
        if agent:
            Control(sandbox)("POST", "/end")
        else:
            guest.message("bye")
            guest.expect("StructuredMessage")
        if policy == "Send":
            assert event_of(guest.expect("StructuredMessage")) == "Disconnect"


def test_the_end_is_not_announced_when_disconnect_is_off(make: Make, join: Join) -> None:
    guest = join(make(fast=True, deployment={"disconnect": "off"}, bot=Greeter()))
    guest.configure()
    guest.message("bye")
    guest.expect("StructuredMessage")
    guest.expect("StructuredMessage")
    guest.expect_nothing()


def test_expiry_is_pushed_and_refuses_requests(make: Make, join: Join, hand_clock: HandClock) -> None:
    sandbox = make(clock=hand_clock, session_life=100, idle_timeout=0, socket_life=0)
    first, second = join(sandbox), join(sandbox)
    assert first.configure()["expirationDate"] == int(hand_clock.at) + 100
    second.configure()
    hand_clock.advance(99)
    first.message("extends")
    for guest in (first, second):
        guest.expect("StructuredMessage")
        guest.expect("StructuredMessage")
    hand_clock.advance(99)
    first.send("echo", message={"type": "Text", "text": "ping"})
    first.expect("StructuredMessage")  # an echo does not extend the session
    hand_clock.advance(2)
    for guest in (first, second):
        assert guest.expect("SessionExpiredEvent")["type"] == "message"
    for action in ("echo", "onMessage"):
        first.send(action, message={"type": "Text", "text": "late"}, tracingId="e")
        answer = first.expect("SessionExpiredEvent")
        assert (answer["type"], answer["tracingId"]) == ("response", "e")
    assert first.configure()["newSession"] is True


def test_a_fourth_socket_closes_the_oldest(sandbox: Sandbox, join: Join) -> None:
    guests = [join(sandbox) for _ in range(3)]
    for guest in guests:
        guest.configure()
    guests[0].configure()  # again on the same socket: no fourth
    guests[0].expect_nothing()
    fourth = join(sandbox)
    fourth.configure()
    guests[0].expect("ConnectionClosedEvent")
    for guest in (guests[1], guests[2]):
        guest.expect_nothing()
    fourth.message("three of us")
    for guest in (guests[1], guests[2], fourth):
        guest.expect("StructuredMessage")
    assert guests[0].expect_close() == 1000
    assert Control(sandbox).sessions()[0]["sockets"] == 3


def test_a_delayed_closed_event_precedes_the_close(sandbox: Sandbox, join: Join) -> None:
    guests = [join(sandbox) for _ in range(3)]
    for guest in guests:
        guest.configure()
    Control(sandbox)("POST", "/faults", specs=["delay:ms=1200,times=1"])
    join(sandbox).configure()
    guests[0].expect("ConnectionClosedEvent")
    assert guests[0].expect_close() == 1000


# -- §4, §11.1: invalid requests


@pytest.mark.parametrize(
    ("literal", "code"),
    [
        ("{", 400),
        ("[]", 400),
        ("1", 400),
        ("[" * 100_000, 1009),
        ("[" * 30_000, 400),
        ("[" * 15_000 + "]" * 15_000, 400),
        ('{"\\u0061":' * 2_000 + "1" + "}" * 2_000, 400),
        ('{"action":"echo","token":"T","message":{"type":"Text","text":"x"},"n":NaN}', 400),
        ('{"action":"' + "x" * 30_000 + '"}', 400),
        ("{}", 400),
        ('{"action":"dance","token":"T"}', 400),
        ('{"action":["onMessage"],"token":"T"}', 400),
        ('{"action":"disconnectCustomer","token":"T"}', 400),
        ('{"action":"onMessage","token":"T","message":{"type":"Text","text":"\\ud800"}}', 400),
        ('{"action":"onMessage","message":{"type":"Text","text":"x"}}', 4020),
        ('{"action":"onMessage","token":"T"}', 4020),
        ('{"action":"onMessage","token":"T","message":[]}', 4020),
        ('{"action":"onMessage","token":"U","message":{"type":"Text","text":"x"}}', 4007),
        ('{"action":"onMessage","token":"T","message":{"type":"Text"}}', 400),
        ('{"action":"onMessage","token":"T","message":{"type":"Text","text":" \\n "}}', 400),
        ('{"action":"onMessage","token":"T","message":{"type":"Text","text":5}}', 400),
        ('{"action":"onMessage","token":"T","message":{"type":"Text","text":"x","content":{}}}', 400),
        ('{"action":"onMessage","token":"T","message":{"type":"Text","text":"x","content":[3]}}', 400),
        (
            '{"action":"onMessage","token":"T","message":{"type":"Text","text":"x","content":[{"contentType":"Card"}]}}',
            400,
        ),
        ('{"action":"onMessage","token":"T","message":{"type":"Text","text":"x","metadata":{"a":1}}}', 400),
        ('{"action":"onMessage","token":"T","message":{"type":"Receipt","text":"x"}}', 400),
        ('{"action":"onMessage","token":"T","message":{"type":"Event"}}', 400),
        ('{"action":"onMessage","token":"T","message":{"type":"Event","events":[]}}', 400),
        ('{"action":"onMessage","token":"T","message":{"type":"Event","events":[{"eventType":"Typing"}]}}', 400),
        ('{"action":"onMessage","token":"T","message":{"type":"Event","events":[{"eventType":"Dance"}]}}', 403),
        (
            '{"action":"onMessage","token":"T","message":{"type":"Event","events":'
            '[{"eventType":"Presence","presence":{"type":"SignIn"}}]}}',
            400,
        ),
        ('{"action":"getJwt","token":"T","tracingId":5}', 400),
        ('{"action":"onMessage","token":"T","channel":5,"message":{"type":"Text","text":"x"}}', 400),
        ('{"action":"onMessage","token":"T","message":{"type":"Text","text":"x","channel":[]}}', 400),
        ('{"action":"onMessage","token":"T","message":{"type":"Text","text":"x","channel":{"metadata":"x"}}}', 400),
        ('{"action":"echo","token":"T"}', 4020),
        ('{"action":"getConfiguration","token":"T"}', 4020),
        ('{"action":"getConfiguration","token":"T","deploymentId":"D"}', 403),
        ('{"action":"getConfiguration","deploymentId":"D"}', 4020),
    ],
)
def test_invalid_requests_are_answered_with_errors(sandbox: Sandbox, join: Join, literal: str, code: int) -> None:
    guest = join(sandbox)
    guest.configure()
    guest.socket.send(literal)
    if code == 1009:
        assert guest.expect_close() == 1009
    else:
        guest.expect_error(code)
        guest.message("still fine")
        guest.expect("StructuredMessage")


@pytest.mark.parametrize("action", ["onMessage", "getJwt", "echo", "closeSession", "onAttachment", "getAttachment"])
def test_actions_before_configure_are_refused(sandbox: Sandbox, join: Join, action: str) -> None:
    guest = join(sandbox)
    guest.send(action, message={"type": "Text", "text": "x"}, closeAllConnections=True, attachmentId="a")
    guest.expect_error(4007)


def test_get_configuration_works_before_configure(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.send("getConfiguration", deploymentId=DEPLOYMENT_ID)
    assert guest.expect("GetConfigurationResponse")["body"]["sessionDurationSeconds"] == 259200


def test_unknown_keys_are_tolerated(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    assert guest.configure(journeyContext={"customer": {"id": "x", "idType": "cookie"}}, future={"a": [1]})["connected"]
    guest.message("Hi", future=1)
    guest.expect("StructuredMessage")


# -- §5.4, §11.4: messages and their echoes


def test_echo_details(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.configure()
    guest.message(
        "Grüße 👋 \x1b[31m",
        metadata={"customMessageId": "mine", "id": "u-1"},
        channel={"metadata": {"customAttributes": {"plan": "gold"}}},
    )
    frame = guest.expect("StructuredMessage")
    assert "tracingId" not in frame
    body = frame["body"]
    assert body["text"] == "Grüße 👋 \x1b[31m"
    assert body["metadata"]["customMessageId"] == "mine"
    assert body["metadata"]["id"] == "u-1"
    assert (body["channel"]["from"], body["channel"]["to"], body["channel"]["type"]) == ({}, {}, "Private")
    assert body["channel"]["metadata"] == {"customAttributes": {"plan": "gold"}}
    guest.expect("StructuredMessage")
    stored = guest.history()["entities"][1]
    for key in ("id", "text", "metadata", "direction"):
        assert stored[key] == body[key]
    assert stored["channel"]["time"] == body["channel"]["time"]


def test_times_are_unique_and_rise(make: Make, join: Join, hand_clock: HandClock) -> None:
    """The times differ by a millisecond although the clock stands still (§11.5)."""
    guest = join(make(fast=True, clock=hand_clock))
    guest.configure()
    times = []
    for number in range(5):
        guest.message(str(number))
        times += [guest.receive()["body"]["channel"]["time"] for _ in range(2)]
    assert times == sorted(set(times))
    assert [entity["channel"]["time"] for entity in guest.history()["entities"]] == times[::-1]


def test_metadata_of_the_guest_can_be_kept_out_of_history(make: Make, join: Join) -> None:
    guest = join(make(fast=True, keys="withheld"))
    guest.configure()
    guest.message("Hi", metadata={"customMessageId": "mine", "more": "1"})
    assert guest.expect("StructuredMessage")["body"]["metadata"]["customMessageId"] == "mine"
    guest.expect("StructuredMessage")
    metadata = guest.history()["entities"][1]["metadata"]
    assert "customMessageId" not in metadata
    assert metadata["more"] == "1"


BUTTON = {"type": "QuickReply", "text": "Billing", "payload": "billing", "originatingMessageId": "0" * 32}


def response(kind: str, text: str, payload: str) -> dict[str, Any]:
    return {"contentType": "ButtonResponse", "buttonResponse": {"type": kind, "text": text, "payload": payload}}


QUICK = {"contentType": "ButtonResponse", "buttonResponse": BUTTON}
FORM = {
    "originatingMessageId": "8b1d",
    "cannedResponseId": "2d2b",
    "response": [{"id": "fld-name", "component": response("Form", "Ada", "Ada")}],
}
ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "Transport": ({"type": "Text", "text": "", "content": [QUICK]}, "echo: Billing"),
    "Messenger": ({"type": "Structured", "text": "Billing", "content": [QUICK]}, "echo: Billing"),
    "card": (
        {"type": "Structured", "text": "Track it", "content": [response("Button", "Track it", "cmd:track")]},
        "echo: Track it",
    ),
    "date": ({"type": "Structured", "content": [response("DatePicker", "9 Mar", "2026-03-09T08:00Z")]}, "echo: 9 Mar"),
    "list": (
        {
            "type": "Structured",
            "text": "Your choice",
            "content": [response("ListPicker", "Mozzarella", "moz"), response("ListPicker", "Feta", "fet")],
        },
        "echo: Your choice",
    ),
    "form": (
        {
            "type": "Structured",
            "text": "Thank you",
            "content": [{"contentType": "Form", "form": FORM}],
            "metadata": {"parentMessageId": "8b1d"},
        },
        "echo: Thank you",
    ),
}


@pytest.mark.parametrize(("message", "answer"), ANSWERS.values(), ids=ANSWERS)
def test_responses_to_rich_content_are_checked(
    sandbox: Sandbox, join: Join, message: dict[str, Any], answer: str
) -> None:
    guest = join(sandbox)
    guest.configure()
    guest.send("onMessage", message=message)
    body = guest.expect("StructuredMessage")["body"]
    assert body["content"] == message["content"]
    assert body["type"] == message["type"]
    assert body.get("text", "") == message.get("text", "")
    assert guest.expect("StructuredMessage")["body"]["text"] == answer
    assert Control(sandbox).sessions()[0]["complaints"]  # nothing like it had been offered


@pytest.mark.parametrize(
    "item",
    [
        {"contentType": "ButtonResponse"},
        {"contentType": "ButtonResponse", "buttonResponse": {"type": "Nope", "text": "a", "payload": "b"}},
        {"contentType": "ButtonResponse", "buttonResponse": {"type": "Button", "text": "a"}},
        {"contentType": "Form", "form": {}},
        {"contentType": "Form", "form": {"response": [{"id": "x"}]}},
        {"contentType": "Form", "form": {"response": [{"id": "x", "component": {"buttonResponse": {}}}]}},
    ],
)
def test_malformed_responses_are_refused(sandbox: Sandbox, join: Join, item: dict[str, Any]) -> None:
    guest = join(sandbox)
    guest.configure()
    guest.message("x", content=[item])
    guest.expect_error(400)


CONTENT: list[dict[str, Any]] = [
    {"contentType": "QuickReply", "quickReply": {"text": "Billing", "payload": "billing", "action": "Message"}},
    {"contentType": "Card", "card": {"title": "A", "description": "", "actions": [
        {"type": "Postback", "text": "Choose", "payload": "a"}]}},
    {"contentType": "Form", "form": {"cannedResponseId": "2d2b", "formPages": []}},
]  # fmt: skip


def test_history_omits_some_content_types(make: Make, join: Join) -> None:
    class Rich(EchoBot):
        def reply_to(
            self, text: str, *, payload: str | None, attributes: Mapping[str, str], count: int, memory: dict[str, Any]
        ) -> list[BotAction]:
            return [BotAction("message", text="Pick", content=tuple(CONTENT))]

    sandbox = make(fast=True, bot=Rich(0.0))
    guest = join(sandbox)
    guest.configure()
    guest.message("go")
    guest.expect("StructuredMessage")
    body = guest.expect("StructuredMessage")["body"]
    assert (body["type"], body["content"]) == ("Structured", CONTENT)
    assert guest.history()["entities"][0]["content"] == CONTENT[:2]
    answer = {"contentType": "ButtonResponse", "buttonResponse": {**BUTTON, "originatingMessageId": body["id"]}}
    guest.send("onMessage", message={"type": "Structured", "text": "Billing", "content": [answer]})
    guest.expect("StructuredMessage")
    assert Control(sandbox).sessions()[0]["complaints"] == []


# -- §5.5: attributes


def test_attributes_of_both_places_are_merged(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.configure()
    guest.send(
        "onMessage",
        message={"type": "Text", "text": "x", "channel": {"metadata": {"customAttributes": {"plan": "gold"}}}},
        channel={"metadata": {"customAttributes": {"plan": "old", "legacy": "1"}}},
    )
    guest.expect("StructuredMessage")
    (session,) = Control(sandbox).sessions()
    assert session["attributes"] == {"plan": "gold", "legacy": "1"}
    assert "deprecated" in session["complaints"][0]


def test_strict_attributes_ignore_the_legacy_place(make: Make, join: Join) -> None:
    sandbox = make(strict_attributes=True)
    guest = join(sandbox)
    guest.configure()
    guest.send(
        "onMessage",
        message={"type": "Text", "text": "x"},
        channel={"metadata": {"customAttributes": {"legacy": "1"}}},
    )
    guest.expect("StructuredMessage")
    assert Control(sandbox).sessions()[0]["attributes"] == {}


def test_attributes_are_measured_in_bytes(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    limit = guest.configure()["maxCustomDataBytes"]
    fits = {"k": "é" * ((limit - 2) // 2) + "x"}
    guest.message("fits", channel={"metadata": {"customAttributes": fits}})
    guest.expect("StructuredMessage")
    guest.expect("StructuredMessage")
    guest.message("over", channel={"metadata": {"customAttributes": {"k": fits["k"] + "x"}}})
    guest.expect_error(4013, "Custom Attributes in channel metadata is larger than 2048 bytes")
    guest.message("wrong", channel={"metadata": {"customAttributes": {"k": 1}}})
    guest.expect_error(400)
    assert guest.history()["total"] == 2


# -- §9, §11.8: limits


def test_a_text_above_the_limit_is_refused(make: Make, join: Join) -> None:
    guest = join(make(fast=True, text_limit=10))
    guest.configure()
    guest.message("é" * 10)
    guest.expect("StructuredMessage")
    guest.expect("StructuredMessage")
    guest.message("x" * 11, "long")
    assert guest.expect_error(4011)["tracingId"] == "long"


def test_the_message_rate_applies_to_the_session(make: Make, join: Join, hand_clock: HandClock) -> None:
    sandbox = make(clock=hand_clock)
    first, second = join(sandbox), join(sandbox)
    first.configure()
    second.configure()
    first.message("1")
    for guest in (first, second):
        guest.expect("StructuredMessage")
        guest.expect("StructuredMessage")
    second.message("2")
    second.expect("StructuredMessage")
    second.expect("StructuredMessage")
    second.message("3", "t3")
    refused = second.expect("TooManyRequestsErrorMessage", 429)
    assert refused["tracingId"] == "t3"
    assert refused["body"]["errorCode"] == 4029
    assert refused["body"]["errorMessage"] == "Message rate too high for this session"
    assert refused["body"]["retryAfter"] == 3
    hand_clock.advance(0.5)
    second.message("4")
    second.expect("StructuredMessage")
    second.expect("StructuredMessage")
    assert second.texts() == ["echo: 4", "4", "echo: 2", "2", "echo: 1", "1"]  # 3 is dropped, not queued


def test_the_configure_rate_applies_to_the_token(make: Make, join: Join, hand_clock: HandClock) -> None:
    guest = join(make(clock=hand_clock))
    for _ in range(60):
        guest.configure()
    guest.send("configureSession", deploymentId=DEPLOYMENT_ID, tracingId="c")
    body = guest.expect("TooManyRequestsErrorMessage", 429)["body"]
    assert (body["errorCode"], body["errorMessage"]) == (429, "ConfigureSession rate too high for this session")
    hand_clock.advance(3)
    guest.configure()


def test_the_echo_rate_applies_to_the_socket(make: Make, join: Join, hand_clock: HandClock) -> None:
    sandbox = make(clock=hand_clock)
    first, second = join(sandbox), join(sandbox)
    first.configure()
    second.configure()
    for guest in (first, second):
        for _ in range(2):
            guest.send("echo", message={"type": "Text", "text": "ping"})
            guest.expect("StructuredMessage")
    first.send("echo", message={"type": "Text", "text": "ping"})
    first.expect("TooManyRequestsErrorMessage", 429)
    hand_clock.advance(30)
    first.send("echo", message={"type": "Text", "text": "ping"})
    first.expect("StructuredMessage")


def test_fast_enforces_no_rate(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    for _ in range(70):
        guest.configure()
    for _ in range(20):
        guest.message("x")
    for _ in range(40):
        guest.expect("StructuredMessage")


# -- §11.6, §11.7: history


def test_history_pages(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.configure()
    for number in range(7):
        guest.message(str(number))
        guest.expect("StructuredMessage")
        guest.expect("StructuredMessage")
    everything = [text for number in reversed(range(7)) for text in (f"echo: {number}", str(number))]
    jwt = guest.jwt()
    pages = [history(sandbox, jwt, pageNumber=number, pageSize=4) for number in (1, 2, 3, 4, 5, 50)]
    assert [[entity["text"] for entity in page["entities"]] for page in pages] == [
        everything[:4], everything[4:8], everything[8:12], everything[12:], [], [],
    ]  # fmt: skip
    assert {(page["total"], page["pageCount"], page["pageSize"]) for page in pages} == {(14, 4, 4)}
    assert [page["pageNumber"] for page in pages] == [1, 2, 3, 4, 5, 50]
    page = history(sandbox, jwt)
    assert (page["pageNumber"], page["pageSize"], page["pageCount"]) == (1, 25, 1)
    for wrong in ({"pageNumber": 0}, {"pageSize": 0}, {"pageSize": "x"}, {"pageNumber": "-1"}, {"pageSize": 100000}):
        history(sandbox, jwt, 400, **wrong)


def test_history_needs_a_live_jwt_of_this_session(make: Make, join: Join, hand_clock: HandClock) -> None:
    sandbox = make(clock=hand_clock, fast=True)
    guest, other = join(sandbox), join(sandbox, "U")
    guest.configure()
    other.configure()
    guest.message("mine")
    guest.expect("StructuredMessage")
    guest.expect("StructuredMessage")
    guest.send("getJwt")
    body = guest.expect("JwtResponse")["body"]
    claims = pyjwt.decode(body["jwt"], options={"verify_signature": False})
    assert claims["iss"] == "sandbox"
    assert claims["exp"] == body["exp"] == int(hand_clock.at) + 60
    assert guest.texts(body["jwt"]) == ["echo: mine", "mine"]
    assert other.texts() == []
    for wrong in ("", "nonsense", body["jwt"][:-2], body["jwt"] + "x"):
        history(sandbox, wrong, 401)
    answer = requests.get(f"{sandbox.url}/api/v2/webmessaging/messages", timeout=5)
    check_error(answer.json(), 401)
    assert answer.json()["code"] == "bad.credentials"
    hand_clock.advance(60)
    history(sandbox, body["jwt"], 401)
    assert guest.texts() == ["echo: mine", "mine"]


def test_jwt_life_can_be_set(make: Make, join: Join, hand_clock: HandClock) -> None:
    guest = join(make(clock=hand_clock, token_life=7200))
    guest.configure()
    guest.send("getJwt")
    assert guest.expect("JwtResponse")["body"]["exp"] == int(hand_clock.at) + 7200


def test_history_is_checked_against_the_origin(make: Make, join: Join) -> None:
    sandbox = make(origins=("shop.example",))
    guest = join(sandbox, origin="https://shop.example")
    guest.configure()
    jwt = guest.jwt()
    assert history(sandbox, jwt, origin="https://www.shop.example")["total"] == 0
    history(sandbox, jwt, 403, origin="https://evil.example")
    history(sandbox, jwt, 403)


def test_history_includes_expired_conversations_until_start_new(sandbox: Sandbox, join: Join) -> None:
    """§7.1, Scope."""
    guest = join(sandbox)
    guest.configure()
    put(announce(guest))
    identifier = guest.expect("UploadSuccessEvent")["body"]["attachmentId"]
    guest.message("one", content=[{"contentType": "Attachment", "attachment": {"id": identifier}}])
    guest.expect("StructuredMessage")
    guest.expect("StructuredMessage")
    for text in ("two", "three"):
        Control(sandbox)("POST", "/expire")
        guest.expect("SessionExpiredEvent")
        assert guest.configure()["newSession"]
        guest.message(text)
        guest.expect("StructuredMessage")
        guest.expect("StructuredMessage")
    assert guest.texts() == ["echo: three", "three", "echo: two", "two", "echo: one", "one"]
    page = guest.history(pageNumber=3, pageSize=2)
    assert (page["total"], page["pageCount"], page["entities"][1]["text"]) == (6, 3, "one")
    assert requests.get(page["entities"][1]["content"][0]["attachment"]["url"], timeout=5).content == PNG
    guest.configure(startNew=True)
    assert guest.texts() == []


def test_another_person_does_not_inherit_the_history_of_a_token(make: Make, join: Join) -> None:
    sandbox = make(deployment=SIGN_IN, fast=True)
    guest = join(sandbox)
    guest.configure()
    for person, texts in (("ada", ["echo: a guest", "a guest"]), ("eve", [])):
        guest.message("a guest")
        guest.expect("StructuredMessage")
        guest.expect("StructuredMessage")
        Control(sandbox)("POST", "/expire")
        guest.expect("SessionExpiredEvent")
        sign_in(guest, exchange(sandbox, f"{person}:1")["jwt"])
        guest.expect("SessionResponse")
        assert guest.texts() == texts


# -- §3: public configuration


def test_the_public_configuration_reflects_the_settings(make: Make) -> None:
    sandbox = make(origins=("shop.example",), auto_start=True, deployment={"sign_in": True, "session_upgrade": True})
    base = f"{sandbox.config_url}/webdeployments/v1/deployments"
    answer = requests.get(f"{base}/{DEPLOYMENT_ID}/config.json", headers={"Origin": "https://any.example"}, timeout=5)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://any.example"
    config = answer.json()
    assert config["id"] != DEPLOYMENT_ID
    assert (config["status"], config["version"], config["defaultLanguage"]) == ("Active", "1", "en-us")
    assert config["apiEndpoint"] == sandbox.url
    conversations = config["messenger"]["apps"]["conversations"]
    assert conversations["messagingEndpoint"] + "/v1" == sandbox.socket_url
    assert conversations["autoStart"] == {"enabled": True}
    assert conversations["conversationDisconnect"] == {"enabled": True, "type": "ReadOnly"}
    assert config["messenger"]["styles"]["primaryColor"].startswith("#")
    assert config["messenger"]["launcherButton"]["visibility"] == "On"
    assert config["messenger"]["fileUpload"]["enableAttachments"] is True
    assert config["auth"] == {"enabled": True, "allowSessionUpgrade": True}
    assert config["journeyEvents"] == {"enabled": False}
    domains = requests.get(f"{base}/{DEPLOYMENT_ID}/domains.json", timeout=5).json()
    assert domains == {"allowAllDomains": False, "allowedDomains": ["shop.example"]}
    unknown = requests.get(f"{base}/{OTHER}/config.json", timeout=5)
    assert unknown.status_code == 403
    assert unknown.text.startswith("<?xml")


# -- §5.6, §7.3: attachments

PNG = b"\x89PNG fake"


def announce(guest: Stranger, name: str = "label.png", size: int = len(PNG), **fields: Any) -> Any:
    guest.send("onAttachment", fileName=name, fileType=fields.pop("fileType", "image/png"), fileSize=size, **fields)
    return guest.expect("PresignedUrlResponse")["body"]


def put(presigned: Any, data: bytes = PNG, status: int = 200, **headers: str) -> None:
    sent = {**presigned["headers"], "Content-Type": "image/png", **headers}
    assert requests.put(presigned["url"], data=data, headers=sent, timeout=5).status_code == status


def test_an_attachment_is_uploaded_sent_and_downloaded(sandbox: Sandbox, join: Join) -> None:
    guest, other = join(sandbox), join(sandbox)
    guest.configure()
    other.configure()
    wanted = "5c9d6f2a-70f5-4a8e-9d41-6a0c8f1b2e33"
    presigned = announce(guest, attachmentId=wanted, tracingId="p")
    assert presigned["attachmentId"] == wanted
    assert presigned["headers"], "without a header Transport would never upload (§11.4)"
    assert (presigned["fileName"], presigned["fileSize"], presigned["fileType"]) == ("label.png", len(PNG), "image/png")
    assert presigned["url"].startswith(sandbox.url)
    item = {"contentType": "Attachment", "attachment": {"id": wanted}}
    guest.message("too early", content=[item])
    guest.expect_error(4010)
    put(presigned)
    done = guest.expect("UploadSuccessEvent")
    assert "tracingId" not in done
    assert requests.get(done["body"]["downloadUrl"], timeout=5).content == PNG
    other.expect_nothing()
    guest.send("onMessage", message={"content": [item]}, tracingId="m")  # as Messenger does: neither type nor text
    for seen in (guest.expect("StructuredMessage")["body"], other.expect("StructuredMessage")["body"]):
        assert seen["type"] == "Text"
        assert "text" not in seen
        attachment = seen["content"][0]["attachment"]
        assert {**attachment, "url": ""} == {
            "id": wanted, "filename": "label.png", "fileSize": len(PNG), "mediaType": "Image", "mime": "image/png",
            "url": "",
        }  # fmt: skip
    guest.send("getAttachment", attachmentId=wanted)
    again = guest.expect("PresignedUrlResponse")["body"]
    assert (again["headers"], again["fileSize"]) == ({}, len(PNG))
    answer = requests.get(again["url"], timeout=5)
    assert (answer.content, answer.headers["Content-Type"]) == (PNG, "image/png")
    assert answer.headers["Content-Disposition"].startswith("attachment;")
    assert guest.history()["entities"][0]["content"][0]["attachment"]["filename"] == "label.png"


def test_download_addresses_expire_and_cannot_be_forged(make: Make, join: Join, hand_clock: HandClock) -> None:
    sandbox = make(clock=hand_clock, fast=True)
    guest = join(sandbox)
    guest.configure()
    put(announce(guest))
    url = guest.expect("UploadSuccessEvent")["body"]["downloadUrl"]
    assert requests.get(url, timeout=5).status_code == 200
    for wrong in (
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.replace("expires=1", "expires=9"),
        url.split("?")[0],
        url.partition("signature=")[0] + "signature=%C3%A9",
    ):
        answer = requests.get(wrong, timeout=5)
        assert (answer.status_code, answer.json()["code"]) == (404, "resource.not.found")
    hand_clock.advance(601)
    assert requests.get(url, timeout=5).status_code == 404


def test_an_upload_must_match_its_presigned_request(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.configure()
    presigned = announce(guest)
    put({**presigned, "headers": {}}, status=403)
    put({**presigned, "url": presigned["url"][:-1]}, status=403)
    put({**presigned, "url": presigned["url"].partition("?")[0] + "?signature=%C3%A9"}, status=403)
    put(presigned)
    guest.expect("UploadSuccessEvent")
    put(presigned, status=403)  # once


def test_upload_failures(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.configure()
    short = announce(guest, size=100)
    put(short)
    failed = guest.expect("UploadFailureEvent")["body"]
    assert (failed["attachmentId"], failed["errorCode"]) == (short["attachmentId"], 4002)
    infected = announce(guest, name="eicar.txt")
    put(infected)
    assert guest.expect("UploadFailureEvent")["body"]["errorCode"] == 4003
    item = {"contentType": "Attachment", "attachment": {"id": infected["attachmentId"]}}
    guest.message("x", content=[item])
    guest.expect_error(4010)


def test_a_verdict_goes_to_the_open_sockets_if_the_announcer_has_closed(make: Make, join: Join, tmp_path: Path) -> None:
    """The verdict goes to the announcing socket while it is open (§12 #27). Nothing keeps that socket alive."""
    sandbox = make(fast=True, state=tmp_path / "state.db")
    guest = join(sandbox)
    guest.configure()
    before, later = announce(guest), announce(guest)
    (peer,) = sandbox.call(lambda: [weakref.ref(peer) for peer in sandbox.peers])
    guest.leave()
    gone(sandbox)
    deadline = time.monotonic() + PATIENCE
    while peer() is not None:
        assert time.monotonic() < deadline, "a closed socket is kept"
        gc.collect()
    back = [join(sandbox), join(sandbox)]
    for guest in back:
        guest.configure()
    put(before)
    for guest in back:
        assert guest.expect("UploadSuccessEvent")["body"]["attachmentId"] == before["attachmentId"]
    sandbox.stop()
    second = make(fast=True, state=tmp_path / "state.db")
    guest = join(second)
    guest.configure()
    put({**later, "url": later["url"].replace(sandbox.url, second.url)})
    assert guest.expect("UploadSuccessEvent")["body"]["attachmentId"] == later["attachmentId"]


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"fileName": "run.EXE"}, 4001),
        ({"fileType": "text/html"}, 4001),
        ({"fileSize": 10_241_000}, 4002),
        ({"fileSize": 0}, 4102),
        ({"fileName": "a\\b.png"}, 4004),
        ({"fileName": " "}, 4004),
        ({"fileName": "x" * 256 + ".png"}, 4005),
        ({"fileSize": "big"}, 4020),
        ({"fileName": None}, 4020),
    ],
)
def test_invalid_attachments_are_refused(
    make: Make, join: Join, fields: dict[str, Any], code: int, as_json: bool
) -> None:
    guest = join(make(deployment={"file_types": ("image/*", "text/plain")}))
    guest.configure()
    wanted = {"fileName": "a.png", "fileType": "image/png", "fileSize": 3, "attachmentId": "me", **fields}
    guest.send(
        "onAttachment", errorsAsJson=as_json, tracingId="t", **{k: v for k, v in wanted.items() if v is not None}
    )
    if as_json:
        frame = guest.expect("GenerateUrlError")
        assert (frame["body"]["errorCode"], frame["body"]["attachmentId"]) == (code, "me")
    else:
        frame = guest.expect_error(code)
    assert frame["tracingId"] == "t"


def test_attachments_can_be_disabled(make: Make, join: Join) -> None:
    guest = join(make(deployment={"attachments": False}))
    assert guest.configure()["allowedMedia"]["inbound"]["fileTypes"] == []
    guest.send("onAttachment", fileName="a.png", fileType="image/png", fileSize=3)
    guest.expect_error(4000)


def test_only_usable_attachments_can_be_sent(sandbox: Sandbox, join: Join) -> None:
    guest, foreign = join(sandbox), join(sandbox, "U")
    guest.configure()
    foreign.configure()
    items: list[Any] = []
    for number in range(2):
        presigned = announce(guest, name=f"{number}.png")
        put(presigned)
        guest.expect("UploadSuccessEvent")
        items.append({"contentType": "Attachment", "attachment": {"id": presigned["attachmentId"]}})
    for wrong in ({"id": "unknown"}, {}, {"id": 5}):
        guest.message("x", content=[{"contentType": "Attachment", "attachment": wrong}])
        guest.expect_error(4009)
    guest.message("x", content=items)
    guest.expect_error(400, "one attachment")
    foreign.message("x", content=items[:1])
    foreign.expect_error(4009)
    guest.send("deleteAttachment", attachmentId=items[0]["attachment"]["id"], tracingId="d")
    deleted = guest.expect("AttachmentDeletedResponse")
    assert (deleted["type"], deleted["tracingId"]) == ("message", "d")
    guest.message("x", content=items[:1])
    guest.expect_error(4009)
    guest.send("getAttachment", attachmentId=items[0]["attachment"]["id"])
    guest.expect_error(4009)
    guest.message("x", content=items[1:])
    guest.expect("StructuredMessage")
    guest.expect("StructuredMessage")
    guest.send("deleteAttachment", attachmentId=items[1]["attachment"]["id"])
    guest.expect_error(400, "sent")


# -- §7.2, §10.8, §10.9: signing in

EXCHANGE = "/api/v2/webdeployments/token/oauthcodegrantjwtexchange"
SIGN_IN = {"sign_in": True, "session_upgrade": True}


def exchange(sandbox: Sandbox, code: str = "ada:1", status: int = 200, oauth: dict[str, str] | None = None) -> Any:
    given = oauth or {"code": code, "redirectUri": "https://shop.example/back"}
    body = {"deploymentId": DEPLOYMENT_ID, "oauth": given}
    answer = requests.post(sandbox.url + EXCHANGE, json=body, timeout=5)
    assert answer.status_code == status, answer.text
    if status != 200:
        check_error(answer.json(), status)
    return answer.json()


def sign_in(guest: Stranger, jwt: str, **fields: Any) -> None:
    guest.send("configureAuthenticatedSession", deploymentId=DEPLOYMENT_ID, data={"code": jwt}, **fields)


def test_the_sign_in_exchange(make: Make) -> None:
    sandbox = make(deployment=SIGN_IN)
    tokens = exchange(sandbox)
    assert set(tokens) == {"jwt", "refreshToken"}
    assert set(exchange(sandbox, oauth={"idToken": "ada", "nonce": "n"})) == {"jwt"}
    exchange(sandbox, "bad", 401)
    exchange(sandbox, "", 401)
    exchange(sandbox, status=400, oauth={"code": "ada"})  # no redirectUri
    exchange(sandbox, status=400, oauth={"nonce": "n"})
    exchange(make(), status=403)
    assert refreshed(sandbox, tokens)
    refresh = sandbox.url + "/api/v2/webdeployments/token/refresh"
    for wrong in ("nope", tokens["jwt"], 5, None):
        assert requests.post(refresh, json={"refreshToken": wrong}, timeout=5).status_code == 401
    assert requests.post(refresh, data=b"{", timeout=5).status_code == 400


def test_signed_in_session(make: Make, join: Join, hand_clock: HandClock) -> None:
    sandbox = make(deployment=SIGN_IN, clock=hand_clock, fast=True)
    jwt = exchange(sandbox)["jwt"]
    guest = join(sandbox)
    sign_in(guest, jwt)
    assert guest.expect("SessionResponse")["body"]["newSession"]
    guest.message("it is me")
    assert guest.expect("StructuredMessage")["body"]["metadata"]["authenticated"] == "true"
    guest.expect("StructuredMessage")
    assert guest.texts(jwt) == ["echo: it is me", "it is me"]  # either JWT can read (§11.6)
    assert guest.texts() == ["echo: it is me", "it is me"]
    down = join(sandbox)
    for start_new in (False, True):
        down.send("configureSession", deploymentId=DEPLOYMENT_ID, startNew=start_new)
        down.expect_error(4017)
    sign_in(down, exchange(sandbox, "eve:1")["jwt"])
    down.expect_error(403, "Session authentication failed")
    hand_clock.advance(900)
    sign_in(down, jwt)
    down.expect_error(401)
    sign_in(down, exchange(sandbox, "ada:2")["jwt"])
    assert down.expect("SessionResponse")["body"]["newSession"] is False


def test_history_with_a_sign_in_jwt_is_that_of_the_sign_in(make: Make, join: Join) -> None:
    """Any JWT of the sign-in can read (§11.6). Conversations before `startNew` are hidden (§12 #26)."""
    sandbox = make(deployment=SIGN_IN, fast=True)
    tokens = exchange(sandbox)
    jwts = [tokens["jwt"], refreshed(sandbox, tokens), refreshed(sandbox, tokens)]
    guest = join(sandbox)
    sign_in(guest, jwts[0])
    guest.expect("SessionResponse")
    for text, jwt in (("one", jwts[1]), ("two", jwts[0]), ("three", jwts[2])):
        sign_in(guest, jwt, startNew=True)
        guest.expect("SessionResponse")
        guest.message(text)
        guest.expect("StructuredMessage")
        guest.expect("StructuredMessage")
        assert [guest.texts(one) for one in jwts] == [[f"echo: {text}", text]] * 3
        Control(sandbox)("POST", "/end")
        guest.expect("StructuredMessage")
    guest.event("Presence", "Clear")
    guest.expect("StructuredMessage")
    guest.expect("SessionClearedEvent")
    for jwt in (*jwts, refreshed(sandbox, tokens)):
        history(sandbox, jwt, 404)


def refreshed(sandbox: Sandbox, tokens: Any) -> str:
    body = {"refreshToken": tokens["refreshToken"]}
    answer = requests.post(sandbox.url + "/api/v2/webdeployments/token/refresh", json=body, timeout=5)
    return str(answer.json()["jwt"])


def test_sign_in_errors(make: Make, join: Join) -> None:
    off = join(make())
    sign_in(off, "x")
    off.expect_error(403)
    guest = join(make(deployment=SIGN_IN))
    for data in (None, {}, {"code": 5}):
        guest.send("configureAuthenticatedSession", deploymentId=DEPLOYMENT_ID, **({"data": data} if data else {}))
        guest.expect_error(4020)
    sign_in(guest, "forged")
    guest.expect_error(401)


def test_a_guest_session_becomes_a_signed_in_one(make: Make, join: Join) -> None:
    sandbox = make(deployment=SIGN_IN, fast=True)
    old, first, second = join(sandbox, "OLD"), join(sandbox), join(sandbox)
    sign_in(old, exchange(sandbox, "ada:0")["jwt"])
    old.expect("SessionResponse")
    first.configure()
    second.configure()
    first.message("as a guest")
    for guest in (first, second):
        guest.expect("StructuredMessage")
        guest.expect("StructuredMessage")
    sign_in(first, exchange(sandbox, "ada:1")["jwt"], tracingId="s")
    answer = first.expect("SessionResponse")
    assert answer["tracingId"] == "s"
    assert (answer["body"]["newSession"], answer["body"]["clearedExistingSession"]) == (False, True)
    signed = first.expect("StructuredMessage")
    assert (event_of(signed), signed["body"]["direction"]) == ("SignIn", "Inbound")
    assert signed["body"]["channel"]["from"] == {"firstName": "Ada", "lastName": "Guest"}
    for guest in (second, old):
        assert guest.expect("ConnectionClosedEvent")["body"] == {"reason": "signedIn", "reasonCode": "signedIn"}
    first.message("as Ada")
    assert first.expect("StructuredMessage")["body"]["metadata"]["authenticated"] == "true"
    first.expect("StructuredMessage")
    assert "as a guest" in first.texts()


def test_a_session_upgrade_must_be_enabled_and_use_the_same_socket(make: Make, join: Join) -> None:
    sandbox = make(deployment={"sign_in": True})
    guest = join(sandbox)
    guest.configure()
    guest.message("hello?")
    guest.expect_error(403, "Session authentication failed. Try to authenticate again.")
    sign_in(guest, exchange(sandbox)["jwt"])
    guest.expect_error(403)
    allowed = make(deployment=SIGN_IN)
    join(allowed).configure()
    other = join(allowed)
    sign_in(other, exchange(allowed)["jwt"])
    other.expect_error(403)


def test_revoke_closes_every_socket(make: Make, join: Join) -> None:
    sandbox = make(deployment=SIGN_IN)
    tokens = exchange(sandbox)
    guests = [join(sandbox), join(sandbox)]
    for guest in guests:
        sign_in(guest, tokens["jwt"])
        guest.expect("SessionResponse")
    revoke = sandbox.url + "/api/v2/webdeployments/token/revoke"
    assert requests.delete(revoke, timeout=5).status_code == 401
    answer = requests.delete(revoke, headers={"Authorization": f"bearer {tokens['jwt']}"}, timeout=5)
    assert (answer.status_code, answer.content) == (204, b"")
    for guest in guests:
        guest.expect("LogoutEvent")
    history(sandbox, tokens["jwt"], 401)
    back = join(sandbox)
    sign_in(back, tokens["jwt"])
    back.expect_error(401)
    refreshed = requests.post(
        sandbox.url + "/api/v2/webdeployments/token/refresh", json={"refreshToken": tokens["refreshToken"]}, timeout=5
    )
    assert refreshed.status_code == 401


# -- presences of a guest


def test_join_greets_once(make: Make, join: Join) -> None:
    guest = join(make(fast=True, bot=Greeter(), auto_start=True))
    guest.configure()
    guest.event("Presence", "Join", channel={"metadata": {"customAttributes": {"plan": "gold"}}})
    kinds = [guest.expect("StructuredMessage")["body"]["type"] for _ in range(3)]
    assert kinds == ["Event", "Event", "Text"]
    guest.event("Presence", "Join")
    guest.expect("StructuredMessage")
    guest.expect_nothing()


def test_a_scripted_greeting_uses_the_attributes(make: Make, join: Join) -> None:
    guest = join(make(fast=True, bot=scripted("greeting: Hello ${attr.plan}!"), auto_start=True))
    guest.configure()
    channel = {"metadata": {"customAttributes": {"plan": "gold"}}}
    events = [{"eventType": "Presence", "presence": {"type": "Join"}}]
    guest.send("onMessage", message={"type": "Event", "events": events, "channel": channel})
    guest.expect("StructuredMessage")
    assert guest.expect("StructuredMessage")["body"]["text"] == "Hello gold!"


def test_guest_disconnects(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.configure()
    guest.event("Presence", "Disconnect")
    assert [guest.expect("StructuredMessage")["body"]["direction"] for _ in range(2)] == ["Inbound", "Outbound"]
    guest.message("x")
    guest.expect_error(409)


def test_stored_frames_have_the_documented_shape(sandbox: Sandbox, join: Join) -> None:
    """The validator is tested, too: it refuses what it must refuse."""
    guest = join(sandbox)
    guest.configure()
    guest.message("x")
    good = guest.expect("StructuredMessage")
    for spoil in ({"class": "Nope"}, {"type": "push"}, {"code": "200"}, {"body": {**good["body"], "direction": "in"}}):
        with pytest.raises(AssertionError):
            check_frame({**good, **spoil})
    with pytest.raises(AssertionError):
        check_frame({**good, "body": {k: v for k, v in good["body"].items() if k != "id"}})
    with pytest.raises(AssertionError):
        check_frame({**good, "body": {**good["body"], "text": None}})
