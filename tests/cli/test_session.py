"""`session …`: the current session and how a session is shown."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from guestctl.client import Client
from guestctl.core.clock import epoch_of, rfc3339
from guestctl.core.model import NewSession, Session
from guestctl.output.schema import SCHEMAS
from guestctl.sandbox.apis.web_messaging.frames import GuestError
from guestctl.sandbox.apis.web_messaging.messages import MessageExchange
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from guestctl.storage.state import State
from tests.cli.conftest import Front, Result
from tests.fakes import FakeClock
from tests.unit.test_records import faults


@pytest.fixture
def joining(sandboxed: Callable[[Sandbox], Front]) -> Iterator[Front]:
    """A deployment in which a guest joins as soon as the session starts."""
    with running(SandboxOptions(fast=True, auto_start=True)) as sandbox:
        yield sandboxed(sandbox)


def current(front: Front) -> str:
    return str(front("session", "show").record["name"])


def test_a_session_that_cannot_join_yet_becomes_the_current_one(joining: Front) -> None:
    """The session is confirmed and stored, and the next message goes to it."""
    assert joining("session", "create", "--as", "old").code == 0
    joining("sandbox", "fault", "http:status=400,on=send,times=1")
    refused = joining("session", "create", "--as", "new")
    assert (refused.code, refused.error["service_code"]) == (3, 400)
    assert current(joining) == "new"
    assert joining("send", "hi").record["session"] == "new"


def test_a_new_session_takes_the_name_of_the_one_it_replaces(joining: Front) -> None:
    first = joining("session", "create").record
    joining("sandbox", "fault", "http:status=400,on=send,times=1")
    refused = joining("session", "create", "-o", "table")
    assert refused.code == 3
    assert 'kept as "default-1"' in refused.err
    shown = joining("session", "show").record
    assert (shown["name"], shown["created_at"] > first["created_at"]) == ("default", True)


def test_a_session_that_ends_before_joining_replaces_nothing(joining: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> None:
        raise GuestError(4006, "the session has expired")

    with monkeypatch.context() as patched:
        patched.setattr(MessageExchange, "require_writable", gone)
        assert joining("session", "create", "--as", "first").code == 10
        assert "there is no session" in joining("send", "hi").error["message"]
    assert joining("session", "create", "--as", "old").code == 0
    with monkeypatch.context() as patched:
        patched.setattr(MessageExchange, "require_writable", gone)
        assert joining("session", "create", "--as", "new").code == 10
    assert current(joining) == "old"
    assert joining("send", "hi").record["session"] == "old"


def spoil(front: Front) -> None:
    with closing(sqlite3.connect(Path(front.environ["GUESTCTL_STATE"]) / "state.db")) as database, database:
        database.execute("UPDATE session SET body = '{' WHERE name = 'spoilt'")


def test_forget_prints_a_record_for_an_unreadable_session(front: Front) -> None:
    for name in ("whole", "spoilt"):
        front("session", "create", "--as", name)
    spoil(front)
    whole = front("session", "forget", "whole").record
    spoilt = front("session", "forget", "spoilt")
    assert (spoilt.code, spoilt.err) == (0, "")
    told = spoilt.record
    assert told.keys() == whole.keys()
    assert (told["name"], told["state"], told["created_at"]) == ("spoilt", "unreadable", None)
    assert (told["api"], told["profile"]) == (whole["api"], whole["profile"])
    assert not faults(told, SCHEMAS["session"])
    assert front("session", "list", "-o", "jsonl").records == []


def test_forget_prints_a_card_for_an_unreadable_session(front: Front) -> None:
    front("session", "create", "--as", "spoilt")
    spoil(front)
    told = front("session", "forget", "spoilt", tty=True, NO_COLOR="1")
    assert (told.code, told.err) == (0, "")
    assert ["name", "spoilt"] in [line.split() for line in told.out.splitlines()]
    assert ["state", "unreadable"] in [line.split() for line in told.out.splitlines()]


def card(result: Result) -> dict[str, str]:
    rows = (line.partition(" ") for line in result.out.splitlines())
    return {name: value.strip() for name, _, value in rows}


def test_a_session_that_has_expired_has_no_time_left(front: Front) -> None:
    front("session", "create", "--as", "short")
    front("send", "hi")
    assert "(in 2 d" in card(front("session", "show", tty=True, NO_COLOR="1"))["expires_at"]
    front("sandbox", "expire")
    assert front("send", "ho").code == 10
    shown = card(front("session", "show", tty=True, NO_COLOR="1"))
    assert shown["state"] == "expired"
    assert "(expired " in shown["expires_at"]
    assert "(in " not in shown["expires_at"]
    record = front("session", "show").record
    assert record["created_at"] < record["expires_at"] <= rfc3339(time.time())


def test_a_session_that_was_cleared_has_no_time_left(front: Front) -> None:
    front("session", "create")
    assert front("session", "clear", "--yes").record["state"] == "cleared"
    assert "(" not in card(front("session", "show", tty=True, NO_COLOR="1"))["expires_at"]


def test_a_session_past_its_expiry_is_shown_as_expired(front: Front) -> None:
    """Also before any request to the service."""
    front("session", "create", GUESTCTL_API="webmessaging-conversations")
    front("session", "create")
    later = replace(front, clock=FakeClock(time.time() + 5 * 86400.0))
    assert "(expired 2 d" in card(later("session", "show", tty=True, NO_COLOR="1"))["expires_at"]
    shown = card(later("session", "show", tty=True, NO_COLOR="1", GUESTCTL_API="webmessaging-conversations"))
    assert "(expired 4 d" in shown["token_expires_at"]
    assert shown["credentials"].startswith("guest expired 2")


#: APIs that cannot renew a token or may not know the conversation, and how the service refuses a message.
REFUSALS = [
    ("external-contacts", "unauthorized"),
    ("guest-sessions", "unauthorized"),
    ("external-contacts", "http:status=404,on=send"),
    ("messaging-conversations", "http:status=404,on=send"),
]


@pytest.mark.parametrize(("api", "fault"), REFUSALS)
def test_a_session_whose_token_was_refused_is_shown_as_expired(front: Front, api: str, fault: str) -> None:
    """Until the service accepts it again: what refused it may have been a passing fault, so nothing is forgotten."""

    def states() -> list[str]:
        shown = [
            front("session", "list", GUESTCTL_API=api).records[-1],
            front("session", "show", GUESTCTL_API=api).record,
        ]
        overview = front(GUESTCTL_API=api, tty=True).out
        return [*(record["state"] for record in shown), *re.findall("Session default: (.*)", overview)]

    front("session", "create", GUESTCTL_API=api)
    assert states() == ["active"] * 3
    front("sandbox", "fault", fault)
    assert front("send", "hi", GUESTCTL_API=api).code in {4, 10}
    assert states() == ["expired"] * 3
    front("sandbox", "fault", "--clear")
    assert front("send", "ho", GUESTCTL_API=api).code == 0
    assert states() == ["active"] * 3


def test_a_token_that_was_renewed_after_its_refusal_is_active(front: Front) -> None:
    """The web-messaging API issues another token for history, and another socket accepts the guest's."""
    for api in ("web-messaging", "messaging-conversations", "conversation-guests"):
        front("session", "create", GUESTCTL_API=api)
        front("sandbox", "fault", "unauthorized:times=1")
        assert front("history", GUESTCTL_API=api).code == 0
        assert front("session", "list", GUESTCTL_API=api).records[-1]["state"] == "active"
        front("sandbox", "fault", "--clear")


