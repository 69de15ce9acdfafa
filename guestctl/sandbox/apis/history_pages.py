"""Messages as the families show them, and the two kinds of history page they share.

Knows: the fixed history page and the page by sequence number (other-apis.md). Must not know: paths,
bearers, sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from guestctl.sandbox.apis import validate
from guestctl.sandbox.apis.validate import InvalidRequest, Members
from guestctl.sandbox.interfaces import ServerReply, ServerRequest
from guestctl.sandbox.service_state import Conversation, Role, Service, StoredMessage

LIMIT, DEFAULT_LIMIT = 100, 50


def sender(message: StoredMessage) -> dict[str, str]:
    return {"role": message.role, **({} if message.name is None else {"name": message.name})}


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """What a message to the guest says, read from the wire."""

    id: str
    text: str
    role: Role
    name: str | None


def parse(held: Members, id_name: str = "id") -> ShownMessage:
    """A message to the guest, read as `shown` and `numbered` write it. Raises InvalidRequest."""
    if held.get("direction") != "outbound":
        raise InvalidRequest(400, "direction is not outbound")
    validate.text(held, "timestamp")
    by = validate.part(held, "from")
    role: Role = "bot" if by.get("role") == "bot" else "agent"
    return ShownMessage(
        validate.text(held, id_name), validate.text(held, "text"), role, validate.text_or_none(by, "name")
    )


def shown(message: StoredMessage, key_name: str = "messageId") -> dict[str, Any]:
    """A message of the fixed page; `key_name` is what the family calls the guest's own id."""
    return {
        "id": message.id,
        **({} if message.key is None else {key_name: message.key}),
        "direction": message.direction,
        "text": message.text or "",
        "from": sender(message),
        "timestamp": message.time,
    }


def numbered(message: StoredMessage) -> dict[str, Any]:
    """A message of the families that count; a guest's message has no other id than the guest's own."""
    return {
        "messageId": message.id,
        "sequenceNumber": message.sequence,
        "direction": message.direction,
        "text": message.text or "",
        "from": sender(message),
        "timestamp": message.time,
    }


def after(
    service: Service,
    request: ServerRequest,
    conversation: Conversation,
    show: Callable[[StoredMessage], dict[str, Any]] = shown,
) -> ServerReply:
    """`?after={id}&limit={1-100}`: what follows a message, ascending. Raises InvalidRequest."""
    limit = validate.number(request, "limit", DEFAULT_LIMIT, most=LIMIT)
    wanted = request.query.get("after")
    start = 0
    if wanted is not None:
        found = next((m for m in reversed(conversation.messages) if m.id == wanted), None)
        if found is None:
            raise InvalidRequest(404, "after names no message of this conversation.")
        start = found.sequence
    visible = service.history(conversation, request.lag)
    page = visible[start : start + limit]  # the families record nothing but messages: a number is a place
    return ServerReply.json(200, {"messages": [show(m) for m in page], "more": len(visible) > start + limit})


def by_number(service: Service, request: ServerRequest, conversation: Conversation) -> ServerReply:
    """`?lastSequenceNumber={n}&limit={k}`: what follows message number n, ascending. Raises InvalidRequest.

    What lags are the messages; the highest number is the conversation's all the same.
    """
    limit = validate.number(request, "limit", DEFAULT_LIMIT, most=LIMIT)
    start = validate.number(request, "lastSequenceNumber", 0, least=0)
    visible = service.history(conversation, request.lag)
    page = visible[start : start + limit]
    highest = conversation.messages[-1].sequence if conversation.messages else 0
    return ServerReply.json(200, {"messages": [numbered(m) for m in page], "lastSequenceNumber": highest})
