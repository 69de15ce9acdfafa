"""Every class of failure through the command line: exit code, error lines, error object (contract.md §5)."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from guestctl.core.clock import Deadline, SystemClock
from guestctl.core.errors import NEXT_STEPS
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from guestctl.storage.state import State
from tests.cli.conftest import Front, Result
from tests.cli.test_signals import started

KEYS = ["code", "exit", "message", "hint", "api", "http_status", "service_code", "retry_after", "body"]


def check(result: Result, exit_code: int, code: str, *words: str) -> dict[str, object]:
    """Check and return the error object of a command that ran in a pipe."""
    assert result.code == exit_code, result.err
    error = result.error
    assert list(error) == KEYS
    assert (error["exit"], error["code"]) == (exit_code, code)
    assert error["hint"]
    for word in words:
        assert word in str(error["message"]), error["message"]
    return error


def check_line(result: Result, exit_code: int, *words: str) -> None:
    """Check the same failure as text: an `error:` line and a `hint:` line."""
    assert result.code == exit_code
    *_, error, hint = result.err.replace("\n       ", " ").splitlines()
    assert error.startswith("error: ")
    assert not error.endswith(".")
    assert hint.startswith("hint:  ")
    assert "Traceback" not in result.err
    for word in words:
        assert word in f"{error} {hint}", result.err


@pytest.fixture
def own(sandboxed: Callable[[Sandbox], Front]) -> Iterator[Callable[[SandboxOptions], Front]]:
    """Return the function that starts a sandbox for one test and runs commands against it."""
    with ExitStack() as stack:
        yield lambda options: sandboxed(stack.enter_context(running(options)))


def test_unknown_deployment(front: Front) -> None:
    asked = ("session", "create", "--deployment-id", "no-such-deployment", "--timeout", "5")
    check(front(*asked), 5, "forbidden.upgrade")
    check_line(front(*asked, tty=True), 5, NEXT_STEPS["forbidden.upgrade"])


def test_refused_origin(own: Callable[[SandboxOptions], Front]) -> None:
    front = own(SandboxOptions(fast=True, origins=("shop.example",)))
    check(front("session", "create", "--origin", "https://evil.example", "--timeout", "5"), 5, "forbidden.upgrade")
    assert front("session", "create", "--origin", "https://shop.example").code == 0


def test_wrong_host(alone: Front) -> None:
    asked = ("session", "create", "--profiles", _profile(alone, "https://no-such-host.invalid"), "--timeout", "2")
    check(alone(*asked), 8, "network.dns", "no-such-host.invalid")


def test_dead_port(alone: Front) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        asked = ("session", "create", "--profiles", _profile(alone, url), "--timeout", "1")
        check(alone(*asked), 8, "network.connect", "127.0.0.1")
        check_line(alone(*asked, tty=True), 8, NEXT_STEPS["network.connect"])


def test_bad_certificate(own: Callable[[SandboxOptions], Front]) -> None:
    pytest.importorskip("cryptography")
    front = own(SandboxOptions(fast=True, tls=True))
    assert front("session", "create").code == 0
    strange = {key: value for key, value in front.environ.items() if key != "GUESTCTL_SANDBOX_CA"}
    check(Front(strange, front.cwd)("session", "create", "--timeout", "3"), 8, "network.tls")


def test_no_session(front: Front) -> None:
    for asked in (("send", "hi"), ("history",), ("listen",), ("resume",), ("refresh-token",), ("session", "show")):
        check(front(*asked), 10, "session.none", "no session")
    check_line(front("send", "hi", tty=True), 10, "guestctl session create")


def test_expired_session(front: Front) -> None:
    front("ask", "one")
    front("sandbox", "expire", "--to", _newest(front))
    check(front("send", "two"), 10, "session.expired", "answered with a new one")
    assert front("session", "show").record["state"] == "expired"
    again = front("ask", "three")
    assert again.out == "echo: three\n"
    assert "starting another" in again.err


def test_a_guest_without_messages_has_an_empty_history(own: Callable[[SandboxOptions], Front]) -> None:
    front = own(SandboxOptions(fast=True))
    assert front("session", "create").code == 0
    front("sandbox", "fault", "http:status=404,on=history")
    told = front("history")
    assert (told.code, told.out) == (0, ""), told.err


def test_read_only_conversation(own: Callable[[SandboxOptions], Front]) -> None:
    front = own(SandboxOptions(fast=True, script=_bot()))
    front("session", "create")
    front("send", "bye", "--wait")
    refused = front("send", "one more")
    check(refused, 6, "conflict.read_only")
    assert refused.record["delivery"] in {"rejected", "not_sent"}


def test_evicted(front: Front) -> None:
    """A fourth socket of one token closes the oldest. guestctl never opens four, so a bare client does."""
    import websocket

    front("session", "create")
    token = front("session", "show", "--show-token").record["token"]
    url = front.environ["GUESTCTL_SANDBOX_URL"].replace("http", "ws") + "/v1"
    deployment = "5a4db0c5-0000-4000-8000-677565737463"
    # A process of its own: CPython's parser, which reads annotations, is not safe for two threads.
    with started(front, "listen", "--for", "100") as process:
        # Which of them the service calls the oldest, configuring decides.
        _until(lambda: front("sandbox", "sessions").records[-1]["configures"] == 2)
        strangers = [websocket.create_connection(f"{url}?deploymentId={deployment}") for _ in range(3)]
        try:
            for stranger in strangers:
                stranger.send(json.dumps({"action": "configureSession", "deploymentId": deployment, "token": token}))
                stranger.recv()
            out, err = process.communicate(timeout=60)
        finally:
            for stranger in strangers:
                stranger.close()
    check(Result(process.returncode, out.decode(), err.decode()), 10, "session.evicted")


def test_idle_without_any_connection_fails(own: Callable[[SandboxOptions], Front]) -> None:
    front = own(SandboxOptions(fast=True))
    front("session", "create")
    front("sandbox", "fault", "refuse:status=503")
    told = front("listen", "--for", "2")
    assert (told.code, told.error["code"]) == (8, "service.down")


def test_listen_fails_when_the_session_has_no_connection_left(front: Front) -> None:
    """`listen --for` waits no longer than requested, and reports that it never connected."""
    front("session", "create")
    with ExitStack() as held:
        state = held.enter_context(State.open(State.directory(front.environ), SystemClock()))
        [(scope, session)] = state.sessions()
        for _ in range(3):
            held.enter_context(state.slot(scope, session, 3, Deadline.after(SystemClock(), 1.0)))
        told = front("listen", "--for", "300ms")
        assert (told.code, told.error["code"]) == (9, "timeout.busy")


def test_rate_limited(front: Front) -> None:
    front("session", "create")
    front("sandbox", "fault", "ratelimit:retry_after=60,on=send")
    try:
        limited = front("send", "hi", "--timeout", "1")
    finally:
        front("sandbox", "fault", "--clear")
    error = check(limited, 7, "rate.limited")
    assert error["retry_after"] == 60
    assert limited.record["delivery"] == "rejected"


def test_attributes_too_large(front: Front) -> None:
    front("session", "create")
    refused = front("send", "hi", "--attr", "note=" + "x" * 3000)
    check(refused, 3, "service.attributes")


@pytest.mark.parametrize("how", [("--as", "cart"), ("--new",), ("--as", "cart", "--new")], ids=" ".join)
def test_a_refused_session_create_leaves_the_stored_session_unchanged(front: Front, how: tuple[str, ...]) -> None:
    front("session", "create")
    front("send", "hi")
    check(front("session", "create", *how, "--attr", "note=" + "x" * 3000), 3, "service.attributes", "3004 bytes")
    assert [record["name"] for record in front("session", "list").records] == ["default"]
    assert front("send", "and again").code == 0
    assert [record["text"] for record in front("history").records if record["direction"] == "inbound"] == [
        "hi",
        "and again",
    ]


def test_text_too_long(front: Front) -> None:
    front("session", "create")
    check(front("send", "-", stdin="x" * 5000), 3, "service.too_long")


def test_no_reply_in_time(own: Callable[[SandboxOptions], Front]) -> None:
    front = own(SandboxOptions(fast=True, agent=True))
    late = front("ask", "anybody?", "-o", "json", "--timeout", "2")
    check(late, 9, "timeout", "timed out waiting for a reply")
    unmatched = front("send", "hi", "--expect", "goodbye", "--timeout", "2")
    check(unmatched, 9, "timeout", "goodbye")
    assert unmatched.record["delivery"] == "accepted"
    assert unmatched.record["reply"] is None
    check(front("send", "hi", "--expect", "", "--timeout", "2"), 9, "timeout")


def test_malformed_answer(front: Front) -> None:
    front("session", "create")
    front("sandbox", "fault", "garbage:on=socket")
    try:
        broken = front("listen", "--for", "2", "--timeout", "10")
        refused = front("session", "create", "--as", "other", "--timeout", "10")
    finally:
        front("sandbox", "fault", "--clear")
    assert {broken.code, refused.code} <= {0, 11}
    check(refused, 11, "answer.unreadable")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("profiles: [", ("p.yaml:",)),
        ("default: x\nprofiles: {}\n", ("p.yaml:1", "default")),
        ("profiles:\n  a:\n    regoin: x\n", ("p.yaml:3", "regoin", 'did you mean "region"')),
        ("profiles:\n  a:\n    base_url: ftp://x\n", ("p.yaml:3", "base_url")),
    ],
)
def test_broken_profile(alone: Front, text: str, words: tuple[str, ...]) -> None:
    file = alone.cwd / "p.yaml"
    file.write_text(text)
    for asked in (("send", "hi"), ("profile", "check"), ("session", "list")):
        check(alone(*asked, "--profiles", str(file)), 2, "config.file", *words)


def test_unknown_profile(alone: Front) -> None:
    check(alone("send", "hi", "-p", "nobody", "--profiles", _profile(alone, "https://x.example")), 2, "config.profile")
    check_line(alone("send", "hi", "-p", "sandbox", tty=True), 2, "sandbox serve")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("send", "hi", "--timeout", "soon"), '--timeout: "soon" is not a duration'),
        (("send", "hi", "--timeout", "0"), '--timeout: "0" is not a duration'),
        (("send", "hi", "-o", "xml"), 'no output mode "xml"'),
        (("send", "hi", "--attr", "novalue"), '--attr: expected KEY=VALUE, found "novalue"'),
        (("send", "hi", "--expect", "("), "not a regular expression"),
        (("send", "hi", "--id", "x"), "not a UUID"),
        (("send", "hi", "--lines"), "--lines needs - as the text"),
        (("refresh-token", "--print-frames", "--if-expiring", "soon"), "--if-expiring"),
        (("listen", "--only", "presence", "--until", "bye"), "--until matches messages"),
        (("send", "hi", "--traceparent", "00-xx"), "--traceparent"),
        (("send", "hi", "--traceparent", f"ff-{'a' * 32}-{'b' * 16}-01"), "--traceparent"),
        (("listen", "--only", "mesages"), "mesages"),
        (("listen", "--until", "["), "not a regular expression"),
        (("listen", "--max", "0"), "--max"),
        (("resume", "--on-conflict", "maybe"), '--on-conflict: no action "maybe"'),
        (("token", "inspect", "abcdefgh"), "a token cannot be an argument"),
        (("history", "--format", "pdf"), '--format: no format "pdf"'),
        (("send", "--bogus"), "--bogus"),
        (("ask",), "TEXT"),
        (("nonsense",), "no such command: nonsense"),
        (("session", "lst"), "no such command: session lst"),
        (("--profil", "x", "send"), "no such option: --profil"),
    ],
)
def test_usage(front: Front, argv: tuple[str, ...], words: str) -> None:
    front("session", "create", "-q")
    assert words in str(check(front(*argv, "-o", "json") if "-o" not in argv else front(*argv), 2, "usage")["message"])
    check_line(front(*argv, tty=True), 2)


def test_an_option_for_a_field_the_api_lacks(front: Front) -> None:
    check(front("session", "create", "--queue", "q1"), 2, "usage.option", "queue")


def test_an_operation_the_api_lacks(front: Front) -> None:
    front("session", "create")
    asked = ("guest", "sync", "--provider", "p", "--email", "a@b.example")
    check(front(*asked), 12, "api.unsupported")


def test_stdin_that_is_not_utf_8(front: Front) -> None:
    front("session", "create")
    check(front("send", "-", stdin=b"caf\xe9"), 2, "usage", "stdin, line 1: not UTF-8")


def test_the_form_of_an_error_follows_the_output(front: Front) -> None:
    assert front("send", "hi").err.startswith("{")
    assert front("send", "hi", "-o", "table").err.startswith("error: ")
    assert front("send", "hi", "-o", "yaml").err.startswith("error: ")
    assert front("send", "hi", tty=True).err.startswith("error: ")
    assert front("send", "hi", "-o", "json", tty=True).err.startswith("{")
    assert front("ask", "hi", "--timeout", "x").err.startswith("error: ")
    assert front("ask", "hi", "--timeout", "x", "-o", "json").err.startswith("{")
    assert front("send", "hi", GUESTCTL_OUTPUT="table").err.startswith("error: ")
    assert front("send", "hi", GUESTCTL_OUTPUT="nonsense").code == 2


def test_an_internal_error_shows_no_values(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    from guestctl.client import Client

    def broken(self: Client) -> None:
        secret = "s3cr3t-in-a-local"
        raise ZeroDivisionError(f"bad {secret}")

    monkeypatch.setattr(Client, "typing", broken)
    found = front("typing")
    assert found.code == 70
    assert "s3cr3t" not in found.err
    assert found.error["code"] == "bug"
    assert "ZeroDivisionError at" in str(found.error["message"])
    debugged = front("typing", "--debug")
    assert "Traceback" in debugged.err
    assert "secret = " not in debugged.err


def test_no_state_stores_nothing(front: Front) -> None:
    assert front("session", "create", "--no-state").code == 0
    check(front("session", "show"), 10, "session.none")
    assert front("ask", "hi", "--no-state").out == "echo: hi\n"


def test_state_that_cannot_be_used(front: Front) -> None:
    blocked = front.cwd / "blocked"
    blocked.write_text("a file, not a folder")
    check(front("session", "list", GUESTCTL_STATE=str(blocked)), 2, "state.unusable")


def _bot() -> Path:
    import tempfile

    file = Path(tempfile.mkdtemp()) / "bot.yaml"
    file.write_text("rules:\n  - match: bye\n    reply: goodbye\n    disconnect: true\n")
    return file


def _profile(front: Front, url: str) -> str:
    file = front.cwd / "dead.yaml"
    file.write_text(f"profiles:\n  only:\n    base_url: {url}\n    deployment_id: d\n")
    return str(file)


def _newest(front: Front) -> str:
    return str(front("sandbox", "sessions").records[-1]["id"])


def _until(true: Callable[[], bool]) -> None:
    import time

    for _ in range(200):
        if true():
            return
        time.sleep(0.02)
    pytest.fail("it never came")
