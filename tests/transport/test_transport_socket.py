"""The WebSocket connection against raw peers: the upgrade, every ending, and what is promised of each."""

from __future__ import annotations

import errno
import os
import socket as sockets
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from guestctl.core.clock import Deadline, SystemClock
from guestctl.core.errors import Exit, NetworkError, Unreadable, UsageError
from guestctl.core.wire import Frame
from guestctl.transport.network import CONNECT_TIMEOUT, Network
from guestctl.transport.socket import CONTROL_PATIENCE, MAX_HEAD, Refusal, Socket
from guestctl.transport.stream import AnyStream, Limit, Stream
from tests.transport.peers import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Conn,
    Peer,
    answer,
    close,
    frame,
    header,
    serving,
    text,
)

CLOCK = SystemClock()
#: Long enough never to matter; a test that needs it hangs and is stopped.
PATIENCE = 60.0
TOKEN = {"Authorization": "Bearer canary-7f3a"}


def soon(seconds: float | None = PATIENCE) -> Deadline:
    return Deadline.after(CLOCK, seconds)


def connect(peer: Peer, *, headers: Mapping[str, str] | None = None, seconds: float = PATIENCE, **more: Any) -> Socket:
    given: dict[str, Any] = {"network": Network(ca=None, environ={}), "clock": CLOCK, "user_agent": "guestctl/test"}
    return Socket.connect(peer.ws, headers=headers or {}, deadline=soon(seconds), **(given | more))


def place(peer: Peer) -> str:
    return f"127.0.0.1:{peer.port}"


def hear(socket: Socket) -> str:
    got = socket.receive(PATIENCE)
    assert got is not None
    return got.text


def texts(socket: Socket) -> tuple[list[str], NetworkError | Unreadable]:
    """All messages until the end, and the end."""
    heard: list[str] = []
    while True:
        try:
            heard.append(hear(socket))
        except (NetworkError, Unreadable) as end:
            return heard, end


# --- the upgrade ---


def test_the_request_is_what_was_asked_and_nothing_else() -> None:
    def script(conn: Conn) -> None:
        conn.upgrade()
        assert conn.request.startswith(b"GET /v1?deploymentId=d HTTP/1.1\r\n")
        assert header(conn.request, b"origin") == b""
        assert header(conn.request, b"cookie") == b""
        assert header(conn.request, b"user-agent") == b"guestctl/test"
        assert header(conn.request, b"authorization") == TOKEN["Authorization"].encode()
        assert header(conn.request, b"sec-websocket-extensions") == b""

    with serving(script) as peer:
        connect(peer, headers=TOKEN).close()


def test_an_origin_is_sent_when_given() -> None:
    def script(conn: Conn) -> None:
        conn.upgrade()
        assert header(conn.request, b"origin") == b"https://shop.example"

    with serving(script) as peer:
        connect(peer, headers={"Origin": "https://shop.example"}).close()


def test_cookies_do_not_pass_to_another_connection() -> None:
    def script(conn: Conn) -> None:
        conn.upgrade(extra=b"Set-Cookie: sid=canary; Domain=127.0.0.1\r\n")
        assert header(conn.request, b"cookie") == b""

    with serving(script) as peer:
        connect(peer).close()
        connect(peer).close()


def test_nagle_is_off() -> None:
    with serving(lambda conn: conn.upgrade().goodbye()) as peer:
        socket = connect(peer)
        assert isinstance(socket._stream, Stream)
        assert socket._stream.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY)
        socket.close()


@pytest.mark.parametrize("status", [200, 204, 400, 401, 403, 404, 426, 429, 500, 503])
def test_any_other_answer_is_a_refusal(status: int) -> None:
    body = b'{"message": "no"}' if status != 204 else b""
    with (
        serving(lambda conn: conn.head().send(answer(status, body, b"Retry-After: 7\r\n"))) as peer,
        pytest.raises(Refusal) as caught,
    ):
        connect(peer, headers=TOKEN)
    assert caught.value.status == status
    assert caught.value.headers["retry-after"] == "7"
    assert caught.value.body == body.decode()
    assert str(caught.value) == f"the upgrade was answered with HTTP {status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_refusals_and_the_token_stays_here(status: int) -> None:
    with serving(lambda conn: conn.upgrade()) as elsewhere:
        location = f"Location: {elsewhere.ws}\r\n".encode()
        with (
            serving(lambda conn: conn.head().send(answer(status, b"", location))) as peer,
            pytest.raises(Refusal) as caught,
        ):
            connect(peer, headers=TOKEN)
        assert caught.value.status == status
        assert elsewhere.accepted == 0


