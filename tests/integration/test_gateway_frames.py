"""Frames of the gateway in front of a service: it refuses what it cannot pass on, without a type or a request's id."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from guestctl.dialects import NAMES, dialect_class
from tests.integration.conftest import room_of
from tests.integration.front import Guest, InstantClock, check, listen, texts
from tests.integration.middle import Gateway

WITH_SOCKET = [name for name in NAMES if dialect_class(name).has_socket]
SENDING = [name for name in WITH_SOCKET if dialect_class(name).sends_on_socket]
FORBIDDEN = {"message": "Forbidden", "connectionId": "Zx81", "requestId": "q-17"}
FAILED = {"message": "Internal server error", "connectionId": "Zx81", "requestId": "q-18"}


@pytest.fixture
def guest(behind: Guest) -> Guest:
    return behind


def refusing(frame: object, *, when: Callable[[str], bool] = lambda text: True) -> Callable[[str], str]:
    """Return a function that writes the gateway's frame in place of each frame of the service; a body stays."""
    return lambda text: json.dumps(frame) if _is_frame(text) and when(text) else text


def _is_frame(text: str) -> bool:
    return '"class"' in text or '"type"' in text


def _answers_second(text: str) -> bool:
    """Return whether this is a frame about the message "second", and not a page of history with it."""
    about = '"second"' in text or '"MESSAGE_ACCEPTED"' in text
    return about and '"entities"' not in text and '"more"' not in text and '"messages"' not in text


@pytest.mark.parametrize("api", WITH_SOCKET)
@pytest.mark.parametrize(
    ("frame", "exit_code", "code"), [(FORBIDDEN, 5, "forbidden.gateway"), (FAILED, 8, "service.down")]
)
def test_a_refused_first_frame_fails_at_once(
    guest: Guest, middle: Gateway, time: InstantClock, frame: dict[str, str], exit_code: int, code: str
) -> None:
    guest.ok("session", "create")
    middle.rewrite = refusing(frame)
    commands = [("resume",), ("ask", "hi"), ("listen", "--for", "20s")]
    if guest.api == "web-messaging":
        commands.append(("session", "create", "--new"))
    for command in commands:
        time.advance(10)  # a session whose socket broke is locked for a moment
        begun = time.monotonic()
        result = guest(*command, "-o", "json" if command[0] != "listen" else "jsonl", "--timeout", "25")
        if command[0] == "listen" and frame is FAILED:
            assert "Internal server error" in result.err  # listening reconnects
            continue
        check(result, exit_code, code, "the gateway answers: " + frame["message"])
        assert time.monotonic() - begun < 20, command


@pytest.mark.parametrize("api", SENDING)
def test_a_forbidden_message_is_rejected_at_once(guest: Guest, middle: Gateway, time: InstantClock) -> None:
    guest.ok("session", "create")
    guest.ok("send", "first")
    middle.rewrite = refusing(FORBIDDEN, when=_answers_second)
    for command in ("send", "ask"):
        begun = time.monotonic()
        result = guest(command, "second", "--timeout", "25", "-o", "json")
        check(result, 5, "forbidden.gateway", "the gateway answers: Forbidden")
        assert time.monotonic() - begun < 5
    assert result.code == 5


@pytest.mark.parametrize("api", SENDING)
def test_a_message_that_the_gateway_failed_on_is_looked_for(guest: Guest, middle: Gateway) -> None:
    """The service did store it here, so history settles it. The gateway's text is shown at once."""
    guest.ok("session", "create")
    guest.ok("send", "first")
    middle.rewrite = refusing(FAILED, when=_answers_second)
    result = guest("send", "second", "--timeout", "25", "-o", "json")
    assert "the gateway answers: Internal server error" in result.err
    assert result.code in {0, 13}, result
    assert room_of(middle).texts("inbound").count("second") == 1


@pytest.mark.parametrize("frame", [FORBIDDEN, FAILED], ids=lambda frame: frame["message"])
@pytest.mark.parametrize("api", WITH_SOCKET)
def test_listening_reports_it_and_continues(guest: Guest, middle: Gateway, frame: dict[str, str]) -> None:
    guest.ok("session", "create")
    room = room_of(middle)

    def push() -> None:
        room.frame(frame)
        room.push("after it")

    result = listen(guest, "--max", "1", lives=[push])
    assert (result.code, texts(result)) == (0, ["after it"]), result.err
    assert f"the gateway answers: {frame['message']}" in result.err
