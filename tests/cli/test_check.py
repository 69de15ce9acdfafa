"""The `check` command."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from junitparser import JUnitXml

from guestctl.checks.outcomes import Trouble
from guestctl.checks.scenario import ScenarioRun
from guestctl.checks.script import Step
from guestctl.checks.service import ServiceUnderTest
from guestctl.client import Client
from guestctl.dialects import NAMES
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.checks import scripts
from tests.checks.html_report import report
from tests.cli.conftest import Front, Result
from tests.cli.test_signals import shown, started, until
from tests.client_keys import RETURNED
from tests.unit.test_records import faults


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
    return Untimed(**vars(sandboxed(survey)))


class Untimed(Front):
    """Runs commands like `Front`. Every line of a text report must have a duration, which is left out then."""

    def __call__(self, *argv: str, **more: Any) -> Result:
        result = super().__call__(*argv, **more)
        return replace(result, out=untimed(result.out))


def untimed(report: str) -> str:
    """Return a text report without the durations that each of its summary lines must have."""
    lines = []
    for line in report.splitlines(keepends=True):
        if re.match(r"(\x1b\[3\dm)?(ok   |FAIL |ERROR)(\x1b\[0m)? (?!\d+ scenarios? not started)|\d+ passed, ", line):
            line, found = re.subn(r"( \(\d+\.\d\d s\)| in \d+\.\d s)$", "", line, flags=re.MULTILINE)
            assert found == 1, line
        lines.append(line)
    return "".join(lines)


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


GOOD_LINES = (
    "ok    good.yaml: Takes the survey\nok    good.yaml: Leaves the survey\nok    good.yaml: Is not understood\n"
    "3 passed, 0 failed, 0 errors\n"
)
TWO_PASSED = "2 passed, 0 failed, 0 errors\n"


def test_a_passing_script(checks: Front) -> None:
    for parallel in ("1", "3"):
        result = checks("check", "good.yaml", "--parallel", parallel)
        assert (result.code, result.out, result.err) == (0, GOOD_LINES, "")


def test_a_failing_script(checks: Front, tmp_path: Path) -> None:
    result = checks("check", "good.yaml", "bad.yaml", "--timeout", "2s", "--junit", "out.xml")
    assert result.code == 1
    assert "FAIL  bad.yaml: Fails on a text\n      bad.yaml:7: waitForReplyContaining" in result.out
    assert '      expected: a reply containing "nothing of the kind", within 2 s\n' in result.out
    assert result.out.endswith("3 passed, 2 failed, 0 errors\n")
    report = JUnitXml.fromfile(str(tmp_path / "out.xml"))
    assert [(suite.name, suite.tests, suite.failures) for suite in report] == [("good.yaml", 3, 0), ("bad.yaml", 2, 2)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_other_reports_are_written_if_one_cannot_be(checks: Front) -> None:
    result = checks("check", "good.yaml", "--junit", "/dev/full")
    assert (result.code, result.out) == (2, GOOD_LINES)
    assert result.err.startswith("error: /dev/full: ")
    assert checks("check", "good.yaml", "--junit", "/dev/full", "-o", "json").record["passed"] == 3


@pytest.mark.parametrize(
    ("words", "script"),
    [
        (("broken.yaml",), "broken.yaml"),
        (("good.yaml", "broken.yaml"), "broken.yaml"),
        (("good.yaml", "--tag", "none"), "good.yaml"),
        (("absent.yaml",), "absent.yaml"),
        (("-",), "stdin"),
        ((".",), "broken.yaml"),
        (("sub/..",), "sub/../broken.yaml"),
        (("sub",), "sub"),
        (("/absent",), "/absent"),
    ],
)
def test_a_run_that_cannot_start_replaces_the_report(
    checks: Front, tmp_path: Path, words: tuple[str, ...], script: str
) -> None:
    """The report names the script that is wrong, whatever the argument was that led to it."""
    (tmp_path / "broken.yaml").write_text("scenarios: [")
    (tmp_path / "sub").mkdir()
    assert checks("check", "good.yaml", "--junit", "out.xml").code == 0
    assert checks("check", *words, "--junit", "out.xml").code == 2
    report = JUnitXml.fromfile(str(tmp_path / "out.xml"))
    assert [(suite.name, suite.tests, suite.errors) for suite in report] == [(script, 1, 1)]


def test_quiet_prints_only_failures(checks: Front) -> None:
    assert checks("check", "good.yaml", "-q").out == ""
    result = checks("check", "good.yaml", "bad.yaml", "-q", "--timeout", "2s").out
    assert result.startswith("FAIL  bad.yaml")
    assert "passed" not in result


def test_machine_output(checks: Front) -> None:
    assert checks("check", "good.yaml", "-o", "json").record["passed"] == 3
    records = checks("check", "good.yaml", "-o", "jsonl").records
    assert [record["kind"] for record in records] == ["check", "check", "check", "check-run"]
    assert checks("check", "good.yaml", "--tap").out.startswith("TAP version 14\n1..3\nok 1 - good.yaml: Takes")


def test_a_terminal_shows_the_same_lines_in_colour(checks: Front) -> None:
    result = checks("check", "good.yaml", tty=True, COLUMNS="80")
    assert (result.code, result.err) == (0, "")
    assert result.out == GOOD_LINES.replace("ok   ", "\x1b[32mok   \x1b[0m")


def test_a_terminal_shows_each_result_when_it_is_known(checks: Front) -> None:
    """Nothing is drawn over, so a notice between two results leaves nothing behind."""
    Path("two.yaml").write_text("scenarios: {first: [{say: hello}], second: [{say: hello}, {expect: never}]}\n")
    near, far = pty.openpty()
    with started(checks, "check", "two.yaml", "--timeout", "1m", stdout=far, stderr=far) as process:
        os.close(far)
        seen = b""
        while b"two.yaml: first (" not in seen:  # the second is still waiting
            seen += os.read(near, 4096)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)
    screen = re.sub(r"\x1b\[\d+m", "", (seen + shown(near)).decode())
    assert "\x1b" not in screen
    assert screen.startswith("ok    two.yaml: first (")
    assert "\nERROR two.yaml: second (" in screen
    assert "\n1 passed, 0 failed, 1 error, interrupted in " in screen


def test_annotations_in_actions(checks: Front) -> None:
    result = checks("check", "bad.yaml", "--timeout", "2s", GITHUB_ACTIONS="true")
    marked = [line for line in result.out.splitlines() if line.startswith("::")]
    assert marked[0].startswith("::error file=bad.yaml,line=7,title=Fails on a text::")
    machine = checks("check", "bad.yaml", "--timeout", "2s", "-o", "json", GITHUB_ACTIONS="true")
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


def test_variables_may_use_other_variables(checks: Front, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "variables: {start: 'he${tail}', greet: '${start}', home: '${home:-hello}', literal: '$${greet}'}\n"
        "setup: [{say: '${greet}'}, {expect: question}, {say: '${home}'}, {expect: question}]\n"
        "scenarios:\n  a: {matrix: {word: ['n${letter}']}, steps: [{say: '${word}'}, {expect: Goodbye}]}\n"
        "  b: {matrix: [{word: 'y${rest:-es}'}], steps: [{say: '${word}'}, {expect: Thanks}]}\n"
    )
    result = checks("check", "s.yaml", "--var", "letter=o", tail="llo")
    assert result.out == "ok    s.yaml: a [word=n${letter}]\nok    s.yaml: b [word=y${rest:-es}]\n" + TWO_PASSED
    refused = checks("check", "s.yaml", "--var", "letter=o")
    assert (refused.code, refused.out) == (2, "")
    assert "s.yaml:1: variables.start: ${tail} has no value" in refused.err
    assert "matrix.word: ${letter} has no value" in checks("check", "s.yaml", tail="llo").err
    assert checks("check", "s.yaml", "--var", "letter=o", "--var", "start=hello").code == 0


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
        ([], "no script given"),
        (["absent.yaml"], "absent.yaml: No such file"),
        (["wrong.yaml"], 'wrong.yaml:1: scenario "a", step 1: unknown key "sya"; did you mean "say"?'),
        (["good.yaml", "--junit", "absent/x.xml"], "--junit: no directory"),
        (["good.yaml", "--junit", "."], '--junit: "." is a directory'),
        (["indented.yaml"], "then run `guestctl check indented.yaml` again"),
        (["tabbed.yaml"], "tabbed.yaml:3: a tab; YAML is indented with spaces"),
        (["good.yaml", "--tap", "-o", "json"], "--tap cannot be combined with --output"),
        (["good.yaml", "--var", "x"], "expected KEY=VALUE"),
        (["good.yaml", "--parallel", "0"], "--parallel"),
    ],
)
def test_a_usage_error_exits_2_and_sends_nothing(checks: Front, tmp_path: Path, argv: list[str], said: str) -> None:
    (tmp_path / "wrong.yaml").write_text("scenarios: {a: [{sya: x}]}")
    (tmp_path / "indented.yaml").write_text("scenarios:\n  a:\n  - say: hi\n   - expect: x\n")
    (tmp_path / "tabbed.yaml").write_text("scenarios:\n  a:\n\t- say: x\n")
    result = checks("check", *argv)
    assert result.code == 2
    assert said in result.err
    assert result.out == ""


def test_an_unreachable_service_exits_with_the_network_code(checks: Front) -> None:
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
        f"  second: [{{say: hello}}, {{expect: question}}, {{say: {json.dumps(question)}}}, {{expect: never}}]\n"
        "  third: [{say: hello}]\n"
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
    yield process.returncode, untimed(out.decode())


def junit_of(tmp_path: Path) -> list[tuple[str, str]]:
    (suite,) = JUnitXml.fromfile(str(tmp_path / "cut.xml"))
    assert (suite.tests, suite.failures) == (3, 0)
    return [(case.name, case.result[0].type if case.result else "passed") for case in suite]


CUT = [("first", "passed"), ("second", "interrupted"), ("third", "interrupted")]


def test_an_interrupted_run_is_reported(checks: Front, tmp_path: Path) -> None:
    with cut_off(checks, tmp_path, signal.SIGINT, "--html", "cut.html") as (code, out):
        assert code == 130
        assert out.startswith("ok    cut.yaml: first\nERROR cut.yaml: second\n      cut.yaml:3: ")
        assert "interrupted while the scenario ran\n      code: interrupted (exit 130)\n" in out
        assert " s > guest: hello" in out
        assert out.endswith("ERROR 1 scenario not started\n1 passed, 0 failed, 2 errors, interrupted\n")
    assert junit_of(tmp_path) == CUT
    _, second, third = report(tmp_path / "cut.html")["scenarios"]
    assert [step.get("verdict") for step in second["steps"]] == ["passed", "passed", "passed", "error"]
    assert next(line["text"] for line in second["transcript"] if line["who"] == "guest") == "hello"
    assert second["wire"][0]["kind"] == "frame_out"
    assert [step.get("verdict") for step in third["steps"]] == [None]


def test_an_interrupted_run_is_reported_as_json(checks: Front, tmp_path: Path) -> None:
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


def test_a_killed_run_leaves_no_passing_report(checks: Front, tmp_path: Path) -> None:
    (tmp_path / "cut.xml").write_text("<testsuites/>")
    (tmp_path / "cut.html").write_text("all passed")
    with cut_off(checks, tmp_path, signal.SIGKILL, "--html", "cut.html") as (code, _):
        assert code == -signal.SIGKILL
    assert {kind for _, kind in junit_of(tmp_path)} == {"interrupted"}
    assert {one["trouble"]["error"]["code"] for one in report(tmp_path / "cut.html")["scenarios"]} == {"interrupted"}


def test_a_junit_report_into_a_pipe_is_written_once(checks: Front, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with started(checks, "check", "good.yaml", "--junit", "pipe") as process:
        (suite,) = JUnitXml.fromstring((tmp_path / "pipe").read_text())
        process.communicate(timeout=10)
    assert (process.returncode, suite.tests, suite.errors) == (0, 3, 0)


# --- what a failure says ---

RUDE = """\
rules:
  - {equals: bye, reply: Goodbye, disconnect: true}
  - {equals: order, replies: [second, first]}
  - {equals: order and leave, replies: [second, first], disconnect: true}
  - {equals: late, reply: {text: sorry for that, delay: 1200ms}}
  - {equals: menu, reply: "Which?", quickReplies: [Red, Blue]}
