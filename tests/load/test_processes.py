"""Several processes of one load test: workers that die, masters and workers, a service that throttles."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from guestctl.dialects import NAMES
from guestctl.sandbox.server import Sandbox
from tests.load.conftest import HELLO, Room


def read_until(process: subprocess.Popen[str], start: str) -> str:
    """Return the first line on stderr that starts so."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(start):
            return line
    raise AssertionError(f"the command ended without: {start}")


def children(process: subprocess.Popen[str]) -> list[int]:
    """Return the ids of the processes that a process has started, oldest first."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
    return [int(word) for word in found.split()]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="lists processes with /proc")
def test_a_worker_that_dies_is_reported_and_the_result_is_not_good(at_served: Room) -> None:
    command = "load hello.yaml --guests 4 --ramp 100/s --workers 2 --slo 'failed < 50%' -o json"
    with at_served.start(command) as process:
        read_until(process, "running 4 guests")
        os.kill(children(process)[-1], signal.SIGKILL)
        assert read_until(process, "worker 2") == "worker 2 ended unexpectedly (SIGKILL); the result is not complete\n"
        read_until(process, "a worker is gone")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert '"complete":false' in out
    assert '"lost_workers":1' in out


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="lists processes with /proc")
def test_no_process_survives_a_killed_command(at_served: Room) -> None:
    with at_served.start("load hello.yaml --guests 2 --workers 2 -o json") as process:
        read_until(process, "running 2 guests")
        started = children(process)
        assert len(started) == 3
        process.kill()
        process.communicate(timeout=60)
    # They end when their stdin does. Each has a session of its own, so nobody else waits for them.
    for one in started:
        while Path(f"/proc/{one}/stat").exists() and not re.search(r"\) Z ", Path(f"/proc/{one}/stat").read_text()):
            pass


def test_a_master_and_workers_of_other_commands(at_served: Room) -> None:
    port = free_port()
    command = f"load hello.yaml --master --bind 127.0.0.1:{port} --workers 2 --guests 4 --conversations 4 -o json"
    with ExitStack() as stack:
        master = stack.enter_context(at_served.start(command))
        assert read_until(master, "master") == f"master: listening on 127.0.0.1 port {port}, waiting for 2 workers\n"
        workers = [stack.enter_context(at_served.start(f"load hello.yaml --worker 127.0.0.1:{port}")) for _ in range(2)]
        out, err = master.communicate(timeout=60)
        said = [worker.communicate(timeout=60) for worker in workers]
    assert said == [("", f"worker: connected to the master at 127.0.0.1 port {port}\n")] * 2
    assert master.returncode == 0, err
    assert '"workers":2,"lost_workers":0,"complete":true' in out
    assert [worker.returncode for worker in workers] == [0, 0]


def test_a_worker_without_a_master_says_so_and_can_be_stopped(at_served: Room) -> None:
    port = free_port()
    with at_served.start(f"load hello.yaml --worker 127.0.0.1:{port}") as process:
        read_until(process, f"waiting for the master at 127.0.0.1 port {port}")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err


def test_a_second_signal_does_not_wait(at_served: Room) -> None:
    at_served.write("slow.yaml", "scenarios: {slow: [{say: hi}, {expect: never}]}\n")
    with at_served.start("load slow.yaml --guests 2 --timeout 10m") as process:
        read_until(process, "running 2 guests")
        process.send_signal(signal.SIGINT)
        read_until(process, "stopping")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err


def test_a_service_that_throttles_stops_the_test(room: Room, at_sandbox: Callable[[Sandbox], Room]) -> None:
    with Sandbox(fast=True, faults=("ratelimit:every=3,retry_after=0,on=send",)) as served:
        at = at_sandbox(served)
        at.write("hello.yaml", HELLO)
        done = at.run("load hello.yaml --guests 4 --ramp 100/s --html load.html -o json")
    assert done.code == 7, done.err
    assert "stopping: the service throttles" in done.err
    assert "load.throttled" in done.err
    assert done.record["stopped"] == "throttled"
    assert done.record["throttled"] > 0.05 * done.record["attempts"]


@pytest.mark.parametrize("api", NAMES)
def test_every_api_can_be_loaded(at_served: Room, api: str) -> None:
    guest = Room(at_served.path, {**at_served.environ, "GUESTCTL_API": api, "GUESTCTL_QUEUE": "support"})
    done = guest.run("load hello.yaml --guests 2 --ramp 100/s --conversations 4 -o json")
    found = done.record
    assert done.code == 0, done.err
    assert found["passed"] > 0
    wrong = {
        name: found[name]
        for name in ("not_passed", "failed", "reconnects", "lost", "duplicates", "swapped", "errors", "gaps")
    }
    assert wrong == dict.fromkeys(wrong, 0), found["failures"]
