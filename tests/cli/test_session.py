"""`session …`: which session is current, and what is shown of one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from guestctl.sandbox.faces.web_messaging.face import WebMessaging
from guestctl.sandbox.faces.web_messaging.frames import GuestError
from guestctl.sandbox.options import SandboxOptions
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.schema import SCHEMAS
from tests.cli.conftest import Front
from tests.unit.test_records import faults


@pytest.fixture
def joining(sandboxed: Callable[[Sandbox], Front]) -> Iterator[Front]:
    """A deployment whose guests join as soon as they have a session."""
    with running(SandboxOptions(fast=True, auto_start=True)) as sandbox:
        yield sandboxed(sandbox)


def current(front: Front) -> str:
    return str(front("session", "show").record["name"])


def test_a_session_whose_guest_may_not_join_yet_is_the_current_one(joining: Front) -> None:
    """It was confirmed, it is stored, and the next message goes to it."""
    assert joining("session", "create", "--as", "old").code == 0
    joining("sandbox", "fault", "http:status=400,on=send,times=1")
    refused = joining("session", "create", "--as", "new")
    assert (refused.code, refused.error["service_code"]) == (3, 400)
    assert current(joining) == "new"
    assert joining("send", "hi").record["session"] == "new"


def test_of_one_name_it_is_the_new_one_and_not_the_one_set_aside(joining: Front) -> None:
    first = joining("session", "create").record
    joining("sandbox", "fault", "http:status=400,on=send,times=1")
    refused = joining("session", "create", "-o", "table")
    assert refused.code == 3
    assert "kept as 'default-1'" in refused.err
    shown = joining("session", "show").record
    assert (shown["name"], shown["created_at"] > first["created_at"]) == ("default", True)


def test_one_that_is_over_before_its_guest_has_joined_takes_nothing_s_place(
    joining: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert joining("session", "create", "--as", "old").code == 0

    def gone(*_: Any) -> None:
        raise GuestError(4006, "the session has expired")

    with monkeypatch.context() as patched:
        patched.setattr(WebMessaging, "_writable", gone)
        assert joining("session", "create", "--as", "new").code == 10
    assert current(joining) == "old"
    assert joining("send", "hi").record["session"] == "old"


def spoil(front: Front) -> None:
    with closing(sqlite3.connect(Path(front.environ["GUESTCTL_STATE"]) / "state.db")) as database, database:
        database.execute("UPDATE session SET body = '{' WHERE name = 'spoilt'")


def test_what_is_forgotten_is_told_even_when_it_cannot_be_read(front: Front) -> None:
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


def test_forgetting_one_that_cannot_be_read_is_told_to_a_person(front: Front) -> None:
    front("session", "create", "--as", "spoilt")
    spoil(front)
    told = front("session", "forget", "spoilt", tty=True, NO_COLOR="1")
    assert (told.code, told.err) == (0, "")
    assert ["name", "spoilt"] in [line.split() for line in told.out.splitlines()]
    assert ["state", "unreadable"] in [line.split() for line in told.out.splitlines()]
