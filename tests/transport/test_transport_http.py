"""HTTP against raw peers: exact requests, bounded answers, and failures that tell what they prove."""

from __future__ import annotations

import gzip
import logging
import re
import socket as sockets
import threading
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from guestctl.core.clock import Deadline, SystemClock
from guestctl.core.errors import NetworkError, Unreadable, UsageError
from guestctl.core.wire import HttpResponse, Request
from guestctl.transport.http import MAX_BODY, Http
from guestctl.transport.network import Network
from guestctl.transport.stream import Limit, Stream
from tests.transport.authorities import Authority
from tests.transport.peers import Conn, Peer, Script, answer, header, serving

CLOCK = SystemClock()
PATIENCE = 60.0
PLACE = r"127\.0\.0\.1:\d+"
TOKEN = {"Authorization": "Bearer canary-7f3a"}


def soon(seconds: float = PATIENCE) -> Deadline:
    return Deadline.after(CLOCK, seconds)


def client(**more: Any) -> Http:
    return Http(Network(ca=None, environ={}, cleartext=True), CLOCK, user_agent="guestctl/test", **more)


def get(peer: Peer, path: str = "/", **more: Any) -> Request:
    return Request("GET", peer.http + path, "history", **more)


def once(script: Script, request: Mapping[str, Any] | None = None, *, seconds: float = PATIENCE) -> HttpResponse:
    """One GET (or the request described) to a peer that plays the script."""
    http = client()
    try:
        with serving(script) as peer:
            described: dict[str, Any] = {"method": "GET", "url": peer.http + "/", "route": "history"}
            return http.perform(Request(**(described | dict(request or {}))), headers=TOKEN, deadline=soon(seconds))
    finally:
        http.close()


def replying(data: bytes) -> Script:
    return lambda conn: conn.head().send(data)


# --- requests ---


def test_a_get_sends_only_necessary_headers() -> None:
    def script(conn: Conn) -> None:
        lines = conn.head().request.split(b"\r\n")
        assert lines[0] == b"GET / HTTP/1.1"
        assert sorted(line.partition(b":")[0].lower() for line in lines[1:] if line) == [
            b"accept",
            b"accept-encoding",
            b"authorization",
            b"host",
            b"user-agent",
        ]
        assert header(conn.request, b"accept") == b"application/json"
        assert header(conn.request, b"user-agent") == b"guestctl/test"
        assert header(conn.request, b"authorization") == TOKEN["Authorization"].encode()
        conn.send(answer(200, b"{}", b"X-Two: a\r\nX-Two: b\r\n"))

    reply = once(script)
    assert (reply.status, reply.body) == (200, b"{}")
    assert reply.headers["x-two"] == "a, b"


@pytest.mark.parametrize(
    ("body", "kind", "sent"),
    [
        ({"json": {"text": "hé", "n": 1}}, b"application/json", '{"text":"hé","n":1}'.encode()),
        ({"json": []}, b"application/json", b"[]"),
        (
            {"form": {"grant_type": "x y", "b": "é&"}},
            b"application/x-www-form-urlencoded",
            b"grant_type=x+y&b=%C3%A9%26",
        ),
        ({"content": b"\x00\xff", "headers": {"Content-Type": "image/png"}}, b"image/png", b"\x00\xff"),
        ({"content": b""}, b"", b""),
        ({"json": {}, "headers": {"content-type": "application/x"}}, b"application/x", b"{}"),
    ],
)
def test_bodies(body: dict[str, Any], kind: bytes, sent: bytes) -> None:
    def script(conn: Conn) -> None:
        conn.head()
        assert header(conn.request, b"content-type") == kind
        assert header(conn.request, b"content-length") == str(len(sent)).encode()
        assert conn.body() == sent
        conn.send(answer(200))

    assert once(script, {"method": "PUT", **body}).status == 200


