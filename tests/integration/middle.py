"""A misbehaving gateway in front of a sandbox: it answers some requests itself, changes responses, or loses them.

Knows: TCP and the head of an HTTP/1.1 message. Must not know: guestctl, any API. `OtherHost` is another
host that must never receive a request.
"""

from __future__ import annotations

import json
import re
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T", bound="_Listening")
Rule: TypeAlias = Callable[["Asked"], bytes | None]
Change: TypeAlias = Callable[[Any], Any]


class Asked:
    """One request: its head, and whether it asks for a socket."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.method, self.target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        self.upgrade = b"upgrade: websocket" in head.lower()
        length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
        self.length = int(length[1]) if length else 0


def answer(status: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> bytes:
    lines = {"Content-Type": content_type, "Content-Length": str(len(body)), "Connection": "close", **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + body


class _Listening:
    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        try:
            self._server.shutdown(socket.SHUT_RDWR)  # wakes accept(2); close alone does not
        except OSError:
            pass
        self._server.close()
        self._accepting.join()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.serve(connection)
            except OSError:
                pass  # the other side has gone

    def serve(self, connection: socket.socket) -> None:
        raise NotImplementedError


class OtherHost(_Listening):
    """Records what it receives."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        connection.settimeout(0.5)
        self.received.append(connection.recv(65536))
        connection.sendall(answer(200, b"{}"))


class Gateway(_Listening):
    """A gateway. `rule` may answer a request itself; `change` changes the JSON of the sandbox's responses.

    `loses` selects the requests whose response never reaches the guest.
    `rewrite` changes the text of every response and of every frame of the sandbox. It may write what is not JSON.
    """

    def __init__(self) -> None:
        self.behind = 0
        self.rule: Rule = lambda asked: None
        self.change: Change | None = None
        self.loses: Callable[[Asked], bool] = lambda asked: False
        self.rewrite: Callable[[str], str] | None = None
        self.asked: list[Asked] = []
        self._carried: list[tuple[socket.socket, socket.socket]] = []
        super().__init__()

    def cut(self) -> None:
        """Break every connection that is open now."""
        for pair in self._carried:
            for sock in pair:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def serve(self, connection: socket.socket) -> None:
        head, rest = head_of(connection)
        asked = Asked(head)
        while len(rest) < asked.length:
            rest += more(connection)
        self.asked.append(asked)
        own = self.rule(asked)
        if own is not None:
            connection.sendall(own)
            return
        if not asked.upgrade:
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:"))
            head += b"\r\nConnection: close"
        with socket.create_connection(("127.0.0.1", self.behind)) as service:
            pair = (connection, service)
            self._carried.append(pair)
            try:
                service.sendall(head + b"\r\n\r\n" + rest)
                if self.loses(asked):
                    service.recv(1)
                elif asked.upgrade and self.rewrite is not None:
                    self._upgrade(connection, service, self.rewrite)
                elif not asked.upgrade and (self.change is not None or self.rewrite is not None):
                    connection.sendall(self._changed(service))
                else:
                    _splice(connection, service)
            finally:
                self._carried.remove(pair)

    def _upgrade(self, connection: socket.socket, service: socket.socket, rewrite: Callable[[str], str]) -> None:
        """Carry an upgrade and, if the service accepts it, its frames, rewritten."""
        head, begun = head_of(service)
        frames = _RewrittenFrames(service, rewrite)
        accepted = b" 101 " in head.split(b"\r\n", 1)[0]
        connection.sendall(head + b"\r\n\r\n" + (frames.complete(begun) if accepted else begun))
        _splice(connection, frames if accepted else service)

    def _changed(self, service: socket.socket) -> bytes:
        data = b""
        while piece := service.recv(65536):
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if self.rewrite is not None:
            return answer(status, self.rewrite(body.decode()).encode())
        assert self.change is not None
        if not body or status >= 300:
            return data
        return answer(status, json.dumps(self.change(json.loads(body))).encode())


class _RewrittenFrames:
    """The service's end of a socket after the upgrade. `recv` returns its complete frames, the text rewritten."""

    def __init__(self, service: socket.socket, rewrite: Callable[[str], str]) -> None:
        self._service, self._rewrite, self._begun = service, rewrite, b""

    def fileno(self) -> int:
        return self._service.fileno()

    def sendall(self, data: bytes) -> None:
        self._service.sendall(data)

    def recv(self, size: int) -> bytes:
        found = b""
        while not found:
            piece = self._service.recv(size)
            if not piece:
                return b""
            found = self.complete(piece)
        return found

    def complete(self, piece: bytes) -> bytes:
        """Return the frames that this piece completes, rewritten."""
        self._begun += piece
        found = b""
        while (frame := self._next()) is not None:
            found += frame
        return found

    def _next(self) -> bytes | None:
        """Return the next complete frame, rewritten. The sandbox masks and fragments nothing."""
        data = self._begun
        if len(data) < 2:
            return None
        size, at = data[1], 2
        if size >= 126:
            at = 4 if size == 126 else 10
            size = int.from_bytes(data[2:at], "big")
        if len(data) < at + size:
            return None
        self._begun, payload = data[at + size :], data[at : at + size]
        if data[0] & 0x0F != 1:
            return data[: at + size]
        payload = self._rewrite(payload.decode()).encode()
        return data[:1] + b"\x7f" + len(payload).to_bytes(8, "big") + payload


def _splice(one: socket.socket, other: Any) -> None:
    """Carry bytes both ways until either side ends."""
    while True:
        readable, _, _ = select.select([one, other], [], [], 10)
        if not readable:
            return
        for sock in readable:
            data = sock.recv(65536)
            if not data:
                return
            (other if sock is one else one).sendall(data)


def head_of(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return the head of a message and the bytes after it. Raise OSError if the peer closes before."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += more(connection)
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def more(connection: socket.socket) -> bytes:
    """Return the next bytes. Raise OSError if the peer has closed."""
    piece = connection.recv(65536)
    if not piece:
        raise ConnectionResetError
    return piece
