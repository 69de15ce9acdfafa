"""The README's commands work as printed, in a shell, against a real sandbox, and every command in a text exists."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from guestctl.cli.registry import COMMANDS, GROUPS, LEADING, split
from guestctl.core.errors import NEXT_STEPS
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front
from tests.cli.shell import Shell
from tools.readme import BOT

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRACT = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return (CONTRACT if f"\n## {title}\n" in CONTRACT else TEXT).partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def commands(title: str) -> list[str]:
    """Return the command lines of a section without their comments."""
    blocks = re.findall(r"^```console\n(.*?)^```$", section(title), re.DOTALL | re.MULTILINE)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [re.sub(r"\s{2,}# .*", "", line) for line in lines]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    bot = tmp_path_factory.mktemp("bot") / "bot.yaml"
    bot.write_text(BOT)
    with running(SandboxOptions(fast=True, script=bot)) as sandbox:
        yield sandbox


@pytest.fixture
def shell(served: Sandbox, sandboxed: Callable[[Sandbox], Front]) -> Iterator[Shell]:
    found = Shell(sandboxed(served))
    yield found
    found.close()


def test_on_the_sandbox(shell: Shell) -> None:
    asked, push, fault, serve = commands("On the sandbox")
    assert f"$ {asked}\n{shell(asked)}" in section("On the sandbox")
    assert shell(push)
    assert shell(fault)
    shell("guestctl sandbox fault --clear")
    (shell.cwd / "bot.yaml").write_text(BOT)
    process = shell.start(serve, GUESTCTL_STATE=str(shell.cwd / "another"))
    try:
        assert process.stdout is not None
        assert "127.0.0.1" in process.stdout.readline()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_your_own_deployment(shell: Shell, served: Sandbox) -> None:
    """As printed, but the region's host names resolve to the sandbox."""
    add, use, ask = commands("Your own deployment")
    here = {"GUESTCTL_PROFILE": "", "GUESTCTL_BASE_URL": served.url}
    shell(add, here)
    shell(use, here)
    written = yaml.safe_load((shell.cwd / "config/guestctl/profiles.yaml").read_text())
    shown = re.search(r"^```yaml\n(.*?)^```$", section("Your own deployment"), re.DOTALL | re.MULTILINE)
    assert shown is not None
    assert written == yaml.safe_load(shown[1])
    assert "parcel" in shell(ask, {**here, "GUESTCTL_DEPLOYMENT_ID": served.deployment_id})


def test_everyday_tasks(shell: Shell) -> None:
    create, wait, expect, several, pick, listen, refresh = commands("Everyday tasks")
    until, table, offered, resume, expires, failure, apis = commands("4. Output")
    assert json.loads(shell(create))["name"] == "cart"
    assert json.loads(shell(wait))["reply"]["text"] == "Your parcel is on its way."
    assert json.loads(shell(expect))["reply"]["text"] == "Your parcel is on its way."
    assert [json.loads(line)["text"] for line in shell(several).splitlines()] == ["one", "two"]
    shell("guestctl ask parcel")
    assert shell(offered) == "Track it\nSend it back\n"
    assert json.loads(shell(pick))["text"] == "Send it back"

    listening = shell.start(listen)
    try:
        assert listening.stdout is not None
        _attached(shell, "cart")
        shell("guestctl sandbox push hello")
        assert json.loads(listening.stdout.readline())["text"] == "hello"
    finally:
        listening.send_signal(signal.SIGINT)
        listening.communicate(timeout=30)
    assert listening.returncode == 130

    listening = shell.start(until)
    _attached(shell, "cart")
    shell("guestctl sandbox push 'goodbye then'")
    said, _ = listening.communicate(timeout=30)
    assert said == "goodbye then\n"

    assert [line.split("\t")[1:] for line in shell(table).splitlines()][:2] == [
        ["inbound", "Where is my parcel?"],
        ["outbound", "Your parcel is on its way."],
    ]
    shell("guestctl sandbox push 'while you were away'")
    assert shell(resume) == "while you were away\n"
    assert re.fullmatch(r"\d{4}-.*Z\n", shell(expires))
    assert shell(failure, code=2).startswith("usage: `guestctl send --help`")
    assert shell(apis) == "web-messaging\nguest-sessions\nexternal-contacts\n"

    (shell.cwd / "deploy").write_text("#!/bin/sh\ntouch deployed\n")
    (shell.cwd / "deploy").chmod(0o755)
    shell(refresh)
    assert (shell.cwd / "deployed").exists()


def _attached(shell: Shell, name: str) -> None:
    """Wait until a listener has its own socket; the commands in between leave none open."""
    for _ in range(200):
        found = json.loads(shell("guestctl sandbox sessions -o json"))
        if any(session["sockets"] for session in found):
            return
        time.sleep(0.02)
    pytest.fail(f"nobody listens to {name}")


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section(title), re.DOTALL | re.MULTILINE)