def test_given_headers_win() -> None:
    def script(conn: Conn) -> None:
        conn.head()
        assert header(conn.request, b"accept") == b"text/plain"
        assert header(conn.request, b"x-one") == b"request"
        assert conn.request.lower().count(b"\r\nauthorization:") == 1
        conn.send(answer(200))

    told: list[Mapping[str, Any]] = []
    http = client(observer=lambda _, data: told.append(data))
    given = {"ACCEPT": "text/plain", "X-One": "request", "authorization": "replaced"}
    with serving(script) as peer:
        http.perform(get(peer, headers=given), headers=TOKEN, deadline=soon())
    http.close()
    alone = {"User-Agent": "guestctl/test", "Accept-Encoding": "gzip"}
    assert told[0]["headers"] == {**alone, "ACCEPT": "text/plain", "X-One": "request", **TOKEN}


def test_queries_are_encoded_and_added() -> None:
    def script(conn: Conn) -> None:
        assert conn.head().request.startswith(b"GET /x?a=1&q=a%20b%26%C3%A9 HTTP/1.1\r\n")
        conn.send(answer(200))

    http = client()
    with serving(script) as peer:
        reply = http.perform(get(peer, "/x?a=1", query={"q": "a b&é"}), headers={}, deadline=soon())
        assert reply.url == peer.http + "/x", "the query may be a secret"
    http.close()


@pytest.mark.parametrize("path", ["/x", "/x?a", "/x#part?a#b?c", "/x?a?b"])
def test_a_response_keeps_its_address_without_the_query(path: str) -> None:
    http = client()
    with serving(replying(answer(200))) as peer:
        assert http.perform(get(peer, path), headers={}, deadline=soon()).url == peer.http + "/x"
    http.close()


def test_uploads_report_progress() -> None:
    content = bytes(range(256)) * 400

    def script(conn: Conn) -> None:
        assert conn.head().body() == content
        conn.send(answer(201))

    seen: list[tuple[int, int]] = []
    http = client()
    with serving(script) as peer:
        upload = Request("PUT", peer.http, "upload", content=content)
        http.perform(upload, headers={}, deadline=soon(), progress=lambda done, total: seen.append((done, total)))
    http.close()
    assert seen[-1] == (len(content), len(content))
    assert seen == sorted(seen)
    assert len(seen) > 1


def test_netrc_and_the_urls_user_never_replace_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login eve password x\ndefault login eve password x\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    def script(conn: Conn) -> None:
        for _ in range(2):
            conn.head()
            assert header(conn.request, b"authorization") == TOKEN["Authorization"].encode()
            conn.send(answer(200))

    http = client()
    with serving(script) as peer:
        http.perform(get(peer), headers=TOKEN, deadline=soon())
        with_user = Request("GET", f"http://user:pw@127.0.0.1:{peer.port}/", "history")
        http.perform(with_user, headers=TOKEN, deadline=soon())
    http.close()


def test_connections_are_kept_and_cookies_are_not() -> None:
    def script(conn: Conn) -> None:
        for _ in range(3):
            conn.head()
            assert header(conn.request, b"cookie") == b""
            conn.send(answer(200, b"{}", b"Set-Cookie: sid=canary; Path=/\r\n"))

    http = client()
    with serving(script) as peer:
        for _ in range(3):
            http.perform(get(peer), headers={}, deadline=soon())
        assert peer.accepted == 1
    assert not http._session.cookies, "nor are they remembered"
    http.close()
    http.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer(status: int) -> None:
    with serving(lambda conn: conn.head()) as elsewhere:
        reply = once(replying(answer(status, b"moved", f"Location: {elsewhere.http}\r\n".encode())))
        assert (reply.status, reply.body) == (status, b"moved")
        assert elsewhere.accepted == 0


def test_a_redirects_body_is_bounded_too() -> None:
    bomb = gzip.compress(bytes(MAX_BODY * 2))
    with pytest.raises(Unreadable):
        once(replying(answer(302, bomb, b"Location: /x\r\nContent-Encoding: gzip\r\n")))


@pytest.mark.parametrize("status", [204, 304, 400, 401, 403, 404, 409, 429, 500, 503])
def test_every_status_is_an_answer(status: int) -> None:
    assert once(replying(answer(status, b"", b"Retry-After: 3\r\n"))).headers["retry-after"] == "3"


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "http://", "http://[::1", "http://host:port/", "nonsense", "http://a b/"]
)
def test_an_address_that_cannot_be_called(url: str) -> None:
    http = client()
    with pytest.raises((UsageError, NetworkError)) as caught:
        http.perform(Request("GET", url, "history", query={"secret": "canary"}), headers=TOKEN, deadline=soon())
    assert "canary" not in caught.value.message
    http.close()


