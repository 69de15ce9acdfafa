"""Reports are valid in their formats, and remote text in them is harmless."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from junitparser import Error, Failure, JUnitXml

from guestctl.checks import golden
from guestctl.checks.outcomes import Outcome, TranscriptLine, Trouble, exit_code, record, summary
from guestctl.checks.reports import console, github, junit, tap
from guestctl.core.errors import CheckFailed, Exit, NetworkError, UsageError

HOSTILE = "a\x00b\x1b[31mred\u202e \ud800 \ufffe ]]> <x>&amp; ::error::own ##[error]own\n::set-output name=x::y\r# skip"


def outcome(name: str = "a", verdict: str = "passed", text: str = "hello", **more: object) -> Outcome:
    trouble = None
    if verdict == "failed":
        trouble = Trouble(
            f"late {text}", 7, f"expect: {text}", f"a reply {text}", (TranscriptLine(0.5, "bot", text, "id-1"),)
        )
    if verdict == "error":
        failure = NetworkError(f"gone {text}", code="network.connect")
        trouble = Trouble(failure.message, 7, "", failure=failure)
    transcript = (
        ()
        if verdict == "passed"
        else (TranscriptLine(0.1, "guest", text, "id-0"), TranscriptLine(0.5, "bot", text, "id-1", (text,)))
    )
    return Outcome("tests/s.yaml", name, 5, ("x",), verdict, 1.25, trouble=trouble, transcript=transcript, **more)  # type: ignore[arg-type]


ALL = [outcome("good"), outcome("bad", "failed"), outcome("dead", "error", ids={"conversation": "c-1"})]


def test_a_junit_reader_reads_the_report(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_bytes(junit.document([*ALL, Outcome("other.yaml", "z", 1, (), "passed", 0.1)]))
    report = JUnitXml.fromfile(str(path))
    suites = list(report)
    assert [suite.name for suite in suites] == ["tests/s.yaml", "other.yaml"]
    assert [(suite.tests, suite.failures, suite.errors) for suite in suites] == [(3, 1, 1), (1, 0, 0)]
    good, bad, dead = list(suites[0])
    assert (good.name, good.classname, good.time, good.is_passed) == ("good", "tests.s", 1.25, True)
    (failure,) = bad.result
    assert isinstance(failure, Failure)
    assert failure.message == "late hello: a reply hello"
    assert "came: 0.500 s < bot: hello  (id-1)" in failure.text
    assert "0.100 s > guest: hello  (id-0)" in bad.system_out
    assert path.read_text(encoding="utf-8").count("0.100 s &gt; guest: hello  (id-0)") == 2  # once for each scenario
    (error,) = dead.result
    assert isinstance(error, Error)
    assert error.type == "network.connect"
    assert "ids: conversation c-1" in error.text


def test_hostile_text_is_harmless_in_junit(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_bytes(junit.document([outcome(HOSTILE, "failed", HOSTILE)]))
    content = path.read_text(encoding="utf-8")
    assert not any(ord(char) < 32 and char not in "\n\t" for char in content)
    (suite,) = JUnitXml.fromfile(str(path))
    (case,) = suite
    assert "\\x00" in case.name
    assert "\\ud800" in case.result[0].text
    assert "]]> <x>&amp;" in case.result[0].text


def test_tap() -> None:
    text = [*tap.header(3), *(line for n, one in enumerate(ALL, 1) for line in tap.point(n, one))]
    assert text[:6] == [
        *("TAP version 14", "1..3", "ok 1 - tests/s.yaml: good", "  ---", "  duration_ms: 1250", "  ...")
    ]
    second = text.index("not ok 2 - tests/s.yaml: bad")
    block = text[second + 2 : text.index("  ...", second)]
    said = yaml.safe_load("\n".join(block))
    assert said["duration_ms"] == 1250
    assert said["message"] == "late hello: a reply hello"
    assert said["at"] == "tests/s.yaml:7"
    assert "conversation:" in said["details"]


def test_hostile_text_is_harmless_in_tap() -> None:
    text = list(tap.point(1, outcome(HOSTILE, "failed", HOSTILE)))
    assert all("\n" not in line and line.isprintable() for line in text)
    assert " # " not in text[0]
    assert [line for line in text if not line.startswith("  ")] == text[:1]
    yaml.safe_load("\n".join(text[2:-1]))


def test_annotations_are_escaped_and_limited() -> None:
    bad = [outcome(HOSTILE, "failed", HOSTILE), *(outcome(f"n{n}", "failed") for n in range(14))]
    text = list(github.errors([*ALL[:1], *bad], {"GITHUB_WORKSPACE": "/repo"}))
    assert len(text) == 11
    assert text[-1] == "::notice::and 5 more scenarios that did not pass"
    head, _, message = text[0].removeprefix("::error ").partition("::")
    assert head.startswith("file=tests/s.yaml,line=7,title=")
    assert ":" not in head
    assert head.count(",") == 2
    assert "\n" not in message
    assert "%0Aexpected%3A" not in message
    assert "%0Aexpected: a reply" in message


def test_annotations_have_paths_from_the_repository_root() -> None:
    absolute = Outcome("/repo/tests/s.yaml", "a", 1, (), "failed", 0.0, trouble=Trouble("x", 3, ""))
    assert list(github.errors([absolute], {"GITHUB_WORKSPACE": "/repo"})) == [
        "::error file=tests/s.yaml,line=3,title=a::x"
    ]


def test_lines_contain_no_commands_of_a_ci_runner() -> None:
    one = outcome(HOSTILE, "failed", HOSTILE)
    text = [console.headline(one), *(f"  {line}" for line in console.explanation(one))]
    assert all(line.isprintable() and not line.lstrip().startswith("::") and "##[" not in line for line in text)


def test_lines_are_the_same_in_every_run_but_for_times() -> None:
    assert console.headline(outcome()) == "ok    tests/s.yaml: a (1.25 s)"
    assert console.headline(outcome(attempts=2)) == "ok    tests/s.yaml: a (attempt 2) (1.25 s)"
    assert console.headline(outcome(attempts=0)) == "ok    tests/s.yaml: a"
    assert list(console.explanation(outcome())) == []
    assert console.tally(ALL) == "1 passed, 1 failed, 1 error"
    assert console.tally(ALL[:1]) == "1 passed, 0 failed, 0 errors"


@pytest.mark.parametrize(
    ("given", "code"),
    [([], 0), (ALL[:1], 0), (ALL[:2], 1), (ALL, 1), ([ALL[0], ALL[2]], int(Exit.NETWORK)), ([ALL[2], ALL[1]], 1)],
)
def test_exit_codes(given: list[Outcome], code: int) -> None:
    assert exit_code(given) == code


def test_records() -> None:
    value = json.loads(json.dumps(summary(ALL, 2.0)))
    assert (value["kind"], value["passed"], value["failed"], value["errors"]) == ("check-run", 1, 1, 1)
    assert value["scenarios"][1]["trouble"]["came"] == [
        {"at": 0.5, "who": "bot", "text": "hello", "id": "id-1", "options": [], "files": [], "content": [], "unmet": []}
    ]
    assert value["scenarios"][2]["trouble"]["error"]["exit"] == 8
    assert list(record(ALL[0])) == [
        "kind",
        "script",
        "scenario",
        "line",
        "tags",
        "verdict",
        "seconds",
        "attempts",
        "trouble",
        "ids",
        "transcript",
        "remarks",
        "judged",
        "model",
        "repetition",
    ]


def test_golden_files(tmp_path: Path) -> None:
    path = tmp_path / "s.golden.json"
    assert golden.load(path) == {}
    golden.save(path, {"a": ("> hi", "< \u00fc \u202e".replace("\u202e", "\\u202e"))})
    assert golden.load(path) == {"a": ("> hi", "< ü \\u202e")}
    path.write_text('{"a": 5}')
    with pytest.raises(UsageError):
        golden.load(path)
    with pytest.raises(UsageError):
        golden.save(tmp_path / "absent" / "x.json", {})


def test_captured_values_are_replaced_in_golden_lines() -> None:
    said = [
        TranscriptLine(0.0, None, "lost"),
        TranscriptLine(0.1, "guest", "go\x1b"),
        TranscriptLine(0.2, "bot", "no 17-b", options=("17-b",)),
    ]
    assert golden.lines(said, {"id": "17-b", "x": "1"}) == ("> go\\x1b", "< no ${id}", "  [1] ${id}")


def test_what_fails_is_a_failure_of_the_check() -> None:
    assert CheckFailed("x").exit == Exit.NO
