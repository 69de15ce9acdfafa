"""What a bot can make a runner of GitHub Actions do: nothing.

Knows: the command line, and how the runner recognises commands. Must not know: the escaping.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front

TEXTS = {
    "plain": "::add-mask::secret",
    "blanks": "  \t ::set-output name=a::b",
    "no-break space": "\u00a0::warning::x",
    "second line": "hello\n::add-mask::secret\n   ::error::x",
    "carriage return": "hello\r::add-mask::secret",
    "old form": "see ##[add-mask]secret and ##[group]",
}


def commands(text: str) -> list[str]:
    """Return the lines in which the runner recognises a command."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line for line in lines if line.lstrip().startswith("::") or "##[" in line]


@pytest.fixture(scope="module")
def bot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    rules = [{"equals": name, "reply": text} for name, text in TEXTS.items()]
    script = tmp_path_factory.mktemp("bot") / "bot.yaml"
    script.write_text(yaml.safe_dump({"rules": rules}))
    with running(SandboxOptions(fast=True, script=script)) as found:
        yield found


@pytest.fixture
def job(bot: Sandbox, sandboxed: Callable[[Sandbox], Front]) -> Front:
    return sandboxed(bot)


READERS = (
    ("history", "--format", "txt"), ("history", "--format", "md"), ("history", "-o", "table"),
    ("history", "-o", "yaml"),
    ("resume", "-o", "table"), ("resume", "-o", "yaml"), ("listen", "--replay", "5", "--max", "2", "-o", "table"),
)  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_output_contains_a_command(job: Front, name: str, tmp_path: Path) -> None:
    asked = job("ask", name, GITHUB_ACTIONS="true")
    assert asked.code == 0
    shown: dict[tuple[str, ...], str] = {("ask",): asked.out + asked.err}
    for mode in ("table", "yaml"):
        sent = job("send", name, "--wait", "-o", mode, GITHUB_ACTIONS="true")
        shown[("send", mode)] = sent.out + sent.err
    for argv in READERS:
        told = job(*argv, GITHUB_ACTIONS="true")
        assert told.code == 0, told.err
        shown[argv] = told.out + told.err
    assert {argv: found for argv, text in shown.items() if (found := commands(text))} == {}
    assert "\\x" in asked.out
    assert job("ask", name).out == TEXTS[name] + "\n", "only in a job"


@pytest.mark.parametrize("name", TEXTS)
def test_json_stays_exact(job: Front, name: str) -> None:
    told = job("ask", name, "-o", "json", GITHUB_ACTIONS="true")
    assert told.record["text"] == TEXTS[name]
    lines = job("history", "-o", "jsonl", GITHUB_ACTIONS="true").out.splitlines()
    assert json.loads(lines[-1])["text"] == TEXTS[name]


def test_yaml_still_has_the_text(job: Front) -> None:
    for name, text in TEXTS.items():
        told = job("ask", name, "-o", "yaml", GITHUB_ACTIONS="true")
        assert yaml.safe_load(told.out)["text"] == text
