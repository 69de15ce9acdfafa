"""What guestctl makes of HTTP answers, from the command line to the bytes that requests would send, without a socket.

Knows: the command line and literal answers of one API that uses HTTP for everything. Must not know: how guestctl
reads them. `responses` stands in for the network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import responses
from responses import matchers

from tests.cli.conftest import Front
from tests.fakes import FakeClock

LOGIN = "https://api.mypurecloud.de/oauth/token"
CONVERSATIONS = "https://api.mypurecloud.de/api/v2/webmessaging/conversations"
MESSAGES = f"{CONVERSATIONS}/c-1/messages"
CREATED = {"conversationId": "c-1", "guestId": "g-1", "sessionToken": "guest-token-1", "expiresIn": 900}
GRANTED = {"access_token": "access-token-1", "token_type": "bearer", "expires_in": 3600}

PROFILE = """\
profiles:
  p:
    api: webmessaging-conversations
    region: mypurecloud.de
    deployment_id: 11111111-2222-4333-8444-555555555555
    oauth: {client_id: client, client_secret: "${CLIENT_SECRET}"}
"""


@pytest.fixture
def http() -> Iterator[responses.RequestsMock]:
    """Answer the requests that a test names, and fail for any other and for one that was never made."""
    with responses.RequestsMock() as answers:
        yield answers


@pytest.fixture
def cli(tmp_path: Path, clock: FakeClock) -> Front:
    (tmp_path / "p.yaml").write_text(PROFILE)
    environ = {
        "GUESTCTL_STATE": str(tmp_path / "state"),
        "GUESTCTL_PROFILES": str(tmp_path / "p.yaml"),
        "CLIENT_SECRET": "hidden",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    return Front(environ, tmp_path, clock=clock)


@pytest.fixture
def guest(cli: Front, http: responses.RequestsMock) -> Front:
    """A guest with a session."""
    http.post(LOGIN, json=GRANTED)
    http.post(CONVERSATIONS, json=CREATED, status=201)
    assert cli("session", "create").code == 0
    return cli


def sent(http: responses.RequestsMock, number: int) -> Any:
    return http.calls[number].request


def entry(number: int) -> dict[str, Any]:
    return {
        "id": f"m-{number}",
        "direction": "outbound",
        "text": f"text {number}",
        "from": {"role": "agent"},
        "timestamp": f"2026-03-04T09:{number:02}:00.000Z",
    }


# --- access tokens and sessions ---


def test_a_client_signs_in_and_creates_a_session(guest: Front, http: responses.RequestsMock) -> None:
    login, create = sent(http, 0), sent(http, 1)
    form = parse_qs(login.body if isinstance(login.body, str) else login.body.decode())
    assert (form["grant_type"], form["client_id"], form["client_secret"]) == (
        ["client_credentials"],
        ["client"],
        ["hidden"],
    )
    assert create.headers["Authorization"] == "Bearer access-token-1"
    assert json.loads(create.body) == {"deploymentId": "11111111-2222-4333-8444-555555555555"}
    shown = guest("session", "show")
    assert shown.record["ids"]["conversation"] == "c-1"
    assert "guest-token-1" not in shown.out


@pytest.mark.parametrize(
    ("status", "body", "exit_code", "code"),
    [
        (400, {"error": "invalid_client", "description": "client not found"}, 4, "auth.oauth"),
        (401, {"error": "invalid_client"}, 4, "auth.oauth"),
        (400, {"error": "unsupported_grant_type"}, 3, "service.refused"),
        (503, {"message": "busy"}, 8, "service.down"),
        (200, {"token_type": "bearer", "expires_in": 3600}, 11, "answer.unreadable"),
    ],
)
def test_a_refused_sign_in(
    cli: Front, http: responses.RequestsMock, status: int, body: Any, exit_code: int, code: str
) -> None:
    http.post(LOGIN, json=body, status=status)
    refused = cli("session", "create", "-o", "json")
    assert (refused.code, refused.error["code"]) == (exit_code, code), refused.err
    assert "hidden" not in refused.out + refused.err
    assert cli("session", "list").records == []


def test_a_token_is_renewed_with_the_access_token(guest: Front, http: responses.RequestsMock) -> None:
    http.post(
        f"{CONVERSATIONS}/c-1/guests/g-1/refresh",
        json={"sessionToken": "guest-token-2", "expiresIn": 900},
        match=[
            matchers.header_matcher({"Authorization": "Bearer access-token-1"}),
            matchers.json_params_matcher({"guestId": "g-1"}),
        ],
    )
    assert guest("refresh-token").code == 0
    http.get(
        MESSAGES,
        json={"messages": [], "more": False},
        match=[matchers.header_matcher({"Authorization": "Bearer guest-token-2"})],
    )
    assert guest("history").code == 0


# --- pages ---


def test_history_follows_the_pages_to_the_end(guest: Front, http: responses.RequestsMock) -> None:
    for after, numbers in ((None, (1, 2)), ("m-2", (3, 4)), ("m-4", (5,))):
        query = {"limit": "50"} | ({"after": after} if after else {})
        body = {"messages": [entry(number) for number in numbers], "more": 5 not in numbers}
        http.get(MESSAGES, json=body, match=[matchers.query_param_matcher(query)])
    assert [record["text"] for record in guest("history", "--all").records] == [f"text {n}" for n in range(1, 6)]


# --- 429 ---


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_respected_in_both_forms(
    guest: Front, http: responses.RequestsMock, clock: FakeClock, form: str
) -> None:
    header = "7" if form == "seconds" else formatdate(clock.now() + 7, usegmt=True)
    http.get(MESSAGES, json={"message": "slow down"}, status=429, headers={"Retry-After": header})
    http.get(MESSAGES, json={"messages": [entry(1)], "more": False})
    begun = clock.monotonic()
    assert [record["text"] for record in guest("history").records] == ["text 1"]
    assert 6.0 <= clock.monotonic() - begun <= 7.0


def test_a_limit_beyond_the_deadline_is_reported_at_once(
    guest: Front, http: responses.RequestsMock, clock: FakeClock
) -> None:
    http.get(MESSAGES, json={"message": "slow down"}, status=429, headers={"Retry-After": "300"})
    begun = clock.monotonic()
    limited = guest("history", "--timeout", "20", "-o", "json")
    assert (limited.code, limited.error["code"], limited.error["retry_after"]) == (7, "rate.limited", 300)
    assert clock.monotonic() == begun


# --- malformed answers ---

MALFORMED = {
    "empty": b"",
    "a page of a gateway": b"<html><title>Bad gateway</title></html>",
    "cut off": b'{"messages": [{"id": "m-1", "te',
    "a list": b"[]",
    "a text": b'"ok"',
    "null": b"null",
    "messages that are no list": b'{"messages": {"id": "m-1"}}',
    "not UTF-8": b'{"messages": "\xff"}',
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_history_is_a_protocol_error(guest: Front, http: responses.RequestsMock, name: str) -> None:
    http.get(MESSAGES, body=MALFORMED[name], content_type="application/json")
    failed = guest("history", "-o", "json")
    assert (failed.code, failed.error["code"]) == (11, "answer.unreadable"), failed.err
    assert failed.out == ""


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_session_is_not_stored(cli: Front, http: responses.RequestsMock, name: str) -> None:
    http.post(LOGIN, json=GRANTED)
    http.post(CONVERSATIONS, body=MALFORMED[name], status=201, content_type="application/json")
    failed = cli("session", "create", "-o", "json")
    assert (failed.code, failed.error["code"]) == (11, "answer.unreadable"), failed.err
    assert cli("session", "list").records == []
