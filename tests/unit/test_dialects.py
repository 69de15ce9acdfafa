"""The families of other-apis.md where no single example can say it: hosts, pages, damage, noise, declarations.

Knows: the rules they share, and of single families what only they have. What a request, an answer or a
frame looks like is taken from `tests/wire`, so that another family is tested here by its examples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from email.utils import formatdate
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestctl.core.clock import rfc3339
from guestctl.core.errors import (
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
from guestctl.core.model import (
    UNREADABLE,
    Credential,
    Message,
    NewSession,
    Outgoing,
    Position,
    Profile,
    Secret,
    Sender,
    Session,
    SessionEvent,
    Unknown,
)
from guestctl.core.wire import Frame, HttpResponse, Request
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.base import Dialect, HistoryPage, Omitted
from guestctl.dialects.capabilities import Ability
from guestctl.dialects.flows import Accepted, Flow, FrameRequest, HttpRequest, Opened, Rejection
from tests.examples import Step, fill, load, numbered
from tests.fakes import FlowDriver
from tests.unit.test_examples import performed

AT = 1_772_615_727.0
TIME = "2026-03-04T09:15:27.412Z"
LATER = "2026-03-04T09:15:28.000Z"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
#: All but web-messaging, which has tests of its own.
FAMILIES = NAMES[1:]
SOCKETS = tuple(name for name in FAMILIES if dialect_class(name).has_socket)
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
OPENING = NewSession(
    attributes={"plan": "gold"}, queue="q", skill="s", language="de", email="a@example.org", guest_name="Ada"
)


def dialect(name: str, **profile: Any) -> Dialect:
    return dialect_class(name)(replace(PROFILE, api=name, **profile), new_id=lambda: "id")


def session(name: str, *, token: str = "t-0", **notes: Any) -> Session:
    ids = {"conversation": "c/1", "guest": "g-1", "session": "s-1"}
    made = Session(api=name, profile="p", ids=ids, state="active", notes=notes)
    return made.having(Credential("guest", Secret(token)))


def reply(body: object, status: int = 200, **headers: str) -> HttpResponse:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpResponse(status, headers, content, AT)


class Drive:
    """Performs one flow with prepared answers. A Reply answers a Call (one that is not 2xx is raised
    as the dialect reads it), a list of frames answers a Turn."""

    def __init__(self, spoken: Dialect, *answers: object) -> None:
        self.dialect, self.session, self.answers = spoken, session(spoken.name), list(answers)
        self.asked: list[Request] = []
        self.said: list[FrameRequest] = []

    def run(self, flow: Flow[Any]) -> Any:
        try:
            step = next(flow)
            while True:
                assert self.answers, f"nothing prepared for {step}"
                answer = self.answers.pop(0)
                if isinstance(step, HttpRequest):
                    assert isinstance(answer, HttpResponse)
                    self.asked.append(step.request)
                    step = flow.send(answer) if answer.ok else flow.throw(self.dialect.refusal(step.request, answer))
                else:
                    self.said.append(step)
                    step = flow.send(self._heard(step, answer))
        except StopIteration as stop:
            return stop.value

    def _heard(self, turn: FrameRequest, frames: object) -> object:
        assert isinstance(frames, list)
        assert turn.answers is not None
        for frame in frames:
            for heard in decode(self.dialect, frame, self.session):
                if turn.answers(heard):
                    return heard
        raise AssertionError(f"none of {frames} answers {turn.text}")


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


# --- what the examples show ---

API = "https://api.mypurecloud.de"
ORG = "https://acme.mypurecloud.com"
MYGEN = "https://staging.mygen.com"
#: Where each family is, of a profile that names regions and organisations: REST, and the socket.
HOSTS = {
    "guest-sessions": (API, "wss://api.mypurecloud.de"),
    "external-contacts": (API, "wss://api.mypurecloud.de"),
    "conversation-guests": (API, "wss://webchat-eu-central-1.platform.genesys.cloud"),
    "messaging-conversations": (MYGEN, "wss://staging.mygen.com"),
    "guests": (ORG, "wss://acme.mypurecloud.com"),
    "webmessaging-conversations": (API, None),
}
#: The ids of `session`, and what else the examples leave open.
CHOSEN = {"conversation": "c/1", "guest": "g-1", "sid": "s-1", "token": "t-0"}


def names(name: str, **more: str) -> dict[str, Any]:
    """What the placeholders of this family's examples stand for."""
    samples = {k: v for example in load(name).values() for k, v in example.samples.items()}
    return {**samples, **CHOSEN, **more}


