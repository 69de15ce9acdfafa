"""The files that options name: traces, reports, cursors, scripts, downloads.

Knows: the command line and named pipes. Must not know: who opens which file.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.cli.conftest import Front

SCRIPT = "scenarios: {greets: [{say: hi}, {expect: 'echo: hi'}]}\n"


@pytest.fixture
def script(front: Front) -> str:
    path = front.cwd / "s.check.yaml"
    path.write_text(SCRIPT)
    return str(path)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


# --- traces ---


@pytest.mark.parametrize("kind", ["file", "empty", "link", "dangling"])
def test_a_trace_never_replaces_a_file(front: Front, tmp_path: Path, kind: str) -> None:
    kept = tmp_path / "kept"
    path = tmp_path / "trace" if kind in {"link", "dangling"} else kept
    if kind != "dangling":
        kept.write_text("" if kind == "empty" else "precious")
    if path != kept:
        path.symlink_to(kept)
    refused = front("ask", "hi", "--trace", str(path), "-o", "json")
    assert (refused.code, refused.out, refused.error["code"]) == (2, "", "output.failed")
    assert "--trace-append" in refused.error["hint"]
    assert kept.exists() == (kind != "dangling")
    assert kind == "dangling" or kept.read_text() == ("" if kind == "empty" else "precious")


@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_trace_can_be_extended(front: Front, tmp_path: Path, how: str) -> None:
    path = tmp_path / "trace"
    more: dict[str, Any] = {} if how == "option" else {"GUESTCTL_TRACE": str(path)}
    option = () if more else ("--trace-append", str(path))
    lines: list[int] = []
    for text in ("one", "two"):
        assert front("ask", text, *option, **more).code == 0
        lines.append(len(path.read_text().splitlines()))
    assert 0 < lines[0] < lines[1]
    assert path.stat().st_mode & 0o777 == 0o600
    assert all(json.loads(line)["kind"] for line in path.read_text().splitlines())


@pytest.mark.parametrize("argv", [("--trace", "-"), ("--trace-append", "-"), ("--trace", "a", "--trace-append", "b")])
def test_a_trace_needs_a_file_of_its_own(front: Front, argv: tuple[str, ...]) -> None:
    refused = front("ask", "hi", *argv)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: --trace")


# --- pipes for output ---


@pytest.mark.parametrize("option", ["--trace", "--trace-append", "--junit", "--html"])
def test_a_pipe_without_a_reader_is_an_error(front: Front, script: str, pipe: Path, option: str) -> None:
    refused = front("check", script, option, str(pipe), "-o", "json")
    assert (refused.code, refused.error["code"]) == (2, "output.failed")
    assert "no program reads this pipe" in refused.error["message"]
    assert "start the program" in refused.error["hint"]


@pytest.mark.parametrize("option", ["--trace", "--junit", "--html"])
def test_a_pipe_with_a_reader_receives_the_file(front: Front, script: str, pipe: Path, option: str) -> None:
    received: list[str] = []
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)

    def read() -> None:
        with os.fdopen(reader) as file:
            received.append(file.read())

    assert front("check", script, option, str(pipe)).code == 0
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert ("frame_out" if option == "--trace" else "greets") in received[0]


# --- stdout as a file ---


def test_a_report_on_stdout_moves_the_lines_to_stderr(front: Front, script: str) -> None:
    told = front("check", script, "--junit", "-")
    assert told.code == 0
    assert ElementTree.fromstring(told.out).get("tests") == "1"
    assert "greets" in told.err
    assert not (front.cwd / "-").exists()


@pytest.mark.parametrize("more", [("--tap",), ("-o", "json"), ("-o", "jsonl")])
def test_two_reports_on_stdout_are_refused(front: Front, script: str, more: tuple[str, ...]) -> None:
    refused = front("check", script, "--junit", "-", *more)
    assert (refused.code, refused.out) == (2, "")


def test_download_to_stdout(front: Front, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("the note")
    record = front("session", "create").record
    assert record
    sent = front("send", "look", "--file", str(tmp_path / "note.txt"))
    assert sent.code == 0, sent.err
    (attachment,) = sent.record["attachments"]
    told = front("download", attachment["id"], "--to", "-")
    assert (told.code, told.out) == (0, "the note")
    assert front("download", attachment["id"], "--to", "-", tty=True).code == 2
    assert front("download", attachment["id"], "--to", "-", "-o", "json").code == 2
    assert not (front.cwd / "-").exists()


@pytest.mark.parametrize("kind", ["dash", "pipe", "device", "folder"])
def test_a_cursor_needs_a_regular_file(front: Front, pipe: Path, kind: str) -> None:
    front("session", "create")
    path = {"dash": "-", "pipe": str(pipe), "device": "/dev/null", "folder": str(pipe.parent)}[kind]
    refused = front("listen", "--cursor", path, "--for", "1", "-o", "json")
    assert (refused.code, refused.out) == (2, "")
    assert "--cursor" in refused.error["message"]


# --- pipes for input ---

READERS = (
    ("profile", "list", "--profiles"),
    ("profile", "check", "--profiles"),
    ("check",),
    ("send", "--form"),
    ("replay",),
)


@pytest.mark.parametrize("argv", READERS)
@pytest.mark.parametrize("writer", [False, True])
def test_the_timeout_holds_while_a_pipe_is_read(front: Front, pipe: Path, argv: tuple[str, ...], writer: bool) -> None:
    front("session", "create")
    held = os.open(pipe, os.O_RDWR) if writer else None
    try:
        late = front(*argv, str(pipe), "--timeout", "50ms", "-o", "json")
    finally:
        if held is not None:
            os.close(held)
    assert (late.code, late.error["code"]) == (9, "timeout.input")


def test_a_script_is_read_from_a_pipe(front: Front, pipe: Path) -> None:
    def write() -> None:
        pipe.write_text(SCRIPT)

    thread = threading.Thread(target=write)
    thread.start()
    assert front("check", str(pipe)).code == 0
    thread.join()
