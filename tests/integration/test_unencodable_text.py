"""Text with half of a surrogate pair, which an escape in JSON can name and UTF-8 cannot encode.

A service may show it. guestctl prints it and never sends it back: it reports that the text cannot be sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

import pytest

from guestctl.dialects import NAMES
from tests.examples import keys
from tests.integration.conftest import room_of
from tests.integration.front import Guest, Room, check
from tests.integration.middle import Gateway
from tests.integration.test_hostile_numbers import answers, at, check_member

HALF = "\ud800"
LITERAL = json.dumps(f"{HALF} x")

CHOICES: dict[str, dict[str, Any]] = {
    "a label": {"contentType": "QuickReply", "quickReply": {"text": f"Yes{HALF}", "payload": "yes"}},
    "a payload": {"contentType": "QuickReply", "quickReply": {"text": "Yes", "payload": f"yes{HALF}"}},
    "an item": {
        "contentType": "ListPicker",
        "listPicker": {"sections": [{"title": "t", "items": [{"id": f"i{HALF}", "title": "One"}]}]},
    },
    "a reply text": {
        "contentType": "ListPicker",
        "listPicker": {
            "sections": [{"title": "t", "items": [{"id": "i", "title": "One"}]}],
            "replyMessage": {"subtitle": HALF},
        },
    },
    "a time": {
        "contentType": "DatePicker",
        "datePicker": {"availableTimes": [{"dateTime": f"2026-03-09T08:00Z{HALF}"}]},
    },
    "a form": {
        "contentType": "Form",
        "form": {"formPages": [{"pageComponents": [{"input": {"id": f"n{HALF}", "title": "Name"}}]}]},
    },
}


@pytest.fixture
def room(middle: Gateway) -> Room:
    return room_of(middle)


@pytest.fixture
def guest(behind: Guest) -> Guest:
    return behind


def changing(text: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[str], str]:
    """Return a function that changes each message with this text in a JSON text."""

    def place(value: Any) -> Any:
        if isinstance(value, dict):
            value = change(value) if value.get("text") == text else value
            return {name: place(inner) for name, inner in value.items()}
        return [place(inner) for inner in value] if isinstance(value, list) else value

    def rewrite(body: str) -> str:
        try:
            return json.dumps(place(json.loads(body)))
        except ValueError:
            return body

    return rewrite


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("api", ["web-messaging"])
def test_an_answer_that_cannot_be_encoded_is_not_sent(guest: Guest, middle: Gateway, room: Room, choice: str) -> None:
    content = [CHOICES[choice]]
    middle.rewrite = changing("echo: hi", lambda message: {**message, "type": "Structured", "content": content})
    guest.ok("ask", "hi")
    answer = ("--form", "Name=x") if choice == "a form" else ("--pick", "1")
    result = guest("send", *answer, "-o", "json")
    error = check(result, 2, "usage.text", "half of a surrogate pair (U+D800)")
    assert "text of your own" in error["hint"]
    assert json.loads(result.out)["delivery"] == "not_sent"
    assert room.texts("inbound") == ["hi"]
    guest.ok("send", "still fine")


def test_a_saved_text_that_cannot_be_encoded_is_not_sent(guest: Guest, middle: Gateway, room: Room) -> None:
    middle.rewrite = changing("echo: hi", lambda message: {**message, "text": f"code {HALF}"})
    script = guest.cwd / "script.yaml"
    steps = [{"say": "hi"}, {"expect": {"matches": "code (.+)", "saveAs": "code"}}, {"say": "it is ${code}"}]
    script.write_text(json.dumps({"scenarios": {"saved": steps}}))
    result = guest("check", str(script))
    assert result.code not in {0, 70}, result
    assert "half of a surrogate pair" in result.out + result.err, result
    assert [text for one in room.sessions() for text in one["messages"] if text["text"].startswith("it is")] == []


#: The members of each API's answer to a create that guestctl sends back.
SENT_BACK = {
    "conversation-guests": ("conversationId", "guestId", "token"),
    "guest-sessions": ("webMessagingSessionId", "sessionToken"),
    "external-contacts": ("guestId", "sessionToken"),
    "guests": ("id", "guestToken"),
    "messaging-conversations": ("id", "guestToken"),
    "webmessaging-conversations": ("conversationId", "sessionToken"),
}


@pytest.mark.parametrize(("api", "member"), [(api, member) for api in SENT_BACK for member in SENT_BACK[api]])
def test_an_id_that_cannot_be_sent_back_is_not_accepted(guest: Guest, middle: Gateway, member: str) -> None:
    def damaged(value: Any) -> Any:
        return {**value, member: f"x{HALF}"} if member in value else value

    middle.change = damaged
    check(guest("session", "create"), 11, "answer.unreadable", f"`{member}` has half of a surrogate pair")


@cache
def text_members(api: str) -> tuple[str, ...]:
    """Return the names of the members of one API's answers that are text."""
    found = {path[-1] for _, body in answers(api) for path in keys(body) if isinstance(at(body, path), str)}
    return tuple(sorted(str(name) for name in found if isinstance(name, str)))


@pytest.mark.parametrize(("api", "member"), [(api, Random(api).choice(text_members(api))) for api in NAMES])
def test_a_text_in_answers(guest: Guest, middle: Gateway, member: str) -> None:
    check_member(guest, middle, member, LITERAL)


@pytest.mark.parametrize(("api", "member"), [(api, member) for api in NAMES for member in text_members(api)])
def test_every_text_in_answers(guest: Guest, middle: Gateway, member: str) -> None:
    check_member(guest, middle, member, LITERAL)
