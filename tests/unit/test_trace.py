"""The trace file: private, one object a line, without secrets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from guestctl.core.errors import UsageError
from guestctl.core.redact import Redactor
from guestctl.transport.trace import TraceFile, Watcher
from tests.fakes import FakeClock

TOKEN = "0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10"


def test_lines_with_times_and_without_secrets(tmp_path: Path) -> None:
    clock, told = FakeClock(), list[tuple[str, int]]()
    path = tmp_path / "t.jsonl"
    with TraceFile(path) as file:
        watch = Watcher(clock, Redactor(), file, lambda text, level: told.append((text, level)))
        watch("connect", {"url": "wss://x.example/v1?deploymentId=d", "proxy": None})
        clock.advance(0.25)
        watch("frame_out", {"text": json.dumps({"action": "configureSession", "token": TOKEN})})
        watch("response", {"method": "GET", "url": "https://x.example/a", "status": 404, "body": TOKEN.encode()})
        watch("close", {"direction": "in", "code": 1006, "reason": ""})
    text = path.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert TOKEN not in text
    assert [line["kind"] for line in lines] == ["connect", "frame_out", "response", "close"]
    assert [line["seconds"] for line in lines] == [0, 0.25, 0.25, 0.25]
    assert lines[0]["time"] == "2026-03-04T09:15:27.000Z"
    assert [level for _, level in told] == [1, 2, 1, 1]
    assert told[0][0] == "> connect wss://x.example/v1"
    assert told[2][0] == "< 404 https://x.example/a"
    assert told[3][0] == "< close 1006"


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_only_the_owner_can_read_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with TraceFile(tmp_path / "new"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    (tmp_path / "old").write_text("old")
    (tmp_path / "old").chmod(0o644)
    with TraceFile(tmp_path / "old", append=True):
        pass
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "old").read_text() == "old"
    with pytest.raises(UsageError, match="exists"):
        TraceFile(tmp_path / "old")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--trace"):
        TraceFile(tmp_path / "no" / "such")
