"""The `doctor` command against a sandbox: no failed check, and every failed check provoked over the wire."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from guestctl.cli.invocation import Environment
from guestctl.cli.main import run
from guestctl.core.clock import SystemClock
from guestctl.dialects import NAMES, dialect_class
from guestctl.doctor.checks import CHECKS
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front, Result, Stream
from tests.client_keys import RETURNED
from tests.next_steps import fix_of

Findings = dict[str, dict[str, Any]]


def findings(result: Result) -> Findings:
    """Return the last record of each check."""
    return {record["check"]: record for record in result.records}


def failures(result: Result) -> dict[str, str]:
    """Return the failure code of each failed check; the exit code and the fixes must agree."""
    found = {record["check"]: record["failure"] for record in result.records if record["result"] == "failed"}
    assert result.code == (1 if found else 0)
    assert result.err == ""
    for record in result.records:
        code = record["failure"]
        assert bool(record["fix"]) == bool(code) or record["result"] == "warning"
        # A problem in the profile may have a hint of its own.
        assert code is None or code.startswith("config.") or record["fix"] == fix_of(code)
    return found


@pytest.fixture
def own(sandboxed: Callable[[Sandbox], Front]) -> Iterator[Callable[..., Front]]:
    """Start a sandbox with the given options and return the command line for it."""
    with contextlib.ExitStack() as stack:

        def start(options: SandboxOptions | None = None, **deployment: Any) -> Front:
            if deployment:
                return sandboxed(stack.enter_context(Sandbox(options, fast=True, deployment=deployment)))
            return sandboxed(stack.enter_context(running(options or SandboxOptions(**RETURNED, fast=True))))

        yield start


@pytest.mark.parametrize("api", NAMES)
def test_no_check_fails_on_a_fresh_sandbox(front: Front, api: str) -> None:
    result = front("doctor", GUESTCTL_API=api)
    assert failures(result) == {}
    assert [record["check"] for record in result.records] == list(CHECKS)
    assert front("session", "create", GUESTCTL_API=api).code == 0
    result = front("doctor", GUESTCTL_API=api)
    assert failures(result) == {}
    assert findings(result)["session"]["result"] == "ok"
    assert findings(result)["token"]["result"] == "ok"
    # The session is still usable, also on an API where closing a socket invalidates the token.
    assert front("send", "hello", GUESTCTL_API=api).code == 0


def test_a_terminal_shows_a_mark_for_each_check(front: Front) -> None:
    result = front("doctor", tty=True)
    assert result.code == 0
    assert "\x1b[32m✓\x1b[0m \x1b[32mecho\x1b[0m" in result.out
    lines = re.sub("\x1b\\[[0-9;]*m", "", result.out).splitlines()
    assert [line[0] for line in lines if line[2:6] == "echo"] == ["✓"]
    assert any(line.startswith("– tls") for line in lines)
    assert any(line.startswith("! wrong origin") for line in lines)
    assert not any(line.startswith("✗") for line in lines)


def test_checks_that_an_api_does_not_have_are_one_line(front: Front) -> None:
    result = front("doctor", tty=True, NO_COLOR="1", GUESTCTL_API="webmessaging-conversations")
    assert result.code == 0
    shown, elsewhere = result.out.split("– not on this API      ")
    for check in ("configuration", "attachments", "origin", "upgrade", "configure", "echo", "history token"):
        assert f"\n– {check}" not in shown
        assert check in " ".join(elsewhere.split())
    assert "✓ oauth" in shown


def test_doctor_starts_no_conversation(own: Callable[..., Front]) -> None:
    front = own(auto_start=True)
    assert front("doctor").code == 0
    seen = front("sandbox", "sessions", "-o", "json")
    assert [session["messages"] for session in json.loads(seen.out)] == [[]]
    result = findings(front("doctor"))
    assert "Join" in result["auto-start"]["found"]


def test_profile(alone: Front) -> None:
    result = alone("doctor")
    assert failures(result) == {"profile": "config.profile"}
    lines = alone("doctor", tty=True, NO_COLOR="1").out.splitlines()
    assert lines[0].startswith("✗ profile")
    fix = next(number for number, line in enumerate(lines) if "→ run `guestctl profile add" in line)
    assert all(line.startswith(" " * 23) for line in lines[1 : fix + 1]), "continuation lines are indented"
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "– dns … token          fix the profile first"
    assert failures(alone("doctor", "-p", "none")) == {"profile": "config.profile"}


def test_profile_without_a_required_value(alone: Front) -> None:
    (alone.cwd / "profiles.yaml").write_text("profiles:\n  bare:\n    region: mypurecloud.de\n")
    result = alone("doctor")
    assert failures(result) == {"profile": "config.key"}


def test_state(front: Front, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = front("doctor", GUESTCTL_STATE=str(tmp_path / "file" / "below"))
    assert result.code == 1
    assert findings(result)["state"]["failure"] == "state.unusable"
    assert findings(result)["echo"]["result"] == "ok"


def test_dns(alone: Front) -> None:
    result = alone("doctor", *_at("https://no-such-host.invalid", alone))
    assert findings(result)["dns"]["failure"] == "network.dns"
    assert findings(result)["tcp"]["result"] == "skipped"
    assert result.code == 1


def test_tcp(alone: Front) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        result = alone("doctor", *_at(f"http://127.0.0.1:{taken.getsockname()[1]}", alone))
    network = {check for check, code in failures(result).items() if code.startswith("network.")}
    assert network == {"tcp"}, "one cause is reported once"
    assert findings(result)["tcp"]["found"] == "connection refused"
    assert result.code == 1


def test_a_foreign_web_server(alone: Front) -> None:
    """An HTML page does not mean that the session is gone. The finding has the page's title, on one line."""
    page = "<!DOCTYPE html>\n<html><head><title>Not\n here</title></head><body>" + "no\n" * 50
    with _answering(404, page.encode()) as url:
        text = f"profiles:\n  here:\n    base_url: {url}\n    deployment_id: d\n"
        (alone.cwd / "profiles.yaml").write_text(text)
        result = alone("doctor", "-p", "here")
        created = alone("session", "create", "-p", "here")
    assert failures(result) == {"configuration": "doctor.deployment", "upgrade": "service.not_found"}
    assert findings(result)["upgrade"]["found"] == "HTTP 404: Not here"
    assert created.code == 3
    assert created.error["code"] == "service.not_found"


