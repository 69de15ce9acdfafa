"""`check --html`: what the file contains, when it is written, and what it never contains.

Knows: the command line and the data in the file. `tests/browser` opens the file in a browser.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guestctl.checks.reports import html
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.checks.ai_front import Bench, benches
from tests.checks.html_report import data_of, report
from tests.checks.test_ai_steps import FIVE, five
from tests.cli.conftest import Front

BOT = """\
rules:
  - {equals: order, reply: Which one?, quickReplies: [Pizza, Salad]}
  - {contains: pizza, reply: "Sorry, closed </script><script>alert(1)</script>"}
otherwise: "echo: ${text}"
"""
SCRIPT = """\
scenarios:
  "Greets":
    - say: hello
    - expect: echo
  "Orders":
    tags: [menu]
    steps:
      - say: order
      - expect: {options: [Pizza, Salad]}
      - pick: Pizza
      - expect: {contains: on its way, not: sorry, within: 100ms}
      - say: "password=hunter2-hunter2"
    teardown:
      - say: bye
"""


@pytest.fixture(scope="module")
def bot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    script = tmp_path_factory.mktemp("bot") / "bot.yaml"
    script.write_text(BOT)
    with running(SandboxOptions(fast=True, script=script)) as sandbox:
        yield sandbox


@pytest.fixture
def checks(
    bot: Sandbox, sandboxed: Callable[[Sandbox], Front], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Front:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talk.yaml").write_text(SCRIPT)
    return sandboxed(bot)


def test_the_file_has_every_scenario_with_steps_and_conversation(checks: Front, tmp_path: Path) -> None:
    result = checks("check", "talk.yaml", "--retries", "1", "--html", "out.html", "--junit", "out.xml", "-o", "json")
    assert (result.code, result.err) == (1, "")
    run = report(tmp_path / "out.html")
    assert [run[name] for name in ("passed", "failed", "undecided", "customer_failed", "errors")] == [1, 1, 0, 0, 0]
    good, bad = run["scenarios"]
    assert [(step["text"], step["verdict"]) for step in good["steps"]] == [
        ("say: hello", "passed"),
        ("expect: echo", "passed"),
    ]
    assert [(line["who"], line["text"]) for line in good["transcript"]] == [("guest", "hello"), ("bot", "echo: hello")]
    assert "wire" not in good
    verdicts = [step.get("verdict") for step in bad["steps"]]
    assert verdicts == ["passed", "passed", "passed", "failed", None, "passed"]
    assert [step.get("teardown", False) for step in bad["steps"]] == [False] * 5 + [True]
    assert bad["steps"][3]["at"] >= bad["steps"][2]["at"] > 0
    assert bad["trouble"]["came"][0]["unmet"] == ['containing "on its way"', 'not containing "sorry"']
    assert [attempt["verdict"] for attempt in bad["attempted"]] == ["failed", "failed"]
    assert bad["attempted"][0]["reason"].startswith("timed out waiting for a matching reply")
    # The traffic since the guest's last action: the pick, its echo, and the reply; nothing of the teardown.
    assert [event["kind"] for event in bad["wire"]] == ["frame_out", "frame_in", "frame_in"]
    assert "Sorry, closed" in bad["wire"][2]["text"]
    # `-o json` stays as it is without the option.
    assert [len(one["transcript"]) > 0 for one in result.record["scenarios"]] == [False, True]
    assert "steps" not in result.record["scenarios"][1]


def test_the_file_loads_nothing_and_masks_secrets(checks: Front, tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text(
        "variables: {API_PASSWORD: topsecret-4711}\n"
        'scenarios: {a: [{say: "it is ${API_PASSWORD}"}, {expect: {contains: no, within: 50ms}}]}\n'
    )
    assert checks("check", "secret.yaml", "talk.yaml", "--html", "out.html").code == 1
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "topsecret-4711" not in page
    assert "hunter2-hunter2" not in page
    sent = next(event for event in data_of(page)["scenarios"][0]["wire"] if event["kind"] == "frame_out")
    assert json.loads(sent["text"])["token"].startswith("***")
    assert not re.search(r"""(src|href)\s*=\s*["']""", page)
    assert page.count("<script") == 2


