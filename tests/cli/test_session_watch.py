"""`sandbox sessions --watch`: every change, across the restart of a sandbox, until a signal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cli.conftest import Front
from tests.cli.test_signals import started, until

WATCH = ("sandbox", "sessions", "--watch")


@contextmanager
def serving(alone: Front) -> Iterator[subprocess.Popen[bytes]]:
    with started(alone, "sandbox", "serve", "--fast", "--port", "0") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"sandbox ready")
        yield process


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


def next_with(process: subprocess.Popen[bytes], **wanted: Any) -> dict[str, Any]:
    """Return the next line that has these members."""
    assert process.stdout is not None
    for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if wanted.items() <= found.items():
            return found
    raise AssertionError("the watch has ended")


def test_each_change_is_one_line_across_a_restart(alone: Front) -> None:
    with serving(alone) as first, started(alone, *WATCH, "-o", "jsonl") as watch:
        assert alone("ask", "hi", "-p", "sandbox", "--api", "guests").code == 0
        found = next_with(watch, messages=2, sockets=0)
        assert found["kind"] == "sandbox-change"
        assert (found["api"], found["state"], found["requests"]) == ("guests", "active", 3)
        stop(first)
        assert watch.stderr is not None
        assert watch.stderr.readline() == b"the sandbox has stopped; waiting until one is started\n"
        with serving(alone) as second:
            assert alone("ask", "hi", "-p", "sandbox", "--api", "guests", "-s", "two").code == 0
            assert next_with(watch, messages=2)["id"] != found["id"]
            watch.send_signal(signal.SIGINT)
            _, err = watch.communicate(timeout=30)
            assert watch.returncode == 130
            assert err.startswith(b"sandbox at http://127.0.0.1:")
            stop(second)


def test_json_has_one_line_for_each_change_too(alone: Front) -> None:
    with serving(alone) as service, started(alone, *WATCH, "-o", "json") as watch:
        assert alone("ask", "hi", "-p", "sandbox").code == 0
        next_with(watch, messages=2)
        watch.send_signal(signal.SIGTERM)
        watch.communicate(timeout=30)
        assert watch.returncode == 143
        stop(service)


def test_without_a_sandbox_it_ends_at_once(alone: Front) -> None:
    told = alone(*WATCH)
    assert (told.code, told.error["code"]) == (2, "sandbox.absent")


def test_an_address_that_does_not_answer_is_an_error(alone: Front) -> None:
    told = alone(*WATCH, GUESTCTL_SANDBOX_URL="http://127.0.0.1:9", GUESTCTL_SANDBOX_ADMIN_KEY="key")
    assert (told.code, told.error["code"]) == (8, "network.connect")


def test_a_watch_is_no_list(front: Front) -> None:
    told = front(*WATCH, "-o", "csv")
    assert (told.code, told.out) == (2, "")
    assert "-o csv: --watch prints changes and no list" in told.err


@pytest.mark.parametrize("columns", [60, 120])
def test_a_terminal_shows_a_table_that_follows_changes(alone: Front, columns: int) -> None:
    near, far = pty.openpty()
    seen = b""
    terminal = Front({**alone.environ, "COLUMNS": str(columns), "LINES": "10", "TERM": "xterm"}, alone.cwd)
    with serving(alone) as service:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 10, columns, 0, 0))
        with started(terminal, *WATCH, stdout=far, stderr=far, stdin=far) as watch:
            os.close(far)
            assert alone("ask", "hi", "-p", "sandbox", "--api", "webmessaging-conversations").code == 0

            def has_two_messages() -> bool:
                nonlocal seen
                seen += os.read(near, 65536)
                plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", seen)
                return re.search(rb"active +0 +2", plain) is not None

            until(has_two_messages)
            watch.send_signal(signal.SIGINT)
            assert watch.wait(30) == -signal.SIGINT
        stop(service)
    os.close(near)
    rows = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", seen).decode().replace("\r", "\n").splitlines()
    assert max(map(len, rows)) <= columns
    assert any(row.startswith("1 session; sandbox at http://127.0.0.1:") for row in rows)
