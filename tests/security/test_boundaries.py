"""Where secrets may be sent, and which connections are accepted, tested through the command line.

Held elsewhere, and not repeated: redirects of requests and upgrades (tests/integration/test_bad_answers.py),
.netrc, cookies, gzip bombs, endless bodies, heads and drips (tests/transport/test_transport_http.py), giant
frames and fragments (test_transport_frames.py), endless upgrade heads (test_transport_socket.py), one proxy and
one CA for REST and socket (test_transport_proxy.py, test_transport_tls.py), YAML bombs (tests/unit/test_strict_yaml.py,
tests/sandbox/test_bot.py), deep JSON (test_wire.py), hostile file names and addresses (test_downloads.py), Host,
Origin and admin key of the sandbox (tests/sandbox/test_server.py, test_admin.py).
"""

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
import requests

from guestctl.config.profiles import load
from guestctl.config.trust import record
from guestctl.core.clock import Deadline
from guestctl.core.errors import UsageError
from guestctl.core.wire import Request
from guestctl.dialects import NAMES, dialect_class
from guestctl.sandbox import CLIENT_ID, DEPLOYMENT_ID
from guestctl.sandbox.server import Sandbox
from guestctl.transport.http import Http
from guestctl.transport.network import Network
from guestctl.transport.stream import Limit
from tests.cli.conftest import Front
from tests.integration.front import Guest, InstantClock
from tests.integration.middle import answer
from tests.security.canaries import Canaries
from tests.security.gateway import Teller

PACKAGE = Path(__file__).parent.parent.parent / "guestctl"


def test_nothing_turns_verification_off() -> None:
    """No option, key or variable turns it off, and only `network` makes a TLS context for the service."""
    makers = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for word in ("CERT_NONE", "_create_unverified", "disable_warnings", "--insecure", "check_hostname = False"):
            assert word not in text, (path, word)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.keyword) and node.arg == "verify":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is True, path
            if isinstance(node, ast.Attribute) and node.attr in {"create_default_context", "SSLContext"}:
                makers.add(path.relative_to(PACKAGE).as_posix())
    # Allowed: the admin client on loopback, the servers of the sandbox, the relay and the proxy, and type names.
    typed = {"transport/network.py", "transport/stream.py", "transport/web_server.py"}
    servers = {"sandbox/serve.py", "cli/commands/relay.py", "cli/commands/proxy.py"}
    assert makers <= {*typed, *servers, "sandbox_tools/admin_client.py"}, makers


def profile(folder: Path, **values: object) -> None:
    content = {"deployment_id": "d", "origin": "https://a.example", **values}
    path = folder / "profiles.yaml"
    path.write_text(json.dumps({"profiles": {"p": content}}))
    record(load(path).digest, {})


@pytest.mark.parametrize("url", ["http://service.invalid", "http://10.255.255.1", "http://[2001:db8::1]:9"])
def test_nothing_is_sent_to_another_machine_without_tls(alone: Front, tmp_path: Path, url: str) -> None:
    """Every command fails with exit code 2. If the profile allows it, each use prints a warning."""
    for words in (("ask", "hi"), ("session", "list"), ("session", "create"), ("profile", "show", "p")):
        profile(tmp_path, base_url=url)
        told = alone("-p", "p", *words, tty=True)
        assert (told.code, told.out) == (2, ""), told.err
        assert [line[:7] for line in told.err.splitlines() if line[0] != " "] == ["error: ", "hint:  "]
        assert "is not encrypted" in " ".join(told.err.split())
        profile(tmp_path, base_url=url, tls={"cleartext": True})
        if words[0] not in {"ask", "session"} or words[1] == "list":
            told = alone("-p", "p", *words, tty=True)
            assert told.code == 0, told.err
            assert "(tls.cleartext)" in " ".join(told.err.split())
    assert "tls.cleartext" in alone("-p", "p", "profile", "show", "p", tty=True).out
    assert alone("explain", "config.cleartext").code == 0


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://[::1]:9", "http://localhost:9", "https://service.invalid"]
)
def test_loopback_and_tls_addresses_are_allowed(alone: Front, tmp_path: Path, url: str) -> None:
    profile(tmp_path, base_url=url)
    told = alone("-p", "p", "session", "list")
    assert told.code == 0
    assert "not encrypted" not in told.err


