"""Builds the records that guestctl prints from the values of the model (contract.md §4).

Knows: how a value of the model becomes a record. `record_types` defines the members of the records. Must not
know: formats, streams, terminals, colour. Scripts rely on the members; `tests/unit/test_records.py` pins them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from guestctl.core.clock import rfc3339
from guestctl.core.model import (
    Attachment,
    Connection,
    Delivery,
    Event,
    Gap,
    Message,
    Option,
    ParticipantEvent,
    Presence,
    Sender,
    ServiceError,
    Session,
    SessionEvent,
    Typing,
    Unknown,
)
from guestctl.core.values import Json

if TYPE_CHECKING:
    from guestctl.core.errors import Failure
    from guestctl.core.results import Report
    from guestctl.output.record_types import (
        AttachmentRecord,
        ConnectionRecord,
        EndRecord,
        ErrorRecord,
        GapRecord,
        MessageRecord,
        OptionRecord,
        ParticipantEventRecord,
        PresenceRecord,
        ReportRecord,
        SenderRecord,
        SentRecord,
        ServiceErrorRecord,
        SessionEventRecord,
        SessionExportRecord,
        SessionRecord,
        SlowRecord,
        TypingRecord,
        UnknownRecord,
    )

#: Any record. The types of `record_types` are assignable to it.
Record: TypeAlias = Mapping[str, Any]

#: The kinds that `listen --only` accepts.
EVENT_KINDS = (
    "message",
    "typing",
    "presence",
    "receipt",
    "cobrowse",
    "video",
    "reactions",
    "error",
    "connection",
    "session",
    "gap",
    "unknown",
)
#: The kinds that `listen` prints without --only.
USUAL_KINDS = frozenset(EVENT_KINDS) - {"typing", "connection"}


def session_record(session: Session, *, show_token: bool = False) -> SessionRecord:
    """Return a session's record; it has the token only with `show_token`."""
    guest = session.credential("guest")
    record: SessionRecord = {
        "kind": "session",
        "name": session.name,
        "api": session.api,
        "profile": session.profile,
        "ids": cast("Any", {"conversation": None, "guest": None, **session.ids}),
        "state": session.state,
        "new_session": session.new_session,
        "read_only": session.read_only,
        "created_at": _moment(session.created_at),
        "expires_at": _moment(session.expires_at),
        "token_expires_at": _moment(guest.expires_at if guest else None),
    }
    if show_token:
        record["token"] = guest.secret.reveal() if guest else None
    return record


def session_export_record(
    session: Session, *, deployment_id: str | None, addresses: Iterable[str], show_token: bool = False
) -> SessionExportRecord:
    """Return the record of `session export`. It has the tokens only with `show_token`."""
    guest, sign_in = session.credential("guest"), session.credential("sign-in")
    record: SessionExportRecord = {
        "kind": "session-export",
        "api": session.api,
        "deployment_id": deployment_id,
        "addresses": list(addresses),
        "ids": cast("Any", {"conversation": None, "guest": None, **session.ids}),
        "expires_at": _moment(session.expires_at),
        "token_expires_at": _moment(guest.expires_at if guest else None),
    }
    if show_token and guest is not None:
        record["token"] = guest.secret.reveal()
    if show_token and sign_in is not None:
        record["sign_in"] = {
            "token": sign_in.secret.reveal(),
            "refresh_token": sign_in.refresh.reveal() if sign_in.refresh else None,
            "expires_at": _moment(sign_in.expires_at),
        }
    return record


def unreadable_record(name: str, api: str, profile: str) -> SessionRecord:
    """Return the record of a stored session whose stored data cannot be read."""
    empty = session_record(Session(api=api, profile=profile, name=name, new_session=False))
    return {**empty, "state": "unreadable", "created_at": None}


def ended_record(session: Session, report: ReportRecord) -> SessionRecord:
    """Return the record of `session end` and `session clear`: the session, and its report."""
    return {**session_record(session), "report": report}


