"""Proxies under both libraries: forwarding, CONNECT, SOCKS, TLS to the proxy, credentials, failures that name it."""

from __future__ import annotations

import base64
import ipaddress
import socket as sockets
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from guestctl.core.clock import Deadline, SystemClock
from guestctl.core.errors import NetworkError, UsageError
from guestctl.core.wire import HttpResponse, Request
from guestctl.transport.http import Http
from guestctl.transport.network import Network, Observer
from guestctl.transport.socket import Socket
from guestctl.transport.stream import Limit, NestedTlsStream
from tests.transport.authorities import Authority
from tests.transport.peers import Conn, Script, answer, header, serving, text
from tests.transport.peers import frame as frame_of

CLOCK = SystemClock()
PATIENCE = 60.0
#: Does not resolve here, so only the proxy can have found the way.
HOST = "shop.example"


def proxying(port: int, seen: list[str], *, user: str = "") -> Script:
    """A proxy whose every way ends at our port, whatever the name; it wants `user` if one is given."""

    def script(conn: Conn) -> None:
        conn.head()
        line = conn.request.split(b"\r\n")[0].decode()
        seen.append(line)
        wanted = b"Basic " + base64.b64encode(user.encode()) if user else b""
        if header(conn.request, b"proxy-authorization") != wanted:
            conn.send(answer(407))
            return
        with sockets.create_connection(("127.0.0.1", port)) as upstream:
            if line.startswith("CONNECT "):
                conn.send(b"HTTP/1.1 200 Connection established\r\nX-Via: test\r\n\r\n")
            else:
                parts = urlsplit(line.split(" ")[1])
                lines = conn.request.replace(f"http://{parts.netloc}".encode(), b"", 1).split(b"\r\n")
                upstream.sendall(b"\r\n".join(line for line in lines if not line.startswith(b"Proxy-")))
            back = threading.Thread(target=relay, args=(upstream, conn.sock))
            back.start()
            relay(conn.sock, upstream)
            back.join()

    return script


