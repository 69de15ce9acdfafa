"""`listen --cursor`, killed at random moments: all outputs together are the conversation (contract.md §2).

`GUESTCTL_KILL_ROUNDS=200` repeats it more often.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from guestctl.cli.commands.cursor import CursorFile
from guestctl.core.clock import SystemClock
from guestctl.core.model import Message, Position, Session
from guestctl.storage.state import State
from tests.faults.conftest import OpenShell
from tests.faults.processes import Shell, records, shows_traceback, stop

ROUNDS = int(os.environ.get("GUESTCTL_KILL_ROUNDS", "5"))
ENDINGS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX"),
    pytest.mark.timeout(120 + 3 * ROUNDS),
]


@contextmanager
def agent_sending(shell: Shell) -> Iterator[None]:
    """Send a message as the agent every few milliseconds."""
    stop_sending = threading.Event()

    def send() -> None:
        number = 0
        while not stop_sending.wait(0.004):
            shell.push(f"agent {number}")
            number += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop_sending.set()
        thread.join()


def killed_after(process: subprocess.Popen[bytes], random: Random, written: Path) -> tuple[int, str, str]:
    """Stop the process at a random moment, mostly after it has written something."""
    before, until = written.stat().st_size, time.monotonic() + 5.0
    if random.random() < 0.8:
        while written.stat().st_size == before and time.monotonic() < until and process.poll() is None:
            time.sleep(0.002)
    time.sleep(random.uniform(0.0, 0.15))
    return stop(process, random.choice(ENDINGS))


@pytest.mark.parametrize("api", ["web-messaging", "messaging-conversations", "webmessaging-conversations"])
@pytest.mark.parametrize("files", ["one file", "a file each"])
def test_files_contain_each_message_once_and_in_order(
    open_shell: OpenShell, tmp_path: Path, api: str, files: str
) -> None:
    shell, random = open_shell(api), Random(f"{api} {files}")
    outputs: list[Path] = []

    def listen(*more: str) -> subprocess.Popen[bytes]:
        if files == "a file each" or not outputs:
            outputs.append(tmp_path / f"out-{len(outputs)}")
        with open(outputs[-1], "ab") as out:
            return shell.start("listen", "--cursor", "cursor", "-o", "jsonl", *more, stdout=out)

    with agent_sending(shell):
        for _ in range(ROUNDS):
            process = listen()
            _, _, err = killed_after(process, random, outputs[-1])
            assert not shows_traceback(err), err
    last = listen("--idle", "2s")
    assert stop(last, signal.SIGCONT)[0] == 0
    shown = [line["id"] for path in outputs for line in records(path.read_text()) if line["kind"] == "message"]
    assert shown == [one["id"] for one in shell.log()]
    assert all(path.read_bytes()[-1:] in (b"", b"\n") for path in outputs), "a torn line was left"


def test_a_pipe_repeats_at_most_the_line_in_flight(open_shell: OpenShell) -> None:
    shell, random = open_shell("web-messaging"), Random(1)
    shown: list[str] = []

    def collect(out: bytes) -> None:
        ids = [line["id"] for line in records(out.decode()) if line["kind"] == "message"]
        shown.extend(ids[1:] if shown and ids[:1] == shown[-1:] else ids)

    with agent_sending(shell):
        for _ in range(ROUNDS):
            process = shell.start("listen", "--cursor", "cursor", "-o", "jsonl")
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(random.uniform(0.0, 0.15))
            process.kill()
            collect(first + process.stdout.read())
    code, out, _ = shell.run("listen", "--cursor", "cursor", "-o", "jsonl", "--idle", "2s")
    assert code == 0
    collect(out.encode())
    assert shown == [one["id"] for one in shell.log()]


def test_an_unconfirmed_line_is_found_by_its_sequence_number_and_time(tmp_path: Path) -> None:
    """So history is split into before and after even if it does not show that message."""
    clock = SystemClock()
    session = Session(name="default", api="web-messaging", profile="sandbox", created_at=1.0)
    shown = Message("m2", "inbound", "hello", "2026-01-01T00:00:02.000Z", sequence=7)
    with State.open(tmp_path / "state", clock) as state, open(tmp_path / "out", "ab", buffering=0) as out:
        state.put("scope", session)
        CursorFile(tmp_path / "cursor", state, "scope", session, out).writing(shown, 6)
        out.write(b"hello\n")
        assert CursorFile(tmp_path / "cursor", state, "scope", session, out).after == Position("m2", 7, shown.time)


def test_a_partial_line_of_a_message_found_late_is_removed(tmp_path: Path) -> None:
    """Such a message does not move the position, which shows nothing about its line."""
    clock = SystemClock()
    session = Session(name="default", api="guests", profile="sandbox", created_at=1.0)
    late, last = (Message(f"m{n}", "outbound", "hello", f"2026-01-01T00:00:0{n}.000Z") for n in (1, 2))
    with State.open(tmp_path / "state", clock) as state, open(tmp_path / "out", "ab", buffering=0) as out:
        state.put("scope", session)
        cursor = CursorFile(tmp_path / "cursor", state, "scope", session, out)
        cursor.writing(last, 6)
        out.write(b"hello\n")
        cursor.written(last)
        cursor.writing(late, 6)
        out.write(b"hel")
        again = CursorFile(tmp_path / "cursor", state, "scope", session, out)
        assert again.after == Position("m2", None, last.time)
        assert (tmp_path / "out").read_bytes() == b"hello\n"
        again.writing(late, 6)
        out.write(b"hello\n")
        CursorFile(tmp_path / "cursor", state, "scope", session, out)
        assert (tmp_path / "out").read_bytes() == b"hello\nhello\n"