"""


@pytest.fixture
def rude(tmp_path: Path, sandboxed: Callable[[Sandbox], Front]) -> Iterator[Callable[..., Result]]:
    """Check these steps against a bot with bad manners; `disconnect` is the sandbox's option."""
    (tmp_path / "rude.yaml").write_text(RUDE)

    with ExitStack() as stack:

        def check(*options: str, steps: str, more: str = "", disconnect: str = "ReadOnly", api: str = "") -> Result:
            (tmp_path / "s.yaml").write_text(f"{more}scenarios:\n  a:\n    steps: {steps}\n")
            settings = SandboxOptions(**RETURNED, fast=True, script=tmp_path / "rude.yaml", disconnect=disconnect)
            front = Untimed(**vars(sandboxed(stack.enter_context(running(settings)))))
            return front("check", "s.yaml", *options, GUESTCTL_API=api)

        yield check


@pytest.mark.parametrize("api", NAMES)
def test_a_conversation_that_the_service_ends_fails_on_every_api(rude: Callable[..., Result], api: str) -> None:
    result = rude("--api", api, steps="[{say: bye}, {expect: Goodbye}, {say: and now?}, {expect: never}]")
    assert result.code == 1, result
    lines = result.out.splitlines()
    assert lines[:4] == [
        "FAIL  s.yaml: a",
        "      s.yaml:3: say: and now?",
        "      the service had ended the conversation",
        "      expected: an open conversation",
    ]
    ended = lines[4].removeprefix("      came: ")
    assert " * " in ended
    assert f"        {ended}" in lines[5:], "the conversation shows the end"
    assert "session create" not in result.out
    assert lines[-1] == "0 passed, 1 failed, 0 errors"


