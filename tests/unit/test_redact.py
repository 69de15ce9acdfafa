"""Secrets out of traces, raw records and error bodies."""

from __future__ import annotations

import json

import jwt
import pytest

from guestctl.model import Secret
from guestctl.redact import Redactor

TOKEN = "0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10"


def test_members_that_say_what_they_are() -> None:
    value = {
        "token": TOKEN,
        "guestToken": TOKEN,
        "X-Session-Token": TOKEN,
        "headers": {"Authorization": f"Bearer {TOKEN}", "Accept": "x"},
        "client_secret": "hunter2!",
        "jwt": "abcdefgh",
        "data": {"refresh_token": ["one-secret"], "exp": 12},
        "text": "hello",
    }
    found = Redactor().value(value)
    assert TOKEN not in json.dumps(found)
    assert found["token"] == found["guestToken"] == Secret(TOKEN).placeholder
    assert found["headers"] == {"Authorization": f"Bearer {Secret(TOKEN).placeholder}", "Accept": "x"}
    assert found["data"]["exp"] == 12
    assert found["text"] == "hello"
    assert value["token"] == TOKEN


def test_json_in_text_and_bytes() -> None:
    frame = json.dumps({"action": "onMessage", "token": TOKEN, "message": {"text": "hi {"}})
    assert TOKEN not in Redactor().text(frame)
    assert json.loads(Redactor().text(frame))["message"] == {"text": "hi {"}
    assert TOKEN not in Redactor().value({"body": frame.encode()})["body"]


def test_what_was_met_once_is_known_everywhere() -> None:
    redactor = Redactor()
    redactor.value({"token": TOKEN})
    assert redactor.text(f"no session for {TOKEN} here") == f"no session for {Secret(TOKEN).placeholder} here"


def test_signed_addresses_lose_their_query() -> None:
    redactor = Redactor()
    signed = redactor.text("PUT https://s3.example/up/a.pdf?X-Amz-Signature=abc&X-Amz-Date=2 now")
    assert signed.startswith("PUT https://s3.example/up/a.pdf?***")
    assert "abc" not in signed
    assert signed.endswith(" now")
    plain = "https://api.example/messages?pageNumber=2&pageSize=25"
    assert redactor.text(plain) == plain
    assert "t0k3n" not in redactor.text("wss://x.example/v1?token=t0k3n-long")


@pytest.mark.parametrize(
    "cut",
    [
        '{"token": "%s',
        '{"a": 1, "guestToken":"%s", "messages": [',
        r"create: HTTP 400: {\"jwt\": \"%s\", \"a",
        "{'client_secret': '%s'",
        r'{"password": "a \" quote, then %s',
        '{"refresh_token": ["%s',
        r'"url":"https:\/\/s3.example\/x?a=1\u0026X-Amz-Signature=%s',
        "Set-Cookie: session-token=%s; Path=/",
        "form token=%s&x=1",
    ],
)
def test_json_that_cannot_be_parsed(cut: str) -> None:
    """Cut off, or inside other text: names still say what a secret is."""
    redactor = Redactor()
    assert TOKEN not in redactor.text(cut % TOKEN)
    again = redactor.text(redactor.text(cut % TOKEN))
    assert again == redactor.text(cut % TOKEN)


def test_long_and_odd_text_takes_linear_time() -> None:
    for odd in ("\\" * 200_000, '"token' * 50_000, "token" * 60_000, "a" * 300_000 + "=", "eyJ" * 100_000):
        assert Redactor().text(odd)


def test_jwts_and_bearers_in_prose() -> None:
    token = jwt.encode({"sub": "x"}, "k" * 32, algorithm="HS256")
    assert token not in Redactor().text(f"bad token {token}, sorry")
    assert "s3cr3tt" not in Redactor().text("sent Bearer s3cr3tt today")


def test_sign_in_codes_are_secret_and_error_codes_are_not() -> None:
    found = Redactor().value({"code": "session.locked", "data": {"code": "oauth-code-1", "redirectUri": "https://x"}})
    assert found["code"] == "session.locked"
    assert found["data"]["code"].startswith("***")


def test_short_words_are_left_alone() -> None:
    redactor = Redactor()
    redactor.add("abc")
    assert redactor.text("abc abcd") == "abc abcd"
