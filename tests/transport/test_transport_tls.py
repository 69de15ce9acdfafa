"""TLS in both libraries: one context, always verified, and its failures are distinguished from network failures."""

from __future__ import annotations

import re
import socket as sockets
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from guestctl.core.clock import Deadline, SystemClock
from guestctl.core.errors import NetworkError, UsageError
from guestctl.core.wire import Request
from guestctl.transport.http import Http
from guestctl.transport.network import Network
from guestctl.transport.socket import Socket
from guestctl.transport.stream import TlsStream
from tests.fakes import FakeClock
from tests.transport.authorities import Authority
from tests.transport.peers import TEXT, Conn, Peer, answer, serving, text

CLOCK = SystemClock()
PATIENCE = 60.0

Caller: TypeAlias = Callable[[Peer, Network, float], None]


def over_http(peer: Peer, network: Network, seconds: float) -> None:
    http = Http(network, CLOCK, user_agent="guestctl/test")
    try:
        request = Request("GET", f"https://127.0.0.1:{peer.port}/", "history")
        assert http.perform(request, headers={}, deadline=Deadline.after(CLOCK, seconds)).status == 200
    finally:
        http.close()


def over_socket(peer: Peer, network: Network, seconds: float) -> None:
    connect(peer, network, seconds).close()


def connect(peer: Peer, network: Network, seconds: float = PATIENCE) -> Socket:
    return Socket.connect(
        f"wss://127.0.0.1:{peer.port}/",
        headers={},
        network=network,
        clock=CLOCK,
        deadline=Deadline.after(CLOCK, seconds),
        user_agent="guestctl/test",
    )


def both(conn: Conn) -> None:
    """Serve whichever of the two calls."""
    conn.head()
    if b"upgrade: websocket" in conn.request.lower():
        conn.send(conn.agreed()).goodbye()
    else:
        conn.send(answer(200, b"{}"))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=[over_http, over_socket], ids=["http", "socket"])
def call(request: pytest.FixtureRequest) -> Caller:
    caller: Caller = request.param
    return caller


def trusting(authority: Authority) -> Network:
    return Network(ca=str(authority.path), environ={})


def test_a_verified_server(authority: Authority, call: Caller) -> None:
    with serving(both, context=authority.server()) as peer:
        call(peer, trusting(authority), PATIENCE)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_authorities_from_the_environment(authority: Authority, call: Caller, variable: str) -> None:
    with serving(both, context=authority.server()) as peer:
        call(peer, Network(ca=None, environ={variable: str(authority.path)}), PATIENCE)


def test_what_is_not_verified_is_refused_for_good(authority: Authority, tmp_path: Path, call: Caller) -> None:
    contexts = {
        "untrusted": Authority(tmp_path, "another").server(),
        "wrong host": authority.server("shop.example"),
        "expired": authority.server(days=(-2, -1)),
        "not yet valid": authority.server(days=(1, 2)),
    }
    for case, context in contexts.items():
        with serving(both, context=context) as peer, pytest.raises(NetworkError) as caught:
            call(peer, trusting(authority), PATIENCE)
        found = (caught.value.code, caught.value.transient, caught.value.written)
        assert found == ("network.tls", False, False), case
        assert "127.0.0.1" in caught.value.message


def test_the_systems_authorities_do_not_accept_the_test_authority(authority: Authority, call: Caller) -> None:
    with serving(both, context=authority.server()) as peer, pytest.raises(NetworkError) as caught:
        call(peer, Network(ca=None, environ={}), PATIENCE)
    assert caught.value.code == "network.tls"


def test_requests_adds_no_authorities_of_its_own(authority: Authority) -> None:
    network = trusting(authority)
    with serving(both, context=authority.server()) as peer:
        over_http(peer, network, PATIENCE)
    assert network.ssl_context().cert_store_stats()["x509_ca"] == 1


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_old_protocols_are_refused(authority: Authority, call: Caller) -> None:
    context = authority.server()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with serving(both, context=context) as peer, pytest.raises(NetworkError) as caught:
        call(peer, trusting(authority), PATIENCE)
    assert (caught.value.code, caught.value.transient) == ("network.tls", False)