@pytest.mark.parametrize("api", ["web-messaging", "guests"])
def test_an_ended_conversation_does_not_fail_in_teardown(rude: Callable[..., Result], api: str) -> None:
    result = rude("--api", api, steps="[{say: bye}, {expect: Goodbye}]", more="teardown: [{say: thanks}]\n")
    assert (result.code, result.out) == (0, "ok    s.yaml: a\n1 passed, 0 failed, 0 errors\n")


def test_a_check_continues_where_the_api_accepts_messages_after_the_end(rude: Callable[..., Result]) -> None:
    steps = "[{say: bye}, {expectDisconnect: 5s}, {pause: 1100ms}, {say: menu}, {expect: {options: [Red]}}]"
    assert rude(steps=steps, disconnect="Send").code == 0


def test_expect_disconnect_times_out(rude: Callable[..., Result]) -> None:
    result = rude(steps="[{say: menu}, {expectDisconnect: 200ms}]")
    assert "expected: the end of the conversation, within 0.2 s\n" in result.out


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (
            "[{say: order}, {expect: first}, {expect: {contains: second, within: 200ms}}]",
            "the expected reply came before the reply that met the last expectation"
            " (`in_order: false` accepts any order)",
        ),
        (
            "[{say: order and leave}, {expect: {contains: [first, second]}}]",
            "the expected replies came in another order (`in_order: false` accepts any order)",
        ),
        (
            "[{say: order}, {expect: first}, {expect: {contains: third, within: 200ms}}]",
            "timed out waiting for a matching reply",
        ),
    ],
)
def test_a_wrong_order_is_reported_as_such(rude: Callable[..., Result], steps: str, said: str) -> None:
    result = rude(steps=steps)
    assert (result.code, result.out.splitlines()[2].strip()) == (1, said)


