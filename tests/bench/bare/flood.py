"""A service that only sends: it answers the start of a session and an empty history, then sends messages.

argv: the number of messages, and messages per second (0: as fast as possible). It prints its address as JSON, and
`attached` whenever a listener has attached. A line on stdin starts the messages. It uses only the standard library
and makes frames in bulk, so that the reader is what is measured.
"""

import base64
import hashlib
import json
import socket
import struct
import sys
import threading
import time

count, rate = int(sys.argv[1]), float(sys.argv[2])
listener: list[socket.socket] = []
EMPTY = b'{"entities":[],"pageSize":1,"pageNumber":1,"total":0}'
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(EMPTY) + EMPTY
MESSAGE = (
    b'{"type":"message","class":"StructuredMessage","code":200,"body":{"id":"%032x","type":"Text",'
    b'"text":"message %d of the agent, sent at %d","direction":"Outbound","originatingEntity":"Human",'
    b'"channel":{"time":"2026-03-04T%02d:%02d:%02d.%03dZ","type":"Private","from":{},"to":{}},'
    b'"metadata":{"correlationId":"%032x"}}}'
)


def frame(text: bytes) -> bytes:
    size = bytes([0x81, len(text)]) if len(text) < 126 else b"\x81\x7e" + struct.pack("!H", len(text))
    return size + text


def message(number: int) -> bytes:
    seconds = number // 1000
    clock = (seconds // 3600 % 24, seconds // 60 % 60, seconds % 60, number % 1000)
    return frame(MESSAGE % (number, number, time.monotonic_ns(), *clock, number))


def exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.recv(size - len(data))
        if not piece:
            raise ConnectionError
        data += piece
    return data


def received(stream: socket.socket) -> dict[str, str]:
    _, size = exactly(stream, 2)
    size &= 0x7F
    if size == 126:
        size = struct.unpack("!H", exactly(stream, 2))[0]
    mask = exactly(stream, 4)
    data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(exactly(stream, size)))
    try:
        return dict(json.loads(data))
    except ValueError:  # a close frame
        return {"action": "close"}


def reply(stream: socket.socket, kind: str, body: dict[str, object], asked: dict[str, str]) -> None:
    said = {"type": "response", "class": kind, "code": 200, "body": body, "tracingId": asked["tracingId"]}
    stream.sendall(frame(json.dumps(said).encode()))


def converse(stream: socket.socket, key: str) -> None:
    accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
    head = b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    stream.sendall(head + accept + b"\r\n\r\n")
    while True:
        asked = received(stream)
        if asked["action"] == "configureSession":
            listener[:] = [stream]
            reply(stream, "SessionResponse", {"connected": True, "newSession": False, "readOnly": False}, asked)
        elif asked["action"] == "getJwt":
            reply(stream, "JwtResponse", {"jwt": "a.b.c", "exp": int(time.time()) + 3600}, asked)
        elif asked["action"] == "ready":
            print("attached", flush=True)
        elif asked["action"] == "close":
            stream.sendall(b"\x88\x02\x03\xe8")
            return


def serve(stream: socket.socket) -> None:
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += exactly(stream, 1)
            key = [
                line[19:].strip()
                for line in head.decode().split("\r\n")
                if line.lower().startswith("sec-websocket-key")
            ]
            if key:
                converse(stream, key[0])
                return
            stream.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(EMPTY)
            )
            stream.sendall(EMPTY)
            if b"/messages" in head:
                print("attached", flush=True)
    except OSError:
        pass
    finally:
        stream.close()


def flood(stream: socket.socket) -> None:
    try:
        if rate:
            begun = time.monotonic()
            for number in range(count):
                time.sleep(max(0.0, begun + number / rate - time.monotonic()))
                stream.sendall(message(number))
        else:
            for first in range(0, count, 256):
                stream.sendall(b"".join(message(number) for number in range(first, min(first + 256, count))))
    except OSError:
        pass  # the listener has disconnected


def accept(server: socket.socket) -> None:
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()


with socket.create_server(("127.0.0.1", 0)) as port:
    print(json.dumps({"url": f"http://127.0.0.1:{port.getsockname()[1]}"}), flush=True)
    threading.Thread(target=accept, args=(port,), daemon=True).start()
    for _ in sys.stdin:
        flood(listener[0])
