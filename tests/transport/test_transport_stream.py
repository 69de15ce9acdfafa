"""The byte stream by itself, plain and TLS: no wait outlives its deadline, and what has left is counted."""

from __future__ import annotations

import socket as sockets
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from guestctl.core.clock import Deadline, SystemClock
from guestctl.core.waker import Waker
from guestctl.transport.network import Network
from guestctl.transport.stream import Limit, NestedTlsStream, Stream, TlsStream
from tests.transport.authorities import Authority
from tests.transport.peers import Conn, Script, serving

CLOCK = SystemClock()
PATIENCE = 60.0


def limit(seconds: float | None = PATIENCE) -> Limit:
    return Limit(Deadline(CLOCK, None) if seconds is None else Deadline.after(CLOCK, seconds))


@contextmanager
def plain() -> Iterator[tuple[Stream, sockets.socket]]:
    near, far = sockets.socketpair()
    with Stream(fileno=near.detach()) as stream, far:
        stream.adopt(limit())
        yield stream, far


@contextmanager
def secured(folder: Path, script: Script) -> Iterator[TlsStream]:
    authority = Authority(folder)
    context = Network(ca=str(authority.path), environ={}).ssl_context()
    with (
        serving(script, context=authority.server()) as peer,
        sockets.create_connection(("127.0.0.1", peer.port)) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1", do_handshake_on_connect=False) as stream,
    ):
        assert isinstance(stream, TlsStream)
        stream.adopt(limit())
        stream.shake_hands()
        yield stream


def test_reading_available_bytes_never_waits() -> None:
    with plain() as (stream, far):
        assert stream.take(10) is None
        far.sendall(b"hello")
        assert stream.wait(PATIENCE)
        assert stream.take(3) == b"hel"
        assert stream.take(10) == b"lo"
        far.close()
        assert stream.take(10) == b""


def test_waiting_ends_in_time_or_at_a_close() -> None:
    with plain() as (stream, _):
        assert not stream.wait(0.01)
        stream.close()
        with pytest.raises(ConnectionAbortedError) as caught:
            stream.wait(None)
        assert caught.value.strerror == "the connection was closed here"


def test_a_deadline_that_has_passed_is_an_error_and_none_is_no_limit() -> None:
    assert limit(None).remaining() is None
    with pytest.raises(TimeoutError):
        limit(0).remaining()


def test_reading_meets_the_deadline_whatever_the_library_sets() -> None:
    with plain() as (stream, far):
        stream.settimeout(PATIENCE)
        stream.limit.begin(Deadline.after(CLOCK, 0.05))
        with pytest.raises(TimeoutError):
            stream.recv_into(bytearray(8))
        stream.limit.begin(Deadline.after(CLOCK, PATIENCE))
        far.sendall(b"hello")
        assert stream.recv_into(bytearray(8), 0, sockets.MSG_PEEK) == 5
        assert stream.recv_into(bytearray(8), 2) == 2
        buffer = bytearray(8)
        assert (stream.recv_into(buffer), bytes(buffer[:3])) == (3, b"llo")


def test_writing_counts_what_has_left() -> None:
    with plain() as (stream, far):
        stream.sendall(b"hello")
        assert (far.recv(10), stream.limit.sent) == (b"hello", 5)
        stuck = limit(0.05)
        with pytest.raises(TimeoutError):
            stream.put(bytes(64 << 20), stuck)
        assert 0 < stuck.sent < 64 << 20


def test_a_large_write_continues_as_the_peer_reads() -> None:
    data = bytes(range(256)) * (8 << 12)
    got = bytearray()

    def drain(far: sockets.socket) -> None:
        while len(got) < len(data):
            got.extend(far.recv(1 << 16))

    with plain() as (stream, far):
        reader = threading.Thread(target=drain, args=(far,))
        reader.start()
        patient = limit()
        stream.put(data, patient)
        reader.join()
        assert (got == data, patient.sent) == (True, len(data))


def test_aborting_ends_both_directions_and_may_come_twice() -> None:
    with plain() as (stream, far):
        stream.abort()
        assert (stream.take(1), far.recv(1)) == (b"", b"")
        far.close()
        stream.close()
        stream.abort()


def test_tls_without_data_returns_nothing(tmp_path: Path) -> None:
    def script(conn: Conn) -> None:
        conn.read(1)
        conn.send(b"hello").rest()

    with secured(tmp_path, script) as stream:
        assert stream.take(10) is None
        stream.limit.begin(Deadline.after(CLOCK, 0.05))
        with pytest.raises(TimeoutError):
            stream.recv_into(bytearray(8))
        stream.put(b"?", limit())
        stream.limit.begin(Deadline.after(CLOCK, PATIENCE))
        assert stream.recv_into(bytearray(8)) == 5


def test_tls_writing_to_a_peer_that_does_not_read_meets_the_deadline(tmp_path: Path) -> None:
    with secured(tmp_path, lambda conn: conn.hold()) as stream:
        stuck = limit(0.3)
        with pytest.raises(TimeoutError):
            stream.put(bytes(64 << 20), stuck)
        assert 0 < stuck.sent < 64 << 20


class Outer:
    """The outer stream of TLS in TLS: what it is given goes to a server in memory, unless it is full."""

    def __init__(self, server: ssl.SSLContext) -> None:
        self.full = False
        self.options: list[tuple[int, int, int]] = []
        self._to_server, self._to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(self._to_server, self._to_client, server_side=True)

    def take(self, size: int) -> bytes | None:
        return self._to_client.read(size) or None

    def setsockopt(self, level: int, name: int, value: int) -> None:
        self.options.append((level, name, value))

    def give(self, data: bytes) -> int:
        if self.full:
            raise BlockingIOError
        return self._to_server.write(data)


def test_bytes_that_the_outer_stream_does_not_take_are_encrypted_once(tmp_path: Path) -> None:
    """Otherwise a repeated write would send them twice."""
    authority = Authority(tmp_path)
    outer = Outer(authority.server("inner.example"))
    context = ssl.create_default_context(cafile=str(authority.path))
    stream = NestedTlsStream(cast(Any, outer), context, "inner.example")
    for step in (stream.do_handshake, outer.server.do_handshake) * 2:
        try:
            step()
        except ssl.SSLWantReadError:
            pass
    stream.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
    assert outer.options == [(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)], "the connection is that of the proxy"
    outer.full = True
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            stream.send(b"hello")
    outer.full = False
    assert stream.send(b"hello") == 5
    assert outer.server.read(100) == b"hello"
    with pytest.raises(ssl.SSLWantReadError):
        outer.server.read(100)


def test_a_waker_ends_a_wait_for_bytes() -> None:
    waker = Waker()
    with plain() as (stream, far):
        thread = threading.Thread(target=waker.wake)
        thread.start()
        assert not stream.wait(PATIENCE, waker=waker)
        thread.join()
        assert (waker.take(), waker.take()) == (True, False)
        far.sendall(b"hello")
        assert stream.wait(PATIENCE, waker=waker)
    waker.close()
    waker.wake()
    assert not waker.take()
