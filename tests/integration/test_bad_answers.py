"""Answers nobody should give, from a gateway in front of the service: the right exit code, the offending part
shown, and no token to any other host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from guestctl.dialects.capabilities import Ability
from tests.examples import broken_frames
from tests.integration.conftest import Enter
from tests.integration.front import Guest, InstantClock, Room, check, listen, texts
from tests.integration.middle import Asked, Gateway, OtherHost, answer

HTML = b"<html><h1>Welcome to the hotel network</h1></html>"

#: What a REST call is answered with, and what of it must be shown.
BAD = {
    "html": (answer(200, HTML, "text/html"), "hotel network"),
    "empty": (answer(200), "not JSON"),
    "nothing-at-all": (answer(204), "not JSON"),
    "half": (answer(200, b'{"messages": [{"id"'), '{"messages": [{"id"'),
    "a-list": (answer(200, b"[]"), "expected a JSON object, got list"),
    "a-string": (answer(200, b'"ok"'), "expected a JSON object, got str"),
    "null": (answer(200, b"null"), "expected a JSON object, got NoneType"),
    "no-members": (answer(200, b"{}"), "is missing"),
    "not-utf-8": (answer(200, b'{"a": "\xff"}'), "UTF-8"),
    "not-a-number": (answer(200, b'{"a": NaN}'), "not JSON"),
    "too-deep": (answer(200, b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}"), "nests deeper"),
}


@pytest.fixture
def elsewhere() -> Iterator[OtherHost]:
    with OtherHost() as found:
        yield found


@pytest.fixture
def room(middle: Gateway) -> Room:
    return middle.room  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def guest(middle: Gateway, room: Room, enter: Enter, api: str) -> Guest:
    """A guest whose every word goes through the gateway."""
    return enter(room.sandbox, api, GUESTCTL_SANDBOX_URL=middle.url)


def over_rest(reply: bytes) -> Callable[[Asked], bytes | None]:
    return lambda asked: None if asked.upgrade else reply


def retyped(value: Any) -> Any:
    """Every member of the wrong type."""
    if isinstance(value, dict):
        return {name: retyped(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [retyped(inner) for inner in value] or 5
    return {"wrong": True} if isinstance(value, str) else "wrong"


def rest_commands(guest: Guest) -> dict[str, tuple[str, ...]]:
    """Commands whose first word to the service is a REST call."""
    found: dict[str, tuple[str, ...]] = {"history": ("history",)}
    if guest.api != "web-messaging":
        found["create"] = ("session", "create", "--as", "another")
    if guest.renews == "guest":
        found["refresh"] = ("refresh-token",)
    return found


@pytest.mark.parametrize("bad", BAD)
def test_rest_answers(talking: Guest, middle: Gateway, bad: str) -> None:
    reply, shown = BAD[bad]
    middle.rule = over_rest(reply)
    for name, command in rest_commands(talking).items():
        result = talking(*command, "--timeout", "10")
        error = check(result, 11, "answer.unreadable")
        assert shown in error["message"] + (error["body"] or ""), (name, error)
    middle.rule = lambda asked: None
    talking.ok("send", "none of that hurt")


def test_members_of_the_wrong_type(talking: Guest, middle: Gateway) -> None:
    talking.ok("send", "hi")
    middle.change = retyped
    for name, command in rest_commands(talking).items():
        result = talking(*command)
        if name == "history" and result.code == 0:  # only the entries could not be read, not the page
            assert {record["kind"] for record in result.records} == {"unknown"}
            continue
        error = check(result, 11, "answer.unreadable")
        assert "wrong type" in error["message"] or "is not" in error["message"] or "expected" in error["message"], name
    middle.change = None
    assert texts(talking.ok("history")) == ["hi", "echo: hi"]


def test_unknown_members_are_ignored(guest: Guest, middle: Gateway) -> None:
    def more(value: Any) -> Any:
        if isinstance(value, dict):
            return {**{name: more(inner) for name, inner in value.items()}, "brandNew": {"x": [1]}}
        return [more(inner) for inner in value] if isinstance(value, list) else value

    middle.change = more
    assert guest.ok("ask", "still there?").out == "echo: still there?\n"
    assert texts(guest.ok("history")) == ["still there?", "echo: still there?"]
    if guest.can(Ability.REFRESH):
        guest.ok("refresh-token")


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [(400, 3, "service.refused"), (403, 5, "forbidden"), (418, 3, "service.refused"), (502, 8, "service.down")],
)
def test_a_gateway_s_error_page(talking: Guest, middle: Gateway, status: int, exit_code: int, code: str) -> None:
    """Not JSON, but a status is a status; the page's words are shown."""
    middle.rule = over_rest(answer(status, HTML, "text/html"))
    for command in rest_commands(talking).values():
        error = check(talking(*command, "--timeout", "10"), exit_code, code, "hotel network")
        assert error["http_status"] == status
        assert "hotel network" in error["body"]


