"""Several guestctl processes with one sandbox and one state directory, started from a shell.

Every process takes a third of a second, so only some APIs are tested here. `test_compliance` tests the behaviour
of every API in one process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

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


@pytest.mark.parametrize("new", ["", "--new"])
@pytest.mark.parametrize("api", ["web-messaging", "guests", "webmessaging-conversations"], indirect=True)
def test_sessions_created_at_the_same_time_are_all_kept(guest: Guest, service: Room, new: str) -> None:
    """Each of six processes creates the session of one name. Without --new the earlier ones keep their tokens."""
    done = shell(
        guest,
        f"""
        for n in 1 2 3 4 5 6; do guestctl session create --as x {new} -o json >out$n 2>err$n & done
        for n in 1 2 3 4 5 6; do wait $! || true; done; wait
        guestctl session list -o jsonl
        """,
    )
    assert done.returncode == 0, done.stderr
    created = [json.loads((guest.cwd / f"out{n}").read_text()) for n in range(1, 7)]
    assert {session["name"] for session in created} == {"x"}
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(service.sessions()) == 6
    assert sorted(session["name"] for session in listed) == (["x"] if new else ["x", *(f"x-{n}" for n in range(1, 6))])
    for session in listed:
        guest.ok("send", "still there", "--session", session["name"])


@pytest.mark.parametrize("new", ["", "--new"])
@pytest.mark.parametrize("api", ["web-messaging", "guest-sessions", "webmessaging-conversations"], indirect=True)
def test_questions_asked_at_the_same_time_on_an_empty_state(guest: Guest, service: Room, new: str) -> None:
    """Without --new, one process creates the session and the others use it."""
    done = shell(
        guest,
        f"""
        for n in 1 2 3 4 5 6; do {{ set +e; guestctl ask {new} "question $n" >out$n 2>err$n; echo $? >code$n; }} & done
        wait
        guestctl session list -o jsonl
        """,
    )
    assert done.returncode == 0, done.stderr
    ended = {n: (guest.cwd / f"code{n}").read_text().strip() for n in range(1, 7)}
    assert set(ended.values()) == {"0"}
    assert len(service.sessions()) == (6 if new else 1)
    stored = [m["text"] for session in service.sessions() for m in session["messages"] if m["direction"] == "inbound"]
    assert sorted(stored) == [f"question {n}" for n in range(1, 7)]
    assert len(done.stdout.splitlines()) == 1
    guest.ok("send", "still there")


#: What a race may consist of. `x` is the name of the session.
RACERS = ("session create --as x", "session create --as x --new", "ask hello -s x", "send hello -s x", "resume -s x")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("api", ["web-messaging", "external-contacts", "messaging-conversations"], indirect=True)
def test_a_race_on_an_empty_state_loses_no_session(guest: Guest, service: Room, seed: int) -> None:
    """Each session that the service has opened is stored, or was replaced.

    `send` and `resume` may find no session yet. With `--new`, the session of another command may be replaced while it
    works: then it exits 10, or 13 if its message was on its way.
    """
    race = Random(seed).choices(RACERS, k=7)
    started = "\n".join(
        f"{{ set +e; guestctl {command} --timeout 55 >out{n} 2>err{n}; echo $? >code{n}; }} &"
        for n, command in enumerate(race)
    )
    done = shell(guest, f"{started}\nwait\nguestctl session list -o jsonl")
    assert done.returncode == 0, done.stderr
    replaces = any("--new" in command for command in race)
    for n, command in enumerate(race):
        code = int((guest.cwd / f"code{n}").read_text())
        refusals = set() if "create" in command or ("ask" in command and not replaces) else {10}
        allowed = {0} | refusals | ({13} if refusals and replaces else set())
        assert code in allowed, (command, code, (guest.cwd / f"err{n}").read_text())
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    replaced = sum("--new" in command for command in race)
    opened = len(service.sessions())
    assert opened - replaced <= len(listed) <= opened
    for session in listed:
        guest.ok("send", "still there", "--session", session["name"])
