"""Measures the rows of docs/load.md: `python -m tests.load.measure ROW`. It needs the packages of `tests/load`.

Knows: the rows, what each must reach. Must not know: how `load` measures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guestctl.load.measurements import Measurements
from guestctl.load.slo import TIMES
from guestctl.load.turn_meter import TurnMeter
from guestctl.sandbox.server import Sandbox


def largest_error(samples: int) -> float:
    """Return how far percentiles are off, at most, when two workers share the samples. 0.01 is one percent."""
    chance = random.Random(1)
    exact: list[float] = []
    workers = [Measurements(), Measurements()]
    for number in range(samples):
        # Most replies take some milliseconds, and a few take seconds.
        seconds = chance.lognormvariate(-3.5, 0.8) if chance.random() < 0.97 else chance.uniform(0.5, 30.0)
        exact.append(seconds)
        workers[number % 2].time("reply", seconds)
    merged = Measurements()
    for worker in workers:
        merged.add(Measurements.decoded(worker.encoded()))
    exact.sort()
    worst = 0.0
    for percentile in (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.99):
        rank = max(1, -(-percentile * len(exact) // 100))  # the smallest rank that covers this share
        value = exact[int(rank) - 1]
        found = merged.statistic("reply", f"p{percentile:g}")
        assert found is not None
        worst = max(worst, abs(found - value) / value)
    return worst


def simulated_stall(*, guests: int, seconds: float, think: float, stall: float) -> tuple[Measurements, Measurements]:
    """Return what guests measure if the bot answers nothing for a while, in counted time; and a closed loop's times."""
    ours, closed = Measurements(), Measurements()
    begun = seconds / 2
    for guest in range(guests):
        meter = TurnMeter(lambda: ours)
        now = guest * think / guests
        end = now + seconds
        while True:
            planned = meter.next_planned(now, think)
            if planned >= end:
                break
            sent = max(now, planned)
            answered = begun + stall if begun <= sent < begun + stall else sent + 0.02
            meter.begin_message(planned)
            meter.await_reply()
            meter.reply(answered)
            closed.time("reply", answered - sent)
            now = answered
        meter.end_turn()
    return ours, closed


# --- rows with a service ---


def _environ(served: Sandbox, state: str) -> dict[str, str]:
    limits = "none" if served.options.fast else "enforced"
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("GUESTCTL_")},
        "GUESTCTL_STATE": state,
        "GUESTCTL_PROFILE": "sandbox",
        "GUESTCTL_SANDBOX_URL": served.url,
        "GUESTCTL_SANDBOX_ADMIN_KEY": served.admin_key,
        "GUESTCTL_SANDBOX_LIMITS": limits,
    }


def _script(turns: int, think: str) -> str:
    """Return a script whose only scenario has this many turns."""
    steps = "".join(f"    - {{say: message {n}}}\n    - {{expect: message {n}}}\n" for n in range(turns))
    return f"scenarios:\n  turns:\n{steps}load: {{think: {think}}}\n"


def _load(served: Sandbox, script: str, options: str) -> dict[str, Any]:
    spent = {name: _cpu(name) for name in ("sandbox", "guests")}
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "turns.yaml").write_text(script, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "guestctl", "load", "turns.yaml", *options.split(), "-o", "json"],
            cwd=place,
            env=_environ(served, f"{place}/state") | {"PYTHONPATH": _python_path()},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    found: dict[str, Any] = json.loads(done.stdout)
    for name, before in spent.items():
        found[name] = _cpu(name) - before
    return found


def _cpu(name: str) -> float:
    """Return the CPU seconds so far of the sandbox, which runs in this process, or of the processes of load tests."""
    used = resource.getrusage(resource.RUSAGE_SELF if name == "sandbox" else resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _python_path() -> str:
    root = str(Path(__file__).parents[2])
    return os.pathsep.join(
        [root, *(os.path.abspath(one) for one in os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    )


def _shown(found: dict[str, Any]) -> str:
    times = ", ".join(
        f"{name} p50 {found['times'][name]['p50'] * 1000:.0f} p95 {found['times'][name]['p95'] * 1000:.0f} "
        f"p99 {found['times'][name]['p99'] * 1000:.0f} ms"
        for name in TIMES
        if found["times"][name]["count"]
    )
    wrong = {
        name: found[name]
        for name in ("failed", "in_doubt", "throttled", "lost", "duplicates", "swapped", "errors", "gaps")
    }
    each = {name: f"{found[name] / max(1, found['turns']) * 1000:.1f} ms" for name in ("sandbox", "guests")}
    cpu = f"CPU time of each turn: {each['guests']} for the guests, {each['sandbox']} for the sandbox"
    rate = f"{found['turns']} turns in {found['seconds']:.0f} s: {found['turns_per_second']:.1f}/s"
    return f"{rate}; {times}; {wrong}; {cpu}"


def percentiles(arguments: argparse.Namespace) -> str:
    return f"1,000,000 samples of 2 workers: at most {largest_error(1_000_000):.3%} off"


def stall(arguments: argparse.Namespace) -> str:
    """A bot that stalls once, in real time."""
    seconds = arguments.seconds or 60.0
    script = _script(int(seconds / 0.5) + 1, "500ms")
    with Sandbox(fast=True) as served:
        threading.Timer(seconds / 2, lambda: served.faults.add("silence:for=5s")).start()
        found = _load(served, script, f"--guests 100 --ramp 100/s --for {seconds:g}s")
    return _shown(found)


def throughput(arguments: argparse.Namespace) -> str:
    """100 guests with 2 workers: first with a new conversation after every 20 turns, then with one for all turns."""
    seconds = arguments.seconds or 60.0
    shown = []
    for turns in (20, int(seconds / 0.5) + 1):
        with Sandbox(fast=True) as served:
            found = _load(served, _script(turns, "500ms"), f"--guests 100 --ramp 20/s --for {seconds:g}s --workers 2")
        shown.append(f"{turns} turns for each conversation: {_shown(found)}")
    return "\n".join(shown)


def turns(arguments: argparse.Namespace) -> str:
    """100,000 turns."""
    with Sandbox(fast=True) as served:
        seconds = arguments.seconds or 700.0
        found = _load(served, _script(20, "500ms"), f"--guests 100 --ramp 20/s --for {seconds:g}s --workers 2")
    return _shown(found)


def limits(arguments: argparse.Namespace) -> str:
    """200 guests, and a sandbox that enforces its limits."""
    with Sandbox(bot_delay=0.1) as served:
        found = _load(
            served, _script(20, "1s"), f"--guests 200 --ramp 10/s --for {arguments.seconds or 1800:g}s --workers 2"
        )
    return _shown(found)


ROWS: dict[str, Callable[[argparse.Namespace], str]] = {
    "percentiles": percentiles,
    "stall": stall,
    "throughput": throughput,
    "turns": turns,
    "limits": limits,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.load.measure")
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--seconds", type=float, help="a shorter or longer test than the row states")
    arguments = parser.parse_args()
    begun = time.monotonic()
    print(f"{arguments.row}: {ROWS[arguments.row](arguments)} ({time.monotonic() - begun:.0f} s)")


if __name__ == "__main__":
    main()
