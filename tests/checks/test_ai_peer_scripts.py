"""AI scripts of the web-messaging tester, under our rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checks.ai_front import Bench, benches
from tests.checks.model_server import Asked, say, verdict

SCRIPT = """\
config:
  deploymentId: xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx
  region: xxxx.pure.cloud
  ai:
    provider: chatgpt
    config:
      model: gpt-small
      temperature: 1
scenarios:
  "Leaves feedback":
    setup:
      placeholders:
        NAME: [Ann, Bob]
      prompt: |
        Play {NAME}, a customer who leaves feedback. If the chatbot thanks you, say PASS.
        If the chatbot repeats itself, say FAIL. Begin with 'Hello'.
      terminatingPhrases:
        pass: ["PASS"]
        fail: ["FAIL"]
  "Asks for a human":
    setup:
      prompt: Ask for a human. Say FAIL if there is none.
      terminatingPhrases:
        pass: [PASS]
        fail: [FAIL]
    followUp:
      prompt: Was it polite? Say POLITE or RUDE.
      terminatingPhrases:
        pass: [POLITE]
        fail: [RUDE]
"""
BOT = "rules: [{contains: hello, reply: What do you think of us\\\\?}]\notherwise: Thanks! PASS\n"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


def answers(customer: list[str], yes: set[str]) -> Any:
    """Return a model whose customer writes these messages in turn, and whose judge finds these statements true."""

    def answer(asked: Asked) -> str:
        if not asked.is_judge:
            return say(customer[min(asked.turn, len(customer)) - 1])
        name, text = asked.statement["criterion"], asked.statement["text"]
        true = any(f'"{phrase}"' in text for phrase in yes)
        return verdict("yes" if true else "no", ["m2"] if true else [], criterion=name)

    return answer


def test_a_separate_judge_decides_with_evidence(bench: Bench) -> None:
    found = bench(answers(["Hello", "You are great", "PASS"], {"PASS", "POLITE"}))
    result = found.check(SCRIPT)
    assert result.code == 0, result.out
    notices = [line for line in result.err.splitlines() if line]
    assert len(notices) == 2, "each rule that cannot be kept, once for the script"
    assert "the prompt lets the customer judge itself" in notices[0]
    assert "`config.ai.provider` is not used" in notices[1]
    assert {asked.body["model"] for asked in found.model.asked} == {"gpt-small"}
    assert {asked.body["temperature"] for asked in found.model.asked} == {1}
    assert not any(one["text"] == "PASS" for asked in found.model.asked for one in asked.conversation)


def test_the_customers_own_phrase_and_the_bots_phrase_pass_nothing(bench: Bench) -> None:
    found = bench(answers(["Hello", "You are great", "PASS"], set()))
    result = found.check(SCRIPT, "-o", "json")
    assert result.code == 1
    first = result.record["scenarios"][0]
    assert first["verdict"] == "failed"
    assert 'tell the customer to write "PASS"' in first["trouble"]["message"]


def test_a_fail_phrase_is_a_thing_that_must_never_happen(bench: Bench) -> None:
    found = bench(answers(["Hello", "FAIL"], {"PASS", "FAIL", "POLITE"}))
    run = found.check(SCRIPT, "-o", "json").record
    assert [one["verdict"] for one in run["scenarios"]] == ["failed", "failed"]
    assert "must never happen" in run["scenarios"][0]["trouble"]["message"]


def test_the_follow_up_is_judged_too(bench: Bench) -> None:
    found = bench(answers(["Hello", "You are great", "PASS"], {"PASS"}))
    run = found.check(SCRIPT, "-o", "json").record
    assert [one["verdict"] for one in run["scenarios"]] == ["passed", "failed"]
    assert any("Was it polite?" in asked.user for asked in found.model.judges)


def test_placeholders_are_taken_in_turn(bench: Bench) -> None:
    found = bench(answers(["Hello", "fine", "PASS"], {"PASS", "POLITE"}))
    assert found.check(SCRIPT, "--repeat", "3").code == 0
    names = [
        next(n for n in ("Ann", "Bob") if f"Play {n}," in a.user) for a in found.model.customers if "Play " in a.user
    ]
    assert names == ["Ann"] * 3 + ["Bob"] * 3 + ["Ann"] * 3


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "      terminatingPhrases:\n        pass: [PASS]\n        fail: [FAIL]\n",
            "",
            "`terminatingPhrases` is missing",
        ),
        ("pass: [POLITE]", "passed: [POLITE]", 'unknown key "passed"'),
        ("    followUp:", "    follow_up:", 'unknown key "follow_up"'),
        ("    provider: chatgpt", "    key: abc", 'unknown key "key"'),
    ],
)
def test_a_wrong_script_is_refused(bench: Bench, old: str, new: str, problem: str) -> None:
    assert old in SCRIPT
    found = bench()
    result = found.check(SCRIPT.replace(old, new))
    assert (result.code, problem in result.err) == (2, True), result.err
    assert found.model.connections == 0


def test_the_dry_run_counts_them(bench: Bench) -> None:
    record = bench().check(SCRIPT, "--dry-run", "-o", "json").record
    assert [one["calls"] for one in record["scripts"][0]["scenarios"]] == [20 + 6, 20 + 9]
    assert json.dumps(record)
