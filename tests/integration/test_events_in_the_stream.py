"""Events other than messages, from the command line: receipts, offers, reactions, errors, and buttons of templates."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guestctl.output.records import EVENT_KINDS
from tests.integration.conftest import Enter, room_of
from tests.integration.front import Guest, Room, check, texts
from tests.integration.middle import Gateway


def event(kind: str, **members: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": "e-1",
        "direction": "Outbound",
        "originatingEntity": "Human",
        "channel": {"time": None},
    }
    body |= {"type": "Event", "events": [{"eventType": kind, **members}]}
    return {"type": "message", "class": "StructuredMessage", "code": 200, "body": body}


RECEIPT = {
    "type": "message",
    "class": "StructuredMessage",
    "code": 200,
    "body": {"id": "m-1", "type": "Receipt", "direction": "Outbound", "status": "Delivered", "channel": {"time": None}},
}
#: Frame, kind, status, a member of the details, line of text.
EVENTS = [
    (RECEIPT, "receipt", "Delivered", {}, "receipt: Delivered"),
    (
        event("CoBrowse", coBrowse={"type": "Offering", "sessionId": "s-1"}),
        "cobrowse",
        "Offering",
        {"sessionId": "s-1"},
        "cobrowse: Offering",
    ),
    (
        event("Video", video={"type": "Offering", "offeringId": "v"}),
        "video",
        "Offering",
        {"offeringId": "v"},
        "video: Offering",
    ),
    (event("Video", video="odd"), "video", None, {"video": "odd"}, "video: -"),
    (
        event("Reactions", reactions=[{"reactionType": "Like", "count": 1}]),
        "reactions",
        None,
        {"reactions": [{"reactionType": "Like", "count": 1}]},
        "reactions: Like 1",
    ),
    (event("Reactions", reactions=None), "reactions", None, {"reactions": None}, "reactions: -"),
]


def listened(guest: Guest, room: Room, frame: object, output: str, *more: str) -> Any:
    """Return what `listen` prints when the service pushes a frame and then a message."""
    guest.ok("session", "create")
    pushed: list[bool] = []

    def push(record: dict[str, Any]) -> None:
        if not pushed and (record.get("state") == "live" or "live" in record.get("line", "")):
            pushed.append(True)
            room.frame(frame)
            room.push("after it")

    only = ",".join(kind for kind in EVENT_KINDS if kind != "typing")
    result = guest("listen", "--only", only, "-o", output, "--until", "after it", "--for", "20s", *more, on=push)
    assert result.code == 0, result
    return result


@pytest.mark.parametrize(("frame", "kind", "status", "details", "line"), EVENTS)
@pytest.mark.parametrize("api", ["web-messaging"])
def test_an_event_of_its_own_kind(
    guest: Guest, room: Room, frame: object, kind: str, status: str | None, details: dict[str, Any], line: str
) -> None:
    result = listened(guest, room, frame, "jsonl")
    (found,) = [record for record in result.records if record["kind"] == kind]
    assert found["status"] == status
    assert found["details"] == details
    assert found["direction"] == "outbound"
    assert texts(result) == ["after it"]
    assert not [record for record in result.records if record["kind"] == "unknown"]
    assert line in listened(guest, room, frame, "table").out


@pytest.mark.parametrize("api", ["web-messaging"])
def test_a_token_in_an_offer_is_masked(guest: Guest, room: Room) -> None:
    secret = "eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.c2lnbmF0dXJl"
    frame = event("CoBrowse", coBrowse={"type": "Offering", "sessionJoinToken": secret})
    assert secret not in listened(guest, room, frame, "jsonl").out


@pytest.mark.parametrize("frame", [frame for frame, *_ in EVENTS], ids=[kind for _, kind, *_ in EVENTS])
@pytest.mark.parametrize("api", ["web-messaging"])
def test_no_such_event_is_a_reply(guest: Guest, room: Room, frame: object) -> None:
    """`ask` waits for the bot's message."""
    guest.ok("session", "create")
    room.frame(frame)
    assert guest.ok("ask", "hi").out == "echo: hi\n"


# --- errors of source 002 ---

ERROR = {"type": "error", "code": "quota.reached", "message": "too many guests"}


@pytest.mark.parametrize("api", ["messaging-conversations"])
def test_an_error_in_the_stream_has_code_and_message(guest: Guest, room: Room) -> None:
    result = listened(guest, room, ERROR, "jsonl")
    (found,) = [record for record in result.records if record["kind"] == "error"]
    assert (found["code"], found["message"]) == ("quota.reached", "too many guests")
    assert texts(result) == ["after it"]
    assert "error: too many guests (quota.reached)" in listened(guest, room, ERROR, "table").out


@pytest.mark.parametrize("api", ["messaging-conversations"])
def test_an_error_that_answers_a_send_has_code_and_message(guest: Guest, room: Room) -> None:
    guest.ok("session", "create")
    room.faults("http:status=403,on=send")
    error = check(guest("send", "hi", "-o", "json"), 5, "forbidden", "(forbidden)")
    assert error["service_code"] == "forbidden"
    assert error["body"]


# --- buttons of generic templates ---


@pytest.mark.parametrize(
    ("actions", "payload"),
    [
        ([{"type": "Postback", "text": "Gold", "payload": "gold"}], "gold"),
        ([{"type": "Postback", "payload": "gold"}], "gold"),
        ({"textback": "gold"}, "gold"),
        ({}, "Gold"),
        (None, "Gold"),
    ],
)
def test_a_button_of_a_generic_template_is_shown_and_picked(
    middle: Gateway, enter: Enter, actions: Any, payload: str
) -> None:
    room = room_of(middle)
    guest = enter(room.sandbox, "web-messaging", GUESTCTL_SANDBOX_URL=middle.url)
    template = {"title": "Plans", "components": [{"title": "Gold", "actions": actions}, {"title": "Silver"}]}
    content = [{"contentType": "GenericTemplate", "generic": template}]

    def place(value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("text") == "echo: hi":
                value = {
                    **value,
                    "type": "Structured",
                    "content": content,
                }
            return {name: place(inner) for name, inner in value.items()}
        return [place(inner) for inner in value] if isinstance(value, list) else value

    middle.rewrite = lambda text: json.dumps(place(json.loads(text))) if "echo: hi" in text else text
    guest.ok("ask", "hi")
    shown = guest.ok("history", "-o", "table").out
    assert "[1] Gold" in shown
    assert "[2] Silver" in shown
    guest.ok("send", "--pick", "Gold")
    sent = guest.ok("history", "--last", "2", "-o", "jsonl").records
    buttons = [item["buttonResponse"] for record in sent for item in record["content"] if "buttonResponse" in item]
    assert [(button["text"], button["payload"]) for button in buttons] == [("Gold", payload)]
