"""The processes of a load test: starts them, reads what they report, and stops them in order.

Knows: child processes, the lines that they write (`process`), when a test must be stopped. Must not know: Locust, the
command line, how results are shown.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import IO, Any

from guestctl.core.clock import Clock
from guestctl.core.errors import Failure
from guestctl.load.load_results import LoadResults
from guestctl.load.plan import STOP_TIMEOUT, THROTTLE_ATTEMPTS, THROTTLE_WINDOW, THROTTLED, LoadPlan

#: Seconds after a stop in which the processes end by themselves.
PATIENCE = STOP_TIMEOUT + 25.0


class ChildFailed(Failure):
    """A process of the test ended with a failure."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        super().__init__(str(found["message"]), code=str(found["code"]))
        self.exit = type(self.exit)(int(found["exit"]))  # type: ignore[misc]
        self.hint = str(found.get("hint") or self.hint)


@dataclass
class _Child:
    """One process, and the part of its output that is not a whole line yet."""

    process: subprocess.Popen[bytes]
    plan: LoadPlan
    name: str
    unread: bytes = b""
    ready: bool = False
    ended: bool = False

    @property
    def output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def stop(self) -> None:
        with suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.write(b"stop\n")
            self.process.stdin.flush()

    def kill(self) -> None:
        with suppress(OSError):
            self.process.kill()


@dataclass
class Supervisor:
    """Runs one test. `notice` receives a line of text for the user, `progress` is called after each report.

    `stopper` becomes readable when a signal asks to stop, and has the signal's number. `workers` is the number of
    worker processes to start on this machine, 0 for none.
    """

    plan: LoadPlan
    workers: int
    clock: Clock
    stopper: socket.socket
    notice: Callable[[str], None]
    listening: Callable[[str, int], None]
    started: Callable[[], None]
    progress: Callable[[LoadResults], None]
    results: LoadResults = field(init=False)

    def __post_init__(self) -> None:
        self.results = LoadResults(self.plan)
        self._children: list[_Child] = []
        self._selector = selectors.DefaultSelector()
        #: The number of the signal that stopped the test, None without one.
        self.signal: int | None = None
        self._give_up_at: float | None = None

    def run(self) -> LoadResults:
        """Run the test and return the results. Raises the failure of a process that could not start."""
        plan = self.plan
        self._selector.register(self.stopper, selectors.EVENT_READ)
        try:
            leader = self._start(plan if plan.role != "local" or not self.workers else self._led(), plan.role)
            while not leader.ended:
                self._turn(leader)
            if self._give_up_at is not None and self.results.seconds is None:
                self.results.incomplete = True
        finally:
            self._end()
        return self.results

    def _led(self) -> LoadPlan:
        return replace(self.plan, role="master", workers=self.workers, host="127.0.0.1", port=0)

    def _start(self, plan: LoadPlan, name: str) -> _Child:
        process = subprocess.Popen(
            [sys.executable, "-m", "guestctl.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process, which then stops the others in order
            env={**os.environ, "LOCUST_SKIP_MONKEY_PATCH": "1"},
        )
        child = _Child(process, plan, name)
        self._children.append(child)
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.write(plan.text().encode() + b"\n")
            process.stdin.flush()
        self._selector.register(child.output, selectors.EVENT_READ, child)
        return child

    def _turn(self, leader: _Child) -> None:
        """Handle what the processes write, and signals."""
        timeout = None if self._give_up_at is None else max(0.0, self._give_up_at - self.clock.monotonic())
        ready = self._selector.select(timeout)
        if not ready and self._give_up_at is not None and self.clock.monotonic() >= self._give_up_at:
            self.notice("the processes of the test do not end; they are killed")
            leader.ended = True
            self.results.incomplete = True
        for key, _ in ready:
            if key.fileobj is self.stopper:
                self._signalled(leader, self.stopper.recv(1)[0])
            else:
                self._read(key.data, leader)

    def _signalled(self, leader: _Child, number: int) -> None:
        if self.signal is not None:
            leader.ended = True  # the second signal does not wait
            self.results.incomplete = True
            return
        self.signal = number
        self.results.interrupted = True
        self.notice("stopping: the guests end their conversations; a second signal does not wait for them")
        self._stop(leader)

    def _stop(self, leader: _Child) -> None:
        if self._give_up_at is None:
            self._give_up_at = self.clock.monotonic() + PATIENCE
            leader.stop()

    def _read(self, child: _Child, leader: _Child) -> None:
        data = os.read(child.output.fileno(), 1 << 16)
        if not data:
            self._selector.unregister(child.output)
            self._gone(child, leader)
            return
        *lines, child.unread = (child.unread + data).split(b"\n")
        for line in lines:
            self._report(child, leader, json.loads(line))

    def _gone(self, child: _Child, leader: _Child) -> None:
        """A process has ended."""
        code = child.process.wait()
        if child is leader:
            if not child.ended:
                self.results.incomplete = True
                self.notice(f"the process of Locust ended unexpectedly ({_how(code)})")
            child.ended = True
        elif not child.ended and self._give_up_at is None:
            self.notice(f"{child.name} ended unexpectedly ({_how(code)}); the result is not complete")
            if not child.ready:
                self._stop(leader)
                self.results.lost_workers += 1

    def _report(self, child: _Child, leader: _Child, found: dict[str, Any]) -> None:
        kind = found["kind"]
        if kind == "listening":
            if self.workers:
                for number in range(1, self.workers + 1):
                    plan = replace(self.plan, role="worker", host=found["host"], port=found["port"])
                    self._start(plan, f"worker {number}")
            else:
                self.listening(found["host"], found["port"])
        elif kind == "ready":
            child.ready = True
            if child is leader:
                self.started()
        elif kind == "notice":
            self.notice(found["text"])
        elif kind == "failure":
            raise ChildFailed(found)
        elif kind == "worker_lost":
            self.results.lost_workers = max(self.results.lost_workers, found["number"])
            self.notice("a worker is gone; the result is not complete")
        elif kind == "progress" and child is leader:
            self.results.add(found)
            self.progress(self.results)
            self._stop_when_throttled(leader)
        elif kind == "end":
            child.ended = True
            if child is leader:
                self.results.seconds = found["seconds"]
                self.results.workers = found["workers"]
                self.results.lost_workers = max(self.results.lost_workers, found["lost_workers"])

    def _stop_when_throttled(self, leader: _Child) -> None:
        throttled, attempts = self.results.recent(THROTTLE_WINDOW)
        if attempts >= THROTTLE_ATTEMPTS and throttled > THROTTLED * attempts and not self.results.throttled_off:
            self.results.throttled_off = True
            self.notice(f"stopping: the service throttles {throttled / attempts:.0%} of the attempts")
            self._stop(leader)

    def _end(self) -> None:
        """End every process."""
        for child in self._children:
            with suppress(OSError):
                assert child.process.stdin is not None
                child.process.stdin.close()
        until = self.clock.monotonic() + (0.0 if self.results.incomplete else 3.0)
        for child in self._children:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, until - self.clock.monotonic()))
            child.kill()
            child.process.wait()
            child.output.close()
        self._selector.close()


def _how(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"
