"""Proxies under both libraries: forwarding, CONNECT, credentials, and failures that name the proxy."""

from __future__ import annotations

import base64
import socket as sockets
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from guestctl.core.clock import Deadline, SystemClock
from guestctl.core.errors import NetworkError
from guestctl.core.wire import HttpResponse, Request
from guestctl.transport.http import Http
from guestctl.transport.network import Network
from guestctl.transport.socket import Socket
from tests.transport.authorities import Authority
from tests.transport.peers import Conn, Script, answer, header, serving, text

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


def connect(network: Network, url: str, seconds: float = PATIENCE) -> Socket:
    return Socket.connect(
        url,
        headers={},
        network=network,
        clock=CLOCK,
        deadline=Deadline.after(CLOCK, seconds),
        user_agent="guestctl/test",
    )


def hello(conn: Conn) -> None:
    conn.head()
    assert header(conn.request, b"proxy-authorization") == b"", "the proxy's password reached the service"
    if b"upgrade: websocket" in conn.request.lower():
        conn.send(conn.agreed() + text("hello")).goodbye()
    else:
        conn.send(answer(200, b"hello"))


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
            assert get(network, f"http{secure}://{HOST}/x").body == b"hello"
            socket = connect(network, f"ws{secure}://{HOST}/y")
            frame = socket.receive(PATIENCE)
            assert frame is not None
            assert frame.text == "hello"
            socket.close()
    assert seen == [
        f"GET http://{HOST}/x HTTP/1.1",
        f"CONNECT {HOST}:80 HTTP/1.1",
        f"CONNECT {HOST}:443 HTTP/1.1",
        f"CONNECT {HOST}:443 HTTP/1.1",
    ]
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
    assert not caught.value.written
    assert caught.value.message.startswith(f"the proxy {place}")
    assert "canary" not in caught.value.message
    aim = f"{HOST}:{443 if url.startswith(('https', 'wss')) else 80}"
    if how.isdigit():
        assert caught.value.message == f"the proxy {place} refused the connection to {aim}: HTTP {how}"
        assert caught.value.http_status == int(how)
        assert caught.value.transient == (how in {"502", "503", "504"})
    elif how in SAID:
        variable = "HTTP_PROXY or ALL_PROXY" if url.startswith("http:") else "ALL_PROXY"
        named = f" of {variable}" if how == "down" else ""
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