def test_tls(own: Callable[..., Front]) -> None:
    pytest.importorskip("cryptography")
    front = own(SandboxOptions(fast=True, tls=True))
    result = front("doctor")
    assert failures(result) == {}
    assert "guestctl sandbox CA" in findings(result)["tls"]["found"]
    assert "tls.ca" in findings(result)["tls"]["found"]
    without_ca = front("doctor", GUESTCTL_SANDBOX_CA="", SSL_CERT_FILE="")
    assert findings(without_ca)["tls"]["failure"] == "network.tls"
    assert findings(without_ca)["clock"]["result"] == "skipped"


def test_proxy_refuses(alone: Front) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        proxy = f"http://user:proxy-password@127.0.0.1:{taken.getsockname()[1]}"
        result = alone("doctor", *_at("https://shop.example", alone), HTTPS_PROXY=proxy)
    assert findings(result)["tcp"]["failure"] == "network.proxy"
    assert "proxy-password" not in result.out


def test_clock(front: Front) -> None:
    class Ahead(SystemClock):
        def now(self) -> float:
            return super().now() + 3600

    out = Stream()
    world = Environment(Stream(), out, Stream(), front.environ, front.cwd, Ahead())
    assert run(["doctor"], world) == 1
    found = findings(Result(1, out.text(), ""))
    assert found["clock"]["failure"] == "doctor.clock"
    assert "3600 s ahead" in found["clock"]["found"]


def test_unknown_deployment(front: Front) -> None:
    result = front("doctor", "--deployment-id", "00000000-0000-4000-8000-000000000000")
    found = failures(result)
    assert found == {"configuration": "doctor.deployment", "upgrade": "forbidden.upgrade"}
    assert "explicit deny" in findings(result)["upgrade"]["found"]
    assert findings(result)["upgrade"]["found"].startswith("HTTP 403: ")


@pytest.mark.parametrize(
    ("config", "check", "code"),
    [
        ({"status": "Inactive"}, "configuration", "doctor.inactive"),
        ({"status": "Active", "messenger": {"enabled": False}}, "messenger", "doctor.messenger"),
    ],
)
def test_deployment_switched_off(front: Front, config: dict[str, Any], check: str, code: str) -> None:
    with _published(config) as url:
        text = f"""
profiles:
  shop:
    base_url: {front.environ["GUESTCTL_SANDBOX_URL"]}
    config_url: {url}
    deployment_id: 5a4db0c5-0000-4000-8000-677565737463
"""
        (front.cwd / "profiles.yaml").write_text(text)
        result = front("doctor", "-p", "shop")
    assert failures(result) == {check: code}
    assert findings(result)["end of conversation"]["result"] == "warning"


def test_oauth(front: Front) -> None:
    result = front("doctor", GUESTCTL_API="guests", GUESTCTL_OAUTH_CLIENT_SECRET="wrong-wrong")
    assert failures(result) == {"oauth": "auth.oauth"}
    assert "wrong-wrong" not in result.out


def test_origin(own: Callable[..., Front]) -> None:
    front = own(SandboxOptions(fast=True, origins=("shop.example",)))
    result = front("doctor", "--origin", "https://shop.example")
    assert failures(result) == {}
    assert findings(result)["wrong origin"]["found"] == "refused, as it should be"
    result = front("doctor", "--origin", "https://evil.example")
    assert failures(result) == {"origin": "doctor.origin", "without origin": "doctor.origin"}
    assert findings(result)["upgrade"]["found"].endswith("(see origin)")
    assert findings(result)["origin"]["target"] == "https://evil.example"


def test_profile_without_a_required_origin(own: Callable[..., Front]) -> None:
    front = own(SandboxOptions(fast=True, origins=("shop.example",)))
    text = f"""
profiles:
  shop:
    base_url: {front.environ["GUESTCTL_SANDBOX_URL"]}
    deployment_id: 5a4db0c5-0000-4000-8000-677565737463
"""
    (front.cwd / "profiles.yaml").write_text(text)
    result = front("doctor", "-p", "shop")
    assert failures(result) == {"without origin": "doctor.origin"}
    assert findings(result)["origin"]["found"] == "the profile has none"