def test_connecting_and_reading_a_refusal_have_separate_time_limits() -> None:
    limits: list[Limit] = []
    left: list[float | None] = []

    class Watched(Network):
        def open(self, url: str, limit: Limit) -> AnyStream:
            limits.append(limit)
            left.append(limit.remaining())
            return super().open(url, limit)

    with serving(lambda conn: conn.head().send(answer(403, b"no"))) as peer, pytest.raises(Refusal):
        connect(peer, network=Watched(ca=None, environ={}))
    left.append(limits[0].deadline.remaining())
    for got, most in zip(left, (CONNECT_TIMEOUT, CONTROL_PATIENCE), strict=True):
        assert got is not None
        assert got <= most


def test_an_old_version_of_http_may_agree() -> None:
    def script(conn: Conn) -> None:
        conn.head().send(conn.agreed().replace(b"HTTP/1.1", b"HTTP/1.0")).goodbye()

    with serving(script) as peer:
        connect(peer).close()


def test_a_long_head_in_two_pieces() -> None:
    def script(conn: Conn) -> None:
        agreed = conn.head().agreed()[:-2] + b"X-Padding: "
        conn.send(agreed.ljust(MAX_HEAD, b"x"))
        conn.hold(0.2)
        conn.send(b"\r\n\r\n").goodbye()

    with serving(script) as peer:
        connect(peer).close()


def test_a_refusal_with_a_long_head() -> None:
    padding = b"X-Padding: " + b"x" * 10_000
    with (
        serving(lambda conn: conn.head().send(answer(403, b"no", padding + b"\r\nX-Last: 1\r\n"))) as peer,
        pytest.raises(Refusal) as caught,
    ):
        connect(peer)
    assert (caught.value.headers["x-last"], caught.value.body) == ("1", "no")


def test_a_refusal_that_is_not_utf8() -> None:
    with serving(lambda conn: conn.head().send(answer(403, b"n\xff"))) as peer, pytest.raises(Refusal) as caught:
        connect(peer)
    assert caught.value.body == "n\ufffd"


def test_a_refusal_in_chunks() -> None:
    chunked = b"HTTP/1.1 403 x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n2\r\nok\r\n0\r\n\r\n"
    with serving(lambda conn: conn.head().drip(chunked)) as peer, pytest.raises(Refusal) as caught:
        connect(peer)
    assert caught.value.body == "{}\nok"


def test_a_refusal_without_a_length_and_cut_off() -> None:
    def script(conn: Conn) -> None:
        conn.head()
        conn.send(b"HTTP/1.1 503 x\r\n\r\nbusy")

    with serving(script) as peer, pytest.raises(Refusal) as caught:
        connect(peer)
    assert (caught.value.status, caught.value.body) == (503, "busy")


def test_a_refusal_with_an_endless_body_is_cut() -> None:
    def script(conn: Conn) -> None:
        conn.head()
        conn.send(b"HTTP/1.1 403 x\r\nContent-Length: 52428800\r\n\r\n<")
        conn.hold(0.1)
        while True:
            conn.send(b"<html>" * 1000)

    with serving(script) as peer, pytest.raises(Refusal) as caught:
        connect(peer)
    assert len(caught.value.body) == 2048


def test_a_refusal_whose_body_never_comes() -> None:
    def script(conn: Conn) -> None:
        conn.head()
        conn.send(b"HTTP/1.1 403 x\r\nContent-Length: 10\r\n\r\nabc")
        conn.rest()

    with serving(script) as peer, pytest.raises(Refusal) as caught:
        connect(peer)
    assert caught.value.body == "abc"


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        (
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            "accepted the upgrade without a valid WebSocket handshake",
        ),
        (
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: bad\r\n\r\n",
            "accepted the upgrade without a valid WebSocket handshake",
        ),
        (b"HTTP/1.1 101 x\r\nSet-Cookie: canary\r\n\r\n", "accepted the upgrade without a valid WebSocket handshake"),
        (b"HTTP/1.1 101 x\r\nno colon here\r\n\r\n", "accepted the upgrade without a valid WebSocket handshake"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", ""),
        (b"HTTP/1.1 nonsense\r\n\r\n", ""),
        (b"\x00\xff\r\n\r\n", ""),
        (b"\r\n\r\n", ""),
    ],
)
def test_a_response_without_a_valid_handshake_is_unreadable(reply: bytes, what: str) -> None:
    with serving(lambda conn: conn.head().send(reply)) as peer, pytest.raises(Unreadable) as caught:
        connect(peer)
    assert caught.value.code == "answer.frame"
    text = what or "the response to the upgrade is not HTTP"
    assert caught.value.message == f"{place(peer)}: {text}"


