"""What people read about events, senders and values, as plain text on one line.

Knows: the members of records. Must not know: rich, widths, colour, streams. Every string is remote: it is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from guestctl.output.records import Record
from guestctl.output.terminal import visible
from guestctl.output.times import when

_LONGEST_NAME = 40


def mark(record: Record) -> str:
    """Return the mark of a record, by which messages of the guest, messages to the guest and events differ."""
    if record.get("kind") == "message":
        return ">" if record["direction"] == "inbound" else "<"
    return "!" if record.get("kind") == "gap" else "*"


def speaker(record: Mapping[str, Any]) -> str:
    """Return the name of a sender, or the role of one without a name."""
    sender = record["from"]
    fallback = "guest" if record.get("direction") == "inbound" else "service"
    return visible(sender["name"] or sender["role"] or fallback)[:_LONGEST_NAME]


def _typing(record: Mapping[str, Any]) -> str:
    return "is typing"


def _presence(record: Mapping[str, Any]) -> str:
    ended = "; the conversation is read-only" if record["read_only"] else ""
    return f"presence: {visible(record['presence'])}{ended}"


def _participant_event(record: Mapping[str, Any]) -> str:
    reactions = record["details"].get("reactions")
    found = [_reaction(one) for one in reactions if isinstance(one, Mapping)] if isinstance(reactions, list) else []
    words = ", ".join(found) or record["status"] or "-"
    return f"{record['kind']}: {visible(words)}"


def _reaction(reaction: Mapping[str, Any]) -> str:
    return f"{reaction.get('reactionType')} {reaction.get('count')}"


def _service_error(record: Mapping[str, Any]) -> str:
    code = "" if record["code"] is None else f" ({record['code']})"
    return f"error: {visible(record['message'] + code)}"


def _session(record: Mapping[str, Any]) -> str:
    reason = f": {visible(record['reason'])}" if record.get("reason") else ""
    return f"session {record['change'].replace('_', ' ')}{reason}" if "change" in record else plain(record)


def _connection(record: Mapping[str, Any]) -> str:
    words = record["state"].replace("_", " ")
    if record["state"] == "retrying" and record["delay"] is not None:
        words += f" in {record['delay']:.1f} s (attempt {record['attempt']})"
    if record["close_code"] is not None:
        words += f" (close {record['close_code']})"
    if record["recovered"]:
        words += f", {record['recovered']} recovered"
    return f"{words}: {visible(record['detail'])}" if record["detail"] else words


def _gap(record: Mapping[str, Any]) -> str:
    ends = (visible(record[end] or "?") for end in ("after", "before"))
    return f"gap between {' and '.join(ends)}: {visible(record['reason'])}"


def _unknown(record: Mapping[str, Any]) -> str:
    return f"unknown: {visible(record['label'])}"


_EVENTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "typing": _typing,
    "presence": _presence,
    **dict.fromkeys(("receipt", "cobrowse", "video", "reactions"), _participant_event),
    "error": _service_error,
    "session": _session,
    "connection": _connection,
    "gap": _gap,
    "unknown": _unknown,
}


def event_text(record: Mapping[str, Any]) -> str:
    """Return an event in words, without its time and its sender."""
    return _EVENTS.get(str(record.get("kind")), plain)(record)


def plain(record: Mapping[str, Any]) -> str:
    """Return the values of any record on one line."""
    return "  ".join(cell(value, name) for name, value in record.items() if name != "kind")


def is_time(member: str) -> bool:
    """Return whether a member of a record is a time."""
    return member.endswith("_at") or member == "timestamp"


def cell(value: Any, name: str = "") -> str:
    """Return a value for a table. `name` is its member, which tells whether it is a time."""
    if value is None or value == "":
        return "-"
    if isinstance(value, str) and is_time(name):
        return when(value)
    if isinstance(value, bool):
        return "*" if value else ""
    if isinstance(value, Mapping):
        return " ".join(f"{visible(str(name))}={_detail(member)}" for name, member in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return str(len(value)) if any(isinstance(item, Mapping) for item in value) else ",".join(map(cell, value))
    return visible(str(value))


def _detail(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return cell(value)
