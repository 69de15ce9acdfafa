"""Requests through the proxy, byte by byte, between a plain client and a scripted service."""

from __future__ import annotations

import gzip
import json
import threading
from typing import Any

import pytest

from tests.proxy.conftest import PATIENCE, PlainClient, Start
from tests.transport.peers import Conn, answer, header, serving


def test_a_request_and_its_answer_pass_unchanged(proxied: Start) -> None:
    got: list[bytes] = []

    def script(conn: Conn) -> None:
        got.append(conn.head().request)
        got.append(conn.body())
        conn.send(
            b"HTTP/1.1 299 Very Well\r\nX-One: 1\r\nX-Two: a, b\r\nX-One: 2\r\nContent-Length: 3\r\n\r\n\x00\xff!"
        )

    with serving(script) as service, PlainClient(proxied(service.http)) as client:
        client.request(b"POST /any/%C3%A9?q=%20x", b"X-B: 2", b"X-A: 1", b"Content-Length: 4", body=b"\x00\x01\x02\xfe")
        line, headers, body = client.answer()
    assert line == b"HTTP/1.1 299 Very Well"
    assert (headers[b"x-two"], body) == (b"a, b", b"\x00\xff!")
    head = got[0].split(b"\r\n")
    assert head[0] == b"POST /any/%C3%A9?q=%20x HTTP/1.1"
    assert head[1] == f"Host: 127.0.0.1:{service.port}".encode()
    assert [one.split(b":")[0] for one in head[2:5]] == [b"X-B", b"X-A", b"Content-Length"]
    assert got[1] == b"\x00\x01\x02\xfe"


def test_a_connection_serves_several_requests_and_so_does_the_one_to_the_service(proxied: Start) -> None:
    def script(conn: Conn) -> None:
        for number in range(3):
            conn.head().send(answer(200, b"%d" % number))

    with serving(script) as service, PlainClient(proxied(service.http)) as client:
        assert [client.request(b"GET /").answer()[2] for _ in range(3)] == [b"0", b"1", b"2"]
        assert service.accepted == 1


def test_a_connection_that_the_service_ends_ends_for_the_client(proxied: Start) -> None:
    with (
        serving(lambda conn: conn.head().send(answer(200, b"once"))) as service,
        PlainClient(proxied(service.http)) as client,
    ):
        assert client.request(b"GET /").answer()[2] == b"once"
        assert client.rest() == b""


@pytest.mark.parametrize("ending", ["end", "reset"])
def test_a_service_that_breaks_off_is_not_hidden_behind_an_answer(proxied: Start, ending: str) -> None:
    def script(conn: Conn) -> None:
        conn.head()
        conn.read(2)  # the end of a connection with unread bytes would be a reset
        if ending == "reset":
            conn.reset()

    with serving(script) as service, PlainClient(proxied(service.http)) as client:
        client.request(b"POST /", b"Content-Length: 2", body=b"hi")
        if ending == "reset":
            with pytest.raises(ConnectionResetError):
                client.rest()
        else:
            assert client.rest() == b""


def test_a_body_that_breaks_off_breaks_off_for_the_client(proxied: Start) -> None:
    def script(conn: Conn) -> None:
        conn.head().send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nhalf").reset()

    with serving(script) as service, PlainClient(proxied(service.http)) as client:
        client.request(b"GET /")
        with pytest.raises(ConnectionResetError):
            client.rest()


def test_a_dead_service_is_answered_with_502_and_the_reason(proxied: Start) -> None:
    with serving(lambda conn: None) as service:
        port = service.port
    with PlainClient(proxied(f"http://127.0.0.1:{port}")) as client:
        line, headers, body = client.request(b"POST /x", b"Content-Length: 2", b"Origin: http://a", body=b"hi").answer()
        assert line.startswith(b"HTTP/1.1 502 ")
        assert headers[b"content-type"] == b"application/json"
        assert headers[b"access-control-allow-origin"] == b"http://a"
        assert json.loads(body) == {
            "message": f"127.0.0.1:{port}: connection refused",
            "code": "network.connect",
            "status": 502,
        }
        client.request(b"GET /v1", b"Upgrade: websocket", b"Connection: Upgrade")
        assert client.answer()[0].startswith(b"HTTP/1.1 502 ")


