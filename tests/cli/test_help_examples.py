"""Every example of a help page runs as shown, in bash, against a real sandbox.

What the reader would put in (an id, a file, a program of his own) is put in; nothing else is changed.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import jwt
import pytest

from guestctl.cli.registry import COMMANDS, split
from guestctl.core.errors import Exit
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front
from tests.cli.shell import Shell

_BOT = """
rules: [{contains: parcel, reply: On its way., quickReplies: [Track it, Send it back]}]
otherwise: "echo: ${text}"
"""
_CHECK = "scenarios: {hours: [{say: hi}, {expect: hi}]}\n"
_URI = "--redirect-uri https://shop.example/cb"
_JWT = jwt.encode({"exp": 4_000_000_000}, "a key that is long enough for the algorithm", algorithm="HS256")

#: Examples that are only parsed, and why.
PARSED = {
    "guestctl chat": "needs a terminal: tests/cli/test_chat.py has one",
    "guestctl chat -s cart --replay 50": "needs a terminal: tests/cli/test_chat.py has one",
    "guestctl doctor wss://webmessaging.mypurecloud.de/v1": "asks a public host",
    "guestctl trace export bug.trace --otlp http://127.0.0.1:4318": "needs a collector: tests/otel has one",
    "guestctl load smoke.yaml --guests 100 --for 10m --slo 'reply p95 < 2s'": ("needs Locust: tests/load has it"),
    "guestctl sandbox exec --fast -- guestctl load smoke.yaml --guests 20 --for 30s": "needs Locust",
    "guestctl judge labels.yaml": "needs a model: tests/checks/test_ai_runs.py has one",
    "guestctl judge labels.yaml --votes 5 --model-record recordings -o json": "needs a model",
    "guestctl completion fish | source": "is fish: tests/cli/test_completion.py runs it in a fish",
}
#: Commands to run first. Two sessions and a profile `staging` always exist.
_FIRST = {
    "guestctl send --pick 2 --wait": ["send parcel --wait"],
    "guestctl profile set staging --region eu-central-1 --unset origin": [
        "profile set staging origin=https://shop.example"
    ],
    "guestctl session sign-out": [f"session create --auth-code ann:1 {_URI}"],
    "guestctl session sign-out -s cart": [f"session create --as cart --auth-code ann:2 {_URI}"],
    "guestctl replay bug.trace": ["ask hi --trace bug.trace"],
    "guestctl trace view bug.trace": ["ask hi --trace bug.trace"],
    "guestctl trace view before.trace after.trace --html both.html": [
        "ask hi --trace before.trace",
        "ask hi --trace after.trace",
    ],
    "guestctl trace export bug.trace --har bug.har": ["ask hi --trace bug.trace"],
    "guestctl replay golden.trace --port 4010 -o json": ["ask hi --trace golden.trace"],
    "guestctl guest sync --provider shop --email ann@shop.example": ["session create --api guests"],
    "guestctl guest sync --provider shop --email ann@shop.example --attr tier=gold": ["session create --api guests"],
}
#: Examples that keep running: what the agent sends, and their exit code (INTERRUPTED by Ctrl-C).
_UNTIL: dict[str, tuple[str | None, Exit]] = {
    "guestctl listen --max 1 --for 10": ("hello", Exit.DONE),
    "guestctl listen -o jsonl --until goodbye | jq -r .text": ("goodbye", Exit.DONE),
    "guestctl resume --on-conflict new --listen": ("hello", Exit.INTERRUPTED),
    "guestctl sandbox serve": (None, Exit.INTERRUPTED),
    "guestctl sandbox serve --fault drop:after=3 -o json": (None, Exit.INTERRUPTED),
    "guestctl sandbox sessions --watch": (None, Exit.INTERRUPTED),
    "guestctl relay serve -s cart --http 127.0.0.1:8787": (None, Exit.INTERRUPTED),
    "guestctl relay serve -s cart --http 127.0.0.1:0 -o json": (None, Exit.INTERRUPTED),
    "guestctl proxy --to staging --trace widget.trace": (None, Exit.INTERRUPTED),
    "guestctl proxy --to sandbox --port 4010 --tls -o json": (None, Exit.INTERRUPTED),
    "guestctl replay bug.trace": (None, Exit.INTERRUPTED),
    "guestctl trace view bug.trace": (None, Exit.INTERRUPTED),
    "guestctl replay golden.trace --port 4010 -o json": (None, Exit.INTERRUPTED),
}
#: Asked for a yes at a terminal.
_CONFIRMED = {"guestctl session end", "guestctl session clear", "guestctl profile remove staging"}


def _examples() -> Iterator[str]:
    for entry in COMMANDS.values():
        yield from entry.load().examples
    yield 'guestctl -p staging send "Where is my parcel?" --wait'  # of `guestctl --help`, like two of those above


EXAMPLES = list(_examples())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    bot = tmp_path_factory.mktemp("bot") / "bot.yaml"
    bot.write_text(_BOT)
    with running(SandboxOptions(fast=True, script=bot, sign_in=True)) as sandbox:
        yield sandbox


@pytest.fixture
def front(service: Sandbox, sandboxed: Callable[[Sandbox], Front], monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """A directory with two sessions, a profile file, and the files that the examples name."""
    plain = sandboxed(service)
    place = plain.cwd
    monkeypatch.chdir(place)
    (place / "profiles.yaml").write_text(
        f"profiles: {{staging: {{base_url: '{service.url}', deployment_id: {service.deployment_id}}}}}\n"
    )
    (place / "team.yaml").write_text("profiles: {shop: {region: mypurecloud.de, deployment_id: d}}\n")
    (place / "bot.yaml").write_text(_BOT)
    for name in ("invoices", "tests"):
        (place / name).mkdir()
    (place / "tests" / "note.txt").write_text("hello")
    for script in ("bot.check.yaml", "tests/hours.yaml"):
        (place / script).write_text(_CHECK)
    (place / "tests/chat.sh").write_text("guestctl ask parcel\n")
    environ = {
        **plain.environ,
        "EDITOR": "cat",
        "GUEST_SECRET": "secret",
        "GUESTCTL_PROFILES": str(place / "profiles.yaml"),
    }
    found = Front(environ, place)
    for argv in ("session create --as cart", "session create", "-p staging session create"):
        told = found(*argv.split())
        assert told.code == 0, told.err
    (place / "session.json").write_text(found("session", "export", "--show-token").out)
    yield found
    assert found("sandbox", "fault", "--clear").code == 0


def _put_in(example: str, front: Front) -> str:
    """Return the example with its placeholders replaced."""
    if "3b1f" in example:
        sent = front("send", "here", "--file", "tests/note.txt")
        example = example.replace("3b1f", sent.record["attachments"][0]["id"])
    if "--to ID" in example:
        [*_, last] = front("sandbox", "sessions").records
        example = example.replace("--to ID", f"--to {last['id']}")
    if "profile add" in example:
        example = example.replace("add staging", "add another")
    return example.replace("CODE", "ann:3").replace("--port 4010", "--port 0").replace(":8787", ":0")


@pytest.mark.parametrize("example", [example for example in EXAMPLES if example not in PARSED])
def test_an_example_runs(front: Front, example: str) -> None:
    for argv in _FIRST.get(example, ()):
        told = front(*argv.split())
        assert told.code == 0, told.err
    if "guest sync" in example:  # only that API has it
        front = replace(front, environ={**front.environ, "GUESTCTL_API": "guests"})
    line = _put_in(example, front)
    if example in _CONFIRMED:
        told = front(*shlex.split(line)[1:], stdin="y\n", tty=True)
        assert told.code == 0, told.err
        return
    if not re.search(r"[|&<>$*;]| -- ", line) and example not in _UNTIL:
        told = front(*shlex.split(line)[1:])
        assert told.code == 0, told.err
        return
    shell = Shell(front)
    shell.program("pass", 'test "$*" = "show id-token" && echo bob:idtoken')
    shell.program("pbpaste", f"echo {_JWT}")
    if example not in _UNTIL:
        shell(line)
        return
    said, code = _UNTIL[example]
    with _going_on(shell, line) as (process, heard):
        for _ in range(600):
            if heard or process.poll() is not None:
                break
            if said is not None:
                assert front("sandbox", "push", said).code == 0
            time.sleep(0.05)
        if code == Exit.INTERRUPTED:
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == code
    assert said is None or said in "".join(heard)
    assert heard


@contextmanager
def _going_on(shell: Shell, line: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run the line and yield what it has printed so far."""
    process = shell.start(line)
    heard: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        heard.extend(iter(process.stdout.readline, ""))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield process, heard
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        reader.join()
        shell.close()


@pytest.mark.parametrize("example", PARSED)
def test_the_other_examples_are_parsed(alone: Front, example: str) -> None:
    assert example in EXAMPLES
    words = shlex.split(example.partition(" | ")[0])[1:]
    parsed = split(words)
    assert parsed.words in COMMANDS
    assert alone(*words, "--help").code == 0
