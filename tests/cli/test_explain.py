"""The `explain` command."""

from __future__ import annotations

from guestctl.cli.commands.explanations import everything
from guestctl.core.errors import NEXT_STEPS
from tests.cli.conftest import Front


def test_one_code_is_one_record(alone: Front) -> None:
    result = alone("explain", "send.in_doubt")
    assert result.code == 0
    assert result.record["next_step"] == NEXT_STEPS["send.in_doubt"]
    assert (result.record["exit"], result.record["type"]) == (13, "failure")
    assert result.err == ""


def test_json_output_is_one_array(alone: Front) -> None:
    result = alone("explain", "1009", "4006", "-o", "json")
    import json

    assert [entry["code"] for entry in json.loads(result.out)] == ["1009", "1009", "1009", "4006"]


def test_a_terminal_shows_the_fields_with_labels(alone: Front) -> None:
    result = alone("explain", "close", "1009", "--api", "web-messaging", tty=True)
    assert result.code == 0
    assert "guestctl's last frame" in result.out
    assert "next_step" in result.out
    assert "messaging-conversations" not in result.out


def test_an_error_text_needs_no_quotes(alone: Front) -> None:
    result = alone("explain", "Session", "is", "read-only")
    assert result.record["failure"] == "conflict.read_only"


def test_a_pasted_error_finds_its_entry(front: Front) -> None:
    unreachable = (
        "--base-url",
        "http://127.0.0.1:1",
        "--deployment-id",
        "d",
        "--timeout",
        "500ms",
        "session",
        "create",
    )
    unknown = ("--deployment-id", "unknown", "session", "create")
    for argv, code in ((unreachable, "network.connect"), (unknown, "forbidden.upgrade"), (("resume",), "session.none")):
        environ = {"GUESTCTL_PROFILE": "", "XDG_CONFIG_HOME": str(front.cwd)} if argv is unreachable else {}
        for tty in (False, True):
            line = front(*argv, tty=tty, **environ).err
            found = front("explain", line).records
            assert any(code in (record["code"], record["failure"]) for record in found), line
    seen = front("explain", "error: history: HTTP 429: slow down (retry after 7 s)").records
    assert [record["code"] for record in seen] == ["429"]


def test_without_a_code_all_entries_are_listed(alone: Front) -> None:
    result = alone("explain")
    assert [record["code"] for record in result.records] == [entry.code for entry in everything()]
    assert "session.gone" in alone("explain", tty=True).out
    fewer = alone("explain", "--api", "guests").records
    assert 0 < len(fewer) < len(result.records)


def test_an_unknown_code_is_a_usage_error_with_a_suggestion(alone: Front) -> None:
    result = alone("explain", "sesion.gone")
    assert (result.code, result.error["code"]) == (2, "usage")
    assert "guestctl explain session.gone" in result.error["hint"]
    assert alone("explain", "987654").code == 2
    elsewhere = alone("explain", "tokenExpired", "--api", "guests")
    assert elsewhere.code == 2
    assert "guest-sessions" in elsewhere.error["hint"]
    assert alone("explain", "403", "--api", "gusts").code == 2


def test_explain_needs_no_profile_and_no_state(alone: Front) -> None:
    assert alone("explain", "403", GUESTCTL_STATE="/nowhere/at/all", GUESTCTL_PROFILE="none").code == 0
