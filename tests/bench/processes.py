"""Start guestctl, the sandbox and the plain scripts as processes, each in its own environment.

Knows: argv, environments, pipes, /proc. Must not know: what any of them says to the other.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from tests.bench.figures import Sample

ROOT = Path(__file__).parents[2]
BARE = Path(__file__).parent / "bare"
#: The first line of a service as JSON, and its process.
Served: TypeAlias = "tuple[dict[str, Any], subprocess.Popen[bytes]]"
#: The code of the console script, which need not be installed.
GUESTCTL = (sys.executable, "-c", "from guestctl.__main__ import command; command()")


def guestctl(*words: str) -> list[str]:
    return [*GUESTCTL, *words]


def bare(script: str, *words: str) -> list[str]:
    return [sys.executable, str(BARE / f"{script}.py"), *words]


def module(name: str, *words: str) -> list[str]:
    return [sys.executable, "-m", name, *words]


def environment(state: Path, **more: str) -> dict[str, str]:
    """Return an environment without the caller's profiles. Python caches compiled modules, as in an installation."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GUESTCTL_", "PYTHON"))}
    return {**kept, "PYTHONPATH": str(ROOT), "GUESTCTL_STATE": str(state), "GUESTCTL_PROFILE": "sandbox", **more}


def run(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """Run a command and return its stdout. Raise an error if it fails."""
    done = subprocess.run(argv, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{argv[-3:]} exited {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def timed(argv: Sequence[str], environ: Mapping[str, str]) -> Sample:
    """Return the milliseconds from start to exit."""
    before, begun = _cpu_of_children(), time.perf_counter()
    run(argv, environ)
    took = time.perf_counter() - begun
    return Sample(took * 1000, _cpu_of_children() - before)


def _cpu_of_children() -> float:
    """Return the processor time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu_of(pid: int) -> float:
    """Return the processor time that a process has used so far, in seconds."""
    return time.clock_gettime(~pid << 3 | 2)  # the clock that clock_getcpuclockid(3) returns on Linux


def peak(argv: Sequence[str], environ: Mapping[str, str]) -> float:
    """Return the peak memory of a command in megabytes."""
    with subprocess.Popen(argv, env=environ, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{argv[-3:]} exited {process.returncode}")
    return used.ru_maxrss / 1024


@contextmanager
def started(argv: Sequence[str], environ: Mapping[str, str], **pipes: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process and end it with the block."""
    with subprocess.Popen(argv, env=environ, cwd=ROOT, stdout=subprocess.PIPE, **pipes) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def serving(argv: Sequence[str], environ: Mapping[str, str]) -> Iterator[Served]:
    """Start a service whose first line of stdout is a JSON object with its addresses."""
    with started(argv, environ, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline()), process


def sandbox(environ: Mapping[str, str], *options: str) -> AbstractContextManager[Served]:
    """Start a sandbox that registers itself in the state directory of `environ`, where guestctl commands find it."""
    return serving(guestctl("sandbox", "serve", "--fast", "-o", "json", *options), environ)


def resident(pid: int) -> float:
    """Return the resident memory of a process in megabytes."""
    said = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", said)
    return int(found[1]) / 1024 if found else 0.0
