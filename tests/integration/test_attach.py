"""`session export` and `session attach`: a session moves from one client to another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from guestctl.dialects import NAMES
from guestctl.output.schema import SCHEMAS
from guestctl.sandbox.server import Sandbox
from tests.integration.conftest import Enter, Serve
from tests.integration.front import Guest, InstantClock, Room, check, texts
from tests.sandbox.bare import EVERYBODY, Line
from tests.unit.test_records import faults

VARIABLES = {
    "conversation": "GUESTCTL_ATTACH_CONVERSATION",
    "guest": "GUESTCTL_ATTACH_GUEST",
    "session": "GUESTCTL_ATTACH_SESSION",
}


@pytest.fixture
def other(sandbox: Sandbox, enter: Enter, api: str) -> Guest:
    """guestctl on another machine: it has a state of its own."""
    return enter(sandbox, api, state="other")


def exported(guest: Guest, *argv: str) -> str:
    return guest.ok("session", "export", "--show-token", *argv).out


def names(guest: Guest) -> list[str]:
    return [record["name"] for record in guest.ok("session", "list").records]


def test_an_exported_session_is_attached_elsewhere(talking: Guest, other: Guest, room: Room) -> None:
    talking.ok("ask", "hi")
    record = json.loads(exported(talking))
    assert not faults(record, SCHEMAS["session-export"])
    attached = other.ok("session", "attach", "--as", "laptop", stdin=json.dumps(record)).record
    assert (attached["name"], attached["state"], attached["new_session"]) == ("laptop", "active", False)
    assert attached["ids"] == record["ids"]
    assert texts(other.ok("history")) == ["hi", "echo: hi"]  # it is the current session
    other.ok("send", "from there")
    assert room.texts("inbound") == ["hi", "from there"]
    activity = [line["event"] for line in other.ok("session", "report").record["activity"]]
    assert "session_attached" in activity


@pytest.mark.parametrize("kind", [kind for kind in EVERYBODY if kind.api in NAMES], ids=lambda kind: kind.api)
def test_a_session_of_another_program_is_attached(sandbox: Sandbox, enter: Enter, kind: Any) -> None:
    """Its token and ids are all that guestctl needs: on stdin, or in variables."""
    stranger, room = kind(sandbox), Room(sandbox)
    guest = enter(sandbox, kind.api)
    ids = {name: _id_of(stranger, name) for name in {*guest.dialect.session_ids, "guest"}}
    room.push("hello")
    guest.ok("session", "attach", stdin=json.dumps({"token": stranger.token, "ids": ids}))
    assert texts(guest.ok("history")) == ["hello"]
    guest.ok("send", "taken over")
    variables = {VARIABLES[name]: value for name, value in ids.items()}
    guest.ok("session", "attach", "--as", "env", GUESTCTL_ATTACH_TOKEN=stranger.token, **variables)
    assert texts(guest.ok("history", "-s", "env"))[:2] == ["hello", "taken over"]
    assert len(room.sessions()) == 1


def _id_of(stranger: Any, name: str) -> str:
    return str({"conversation": stranger.id, "guest": stranger.guest, "session": stranger.session or stranger.id}[name])


def test_a_stored_name_is_a_conflict(talking: Guest, room: Room) -> None:
    before = room.requests
    error = check(talking("session", "attach", stdin=exported(talking)), 6, "conflict.name", "default")
    assert "--as" in error["hint"]
    assert room.requests == before
    assert names(talking) == ["default"]


def test_a_refused_session_is_not_stored(talking: Guest, other: Guest, room: Room) -> None:
    """The service knows neither its ids nor its token. The token is in no output."""
    record = json.loads(exported(talking))
    token, ids = f"{record['token']}A", {name: value and str(uuid4()) for name, value in record["ids"].items()}
    before = sum(room.requests.values())
    refused = other("session", "attach", "-vv", stdin=json.dumps({**record, "token": token, "ids": ids}))
    assert refused.code in {4, 8, 10}, refused
    assert sum(room.requests.values()) > before
    assert names(other) == []
    assert token not in refused.out + refused.err
    assert "forgotten or replaced" not in refused.err
    other.ok("session", "attach", stdin=json.dumps(record))


@pytest.mark.parametrize("api", ["web-messaging"])
@pytest.mark.parametrize("member", ["api", "addresses", "deployment_id"])
def test_a_token_is_not_sent_to_another_service(talking: Guest, other: Guest, room: Room, member: str) -> None:
    record = json.loads(exported(talking))
    elsewhere = {"api": "guests", "addresses": ["https://api.shop.example"], "deployment_id": "another"}[member]
    before = room.requests
    check(other("session", "attach", stdin=json.dumps({**record, member: elsewhere})), 2, "usage", member)
    assert room.requests == before
    record.pop(member)
    other.ok("session", "attach", stdin=json.dumps(record))


@pytest.mark.parametrize("api", ["guests"])
def test_a_missing_id_is_named(talking: Guest, other: Guest) -> None:
    record = json.loads(exported(talking))
    given = {"token": record["token"], "ids": {"guest": record["ids"]["guest"]}}
    check(other("session", "attach", stdin=json.dumps(given)), 2, "usage", "session is missing")
    check(other("session", "attach", GUESTCTL_ATTACH_GUEST="g"), 2, "usage", "GUESTCTL_ATTACH_TOKEN")


@pytest.mark.parametrize("api", ["web-messaging"])
@pytest.mark.parametrize(
    ("stdin", "words"),
    [
        ("", "JSON object"),
        ("secret-secret-secret", "JSON object"),
        ('["secret-secret-secret"]', "JSON object"),
        ('{"guestToken": "secret-secret-secret"}', '"token" is missing'),
        ('{"token": 5}', '"token" is not a text'),
        ('{"token": "secret-secret-secret", "ids": []}', '"ids" is not an object'),
        ('{"token": "secret-secret-secret", "ids": {"guestId": "g"}}', '"guestId"'),
        ('{"token": "secret-secret-secret", "expires_at": "soon"}', '"expires_at" is not a time'),
    ],
)
def test_stdin_that_holds_no_session_is_refused(guest: Guest, room: Room, stdin: str, words: str) -> None:
    refused = guest("session", "attach", stdin=stdin)
    check(refused, 2, "usage", words)
    assert "secret-secret" not in refused.err
    assert room.requests == {}


@pytest.mark.parametrize("api", ["web-messaging"])
@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "schlüssel"])
def test_a_text_that_is_no_token_is_refused(guest: Guest, room: Room, token: str) -> None:
    check(guest("session", "attach", stdin=json.dumps({"token": token})), 4, "auth.secret", "not a token")
    assert room.requests == {}


@pytest.mark.parametrize("api", ["web-messaging"])
def test_the_token_is_exported_only_on_request(talking: Guest) -> None:
    token = talking.token()
    plain = talking.ok("session", "export")
    assert "token" not in plain.record
    assert token not in plain.out + plain.err
    assert "--show-token" in plain.err
    check(talking("session", "attach", "--as", "n", stdin=plain.out), 2, "usage", '"token" is missing')
    talking.ok("session", "clear", "--yes")
    check(talking("session", "export", "--show-token"), 10, "session.cleared")


@pytest.mark.parametrize("api", ["web-messaging"])
def test_an_attached_session_that_expires_is_not_replaced_silently(
    talking: Guest, other: Guest, room: Room, time: InstantClock
) -> None:
    """What it held is known to the other client only, so a new session in its place would be a loss."""
    other.ok("session", "attach", stdin=exported(talking))
    room.expire()
    check(other("send", "hi"), 10, "session.expired")
    assert [session["messages"] for session in room.sessions()] == [[]] * len(room.sessions())


@pytest.mark.parametrize("api", ["webmessaging-conversations", "guests"])
def test_an_expired_token_is_renewed_before_it_is_used(
    talking: Guest, other: Guest, room: Room, time: InstantClock
) -> None:
    record = exported(talking)
    time.advance(7200)
    before = room.session["refreshes"]
    other.ok("session", "attach", stdin=record)
    assert room.session["refreshes"] == before + 1
    assert other.token() != json.loads(record)["token"]


@pytest.mark.parametrize("api", ["web-messaging"])
def test_a_sign_in_moves_with_its_session(serve: Serve, enter: Enter, api: str) -> None:
    sandbox = serve(sign_in=True)
    guest, other = enter(sandbox, api), enter(sandbox, api, state="other")
    guest.ok("session", "create", "--auth-code", "ann:1", "--redirect-uri", "https://shop.example/cb")
    record = json.loads(exported(guest))
    assert not faults(record, SCHEMAS["session-export"])
    other.ok("session", "attach", stdin=json.dumps(record))
    other.ok("refresh-token")
    other.ok("send", "still ann")
    del record["sign_in"]
    check(other("session", "attach", "--as", "anonymous", stdin=json.dumps(record)), 4, "auth.downgrade")


@pytest.fixture(autouse=True)
def lines_are_shut() -> Iterator[None]:
    yield
    while Line.lines:
        Line.lines.pop().shut()