def test_a_late_reply_is_reported(rude: Callable[..., Result]) -> None:
    late = rude(steps="[{say: late}, {expect: {contains: sorry, within: 1s}}]")
    assert late.code == 1
    assert "      a matching reply came too late\n" in late.out
    assert "      came: nothing\n      late: " in late.out
    assert " s < bot: sorry for that" in late.out
    silent = rude(steps="[{say: silence}, {expect: {contains: sorry, within: 200ms}}]")
    found = re.search(r"      came: nothing\n      late: nothing in the next (\S+) s\n", silent.out)
    assert found is not None, silent.out
    assert float(found[1]) >= 0.2, "a busy machine may listen for longer"


def test_reports_of_expect_none_and_pick(rude: Callable[..., Result]) -> None:
    broken = rude(steps="[{say: menu}, {expectNone: {contains: which, for: 10s}}]")
    assert 'expected: no reply containing "which" for 10 s\n' in broken.out
    assert "expected: no reply for 10 s\n" in rude(steps="[{say: menu}, {expectNone: 10s}]").out
    third = rude(steps="[{say: menu}, {pick: 3, timeout: 200ms}]")
    assert "expected: option 3, within 0.2 s\n" in third.out


# --- golden transcripts ---

RICH = """\
rules:
  - equals: go
    replies:
      - {text: Look, card: {title: Our Shop, description: All day, actions: [Buy, {text: More, url: "https://x.test/a?t=1"}]}}
      - {text: Or, carousel: [{title: Shoes, description: Red ones}, {title: Hats}]}
      - {text: When, datePicker: {title: Visit us, subtitle: Any day, min: 2026-03-09T08:00:00Z}}
      - {text: Which, listPicker: {title: Sizes, sections: [{title: Small ones, items: [{title: S, subtitle: tiny}]}]}}
      - {text: Who, form: {title: About you, button: Begin, fields: [{id: n, title: Your name, required: true}]}}
"""
#: Every word of it that a guest sees, but for the text, the options and the link's query.
SEEN = [
    *("Our Shop", "All day", "x.test/a", "Shoes", "Red ones", "Hats", "Visit us", "Any day", "2026-03-09"),
    *("Sizes", "Small ones", "tiny", "About you", "Begin", "Your name", "required: true"),
]


def test_golden_transcripts_contain_cards_pickers_and_forms(
    sandboxed: Callable[[Sandbox], Front], tmp_path: Path
) -> None:
    (tmp_path / "g.yaml").write_text("golden: true\nscenarios:\n  a: [{say: go}, {expect: Who}]\n")

    def check(bot: str, *options: str) -> Result:
        (tmp_path / "bot.yaml").write_text(bot)
        with running(SandboxOptions(fast=True, script=tmp_path / "bot.yaml")) as sandbox:
            return Untimed(**vars(sandboxed(sandbox)))("check", "g.yaml", "--timeout", "5s", *options)

    blessed = check(RICH, "--bless")
    assert (blessed.code, blessed.err) == (0, "g.golden.json: 1 golden transcript written\n")
    held = json.loads((tmp_path / "g.golden.json").read_text())["a"]
    assert held[:7] == [
        "> go",
        "< Look",
        "  (card) Our Shop – All day",
        "  (link) More https://x.test/a",
        "  [1] Buy",
        "  [2] More",
        "< Or",
    ]
    assert check(RICH.replace("?t=1", "?t=2")).code == 0
    changed = RICH
    for words in SEEN:
        assert changed.count(words) == 1
        changed = changed.replace(
            words, "required: false" if "required" in words else words.replace("2026", "2027")[::-1]
        )
    changed = changed.replace("90-30-7202", "2027-03-09")
    result = check(changed)
    assert result.code == 1
    removed = "\n".join(line for line in result.out.splitlines() if line.strip().startswith("| -"))
    assert [words for words in SEEN if words.removesuffix(": true") not in removed] == []
    (tmp_path / "g.golden.json").write_text(json.dumps({"a": [line for line in held if not line.startswith("  (")]}))
    old = check(RICH)
    assert old.code == 1
    assert "the golden transcript was written by a version that left out cards, pickers and forms" in old.out


