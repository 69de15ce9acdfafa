"""Numbers that nobody should send: every numeric member of every answer and frame, in every bad form.

Knows: the examples in `tests/wire`, from which the numeric members are taken. Must not know: what a member means. Each
command ends with a documented exit code other than 70, within the time that it was given.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Any

import pytest

from guestctl.core.errors import Exit
from guestctl.dialects import NAMES
from tests.cli.conftest import Result
from tests.examples import _AnyValue, fill, keys, load
from tests.integration.conftest import room_of
from tests.integration.front import Guest, OnRecord, Record
from tests.integration.middle import Gateway, answer

#: As written in JSON, or as a writer with a bug would write it.
LITERALS = {
    "zero": "0",
    "negative": "-1",
    "fraction": "1.5",
    "2^63-1": str(2**63 - 1),
    "year-17814": "500000000000000",
    "year-10000": "253402300800",
    "2^63": str(2**63),
    "10^400": "1" + "0" * 400,
    "float": "1e300",
    "overflow": "1e400",
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "text": '"text"',
    "digits": '"12"',
    "many-digits": '"' + "9" * 400 + '"',
    "true": "true",
    "null": "null",
}
#: Numeric members that the sandbox sends although no example has them, and those that hold a number in a text.
MORE = {
    "web-messaging": ("total", "pageCount"),
    "guests": ("expiresIn", "expiresAt"),
    "conversation-guests": ("expiresIn", "expiresAt", "code"),
    "external-contacts": ("expiresIn", "expiresAt"),
    "guest-sessions": ("expiresIn", "expiresAt"),
    "messaging-conversations": ("expiresIn", "expiresAt"),
}
#: Seconds of counted time in which a command with `--timeout 5` must end.
PATIENCE = 30.0
_DOCUMENTED = {int(code) for code in Exit} - {int(Exit.BUG)}
_PLACE = "hostile number"


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        value = value[part]
    return value


def answers(api: str) -> Iterator[tuple[bool, Any]]:
    """Yield each answer of the examples of one API, filled in, and whether it is a frame."""
    for example in load(api).values():
        names = _AnyValue(example.samples)
        for step in example.steps:
            if step.reply is not None:
                yield False, fill(step.reply.body, names)
            for heard in step.hears:
                yield True, fill(heard.body, names)


@cache
def members(api: str) -> tuple[str, ...]:
    """Return the names of the numeric members of one API."""
    found = {
        path[-1]
        for _, body in answers(api)
        for path in keys(body)
        if is_number(at(body, path)) and isinstance(path[-1], str)
    }
    return tuple(sorted({str(name) for name in found} | set(MORE.get(api, ()))))


@cache
def frames(api: str) -> tuple[str, ...]:
    """Return every frame of the examples that has a number, with one number replaced by a placeholder."""
    found: dict[Any, str] = {}
    for is_frame, body in answers(api):
        for path in keys(body) if is_frame else ():
            if is_number(at(body, path)):
                whole = json.loads(json.dumps(body))
                at(whole, path[:-1])[path[-1]] = _PLACE
                found.setdefault((body.get("class") or body.get("type"), path), json.dumps(whole))
    return tuple(found.values())


def written(text: str, literal: str) -> str:
    return text.replace(f'"{_PLACE}"', literal)


def rewriting(member: str, literal: str) -> Callable[[str], str]:
    """Return a function that replaces the value of a member in every object of a JSON text."""

    def place(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: _PLACE if name == member else place(inner) for name, inner in value.items()}
        return [place(inner) for inner in value] if isinstance(value, list) else value

    def rewrite(text: str) -> str:
        try:
            return written(json.dumps(place(json.loads(text))), literal)
        except ValueError:
            return text

    return rewrite


@pytest.fixture
def guest(behind: Guest) -> Guest:
    return behind


TIMED = ("--timeout", "5")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("session", "create", "--new", *TIMED),
    ("send", "hi", *TIMED),
    ("ask", "hi", "--silence", "1ms", *TIMED),
    ("history", *TIMED),
    ("history", "-o", "table", *TIMED),
    ("listen", "--for", "1ms", *TIMED),
    ("resume", *TIMED),
    ("refresh-token", *TIMED),
    ("session", "show"),
    ("session", "report"),
    ("session", "list", "-o", "table"),
)


def run_each(guest: Guest, what: object) -> None:
    for command in COMMANDS:
        check_end(guest, *command, what=what)


def check_end(guest: Guest, *command: str, what: object, on: OnRecord | None = None) -> Result:
    """Run a command, which must end in time and with a documented exit code."""
    begun = guest.clock.monotonic()
    result = guest(*command, on=on)
    assert result.code in _DOCUMENTED, (command, what, result)
    assert "Traceback" not in result.err, (command, what, result)
    assert guest.clock.monotonic() - begun < PATIENCE, (command, what, guest.clock.sleeps[-5:])
    return result


def check_member(guest: Guest, middle: Gateway, member: str, literal: str) -> None:
    """Run every command while the service writes this number, and again after it has stopped."""
    middle.rewrite = rewriting(member, literal)
    run_each(guest, (member, literal))
    middle.rewrite = None
    run_each(guest, (member, literal, "afterwards"))


def check_frames(guest: Guest, middle: Gateway, literal: str, some: tuple[str, ...]) -> None:
    """Push the frames to a listener, each before a message."""
    room = room_of(middle)
    guest("session", "create", "--new")
    for frame in some:

        def push(record: Record, frame: str = frame) -> None:
            if record.get("state") == "live":
                room.frame(written(frame, literal))
                room.push("after it")

        only = ("--only", "message,typing,unknown,connection", "-o", "jsonl")
        stop = ("--until", "^after it$", "--for", "10")
        check_end(guest, "listen", *stop, *only, *TIMED, what=(frame, literal), on=push)


def _seeded(api: str) -> tuple[str, str]:
    return Random(f"numbers of {api}").choice([(member, literal) for member in members(api) for literal in LITERALS])


@pytest.mark.parametrize(
    ("api", "member", "literal"),
    [(api, *_seeded(api)) for api in NAMES],
)
def test_a_number_in_answers(guest: Guest, middle: Gateway, member: str, literal: str) -> None:
    check_member(guest, middle, member, LITERALS[literal])


@pytest.mark.parametrize(
    ("api", "member", "literal"),
    [(api, member, literal) for api in NAMES for member in members(api) for literal in LITERALS],
)
def test_every_number_in_answers(guest: Guest, middle: Gateway, member: str, literal: str) -> None:
    check_member(guest, middle, member, LITERALS[literal])


@pytest.mark.parametrize("literal", LITERALS)
@pytest.mark.parametrize("api", [name for name in NAMES if frames(name)])
def test_every_number_in_frames(guest: Guest, middle: Gateway, api: str, literal: str) -> None:
    check_frames(guest, middle, LITERALS[literal], frames(api))


HEADERS = ["0", "-1", "9" * 400, str(2**63), "1e400", "NaN", "text", "1.5", "Fri, 31 Dec 9999 23:59:59 GMT", "\u0663"]


def check_header(guest: Guest, middle: Gateway, header: str, status: int) -> None:
    guest.ok("session", "create")
    wait = answer(status, b"{}", Retry_After=header.encode().decode("latin-1"))
    middle.rule = lambda asked: wait
    run_each(guest, header)
    middle.rule = lambda asked: None
    guest.ok("history", "--timeout", "5")


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("api", ["webmessaging-conversations"])
def test_a_retry_after_header(guest: Guest, middle: Gateway, header: str) -> None:
    check_header(guest, middle, header, 429)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("status", [429, 503])
def test_every_retry_after_header(guest: Guest, middle: Gateway, header: str, status: int) -> None:
    check_header(guest, middle, header, status)


@pytest.mark.parametrize("literal", LITERALS)
@pytest.mark.parametrize("api", ["web-messaging"])
def test_a_rate_limit_in_answer_to_a_send(guest: Guest, middle: Gateway, literal: str) -> None:
    """No wait is longer than the command's timeout, whatever the service asks for."""
    guest.ok("session", "create")

    def limited(text: str) -> str:
        if '"StructuredMessage"' not in text or '"Outbound"' in text:
            return text
        frame = json.loads(text)
        body = {"errorCode": 4029, "errorMessage": "too many", "retryAfter": _PLACE}
        refusal = {"type": "response", "class": "TooManyRequestsErrorMessage", "code": 429, "body": body}
        return written(json.dumps({**refusal, "tracingId": frame["tracingId"]}), LITERALS[literal])

    middle.rewrite = limited
    check_end(guest, "send", "hi", *TIMED, what=literal)


@pytest.mark.parametrize(
    "claims", ['{"exp": NaN}', '{"exp": 1e400}', '{"x": Infinity}', '{"exp": -1}', '{"exp": true}']
)
@pytest.mark.parametrize("api", ["web-messaging"])
def test_a_token_with_a_number_that_is_not_json(guest: Guest, claims: str) -> None:
    parts = ['{"alg": "HS256"}', claims, "signature"]
    token = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
    result = guest("token", "inspect", "-", stdin=token)
    assert (result.code, result.out) == (4, "")
