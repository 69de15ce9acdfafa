"""Hooks of `listen` on every API: who receives what, across reconnects and interrupted runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestctl.dialects.capabilities import Ability
from tests.cli.receiver import Post, Receiver, receiving
from tests.integration.front import Guest, Room, able

ROOT = Path(__file__).parents[2]
LISTENING = able(Ability.LISTEN)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.mark.parametrize("api", LISTENING)
def test_a_record_reaches_the_receiver_across_failures_of_both_sides(
    talking: Guest, room: Room, receiver: Receiver, tmp_path: Path
) -> None:
    """The receiver fails, the run ends, the agent goes on, the connection breaks: each reply arrives, in order."""
    talking.ok("ask", "one")
    log = tmp_path / "log.jsonl"

    def run(*argv: str) -> int:
        hooks = ("--cursor", str(tmp_path / "cursor"), "--forward-to", receiver.url)
        done = talking("listen", *argv, *hooks, GUESTCTL_FORWARD_SECRET="s3cret")
        with log.open("a") as file:
            file.write(done.out)
        return done.code

    receiver.answer = lambda number, post: (503, {})
    assert run("--idle", "300ms") == 8
    room.say("two", "three")
    receiver.answer = lambda number, post: (200, {})
    assert run("--idle", "300ms") == 0
    assert receiver.texts == ["echo: one"] * 5 + ["two", "three"]
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert {record["from"]["role"] for record in records if record["text"] == "one"} == {"guest"}


def test_kills_lose_no_post_and_repeat_no_line(talking: Guest, room: Room, receiver: Receiver, tmp_path: Path) -> None:
    """The process is killed while the receiver has a record: the next one posts it again, and prints its line once."""
    room.say(*(f"m{number}" for number in range(30)))
    log = tmp_path / "log.jsonl"
    running: list[subprocess.Popen[bytes]] = []

    def answer(number: int, post: Post) -> tuple[int, dict[str, str]]:
        if number % 4 == 0:
            running[-1].send_signal(signal.SIGKILL)
        return 200, {}

    receiver.answer = answer
    environ = {**talking.environ, "PYTHONPATH": str(ROOT), "GUESTCTL_FORWARD_SECRET": "s3cret"}
    argv = ("listen", "--idle", "5", "--cursor", str(tmp_path / "cursor"), "--forward-to", receiver.url)
    killed, locked = -signal.SIGKILL, 6  # guest-sessions locks a session for a while after its socket broke
    codes = [killed]
    while codes[-1] in (killed, locked):
        with log.open("ab") as file:
            running.append(subprocess.Popen([sys.executable, "-m", "guestctl", *argv], env=environ, stdout=file))
            codes.append(running[-1].wait(60))
    assert codes[-1] == 0
    expected = [f"m{number}" for number in range(30)]
    assert list(dict.fromkeys(receiver.texts)) == expected
    assert len(receiver.texts) == 30 + codes[1:].count(killed)
    assert [json.loads(line)["text"] for line in log.read_text().splitlines()] == expected
