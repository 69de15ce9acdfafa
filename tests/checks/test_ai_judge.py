"""`guestctl judge`: a judge measured with labels."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guestctl.output.schema import SCHEMAS
from tests.checks.ai_front import AiBench, Bench, benches
from tests.checks.model_server import Asked, Raw, verdict
from tests.cli.conftest import Result
from tests.unit.test_records import faults

LABELS = """\
ai: {model: small}
votes: 3
conversations:
  "Names the day":
    messages:
      - customer: where is my parcel?
      - bot: It arrives on Monday.
    labels:
      - {criterion: The bot named a day., label: yes}
      - {criterion: The bot apologised., label: no}
      - {never: The bot asked for the postcode., label: no}
  "Asks":
    messages:
      - customer: hello
      - bot: Your postcode?
    labels:
      - {criterion: The bot named a day., label: no}
      - {never: The bot asked for the postcode., label: yes}
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


def judge(found: AiBench, *options: str, text: str = LABELS, **more: Any) -> Result:
    (found.room / "labels.yaml").write_text(text, encoding="utf-8")
    return found.front()("judge", str(found.room / "labels.yaml"), *options, **more)


def right(asked: Asked) -> str:
    text, said = asked.statement["text"], asked.conversation[1]["text"]
    true = ("day" in text and "Monday" in said) or ("postcode" in text and "postcode" in said)
    return verdict("yes" if true else "no", ["m2"] if true else [], criterion=asked.statement["criterion"])


def test_a_right_judge_agrees(bench: Bench) -> None:
    found = bench(right)
    result = judge(found, "-o", "json")
    assert result.code == 0
    assert faults(result.record, SCHEMAS["judge-run"]) == []
    counts = [result.record[name] for name in ("labels", "agreed", "said_yes_for_no", "said_no_for_yes", "undecided")]
    assert counts == [5, 5, 0, 0, 0]
    assert (result.record["agreement"], result.record["usage"]["calls"]) == (1.0, 15)
    assert "agreed with 5 of 5 decided labels (100 %, 95 % interval 57 % to 100 %)" in judge(found).out


def test_the_direction_of_errors_is_reported(bench: Bench) -> None:
    yes = bench(lambda asked: verdict("yes", ["m2"], criterion=asked.statement["criterion"]))
    result = judge(yes)
    assert result.code == 0
    assert "yes for a label no: 3, no for a label yes: 0, undecided: 0\n" in result.out
    assert "Names the day: The bot apologised.: label no, judge yes (3 yes): as the messages show\n" in result.out
    no = bench(lambda asked: verdict("no", criterion=asked.statement["criterion"]))
    assert "yes for a label no: 0, no for a label yes: 2, undecided: 0\n" in judge(no).out


def test_a_judge_without_evidence_is_undecided(bench: Bench) -> None:
    found = bench(lambda asked: verdict("yes", criterion=asked.statement["criterion"]))
    result = judge(found, "-o", "json", "--votes", "1")
    assert (result.code, result.record["undecided"], result.record["agreement"]) == (9, 5, None)
    assert result.record["usage"]["calls"] == 5
    assert "no label has a decision" in judge(found).out


def test_nothing_but_the_model_is_needed(bench: Bench) -> None:
    found = bench(right)
    for environ in ({"GUESTCTL_PROFILE": ""}, {"GUESTCTL_SANDBOX_URL": ""}):
        assert judge(found, **environ).code == 0


def test_a_measurement_can_be_recorded_and_replayed(bench: Bench) -> None:
    found = bench(right)
    assert judge(found, "--model-record", "rec").code == 0
    assert judge(found, "--model-replay", "rec", GUESTCTL_AI_BASE_URL="").code == 0
    assert len(found.model.asked) == 15
    missed = judge(found, "--model-replay", "rec", text=LABELS.replace("apologised", "was sorry"))
    assert missed.code == 2
    assert "the first difference is criterion: " in missed.err
    assert judge(found, "--model-replay", "rec", "--model-record", "rec").code == 2


def test_a_dry_run_asks_nothing(bench: Bench) -> None:
    found = bench(right)
    result = judge(found, "--dry-run", "--votes", "5", GUESTCTL_AI_BASE_URL="")
    assert (result.code, result.out) == (0, "at most 25 model calls with at most 25000 tokens of answers\n")
    assert faults(judge(found, "--dry-run", "-o", "json").record, SCHEMAS["check-plan"]) == []
    assert found.model.connections == 0


def test_the_timeout_limits_a_call(bench: Bench) -> None:
    release = threading.Event()
    found = bench(lambda asked: Raw(hang=release))
    try:
        assert judge(found, "--timeout", "300ms").code == 8
    finally:
        release.set()
    assert judge(found, "--region", "eu-central-1").code == 2, "no service is connected to"


def test_a_failure_of_the_model_is_its_own_code(bench: Bench) -> None:
    assert judge(bench(lambda asked: Raw(401, b"{}"))).code == 4
    assert judge(bench(right), text=LABELS.replace("model: small", "model: small, budget: {calls: 3}")).code == 7


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("label: yes}", "label: maybe}", "must be yes"),
        ("{criterion: The bot apologised.,", "{", "give one of `criterion` and `never`"),
        ("- bot: Your postcode?", "- robot: Your postcode?", 'unknown key "robot"'),
        ("The bot apologised.", "The bot named a day.", "a statement is labelled twice"),
        ("votes: 3", "votes: none", "whole number from 1 to 15"),
        ("conversations:", "talks:", 'unknown key "talks"'),
    ],
)
def test_a_wrong_file_is_refused(bench: Bench, old: str, new: str, problem: str) -> None:
    assert old in LABELS
    found = bench(right)
    result = judge(found, text=LABELS.replace(old, new, 1))
    assert (result.code, problem in result.err) == (2, True), result.err
    assert found.model.connections == 0
