"""The options of `sandbox serve` and `sandbox exec` that decide how the service behaves."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import sys
from dataclasses import replace

import pytest

from tests.cli.conftest import Front
from tests.cli.test_signals import shown, started

GUESTCTL = (sys.executable, "-m", "guestctl")


@pytest.mark.parametrize("command", [("serve",), ("exec",)])
@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--keys", "return", "returned, withheld"),
        ("--deduplicates", "true", "yes, no"),
        ("--answers", "bare", "full, published"),
        ("--unknown-deployment", "refuse", "answered, refused"),
        ("--domain", "https://x.test", "host name"),
        ("--domain", "a b", "host name"),
        ("--bot-delay", "soon", "duration"),
        ("--bot-delay", "-1", "duration"),
        ("--fault", "late:ms=x", "milliseconds"),
        ("--fault", "late:on=socket", "late concerns"),
    ],
)
def test_wrong_values_are_refused(alone: Front, command: tuple[str], option: str, value: str, named: str) -> None:
    rest = ("--", "true") if command == ("exec",) else ()
    result = alone("sandbox", *command, f"{option}={value}", *rest)
    assert (result.code, result.out) == (2, "")
    assert named in result.err


@pytest.mark.parametrize(("options", "stated"), [((), False), (("--deduplicates", "yes"), True)])
def test_the_sandbox_profile_states_whether_its_sandbox_deduplicates(
    alone: Front, options: tuple[str, ...], stated: bool
) -> None:
    shown = (*GUESTCTL, "profile", "show", "-o", "json")
    with started(alone, "sandbox", "exec", *options, "--", *shown) as process:
        assert process.stdout is not None
        under_exec = json.loads(process.stdout.read())
        assert process.wait(30) == 0
    with started(alone, "sandbox", "serve", *options, "-o", "json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["deduplicates"] == ("yes" if stated else "no")
        served = alone("-p", "sandbox", "profile", "show", "-o", "json").records[0]
    for found in (under_exec, served):
        assert str(stated).lower() in json.dumps(_entry(found, "service.deduplicates")).lower()


def _entry(shown: object, key: str) -> object:
    """Return what `profile show` prints about a key."""
    if isinstance(shown, dict):
        if key in shown:
            return shown[key]
        if shown.get("key") == key:
            return shown
        shown = list(shown.values())
    if isinstance(shown, list):
        return next((found for entry in shown if (found := _entry(entry, key)) is not None), None)
    return None


def test_a_symbolic_link_as_state_is_refused(alone: Front) -> None:
    target = alone.cwd / "target"
    (alone.cwd / "state").symlink_to(target)
    result = alone("sandbox", "exec", "--state", str(alone.cwd / "state"), "--", "true")
    assert (result.code, target.exists()) == (2, False)
    assert "symbolic link" in result.err


def test_the_faults_topic_lists_late(alone: Front) -> None:
    assert "late:ms=2000" in alone("help", "faults").out


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), "/config.json; OAuth http://127.0.0.1:"),
        (("--api", "guest-sessions"), "other clients need: socket ws://127.0.0.1:"),
        (("--domain", "eu.test"), "the same under webmessaging.eu.test:"),
    ],
)
def test_the_ready_line_for_people_has_every_address(alone: Front, options: tuple[str, ...], shown: str) -> None:
    with started(alone, "sandbox", "serve", *options, "-o", "table") as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
    assert line.startswith("sandbox ready at http://127.0.0.1:")
    assert "/oauth/token" in line
    assert shown in line


def test_the_ready_line_of_a_domain_lists_its_hosts(alone: Front) -> None:
    with started(alone, "sandbox", "serve", "--domain", "eu.test", "-o", "json") as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
    port = found["url"].rpartition(":")[2]
    assert found["hosts"] == [f"{name}.eu.test:{port}" for name in ("webmessaging", "api", "api-cdn", "login")]


#: The user's own file of a shell, and the prompt that it then shows.
SHELLS = {
    "bash": (".bashrc", "PS1='mine> '", "(sandbox) mine> "),
    "zsh": (".zshrc", "PROMPT='mine> '", "(sandbox) mine> "),
    "fish": (".config/fish/config.fish", "function fish_prompt; printf 'mine> '; end", "(sandbox) mine> "),
    "sh": (".profile", "", "(sandbox) $ "),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_under_exec_shows_where_it_is(alone: Front, shell: str) -> None:
    if shutil.which(shell, path=os.defpath) is None:
        pytest.skip(f"{shell} is not installed here")
    file, content, prompt = SHELLS[shell]
    startup = alone.cwd / file
    startup.parent.mkdir(parents=True, exist_ok=True)
    startup.write_text(content + "\n")
    environ = {**alone.environ, "HOME": str(alone.cwd), "TERM": "dumb", "XDG_CONFIG_HOME": str(alone.cwd / ".config")}
    near, far = pty.openpty()
    own = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    program = (sys.executable, "-c", own, *GUESTCTL, "sandbox", "exec", "--", shell)
    terminal = {"stdin": far, "stdout": far, "stderr": far, "start_new_session": True}
    with started(replace(alone, environ=environ), program=program, **terminal) as process:
        os.close(far)
        seen = ""
        while prompt not in seen:
            seen += os.read(near, 4096).decode()
        os.write(near, b"echo $GUESTCTL_PROFILE; exit 7\n")
        seen += shown(near).decode()
        assert process.wait(20) == 7
    screen = " ".join(re.sub(r"\x1b\[[?\d]*\w", "", seen).split())
    assert screen.startswith("commands in this shell use a sandbox at http://127.0.0.1:")
    assert "(web-messaging); `exit` stops it" in screen
    assert " sandbox" in screen.rpartition("exit 7")[2]


def test_a_shell_with_a_command_under_exec_prints_nothing_of_its_own(alone: Front) -> None:
    with started(alone, "sandbox", "exec", "--", "bash", "-c", "echo $PS1.") as process:
        assert process.communicate(timeout=30) == (b".\n", b"")
