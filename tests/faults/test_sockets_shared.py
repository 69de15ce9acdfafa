"""Twenty commands and a listener share one session: at most three sockets are open, and none is evicted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.conftest import OpenShell
from tests.faults.processes import Shell, records

SENDING, READING = 8, 12
#: Maximum number of sockets of one session (web-messaging.md §2.5).
MOST = 3

pytestmark = pytest.mark.timeout(180)


@contextmanager
def counted(shell: Shell) -> Iterator[list[int]]:
    """Count the open sockets continuously; yield the list of counts."""
    stop, seen = threading.Event(), [0]

    def look() -> None:
        while not stop.wait(0.001):
            seen.append(len(shell.sandbox.peers))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def test_twenty_commands_do_not_evict_the_listener(open_shell: OpenShell) -> None:
    shell = open_shell("web-messaging")
    listener = shell.start("listen", "-o", "jsonl", "--max", str(2 * SENDING))
    until = time.monotonic() + 20
    while not shell.sandbox.service.requests["history"] and time.monotonic() < until:
        time.sleep(0.01)
    with counted(shell) as sockets:
        commands = [
            shell.start("send", f"guest {n}", "--timeout", "60") if n < SENDING else shell.start("resume")
            for n in range(SENDING + READING)
        ]
        ended = [command.communicate(timeout=120)[1].decode() for command in commands]
    assert [command.returncode for command in commands] == [0] * len(commands), ended
    assert max(sockets) <= MOST
    out, err = listener.communicate(timeout=30)
    assert listener.returncode == 0, err
    log = shell.log()
    assert [line["id"] for line in records(out.decode()) if line["kind"] == "message"] == [one["id"] for one in log]
    inbound = [one["text"] for one in log if one["direction"] == "inbound"]
    assert len(inbound) == len(set(inbound)) == SENDING
