"""The delay that the proxy adds to a frame and to a request: `python -m tests.bench.proxy [ROUNDS]`.

A plain client measures round trips to a sandbox, directly and through `guestctl proxy`, in turn, on connections that
stay open. The sandbox, the proxy and the client are processes of their own.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import quantiles
from typing import Any

import websocket

BATCH = 50
TOKEN = "0f3c1a52-8f0e-4c1b-9a51-3f4e2d1c0b9a"


@contextmanager
def running(*words: str, **more: str) -> Iterator[dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "guestctl", *words, "-o", "json"],
        env={**os.environ, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate()


def frames(url: str, deployment: str) -> Callable[[], object]:
    """Return a function that sends a frame and waits for its answer."""
    line: Any = websocket.create_connection(f"ws{url[4:]}/v1?deploymentId={deployment}", origin="http://localhost")
    line.send(json.dumps({"action": "configureSession", "token": TOKEN, "deploymentId": deployment}))
    line.recv()
    text = json.dumps({"action": "getConfiguration", "deploymentId": deployment, "token": TOKEN})

    def once() -> None:
        line.send(text)
        line.recv()

    return once


def requests(url: str, deployment: str) -> Callable[[], object]:
    """Return a function that reads the deployment's configuration."""
    connection = http.client.HTTPConnection(url.partition("//")[2])

    def once() -> None:
        connection.request("GET", f"/webdeployments/v1/deployments/{deployment}/config.json")
        connection.getresponse().read()

    return once


def main(rounds: int) -> None:
    """Print the percentiles of both, and what the proxy adds."""
    with ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory())
        sandbox = stack.enter_context(running("sandbox", "serve", "--fast", GUESTCTL_STATE=state))
        proxy = stack.enter_context(running("proxy", "--to", sandbox["url"], GUESTCTL_STATE=state))
        for name, kind in (("frame", frames), ("request", requests)):
            ways = {way["url"]: kind(way["url"], sandbox["deployment_id"]) for way in (sandbox, proxy)}
            taken: dict[str, list[float]] = {url: [] for url in ways}
            for _ in range(max(2, rounds // BATCH)):
                for url, once in ways.items():
                    for _ in range(BATCH):
                        begun = time.perf_counter()
                        once()
                        taken[url].append((time.perf_counter() - begun) * 1000)
            direct, through = (quantiles(values, n=100) for values in taken.values())
            for percent in (50, 99):
                one, other = direct[percent - 1], through[percent - 1]
                print(
                    f"{name} p{percent}: {one:.2f} ms directly, {other:.2f} ms through the proxy, {other - one:+.2f} ms"
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
