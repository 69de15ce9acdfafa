"""Several listeners share one socket as processes of their own, and the one that has it is killed or stopped."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import threading
from contextlib import closing
from random import Random

import pytest

from guestctl.dialects import NAMES, dialect_class
from tests.faults.conftest import OpenShell
from tests.faults.processes import STUCK, Record, Shell
from tests.integration.front import Room

WITH_SOCKET = [name for name in NAMES if dialect_class(name).has_socket]

pytestmark = pytest.mark.timeout(300)


class Listener:
    """A `listen` process. `records` are those that it has printed."""

    def __init__(self, shell: Shell, *argv: str) -> None:
        argv = ("listen", "--until", "^last$", "--only", "message,gap,connection", "-o", "jsonl", "--forever", *argv)
        self.process: subprocess.Popen[bytes] = shell.start(*argv, stderr=subprocess.DEVNULL)
        self.records: list[Record] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith(b"\n"):
                with self._changed:
                    self.records.append(json.loads(line))
                    self._changed.notify_all()

    @property
    def texts(self) -> list[str]:
        return [record["text"] for record in self.records if record["kind"] == "message"]

    @property
    def gaps(self) -> list[Record]:
        return [record for record in self.records if record["kind"] == "gap"]

    def wait_live(self) -> None:
        self._wait(lambda: any(record.get("state") == "live" for record in self.records))

    def wait_for(self, text: str) -> None:
        self._wait(lambda: text in self.texts)

    def _wait(self, reached: object) -> None:
        assert callable(reached)
        with self._changed:
            assert self._changed.wait_for(reached, STUCK), (self.process.poll(), self.records)

    def ended(self) -> int:
        code = self.process.wait(STUCK)
        self._thread.join(STUCK)
        return code


def stop(shell: Shell, listener: Listener) -> None:
    """Stop a listener, but not while it writes to the state: everybody else could only wait, or give up."""
    for _ in range(100):
        listener.process.send_signal(signal.SIGSTOP)
        with closing(sqlite3.connect(shell.folder / "state" / "state.db", timeout=0.5, isolation_level=None)) as state:
            try:
                state.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                listener.process.send_signal(signal.SIGCONT)
            else:
                return
    pytest.fail("the listener always writes")


def started(shell: Shell, count: int) -> list[Listener]:
    """Start listeners, the first of which has the socket."""
    listeners = []
    for _ in range(count):
        listeners.append(Listener(shell))
        listeners[-1].wait_live()
    return listeners


@pytest.mark.parametrize("api", WITH_SOCKET)
def test_a_leader_that_is_killed_in_the_middle_of_a_stream_loses_nothing(open_shell: OpenShell, api: str) -> None:
    shell = open_shell(api)
    leader, *others = started(shell, 3)
    assert len(shell.sandbox.peers) == 1
    texts = [f"text {number}" for number in range(60)]
    for number, text in enumerate(texts):
        shell.push(text)
        if number == 20:
            leader.process.kill()
    for listener in others:
        listener.wait_for(texts[-1])
    assert len(shell.sandbox.peers) == 1
    shell.push("last")
    assert [listener.ended() for listener in others] == [0, 0]
    assert [listener.texts for listener in others] == [[*texts, "last"]] * 2


@pytest.mark.parametrize("api", ["web-messaging", "guests"])
def test_followers_go_on_by_themselves_while_the_leader_is_stopped(open_shell: OpenShell, api: str) -> None:
    shell = open_shell(api)
    leader, *others = started(shell, 3)
    shell.push("first")
    for listener in others:
        listener.wait_for("first")
    stop(shell, leader)
    shell.push("second")
    for listener in others:
        listener.wait_for("second")
    leader.process.send_signal(signal.SIGCONT)
    leader.wait_for("second")
    shell.push("last")
    assert [listener.ended() for listener in (leader, *others)] == [0, 0, 0]
    assert [listener.texts for listener in (leader, *others)] == [["first", "second", "last"]] * 3


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("api", WITH_SOCKET)
def test_kills_stops_and_breaks_in_random_order_lose_nothing(open_shell: OpenShell, api: str, seed: int) -> None:
    """Each listener prints everything from its first message on, once and in order."""
    random = Random(f"{api} {seed}")
    shell = open_shell(api)
    room = Room(shell.sandbox)
    running = started(shell, 3)
    sent: list[str] = []
    stopped: Listener | None = None
    for _ in range(40):
        step = random.choices(["push", "break", "kill", "start", "stop"], weights=[60, 12, 6, 8, 3])[0]
        if step == "push":
            sent.append(f"text {len(sent)}")
            shell.push(sent[-1])
        elif step == "break":
            if random.random() < 0.5:  # a message that the broken sockets did not bring
                sent.append(f"text {len(sent)}")
                room.say(sent[-1])
            room.disconnect(random.choice([1006, 1012]))
        elif step == "kill" and len(running) > 2:
            victim = running.pop(random.randrange(len(running)))
            victim.process.kill()
            stopped = None if victim is stopped else stopped
        elif step == "start" and len(running) < (3 if stopped else 5):  # each of the others may have a socket
            running.append(Listener(shell))
            running[-1].wait_live()
        elif step == "stop" and stopped is not None:
            stopped.process.send_signal(signal.SIGCONT)
            stopped = None
        elif step == "stop" and len(running) <= 3:
            stopped = random.choice(running)
            stop(shell, stopped)
    if stopped is not None:
        stopped.process.send_signal(signal.SIGCONT)
    shell.push("almost")
    for listener in running:
        listener.wait_for("almost")
    shell.push("last")
    expected = [*sent, "almost", "last"]
    for listener in running:
        assert listener.ended() == 0
        assert listener.texts == expected[-len(listener.texts) :]
        assert not any(gap["before"] for gap in listener.gaps), listener.gaps
