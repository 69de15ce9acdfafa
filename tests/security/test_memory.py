"""Limits on the memory that hostile bytes and a long-running listener cost (reliability.md §9).

Each is measured in a process of its own as the growth of the kernel's high-water mark, so that nothing that ran before
can hide it and no pause of the machine can change it.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from functools import partial

import pytest

from guestctl.sandbox.server import Sandbox
from tests.cli.conftest import Front
from tests.cli.test_signals import listening, until
from tests.security.memory import peak
from tests.security.strange import ROOT
from tests.transport.peers import TEXT, Conn, Script, answer, close, frame, serving, text

pytestmark = pytest.mark.skipif(
    not (peak() and os.path.exists("/proc/self/clear_refs")), reason="the kernel tells no peaks here"
)

MESSAGE = 1 << 20
#: What is sent in one go, again and again.
BLOCK = b"x" * (1 << 20)


def grown(how: str, *scripts: Script) -> float:
    """Return the growth of a new client's peak memory with this peer, in MiB."""
    with serving(*scripts) as peer:
        words = [sys.executable, "-m", "tests.security.memory", how, peer.ws if how == "socket" else peer.http + "/"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def announced(size: int) -> bytes:
    return b"\x81\x7f" + size.to_bytes(8, "big")


def after_a_first(*pieces: bytes) -> Script:
    def script(conn: Conn) -> None:
        conn.upgrade(text("first"))
        for piece in (*pieces, close()):
            conn.send(piece)
        conn.rest()

    return script


@pytest.mark.parametrize("size", [1 << 40, 64 << 20])
def test_a_giant_frame(size: int) -> None:
    assert grown("socket", after_a_first(announced(size), *[BLOCK] * 64)) <= 8


def test_the_largest_messages_one_after_the_other() -> None:
    assert grown("socket", after_a_first(*[frame(TEXT, b"x" * MESSAGE)] * 64)) <= 8


def test_a_hundred_thousand_fragments() -> None:
    endless = frame(TEXT, b"", fin=False) + frame(0, b"x" * 40, fin=False) * 100_000
    assert grown("socket", after_a_first(endless)) <= 8


def test_a_compressed_bomb() -> None:
    bomb = answer(200, gzip.compress(bytes(200 << 20)), b"Content-Encoding: gzip\r\n")
    assert grown("body", lambda conn: conn.head().send(answer(200, b"{}")).head().send(bomb)) <= 16


def test_a_listener_after_thousands_of_messages(sandbox: Sandbox, front: Front) -> None:
    front("session", "create")
    conversation = front("sandbox", "sessions").records[-1]["id"]
    words = [sys.executable, "-m", "guestctl", "listen", "-o", "jsonl"]
    environ = {**front.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=front.cwd, env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            until(lambda: listening(front))
            for batch in range(60):
                sandbox.call(partial(_say, sandbox, conversation, batch))
                for number in range(50):
                    assert json.loads(process.stdout.readline())["text"].startswith(f"{batch}.{number} ")
            assert peak(process.pid) < 80
        finally:
            process.send_signal(signal.SIGINT)


def _say(sandbox: Sandbox, conversation: str, batch: int) -> None:
    for number in range(50):
        sandbox.service.send(sandbox.service.conversations[conversation], f"{batch}.{number} " + "x" * 400)