def test_stored_sessions_are_read_once_for_many_notices(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their tokens must be masked, with a thousand sessions and a notice every second."""
    front("ask", "hi")
    read: list[str | None] = []
    sessions = State.sessions

    def counted(state: State, scope: str | None = None, **more: Any) -> list[tuple[str, Session]]:
        read.append(scope)
        return sessions(state, scope, **more)

    monkeypatch.setattr(State, "sessions", counted)
    front("sandbox", "fault", "drop:times=2")
    told = front("listen", "--replay", "2", "--max", "2", tty=True, NO_COLOR="1")
    assert told.code == 0
    assert told.err.count("trying again") > 1
    assert len(read) == 1


def test_a_token_received_later_is_masked_too(front: Front) -> None:
    with Client("sandbox", environ=front.environ) as guest:
        assert list(guest.secrets()) == []
        tokens = {guest.create(NewSession(name=name)).token() for name in ("one", "two")}
        assert tokens <= {secret.reveal() for secret in guest.secrets()}
        guest.forget("two")
        assert tokens <= {secret.reveal() for secret in guest.secrets()}


@pytest.fixture
def kolkata(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A time zone five and a half hours ahead of UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "<+0530>-5:30")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone cannot be changed here")
@pytest.mark.usefixtures("kolkata")
def test_times_are_local_in_tables_and_utc_in_json(front: Front) -> None:
    front("session", "create", "--as", "cart")
    record = front("session", "show").record
    terminal: dict[str, Any] = {"tty": True, "NO_COLOR": "1", "COLUMNS": "200"}
    local = datetime.fromtimestamp(epoch_of(record["created_at"])).isoformat(" ", "seconds") + "+05:30"
    assert card(front("session", "show", **terminal))["created_at"].startswith(f"{local} (")
    listed = front("session", "list", "-v", **terminal).out
    assert local in listed
    reported = front("session", "report", "-v", **terminal).out
    assert "+05:30  session_started" in reported
    for told in (listed, reported):
        assert not re.search(r"\d\dZ\b", told)
    for argv in (
        ["session", "list", "-o", "json"],
        ["session", "report", "-o", "json"],
        ["history", "--format", "txt"],
    ):
        assert "+05:30" not in front(*argv).out
    assert record["created_at"].endswith("Z")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "-x", "x" * 101])
@pytest.mark.parametrize("given", ["ask hi --session", "session create --as", "session create --session"])
def test_an_invalid_session_name_is_refused(front: Front, given: str, name: str) -> None:
    front("session", "create")
    *words, option = given.split()
    refused = front(*words, f"{option}={name}", "-o", "json")
    assert (refused.code, refused.error["code"]) == (2, "usage")
    assert refused.error["message"] == f'{option}: "{name}" is not a session name'
    assert [record["name"] for record in front("session", "list").records] == ["default"]


def test_the_session_variable_follows_the_same_rule(front: Front) -> None:
    assert front("ask", "hi", GUESTCTL_SESSION="").code == 0
    refused = front("ask", "hi", GUESTCTL_SESSION="a\tb")
    assert refused.code == 2
    assert refused.err.startswith('error: GUESTCTL_SESSION: "a\\tb" is not a session name\n')