def steps(name: str, verb: str) -> Iterator[Step]:
    for example in load(name).values():
        yield from (step for step in example.steps if step.verb == verb)


def read(name: str) -> Step:
    """The example of a history that is not empty."""
    return next(step for step in steps(name, "history") if step.reply and (step.reply.body or {}).get("messages"))


def address(name: str, step: Step, *, socket: bool = False) -> str:
    """Where an example's request goes."""
    assert step.request is not None
    base = HOSTS[name][socket]
    quoted = {k: quote(v, safe="") for k, v in names(name).items() if isinstance(v, str)}
    query = fill(step.request["query"], names(name)) if socket and "query" in step.request else {}
    return f"{base}{fill(step.request['path'], quoted)}{'?' if query else ''}{urlencode(query)}"


def item(name: str, number: int) -> dict[str, Any]:
    """Message `number` as this family writes it."""
    (written,) = read(name).reply.body["messages"]  # type: ignore[union-attr]
    made = fill(written, names(name, id=f"m-{number}", key=f"m-{number}", at=f"2026-03-04T09:15:{number:02}.000Z"))
    return {**made, **({"sequenceNumber": number} if "sequenceNumber" in made else {})}


def page_of(name: str, numbers: range, total: int) -> HttpResponse:
    """The page with these messages, of a conversation with messages 1 to `total`."""
    step = read(name)
    assert step.reply is not None
    body: dict[str, Any] = {"messages": [item(name, n) for n in numbers]}
    more = bool(numbers) and numbers[-1] < total
    if numbered(name):
        body["lastSequenceNumber"] = total
    elif "more" in step.reply.body:
        body["more"] = more
    elif more:
        body["nextPageToken"] = f"page-{numbers[-1]}"
    return reply(body)


def by_token(name: str) -> bool:
    """Whether a page leads to the next by a token of its own, so that all are read from the start."""
    step = read(name)
    assert step.reply is not None
    return not numbered(name) and "more" not in step.reply.body


def query_after(name: str, number: int) -> dict[str, str]:
    """What asks for the page behind message `number`."""
    step = read(name)
    assert step.request is not None
    asked: dict[str, str] = fill(step.request["query"], names(name))
    if numbered(name):
        return {**asked, "lastSequenceNumber": str(number)}
    if not number:
        return asked
    return {**asked, **({"nextPageToken": f"page-{number}"} if by_token(name) else {"after": f"m-{number}"})}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("body", [b"<html>no</html>", b"", b"[]", b"\xff", b'{"a":' * 5000])
def test_what_is_no_answer_to_a_create_is_unreadable(name: str, body: bytes) -> None:
    spoken = dialect(name)
    with pytest.raises(Unreadable) as caught:
        run(spoken, spoken.create(OPENING), reply(body))
    assert caught.value.exit is Exit.UNREADABLE


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_request_is_called_and_whether_it_may_be_repeated(name: str) -> None:
    for example in load(name).values():
        for verb, request in performed(example.id).requests if not example.sandbox_only else ():
            assert request.route == {"obtain": "refresh"}.get(verb, verb)
            assert request.idempotent is (verb not in {"create", "typing", "send"}), verb


def pages(spoken: Dialect, after: Position | None, *answers: HttpResponse) -> tuple[Drive, list[HistoryPage]]:
    """Every page that follows, as `paging` reads them."""
    drive = Drive(spoken, *answers)
    cursor: str | None = None
    found: list[HistoryPage] = []
    while not found or cursor is not None:
        flow = spoken.history(drive.session, after=after if cursor is None else None, cursor=cursor, limit=50)
        found.append(drive.run(flow))
        cursor = found[-1].next
    return drive, found


