"""A gateway that repeats the guest's secrets in every text of an answer.

Knows: TCP, the head of an HTTP/1.1 message, a close frame. Must not know: guestctl, any API.
"""

from __future__ import annotations

import json
import re
import select
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from tests.integration.middle import Asked, _Listening, answer, head_of, more
from tests.security.canaries import Canaries

Trick: TypeAlias = Callable[["Teller", Asked, bytes], bytes | None]
"""Returns the answer that replaces the service's `reply` (head and body). None: no replacement."""


class Teller(_Listening):
    """A gateway in front of a sandbox.

    `trick` changes answers to requests and upgrades. `goodbye` closes each socket at its first frame, with a secret
    of that frame as the reason. All traffic is recorded.
    """

    def __init__(self, canaries: Canaries) -> None:
        self.behind = 0
        self.canaries = canaries
        self.trick: Trick | None = None
        self.goodbye = False
        #: What is said at the goodbye, when it is not a secret.
        self.say = ""
        #: What this run's guest has told us last, and so may hear again.
        self.told: str | None = None
        super().__init__()

    @property
    def secret(self) -> str:
        return self.told or "nothing-was-told-yet"

    def _hear(self, data: bytes) -> None:
        self.told = self.canaries.overhear(data) or self.told

    def serve(self, connection: socket.socket) -> None:
        head, rest = head_of(connection)
        asked = Asked(head)
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        while length and len(rest) < int(length[1]):
            rest += more(connection)
        self._hear(head + b"\r\n" + rest)
        if not asked.upgrade:
            head = b"\r\n".join(x for x in head.split(b"\r\n") if not x.lower().startswith(b"connection:"))
            head += b"\r\nConnection: close"
        with socket.create_connection(("127.0.0.1", self.behind)) as service:
            service.sendall(head + b"\r\n\r\n" + rest)
            if asked.upgrade:
                self._upgraded(connection, service, asked)
                return
            reply = b""
            while piece := service.recv(65536):
                reply += piece
        self.canaries.overhear(reply)
        told = self.trick(self, asked, reply) if self.trick else None
        connection.sendall(reply if told is None else told)

    def _upgraded(self, connection: socket.socket, service: socket.socket, asked: Asked) -> None:
        reply = b""
        while b"\r\n\r\n" not in reply:
            reply += more(service)
        told = self.trick(self, asked, reply) if self.trick else None
        if told is not None:
            connection.sendall(told)
            return
        connection.sendall(reply)
        while True:
            readable, _, _ = select.select([connection, service], [], [], 10)
            if not readable:
                return
            for sock in readable:
                data = sock.recv(65536)
                if not data:
                    return
                if sock is service:
                    self.canaries.overhear(data)
                else:
                    self._hear(unmasked(data))
                    if self.goodbye:
                        reason = (self.say or f"{self.secret} is not welcome").encode()[:120]
                        connection.sendall(bytes([0x88, len(reason) + 2]) + struct.pack("!H", 4000) + reason)
                        return
                (connection if sock is service else service).sendall(data)


def unmasked(data: bytes) -> bytes:
    """Return the payload of a client's frame if `data` starts one."""
    size, at = data[1] & 0x7F if len(data) > 1 else 0, 2
    if size == 126:
        size, at = int.from_bytes(data[2:4], "big"), 4
    mask, payload = data[at : at + 4], data[at + 4 : at + 4 + size]
    return bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload)) if len(mask) == 4 else b""


# --- tricks ---


def _body(reply: bytes) -> bytes:
    return reply.partition(b"\r\n\r\n")[2]


def _echo(status: int) -> Trick:
    def told(teller: Teller, asked: Asked, reply: bytes) -> bytes:
        said = {
            "message": f"token {teller.secret} is not welcome",
            "token": teller.secret,
            "code": "refused",
            "debug": {"headers": {"Authorization": f"Bearer {teller.secret}"}, "args": [teller.secret]},
        }
        return answer(status, json.dumps(said).encode())

    return told


def _page(teller: Teller, asked: Asked, reply: bytes) -> bytes:
    page = f"<h1>Oops</h1><pre>{asked.head.decode()}</pre> cookie {teller.secret}"
    return answer(500, page.encode(), "text/html")


def _cut(part: float) -> Trick:
    """Return a complete HTTP message whose JSON stops in the middle."""

    def told(teller: Teller, asked: Asked, reply: bytes) -> bytes | None:
        if asked.upgrade:
            return None
        body = _body(reply)
        ends = [found.end() - 3 for found in re.finditer(rb'(?i)(token|jwt|url)"\s*:\s*"[^"]+"', body)]
        at = ends[-1] if ends and part == 1.0 else int(len(body) * min(part, 0.99))
        return answer(200, body[:at] or b'{"token": "' + teller.secret.encode())

    return told


def _prose(teller: Teller, asked: Asked, reply: bytes) -> bytes:
    return answer(200, f"not JSON: Bearer {teller.secret}, jwt={teller.secret} and {teller.secret}".encode())


def _redirect(teller: Teller, asked: Asked, reply: bytes) -> bytes:
    return answer(302, b"", Location=f"https://elsewhere.example/?token={teller.secret}", Set_Cookie=teller.secret)


def _reason_phrase(teller: Teller, asked: Asked, reply: bytes) -> bytes:
    return f"HTTP/1.1 400 {teller.secret}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def _not_http(teller: Teller, asked: Asked, reply: bytes) -> bytes:
    return f"{teller.secret} {teller.secret}\r\n{teller.secret}: x\r\n\r\n".encode()


def _broken(teller: Teller, asked: Asked, reply: bytes) -> bytes:
    return reply[: len(reply) // 2]


def _silent(teller: Teller, asked: Asked, reply: bytes) -> bytes:
    return b""


def _bad_handshake(teller: Teller, asked: Asked, reply: bytes) -> bytes | None:
    if not asked.upgrade:
        return None
    accept = f"Sec-WebSocket-Accept: {teller.secret}\r\nX-Token: {teller.secret}"
    return f"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{accept}\r\n\r\n".encode()


def _wrong_members(teller: Teller, asked: Asked, reply: bytes) -> bytes | None:
    """Give every member another type, except secrets."""
    if asked.upgrade:
        return None
    try:
        value: Any = json.loads(_body(reply))
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    return answer(200, json.dumps({"strange": True, **{k: v for k, v in value.items() if "oken" in k}}).encode())


TRICKS: Mapping[str, Trick | None] = {
    "as it should be": None,
    **{f"echo {status}": _echo(status) for status in (400, 401, 403, 404, 409, 429, 503)},
    "page": _page,
    "cut in half": _cut(0.5),
    "cut in a secret": _cut(1.0),
    "prose": _prose,
    "redirect": _redirect,
    "reason phrase": _reason_phrase,
    "not HTTP": _not_http,
    "broken": _broken,
    "silent": _silent,
    "bad handshake": _bad_handshake,
    "wrong members": _wrong_members,
}
