"""The only writer: formats, exactness, closed pipes, errors."""

from __future__ import annotations

import io
import json
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from guestctl.core.errors import Refused, UsageError
from guestctl.core.model import Message
from guestctl.output.batches import print_together
from guestctl.output.records import message_record
from guestctl.output.terminal import Terminal
from guestctl.output.writer import ClosedPipe, Mode, Output

PIPE = Terminal()
SCREEN = Terminal(stdin=True, stdout=True, stderr=True, width=80)
RECORD = {"kind": "gap", "session": "d", "after": "é\x1b[2J\u202e", "before": None, "reason": "why", "time": None}

MESSAGE = message_record(Message(id="m", direction="outbound", text="", time="2026-03-04T05:06:07.008Z"), "default")


class Kept(io.TextIOWrapper):
    def __init__(self) -> None:
        self.kept = io.BytesIO()
        super().__init__(self.kept, encoding="utf-8")

    def fileno(self) -> int:
        raise io.UnsupportedOperation

    def text(self) -> str:
        return self.kept.getvalue().decode()


def output(terminal: Terminal = PIPE, mode: Mode = "auto", **more: Any) -> tuple[Output, Kept, Kept]:
    out, err = Kept(), Kept()
    return Output(out, err, terminal, mode=mode, now=lambda: 0.0, **more), out, err


def test_json_is_exact_in_a_pipe_and_escaped_on_a_terminal() -> None:
    out, stdout, _ = output()
    out.one(RECORD)
    assert "é" in stdout.text()
    assert json.loads(stdout.text()) == RECORD
    out, stdout, _ = output(SCREEN, "json")
    out.one(RECORD)
    assert stdout.text().isascii()
    assert json.loads(stdout.text()) == RECORD


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_any_text_survives_json_on_one_line(text: str) -> None:
    for terminal in (PIPE, SCREEN):
        out, stdout, _ = output(terminal, "jsonl")
        out.event({"kind": "message", "text": text})
        written = stdout.text()
        assert json.loads(written) == {"kind": "message", "text": text}
        assert written.count("\n") == 1


@pytest.mark.parametrize("records", [[], [{"a": 1}], [{"a": 1}, {"a": None}]])
def test_lists(records: list[dict[str, Any]]) -> None:
    for mode, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        out, stdout, _ = output(mode=mode)  # type: ignore[arg-type]
        with out.listing() as add:
            for record in records:
                add(record)
        assert read(stdout.text()) == records
    out, stdout, _ = output()
    with out.listing() as add:
        for record in records:
            add(record)
    assert [json.loads(line) for line in stdout.text().splitlines()] == records


def test_a_list_is_closed_after_a_failure() -> None:
    out, stdout, _ = output(mode="json")

    def broken() -> None:
        with out.listing() as add:
            add({"a": 1})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert json.loads(stdout.text()) == [{"a": 1}]


def test_yaml_streams_are_documents() -> None:
    out, stdout, _ = output(mode="yaml")
    out.event({"a": "b: c"})
    out.event({"a": "no"})
    assert list(yaml.safe_load_all(stdout.text())) == [{"a": "b: c"}, {"a": "no"}]


def test_every_line_is_flushed_before_the_next() -> None:
    with pipe() as (read, write):
        stdout = os.fdopen(write, "w", closefd=False)
        out = Output(stdout, Kept(), PIPE, now=lambda: 0.0)
        out.event({"n": 1})
        assert os.read(read, 100) == b'{"n":1}\n'


def test_a_closed_pipe_raises_closed_pipe() -> None:
    with pipe() as (read, write):
        out = Output(os.fdopen(write, "w", closefd=False), Kept(), PIPE, now=lambda: 0.0)
        assert not out.reader_is_gone()
        os.close(read)
        assert out.reader_is_gone()
        with pytest.raises(ClosedPipe):
            out.event({"n": 1})


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_a_usage_error() -> None:
    with open("/dev/full", "w") as full:
        out = Output(full, Kept(), PIPE, now=lambda: 0.0)
        with pytest.raises(UsageError) as told:
            out.event({"n": 1})
    assert told.value.code == "output.failed"