def test_an_address_that_only_requests_refuses() -> None:
    http = client()
    with pytest.raises(UsageError) as caught:
        http.perform(Request("GET", "http://*.example/?t=canary", "history"), headers=TOKEN, deadline=soon())
    assert caught.value.message == "a GET request to this address cannot be sent (InvalidURL)"
    http.close()


def test_values_that_cannot_be_sent_are_not_shown() -> None:
    http = client()
    for value in ("Bearer canary\r\nX: y", "Bearer canary\n", "canáry"):
        with pytest.raises(UsageError) as caught:
            http.perform(
                Request("GET", "http://127.0.0.1:1", "history"), headers={"Authorization": value}, deadline=soon()
            )
        assert caught.value.code == "auth.secret"
        assert "canar" not in caught.value.message
    with pytest.raises(UsageError, match=r"^the text has half of a surrogate pair"):
        http.perform(Request("POST", "http://127.0.0.1:1", "send", json={"t": "\ud800"}), headers={}, deadline=soon())
    http.close()


# --- answers ---


@pytest.mark.parametrize("split", ["length", "chunked", "until close"])
def test_bodies_of_every_framing_in_one_byte_segments(split: str) -> None:
    head = b"HTTP/1.1 200 x\r\n"
    data = {
        "length": head + b"Content-Length: 5\r\n\r\nhello",
        "chunked": head + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "until close": head + b"\r\nhello",
    }[split]

    def script(conn: Conn) -> None:
        conn.head().drip(data)

    assert once(script).body == b"hello"


def test_gzip_bodies_are_decompressed() -> None:
    assert once(replying(answer(200, gzip.compress(b"{}"), b"Content-Encoding: gzip\r\n"))).body == b"{}"


def test_a_compressed_bomb_is_bounded() -> None:
    bomb = gzip.compress(bytes(64 << 20), compresslevel=9)
    tracemalloc.start()
    tracemalloc.reset_peak()
    try:
        with pytest.raises(Unreadable) as caught:
            once(replying(answer(200, bomb, b"Content-Encoding: gzip\r\n")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.http_status == 200
    assert peak < 48 << 20


def test_an_endless_body_is_bounded() -> None:
    def script(conn: Conn) -> None:
        conn.head().send(b"HTTP/1.1 200 x\r\n\r\n")
        while True:
            conn.send(bytes(1 << 16))

    with pytest.raises(Unreadable, match=f"the response is larger than {MAX_BODY} bytes"):
        once(script)


def test_the_largest_body_that_is_taken() -> None:
    assert len(once(replying(answer(200, bytes(MAX_BODY)))).body) == MAX_BODY


@pytest.mark.parametrize(
    "drip", [b"", b"HTTP/1.1 200 x\r\nX-Padding: ", b"HTTP/1.1 200 x\r\nContent-Length: 999999\r\n\r\n"]
)
def test_a_dripping_answer_meets_the_deadline(drip: bytes) -> None:
    """A timeout per read would wait for ever: each byte comes in time."""

    def script(conn: Conn) -> None:
        conn.head().send(drip)
        while not conn.hold(0.01):
            conn.send(b"x" if drip else b"")

    with pytest.raises(NetworkError) as caught:
        once(script, seconds=0.3)
    assert caught.value.written
    assert (caught.value.code, caught.value.transient) == ("network.lost", True)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 x\r\nContent-Length: 10\r\n\r\n{",
        b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
        b"",
    ],
)
def test_a_cut_answer_is_a_lost_connection(data: bytes) -> None:
    with pytest.raises(NetworkError) as caught:
        once(replying(data))
    assert caught.value.written
    assert caught.value.code == "network.lost"
    what = "IncompleteRead" if data else "closed without a response"
    assert re.fullmatch(PLACE + re.escape(f": the connection broke ({what})"), caught.value.message)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "is not valid HTTP (BadStatusLine)"),
        (b"HTTP/1.1 nonsense\r\n\r\n", "is not valid HTTP (BadStatusLine)"),
        (b"HTTP/1.1 200 x\r\n" + b"X: y\r\n" * 1000 + b"\r\n", "is not valid HTTP (HTTPException)"),
        (b"HTTP/1.1 200 x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", "is not valid HTTP (LineTooLong)"),
        (
            b"HTTP/1.1 200 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
            "has a header that contradicts itself",
        ),
        (
            b"HTTP/1.1 200 x\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
            "is not valid HTTP (DecodeError)",
        ),
    ],
)
def test_what_is_not_http_is_unreadable(data: bytes, what: str) -> None:
    with pytest.raises(Unreadable) as caught:
        once(replying(data))
    assert re.fullmatch(PLACE + re.escape(f": the response {what}"), caught.value.message)


