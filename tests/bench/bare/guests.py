"""Many guests at once, as cheap as guests can be. argv: host, port, path, deployment, how many guests, how many
round trips, what an answer has in it.

Each configures its session and waits for an answer; then all say something, and whoever hears the
answer says the next thing. No trips: they only stay. Prints JSON:
`attached` guests, how many were `held` to the end, round trips a `second`.
"""

import asyncio
import base64
import json
import os
import struct
import sys
import time
import uuid

host, port, path, deployment = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
count, trips, answer = int(sys.argv[5]), int(sys.argv[6]), sys.argv[7].encode()
STAY = 2.0


def frame(text: str) -> bytes:
    """A client frame whose mask is zero: legal, and nothing to compute."""
    data = text.encode()
    size = bytes([0x81, 0x80 | len(data)]) if len(data) < 126 else b"\x81\xfe" + struct.pack("!H", len(data))
    return size + b"\0\0\0\0" + data


class Guest(asyncio.Protocol):
    left = trips
    finished: "asyncio.Event"

    def __init__(self) -> None:
        self.token = str(uuid.uuid4())
        self.attached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.open = True
        self._data = bytearray()
        self._upgraded = False
        self._said = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET {path}?deploymentId={deployment} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._upgraded:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            assert self._data.startswith(b"HTTP/1.1 101"), self._data[:200]
            del self._data[: end + 4]
            self._upgraded = True
            said = {"action": "configureSession", "token": self.token, "tracingId": str(uuid.uuid4())}
            self.transport.write(frame(json.dumps({**said, "deploymentId": deployment, "startNew": False})))
        at = 0
        while len(self._data) >= at + 4:
            size, begin = self._data[at + 1], at + 2
            if size == 126:
                size, begin = struct.unpack_from("!H", self._data, at + 2)[0], at + 4
            if len(self._data) < begin + size:
                break
            self.heard(self._data[begin : begin + size])
            at = begin + size
        del self._data[:at]

    def heard(self, text: bytearray) -> None:
        if not self.attached.done():
            self.attached.set_result(None)
        elif answer in text:
            Guest.left -= 1
            if Guest.left > 0:
                self.say()
            else:
                Guest.finished.set()

    def say(self) -> None:
        self._said += 1
        message = f'{{"type":"Text","text":"question {self._said}"}}'
        self.transport.write(
            frame(f'{{"action":"onMessage","token":"{self.token}","tracingId":"{uuid.uuid4()}","message":{message}}}')
        )


async def main() -> None:
    loop = asyncio.get_running_loop()
    Guest.finished = asyncio.Event()
    guests: list[Guest] = []
    for _ in range(count):
        _, guest = await loop.create_connection(Guest, host, port)
        guests.append(guest)
        await guest.attached
    begun = time.perf_counter()
    if trips:
        for guest in guests:
            guest.say()
        await Guest.finished.wait()
    else:
        await asyncio.sleep(STAY)
    took = time.perf_counter() - begun
    held = sum(guest.open for guest in guests)
    print(json.dumps({"attached": len(guests), "held": held, "second": trips / took}), flush=True)
    sys.stdin.readline()


asyncio.run(main())
