"""Every flow of the six families of dialects.md, driven by hand: literal requests, literal answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.base import Dialect, Page, Position
from guestctl.dialects.declared import Ability
from guestctl.errors import (
    Conflict,
    Exit,
    Failure,
    Forbidden,
    NetworkError,
    RateLimited,
    Refused,
    SessionOver,
    Unauthorised,
    Unreadable,
    UsageError,
)
from guestctl.model import (
    Credential,
    Message,
    Opening,
    Outgoing,
    Profile,
    Secret,
    Sender,
    Session,
    SessionEvent,
    Typing,
    Unknown,
)
from guestctl.wire import Accepted, Call, Flow, Frame, Opened, Rejection, Reply, Request, Turn

AT = 1_772_615_727.0
TIME = "2026-03-04T09:15:27.412Z"
LATER = "2026-03-04T09:15:28.000Z"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SIX = tuple(name for name in NAMES if name != "web-messaging")
SOCKETS = tuple(name for name in SIX if dialect_class(name).has_socket)
PROFILE = Profile(
    name="p",
    region="mypurecloud.de",
    environment="staging",
    org="acme",
    aws_region="eu-central-1",
    deployment_id="d-1",
    client_id="client",
    client_secret=Secret("hush"),
)
OUT = Outgoing(key="k-1", text="Hello")
OPENING = Opening(
    attributes={"plan": "gold"}, queue="q", skill="s", language="de", email="a@example.org", guest_name="Ada"
)


def dialect(name: str, *, traceparent: str | None = None, **profile: Any) -> Dialect:
    return dialect_class(name)(replace(PROFILE, api=name, **profile), new_id=lambda: "id", traceparent=traceparent)


def session(name: str, *, token: str = "t-0", **notes: Any) -> Session:
    ids = {"conversation": "c/1", "guest": "g-1", "session": "s-1"}
    made = Session(api=name, profile="p", ids=ids, state="active", notes=notes)
    return made.having(Credential("guest", Secret(token)))


def reply(body: object, status: int = 200, **headers: str) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, headers, content, AT)


class Drive:
    """Performs one flow with prepared answers. A Reply answers a Call (one that is not 2xx is raised
    as the dialect reads it), a list of frames answers a Turn."""

    def __init__(self, spoken: Dialect, *answers: object) -> None:
        self.dialect, self.session, self.answers = spoken, session(spoken.name), list(answers)
        self.asked: list[Request] = []
        self.said: list[Turn] = []

    def run(self, flow: Flow[Any]) -> Any:
        try:
            step = next(flow)
            while True:
                assert self.answers, f"nothing prepared for {step}"
                answer = self.answers.pop(0)
                if isinstance(step, Call):
                    assert isinstance(answer, Reply)
                    self.asked.append(step.request)
                    step = flow.send(answer) if answer.ok else flow.throw(self.dialect.refusal(step.request, answer))
                else:
                    self.said.append(step)
                    step = flow.send(self._heard(step, answer))
        except StopIteration as stop:
            return stop.value

    def _heard(self, turn: Turn, frames: object) -> object:
        assert isinstance(frames, list)
        assert turn.answers is not None
        for frame in frames:
            for heard in decode(self.dialect, frame, self.session):
                if turn.answers(heard):
                    return heard
        raise AssertionError(f"none of {frames} answers {turn.say}")


def decode(spoken: Dialect, frame: object, held: Session | None = None) -> list[Any]:
    return list(spoken.decode(Frame(json.dumps(frame), AT), held or session(spoken.name)))


def run(spoken: Dialect, flow: Flow[Any], *answers: object) -> tuple[Any, Drive]:
    drive = Drive(spoken, *answers)
    result = drive.run(flow)
    assert not drive.answers, "answers nobody asked for"
    return result, drive


def jwt_of(claims: Mapping[str, object]) -> str:
    import jwt

    return jwt.encode(dict(claims), "key-that-is-long-enough-for-hmac-sha256", algorithm="HS256")


JWT = jwt_of({"exp": int(AT) + 1800, "routing_hints": {"queue": "q"}})


# --- one table per operation ---


@dataclass(frozen=True)
class Create:
    request: Request
    answer: dict[str, Any]
    ids: dict[str, str | None]
    token: str
    expires_at: float | None


API = "https://api.mypurecloud.de"
ORG = "https://acme.mypurecloud.com"
MYGEN = "https://staging.mygen.com"
CREATES = {
    "guest-sessions": Create(
        Request(
            "POST",
            f"{API}/api/v2/guest/webmessaging/sessions",
            "create",
            json={"deploymentId": "d-1", "customAttributes": {"plan": "gold"}},
        ),
        {"webMessagingSessionId": "s", "guestId": "g", "sessionToken": "t", "expiresAt": "2026-03-04T09:30:00.000Z"},
        {"conversation": None, "guest": "g", "session": "s"},
        "t",
        1772616600.0,
    ),
    "external-contacts": Create(
        Request(
            "POST",
            f"{API}/api/v2/conversations/messaging/addresses",
            "create",
            json={"address": "email:a@example.org"},
        ),
        {"guestId": "g", "sessionToken": "t"},
        {"conversation": None, "guest": "g"},
        "t",
        None,
    ),
    "conversation-guests": Create(
        Request(
            "POST",
            f"{API}/api/v2/conversations/webmessaging/guests",
            "create",
            json={"deploymentId": "d-1", "attributes": {"plan": "gold"}},
        ),
        {"conversationId": "c", "guestId": "g", "token": "t"},
        {"conversation": "c", "guest": "g"},
        "t",
        None,
    ),
    "messaging-conversations": Create(
        Request(
            "POST",
            f"{MYGEN}/api/v2/messaging/conversations",
            "create",
            json={
                "conversationName": "Ada",
                "routing": {"selectedQueueId": "q"},
                "attributes": {"custom": {"source": "guestctl", "plan": "gold"}},
            },
        ),
        {"id": "c", "guestToken": "t", "guestId": "g", "routing": {"selectedQueueId": "q"}},
        {"conversation": "c", "guest": "g"},
        "t",
        AT + 1800,
    ),
    "guests": Create(
        Request(
            "POST",
            f"{ORG}/api/v2/guests",
            "create",
            json={
                "name": "Ada",
                "attributes": {"plan": "gold"},
                "routing": {"queue": {"id": "q"}, "skill": {"id": "s"}, "language": "de"},
            },
            credential="oauth",
        ),
        {"id": "g", "guestToken": JWT, "sessions": [{"id": "s"}], "attributes": {}},
        {"conversation": None, "guest": "g", "session": "s"},
        JWT,
        AT + 1800,
    ),
    "webmessaging-conversations": Create(
        Request(
            "POST",
            f"{API}/api/v2/webmessaging/conversations",
            "create",
            json={"deploymentId": "d-1"},
            credential="oauth",
        ),
        {"conversationsId": "c", "guestId": "g", "sessionToken": "t", "expiresIn": 900},
        {"conversation": "c", "guest": "g"},
        "t",
        AT + 900,
    ),
}


@pytest.mark.parametrize("name", SIX)
def test_create(name: str) -> None:
    expected = CREATES[name]
    spoken = dialect(name)
    made, drive = run(spoken, spoken.create(OPENING), reply(expected.answer, 201))
    assert drive.asked == [expected.request]
    assert made.ids == expected.ids
    assert made.state == "active"
    assert made.new_session
    held = made.credential("guest")
    assert (held.secret.reveal(), held.expires_at) == (expected.token, expected.expires_at)


@pytest.mark.parametrize("name", SIX)
def test_an_answer_that_lacks_anything_is_unreadable(name: str) -> None:
    """Each member the client lives on, left out, of the wrong type, and the whole body replaced."""
    answer = CREATES[name].answer
    optional = {"expiresAt", "expiresIn", "attributes", "routing", *(["guestId"] if name.startswith("mess") else [])}
    broken: list[object] = [b"<html>no</html>", b"", b"[]", b"\xff", b'{"a":' * 5000]
    for member in answer.keys() - optional:
        broken.append({k: v for k, v in answer.items() if k != member})
        broken.append({**answer, member: 7})
    for body in broken:
        spoken = dialect(name)
        with pytest.raises(Unreadable) as caught:
            run(spoken, spoken.create(OPENING), reply(body))
        assert caught.value.exit is Exit.UNREADABLE
        assert "t-0" not in str(caught.value)


HISTORY = {
    "guest-sessions": f"{API}/api/v2/guest/webmessaging/sessions/s-1/messages",
    "external-contacts": f"{API}/api/v2/conversations/messaging/external-contacts/g-1/messages",
    "conversation-guests": f"{API}/api/v2/conversations/webmessaging/guests/g-1/messages",
    "messaging-conversations": f"{MYGEN}/api/v2/messaging/conversations/c%2F1/messages",
    "guests": f"{ORG}/api/v2/guests/g-1/sessions/s-1/messages",
    "webmessaging-conversations": f"{API}/api/v2/webmessaging/conversations/c%2F1/messages",
}


def item(name: str, number: int, *, inbound: bool = False) -> dict[str, Any]:
    """Message `number` as this family writes it."""
    stamp = f"2026-03-04T09:15:{number:02}.000Z"
    key = {"guests": "correlationId"}.get(name, "messageId")
    if name == "messaging-conversations":
        origin = {"id": "g-1", "name": "Ada"} if inbound else {"id": "bot", "name": "Bot"}
        return {
            "id": f"m-{number}",
            "type": "text",
            "from": origin,
            "to": {"id": "x", "name": "x"},
            "text": f"text {number}",
            "timestamp": stamp,
            **({"attributes": {"correlationId": "k-1"}} if inbound else {}),
        }
    made = {
        "direction": "inbound" if inbound else "outbound",
        "text": f"text {number}",
        "from": {"role": "guest", "name": "Ada"} if inbound else {"role": "bot", "name": "Bot"},
        "timestamp": stamp,
    }
    if numbered(name):
        return {**made, "messageId": "k-1" if inbound else f"m-{number}", "sequenceNumber": number}
    return {**made, "id": f"m-{number}", **({key: "k-1"} if inbound else {})}


def numbered(name: str) -> bool:
    return name in {"guest-sessions", "external-contacts"}


def page_of(name: str, numbers: range, total: int, *, inbound: int | None = None) -> Reply:
    """The page with these messages, of a conversation with messages 1 to `total`."""
    body: dict[str, Any] = {"messages": [item(name, n, inbound=n == inbound) for n in numbers]}
    more = bool(numbers) and numbers[-1] < total
    if numbered(name):
        body["lastSequenceNumber"] = total
    elif name == "messaging-conversations":
        body.update({"nextPageToken": f"page-{numbers[-1]}"} if more else {})
    else:
        body["more"] = more
    return reply(body)


def query_after(name: str, number: int) -> dict[str, str]:
    """What asks for the page behind message `number`."""
    if numbered(name):
        return {"lastSequenceNumber": str(number), "limit": "50"}
    if name == "messaging-conversations":
        token = {"nextPageToken": f"page-{number}"} if number else {}
        return {"limit": "50", "conversationId": "c/1", **token}
    return {"limit": "50", **({"after": f"m-{number}"} if number else {})}


def pages(spoken: Dialect, after: Position | None, *answers: Reply) -> tuple[Drive, list[Page]]:
    """Every page that follows, as `paging` reads them."""
    drive = Drive(spoken, *answers)
    cursor: str | None = None
    found: list[Page] = []
    while not found or cursor is not None:
        flow = spoken.history(drive.session, after=after if cursor is None else None, cursor=cursor, limit=50)
        found.append(drive.run(flow))
        cursor = found[-1].next
    return drive, found


def ids(found: list[Page]) -> list[str | None]:
    return [message.id for page in found for message in page.items if not isinstance(message, Unknown)]


@pytest.mark.parametrize("name", SIX)
def test_history_from_the_start(name: str) -> None:
    spoken = dialect(name)
    drive, found = pages(spoken, None, page_of(name, range(1, 4), 5, inbound=2), page_of(name, range(4, 6), 5))
    assert [request.url for request in drive.asked] == [HISTORY[name]] * 2
    assert [request.query for request in drive.asked] == [query_after(name, 0), query_after(name, 3)]
    assert all(request.credential == "guest" and request.idempotent for request in drive.asked)
    assert len(ids(found)) == 5
    first, second = found[0].items[:2]
    assert isinstance(first, Message)
    assert isinstance(second, Message)
    assert (first.direction, first.text, first.time, first.key) == (
        "outbound",
        "text 1",
        "2026-03-04T09:15:01.000Z",
        None,
    )
    assert first.sender == Sender("bot", "Bot")
    assert (second.direction, second.key, second.sender) == ("inbound", "k-1", Sender("guest", "Ada"))
    assert (first.sequence, second.sequence) == ((1, 2) if numbered(name) else (None, None))


@pytest.mark.parametrize("name", SIX)
def test_history_of_nothing(name: str) -> None:
    spoken = dialect(name)
    _, found = pages(spoken, None, page_of(name, range(0), 0))
    assert ids(found) == []


@pytest.mark.parametrize("name", SIX)
def test_history_after_a_message(name: str) -> None:
    spoken = dialect(name)
    after = Position("m-3", 3 if numbered(name) else None, "2026-03-04T09:15:03.000Z")
    if name == "messaging-conversations":
        answers = [page_of(name, range(1, 3), 5), page_of(name, range(3, 5), 5), page_of(name, range(5, 6), 5)]
        asked = [0, 2, 4]
    else:
        answers, asked = [page_of(name, range(4, 5), 5), page_of(name, range(5, 6), 5)], [3, 4]
    drive, found = pages(spoken, after, *answers)
    assert ids(found) == ["m-4", "m-5"]
    assert all(page.anchored for page in found)
    assert [request.query for request in drive.asked] == [query_after(name, number) for number in asked]


GONE = reply({"message": "no such message"}, 404)


@pytest.mark.parametrize("name", SIX)
def test_history_after_an_unknown_message_says_that_it_is_not_anchored(name: str) -> None:
    """By time what is younger; without a time everything."""
    spoken = dialect(name)
    first = [] if numbered(name) or name == "messaging-conversations" else [GONE]
    whole = [page_of(name, range(1, 3), 4), page_of(name, range(3, 5), 4)]
    drive, found = pages(spoken, Position("other", time="2026-03-04T09:15:02.500Z"), *first, *whole)
    assert ids(found) == ["m-3", "m-4"]
    assert not found[0].anchored
    assert not drive.answers
    _, found = pages(spoken, Position("other"), *first, *whole)
    assert ids(found) == ["m-1", "m-2", "m-3", "m-4"]
    assert not found[0].anchored


@pytest.mark.parametrize("name", SIX)
def test_history_without_the_conversation(name: str) -> None:
    spoken = dialect(name)
    with pytest.raises(SessionOver):
        pages(spoken, None, GONE)
    with pytest.raises(SessionOver):
        pages(spoken, Position("m-1", 1, TIME), GONE, GONE)


@pytest.mark.parametrize("name", [name for name in SIX if numbered(name)])
def test_numbers_that_skip_are_not_anchored_and_must_advance(name: str) -> None:
    spoken = dialect(name)
    _, found = pages(spoken, Position("m-3", 3), page_of(name, range(5, 6), 5))
    assert not found[0].anchored
    with pytest.raises(Unreadable):
        pages(spoken, Position("m-3", 3), page_of(name, range(2, 4), 5))
    # Lag: the number is known, its message is not there yet.
    _, found = pages(spoken, Position("m-3", 3), page_of(name, range(0), 4))
    assert (found[0].items, found[0].next) == ((), None)
    assert found[0].anchored
    # Worse: history has not even come to the message we have seen.
    _, found = pages(spoken, Position("m-3", 3), page_of(name, range(0), 2))
    assert not found[0].anchored


@pytest.mark.parametrize("name", SIX)
def test_a_broken_history_is_unreadable(name: str) -> None:
    spoken = dialect(name)
    good = json.loads(page_of(name, range(1, 2), 1).body)
    broken: list[object] = [b"<html>", {}, {**good, "messages": {}}, {**good, "messages": [7]}]
    for member in good["messages"][0].keys() - {"type", "to", "from", "attributes"}:
        broken.append({**good, "messages": [{k: v for k, v in good["messages"][0].items() if k != member}]})
        broken.append({**good, "messages": [{**good["messages"][0], member: []}]})
    broken.append({**good, "messages": [{**good["messages"][0], "timestamp": "yesterday"}]})
    if not numbered(name) and name != "messaging-conversations":
        broken.append({"messages": [], "more": True})
        broken.append({**good, "messages": [{**good["messages"][0], "direction": "sideways"}]})
    for body in broken:
        with pytest.raises(Unreadable):
            pages(spoken, None, reply(body))


SEND_REST = {
    "guest-sessions": (
        {"text": "Hello", "messageId": "k-1"},
        {"messageId": "k-1", "sequenceNumber": 3, "timestamp": TIME},
        ("k-1", 3),
    ),
    "external-contacts": (
        {"text": "Hello", "messageId": "k-1"},
        {"messageId": "k-1", "sequenceNumber": 3, "timestamp": TIME},
        ("k-1", 3),
    ),
    "webmessaging-conversations": (
        {"type": "text", "text": "Hello", "guestId": "g-1", "messageId": "k-1"},
        {"id": "m-9", "messageId": "k-1", "timestamp": TIME},
        ("m-9", None),
    ),
}


@pytest.mark.parametrize("name", SEND_REST)
def test_send_over_rest(name: str) -> None:
    body, answer, (identity, sequence) = SEND_REST[name]
    spoken = dialect(name)
    sent, drive = run(spoken, spoken.send(session(name), OUT), reply(answer))
    assert drive.asked == [Request("POST", HISTORY[name], "send", json=body, credential="guest", idempotent=True)]
    assert (sent.id, sent.key, sent.sequence, sent.time) == (identity, "k-1", sequence, TIME)
    assert (sent.direction, sent.text, sent.sender) == ("inbound", "Hello", Sender("guest"))
    assert not spoken.sends_on_socket


OTHERS = {"direction": "outbound", "text": "hm", "from": {"role": "bot"}, "timestamp": TIME}
OURS = {"direction": "inbound", "text": "Hello", "from": {"role": "guest"}, "timestamp": TIME}
SEND_SOCKET: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "conversation-guests": (
        {"type": "SEND_MESSAGE", "conversationId": "c/1", "messageId": "k-1", "text": "Hello"},
        [
            {"type": "MESSAGE_ACCEPTED", "messageId": "other", "id": "m-8", "timestamp": TIME},
            {"type": "ERROR", "status": 403, "message": "not this one", "messageId": "other"},
            {"type": "MESSAGE_ACCEPTED", "messageId": "k-1", "id": "m-9", "timestamp": TIME},
        ],
    ),
    "messaging-conversations": (
        {"type": "send", "message": {"text": "Hello", "attributes": {"correlationId": "k-1"}}},
        [
            {"type": "message", "message": item("messaging-conversations", 8)},
            {"type": "error", "code": "x", "message": "not this one", "correlationId": "other"},
            {
                "type": "message",
                "message": {
                    **item("messaging-conversations", 9, inbound=True),
                    "text": "Hello",
                    "timestamp": TIME,
                },
            },
        ],
    ),
    "guests": (
        {"type": "message", "payload": {"text": "Hello", "correlationId": "k-1"}},
        [
            {"type": "message", "payload": {**OTHERS, "id": "m-8"}},
            {"type": "message", "payload": {**OURS, "id": "m-9", "correlationId": "k-1"}},
        ],
    ),
}


@pytest.mark.parametrize("name", SEND_SOCKET)
def test_send_over_the_socket(name: str) -> None:
    frame, frames = SEND_SOCKET[name]
    spoken = dialect(name)
    sent, drive = run(spoken, spoken.send(session(name), OUT), frames)
    assert [json.loads(turn.say or "") for turn in drive.said] == [frame]
    assert drive.said[0].message
    assert (sent.id, sent.key, sent.time, sent.direction, sent.text) == ("m-9", "k-1", TIME, "inbound", "Hello")
    assert sent.sender.role == "guest"
    assert spoken.sends_on_socket


def test_the_push_of_our_own_message_is_an_acceptance() -> None:
    spoken = dialect("conversation-guests")
    push = {"type": "MESSAGE_RECEIVED", "message": {**OURS, "id": "m-9", "messageId": "k-1"}}
    sent, _ = run(spoken, spoken.send(session(spoken.name), OUT), [push])
    assert (sent.id, sent.key) == ("m-9", "k-1")


# --- sockets ---

DOORS = {
    "guest-sessions": ("wss://api.mypurecloud.de/v2/guest/webmessaging/events?sessionId=s-1", "guest"),
    "external-contacts": ("wss://api.mypurecloud.de/v2/guest/webmessaging/events?guestId=g-1", "guest"),
    "conversation-guests": (
        "wss://webchat-eu-central-1.platform.genesys.cloud/api/v2/conversations/webmessaging/websocket",
        None,
    ),
    "messaging-conversations": ("wss://staging.mygen.com/ws", None),
    "guests": ("wss://acme.mypurecloud.com/api/v2/guests/g-1/sessions/s-1/ws", None),
}
ATTACH: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "guest-sessions": (None, {"type": "connected"}),
    "external-contacts": (None, {"type": "connected"}),
    "conversation-guests": (
        {"type": "CONNECT", "conversationId": "c/1", "guestId": "g-1", "token": "t-0"},
        {"type": "CONVERSATION_UPDATED", "conversationId": "c/1", "state": "connected"},
    ),
    "messaging-conversations": (
        {"type": "register", "conversationId": "c/1", "guestToken": "t-0"},
        {"type": "registered"},
    ),
    "guests": ({"type": "handshake", "token": "t-0"}, {"type": "handshake", "payload": {"status": "ok"}}),
}


@pytest.mark.parametrize("name", SOCKETS)
def test_the_door(name: str) -> None:
    door = dialect(name).door(session(name))
    assert door is not None
    assert (door.url, door.credential) == DOORS[name]
    assert "t-0" not in door.url


@pytest.mark.parametrize("name", SOCKETS)
def test_attach(name: str) -> None:
    frame, answer = ATTACH[name]
    spoken = dialect(name)
    noise = {"type": "something new"}
    attached, drive = run(spoken, spoken.attach(session(name)), [noise, answer])
    assert [turn.say and json.loads(turn.say) for turn in drive.said] == [frame]
    assert attached.state == "active"
    assert not attached.new_session


@pytest.mark.parametrize("name", [name for name in SOCKETS if ATTACH[name][0] is not None])
def test_the_first_frame_carries_the_trace_context(name: str) -> None:
    spoken = dialect(name, traceparent=PARENT)
    _, drive = run(spoken, spoken.attach(session(name)), [ATTACH[name][1]])
    assert json.loads(drive.said[0].say or "")["traceparent"] == PARENT


@pytest.mark.parametrize("name", SIX)
def test_one_base_url_serves_everything(name: str) -> None:
    """Nothing else of the profile is needed to address the service (contract.md §3)."""
    bare = dialect_class(name)(Profile(name="p", api=name, base_url="http://127.0.0.1:7"), new_id=lambda: "id")
    assert bare.rest("/x") == "http://127.0.0.1:7/x"
    door = bare.door(session(name))
    assert door is None or door.url.startswith("ws://127.0.0.1:7/")
    assert bare.addresses() == ("http://127.0.0.1:7", *(["ws://127.0.0.1:7"] if bare.has_socket else []))
    own = dialect(name, socket_url="wss://gate.example/own?x=1").door(session(name))
    assert own is None or own.url.startswith("wss://gate.example/own?x=1")


@pytest.mark.parametrize("name", SIX)
def test_an_address_that_cannot_be_derived_names_the_key(name: str) -> None:
    bare = dialect_class(name)(Profile(name="p", api=name), new_id=lambda: "id")
    with pytest.raises(UsageError) as caught:
        bare.addresses()
    assert caught.value.code == "config.key"
    assert any(f"`{key}`" in caught.value.message for key in bare.required[0])


@pytest.mark.parametrize(
    ("path", "url"),
    [
        (
            "/api/v2/conversations/webmessaging/guests/{guestId}/ws",
            "wss://api.mypurecloud.de/api/v2/conversations/webmessaging/guests/g-1/ws",
        ),
        (
            "/api/v2/conversations/webmessaging/guests/{conversationId}/messages",
            "wss://api.mypurecloud.de/api/v2/conversations/webmessaging/guests/c%2F1/messages",
        ),
        ("/own", "wss://api.mypurecloud.de/own"),
    ],
)
def test_the_other_socket_paths(path: str, url: str) -> None:
    name = "conversation-guests"
    door = dialect(name, socket_path=path).door(session(name))
    assert door is not None
    assert door.url == url


def test_a_placeholder_nobody_knows() -> None:
    name = "conversation-guests"
    with pytest.raises(UsageError, match=r"\{id\}"):
        dialect(name, socket_path="/x/{id}").door(session(name))


# --- pushes ---


@pytest.mark.parametrize("name", SOCKETS)
def test_a_push_reads_as_its_copy_in_history_does(name: str) -> None:
    kind, member = {
        "conversation-guests": ("MESSAGE_RECEIVED", "message"),
        "guests": ("message", "payload"),
    }.get(name, ("message", "message"))
    spoken = dialect(name)
    for inbound in (False, True):
        written = item(name, 1, inbound=inbound)
        (live,) = decode(spoken, {"type": kind, member: written})
        _, found = pages(spoken, None, page_of(name, range(1, 2), 1, inbound=1 if inbound else None))
        assert replace(live, source="history") == found[0].items[0]
        assert live.raw == written


def test_events_of_guest_sessions() -> None:
    spoken = dialect("guest-sessions")
    assert decode(spoken, {"type": "typing"}) == [Typing(Sender())]
    assert decode(spoken, {"type": "tokenExpired"}) == [SessionEvent("token_expired")]


def test_states_of_a_conversation() -> None:
    spoken = dialect("conversation-guests")
    ended = {"type": "CONVERSATION_UPDATED", "conversationId": "c/1", "state": "disconnected"}
    assert decode(spoken, ended) == [SessionEvent("ended", "disconnected")]
    (other,) = decode(spoken, {**ended, "state": "queued"})
    assert isinstance(other, Unknown)


def test_who_sent_it_where_the_service_never_told_the_guests_id() -> None:
    spoken = dialect("messaging-conversations")
    told = replace(session(spoken.name), ids={"conversation": "c/1", "guest": None})
    push = {"type": "message", "message": {**item(spoken.name, 1, inbound=True), "from": {"id": "u-7"}}}
    (ours,) = decode(spoken, push, told)
    assert (ours.direction, ours.key, ours.sender) == ("inbound", "k-1", Sender("guest"))
    (theirs,) = decode(spoken, {"type": "message", "message": {**item(spoken.name, 2), "from": {"id": "u-8"}}}, told)
    assert (theirs.direction, theirs.sender.role) == ("outbound", "agent")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.sampled_from(["message", "payload", "state", "status", "code", "messageId", "id", "from", "text"])
TYPES = st.sampled_from(
    ["message", "error", "ERROR", "handshake", "typing", "CONVERSATION_UPDATED", "MESSAGE_ACCEPTED", "MESSAGE_RECEIVED"]
)


@pytest.mark.parametrize("name", SOCKETS)
@given(kind=TYPES | JSON, members=st.dictionaries(MEMBERS, JSON, max_size=4))
def test_no_frame_breaks_the_reader(name: str, kind: object, members: dict[str, object]) -> None:
    """Every JSON object is read, kept as unknown, or unreadable; nothing else ever comes out."""
    with suppress(Unreadable):
        decode(dialect(name), {"type": kind, **members})


@pytest.mark.parametrize("name", SOCKETS)
@pytest.mark.parametrize("text", ["", "nope", "[]", '"x"', "{", "[" * 5000, '{"type":NaN}'])
def test_what_is_no_object_is_unreadable(name: str, text: str) -> None:
    with pytest.raises(Unreadable):
        dialect(name).decode(Frame(text, AT), session(name))


# --- refusals ---


@pytest.mark.parametrize("name", SIX)
@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, Refused, "service.refused"),
        (401, Unauthorised, None),
        (403, Forbidden, "forbidden"),
        (404, SessionOver, "session.gone"),
        (409, Conflict, "conflict"),
        (415, Refused, "service.refused"),
        (429, RateLimited, "rate.limited"),
        (302, Unreadable, "answer.redirect"),
        (503, NetworkError, "service.down"),
    ],
)
def test_what_a_status_means(name: str, status: int, kind: type[Failure], code: str | None) -> None:
    spoken = dialect(name)
    answer = reply({"message": "so it is", "code": "x.y"}, status, **{"retry-after": "7"})
    failure = spoken.refusal(Request("GET", "", "history", credential="guest"), answer)
    assert type(failure) is kind
    assert failure.code == code or code is None
    assert "so it is" in failure.message
    assert failure.http_status == status
    assert failure.retry_after == 7.0


@pytest.mark.parametrize("name", SIX)
def test_both_conflicts(name: str) -> None:
    spoken = dialect(name)
    for said, code in (("session.locked", "conflict.locked"), ("session.invalid", "conflict.ended")):
        failure = spoken.refusal(Request("GET", "", "socket"), reply({"code": said}, 409))
        assert (type(failure), failure.code) == (Conflict, code)


@pytest.mark.parametrize("name", SIX)
def test_a_refused_token_says_whether_it_can_be_refreshed(name: str) -> None:
    spoken = dialect(name)
    failure = spoken.refusal(Request("GET", "", "history", credential="guest"), reply({}, 401))
    able = Ability.REFRESH in spoken.abilities
    assert failure.code == ("auth.refused" if able else "auth.no_refresh")
    assert spoken.refreshable(session(name)) == ("guest" if able else None)


@pytest.mark.parametrize("name", SOCKETS)
def test_closes(name: str) -> None:
    spoken = dialect(name)
    assert spoken.on_close(1000) == "done"
    assert {spoken.on_close(code) for code in (1001, 1006, 1011, 1012, 1013)} == {"reconnect"}
    assert {spoken.on_close(code) for code in (1008, 4001)} == {"renew"}
    assert spoken.on_close(1009) == ("renew" if name == "messaging-conversations" else "final")
    assert spoken.on_early_close(1006) == ("renew" if name == "guests" else "reconnect")
    assert spoken.on_early_close(1001) == "reconnect"


REJECTED = {
    "conversation-guests": {"type": "ERROR", "status": 403, "message": "Forbidden", "messageId": "k-1"},
    "messaging-conversations": {"type": "error", "code": 403, "message": "Forbidden", "correlationId": "k-1"},
}


@pytest.mark.parametrize("name", REJECTED)
def test_a_refusal_in_the_stream(name: str) -> None:
    spoken = dialect(name)
    for frame in (REJECTED[name], {k: v for k, v in REJECTED[name].items() if not k.endswith("Id")}):
        with pytest.raises(Forbidden) as caught:
            run(spoken, spoken.send(session(name), OUT), [frame])
        assert caught.value.code == "forbidden"
        assert spoken.healed_by_renewal(caught.value) is (name == "conversation-guests")


def test_only_the_streams_403_is_healed() -> None:
    spoken = dialect("conversation-guests")
    for request in (Request("GET", "", "socket"), Request("POST", "", "refresh")):
        assert not spoken.healed_by_renewal(spoken.refusal(request, reply({}, 403)))
    assert spoken.healed_by_renewal(Unauthorised("x"))
    assert not dialect("webmessaging-conversations").healed_by_renewal(Unauthorised("x"))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (401, Unauthorised),
        ("401", Unauthorised),
        ("token_expired", Unauthorised),
        ("Too-Many Requests", RateLimited),
        ("session.locked", Conflict),
        (500, NetworkError),
        ("what else", Refused),
        (None, Refused),
        ("9" * 5000, Refused),
    ],
)
def test_error_codes_of_messaging_conversations(code: object, kind: type[Failure]) -> None:
    (heard,) = decode(dialect("messaging-conversations"), {"type": "error", "code": code, "message": "m"})
    assert isinstance(heard, Rejection)
    assert type(heard.failure) is kind
    assert heard.reply_to is None


def test_an_error_about_no_send_of_ours_may_be_the_end() -> None:
    spoken = dialect("messaging-conversations")
    over = {"type": "error", "code": "session.invalid", "message": "it has ended"}
    refused, event = decode(spoken, over)
    assert (refused.failure.code, event) == ("conflict.ended", SessionEvent("ended", "it has ended"))
    (refused,) = decode(spoken, {**over, "correlationId": "k-1"})
    assert (refused.failure.code, refused.reply_to) == ("conflict.ended", "k-1")


@pytest.mark.parametrize("name", ["conversation-guests", "messaging-conversations", "guests"])
def test_a_refused_first_frame(name: str) -> None:
    frames = {
        "conversation-guests": {"type": "ERROR", "status": 401, "message": "who?"},
        "messaging-conversations": {"type": "error", "code": "unauthorized", "message": "who?"},
        "guests": {"type": "handshake", "payload": {"status": "refused"}},
    }
    spoken = dialect(name)
    with pytest.raises(Unauthorised):
        run(spoken, spoken.attach(session(name)), [frames[name]])


# --- tokens ---

REFRESH: dict[str, tuple[Request, dict[str, Any], str]] = {
    "conversation-guests": (
        Request(
            "POST",
            f"{API}/api/v2/conversations/webmessaging/guests",
            "refresh",
            json={"conversationId": "c/1", "guestId": "g-1"},
            credential="guest",
            idempotent=True,
        ),
        {"conversationId": "c/1", "guestId": "g-1", "token": "t-1"},
        "t-1",
    ),
    "messaging-conversations": (
        Request(
            "POST",
            f"{MYGEN}/api/v2/messaging/conversations/c%2F1/guest-tokens",
            "refresh",
            credential="guest",
            idempotent=True,
        ),
        {"guestToken": "t-1"},
        "t-1",
    ),
    "guests": (
        Request("POST", f"{ORG}/api/v2/guests/g-1/sessions", "refresh", credential="oauth", idempotent=True),
        {"guestToken": JWT, "sessions": [{"id": "s-2"}]},
        JWT,
    ),
    "webmessaging-conversations": (
        Request(
            "POST",
            f"{API}/api/v2/webmessaging/conversations/c%2F1/guests/g-1/refresh",
            "refresh",
            json={"guestId": "g-1"},
            credential="oauth",
            idempotent=True,
        ),
        {"sessionToken": "t-1", "expiresIn": 900},
        "t-1",
    ),
}


@pytest.mark.parametrize("name", SIX)
def test_refresh(name: str) -> None:
    spoken = dialect(name)
    assert (name in REFRESH) is (Ability.REFRESH in spoken.abilities)
    if name not in REFRESH:
        with pytest.raises(Failure) as caught:
            run(spoken, spoken.obtain("guest", session(name)))
        assert caught.value.exit is Exit.UNSUPPORTED
        return
    request, answer, token = REFRESH[name]
    renewed, drive = run(spoken, spoken.obtain("guest", session(name)), reply(answer, 201))
    assert drive.asked == [request]
    assert renewed.token() == token
    assert renewed.ids["guest"] == "g-1"
    if name == "guests":
        assert renewed.ids["session"] == "s-2"


def test_a_renewed_token_is_announced_on_the_open_socket() -> None:
    spoken = dialect("messaging-conversations")
    assert spoken.reattaches
    _, drive = run(spoken, spoken.reattach(session(spoken.name, token="t-1")), [{"type": "registered"}])
    assert json.loads(drive.said[0].say or "")["guestToken"] == "t-1"


def test_the_other_refresh_style() -> None:
    spoken = dialect("webmessaging-conversations", refresh_style="guest-token")
    answer = reply({"sessionToken": "t-1", "expiresIn": 60})
    renewed, drive = run(spoken, spoken.obtain("guest", session(spoken.name)), answer)
    assert drive.asked == [
        Request(
            "POST",
            f"{API}/api/v2/webmessaging/conversations/c%2F1/guest-token",
            "refresh",
            json={"conversationId": "c/1", "guestId": "g-1"},
            credential="guest",
            idempotent=True,
        )
    ]
    held = renewed.credential("guest")
    assert held is not None
    assert held.expires_at == AT + 60


@pytest.mark.parametrize(("style", "other"), [(None, "guest-token"), ("guest-token", "guest-refresh")])
def test_a_refresh_style_that_is_not_there_names_the_other(style: str | None, other: str) -> None:
    spoken = dialect("webmessaging-conversations", refresh_style=style)
    with pytest.raises(Refused) as caught:
        run(spoken, spoken.obtain("guest", session(spoken.name)), reply({"message": "not found"}, 404))
    assert f"refresh_style: {other}" in caught.value.message
    assert caught.value.code == "service.refresh_style"
    assert caught.value.http_status == 404


def test_a_token_is_taken_to_live_half_an_hour_unless_it_ends_sooner() -> None:
    spoken = dialect("messaging-conversations")
    for exp, expected in ((AT + 600, AT + 600), (AT + 3600, AT + 1800)):
        answer = reply({"guestToken": jwt_of({"exp": int(exp)})})
        renewed, _ = run(spoken, spoken.obtain("guest", session(spoken.name)), answer)
        held = renewed.credential("guest")
        assert held is not None
        assert held.expires_at == expected
    assert not Credential("guest", Secret("t"), AT + 1800).fresh_at(AT + 25 * 60, spoken.margins["guest"])


@pytest.mark.parametrize(
    ("more", "token", "expected"),
    [
        ({"expiresIn": 900}, jwt_of({"exp": 5}), AT + 900),
        ({"expiresAt": "2026-03-04T09:30:00Z"}, "t", 1772616600.0),
        ({"expiresAt": "soon"}, "t", None),
        ({"expiresIn": True}, "t", None),
        ({"expiresIn": -5}, "t", None),
        ({"expiresIn": float("1e30")}, "t", None),
        ({}, jwt_of({"exp": 1772616600}), 1772616600.0),
        ({}, jwt_of({}), None),
        ({}, jwt_of({"exp": "never"}), None),
        ({}, "a.b.c", None),
        ({}, "not.a!.jwt~~~~~~", None),
    ],
)
def test_when_a_token_ends(more: dict[str, Any], token: str, expected: float | None) -> None:
    spoken = dialect("webmessaging-conversations")
    answer = reply({"conversationId": "c", "guestId": "g", "sessionToken": token, **more})
    made, _ = run(spoken, spoken.create(Opening()), answer)
    assert made.credential("guest").expires_at == expected


OAUTH = {
    "guests": (ORG, "guest:create guest:read webchat:send"),
    "webmessaging-conversations": (API, "webmessaging:conversation:write"),
}


@pytest.mark.parametrize("name", OAUTH)
def test_the_oauth_client(name: str) -> None:
    base, scope = OAUTH[name]
    spoken = dialect(name)
    answer = {"access_token": "a", "token_type": "bearer", "expires_in": 3600, "scope": scope}
    granted, drive = run(spoken, spoken.oauth(), reply(answer))
    form = {"grant_type": "client_credentials", "client_id": "client", "client_secret": "hush", "scope": scope}
    assert drive.asked == [Request("POST", f"{base}/oauth/token", "oauth", form=form, idempotent=True)]
    assert granted == Credential("oauth", Secret("a"), AT + 3600)
    for broken in ({**answer, "expires_in": -1}, {**answer, "expires_in": "x"}, {"expires_in": 3600}, b"<html>"):
        with pytest.raises(Unreadable):
            run(spoken, spoken.oauth(), reply(broken))
    with pytest.raises(Unauthorised) as refused:
        run(spoken, spoken.oauth(), reply({"error": "invalid_client", "error_description": "wrong"}, 401))
    assert (refused.value.code, refused.value.service_code) == ("auth.oauth", "invalid_client")
    assert refused.value.message == "oauth: HTTP 401: wrong"
    for key in ("client_id", "client_secret"):
        without = dialect(name, **{key: None})
        with pytest.raises(UsageError, match=rf"oauth\.{key}"):
            run(without, without.oauth())


@pytest.mark.parametrize("name", [name for name in SIX if name not in OAUTH])
def test_who_needs_no_oauth_client(name: str) -> None:
    spoken = dialect(name)
    with pytest.raises(UsageError):
        run(spoken, spoken.oauth())


# --- what one family alone has ---


@pytest.mark.parametrize("name", [name for name in SIX if numbered(name)])
def test_typing(name: str) -> None:
    spoken = dialect(name)
    _, drive = run(spoken, spoken.typing(session(name)), reply(b"", 204))
    url = f"{API}/api/v2/conversations/messaging/external-contacts/g-1/typing"
    assert drive.asked == [Request("POST", url, "typing", credential="guest")]


def test_sync_merges_attributes() -> None:
    spoken = dialect("guests")
    given_ = {"external_provider_id": "okta", "external_email": "a@example.org", "synced_at": TIME, "plan": "gold"}
    _, drive = run(spoken, spoken.sync(session("guests"), given_), reply({}))
    assert drive.asked == [
        Request(
            "PUT",
            f"{ORG}/api/v2/guests/g-1",
            "sync",
            json={"attributes": {**given_, "delegation_verified": True}},
            credential="oauth",
            idempotent=True,
        )
    ]


def test_attributes_of_more_than_10_kb_are_refused_before_anything_is_sent() -> None:
    spoken = dialect("guests")
    frame = len('{"a":"","delegation_verified":true}')
    fits = {"a": "é" * ((10_240 - frame) // 2) + "x" * ((10_240 - frame) % 2)}
    run(spoken, spoken.sync(session("guests"), fits), reply({}))
    for flow in (
        spoken.sync(session("guests"), {"a": fits["a"] + "x"}),
        spoken.create(Opening(attributes={"a": "x" * 10_240})),
    ):
        with pytest.raises(Refused) as caught:
            run(spoken, flow)
        assert caught.value.code == "service.attributes"
        assert "10240" in caught.value.message


def test_a_guest_who_is_gone_cannot_be_synced() -> None:
    spoken = dialect("guests")
    with pytest.raises(SessionOver) as caught:
        run(spoken, spoken.sync(session("guests"), {}), reply({"message": "nope"}, 404))
    assert caught.value.message == "Guest not found. Session may have expired."
    with pytest.raises(Refused):
        run(spoken, spoken.sync(session("guests"), {}), reply({"message": "bad"}, 400))


def test_only_guests_end_by_a_close() -> None:
    spoken = dialect("guests")
    ended, _ = run(spoken, spoken.end(session("guests")))
    assert ended.state == "ended"
    assert spoken.farewell == (1000, "Widget disconnect")
    assert [name for name in SIX if dialect_class(name).farewell] == ["guests"]


def test_what_a_create_cannot_do_without() -> None:
    for name, option in (("external-contacts", "--email"), ("messaging-conversations", "--queue")):
        spoken = dialect(name)
        with pytest.raises(UsageError) as caught:
            run(spoken, spoken.create(Opening()))
        assert option in caught.value.hint


def test_guests_without_routing_or_name() -> None:
    spoken = dialect("guests")
    _, drive = run(spoken, spoken.create(Opening()), reply(CREATES["guests"].answer))
    assert drive.asked[0].json == {"name": "Guest", "attributes": {}, "routing": {}}


# --- declarations ---


@pytest.mark.parametrize("name", SIX)
def test_a_message_has_no_attributes(name: str) -> None:
    with pytest.raises(UsageError):
        dialect(name).check(session(name), replace(OUT, attributes={"a": "b"}))
    dialect(name).check(session(name), OUT)


@pytest.mark.parametrize("name", NAMES)
def test_declarations_agree(name: str) -> None:
    kind = dialect_class(name)
    assert kind.name == name
    assert {Ability.CREATE, Ability.SEND, Ability.HISTORY, Ability.LISTEN, Ability.RESUME} <= kind.abilities.keys()
    assert not kind.sends_on_socket or kind.has_socket
    assert kind.fields <= {"attr", "queue", "skill", "language", "email", "name"}
    assert kind.send_fields <= {"attr"}
    assert kind.attempts == (5 if name == "conversation-guests" else 10)
    assert (kind.request_rate is not None) is (name == "guests")
    assert (kind.renewal is not None) is (name == "webmessaging-conversations")
    assert kind.token_claims == (("routing_hints",) if name == "guests" else ())


def test_accepted_and_opened_are_signals() -> None:
    spoken = dialect("conversation-guests")
    accepted = {"type": "MESSAGE_ACCEPTED", "messageId": "k", "id": "m", "timestamp": LATER}
    assert decode(spoken, accepted) == [Accepted("k", "m", LATER)]
    (opened,) = decode(dialect("guest-sessions"), {"type": "connected"})
    assert isinstance(opened, Opened)
