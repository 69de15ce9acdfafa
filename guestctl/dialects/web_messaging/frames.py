"""The frames of web-messaging: how requests are written and what received frames mean.

Knows: web-messaging.md §4.2, §6 and §8. Must not know: which request comes when, sockets, the clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from guestctl.core.errors import Unreadable
from guestctl.core.model import (
    Message,
    ParticipantEvent,
    ParticipantEventKind,
    Presence,
    Secret,
    Sender,
    Session,
    SessionChange,
    SessionEvent,
    Source,
    Typing,
    Unknown,
)
from guestctl.core.values import Json
from guestctl.core.wire import (
    Frame,
    count,
    duration,
    epoch_seconds,
    identifier,
    integer,
    load_json,
    optional,
    optional_identifier,
    required,
)
from guestctl.dialects.base import normalised_time, other_frame
from guestctl.dialects.flows import Alive, FlowAnswer, Granted, Incoming, Opened, Rejection
from guestctl.dialects.web_messaging.content import read_attachments, read_options
from guestctl.dialects.web_messaging.error_codes import NAME, RATE_LIMIT_CODES, service_failure

#: The id that marks a health check: base64 of `HealthCheckMessageId`, the vendor's convention (§5.7).
HEALTH_CHECK = "SGVhbHRoQ2hlY2tNZXNzYWdlSWQ="

#: How long a typing indicator lasts without a `duration` of its own (§6.5).
TYPING_MILLISECONDS = 5000

#: Frames that only report a change of the session.
SESSION_EVENTS: Mapping[str, SessionChange] = {
    "SessionExpiredEvent": "expired",
    "SessionClearedEvent": "cleared",
    "ConnectionClosedEvent": "evicted",
    "LogoutEvent": "logged_out",
}

# --- requests ---


def request_frame(action: str, session: Session, tracing_id: str) -> dict[str, Any]:
    """Return the members that every request has. Its answer repeats `tracing_id`."""
    return {"action": action, "token": session.token(), "tracingId": tracing_id}


def event_frame(session: Session, tracing_id: str, event: Mapping[str, Json]) -> dict[str, Any]:
    """Return an `onMessage` frame that carries one event instead of a message (§5.4, §5.5)."""
    return {**request_frame("onMessage", session, tracing_id), "message": {"type": "Event", "events": [event]}}


def rejects(incoming: Incoming, key: str) -> bool:
    """Return whether this is an error frame for the request with this tracing id.

    An error frame without a tracing id counts too: guestctl never has two requests waiting on one socket (§8,
    context rule).
    """
    return isinstance(incoming, Rejection) and incoming.reply_to in (key, None)


class AnswerTo:
    """Accepts the answer to a request: a `kind` with its tracing id or without one, or an error frame for it.

    If not `strict`, every error frame is an answer, also one that names another request.
    """

    def __init__(self, frame: Mapping[str, Json], kind: type[Incoming], *, strict: bool = True) -> None:
        self._key, self._kind, self._strict = frame["tracingId"], kind, strict

    def __call__(self, incoming: Incoming) -> bool:
        if isinstance(incoming, Rejection):
            return incoming.reply_to in (self._key, None) or not self._strict
        return isinstance(incoming, self._kind) and getattr(incoming, "reply_to", None) in (self._key, None)


# --- received frames ---


def decode_frame(frame: Frame) -> Sequence[Incoming]:
    """Return what one frame means. A JSON object that is not known becomes `Unknown`.

    Raises Unreadable for anything but a JSON object, and for a known frame without a member that it must have.
    """
    value = load_json(frame.text, "frame")
    if not isinstance(value, dict):
        raise Unreadable(f"frame: expected an object, got {type(value).__name__}", body=frame.text[:200])
    kind = value.get("class")
    body = value.get("body")
    reply_to = optional_identifier(value, "tracingId")
    if kind == "StructuredMessage":
        if not isinstance(body, dict):
            raise Unreadable("StructuredMessage: `body` is missing", body=frame.text[:200])
        return read_structured(body, reply_to, value)
    if isinstance(kind, str) and kind in SESSION_EVENTS:
        detail = body if isinstance(body, dict) else {}
        reason = detail.get("reason") or detail.get("reasonCode")
        return (SessionEvent(SESSION_EVENTS[kind], reason if isinstance(reason, str) else None),)
    code = integer(value.get("code"))
    if not isinstance(kind, str) or code is None:
        return (other_frame(kind or value.get("type"), value, NAME),)
    return (_read_answer(kind, code, body, reply_to, value),)


def _read_answer(kind: str, code: int, body: Json, reply_to: str | None, raw: Json) -> Incoming:
    detail: Mapping[str, Json] = body if isinstance(body, dict) else {}
    if kind == "SessionResponse":
        return Opened(detail, reply_to)
    if kind == "JwtResponse":
        jwt = identifier(detail, "jwt", kind)
        return Granted("history", Secret(jwt), epoch_seconds(required(detail, "exp", (int, float), kind)), reply_to)
    if kind in {"PresignedUrlResponse", "AttachmentDeletedResponse"}:
        return FlowAnswer(kind, detail, reply_to)
    if kind == "UploadSuccessEvent":
        return FlowAnswer(kind, detail, required(detail, "attachmentId", str, kind))
    if kind in {"UploadFailureEvent", "GenerateUrlError"}:
        number = integer(detail.get("errorCode"))
        failure = service_failure(4003 if number is None else number, _error_text(detail, kind))
        if kind == "UploadFailureEvent":  # like its success, it belongs to the attachment, not to a request
            return Rejection(failure, required(detail, "attachmentId", str, kind))
        return Rejection(failure, reply_to or optional(detail, "attachmentId", str))
    if kind == "TooManyRequestsErrorMessage":
        number = integer(detail.get("errorCode"))
        return Rejection(
            service_failure(
                number if number in RATE_LIMIT_CODES else 429,
                str(detail.get("errorMessage") or "too many requests"),
                retry_after=duration(detail.get("retryAfter")),
            ),
            reply_to,
        )
    if code >= 300 and (kind in {"string", "Error", "ErrorMessage"} or not detail):
        text = body if isinstance(body, str) else _error_text(detail, kind)
        number = integer(detail.get("errorCode"))
        return Rejection(service_failure(code if number is None else number, text), reply_to)
    return Unknown(kind, raw)


def _error_text(detail: Mapping[str, Json], kind: str) -> str:
    return str(detail.get("errorMessage") or detail.get("message") or kind)


def read_structured(
    body: dict[str, Json], reply_to: str | None, frame: Json = None, *, source: Source = "live"
) -> tuple[Incoming, ...]:
    """Return what the body of a StructuredMessage means, or an entity in history, which has the same shape
    (§6.3, §7.1). Raises Unreadable."""
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {}
    if reply_to == HEALTH_CHECK or metadata.get("customMessageId") == HEALTH_CHECK:
        return (Alive(reply_to, epoch_seconds(metadata.get("expirationDate"))),)
    inbound = required(body, "direction", str, "StructuredMessage") == "Inbound"
    channel = body.get("channel")
    if not isinstance(channel, dict):
        channel = {}
    time = normalised_time(channel.get("time"))
    sender = _sender(inbound, body.get("originatingEntity"), channel.get("from"))
    key = None
    if inbound:
        key = optional_identifier(metadata, "customMessageId") or reply_to
    if body.get("type") == "Event":
        return _read_events(body, metadata, inbound, sender, time, key, frame, source)
    content = body.get("content")
    items = tuple(content) if isinstance(content, list) else ()
    text = body.get("text")
    if body.get("type") == "Receipt":
        return (_read_receipt(body, inbound, sender, time, frame),)
    if not isinstance(text, (str, type(None))):
        return (Unknown(str(body.get("type")), frame if frame is not None else body),)
    return (
        Message(
            identifier(body, "id", "StructuredMessage"),
            "inbound" if inbound else "outbound",
            text or "",
            time,
            key,
            sender,
            source=source,
            content=items,
            options=read_options(items) if items else (),
            attachments=read_attachments(items) if items else (),
            raw=frame if frame is not None else body,
        ),
    )


def _read_events(
    body: dict[str, Json],
    metadata: dict[str, Json],
    inbound: bool,
    sender: Sender,
    time: str | None,
    key: str | None,
    frame: Json,
    source: Source,
) -> tuple[Incoming, ...]:
    found: list[Incoming] = []
    for event in optional(body, "events", list) or []:
        if not isinstance(event, dict):
            continue
        kind = event.get("eventType")
        detail = event.get("presence" if kind == "Presence" else "typing")
        detail = detail if isinstance(detail, dict) else {}
        if kind == "Typing":
            lasts = count(detail.get("duration"))
            if detail.get("type") == "Off":
                lasts = 0
            found.append(Typing(sender, TYPING_MILLISECONDS if lasts is None else lasts, time))
        elif kind == "Presence":
            read_only = metadata.get("readOnly") == "true"
            found.append(
                Presence(
                    presence=str(detail.get("type") or "Unknown"),
                    direction="inbound" if inbound else "outbound",
                    id=optional_identifier(body, "id"),
                    time=time,
                    sender=sender,
                    key=key,
                    read_only=read_only,
                    source=source,
                )
            )
            if read_only and not inbound:
                found.append(SessionEvent("read_only"))
        elif isinstance(kind, str) and kind in _PARTICIPANT_EVENTS:
            found.append(_read_participant_event(kind, event, body, inbound, sender, time, frame))
        else:
            found.append(Unknown(str(kind), frame if frame is not None else body))
    return tuple(found)


#: Event types and the kinds that guestctl gives them. Their member is the type with a small first letter (§6.5).
_PARTICIPANT_EVENTS: Mapping[str, ParticipantEventKind] = {
    "CoBrowse": "cobrowse",
    "Video": "video",
    "Reactions": "reactions",
}


def _read_participant_event(
    kind: str,
    event: Mapping[str, Json],
    body: Mapping[str, Json],
    inbound: bool,
    sender: Sender,
    time: str | None,
    frame: Json,
) -> ParticipantEvent:
    member = kind[0].lower() + kind[1:]
    detail = event.get(member)
    details = dict(detail) if isinstance(detail, dict) else {member: detail}
    status = details.pop("type", None)
    return ParticipantEvent(
        _PARTICIPANT_EVENTS[kind],
        "inbound" if inbound else "outbound",
        status=status if isinstance(status, str) else None,
        id=optional_identifier(body, "id"),
        time=time,
        sender=sender,
        details=details,
        raw=frame if frame is not None else body,
    )


def _read_receipt(
    body: Mapping[str, Json], inbound: bool, sender: Sender, time: str | None, frame: Json
) -> ParticipantEvent:
    """Return a receipt. It is not a message: its id is that of the message it is about (§6.3)."""
    details = {name: body[name] for name in ("reasons", "isFinalReceipt", "text") if name in body}
    return ParticipantEvent(
        "receipt",
        "inbound" if inbound else "outbound",
        status=optional(body, "status", str),
        id=optional_identifier(body, "id"),
        time=time,
        sender=sender,
        details=details,
        raw=frame if frame is not None else body,
    )


#: Senders without a name.
_GUEST, _BOT, _AGENT, _UNKNOWN = Sender("guest"), Sender("bot"), Sender("agent"), Sender()


def _sender(inbound: bool, entity: Json, origin: Json) -> Sender:
    sender = _GUEST if inbound else _BOT if entity == "Bot" else _AGENT if entity == "Human" else _UNKNOWN
    if not isinstance(origin, dict) or not origin:
        return sender
    parts = [origin.get("nickname")] if origin.get("nickname") else [origin.get("firstName"), origin.get("lastName")]
    name = " ".join(part for part in parts if isinstance(part, str) and part)
    return Sender(sender.role, name) if name else sender