def ids(found: list[HistoryPage]) -> list[str | None]:
    return [message.id for page in found for message in page.items if not isinstance(message, (Unknown, Omitted))]


@pytest.mark.parametrize("name", FAMILIES)
def test_history_from_the_start(name: str) -> None:
    spoken = dialect(name)
    drive, found = pages(spoken, None, page_of(name, range(1, 4), 5), page_of(name, range(4, 6), 5))
    assert [request.url for request in drive.asked] == [address(name, read(name))] * 2
    assert [request.query for request in drive.asked] == [query_after(name, 0), query_after(name, 3)]
    assert all((request.route, request.idempotent) == ("history", True) for request in drive.asked)
    assert ids(found) == ["m-1", "m-2", "m-3", "m-4", "m-5"]
    sequences = [message.sequence for page in found for message in page.items if isinstance(message, Message)]
    assert sequences == ([1, 2, 3, 4, 5] if numbered(name) else [None] * 5)


@pytest.mark.parametrize("name", FAMILIES)
def test_history_of_nothing(name: str) -> None:
    spoken = dialect(name)
    _, found = pages(spoken, None, page_of(name, range(0), 0))
    assert ids(found) == []


@pytest.mark.parametrize("name", FAMILIES)
def test_history_after_a_message(name: str) -> None:
    spoken = dialect(name)
    after = Position("m-3", 3 if numbered(name) else None, "2026-03-04T09:15:03.000Z")
    if by_token(name):
        answers = [page_of(name, range(1, 3), 5), page_of(name, range(3, 5), 5), page_of(name, range(5, 6), 5)]
        asked = [0, 2, 4]
    else:
        answers, asked = [page_of(name, range(4, 5), 5), page_of(name, range(5, 6), 5)], [3, 4]
    drive, found = pages(spoken, after, *answers)
    assert ids(found) == ["m-4", "m-5"]
    assert all(page.anchored for page in found)
    assert [request.query for request in drive.asked] == [query_after(name, number) for number in asked]


GONE = reply({"message": "no such message"}, 404)


@pytest.mark.parametrize("name", FAMILIES)
def test_history_after_an_unknown_message_says_that_it_is_not_anchored(name: str) -> None:
    """By time what is younger; without a time everything."""
    spoken = dialect(name)
    first = [] if numbered(name) or by_token(name) else [GONE]
    whole = [page_of(name, range(1, 3), 4), page_of(name, range(3, 5), 4)]
    drive, found = pages(spoken, Position("other", time="2026-03-04T09:15:02.500Z"), *first, *whole)
    assert ids(found) == ["m-3", "m-4"]
    assert not found[0].anchored
    assert not drive.answers
    _, found = pages(spoken, Position("other"), *first, *whole)
    assert ids(found) == ["m-1", "m-2", "m-3", "m-4"]
    assert not found[0].anchored


@pytest.mark.parametrize("name", FAMILIES)
def test_history_without_the_conversation(name: str) -> None:
    spoken = dialect(name)
    with pytest.raises(SessionOver):
        pages(spoken, None, GONE)
    with pytest.raises(SessionOver):
        pages(spoken, Position("m-1", 1, TIME), GONE, GONE)


