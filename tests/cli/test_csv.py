"""`-o csv`, relative times, and when errors are JSON (contract.md §4)."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from guestctl.cli.invocation import Environment
from guestctl.cli.main import run
from guestctl.cli.registry import COMMANDS
from guestctl.output.csv_rows import COLUMNS
from guestctl.output.schema import SCHEMAS
from tests.cli.conftest import Front, Result, Stream

NASTY = 'a "quoted", text\nof two lines'


def rows(result: Result) -> list[dict[str, str]]:
    assert (result.code, result.err) == (0, "")
    assert "\r" not in result.out
    return list(csv.DictReader(io.StringIO(result.out, newline="")))


def test_history_is_a_header_and_a_row_for_each_message(front: Front) -> None:
    front("session", "create")
    front("send", "-", "--wait", stdin=NASTY)
    found = rows(front("history", "-o", "csv"))
    expected = front("history").records
    assert [row["text"] for row in found] == [NASTY, f"echo: {NASTY}"]
    for row, record in zip(found, expected, strict=True):
        assert (row["id"], row["time"], row["key"]) == (record["id"], record["time"], record["key"] or "")
        assert (row["from.role"], row["from.name"]) == (record["from"]["role"], record["from"]["name"] or "")
        assert json.loads(row["content"]) == record["content"]


def test_events_and_messages_share_the_columns(front: Front) -> None:
    front("ask", "one")
    found = rows(front("history", "--all", "-o", "csv"))
    expected = [json.loads(line) for line in front("history", "--all").out.splitlines()]
    assert [row["kind"] for row in found] == [record["kind"] for record in expected]
    assert all(None not in row for row in found)


@pytest.mark.parametrize("words", [words for words, entry in COMMANDS.items() if entry.lists], ids=" ".join)
def test_every_list_can_be_csv(front: Front, words: tuple[str, ...]) -> None:
    """As many rows as records, and every member has a column."""
    front("ask", "one")
    records = front(*words).records
    result = front(*words, "-o", "csv")
    found = list(csv.DictReader(io.StringIO(result.out, newline="")))
    assert len(found) == len(records) > 0
    for name, value in records[0].items():
        if name in {"from", "ids", "operations"}:
            assert all(f"{name}.{inner}" in found[0] for inner in value)
        elif name not in {"took_ms"}:
            assert found[0][name] == ("" if value is None else value if isinstance(value, str) else dumped(value))


def dumped(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("words", [("history",), ("session", "list")], ids=" ".join)
def test_an_empty_list_is_a_header(front: Front, words: tuple[str, ...]) -> None:
    if words == ("history",):
        front("session", "create")
    assert front(*words, "-o", "csv").out.splitlines() == [
        ",".join(COLUMNS["message" if words == ("history",) else "session"])
    ]


def test_a_spreadsheet_finds_no_formula(front: Front) -> None:
    front("session", "create")
    for text in ("=1+1", "-5 degrees", "@sum"):
        front("send", "--", text)
    found = rows(front("history", "-o", "csv"))
    assert [row["text"] for row in found if row["direction"] == "inbound"] == ["'=1+1", "'-5 degrees", "'@sum"]


def test_control_characters_are_visible_on_a_terminal(front: Front) -> None:
    front("session", "create")
    front("send", "-", stdin="a\x1b[2Jb")
    assert "a\x1b[2Jb" in front("history", "-o", "csv").out
    assert "\x1b" not in front("history", "-o", "csv", tty=True).out


def test_a_command_without_a_list_refuses_csv(front: Front) -> None:
    done = front("session", "create", "-o", "csv")
    assert done.code == 2
    assert "-o csv: session create prints no list" in done.err
    assert "history, session list" in done.err
    assert front("session", "list").records == []
    assert front("session", "create", GUESTCTL_OUTPUT="csv").record["kind"] == "session"
    assert front("session", "list", GUESTCTL_OUTPUT="csv").out.startswith("kind,name,")
    assert front("history", "--raw", "-o", "csv").code == 2


def test_columns_are_members_of_the_records() -> None:
    """A member that is added to a record also needs a column."""
    for kind, columns in COLUMNS.items():
        heads = {column.partition(".")[0] for column in columns}
        schema = SCHEMAS[kind]
        optional = {"raw", "following", "token", "missed", "values", "change", "path", "report"}
        optional |= {"sessions", "former_name", "relay_id"}
        assert set(schema["properties"]) - optional <= heads, kind


# --- relative times ---


@pytest.mark.parametrize("ago", ["5m", "300s", "0.5h", "2d", "300000ms"])
def test_a_time_before_now_is_a_time(front: Front, ago: str) -> None:
    front("ask", "one")
    assert len(front("history", "--since", ago).records) == 2
    assert front("history", "--until", ago).records == []


def test_a_number_without_a_unit_is_an_id(front: Front) -> None:
    front("ask", "one")
    done = front("history", "--since", "5")
    assert (done.code, done.error["code"]) == (2, "usage.option")
    assert 'no message has the id "5"' in done.error["message"]


# --- errors ---


@pytest.mark.parametrize(
    ("argv", "environ", "out_tty", "err_tty", "is_json"),
    [
        (("history",), {}, False, False, True),
        (("history",), {}, False, True, False),
        (("history",), {}, True, False, False),
        (("history", "-o", "json"), {}, False, True, True),
        (("history", "-o", "jsonl"), {}, True, True, True),
        (("history",), {"GUESTCTL_OUTPUT": "json"}, True, True, True),
        (("history", "-o", "table"), {}, False, False, False),
        (("history", "-o", "yaml"), {}, False, False, False),
        (("history", "-o", "csv"), {}, False, False, False),
        (("ask", "hi", "-s", "-"), {}, False, False, False),
    ],
)
def test_errors_are_json_where_a_program_reads_them(
    front: Front, argv: tuple[str, ...], environ: dict[str, str], out_tty: bool, err_tty: bool, is_json: bool
) -> None:
    """A person who pipes stdout into jq at a terminal reads text."""
    out, err = Stream(terminal=out_tty), Stream(terminal=err_tty)
    world = Environment(Stream(), out, err, {**front.environ, **environ, "NO_COLOR": "1"}, front.cwd)
    assert run(argv, world) in {2, 10}
    assert out.text() == ""
    assert err.text().startswith('{"error":' if is_json else "error: ")
