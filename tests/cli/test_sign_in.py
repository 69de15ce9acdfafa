"""Signing in on `web-messaging`: at the start, later, signing out, and the effect on other devices."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front, Result
from tests.cli.test_signals import started

CODE = ("--auth-code", "ann:1", "--redirect-uri", "https://shop.example/cb")


@pytest.fixture
def own(sandboxed: Callable[[Sandbox], Front]) -> Iterator[Callable[..., Front]]:
    with ExitStack() as stack:
        yield lambda **options: sandboxed(
            stack.enter_context(running(SandboxOptions(fast=True, **{"sign_in": True, **options})))
        )


@pytest.fixture
def guest(own: Callable[..., Front]) -> Front:
    return own()


@contextmanager
def listening(front: Front) -> Iterator[Callable[[], Result]]:
    """Start an attached `listen` in its own process and return the function that waits for its end."""
    with started(front, "listen", "--for", "100", "-o", "jsonl") as process:

        def ended() -> Result:
            out, err = process.communicate(timeout=60)
            return Result(process.returncode, out.decode(), err.decode())

        for _ in range(400):
            if any("history" in session["requests"] for session in front("sandbox", "sessions").records):
                yield ended
                return
            time.sleep(0.025)
        pytest.fail("it never attached")


def authenticated(path: Path) -> list[bool]:
    """Return for each message in a trace whether the service marks the guest as signed in."""
    frames = [json.loads(entry["text"]) for entry in _entries(path) if entry["kind"] == "frame_in"]
    bodies = [frame["body"] for frame in frames if frame["class"] == "StructuredMessage"]
    return [body["metadata"].get("authenticated") == "true" for body in bodies if body["direction"] == "Inbound"]


def _entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_sign_in_at_the_start_with_a_code(guest: Front) -> None:
    created = guest("session", "create", *CODE, "--code-verifier", "-", stdin="verifier-verifier\n")
    assert created.code == 0, created.err
    trace = guest.cwd / "t"
    assert guest("send", "hello", "--trace", str(trace)).code == 0
    assert authenticated(trace) == [True]
    actions = [json.loads(entry["text"])["action"] for entry in _entries(trace) if entry["kind"] == "frame_out"]
    assert actions[0] == "configureAuthenticatedSession"


def test_a_signed_in_session_replaces_an_anonymous_one(guest: Front) -> None:
    assert guest("session", "create").code == 0
    assert guest("send", "hello").code == 0
    before = guest("session", "show", "--show-token").record["token"]
    created = guest("session", "create", "--new", *CODE)
    assert created.code == 0, created.err
    assert guest("session", "show", "--show-token").record["token"] != before
    assert guest("history").out == ""
    assert [record["name"] for record in guest("session", "list").records] == ["default"]


def test_sign_in_with_an_id_token(guest: Front) -> None:
    created = guest("session", "create", "--id-token", "-", "--nonce", "n", stdin="bob:idtoken\n")
    assert created.code == 0, created.err
    assert guest("send", "hello").code == 0
    other = guest("session", "create", "--as", "env", GUESTCTL_ID_TOKEN="bob:idtoken2")
    assert other.code == 0, other.err


def test_a_sign_in_that_cannot_be_renewed_is_not_shown_as_expired(guest: Front) -> None:
    assert guest("session", "create", "--id-token", "-", stdin="bob:idtoken").code == 0
    told = guest("refresh-token")
    assert (told.code, told.error["message"]) == (4, "the sign-in cannot be renewed: it has no refresh token")


def test_stepping_up(guest: Front) -> None:
    assert guest("session", "create").code == 0
    assert guest("send", "still anonymous").code == 0
    signed = guest("session", "sign-in", *CODE)
    assert signed.code == 0, signed.err
    assert signed.record["state"] == "active"
    trace = guest.cwd / "t"
    assert guest("send", "now ann", "--trace", str(trace)).code == 0
    assert authenticated(trace) == [True]
    texts = [record["text"] for record in guest("history").records]
    assert texts[0] == "still anonymous"
    assert any("SignIn" in json.dumps(record) for record in guest("history", "--all").records)


def test_stepping_up_evicts_the_other_devices(guest: Front) -> None:
    assert guest("session", "create").code == 0
    with listening(guest) as ended:
        assert guest("session", "sign-in", *CODE).code == 0
        told = ended()
    assert told.code == 10
    assert told.error["code"] == "session.evicted"
    assert "signedIn" in told.error["message"]
    # Only that place is lost: the session goes on, signed in.
    assert guest("send", "hello").code == 0


def test_signing_out_ends_the_session_everywhere(guest: Front) -> None:
    assert guest("session", "create", *CODE).code == 0
    assert guest("send", "hello").code == 0
    with listening(guest) as ended:
        out = guest("session", "sign-out")
        assert out.code == 0, out.err
        assert out.record["state"] == "ended"
        told = ended()
    assert told.code == 10
    assert told.error["code"] == "session.logged_out"
    assert guest("send", "anybody there?").code == 10
    assert guest("session", "sign-out").code == 2


def test_an_expired_sign_in_is_renewed(own: Callable[..., Front]) -> None:
    guest = own(token_life=0.4)
    assert guest("session", "create", *CODE).code == 0
    time.sleep(0.5)
    sent = guest("send", "hello")
    assert sent.code == 0, sent.err
    assert guest("refresh-token").code == 0


def test_a_sign_in_without_a_refresh_token_is_not_renewed(own: Callable[..., Front]) -> None:
    guest = own(token_life=0.4)
    assert guest("session", "create", "--id-token", "-", stdin="bob:idtoken").code == 0
    time.sleep(0.5)
    sent = guest("send", "hello")
    assert (sent.code, sent.error["code"]) == (4, "auth.refused")


def test_a_signed_in_session_is_never_anonymous_again(guest: Front) -> None:
    """Service code 4017: another client configures the session's token without its sign-in."""
    assert guest("session", "create", *CODE).code == 0
    assert guest("send", "hello").code == 0
    _forget_sign_in(guest)
    sent = guest("send", "who am I?")
    assert (sent.code, sent.error["code"], sent.error["service_code"]) == (4, "auth.downgrade", 4017)
    again = guest("session", "sign-in", *CODE)
    assert (again.code, again.error["code"]) == (4, "auth.downgrade")