# --- what a failure proves ---


def test_nothing_is_written_without_a_connection() -> None:
    with serving(lambda conn: None) as peer:
        pass
    http = client()
    with pytest.raises(NetworkError) as caught:
        http.perform(get(peer), headers=TOKEN, deadline=soon())
    http.close()
    assert (caught.value.code, caught.value.written) == ("network.connect", False)


def test_a_failure_is_not_mixed_up_with_the_one_being_handled() -> None:
    """A retry runs inside the handler of the failure before it."""

    def script(conn: Conn) -> None:
        conn.head().reset()

    try:
        raise TimeoutError
    except TimeoutError:
        with pytest.raises(NetworkError) as caught:
            once(script)
    assert "connection broke" in caught.value.message


def test_tls_that_breaks_during_the_response(tmp_path: Path) -> None:
    def script(conn: Conn) -> None:
        conn.head().send(b"HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\n")
        sockets.socket.sendall(conn.sock, b"this is no TLS record")

    authority = Authority(tmp_path)
    http = Http(Network(ca=str(authority.path), environ={}, cleartext=True), CLOCK, user_agent="guestctl/test")
    with serving(script, context=authority.server()) as peer, pytest.raises(NetworkError) as caught:
        http.perform(Request("GET", f"https://127.0.0.1:{peer.port}", "history"), headers={}, deadline=soon())
    http.close()
    assert (caught.value.code, caught.value.written) == ("network.lost", True)
    assert re.fullmatch(PLACE + r": the connection broke \([a-z ]{9,}\)", caught.value.message)


def test_names_that_do_not_resolve() -> None:
    http = client()
    with pytest.raises(NetworkError) as caught:
        http.perform(Request("GET", "http://no-such-host.invalid/?t=canary", "history"), headers={}, deadline=soon())
    http.close()
    assert (caught.value.code, caught.value.written) == ("network.dns", False)
    assert "no-such-host.invalid" in caught.value.message
    assert "canary" not in caught.value.message


def test_a_deadline_that_has_passed_writes_nothing() -> None:
    with pytest.raises(NetworkError) as caught:
        once(replying(answer(200)), seconds=0)
    assert not caught.value.written


def test_a_deadline_that_passes_before_a_kept_connection_is_used() -> None:
    def script(conn: Conn) -> None:
        conn.head().send(answer(200)).hold()

    http = client()
    with serving(script) as peer:
        http.perform(get(peer), headers={}, deadline=soon())
        with pytest.raises(NetworkError) as caught:
            http.perform(get(peer), headers={}, deadline=soon(0))
        assert peer.accepted == 1
    http.close()
    assert (caught.value.code, caught.value.written) == ("network.connect", False)
    assert caught.value.message == f"127.0.0.1:{peer.port}: timed out before the response was complete"


def test_a_single_byte_may_have_been_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def put(self: Stream, data: bytes, limit: Limit) -> None:
        limit.sent += 1
        raise OSError("something else")

    monkeypatch.setattr(Stream, "put", put)
    with pytest.raises(NetworkError) as caught:
        once(lambda conn: None)
    assert (caught.value.code, caught.value.written) == ("network.lost", True)
    assert re.fullmatch(PLACE + r": the connection broke \(OSError\)", caught.value.message)


def test_a_failure_that_is_its_own_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def put(self: Stream, data: bytes, limit: Limit) -> None:
        error = OSError("turns in circles")
        error.__cause__ = error
        raise error

    monkeypatch.setattr(Stream, "put", put)
    with pytest.raises(NetworkError) as caught:
        once(lambda conn: None)
    assert not caught.value.written