def test_an_endless_head_is_cut() -> None:
    def script(conn: Conn) -> None:
        conn.head()
        conn.send(b"HTTP/1.1 101 x\r\nX-Padding: ")
        while True:
            conn.send(b"x" * 10000)

    with serving(script) as peer, pytest.raises(Unreadable) as caught:
        connect(peer)
    assert caught.value.code == "answer.frame"
    assert caught.value.message == f"{place(peer)}: the response to the upgrade has too long a head"


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 101 x\r\nX-Padding: "])
def test_a_dripping_head_meets_the_deadline(before: bytes) -> None:

    def script(conn: Conn) -> None:
        conn.head().send(before)
        while not conn.hold(0.01):
            conn.send(b"x" if before else b"")

    with serving(script) as peer, pytest.raises(NetworkError) as caught:
        connect(peer, seconds=0.3)
    assert caught.value.code == "network.connect"
    assert caught.value.message == f"{place(peer)}: the upgrade timed out"
    assert not caught.value.written


@pytest.mark.parametrize("how", ["fin", "half", "rst"])
def test_closed_during_the_upgrade(how: str) -> None:
    def script(conn: Conn) -> None:
        conn.head()
        if how == "half":
            conn.send(b"HTTP/1.1 101")
        if how == "rst":
            conn.reset()

    with serving(script) as peer, pytest.raises(NetworkError) as caught:
        connect(peer)
    assert caught.value.code == "network.lost"
    assert not caught.value.written
    assert caught.value.transient
    reason = os.strerror(errno.ECONNRESET) if how == "rst" else "closed without a response"
    assert caught.value.message == f"{place(peer)}: the upgrade failed ({reason})"


def test_refused_connection() -> None:
    with serving(lambda conn: None) as peer:
        pass
    with pytest.raises(NetworkError) as caught:
        connect(peer)
    assert caught.value.code == "network.connect"
    assert caught.value.exit == Exit.NETWORK


def test_a_header_that_cannot_be_sent_is_not_shown() -> None:
    with serving(lambda conn: None) as peer:
        for value in ("Bearer canary\r\nX: y", "Bearer canary\n", " canary", "canary\x00", "canáry"):
            with pytest.raises(UsageError) as caught:
                connect(peer, headers={"Authorization": value})
            assert caught.value.code == "auth.secret"
            assert "can" not in caught.value.message.replace("cannot", "")
        assert peer.accepted == 0


# --- reading ---


def test_frames_glued_to_the_upgrade() -> None:
    with serving(lambda conn: conn.upgrade(text("one") + text("t\r\n\r\nwo")).goodbye()) as peer:
        socket = connect(peer)
        assert [hear(socket), hear(socket)] == ["one", "t\r\n\r\nwo"], "the head ends with its first empty line"
        assert socket.receive(0) is None
        socket.close()


def test_a_message_has_its_time_of_arrival() -> None:
    class Set(SystemClock):
        at = 100.0

        def now(self) -> float:
            return self.at

    clock = Set()

    def script(conn: Conn) -> None:
        conn.upgrade(text("one")).frame()
        conn.send(text("two")).goodbye()

    with serving(script) as peer:
        before = clock.monotonic()
        socket = connect(peer, clock=clock)
        opened = socket.heard_at
        assert before <= opened <= clock.monotonic()
        clock.at = 200.0
        one = socket.receive(PATIENCE)
        assert (one, socket.heard_at) == (Frame("one", 100.0), opened), "it came with the upgrade"
        socket.send("go on", deadline=soon())
        assert socket.receive(PATIENCE) == Frame("two", 200.0)
        assert socket.heard_at > opened
        socket.close()


def test_one_byte_segments() -> None:
    with serving(lambda conn: conn.upgrade().drip(text("hé") + text("x" * 300)).goodbye()) as peer:
        socket = connect(peer)
        assert [hear(socket), hear(socket)] == ["hé", "x" * 300]
        socket.close()


def test_a_message_that_is_not_complete_in_time_is_kept() -> None:
    go = threading.Event()

    def script(conn: Conn) -> None:
        data = text("in two parts")
        conn.upgrade(data[:5])
        go.wait(PATIENCE)
        conn.send(data[5:])
        conn.goodbye()

    with serving(script) as peer:
        socket = connect(peer)
        assert socket.receive(0.05) is None
        go.set()
        assert hear(socket) == "in two parts"
        socket.close()


