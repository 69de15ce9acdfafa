"""Runs of AI checks: budgets, the dry run, repetitions with pass rates, and how often a wrong judge misleads."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guestctl.checks.ai.interval import wilson
from guestctl.output.schema import SCHEMAS
from tests.checks.ai_front import CUSTOMER, JUDGE, Bench, benches, good, good_customer, script
from tests.checks.model_server import Asked, Raw, completion, verdict
from tests.unit.test_records import faults


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


def several(head: str, count: int, *steps: str) -> str:
    return head + "scenarios:\n" + "".join(f"  s{n}:\n{''.join(steps)}" for n in range(count))


# --- budgets ---


@pytest.mark.parametrize("parallel", ["1", "8"])
def test_calls_never_exceed_the_budget_of_the_run(bench: Bench, parallel: str) -> None:
    found = bench()
    text = several("ai: {model: small, budget: {calls: 11}}\n", 4, CUSTOMER, JUDGE)
    result, run = found.record(text, "--parallel", parallel)
    assert result.code == 7
    assert len(found.model.asked) == 11
    assert run["model"]["calls"] == 11
    broken = [one["trouble"] for one in run["scenarios"] if one["verdict"] == "error"]
    assert broken
    assert {one["error"]["code"] for one in broken} == {"ai.budget"}
    assert "the budget of 11 model calls for " in broken[0]["message"]


@pytest.mark.parametrize("parallel", ["1", "8"])
def test_tokens_exceed_the_budget_by_no_more_than_the_call_in_flight(bench: Bench, parallel: str) -> None:
    def answer(asked: Asked) -> Any:
        return completion(good(asked), tokens=1000)

    found = bench(answer)
    text = several("ai: {model: small, budget: {tokens: 3.5k}}\n", 8, CUSTOMER, JUDGE)
    result, run = found.record(text, "--parallel", parallel)
    assert result.code == 7
    assert len(found.model.asked) == 4
    assert run["model"]["tokens"] == 4000


def test_a_scenario_has_a_budget_of_its_own(bench: Bench) -> None:
    found = bench()
    text = several("ai: {model: small, scenario_budget: {calls: 3}}\n", 2, CUSTOMER, JUDGE)
    result, run = found.record(text, "--retries", "2")
    assert result.code == 7
    assert [one["model"]["calls"] for one in run["scenarios"]] == [3, 3]
    assert [one["attempts"] for one in run["scenarios"]] == [1, 1]


def test_a_call_that_fails_counts(bench: Bench) -> None:
    found = bench(lambda asked: Raw(400, b"{}"))
    text = several("ai: {model: small, budget: {calls: 2}}\n", 3, CUSTOMER)
    run = found.record(text)[1]
    codes = [one["trouble"]["error"]["code"] for one in run["scenarios"]]
    assert codes == ["ai.refused", "ai.refused", "ai.budget"]
    assert len(found.model.asked) == 2


def test_parallel_scenarios_overlap_within_the_budget(bench: Bench) -> None:
    both = threading.Barrier(2, timeout=20)

    def answer(asked: Asked) -> str:
        if asked.turn == 2 and not asked.is_judge:
            both.wait()
        return good(asked)

    found = bench(answer)
    text = several("ai: {model: small, budget: {calls: 100, tokens: 1M}}\n", 2, CUSTOMER)
    assert found.check(text, "--parallel", "2").code == 0
    assert found.model.most_at_once == 2


# --- the dry run ---


def test_a_dry_run_prints_the_most_calls_and_sends_nothing(bench: Bench) -> None:
    found = bench()
    text = several("ai: {model: small, budget: {tokens: 300k}}\n", 2, CUSTOMER, JUDGE) + "  plain:\n    - say: hi\n"
    result = found.check(text, "--dry-run", GUESTCTL_AI_BASE_URL="", GUESTCTL_SANDBOX_URL="", GUESTCTL_PROFILE="none")
    lines = [line.partition("talk.yaml: ")[2] for line in result.out.splitlines()]
    assert (result.code, result.err) == (0, "")
    assert lines == [
        "s0: at most 11 model calls",
        "s1: at most 11 model calls",
        "plain: at most 0 model calls",
        "at most 22 model calls with at most 22000 tokens of answers, and at most 300000 tokens in all",
    ]
    record = found.check(text, "--dry-run", "-o", "json", "--repeat", "3", "--retries", "1").record
    assert faults(record, SCHEMAS["check-plan"]) == []
    assert record["calls"] == 22 * 3 * 2
    limited = text.replace("tokens: 300k", "calls: 15")
    assert found.check(limited, "--dry-run", "-o", "json").record["calls"] == 15
    assert len(found.model.asked) == 0


def test_no_run_needs_more_calls_than_the_dry_run_says(bench: Bench) -> None:
    """Not even one whose customer takes every turn."""
    texts = iter(f"another question, {word}" for word in ("one", "two", "three", "four", "five"))
    found = bench(lambda asked: verdict("no") if asked.is_judge else json.dumps({"say": next(texts)}))
    steps = script(CUSTOMER.replace("        until: {contains: arrives}\n", ""), JUDGE)
    bound = found.check(steps, "--dry-run", "-o", "json").record["calls"]
    assert found.check(steps).code == 1
    assert len(found.model.asked) == bound == 11


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5"])
def test_a_limit_of_an_answer_is_a_number_of_1_or_more(bench: Bench, name: str, value: str) -> None:
    found = bench()
    result = found.check(script(CUSTOMER, head=f"ai: {{model: small, parameters: {{{name}: {value}}}}}\nscenarios:\n"))
    assert result.code == 2
    assert f"talk.yaml:1: ai.parameters.{name}: must be a" in result.err


def test_the_calls_of_every_attempt_are_reported(bench: Bench) -> None:
    """Also those of attempts that did not decide, because they were paid for."""
    found = bench(lambda asked: completion(verdict("no") if asked.is_judge else good(asked), tokens=1000))
    result, run = found.record(script(CUSTOMER, JUDGE), "--retries", "2")
    assert (result.code, run["scenarios"][0]["attempts"]) == (1, 3)
    assert len(found.model.asked) > 9
    asked = len(found.model.asked)
    assert (run["model"]["calls"], run["model"]["tokens"]) == (asked, 1000 * asked)
    assert run["scenarios"][0]["model"]["calls"] == asked


# --- repetitions ---


def test_repetitions_report_a_pass_rate_with_its_interval(bench: Bench, tmp_path: Path) -> None:
    votes = iter(["yes", "no", "yes", "cannot tell", "yes"] * 4)
    found = bench(lambda asked: verdict(next(votes), ["m6"]) if asked.is_judge else good_customer(asked))
    text = script(CUSTOMER, "    - judge: {criteria: [The bot named a day.], votes: 1, silence: 20ms}\n", name="day")
    result = found.check(text, "--repeat", "5", "--junit", str(tmp_path / "out.xml"))
    assert result.code == 1
    assert "day: passed 3 of 4 (75 %, 95 % interval 30 % to 95 %); 1 run neither passed nor failed\n" in result.out
    assert "talk.yaml: day (run 4) (" in result.out
    assert 'name="day (run 5)"' in (tmp_path / "out.xml").read_text()
    run = found.record(text, "--repeat", "5")[1]
    assert faults(run, SCHEMAS["check-run"]) == []
    (rate,) = run["rates"]
    assert (rate["runs"], rate["passed"], rate["failed"], rate["rate"]) == (5, 3, 1, 0.75)
    assert [one["repetition"] for one in run["scenarios"]] == [1, 2, 3, 4, 5]
    tap = found.check(text, "--repeat", "5", "--tap").out
    assert "ok 5 - " in tap
    assert "# rate  " in tap


@pytest.mark.parametrize(("votes", "code"), [("yes yes", 0), ("yes no", 1), ("yes cannot", 9), ("cannot cannot", 9)])
def test_one_repetition_that_did_not_pass_decides_the_exit_code(bench: Bench, votes: str, code: int) -> None:
    answers = iter([word.replace("cannot", "cannot tell") for word in votes.split()])
    found = bench(lambda asked: verdict(next(answers), ["m6"]) if asked.is_judge else good_customer(asked))
    text = script(CUSTOMER, "    - judge: {criteria: [The bot named a day.], votes: 1, silence: 20ms}\n")
    result = found.check(text, "--repeat", "2")
    assert result.code == code
    if votes == "cannot cannot":
        assert "no run passed or failed; 2 runs neither passed nor failed" in result.out


def test_repetitions_work_without_models_too(bench: Bench) -> None:
    found = bench()
    text = script("    - say: 'it is 4711'\n    - expect: postcode\n", head="scenarios:\n")
    result = found.check(text, "--repeat", "10")
    assert (result.code, "passed 10 of 10 (100 %, 95 % interval 72 % to 100 %)" in result.out) == (0, True)
    assert "model:" not in result.out
    assert found.check(text, "--repeat", "0").code == 2
    assert found.check(text, "--repeat", "2", "--bless").code == 2


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (0, 0, 0.0, 1.0),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
    ],
)
def test_the_interval_is_the_published_one(successes: int, count: int, low: float, high: float) -> None:
    """The last two are those of Newcombe 1998 (Statistics in Medicine 17, table I, method 3)."""
    assert wilson(successes, count) == pytest.approx((low, high), abs=5e-5)


# --- a judge that is wrong with p = 0.1 ---


def wrong_decisions(bench: Bench, votes: int, statements: int, seed: int) -> tuple[int, int, int]:
    """Judge statements of which half are true; return how many were decided wrongly, not decided, and green in vain."""

    def answer(asked: Asked) -> str:
        name, text = asked.statement["criterion"], asked.statement["text"]
        wrong = random.Random(f"{seed} {text} {asked.vote}").random() < 0.1  # whatever the order of the calls is
        word = "yes" if ("true" in text) != wrong else "no"
        return verdict(word, ["m1"], criterion=name)

    found = bench(answer)
    text = ["ai: {model: small}\nscenarios:\n"]
    for n in range(statements):
        kind = "true" if n % 2 else "wrong"
        judge = f"    - judge: {{criteria: ['Statement {n} is {kind}.'], votes: {votes}, silence: 20ms}}\n"
        text.append(f"  {kind} {n}:\n    - say: hello\n{judge}")
    run = found.record("".join(text), "--parallel", "8")[1]
    wrong = undecided = false_green = 0
    for one in run["scenarios"]:
        expected = "passed" if one["scenario"].startswith("true") else "failed"
        undecided += one["verdict"] == "undecided"
        wrong += one["verdict"] not in (expected, "undecided")
        majority = sum(vote["verdict"] == "yes" for vote in one["judged"][0]["votes"]) * 2 > votes
        false_green += one["verdict"] == "passed" and not majority
    return wrong, undecided, false_green


LIMITS = {1: 0.11, 3: 0.04, 5: 0.02}


def test_more_votes_mislead_less(bench: Bench) -> None:
    wrong = {votes: wrong_decisions(bench, votes, 40, seed=1) for votes in (1, 5)}
    assert all(found[2] == 0 for found in wrong.values())
    assert wrong[5][0] < wrong[1][0]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("votes", LIMITS)
def test_a_judge_that_is_wrong_once_in_ten(bench: Bench, votes: int) -> None:
    count = 1000
    wrong, _, false_green = wrong_decisions(bench, votes, count, seed=4)
    assert wrong / count <= LIMITS[votes]
    assert false_green == 0