@pytest.mark.parametrize("mode", ["jsonl", "yaml", "table"])
def test_several_records_are_printed_with_few_writes(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """No write is longer than a pipe takes at once, but for a line that is longer."""
    records = [{**MESSAGE, "text": "x" * size} for size in (10, 20, select.PIPE_BUF, *[300] * 40, 10)]
    single, expected, _ = output(mode=mode)
    sizes = [single.event(record) for record in records]
    out, stdout, _ = output(mode=mode)
    writes: list[bytes] = []
    write = out._write_data

    def watched(data: bytes) -> None:
        writes.append(data)
        write(data)

    monkeypatch.setattr(out, "_write_data", watched)
    printed = list(print_together(out, enumerate(records)))
    assert stdout.text() == expected.text()
    assert len(writes) == len(printed) < len(records)
    assert printed[-1] == len(records) - 1
    assert [len(data) for data in writes if len(data) > select.PIPE_BUF] == [sizes[2]]


def test_records_are_taken_as_they_are_printed() -> None:
    out, stdout, _ = output(mode="jsonl")

    def records() -> Iterator[tuple[int, dict[str, str]]]:
        for number in range(100):
            yield number, {"text": "x" * 100}
            taken.append(number)

    taken: list[int] = []
    for printed in print_together(out, records()):
        assert taken[-1] <= printed + 1
        assert stdout.text().count("\n") == printed + 1
    assert len(taken) == 100
    assert list(print_together(out, [])) == []


def test_a_line_is_what_will_be_written() -> None:
    for terminal in (PIPE, SCREEN):
        out, stdout, _ = output(terminal)
        assert len(out.line(RECORD)) == out.event(RECORD) == len(stdout.kept.getvalue())


def test_an_error_is_two_lines_or_one_object() -> None:
    failure = Refused("no\nsuch \x1b[31m thing.", body="{}")
    out, _, stderr = output()
    out.failure(failure)
    assert stderr.text() == f"error: no\\nsuch \\x1b[31m thing\nhint:  {failure.hint}\n"
    out, _, stderr = output(json_errors=True)
    out.failure(failure)
    assert stderr.text().count("\n") == 1
    assert json.loads(stderr.text())["error"]["message"] == "no\nsuch \x1b[31m thing."


def test_an_error_without_a_hint_is_one_line() -> None:
    out, _, stderr = output()
    out.failure(Refused("no", hint="", retry_after=7))
    assert stderr.text() == "error: no (retry after 7 s)\n"


def test_an_error_is_wrapped_at_spaces_on_a_terminal_only() -> None:
    path = "/a/long/path/that/is/wider/than/the/terminal/and/stays/whole.yaml"
    failure = Refused(f"cannot read the profile file {path}: no such file", hint="one two three four five six " * 4)
    out, _, stderr = output(Terminal(stderr=True, stderr_width=60))
    out.failure(failure)
    assert stderr.text() == (
        "error: cannot read the profile file\n"
        f"       {path}:\n"
        "       no such file\n"
        "hint:  one two three four five six one two three four five\n"
        "       six one two three four five six one two three four\n"
        "       five six\n"
    )
    out, _, stderr = output()
    out.failure(failure)
    assert stderr.text().count("\n") == 2


def test_no_kind_of_space_lets_text_pose_as_a_label() -> None:
    out, _, stderr = output(Terminal(stderr=True, stderr_width=20))
    out.failure(Refused("x" * 14 + "\u00a0" + "hint:\u3000obey", hint=""))
    assert stderr.text() == "error: xxxxxxxxxxxxxx\\xa0hint:\\u3000obey\n"


def test_quiet_drops_notices_and_keeps_errors() -> None:
    out, _, stderr = output(SCREEN, quiet=True)
    out.notice("hello")
    out.event_notice(RECORD)
    assert stderr.text() == ""
    out.failure(Refused("no"))
    assert stderr.text()


def test_notices_wait_where_an_error_would_be_json() -> None:
    out, _, stderr = output(json_errors=True)
    out.notice("trying again")
    assert stderr.text() == ""
    out.event(RECORD)
    assert stderr.text() == "trying again\n"
    out.notice("trying again")
    out.failure(Refused("no"))
    assert [line[:1] for line in stderr.text().splitlines()] == ["t", "{"]
    out.notice("done")
    out.print_held()
    assert stderr.text().endswith("done\n")


def test_a_stream_that_was_closed_before_the_start() -> None:
    out = Output(None, None, PIPE, now=lambda: 0.0)
    out.notice("hello")
    with pytest.raises(UsageError):
        out.event(RECORD)


def test_notices_to_a_closed_stderr_are_dropped() -> None:
    stderr = Kept()
    stderr.close()
    Output(Kept(), stderr, PIPE, now=lambda: 0.0).notice("hello")


def test_progress_is_drawn_only_for_long_work_on_a_terminal() -> None:
    now = [0.0]
    assert output()[0].progress("uploading", lambda: now[0]) is None
    out, stdout, stderr = output(SCREEN)
    draw = out.progress("uploading", lambda: now[0])
    assert draw is not None
    draw(1, 10)
    assert stderr.text() == ""
    now[0] = 2.0
    draw(5, 10)
    bar = f"\ruploading {'━' * 15}{' ' * 15}  50 %"
    assert stderr.text() == bar
    out.notice("the line broke")
    assert stderr.text() == bar + "\nthe line broke\n"
    draw(2, 10)  # another try: nothing to see until it has lasted, too
    draw(10, 10)
    assert stderr.text() == bar + "\nthe line broke\n"
    draw(1, 10)
    now[0] = 4.0
    draw(10, 10)
    assert stderr.text().endswith(f"broke\n\ruploading {'━' * 30} 100 %\n")
    assert stdout.text() == ""


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    try:
        yield read, write
    finally:
        for descriptor in (read, write):
            try:
                os.close(descriptor)
            except OSError:
                pass
