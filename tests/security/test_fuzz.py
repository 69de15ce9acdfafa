"""Both fuzzers for a short time, in separate processes so that their memory can be measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from guestctl.core.errors import UsageError
from guestctl.core.model import Secret, Sender, Session
from guestctl.core.redact import Redactor
from guestctl.core.strict_yaml import parse
from guestctl.core.wire import Frame
from guestctl.dialects.history_pages import read_sender
from guestctl.dialects.web_messaging.dialect import WebMessaging
from guestctl.sandbox_tools.replay import load
from tests.security import fuzz, strange
from tests.security.fuzz import PROFILE, TARGETS


@pytest.mark.timeout(600)  # seconds, because other tests may use the core too
@pytest.mark.parametrize(
    "words",
    [
        ("tests.security.frame_fuzz", "--inputs", "500000"),
        ("tests.security.frame_fuzz", "--inputs", "500000", "--seed", "50"),
        ("tests.security.fuzz", "--examples", "20000"),
    ],
    ids=["frame reader", "frame reader again", "parsers"],
)
def test_only_typed_failures_and_little_memory(words: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", *words], cwd=strange.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_finding_names_the_command_that_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(fuzz, "TARGETS", {"JSON": (TARGETS["JSON"][0], broken)})
    with pytest.raises(fuzz.Finding, match="--only 'JSON' --seed 7: ZeroDivisionError"):
        fuzz.fuzz("JSON", 1, seed=7)


def test_inputs_found_by_fuzzing(tmp_path: Path) -> None:
    """Inputs that once raised an untyped exception."""
    dialect = WebMessaging(PROFILE, new_id=lambda: "x")
    for frame in (
        '{"class":[]}',
        '{"class":{},"code":200}',
        '{"class":"TooManyRequestsErrorMessage","code":429,"body":{"errorCode":{}}}',
    ):
        assert dialect.decode(Frame(frame, 0.0), Session(api="web-messaging", profile="p"))
    events = '{"class":"StructuredMessage","code":200,"body":{"type":"Event","direction":"Inbound","events":4.5}}'
    assert not dialect.decode(Frame(events, 0.0), Session(api="web-messaging", profile="p"))
    assert read_sender({"role": []}, "guest") == Sender("guest")
    assert Redactor().value({"token": "\ud800"}) == {"token": Secret("\ud800").placeholder}
    assert Redactor().value({"token": "0123456789\ud800"})["token"].startswith("***")
    with pytest.raises(UsageError, match=r"x\.yaml:3:"):
        parse("a: 1\rb\rc: d", "x.yaml")  # a carriage return also ends a line
    start = '{"time": "2026-03-04T09:15:27.412Z", "seconds": '
    for line in (
        start + '0, "kind": "upgrade", "status": 101, "headers": {}, "body": ""}',  # a record without a connection
        start + '0, "kind": "connect", "url": 5}',
        start + "1" + "0" * 400 + ', "kind": "frame_in", "text": ""}',
        start + "[[" * 20_000,
    ):
        (tmp_path / "trace").write_text(line)
        with pytest.raises(UsageError, match="trace:1: not a line of a trace"):
            load([tmp_path / "trace"])
