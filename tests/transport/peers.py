"""Raw peers on loopback for the transport tests: a script of literal bytes serves each connection.

Knows: sockets, and RFC 6455 just enough to speak and to read what a client sent. Must not know:
anything of guestctl, so that nothing here can share a mistake with what it tests.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


class Conn:
    """One accepted connection. `request` is the head of the last HTTP request read.

    What returns the connection can be chained, so that most scripts are one line.
    """

    def __init__(self, sock: socket.socket, stopping: threading.Event) -> None:
        self.sock = sock
        self._stopping = stopping
        self.request = b""
        self._data = bytearray()

    def send(self, data: bytes) -> Conn:
        self.sock.sendall(data)
        return self

    def drip(self, data: bytes) -> Conn:
        """Send one byte per segment."""
        for byte in data:
            self.sock.sendall(bytes([byte]))
        return self

    def read(self, count: int) -> bytes:
        while len(self._data) < count:
            piece = self.sock.recv(65536)
            if not piece:
                raise EOFError
            self._data += piece
        part = bytes(self._data[:count])
        del self._data[:count]
        return part

    def head(self) -> Conn:
        """Read a request's head, with the empty line, into `request`."""
        while b"\r\n\r\n" not in self._data:
            piece = self.sock.recv(65536)
            if not piece:
                raise EOFError
            self._data += piece
        self.request = self.read(self._data.index(b"\r\n\r\n") + 4)
        return self

    def body(self) -> bytes:
        """Read the body of the request whose head was read."""
        return self.read(int(header(self.request, b"content-length") or 0))

    def upgrade(self, after: bytes = b"", extra: bytes = b"") -> Conn:
        """Read an upgrade request and accept it. `after` is sent in the same segment."""
        return self.head().send(self.agreed(extra) + after)

    def agreed(self, extra: bytes = b"") -> bytes:
        """Return the 101 response to the upgrade request whose head was read."""
        key = header(self.request, b"sec-websocket-key") + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key).digest())
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n" + extra + b"\r\n"
        )

    def frame(self) -> tuple[int, bytes]:
        """Read one frame of the client: opcode and payload. It must be masked and complete."""
        first, second = self.read(2)
        assert first & 0xF0 == 0x80, "the client fragments or sets reserved bits"
        assert second & 0x80, "the client does not mask"
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.read(8))
        mask = self.read(4)
        payload = self.read(length)
        key = (mask * (length // 4 + 1))[:length]
        return first & 0xF, (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")

    def goodbye(self) -> Conn:
        """Read frames until the client closes, then close."""
        while self.frame()[0] != CLOSE:
            pass
        return self.send(close(1000))

    def rest(self) -> bytes:
        """Read everything until the client disconnects in any way."""
        data = self.read(len(self._data))
        try:
            while piece := self.sock.recv(65536):
                data += piece
        except OSError:
            pass
        return data

    def hold(self, seconds: float | None = None) -> bool:
        """Read nothing until the test ends or the time is over. Return whether the test ended."""
        return self._stopping.wait(seconds)

    def reset(self) -> None:
        """Drop the connection with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Script: TypeAlias = Callable[[Conn], object]


class Peer:
    """A listening peer. `accepted` counts connections; `failures` are what scripts raised."""

    def __init__(self, scripts: tuple[Script, ...], context: ssl.SSLContext | None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._scripts = scripts
        self._context = context
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self._stopping = threading.Event()
        self.failures: list[BaseException] = []
        self._main = threading.Thread(target=self._accept, daemon=True)
        self._main.start()

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1?deploymentId=d"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.accepted, len(self._scripts) - 1)]
            self.accepted += 1
            self._open.append(sock)
            thread = threading.Thread(target=self._play, args=(script, sock), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _play(self, script: Script, sock: socket.socket) -> None:
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
                self._open.append(sock)
            with sock:
                script(Conn(sock, self._stopping))
        except (OSError, EOFError):
            pass  # the client disconnected, or the test ended
        except BaseException as error:
            self.failures.append(error)

    def stop(self) -> None:
        self._stopping.set()
        # shutdown wakes accept(2) and pending reads; close alone does not.
        for sock in [self._listener, *self._open]:
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                pass
        self._listener.close()
        for thread in [self._main, *self._threads]:
            thread.join()
        for sock in self._open:
            sock.close()


@contextmanager
def serving(*scripts: Script, context: ssl.SSLContext | None = None) -> Iterator[Peer]:
    """Start a peer. Its n-th connection runs the n-th script; later ones repeat the last script.

    A script's failed assertion fails the test.
    """
    peer = Peer(scripts, context)
    try:
        yield peer
    finally:
        peer.stop()
    if peer.failures:
        raise peer.failures[0]


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes = b"") -> bytes:
    """Return a frame as a server sends it. `rsv` (0 to 7) and `mask` violate the RFC."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    masked = 0x80 if mask else 0
    if len(payload) < 126:
        head += bytes([masked | len(payload)])
    elif len(payload) < 1 << 16:
        head += bytes([masked | 126]) + struct.pack("!H", len(payload))
    else:
        head += bytes([masked | 127]) + struct.pack("!Q", len(payload))
    return head + mask + payload


def text(content: str) -> bytes:
    return frame(TEXT, content.encode())


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def header(head: bytes, name: bytes) -> bytes:
    """Return the value of a header in a request head, or b"" if it is absent."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""


def answer(status: int, body: bytes = b"", headers: bytes = b"") -> bytes:
    """Return an HTTP response with a Content-Length."""
    return b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), headers, body)