# --- whose API it is ---


def api_spoken(result: Result) -> str:
    """By the address of the first request that has to do with a guest."""
    return next(line for line in result.err.splitlines() if "/api/" in line or "/v1" in line)


def test_a_scripts_api_counts_on_the_sandbox(rude: Callable[..., Result]) -> None:
    given = {
        "steps": "[{say: menu}, {expect: Which}]",
        "more": "config: {api: guest-sessions, region: x, deploymentId: y}\n",
    }
    under_exec = rude("-v", api="web-messaging", **given)
    assert (under_exec.code, "/api/v2/guest/webmessaging/sessions" in api_spoken(under_exec)) == (0, True)
    chosen = rude("-v", "--api", "web-messaging", **given)
    assert (chosen.code, "/api/v2/guest/webmessaging/sessions" in chosen.err) == (0, False)


def test_an_unknown_api_is_an_error_in_the_script(rude: Callable[..., Result]) -> None:
    result = rude("--api", "web-messaging", steps="[{say: menu}]", more="config:\n  api: guest-session\n")
    assert (result.code, result.out) == (2, "")
    assert 's.yaml:2: config.api: no API "guest-session"; did you mean "guest-sessions"?' in result.err


def test_the_config_of_a_script_selects_the_service(alone: Front, survey: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        f"config: {{deploymentId: {survey.deployment_id}, region: eu-central-1}}\nscenarios: {{a: [{{say: hello}}]}}\n"
    )
    result = alone("check", "own.yaml", "--base-url", survey.url)
    assert (result.code, untimed(result.out)) == (0, "ok    own.yaml: a\n1 passed, 0 failed, 0 errors\n")
    (tmp_path / "own.yaml").write_text(
        f"variables: {{where: {survey.deployment_id}, family: guest-sessions}}\n"
        "config: {deploymentId: '${where}', region: eu-central-1, api: '${family}'}\nscenarios: {a: [{say: hello}]}\n"
    )
    result = alone("check", "own.yaml", "--base-url", survey.url)
    assert (result.code, untimed(result.out)) == (0, "ok    own.yaml: a\n1 passed, 0 failed, 0 errors\n")


def test_nothing_is_stored(checks: Front, tmp_path: Path) -> None:
    checks("check", "good.yaml")
    listed = checks("session", "list", "-o", "json")
    assert json.loads(listed.out) == []


def test_keys_prints_every_key(checks: Front) -> None:
    result = checks("check", "--keys")
    assert result.code == 0
    assert "| `waitForReplyContaining` |" in result.out
    assert "cannot be combined with --output" in checks("check", "--keys", "-o", "json").err


@pytest.fixture
def buggy(checks: Front, monkeypatch: pytest.MonkeyPatch) -> Front:
    """The second of three scenarios meets an internal error."""
    do = ScenarioRun._do

    def broken(play: ScenarioRun, step: Step) -> Trouble | None:
        secret = "s3cr3t-in-a-local"
        if play.scenario.name == "Leaves the survey":
            raise ZeroDivisionError(f"bad {secret}")
        return do(play, step)

    monkeypatch.setattr(ScenarioRun, "_do", broken)
    return checks


@pytest.mark.parametrize("parallel", ["1", "3"])
def test_an_internal_error_in_a_scenario_does_not_stop_the_others(buggy: Front, tmp_path: Path, parallel: str) -> None:
    result = buggy("check", "good.yaml", "--junit", "out.xml", "--parallel", parallel, "-o", "table")
    assert result.code == 70
    assert result.out.startswith("ok    good.yaml: Takes the survey\nERROR good.yaml: Leaves the survey\n")
    assert "internal error: ZeroDivisionError at tests.cli.test_check:" in result.out
    assert "code: bug (exit 70)" in result.out
    assert "interrupted" not in result.out
    assert result.out.endswith("2 passed, 0 failed, 1 error\n")
    [suite] = JUnitXml.fromfile(str(tmp_path / "out.xml"))
    assert (suite.tests, suite.errors, suite.failures) == (3, 1, 0)
    [error] = next(case for case in suite if case.name == "Leaves the survey").result
    assert (error.type, error.message.partition(" at ")[0]) == ("bug", "internal error: ZeroDivisionError")
    assert "s3cr3t" not in result.out + result.err + (tmp_path / "out.xml").read_text()


