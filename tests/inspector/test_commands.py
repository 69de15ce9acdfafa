"""What a page can do: answer as the agent, and switch faults on and off."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
import requests

from guestctl.sandbox.server import Sandbox
from tests.inspector.page import STUCK, Message, Page
from tests.sandbox.stranger import Stranger

QUICK_REPLIES = [
    {"contentType": "QuickReply", "quickReply": {"text": "Yes", "payload": "yes", "action": "Message"}},
    {"contentType": "QuickReply", "quickReply": {"text": "No", "payload": "no", "action": "Message"}},
]


def session_of(page: Page) -> str:
    return str(page.until_event(kind="session")["session"])


def test_the_desk_sends_texts_quick_replies_files_and_typing_and_ends(sandbox: Sandbox, page: Page) -> None:
    with Stranger(sandbox) as guest:
        guest.configure()
        guest.message("hi")
        guest.expect("StructuredMessage")
        guest.expect("StructuredMessage")
        session = session_of(page)

        page.do("send", session=session, text="hello from the desk")
        assert guest.expect("StructuredMessage")["body"]["text"] == "hello from the desk"
        page.until_event(kind="frame_in", summary="agent: hello from the desk", session=session)

        page.do("send", session=session, text="Right?", content=QUICK_REPLIES)
        body = guest.expect("StructuredMessage")["body"]
        assert [item["quickReply"]["text"] for item in body["content"]] == ["Yes", "No"]

        file = {"name": "note.txt", "type": "text/plain", "base64": base64.b64encode(b"a note").decode()}
        page.do("send", session=session, file=file)
        attachment = guest.expect("StructuredMessage")["body"]["content"][0]["attachment"]
        assert requests.get(attachment["url"], timeout=STUCK).content == b"a note"

        page.do("send", session=session, typing=True)
        assert guest.expect("StructuredMessage")["body"]["events"][0]["eventType"] == "Typing"

        page.do("send", session=session, end=True)
        page.until(lambda message: [one for one in message.get("sessions", []) if one["state"] != "active"])
        refused = page.post("api/send", {"session": session, "text": "too late"})
        assert refused.status_code == 422
        assert "the conversation has ended" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "session is empty"),
        ({"session": "no such id", "text": "x"}, "there is no session with this id"),
        ({"session": "s", "text": ""}, "text is empty"),
        ({"session": "s", "content": [1]}, "content is not a list of objects"),
        ({"session": "s", "file": {"name": "a", "type": "b", "base64": "?"}}, "not valid Base64"),
        ({"session": "s", "file": "a"}, "file is not an object"),
        ({"session": "s", "typing": True, "end": True}, "give one of"),
        ({"session": "s", "typing": True, "text": "x"}, "give one of"),
    ],
)
def test_a_command_that_cannot_be_done_says_why(page: Page, body: Message, part: str) -> None:
    refused = page.post("api/send", body)
    assert (refused.status_code, part in refused.json()["error"]["message"]) == (422, True), refused.text


@pytest.mark.parametrize("body", ["[]", "1", "{", '"text"', '{"text": "\\ud800"}', '{"content": [{"a": NaN}]}'])
def test_a_body_that_is_no_json_object_is_refused(page: Page, body: str) -> None:
    headers = {"Origin": page.origin, "Content-Type": "application/json", "Cookie": page.cookie}
    for path in ("login", "api/send", "api/faults"):
        assert requests.post(page.address + path, data=body, headers=headers, timeout=STUCK).status_code == 400


def test_faults_are_armed_counted_and_removed(sandbox: Sandbox, open_page: Callable[[], Page]) -> None:
    pages = [open_page(), open_page()]
    (first, _) = pages

    def until_armed(*expected: Any) -> None:
        for page in pages:
            page.until(
                lambda message: (
                    [(one["spec"], one["fired"]) for one in message.get("armed", ["?"]) if one != "?"] == list(expected)
                    and message["type"] == "faults"
                )
            )

    until_armed()
    kinds = {one["kind"]: one for one in first.messages[-1]["kinds"]}
    assert {"drop", "delay", "late"} <= set(kinds)
    assert kinds["drop"]["keys"][0] == "code"
    first.do("faults", add=["delay:ms=1,times=2", "garbage:times=1,on=send"])
    until_armed(("delay:ms=1,times=2", 0), ("garbage:times=1,on=send", 0))
    with Stranger(sandbox) as guest:
        guest.configure()
        until_armed(("delay:ms=1,times=2", 1), ("garbage:times=1,on=send", 0))
    first.do("faults", remove="garbage:times=1,on=send")
    until_armed(("delay:ms=1,times=2", 1))
    for body, part in (
        ({"add": ["nonsense"]}, "nonsense"),
        ({"add": "delay"}, "list"),
        ({"remove": "drop"}, 'no fault "drop" is armed'),
        ({"clear": False}, "give one of add, remove and clear"),
        ({"clear": "yes"}, "give one of add, remove and clear"),
        ({"add": ["refuse"], "clear": True}, "give one of add, remove and clear"),
        ({"add": [], "clear": True}, "give one of add, remove and clear"),
        ({"remove": "refuse", "add": ["refuse"]}, "give one of add, remove and clear"),
    ):
        refused = first.post("api/faults", body)
        assert (refused.status_code, part in refused.json()["error"]["message"]) == (422, True), refused.text
    first.do("faults", clear=True)
    until_armed()


def test_sessions_are_reported_with_state_and_counts(sandbox: Sandbox, page: Page) -> None:
    def session(message: Message, **members: Any) -> bool:
        return any(members.items() <= one.items() for one in message.get("sessions", []))

    with Stranger(sandbox) as guest:
        guest.configure()
        guest.message("hi")
        expected = {"api": "web-messaging", "state": "active", "sockets": 1, "messages": 2, "received": 3, "sent": 2}
        page.until(lambda message: session(message, **expected))
        (conversation,) = sandbox.call(lambda: list(sandbox.service.conversations))
        sandbox.call(lambda: sandbox.service.expire(sandbox.service.conversations[conversation]))
        page.until(lambda message: session(message, id=conversation, state="expired"))
