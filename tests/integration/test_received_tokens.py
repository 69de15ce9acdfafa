"""`guests`: each token is checked when it is received, and an expired one is renewed before a socket is opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from tests.integration.conftest import room_of
from tests.integration.front import Guest, InstantClock, check, texts
from tests.integration.middle import Gateway

pytestmark = pytest.mark.parametrize("api", ["guests"])

Change = Callable[[dict[str, Any]], Any]


def claims(**changed: Any) -> Change:
    """Return the change of a token's claims; None removes one."""
    return lambda old: jwt.encode({k: v for k, v in {**old, **changed}.items() if v is not None}, "k" * 32)


#: What becomes of the token in the answer -> exit code, error code, the message.
TOKENS: dict[str, tuple[Change, int, str, str]] = {
    "empty": (lambda old: "", 11, "answer.token", "invalid guest token format"),
    "a number": (lambda old: 5, 11, "answer.token", "invalid guest token format"),
    "absent": (lambda old: None, 11, "answer.token", "invalid guest token format"),
    "opaque": (lambda old: "token-token-token", 11, "answer.token", "Malformed JWT structure: a JWT has three parts"),
    "two parts": (lambda old: "eyJhbGciOiJIUzI1NiJ9.eyJ", 11, "answer.token", "Malformed JWT structure"),
    "no base64": (lambda old: "eyJhbGciOiJIUzI1NiJ9.!!!!.abc", 11, "answer.token", "Malformed JWT structure"),
    "expired": (claims(exp=1_000_000_000), 4, "auth.token_expired", "guest token has expired: on 2001-09-09"),
    "no exp": (claims(exp=None), 4, "auth.token_expired", "guest token has expired: it has no `exp`"),
    "no hints": (claims(routing_hints=None), 4, "auth.token_routing", "guest token missing routing hints"),
    "empty hints": (claims(routing_hints={}), 4, "auth.token_routing", "guest token missing routing hints"),
}


def changed(change: Change) -> Callable[[Any], Any]:
    def answer(value: Any) -> Any:
        if isinstance(value, dict) and "guestToken" in value:
            old = jwt.decode(value["guestToken"], options={"verify_signature": False})
            return {**value, "guestToken": change(old)}
        return value

    return answer


#: One token for each of the four messages.
FOUR = ("empty", "opaque", "expired", "no hints")


@pytest.mark.parametrize("case", [case for case in TOKENS if case not in FOUR])
def test_each_further_token_that_cannot_be_used_is_refused(behind: Guest, middle: Gateway, case: str) -> None:
    check_refusal(behind, middle, case)


@pytest.mark.parametrize("case", FOUR)
def test_a_token_that_cannot_be_used_is_refused_when_it_is_received(behind: Guest, middle: Gateway, case: str) -> None:
    """Nothing is stored, and no socket is opened with it. A renewal leaves the stored token as it was."""
    check_refusal(behind, middle, case)


def check_refusal(behind: Guest, middle: Gateway, case: str) -> None:
    change, exit_code, code, message = TOKENS[case]
    behind.ok("session", "create", "--as", "good")
    token, sockets = behind.token(), room_of(middle).requests.get("socket", 0)
    middle.change = changed(change)
    check(behind("session", "create", "--as", "bad"), exit_code, code, message)
    check(behind("refresh-token"), exit_code, code, message)
    middle.change = None
    (stored,) = behind.ok("session", "list").records
    assert (stored["name"], stored["state"], behind.token()) == ("good", "active", token)
    assert room_of(middle).requests.get("socket", 0) == sockets
    behind.ok("send", "hi")


def test_an_expired_token_is_renewed_before_connecting(talking: Guest, time: InstantClock) -> None:
    time.advance(7200)
    _, trace = talking.traced("send", "hi")
    asked = [line.get("route", line["kind"]) for line in trace if line["kind"] in {"request", "upgrade"}]
    assert [step for step in asked if step != "oauth"] == ["refresh", "upgrade"]
    assert texts(talking.ok("history")) == ["hi", "echo: hi"]


def test_the_token_of_an_attached_session_is_checked_too(talking: Guest) -> None:
    record = talking.ok("session", "export", "--show-token").record
    old = jwt.decode(record["token"], options={"verify_signature": False})
    for case, code in {"opaque": "auth.secret", "no hints": "auth.token_routing"}.items():
        change, _, _, message = TOKENS[case]
        given = json.dumps({**record, "token": change(old)})
        check(talking("session", "attach", "--as", "other", stdin=given), 4, code, message)
    assert [stored["name"] for stored in talking.ok("session", "list").records] == ["default"]