def test_an_internal_error_is_reported_with_its_attempt(
    checks: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.yaml").write_text("scenarios:\n  one:\n  - say: hello\n  - waitForReplyContaining: never said\n")
    let_in, guests = ServiceUnderTest.guest, []

    def second_meets_a_bug(service: ServiceUnderTest, wait: float, scenario: str) -> Client:
        guests.append(wait)
        return let_in(service, wait if len(guests) == 1 else 1 / 0, scenario)

    monkeypatch.setattr(ServiceUnderTest, "guest", second_meets_a_bug)
    [found] = checks("check", "one.yaml", "--timeout", "2s", "--retries", "1", "-o", "json").record["scenarios"]
    assert found["trouble"]["error"]["code"] == "bug"
    assert (found["attempts"], found["transcript"]) == (2, []), "no line of the first attempt"


def test_an_internal_error_is_in_every_report(buggy: Front) -> None:
    whole = buggy("check", "good.yaml", "-o", "json").record
    assert [found["verdict"] for found in whole["scenarios"]] == ["passed", "error", "passed"]
    assert whole["scenarios"][1]["trouble"]["error"]["code"] == "bug"
    tap = buggy("check", "good.yaml", "--tap").out
    assert "not ok 2 - good.yaml: Leaves the survey" in tap
    assert "Bail out" not in tap
    marked = buggy("check", "good.yaml", GITHUB_ACTIONS="true").out
    assert "title=Leaves the survey::internal error" in marked
    debugged = buggy("check", "good.yaml", "--debug").err
    assert "Traceback" in debugged
    assert "secret = " not in debugged


# --- texts that look the same ---


#: What is expected, what came, and how a report shows the two.
LOOK_ALIKES = [
    ("5 EUR", "5\u00a0EUR", "5 EUR", "5\\xa0EUR"),
    ("5\u00a0EUR", "5 EUR", "5\\xa0EUR", "5 EUR"),
    ("5\u00a0EUR", "5\u202fEUR", "5\\xa0EUR", "5\\u202fEUR"),
    ("caf\u00e9", "cafe\u0301", "caf\u00e9", "cafe\\u0301"),
    ("cafe\u0301", "caf\u00e9", "cafe\\u0301", "caf\u00e9"),
    ("\ud55c", "\u1112\u1161\u11ab", "\ud55c", "\u1112\\u1161\\u11ab"),
    ("e-mail", "e\u2011mail", "e-mail", "e\\u2011mail"),
    ("e\u2010mail", "e-mail", "e\\u2010mail", "e-mail"),
    ("ok", "o\u200bk", "ok", "o\\u200bk"),
    ("ok", "o\u200dk", "ok", "o\\u200dk"),
]


def test_expected_and_came_never_look_the_same(sandboxed: Callable[[Sandbox], Front], tmp_path: Path) -> None:
    rules = [
        {"equals": str(number), "reply": came, "disconnect": True} for number, (_, came, *_) in enumerate(LOOK_ALIKES)
    ]
    (tmp_path / "bot.json").write_text(json.dumps({"rules": rules}))
    scenarios = {
        f"pair {number}": [{"say": str(number)}, {"expect": {"equals": wanted}}]
        for number, (wanted, *_) in enumerate(LOOK_ALIKES)
    }
    (tmp_path / "s.json").write_text(json.dumps({"scenarios": scenarios}))
    with running(SandboxOptions(fast=True, script=tmp_path / "bot.json")) as sandbox:
        front = Untimed(**vars(sandboxed(sandbox)))
        result = front("check", "s.json", "--parallel", "8", "--junit", "out.xml")
        tap = front("check", "s.json", "--parallel", "8", "--tap")
        github = front("check", "s.json", "--parallel", "8", GITHUB_ACTIONS="true")
        exact = front("check", "s.json", "--parallel", "8", "-o", "json")
    assert result.code == 1
    report = (tmp_path / "out.xml").read_text()
    expected = [line for line in result.out.splitlines() if line.strip().startswith("expected: ")]
    replies = [line for line in result.out.splitlines() if line.strip().startswith("came: ")]
    annotations = [line for line in github.out.splitlines() if line.startswith("::error")]
    for number, (_, came, shown_wanted, shown_came) in enumerate(LOOK_ALIKES):
        assert f'"{shown_wanted}"' in expected[number]
        assert f"bot: {shown_came}  (" in replies[number]
        assert f'"{shown_wanted}"' in report.replace("&quot;", '"')
        assert f"bot: {shown_came}  (" in report
        assert json.dumps(f"bot: {shown_came}  (")[1:-1] in tap.out
        assert f'"{shown_wanted}"' in annotations[number]
        assert f"came: {shown_came}" in annotations[number]
        assert exact.record["scenarios"][number]["trouble"]["came"][0]["text"] == came


def test_a_golden_difference_never_looks_the_same(sandboxed: Callable[[Sandbox], Front], tmp_path: Path) -> None:
    (tmp_path / "bot.json").write_text(json.dumps({"otherwise": "5\u00a0EUR"}))
    (tmp_path / "s.yaml").write_text("golden: true\nscenarios: {a: [{say: x}, {expect: EUR}]}\n")
    (tmp_path / "s.golden.json").write_text(json.dumps({"a": ["> x", "< 5 EUR"]}))
    with running(SandboxOptions(fast=True, script=tmp_path / "bot.json")) as sandbox:
        result = Untimed(**vars(sandboxed(sandbox)))("check", "s.yaml")
    assert "| -< 5 EUR\n" in result.out
    assert "| +< 5\\xa0EUR\n" in result.out


# --- directories and stdin ---

ONE = "scenarios: {{{name}: [{{say: hello}}, {{expect: question}}]}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory of scripts in several folders, among files that are none."""
    folder = tmp_path / "tests"
    for name in ("b.yaml", "a.yml", "sub/c.yaml", "sub/deeper/d.json", "Z.yaml"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ONE.format(name=path.stem))
    for name in ("bot.yaml", "sub/profiles.yaml", "numbers.json"):
        (folder / name).write_text("rules: []\n" if name != "numbers.json" else "[1, 2]")
    (folder / "notes.txt").write_text("scenarios: [")
    (folder / "b.golden.json").write_text('{"scenarios": []}')
    (folder / "foreign.yaml").write_text("a: !tag 1\n")
    for hidden in (".git", ".cache"):
        (folder / hidden).mkdir()
        (folder / hidden / "e.yaml").write_text(ONE.format(name="hidden"))
    (folder / ".f.yaml").write_text(ONE.format(name="hidden"))
    return folder


def test_a_directory_is_all_scripts_below_it_sorted(checks: Front, folder: Path) -> None:
    result = checks("check", "tests")
    assert result.code == 0, result
    assert result.out == (
        "ok    tests/Z.yaml: Z\nok    tests/a.yml: a\nok    tests/b.yaml: b\nok    tests/sub/c.yaml: c\n"
        "ok    tests/sub/deeper/d.json: d\n5 passed, 0 failed, 0 errors\n"
    )
    skipped = "bot.yaml, foreign.yaml, numbers.json, sub/profiles.yaml"
    assert result.err == f"tests: skipped files without `scenarios`: {skipped}\n"
    assert checks("check", "tests/", "-q").err == ""
    assert checks("check", "tests", "--parallel", "3", "-o", "json").record["passed"] == 5


def test_a_script_below_a_directory_is_run_once(checks: Front, folder: Path) -> None:
    result = checks("check", "tests/sub/c.yaml", "tests/sub", "good.yaml", "./tests/sub/", "-q", "-o", "json")
    scripts = [found["script"] for found in result.record["scenarios"]]
    assert scripts[:2] == ["tests/sub/c.yaml", "tests/sub/deeper/d.json"]
    assert scripts[2:] == ["good.yaml"] * 3


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("wrong.yaml", "scenarios: {a: [{sya: x}]}", 'wrong.yaml:1: scenario "a", step 1: unknown key "sya"'),
        ("broken.yaml", "scenarios:\n  - [\n", "broken.yaml:"),
        ("slip.yaml", "scenario: {a: [{say: x}]}", 'slip.yaml:1: unknown key "scenario"; did you mean "scenarios"?'),
        ("list.yaml", "scenarios: [a]", "list.yaml:1: scenarios: must be a mapping"),
    ],
)
def test_a_wrong_script_below_a_directory_exits_2(checks: Front, folder: Path, name: str, text: str, said: str) -> None:
    (folder / "sub" / name).write_text(text)
    result = checks("check", "tests")
    assert (result.code, result.out) == (2, "")
    assert f"tests/sub/{said}" in result.err


