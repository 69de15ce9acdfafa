"""WebSockets through the proxy, frame by frame, between a plain client and a scripted service."""

from __future__ import annotations

import json

import pytest

from tests.proxy.conftest import PlainClient, Start, echo
from tests.transport.peers import BINARY, CLOSE, PING, PONG, TEXT, Conn, answer, close, frame, header, serving, text


def test_frames_pass_in_both_directions(proxied: Start) -> None:
    with serving(echo) as service, PlainClient(proxied(service.http)) as client:
        client.upgrade()
        for payload in (b"", b"hi", "é☃".encode(), b"x" * 126, b"y" * 70_000):
            assert client.frame(TEXT, payload).receive() == (TEXT, payload)
        assert client.frame(BINARY, b"\x00\xff").receive() == (BINARY, b"\x00\xff")
        assert client.frame(PING, b"beat").receive() == (PING, b"beat")
        assert client.frame(PONG, b"beat").receive() == (PONG, b"beat")
        assert client.frame(CLOSE, b"\x0f\xa0bye").receive() == (CLOSE, b"\x0f\xa0bye")
        assert client.rest() == b""


def test_the_upgrade_passes_without_extensions(proxied: Start) -> None:
    heads: list[bytes] = []

    def script(conn: Conn) -> None:
        conn.upgrade(extra=b"Sec-WebSocket-Protocol: b\r\nX-Own: 1\r\n")
        heads.append(conn.request)

    with serving(script) as service, PlainClient(proxied(service.http)) as client:
        client.request(
            b"GET /v1?deploymentId=d",
            b"Upgrade: websocket",
            b"Connection: keep-alive, Upgrade",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            b"Sec-WebSocket-Protocol: a, b",
            b"Sec-WebSocket-Extensions: permessage-deflate",
            b"Origin: https://shop.example",
        )
        line, headers = client.head()
    assert line.startswith(b"HTTP/1.1 101 ")
    assert headers[b"sec-websocket-accept"] == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert (headers[b"sec-websocket-protocol"], headers[b"x-own"]) == (b"b", b"1")
    assert header(heads[0], b"sec-websocket-extensions") == b""
    assert header(heads[0], b"origin") == b"https://shop.example"
    assert header(heads[0], b"sec-websocket-protocol") == b"a, b"


def test_a_refused_upgrade_passes(proxied: Start) -> None:
    with (
        serving(lambda conn: conn.head().send(answer(403, b"no", b"Retry-After: 3\r\n"))) as service,
        PlainClient(proxied(service.http)) as client,
    ):
        line, headers, body = client.request(b"GET /v1", b"Upgrade: websocket", b"Connection: Upgrade").answer()
    assert (line, headers[b"retry-after"], body) == (b"HTTP/1.1 403 x", b"3", b"no")


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999, None])
def test_the_services_close_passes(proxied: Start, code: int | None) -> None:
    reason = b"" if code is None else b"because"

    def script(conn: Conn) -> None:
        conn.upgrade(text("last") + close(code, reason))
        assert conn.frame()[0] == CLOSE

    with serving(script) as service, PlainClient(proxied(service.http)) as client:
        client.upgrade()
        assert client.receive() == (TEXT, b"last")
        opcode, payload = client.receive()
        assert (opcode, payload) == (CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)
        client.frame(CLOSE, payload)
        assert client.rest() == b""


@pytest.mark.parametrize("ending", ["end", "reset"])
def test_the_end_of_a_connection_passes_as_it_is(proxied: Start, ending: str) -> None:
    def script(conn: Conn) -> None:
        conn.upgrade(text("hi"))
        if ending == "reset":
            conn.frame()
            conn.reset()

    with serving(script) as service, PlainClient(proxied(service.http)) as client:
        client.upgrade()
        assert client.receive() == (TEXT, b"hi")
        if ending == "reset":
            client.frame(TEXT, b"go")
            with pytest.raises(ConnectionResetError):
                client.rest()
        else:
            assert client.rest() == b""


