"""`listen` without guestctl: receive, decode, print. argv: url, how many, `flush` to do that with every line."""

import json
import sys

import websocket

url, count, flush = sys.argv[1], int(sys.argv[2]), "flush" in sys.argv
socket = websocket.create_connection(url, skip_utf8_validation=True)
socket.send(json.dumps({"action": "configureSession", "token": "x", "tracingId": "1"}))
socket.recv()
socket.send(json.dumps({"action": "ready"}))
for _ in range(count):
    _, data = socket.recv_data()
    print(json.loads(data)["body"]["text"], flush=flush)
socket.close()