def test_a_ping_between_fragments_is_answered() -> None:
    def script(conn: Conn) -> None:
        conn.upgrade(frame(TEXT, b"a", fin=False) + frame(PING, b"p" * 125) + frame(0, b"b"))
        assert conn.frame() == (PONG, b"p" * 125)
        conn.send(text("answered"))
        conn.goodbye()

    with serving(script) as peer:
        socket = connect(peer)
        assert [hear(socket), hear(socket)] == ["ab", "answered"]
        socket.close()


def test_pings_that_come_at_once_are_all_answered() -> None:
    def script(conn: Conn) -> None:
        conn.upgrade(frame(PING, b"1") + frame(PING, b"2") + frame(PONG) + text("x"))
        for payload in (b"1", b"2"):
            assert conn.frame() == (PONG, payload)
        conn.goodbye()

    with serving(script) as peer:
        socket = connect(peer)
        assert hear(socket) == "x"
        socket.close()


def test_messages_that_arrived_together_are_returned_before_the_end() -> None:
    def script(conn: Conn) -> None:
        fragments = frame(TEXT, b"a", fin=False) + frame(0, b"b")
        conn.upgrade(text("one") + text("two") + frame(PING, b"p") + fragments + text("three") + close(4000))
        assert conn.frame() == (PONG, b"p")
        conn.frame()

    with serving(script) as peer:
        socket = connect(peer)
        assert hear(socket) == "one"
        assert [message.text for message in socket.arrived(1)] == ["two"]
        assert [message.text for message in socket.arrived(10)] == ["ab", "three"]
        assert socket.arrived(10) == []
        with pytest.raises(NetworkError) as caught:
            socket.receive(PATIENCE)
        assert caught.value.close_code == 4000
        socket.close()


def test_nothing_has_arrived_with_a_single_message() -> None:
    with serving(lambda conn: conn.upgrade(text("one")).rest()) as peer:
        socket = connect(peer)
        assert hear(socket) == "one"
        assert socket.arrived(10) == []
        socket.close()


def test_a_connection_that_breaks_at_once_has_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(107, "not connected")

    told: list[tuple[str, Mapping[str, Any]]] = []
    with serving(lambda conn: conn.upgrade().rest()) as peer:
        monkeypatch.setattr("guestctl.transport.stream.Stream.getpeername", broken)
        connect(peer, observer=lambda kind, data: told.append((kind, dict(data)))).close()
    assert told[1] == ("connected", {})


def test_waiting_does_not_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    take = Stream.take

    def watched(self: Stream, size: int) -> bytes | None:
        looks.append(size)
        return take(self, size)

    monkeypatch.setattr(Stream, "take", watched)
    with serving(lambda conn: conn.upgrade().goodbye()) as peer:
        socket = connect(peer)
        assert socket.receive(0.05) is None
        assert len(looks) <= 2
        socket.close()


def test_pings_do_not_extend_the_wait() -> None:
    stop = threading.Event()

    def flood(conn: Conn) -> None:
        conn.upgrade()
        reader = threading.Thread(target=conn.rest)
        reader.start()
        try:
            while not stop.is_set():
                conn.send(frame(PING, b"x") * 50)
        finally:
            conn.send(close())
            reader.join()

    with serving(flood) as peer:
        socket = connect(peer)
        assert socket.receive(0.2) is None
        assert socket.receive(0) is None
        stop.set()
        socket.close()


def test_endless_fragments_and_bytes_do_not_extend_the_wait() -> None:

    def script(conn: Conn) -> None:
        conn.upgrade(b"\x81\x7f" + (1 << 20).to_bytes(8, "big"))
        while not conn.hold(0.01):
            conn.send(b"x")

    with serving(script) as peer:
        socket = connect(peer)
        assert socket.receive(0.2) is None
        socket.abort()
        socket.close()


