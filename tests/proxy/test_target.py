"""Which host serves which path, which hosts are reached, and how: certificate authorities, proxies of a company."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guestctl.core.errors import UsageError
from guestctl.core.model import Profile
from guestctl.proxy.target import Target
from tests.proxy.conftest import PlainClient, Start
from tests.transport.authorities import Authority
from tests.transport.peers import TEXT, Conn, answer, header, serving, text
from tests.transport.test_transport_proxy import proxying

REGION = Profile(
    name="staging",
    region="mypurecloud.de",
    deployment_id="d",
    aws_region="eu-central-1",
    org="acme",
    environment="tenant",
)


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/v1?deploymentId=d", "wss://webmessaging.mypurecloud.de/v1?deploymentId=d"),
        ("/webdeployments/v1/deployments/d/config.json", "https://api-cdn.mypurecloud.de/…"),
        ("/api/v2/webmessaging/messages?pageSize=1", "https://api.mypurecloud.de/…"),
        ("/oauth/token", "https://login.mypurecloud.de/…"),
        ("/api/v2/guest/webmessaging/sessions", "https://api.mypurecloud.de/…"),
        (
            "/v2/guest/webmessaging/events?sessionId=s",
            "wss://api.mypurecloud.de/v2/guest/webmessaging/events?sessionId=s",
        ),
        ("/api/v2/conversations/messaging/external-contacts/g/messages", "https://api.mypurecloud.de/…"),
        (
            "/api/v2/conversations/webmessaging/websocket",
            "wss://webchat-eu-central-1.platform.genesys.cloud/api/v2/conversations/webmessaging/websocket",
        ),
        ("/api/v2/messaging/conversations/c/messages", "https://tenant.mygen.com/…"),
        ("/ws", "wss://tenant.mygen.com/ws"),
        ("/api/v2/guests/g/sessions/s/messages", "https://acme.mypurecloud.com/…"),
        ("/api/v2/guests/g/sessions/s/ws", "wss://acme.mypurecloud.com/api/v2/guests/g/sessions/s/ws"),
        ("/anything/else", "https://api.mypurecloud.de/…"),
        ("/_host/apps.mypurecloud.de/x?y", "https://apps.mypurecloud.de/x?y"),
        ("/_host/acme.mypurecloud.com", "https://acme.mypurecloud.com/"),
    ],
)
def test_the_path_chooses_the_host(path: str, url: str) -> None:
    socket = url.startswith("wss:")
    found = Target(REGION).locate(path, socket=socket)
    assert found is not None
    assert found.url(socket=socket) == url.replace("/…", path)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "mypurecloud.de.evil.example",
        "evilmypurecloud.de",
        "api.mypurecloud.de:8443",
        "other.mypurecloud.com",
        "127.0.0.1",
        "localhost:443",
        "169.254.169.254",
    ],
)
def test_other_hosts_are_not_reached(host: str) -> None:
    target = Target(REGION)
    assert target.locate(f"/_host/{host}/x", socket=False) is None
    assert target.through(f"https://{host}/x", "127.0.0.1:1", secure=False) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://bucket.example/x?X-Amz-Signature=1",
        "https://127.0.0.1/x?X-Amz-Signature=1",
        "https://10.0.0.1/x?X-Amz-Signature=1",
        "https://localhost/x?X-Amz-Signature=1",
        "https://bucket.example/x?page=1",
    ],
)
def test_only_presigned_addresses_with_tls_on_public_hosts_are_admitted(url: str) -> None:
    assert not Target(REGION).admit(url)


def test_the_profiles_own_addresses_replace_those_of_the_region() -> None:
    target = Target(
        Profile(
            name="p",
            region="mypurecloud.de",
            base_url="https://gateway.example/genesys/",
            socket_url="wss://sockets.example/own/path",
            config_url="https://cdn.example",
        )
    )
    rest = target.locate("/api/v2/webmessaging/messages", socket=False)
    assert rest is not None
    assert rest.url() == "https://gateway.example/genesys/api/v2/webmessaging/messages"
    socket = target.locate("/v1?deploymentId=d", socket=True)
    assert socket is not None
    assert socket.url(socket=True) == "wss://sockets.example/own/path?deploymentId=d"
    config = target.locate("/webdeployments/v1/deployments/d/config.json", socket=False)
    assert config is not None
    assert config.host == "cdn.example"


def test_one_host_of_a_region_stands_for_all() -> None:
    target = Target.of_url("https://webmessaging.euw2.pure.cloud")
    assert target.name == "https://api.euw2.pure.cloud"
    with pytest.raises(UsageError):
        Target(Profile(name="p"))


def test_addresses_of_every_host_lead_to_the_proxy() -> None:
    target = Target(REGION)

    def through(url: str) -> str | None:
        return target.through(url, "localhost:4010", secure=True)

    assert through("https://api.mypurecloud.de") == "https://localhost:4010"
    assert through("wss://webmessaging.mypurecloud.de/v1") == "wss://localhost:4010/v1"
    assert through("https://api-cdn.mypurecloud.de/webdeployments/v1/x") == "https://localhost:4010/webdeployments/v1/x"
    assert through("https://api-downloads.mypurecloud.de/x?y=1") == (
        "https://localhost:4010/_host/api-downloads.mypurecloud.de/x?y=1"
    )
    assert through("wss://streaming.mypurecloud.de/channels/1") == (
        "wss://localhost:4010/_host/streaming.mypurecloud.de/channels/1"
    )
    found = target.locate("/_host/streaming.mypurecloud.de/channels/1", socket=True)
    assert found is not None
    assert found.url(socket=True) == "wss://streaming.mypurecloud.de/channels/1"


def test_a_real_deployment_is_reached_with_tls_through_a_companys_proxy(proxied: Start, tmp_path: Path) -> None:
    """Two hosts of a region on one port of the proxy, verified with the profile's certificate authority."""
    seen: list[str] = []
    authority = Authority(tmp_path)

    def script(conn: Conn) -> None:
        conn.head()
        if header(conn.request, b"upgrade"):
            conn.send(conn.agreed() + text("hi"))
            conn.goodbye()
            return
        host = header(conn.request, b"host").decode()
        conn.send(answer(200, json.dumps({"host": host}).encode(), b"Content-Type: application/json\r\n"))
        conn.rest()

    with (
        serving(script, context=authority.server("api.mypurecloud.de")) as rest,
        serving(script, context=authority.server("webmessaging.mypurecloud.de")) as sockets,
        serving(proxying(rest.port, seen), proxying(sockets.port, seen)) as company,
    ):
        environ = {"HTTPS_PROXY": f"http://127.0.0.1:{company.port}"}
        proxy = proxied(Target(REGION), environ=environ, ca=str(authority.path))
        with PlainClient(proxy) as client:
            assert json.loads(client.request(b"GET /api/v2/x").answer()[2]) == {"host": "api.mypurecloud.de"}
        with PlainClient(proxy) as client:
            assert client.upgrade().receive() == (TEXT, b"hi")
            client.frame(8, b"")
            client.receive()
    assert [line.split()[1] for line in seen] == ["api.mypurecloud.de:443", "webmessaging.mypurecloud.de:443"]


def test_a_certificate_that_does_not_fit_is_answered_with_502(proxied: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with serving(lambda conn: conn.head(), context=authority.server("other.example")) as service:
        url = f"https://127.0.0.1:{service.port}"
        with PlainClient(proxied(url, ca=str(authority.path))) as client:
            line, _, body = client.request(b"GET /").answer()
    assert line.startswith(b"HTTP/1.1 502 ")
    assert json.loads(body)["code"] == "network.tls"
