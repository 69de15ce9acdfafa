"""Readers of all four kinds at once: SSE, JSON Lines, WebSocket and gRPC. Each must have what the log has.

`PYTHONPATH=.extras/grpc .venv/bin/python -m tests.grpc.crowd` runs 20 readers, 5 of which are away for 3 s, while 300
messages arrive and the connection to the service is reset 4 times. Exit code 0: every reader has every message of the
log once, in order and with the same record. Options: `--readers 20 --away 5 --seconds 3 --messages 300 --resets 4
--seed 0`. The seed decides who is away and when, and where the resets are.

Knows: plain clients of each protocol, the sandbox. Must not know: guestctl's own client and relay.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from guestctl.sandbox.server import Sandbox
from tests.grpc.clients import GRPC, chatting, record_of
from tests.relay.processes import READERS, STUCK, EventReader, RelayProcess, flood, relaying_alone, sockets
from tests.sandbox.stranger import Control

#: The id and the record of each event that a reader got.
Received: TypeAlias = "list[tuple[str, dict[str, Any]]]"
KINDS = "message,gap"
PROTOCOLS = (*READERS, "grpc")


@contextmanager
def stream_of(relay: RelayProcess, protocol: str, after: str) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    """Open a reader of this kind, and yield what it gets."""
    if protocol == "grpc":
        with chatting(relay, relay.key) as chat:
            stream = chat.subscribe(after=after, kinds=KINDS.split(","))
            yield ((message.id, record_of(message)) for message in stream)
            stream.cancel()
    else:
        reader = READERS[protocol](relay, f"?after={after}&kinds={KINDS}")
        yield ((str(id_), record) for id_, record in reader)
        reader.close()


@dataclass
class CrowdReader:
    """One reader. It leaves after the message with this number (None: never), and returns when `may_return` is set."""

    protocol: str
    leaves_after: int | None
    left: threading.Event = field(default_factory=threading.Event)
    may_return: threading.Event = field(default_factory=threading.Event)
    received: Received = field(default_factory=list)

    def read(self, relay: RelayProcess, last: str, opened: Callable[[], object]) -> None:
        """Read until the message with the text `last`."""
        while not self.received or self.received[-1][1].get("text") != last:
            after = self.received[-1][0] if self.received else "first"
            with stream_of(relay, self.protocol, after) as events:
                for number, event in enumerate(events, len(self.received)):
                    self.received.append(event)
                    if number == 0:
                        opened()
                    if event[1].get("text") == last:
                        break
                    if number == self.leaves_after and not self.left.is_set():
                        self.left.set()
                        break
                else:
                    return  # the relay ended the stream
            if self.left.is_set():
                assert self.may_return.wait(STUCK)


def run(readers: int, away: int, seconds: float, messages: int, resets: int, seed: int) -> tuple[list[str], str]:
    """Run one crowd. Return what is wrong, each in one line, and the figures."""
    dice = random.Random(seed)
    texts = [f"message {number}" for number in range(messages)]
    kinds = list(itertools.islice(itertools.cycle(PROTOCOLS), readers))
    leavers = set(dice.sample(range(readers), away))
    crowd = [
        CrowdReader(kind, dice.randrange(1, messages // 3) if number in leavers else None)
        for number, kind in enumerate(kinds)
    ]
    cuts = [0, *sorted(dice.sample(range(messages // 3, messages - 1), resets)), messages]
    with relaying_alone(*GRPC) as (sandbox, relay), ThreadPoolExecutor(readers) as pool:
        states = iter(EventReader(relay, "?after=last&kinds=connection"))
        opened = threading.Semaphore(0)
        reading = [pool.submit(one.read, relay, texts[-1], opened.release) for one in crowd]
        for _ in crowd:
            assert opened.acquire(timeout=STUCK)
        for part, (begin, end) in enumerate(itertools.pairwise(cuts)):
            flood(sandbox, texts[begin:end])
            if part == 0:
                for one in crowd:
                    assert one.leaves_after is None or one.left.wait(STUCK)
                threading.Thread(target=_return_after, args=(crowd, seconds)).start()
            if part < resets:
                Control(sandbox)("POST", "/disconnect", code=1006)
                next(record for _, record in states if record["state"] == "live")
        for future in reading:
            future.result(STUCK + seconds)
        problems = _compare(relay, crowd, texts, sandbox)
    counts = ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).items())
    figures = (
        f"{readers} readers ({counts}), {away} of them away for {seconds:g} s, {resets} resets, {messages} messages, "
        f"seed {seed}: {len(problems)} problems"
    )
    return problems, figures


def _return_after(crowd: list[CrowdReader], seconds: float) -> None:
    time.sleep(seconds)
    for one in crowd:
        one.may_return.set()


def _compare(relay: RelayProcess, crowd: list[CrowdReader], texts: list[str], sandbox: Sandbox) -> list[str]:
    """Compare what each reader got with the log, and the log with what was sent."""
    problems = []
    log: Received = []
    with stream_of(relay, "json lines", "first") as events:
        for event in events:
            log.append(event)
            if event[1].get("text") == texts[-1]:
                break
    if [record.get("text") for _, record in log] != ["hello", *texts]:
        problems.append("the log does not have every message once and in order")
    for number, one in enumerate(crowd):
        if one.received == log:
            continue
        first = next((n for n, (a, b) in enumerate(zip(one.received, log, strict=False)) if a != b), len(log))
        got = one.received[first][0] if first < len(one.received) else "nothing"
        problems.append(
            f"reader {number} ({one.protocol}) got {len(one.received)} of {len(log)} events; at {first} it got {got}"
        )
    if sockets(sandbox) != 1:
        problems.append(f"{sockets(sandbox)} sockets are open at the service")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.grpc.crowd")
    parser.add_argument("--readers", type=int, default=20)
    parser.add_argument("--away", type=int, default=5, help="readers that leave and return")
    parser.add_argument("--seconds", type=float, default=3, help="how long they are away")
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument("--resets", type=int, default=4, help="resets of the connection to the service")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    problems, figures = run(**vars(given))
    print(*(json.dumps(problem) for problem in problems), figures, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
