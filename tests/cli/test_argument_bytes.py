"""Arguments that are not UTF-8, and arguments in a locale without UTF-8.

Knows: how Python hands bytes over that it cannot decode. Must not know: which option is checked where.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cli.conftest import Front

#: What Python makes of the byte E9, and of the two bytes of "é" in a locale that is not UTF-8.
LONE, SPLIT = "caf\udce9", "caf\udcc3\udca9"
UUID = "5a4db0c5-0000-4000-8000-677565737463"

COMMANDS = (
    ("ask", "{}"), ("ask", "--new", "{}"), ("ask", "a", "{}"), ("send", "{}"), ("send", "hi", "--attr", "k={}"),
    ("send", "hi", "--attr", "{}=v"), ("send", "--pick", "{}"), ("send", "--form", "a={}"),
    ("send", "hi", "--expect", "{}"), ("session", "create", "--as", "{}"), ("session", "create", "--attr", "k={}"),
    ("session", "create", "--origin", "{}"), ("history", "--since", "{}"), ("listen", "--until", "{}", "--for", "1"),
    ("session", "use", "{}"), ("session", "list", "-p", "{}"), ("send", "hi", "-s", "{}"), ("explain", "{}"),
    ("check", "s.check.yaml", "--var", "k={}"), ("check", "s.check.yaml", "--tag", "{}"), ("download", "{}"),
    ("profile", "add", "{}", "--region", "mypurecloud.de"), ("profile", "show", "{}"), ("sandbox", "push", "{}"),
    ("guest", "sync", "--provider", "{}", "--email", "a@b.c"), ("doctor", "{}"), ("{}",), ("send", "{}", "--id", UUID),
)  # fmt: skip


@pytest.mark.parametrize("argv", COMMANDS)
@pytest.mark.parametrize("mode", [(), ("-o", "json")])
def test_bytes_that_are_not_utf_8_are_a_usage_error(front: Front, argv: tuple[str, ...], mode: tuple[str, ...]) -> None:
    (front.cwd / "s.check.yaml").write_text("scenarios: {a: [{say: '${k:-x}'}]}\n")
    front("session", "create")
    refused = front(*(word.format(LONE) for word in argv), *mode)
    assert refused.code == 2, refused.err
    assert refused.out == ""


@pytest.mark.parametrize("mode", [(), ("-o", "json")])
def test_a_locale_without_utf_8_does_not_matter(front: Front, mode: tuple[str, ...]) -> None:
    told = front("ask", SPLIT, *mode)
    assert told.code == 0, told.err
    assert (told.record["text"] if mode else told.out.strip()) == "echo: café"
    assert front("send", "hi", "--attr", f"k={SPLIT}").code == 0
    (front.cwd / "s.check.yaml").write_text("scenarios: {a: [{say: '${k}'}, {expect: 'echo: café'}]}\n")
    assert front("check", str(front.cwd / "s.check.yaml"), "--var", f"k={SPLIT}").code == 0


@pytest.mark.parametrize("argument", [b"caf\xe9", "café".encode()])
def test_the_c_locale_of_a_process(front: Front, argument: bytes) -> None:
    c_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "guestctl", "ask", argument],
        env={**os.environ, **front.environ, **c_locale},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == (2 if argument == b"caf\xe9" else 0), done.stderr
    assert b"internal error" not in done.stderr
