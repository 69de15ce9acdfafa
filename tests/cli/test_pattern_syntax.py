"""One pattern syntax, that of JavaScript, in every place of the command line that takes a pattern.

Knows: the command line and a real sandbox. Must not know: how patterns are translated or run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front
from tests.cli.test_check import untimed

#: A pattern, a text of the bot, and whether JavaScript finds the pattern in it: with the flags `i` and `m`, without.
CASES = [
    (r"ok$", "ok\r\nmore", True, False),
    (r"^more$", "ok\r\nmore", True, False),
    (r"^$", "ok\n\rmore", True, False),
    (r"^b", "a\u2028b", True, False),
    (r"(?m)^more", "ok\nmore", True, True),
    (r"(?i)HELLO", "hello", True, True),
    ("HELLO", "hello", True, False),
    (r"(?-i)HELLO", "hello", False, False),
    (r"\d", "٣", False, False),
    (r"^\D$", "٣", True, True),
    (r"\w", "é", False, False),
    (r"^\W$", "é", True, True),
    (r"é\ba", "éa", True, True),
    (r"a\s{2}b", "a\u00a0\ufeffb", True, True),
    (r"^[\w-.]+$", "a-b.c", True, True),
    (r"^[\w-.]+$", "a,b", False, False),
    (r"^a[^]b$", "a\nb", True, True),
    (r"a.b", "a\nb", False, False),
    (r"[]", "x", False, False),
    (r"^\p{L}+$", "éß", True, True),
    (r"^\p{Lu}$", "é", True, False),
    (r"\P{L}", "éa", False, False),
    (r"^\-\/\:\@\_\#\e$", "-/:@_#e", True, True),
    (r"^[[a]$", "[", True, True),
    (r"^a{,3}$", "a{,3}", True, True),
    (r"(?<year>\d{4})-\k<year>", "2026-2026", True, True),
    (r"^(?:(a)|b)\1c$", "bc", True, True),
    (r"\u{1F600}$", "so 😀", True, True),
    (r"\ud83d\ude00$", "so 😀", True, True),
    (r"^.$", "😀", True, True),
    (r"^\w$", "\u0131", False, False),
    (r"^\W$", "\u017f", True, True),
    (r"^[\w-.]$", "\u0130", False, False),
    (r"^ski$", "\u017f\u212a\u0131", False, False),
    (r"^\u017f$", "s", False, False),
    (r"^[a-z]$", "\u212a", False, False),
    (r"^[^a-z]$", "\u017f", True, True),
    (r"^[\u0130-\u0131]+$", "\u0131\u0130", True, True),
    (r"^[K-S]+$", "ks", True, False),
    (r"^[\c1]$", "\x11", True, True),
]


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A bot that answers `case 7` with the text of that case; after `end 7` it also ends the conversation."""
    script = tmp_path_factory.mktemp("bot") / "bot.json"
    texts = [text for _, text, *_ in CASES]
    rules: list[dict[str, Any]] = [{"equals": f"case {n}", "reply": text} for n, text in enumerate(texts)]
    rules += [{"equals": f"end {n}", "reply": text, "disconnect": True} for n, text in enumerate(texts)]
    script.write_text(json.dumps({"rules": rules, "otherwise": "what?"}))
    with running(SandboxOptions(fast=True, script=script)) as found:
        yield found


@pytest.fixture
def guest(speaking: Sandbox, sandboxed: Callable[[Sandbox], Front]) -> Front:
    front = sandboxed(speaking)
    front("session", "create")
    return front


def test_a_check_script_has_the_flags_i_and_m(guest: Front, tmp_path: Path) -> None:
    steps = {}
    for number, (pattern, text, with_flags, _) in enumerate(CASES):
        wanted = {"matches": pattern} if with_flags else {"not": {"matches": pattern}, "equals": text}
        steps[f"{number} {pattern}"] = [{"say": f"case {number}"}, {"expect": wanted}]
        if with_flags:
            steps[f"{number} wait"] = [{"say": f"case {number}"}, {"waitForReplyMatching": pattern}]
    (tmp_path / "s.json").write_text(json.dumps({"scenarios": steps}))
    result = guest("check", str(tmp_path / "s.json"), "--parallel", "4", "--timeout", "10s")
    assert (result.code, untimed(result.out).splitlines()[-1]) == (0, f"{len(steps)} passed, 0 failed, 0 errors"), (
        result
    )