def test_a_reset_by_the_guest_reaches_the_service(proxied: Start) -> None:
    broken: list[BaseException] = []

    def script(conn: Conn) -> None:
        conn.upgrade(text("hi"))
        try:
            while conn.sock.recv(100):
                pass
        except OSError as error:
            broken.append(error)

    with serving(script) as service:
        with PlainClient(proxied(service.http)) as client:
            client.upgrade()
            assert client.receive() == (TEXT, b"hi")
            client.reset()
        for thread in service._threads:
            thread.join(30)
    assert isinstance(broken[0], ConnectionResetError)


def test_fragments_pass_as_they_are(proxied: Start) -> None:
    def script(conn: Conn) -> None:
        conn.upgrade(frame(TEXT, b"one ", fin=False) + frame(PING, b"p") + frame(0, b"message"))
        assert conn.frame() == (PONG, b"p")
        first, second = conn.read(2)
        assert (first, second & 0x7F) == (TEXT, 3)
        conn.read(4 + 3)
        assert conn.read(1) == b"\x80"

    with serving(script) as service, PlainClient(proxied(service.http)) as client:
        client.upgrade()
        assert client.receive() == (PING, b"p")
        client.frame(PONG, b"p")
        assert client.read(6) == frame(TEXT, b"one ", fin=False)
        assert client.receive() == (0, b"message")
        client.frame(TEXT, b"two", fin=False).frame(0, b"more")
        client.rest()


def test_a_message_that_is_too_large_to_be_read_passes(proxied: Start) -> None:
    large = b"z" * (6 << 20)
    with (
        serving(lambda conn: conn.upgrade(frame(TEXT, large) + text("after")).goodbye()) as service,
        PlainClient(proxied(service.http)) as client,
    ):
        client.upgrade()
        assert client.receive() == (TEXT, large)
        assert client.receive() == (TEXT, b"after")
        client.frame(CLOSE, b"").receive()


def test_addresses_in_frames_lead_to_the_proxy(proxied: Start) -> None:
    def script(conn: Conn) -> None:
        signed = "https://bucket.s3.example/key/1?X-Amz-Signature=abc&x=1"
        own = json.dumps({"class": "PresignedUrlResponse", "body": {"url": service.http + "/up/1", "other": signed}})
        conn.upgrade(text(own) + text(json.dumps({"url": "https://www.example/page"}))).goodbye()

    with serving(script) as service:
        proxy = proxied(service.http)
        with PlainClient(proxy) as client:
            client.upgrade()
            body = json.loads(client.receive()[1])["body"]
            assert body == {
                "url": proxy.url + "/up/1",
                "other": proxy.url + "/_host/bucket.s3.example/key/1?X-Amz-Signature=abc&x=1",
            }
            assert json.loads(client.receive()[1]) == {"url": "https://www.example/page"}
            client.frame(CLOSE, b"").receive()
    assert proxy.target.locate("/_host/bucket.s3.example/key/1?other=2", socket=False) is not None
    assert proxy.target.locate("/_host/bucket.s3.example/key/2", socket=False) is None


def test_a_slow_reader_slows_the_service_down(proxied: Start) -> None:
    """What nobody reads stays in the buffers of the system, and the service notices."""
    sent = 0

    def script(conn: Conn) -> None:
        nonlocal sent
        conn.upgrade()
        conn.sock.settimeout(0.5)
        piece = text("x" * 60_000)
        try:
            while sent < 200 << 20:
                conn.send(piece)
                sent += len(piece)
        except TimeoutError:
            pass
        conn.sock.settimeout(None)
        conn.hold()

    with serving(script) as service, PlainClient(proxied(service.http)) as client:
        client.upgrade()
        for _ in range(600):
            before = sent
            if service._stopping.wait(0.1) or (sent == before and sent):
                break
        assert 0 < sent < 100 << 20


def test_stopping_closes_both_ends(proxied: Start) -> None:
    got: list[tuple[int, bytes]] = []
    with serving(lambda conn: got.append(conn.upgrade().frame())) as service:
        proxy = proxied(service.http)
        with PlainClient(proxy) as client:
            client.upgrade()
            proxy.stop()
            assert client.receive() == (CLOSE, b"\x03\xe9the proxy stops")
            assert client.rest() == b""
        for thread in service._threads:
            thread.join(30)
    assert got == [(CLOSE, b"\x03\xe9Going away")]