def test_a_server_that_does_not_speak_tls(authority: Authority, call: Caller) -> None:
    with serving(lambda conn: conn.send(answer(400))) as peer, pytest.raises(NetworkError) as caught:
        call(peer, trusting(authority), PATIENCE)
    assert (caught.value.code, caught.value.transient) == ("network.tls", False)
    # In OpenSSL's words, which differ between versions.
    assert re.fullmatch(r"127\.0\.0\.1: the TLS handshake failed \([a-z ]{9,}\)", caught.value.message)


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_server_that_disconnects_during_the_handshake(authority: Authority, call: Caller, how: str) -> None:
    def script(conn: Conn) -> None:
        conn.read(1)
        if how == "rst":
            conn.reset()

    with serving(script) as peer, pytest.raises(NetworkError) as caught:
        call(peer, trusting(authority), PATIENCE)
    assert (caught.value.code, caught.value.transient, caught.value.written) == ("network.tls", True, False)


def test_a_handshake_that_stalls_meets_the_deadline(
    authority: Authority, call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.CLOCK", FakeClock())  # a busy machine does not use up the time before the wait
    with serving(lambda conn: conn.rest()) as peer, pytest.raises(NetworkError) as caught:
        call(peer, trusting(authority), 0.2)
    assert (caught.value.code, caught.value.written) == ("network.connect", False)
    assert "TLS" in caught.value.message


@pytest.mark.parametrize("content", [None, b"", b"not a certificate", b"-----BEGIN CERTIFICATE-----\nx\n"])
def test_authorities_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    for network, origin in (
        (Network(ca=str(path), environ={"SSL_CERT_FILE": "other"}), "tls.ca"),
        (Network(ca=None, environ={"SSL_CERT_FILE": str(path)}), "SSL_CERT_FILE"),
        (Network(ca=None, environ={"REQUESTS_CA_BUNDLE": str(path)}), "REQUESTS_CA_BUNDLE"),
        (Network(ca=None, environ={"CURL_CA_BUNDLE": str(path)}), "CURL_CA_BUNDLE"),
    ):
        with pytest.raises(UsageError) as caught:
            network.ssl_context()
        assert caught.value.code == "config.tls"
        assert caught.value.message.startswith(f"{origin}: ")


def test_authorities_in_a_directory(tmp_path: Path) -> None:
    Network(ca=str(tmp_path), environ={}).ssl_context()


def test_reading_and_writing_at_once(authority: Authority) -> None:
    """A reader and senders share one TLS object; neither may damage the other's records."""
    count = 200
    got: list[bytes] = []

    def script(conn: Conn) -> None:
        conn.head().send(conn.agreed())
        writer = threading.Thread(target=lambda: [conn.send(text(f"{n}" + "y" * 5000)) for n in range(count)])
        writer.start()
        for _ in range(2 * count):
            opcode, payload = conn.frame()
            assert opcode == TEXT
            got.append(payload)
        writer.join()
        conn.send(text("all")).goodbye()

    with serving(script, context=authority.server()) as peer:
        socket = connect(peer, trusting(authority))

        def sender(name: str) -> None:
            for _ in range(count):
                socket.send(name * 3000, deadline=Deadline.after(CLOCK, PATIENCE))

        threads = [threading.Thread(target=sender, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for n in range(count):
            frame = socket.receive(PATIENCE)
            assert frame is not None
            assert frame.text == f"{n}" + "y" * 5000
        last = socket.receive(PATIENCE)
        assert last is not None
        assert last.text == "all"
        for thread in threads:
            thread.join()
        socket.close()
    assert sorted(got) == [b"a" * 3000] * count + [b"b" * 3000] * count


def test_abort_wakes_a_reader_and_never_shows_it_ciphertext(authority: Authority) -> None:
    def script(conn: Conn) -> None:
        conn.head().send(conn.agreed())
        conn.rest()

    with serving(script, context=authority.server()) as peer:
        socket = connect(peer, trusting(authority))
        timer = threading.Timer(0.05, socket.abort)
        timer.start()
        with pytest.raises(NetworkError) as caught:
            socket.receive(PATIENCE)
        assert caught.value.close_code == 1006
        timer.join()
        socket.close()


def test_a_timeout_while_sending_over_tls(authority: Authority) -> None:

    def script(conn: Conn) -> None:
        conn.head().send(conn.agreed())
        conn.hold()

    with serving(script, context=authority.server()) as peer:
        socket = connect(peer, trusting(authority))
        assert isinstance(socket._stream, TlsStream)
        socket._stream.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 1 << 16)
        with pytest.raises(NetworkError) as caught:
            socket.send("x" * (12 << 20), deadline=Deadline.after(CLOCK, 2))
        assert not caught.value.written, "the last byte was never handed over"
        with pytest.raises(NetworkError) as caught:
            socket.send("x", deadline=Deadline.after(CLOCK, PATIENCE))
        assert not caught.value.written
        socket.close()
