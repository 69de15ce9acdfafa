"""A stream of messages: throughput, delay and memory."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from tests.bench.figures import Figure, Sample, Scale, side_by_side
from tests.bench.processes import bare, cpu_of, environment, guestctl, resident, run, serving, started

#: Messages before the first measurement of memory.
SETTLED = 10_000


class Flood:
    """A service that sends messages on command, for one listener at a time."""

    def __init__(self, addresses: Mapping[str, str], process: subprocess.Popen[bytes], environ: dict[str, str]) -> None:
        self._process = process
        self.environ = {**environ, "GUESTCTL_SANDBOX_URL": addresses["url"]}
        self.socket = f"ws{addresses['url'][4:]}/v1"

    @contextmanager
    def listener(self, argv: list[str]) -> Iterator[tuple[IO[bytes], int]]:
        """Start a listener, then the messages. Yield its stdout and process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with started(argv, self.environ) as listener:
            assert self._process.stdout.readline() == b"attached\n"
            time.sleep(0.1)
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()
            assert listener.stdout is not None
            yield listener.stdout, listener.pid


@contextmanager
def flooding(count: int, rate: float = 0) -> Iterator[Flood]:
    with TemporaryDirectory() as place:
        environ = environment(Path(place) / "state")
        with serving(bare("flood", str(count), str(rate)), environ) as (addresses, process):
            flood = Flood(addresses, process, environ)
            run(guestctl("session", "create"), flood.environ)
            yield flood


def ours(count: int, *options: str) -> list[str]:
    return guestctl("listen", "-o", "jsonl", "--max", str(count), *options)


#: `listen --no-state` finds no session, so a script creates one before it in the same process.
IN_MEMORY = (sys.executable, "-m", "tests.bench.in_memory")


def throughput(scale: Scale) -> Iterator[Figure]:
    count = scale.burst
    with flooding(count) as flood:
        for note, aim, argv in (
            ("with the ledger", 0.5, ours(count)),
            ("--no-state", 0.6, [*IN_MEMORY, str(count)]),
        ):
            yield _throughput(flood, scale, argv, note, aim)


def _throughput(flood: Flood, scale: Scale, argv: list[str], note: str, aim: float) -> Figure:
    theirs = bare("listen", flood.socket, str(scale.burst))
    return side_by_side(
        f"listen, messages/s, {note}",
        lambda: _rate(flood, argv, scale.burst),
        lambda: _rate(flood, theirs, scale.burst),
        runs=scale.rounds,
        aim=aim,
        ceiling=False,
        baseline="websocket-client, json.loads, print",
        unit="/s",
    )


def _rate(flood: Flood, argv: list[str], count: int) -> Sample:
    """Return the lines per second between the first and the last."""
    with flood.listener(argv) as (lines, pid):
        seen = lines.read1(1 << 16).count(b"\n")  # type: ignore[attr-defined]
        begun, first, cpu = time.perf_counter(), seen, cpu_of(pid)
        while seen < count:
            piece = lines.read1(1 << 16)  # type: ignore[attr-defined]
            if not piece:
                raise RuntimeError(f"only {seen} of {count} messages came")
            seen += piece.count(b"\n")
        return Sample((count - first) / (time.perf_counter() - begun), cpu_of(pid) - cpu)


def delay(scale: Scale) -> Iterator[Figure]:
    """Measure the delay from sending a frame to its line on stdout, at 100 messages per second."""
    with flooding(scale.timed, rate=100) as flood:
        pairs = [
            (_p99(flood, ours(scale.timed)), _p99(flood, bare("listen", flood.socket, str(scale.timed), "flush")))
            for _ in range(scale.rounds)
        ]
    a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
    value = statistics.median(a - b for a, b in pairs)
    yield Figure("listen, p99 delay at 100/s", "the bare loop", a, b, "ms", value, 2.0, kind="more")


def _p99(flood: Flood, argv: list[str]) -> float:
    """Return the delay in milliseconds. The service writes its clock into each message."""
    late: list[float] = []
    with flood.listener(argv) as (lines, _):
        for line in lines:
            now = time.monotonic_ns()
            found = re.search(rb"sent at (\d+)", line)
            if found:
                late.append((now - int(found[1])) / 1e6)
    return sorted(late)[int(len(late) * 0.99)]


def memory(scale: Scale) -> Iterator[Figure]:
    """Measure a listener's memory at the end of a long stream, compared with that after the first messages."""
    count = scale.messages
    settled = min(SETTLED, count // 2)
    with flooding(count) as flood, flood.listener(ours(count + 1)) as (lines, pid):
        _read(lines, settled)
        early = resident(pid)
        _read(lines, count - settled)
        late = resident(pid)
    name = f"listen, memory over {count:,}"
    yield Figure(name, f"after {settled:,}", late, early, "MB", abs(late - early), 5.0, kind="more")


def _read(lines: IO[bytes], count: int) -> None:
    for _ in range(count):
        lines.readline()