def test_a_reset_after_the_request_may_have_been_written() -> None:
    def script(conn: Conn) -> None:
        conn.head().reset()

    with pytest.raises(NetworkError) as caught:
        once(script)
    assert (caught.value.code, caught.value.written) == ("network.lost", True)


def test_a_kept_connection_that_died_is_replaced() -> None:
    http = client()
    with serving(replying(answer(200, b"{}"))) as peer:
        for _ in range(3):
            assert http.perform(get(peer), headers={}, deadline=soon()).ok
            while not _dropped(http):
                pass
        assert peer.accepted == 3
    http.close()


def _dropped(http: Http) -> bool:
    """Whether the peer's end of the pooled connection has arrived."""
    from urllib3.connection import HTTPConnection

    pool = http._session.get_adapter("http://").poolmanager.pools  # type: ignore[attr-defined]
    connection = pool[next(iter(pool.keys()))].pool.queue[-1]
    assert isinstance(connection, HTTPConnection)
    return not connection.is_connected


def test_a_reused_connection_that_breaks_during_a_request_may_have_written() -> None:
    def script(conn: Conn) -> None:
        conn.head().send(answer(200))
        conn.head().reset()

    http = client()
    with serving(script) as peer:
        http.perform(get(peer), headers={}, deadline=soon())
        with pytest.raises(NetworkError) as caught:
            http.perform(get(peer), headers={}, deadline=soon())
        assert caught.value.written
        assert peer.accepted == 1, "a request is never repeated here"
    http.close()


def test_a_slow_reader_meets_the_deadline() -> None:

    def script(conn: Conn) -> None:
        conn.head().hold()

    http = client()
    with serving(script) as peer, pytest.raises(NetworkError) as caught:
        http.perform(Request("PUT", peer.http, "upload", content=bytes(32 << 20)), headers={}, deadline=soon(0.3))
    http.close()
    assert not caught.value.written, "the last byte was never handed over"


def test_a_resolver_that_hangs_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*_: object, **__: object) -> list[Any]:
        release.wait(PATIENCE)
        return []

    monkeypatch.setattr(sockets, "getaddrinfo", hang)
    http = client()
    with pytest.raises(NetworkError) as caught:
        http.perform(Request("GET", "http://slow.example/", "history"), headers={}, deadline=soon(0.1))
    release.set()
    http.close()
    assert (caught.value.code, caught.value.written) == ("network.dns", False)


# --- downloads ---


def test_a_download_streams_with_progress() -> None:
    content = bytes(range(256)) * 1000
    got = bytearray()
    seen: list[tuple[int, int]] = []

    def script(conn: Conn) -> None:
        conn.head()
        assert header(conn.request, b"accept-encoding") == b"identity"
        assert header(conn.request, b"authorization") == b""
        conn.send(answer(200, content))

    http = client()
    with serving(script) as peer:
        reply = http.download(
            get(peer),
            headers={},
            deadline=soon(),
            write=got.extend,
            limit=len(content),
            progress=lambda done, total: seen.append((done, total)),
        )
    http.close()
    assert bytes(got) == content
    assert (reply.status, reply.body) == (200, b"")
    assert seen[-1] == (len(content), len(content))


def test_a_download_refused_is_an_ordinary_answer() -> None:
    got: list[bytes] = []
    http = client()
    for status in (403, 300):
        with serving(replying(answer(status, b"<Error/>"))) as peer:
            reply = http.download(get(peer), headers={}, deadline=soon(), write=got.append, limit=10)
        assert (reply.status, reply.body, got) == (status, b"<Error/>", [])
    cut = replying(b"HTTP/1.1 403 x\r\nContent-Length: 9\r\n\r\nhello")
    with serving(cut) as peer, pytest.raises(NetworkError):
        http.download(get(peer), headers={}, deadline=soon(), write=got.append, limit=10)
    http.close()


def test_a_download_without_a_length() -> None:
    got: list[bytes] = []
    http = client()
    seen: list[tuple[int, int]] = []
    with serving(replying(b"HTTP/1.1 200 x\r\n\r\nhello")) as peer:
        http.download(
            get(peer),
            headers={},
            deadline=soon(),
            write=got.append,
            limit=5,
            progress=lambda done, total: seen.append((done, total)),
        )
    http.close()
    assert b"".join(got) == b"hello"
    assert seen == [(5, 0)]