def test_a_refused_code(guest: Front) -> None:
    told = guest("session", "create", "--auth-code", "bad", "--redirect-uri", "https://shop.example/cb")
    assert told.code == 4
    assert guest("session", "list").out == ""
    assert guest("session", "create").code == 0
    assert guest("session", "sign-in", "--auth-code", "bad", "--redirect-uri", "https://shop.example/cb").code == 4
    assert guest("send", "hello").code == 0


def test_sign_in_with_an_unknown_deployment(guest: Front) -> None:
    told = guest("session", "create", *CODE, GUESTCTL_DEPLOYMENT_ID="no-such-deployment")
    assert (told.code, told.error["code"]) == (3, "service.not_found")
    assert "The deployment was not found" in told.error["message"]


def test_sign_in_on_a_deployment_without_it(own: Callable[..., Front]) -> None:
    front = own(sign_in=False)
    assert front("session", "create", *CODE).code == 5
    assert front("session", "create").code == 0
    assert front("session", "sign-in", *CODE).code == 5
    assert front("session", "create", *CODE, GUESTCTL_API="guests").code == 12
    assert front("session", "create", "-s", "x", GUESTCTL_API="guests").code == 0
    assert front("session", "sign-out", GUESTCTL_API="guests").code == 12


@pytest.mark.parametrize(
    ("argv", "stdin"),
    [
        (("--id-token", "eyJhbGciOi.secret.secret"), ""),
        (("--auth-code", "c", "--redirect-uri", "u", "--code-verifier", "verifier-on-argv"), ""),
        (("--auth-code", "c"), ""),
        (("--auth-code", "-", "--redirect-uri", "u", "--code-verifier", "-"), "x"),
        (("--auth-code", "c", "--redirect-uri", "u", "--id-token", "-"), "x"),
        (("--id-token", "-"), ""),
        (("--id-token", "-", "--redirect-uri", "u"), "x"),
        (("--nonce", "n"), ""),
    ],
)
def test_wrong_sign_in_options_are_refused(guest: Front, argv: tuple[str, ...], stdin: str) -> None:
    told = guest("session", "create", *argv, stdin=stdin)
    assert told.code == 2
    assert "secret.secret" not in told.err
    assert "verifier-on-argv" not in told.err
    assert guest("session", "list").out == ""


def test_a_sign_in_needs_a_proof_and_a_session(guest: Front) -> None:
    assert guest("session", "sign-in").code == 2
    assert guest("session", "sign-in", *CODE).code == 10
    assert guest("session", "sign-out").code == 10


def test_no_secret_is_shown(guest: Front) -> None:
    trace = guest.cwd / "t"
    said = ("--auth-code", "ann:very-private-code", "--redirect-uri", "https://shop.example/cb")
    told = guest("session", "create", *said, "-vv", "--trace", str(trace), GUESTCTL_CODE_VERIFIER="private-verifier")
    assert told.code == 0, told.err
    shown = told.out + told.err + trace.read_text() + guest("session", "show").out + guest("session", "report").out
    assert "very-private-code" not in shown
    assert "private-verifier" not in shown
    printed = guest("session", "create", "--new", *said, "--print-curl", GUESTCTL_CODE_VERIFIER="private-verifier")
    assert "very-private-code" not in printed.out
    assert '"$AUTH_CODE"' in printed.out
    assert '"$CODE_VERIFIER"' in printed.out
    assert '"$SIGN_IN_TOKEN"' in printed.out


def test_the_sandbox_accepts_the_sign_in_option(guest: Front) -> None:
    told = {record["check"]: record for record in guest("doctor").records}
    assert told["sign-in"]["result"] == "ok"


def _forget_sign_in(front: Front) -> None:
    """Like a session that was copied without its sign-in."""
    from guestctl.core.clock import SystemClock
    from guestctl.storage.state import State

    with State.open(State.directory(front.environ), SystemClock()) as state:
        for scope, session in state.sessions():
            state.put(scope, session.without("sign-in").without("history"))