def relay(source: sockets.socket, sink: sockets.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for one in (source, sink):
        try:
            one.shutdown(sockets.SHUT_RDWR)
        except OSError:
            pass


def get(network: Network, url: str, seconds: float = PATIENCE) -> HttpResponse:
    http = Http(network, CLOCK, user_agent="guestctl/test")
    try:
        return http.perform(
            Request("GET", url, "history"), headers={"X-A": "1"}, deadline=Deadline.after(CLOCK, seconds)
        )
    finally:
        http.close()


def connect(network: Network, url: str, seconds: float = PATIENCE, observer: Observer | None = None) -> Socket:
    return Socket.connect(
        url,
        headers={},
        network=network,
        clock=CLOCK,
        deadline=Deadline.after(CLOCK, seconds),
        observer=observer,
        user_agent="guestctl/test",
    )


def hello(conn: Conn) -> None:
    conn.head()
    assert header(conn.request, b"proxy-authorization") == b"", "the proxy's password reached the service"
    if b"upgrade: websocket" in conn.request.lower():
        conn.send(conn.agreed() + text("hello")).goodbye()
    else:
        conn.send(answer(200, b"hello"))


def greet(network: Network, secure: str) -> None:
    """Make a request and open a socket, with TLS if `secure` is "s"."""
    assert get(network, f"http{secure}://{HOST}/x").body == b"hello"
    socket = connect(network, f"ws{secure}://{HOST}/y")
    frame = socket.receive(PATIENCE)
    assert frame is not None
    assert frame.text == "hello"
    socket.close()


#: What a proxy receives when `greet` runs without TLS to the service, and then with it.
BOTH = [
    f"GET http://{HOST}/x HTTP/1.1",
    f"CONNECT {HOST}:80 HTTP/1.1",
    f"CONNECT {HOST}:443 HTTP/1.1",
    f"CONNECT {HOST}:443 HTTP/1.1",
]


@pytest.mark.parametrize("user", ["", "me:p@ss/w:rd é"])
def test_plain_and_secure_over_both(tmp_path: Path, user: str, recwarn: pytest.WarningsRecorder) -> None:
    authority = Authority(tmp_path)
    seen: list[str] = []
    credentials = "me:p%40ss%2Fw%3Ard%20%C3%A9@" if user else ""
    for context in (None, authority.server(HOST)):
        secure = "s" if context else ""
        with (
            serving(hello, context=context) as service,
            serving(proxying(service.port, seen, user=user)) as proxy,
        ):
            environ = {f"HTTP{secure.upper()}_PROXY": f"http://{credentials}127.0.0.1:{proxy.port}"}
            network = Network(ca=str(authority.path), environ=environ, cleartext=True)
            greet(network, secure)
    assert seen == BOTH
    assert not recwarn.list, "urllib3 takes the connection for unverified"


@pytest.mark.skipif(not sockets.has_ipv6, reason="no IPv6 here")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_at_an_ipv6_address(scheme: str) -> None:
    try:
        listener = sockets.create_server(("::1", 0), family=sockets.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 loopback here")

    def refuse() -> None:
        with listener.accept()[0] as sock:
            Conn(sock, threading.Event()).head().send(answer(407))

    with listener:
        place = f"[::1]:{listener.getsockname()[1]}"
        threading.Thread(target=refuse, daemon=True).start()
        with pytest.raises(NetworkError) as caught:
            get(Network(ca=None, environ={"ALL_PROXY": f"http://{place}"}, cleartext=True), f"{scheme}://{HOST}/")
    port = 443 if scheme == "https" else 80
    assert caught.value.message == f"the proxy {place} refused the connection to {HOST}:{port}: HTTP 407"


#: Other answers of a forwarding proxy cannot be distinguished from the service's answers.
FORWARDING = ["407", "down", "name"]
TUNNELLING = ["300", "407", "403", "502", "503", "504", "505", "nonsense", "fin", "hang", "down", "name"]
#: What is said of it, where the resolver's words are not our own.
SAID = {
    "nonsense": " did not open a tunnel to {}: BadStatusLine",
    "fin": " did not open a tunnel to {}: closed without a response",
    "hang": " did not open a tunnel to {}: timed out",
    "down": ": connection refused",
}


@pytest.mark.parametrize(
    ("url", "how"),
    [(f"http://{HOST}/", how) for how in FORWARDING]
    + [(f"{scheme}://{HOST}/", how) for scheme in ("https", "ws", "wss") for how in TUNNELLING],
)
def test_a_failing_proxy_is_named_in_the_error(url: str, how: str) -> None:
    def script(conn: Conn) -> None:
        conn.head()
        if how.isdigit():
            conn.send(answer(int(how), b"<html>"))
        if how == "nonsense":
            conn.send(b"SSH-2.0\r\n\r\n")
        if how == "hang":
            conn.rest()

    with serving(script) as proxy:
        if how == "down":
            proxy.stop()
        place = "no-such-proxy.invalid:1" if how == "name" else f"127.0.0.1:{proxy.port}"
        network = Network(ca=None, environ={"ALL_PROXY": f"http://me:canary@{place}"}, cleartext=True)
        call = get if url.startswith("http") else connect
        with pytest.raises(NetworkError) as caught:
            call(network, url, 0.3 if how == "hang" else PATIENCE)
    assert caught.value.code == "network.proxy"
    assert "ALL_PROXY" in caught.value.hint
    assert not caught.value.written
    assert caught.value.message.startswith(f"the proxy {place}")
    assert "canary" not in caught.value.message
    aim = f"{HOST}:{443 if url.startswith(('https', 'wss')) else 80}"
    if how.isdigit():
        assert caught.value.message == f"the proxy {place} refused the connection to {aim}: HTTP {how}"
        assert caught.value.http_status == int(how)
        assert caught.value.transient == (how in {"502", "503", "504"})
    elif how in SAID:
        named = " of ALL_PROXY" if how == "down" else ""
        assert caught.value.message == f"the proxy {place}{named}" + SAID[how].format(aim)


def test_the_connect_request_is_sent_byte_for_byte() -> None:
    def script(conn: Conn) -> None:
        assert conn.head().request == b"CONNECT %b:80 HTTP/1.1\r\nHost: %b:80\r\n\r\n" % ((HOST.encode(),) * 2)
        conn.send(b"HTTP/1.1 200 x\r\n\r\n").upgrade()
        assert conn.request.startswith(b"GET / HTTP/1.1\r\n"), "something came before"
        conn.goodbye()

    with serving(script) as proxy:
        environ = {"http_proxy": f"127.0.0.1:{proxy.port}"}
        connect(Network(ca=None, environ=environ, cleartext=True), f"ws://{HOST}/").close()


def test_a_tunnel_that_drops_is_a_lost_connection() -> None:
    def script(conn: Conn) -> None:
        conn.head().send(b"HTTP/1.1 200 x\r\n\r\n").head()

    with serving(script) as proxy, pytest.raises(NetworkError) as caught:
        connect(Network(ca=None, environ={"http_proxy": f"127.0.0.1:{proxy.port}"}, cleartext=True), f"ws://{HOST}/")
    assert caught.value.code == "network.lost"


def test_loopback_is_never_proxied() -> None:
    with serving(hello) as service, serving(lambda conn: conn.reset()) as proxy:
        network = Network(ca=None, environ={"ALL_PROXY": f"127.0.0.1:{proxy.port}"}, cleartext=True)
        assert get(network, service.http).ok
        connect(network, service.ws).close()
        assert proxy.accepted == 0


# --- TLS to the proxy ---


def test_an_https_proxy(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """The connection to the proxy has TLS. A service with TLS has another one inside."""
    authority = Authority(tmp_path)
    seen: list[str] = []
    for context in (None, authority.server(HOST)):
        secure = "s" if context else ""
        with (
            serving(hello, context=context) as service,
            serving(proxying(service.port, seen, user="me:word"), context=authority.server("localhost")) as proxy,
        ):
            environ = {"ALL_PROXY": f"https://me:word@localhost:{proxy.port}"}
            network = Network(ca=str(authority.path), environ=environ, cleartext=True)
            greet(network, secure)
    assert seen == BOTH
    assert not recwarn.list


def test_the_certificate_of_a_service_behind_an_https_proxy(tmp_path: Path) -> None:
    """It is the one of the inner TLS connection."""
    authority = Authority(tmp_path)
    with (
        serving(hello, context=authority.server(HOST)) as service,
        serving(proxying(service.port, []), context=authority.server("localhost")) as proxy,
    ):
        network = Network(
            ca=str(authority.path), environ={"ALL_PROXY": f"https://localhost:{proxy.port}"}, cleartext=True
        )
        with closing(network.open(f"https://{HOST}/x", Limit(Deadline.after(SystemClock(), PATIENCE)))) as stream:
            assert isinstance(stream, NestedTlsStream)
            assert ("DNS", HOST) in (stream.getpeercert() or {})["subjectAltName"]
            assert (stream.version() or "").startswith("TLSv1.")


@contextmanager
def nested(tmp_path: Path, script: Script) -> Iterator[Socket]:
    """A socket whose TLS is inside the TLS of the connection to a proxy."""
    authority = Authority(tmp_path)
    with (
        serving(script, context=authority.server(HOST)) as service,
        serving(proxying(service.port, []), context=authority.server("localhost")) as proxy,
    ):
        environ = {"HTTPS_PROXY": f"https://localhost:{proxy.port}"}
        told: dict[str, Mapping[str, Any]] = {}
        network = Network(ca=str(authority.path), environ=environ)
        socket = connect(network, f"wss://{HOST}/", observer=told.__setitem__)
        assert told["connected"] == {}, "the inner stream has no address"
        try:
            yield socket
        finally:
            socket.close()


@pytest.mark.parametrize("size", [1, 16384, 16385, 1 << 20])
def test_frames_of_every_size_through_tls_in_tls(tmp_path: Path, size: int) -> None:
    """In both directions at once: more than the buffers of both connections have room for."""

    def script(conn: Conn) -> None:
        conn.upgrade()
        answer = threading.Thread(target=conn.send, args=(text("y" * size),))
        answer.start()
        opcode, payload = conn.frame()
        answer.join()
        assert (opcode, payload) == (1, b"x" * size)
        conn.send(text("done")).goodbye()

    with nested(tmp_path, script) as socket:
        sent = threading.Thread(target=socket.send, args=("x" * size,), kwargs={"deadline": Deadline(CLOCK, None)})
        sent.start()
        received: list[str] = []
        while len(received) < 2:
            frame = socket.receive(PATIENCE)
            assert frame is not None
            received.append(frame.text)
        sent.join()
    assert received == ["y" * size, "done"]


def test_a_pong_through_tls_in_tls(tmp_path: Path) -> None:
    def script(conn: Conn) -> None:
        conn.upgrade(frame_of(9, b"there?"))
        assert conn.frame() == (10, b"there?")
        conn.send(text("good")).goodbye()

    with nested(tmp_path, script) as socket:
        frame = socket.receive(PATIENCE)
        assert frame is not None
        assert frame.text == "good"


@pytest.mark.parametrize("how", ["service", "abort"])
def test_the_end_of_tls_in_tls(tmp_path: Path, how: str) -> None:
    def script(conn: Conn) -> None:
        conn.upgrade()
        if how == "service":
            conn.frame()
            conn.reset()
        else:
            conn.hold()

    with nested(tmp_path, script) as socket:
        socket.ping()
        if how == "abort":
            threading.Thread(target=socket.abort).start()
        with pytest.raises(NetworkError) as caught:
            socket.receive(PATIENCE)
        assert caught.value.close_code == 1006


def test_a_timeout_while_sending_through_tls_in_tls(tmp_path: Path) -> None:
    over = threading.Event()

    def script(conn: Conn) -> None:
        conn.upgrade()
        over.wait(PATIENCE)
        conn.rest()

    with nested(tmp_path, script) as socket:
        with pytest.raises(NetworkError) as caught:
            socket.send("x" * (48 << 20), deadline=Deadline.after(CLOCK, 1))
        over.set()
        assert not caught.value.written, "the last byte was never handed over"


@pytest.mark.parametrize("url", [f"http://{HOST}/", f"https://{HOST}/", f"ws://{HOST}/", f"wss://{HOST}/"])
@pytest.mark.parametrize("how", ["untrusted", "other name", "no TLS"])
def test_the_certificate_of_a_proxy_is_verified(tmp_path: Path, url: str, how: str) -> None:
    authority = Authority(tmp_path)
    trusted = Authority(tmp_path, "another authority") if how == "untrusted" else authority
    context = None if how == "no TLS" else authority.server("other.example" if how == "other name" else "localhost")
    with serving(lambda conn: conn.rest(), context=context) as proxy:
        if how == "no TLS":
            proxy.stop()
            with serving(lambda conn: conn.send(b"HTTP/1.1 400 Bad Request\r\n\r\n").rest()) as plain:
                port = plain.port
                caught = refused_through(f"https://localhost:{port}", url, str(trusted.path))
        else:
            port = proxy.port
            caught = refused_through(f"https://me:canary@localhost:{port}", url, str(trusted.path))
    assert (caught.code, caught.transient, caught.written) == ("network.proxy", False, False)
    assert caught.message.startswith(f"the proxy localhost:{port} of ALL_PROXY: ")
    assert "canary" not in caught.message + caught.hint


def refused_through(proxy: str, url: str, ca: str | None = None) -> NetworkError:
    network = Network(ca=ca, environ={"ALL_PROXY": proxy}, cleartext=True)
    call = get if url.startswith("http") else connect
    with pytest.raises(NetworkError) as caught:
        call(network, url)
    return caught.value


# --- SOCKS ---

needs_socks = pytest.mark.skipif(find_spec("socks") is None, reason="PySocks is not installed here")
SOCKS = ["socks5h", "socks5", "socks4a", "socks4"]


def socks_proxy(port: int, seen: list[str], *, user: str = "", answer: bytes | None = None) -> Script:
    """A SOCKS proxy (RFC 1928, 1929; SOCKS4 and 4A) whose every way ends at our port.

    `answer` replaces its last answer. What it was asked for is in `seen`.
    """

    def script(conn: Conn) -> None:
        version = conn.read(1)
        if version == b"\x05":
            methods = conn.read(conn.read(1)[0])
            if user:
                assert 2 in methods
                conn.send(b"\x05\x02")
                assert conn.read(1) == b"\x01"
                found = conn.read(conn.read(1)[0]) + b":" + conn.read(conn.read(1)[0])
                conn.send(b"\x01\x00" if found == user.encode() else b"\x01\x01")
                if found != user.encode():
                    return
            else:
                conn.send(b"\x05\x00")
            assert conn.read(3) == b"\x05\x01\x00"
            kind = conn.read(1)
            if kind == b"\x03":
                name = conn.read(conn.read(1)[0]).decode()
            else:
                name = str(ipaddress.ip_address(conn.read(4 if kind == b"\x01" else 16)))
            seen.append(f"{name}:{int.from_bytes(conn.read(2), 'big')}")
            conn.send(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00" if answer is None else answer)
        else:
            assert (version, conn.read(1)) == (b"\x04", b"\x01")
            number, address = int.from_bytes(conn.read(2), "big"), conn.read(4)
            assert until_zero(conn) == user.encode()
            name = until_zero(conn).decode() if address[:3] == bytes(3) else str(ipaddress.ip_address(address))
            seen.append(f"{name}:{number}")
            conn.send(b"\x00\x5a\x00\x00\x00\x00\x00\x00" if answer is None else answer)
        if answer is not None:
            return
        with sockets.create_connection(("127.0.0.1", port)) as upstream:
            back = threading.Thread(target=relay, args=(upstream, conn.sock))
            back.start()
            relay(conn.sock, upstream)
            back.join()

    return script


def until_zero(conn: Conn) -> bytes:
    found = b""
    while (byte := conn.read(1)) != b"\0":
        found += byte
    return found


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver of this machine knows the service's name; another one must not be asked for."""
    known = sockets.getaddrinfo

    def lookup(host: str, *positional: Any, **named: Any) -> Any:
        if host == HOST:
            return [(sockets.AF_INET, sockets.SOCK_STREAM, 6, "", ("192.0.2.7", positional[0]))]
        return known(host, *positional, **named)

    monkeypatch.setattr(sockets, "getaddrinfo", lookup)


@needs_socks
@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("user", ["", "me:p@ss w\u00f6rd"])
@pytest.mark.parametrize("scheme", SOCKS)
def test_plain_and_secure_through_socks(tmp_path: Path, scheme: str, user: str) -> None:
    authority = Authority(tmp_path)
    seen: list[str] = []
    user = user.partition(":")[0] if scheme.startswith("socks4") else user
    name, _, word = user.partition(":")
    credentials = f"{quote(name)}{':' + quote(word) if word else ''}@" if user else ""
    for context in (None, authority.server(HOST)):
        secure = "s" if context else ""
        with (
            serving(hello, context=context) as service,
            serving(socks_proxy(service.port, seen, user=user)) as proxy,
        ):
            environ = {"ALL_PROXY": f"{scheme}://{credentials}127.0.0.1:{proxy.port}"}
            network = Network(ca=str(authority.path), environ=environ, cleartext=True)
            greet(network, secure)
    place = HOST if scheme in {"socks5h", "socks4a"} else "192.0.2.7"
    assert seen == [f"{place}:80"] * 2 + [f"{place}:443"] * 2


NO = " refused the connection to {}: "
BROKEN = " did not open a tunnel to {}: "
#: What a SOCKS proxy answers, what the error says, and whether another try may succeed.
SOCKS_ANSWERS = [
    ("socks5h", b"\x05\x01\x00\x01" + bytes(6), NO + "general SOCKS server failure", True),
    ("socks5h", b"\x05\x02\x00\x01" + bytes(6), NO + "connection not allowed by ruleset", False),
    ("socks5h", b"\x05\x04\x00\x01" + bytes(6), NO + "host unreachable", True),
    ("socks5h", b"\x05\x05\x00\x01" + bytes(6), NO + "connection refused", True),
    ("socks5h", b"\x05\x00", BROKEN + "connection closed unexpectedly", True),
    ("socks5h", b"HTTP/1.1 400 Bad Request\r\n\r\n", BROKEN + "SOCKS5 proxy server sent invalid data", True),
    ("socks4a", b"\x00\x5b" + bytes(6), NO + "request rejected or failed", True),
    ("socks4a", b"\x00\x5d" + bytes(6), NO + "request rejected because the client", False),
    ("socks4a", b"HTTP/1.1", BROKEN + "SOCKS4 proxy server sent invalid data", True),
]


@needs_socks
@pytest.mark.parametrize(("scheme", "answer", "said", "transient"), SOCKS_ANSWERS)
@pytest.mark.parametrize("url", [f"http://{HOST}/", f"https://{HOST}/", f"ws://{HOST}/", f"wss://{HOST}/"])
def test_a_socks_proxy_that_refuses(url: str, scheme: str, answer: bytes, said: str, transient: bool) -> None:
    with serving(socks_proxy(1, [], answer=answer)) as proxy:
        caught = refused_through(f"{scheme}://127.0.0.1:{proxy.port}", url)
    aim = f"{HOST}:{443 if url.startswith(('https', 'wss')) else 80}"
    assert caught.message.startswith(f"the proxy 127.0.0.1:{proxy.port}" + said.format(aim))
    assert (caught.code, caught.transient, caught.written) == ("network.proxy", transient, False)
    assert "ALL_PROXY" in caught.hint


@needs_socks
@pytest.mark.parametrize("user", ["", "me:canary"])
def test_a_socks_proxy_that_wants_other_credentials(user: str) -> None:
    with serving(socks_proxy(1, [], user="me:word")) as proxy:
        if not user:
            proxy.stop()
            with serving(lambda conn: conn.send(b"\x05\xff" if conn.read(3) else b"")) as strict:
                caught = refused_through(f"socks5h://127.0.0.1:{strict.port}", f"https://{HOST}/")
        else:
            caught = refused_through(f"socks5h://{user}@127.0.0.1:{proxy.port}", f"https://{HOST}/")
    assert "refused the connection to shop.example:443: " in caught.message
    assert "authentication" in caught.message
    assert not caught.transient
    assert "canary" not in caught.message + caught.hint


@needs_socks
@pytest.mark.parametrize("how", ["down", "name", "hang", "drip"])
@pytest.mark.parametrize("scheme", ["socks5h", "socks4a"])
def test_a_socks_proxy_that_cannot_be_reached_or_is_slow(scheme: str, how: str) -> None:
    """A proxy that sends single bytes slowly does not extend the deadline."""

    def script(conn: Conn) -> None:
        while how == "drip" and not conn.hold(0.05):
            conn.send(b"\x05" if scheme == "socks5h" else b"\x00")
        conn.rest()

    with serving(script) as proxy:
        if how == "down":
            proxy.stop()
        place = "no-such-proxy.invalid:1" if how == "name" else f"127.0.0.1:{proxy.port}"
        network = Network(ca=None, environ={"HTTPS_PROXY": f"{scheme}://{place}"})
        with pytest.raises(NetworkError) as caught:
            get(network, f"https://{HOST}/", 0.3 if how in {"hang", "drip"} else PATIENCE)
    assert caught.value.code == "network.proxy"
    if how == "down":
        assert caught.value.message == f"the proxy {place} of HTTPS_PROXY: connection refused"
    elif how == "name":
        assert caught.value.message.startswith(f"the proxy {place} of HTTPS_PROXY: the name does not resolve")
    elif how == "hang":
        assert caught.value.message == f"the proxy {place} did not open a tunnel to {HOST}:443: timed out"


@needs_socks
def test_a_name_that_only_this_machine_must_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """With socks5 and socks4, a name that does not resolve is not the proxy's fault."""
    for scheme in ("socks5", "socks4"):
        with serving(socks_proxy(1, [])) as proxy:
            caught = refused_through(f"{scheme}://127.0.0.1:{proxy.port}", "https://no-such-host.invalid/")
            assert proxy.accepted == 0
        assert (caught.code, caught.message[:27]) == ("network.dns", "no-such-host.invalid:443: t")


@needs_socks
def test_socks4_knows_no_ipv6() -> None:
    with serving(socks_proxy(1, [])) as proxy:
        caught = refused_through(f"socks4a://127.0.0.1:{proxy.port}", "https://[2001:db8::1]/")
    assert caught.message.endswith("cannot reach [2001:db8::1]:443: SOCKS4 knows no IPv6 addresses")
    assert not caught.transient


@needs_socks
@pytest.mark.parametrize("scheme", ["socks5h", "socks5"])
def test_an_ipv6_address_through_socks5(scheme: str) -> None:
    seen: list[str] = []
    with serving(socks_proxy(1, seen, answer=b"\x05\x05\x00\x01" + bytes(6))) as proxy:
        refused_through(f"{scheme}://127.0.0.1:{proxy.port}", "https://[2001:db8::1]/")
    assert seen == ["2001:db8::1:443"]


def test_a_socks_proxy_without_pysocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socks", None)
    with serving(socks_proxy(1, [])) as proxy, pytest.raises(UsageError) as caught:
        get(Network(ca=None, environ={"ALL_PROXY": f"socks5://127.0.0.1:{proxy.port}"}), f"https://{HOST}/")
    assert caught.value.message == "ALL_PROXY: a SOCKS proxy needs the extra guestctl[socks]"
    assert "pip install" in caught.value.hint
