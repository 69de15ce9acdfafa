"""Many guests at once, with as little work per guest as possible.

argv: host, port, path, deployment, number of guests, number of round trips, text that a reply contains. Each guest
configures its session and waits for the response. Then all send a message; a guest that receives the reply sends
the next one. Without round trips the guests only stay connected. Prints JSON: `attached` guests, guests still
connected at the end (`held`), round trips per `second`.
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
    """Return a client frame with a mask of zero: valid, and cheap to make."""
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
        self._sent = 0

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
            configure = {"action": "configureSession", "token": self.token, "tracingId": str(uuid.uuid4())}
            self.transport.write(frame(json.dumps({**configure, "deploymentId": deployment, "startNew": False})))
        at = 0
        while len(self._data) >= at + 4:
            size, begin = self._data[at + 1], at + 2
            if size == 126:
                size, begin = struct.unpack_from("!H", self._data, at + 2)[0], at + 4
            if len(self._data) < begin + size:
                break
            self.received(self._data[begin : begin + size])
            at = begin + size
        del self._data[:at]

    def received(self, text: bytearray) -> None:
        if not self.attached.done():
            self.attached.set_result(None)
        elif answer in text:
            Guest.left -= 1
            if Guest.left > 0:
                self.send()
            else:
                Guest.finished.set()

    def send(self) -> None:
        self._sent += 1
        message = f'{{"type":"Text","text":"question {self._sent}"}}'
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
            guest.send()
        await Guest.finished.wait()
    else:
        await asyncio.sleep(STAY)
    took = time.perf_counter() - begun
    held = sum(guest.open for guest in guests)
    print(json.dumps({"attached": len(guests), "held": held, "second": trips / took}), flush=True)
    sys.stdin.readline()


asyncio.run(main())