@pytest.mark.parametrize(
    "argv", ["talk.yaml --bogus", "talk.yaml --tag none", "absent.yaml", "talk.yaml --tap -o json"]
)
@pytest.mark.parametrize("form", ["--html={}", "--html {}"])
def test_a_run_that_cannot_start_replaces_the_file(checks: Front, tmp_path: Path, argv: str, form: str) -> None:
    (tmp_path / "out.html").write_text("all passed")
    assert checks("check", *argv.split(), *form.format("out.html").split()).code == 2
    run = report(tmp_path / "out.html")
    assert (run["errors"], run["scenarios"][0]["scenario"]) == (1, "guestctl check")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--html", "absent/x.html"], "--html: no directory"),
        (["--html", "."], '--html: "." is a directory'),
        (["--html", "-", "--tap"], "--html - takes stdout"),
        (["--html", "-", "-o", "json"], "--html - takes stdout"),
        (["--html", "-", "--junit", "-"], "--junit - takes stdout"),
        (["--html", "x", "--junit", "./x"], "--junit and --html name the same file"),
    ],
)
def test_places_that_cannot_be_used(checks: Front, words: list[str], message: str) -> None:
    refused = checks("check", "talk.yaml", *words)
    assert (refused.code, refused.out) == (2, "")
    assert message in refused.err


def test_a_missing_name_of_the_file_destroys_no_script(checks: Front, tmp_path: Path) -> None:
    assert checks("check", "--html", "talk.yaml").code == 2
    assert (tmp_path / "talk.yaml").read_text() == SCRIPT


def test_stdout_takes_the_file_and_the_lines_go_to_stderr(checks: Front) -> None:
    result = checks("check", "talk.yaml", "--tag=-menu", "--html", "-")
    assert result.code == 0
    assert data_of(result.out)["passed"] == 1
    assert "ok    talk.yaml: Greets" in result.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_one_report_that_cannot_be_written_does_not_stop_the_other(checks: Front, tmp_path: Path) -> None:
    result = checks("check", "talk.yaml", "--tag=-menu", "--html", "/dev/full", "--junit", "out.xml")
    assert result.code == 2
    assert result.err.startswith("error: /dev/full: ")
    assert 'tests="1" failures="0"' in (tmp_path / "out.xml").read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


def test_the_five_outcomes_and_the_evidence_of_the_judge_are_in_the_file(bench: Bench, tmp_path: Path) -> None:
    found = bench(five)
    assert found.check(FIVE, "--html", str(tmp_path / "out.html")).code == 1
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    run = data_of(page)
    verdicts = [one["verdict"] for one in run["scenarios"]]
    assert verdicts == ["passed", "failed", "undecided", "customer_failed", "error"]
    assert [run[name] for name in ("passed", "failed", "undecided", "customer_failed", "errors")] == [1] * 5
    (criterion,) = run["scenarios"][2]["judged"]
    assert (criterion["decision"], criterion["votes"][0]["problem"]) == ("undecided", "the judge cannot tell")
    # A reader without JavaScript sees the lines of the text report.
    assert re.findall(r"^(FAIL |UNDEC|CUST |ERROR)", page, re.M) == ["FAIL ", "UNDEC", "CUST ", "ERROR"]


def test_a_hundred_scenarios_are_below_one_megabyte(checks: Front, tmp_path: Path) -> None:
    long = "a reply of a usual length with some words in it, as bots write them"
    turns = "".join(f'    - say: "{long} {n}"\n    - expect: {{contains: "{n}"}}\n' for n in range(5))
    half = [f"  s{n}:\n{turns}" + "    - expect: {contains: no, within: 10ms}\n" * (n % 2) for n in range(100)]
    (tmp_path / "many.yaml").write_text("scenarios:\n" + "".join(half))
    assert checks("check", "many.yaml", "--parallel", "8", "--html", "out.html").code == 1
    assert len(report(tmp_path / "out.html")["scenarios"]) == 100
    assert (tmp_path / "out.html").stat().st_size <= 1_000_000


def test_a_file_that_would_be_too_large_has_less_traffic(
    checks: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "MOST_BYTES", 40_000)
    long = "x" * 3900
    (tmp_path / "long.yaml").write_text(
        f'scenarios:\n  a:\n    - say: "{long}"\n    - expect: {{contains: no, within: 50ms}}\n'
    )
    assert checks("check", "long.yaml", "--html", "out.html").code == 1
    run = report(tmp_path / "out.html")
    assert "shortened to keep this file small" in run["note"]
    assert run["scenarios"][0]["transcript"][0]["text"].endswith("… [shortened: 3,900 characters in all]")