def resumed_record(session: Session, missed: Iterable[Record]) -> SessionRecord:
    """Return the record of `resume`: the session, and the records of what followed the last message shown."""
    return {**session_record(session), "missed": [cast("MessageRecord", record) for record in missed]}


def message_record(message: Message, session: str, *, raw: bool = False) -> MessageRecord:
    """Return a message's record. `raw` adds the service's own object, its secrets masked."""
    record: MessageRecord = {
        "kind": "message",
        "id": message.id,
        "key": message.key,
        "session": session,
        "direction": message.direction,
        "from": _sender(message.sender),
        "text": message.text,
        "time": message.time,
        "source": message.source,
        "content": cast("list[Any]", _masked(message.content)),
        "options": [_option(option) for option in message.options],
        "attachments": [_attachment(attachment) for attachment in message.attachments],
    }
    if raw:
        record["raw"] = _masked(message.raw)
    return record


def sent_record(
    message: Message | None,
    *,
    session: str,
    key: str,
    text: str,
    delivery: Delivery,
    reply: Message | None = None,
    awaited: bool = False,
    raw: bool = False,
) -> SentRecord:
    """Return the record of a send: the message with its delivery.

    A message that was not accepted has no id. The record has a `reply` only if one was awaited.
    """
    if message is None:
        message = Message(id="", direction="inbound", text=text, time=None, key=key, sender=Sender("guest"))
    record = cast("SentRecord", {**message_record(message, session, raw=raw), "delivery": delivery})
    record["id"] = record["id"] or None
    record["key"] = record["key"] or key
    if awaited:
        record["reply"] = None if reply is None else message_record(reply, session, raw=raw)
    return record


def event_record(event: Event, session: str, *, at: str, raw: bool = False) -> Record:
    """Return the record of an event. `at` is the time of an event that carries none of its own."""
    if isinstance(event, Message):
        return message_record(event, session, raw=raw)
    record = _EVENTS[type(event)](event, session, at)
    return {**record, "raw": _masked(getattr(event, "raw", None))} if raw else record


def stream_record(
    event: Event, session: str, *, now: Callable[[], str], masked: Callable[[str], str], raw: bool = False
) -> Record:
    """Return the record of an event as `listen` prints it.

    `masked` masks secrets in a text: the service may repeat one that guestctl sent.
    """
    # A message carries its own time, and formatting the current one for each message would cost time.
    if isinstance(event, Message):
        return event_record(event, session, at="", raw=raw)
    record = dict(event_record(event, session, at=now(), raw=raw))
    for name in ("detail", "reason", "label"):
        if record.get(name):
            record[name] = masked(record[name])
    return record


def relay_gap_record(
    session: str, *, at: str, first_missing: str | None, last_missing: str | None, reason: str
) -> GapRecord:
    """Return the gap of a relay whose log no longer has the events from `first_missing` to `last_missing`."""
    return {
        "kind": "gap",
        "session": session,
        "after": None,
        "before": None,
        "reason": reason,
        "time": at,
        "first_missing": first_missing,
        "last_missing": last_missing,
    }


def relay_slow_record(session: str, *, at: str, resume_after: str) -> SlowRecord:
    """Return the last record of a relay's reader that has fallen behind."""
    return {"kind": "slow", "session": session, "resume_after": resume_after, "time": at}


def relay_end_record(session: str, *, at: str, resume_after: str, code: str | None, reason: str) -> EndRecord:
    """Return the last record of every reader: the relay stops, or the session has ended with the failure `code`."""
    return {
        "kind": "end",
        "session": session,
        "resume_after": resume_after,
        "code": code,
        "reason": reason,
        "time": at,
    }


def report_record(report: Report) -> ReportRecord:
    """Return the record of `session report`: a session's duration and activity."""
    return {
        "kind": "report",
        "session": report.session.name,
        "api": report.session.api,
        "state": report.session.state,
        "duration_ms": report.duration_ms,
        "activity": [
            {"timestamp": rfc3339(line.at), "event": line.event, "details": dict(line.details)} for line in report.log
        ],
    }