def test_an_address_from_the_service_cannot_avoid_tls() -> None:
    """Presigned addresses and every other separate request, also through a proxy."""
    for environ in ({}, {"ALL_PROXY": "http://127.0.0.1:9"}):
        network = Network(ca=None, environ=environ)
        http = Http(network, InstantClock(), user_agent="test")
        deadline = Deadline.after(InstantClock(), 5.0)
        with pytest.raises(UsageError) as caught:
            http.perform(Request("PUT", "http://bucket.example/x?sig=canary", "upload"), headers={}, deadline=deadline)
        assert caught.value.code == "config.cleartext"
        assert "canary" not in caught.value.message
        with pytest.raises(UsageError):
            network.open("ws://bucket.example/", Limit(deadline))


def test_another_address_never_gets_a_stored_token(sandbox: Sandbox, tmp_path: Path) -> None:
    """A cloned repository may have a profile with the user's name and values and another address.

    No session exists for that address, so nothing is sent. A new session uses nothing of the old one.
    """
    heard: list[bytes] = []
    canaries = Canaries()

    class Foreign(Teller):
        def serve(self, connection: object) -> None:
            heard.append(connection.recv(65536))  # type: ignore[attr-defined]
            connection.sendall(answer(404, b"{}", "application/json"))  # type: ignore[attr-defined]

    environ = {"GUESTCTL_STATE": str(tmp_path / "state"), "GUESTCTL_PROFILE": "p", "XDG_CONFIG_HOME": str(tmp_path)}
    for api in NAMES:
        mine = {**_own(sandbox), "api": api}
        guest = Guest(api, environ, tmp_path, InstantClock())
        profile(tmp_path, **mine)
        guest.ok("session", "create")
        canaries.remember(tmp_path / "state" / "state.db")
        with Foreign(Canaries()) as foreign:
            rest = {"base_url": foreign.url, "config_url": foreign.url}
            for moved in (rest, {"socket_url": foreign.url.replace("http", "ws")}):
                if "socket_url" in moved and not dialect_class(api).has_socket:
                    continue
                profile(tmp_path, **{**mine, **moved})
                before = len(heard)
                for words in (("send", "hi"), ("resume",), ("history",), ("refresh-token",), ("session", "show")):
                    assert guest(*words).code in {10, 12}, (api, moved, words)
                assert len(heard) == before, (api, moved)
                guest("session", "create", "--timeout", "2")
        profile(tmp_path, **mine)
        guest.ok("send", "still here")
        assert not any(canaries.found(each) for each in heard), api
        heard.clear()


def _own(sandbox: Sandbox) -> dict[str, object]:
    return {
        "base_url": sandbox.url,
        "deployment_id": DEPLOYMENT_ID,
        "origin": "http://localhost",
        "email": "a@b.example",
        "queue": "q",
        "language": "en-US",
        "oauth": {"client_id": CLIENT_ID, "client_secret": sandbox.client_secret},
    }


