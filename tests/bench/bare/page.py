"""Opens the inspector's page, and reads its feed in a thread.

A line on stdin with a number waits until so many events have arrived, and prints the seconds since the start and the
delays of the events in seconds, as JSON.
"""

import json
import sys
import threading
import time

import requests
import websocket

page, _, token = sys.argv[1].partition("#")
origin = "/".join(page.split("/")[:3])
answer = requests.post(page + "login", json={"token": token}, headers={"Origin": origin}, timeout=30)
cookie = answer.headers["Set-Cookie"].partition(";")[0]
begun = time.time()
feed = websocket.create_connection(
    f"ws{page[4:]}feed", header=[f"Cookie: {cookie}"], origin=origin, timeout=60, skip_utf8_validation=True
)
delays: list[float] = []
more = threading.Condition()


def read() -> None:
    while True:
        received = json.loads(feed.recv())
        now = time.time()
        with more:
            delays.extend(now - event["time"] for event in received.get("events", ()))
            delays.extend([0.0] * received.get("count", 0))
            more.notify()


threading.Thread(target=read, daemon=True).start()
print(json.dumps({"open": True}), flush=True)
for line in sys.stdin:
    wanted = int(line)
    with more:
        while len(delays) < wanted:
            more.wait(60)
        print(json.dumps({"seconds": time.time() - begun, "delays": delays}), flush=True)
