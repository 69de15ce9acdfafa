"""Redaction of secrets in traces, raw records and error bodies."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import pytest

from guestctl.core.model import Secret
from guestctl.core.redact import Redactor, is_signed, without

TOKEN = "0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10"
#: What stands for it.
MASK = Secret(TOKEN).placeholder


def test_members_with_secret_names_are_masked() -> None:
    value = {
        "token": TOKEN,
        "guestToken": TOKEN,
        "X-Session-Token": TOKEN,
        "X-Api-Key": TOKEN,
        "X-Goog-Signature": TOKEN,
        "Sec-WebSocket-Protocol": f"bearer, {TOKEN}",
        "authCode": TOKEN,
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


def test_a_secret_found_once_is_masked_everywhere() -> None:
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
        "https://api.example/v1?api_key=%s",
        "apiKey=%s&x=1",
        "?auth=%s",
        "authorization=%s",
        "authCode=%s",
        r"{\"signature\": \"%s\"",
        r"{\"api_key\": \"%s\"",
        "https://login.example/callback?code=%s&state=1",
        "grant_type=authorization_code&code=%s&redirect_uri=x",
        "https://user:%s@api.example/v1",
    ],
)
def test_json_that_cannot_be_parsed(cut: str) -> None:
    """Truncated JSON, or JSON inside other text: member names still reveal the secrets."""
    redactor = Redactor()
    assert TOKEN not in redactor.text(cut % TOKEN)
    again = redactor.text(redactor.text(cut % TOKEN))
    assert again == redactor.text(cut % TOKEN)


def test_long_and_odd_text_takes_linear_time() -> None:
    odds = ("\\" * 200_000, '"token' * 50_000, "token" * 60_000, "a" * 300_000 + "=", "eyJ" * 100_000)
    for odd in (*odds, "http://" + "a:" * 100_000 + " @", "://a:" * 50_000 + "@"):
        assert Redactor().text(odd)


def test_jwts_and_bearer_tokens_in_prose() -> None:
    token = jwt.encode({"sub": "x"}, "k" * 32, algorithm="HS256")
    assert token not in Redactor().text(f"bad token {token}, sorry")
    assert "s3cr3tt" not in Redactor().text("sent Bearer s3cr3tt today")


def test_sign_in_codes_are_secret_and_error_codes_are_not() -> None:
    found = Redactor().value({"code": "session.locked", "data": {"code": "oauth-code-1", "redirectUri": "https://x"}})
    assert found["code"] == "session.locked"
    assert found["data"]["code"].startswith("***")
    for plain in ("close?code=1006&times=2", "GET /v1?code=4005 https://a.example:443/x@y", "state=on&zipcode=12345"):
        assert Redactor().text(plain) == plain


def test_short_literals_are_not_masked() -> None:
    redactor = Redactor()
    redactor.add("abcde")
    redactor.add("")
    redactor.add(None)
    assert redactor.text("abcde abcdef") == "abcde abcdef"
    redactor.add(Secret("abcdef"))
    assert redactor.text("abcde abcdef") == f"abcde {Secret('abcdef').placeholder}"


def test_a_secret_is_masked_in_its_json_and_url_forms() -> None:
    secret = 'pä"ss/w&rd'
    redactor = Redactor()
    redactor.add(secret)
    mask = Secret(secret).placeholder
    for written in (secret, r"p\u00e4\"ss/w&rd", "p%C3%A4%22ss%2Fw%26rd"):
        assert redactor.text(f"<{written}>") == f"<{mask}>"
    half = "0123456789\ud800"
    redactor.add(half)
    assert redactor.text("<0123456789%ED%A0%80>") == f"<{Secret(half).placeholder}>"


def test_a_name_and_its_secret_as_basic_credentials() -> None:
    redactor = Redactor()
    redactor.add_pair("client", Secret("hunter2!"))
    redactor.add_pair(None, Secret("lonely-one"))
    redactor.add_pair("client", None)
    basic, nameless = (base64.b64encode(pair).decode() for pair in (b"client:hunter2!", b":lonely-one"))
    assert redactor.text(f"<{basic}> <{nameless}> hunter2! lonely-one client") == " ".join(
        (
            f"<{Secret(basic)}>",
            f"<{Secret(nameless)}>",
            f"{Secret('hunter2!')}",
            f"{Secret('lonely-one')}",
            "client",
        )
    )


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_proxy_passwords_are_masked(name: str, scheme: str) -> None:
    redactor = Redactor()
    redactor.add_proxies({name: f"{scheme}m%40e:pass@:w%2Frd@proxy.example:3128", "SHELL": "me:in-the-shell@x"})
    said = redactor.text("<pass@:w%2Frd> <pass@:w/rd> in-the-shell proxy.example")
    raw, plain = Secret("pass@:w%2Frd").placeholder, Secret("pass@:w/rd").placeholder
    assert said == f"<{raw}> <{plain}> in-the-shell proxy.example"
    basic = base64.b64encode(b"m@e:pass@:w/rd").decode()
    assert basic not in redactor.text(f"<{basic}>")


def test_proxies_without_passwords_mask_nothing() -> None:
    redactor = Redactor()
    redactor.add_proxies({"http_proxy": "http://proxy.example:3128/path", "https_proxy": "http://myself@proxy.example"})
    assert redactor.text("http://proxy.example:3128/path myself") == "http://proxy.example:3128/path myself"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (f'{{"a": "é", "token": "{TOKEN}"}}', f'{{"a":"é","token":"{MASK}"}}'),
        (f'["é", {{"jwt": "{TOKEN}"}}]', f'["é",{{"jwt":"{MASK}"}}]'),
        ('{"text": "not JSON', '{"text": "not JSON'),
        ("[" * 100_000, "[" * 100_000),
        ({"body": b'{"token":"%s"}' % TOKEN.encode()}, {"body": f'{{"token":"{MASK}"}}'}),
        (b"Gr\xc3\xbc\xffe", "Grü\ufffde"),
        (bytearray(b"plain"), "plain"),
        (Secret(TOKEN), MASK),
        ((1, 2.5, True, None, "a"), [1, 2.5, True, None, "a"]),
        ([{"token": TOKEN}], [{"token": MASK}]),
        ({1: "one", "x": Path(f"/token={TOKEN}")}, {"1": "one", "x": f"/token={MASK}"}),
        ({"tokens": TOKEN, "tokenId": TOKEN}, {"tokens": TOKEN, "tokenId": TOKEN}),
        ({"token1": "", "Access-Token_2": None, "jwt": 7}, {"token1": "", "Access-Token_2": None, "jwt": 7}),
        (
            {"cookie": {"a": TOKEN, 2: ["x-secret", 3]}},
            {"cookie": {"a": MASK, "2": [Secret("x-secret").placeholder, 3]}},
        ),
        ({"password": (TOKEN,)}, {"password": [MASK]}),
        ({"authorization": f"bearer {TOKEN}"}, {"authorization": f"bearer {MASK}"}),
        (
            {"code": "c-1", "codeVerifier": "v-1"},
            {"code": Secret("c-1").placeholder, "codeVerifier": Secret("v-1").placeholder},
        ),
        ({"code": "c-1", "redirectUri": "r"}, {"code": Secret("c-1").placeholder, "redirectUri": "r"}),
        ({"redirectUri": "r", "text": "c"}, {"redirectUri": "r", "text": "c"}),
    ],
)
def test_placeholders(value: Any, shown: Any) -> None:
    assert Redactor().value(value) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f'cut {{"guestToken": "{TOKEN}', f'cut {{"guestToken": "{MASK}'),
        (f'cut {{"guestToken": "{TOKEN}", "a": 1', f'cut {{"guestToken": "{MASK}", "a": 1'),
        (f"form token={TOKEN}&x=1", f"form token={MASK}&x=1"),
        ('cut {"token": "", "a": 1', 'cut {"token": "", "a": 1'),
        (f"sent Bearer {TOKEN} today", f"sent Bearer {MASK} today"),
        (f"sent basic {TOKEN}, twice", f"sent basic {MASK}, twice"),
        ("eyJhbGci.eyJzdWIi.c2ln, sorry", f"{Secret('eyJhbGci.eyJzdWIi.c2ln').placeholder}, sorry"),
    ],
)
def test_text_without_secrets_is_unchanged(text: str, shown: str) -> None:
    redactor = Redactor()
    assert redactor.text(text) == shown
    assert redactor.text(shown) == shown


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("X-Amz-Signature", True),
        ("Access_Key-Id", True),
        ("sig", True),
        ("SIG", True),
        ("token", True),
        ("design", False),
        ("pageNumber", False),
    ],
)
def test_a_signing_query_is_masked_completely(name: str, hidden: bool) -> None:
    for query in (f"{name}=abc&b=2", f"b=2&{name}="):
        text = f"wss://x.example/v1?{query}"
        masked = f"wss://x.example/v1?{Secret(query).placeholder}"
        assert Redactor().text(text) == (masked if hidden else text)
        assert Redactor().text(masked) == masked
        assert Redactor().text(f"{text}#part") == (masked if hidden else f"{text}#part")


def test_a_value_that_equals_a_secret_is_masked_wherever_it_is() -> None:
    secret = Secret("s3")
    masked = secret.placeholder
    assert without(secret, {"a": ["s3", ("s3", 1)], "b": secret}) == {"a": [masked, [masked, 1]], "b": masked}
    assert without(secret, "s3 and more") == "s3 and more"
    assert without(None, "s3") == "s3"
    assert without(Secret(""), "") == ""


_FAST = [
    '{"action":"onMessage","token":"%s","message":{"text":"hi"}}',
    '{"a":"x",":token":"%s"}',
    '{ "to-ken" : "%s" , "code": 200 }',
    '{"code":"%s","redirectUri":"x"}',
    '{"token":["%s"],"token":{"a":"%s"}}',
    '{"token":"%s","accessToken":"%s","text":"it is %s"}',
    '{"text":"don\'t"}',
    "{\"text\":\"'token': '%s'\"}",
    '{"text":"Bearer %s"}',
    '{"headers":{"Authorization":"bearer %s"}}',
    '{"text":"a token=%s and https://x.example/?token=%s"}',
    '{"token":"%s","text":"a \\"quote\\" and \\u0074oken"}',
    '{"\\u0074oken":"%s"}',
    '{"token":"%s',
    '{"token":"%s","x":"',
    '{"a":1,"token":""}',
    '{"token":null,"n":[1,2.5,true]}',
    '["token","%s"]',
    "not JSON %s",
    "",
]


@pytest.mark.parametrize("text", _FAST)
def test_the_fast_way_for_json_masks_the_same(text: str) -> None:
    given = text.replace("%s", TOKEN)
    fast, slow = Redactor(), Redactor()
    shown, expected = fast.json_text(given), slow.text(given)
    try:
        assert json.loads(shown) == json.loads(expected)
    except ValueError:
        assert shown == expected
    later = f'{{"text":"later: {TOKEN}"}}'
    assert fast.json_text(later) == slow.text(later)


def test_a_copy_knows_the_secrets_and_learns_on_its_own() -> None:
    first = Redactor()
    first.add("secret-one")
    second = first.copy()
    second.add("secret-two")
    assert "secret-one" not in second.text("secret-one")
    assert first.text("secret-two") == "secret-two"


@pytest.mark.parametrize("depth", [400, 600, 900, 5000])
def test_a_text_that_is_nested_too_deep_is_masked_as_text(depth: int) -> None:
    """A peer that sends such a frame breaks neither a trace nor the exchange."""
    shown = Redactor().text('{"token":"canary-canary","deep":' + "[" * depth + "]" * depth + "}")
    assert "canary" not in shown
    assert shown.count("[") == depth


@pytest.mark.parametrize(
    ("url", "signed"),
    [
        ("https://files.example/a?X-Amz-Signature=abcdef", True),
        ("https://files.example/a?sig=abcdef", True),
        ("https://files.example/eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl", True),
        ("https://files.example/a?name=report.pdf", False),
    ],
)
def test_a_signed_address_is_recognised(url: str, signed: bool) -> None:
    assert is_signed(url) is signed
