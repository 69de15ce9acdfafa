"""Text of the service or a profile never controls a terminal. A pipe gets the text unchanged."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestctl.dialects import NAMES
from guestctl.sandbox.server import Sandbox
from tests.cli.conftest import Front
from tests.integration.front import Guest, InstantClock
from tests.integration.middle import answer
from tests.security.canaries import Canaries
from tests.security.gateway import Teller

#: Escapes of every family, C1 in both forms, markup, direction marks, line and paragraph separators, a tag.
HOSTILE = (
    "\x1b[2J\x1b]52;c;aGk=\x07\x1b]8;;https://evil\x1b\\bank\x1b]8;;\x1b\\\x1bP1$r\x1b\\\x9b31m\x90q\x9c\r\x08\x7f\x0b"
    "[bold red][link=https://evil]x[/link][/nope] :100: \u202eabc\u2066\u200f\u2028\u2029\ufeff\U000e0041\ufffe"
    "\n12:00:00 < agent: fake"
)


def forbidden(text: str, *, styled: bool = False) -> set[str]:
    """Return the code points that control a terminal, reorder text, or are invisible."""
    if styled:  # colours of guestctl and redrawing by rich, which contain no remote text
        text = re.sub(r"\x1b\[[0-9;?]*[mKAhl]|\r", "", text)
    return {
        repr(char)
        for char in text
        if char != "\n"
        and (
            unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}
            or (unicodedata.category(char) == "Cf" and ord(char) not in {0x200C, 0x200D})
            or (ord(char) & 0xFFFE) == 0xFFFE
        )
    }


def seen_on_a_terminal(words: list[str], environ: dict[str, str]) -> str:
    """Run a command with a pseudo-terminal as stdout and stderr."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "guestctl", *words], env=environ, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    data = b""
    try:
        while piece := os.read(ours, 65536):
            data += piece
    except OSError:  # Linux raises EIO after the last writer has closed
        pass
    os.close(ours)
    child.wait()
    return data.decode().replace("\r\n", "\n")


VIEWS = (
    ("send", "hi", "--wait"),
    ("send", HOSTILE.replace("\r", "")),
    ("ask", "hi"),
    ("history", "--all", "--raw"),
    ("history", "--format", "txt"),
    ("history", "--format", "md"),
    ("history", "--format", "html"),
    ("resume", "--raw"),
    ("listen", "--for", "50ms", "--replay", "9", "--only", "message,connection,unknown,session"),
    ("session", "show"),
    ("session", "list"),
    ("session", "report"),
    ("doctor",),
    ("download", "x" + HOSTILE),
    ("explain", HOSTILE),
    ("-p", HOSTILE, "send", "x"),
)


@pytest.mark.parametrize("api", NAMES)
def test_views(api: str, sandbox: Sandbox, sandboxed: Callable[[Sandbox], Front]) -> None:
    """Texts of the agent and of the guest, and names that do not exist."""
    front = sandboxed(sandbox)
    given: Any = {"GUESTCTL_API": api, "COLUMNS": "70", "NO_COLOR": "1"}
    assert front("session", "create", **given).code == 0
    assert front("send", HOSTILE.replace("\r", ""), **given).code == 0
    for words in VIEWS:
        result = front(*words, "--timeout", "2", tty=True, **given)
        assert not forbidden(result.out + result.err), words
        assert result.code != 70, result.err
    # Not splitlines(): it also splits at U+2028, unlike JSON Lines.
    exact = [json.loads(line)["text"] for line in front("history", **given).out.rstrip("\n").split("\n")]
    assert HOSTILE.replace("\r", "") in exact
    screen = front("history", "-o", "jsonl", tty=True, **given)
    assert screen.out.isascii()
    assert [json.loads(line)["text"] for line in screen.out.splitlines()] == exact
    assert not any(line.startswith("12:00:00 < agent") for line in front("history", tty=True, **given).out.splitlines())


@pytest.mark.parametrize("api", NAMES)
@pytest.mark.parametrize("where", ["body", "message", "phrase", "header", "close"])
def test_errors(api: str, where: str, tmp_path: Path, sandboxed: Callable[[Sandbox], Front]) -> None:
    """Error bodies, messages, reason phrases, headers and close reasons."""
    said = HOSTILE.encode("utf-8", "replace")
    latin = HOSTILE.encode("latin-1", "replace").replace(b"\n", b"").replace(b"\r", b"")
    replies = {
        "body": answer(400, said, "text/html"),
        "message": answer(400, json.dumps({"message": HOSTILE, "code": HOSTILE}).encode()),
        "phrase": b"HTTP/1.1 400 " + latin + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "header": b"HTTP/1.1 302 Moved\r\nLocation: " + latin + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    }
    clock = InstantClock()
    with Teller(Canaries()) as teller, Sandbox(fast=True, clock=clock, also_hosts=(f"127.0.0.1:{teller.port}",)) as box:
        teller.behind = box.port
        environ = {**sandboxed(box).environ, "GUESTCTL_SANDBOX_URL": teller.url, "GUESTCTL_API": api}
        Guest(api, environ, tmp_path, clock).ok("session", "create")
        if where == "close":
            teller.goodbye, teller.say = True, HOSTILE[:100]
        else:
            teller.trick = lambda teller, asked, reply: replies[where]
        front = Front({**environ, "COLUMNS": "70", "NO_COLOR": "1"}, tmp_path)
        for words in (("send", "hi"), ("history",), ("resume",), ("doctor",), ("listen", "--for", "20ms")):
            result = front(*words, "--timeout", "2", "-vv", "--debug", tty=True)
            assert not forbidden(result.out + result.err), words
            assert "internal error" not in result.err, result.err


def test_profile_values(alone: Front, tmp_path: Path) -> None:
    """The profile file of a repository is foreign text too."""
    path = tmp_path / "profiles.yaml"
    for text in (
        "profiles: {p: {application: " + json.dumps(HOSTILE) + "}}",
        "profiles: {" + json.dumps(HOSTILE) + ": {}}",
        json.dumps(HOSTILE),
        "profiles: {p: {" + json.dumps(HOSTILE) + ": 1}}",
        "profiles: {p: {region: " + json.dumps(HOSTILE) + "}}",
        "profiles: {p: {language: " + json.dumps("[bold]\u202e\u2066 :100:") + ", region: mypurecloud.de}}",
    ):
        path.write_text(text)
        for words in (("profile", "list"), ("profile", "show", "p"), ("profile", "check"), ("-p", "p", "doctor")):
            result = alone(*words, "--profiles", str(path), "--timeout", "100ms", tty=True, NO_COLOR="1", COLUMNS="70")
            assert not forbidden(result.out + result.err), (text, words)
            assert result.code != 70, result.err


def test_on_a_real_terminal(sandbox: Sandbox, sandboxed: Callable[[Sandbox], Front], tmp_path: Path) -> None:
    """`check`, `ask` and `history`, through a pseudo-terminal."""
    front = sandboxed(sandbox)
    environ = {**front.environ, "PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "70"}
    script = tmp_path / "talk.yaml"
    hostile = json.dumps(HOSTILE.replace("\x7f", ""))
    steps = f"    - say: {hostile}\n    - waitForReplyContaining: nothing of the kind\n"
    script.write_text(f"config: {{}}\nscenarios:\n  {hostile}:\n{steps}")
    for words in (["check", str(script), "--timeout", "300ms"], ["ask", HOSTILE.replace("\r", "")], ["history"]):
        screen = seen_on_a_terminal(words, environ)
        assert screen
        assert not forbidden(screen, styled=True), words
        assert "\x1b]" not in screen
