"""The inspector's page on the proxy's own port."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from guestctl.core.clock import SystemClock
from guestctl.core.redact import Redactor
from guestctl.inspector.desk import CannotDo
from guestctl.inspector.routes import Inspector
from guestctl.proxy.proxy_controls import ProxyControls
from guestctl.proxy.proxy_server import RecordingProxy
from guestctl.proxy.target import Target
from guestctl.transport.network import Network
from tests.inspector.page import Page
from tests.proxy.conftest import PlainClient, Start, echo
from tests.transport.peers import TEXT, Conn, Peer, answer, serving

SECRET = "5d1f0f0e-7f7c-4a57-9a0e-canary-0815"


@pytest.fixture
def service() -> Iterator[Peer]:
    with serving(echo) as peer:
        yield peer


def made(service: Peer) -> tuple[RecordingProxy, Inspector]:
    """Return a proxy that has not started yet, and its inspector."""
    proxy = RecordingProxy(Target.of_url(service.http), Network(ca=None, environ={}), clock=SystemClock())
    inspector = Inspector(
        source="proxy",
        title="a proxy",
        clock=SystemClock(),
        redactor=Redactor(),
        controls=ProxyControls(proxy, CannotDo),
        port=lambda: proxy.port,
    )
    proxy.mount(inspector.rules, inspector.end)
    proxy.events.add(inspector.observe)
    return proxy, inspector


@pytest.fixture
def shown(service: Peer) -> Iterator[tuple[RecordingProxy, str]]:
    """A proxy with a page, and the page's address."""
    proxy, inspector = made(service)
    with proxy:
        yield proxy, inspector.address(proxy.url)


def test_a_page_shows_what_passes_without_secrets(shown: tuple[RecordingProxy, str]) -> None:
    proxy, address = shown
    with Page(address) as page, PlainClient(proxy) as client:
        hello = page.next()
        assert (hello["source"], hello["can"]) == ("proxy", ["faults"])
        client.upgrade()
        text = b'{"action":"onMessage","token":"%s","message":{"type":"Text","text":"hi"}}' % SECRET.encode()
        client.frame(TEXT, text).receive()
        event = page.until_event(kind="frame_in")
        assert (event["session"], event["socket"]) == ("socket 1", 1)
        assert SECRET not in repr(page.messages)
        proxy.stop()
        assert page.until(lambda message: message["type"] == "gone")


def test_faults_are_switched_on_and_off_in_the_page(shown: tuple[RecordingProxy, str]) -> None:
    proxy, address = shown
    with Page(address) as page, PlainClient(proxy) as client:
        kinds = {kind["kind"] for kind in page.until(lambda message: message["type"] == "faults")["kinds"]}
        assert "drop" in kinds
        assert "lag" not in kinds
        page.do("faults", add=["garbage:times=1"])
        client.upgrade().frame(TEXT, b"hi")
        assert b"not JSON" in client.receive()[1]
        page.until(lambda message: message["type"] == "faults" and message["armed"][0]["fired"] == 1)
        page.do("faults", clear=True)
        assert client.frame(TEXT, b"hi").receive() == (TEXT, b"hi")
        refused = page.post("api/faults", {"add": ["lag"]})
        assert refused.status_code == 422
        assert "only a sandbox" in refused.text
        assert page.post("api/send", {"session": "socket 1", "text": "hi"}).status_code == 404


def test_a_document_of_the_service_gets_an_origin_of_its_own(proxied: Start) -> None:
    """It has the inspector's address, and could read its feed."""

    def script(conn: Conn) -> None:
        for _ in range(2):
            conn.head().send(answer(200, b"<script></script>", b"Content-Type: text/html\r\n"))

    with serving(script) as service:
        proxy, _ = made(service)
        with proxy, PlainClient(proxy) as client:
            for path in (b"/a.html", b"/_host/127.0.0.1:%d/a.html" % service.port):
                _, headers, _ = client.request(b"GET " + path).answer()
                assert headers[b"content-security-policy"].split()[0] == b"sandbox"
                assert b"allow-same-origin" not in headers[b"content-security-policy"]
    with serving(script) as service, PlainClient(proxied(service.http)) as client:
        assert b"content-security-policy" not in client.request(b"GET /a.html").answer()[1]


def test_the_page_needs_its_token_and_no_request_for_it_reaches_the_service(
    shown: tuple[RecordingProxy, str], service: Peer
) -> None:
    proxy, _ = shown
    with PlainClient(proxy) as client:
        client.request(b"POST /_inspector/login", b"Content-Type: application/json", b"Content-Length: 13")
        client.send(b'{"token":"x"}')
        assert client.head()[0].startswith(b"HTTP/1.1 4")
    with PlainClient(proxy) as client:
        client.send(b"GET /_inspector/ HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert client.head()[0].startswith(b"HTTP/1.1 4")
    assert service.accepted == 0
