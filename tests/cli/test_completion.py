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
    assert set(offered(alone, "")) == {words[0] for words in COMMANDS} | {"help"}
    assert set(TOPICS) <= set(offered(alone, "help", ""))


def test_every_name_is_completed(stocked: Front) -> None:
    """Every command that takes the name of a profile or a session offers the existing names."""
    for words in COMMANDS:
        usage = stocked(*words, "--help").out.splitlines()[0]
        if re.search(r"[{\[]NAME[}\]]", usage) and words != ("profile", "add"):
            assert set(offered(stocked, *words, "")) & {"cart", "staging"}, usage


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_completed_choices_match_the_help(alone: Front, words: tuple[str, ...]) -> None:
    page = " ".join(alone(*words, "--help").out.split())
    for one in COMMANDS[words].load().parameters():
        choices = one.declared.completes
        if one.option and isinstance(choices, tuple):
            description = page.partition(f" {one.option.names[-1]} ")[2].partition(" --")[0]
            assert all(choice in description for choice in choices), one.option.names


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["ses"], "session\tstored guest sessions"),
        (["session", "cr"], "create\tcreate a guest session and store it"),
        (["help", "bo"], "bots\tscripts for the sandbox's bot"),
        (["--vers"], "--version\tshow the version"),
        (["send", "--wa"], "--wait\twait for the reply and print it too"),
        (["session", "list", "--no-s"], "--no-state\tneither read nor store sessions"),
        (["ask", "--region=eu-central-1"], "--region=eu-central-1\tFrankfurt, mypurecloud.de"),
        (["ask", "-o", "js"], "json"),
    ],
    ids=" ".join,
)
def test_descriptions(alone: Front, words: list[str], line: str) -> None:
    told = alone("__complete", "--descriptions", "--", *words)
    assert (told.code, told.err) == (0, "")
    assert told.out.splitlines()[0] == line


def test_every_candidate_after_a_command_is_described(alone: Front) -> None:
    for words in COMMANDS:
        told = alone("__complete", "--descriptions", "--", *words, "--")
        assert told.out
        assert all(re.fullmatch(r"--[a-z-]+\t\S.*", line) for line in told.out.splitlines())


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
    _install(stocked)
    for name in ("picture.png", "smoke.yaml"):
        (stocked.cwd / name).touch()
    options, prepared = _SHELLS[shell]
    with _at_a_terminal([program, *options], stocked.cwd, _environ(stocked)) as (keys, _):
        keys(f"{prepared}; touch ready\n")
        _appeared(stocked.cwd / "ready")
        for typed, line in _TYPED.items():
            keys(typed + "\x18")
            assert _appeared(stocked.cwd / "line") == line
            keys("\x15")  # C-u: the line is empty again


@pytest.mark.parametrize("shell", _SHELLS)
def test_a_real_shell_shows_descriptions(alone: Front, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed here")
    _install(alone)
    options, prepared = _SHELLS[shell]
    with _at_a_terminal([program, *options], alone.cwd, _environ(alone)) as (keys, shown):
        keys(f"{prepared}; touch ready\n")
        _appeared(alone.cwd / "ready")
        keys("guestctl se\t\t")
        for _ in range(1200):
            if b"stored guest sessions" in shown and b"send one message and wait" in shown:
                break
            time.sleep(0.05)
        else:
            pytest.fail(shown.decode(errors="replace"))


def test_fish_offers_only_the_options_of_the_command(alone: Front) -> None:
    """Fish makes completions from the manual page and loads them at the first completion."""
    program = shutil.which("fish")
    if program is None:
        pytest.skip("fish is not installed here")
    _install(alone)
    made = alone.cwd / "generated" / "guestctl.fish"
    made.parent.mkdir()
    made.write_text("complete -c guestctl -l pick-number -d 'an option of another command'\n")
    script = (
        f"set -gp fish_complete_path {made.parent}; guestctl completion fish | source; "
        'complete -C "guestctl session list --"'
    )
    done = subprocess.run(
        [program, "--no-config", "-c", script],
        capture_output=True, text=True, cwd=alone.cwd, env=_environ(alone), timeout=60,
    )  # fmt: skip
    told = alone("__complete", "--descriptions", "--", "session", "list", "--")
    assert sorted(done.stdout.splitlines()) == sorted(told.out.splitlines())


def _install(front: Front) -> None:
    """Put a program `guestctl` into the directory `bin`."""
    place = front.cwd / "bin" / "guestctl"
    place.parent.mkdir()
    place.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m guestctl "$@"\n')
    place.chmod(0o755)


def _environ(front: Front) -> dict[str, str]:
    return {
        **front.environ,
        "HOME": str(front.cwd),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{front.cwd / 'bin'}:/usr/bin:/bin",
        "TERM": "xterm",
        "LANG": "C.UTF-8",
        "INPUTRC": os.devnull,
        "HISTFILE": "",
    }


@contextmanager
def _at_a_terminal(
    words: list[str], cwd: Path, environ: dict[str, str]
) -> Iterator[tuple[Callable[[str], None], bytearray]]:
    """Run a program on its own terminal; yield the function that types, and what the program has shown so far."""
    master, slave = pty.openpty()
    own = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    running = subprocess.Popen(
        [sys.executable, "-c", own, *words],
        stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=environ, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    shown = bytearray()
    reader = threading.Thread(target=_read, args=[master, shown])
    reader.start()
    try:
        yield (lambda typed: _typed(master, typed)), shown
    finally:
        running.kill()
        running.wait()
        reader.join()
        os.close(master)


def _typed(descriptor: int, text: str) -> None:
    os.write(descriptor, text.encode())


def _read(descriptor: int, shown: bytearray) -> None:
    with suppress(OSError):  # EIO: nobody holds the other end any more
        while data := os.read(descriptor, 4096):
            shown += data


def _appeared(path: Path) -> str:
    """Wait for a file, return its content and delete it."""
    for _ in range(1200):
        if path.exists() and (path.name == "ready" or path.read_text()):
            content = path.read_text()
            path.unlink()
            return content.rstrip("\n")
        time.sleep(0.05)
    pytest.fail(f"no {path.name}")
