"""Many plain SSE readers of a relay in one process: how long each message took, or how soon the first byte comes.

Arguments: host, port, key, number of readers, and the number of further ones that never read. A message's text is the
time (monotonic) at which it was sent; "last" ends the readers. Prints `open`, then all delays in seconds as JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import time

TEXT = re.compile(rb'"text": ?"([0-9.]+|last)"')


async def main(host: str, port: int, key: str, readers: int, stalled: int) -> None:
    head = f"GET /v1/events HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    delays: list[float] = []
    first_bytes: list[float] = []
    sockets = []
    writers = []  # a writer that nothing refers to closes its connection
    for _ in range(stalled):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((host, port))
        sock.sendall(head)
        sockets.append(sock)

    async def open_one() -> asyncio.StreamReader:
        begun = time.monotonic()
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
        writers.append(writer)
        writer.write(head)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await reader.readuntil(b"\n\n")  # retry
        first_bytes.append(time.monotonic() - begun)
        return reader

    async def read(reader: asyncio.StreamReader) -> None:
        buffer = b""
        while True:
            data = await reader.read(1 << 16)
            now = time.monotonic()
            if not data:
                return
            buffer += data
            whole, _, buffer = buffer.rpartition(b"\n\n")
            for text in TEXT.findall(whole):
                if text == b"last":
                    return
                delays.append(now - float(text))

    opened = [await open_one() for _ in range(readers)]
    print(json.dumps({"first_bytes": sorted(first_bytes)}), flush=True)
    await asyncio.gather(*(read(one) for one in opened))
    print(json.dumps(sorted(delays)), flush=True)
    sys.stdin.read()  # the connections stay open until the caller has looked


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
