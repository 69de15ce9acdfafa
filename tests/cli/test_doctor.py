"""`doctor` through the front door: all green, and every red provoked over the wire."""

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
from tests.next_steps import fix_of

Findings = dict[str, dict[str, Any]]


def findings(result: Result) -> Findings:
    """The last line of each check."""
    return {record["check"]: record for record in result.records}


def reds(result: Result) -> dict[str, str]:
    """Check -> failure code of what is red; the exit code and the fixes must agree."""
    found = {record["check"]: record["failure"] for record in result.records if record["result"] == "failed"}
    assert result.code == (1 if found else 0)
    assert result.err == ""
    for record in result.records:
        code = record["failure"]
        assert bool(record["fix"]) == bool(code) or record["result"] == "warning"
        # What is wrong with the profile may name the very words to type.
        assert code is None or code.startswith("config.") or record["fix"] == fix_of(code)
    return found


@pytest.fixture
def own(sandboxed: Callable[[Sandbox], Front]) -> Iterator[Callable[..., Front]]:
    """The front door to a sandbox of this test's own making."""
    with contextlib.ExitStack() as stack:

        def start(options: SandboxOptions | None = None, **deployment: Any) -> Front:
            if deployment:
                return sandboxed(stack.enter_context(Sandbox(options, fast=True, deployment=deployment)))
            return sandboxed(stack.enter_context(running(options or SandboxOptions(fast=True))))

        yield start


@pytest.mark.parametrize("api", NAMES)
def test_nothing_is_wrong_with_a_fresh_sandbox(front: Front, api: str) -> None:
    told = front("doctor", GUESTCTL_API=api)
    assert reds(told) == {}
    assert [record["check"] for record in told.records] == list(CHECKS)
    assert front("session", "create", GUESTCTL_API=api).code == 0
    told = front("doctor", GUESTCTL_API=api)
    assert reds(told) == {}
    assert findings(told)["session"]["result"] == "ok"
    assert findings(told)["token"]["result"] == "ok"
    # The session is as usable as before, also where a socket's close spoils a token.
    assert front("send", "hello", GUESTCTL_API=api).code == 0


def test_for_a_person(front: Front) -> None:
    told = front("doctor", tty=True)
    assert told.code == 0
    assert "\x1b[32m✓ echo" in told.out
    lines = re.sub("\x1b\\[[0-9;]*m", "", told.out).splitlines()
    assert [line[0] for line in lines if line[2:6] == "echo"] == ["✓"]
    assert any(line.startswith("– tls") for line in lines)
    assert any(line.startswith("! wrong origin") for line in lines)
    assert not any(line.startswith("✗") for line in lines)


def test_what_an_api_has_nothing_of_is_said_once(front: Front) -> None:
    told = front("doctor", tty=True, NO_COLOR="1", GUESTCTL_API="webmessaging-conversations")
    assert told.code == 0
    shown, elsewhere = told.out.split("– not on this API      ")
    for check in ("configuration", "attachments", "origin", "upgrade", "configure", "echo", "history token"):
        assert f"\n– {check}" not in shown
        assert check in " ".join(elsewhere.split())
    assert "✓ oauth" in shown


def test_it_begins_no_conversation(own: Callable[..., Front]) -> None:
    front = own(auto_start=True)
    assert front("doctor").code == 0
    seen = front("sandbox", "sessions", "-o", "json")
    assert [session["messages"] for session in json.loads(seen.out)] == [[]]
    told = findings(front("doctor"))
    assert "Join" in told["auto-start"]["found"]


def test_profile(alone: Front) -> None:
    told = alone("doctor")
    assert reds(told) == {"profile": "config.profile"}
    lines = alone("doctor", tty=True, NO_COLOR="1").out.splitlines()
    assert lines[0].startswith("✗ profile")
    fix = next(number for number, line in enumerate(lines) if "→ Add one with `guestctl profile add" in line)
    assert all(line.startswith(" " * 23) for line in lines[1 : fix + 1]), "folded under its own column"
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "– dns … token          the profile has to be mended first"
    assert reds(alone("doctor", "-p", "none")) == {"profile": "config.profile"}


def test_profile_without_what_its_api_needs(alone: Front) -> None:
    (alone.cwd / "profiles.yaml").write_text("profiles:\n  bare:\n    region: mypurecloud.de\n")
    told = alone("doctor")
    assert reds(told) == {"profile": "config.key"}


