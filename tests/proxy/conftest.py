"""A proxy in this process in front of a scripted peer, and a client with plain sockets."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, TypeAlias

import pytest

from guestctl.core.clock import SystemClock
from guestctl.proxy.proxy_server import RecordingProxy
from guestctl.proxy.target import Target
from guestctl.transport.network import Network
from tests.transport.peers import CLOSE, Conn, frame

Start: TypeAlias = Callable[..., RecordingProxy]
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
#: Seconds after which a test that waits for bytes fails.
PATIENCE = 30.0


class PlainClient:
    """One connection to the proxy."""

    def __init__(self, proxy: RecordingProxy | int) -> None:
        port = proxy if isinstance(proxy, int) else proxy.port
        self.host = f"127.0.0.1:{port}".encode()
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.data = b""

    def __enter__(self) -> PlainClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> PlainClient:
        self.sock.sendall(data)
        return self

    def request(self, line: bytes, *headers: bytes, body: bytes = b"") -> PlainClient:
        """Send a request with the right Host."""
        head = b"\r\n".join([line + b" HTTP/1.1", b"Host: " + self.host, *headers])
        return self.send(head + b"\r\n\r\n" + body)

    def head(self) -> tuple[bytes, dict[bytes, bytes]]:
        """Return the status line and the headers of the next answer, with names in lower case."""
        while b"\r\n\r\n" not in self.data:
            piece = self.sock.recv(65536)
            assert piece, self.data
            self.data += piece
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        return line, {name.lower(): value.strip() for name, _, value in (one.partition(b":") for one in lines)}

    def read(self, count: int) -> bytes:
        while len(self.data) < count:
            piece = self.sock.recv(65536)
            assert piece, self.data
            self.data += piece
        found, self.data = self.data[:count], self.data[count:]
        return found

    def answer(self) -> tuple[bytes, dict[bytes, bytes], bytes]:
        """Return the next answer, which states its length."""
        line, headers = self.head()
        return line, headers, self.read(int(headers[b"content-length"]))

    def rest(self) -> bytes:
        """Read until the end of the connection."""
        while piece := self.sock.recv(65536):
            self.data += piece
        return self.data

    def upgrade(self, path: bytes = b"/v1?deploymentId=d", *headers: bytes) -> PlainClient:
        """Open a WebSocket."""
        self.request(
            b"GET " + path,
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: " + KEY,
            *headers,
        )
        line, _ = self.head()
        assert line == b"HTTP/1.1 101 Switching Protocols"
        return self

    def frame(self, opcode: int, payload: bytes, *, fin: bool = True) -> PlainClient:
        """Send a masked frame."""
        mask = b"\x01\x02\x03\x04"
        masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
        return self.send(frame(opcode, masked, fin=fin, mask=mask))

    def receive(self) -> tuple[int, bytes]:
        """Return the opcode and the payload of the next frame."""
        first, second = self.read(2)
        assert not second & 0x80
        size = second
        if size == 126:
            (size,) = struct.unpack("!H", self.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.read(8))
        return first & 0x0F, self.read(size)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@pytest.fixture
def proxied() -> Iterator[Start]:
    """Return `proxied(url, …)`, which starts a proxy in front of an address."""
    with ExitStack() as stack:

        def start(url: str | Target, *, environ: Mapping[str, str] | None = None, **more: Any) -> RecordingProxy:
            target = Target.of_url(url) if isinstance(url, str) else url
            network = Network(ca=more.pop("ca", None), environ=environ or {})
            return stack.enter_context(RecordingProxy(target, network, clock=SystemClock(), **more))

        yield start


def echo(conn: Conn) -> None:
    """Accept an upgrade and send every frame back, a close frame last."""
    conn.upgrade()
    while True:
        opcode, payload = conn.frame()
        conn.send(frame(opcode, payload))
        if opcode == CLOSE:
            return
