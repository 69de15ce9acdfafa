"""Completion: the candidates, and the scripts in the installed shells."""

from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from guestctl.cli.commands.completion import _CHOICES
from guestctl.cli.registry import COMMANDS, TOPICS
from tests.cli.conftest import Front

ROOT = Path(__file__).parents[2]
PROFILES = "profiles: {staging: {region: mypurecloud.de, deployment_id: d}, store: {region: mypurecloud.de}}\n"


@pytest.fixture
def stocked(front: Front) -> Front:
    """Two profiles and three sessions."""
    (front.cwd / "profiles.yaml").write_text(PROFILES)
    for name in ("cart", "checkout", "my order"):
        assert front("session", "create", "--as", name).code == 0
    return front


def offered(front: Front, *words: str) -> list[str]:
    told = front("__complete", "--", *words)
    assert (told.code, told.err) == (0, "")
    return told.out.splitlines()


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        (["sess"], ["session"]),
        (["session", "cr"], ["create"]),
        (["session", "use", "c"], ["cart", "checkout"]),
        (["send", "-s", ""], ["cart", "checkout", "my order"]),
        (["-p", "st"], ["staging", "store"]),
        (["-p", "staging", "sen"], ["send"]),
        (["profile", "use", "s"], ["sandbox", "staging", "store"]),
        (["ask", "-o", "js"], ["json", "jsonl"]),
        (["ask", "--output=js"], ["--output=json", "--output=jsonl"]),
        (["ask", "--output", "=", "y"], ["yaml"]),
        (["ask", "--output", "="], ["auto", "csv", "json", "jsonl", "table", "yaml"]),
        (["listen", "--from", "a"], ["agent"]),
        (["profile", "rename", "ca"], []),
        (["ask", "--api", "guest"], ["guest-sessions", "guests"]),
        (["profile", "add", "x", "--region", "eu-c"], ["eu-central-1", "eu-central-2"]),
        (["resume", "--on-conflict", ""], ["fail", "new", "wait"]),
        (["sandbox", "fault", "dro"], ["drop"]),
        (["schema", "mess"], ["message"]),
        (["completion", ""], ["bash", "fish", "zsh"]),
        (["send", "--exp"], ["--expect"]),
        (["hel"], ["help"]),
        (["help", "env"], ["environment"]),
        (["help", "output", ""], []),
        (["send", "--timeout", ""], []),
        (["send", "--", "-"], []),
        (["nonsense", ""], []),
        (["send", "--nonsense", "--"], ["--api"]),
    ],
    ids=" ".join,
)
def test_candidates(stocked: Front, words: list[str], candidates: list[str]) -> None:
    found = offered(stocked, *words)
    assert found == candidates or (candidates == ["--api"] and "--api" in found)


def test_every_command_is_offered(alone: Front) -> None:
    assert set(offered(alone, "")) == {words[0] for words, entry in COMMANDS.items() if not entry.hidden} | {"help"}
    assert set(TOPICS) <= set(offered(alone, "help", ""))


def test_every_name_is_completed(stocked: Front) -> None:
    """Every command that takes the name of a profile or a session offers the existing names."""
    for words, entry in COMMANDS.items():
        usage = "" if entry.hidden else stocked(*words, "--help").out.splitlines()[0]
        if re.search(r"[{\[]NAME[}\]]", usage) and words != ("profile", "add"):
            assert set(offered(stocked, *words, "")) & {"cart", "staging"}, usage


@pytest.mark.parametrize("option", _CHOICES)
def test_completed_choices_match_the_help(alone: Front, option: str) -> None:
    pages = [alone(*words, "--help").out for words, entry in COMMANDS.items() if not entry.hidden]
    described = [line for page in pages for line in page.splitlines() if line.startswith(f"  {option} ")]
    assert described
    assert all(all(word in line for word in _CHOICES[option]) for line in described), described