@pytest.mark.parametrize("name", [name for name in FAMILIES if numbered(name)])
def test_numbers_that_skip_are_not_anchored_and_must_advance(name: str) -> None:
    spoken = dialect(name)
    _, found = pages(spoken, Position("m-3", 3), page_of(name, range(5, 6), 5))
    assert not found[0].anchored
    with pytest.raises(Unreadable):
        pages(spoken, Position("m-3", 3), page_of(name, range(2, 4), 5))
    # Lag: the number is known, its message is not there yet.
    _, found = pages(spoken, Position("m-3", 3), page_of(name, range(0), 4))
    assert (found[0].items, found[0].next, found[0].announced_up_to) == ((), None, 4)
    assert found[0].anchored
    _, found = pages(spoken, None, page_of(name, range(1, 4), 5), page_of(name, range(0), 5))
    assert (ids(found), found[-1].announced_up_to) == (["m-1", "m-2", "m-3"], 5)
    _, found = pages(spoken, Position("m-3", 3), page_of(name, range(0), 3))
    assert found[0].announced_up_to is None
    # Worse: history has not even come to the message we have seen.
    _, found = pages(spoken, Position("m-3", 3), page_of(name, range(0), 2))
    assert not found[0].anchored


@pytest.mark.parametrize("name", FAMILIES)
def test_a_broken_history_is_unreadable(name: str) -> None:
    spoken = dialect(name)
    good = json.loads(page_of(name, range(1, 2), 1).body)
    broken: list[object] = [b"<html>", {}, {**good, "messages": {}}]
    if "more" in good:
        broken.append({"messages": [], "more": True})
    for body in broken:
        with pytest.raises(Unreadable):
            pages(spoken, None, reply(body))


@pytest.mark.parametrize("entry", [None, 7, "text", [], {}, "timestamp", "id", "direction", "text member"])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_unreadable_entry_does_not_hide_the_others(name: str, entry: object) -> None:
    spoken = dialect(name)
    good = json.loads(page_of(name, range(1, 4), 3).body)
    first, second, third = good["messages"]
    members = {"timestamp": "timestamp", "text member": "text"}
    members["id"] = "messageId" if numbered(name) else "id"
    members["direction"] = "direction" if "direction" in second else "from"
    if isinstance(entry, str) and entry in members:
        second = {key: value for key, value in second.items() if key != members[entry]}
        entry = second
    _, found = pages(spoken, None, reply({**good, "messages": [first, entry, third]}))
    one, unreadable, three = (item for page in found for item in page.items)
    assert isinstance(one, Message)
    assert isinstance(three, Message)
    assert isinstance(unreadable, Unknown)
    assert unreadable.label == UNREADABLE


# --- answers among others ---

OTHER = "another-key"


@pytest.mark.parametrize("name", [name for name in SOCKETS if dialect_class(name).sends_on_socket])
def test_what_is_heard_of_another_message_is_not_our_answer(name: str) -> None:
    spoken = dialect(name)
    step = next(steps(name, "send"))
    hand = FlowDriver(spoken.send(session(name), OUT))
    assert isinstance(hand.step, FrameRequest)
    assert hand.step.message
    for heard in step.hears:
        assert not hand.receive(decode(spoken, fill(heard.body, names(name, key=OTHER)))), heard
    assert hand.receive(decode(spoken, fill(step.hears[0].body, names(name, key=OUT.key))))
    assert (hand.done().key, hand.done().direction) == (OUT.key, "inbound")


def test_the_push_of_our_own_message_is_an_acceptance() -> None:
    spoken = dialect("conversation-guests")
    push = {"type": "MESSAGE_RECEIVED", "message": item(spoken.name, 9) | {"messageId": OUT.key}}
    sent, _ = run(spoken, spoken.send(session(spoken.name), OUT), [push])
    assert (sent.id, sent.key) == ("m-9", OUT.key)


# --- sockets ---


@pytest.mark.parametrize("name", SOCKETS)
def test_the_door(name: str) -> None:
    door = dialect(name).socket_address(session(name))
    assert door is not None
    assert door.url == address(name, next(steps(name, "connect")), socket=True)
    assert "t-0" not in door.url