def test_the_workflow_runs(shell: Shell) -> None:
    """Check the step that runs `check`, whose report the next step uploads; half of the script fails."""
    script, workflow = (yaml.safe_load(text) for text in blocks("A smoke check in CI", "yaml"))
    [job] = workflow["jobs"].values()
    [install, check] = [step["run"] for step in job["steps"] if "run" in step]
    assert install.startswith("pip install ")
    (shell.cwd / "smoke.yaml").write_text(blocks("A smoke check in CI", "yaml")[0])
    shell(check, {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(shell.cwd)}, code=1)
    taken = next(step["with"]["path"] for step in job["steps"] if "upload" in step.get("uses", ""))
    assert set(script) == {"config", "scenarios"}
    assert "<testsuite" in (shell.cwd / taken).read_text()


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("scenarios: {s: [{say: hi}, {expect: questions}]}", 0, "bot OK\n"),
        (
            "scenarios: {s: [{say: order}, {expect: {contains: Pizza, within: 100ms}}]}",
            1,
            "wrong answer\n",
        ),
        ("scenarios: {s: [{sya: hi}]}", 2, "not tested: wrong usage or configuration\n"),
    ],
    ids=["passes", "wrong answer", "not tested"],
)
def test_the_shell_script_distinguishes_exit_codes(shell: Shell, script: str, code: int, said: str) -> None:
    [form] = blocks("5. Exit codes", "bash")
    shell.needs("jq ")
    (shell.cwd / "smoke.yaml").write_text(script + "\n")
    assert shell(form, code=code).endswith(said)


def test_from_python(shell: Shell, served: Sandbox) -> None:
    """As printed, but the loop ends after the first message."""
    [program] = blocks("From Python", "python")
    (shell.cwd / "profiles.yaml").write_text(
        f"profiles: {{staging: {{base_url: '{served.url}', deployment_id: {served.deployment_id}}}}}\n"
    )
    (shell.cwd / "talk.py").write_text(program + "            break\n")
    running = shell.start(f"{shlex.quote(sys.executable)} talk.py", GUESTCTL_PROFILES="profiles.yaml")
    while running.poll() is None:
        shell("guestctl sandbox push hello")
    said, trouble = running.communicate(timeout=30)
    assert said == "Your parcel is on its way.\nhello\n", trouble


# --- what is named exists ---

_NAMED = re.compile(r"`(guestctl [^`\n]+)`")
#: The same behind a prompt, up to what the shell does with it.
_TYPED = re.compile(r"^(?:\(sandbox\) )?\$ (?:.* \| )?(guestctl (?:(?! [|&#<>]|  ).)+)", re.MULTILINE)
#: Words that stand for something of the reader's.
_STANDS_FOR = re.compile(r"\bCOMMAND\b|\bGROUP\b|\bTOPIC\b|\bSHELL\b|…|\{")


def _named() -> Iterator[tuple[str, str]]:
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "guestctl").rglob("*.py"))]:
        text = path.read_text(encoding="utf-8")
        for found in _NAMED.findall(text) + [line for line in _TYPED.findall(text) if path.suffix == ".md"]:
            if not _STANDS_FOR.search(found):
                yield str(path.relative_to(ROOT)), found


#: Failures that no command fixes, and what does.
_FIXED_WITHOUT_A_COMMAND = {
    "bug": "a report to us",
    "state.unusable": "space, permissions or another directory",
    "state.version": "the newer program",
    "service.refused": "another request, which the service's words describe",
    "service.down": "time",
    "ai.down": "time",
    "auth.secret": "whoever issued the secret",
    "network.proxy": "the proxy's variables",
    "answer.frame": "the peer",
    "output.failed": "space, or another place",
    "check.pattern_timeout": "another pattern",
    "load.slo": "a faster service",
    "load.throttled": "fewer guests",
    "load.guard": "the vendor's approval",
    "load.python": "another Python",
    "load.extra": "another package",
    "load.address": "another address",
    "load.locustfile": "the locustfile",
    "conflict.key": "another id",
    "usage.text": "another text",
    "api.no_guest_id": "nothing: the service gave no id",
    "forward.failed": "the receiver",
    "trace.refused": "the collector",
    "forward.refused": "the receiver",
}


@pytest.mark.parametrize("code", NEXT_STEPS)
def test_every_next_step_names_the_command_that_helps(code: str) -> None:
    """The command runs as printed, apart from placeholders. Failures without a command have a reason."""
    lines = _NAMED.findall(NEXT_STEPS[code])
    for line in lines:
        parsed = split(shlex.split(line)[1:])
        assert parsed.unknown is None, line
        assert parsed.words in COMMANDS or parsed.topic or "--help" in parsed.rest, line
    assert bool(lines) != (code in _FIXED_WITHOUT_A_COMMAND), NEXT_STEPS[code]


@pytest.mark.parametrize(("place", "line"), sorted(set(_named())))
def test_every_command_in_a_text_exists(alone: Front, place: str, line: str) -> None:
    """Every command in hints, help and documents exists, with each of its options."""
    words = shlex.split(line.partition(" | ")[0])[1:]
    parsed = split(words)
    assert parsed.unknown is None, f"{place} names {line}"
    if parsed.words not in COMMANDS:
        assert not parsed.words or parsed.words[0] in GROUPS
        return
    help_text = alone(*parsed.words, "--help").out
    own = parsed.rest[: parsed.rest.index("--")] if "--" in parsed.rest else parsed.rest
    for option in (word.partition("=")[0] for word in own if word.startswith("--")):
        assert option in LEADING or f"{option} " in help_text or f"{option}\n" in help_text, f"{place}: {line}"
