"""The admin endpoint tells which sessions have changed, to requests that wait."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import requests

from guestctl.sandbox.server import Sandbox
from tests.sandbox.bare import GuestSession
from tests.sandbox.stranger import Control, Join


def changes(sandbox: Sandbox, last: Any = None, wait: int = 0) -> Any:
    """Return the changes since the last answer."""
    query = "" if last is None else f"&since={last['version']}&instance={last['instance']}"
    return Control(sandbox)("GET", f"/sessions/changes?wait={wait}{query}")


def test_sessions_are_reported_once_for_each_change(sandbox: Sandbox, join: Join) -> None:
    found = changes(sandbox)
    assert found["sessions"] == []
    guest = join(sandbox)
    guest.configure()
    found = changes(sandbox, found)
    (session,) = found["sessions"]
    started = session.pop("started")
    assert started.endswith("Z")
    assert session == {
        "id": Control(sandbox).sessions()[0]["id"],
        "api": "web-messaging",
        "state": "active",
        "sockets": 1,
        "messages": 0,
        "requests": 1,
    }
    found = changes(sandbox, found)
    assert found["sessions"] == []
    GuestSession(sandbox)
    found = changes(sandbox, found)
    assert [one["api"] for one in found["sessions"]] == ["guest-sessions"]
    Control(sandbox)("POST", "/push", text="hello", to=session["id"])
    found = changes(sandbox, found)
    assert [(one["id"], one["messages"]) for one in found["sessions"]] == [(session["id"], 1)]
    assert len(changes(sandbox)["sessions"]) == 2


@pytest.mark.parametrize("what", ["push", "end", "expire", "join", "leave"])
def test_a_request_waits_until_something_changes(sandbox: Sandbox, join: Join, what: str) -> None:
    guest = join(sandbox)
    guest.configure()
    found = changes(sandbox)
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(changes(sandbox, found, wait=20)))
    waiting.start()
    if what == "join":
        join(sandbox).configure()
    elif what == "leave":
        guest.leave()
    else:
        body: dict[str, Any] = {"text": "hi"} if what == "push" else {}
        Control(sandbox)("POST", f"/{what}", **body)
    waiting.join(10)
    assert not waiting.is_alive()
    (session,) = answers[0]["sessions"]
    assert (session["state"], session["sockets"], session["messages"]) == {
        "push": ("active", 1, 1),
        "end": ("read-only", 1, 0),
        "expire": ("expired", 1, 0),
        "join": ("active", 2, 0),
        "leave": ("active", 0, 0),
    }[what]


def test_another_instance_reports_everything(sandbox: Sandbox) -> None:
    GuestSession(sandbox)
    found = changes(sandbox)
    other = {**found, "instance": "another"}
    assert len(changes(sandbox, other)["sessions"]) == 1


@pytest.mark.parametrize("query", ["wait=21", "wait=-1", "wait=x", "since=1.5", f"since={10**16}", "wait=²"])
def test_invalid_queries_are_refused(sandbox: Sandbox, query: str) -> None:
    assert "whole number" in Control(sandbox)("GET", f"/sessions/changes?{query}", 400)["message"]


def test_changes_need_the_key(sandbox: Sandbox) -> None:
    assert requests.get(sandbox.admin_url + "/sessions/changes?wait=0", timeout=5).status_code == 401
