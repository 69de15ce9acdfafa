"""The protocol buffers of the relay's gRPC service: an event as a `ChatMessage`, requests, and details of errors.

Knows: the generated code, the records of `listen` and `send`. Must not know: gRPC, HTTP, readers.

Needs the package protobuf (`guestctl[grpc]`). Every function that returns a message returns its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message

from guestctl.core.clock import epoch_of
from guestctl.core.errors import UsageError
from guestctl.core.values import Json
from guestctl.output.records import Record
from guestctl.output.writer import exact_json
from guestctl.relay.call_status import LONGEST_DETAILS, LONGEST_MESSAGE
from guestctl.relay.log import LogEntry, Missing
from guestctl.relay.proto import chat_stream_pb2 as pb
from guestctl.relay.sends import SendAnswer, WantedMessage

M = TypeVar("M", bound=Message)


def parsed(kind: type[M], data: bytes) -> M:
    """Return the message of a kind that the bytes encode. Raises UsageError."""
    try:
        return kind.FromString(data)  # type: ignore[no-any-return, unused-ignore]
    except DecodeError:
        raise UsageError(
            f"the request is not a {kind.DESCRIPTOR.name}", hint="use code made from chat_stream.proto"
        ) from None


def entry_message(entry: LogEntry) -> bytes:
    """Return the `ChatMessage` of an event. It is made once, and all readers share it."""
    if entry.message is None:
        shown = "" if entry.id is None else str(entry.id)
        entry.message = _message(json.loads(entry.body), shown, entry.conversation, entry.at, entry.body.decode())
    return entry.message


def short_entry_message(entry: LogEntry) -> bytes:
    """Return the `ChatMessage` of an event without its record."""
    shown = "" if entry.id is None else str(entry.id)
    return _message(json.loads(entry.body), shown, entry.conversation, entry.at, "")


def history_message(record: Record, conversation: str | None, now: float) -> bytes:
    """Return the `ChatMessage` of a record of history, which has no id."""
    return _message(record, "", conversation, now, exact_json(record))


def gap_message(missing: Missing) -> Message:
    """Return the gap that a strict reader is refused for."""
    first, last = ("" if one is None else str(one) for one in (missing.first, missing.last))
    return pb.ChatMessage(kind="gap", first_missing=first, last_missing=last, reason=missing.reason)


def wanted_message(request: pb.SendRequest) -> WantedMessage:
    """Return the message that a request wants to send. Raises UsageError."""
    form: Json = None
    if request.form:
        try:
            form = json.loads(request.form)
        except (ValueError, RecursionError):
            form = ""
        if not isinstance(form, dict):
            raise UsageError("form is not a JSON object", hint='give the answers as JSON: {"name": "value"}')
    return WantedMessage(request.text, dict(request.attributes), tuple(request.pick), form)


def send_response(answer: SendAnswer) -> Message:
    """Return the answer to a send."""
    record = answer.record
    return pb.SendResponse(
        delivery=answer.delivery,
        message_id=_text(record, "id"),
        key=_text(record, "key"),
        record=exact_json(record),
    )


def send_details(code: int, message: str, answer: SendAnswer) -> bytes:
    """Return the details of a message that was not accepted. A record that is too long for a trailer is left out."""
    response = send_response(answer)
    found = status_details(code, message, response)
    if len(found) > LONGEST_DETAILS:
        response.ClearField("record")
        found = status_details(code, message, response)
    return found


def status_details(code: int, message: str, details: Message) -> bytes:
    """Return the `google.rpc.Status` that the trailer `grpc-status-details-bin` has, with one message as its details.

    Its three fields are written here, so that no package with the definition of `Status` is needed.
    """
    packed = any_pb2.Any()
    packed.Pack(details)
    text, detail = message[:LONGEST_MESSAGE].encode("utf-8", "replace"), packed.SerializeToString()
    return b"\x08%s\x12%s%s\x1a%s%s" % (_varint(code), _varint(len(text)), text, _varint(len(detail)), detail)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _message(record: Mapping[str, Any], id: str, conversation: str | None, at: float, body: str) -> bytes:
    sender = record.get("from") or {}
    message = pb.ChatMessage(
        id=id,
        kind=record["kind"],
        conversation_id=conversation or "",
        record=body,
        text=_text(record, "text"),
        direction=_text(record, "direction"),
        sender=_text(sender, "role"),
        sender_name=_text(sender, "name"),
        message_id=_text(record, "id"),
        resume_after=_text(record, "resume_after"),
        first_missing=_text(record, "first_missing"),
        last_missing=_text(record, "last_missing"),
        reason=_text(record, "reason"),
        code=_text(record, "code"),
    )
    message.time.FromMilliseconds(round(1000 * _time(record, at)))
    return message.SerializeToString()  # type: ignore[no-any-return, unused-ignore]


def _time(record: Mapping[str, Any], at: float) -> float:
    """Return the time of a record in epoch seconds; `at` if it has none that can be written."""
    try:
        time = epoch_of(record.get("time") or "")
    except ValueError:
        return at
    return time if 0 <= time < 1 << 37 else at


def _text(values: Mapping[str, Any], name: str) -> str:
    """Return a text; empty if there is none. U+FFFD replaces what UTF-8 cannot encode."""
    value = values.get(name)
    if value is None:
        return ""
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
