"""A pattern that backtracks without end: every command that takes one ends, and none reports a verdict.

Knows: the command line and a real sandbox. Must not know: how matches are limited.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from guestctl.sandbox.serve import running
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front
from tests.cli.test_check import untimed

PATTERN = "(a|a)*$"
TEXT = "a" * 40 + "b"


@pytest.fixture(autouse=True)
def _short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guestctl.core.patterns.LIMIT", 0.05)


@pytest.mark.parametrize("key", ["matches: '(a|a)*$'", "contains: b, not: {matches: '(a|a)*$'}"])
def test_check_reports_neither_a_pass_nor_a_failure(front: Front, tmp_path: Path, key: str) -> None:
    script = tmp_path / "s.yaml"
    script.write_text(f"scenarios:\n  slow: [{{say: {TEXT}}}, {{expect: {{{key}}}}}]\n")
    result = front("check", str(script), "--timeout", "5s")
    assert result.code == 2, result
    assert "check.pattern_timeout" in result.out
    assert untimed(result.out).endswith("0 passed, 0 failed, 1 error\n")


def test_send_exits_2_and_prints_the_delivery(front: Front) -> None:
    front("session", "create")
    result = front("send", TEXT, "--expect", PATTERN, "--timeout", "5s", "-o", "json")
    assert (result.code, result.error["code"]) == (2, "check.pattern_timeout")
    assert result.record["delivery"] == "accepted"


def test_a_bot_script_goes_on(sandboxed: Callable[..., Front], tmp_path: Path) -> None:
    bot = tmp_path / "bot.yaml"
    bot.write_text("rules:\n  - {match: '(a|a)+$', reply: never}\notherwise: Hello\n")
    with running(SandboxOptions(fast=True, script=bot)) as sandbox:
        front = sandboxed(sandbox)
        front("session", "create")
        assert front("send", TEXT).code == 0
        assert front("ask", "xyz", GUESTCTL_STATE=str(tmp_path / "other")).out == "Hello\n"


def test_listen_exits_2_and_prints_the_message(front: Front) -> None:
    front("session", "create")
    front("send", TEXT, "--wait")
    listened = front("listen", "--replay", "2", "--until", PATTERN, "--timeout", "5s", "-o", "jsonl")
    assert (listened.code, listened.error["code"]) == (2, "check.pattern_timeout")
    assert [record["text"] for record in listened.records][-1].endswith(TEXT)


def test_listen_loses_no_message_that_follows_a_slow_match(front: Front) -> None:
    front("session", "create")
    for text in (TEXT, "two"):
        front("send", text, "--wait")
    listened = front("listen", "--replay", "4", "--until", f"^{PATTERN}", "--timeout", "5s", "-o", "jsonl")
    assert (listened.code, listened.error["code"]) == (2, "check.pattern_timeout")
    assert [record["text"] for record in listened.records] == [TEXT, f"echo: {TEXT}", "two", "echo: two"]


def nested(random: Random) -> tuple[str, bool]:
    """Return a pattern with repetitions in repetitions, and whether it matches at the end of every text."""
    pattern, empty = random.choice(
        (("a", False), ("a?", True), ("[ab]?a", False), ("(?:a|a)", False), ("(?:a|aa)", False), ("a*?", True))
    )
    for _ in range(random.randint(1, 3)):
        repetition = random.choice(("+", "*", "{1,30}", "+?", "{2,}"))
        pattern, empty = f"(?:{pattern}){repetition}", empty or repetition == "*"
    return f"{pattern}$", empty


@pytest.mark.parametrize("seed", range(6))
def test_any_nested_repetition_ends(front: Front, seed: int) -> None:
    """The text does not end with what is repeated, so that a search tries every way to divide it."""
    pattern, matches = nested(Random(seed))
    front("session", "create")
    front("send", TEXT, "--wait")
    listened = front("listen", "--replay", "2", "--max", "2", "--until", pattern, "-o", "jsonl")
    assert listened.code in {2, 0 if matches else 9}, (pattern, listened)
    assert listened.code != 2 or listened.error["code"] == "check.pattern_timeout"
    assert next(record["text"] for record in listened.records if record["kind"] == "message") == TEXT
