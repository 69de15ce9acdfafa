"""`send` on a socket without guestctl: the same frames over websocket-client. argv: url, token, text."""

import json
import sys
import uuid

import websocket

url, token, text = sys.argv[1:]
socket = websocket.create_connection(url, skip_utf8_validation=True)
deployment = url.partition("deploymentId=")[2]
frame = {"action": "configureSession", "token": token, "tracingId": str(uuid.uuid4()), "deploymentId": deployment}
socket.send(json.dumps({**frame, "startNew": False}))
while json.loads(socket.recv())["class"] != "SessionResponse":
    pass
key = str(uuid.uuid4())
message = {"type": "Text", "text": text, "channel": {"metadata": {"customMessageId": key}}}
socket.send(json.dumps({"action": "onMessage", "token": token, "tracingId": key, "message": message}))
while (body := json.loads(socket.recv())["body"])["direction"] != "Inbound":
    pass
print(json.dumps(body))
socket.close()
