"""Several guestctl processes with one sandbox and one state directory, started from a shell.

Every process takes a third of a second, so only some APIs are tested here. `test_compliance` tests the behaviour
of every API in one process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from guestctl.core.clock import SystemClock
from tests.integration.conftest import Enter, Serve
from tests.integration.front import Guest, Room


@pytest.fixture
def service(serve: Serve) -> Room:
    return Room(serve(clock=SystemClock()))


@pytest.fixture
def guest(service: Room, enter: Enter, api: str) -> Guest:
    return enter(service.sandbox, api)


def shell(guest: Guest, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in which `guestctl` is the tested program."""
    program = guest.cwd / "bin" / "guestctl"
    if not program.exists():
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m guestctl "$@"\n')
        program.chmod(0o755)
    environ = {
        **guest.environ,
        "PATH": f"{program.parent}:/usr/bin:/bin",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HOME": str(guest.cwd),
        "LC_ALL": "C.UTF-8",
    }
    return subprocess.run(
        ["sh", "-euc", script], env=environ, cwd=guest.cwd, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("api", ["web-messaging", "guests", "webmessaging-conversations"], indirect=True)
def test_a_shell_session(guest: Guest, service: Room) -> None:
    """Create, send, ask, history and resume, each in its own process."""
    done = shell(
        guest,
        """
        guestctl session create --as cart -o json
        guestctl ask "opening hours?"
        printf 'one\\ntwo\\n' | guestctl send - --lines -o jsonl | wc -l
        guestctl history --last 1 | cat
        guestctl resume -o json
        """,
    )
    assert done.returncode == 0, done.stderr
    created, answer, count, last, resumed = done.stdout.splitlines()
    assert (json.loads(created)["name"], json.loads(created)["api"]) == ("cart", guest.api)
    assert answer == "echo: opening hours?"
    assert int(count) == 2
    assert json.loads(last)["text"] == "echo: two"
    assert [m["text"] for m in json.loads(resumed)["missed"]] == ["echo: one", "echo: two"]
    assert service.texts("inbound") == ["opening hours?", "one", "two"]


@pytest.mark.parametrize("api", ["web-messaging", "guest-sessions", "conversation-guests"], indirect=True)
def test_a_listener_and_a_sender_share_one_session(guest: Guest, service: Room) -> None:
    """One process listens while others send through the same session; each message once."""
    done = shell(
        guest,
        """
        guestctl session create -q >/dev/null
        guestctl listen --until '^echo: last$' --for 30 --only message,connection -o jsonl >heard 2>noise &
        until grep -q '"live"' heard; do sleep 0.05; done
        for text in one two last; do guestctl send "$text" -q >/dev/null; done
        wait $!
        """,
    )
    assert done.returncode == 0, done.stderr + (guest.cwd / "noise").read_text()
    heard = [json.loads(line) for line in (guest.cwd / "heard").read_text().splitlines()]
    texts = [record["text"] for record in heard if record["kind"] == "message"]
    assert texts == [text for one in ("one", "two", "last") for text in (one, f"echo: {one}")]
