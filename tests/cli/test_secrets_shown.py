"""Values that equal a secret, and names that could be a part of one.

Knows: the command line. Must not know: how secrets are masked.
"""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from guestctl.config.regions import domain_of
from guestctl.core.clock import SystemClock
from guestctl.transport.network import Network
from tests.cli.conftest import Front


@pytest.mark.parametrize("secret", ["a-long-secret-of-the-client", "abc"])
@pytest.mark.parametrize("argv", [("profile", "show"), ("doctor",)])
@pytest.mark.parametrize("mode", ["json", "jsonl", "yaml", "table"])
@pytest.mark.parametrize("key", ["attributes: {k: '${S}'}", "queue: '${S}'", "journey_context: {a: [{b: '${S}'}]}"])
def test_a_value_that_equals_the_secret_is_masked(
    alone: Front, secret: str, argv: tuple[str, ...], mode: str, key: str
) -> None:
    api = "web-messaging" if "queue" not in key else "guests"
    (alone.cwd / "p.yaml").write_text(
        f"profiles:\n  a:\n    api: {api}\n    base_url: http://127.0.0.1:9\n    deployment_id: D\n"
        f"    {key}\n    oauth: {{client_id: x, client_secret: '${{S}}'}}\n"
    )
    shown = alone(*argv, "--profiles", "p.yaml", "-o", mode, "--timeout", "1", S=secret)
    text = (shown.out + shown.err).replace("/p.yaml", "")
    assert shown.out
    assert f'"{secret}"' not in text
    assert f"'{secret}'" not in text
    assert f" {secret}\n" not in text


PASSWORDS = ("pa#ss", "p@ss#word", "p/ss", "p?ss", "1#ss", "se@cret/x", "@#", "p@ss")


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
def test_no_part_of_a_proxy_password_is_resolved(
    alone: Front, monkeypatch: pytest.MonkeyPatch, password: str, variable: str
) -> None:
    asked: list[str] = []

    def resolver(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    scheme = "http" if variable == "HTTP_PROXY" else "https"
    (alone.cwd / "p.yaml").write_text(
        f"profiles:\n  a: {{base_url: '{scheme}://service.invalid', deployment_id: d, tls: {{cleartext: true}}}}\n"
    )
    proxy = {variable: f"http://user:{password}@proxy.invalid:3128"}
    failed = alone("session", "create", "--profiles", "p.yaml", "--timeout", "2", "-o", "json", **proxy)  # type: ignore[arg-type]
    assert failed.code in {2, 8}
    assert set(asked) <= {"proxy.invalid"}
    if failed.code == 8:
        assert variable in failed.error["message"]


@pytest.mark.parametrize(
    ("snippet", "domain"),
    [("prod", "mypurecloud.com"), ("prod-euw2", "euw2.pure.cloud"), ("prod-apne1", "mypurecloud.jp"),
     ("prod-apse2", "mypurecloud.com.au"), ("PROD-USW2", "usw2.pure.cloud"), ("prod-euc1", "mypurecloud.de"),
     ("fedramp-use2-core", "use2.us-gov-pure.cloud"), ("prod-sae1", "sae1.pure.cloud")],
)  # fmt: skip
def test_region_names_of_the_deployment_snippet(snippet: str, domain: str) -> None:
    assert domain_of(snippet) == domain


def test_a_certificate_needs_a_name_outside_cn() -> None:
    assert not Network(ca=None, environ={}).ssl_context().hostname_checks_common_name


def test_an_unknown_attachment_is_looked_up_in_history(front: Front) -> None:
    front("session", "create")
    refused = front("download", "no-such-id")
    assert refused.code != 0
    assert "guestctl history" in refused.error["hint"]


def test_an_expired_session_is_not_listed_as_active(front: Front) -> None:
    class Later(SystemClock):
        def now(self) -> float:
            return super().now() + 10 * 365 * 86_400

    front("session", "create")
    assert front("session", "list").record["state"] == "active"
    later = replace(front, clock=Later())
    assert later("session", "list").record["state"] == "expired"
    assert later("session", "show").record["state"] == "expired"