def test_a_download_that_is_cut() -> None:
    http = client()
    cut = replying(b"HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\nhello")
    with serving(cut) as peer, pytest.raises(NetworkError) as caught:
        http.download(get(peer), headers={}, deadline=soon(), write=bytes, limit=9)
    http.close()
    assert caught.value.message == f"127.0.0.1:{peer.port}: the connection broke (IncompleteRead)"


@pytest.mark.parametrize("announced", [True, False])
def test_a_download_over_its_limit(announced: bool) -> None:
    data = answer(200, bytes(1000)) if announced else b"HTTP/1.1 200 x\r\n\r\n" + bytes(1000)
    got: list[bytes] = []
    http = client()
    with serving(replying(data)) as peer, pytest.raises(Unreadable, match="the response is larger than 999 bytes"):
        http.download(get(peer), headers={}, deadline=soon(), write=got.append, limit=999)
    http.close()
    assert got == []


def test_a_writers_own_failure_passes_through() -> None:
    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    http = client()
    with serving(replying(answer(200, b"x"))) as peer, pytest.raises(OSError, match="No space left"):
        http.download(get(peer), headers={}, deadline=soon(), write=full, limit=10)
    http.close()


# --- telling ---


def test_the_observer_gets_every_event() -> None:
    told: list[tuple[str, Mapping[str, Any]]] = []
    http = client(observer=lambda kind, data: told.append((kind, data)))
    before = CLOCK.now()
    with serving(replying(answer(200, b'{"ok":true}', b"X-Y: z\r\n"))) as peer:
        request = Request("POST", f"{peer.http}/", "send", json={"a": 1}, query={"q": "1"})
        reply = http.perform(request, headers=TOKEN, deadline=soon())
    http.close()
    called: dict[str, object] = {"route": "send", "method": "POST"}
    headers = {"User-Agent": "guestctl/test", "Accept": "application/json", "Accept-Encoding": "gzip"}
    assert told == [
        (
            "request",
            {
                **called,
                "url": f"{peer.http}/?q=1",
                "headers": {**headers, "Content-Type": "application/json", **TOKEN},
                "body": b'{"a":1}',
            },
        ),
        (
            "response",
            {
                **called,
                "url": f"{peer.http}/",
                "status": 200,
                "headers": {"content-length": "11", "x-y": "z"},
                "body": b'{"ok":true}',
            },
        ),
    ]
    assert before <= reply.at <= CLOCK.now()


def test_the_observer_gets_the_size_of_a_download() -> None:
    told: list[Mapping[str, Any]] = []
    http = client(observer=lambda _, data: told.append(data))
    with serving(replying(answer(200, b"x"))) as peer:
        http.download(get(peer), headers={}, deadline=soon(), write=bytes, limit=1)
    http.close()
    assert told[0]["headers"] == {"User-Agent": "guestctl/test", "Accept": "*/*", "Accept-Encoding": "identity"}


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 x\r\nContent-Length: 10\r\n\r\n{"])
def test_the_observer_gets_a_lost_response(data: bytes) -> None:
    told: list[tuple[str, Mapping[str, Any]]] = []
    http = client(observer=lambda kind, data: told.append((kind, data)))
    with serving(replying(data)) as peer, pytest.raises(NetworkError) as caught:
        http.perform(get(peer, query={"X-Amz-Signature": "canary"}), headers=TOKEN, deadline=soon())
    http.close()
    assert [kind for kind, _ in told] == ["request", "lost"]
    what = {"route": "history", "method": "GET"}
    assert told[1][1] == {**what, "why": caught.value.message, "code": "network.lost"}
    assert "canary" not in caught.value.message


def test_failures_show_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    http = client()

    def script(conn: Conn) -> None:
        conn.head().reset()

    with serving(script) as peer, pytest.raises(NetworkError) as caught:
        http.perform(get(peer, query={"X-Amz-Signature": "canary"}), headers=TOKEN, deadline=soon())
    http.close()
    assert "canary" not in caught.value.message + str(caught.value.body) + caplog.text
