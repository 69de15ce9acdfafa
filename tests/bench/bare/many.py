"""Many websocket-client connections at once: each configures, asks, hears, closes. argv: url, how many."""

import json
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import websocket

url, count = sys.argv[1], int(sys.argv[2])
deployment = url.partition("deploymentId=")[2]


def attach(token: str) -> Any:
    socket = websocket.create_connection(url, skip_utf8_validation=True)
    said = {"action": "configureSession", "token": token, "tracingId": str(uuid.uuid4())}
    socket.send(json.dumps({**said, "deploymentId": deployment, "startNew": False}))
    while json.loads(socket.recv())["class"] != "SessionResponse":
        pass
    return token, socket


def ask(one: Any) -> None:
    token, socket = one
    message = {"type": "Text", "text": "question"}
    socket.send(json.dumps({"action": "onMessage", "token": token, "tracingId": str(uuid.uuid4()), "message": message}))
    while json.loads(socket.recv())["body"]["direction"] != "Outbound":
        pass


with ThreadPoolExecutor(20) as pool:
    begun = time.perf_counter()
    guests = list(pool.map(attach, [str(uuid.uuid4()) for _ in range(count)]))
    list(pool.map(ask, guests))
    for _, socket in guests:
        socket.close()
    print(json.dumps({"seconds": time.perf_counter() - begun}))