@pytest.mark.parametrize("name", SOCKETS)
def test_attach_waits_for_its_own_answer_and_says_whose_trace_it_is(name: str) -> None:
    step = next(steps(name, "attach"))
    spoken = dialect(name)
    hand = FlowDriver(spoken.attach(session(name), traceparent=PARENT))
    if step.frame is not None:
        assert hand.sent["traceparent"] == PARENT
    assert not hand.receive(decode(spoken, {"type": "something new"}))
    assert any(hand.receive(decode(spoken, fill(heard.body, names(name)))) for heard in step.hears)
    assert (hand.done().state, hand.done().new_session) == ("active", False)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_base_url_serves_everything(name: str) -> None:
    """Nothing else of the profile is needed to address the service (contract.md §3)."""
    bare = dialect_class(name)(Profile(name="p", api=name, base_url="http://127.0.0.1:7"), new_id=lambda: "id")
    assert bare.rest("/x") == "http://127.0.0.1:7/x"
    door = bare.socket_address(session(name))
    assert door is None or door.url.startswith("ws://127.0.0.1:7/")
    assert bare.addresses() == ("http://127.0.0.1:7", *(["ws://127.0.0.1:7"] if bare.has_socket else []))
    own = dialect(name, socket_url="wss://gate.example/own?x=1").socket_address(session(name))
    assert own is None or own.url.startswith("wss://gate.example/own?x=1")


@pytest.mark.parametrize("name", FAMILIES)
def test_an_address_that_cannot_be_derived_names_the_key(name: str) -> None:
    bare = dialect_class(name)(Profile(name="p", api=name), new_id=lambda: "id")
    with pytest.raises(UsageError) as caught:
        bare.addresses()
    assert caught.value.code == "config.key"
    assert any(f'"{key}"' in caught.value.message for key in bare.required[0])


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
    door = dialect(name, socket_path=path).socket_address(session(name))
    assert door is not None
    assert door.url == url


def test_a_placeholder_nobody_knows() -> None:
    name = "conversation-guests"
    with pytest.raises(UsageError, match=r"\{id\}"):
        dialect(name, socket_path="/x/{id}").socket_address(session(name))


# --- pushes ---


@pytest.mark.parametrize("name", SOCKETS)
def test_a_push_reads_as_its_copy_in_history_does(name: str) -> None:
    spoken = dialect(name)
    page = json.loads(page_of(name, range(1, 2), 1).body)
    directions = set()
    for example in load(name).values():
        for frame in (fill(heard.body, names(name)) for step in example.steps for heard in step.hears):
            written = next((v for v in frame.values() if isinstance(v, dict) and "text" in v), None)
            if written is not None:
                (live,) = decode(spoken, frame)
                _, found = pages(spoken, None, reply({**page, "messages": [written]}))
                assert replace(live, source="history") == found[0].items[0]
                assert live.raw == written
                directions.add(live.direction)
    assert "outbound" in directions


def test_states_of_a_conversation() -> None:
    spoken = dialect("conversation-guests")
    ended = {"type": "CONVERSATION_UPDATED", "conversationId": "c/1", "state": "disconnected"}
    assert decode(spoken, ended) == [SessionEvent("ended", "disconnected")]
    (other,) = decode(spoken, {**ended, "state": "queued"})
    assert isinstance(other, Unknown)


def test_who_sent_it_where_the_service_never_told_the_guests_id() -> None:
    spoken = dialect("messaging-conversations")
    told = replace(session(spoken.name), ids={"conversation": "c/1", "guest": None})
    push = {**item(spoken.name, 1), "from": {"id": "u-7"}}
    (ours,) = decode(spoken, {"type": "message", "message": push}, told)
    assert (ours.direction, ours.key, ours.sender) == ("inbound", "m-1", Sender("guest"))
    del push["attributes"]
    (theirs,) = decode(spoken, {"type": "message", "message": push}, told)
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


@pytest.mark.parametrize("name", FAMILIES)
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
    assert getattr(failure, "written", True)


@pytest.mark.parametrize("name", FAMILIES)
def test_both_conflicts(name: str) -> None:
    spoken = dialect(name)
    for said, code in (("session.locked", "conflict.locked"), ("session.invalid", "conflict.ended")):
        failure = spoken.refusal(Request("GET", "", "socket"), reply({"code": said}, 409))
        assert (type(failure), failure.code) == (Conflict, code)