@pytest.mark.parametrize(("number", "pattern"), [(n, pattern) for n, (pattern, *_, plain) in enumerate(CASES) if plain])
def test_expect_and_until_have_no_flags(guest: Front, number: int, pattern: str) -> None:
    sent = guest("send", f"case {number}", "--expect", pattern, "--timeout", "10s", "-o", "json")
    assert (sent.code, sent.record["reply"]["text"]) == (0, CASES[number][1])
    heard = guest("listen", "--replay", "1", "--until", pattern, "--for", "10s", "-o", "jsonl")
    assert (heard.code, [record["text"] for record in heard.records]) == (0, [CASES[number][1]])


@pytest.mark.parametrize(
    ("number", "pattern"), [(n, pattern) for n, (pattern, *_, plain) in enumerate(CASES) if not plain]
)
def test_expect_and_until_find_no_more_than_javascript(guest: Front, number: int, pattern: str) -> None:
    guest("send", f"case {number}", "--wait")
    heard = guest("listen", "--replay", "1", "--until", pattern, "--max", "1", "-o", "jsonl")
    assert (heard.code, [record["text"] for record in heard.records]) == (9, [CASES[number][1]])
    sent = guest("send", f"end {number}", "--expect", pattern, "-o", "json")
    assert (sent.code, sent.error["code"], sent.record["delivery"]) == (1, "conversation.ended", "accepted")


def test_bot_scripts_have_the_same_syntax_in_any_case(sandboxed: Callable[[Sandbox], Front], tmp_path: Path) -> None:
    rules = [
        {"match": r"^a[\w-.]+\p{Lu}[^]$", "reply": "a ${0}"},
        {"match": r"^(?<digits>\d+)\-$", "reply": "b ${digits}"},
        {"match": r"(?-i)HELLO", "reply": "c"},
    ]
    (tmp_path / "bot.json").write_text(json.dumps({"rules": rules, "otherwise": "none"}))
    with running(SandboxOptions(fast=True, script=tmp_path / "bot.json")) as sandbox:
        front = sandboxed(sandbox)
        said = ["a-b.éß", "٣-", "12-", "hello", "HELLO"]
        assert [front("ask", text).out.strip() for text in said] == ["a a-b.éß", "none", "b 12", "none", "c"]


#: What no flavour of JavaScript accepts, and what other flavours read differently.
INVALID = ["(", "[", "*a", "a++", "a{2,1}", "(?>a)", "(?x)a", "a(?i)b", r"\p{Nope}", "(?<a>x)(?<a>y)"]


@pytest.mark.parametrize("pattern", INVALID)
def test_an_invalid_pattern_exits_2_everywhere_and_sends_nothing(guest: Front, tmp_path: Path, pattern: str) -> None:
    (tmp_path / "s.json").write_text(json.dumps({"scenarios": {"a": [{"say": "x"}, {"expect": {"matches": pattern}}]}}))
    (tmp_path / "bot.json").write_text(json.dumps({"rules": [{"match": pattern, "reply": "x"}]}))
    before = guest("sandbox", "sessions").records
    for argv in (
        ("check", str(tmp_path / "s.json")),
        ("send", "x", "--expect", pattern),
        ("listen", "--until", pattern, "--for", "1s"),
        ("sandbox", "serve", "--script", str(tmp_path / "bot.json")),
    ):
        result = guest(*argv)
        assert (result.code, result.out) == (2, ""), argv
        assert "not a regular expression" in result.err, argv
        assert "Warning" not in result.err
    assert guest("sandbox", "sessions").records == before
