"""Floods of frames: no command loses a message in one, or holds all of it. Every test runs commands on counted time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from guestctl.engine.inbox import DROP_FROM_ITEMS, Inbox
from tests.faults.command_line import CountedGuest
from tests.faults.schedules import APIS, WITHOUT_SOCKET

#: Frames of a flood: more than an inbox holds before it drops what nobody waits for.
MANY = DROP_FROM_ITEMS + 500
WITH_SOCKET = [api for api in APIS if api not in WITHOUT_SOCKET]


def _frames(text: str) -> Callable[[CountedGuest], None]:
    def send(guest: CountedGuest) -> None:
        for _ in range(MANY):
            guest.conversation.broadcast(text)

    return send


def _typing(guest: CountedGuest) -> None:
    api = guest.simulation.sandbox.service.apis[guest.conversation.api]
    for _ in range(MANY):
        api.typing(guest.conversation, "agent", "Agent", 5000)


def _messages(guest: CountedGuest) -> None:
    for n in range(MANY):
        guest.simulation.sandbox.service.send(guest.conversation, f"news {n}", role="agent")


FLOODS: Mapping[str, Callable[[CountedGuest], None]] = {
    "unknown": _frames(json.dumps({"type": "surprise", "class": "Surprise", "code": 200, "body": {}})),
    "not JSON": _frames("{"),
    "empty": _frames("{}"),
    "typing": _typing,
    "messages": _messages,
}


@pytest.fixture
def most_held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The largest number of items that an inbox has held."""
    most, add = [0], Inbox.add

    def added(inbox: Inbox, item: Any, size: int) -> None:
        add(inbox, item, size)
        most[0] = max(most[0], len(inbox))

    monkeypatch.setattr(Inbox, "add", added)
    return most


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("api", WITH_SOCKET)
def test_ask_gets_its_reply(counted_guest: CountedGuest, flood: str, most_held: list[int]) -> None:
    """The flood arrives between the message and the reply."""
    simulation = counted_guest.simulation
    simulation.when_stored.append(lambda: FLOODS[flood](counted_guest))
    asked = counted_guest("send", "once", "--expect", "^echo: once$", "-o", "json")
    assert asked.code == 0, asked.err
    assert (asked.records[0]["delivery"], asked.records[0]["reply"]["text"]) == ("accepted", "echo: once")
    assert flood == "messages" or most_held[0] <= DROP_FROM_ITEMS + 5


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("api", WITH_SOCKET)
def test_listen_prints_every_message(counted_guest: CountedGuest, flood: str, most_held: list[int]) -> None:
    simulation = counted_guest.simulation
    push = simulation.sandbox.admin.push
    simulation.time.later(1.0, lambda: push("before"))
    simulation.time.later(1.5, lambda: FLOODS[flood](counted_guest))
    simulation.time.later(2.0, lambda: push("after"))
    listened = counted_guest("listen", "--for", "20", "--only", "message,gap", "-o", "jsonl")
    assert listened.code == 0, listened.err
    texts = [record.get("text") for record in listened.records if record["kind"] == "message"]
    news = [f"news {n}" for n in range(MANY)] if flood == "messages" else []
    assert texts == ["before", *news, "after"]
    assert most_held[0] <= DROP_FROM_ITEMS + 5
