"""The records' members and their order, pinned by hand: scripts rely on them (contract.md §4)."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from guestctl.core.errors import NEXT_STEPS, Failure, InDoubt, RateLimited
from guestctl.core.model import (
    Attachment,
    Connection,
    Credential,
    Event,
    Gap,
    Message,
    Option,
    ParticipantEvent,
    ParticipantEventKind,
    Presence,
    Secret,
    Sender,
    ServiceError,
    Session,
    SessionEvent,
    Typing,
    Unknown,
)
from guestctl.output.records import (
    error_record,
    event_record,
    message_record,
    resumed_record,
    sent_record,
    session_record,
)
from guestctl.output.schema import SCHEMAS

AT = "2026-03-04T09:15:27.412Z"
DETAILS = {"offeringId": "v", "jwt": "eyJ"}
MESSAGE = Message(
    "9d1f",
    "inbound",
    "Where is my parcel?",
    AT,
    key="b9c7",
    sender=Sender("guest"),
    raw={"id": "9d1f", "token": "t-secret-1"},
)
REPLY = Message(
    "77aa",
    "outbound",
    "Which one?",
    AT,
    sender=Sender("bot", "Parcel bot"),
    content=({"contentType": "QuickReply", "url": "https://x.example/f?X-Amz-Signature=abc&X-Amz-Date=1"},),
    options=(Option("Billing", "billing", "QuickReply"),),
    attachments=(Attachment("a1", "bill.pdf", "application/pdf", 1234, url=Secret("https://s3/secret?sig=1")),),
)
SESSION = Session(
    api="web-messaging",
    profile="staging",
    name="cart",
    state="active",
    created_at=1772615727.412,
    expires_at=1772874927.0,
    credentials={"guest": Credential("guest", Secret("very-secret-token"), None)},
)


def test_session() -> None:
    assert json.dumps(session_record(SESSION), separators=(",", ":")) == (
        '{"kind":"session","name":"cart","api":"web-messaging","profile":"staging",'
        '"ids":{"conversation":null,"guest":null},"state":"active","new_session":true,"read_only":false,'
        '"created_at":"2026-03-04T09:15:27.412Z","expires_at":"2026-03-07T09:15:27.000Z","token_expires_at":null}'
    )


def test_the_token_is_shown_only_on_request() -> None:
    shown = session_record(SESSION, show_token=True)
    assert shown["token"] == "very-secret-token"
    assert list(shown)[-1] == "token"


def test_message() -> None:
    assert json.dumps(message_record(MESSAGE, "default"), separators=(",", ":")) == (
        '{"kind":"message","id":"9d1f","key":"b9c7","session":"default","direction":"inbound",'
        '"from":{"role":"guest","name":null},"text":"Where is my parcel?","time":"2026-03-04T09:15:27.412Z",'
        '"source":"live","content":[],"options":[],"attachments":[]}'
    )


def test_attachments_have_no_addresses() -> None:
    found = message_record(REPLY, "default")
    assert found["options"] == [
        {"text": "Billing", "payload": "billing", "kind": "QuickReply", "url": None, "group": None}
    ]
    assert found["attachments"] == [
        {"id": "a1", "name": "bill.pdf", "mime": "application/pdf", "size": 1234, "media_type": None}
    ]
    assert "Signature=abc" not in json.dumps(found)
    assert found["content"][0]["url"].startswith("https://x.example/f?***")


def test_raw_is_masked() -> None:
    found = message_record(MESSAGE, "default", raw=True)
    assert list(found)[-1] == "raw"
    assert found["raw"]["id"] == "9d1f"
    assert found["raw"]["token"].startswith("***")


def test_sent() -> None:
    plain = sent_record(MESSAGE, session="d", key="b9c7", text="x", delivery="accepted")
    assert list(plain)[-1] == "delivery"
    assert "reply" not in plain
    answered = sent_record(MESSAGE, session="d", key="b9c7", text="x", delivery="accepted", reply=REPLY, awaited=True)
    assert list(answered)[-2:] == ["delivery", "reply"]
    assert answered["reply"] is not None
    assert answered["reply"]["id"] == "77aa"
    assert sent_record(MESSAGE, session="d", key="k", text="x", delivery="accepted", awaited=True)["reply"] is None
    in_doubt = sent_record(None, session="d", key="k1", text="hello", delivery="in_doubt")
    assert (in_doubt["id"], in_doubt["key"], in_doubt["text"], in_doubt["time"]) == (None, "k1", "hello", None)


def test_resumed() -> None:
    found = resumed_record(SESSION, [message_record(REPLY, "d")])
    assert list(found)[-1] == "missed"
    assert found["missed"][0]["kind"] == "message"


EVENTS: list[tuple[Event, str, dict[str, Any]]] = [
    (
        Typing(Sender("agent", "Ann"), 5000),
        "typing",
        {"kind": "typing", "session": "d", "from": {"role": "agent", "name": "Ann"}, "duration_ms": 5000, "time": AT},
    ),
    (
        Presence("Join", "outbound", id="p1", time=AT, sender=Sender("agent")),
        "presence",
        {
            "kind": "presence",
            "id": "p1",
            "key": None,
            "session": "d",
            "direction": "outbound",
            "from": {"role": "agent", "name": None},
            "presence": "Join",
            "read_only": False,
            "time": AT,
            "source": "live",
        },
    ),
    *(
        (
            ParticipantEvent(
                kind, "outbound", "Offering", "e-1", AT, Sender("agent"), {"offeringId": "v", "jwt": "eyJ"}
            ),
            kind,
            {
                "kind": kind,
                "id": "e-1",
                "session": "d",
                "direction": "outbound",
                "from": {"role": "agent", "name": None},
                "status": "Offering",
                "details": {"offeringId": "v", "jwt": Secret("eyJ").placeholder},
                "time": AT,
            },
        )
        for kind in get_args(ParticipantEventKind)
    ),
    (
        ServiceError("quota.reached", "too much"),
        "error-event",
        {"kind": "error", "session": "d", "code": "quota.reached", "message": "too much", "time": AT},
    ),
    (
        SessionEvent("read_only", "Disconnect"),
        "session-event",
        {"kind": "session", "session": "d", "change": "read_only", "reason": "Disconnect", "time": AT},
    ),
    (
        Connection("retrying", attempt=2, delay=1.5, close_code=1006),
        "connection",
        {
            "kind": "connection",
            "session": "d",
            "state": "retrying",
            "detail": None,
            "attempt": 2,
            "delay": 1.5,
            "close_code": 1006,
            "recovered": None,
            "time": AT,
        },
    ),
    (
        Gap("a", "b", "history is shorter"),
        "gap",
        {"kind": "gap", "session": "d", "after": "a", "before": "b", "reason": "history is shorter", "time": AT},
    ),
    (Unknown("Weird", {"x": 1}), "unknown", {"kind": "unknown", "session": "d", "label": "Weird", "time": AT}),
]


@pytest.mark.parametrize(("event", "schema", "shape"), EVENTS, ids=[schema for _, schema, _ in EVENTS])
def test_events(event: Event, schema: str, shape: dict[str, Any]) -> None:
    found = event_record(event, "d", at=AT)
    assert found == shape
    assert list(found) == list(shape)
    assert not faults(found, SCHEMAS[schema])


def test_raw_has_the_whole_unknown_event() -> None:
    assert event_record(Unknown("W", {"x": 1}), "d", at=AT, raw=True)["raw"] == {"x": 1}


def test_error() -> None:
    failure = RateLimited(
        "slow down", api="web-messaging", http_status=429, service_code=4029, retry_after=2.0, body="b"
    )
    assert error_record(failure) == {
        "error": {
            "code": "rate.limited",
            "exit": 7,
            "message": "slow down",
            "hint": NEXT_STEPS["rate.limited"],
            "api": "web-messaging",
            "http_status": 429,
            "service_code": 4029,
            "retry_after": 2.0,
            "body": "b",
        }
    }
    assert list(error_record(InDoubt("?", key="k"))["error"]) == list(error_record(Failure("x"))["error"])


def test_every_record_fits_its_schema() -> None:
    pairs = [
        (session_record(SESSION), "session"),
        (session_record(SESSION, show_token=True), "session"),
        (resumed_record(SESSION, [message_record(MESSAGE, "d"), message_record(REPLY, "d")]), "session"),
        (message_record(MESSAGE, "d", raw=True), "message"),
        (message_record(REPLY, "d"), "message"),
        (sent_record(MESSAGE, session="d", key="k", text="x", delivery="accepted", reply=REPLY, awaited=True), "sent"),
        (sent_record(None, session="d", key="k", text="x", delivery="not_sent"), "sent"),
        (error_record(Failure("x")), "error"),
    ]
    for record, schema in pairs:
        assert not faults(json.loads(json.dumps(record)), SCHEMAS[schema]), schema


def test_a_wrong_record_does_not_fit_its_schema() -> None:
    incomplete = dict(message_record(MESSAGE, "d"))
    del incomplete["key"]
    assert faults(incomplete, SCHEMAS["message"]) == ["message.key is missing"]
    assert faults({**message_record(MESSAGE, "d"), "time": "yesterday"}, SCHEMAS["message"])


def faults(value: Any, schema: dict[str, Any], where: str = "message") -> list[str]:
    """Return the violations of a schema; knows only the keywords that guestctl's schemas use."""
    import re

    if "anyOf" in schema:
        return (
            [] if any(not faults(value, option, where) for option in schema["anyOf"]) else [f"{where}: no option fits"]
        )
    if "const" in schema:
        return [] if value == schema["const"] else [f"{where} is {value!r}"]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{where} is {value!r}"]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(isinstance(value, _KINDS[kind]) for kind in kinds):
        return [f"{where} is a {type(value).__name__}"]
    found = []
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{where} is {value!r}")
    if isinstance(value, dict):
        found += [f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, inner in schema.get("properties", {}).items():
            found += faults(value[name], inner, f"{where}.{name}") if name in value else []
    if isinstance(value, list):
        found += [fault for item in value for fault in faults(item, schema.get("items", {}), f"{where}[]")]
    return found


_KINDS: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
    "null": type(None),
}