def test_a_pong_proves_that_the_peer_is_alive() -> None:
    go = threading.Event()

    def script(conn: Conn) -> None:
        conn.upgrade()
        assert conn.frame() == (PING, b"")
        assert conn.frame() == (PING, b"")
        go.wait(PATIENCE)
        conn.send(frame(PONG) + text("x"))
        conn.goodbye()

    with serving(script) as peer:
        socket = connect(peer)
        before = socket.heard_at
        socket.ping()
        socket.ping()
        assert socket.receive(0.01) is None
        assert socket.heard_at == before
        go.set()
        assert hear(socket) == "x"
        assert socket.heard_at > before
        socket.close()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(BINARY, b"x"), 1003),
        (frame(TEXT, b"x", mask=b"abcd"), 1002),
        (frame(TEXT, b"x", rsv=4), 1002),
        (frame(0xB), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (close(999), 1002),
        (close(1005), 1002),
        (close(1015), 1002),
        (close(5000), 1002),
        (close(1000, b"\xff"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (b"\x81\x7f" + (1 << 40).to_bytes(8, "big"), 1009),
        (frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 100_000, 1009),
    ],
)
def test_a_broken_protocol_ends_the_connection_with_its_code(data: bytes, code: int) -> None:
    said: list[tuple[int, bytes]] = []

    def script(conn: Conn) -> None:
        conn.upgrade(text("before"))
        try:
            conn.send(data)
        finally:
            said.append(conn.frame())

    with serving(script) as peer:
        socket = connect(peer)
        heard, end = texts(socket)
        assert heard == ["before"]
        assert isinstance(end, Unreadable)
        assert end.code == "answer.frame"
        assert end.message.startswith(f"{place(peer)} violated the WebSocket protocol: ")
        with pytest.raises(Unreadable):
            socket.receive(0)
        with pytest.raises(NetworkError) as caught:
            socket.send("x", deadline=soon())
        assert not caught.value.written
        assert socket.close() == []
    assert said == [(CLOSE, code.to_bytes(2, "big"))]


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1009, 1011, 1012, 1013, 1014, 3000, 4000, 4001, 4999])
def test_the_peers_close_is_reported_after_its_data_and_answered(code: int) -> None:
    said: list[tuple[int, bytes]] = []

    def script(conn: Conn) -> None:
        conn.upgrade(text("one") + text("two") + close(code, b"\x1b[2J\xe2\x80\xaeg\xc3\xb6ne"))
        said.append(conn.frame())

    with serving(script) as peer:
        socket = connect(peer)
        heard, end = texts(socket)
        with pytest.raises(NetworkError) as after:
            socket.send("x", deadline=soon())
        socket.close()
    assert heard == ["one", "two"]
    assert (after.value.close_code, after.value.written) == (code, False)
    assert after.value.message == f"{place(peer)}: the connection was closed here"
    assert isinstance(end, NetworkError)
    assert (end.code, end.close_code, end.written, end.transient) == ("network.lost", code, True, True)
    assert end.message == f"{place(peer)}: the service closed the connection ({code}: \\x1b[2J\\u202egöne)"
    assert said == [(CLOSE, code.to_bytes(2, "big"))]


def test_a_close_without_a_code_is_1005_and_answered_without_one() -> None:
    said: list[tuple[int, bytes]] = []

    def script(conn: Conn) -> None:
        conn.upgrade(close(None))
        said.append(conn.frame())

    with serving(script) as peer:
        socket = connect(peer)
        with pytest.raises(NetworkError) as caught:
            socket.receive(PATIENCE)
        assert caught.value.close_code == 1005
        assert caught.value.message == f"{place(peer)}: the service closed the connection (1005)"
        with pytest.raises(NetworkError) as after:
            socket.send("x", deadline=soon())
        assert (after.value.close_code, after.value.written) == (1005, False)
        socket.close()
    assert said == [(CLOSE, b"")]


@pytest.mark.parametrize("how", ["fin", "rst", "half"])
def test_an_end_without_a_close_is_1006(how: str) -> None:
    def script(conn: Conn) -> None:
        conn.upgrade(text("one") + (text("half")[:3] if how == "half" else b""))
        if how == "rst":
            conn.frame()  # only now, or the message would be lost with the connection
            conn.reset()

    with serving(script) as peer:
        socket = connect(peer)
        assert hear(socket) == "one"
        if how == "rst":
            socket.send("go", deadline=soon())
        with pytest.raises(NetworkError) as caught:
            socket.receive(PATIENCE)
        assert (caught.value.close_code, caught.value.code) == (1006, "network.lost")
        reason = os.strerror(errno.ECONNRESET) if how == "rst" else "the connection ended without a close"
        assert caught.value.message == f"{place(peer)}: {reason}"
        assert caught.value.written
        socket.close()


# --- writing ---


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 300_000])
def test_a_message_arrives_whole(size: int) -> None:
    got: list[tuple[int, bytes]] = []

    def script(conn: Conn) -> None:
        conn.upgrade()
        got.append(conn.frame())
        conn.send(text("ok"))
        conn.goodbye()

    with serving(script) as peer:
        socket = connect(peer)
        socket.send("é" * size, deadline=soon())
        assert hear(socket) == "ok"
        socket.close()
    assert got == [(TEXT, "é".encode() * size)]


