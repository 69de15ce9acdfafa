"""Reading tokens without verifying them (other-apis.md, "guests")."""

from __future__ import annotations

import base64
import json

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestctl.core.errors import Unauthorised
from guestctl.core.jwt_claims import expiry_of, inspect
from guestctl.core.model import Credential, Secret

NOW = 1_772_615_727.0
KEY = "k" * 32


def token(**claims: object) -> Secret:
    return Secret(jwt.encode(dict(claims), KEY, algorithm="HS256"))


def test_the_record_of_a_valid_jwt() -> None:
    claims = {"sub": "g1", "iat": NOW - 10, "exp": NOW + 90, "attributes": {"plan": "gold"}}
    found = inspect(token(**claims), NOW)
    assert found.record(NOW) == {
        "kind": "token",
        "form": "jwt",
        "verified": False,
        "header": {"alg": "HS256", "typ": "JWT"},
        "claims": claims,
        "issued_at": "2026-03-04T09:15:17.000Z",
        "expires_at": "2026-03-04T09:16:57.000Z",
        "seconds_left": 90,
        "expired": False,
        "problems": [],
    }


@pytest.mark.parametrize(
    ("left", "seconds", "expired"), [(1.5, 1, False), (1, 1, False), (0, 0, True), (-0.5, -1, True)]
)
def test_a_token_is_valid_until_the_second_of_its_expiry(left: float, seconds: int, expired: bool) -> None:
    found = inspect(token(exp=NOW + left), NOW)
    record = found.record(NOW)
    assert (record["seconds_left"], record["expired"]) == (seconds, expired)
    assert bool(found.problems) is expired


@pytest.mark.parametrize("exp", [0, 0.5, 253_402_300_799])
def test_extreme_expiry_times_are_accepted(exp: float) -> None:
    assert inspect(token_with(exp), NOW).expires_at == exp


@given(st.text(max_size=40))
def test_every_base64_padding_is_read(subject: str) -> None:
    assert inspect(token(sub=subject), NOW).claims == {"sub": subject}


@pytest.mark.parametrize("before", ["Bearer ", "bearer  ", " BEARER ", "\n"])
def test_a_pasted_authorization_header_is_read(before: str) -> None:
    assert inspect(Secret(f"{before}{token(sub='g1').reveal()}\n"), NOW).claims == {"sub": "g1"}


def test_an_opaque_token_has_only_the_known_expiry() -> None:
    found = inspect(Secret("0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10"), NOW, known_expiry=NOW + 5)
    assert (found.form, found.claims, found.expires_at) == ("opaque", {}, NOW + 5)
    assert found.problems == ()
    late = inspect(Secret("0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10"), NOW + 5, known_expiry=NOW + 5)
    assert late.problems == ("expired 2026-03-04T09:15:32.000Z",)


def test_a_truncated_jwt_is_malformed() -> None:
    with pytest.raises(Unauthorised, match="has three parts, this one has 1"):
        inspect(Secret("eyJhbGciOiJIUzI1NiJ9"), NOW)


def test_the_known_expiry_is_used_only_without_an_exp_claim() -> None:
    assert inspect(token(sub="g1"), NOW, known_expiry=NOW + 5).expires_at == NOW + 5
    assert inspect(token(exp=NOW + 9), NOW, known_expiry=NOW + 5).expires_at == NOW + 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "^not a token"),
        ("hello world", "not a token"),
        ("söme-tøken", "not a token"),
        ("eyJhbGciOiJIUzI1NiJ9.e30", "has three parts, this one has 2"),
        ("a.b.c.d.e.f", "has three parts, this one has 6"),
        ("eyJhbGciOiJIUzI1NiJ9.!!!.c2ln", "not a token"),
        ("eyJhbGciOiJIUzI1NiJ9.bm90IGpzb24.c2ln", "malformed"),
        ("bm8ganNvbiBoZXJl.e30.c2ln", r"malformed: not base64url of JSON \(DecodeError\)"),
    ],
)
def test_messages_are_distinct_and_never_quote_the_token(text: str, words: str) -> None:
    with pytest.raises(Unauthorised, match=words) as raised:
        inspect(Secret(text), NOW)
    assert raised.value.code == "auth.secret"
    assert not text or text not in raised.value.message


def test_claims_that_are_a_list_are_malformed() -> None:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    with pytest.raises(Unauthorised, match="malformed"):
        inspect(Secret(f"{part({'alg': 'none'})}.{part([1, 2])}.c2ln"), NOW)


def test_an_expired_token_reports_when_it_expired() -> None:
    assert inspect(token(exp=1000), NOW).problems == ("expired 1970-01-01T00:16:40.000Z",)


def test_required_claims() -> None:
    required = ("routing_hints",)
    assert inspect(token(exp=NOW + 9), NOW, required=required).problems == ("routing hints missing",)
    assert inspect(token(exp=NOW + 9, routing_hints={}), NOW, required=required).problems == ("routing hints missing",)
    assert inspect(token(exp=NOW + 9, routing_hints={"queue": "q"}), NOW, required=required).problems == ()
    assert inspect(token(routing_hints={"queue": "q"}), NOW, required=required).problems == ("exp missing",)
    late = inspect(token(exp=NOW - 1), NOW, required=required).problems
    assert late == ("expired 2026-03-04T09:15:26.000Z", "routing hints missing")
    with pytest.raises(Unauthorised, match=r"^not a token: expected a JWT with three parts") as raised:
        inspect(Secret("0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10"), NOW, required=required)
    assert raised.value.code == "auth.secret"


@pytest.mark.parametrize("exp", ["soon", -1, 1e300, True, [1]])
def test_an_exp_claim_that_is_not_a_time_is_malformed(exp: object) -> None:
    with pytest.raises(Unauthorised, match="`exp` is not a time") as raised:
        inspect(token_with(exp), NOW)
    assert raised.value.code == "auth.secret"


def token_with(exp: object) -> Secret:
    body = base64.urlsafe_b64encode(json.dumps({"exp": exp}).encode()).rstrip(b"=").decode()
    return Secret(f"eyJhbGciOiJIUzI1NiJ9.{body}.c2ln")


def test_secrets_among_the_claims_are_masked() -> None:
    assert inspect(token(refresh_token="r-very-secret"), NOW).record(NOW)["claims"]["refresh_token"].startswith("***")


def test_expiry_of_prefers_the_expiry_that_the_service_reported() -> None:
    secret = token(exp=NOW + 90)
    assert expiry_of(Credential("guest", secret, expires_at=NOW + 5), NOW) == NOW + 5
    assert expiry_of(Credential("guest", secret), NOW) == NOW + 90


def test_expiry_of_is_unknown_without_a_readable_claim() -> None:
    assert expiry_of(Credential("guest", token(sub="g1")), NOW) is None
    assert expiry_of(Credential("guest", Secret("0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10")), NOW) is None
    assert expiry_of(Credential("guest", Secret("eyJhbGciOiJIUzI1NiJ9.!!!")), NOW) is None
