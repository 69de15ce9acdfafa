"""Measures the relay over gRPC: how long an event takes from the service's socket to each of many readers.

`PYTHONPATH=.extras/grpc .venv/bin/python -m tests.grpc.bench` prints one line. The sandbox, the relay and the readers
are three processes, and the readers are one program. Options: `--readers 100 --rate 20 --seconds 10`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from guestctl.relay.proto import chat_stream_pb2 as pb
from tests.grpc.clients import stub_of
from tests.relay.processes import relaying_alone

#: The text of the last message.
_LAST = "last"
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


async def read(address: str, key: str, readers: int) -> None:
    """Read with many connections until the last message. Print a line when all are open, then all delays in seconds."""
    delays: list[float] = []
    opened = asyncio.Semaphore(0)

    async def one() -> None:
        async with grpc.aio.insecure_channel(address, options=_OWN_CONNECTION) as channel:
            stream: Any = stub_of(channel).Subscribe(pb.ChatRequest(), metadata=(("authorization", f"Bearer {key}"),))
            await stream.initial_metadata()
            opened.release()
            async for message in stream:
                if message.text == _LAST:
                    return
                delays.append(time.monotonic() - float(message.text))

    tasks = [asyncio.create_task(one()) for _ in range(readers)]
    for _ in tasks:
        await opened.acquire()
    print("open", flush=True)
    await asyncio.gather(*tasks)
    print(json.dumps(delays))


def cpu_seconds(process: int) -> float:
    """Return the processor time that a process has used (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def measure(readers: int, rate: float, seconds: float) -> str:
    """Send messages at a steady rate, and return what the readers saw."""
    with relaying_alone("--grpc", "127.0.0.1:0") as (sandbox, relay):
        (conversation,) = sandbox.service.conversations.values()

        def send(text: str) -> None:
            sandbox.call(lambda: sandbox.service.send(conversation, text, role="agent"))

        command = [sys.executable, "-m", "tests.grpc.bench", "read", relay.ready["grpc"], relay.key, str(readers)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reading:
            assert reading.stdout is not None
            assert reading.stdout.readline() == "open\n"
            used, begun = cpu_seconds(relay.process.pid), time.monotonic()
            for number in range(int(rate * seconds)):
                time.sleep(max(0.0, begun + number / rate - time.monotonic()))
                send(repr(time.monotonic()))
            took = time.monotonic() - begun
            used = cpu_seconds(relay.process.pid) - used
            send(_LAST)
            delays = sorted(json.loads(reading.stdout.read()))
    assert len(delays) == int(rate * seconds) * readers
    p50, p99 = (1000 * delays[int(len(delays) * share)] for share in (0.5, 0.99))
    return (
        f"{readers} readers x {rate:g}/s: p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {1000 * delays[-1]:.0f} ms; "
        f"the relay used {100 * used / took:.0f} % of one core"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.grpc.bench")
    parser.add_argument("--readers", type=int, default=100)
    parser.add_argument("--rate", type=float, default=20, help="messages per second")
    parser.add_argument("--seconds", type=float, default=10)
    given = parser.parse_args()
    print(measure(given.readers, given.rate, given.seconds))


if __name__ == "__main__":
    if sys.argv[1:2] == ["read"]:
        asyncio.run(read(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        main()