@pytest.mark.parametrize("reply", ["html", "no-members", "empty"])
def test_an_answer_to_a_send(talking: Guest, middle: Gateway, room: Room, reply: str) -> None:
    """It may have arrived: in doubt until history can be read again, and then it is there once."""
    if talking.dialect.sends_on_socket:
        room.faults("garbage:on=send,times=2")
        middle.rule = over_rest(BAD[reply][0])
        result = talking("send", "hi", "--timeout", "10")
    else:
        middle.rule = lambda asked: BAD[reply][0] if asked.method == "POST" else None
        result = talking("send", "hi", "--timeout", "10")
    assert result.code in {0, 13}, result.err
    middle.rule = lambda asked: None
    room.clear()
    talking.ok("resume")
    talking.ok("send", "next")
    sent = room.texts("inbound")
    assert sent[-1] == "next"
    assert sent.count("hi") == 1 or (not talking.dialect.sends_on_socket and sent.count("hi") <= 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(talking: Guest, middle: Gateway, elsewhere: OtherHost, status: int) -> None:
    middle.rule = over_rest(answer(status, b"", Location=f"{elsewhere.url}/api/v2/anything"))
    for command in rest_commands(talking).values():
        error = check(talking(*command), 11, "answer.redirect")
        assert error["http_status"] == status
    talking("send", "hi", "--timeout", "5")
    talking("listen", "--for", "100ms", "--timeout", "1")
    assert elsewhere.received == []


def test_an_upgrade_is_not_redirected(talking: Guest, middle: Gateway, elsewhere: OtherHost) -> None:
    to = answer(302, b"", Location=f"{elsewhere.url}/ws")
    middle.rule = lambda asked: to if asked.upgrade else None
    result = talking("resume", "--timeout", "5")
    if talking.dialect.has_socket:
        check(result, 11, "answer.redirect")
    else:
        assert result.code == 0
    assert elsewhere.received == []


@pytest.mark.parametrize("reply", ["html", "empty"])
def test_an_upgrade_answered_with_a_page(talking: Guest, middle: Gateway, reply: str) -> None:
    """A captive portal says 200 to everything."""
    middle.rule = lambda asked: BAD[reply][0] if asked.upgrade else None
    result = talking("resume", "--timeout", "5")
    if talking.dialect.has_socket:
        check(result, 11, "answer.unreadable", "HTTP 200")
    else:
        assert result.code == 0


def test_addresses_in_answers_are_not_trusted(guest: Guest, middle: Gateway, elsewhere: OtherHost) -> None:
    """Whatever looks like an address in an answer, no token goes there."""

    def led_away(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: led_away(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [led_away(inner) for inner in value]
        if isinstance(value, str) and value.startswith(("http", "ws")):
            return elsewhere.url
        return value

    middle.change = lambda value: {
        **led_away(value),
        **dict.fromkeys(("socketUrl", "apiEndpoint", "url", "location", "next", "nextUri"), elsewhere.url),
    }
    guest("ask", "hi", "--timeout", "5")
    guest("history", "--timeout", "5")
    guest("resume", "--timeout", "5")
    assert elsewhere.received == []


# --- frames ---

STRANGE_FRAMES = [{"type": "brandNew"}, {}, {"type": 5}, {"type": None, "message": None}]


def test_broken_frames_do_not_end_a_stream(talking: Guest, room: Room) -> None:
    """Each is reported, and the messages around them arrive."""
    frames = [*broken_frames(talking.api), *STRANGE_FRAMES, "[]", "5", "nonsense", '{"type":']

    def push() -> None:
        for frame in frames:
            room.frame(frame)
        room.push("after all that")

    result = listen(talking, "--max", "1", lives=[push])
    assert (result.code, texts(result)) == (0, ["after all that"]), result.err
    unknown = [record for record in result.records if record["kind"] == "unknown"]
    assert unknown or not talking.dialect.has_socket


@pytest.mark.parametrize("spec", ["garbage:on=socket", "truncate:on=socket"])
def test_a_first_frame_that_cannot_be_read(talking: Guest, room: Room, spec: str) -> None:
    room.faults(spec)
    result = talking("resume", "--timeout", "3")
    if talking.dialect.has_socket:
        check(result, 11, "answer.unreadable")
    else:
        assert result.code == 0


def test_a_silent_service_times_out(talking: Guest, room: Room, time: InstantClock) -> None:
    """Accepted sockets, no answer: the deadline ends it, and nothing counts as sent."""
    if not talking.dialect.has_socket:
        room.faults("delay:ms=1500,on=history")
    else:
        room.faults("silence:for=10m")
    result = talking("resume", "--timeout", "700ms")
    assert result.code in {8, 9}, result.err
