"""`listen` for a long time on a line that breaks every few seconds: nothing lost, and nothing that grows.

Knows: the real program as a process, what the kernel says of it (/proc), when to break its socket.
Must not know: the client's inside, beyond how many ids it remembers.

The program remembers the last so many ids for dropping doubles, and SQLite keeps some pages: that is
memory it may fill once. The long form fills it before anything is measured.
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
from tests.faults.processes import STUCK, Record, Shell, records, traced
from tests.faults.proxy import Action, Proxy

#: Messages per second: 10,000 in half an hour.
RATE = 10_000 / 1800
#: Seconds between two breaks, and how one comes about; None: for a moment nobody can connect either.
#: What is in a hole is cut by the next break.
BREAKS = (1.0, 5.0)
HOW: tuple[Action | None, ...] = ("cut", "cut", "cut", "fin", "half-close", "hole", "one-way hole", None)
HOLES = ("hole", "one-way hole")
DOWN = 0.3
#: Seconds between two looks at the process.
LOOK = 1.0
#: Messages before anything is measured: ids remembered, rows kept, and some more.
WARM = REMEMBERED + REMEMBERED // 10
#: Seconds the listener may need for everything, once the line is whole.
RECOVERY = 600.0
#: Who the proxy takes for a guest without a trace context.
NOBODY = "?"

Process: TypeAlias = subprocess.Popen[bytes]


@dataclass
class Size:
    """What a process holds: resident memory in MiB, descriptors, threads."""

    at: float
    memory: float
    descriptors: int
    threads: int


@dataclass
class Soaked:
    """What came of it. `warmed`: messages before anything was measured; `violations` in words."""

    seconds: float
    warmed: int
    messages: int
    breaks: Counter[str]
    connections: int
    #: Before the first break, and after the last.
    first: Size
    last: Size
    #: In between.
    sizes: list[Size]
    violations: list[str] = field(default_factory=list)

    @property
    def slope(self) -> float:
        """MiB per hour by which the resident memory grew."""
        if len(self.sizes) < 2:
            return 0.0
        return 3600 * linear_regression([one.at for one in self.sizes], [one.memory for one in self.sizes]).slope

    def __str__(self) -> str:
        """The table, a figure a line."""
        first, last = self.first, self.last
        rows = [
            ("minutes", f"{self.seconds / 60:.1f}"),
            ("messages before", f"{self.warmed}"),
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


def soak(api: str, seconds: float, *, seed: int = 0, warm: int = WARM) -> Soaked:
    """Listen so long on a line that breaks, after so many messages on one that does not."""
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
        out, told = folder / "out", folder / "told"
        with out.open("ab") as stdout, told.open("ab") as stderr:
            argv = ("listen", "--cursor", "cursor", "--forever", "-o", "jsonl")
            listener = shell.start(*argv, stdout=stdout, stderr=stderr)
        heard = _Heard(out)
        stack.callback(heard.close)
        for number in range(warm + 1):
            shell.push(f"before {number}")
        wrong = _await(listener, heard, warm + 1)
        first, connected = _size(listener), proxy.accepted[NOBODY]
        messages, breaks, sizes = _weather(shell, proxy, listener, seconds, Random(seed))
        proxy.strike("cut", NOBODY, "socket")
        wrong += _await(listener, heard, warm + 1 + messages)
        time.sleep(LOOK)
        last = _size(listener)
        listener.send_signal(signal.SIGINT)
        code = listener.wait(STUCK)
        wrong += [] if code == 130 else [f"exit code {code}"]
        wrong += _compared(records(out.read_text("utf-8")), shell.log())
        wrong += [text] if traced(text := told.read_text("utf-8")) else []
        wrong += [] if last.descriptors <= first.descriptors else ["descriptors were left open"]
        wrong += [] if last.threads <= first.threads else ["threads were left behind"]
        return Soaked(seconds, warm, messages, breaks, proxy.accepted[NOBODY] - connected, first, last, sizes, wrong)


def _weather(
    shell: Shell, proxy: Proxy, listener: Process, seconds: float, random: Random
) -> tuple[int, Counter[str], list[Size]]:
    """An agent speaks, the line breaks, somebody looks; until the time is over or the listener has ended."""
    messages, breaks, sizes = 0, Counter[str](), list[Size]()
    how: Action | None = None
    end = time.monotonic() + seconds
    speak = look = time.monotonic()
    strike = speak + random.uniform(*BREAKS)
    while (now := time.monotonic()) < end and listener.poll() is None:
        if now >= speak:
            shell.push(f"agent {messages}")
            messages += 1
            speak += random.uniform(0.0, 2 / RATE)
        if now >= strike:
            how = "cut" if how in HOLES else random.choice(HOW)
            breaks[how or "down"] += 1
            if how is None:
                proxy.down(DOWN)
            else:
                proxy.strike(how, NOBODY, "socket")
            strike = now + random.uniform(*BREAKS)
        if now >= look:
            sizes.append(_size(listener))
            look = now + LOOK
        time.sleep(max(0.0, min(speak, strike, look, end) - time.monotonic()))
    return messages, breaks, sizes


def _compared(lines: list[Record], log: list[Record]) -> list[str]:
    """What is wrong with the lines, the log being the truth."""
    shown = [line["id"] for line in lines if line["kind"] == "message"]
    stored = [one["id"] for one in log]
    wrong = [f"a gap was declared: {line}" for line in lines if line["kind"] == "gap"]
    missing, more = set(stored) - set(shown), len(shown) - len(set(shown))
    wrong += [f"{len(missing)} lost"] if missing else []
    wrong += [f"{more} doubled"] if more else []
    return [*wrong, "out of order"] if shown != stored and not (missing or more) else wrong


class _Heard:
    """The messages in a growing file, counted once each."""

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


def _await(listener: Process, heard: _Heard, count: int) -> list[str]:
    """Until so many messages are there; what is wrong when they do not come."""
    until = time.monotonic() + RECOVERY
    while heard.count() < count:
        if time.monotonic() > until or listener.poll() is not None:
            end = "lives" if listener.poll() is None else "has ended"
            return [f"{heard.count()} of {count} messages came, and the listener {end}"]
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