def test_a_directory_without_scripts_exits_2(checks: Front, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "bot.yaml").write_text("rules: []\n")
    result = checks("check", "empty", "--junit", "out.xml")
    assert (result.code, result.out) == (2, "")
    assert 'no check script below "empty"' in result.err
    assert "key `scenarios`" in result.err
    assert "errors" in (tmp_path / "out.xml").read_text()


def test_a_script_from_stdin(checks: Front, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    script = "scenarios: {a: [{say: hello}, {expect: question}, {attach: a.png}]}"
    for content in (script, b"\xef\xbb\xbf" + script.encode()):
        result = checks("check", "-", "--junit", "out.xml", stdin=content)
        assert (result.code, result.out) == (0, "ok    stdin: a\n1 passed, 0 failed, 0 errors\n"), result
    both = checks("check", "-", "good.yaml", "-", stdin=script, tty=False)
    assert both.out.startswith("ok    stdin: a\nok    good.yaml: Takes the survey\n")
    assert both.out.endswith("4 passed, 0 failed, 0 errors\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "stdin:1: the script is empty"),
        ("scenarios: {a: [{sya: x}]}", 'stdin:1: scenario "a", step 1: unknown key "sya"'),
        ("scenarios:\n  a: [\n", "stdin:3: "),
        (b"a: \xff", "stdin:1: not UTF-8"),
        ("#" * 300_000, "stdin:1: larger than 256 KiB"),
        ("golden: true\nscenarios:\n  a: [{say: x}]", "stdin:3: a script from stdin has no golden transcript"),
    ],
)
def test_a_wrong_script_from_stdin_exits_2(checks: Front, content: str | bytes, said: str) -> None:
    result = checks("check", "-", stdin=content)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