def test_half_a_surrogate_is_refused_before_anything_leaves() -> None:
    with serving(lambda conn: conn.upgrade().frame()) as peer:
        socket = connect(peer)
        with pytest.raises(UsageError, match=r"half of a surrogate pair .U.D800. at position 2$"):
            socket.send("a\ud800", deadline=soon())
        socket.close()


def test_a_timeout_while_sending_leaves_half_a_frame_and_ends_the_connection() -> None:
    go = threading.Event()
    left: list[bytes] = []

    def script(conn: Conn) -> None:
        conn.upgrade(text("unread"))
        go.wait(PATIENCE)
        left.append(conn.rest())

    with serving(script) as peer:
        socket = connect(peer)
        assert isinstance(socket._stream, Stream)
        socket._stream.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 1 << 16)
        with pytest.raises(NetworkError) as caught:
            socket.send("x" * (12 << 20), deadline=soon(4))
        assert not caught.value.written, "the last byte was never handed over"
        assert (caught.value.code, caught.value.close_code) == ("network.lost", None)
        assert caught.value.message == f"{place(peer)}: sending failed (timed out)"
        with pytest.raises(NetworkError) as caught:
            socket.send("second", deadline=soon())
        assert (caught.value.written, caught.value.close_code) == (False, 1006)
        assert caught.value.message == f"{place(peer)}: sending failed (timed out)"
        with pytest.raises(NetworkError):
            socket.ping()
        assert hear(socket) == "unread"
        go.set()
        with pytest.raises(NetworkError) as caught:
            socket.receive(PATIENCE)
        assert caught.value.close_code == 1006
        assert "sending failed" in caught.value.message
        socket.close()
    assert 0 < len(left[0]) < 12 << 20


def test_a_send_on_a_connection_that_is_gone_is_proved_unwritten() -> None:
    def script(conn: Conn) -> None:
        conn.upgrade().frame()
        conn.reset()

    with serving(script) as peer:
        socket = connect(peer)
        socket.send("last", deadline=soon())
        assert socket._stream.wait(PATIENCE)  # the reset is here, and the sender does not know
        with pytest.raises(NetworkError) as caught:
            socket.send("never", deadline=soon())
        assert not caught.value.written
        socket.close()


def test_a_deadline_that_has_passed_sends_nothing() -> None:
    with serving(lambda conn: conn.upgrade().goodbye()) as peer:
        socket = connect(peer)
        with pytest.raises(NetworkError) as caught:
            socket.send("x", deadline=soon(0))
        assert not caught.value.written
        socket.close()


def test_a_send_after_a_stuck_one_is_not_written() -> None:
    with serving(lambda conn: conn.upgrade().goodbye()) as peer:
        socket = connect(peer)
        with socket._writing, pytest.raises(NetworkError) as caught:
            socket.send("x", deadline=soon(0.05))
        assert (caught.value.written, caught.value.close_code) == (False, None)
        assert caught.value.message == f"{place(peer)}: timed out while another thread was sending"
        socket.send("free again", deadline=soon())
        socket.close()


def test_a_send_without_a_deadline_waits_its_turn() -> None:
    with serving(lambda conn: conn.upgrade().goodbye()) as peer:
        socket = connect(peer)
        with socket._writing:
            sender = threading.Thread(target=socket.send, args=("x",), kwargs={"deadline": soon(None)})
            sender.start()
        sender.join()
        socket.close()


def test_a_frame_without_its_last_byte_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def put(self: Stream, data: bytes, limit: Limit) -> None:
        limit.sent += 1
        raise OSError("something else")

    with serving(lambda conn: conn.upgrade().rest()) as peer:
        socket = connect(peer)
        monkeypatch.setattr(Stream, "put", put)
        with pytest.raises(NetworkError) as caught:
            socket.send("x", deadline=soon())
        socket.close()
    assert (caught.value.code, caught.value.written) == ("network.lost", False)


