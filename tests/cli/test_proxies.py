"""Commands through proxies of every kind: all requests and sockets take the way that the variable names.

Knows: the command line, a sandbox with the hosts of a region, proxies. Must not know: how a connection is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front
from tests.transport.authorities import Authority
from tests.transport.peers import serving
from tests.transport.test_transport_proxy import proxying, socks_proxy

pytest.importorskip("cryptography")
pytest.importorskip("socks")
REGION = "region.example"
HOSTS = {f"{name}.{REGION}:443" for name in ("webmessaging", "api", "api-cdn")}
COMMANDS = (
    ("session", "create"),
    ("ask", "through the proxy"),
    ("listen", "--replay", "2", "--max", "2"),
    ("history",),
)
KINDS = ("http", "https", "socks5h", "socks4a")


@pytest.fixture(scope="module")
def secure() -> Iterator[Sandbox]:
    with running(SandboxOptions(fast=True, tls=True, domain=REGION)) as found:
        yield found


@contextmanager
def proxy(kind: str, port: int, seen: list[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Start a proxy in front of a port. Yield its address with a password, and the file of its certificate."""
    user = "me" if kind == "socks4a" else "me:canary"
    script = socks_proxy(port, seen, user=user) if kind.startswith("socks") else proxying(port, seen, user=user)
    authority = Authority(folder, "proxy")
    context = authority.server("localhost") if kind == "https" else None
    with serving(script, context=context) as peer:
        yield f"{kind}://{user}@localhost:{peer.port}", str(authority.path)


@pytest.fixture
def front(alone: Front, secure: Sandbox, tmp_path: Path) -> Callable[..., Front]:
    """Return commands for a profile that has nothing but the region, so that every host is taken from that."""

    def made(proxy_ca: str, **environ: str) -> Front:
        assert secure.ca is not None
        (tmp_path / "ca.pem").write_bytes(Path(secure.ca).read_bytes() + Path(proxy_ca).read_bytes())
        keys = f"region: {REGION}, deployment_id: {secure.deployment_id}, tls: {{ca: ca.pem}}"
        (alone.cwd / "p.yaml").write_text(f"profiles: {{a: {{{keys}}}}}\n")
        return replace(alone, environ={**alone.environ, **environ})

    return made


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY", "https_proxy"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_command_goes_through_the_proxy(
    front: Callable[..., Front], secure: Sandbox, tmp_path: Path, kind: str, variable: str
) -> None:
    seen: list[str] = []
    trace = tmp_path / "trace"
    with proxy(kind, secure.port, seen, tmp_path) as (address, ca):
        guestctl = front(ca, **{variable: address})
        for argv in COMMANDS:
            result = guestctl(*argv, "--profiles", "p.yaml", "-vv", "--trace-append", str(trace))
            assert result.code == 0, result.err
            assert "canary" not in result.out + result.err
        checked = guestctl("doctor", "--profiles", "p.yaml", "-o", "table")
    assert "connected to the proxy localhost:" in " ".join(checked.out.split())
    assert "canary" not in checked.out + checked.err + trace.read_text()
    assert {line.removeprefix("CONNECT ").removesuffix(" HTTP/1.1") for line in seen} == HOSTS


@pytest.mark.parametrize("kind", ["http", "https", "socks5h"])
def test_a_proxy_that_refuses_the_password_is_named(
    front: Callable[..., Front], secure: Sandbox, tmp_path: Path, kind: str
) -> None:
    with proxy(kind, secure.port, [], tmp_path) as (address, ca):
        guestctl = front(ca, ALL_PROXY=address.replace("canary", "other-canary"))
        result = guestctl("session", "create", "--profiles", "p.yaml", "--timeout", "2")
    assert (result.code, result.error["code"]) == (8, "network.proxy")
    assert "localhost:" in result.error["message"]
    assert "ALL_PROXY" in result.error["hint"]
    assert "canary" not in result.err


def test_a_socks_proxy_and_the_extra_are_named_in_the_help(alone: Front) -> None:
    shown = alone("help", "environment").out
    assert "socks5h" in shown
    assert "guestctl[socks]" in shown


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_variable_names_the_certificate_authorities(alone: Front, secure: Sandbox, variable: str) -> None:
    """Without a proxy: requests and sockets both use them, and doctor names the variable."""
    assert secure.ca is not None
    address = f"base_url: 'https://localhost:{secure.port}', deployment_id: {secure.deployment_id}"
    (alone.cwd / "p.yaml").write_text(f"profiles: {{a: {{{address}}}}}\n")
    trusting = replace(alone, environ={**alone.environ, variable: secure.ca})
    for argv in (*COMMANDS, ("doctor",)):
        result = trusting(*argv, "--profiles", "p.yaml")
        assert result.code == 0, (argv, result.out, result.err)
    assert f"trusted by {variable}" in result.out
    refused = alone("session", "create", "--as", "b", "--profiles", "p.yaml", "--timeout", "2")
    assert (refused.code, refused.error["code"]) == (8, "network.tls")
