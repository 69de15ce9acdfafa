"""The soak: `listen` for a long time while its connection breaks every few seconds. Nothing is lost, nothing grows.

Knows: guestctl as a process, its figures in /proc, and when to break its socket. Must not know: the client's
internals, except how many message ids it remembers.

The listener remembers a fixed number of ids to remove duplicates, and SQLite caches some pages. That memory fills
once. The soak therefore sends enough messages before it starts to measure.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import linear_regression
from tempfile import TemporaryDirectory
from typing import TypeAlias

from guestctl.engine.merge import REMEMBERED
from guestctl.sandbox.server import Sandbox
from tests.faults.processes import STUCK, Record, Shell, records, shows_traceback
from tests.faults.proxy import Action, Proxy

#: Messages per second: 10,000 in half an hour.
RATE = 10_000 / 1800
#: Seconds between two breaks, and the kinds of breaks. None: new connections are refused for a moment, too.
#: A connection in a hole is reset by the next break.
BREAK_INTERVAL = (1.0, 5.0)
BREAKS: tuple[Action | None, ...] = ("cut", "cut", "cut", "fin", "half-close", "hole", "one-way hole", None)
HOLES = ("hole", "one-way hole")
DOWN = 0.3
#: Seconds between two measurements of the process.
MEASURING_INTERVAL = 1.0
#: Messages before the first measurement: enough to fill the memory for ids.
WARM_UP = REMEMBERED + REMEMBERED // 10
#: Seconds in which the listener must show everything after the last break.
RECOVERY = 600.0
#: The name that the proxy gives to a guest without a trace context.
UNTRACED = "?"

Process: TypeAlias = subprocess.Popen[bytes]


@dataclass
class Size:
    """The size of a process: resident memory in MiB, descriptors, threads."""

    at: float
    memory: float
    descriptors: int
    threads: int


@dataclass
class SoakResult:
    """The result. `warm_up`: messages before the first measurement. `violations`: descriptions."""

    seconds: float
    warm_up: int
    messages: int
    breaks: Counter[str]
    connections: int
    #: Sizes before the first break and after the last one.
    first: Size
    last: Size
    #: Sizes in between.
    sizes: list[Size]
    violations: list[str] = field(default_factory=list)

    @property
    def slope(self) -> float:
        """The growth of the resident memory in MiB per hour."""
        if len(self.sizes) < 2:
            return 0.0
        return 3600 * linear_regression([one.at for one in self.sizes], [one.memory for one in self.sizes]).slope

    def __str__(self) -> str:
        """Return a table with one figure per line."""
        first, last = self.first, self.last
        rows = [
            ("minutes", f"{self.seconds / 60:.1f}"),
            ("messages before measuring", f"{self.warm_up}"),
            ("messages", f"{self.messages}"),
            ("breaks", f"{sum(self.breaks.values())}"),
            *((f"  {kind}", f"{count}") for kind, count in sorted(self.breaks.items())),
            ("connections", f"{self.connections}"),
            ("violations", f"{len(self.violations)}"),
            ("MiB resident, first and last", f"{first.memory:.1f} {last.memory:.1f}"),
            ("  growth in MiB per hour", f"{self.slope:+.2f}"),
            ("descriptors, first and last", f"{first.descriptors} {last.descriptors}"),
            ("threads, first and last", f"{first.threads} {last.threads}"),
        ]
        return "\n".join(f"{name:30}{value:>12}" for name, value in rows)


def soak(api: str, seconds: float, *, seed: int = 0, warm_up: int = WARM_UP) -> SoakResult:
    """Listen for some seconds while the connection breaks, after `warm_up` messages without breaks."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="guestctl-soak-")))
        proxy = Proxy()
        sandbox = stack.enter_context(Sandbox(fast=True, also_hosts=[proxy.address]))
        proxy.start(sandbox.port)
        stack.callback(proxy.stop)
        shell = Shell(sandbox, api, folder, through=proxy.url)
        stack.callback(shell.close)
        code, _, err = shell.run("session", "create")
        assert code == 0, err
        out, diagnostics = folder / "out", folder / "diagnostics"
        with out.open("ab") as stdout, diagnostics.open("ab") as stderr:
            argv = ("listen", "--cursor", "cursor", "--forever", "-o", "jsonl")
            listener = shell.start(*argv, stdout=stdout, stderr=stderr)
        received = _ReceivedCount(out)
        stack.callback(received.close)
        for number in range(warm_up + 1):
            shell.push(f"before {number}")
        violations = _await(listener, received, warm_up + 1)
        first, connected = _size(listener), proxy.accepted[UNTRACED]
        messages, breaks, sizes = _send_while_breaking(shell, proxy, listener, seconds, Random(seed))
        proxy.inject("cut", UNTRACED, "socket")
        violations += _await(listener, received, warm_up + 1 + messages)
        time.sleep(MEASURING_INTERVAL)
        last = _size(listener)
        listener.send_signal(signal.SIGINT)
        code = listener.wait(STUCK)
        violations += [] if code == 130 else [f"exit code {code}"]
        violations += _differences(records(out.read_text("utf-8")), shell.log())
        violations += [text] if shows_traceback(text := diagnostics.read_text("utf-8")) else []
        violations += [] if last.descriptors <= first.descriptors else ["descriptors were left open"]
        violations += [] if last.threads <= first.threads else ["threads were left behind"]
        return SoakResult(
            seconds, warm_up, messages, breaks, proxy.accepted[UNTRACED] - connected, first, last, sizes, violations
        )


