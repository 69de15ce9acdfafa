"""The relay: delay of its readers, with and without one that never reads; memory; first byte; sockets."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from guestctl.sandbox.server import Sandbox
from tests.bench.figures import Figure, Scale
from tests.bench.processes import bare, resident
from tests.relay.processes import RelayProcess, relaying_alone, sockets

#: Messages a second.
RATE = 50.0
#: Bytes that are too much for the buffers of a reader that never reads, so that it is cut.
PADDING = "x" * 4000


@dataclass
class Reading:
    """What readers saw: sorted delays and times until the first byte of the stream, in milliseconds.

    `cpu` is the relay's share of one core, `grown` what its memory grew by, in megabytes.
    """

    delays: list[float]
    first_bytes: list[float]
    cpu: float
    grown: float
    sockets: int

    @property
    def p99(self) -> float:
        return self.delays[int(len(self.delays) * 0.99)]


def _cpu(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _read(
    sandbox: Sandbox, relay: RelayProcess, readers: int, messages: int, stalled: int = 0, more: str = ""
) -> Reading:
    """Send messages at a steady rate to many readers. `more` is the text of another message after each."""
    (conversation,) = sandbox.service.conversations.values()

    def send(*texts: str) -> None:
        sandbox.call(lambda: [sandbox.service.send(conversation, text, role="agent") for text in texts])

    place = urlsplit(relay.url)
    argv = bare("relay_readers", str(place.hostname), str(place.port), relay.key, str(readers), str(stalled))
    before = resident(relay.process.pid)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reading:
        assert reading.stdout is not None
        assert reading.stdin is not None
        first_bytes = json.loads(reading.stdout.readline())["first_bytes"]
        used, begun = _cpu(relay.process.pid), time.monotonic()
        for number in range(messages):
            time.sleep(max(0.0, begun + number / RATE - time.monotonic()))
            send(repr(time.monotonic()), *([more] if more else []))
        took, used = time.monotonic() - begun, _cpu(relay.process.pid) - used
        send("last")
        delays = json.loads(reading.stdout.readline())
        grown, open_sockets = resident(relay.process.pid) - before, sockets(sandbox)
        reading.stdin.close()
    assert len(delays) == messages * readers, f"{len(delays)} of {messages * readers}"
    milliseconds = [[1000 * one for one in many] for many in (delays, first_bytes)]
    return Reading(milliseconds[0], sorted(milliseconds[1]), used / took, grown, open_sockets)


def delay(scale: Scale) -> Iterator[Figure]:
    """100 readers, 50 messages a second: from the service's socket to the reader."""
    with relaying_alone() as (sandbox, relay):
        _read(sandbox, relay, 5, 20)
        plain = _read(sandbox, relay, 100, scale.timed // 2)
    note = f"median {plain.delays[len(plain.delays) // 2]:.1f} ms; {100 * plain.cpu:.0f} % of one core"
    yield Figure("relay, 100 readers, 50/s: p99", "aim", plain.p99, 100, "ms", plain.p99, 100, "more", note=note)
    first = plain.first_bytes[int(len(plain.first_bytes) * 0.99)]
    yield Figure("relay, first byte of SSE: p99", "aim", first, 50, "ms", first, 50, "more")
    yield Figure("relay, sockets at the service", "one", plain.sockets, 1, "", plain.sockets, 1)


def memory(scale: Scale) -> Iterator[Figure]:
    """1,000 readers: memory of the relay's process."""
    readers = min(1_000, scale.idle)
    with relaying_alone() as (sandbox, relay):
        found = _read(sandbox, relay, readers, 20)
        used = resident(relay.process.pid)
    each = 1024 * found.grown / readers
    note = f"{each:.1f} kB each"
    yield Figure(f"relay, {readers} SSE readers: memory", "aim", used, 80, "MiB", used, 80, "more", note=note)


def stalled(scale: Scale) -> Iterator[Figure]:
    """A reader that never reads: delay of the others, and memory. Medians, because one slow moment decides a p99."""
    plain, hindered = [], []
    with relaying_alone() as (sandbox, relay):
        _read(sandbox, relay, 5, 20)
        for _ in range(scale.rounds):
            plain.append(_read(sandbox, relay, 20, scale.timed // 4, more=PADDING))
            hindered.append(_read(sandbox, relay, 20, scale.timed // 4, stalled=1, more=PADDING))
    ours, theirs = (median(one.p99 for one in side) for side in (hindered, plain))
    cpu = median(one.cpu for one in hindered) / median(one.cpu for one in plain)
    note = f"the relay's memory grew by {max(one.grown for one in hindered):.1f} MB"
    name = "relay, next to one that never reads: p99"
    yield Figure(name, "without it", ours, theirs, "ms", ours / theirs, 1.1, note=note, cpu=cpu)
