"""Finding the way to a host: every address, every obstacle, and nothing left open."""

from __future__ import annotations

import errno
import selectors
import socket as sockets
import threading

import pytest

from guestctl.core.clock import Deadline, SystemClock
from guestctl.core.errors import NetworkError
from guestctl.core.model import Secret
from guestctl.transport.hosts import resolve
from guestctl.transport.network import Network, dial
from guestctl.transport.proxies import Proxy
from guestctl.transport.stream import Limit, Stream, TlsStream
from tests.fakes import FakeClock


def info(address: str, port: int) -> tuple[object, ...]:
    return (sockets.AF_INET, sockets.SOCK_STREAM, 6, "", (address, port))


@pytest.fixture
def limit() -> Limit:
    return Limit(Deadline.after(SystemClock(), 60))


def test_every_address_is_tried(monkeypatch: pytest.MonkeyPatch, limit: Limit) -> None:
    with sockets.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]
    with sockets.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = [info("127.0.0.1", dead), info("127.0.0.1", port)]
        monkeypatch.setattr(sockets, "getaddrinfo", lambda host, *_, **__: found if host == "two.example" else [])
        stream = dial("two.example", port, limit)
        assert stream.getpeername()[1] == port
        assert limit.sent == 0
        assert stream.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY)
        assert stream.getsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE)
        stream.close()


def test_the_resolver_gets_the_host_and_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", None)  # nobody need wait for an address
        (found,) = resolve("127.0.0.2", 5, 0)
    assert (found[1], found[4]) == (sockets.SOCK_STREAM, ("127.0.0.2", 5))
    asked: list[object] = []

    def ask(*args: object, **more: object) -> list[object]:
        asked.append((args, more))
        return []

    monkeypatch.setattr(sockets, "getaddrinfo", ask)
    assert resolve("two.example", 443, None) == []
    assert asked == [(("two.example", 443), {"type": sockets.SOCK_STREAM})]


@pytest.mark.parametrize(("seconds", "shares"), [(60, [10 / 3, 5, 10]), (6, [2, 3, 6])])
def test_addresses_share_the_time(monkeypatch: pytest.MonkeyPatch, seconds: int, shares: list[float]) -> None:
    class Stopped(SystemClock):
        def monotonic(self) -> float:
            return 0.0

    waits: list[float] = []

    def wait(_: Stream, most: float, event: int) -> bool:
        assert event == selectors.EVENT_WRITE
        waits.append(most)
        return False

    monkeypatch.setattr(sockets, "getaddrinfo", lambda *_, **__: [info("127.0.0.1", 1)] * 3)
    monkeypatch.setattr(Stream, "connect_ex", lambda *_: errno.EINPROGRESS)
    monkeypatch.setattr(Stream, "wait", wait)
    limit = Limit(Deadline.after(Stopped(), seconds))
    with pytest.raises(NetworkError, match=r"^three\.example:1: timed out$"):
        dial("three.example", 1, limit)
    assert limit.remaining() == seconds
    assert waits == pytest.approx(shares)


def test_an_address_that_cannot_even_be_tried(monkeypatch: pytest.MonkeyPatch, limit: Limit) -> None:
    for found in ([], [info("no address", 1)], [(-5, -5, -5, "", ("127.0.0.1", 1))]):
        monkeypatch.setattr(sockets, "getaddrinfo", lambda *_, found=found, **__: found)
        with pytest.raises(NetworkError) as caught:
            dial("odd.example", 1, limit)
        assert caught.value.code == "network.connect"
        if not found:
            assert caught.value.message == "odd.example:1: no address"


def test_an_address_that_fails_at_once(monkeypatch: pytest.MonkeyPatch, limit: Limit) -> None:
    monkeypatch.setattr(Stream, "connect_ex", lambda *_: errno.ENETUNREACH)
    with pytest.raises(NetworkError, match="unreachable") as caught:
        dial("127.0.0.1", 1, limit)
    assert caught.value.transient


def test_an_address_that_does_not_answer() -> None:
    # A full queue of connections nobody accepts: the next SYN goes unanswered.
    with sockets.create_server(("127.0.0.1", 0), backlog=0) as server:
        place = server.getsockname()
        waiting = [sockets.socket() for _ in range(4)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(place)
            with pytest.raises(NetworkError) as caught:
                dial("127.0.0.1", place[1], Limit(Deadline.after(FakeClock(), 0.2)))
        finally:
            for one in waiting:
                one.close()
    assert (caught.value.code, caught.value.written) == ("network.connect", False)
    assert caught.value.message == f"127.0.0.1:{place[1]}: timed out"


def test_an_interrupt_leaves_no_socket_behind(monkeypatch: pytest.MonkeyPatch, limit: Limit) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with sockets.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with monkeypatch.context() as patch:
            patch.setattr(TlsStream, "shake_hands", interrupted)
            with pytest.raises(KeyboardInterrupt):
                Network(ca=None, environ={}).open(f"https://127.0.0.1:{port}/", limit)
        monkeypatch.setattr(Stream, "connect_ex", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Network(ca=None, environ={}).open(f"https://127.0.0.1:{port}/", limit)


@pytest.mark.parametrize(
    ("error", "words", "transient"),
    [
        (sockets.gaierror(sockets.EAI_NONAME, "Name or service not known"), "Name or service not known", False),
        (sockets.gaierror(sockets.EAI_AGAIN, "Temporary failure"), "Temporary failure", True),
        (UnicodeError("label too long"), "UnicodeError", False),
    ],
)
def test_names_that_do_not_resolve(
    monkeypatch: pytest.MonkeyPatch, limit: Limit, error: Exception, words: str, transient: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(sockets, "getaddrinfo", refuse)
    with pytest.raises(NetworkError) as caught:
        dial("odd.example", 1, limit)
    assert (caught.value.code, caught.value.transient, caught.value.written) == ("network.dns", transient, False)
    assert caught.value.message == f"odd.example:1: the name does not resolve ({words})"


@pytest.mark.parametrize("proxy", [None, Proxy("slow.example", 3128, "me", Secret("s3cr3t-word"))])
def test_a_name_that_takes_too_long(monkeypatch: pytest.MonkeyPatch, proxy: Proxy | None) -> None:
    release = threading.Event()
    monkeypatch.setattr(sockets, "getaddrinfo", lambda *_, **__: release.wait(60) and [])
    with pytest.raises(NetworkError) as caught:
        dial("slow.example", 80, Limit(Deadline.after(FakeClock(), 0.05)), proxy=proxy)
    (asking,) = (one for one in threading.enumerate() if one.name == "resolver")
    assert asking.daemon, "nobody's exit waits for a resolver"
    release.set()
    asking.join()
    subject, code = (
        ("the proxy slow.example:3128 of HTTPS_PROXY", "network.proxy") if proxy else ("slow.example:80", "network.dns")
    )
    assert caught.value.message == f"{subject}: timed out resolving the name"
    assert (caught.value.code, caught.value.transient, caught.value.written) == (code, True, False)


def test_an_expired_deadline_resolves_no_name() -> None:
    with pytest.raises(NetworkError) as caught:
        dial("127.0.0.1", 9, Limit(Deadline.after(SystemClock(), 0.0)))
    assert (caught.value.code, caught.value.message) == ("network.connect", "127.0.0.1:9: no time left to connect")


def test_waiting_on_a_closed_stream(limit: Limit) -> None:
    with sockets.create_server(("127.0.0.1", 0)) as server:
        stream = dial("127.0.0.1", server.getsockname()[1], limit)
    stream.close()
    stream.abort()
    with pytest.raises(ConnectionAbortedError):
        stream.wait(1)