@pytest.mark.parametrize("name", FAMILIES)
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
        assert spoken.renewal_may_help(caught.value) is (name == "conversation-guests")


@pytest.mark.parametrize("name", list(REJECTED))
def test_a_service_that_is_down_was_asked(name: str) -> None:
    """Nobody may take its answer in the stream for a proof that nothing left."""
    code = "status" if "status" in REJECTED[name] else "code"
    with pytest.raises(NetworkError) as caught:
        run(dialect(name), dialect(name).send(session(name), OUT), [{**REJECTED[name], code: 503}])
    assert caught.value.written


def test_only_the_streams_403_is_healed() -> None:
    spoken = dialect("conversation-guests")
    for request in (Request("GET", "", "socket"), Request("POST", "", "refresh")):
        assert not spoken.renewal_may_help(spoken.refusal(request, reply({}, 403)))
    assert spoken.renewal_may_help(Unauthorised("x"))
    assert not dialect("webmessaging-conversations").renewal_may_help(Unauthorised("x"))


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


def test_an_error_without_a_send_may_end_the_session() -> None:
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


@pytest.mark.parametrize("name", [n for n in FAMILIES if Ability.REFRESH not in dialect_class(n).abilities])
def test_a_refresh_nobody_publishes(name: str) -> None:
    spoken = dialect(name)
    with pytest.raises(Failure) as caught:
        run(spoken, spoken.obtain("guest", session(name)))
    assert caught.value.exit is Exit.UNSUPPORTED


@pytest.mark.parametrize(("style", "other"), [(None, "guest-token"), ("guest-token", "guest-refresh")])
def test_a_refused_refresh_style_suggests_the_other(style: str | None, other: str) -> None:
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
    assert not Credential("guest", Secret("t"), AT + 1800).fresh_at(AT + 25 * 60, spoken.renewal_margins["guest"])


@pytest.mark.parametrize(
    ("more", "token", "expected"),
    [
        ({"expiresIn": 900}, jwt_of({"exp": 5}), AT + 900),
        ({"expiresAt": "2026-03-04T09:30:00Z"}, "t", 1772616600.0),
        ({"expiresAt": "soon"}, "t", None),
        ({"expiresIn": True}, "t", None),
        ({"expiresIn": -5}, "t", None),
        ({"expiresIn": float("1e30")}, "t", None),
        ({"expiresAt": "2026-03-04T09:00:00Z"}, "t", None),
        ({}, jwt_of({"exp": 1772616600}), 1772616600.0),
        ({}, jwt_of({"exp": 5}), None),
        ({}, jwt_of({}), None),
        ({}, jwt_of({"exp": "never"}), None),
        ({}, "a.b.c", None),
        ({}, "not.a!.jwt~~~~~~", None),
    ],
)
def test_when_a_token_ends(more: dict[str, Any], token: str, expected: float | None) -> None:
    spoken = dialect("webmessaging-conversations")
    answer = reply({"conversationId": "c", "guestId": "g", "sessionToken": token, **more})
    made, _ = run(spoken, spoken.create(NewSession()), answer)
    assert made.credential("guest").expires_at == expected


@pytest.mark.parametrize("ahead", [-86_400, 3600, 86_400])
def test_a_wrong_local_clock_does_not_change_the_life_of_a_token(ahead: int) -> None:
    """reliability.md A16: only the service's clock counts."""
    spoken = dialect("webmessaging-conversations")
    there = AT - ahead
    token = jwt_of({"iat": int(there), "exp": int(there) + 1800})
    date = formatdate(there, usegmt=True)
    for more, dated in (
        ({"sessionToken": token}, False),
        ({"sessionToken": "t", "expiresAt": rfc3339(there + 1800)}, True),
        ({"sessionToken": jwt_of({"exp": int(there) + 1800})}, True),
    ):
        answer = reply({"conversationId": "c", "guestId": "g", **more}, 201, date=date if dated else "")
        made, _ = run(spoken, spoken.create(NewSession()), answer)
        held = made.credential("guest")
        assert (held.expires_at, held.life) == (AT + 1800, 1800)


