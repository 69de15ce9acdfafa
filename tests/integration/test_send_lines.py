"""`send - --lines`: progress, interrupted runs that go on, and a sandbox without rate limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.core.model import Message
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.capabilities import Ability
from guestctl.engine import delivery
from guestctl.sandbox.server import Sandbox
from tests.integration.conftest import Enter
from tests.integration.front import Guest, InstantClock, Room, able, check

LINES = "one\ntwo\n\nthree\nfour\n"
PACED = [name for name in NAMES if dialect_class(name).send_rate is not None]
SENDERS = able(Ability.SEND)


def interrupt(monkeypatch: pytest.MonkeyPatch, method: str, text: str) -> None:
    """Press Ctrl-C once when a message with this text reaches a method of its delivery."""
    original: Callable[..., Message] = getattr(delivery._Send, method)
    left = [True]

    def interrupted(send: delivery._Send, *arguments: object) -> Message:
        if send.outgoing.text == text and left:
            left.pop()
            raise KeyboardInterrupt
        return original(send, *arguments)

    monkeypatch.setattr(delivery._Send, method, interrupted)


@pytest.mark.parametrize("api", SENDERS, indirect=True)
def test_an_interrupted_run_goes_on_and_sends_each_line_once(
    talking: Guest, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, "_finish_accepted", "three")
    command = ("send", "-", "--lines", "--cursor", "at.json", "-o", "jsonl")
    stopped = talking(*command, stdin=LINES)
    assert (stopped.code, stopped.err.splitlines()[-1]) == (130, "2 accepted, line 4 in doubt")
    assert [record["text"] for record in stopped.records] == ["one", "two"]
    kept = json.loads((talking.cwd / "at.json").read_text())
    assert kept["line"] == 3
    went_on = talking.ok(*command, stdin=LINES)
    assert [record["text"] for record in went_on.records] == ["three", "four"]
    assert went_on.records[0]["key"] == kept["key"]
    assert room.texts("inbound") == ["one", "two", "three", "four"]
    assert talking.ok(*command, stdin=LINES).records == []


@pytest.mark.parametrize("api", SENDERS, indirect=True)
def test_a_line_that_stays_in_doubt_is_sent_again_only_with_resend(
    talking: Guest, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, "_attempt_deadline", "two")
    command = ("send", "-", "--lines", "--cursor", "at.json", "-o", "json")
    assert talking(*command, stdin=LINES).err.splitlines()[-1] == "1 accepted, line 2 in doubt"
    check(talking(*command, stdin=LINES), 13, "send.in_doubt")
    assert room.texts("inbound") == ["one"]
    talking.ok(*command, "--resend", stdin=LINES)
    assert room.texts("inbound") == ["one", "two", "three", "four"]


@pytest.mark.parametrize("api", ["guest-sessions"], indirect=True)
def test_ctrl_c_between_two_lines_reports_what_was_accepted(talking: Guest) -> None:
    def stop(record: object) -> None:
        raise KeyboardInterrupt

    stopped = talking("send", "-", "--lines", "-o", "jsonl", "-q", stdin=LINES, on=stop)
    assert (stopped.code, stopped.err) == (130, "1 accepted\n")


@pytest.mark.parametrize("api", ["guest-sessions"], indirect=True)
def test_a_file_that_is_no_cursor_is_refused(talking: Guest, room: Room) -> None:
    for content in ("{}", '{"line": -1, "key": null}', '{"line": 1, "key": "k"}', '{"after": "m1"}', "["):
        (talking.cwd / "at.json").write_text(content)
        check(talking("send", "-", "--lines", "--cursor", "at.json", stdin=LINES), 2, "usage", "cursor")
    check(talking("send", "hi", "--cursor", "new.json"), 2, "usage", "--lines")
    assert room.texts("inbound") == []


@pytest.mark.parametrize("api", PACED, indirect=True)
def test_a_terminal_shows_the_progress(talking: Guest, tmp_path: Path) -> None:
    assert "sending: 3 lines" in talking.ok("send", "-", "--lines", "-o", "jsonl", stdin=LINES, tty=True).err
    (tmp_path / "texts").write_text("text\n" * 12)
    shown = talking.ok("send", "-", "--lines", "-o", "jsonl", stdin=tmp_path / "texts", tty=True).err
    assert " 50 %" in shown
    assert "sending" not in talking.ok("send", "-", "--lines", "-o", "jsonl", stdin=tmp_path / "texts").err


@pytest.mark.parametrize("api", PACED, indirect=True)
def test_only_a_sandbox_without_limits_is_not_paced(
    sandbox: Sandbox, enter: Enter, api: str, time: InstantClock
) -> None:
    for announced, paced in (("none", False), ("enforced", True), ("", True)):
        guest = enter(sandbox, api, state=f"state-{announced}", GUESTCTL_SANDBOX_LIMITS=announced)
        guest.ok("session", "create")
        time.sleeps.clear()
        guest.ok("send", "-", "--lines", stdin=LINES)
        assert (sum(time.sleeps) > 1.0) == paced
