"""`check --junit` replaces yesterday's report even if the arguments are wrong, so that no old report seems to pass.

Knows: the command line and the report. Must not know: where an argument is checked.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cli.conftest import Front

OLD = '<testsuites tests="1" failures="0" errors="0"><testsuite name="old" tests="1"/></testsuites>'
SCRIPT = "config: {deploymentId: d, region: mypurecloud.de}\nscenarios: {a: [{say: hi}]}\n"

#: Arguments in addition to `--junit`. SCRIPT stands for a script that is valid.
WRONG = [
    "SCRIPT --bogus",
    "SCRIPT --parallel 0",
    "SCRIPT --parallel many",
    "SCRIPT --timeout soon",
    "SCRIPT --retries -1",
    "SCRIPT --var nonsense",
    "SCRIPT --tag",
    "SCRIPT -o xml",
    "SCRIPT -o csv",
    "SCRIPT --tap -o json",
    "SCRIPT --tag nope",
    "SCRIPT --region nonsense",
    "SCRIPT --trace a --trace-append b",
    "SCRIPT --trace SCRIPT",
    "SCRIPT --profiles nonsense.yaml",
    "SCRIPT -p nonsense --profiles nonsense.yaml",
    "missing.yaml",
    "",
]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.xml"
    path.write_text(OLD)
    return path


@pytest.mark.parametrize("words", WRONG)
@pytest.mark.parametrize("form", ["--junit={}", "--junit {}"])
def test_wrong_arguments_replace_an_old_report(
    alone: Front, tmp_path: Path, report: Path, words: str, form: str
) -> None:
    script = tmp_path / "s.yaml"
    script.write_text(SCRIPT)
    argv = [str(script) if word == "SCRIPT" else word for word in words.split()]
    failed = alone("check", *form.format(report).split(), *argv)
    assert failed.code == 2, failed.err
    suites = ElementTree.parse(report).getroot()
    assert (suites.get("tests"), suites.get("errors")) == ("1", "1")
    [error] = suites.iter("error")
    assert error.get("message")


@pytest.mark.parametrize("argv", ["--junit SCRIPT", "--junit SCRIPT --bogus", "--junit=SCRIPT", "--junit - --bogus"])
def test_a_missing_name_of_the_report_destroys_no_script(alone: Front, tmp_path: Path, argv: str) -> None:
    script = tmp_path / "s.yaml"
    script.write_text(SCRIPT)
    failed = alone("check", *argv.replace("SCRIPT", str(script)).split())
    assert (failed.code, failed.out) == (2, "")
    assert script.read_text() == SCRIPT


@pytest.mark.parametrize("argv", ["--help --junit {}", "--keys --junit {}", "-- --junit {}"])
def test_what_is_no_run_leaves_the_report(alone: Front, report: Path, argv: str) -> None:
    alone("check", *argv.format(report).split())
    assert report.read_text() == OLD