def test_state(front: Front, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = front("doctor", GUESTCTL_STATE=str(tmp_path / "file" / "below"))
    assert told.code == 1
    assert findings(told)["state"]["failure"] == "state.unusable"
    assert findings(told)["echo"]["result"] == "ok"


def test_dns(alone: Front) -> None:
    told = alone("doctor", *_at("https://no-such-host.invalid", alone))
    assert findings(told)["dns"]["failure"] == "network.dns"
    assert findings(told)["tcp"]["result"] == "skipped"
    assert told.code == 1


def test_tcp(alone: Front) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        told = alone("doctor", *_at(f"http://127.0.0.1:{taken.getsockname()[1]}", alone))
    network = {check for check, code in reds(told).items() if code.startswith("network.")}
    assert network == {"tcp"}, "one cause, told once"
    assert findings(told)["tcp"]["found"] == "connection refused"
    assert told.code == 1


def test_a_server_of_somebody_else(alone: Front) -> None:
    """What answers with pages is no session that has gone; of a page, its title is told, on one line."""
    page = "<!DOCTYPE html>\n<html><head><title>Not\n here</title></head><body>" + "no\n" * 50
    with _answering(404, page.encode()) as url:
        text = f"profiles:\n  here:\n    base_url: {url}\n    deployment_id: d\n"
        (alone.cwd / "profiles.yaml").write_text(text)
        told = alone("doctor", "-p", "here")
        created = alone("session", "create", "-p", "here")
    assert reds(told) == {"configuration": "doctor.deployment", "upgrade": "service.not_found"}
    assert findings(told)["upgrade"]["found"] == "HTTP 404: Not here"
    assert created.code == 3
    assert created.error["code"] == "service.not_found"


def test_tls(own: Callable[..., Front]) -> None:
    pytest.importorskip("cryptography")
    front = own(SandboxOptions(fast=True, tls=True))
    told = front("doctor")
    assert reds(told) == {}
    assert "guestctl sandbox CA" in findings(told)["tls"]["found"]
    assert "tls.ca" in findings(told)["tls"]["found"]
    stranger = front("doctor", GUESTCTL_SANDBOX_CA="", SSL_CERT_FILE="")
    assert findings(stranger)["tls"]["failure"] == "network.tls"
    assert findings(stranger)["clock"]["result"] == "skipped"


def test_proxy_in_the_way(alone: Front) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        proxy = f"http://user:hidden-word@127.0.0.1:{taken.getsockname()[1]}"
        told = alone("doctor", *_at("https://shop.example", alone), HTTPS_PROXY=proxy)
    assert findings(told)["tcp"]["failure"] == "network.proxy"
    assert "hidden-word" not in told.out


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


def test_deployment_that_does_not_exist(front: Front) -> None:
    told = front("doctor", "--deployment-id", "00000000-0000-4000-8000-000000000000")
    found = reds(told)
    assert found == {"configuration": "doctor.deployment", "upgrade": "forbidden.upgrade"}
    assert "explicit deny" in findings(told)["upgrade"]["found"]
    assert findings(told)["upgrade"]["found"].startswith("HTTP 403: ")


@pytest.mark.parametrize(
    ("config", "check", "code"),
    [
        ({"status": "Inactive"}, "configuration", "doctor.inactive"),
        ({"status": "Active", "messenger": {"enabled": False}}, "messenger", "doctor.messenger"),
    ],
)
def test_deployment_that_is_off(front: Front, config: dict[str, Any], check: str, code: str) -> None:
    with _published(config) as url:
        text = f"""
profiles:
  shop:
    base_url: {front.environ["GUESTCTL_SANDBOX_URL"]}
    config_url: {url}
    deployment_id: 5a4db0c5-0000-4000-8000-677565737463
"""
        (front.cwd / "profiles.yaml").write_text(text)
        told = front("doctor", "-p", "shop")
    assert reds(told) == {check: code}
    assert findings(told)["end of conversation"]["result"] == "warning"


def test_oauth(front: Front) -> None:
    told = front("doctor", GUESTCTL_API="guests", GUESTCTL_OAUTH_CLIENT_SECRET="wrong-wrong")
    assert reds(told) == {"oauth": "auth.oauth"}
    assert "wrong-wrong" not in told.out


def test_origin(own: Callable[..., Front]) -> None:
    front = own(SandboxOptions(fast=True, origins=("shop.example",)))
    told = front("doctor", "--origin", "https://shop.example")
    assert reds(told) == {}
    assert findings(told)["wrong origin"]["found"] == "refused, as it should be"
    told = front("doctor", "--origin", "https://evil.example")
    assert reds(told) == {"origin": "doctor.origin", "without origin": "doctor.origin"}
    assert findings(told)["upgrade"]["found"].endswith("(see origin)")
    assert findings(told)["origin"]["target"] == "https://evil.example"


def test_without_an_origin_where_one_is_wanted(own: Callable[..., Front]) -> None:
    front = own(SandboxOptions(fast=True, origins=("shop.example",)))
    text = f"""
profiles:
  shop:
    base_url: {front.environ["GUESTCTL_SANDBOX_URL"]}
    deployment_id: 5a4db0c5-0000-4000-8000-677565737463
"""
    (front.cwd / "profiles.yaml").write_text(text)
    told = front("doctor", "-p", "shop")
    assert reds(told) == {"without origin": "doctor.origin"}
    assert findings(told)["origin"]["found"] == "the profile has none"


def test_upgrade(own: Callable[..., Front]) -> None:
    told = own(SandboxOptions(fast=True, faults=("refuse:status=503",)))("doctor")
    assert reds(told) == {"upgrade": "service.down"}
    assert findings(told)["upgrade"]["found"].startswith("HTTP 503: ")
    assert findings(told)["origin"]["result"] == "skipped"


def test_configure(own: Callable[..., Front]) -> None:
    told = own(SandboxOptions(fast=True, faults=("drop:on=create,code=1011",)))("doctor")
    assert reds(told) == {"configure": "network.lost"}
    assert findings(told)["echo"]["result"] == "skipped"


def test_echo(own: Callable[..., Front]) -> None:
    told = own(SandboxOptions(fast=True, faults=("drop:after=2,code=1006",)))("doctor")
    assert "echo" in reds(told)


def test_history_token(own: Callable[..., Front]) -> None:
    told = own(SandboxOptions(fast=True, faults=("drop:on=refresh,code=1011",)))("doctor")
    assert reds(told) == {"history token": "network.lost"}


def test_session_that_expired(own: Callable[..., Front]) -> None:
    front = own()
    assert front("session", "create").code == 0
    assert front("send", "hello").code == 0
    assert front("sandbox", "expire").code == 0
    assert reds(front("doctor")) == {"session": "session.expired"}
    # What is known to be over is no news.
    again = front("doctor")
    assert reds(again) == {}
    assert findings(again)["session"]["result"] == "warning"
    assert "guestctl session create" in findings(again)["session"]["fix"]


@pytest.mark.parametrize("api", [name for name in NAMES if dialect_class(name).sends_on_socket])
def test_a_session_whose_history_outlives_it(own: Callable[..., Front], api: str) -> None:
    front = own()
    assert front("session", "create", GUESTCTL_API=api).code == 0
    assert front("send", "hello", GUESTCTL_API=api).code == 0
    assert front("sandbox", "expire").code == 0
    told = front("doctor", GUESTCTL_API=api)
    assert findings(told)["session"]["result"] == "failed", "as `send` would find out"
    assert told.code == 1


def test_token_that_expired(own: Callable[..., Front]) -> None:
    front = own(SandboxOptions(fast=True, token_life=0.5))
    assert front("session", "create", GUESTCTL_API="guest-sessions").code == 0
    clock = SystemClock()
    clock.sleep(0.6)
    found = reds(front("doctor", GUESTCTL_API="guest-sessions"))
    assert found["token"] == "auth.no_refresh"
    assert found["session"] == "auth.no_refresh"


def test_an_address_is_placed(front: Front) -> None:
    url = f"{front.environ['GUESTCTL_SANDBOX_URL']}/api/v2/guest/webmessaging/sessions"
    told = front("doctor", url, GUESTCTL_API="guest-sessions")
    assert reds(told) == {}
    assert findings(told)["url"]["found"] == "guest-sessions (create)"
    assert reds(front("doctor", url)) == {"url": "doctor.url"}
    assert reds(front("doctor", url + "s", GUESTCTL_API="guest-sessions")) == {"url": "doctor.url"}
    assert front("doctor", "not a url").code == 2


def test_no_secret_of_the_session_is_shown(front: Front, tmp_path: Path) -> None:
    assert front("session", "create").code == 0
    token = front("session", "show", "--show-token").record["token"]
    told = front("doctor", "-vv", "--trace", str(tmp_path / "trace"))
    assert token not in told.out + told.err + (tmp_path / "trace").read_text()


def _at(url: str, front: Front) -> tuple[str, ...]:
    """A profile at an address, of an API with one host."""
    text = f"profiles:\n  here:\n    api: webmessaging-conversations\n    base_url: {url}\n"
    (front.cwd / "profiles.yaml").write_text(text)
    return ("-p", "here", "--timeout", "5")


@contextlib.contextmanager
def _published(config: dict[str, Any]) -> Iterator[str]:
    """A store that publishes one configuration under any address."""
    with _answering(200, json.dumps(config).encode()) as url:
        yield url


@contextlib.contextmanager
def _answering(status: int, body: bytes) -> Iterator[str]:
    """A server that says the same to everybody."""

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


def test_the_trace_context_of_the_environment_goes_along(front: Front, tmp_path: Path) -> None:
    front("session", "create")
    context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    def sent(*argv: str, variable: str = "") -> int:
        assert front("doctor", "--trace", str(tmp_path / "trace"), *argv, TRACEPARENT=variable).code == 0
        told = (tmp_path / "trace").read_text()
        (tmp_path / "trace").unlink()
        return told.count(context)

    assert sent(variable=context) == sent("--traceparent", context) > 0
    assert sent(variable=context.replace("00", "ff", 1)) == 0
