"""Completion: the candidates, and the scripts in the shells this machine has."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guestctl.cli.completion import _CHOICES
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
        (["ask", "--output", "="], ["auto", "json", "jsonl", "table", "yaml"]),
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


@pytest.mark.parametrize("option", _CHOICES)
def test_choices_are_what_help_says(alone: Front, option: str) -> None:
    pages = [alone(*words, "--help").out for words, entry in COMMANDS.items() if not entry.hidden]
    described = [line for page in pages for line in page.splitlines() if line.startswith(f"  {option} ")]
    assert described
    assert all(all(word in line for word in _CHOICES[option]) for line in described), described


def test_asking_disturbs_nothing(alone: Front) -> None:
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


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("guestctl ses\tus\tcar\t", "guestctl session use cart "),
        ("guestctl -p stag\tsen\t", "guestctl -p staging send "),
        ("guestctl send -s my\t", "guestctl send -s my\\ order "),
        ("guestctl ask --output=ya\t", "guestctl ask --output=yaml "),
        ("./bin/guestctl send --file pic\t", "./bin/guestctl send --file picture.png "),
        ("guestctl help env\t", "guestctl help environment "),
    ],
)
def test_in_a_real_bash(stocked: Front, typed: str, line: str) -> None:
    """Keys into an interactive bash. After the TABs, C-a puts `echo` in front of the line, C-e a mark behind it."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed here")
    program = stocked.cwd / "bin" / "guestctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m guestctl "$@"\n')
    program.chmod(0o755)
    (stocked.cwd / "picture.png").touch()
    environ = {**stocked.environ, "PATH": f"{program.parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    master, slave = pty.openpty()
    shell = subprocess.Popen(
        [bash, "--norc", "--noprofile", "-i"],
        stdin=slave, stdout=slave, stderr=slave, cwd=stocked.cwd, start_new_session=True,
        env={**environ, "PS1": "ready> ", "INPUTRC": os.devnull, "HISTFILE": ""},
    )  # fmt: skip
    os.close(slave)
    try:
        _until(master, "ready> ")
        os.write(master, b'eval "$(guestctl completion bash)"\n')
        _until(master, "ready> ")
        os.write(master, f"{typed}\x01echo \x27<\x05>\x27\n".encode())
        shown = _until(master, "\n<")  # what echo prints, not what the terminal echoes
        shown = shown.rpartition("\n<")[2] + _until(master, ">")
        assert shown == f"{line}>"
    finally:
        shell.kill()
        shell.wait()
        os.close(master)


def _until(descriptor: int, mark: str) -> str:
    """What the terminal shows, up to and with the mark."""
    shown, end = "", time.monotonic() + 30
    while not shown.endswith(mark):
        if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
            pytest.fail(f"no {mark!r} in {shown!r}")
        shown += os.read(descriptor, 1).decode()
    return shown