def _send_while_breaking(
    shell: Shell, proxy: Proxy, listener: Process, seconds: float, random: Random
) -> tuple[int, Counter[str], list[Size]]:
    """Send as the agent, break the connection and measure, until the time is over or the listener has ended."""
    messages, breaks, sizes = 0, Counter[str](), list[Size]()
    how: Action | None = None
    end = time.monotonic() + seconds
    next_message = next_measurement = time.monotonic()
    next_break = next_message + random.uniform(*BREAK_INTERVAL)
    while (now := time.monotonic()) < end and listener.poll() is None:
        if now >= next_message:
            shell.push(f"agent {messages}")
            messages += 1
            next_message += random.uniform(0.0, 2 / RATE)
        if now >= next_break:
            how = "cut" if how in HOLES else random.choice(BREAKS)
            breaks[how or "down"] += 1
            if how is None:
                proxy.down(DOWN)
            else:
                proxy.inject(how, UNTRACED, "socket")
            next_break = now + random.uniform(*BREAK_INTERVAL)
        if now >= next_measurement:
            sizes.append(_size(listener))
            next_measurement = now + MEASURING_INTERVAL
        time.sleep(max(0.0, min(next_message, next_break, next_measurement, end) - time.monotonic()))
    return messages, breaks, sizes


def _differences(lines: list[Record], log: list[Record]) -> list[str]:
    """Return the differences between the shown lines and the service's log."""
    shown = [line["id"] for line in lines if line["kind"] == "message"]
    stored = [one["id"] for one in log]
    # The end may come before anything has proved that the last reconnect missed nothing: that gap is no violation.
    gaps = [line for line in lines if line["kind"] == "gap" and line["reason"] != "unproved"]
    violations = [f"a gap was reported: {line}" for line in gaps]
    missing, more = set(stored) - set(shown), len(shown) - len(set(shown))
    violations += [f"{len(missing)} lost"] if missing else []
    violations += [f"{more} duplicated"] if more else []
    return [*violations, "out of order"] if shown != stored and not (missing or more) else violations


class _ReceivedCount:
    """Counts the messages in a growing file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._rest = b""
        self._count = 0

    def count(self) -> int:
        while piece := self._file.read(1 << 20):
            *lines, self._rest = (self._rest + piece).split(b"\n")
            self._count += sum(line.startswith(b'{"kind":"message"') for line in lines)
        return self._count

    def close(self) -> None:
        self._file.close()


def _await(listener: Process, received: _ReceivedCount, count: int) -> list[str]:
    """Wait until the file has `count` messages. Return a violation if they do not come."""
    until = time.monotonic() + RECOVERY
    while received.count() < count:
        if time.monotonic() > until or listener.poll() is not None:
            end = "is running" if listener.poll() is None else "has ended"
            return [f"{received.count()} of {count} messages came, and the listener {end}"]
        time.sleep(0.05)
    return []


def _size(process: Process) -> Size:
    proc = Path(f"/proc/{process.pid}")
    if process.poll() is not None:
        return Size(time.monotonic(), 0.0, 0, 0)
    lines = (line.partition(":") for line in (proc / "status").read_text("ascii", "replace").splitlines())
    status = {name: value.split() for name, _, value in lines}
    descriptors = sum(1 for _ in (proc / "fd").iterdir())
    return Size(time.monotonic(), int(status["VmRSS"][0]) / 1024, descriptors, int(status["Threads"][0]))
