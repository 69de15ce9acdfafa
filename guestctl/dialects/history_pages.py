"""Message objects and history pages that several APIs share (other-apis.md, "History page", "Pushes").

Knows: the message object, the request for a page after an id, and how to continue when history does not contain
the position asked for. Must not know: the paths of one API, sockets, paging policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from guestctl.core.errors import SessionOver, Unreadable
from guestctl.core.model import Direction, Message, Position, Role, Sender, Source
from guestctl.core.values import Json
from guestctl.core.wire import Request, identifier, optional, optional_identifier, required
from guestctl.dialects.base import (
    HistoryEntry,
    HistoryPage,
    Omitted,
    history_from_start,
    normalised_time,
    read_entries,
)
from guestctl.dialects.flows import Flow, http_request

#: Maximum number of messages in one page.
LIMIT = 100
_ROLES = frozenset({"guest", "bot", "agent", "system"})


def read_message(
    value: Json,
    what: str,
    *,
    id: str = "id",
    key: str = "messageId",
    sequence: str = "",
    source: Source = "live",
) -> Message:
    """Return a message object as a Message. Raises Unreadable; `what` names the input in its text.

    `id`, `key` and `sequence` are the members that hold the service id, the client key and the sequence number
    (empty: the API has no numbers).
    """
    value = as_object(value, what)
    direction = required(value, "direction", str, what)
    if direction not in {"inbound", "outbound"}:
        raise Unreadable(f'{what}: `direction` is "{direction[:40]}", neither inbound nor outbound')
    return Message(
        id=identifier(value, id, what),
        direction=cast("Direction", direction),
        text=required(value, "text", str, what),
        time=read_time(value, what),
        key=optional_identifier(value, key) if direction == "inbound" else None,
        sender=read_sender(value.get("from"), "guest" if direction == "inbound" else None),
        sequence=required(value, sequence, int, what) if sequence else None,
        source=source,
        raw=value,
    )


def as_object(value: Json, what: str) -> dict[str, Json]:
    """Return the value if it is a JSON object. Raises Unreadable otherwise."""
    if not isinstance(value, dict):
        raise Unreadable(f"{what}: expected an object, got {type(value).__name__}")
    return value


def read_time(value: Mapping[str, Json], what: str) -> str:
    """Return the member `timestamp` as RFC 3339 in UTC with milliseconds. Raises Unreadable."""
    time = normalised_time(required(value, "timestamp", str, what))
    if time is None:
        raise Unreadable(f"{what}: `timestamp` is not a time")
    return time


def read_sender(value: Json, role: Role | None = None) -> Sender:
    """Return a sender from `{role, name?}`. `role` is the default for a missing or unknown role."""
    if not isinstance(value, dict):
        return Sender(role)
    given = optional(value, "role", str)
    return Sender(cast("Role", given) if given in _ROLES else role, optional(value, "name", str))


def history_after(
    url: str, *, after: Position | None, cursor: str | None, limit: int, key: str = "messageId"
) -> Flow[HistoryPage]:
    """Return one page of `{"messages", "more"}` after a message id. The cursor is the last id on the page before."""

    def page(last: str | None) -> Flow[HistoryPage]:
        query = {"limit": str(min(limit, LIMIT)), **({"after": last} if last else {})}
        request = Request("GET", url, "history", query=query, credential="guest", idempotent=True)
        body = (yield from http_request(request)).object()
        found = required(body, "messages", list, "history")
        items = read_entries(found, lambda item: read_message(item, "history", key=key, source="history"))
        more = required(body, "more", bool, "history")
        if more and not items:
            raise Unreadable("history: an empty page announces more messages")
        return HistoryPage(tuple(items), next=_last_id(items, last) if more else None)

    if after is None or cursor is not None:
        return (yield from page(cursor))
    try:
        return (yield from page(after.id))
    except SessionOver as failure:
        if failure.http_status != 404:
            raise
    # The 404 means that the service does not know this message. If it does not know the conversation either, the
    # next request fails, too.
    return (yield from history_from_start(page, after))


def _last_id(items: Sequence[HistoryEntry], before: str | None) -> str:
    """Return the id to ask for the next page after. Raises Unreadable if no entry of the page has one."""
    for item in reversed(items):
        if not isinstance(item, Omitted) and item.id is not None and item.id != before:
            return item.id
    raise Unreadable("history: no entry of a page has an id, so the next page cannot be requested")
