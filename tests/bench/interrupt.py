"""Ctrl-C at a terminal while `listen` waits for a peer that no longer answers."""

from __future__ import annotations

import os
import pty
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.figures import Figure, Scale
from tests.bench.processes import environment, guestctl, run, sandbox, started

#: Seconds until a live listener only waits.
SETTLED = 0.5


def interrupt(scale: Scale) -> Iterator[Figure]:
    found = [_once() for _ in range(scale.rounds)]
    for name, aim, times in zip(("a word", "the exit"), (50, 1200), zip(*found, strict=True), strict=True):
        middle = statistics.median(times)
        yield Figure(f"Ctrl-C to {name}, peer dead", "the signal", middle, 0, "ms", middle, aim, kind="more")


def _once() -> tuple[float, float]:
    """Return the milliseconds from the signal to the first output, and to the exit."""
    with TemporaryDirectory() as place:
        environ = environment(Path(place))
        with sandbox(environ) as (_, service):
            run(guestctl("session", "create"), environ)
            near, far = pty.openpty()
            with os.fdopen(near, "rb", buffering=0) as shown, started(guestctl("listen"), environ, stderr=far) as one:
                os.close(far)
                seen = b""
                while b"live" not in seen:
                    seen += shown.read(1000)
                time.sleep(SETTLED)
                service.send_signal(signal.SIGSTOP)
                begun = time.perf_counter()
                one.send_signal(signal.SIGINT)
                shown.read(1)
                answered = time.perf_counter()
                with suppress(OSError):  # a pseudo-terminal reports like this that the other side is closed
                    while shown.read(1000):
                        pass
                one.wait()
                ended = time.perf_counter()
                service.send_signal(signal.SIGCONT)
    return (answered - begun) * 1000, (ended - begun) * 1000