def test_upgrade(own: Callable[..., Front]) -> None:
    result = own(SandboxOptions(fast=True, faults=("refuse:status=503",)))("doctor")
    assert failures(result) == {"upgrade": "service.down"}
    assert findings(result)["upgrade"]["found"].startswith("HTTP 503: ")
    assert findings(result)["origin"]["result"] == "skipped"


def test_configure(own: Callable[..., Front]) -> None:
    result = own(SandboxOptions(fast=True, faults=("drop:on=create,code=1011",)))("doctor")
    assert failures(result) == {"configure": "network.lost"}
    assert findings(result)["echo"]["result"] == "skipped"


def test_echo(own: Callable[..., Front]) -> None:
    result = own(SandboxOptions(fast=True, faults=("drop:after=2,code=1006",)))("doctor")
    assert "echo" in failures(result)


def test_history_token(own: Callable[..., Front]) -> None:
    result = own(SandboxOptions(fast=True, faults=("drop:on=refresh,code=1011",)))("doctor")
    assert failures(result) == {"history token": "network.lost"}


def test_expired_session(own: Callable[..., Front]) -> None:
    front = own()
    assert front("session", "create").code == 0
    assert front("send", "hello").code == 0
    assert front("sandbox", "expire").code == 0
    assert failures(front("doctor")) == {"session": "session.expired"}
    # The second run knows that the session has expired: a warning, not a failed check.
    again = front("doctor")
    assert failures(again) == {}
    assert findings(again)["session"]["result"] == "warning"
    assert "guestctl session create" in findings(again)["session"]["fix"]


@pytest.mark.parametrize("api", [name for name in NAMES if dialect_class(name).sends_on_socket])
def test_an_expired_session_whose_history_is_readable(own: Callable[..., Front], api: str) -> None:
    front = own()
    assert front("session", "create", GUESTCTL_API=api).code == 0
    assert front("send", "hello", GUESTCTL_API=api).code == 0
    assert front("sandbox", "expire").code == 0
    result = front("doctor", GUESTCTL_API=api)
    assert findings(result)["session"]["result"] == "failed", "send would fail too"
    assert result.code == 1


def test_expired_token(own: Callable[..., Front]) -> None:
    front = own(SandboxOptions(fast=True, token_life=0.5))
    assert front("session", "create", GUESTCTL_API="guest-sessions").code == 0
    clock = SystemClock()
    clock.sleep(0.6)
    found = failures(front("doctor", GUESTCTL_API="guest-sessions"))
    assert found["token"] == "auth.no_refresh"
    assert found["session"] == "auth.no_refresh"


def test_addresses_as_arguments(front: Front) -> None:
    url = f"{front.environ['GUESTCTL_SANDBOX_URL']}/api/v2/guest/webmessaging/sessions"
    result = front("doctor", url, GUESTCTL_API="guest-sessions")
    assert failures(result) == {}
    assert findings(result)["url"]["found"] == "guest-sessions (create)"
    assert failures(front("doctor", url)) == {"url": "doctor.url"}
    assert failures(front("doctor", url + "s", GUESTCTL_API="guest-sessions")) == {"url": "doctor.url"}
    assert front("doctor", "not a url").code == 2


def test_no_secret_of_the_session_is_shown(front: Front, tmp_path: Path) -> None:
    assert front("session", "create").code == 0
    token = front("session", "show", "--show-token").record["token"]
    result = front("doctor", "-vv", "--trace", str(tmp_path / "trace"))
    assert token not in result.out + result.err + (tmp_path / "trace").read_text()


def _at(url: str, front: Front) -> tuple[str, ...]:
    """Write a profile with this address for an API with one host; return the options that select it."""
    text = f"profiles:\n  here:\n    api: webmessaging-conversations\n    base_url: {url}\n"
    (front.cwd / "profiles.yaml").write_text(text)
    return ("-p", "here", "--profiles", "profiles.yaml", "--timeout", "5")


@contextlib.contextmanager
def _published(config: dict[str, Any]) -> Iterator[str]:
    """Serve one configuration under every path."""
    with _answering(200, json.dumps(config).encode()) as url:
        yield url


@contextlib.contextmanager
def _answering(status: int, body: bytes) -> Iterator[str]:
    """Serve the same answer to every request."""

    class Store(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Store)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_doctor_sends_the_trace_context_of_the_environment(front: Front, tmp_path: Path) -> None:
    front("session", "create")
    context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    def sent(*argv: str, variable: str = "") -> int:
        assert front("doctor", "--trace", str(tmp_path / "trace"), *argv, TRACEPARENT=variable).code == 0
        result = (tmp_path / "trace").read_text()
        (tmp_path / "trace").unlink()
        return result.count(context)

    assert sent(variable=context) == sent("--traceparent", context) > 0
    assert sent(variable=context.replace("00", "ff", 1)) == 0