def test_large_bodies_pass_in_both_directions(proxied: Start) -> None:
    size = 26 << 20
    sent = bytes(range(256)) * (size // 256)

    def script(conn: Conn) -> None:
        conn.head()
        conn.send(answer(200, conn.body()))

    with serving(script) as service, PlainClient(proxied(service.http)) as client:
        client.request(b"PUT /upload", b"Content-Length: %d" % size, body=sent)
        assert client.answer()[2] == sent


def test_a_chunked_request_stays_chunked(proxied: Start) -> None:
    got: list[bytes] = []

    def script(conn: Conn) -> None:
        got.append(conn.head().request)
        while not got[-1].endswith(b"0\r\n\r\n"):
            got.append(got[-1] + conn.read(1))
        conn.send(answer(204))

    for method in (b"POST", b"DELETE"):
        with serving(script) as service, PlainClient(proxied(service.http)) as client:
            client.request(method + b" /", b"Transfer-Encoding: chunked", body=b"2\r\nhi\r\n0\r\n\r\n")
            assert client.head()[0] == b"HTTP/1.1 204 x"
        assert got[-1].endswith(b"2\r\nhi\r\n0\r\n\r\n")


@pytest.mark.parametrize("host", [b"evil.example", b"127.0.0.1", b"localhost:1", b""])
def test_another_host_is_refused(proxied: Start, host: bytes) -> None:
    with serving(lambda conn: None) as service, PlainClient(proxied(service.http)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host)
        assert client.head()[0].startswith(b"HTTP/1.1 4")
        assert service.accepted == 0


@pytest.mark.parametrize(
    "path", [b"/_host/evil.example/x", b"/_host/127.0.0.1:1/x", b"/_host/", b"/_host/[/x", b"/_host/user@h/x"]
)
def test_the_proxy_reaches_no_other_host(proxied: Start, path: bytes) -> None:
    with serving(lambda conn: None) as service, PlainClient(proxied(service.http)) as client:
        line, _, body = client.request(b"GET " + path).answer()
        assert line.startswith(b"HTTP/1.1 403 ")
        assert json.loads(body)["code"] == "proxy.refused"
        assert service.accepted == 0


@pytest.mark.parametrize("target", [b"@%s/", b"x@%s/", b"http://%s/", b"*", b"?x"])
def test_a_request_that_does_not_name_a_path_is_refused(proxied: Start, target: bytes) -> None:
    with serving(lambda conn: None) as service, serving(lambda conn: None) as other:
        proxy = proxied(service.http)
        place = f"127.0.0.1:{other.port}".encode()
        for headers in ((), (b"Connection: Upgrade", b"Upgrade: websocket")):
            with PlainClient(proxy) as client:
                line, _, _ = client.request(b"GET " + target.replace(b"%s", place), *headers).answer()
                assert line == b"HTTP/1.1 400 Bad Request"
        assert service.accepted == other.accepted == 0


@pytest.mark.parametrize(
    "headers",
    [
        (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Content-Length: 5", b"Content-Length: 6"),
        (b"Content-Length: 5", b"Content-Length: 5"),
        (b"Content-Length: +5",),
        (b"Transfer-Encoding: xchunked",),
    ],
)
def test_a_body_without_a_clear_end_is_refused(
    proxied: Start, headers: tuple[bytes, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda conn: None) as service, PlainClient(proxied(service.http)) as client:
        client.request(b"POST /a", *headers, body=b"0\r\n\r\nGET /b HTTP/1.1\r\n\r\n")
        line, _ = client.head()
        assert line == b"HTTP/1.1 400 Bad Request"
        assert service.accepted == 0
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("named", [b"Host", b"Content-Length", b"Transfer-Encoding"])
def test_the_connection_header_cannot_hide_a_second_request_in_a_body(proxied: Start, named: bytes) -> None:
    seen: list[bytes] = []

    def script(conn: Conn) -> None:
        seen.append(conn.head().request)
        conn.send(answer(200, b"{}"))

    hidden = b"GET /hidden HTTP/1.1\r\n\r\n"
    length, body = b"Content-Length: %d" % len(hidden), hidden
    if named == b"Transfer-Encoding":
        length, body = b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(hidden), hidden)
    with serving(script) as service, PlainClient(proxied(service.http)) as client:
        client.request(b"GET /a", b"Connection: keep-alive, " + named, length, body=body).answer()
        assert header(seen[0], b"host") == f"127.0.0.1:{service.port}".encode()
        assert length.lower() in seen[0].lower()


def test_the_origin_passes_and_can_be_replaced(proxied: Start) -> None:
    def script(conn: Conn) -> None:
        origin = header(conn.head().request, b"origin")
        conn.send(answer(200, b"", b"Access-Control-Allow-Origin: " + origin + b"\r\n"))

    with serving(script) as service:
        for given, seen in ((None, b"http://localhost:3000"), ("https://shop.example", b"http://localhost:3000")):
            with PlainClient(proxied(service.http, origin=given)) as client:
                _, headers, _ = client.request(b"GET /", b"Origin: http://localhost:3000").answer()
                assert headers[b"access-control-allow-origin"] == seen
    with (
        serving(lambda conn: conn.send(answer(200, header(conn.head().request, b"origin")))) as service,
        PlainClient(proxied(service.http, origin="https://shop.example")) as client,
    ):
        assert client.request(b"GET /", b"Origin: http://localhost").answer()[2] == b"https://shop.example"


def _respond(value: Any, headers: bytes = b"", encode: Any = None) -> Any:
    def script(conn: Conn) -> None:
        conn.head()
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        conn.send(
            answer(200, body if encode is None else encode(body), b"Content-Type: application/json\r\n" + headers)
        )

    return script


def _configuration(own: str, other: str) -> str:
    return (
        '{ "api" : "OWN",\n "socket":"wsSOCKET/v1", "text": "TEXT/x", "escaped":"ESCAPED\\/y", "list": ["OWN/z", 1.50],'
        ' "other": "OTHER", "é": "\\u00e9"}'.replace("OWN", own)
        .replace("SOCKET", own[4:])
        .replace("ESCAPED", own.replace("/", "\\/"))
        .replace("OTHER", other)
    )


def test_addresses_of_the_target_lead_to_the_proxy(proxied: Start) -> None:
    with serving(lambda conn: None) as other:
        elsewhere = other.http

    def script(conn: Conn) -> None:
        _respond(_configuration(service.http, elsewhere).replace("TEXT", service.http).encode())(conn)

    with serving(script) as service:
        proxy = proxied(service.http)
        with PlainClient(proxy) as client:
            body = client.request(b"GET /webdeployments/v1/deployments/d/config.json").answer()[2].decode()
    assert body == _configuration(proxy.url, elsewhere).replace("TEXT", service.http)


def test_a_compressed_answer_is_rewritten_only_if_it_has_addresses(proxied: Start) -> None:
    plain = gzip.compress(b'{"a": 1}')
    with (
        serving(_respond(plain, b"Content-Encoding: gzip\r\n")) as service,
        PlainClient(proxied(service.http)) as client,
    ):
        _, headers, body = client.request(b"GET /", b"Accept-Encoding: br, gzip").answer()
        assert (headers[b"content-encoding"], body) == (b"gzip", plain)

    def script(conn: Conn) -> None:
        _respond({"a": service.http + "/x"}, b"Content-Encoding: gzip\r\n", gzip.compress)(conn)
        assert header(conn.request, b"accept-encoding") == b"gzip"

    with serving(script) as service:
        proxy = proxied(service.http)
        with PlainClient(proxy) as client:
            _, headers, body = client.request(b"GET /", b"Accept-Encoding: br, gzip").answer()
            assert b"content-encoding" not in headers
            assert json.loads(body) == {"a": proxy.url + "/x"}


def test_redirects_and_cookies_fit_the_proxy(proxied: Start) -> None:
    def script(conn: Conn) -> None:
        conn.head().send(
            answer(
                302,
                b"",
                b"Location: " + service.http.encode() + b"/next?a=1\r\n"
                b"Set-Cookie: a=1; Domain=.mypurecloud.de; Path=/x; Secure; SameSite=None; HttpOnly\r\n",
            )
        )

    with serving(script) as service:
        proxy = proxied(service.http)
        with PlainClient(proxy) as client:
            line, headers, _ = client.request(b"GET /").answer()
    assert line.startswith(b"HTTP/1.1 302 ")
    assert headers[b"location"] == proxy.url.encode() + b"/next?a=1"
    assert headers[b"set-cookie"] == b"a=1; Path=/x; HttpOnly"


def test_an_answer_before_the_end_of_the_request_arrives(proxied: Start) -> None:
    def script(conn: Conn) -> None:
        conn.head().send(answer(413, b"too much"))
        conn.rest()

    with serving(script) as service, PlainClient(proxied(service.http)) as client:
        client.request(b"PUT /", b"Content-Length: 1000000", body=b"x" * 1000)
        line, _, body = client.answer()
        assert (line, body) == (b"HTTP/1.1 413 x", b"too much")


def test_a_client_that_leaves_ends_the_request_at_the_service(proxied: Start) -> None:
    ended: list[bytes] = []
    arrived = threading.Event()

    def script(conn: Conn) -> None:
        conn.head()
        arrived.set()
        ended.append(conn.rest())

    with serving(script) as service:
        with PlainClient(proxied(service.http)) as client:
            client.request(b"GET /slow")
            assert arrived.wait(PATIENCE)
        for thread in service._threads:
            thread.join(PATIENCE)
    assert ended == [b""]


def test_head_and_204_and_304_have_no_body(proxied: Start) -> None:
    def script(conn: Conn) -> None:
        conn.head().send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: application/json\r\n\r\n")
        conn.head().send(b"HTTP/1.1 204 No Content\r\n\r\n")
        conn.head().send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n")
        conn.head().send(answer(200, b"end"))

    with serving(script) as service, PlainClient(proxied(service.http)) as client:
        assert client.request(b"HEAD /").head()[1][b"content-length"] == b"5"
        assert client.request(b"GET /").head()[0] == b"HTTP/1.1 204 No Content"
        assert client.request(b"GET /").head()[0] == b"HTTP/1.1 304 Not Modified"
        assert client.request(b"GET /").answer()[2] == b"end"
