"""`explain` through the front door."""

from __future__ import annotations

from guestctl.cli.commands.explanations import everything
from guestctl.core.errors import NEXT_STEPS
from tests.cli.conftest import Front


def test_one_code_for_a_script(alone: Front) -> None:
    told = alone("explain", "send.in_doubt")
    assert told.code == 0
    assert told.record["next_step"] == NEXT_STEPS["send.in_doubt"]
    assert (told.record["exit"], told.record["type"]) == (13, "failure")
    assert told.err == ""


def test_an_array_with_json(alone: Front) -> None:
    told = alone("explain", "1009", "4006", "-o", "json")
    import json

    assert [entry["code"] for entry in json.loads(told.out)] == ["1009", "1009", "1009", "4006"]


def test_for_a_person(alone: Front) -> None:
    told = alone("explain", "close", "1009", "--api", "web-messaging", tty=True)
    assert told.code == 0
    assert "our last frame" in told.out
    assert "next_step" in told.out
    assert "messaging-conversations" not in told.out


def test_words_of_a_message_need_no_quotes(alone: Front) -> None:
    told = alone("explain", "Session", "is", "read-only")
    assert told.record["failure"] == "conflict.read_only"


def test_a_line_of_any_failure_is_understood_as_pasted(front: Front) -> None:
    nobody = ("--base-url", "http://127.0.0.1:1", "--deployment-id", "d", "--timeout", "500ms", "session", "create")
    unknown = ("--deployment-id", "unknown", "session", "create")
    for argv, code in ((nobody, "network.connect"), (unknown, "forbidden.upgrade"), (("resume",), "session.none")):
        environ = {"GUESTCTL_PROFILE": "", "XDG_CONFIG_HOME": str(front.cwd)} if argv is nobody else {}
        for tty in (False, True):
            line = front(*argv, tty=tty, **environ).err.strip().splitlines()[-1]
            found = front("explain", line).records
            assert any(code in (record["code"], record["failure"]) for record in found), line
    seen = front("explain", "guestctl: history: HTTP 429: slow down (again in 7 s)").records
    assert [record["code"] for record in seen] == ["429"]


def test_without_a_code_everything(alone: Front) -> None:
    told = alone("explain")
    assert [record["code"] for record in told.records] == [entry.code for entry in everything()]
    assert "session.gone" in alone("explain", tty=True).out
    fewer = alone("explain", "--api", "guests").records
    assert 0 < len(fewer) < len(told.records)


def test_unknown_is_usage_with_a_suggestion(alone: Front) -> None:
    told = alone("explain", "sesion.gone")
    assert (told.code, told.error["code"]) == (2, "usage")
    assert "guestctl explain session.gone" in told.error["hint"]
    assert alone("explain", "987654").code == 2
    elsewhere = alone("explain", "tokenExpired", "--api", "guests")
    assert elsewhere.code == 2
    assert "guest-sessions" in elsewhere.error["message"]
    assert alone("explain", "403", "--api", "gusts").code == 2


def test_needs_neither_profile_nor_state(alone: Front) -> None:
    assert alone("explain", "403", GUESTCTL_STATE="/nowhere/at/all", GUESTCTL_PROFILE="none").code == 0
