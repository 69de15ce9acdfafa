"""The documented shape of every web-messaging reply, restated by hand from web-messaging.md §4.2, §6 and §7.1.

Knows: required keys and enums, of the schema and of other clients. Must not know: the sandbox, the client. It is as
strict as the documents; unknown keys are allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any, str], None]

CLASSES = {
    "string", "SessionResponse", "StructuredMessage", "PresignedUrlResponse", "AttachmentDeletedResponse",
    "UploadFailureEvent", "UploadSuccessEvent", "ConnectionClosedEvent", "LogoutEvent", "SessionExpiredEvent",
    "JwtResponse", "GetConfigurationResponse", "GenerateUrlError", "TooManyRequestsErrorMessage",
    "ResumeTokenResponse", "SessionClearedEvent", "Error", "Unknown",
}  # fmt: skip
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
MESSAGE_ID = re.compile(r"[0-9a-f]{32}")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def text(value: Any, where: str) -> None:
    assert isinstance(value, str), f"{where}: {value!r} is no string"


def flag(value: Any, where: str) -> None:
    assert isinstance(value, bool), f"{where}: {value!r} is no boolean"


def whole(value: Any, where: str) -> None:
    assert isinstance(value, int), f"{where}: {value!r} is no integer"
    assert not isinstance(value, bool), f"{where}: {value!r} is no integer"


def matching(pattern: re.Pattern[str]) -> Check:
    def check(value: Any, where: str) -> None:
        text(value, where)
        assert pattern.fullmatch(value), f"{where}: {value!r} is not {pattern.pattern}"

    return check


def one_of(*choices: Any) -> Check:
    def check(value: Any, where: str) -> None:
        assert value in choices, f"{where}: {value!r} is not one of {choices}"

    return check


def list_of(item: Check, least: int = 0) -> Check:
    def check(value: Any, where: str) -> None:
        assert isinstance(value, list), f"{where}: {value!r} is no list"
        assert len(value) >= least, f"{where}: is too short"
        for number, entry in enumerate(value):
            item(entry, f"{where}[{number}]")

    return check


def map_of(item: Check) -> Check:
    def check(value: Any, where: str) -> None:
        assert isinstance(value, dict), f"{where}: {value!r} is no object"
        for key, entry in value.items():
            item(entry, f"{where}.{key}")

    return check


def shape(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    def check(value: Any, where: str) -> None:
        assert isinstance(value, dict), f"{where}: {value!r} is no object"
        for key, inner in required.items():
            assert key in value, f"{where}.{key} is missing"
            inner(value[key], f"{where}.{key}")
        for key, inner in (optional or {}).items():
            if key in value:
                inner(value[key], f"{where}.{key}")

    return check


anything: Check = lambda value, where: None  # noqa: E731
reply = shape({}, {"header": text, "title": text, "subtitle": text, "buttonLabel": text, "imageUrl": text})
quick_reply = shape({"text": text, "payload": text}, {"action": one_of("Message"), "image": text})
action = shape({"type": one_of("Link", "Postback"), "text": text}, {"url": text, "payload": text})
card = shape(
    {"title": text, "actions": list_of(action), "description": text},
    {"image": text, "video": text, "defaultAction": action},
)
button = shape(
    {
        "type": one_of("Button", "QuickReply", "DatePicker", "ListPicker", "Form"),
        "text": text,
        "payload": text,
    },
    {"originatingMessageId": text},
)
moment = shape({"dateTime": text, "duration": whole})
section = shape(
    {"title": text, "multipleSelection": flag, "items": list_of(shape({"id": text, "title": text}, {"subtitle": text}))}
)
form_input = shape({"id": text, "isRequired": flag, "isMultipleLine": flag})
component = shape(
    {"formComponentType": one_of("DatePicker", "Input", "ListPicker", "WheelPicker")}, {"input": form_input}
)
outbound_form = shape(
    {"cannedResponseId": text},
    {
        "introduction": shape({"title": text, "buttonText": text}),
        "formPages": list_of(shape({"title": text, "subtitle": text, "pageComponents": list_of(component)})),
        "showSummary": flag,
        "receivedMessage": reply,
        "replyMessage": reply,
    },
)
inbound_form = shape(
    {"response": list_of(shape({"id": text, "component": shape({"buttonResponse": button})}))},
    {"originatingMessageId": text, "cannedResponseId": text},
)
CONTENT: dict[str, tuple[str, Check]] = {
    "Attachment": (
        "attachment",
        shape(
            {
                "mediaType": one_of("Image", "Video", "Audio", "File", "Link"),
                "id": text,
                "url": text,
                "filename": text,
            },
            {"fileSize": whole, "mime": text, "sha256": text, "text": text},
        ),
    ),
    "QuickReply": ("quickReply", quick_reply),
    "QuickReplyV2": ("quickReplyV2", shape({"title": text, "actions": list_of(quick_reply)})),
    "ButtonResponse": ("buttonResponse", button),
    "Card": ("card", card),
    "Carousel": ("carousel", shape({"cards": list_of(card, 1)})),
    "DatePicker": ("datePicker", shape({"title": text}, {"subtitle": text, "availableTimes": list_of(moment)})),
    "ListPicker": (
        "listPicker",
        shape({"sections": list_of(section), "receivedMessage": reply, "replyMessage": reply}),
    ),
    "Form": ("form", lambda v, w: inbound_form(v, w) if "response" in v else outbound_form(v, w)),
    "GenericTemplate": ("generic", shape({"title": text})),
}
HISTORIC = {
    "Attachment", "QuickReply", "ButtonResponse", "GenericTemplate", "Card", "Carousel", "DatePicker", "ListPicker",
}  # fmt: skip


def content(value: Any, where: str) -> None:
    shape({"contentType": one_of(*CONTENT)})(value, where)
    key, check = CONTENT[value["contentType"]]
    shape({key: check})(value, where)


def event(value: Any, where: str) -> None:
    shape({"eventType": one_of("Typing", "Presence", "CoBrowse", "Video")})(value, where)
    if value["eventType"] == "Typing":
        shape({"typing": shape({"type": one_of("On")}, {"duration": whole})})(value, where)
    if value["eventType"] == "Presence":
        # the four presences every client decodes (§6.5)
        shape({"presence": shape({"type": one_of("Join", "Disconnect", "Clear", "SignIn")})})(value, where)


person = shape({}, {"firstName": text, "lastName": text, "nickname": text, "image": text})
channel = shape(
    {"time": matching(TIME), "from": person, "to": person},
    {"messageId": matching(UUID), "metadata": shape({"customAttributes": map_of(text)})},
)
message = shape(
    {
        "id": matching(MESSAGE_ID),
        "type": one_of("Text", "Structured", "Event"),
        "direction": one_of("Inbound", "Outbound"),
        "channel": channel,
        "metadata": map_of(text),
    },
    {
        "text": text,
        "content": list_of(content),
        "events": list_of(event, 1),
        "originatingEntity": one_of("Human", "Bot"),
    },
)


def structured_message(value: Any, where: str) -> None:
    message(value, where)
    shape({"channel": shape({"type": one_of("Private", "Public")})})(value, where)
    assert (value["type"] == "Event") == ("events" in value), f"{where}: type and events disagree"
    if value["direction"] == "Inbound":
        assert "originatingEntity" not in value, f"{where}: a guest's echo names no entity"
        assert "messageId" in value["channel"], f"{where}: a guest's echo has channel.messageId"
    else:
        assert "originatingEntity" in value, f"{where}: who says it?"


media = shape({"inbound": shape({"fileTypes": list_of(shape({"type": text})), "maxFileSizeKB": whole})})
limits: dict[str, Check] = {"allowedMedia": media, "maxCustomDataBytes": whole, "blockedExtensions": list_of(text)}
failure: dict[str, Check] = {"errorCode": whole, "errorMessage": text}
BODIES: dict[str, Check] = {
    "string": text,
    "SessionResponse": shape(
        {
            "connected": flag, "newSession": flag, "readOnly": flag, "clearedExistingSession": flag, **limits,
            "durationSeconds": whole, "expirationDate": whole,
        }
    ),
    "StructuredMessage": structured_message,
    "PresignedUrlResponse": shape(
        {"attachmentId": text, "headers": map_of(text), "url": text},
        {"fileName": text, "fileSize": whole, "fileType": text},
    ),
    "AttachmentDeletedResponse": shape({"attachmentId": text}),
    "UploadSuccessEvent": shape({"attachmentId": text, "downloadUrl": text, "timestamp": matching(TIME)}),
    "UploadFailureEvent": shape({"attachmentId": text, **failure, "timestamp": matching(TIME)}),
    "ConnectionClosedEvent": shape({}, {"reason": text, "reasonCode": text}),
    "LogoutEvent": shape({}),
    "SessionExpiredEvent": shape({}),
    "SessionClearedEvent": shape({}),
    "JwtResponse": shape({"jwt": text, "exp": whole}),
    "GetConfigurationResponse": shape({**limits, "messageRoutingEnabled": flag}, {"sessionDurationSeconds": whole}),
    "GenerateUrlError": shape({"name": text, "message": text, **failure}, {"attachmentId": text}),
    "TooManyRequestsErrorMessage": shape({"retryAfter": whole, **failure, "name": text, "message": text}),
}  # fmt: skip
#: class -> the `type`s it may have; a class that is not listed is a `response`
PUSHED = {
    "StructuredMessage": ("message", "response"), "SessionExpiredEvent": ("message", "response"),
    "UploadSuccessEvent": ("message",), "UploadFailureEvent": ("message",), "AttachmentDeletedResponse": ("message",),
    "ConnectionClosedEvent": ("message",), "LogoutEvent": ("message",), "SessionClearedEvent": ("message",),
    "GenerateUrlError": ("message",),
}  # fmt: skip


def no_nulls(value: Any, where: str) -> None:
    assert value is not None, f"{where} is null"
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        no_nulls(entry, f"{where}.{key}")


def check_frame(frame: Any) -> None:
    """Check one frame of the service. AssertionError names the wrong key."""
    no_nulls(frame, "frame")
    shape({"type": one_of("response", "message"), "class": one_of(*CLASSES), "code": whole}, {"tracingId": text})(
        frame, "frame"
    )
    name = frame["class"]
    assert "body" in frame, f"{name} has no body"
    BODIES[name](frame["body"], name)
    assert frame["type"] in PUSHED.get(name, ("response",)), f"{name} of type {frame['type']}"
    if name == "TooManyRequestsErrorMessage":
        assert frame["code"] == 429
    else:
        assert (frame["code"] == 200) == (name != "string"), f"{name} with code {frame['code']}"
    if name == "StructuredMessage" and frame["body"]["direction"] == "Outbound":
        assert "tracingId" not in frame, "clients would take an Outbound tracingId for the message id (§11.4)"


def check_page(page: Any) -> None:
    """Check one page of history (§7.1)."""
    no_nulls(page, "page")
    shape({"entities": list_of(message), "pageSize": whole, "pageNumber": whole, "total": whole, "pageCount": whole})(
        page, "page"
    )
    for entity in page["entities"]:
        assert entity["status"] == "Sent"
        assert {item["contentType"] for item in entity.get("content", ())} <= HISTORIC
        assert all(event["eventType"] != "Typing" for event in entity.get("events", ()))


def check_error(body: Any, status: int) -> None:
    """Check the error body of REST requests (§7.1)."""
    shape({"message": text, "code": text, "status": one_of(status), "contextId": text, "details": list_of(anything)})(
        body, "error"
    )
