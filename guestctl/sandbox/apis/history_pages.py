"""Messages as JSON, and the two kinds of history page that several APIs share.

Knows: the page after a message id and the page after a sequence number (other-apis.md). Must not know: paths, tokens,
sockets.
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
    """An outbound message, parsed from the wire."""

    id: str
    text: str
    role: Role
    name: str | None


def parse(message: Members, id_name: str = "id") -> ShownMessage:
    """Parse an outbound message in the form of `shown` or `numbered`. Raises InvalidRequest."""
    if message.get("direction") != "outbound":
        raise InvalidRequest(400, "direction is not outbound")
    validate.text(message, "timestamp")
    origin = validate.part(message, "from")
    role: Role = "bot" if origin.get("role") == "bot" else "agent"
    return ShownMessage(
        validate.text(message, id_name), validate.text(message, "text"), role, validate.text_or_none(origin, "name")
    )


def shown(message: StoredMessage, key_name: str | None = "messageId") -> dict[str, Any]:
    """Return a message of a page after a message id.

    `key_name` is the API's name for the client key; None leaves the key out.
    """
    return {
        "id": message.id,
        **({} if message.key is None or key_name is None else {key_name: message.key}),
        "direction": message.direction,
        "text": message.text or "",
        "from": sender(message),
        "timestamp": message.time,
    }


def numbered(message: StoredMessage) -> dict[str, Any]:
    """Return a message with its sequence number."""
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
    """Answer `?after={id}&limit={1-100}`: the messages after one, ascending. Raises InvalidRequest."""
    limit = validate.number(request, "limit", DEFAULT_LIMIT, most=LIMIT)
    wanted = request.query.get("after")
    start = 0
    if wanted is not None:
        position = conversation.positions.get(wanted)
        if position is None:
            raise InvalidRequest(404, "after names no message of this conversation.")
        start = position + 1
    visible = service.visible(conversation, request.lag)
    page = conversation.messages[start : min(start + limit, visible)]
    return ServerReply.json(200, {"messages": [show(m) for m in page], "more": visible > start + limit})


def by_number(service: Service, request: ServerRequest, conversation: Conversation) -> ServerReply:
    """Answer `?lastSequenceNumber={n}&limit={k}`: the messages after number n, ascending. Raises InvalidRequest.

    A lag hides messages, but the highest number is always the conversation's.
    """
    limit = validate.number(request, "limit", DEFAULT_LIMIT, most=LIMIT)
    start = validate.number(request, "lastSequenceNumber", 0, least=0)
    page = conversation.messages[start : min(start + limit, service.visible(conversation, request.lag))]
    highest = conversation.messages[-1].sequence if conversation.messages else 0
    return ServerReply.json(200, {"messages": [numbered(m) for m in page], "lastSequenceNumber": highest})