def test_a_date_of_whole_seconds_makes_no_life_longer() -> None:
    spoken = dialect("webmessaging-conversations")
    given = {"conversationId": "c", "guestId": "g", "sessionToken": "t", "expiresAt": rfc3339(AT + 0.5)}
    made, _ = run(spoken, spoken.create(NewSession()), reply(given, 201, date=formatdate(AT - 0.9, usegmt=True)))
    assert made.credential("guest").expires_at == AT + 0.5


OAUTH = tuple(name for name in FAMILIES if dialect_class(name).uses_oauth)


@pytest.mark.parametrize("name", OAUTH)
def test_the_oauth_client(name: str) -> None:
    spoken = dialect(name)
    asked = FlowDriver(spoken.oauth()).request
    assert (asked.url, asked.route, asked.idempotent) == (f"{HOSTS[name][0]}/oauth/token", "oauth", True)
    answer = {"access_token": "a", "token_type": "bearer", "expires_in": 3600}
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


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in OAUTH])
def test_who_needs_no_oauth_client(name: str) -> None:
    spoken = dialect(name)
    with pytest.raises(UsageError):
        run(spoken, spoken.oauth())


# --- what one family alone has ---


def test_attributes_of_more_than_10_kb_are_refused_before_anything_is_sent() -> None:
    spoken = dialect("guests")
    frame = len('{"a":"","delegation_verified":true}')
    fits = {"a": "é" * ((10_240 - frame) // 2) + "x" * ((10_240 - frame) % 2)}
    run(spoken, spoken.sync(session("guests"), fits), reply({}))
    for flow in (
        spoken.sync(session("guests"), {"a": fits["a"] + "x"}),
        spoken.create(NewSession(attributes={"a": "x" * 10_240})),
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
    assert spoken.end_close_frame == (1000, "Widget disconnect")
    assert [name for name in FAMILIES if dialect_class(name).end_close_frame] == ["guests"]


def test_what_a_create_cannot_do_without() -> None:
    for name, option in (("external-contacts", "--email"), ("messaging-conversations", "--queue")):
        spoken = dialect(name)
        with pytest.raises(UsageError) as caught:
            run(spoken, spoken.create(NewSession()))
        assert option in caught.value.hint


def test_guests_without_routing_or_name() -> None:
    spoken = dialect("guests")
    assert FlowDriver(spoken.create(NewSession())).request.json == {"name": "Guest", "attributes": {}, "routing": {}}


# --- declarations ---


@pytest.mark.parametrize("name", FAMILIES)
def test_a_message_has_no_attributes(name: str) -> None:
    with pytest.raises(UsageError):
        dialect(name).check_message(session(name), replace(OUT, attributes={"a": "b"}))
    dialect(name).check_message(session(name), OUT)


@pytest.mark.parametrize("name", NAMES)
def test_declarations_agree(name: str) -> None:
    kind = dialect_class(name)
    assert kind.name == name
    assert {Ability.CREATE, Ability.SEND, Ability.HISTORY, Ability.LISTEN, Ability.RESUME} <= kind.abilities.keys()
    assert not kind.sends_on_socket or kind.has_socket
    assert kind.fields <= {"attr", "queue", "skill", "language", "email", "name"}
    assert kind.send_fields <= {"attr"}
    assert kind.reconnect_attempts == (5 if name == "conversation-guests" else 10)
    assert (kind.request_rate is not None) is (name == "guests")
    assert (kind.renewal_backoff is not None) is (name == "webmessaging-conversations")
    assert kind.token_claims == (("routing_hints",) if name == "guests" else ())


def test_accepted_and_opened_are_signals() -> None:
    spoken = dialect("conversation-guests")
    accepted = {"type": "MESSAGE_ACCEPTED", "messageId": "k", "id": "m", "timestamp": LATER}
    assert decode(spoken, accepted) == [Accepted("k", "m", LATER)]
    (opened,) = decode(dialect("guest-sessions"), {"type": "connected"})
    assert isinstance(opened, Opened)