def test_control_frames_never_wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that does not read must not block a ping, a pong or a close."""
    left: list[float | None] = []
    put = Stream.put

    def watched(self: Stream, data: bytes, limit: Limit) -> None:
        left.append(limit.remaining())
        put(self, data, limit)

    with serving(lambda conn: conn.upgrade(frame(PING)).goodbye()) as peer:
        socket = connect(peer)
        monkeypatch.setattr(Stream, "put", watched)
        while not left:
            socket.receive(0.01)
        socket.ping()
        socket.close()
    assert len(left) == 3
    assert all(one is not None and one <= CONTROL_PATIENCE for one in left)


def test_an_interrupted_send_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C nobody knows how much of the frame left."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with serving(lambda conn: conn.upgrade().goodbye()) as peer:
        socket = connect(peer)
        with monkeypatch.context() as patch:
            patch.setattr(Stream, "put", interrupted)
            with pytest.raises(KeyboardInterrupt):
                socket.send("x", deadline=soon())
        with pytest.raises(NetworkError):
            socket.send("y", deadline=soon())
        socket.close()


def test_many_threads_send_whole_frames() -> None:
    got: list[bytes] = []

    def script(conn: Conn) -> None:
        conn.upgrade()
        got.extend(conn.frame()[1] for _ in range(800))
        conn.send(text("all"))
        conn.goodbye()

    with serving(script) as peer:
        socket = connect(peer)

        def sender(name: int) -> None:
            for count in range(100):
                socket.send(f"{name}:{count}:" + "x" * 500, deadline=soon())

        threads = [threading.Thread(target=sender, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        assert hear(socket) == "all"
        for thread in threads:
            thread.join()
        socket.close()
    for name in range(8):
        mine = [int(one.split(b":")[1]) for one in got if one.startswith(b"%d:" % name)]
        assert mine == list(range(100))


# --- closing ---


def test_closing_drains_what_is_on_its_way() -> None:
    def script(conn: Conn) -> None:
        conn.upgrade(text("one"))
        assert conn.frame() == (CLOSE, (1000).to_bytes(2, "big") + b"done")
        conn.send(text("two") + frame(PING, b"x") + text("three") + close(1000))
        assert conn.rest() == b"", "something was said after the close"

    with serving(script) as peer:
        socket = connect(peer)
        assert [one.text for one in socket.close(1000, "done")] == ["one", "two", "three"]
        with pytest.raises(NetworkError) as caught:
            socket.receive(0)
        with pytest.raises(NetworkError):
            socket.send("x", deadline=soon())
    assert caught.value.close_code == 1000


def test_calls_after_closing_raise_an_error() -> None:
    def script(conn: Conn) -> None:
        assert conn.upgrade().frame() == (CLOSE, (4000).to_bytes(2, "big"))

    with serving(script) as peer:
        socket = connect(peer)
        socket.close(4000)
        with pytest.raises(NetworkError) as reading:
            socket.receive(0)
        with pytest.raises(NetworkError) as writing:
            socket.send("x", deadline=soon())
    for caught in (reading, writing):
        assert caught.value.message == f"{place(peer)}: the connection was closed here"
        assert caught.value.close_code == 4000


@pytest.mark.parametrize("after", [b"", text("x") + frame(TEXT, b"\xff")])
def test_closing_a_peer_that_does_not_close(after: bytes) -> None:
    def script(conn: Conn) -> None:
        conn.upgrade()
        conn.frame()
        conn.send(after)
        conn.rest()

    with serving(script) as peer:
        socket = connect(peer)
        assert [one.text for one in socket.close()] == (["x"] if after else [])
        if not after:
            with pytest.raises(NetworkError) as caught:
                socket.receive(0)
            assert caught.value.message == f"{place(peer)}: the connection was closed here"
            assert (caught.value.close_code, caught.value.written) == (1000, True)


def test_closing_while_the_peer_keeps_sending() -> None:
    def script(conn: Conn) -> None:
        conn.upgrade()
        while True:
            conn.send(text("more") * 10)

    with serving(script) as peer:
        assert connect(peer).close()


def test_closing_twice_and_after_the_peers_close() -> None:
    with serving(lambda conn: conn.upgrade(close(1001)).goodbye()) as peer:
        socket = connect(peer)
        with pytest.raises(NetworkError):
            socket.receive(PATIENCE)
        assert socket.close() == []
        assert socket.close() == []


@pytest.mark.parametrize(("reason", "sent"), [("é" * 100, "é" * 61), ("half \ud800", "half ?")])
def test_a_close_reason_fits_its_frame(reason: str, sent: str) -> None:
    got: list[bytes] = []

    def script(conn: Conn) -> None:
        conn.upgrade()
        got.append(conn.frame()[1])

    with serving(script) as peer:
        connect(peer).close(4000, reason)
    assert got[0][2:].decode() == sent


def test_abort_wakes_the_reader() -> None:
    with serving(lambda conn: conn.upgrade().goodbye()) as peer:
        socket = connect(peer)
        timer = threading.Timer(0.05, socket.abort)
        timer.start()
        with pytest.raises(NetworkError) as caught:
            socket.receive(PATIENCE)
        assert caught.value.close_code == 1006
        timer.join()
        socket.abort()
        socket.close()
        socket.abort()


def test_the_observer_gets_every_event() -> None:
    def script(conn: Conn) -> None:
        conn.upgrade(frame(PING), extra=b"X-Where: here: there\r\n")
        conn.frame()
        conn.frame()
        conn.send(text("in") + frame(PONG) + close(4001, b"bye"))
        conn.rest()

    told: list[tuple[str, Mapping[str, Any]]] = []
    with serving(script) as peer:
        socket = connect(peer, headers=TOKEN, observer=lambda kind, data: told.append((kind, dict(data))))
        assert socket.receive(0.05) is None
        socket.send("out", deadline=soon())
        socket.ping()
        texts(socket)
        socket.close()
    accept = told[2][1]["headers"].pop("sec-websocket-accept")
    assert len(accept) == 28
    upgrade = {
        "url": peer.ws,
        "request_headers": {"User-Agent": "guestctl/test", **TOKEN},
        "status": 101,
        "headers": {"upgrade": "websocket", "connection": "Upgrade", "x-where": "here: there"},
        "body": "",
    }
    assert told == [
        ("connect", {"url": peer.ws, "proxy": None}),
        ("connected", {"address": "127.0.0.1", "port": peer.port}),
        ("upgrade", upgrade),
        ("ping", {"direction": "in"}),
        ("pong", {"direction": "out"}),
        ("frame_out", {"text": "out"}),
        ("ping", {"direction": "out"}),
        ("frame_in", {"text": "in"}),
        ("pong", {"direction": "in"}),
        ("close", {"direction": "in", "code": 4001, "reason": "bye"}),
        ("close", {"direction": "out", "code": 4001, "reason": ""}),
        ("closed", {"code": 4001, "error": None}),
    ]


def test_the_observer_gets_the_close_and_the_proxy() -> None:
    told: list[tuple[str, Mapping[str, Any]]] = []

    def script(conn: Conn) -> None:
        conn.head().send(b"HTTP/1.1 200 x\r\n\r\n")
        conn.upgrade().goodbye()

    with serving(script) as proxy:
        network = Network(ca=None, environ={"http_proxy": f"http://me:canary@{place(proxy)}"}, cleartext=True)
        socket = Socket.connect(
            "ws://shop.example/",
            headers={},
            network=network,
            clock=CLOCK,
            deadline=soon(),
            observer=lambda kind, data: told.append((kind, data)),
            user_agent="guestctl/test",
        )
        socket.close(1000, "done")
    assert told[0] == ("connect", {"url": "ws://shop.example/", "proxy": place(proxy)})
    assert told[1] == ("connected", {"address": "127.0.0.1", "port": proxy.port})
    assert told[3] == ("close", {"direction": "out", "code": 1000, "reason": "done"})


def test_the_observer_gets_no_event_for_a_missing_response() -> None:
    told: list[str] = []
    with serving(lambda conn: conn.head()) as peer, pytest.raises(NetworkError):
        connect(peer, observer=lambda kind, _: told.append(kind))
    assert told == ["connect", "connected", "closed"]


def test_the_observer_gets_1006_for_an_end_without_a_close() -> None:
    told: list[tuple[str, Mapping[str, Any]]] = []
    with serving(lambda conn: conn.upgrade()) as peer:
        socket = connect(peer, observer=lambda kind, data: told.append((kind, dict(data))))
        with pytest.raises(NetworkError):
            socket.receive(2.0)
        socket.close()
    assert told[-2:] == [
        ("close", {"direction": "in", "code": 1006, "reason": "the connection ended without a close"}),
        ("closed", {"code": 1006, "error": None}),
    ]


def test_the_observer_gets_a_refusal() -> None:
    told: list[tuple[str, Mapping[str, Any]]] = []
    with serving(lambda conn: conn.head().send(answer(403, b"no"))) as peer, pytest.raises(Refusal):
        connect(peer, observer=lambda kind, data: told.append((kind, data)))
    assert [kind for kind, _ in told] == ["connect", "connected", "upgrade", "closed"]
    assert told[3][1] == {"code": None, "error": "403"}
    assert told[2][1] == {
        "url": peer.ws,
        "request_headers": {"User-Agent": "guestctl/test"},
        "status": 403,
        "headers": {"content-length": "2"},
        "body": "no",
    }
