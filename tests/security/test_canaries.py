"""No secret appears in anything that guestctl writes, whatever the service does with a secret it received."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.cli.registry import COMMANDS as REGISTERED
from guestctl.cli.registry import split
from guestctl.core.redact import Redactor
from guestctl.dialects import NAMES
from guestctl.sandbox.server import Sandbox
from tests.security.canaries import Canaries, disguises
from tests.security.gateway import TRICKS
from tests.security.sweep import COMMANDS, LOCAL, MODES, NOT_SWEPT, sweep

#: Of all trick × command × mode; a prime, so that each API meets another part. `tests.security.sweep` runs them all.
PART = 37


@pytest.mark.parametrize("api", NAMES)
def test_no_secret_in_anything_written(api: str, tmp_path: Path) -> None:
    with sweep(api, tmp_path) as found:
        found.through(part=PART)
    assert found.runs > len(TRICKS) * len(COMMANDS) * len(MODES) // PART
    assert len(found.canaries.known) > 5
    assert len(found.codes) > 5, "the tricks no longer provoke errors"
    assert found.hits == []


def test_the_sweep_finds_a_planted_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without masking, the sweep finds the secrets of the same exchange everywhere."""
    monkeypatch.setattr(Redactor, "text", lambda self, text: text)
    monkeypatch.setattr(Redactor, "value", lambda self, value: value)
    monkeypatch.setattr(Redactor, "json_text", lambda self, text: text)
    with sweep("guests", tmp_path) as found:
        found.begin()
        for trick in ("echo 400", "prose", "page", "cut in a secret"):
            found.teller.trick = TRICKS[trick]
            for what in ("send", "history", "doctor", "check", "tap"):
                found(what, COMMANDS[what], "all told, json")
        found.teller.trick = None
        found.goodbyes("plain pipe")
        found.search_feed()
    service = ("log of the service", "trace of the service", "feed of the inspector")
    for where in ("stdout", "stderr", "trace.jsonl", "report.xml", *service):
        assert any(f"-> {where}: " in hit for hit in found.hits), where


def test_every_encoding_of_a_secret_is_found() -> None:
    canaries = Canaries(token='a/b+c"d-0123456789-0123456789-xyz')
    for form, disguised in disguises('a/b+c"d-0123456789-0123456789-xyz'):
        assert canaries.found(b"said: " + disguised + b" indeed"), form
    assert canaries.found(b'a/b+c"d-01234567\n    89-0123456789-xyz'), "folded by a terminal"
    assert not canaries.found(b"nothing of the kind")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_can_read_what_is_written(umask: int, sandbox: Sandbox, tmp_path: Path) -> None:
    """State, locks and traces have private modes from the first moment on. No secret is in the process arguments."""
    environ = {
        "PATH": os.environ["PATH"],
        "GUESTCTL_PROFILE": "sandbox",
        "GUESTCTL_SANDBOX_URL": sandbox.url,
        "GUESTCTL_STATE": str(tmp_path / "state"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "HOME": str(tmp_path),
    }
    trace = tmp_path / "trace.jsonl"
    seen: dict[str, set[int]] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for place in (trace, tmp_path / "state", *(tmp_path / "state").rglob("*")):
                try:
                    seen.setdefault(str(place), set()).add(stat.S_IMODE(os.lstat(place).st_mode))
                except OSError:
                    pass

    watcher = threading.Thread(target=watch)
    watcher.start()
    words = set()
    try:
        command = [sys.executable, "-m", "guestctl", "ask", "hi", "--trace", str(trace)]
        child = subprocess.Popen(command, env=environ, umask=umask, stdout=subprocess.DEVNULL, cwd=Path.cwd())
        while child.poll() is None:
            try:
                words.add(Path(f"/proc/{child.pid}/cmdline").read_bytes())
            except OSError:
                break
        assert child.wait() == 0
    finally:
        over.set()
        watcher.join()
    assert seen
    assert {mode & 0o077 for modes in seen.values() for mode in modes} == {0}, seen
    canaries = Canaries()
    canaries.remember(tmp_path / "state" / "state.db")
    assert canaries.known
    assert not any(canaries.found(each) for each in words)


def test_no_secret_in_any_help(front: Callable[..., object], sandbox: Sandbox) -> None:
    """Help shows neither defaults nor environment values."""
    from guestctl.cli.registry import COMMANDS as EVERY

    secret = "canary-in-the-environment-4711"
    for words in EVERY:
        result = front(*words, "--help", GUESTCTL_OAUTH_CLIENT_SECRET=secret, GUESTCTL_SANDBOX_ADMIN_KEY=secret)
        assert secret not in str(result)


def test_every_command_is_swept_or_exempt_with_a_reason() -> None:
    swept = {split(argv).words for argv in (*COMMANDS.values(), *LOCAL.values())}
    assert swept.isdisjoint(NOT_SWEPT)
    assert swept | NOT_SWEPT.keys() == REGISTERED.keys()