@pytest.mark.parametrize("how", ["refused", "cut", "page"])
def test_a_proxy_s_password_is_never_shown(how: str, tmp_path: Path) -> None:
    """Every behaviour of the proxy, for requests and sockets."""
    canaries = Canaries(password="pr0xy-pa55word-canary")
    said = b"Basic " + base64.b64encode(b"user:pr0xy-pa55word-canary") + b" user:pr0xy-pa55word-canary"
    replies = {"refused": answer(407, said, "text/plain"), "cut": b"", "page": answer(200, said, "text/html")}

    class Proxy(Teller):
        def serve(self, connection: object) -> None:
            connection.recv(65536)  # type: ignore[attr-defined]
            connection.sendall(replies[how])  # type: ignore[attr-defined]

    trace = tmp_path / "trace.jsonl"
    with Proxy(canaries) as proxy:
        address = proxy.url.replace("http://", "http://user:pr0xy-pa55word-canary@")
        profile(tmp_path, base_url="http://service.invalid", tls={"cleartext": True})
        environ = {"GUESTCTL_STATE": str(tmp_path / "state"), "HTTP_PROXY": address, "GUESTCTL_PROFILE": "p"}
        guest = Guest("web-messaging", {**environ, "GUESTCTL_PROFILES": ""}, tmp_path, InstantClock())
        for words in (("ask", "hi"), ("doctor",), ("session", "create"), ("doctor", "http://service.invalid/api")):
            trace.unlink(missing_ok=True)
            result = guest(*words, "--timeout", "2", "-vv", "--debug", "--trace", str(trace))
            assert result.code != 0
            written = result.out + result.err + trace.read_text()
            assert not canaries.found(written.encode()), (words, written)


def test_no_path_of_a_request_reaches_the_disk(sandbox: Sandbox) -> None:
    import http.client

    for path in ("/../../../../etc/passwd", "/uploads/..%2f..%2fetc%2fpasswd", "/api/v2/downloads/%2e%2e%2fetc/passwd"):
        for method in ("GET", "PUT", "POST", "DELETE"):
            connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=5)
            connection.request(method, path, b"x" if method != "GET" else None)
            reply = connection.getresponse()
            assert reply.status >= 400, (method, path)
            assert b"root:" not in reply.read()
            connection.close()
    tree = [ast.parse(path.read_text()) for path in (PACKAGE / "sandbox" / "apis").rglob("*.py")]
    opened = [
        node for each in tree for node in ast.walk(each) if isinstance(node, ast.Name) and node.id in {"open", "Path"}
    ]
    assert not opened, "a face of the sandbox names files"


@pytest.mark.parametrize("trick", ["none", "None", "other key", "stripped", "RS256 header"])
def test_forged_tokens_are_refused(
    trick: str, sandbox: Sandbox, sandboxed: Callable[[Sandbox], Front], tmp_path: Path
) -> None:
    """`alg: none`, another key, no signature, RS256 in the header of an HS256 token (RFC 8725 §3.1)."""
    front = sandboxed(sandbox)
    given = {"GUESTCTL_API": "guests", "GUESTCTL_OAUTH_CLIENT_SECRET": sandbox.client_secret}
    created = front("session", "create", **given)  # type: ignore[arg-type]
    assert created.code == 0, created.err
    token = json.loads(front("session", "show", "--show-token", "-o", "json", **given).out)["token"]  # type: ignore[arg-type]
    head, body, _ = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False})

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    forged = {
        "none": part({"alg": "none", "typ": "JWT"}) + f".{body}.",
        "None": part({"alg": "None", "typ": "JWT"}) + f".{body}.",
        "other key": jwt.encode(claims, "k" * 32, algorithm="HS256"),
        "stripped": f"{head}.{body}.",
        "RS256 header": part({"alg": "RS256", "typ": "JWT"}) + f".{body}.{token.split('.')[2]}",
    }[trick]
    seen: list[int] = []
    for held, expected in ((token, True), (forged, False)):
        traced = tmp_path / f"trace-{expected}"
        assert front("history", "--trace", str(traced), **given).code == 0  # type: ignore[arg-type]
        asked = next(e for e in map(json.loads, traced.read_text().splitlines()) if e["kind"] == "request")
        reply = requests.get(asked["url"], headers={"Authorization": f"Bearer {held}"}, timeout=5)
        seen.append(reply.status_code)
        assert (reply.status_code == 200) == expected, (reply.status_code, reply.text)
    assert seen[1] in {401, 403}
