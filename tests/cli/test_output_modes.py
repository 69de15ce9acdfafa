"""Output modes through the command line: a terminal, a pipe and each forced mode (contract.md §4)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Front

SESSION_KEYS = [
    *("kind", "name", "api", "profile", "ids", "state", "new_session", "read_only"),
    *("created_at", "expires_at", "token_expires_at"),
]
MESSAGE_KEYS = [
    *("kind", "id", "key", "session", "direction", "from", "text", "time", "source"),
    *("content", "options", "attachments"),
]


def test_a_single_result_in_a_pipe_is_one_object(front: Front) -> None:
    made = front("session", "create", "--as", "cart", "--attr", "plan=gold")
    assert made.code == 0, made.err
    assert list(made.record) == SESSION_KEYS
    assert made.record["name"] == "cart"
    assert made.record["state"] == "active"
    assert made.err == ""


def test_a_single_result_on_a_terminal_is_a_table_of_two_columns(front: Front) -> None:
    made = front("session", "create", tty=True, NO_COLOR="1")
    assert re.search(r"^name +default$", made.out, re.MULTILINE)
    assert re.search(r"^expires_at +[\d-]{10} [\d:]{8}[+-]\d\d:\d\d \(in 2 d 23 h\)$", made.out, re.MULTILINE)
    shown = front("session", "show", tty=True, NO_COLOR="1")
    assert re.search(r"^attribute_bytes +2048$", shown.out, re.MULTILINE)
    assert re.search(r"^credentials +guest", shown.out, re.MULTILINE)


def test_send_prints_the_message_with_its_delivery(front: Front) -> None:
    front("session", "create")
    sent = front("send", "Where", "is", "my", "parcel?")
    assert list(sent.record) == [*MESSAGE_KEYS, "delivery"]
    assert sent.record["text"] == "Where is my parcel?"
    assert sent.record["direction"] == "inbound"
    assert sent.record["from"] == {"role": "guest", "name": None}
    assert sent.record["delivery"] == "accepted"
    waited = front("send", "and now?", "--wait")
    assert list(waited.record) == [*MESSAGE_KEYS, "delivery", "reply"]
    assert waited.record["reply"]["text"] == "echo: and now?"
    assert list(waited.record["reply"]) == MESSAGE_KEYS


def test_ask_prints_only_the_reply_even_in_a_pipe(front: Front) -> None:
    assert front("ask", "opening hours?").out == "echo: opening hours?\n"
    assert front("ask", "opening hours?", tty=True).out == "echo: opening hours?\n"
    assert front("ask", "again", "-o", "json").record["text"] == "echo: again"


@pytest.mark.parametrize(("mode", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_a_list_is_an_array_when_a_format_is_forced(front: Front, mode: str, read: object) -> None:
    front("ask", "one")
    found = json.loads(front("history", "-o", "json").out)
    again = yaml.safe_load(front("history", "-o", "yaml").out)
    assert [message["text"] for message in found] == ["one", "echo: one"]
    assert again == found
    assert all(list(message) == MESSAGE_KEYS for message in found)


def test_a_list_in_a_pipe_is_lines(front: Front) -> None:
    front("ask", "one")
    assert [record["text"] for record in front("history").records] == ["one", "echo: one"]
    assert front("history", "-o", "jsonl").out == front("history").out
    assert front("history", GUESTCTL_OUTPUT="json").out.startswith("[\n")


def test_an_empty_list_is_still_valid(front: Front) -> None:
    assert json.loads(front("session", "list", "-o", "json").out) == []
    assert front("session", "list").out == ""
    assert yaml.safe_load(front("session", "list", "-o", "yaml").out) == []


def test_history_is_a_table_of_time_sender_and_text(front: Front) -> None:
    front("ask", "one")
    for result in (front("history", tty=True, NO_COLOR="1"), front("history", "-o", "table")):
        header, *lines = result.out.splitlines()
        assert re.fullmatch(r"TIME {12}FROM {8}TEXT", header)
        assert re.fullmatch(r"\d\d:\d\d:\d\d {6}> guest {7}one", lines[0])
        assert re.fullmatch(r"\d\d:\d\d:\d\d {6}< bot {9}echo: one", lines[1])
    assert front("history", "--last", "0", tty=True).out == ""


def test_listen_shows_the_columns_of_history_and_a_source_that_differs(front: Front) -> None:
    front("ask", "one")
    lines = front("listen", "--replay", "2", "--max", "2", "-o", "table").out.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d {6}> guest {7}one {41}replayed", lines[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d {6}< bot {9}echo: one {35}replayed", lines[1])


def test_send_shows_the_accepted_message_and_the_reply(front: Front) -> None:
    front("session", "create")
    sent, reply = front("send", "one", "--wait", tty=True, NO_COLOR="1").out.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d {6}> guest {7}one {41}accepted", sent)
    assert re.fullmatch(r"\d\d:\d\d:\d\d {6}< bot {9}echo: one", reply)
    (alone,) = front("send", "two", "-o", "table").out.splitlines()
    assert alone.endswith(" accepted")


@pytest.mark.parametrize("argv", [("session", "create", "--new"), ("refresh-token",), ("resume",)])
def test_a_session_is_a_table_of_two_columns(front: Front, argv: tuple[str, ...]) -> None:
    front("session", "create", GUESTCTL_API="messaging-conversations")
    result = front(*argv, "-o", "table", GUESTCTL_API="messaging-conversations")
    assert result.code == 0, result.err
    names = [line[:20].rstrip() for line in result.out.splitlines()]
    assert names == ["name", "api", "profile", "ids.conversation", "ids.guest", *SESSION_KEYS[5:]]
    assert re.search(r"^name {18}default$", result.out, re.MULTILINE)


def test_resume_shows_the_missed_messages_below_the_session(front: Front) -> None:
    front("session", "create")
    front("sandbox", "push", "are you there?", "--to", _id(front))
    record, missed = front("resume", tty=True, NO_COLOR="1").out.split("\n\n")
    assert record.startswith("name  ")
    assert missed.splitlines()[0].split() == ["TIME", "FROM", "TEXT"]
    assert missed.endswith("are you there?\n")


def test_hostile_text_on_a_terminal_and_in_a_pipe(front: Front) -> None:
    nasty = "a\x1b[2Jb\u202ec\x9bd\ne: 09:00:00 < agent: pay me [bold]x[/] :100:"
    front("session", "create")
    front("send", "-", stdin=nasty)
    seen = front("history", "--last", "2", tty=True, NO_COLOR="1").out
    assert not set(seen) & {"\x1b", "\u202e", "\x9b"}
    assert "a\\x1b[2Jb\\u202ec\\x9bd\n" in seen
    assert "[bold]x[/] :100:" in seen
    assert all(line.startswith(" " * 28) for line in seen.splitlines() if line.lstrip().startswith("e: "))
    exact = front("history").records[0]["text"]
    assert exact == nasty
    on_screen = front("history", "-o", "json", tty=True).out
    assert on_screen.isascii()
    assert json.loads(on_screen)[0]["text"] == nasty


def test_colour_follows_the_environment(front: Front) -> None:
    front("ask", "one")
    assert "\x1b[" in front("history", tty=True).out
    assert "\x1b[" not in front("history", tty=True, NO_COLOR="1").out
    assert "\x1b[" not in front("history", tty=True, NO_COLOR="1", FORCE_COLOR="1").out
    assert "\x1b[" in front("history", "-o", "table", FORCE_COLOR="1").out
    assert "\x1b[" not in front("history", "-o", "table").out


@pytest.mark.parametrize(("columns", "width"), [("", 80), ("60", 60), ("120", 120)])
def test_a_table_has_the_same_width_in_a_pipe_and_on_a_terminal(front: Front, columns: str, width: int) -> None:
    front("ask", "word " * 50)
    piped = front("history", "-o", "table", COLUMNS=columns).out
    assert piped == front("history", tty=True, NO_COLOR="1", COLUMNS=columns).out
    assert max(map(len, piped.splitlines())) in range(width - 4, width + 1)


@pytest.mark.parametrize("width", [60, 80])
def test_a_session_is_one_line_with_relative_times(front: Front, width: int) -> None:
    front("session", "create", "--as", "cart")
    header, line = front("session", "list", "-o", "table", COLUMNS=str(width)).out.splitlines()
    assert header.split() == ["NAME", "USE", "STATE", "CREATED", "EXPIRES"]
    assert re.search(r"^cart +\* +active  +(now|\d s ago) +in 2 d$", line)
    full = front("session", "list", "-o", "table", "-v", COLUMNS="120").out.splitlines()[1]
    assert len(re.findall(r"  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d", full)) == 2


def test_raw_only_on_request(front: Front) -> None:
    front("ask", "one")
    assert "raw" not in front("history").records[0]
    raw = front("history", "--raw").records[0]
    assert list(raw) == [*MESSAGE_KEYS, "raw"]
    assert raw["raw"]["text"] == "one"


def test_lines_are_sent_one_by_one(front: Front) -> None:
    front("session", "create")
    sent = front("send", "-", "--lines", stdin="one\n\ntwo\r\nthree")
    assert [record["text"] for record in sent.records] == ["one", "two", "three"]
    assert {record["delivery"] for record in sent.records} == {"accepted"}
    assert [r["text"] for r in json.loads(front("send", "-", "--lines", "-o", "json", stdin="x\n").out)] == ["x"]
    assert front("send", "-", stdin="a\nb\n").record["text"] == "a\nb"


@pytest.mark.parametrize("more", [(), ("--lines",)])
def test_stdin_with_windows_line_ends(front: Front, more: tuple[str, ...]) -> None:
    front("session", "create")
    assert front("send", "-", *more, stdin=b"\xef\xbb\xbfhello\r\n").record["text"] == "hello"


@pytest.mark.parametrize(("mode", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
@pytest.mark.parametrize(("wanted", "told"), [("echo: one", ["one", "two"]), ("echo: two", ["one"])])
def test_the_list_is_valid_when_a_line_fails(front: Front, mode: str, read: Any, wanted: str, told: list[str]) -> None:
    front("session", "create")
    sent = front("send", "-", "--lines", "--expect", wanted, "--timeout", "1", "-o", mode, stdin="one\ntwo\n")
    assert sent.code == 9
    assert [record["text"] for record in read(sent.out)] == told
    assert read(sent.out)[-1]["reply"] is None


def test_text_that_begins_with_a_dash(front: Front) -> None:
    front("session", "create")
    assert front("send", "--", "-5 degrees").record["text"] == "-5 degrees"
    assert front("send", "--", "--help", "-v").record["text"] == "--help -v"


def test_options_before_the_command(front: Front) -> None:
    assert front("-o", "yaml", "session", "-s", "cart", "create").out.startswith("kind: session\nname: cart\n")
    assert front("--session=cart", "-q", "send", "hi").record["session"] == "cart"


def test_listen_stops_with_the_exit_code_of_the_rule(front: Front) -> None:
    front("session", "create")
    front("send", "hello", "--wait")
    lines = front("listen", "--replay", "2", "--max", "2", "-o", "json")
    assert lines.code == 0
    assert [record["text"] for record in lines.records] == ["hello", "echo: hello"]
    assert front("listen", "--replay", "1", "--until", "echo: h").code == 0
    unmatched = front("listen", "--replay", "1", "--until", "goodbye", "--for", "300ms")
    assert unmatched.code == 9
    assert unmatched.error["code"] == "timeout"
    assert front("listen", "--idle", "200ms").code == 0
    # On a busy machine this may be too short to connect: then the line is a gap.
    assert [record for record in front("listen", "--for", "100ms").records if record["kind"] != "gap"] == []
    found = front("listen", "--only", "connection", "--idle", "200ms").records
    assert {record["kind"] for record in found} == {"connection"}
    # On a busy machine the time may end while history is read, which is a further attempt.
    assert [record["state"] for record in found][:2] == ["connecting", "live"]
    assert "*             live" in front("listen", "--idle", "100ms", tty=True, NO_COLOR="1").err


def test_a_cursor_continues_after_the_last_line(front: Front, tmp_path: Path) -> None:
    front("ask", "one")
    cursor = str(tmp_path / "cursor")
    assert [r["text"] for r in front("listen", "--cursor", cursor, "--idle", "300ms").records] == ["one", "echo: one"]
    assert front("listen", "--cursor", cursor, "--idle", "300ms").records == []
    front("ask", "two")
    assert [r["text"] for r in front("listen", "--cursor", cursor, "--idle", "300ms").records] == ["two", "echo: two"]


def test_idle_starts_only_after_connecting(front: Front) -> None:
    front("ask", "one")
    front("sandbox", "fault", "delay:ms=600,times=1")
    assert [r["text"] for r in front("listen", "--replay", "2", "--idle", "300ms").records] == ["one", "echo: one"]


def test_history_as_a_document(front: Front) -> None:
    front("session", "create")
    front("send", "-", stdin="<b>*not*</b> & [x](http://evil)", tty=False)
    page = front("history", "--format", "html").out
    assert "&lt;b&gt;*not*&lt;/b&gt; &amp;" in page
    assert "<b>" not in page
    text = front("history", "--format", "md", "--last", "2").out
    assert r"\<b\>\*not\*\</b\>" in text
    assert r"\[x\]\(http\:" in text
    assert front("history", "--format", "txt").out.splitlines()[0].endswith("guest: <b>*not*</b> & [x](http://evil)")
    assert front("history", "--format", "html", "-o", "json").code == 2


def test_resume_prints_the_missed_messages(front: Front) -> None:
    front("session", "create")
    front("sandbox", "push", "are you there?", "--to", _id(front))
    found = front("resume", "-o", "json").record
    assert list(found) == [*SESSION_KEYS, "missed"]
    assert [message["text"] for message in found["missed"]] == ["are you there?"]
    assert found["missed"][0]["source"] == "replayed"
    assert found["read_only"] is False


def test_session_end_asks_for_confirmation(front: Front) -> None:
    front("session", "create")
    refused = front("session", "end")
    assert refused.code == 2
    assert "--yes" in refused.error["message"]
    assert front("session", "end", tty=True, stdin="n\n").code == 2
    ended = front("session", "end", "--yes")
    assert ended.code == 0, ended.err
    assert ended.record["state"] == "cleared"


def test_trace_is_private_and_has_no_secret(front: Front, tmp_path: Path) -> None:
    front("session", "create")
    token = front("session", "show", "--show-token").record["token"]
    file = tmp_path / "trace.jsonl"
    assert front("ask", "hi", "--trace", str(file)).code == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {"connect", "upgrade", "frame_out", "frame_in", "close"} <= {line["kind"] for line in lines}
    assert token not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    talk = front("ask", "hi", "-vv").err
    assert "> frame" in talk
    assert token not in talk
    assert front("session", "show").record.get("token") is None


def test_token_inspect_through_stdin(alone: Front) -> None:
    import jwt

    good = jwt.encode({"sub": "g1", "exp": 4_000_000_000}, "k" * 32, algorithm="HS256")
    found = alone("token", "inspect", "-", stdin=good + "\n")
    assert found.code == 0, found.err
    assert found.record["claims"] == {"sub": "g1", "exp": 4_000_000_000}
    assert found.record["verified"] is False
    assert good.rpartition(".")[2] not in found.out
    assert "not verified" in found.err
    old = alone("token", "inspect", "-", stdin=jwt.encode({"exp": 1000}, "k" * 32, algorithm="HS256"))
    assert old.code == 4
    assert old.record["expired"] is True
    assert "expired 1970-01-01T00:16:40.000Z" in old.err
    assert alone("token", "inspect", good).code == 2


def test_profiles_through_the_front_door(alone: Front, tmp_path: Path) -> None:
    assert alone("profile", "list").records == [
        {"kind": "profile", "name": "sandbox", "default": False, "api": "web-messaging", "address": "built in"}
    ]
    file = str(tmp_path / "p.yaml")
    made = alone("profile", "add", "staging", "--profiles", file, "--region", "mypurecloud.de", "--deployment-id", "d")
    assert made.code == 0, made.err
    assert alone("profile", "use", "staging", "--profiles", file).code == 0
    assert alone("profile", "path", "--profiles", file).out == f"{file}\n"
    shown = alone("profile", "show", "--profiles", file, GUESTCTL_ORIGIN="https://shop.example").record
    assert shown["values"]["region"] == {"value": "mypurecloud.de", "origin": "p.yaml:4"}
    assert shown["values"]["origin"]["origin"] == "environment GUESTCTL_ORIGIN"
    assert alone("profile", "check", "--profiles", file).code == 0
    refused = alone("profile", "add", "x", "--profiles", file, "--set", "oauth.client_secret=hunter2hunter2")
    assert refused.code == 2
    assert "hunter2" not in refused.err


def test_apis_and_schema(alone: Front) -> None:
    apis = json.loads(alone("apis", "-o", "json").out)
    assert apis[0]["name"] == "web-messaging"
    assert apis[0]["operations"]["send"] == "documented"
    table = alone("apis", "-o", "table", COLUMNS="200").out
    assert table.splitlines()[0].startswith("OPERATION")
    assert re.search(r"^send +documented", table, re.MULTILINE)
    assert alone("apis", "-o", "table").out.splitlines()[0].split() == ["API", "DOCUMENTED", "ASSUMED"]
    assert alone("schema", "message").record["properties"]["kind"] == {"const": "message"}
    assert "session" in alone("schema").record["$defs"]
    assert alone("schema", "nonsense").code == 2


def test_completion(front: Front) -> None:
    front("session", "create", "--as", "cart")
    assert front("__complete", "--", "ses").out == "session\n"
    assert front("__complete", "--", "session", "cr").out == "create\n"
    assert "--expect\n" in front("__complete", "--", "send", "--").out
    assert front("__complete", "--", "send", "-s", "").out == "cart\n"
    assert front("__complete", "--", "send", "-p", "sand").out == "sandbox\n"
    assert "-F _guestctl guestctl" in front("completion", "bash").out


def test_demo_reports_no_lost_message(alone: Front) -> None:
    told = alone("demo")
    assert told.code == 0, told.err
    assert "  2 sent, 2 received, 0 lost, 0 duplicated\nNext:\n" in told.out


def test_demo_traces_its_guest(alone: Front, tmp_path: Path) -> None:
    assert alone("demo", "--trace", str(tmp_path / "tour.trace")).code == 0
    seen = [json.loads(line) for line in (tmp_path / "tour.trace").read_text().splitlines()]
    assert {"upgrade", "frame_out", "frame_in", "close"} <= {line["kind"] for line in seen}


def test_exec_refuses_to_be_an_agent(alone: Front) -> None:
    refused = alone("sandbox", "exec", "--agent", "--", "true")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == (
        "error: --agent needs a terminal, which `sandbox exec` leaves to its command\n"
        "hint:  run `guestctl sandbox serve --agent`, and the command with `-p sandbox` in another terminal\n"
    )


@pytest.mark.parametrize(
    "words", [["sandbox", "serve"], ["sandbox", "exec", "true"], ["replay", "x"], ["proxy"], ["trace", "view", "x"]]
)
def test_what_serves_until_it_is_stopped_has_no_time_limit(alone: Front, words: list[str]) -> None:
    refused = alone(*words[:2], "--timeout", "1s", *words[2:])
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(("error: this command serves until it is stopped", "error: `sandbox exec` waits"))
    assert "--timeout" not in alone(*words[:2], "--help").out.partition("Common options:")[2]


def _id(front: Front) -> str:
    sessions = front("sandbox", "sessions").records
    return str(sessions[-1]["id"])
