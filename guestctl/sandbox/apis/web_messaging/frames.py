"""The frames of web-messaging: checks of guests' frames, and the frames that answer them.

Knows: the members of both, and the text of each error (web-messaging.md §4, §5, §6, §8). Must not know: sessions,
sockets, REST. Does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from guestctl.sandbox.service_state import Item, SandboxDeployment, StoredMessage, dumps

Frame: TypeAlias = Mapping[str, Any]

FEATURE_OFF = "Turn on the Feature Toggle or fix the configuration."
SIGN_IN_AGAIN = "Session authentication failed. Try to authenticate again."
_BUTTONS = ("Button", "QuickReply", "DatePicker", "ListPicker", "Form")
_TYPES = {"text": "Text", "structured": "Structured", "event": "Event"}
_ENTITIES = {"bot": "Bot", "agent": "Human", "system": "Bot"}


class GuestError(Exception):
    """An error that is answered with a frame of the class `string` (§8)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def envelope(name: str, body: Any, tracing: str | None = None, *, code: int = 200, type: str = "response") -> str:
    """Return a frame with its envelope (§4.2)."""
    frame = {"type": type, "class": name, "code": code, "body": body}
    if tracing is not None:
        frame["tracingId"] = tracing
    return dumps(frame)


def body_of(message: StoredMessage, shown: Callable[[Item], Item]) -> dict[str, Any]:
    """Return a message as frames and history show it (§6.3, §11.4). `shown` completes each content item."""
    inbound = message.direction == "inbound"
    body: dict[str, Any] = {"id": message.id, "type": _TYPES[message.kind]}
    if message.text is not None:
        body["text"] = message.text
    body["direction"] = "Inbound" if inbound else "Outbound"
    if not inbound:
        body["originatingEntity"] = _ENTITIES[message.role]
    body["channel"] = channel(message.time, message.id if inbound else None, sender(message))
    if message.attributes:
        body["channel"]["metadata"] = {"customAttributes": message.attributes}
    if message.content:
        body["content"] = [shown(item) for item in message.content]
    if message.events:
        body["events"] = message.events
    body["metadata"] = {**message.metadata, "correlationId": dashed(message.id)}
    return body


def limits(deployment: SandboxDeployment) -> dict[str, Any]:
    types = [{"type": type} for type in deployment.file_types] if deployment.attachments else []
    return {
        "maxCustomDataBytes": deployment.attributes_limit,
        "allowedMedia": {"inbound": {"fileTypes": types, "maxFileSizeKB": deployment.max_file_kb}},
        "blockedExtensions": list(deployment.blocked_extensions),
    }


def channel(time: str, identifier: str | None, sender: Mapping[str, str] | None = None) -> dict[str, Any]:
    channel: dict[str, Any] = {"time": time, "type": "Private", "from": sender or {}, "to": {}}
    if identifier is not None:
        channel["messageId"] = dashed(identifier[::-1])
    return channel


def dashed(x: str) -> str:
    """Return 32 hexadecimal digits as a UUID. All ids of a message derive from one, so each copy shows the same."""
    return f"{x[:8]}-{x[8:12]}-{x[12:16]}-{x[16:20]}-{x[20:]}"


def sender(message: StoredMessage) -> dict[str, str]:
    if message.name is None:
        return {}
    if message.role != "guest":
        return {"nickname": message.name}
    first, _, last = message.name.partition(" ")
    return {"firstName": first, "lastName": last}


def is_typing(frame: Frame) -> bool:
    message = frame.get("message") if frame.get("action") == "onMessage" else None
    events = message.get("events") if isinstance(message, dict) else None
    return (
        isinstance(events, list)
        and bool(events)
        and isinstance(events[0], dict)
        and (events[0].get("eventType") == "Typing")
    )


def part(holder: Frame, name: str) -> Mapping[str, Any]:
    """Return an optional object. Raises GuestError."""
    value = holder.get(name, {})
    if not isinstance(value, dict):
        raise GuestError(400, f"{name} is not an object")
    return value


def check_optional(frame: Frame) -> None:
    """Check the optional members of a request. Raises GuestError."""
    for name in ("tracingId", "time", "resumeToken"):
        if not isinstance(frame.get(name, ""), str):
            raise GuestError(400, f"{name} is not a string")
    for name in ("channel", "journeyContext"):
        part(frame, name)


def string_map(value: Any, name: str) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(entry, str) for entry in value.values()):
        raise GuestError(400, f"{name} is not a map of strings")
    return value


def custom_attributes(holder: Frame) -> Mapping[str, str]:
    """Return `channel.metadata.customAttributes`. Raises GuestError."""
    given = part(part(holder, "channel"), "metadata").get("customAttributes")
    return string_map(given, "customAttributes")


def button(body: Any) -> dict[str, str]:
    """Return the known keys of a button response. Raises GuestError."""
    if not isinstance(body, dict) or body.get("type") not in _BUTTONS:
        raise GuestError(400, f"buttonResponse.type is not one of {', '.join(_BUTTONS)}")
    if not isinstance(body.get("text"), str) or not isinstance(body.get("payload"), str):
        raise GuestError(400, "buttonResponse needs text and payload")
    return _strings(body, "type", "text", "payload", "originatingMessageId", "id")


def form(body: Any) -> dict[str, Any]:
    """Return the known keys of a submitted form. Raises GuestError."""
    answers = body.get("response") if isinstance(body, dict) else None
    if not isinstance(answers, list):
        raise GuestError(400, "form.response is missing")
    fields = []
    for answer in answers:
        component = answer.get("component") if isinstance(answer, dict) else None
        if not isinstance(component, dict) or not isinstance(answer.get("id"), str):
            raise GuestError(400, "a form response needs id and component")
        response = {"contentType": "ButtonResponse", "buttonResponse": button(component.get("buttonResponse"))}
        fields.append({"id": answer["id"], "component": response})
    return {**_strings(body, "originatingMessageId", "cannedResponseId"), "response": fields}


def _strings(body: Mapping[str, Any], *keys: str) -> dict[str, str]:
    return {key: body[key] for key in keys if isinstance(body.get(key), str)}


def label(content: Sequence[Item]) -> str | None:
    """Return the texts of buttons, for a message without text."""
    texts = [item["buttonResponse"]["text"] for item in content if "buttonResponse" in item]
    return ", ".join(texts) or None


def media_type(mime: str) -> str:
    return {"image": "Image", "audio": "Audio", "video": "Video"}.get(mime.partition("/")[0].lower(), "File")