def test_a_script_from_a_real_stdin(checks: Front) -> None:
    with started(checks, "check", "-", "--timeout", "10s", stdin=subprocess.PIPE) as process:
        out, _ = process.communicate(ONE.format(name="piped").encode(), timeout=30)
    assert (process.returncode, untimed(out.decode()).splitlines()[0]) == (0, "ok    stdin: piped")


def test_a_stdin_that_never_ends_is_read_until_the_deadline(checks: Front) -> None:
    with started(checks, "check", "-", "--timeout", "300ms", stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), b"timed out reading stdin" in process.stderr.read()) == (b"", True)
        assert process.wait(timeout=10) == 9


# --- what failed ---

#: The steps that a failure is about come after a reply that was expected, so all replies have arrived by then. The
#: bot answers with "Please answer with either 'yes' or 'no'" and with this one.
BOTH_ARRIVED = "{say: Perhaps}, {expect: May we ask a question}"


def _failing(checks: Front, conditions: str, *options: str, **more: Any) -> Result:
    Path("f.yaml").write_text(f"scenarios:\n  a: [{BOTH_ARRIVED}, {{expect: {{{conditions}, within: 10ms}}}}]\n")
    result = checks("check", "f.yaml", *options, **more)
    assert result.code == 1
    return result


@pytest.mark.parametrize(
    ("conditions", "unmet"),
    [
        ("contains: answer, not: either", 'not containing "either"'),
        ("contains: answer, matches: '^x', from: agent", "matching /^x/; from an agent"),
        ("contains: none, options: [Maybe, Never]", 'containing "none"; with the options "Maybe", "Never"'),
        ("equals: hi, card: '', attachment: a.pdf", 'that equals "hi"; with a card; with a file "a.pdf"'),
    ],
)
def test_a_failure_names_the_conditions_that_failed(checks: Front, conditions: str, unmet: str) -> None:
    lines = _failing(checks, conditions, GITHUB_ACTIONS="true").out.splitlines()
    (came,) = [number for number, line in enumerate(lines) if line.startswith("      came: ")]
    assert lines[came + 1] == f"        not met: {unmet}"
    assert lines[-1].endswith(f"(not met: {unmet})")
    (scenario,) = json.loads(_failing(checks, conditions, "-o", "json").out)["scenarios"]
    assert "; ".join(scenario["trouble"]["came"][0]["unmet"]) == unmet


def test_a_failure_names_the_expected_replies_that_are_missing(checks: Front) -> None:
    conditions = "contains: [Please answer, something else]"
    assert '      missing: a reply containing "something else"\n' in _failing(checks, conditions).out
    (scenario,) = json.loads(_failing(checks, conditions, "-o", "json").out)["scenarios"]
    assert scenario["trouble"]["missing"] == ['a reply containing "something else"']


def test_an_unexpected_reply_names_what_it_should_not_be(checks: Front) -> None:
    Path("f.yaml").write_text("scenarios: {a: [{say: hello}, {expectNone: {contains: May we, for: 30s}}]}\n")
    assert '        not met: no reply containing "May we"\n' in checks("check", "f.yaml").out


# --- reports ---


@pytest.mark.parametrize("mode", ["json", "jsonl", "yaml"])
def test_records_of_a_run_fit_their_schema(checks: Front, mode: str) -> None:
    """Passed, failed and erroneous scenarios, with the schema that `guestctl schema` prints."""
    Path("e.yaml").write_text(f"scenarios:\n  e: [{{say: {'x' * 20_000}}}]\n")
    result = _failing(checks, "contains: none", "good.yaml", "e.yaml", "-o", mode)
    records = [yaml.safe_load(result.out)] if mode != "jsonl" else result.records
    schemas = {kind: checks("schema", kind, "-o", "json").record for kind in ("check", "check-run")}
    for record in records:
        assert faults(record, schemas[record["kind"]], record["kind"]) == []
    inner = records[0]["scenarios"] if mode != "jsonl" else records[:-1]
    assert {record["verdict"] for record in inner} == {"passed", "failed", "error"}
    assert all(faults(record, schemas["check"], "check") == [] for record in inner)


def test_a_junit_report_has_each_transcript_once(checks: Front) -> None:
    _failing(checks, "contains: none", "--junit", "out.xml")
    report = Path("out.xml").read_text()
    assert report.count("guest: Perhaps") == 1


# --- secrets ---


def test_variables_with_secret_names_are_masked_in_the_trace(checks: Front, tmp_path: Path) -> None:
    steps = "steps: [{say: '${PASSWORD} ${pin} ${door_token}'}, {expect: {contains: never, within: 100ms}}]"
    text = f"variables: {{pin: 'p1n-canary'}}\nscenarios:\n  a:\n    {steps}\n"
    (tmp_path / "secret.yaml").write_text(text)
    given = ("--var", "door_token=d00r-canary")
    result = checks("check", "secret.yaml", *given, "--trace", "t.jsonl", "-vv", PASSWORD="pa55-canary")
    trace = (tmp_path / "t.jsonl").read_text()
    assert result.code == 1, result
    assert '"onMessage' in trace
    assert "canary" not in trace + result.out + result.err