def test_completion_changes_no_file_and_prints_no_error(alone: Front) -> None:
    (alone.cwd / "profiles.yaml").write_text("profiles: [broken")
    before = sorted(alone.cwd.rglob("*"))
    assert offered(alone, "-p", "") == ["sandbox"]
    assert offered(alone, "-s", "") == []
    assert sorted(alone.cwd.rglob("*")) == before


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_valid(alone: Front, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed here")
    script = alone("completion", shell).out
    done = subprocess.run([program, "-n"], input=script, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


#: Keys of the line typed so far -> the completed line, the same in every shell except for quoting.
_TYPED = {
    "guestctl ses\tus\tcar\t": "guestctl session use cart ",
    "guestctl -p stag\tsen\t": "guestctl -p staging send ",
    "guestctl send -s my\t": "guestctl send -s my\\ order ",
    "guestctl send --exp\t": "guestctl send --expect ",
    "guestctl ask -o ya\t": "guestctl ask -o yaml ",
    "guestctl ask --output=ya\t": "guestctl ask --output=yaml ",
    "guestctl ask --region eu-central-1 --api webm\t": (
        "guestctl ask --region eu-central-1 --api webmessaging-conversations "
    ),
    "./bin/guestctl send --file pic\t": "./bin/guestctl send --file picture.png ",
    "guestctl check sm\t": "guestctl check smoke.yaml ",
    "guestctl help env\t": "guestctl help environment ",
    "guestctl profile use st\tag\t": "guestctl profile use staging ",
}
#: How to start each shell with completion, so that C-x writes the current line into a file.
_SHELLS = {
    "bash": (
        ["--norc", "--noprofile", "-i"],
        'bind -x \'"\\C-x": printf %s "$READLINE_LINE" > line\'; eval "$(guestctl completion bash)"',
    ),
    "zsh": (
        ["-f", "-i"],
        "bindkey -e; shown() { print -rn -- \"$BUFFER\" > line }; zle -N shown; bindkey '^X' shown; "
        'eval "$(guestctl completion zsh)"',
    ),
    "fish": (
        ["--no-config", "-i"],
        "bind \\cx 'commandline > line'; guestctl completion fish | source",
    ),
}


@pytest.mark.parametrize("shell", _SHELLS)
def test_completion_works_in_a_real_shell(stocked: Front, shell: str) -> None:
    """Type keys into an interactive shell on a terminal and return the command line that results."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed here")
    place = stocked.cwd / "bin" / "guestctl"
    place.parent.mkdir()
    place.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m guestctl "$@"\n')
    place.chmod(0o755)
    for name in ("picture.png", "smoke.yaml"):
        (stocked.cwd / name).touch()
    options, prepared = _SHELLS[shell]
    environ = {**stocked.environ, "HOME": str(stocked.cwd), "PYTHONPATH": str(ROOT), "TERM": "xterm", "LANG": "C.UTF-8"}
    environ |= {"PATH": f"{place.parent}:/usr/bin:/bin", "INPUTRC": os.devnull, "HISTFILE": ""}
    with _at_a_terminal([program, *options], stocked.cwd, environ) as keys:
        keys(f"{prepared}; touch ready\n")
        _appeared(stocked.cwd / "ready")
        for typed, line in _TYPED.items():
            keys(typed + "\x18")
            assert _appeared(stocked.cwd / "line") == line
            keys("\x15")  # C-u: the line is empty again


@contextmanager
def _at_a_terminal(words: list[str], cwd: Path, environ: dict[str, str]) -> Iterator[Callable[[str], None]]:
    """Run a program on its own terminal, discard its output and yield the function that types."""
    master, slave = pty.openpty()
    own = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    running = subprocess.Popen(
        [sys.executable, "-c", own, *words],
        stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=environ, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    reader = threading.Thread(target=_read, args=[master])
    reader.start()
    try:
        yield lambda typed: _typed(master, typed)
    finally:
        running.kill()
        running.wait()
        reader.join()
        os.close(master)


def _typed(descriptor: int, text: str) -> None:
    os.write(descriptor, text.encode())


def _read(descriptor: int) -> None:
    with suppress(OSError):  # EIO: nobody holds the other end any more
        while os.read(descriptor, 4096):
            pass


def _appeared(path: Path) -> str:
    """Wait for a file, return its content and delete it."""
    for _ in range(1200):
        if path.exists() and (path.name == "ready" or path.read_text()):
            content = path.read_text()
            path.unlink()
            return content.rstrip("\n")
        time.sleep(0.05)
    pytest.fail(f"no {path.name}")
