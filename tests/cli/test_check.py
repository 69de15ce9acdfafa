"""`check` through the front door."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from junitparser import JUnitXml

from guestctl.sandbox.options import SandboxOptions
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from tests.checking import scripts
from tests.cli.conftest import Front
from tests.cli.test_signals import started, until


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    bot = tmp_path_factory.mktemp("bot") / "bot.yaml"
    bot.write_text(scripts.BOT)
    with running(SandboxOptions(fast=True, script=bot)) as sandbox:
        yield sandbox


@pytest.fixture
def checks(survey: Sandbox, sandboxed: Callable[[Sandbox], Front], tmp_path: Path) -> Front:
    (tmp_path / "good.yaml").write_text(scripts.PASSING)
    (tmp_path / "bad.yaml").write_text(scripts.FAILING)
    return sandboxed(survey)


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


GOOD_LINES = (
    "ok    good.yaml: Takes the survey\nok    good.yaml: Leaves the survey\nok    good.yaml: Is not understood\n"
    "3 passed, 0 failed, 0 errors\n"
)


def test_what_passes(checks: Front) -> None:
    for parallel in ("1", "3"):
        result = checks("check", "good.yaml", "--parallel", parallel)
        assert (result.code, result.out, result.err) == (0, GOOD_LINES, "")


def test_what_fails(checks: Front, tmp_path: Path) -> None:
    result = checks("check", "good.yaml", "bad.yaml", "--timeout", "300ms", "--junit", "out.xml")
    assert result.code == 1
    assert "FAIL  bad.yaml: Fails on a text\n      bad.yaml:7: waitForReplyContaining" in result.out
    assert "      expected: a reply containing 'nothing of the kind', within 0.3 s\n" in result.out
    assert result.out.endswith("3 passed, 2 failed, 0 errors\n")
    report = JUnitXml.fromfile(str(tmp_path / "out.xml"))
    assert [(suite.name, suite.tests, suite.failures) for suite in report] == [("good.yaml", 3, 0), ("bad.yaml", 2, 2)]


def test_quietly_only_what_fails_is_told(checks: Front) -> None:
    assert checks("check", "good.yaml", "-q").out == ""
    told = checks("check", "good.yaml", "bad.yaml", "-q", "--timeout", "300ms").out
    assert told.startswith("FAIL  bad.yaml")
    assert "passed" not in told


def test_machine_output(checks: Front) -> None:
    assert checks("check", "good.yaml", "-o", "json").record["passed"] == 3
    records = checks("check", "good.yaml", "-o", "jsonl").records
    assert [record["kind"] for record in records] == ["check", "check", "check", "check-run"]
    assert checks("check", "good.yaml", "--tap").out.startswith("TAP version 14\n1..3\nok 1 - good.yaml: Takes")


def test_on_a_terminal_a_live_table_and_then_the_lines(checks: Front) -> None:
    result = checks("check", "good.yaml", tty=True, COLUMNS="80")
    assert result.code == 0
    assert "3/3" in result.err
    assert "Takes the survey (" in result.out
    assert "3 passed" in result.out


def test_annotations_in_actions(checks: Front) -> None:
    result = checks("check", "bad.yaml", "--timeout", "300ms", GITHUB_ACTIONS="true")
    marked = [line for line in result.out.splitlines() if line.startswith("::")]
    assert marked[0].startswith("::error file=bad.yaml,line=7,title=Fails on a text::")
    machine = checks("check", "bad.yaml", "--timeout", "300ms", "-o", "json", GITHUB_ACTIONS="true")
    assert json.loads(machine.out)["failed"] == 2
    assert machine.err.startswith("::error ")


def test_tags_and_variables(checks: Front, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "scenarios:\n  a: {tags: [x], steps: [{say: '${word}'}, {expect: Goodbye}]}\n"
        "  b: {tags: [y], steps: [{say: q}]}\n"
    )
    result = checks("check", "s.yaml", "--tag", "x", "--var", "word=no")
    assert (result.code, result.out) == (0, "ok    s.yaml: a\n1 passed, 0 failed, 0 errors\n")
    assert "ok    s.yaml: b" in checks("check", "s.yaml", "--tag=-x", "--var", "word=no").out
    assert checks("check", "s.yaml", "--tag", "z", "--var", "word=no").code == 2


def test_blessing(checks: Front, tmp_path: Path) -> None:
    text = "scenarios:\n  a:\n    golden: true\n    steps: [{say: hello}, {expect: question}]\n"
    (tmp_path / "g.yaml").write_text(text)
    assert checks("check", "g.yaml").code == 1
    assert checks("check", "g.yaml", "--bless").code == 0
    written = json.loads((tmp_path / "g.golden.json").read_text())
    assert written == {"a": ["> hello", "< May we ask a question?"]}
    assert checks("check", "g.yaml").code == 0
    (tmp_path / "g.golden.json").write_text(json.dumps({"a": ["> hello", "< May we?"]}))
    changed = checks("check", "g.yaml")
    assert changed.code == 1
    assert "| -< May we?" in changed.out
    assert checks("check", "good.yaml", "--bless").code == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "no script was named"),
        (["absent.yaml"], "absent.yaml: No such file"),
        (["wrong.yaml"], "wrong.yaml:1: scenario 'a', step 1: unknown key 'sya'; did you mean 'say'?"),
        (["good.yaml", "--junit", "absent/x.xml"], "there is no directory"),
        (["good.yaml", "--tap", "-o", "json"], "--tap is an output of its own"),
        (["good.yaml", "--var", "x"], "expected KEY=VALUE"),
        (["good.yaml", "--parallel", "0"], "--parallel"),
    ],
)
def test_what_is_wrong_exits_2_and_sends_nothing(checks: Front, tmp_path: Path, argv: list[str], said: str) -> None:
    (tmp_path / "wrong.yaml").write_text("scenarios: {a: [{sya: x}]}")
    result = checks("check", *argv)
    assert result.code == 2
    assert said in result.err
    assert result.out == ""


def test_a_dead_service_is_no_failed_check(checks: Front) -> None:
    result = checks("check", "good.yaml", "--timeout", "1s", GUESTCTL_SANDBOX_URL="http://127.0.0.1:9")
    assert result.code == 8
    assert "0 passed, 0 failed, 3 errors" in result.out


# --- cut off ---


@contextmanager
def cut_off(checks: Front, tmp_path: Path, number: int, *options: str) -> Iterator[tuple[int, str]]:
    """A run of three scenarios that gets a signal while the second is waiting; its code and stdout."""
    question = f"{tmp_path.name} {number} {options}"
    (tmp_path / "cut.yaml").write_text(
        "scenarios:\n  first: [{say: hello}, {expect: question}]\n"
        f"  second: [{{say: {json.dumps(question)}}}, {{expect: never}}]\n  third: [{{say: hello}}]\n"
    )

    def asked() -> bool:
        return any(
            message["text"] == question
            for session in checks("sandbox", "sessions").records
            for message in session["messages"]
        )

    with started(checks, "check", "cut.yaml", "--timeout", "1m", "--junit", "cut.xml", *options) as process:
        until(asked)
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert err == b""
    yield process.returncode, out.decode()


def junit_of(tmp_path: Path) -> list[tuple[str, str]]:
    (suite,) = JUnitXml.fromfile(str(tmp_path / "cut.xml"))
    assert (suite.tests, suite.failures) == (3, 0)
    return [(case.name, case.result[0].type if case.result else "passed") for case in suite]


CUT = [("first", "passed"), ("second", "interrupted"), ("third", "interrupted")]


def test_a_run_that_was_cut_off_says_so(checks: Front, tmp_path: Path) -> None:
    with cut_off(checks, tmp_path, signal.SIGINT) as (code, out):
        assert code == 130
        assert out.startswith("ok    cut.yaml: first\nERROR cut.yaml: second\n      cut.yaml:3: ")
        assert "interrupted while it ran\n      code: interrupted (exit 130)\n" in out
        assert f"> guest: {tmp_path.name}" in out
        assert out.endswith("ERROR 1 scenario had not begun\n1 passed, 0 failed, 2 errors, interrupted\n")
    assert junit_of(tmp_path) == CUT


def test_a_run_that_was_cut_off_says_so_to_programs(checks: Front, tmp_path: Path) -> None:
    with cut_off(checks, tmp_path, signal.SIGTERM, "-o", "json") as (code, out):
        found = json.loads(out)
        assert (code, found["passed"], found["failed"], found["errors"]) == (143, 1, 0, 2)
        assert [one["trouble"] and one["trouble"]["error"]["code"] for one in found["scenarios"]] == [
            None,
            "interrupted",
            "interrupted",
        ]
    assert junit_of(tmp_path) == CUT


def test_tap_bails_out(checks: Front, tmp_path: Path) -> None:
    with cut_off(checks, tmp_path, signal.SIGTERM, "--tap") as (code, out):
        points = [line for line in out.splitlines() if not line.startswith("  ")]
    assert code == 143
    assert points == [
        "TAP version 14",
        "1..3",
        "ok 1 - cut.yaml: first",
        "not ok 2 - cut.yaml: second",
        "Bail out! interrupted",
    ]


def test_a_run_that_was_killed_leaves_no_green_report(checks: Front, tmp_path: Path) -> None:
    (tmp_path / "cut.xml").write_text("<testsuites/>")
    with cut_off(checks, tmp_path, signal.SIGKILL) as (code, _):
        assert code == -signal.SIGKILL
    assert {kind for _, kind in junit_of(tmp_path)} == {"interrupted"}


def test_a_report_into_a_pipe_is_written_once(checks: Front, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with started(checks, "check", "good.yaml", "--junit", "pipe") as process:
        (suite,) = JUnitXml.fromstring((tmp_path / "pipe").read_text())
        process.communicate(timeout=10)
    assert (process.returncode, suite.tests, suite.errors) == (0, 3, 0)


def test_a_script_says_where(alone: Front, survey: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        f"config: {{deploymentId: {survey.deployment_id}, region: eu-central-1}}\nscenarios: {{a: [{{say: hello}}]}}\n"
    )
    result = alone("check", "own.yaml", "--base-url", survey.url)
    assert (result.code, result.out) == (0, "ok    own.yaml: a\n1 passed, 0 failed, 0 errors\n")


def test_nothing_is_remembered(checks: Front, tmp_path: Path) -> None:
    checks("check", "good.yaml")
    listed = checks("session", "list", "-o", "json")
    assert json.loads(listed.out) == []


def test_the_keys_are_listed(checks: Front) -> None:
    result = checks("check", "--keys")
    assert result.code == 0
    assert "| `waitForReplyContaining` |" in result.out