def error_record(failure: Failure) -> ErrorRecord:
    """Return a failure as the JSON object on stderr (contract.md §5)."""
    return {
        "error": {
            "code": failure.code,
            "exit": int(failure.exit),
            "message": failure.message,
            "hint": failure.hint,
            "api": failure.api,
            "http_status": failure.http_status,
            "service_code": failure.service_code,
            "retry_after": failure.retry_after,
            "body": failure.body,
        }
    }


def _typing(event: Typing, session: str, at: str) -> TypingRecord:
    return {
        "kind": "typing",
        "session": session,
        "from": _sender(event.sender),
        "duration_ms": event.duration,
        "time": event.time or at,
    }


def _presence(event: Presence, session: str, at: str) -> PresenceRecord:
    return {
        "kind": "presence",
        "id": event.id,
        "key": event.key,
        "session": session,
        "direction": event.direction,
        "from": _sender(event.sender),
        "presence": event.presence,
        "read_only": event.read_only,
        "time": event.time or at,
        "source": event.source,
    }


def _participant_event(event: ParticipantEvent, session: str, at: str) -> ParticipantEventRecord:
    return {
        "kind": event.kind,
        "id": event.id,
        "session": session,
        "direction": event.direction,
        "from": _sender(event.sender),
        "status": event.status,
        "details": _masked(dict(event.details)),
        "time": event.time or at,
    }


def _service_error(event: ServiceError, session: str, at: str) -> ServiceErrorRecord:
    return {"kind": "error", "session": session, "code": event.code, "message": event.message, "time": at}


def _session_event(event: SessionEvent, session: str, at: str) -> SessionEventRecord:
    return {"kind": "session", "session": session, "change": event.change, "reason": event.reason, "time": at}


def _connection(event: Connection, session: str, at: str) -> ConnectionRecord:
    return {
        "kind": "connection",
        "session": session,
        "state": event.state,
        "detail": event.detail,
        "attempt": event.attempt,
        "delay": event.delay,
        "close_code": event.close_code,
        "recovered": event.recovered,
        "time": at,
    }


def _gap(event: Gap, session: str, at: str) -> GapRecord:
    return {
        "kind": "gap",
        "session": session,
        "after": event.after,
        "before": event.before,
        "reason": event.reason,
        "time": at,
    }


def _unknown(event: Unknown, session: str, at: str) -> UnknownRecord:
    return {"kind": "unknown", "session": session, "label": event.label, "time": at}


_EVENTS = cast(
    "Mapping[type[Event], Callable[[Event, str, str], Record]]",
    {
        Typing: _typing,
        Presence: _presence,
        ParticipantEvent: _participant_event,
        ServiceError: _service_error,
        SessionEvent: _session_event,
        Connection: _connection,
        Gap: _gap,
        Unknown: _unknown,
    },
)


def _sender(sender: Sender) -> SenderRecord:
    return {"role": sender.role, "name": sender.name}


def _option(option: Option) -> OptionRecord:
    return {
        "text": option.text,
        "payload": option.payload,
        "kind": option.kind,
        "url": option.url,
        "group": option.group,
    }


def _attachment(attachment: Attachment) -> AttachmentRecord:
    """Leave out the address: it may be a presigned secret. `guestctl download ID` fetches the file."""
    return {
        "id": attachment.id,
        "name": attachment.name,
        "mime": attachment.mime,
        "size": attachment.size,
        "media_type": attachment.media_type,
    }


def _moment(epoch: float | None) -> str | None:
    return None if not epoch else rfc3339(epoch)


def _masked(value: Json) -> Json:
    if not value:
        return list(value) if isinstance(value, tuple) else value
    from guestctl.core.redact import Redactor

    return Redactor().value(value)
