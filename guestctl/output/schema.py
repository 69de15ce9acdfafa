"""JSON Schema (2020-12) of every record kind, for `guestctl schema [KIND]`.

Knows: the promised shapes, written out by hand a second time. Must not know: the values or how
`records` builds them; the two are compared only by tests.

Records are open: a later version may add members, so consumers must ignore what they do not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TEXT: Schema = {"type": "string"}
_MAYBE_TEXT: Schema = {"type": ["string", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_MAYBE_COUNT: Schema = {"type": ["integer", "null"]}
_MAYBE_NUMBER: Schema = {"type": ["number", "null"]}
_FLAG: Schema = {"type": "boolean"}
_TIME_PATTERN = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$"
_MOMENT: Schema = {"type": "string", "pattern": _TIME_PATTERN, "description": "RFC 3339 UTC with milliseconds"}
_MAYBE_MOMENT: Schema = {**_MOMENT, "type": ["string", "null"]}
_ANYTHING: Schema = {"description": "the service's own object, secrets masked; only with --raw"}


def _choice(*values: str | None) -> Schema:
    return {"enum": list(values)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(members: Mapping[str, Schema], *, optional: Mapping[str, Schema] | None = None) -> Schema:
    return {"type": "object", "properties": {**members, **(optional or {})}, "required": list(members)}


def _record(
    kind: str, title: str, members: Mapping[str, Schema], *, optional: Mapping[str, Schema] | None = None
) -> Schema:
    return {"title": title, **_object({"kind": {"const": kind}, **members}, optional=optional)}


_SENDER = _object({"role": _choice("guest", "bot", "agent", "system", None), "name": _MAYBE_TEXT})
_DIRECTION = _choice("inbound", "outbound")
_SOURCE = _choice("live", "history", "replayed")
_OPTION = _object({"text": _TEXT, "payload": _TEXT, "kind": _TEXT, "url": _MAYBE_TEXT, "group": _MAYBE_TEXT})
_ATTACHMENT = _object(
    {"id": _MAYBE_TEXT, "name": _MAYBE_TEXT, "mime": _MAYBE_TEXT, "size": _MAYBE_COUNT, "media_type": _MAYBE_TEXT}
)
_RAW = {"raw": _ANYTHING}

_MESSAGE_MEMBERS: dict[str, Schema] = {
    "id": {**_MAYBE_TEXT, "description": "the service's id; null only for a send that was not accepted"},
    "key": {**_MAYBE_TEXT, "description": "the client's own id of a guest message"},
    "session": _TEXT,
    "direction": {**_DIRECTION, "description": "the platform's view: guest to platform is inbound"},
    "from": _SENDER,
    "text": _TEXT,
    "time": _MAYBE_MOMENT,
    "source": _SOURCE,
    "content": {"type": "array", "description": "the service's structured parts, as sent"},
    "options": _list(_OPTION),
    "attachments": _list(_ATTACHMENT),
}
_SESSION_MEMBERS: dict[str, Schema] = {
    "name": _TEXT,
    "api": _TEXT,
    "profile": _TEXT,
    "ids": {
        **_object({"conversation": _MAYBE_TEXT, "guest": _MAYBE_TEXT}),
        "additionalProperties": _MAYBE_TEXT,
    },
    "state": {
        **_choice("draft", "active", "read_only", "ended", "expired", "cleared", "evicted", "unreadable"),
        "description": "unreadable: only of session forget, when the stored record could not be read",
    },
    "new_session": _FLAG,
    "read_only": _FLAG,
    "created_at": _MAYBE_MOMENT,
    "expires_at": _MAYBE_MOMENT,
    "token_expires_at": _MAYBE_MOMENT,
}
_MESSAGE = _record("message", "A message", _MESSAGE_MEMBERS, optional=_RAW)

SCHEMAS: dict[str, Schema] = {
    "session": _record(
        "session",
        "A session, of session create, list, show, use, end, clear, forget, resume and refresh-token",
        _SESSION_MEMBERS,
        optional={
            "token": {**_MAYBE_TEXT, "description": "only with session show --show-token"},
            "missed": {**_list(_MESSAGE), "description": "only of resume: messages since the last line seen"},
        },
    ),
    "message": _MESSAGE,
    "sent": _record(
        "message",
        "What became of a send: the message with its delivery",
        {**_MESSAGE_MEMBERS, "delivery": _choice("accepted", "rejected", "not_sent", "in_doubt")},
        optional={
            "reply": {"anyOf": [_MESSAGE, {"type": "null"}], "description": "only with --wait or --expect"},
            **_RAW,
        },
    ),
    "typing": _record(
        "typing",
        "Somebody is typing",
        {"session": _TEXT, "from": _SENDER, "duration_ms": _MAYBE_COUNT, "time": _MOMENT},
        optional=_RAW,
    ),
    "presence": _record(
        "presence",
        "Join, Disconnect, SignIn … as the platform spells it",
        {
            "id": _MAYBE_TEXT,
            "key": _MAYBE_TEXT,
            "session": _TEXT,
            "direction": _DIRECTION,
            "from": _SENDER,
            "presence": _TEXT,
            "read_only": _FLAG,
            "time": _MOMENT,
            "source": _SOURCE,
        },
        optional=_RAW,
    ),
    "session-event": _record(
        "session",
        "Something happened to the session as a whole (a record of kind session with `change`)",
        {
            "session": _TEXT,
            "change": _choice(
                "read_only",
                "expired",
                "cleared",
                "evicted",
                "signed_in",
                "logged_out",
                "ended",
                "expiring",
                "new",
                "token_expired",
            ),
            "reason": _MAYBE_TEXT,
            "time": _MOMENT,
        },
        optional=_RAW,
    ),
    "connection": _record(
        "connection",
        "The state of our own connection; in the stream only with --only connection",
        {
            "session": _TEXT,
            "state": _choice("connecting", "live", "lost", "retrying", "gave_up"),
            "detail": _MAYBE_TEXT,
            "attempt": _COUNT,
            "delay": {**_MAYBE_NUMBER, "description": "seconds before the next attempt"},
            "close_code": _MAYBE_COUNT,
            "recovered": {**_MAYBE_COUNT, "description": "messages fetched from history after a reconnect"},
            "time": _MOMENT,
        },
        optional=_RAW,
    ),
    "gap": _record(
        "gap",
        "Contiguity between two message ids could not be proved",
        {"session": _TEXT, "after": _MAYBE_TEXT, "before": _MAYBE_TEXT, "reason": _TEXT, "time": _MOMENT},
        optional=_RAW,
    ),
    "unknown": _record(
        "unknown",
        "A frame or event guestctl does not know",
        {"session": _TEXT, "label": _TEXT, "time": _MOMENT},
        optional=_RAW,
    ),
    "error": {
        "title": "A failure, on stderr when the output is JSON",
        **_object(
            {
                "error": _object(
                    {
                        "code": _TEXT,
                        "exit": {"type": "integer"},
                        "message": _TEXT,
                        "hint": _TEXT,
                        "api": _MAYBE_TEXT,
                        "http_status": _MAYBE_COUNT,
                        "service_code": {"type": ["string", "integer", "null"]},
                        "retry_after": {**_MAYBE_NUMBER, "description": "seconds"},
                        "body": _MAYBE_TEXT,
                    }
                )
            }
        ),
    },
    "token": _record(
        "token",
        "What token inspect found; never the token itself, and never verified",
        {
            "form": _choice("jwt", "opaque"),
            "verified": {"const": False},
            "header": {"type": "object"},
            "claims": {"type": "object"},
            "issued_at": _MAYBE_MOMENT,
            "expires_at": _MAYBE_MOMENT,
            "seconds_left": _MAYBE_COUNT,
            "expired": {"type": ["boolean", "null"]},
            "problems": _list(_TEXT),
        },
    ),
    "report": _record(
        "report",
        "What session report tells: how long a session has lasted and what happened",
        {
            "session": _TEXT,
            "api": _TEXT,
            "state": _TEXT,
            "duration_ms": _COUNT,
            "activity": _list(_object({"timestamp": _MOMENT, "event": _TEXT, "details": {"type": "object"}})),
        },
    ),
    "profile": _record(
        "profile",
        "A profile, of profile list, show, add and use",
        {"name": _TEXT},
        optional={
            "default": {**_FLAG, "description": "list: whether it is the file's default"},
            "api": {**_TEXT, "description": "list"},
            "address": {**_MAYBE_TEXT, "description": "list"},
            "values": {
                "type": "object",
                "additionalProperties": _object({"value": {}, "origin": _TEXT}),
                "description": "show: each value as it takes effect, and where it came from",
            },
            "change": {**_choice("added", "default"), "description": "add, use"},
            "path": {**_TEXT, "description": "add, use: the file that was changed"},
        },
    ),
    "profile-path": _record(
        "profile-path", "Where the profile file is, and why there", {"path": _TEXT, "origin": _TEXT, "exists": _FLAG}
    ),
    "profile-check": _record(
        "profile-check",
        "A profile file that is in order",
        {"path": _TEXT, "profiles": _list(_TEXT), "warnings": _list(_TEXT)},
    ),
    "download": _record("download", "A saved attachment", {"id": _TEXT, "path": _TEXT, "size": _COUNT}),
    "guest": _record(
        "guest", "Attributes merged into the guest's profile", {"session": _TEXT, "attributes": {"type": "object"}}
    ),
    "sandbox": _record(
        "sandbox",
        "What a sandbox command did",
        {},
        optional={
            "pushed": {**_COUNT, "description": "push: to how many sessions"},
            "specs": {**_list(_TEXT), "description": "fault: what is armed now"},
            "ended": {**_COUNT, "description": "disconnect: how many conversations"},
            "expired": {**_COUNT, "description": "expire: how many sessions"},
        },
    ),
    "sandbox-session": _record(
        "sandbox-session",
        "A session as the sandbox saw it",
        {
            "id": _TEXT,
            "api": _TEXT,
            "state": _TEXT,
            "created_at": _MOMENT,
            "sockets": _COUNT,
            "refreshes": _COUNT,
            "configures": _COUNT,
            "requests": {"type": "object", "additionalProperties": _COUNT},
            "messages": _list(
                _object({"id": _TEXT, "key": _MAYBE_TEXT, "direction": _DIRECTION, "text": _MAYBE_TEXT, "time": _TEXT})
            ),
        },
    ),
    "demo": _record("demo", "One line of the tour", {"text": _TEXT}),
    "step": _record(
        "step",
        "Something a command would send, of --print-frames",
        {
            "step": _choice("connect", "frame", "request"),
            "method": _MAYBE_TEXT,
            "url": _MAYBE_TEXT,
            "headers": {"type": "object", "additionalProperties": _TEXT},
            "body": {"description": "the frame, or the request's body; null without one"},
        },
    ),
    "doctor": _record(
        "doctor",
        "One check of doctor",
        {
            "check": _TEXT,
            "target": {**_MAYBE_TEXT, "description": "the host, Origin, session or address that was checked"},
            "result": _choice("ok", "warning", "failed", "skipped"),
            "found": _TEXT,
            "failure": {**_MAYBE_TEXT, "description": "the stable failure code, for explain"},
            "fix": _MAYBE_TEXT,
            "took_ms": _MAYBE_NUMBER,
            "details": {"type": "object"},
        },
    ),
    "explanation": _record(
        "explanation",
        "What a code or a message means, of explain",
        {
            "code": _TEXT,
            "type": _choice(
                "exit code", "failure", "HTTP status", "close code", "service code", "frame class", "message"
            ),
            "meaning": _TEXT,
            "cause": _MAYBE_TEXT,
            "guestctl": {**_MAYBE_TEXT, "description": "what guestctl does about it"},
            "next_step": _MAYBE_TEXT,
            "failure": {**_MAYBE_TEXT, "description": "the stable failure code it ends with"},
            "exit": {**_MAYBE_COUNT, "description": "the exit code it ends with"},
            "apis": {**_list(_TEXT), "description": "the APIs it belongs to; empty: all"},
            "source": _TEXT,
        },
    ),
    "api": _record(
        "api",
        "One API family and what a guest can do there",
        {
            "name": _TEXT,
            "summary": _TEXT,
            "operations": {"type": "object", "additionalProperties": _choice("documented", "assumed", None)},
            "fields": _list(_TEXT),
        },
    ),
}


def document(kind: str) -> Schema:
    """The schema of one kind as a document of its own. Raises KeyError."""
    return {"$schema": DIALECT, **SCHEMAS[kind]}


def documents() -> Schema:
    """All of them, under `$defs`."""
    return {"$schema": DIALECT, "title": "guestctl records", "$defs": SCHEMAS}
