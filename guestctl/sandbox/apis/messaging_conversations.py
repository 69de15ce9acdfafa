"""The `messaging-conversations` API: a public create, `register` on a socket, history pages by token.

Knows: this API as other-apis.md describes it. Must not know: the server library, the client's dialect of the same
name.

A problem with a token closes the socket: 4001 if it has expired (at a register or later), 1008 if it does not belong
to the conversation or nothing is registered. Every other problem is answered with an `error` frame, and the socket
stays open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guestctl.sandbox.apis import validate
from guestctl.sandbox.apis.base import GUEST, POLICY_VIOLATION, TOKEN_EXPIRED, BaseApi, SocketState, as_frame
from guestctl.sandbox.apis.history_pages import ShownMessage
from guestctl.sandbox.apis.validate import InvalidRequest, Members
from guestctl.sandbox.interfaces import Peer, Route, ServerReply, ServerRequest, SocketRoute
from guestctl.sandbox.service_state import Conversation, StoredMessage

CONVERSATIONS = "/api/v2/messaging/conversations"
ONE = CONVERSATIONS + "/{id}"
LIMIT, DEFAULT_LIMIT = 100, 50
_PAGE = "page-"  # a page token is this prefix and the number of the last message seen
_NAMES = {"guest": "Guest", "bot": "Bot", "agent": "Agent", "system": "System"}


class MessagingConversations(BaseApi):
    """The `messaging-conversations` API. A registration ends with its own token: register again after a refresh."""

    name = "messaging-conversations"
    actions = {"send": "send"}

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", CONVERSATIONS, "create", self._create),
            Route("GET", ONE + "/messages", "history", self._history),
            Route("POST", ONE + "/guest-tokens", "refresh", self._refresh),
        )

    def socket_routes(self) -> Sequence[SocketRoute]:
        return (self.socket_route("/ws", lambda request: None),)

    # -- REST

    def _create(self, request: ServerRequest) -> ServerReply:
        """Create a conversation. The request is public: an Authorization header is ignored."""
        body = validate.body_of(request)
        name = validate.text(body, "conversationName")
        queue = validate.text(validate.part(body, "routing"), "selectedQueueId", "routing.")
        validate.check_queue(queue)
        custom = validate.part(validate.part(body, "attributes"), "custom", "attributes.")
        conversation = self.start(request, {}, custom, {"name": name, "queue": queue})
        answer = {
            "id": conversation.id,
            "guestId": conversation.guest_id,
            "guestToken": self.grant(conversation).token,
            "routing": {"selectedQueueId": queue},
        }
        self._service.greet(conversation)
        return ServerReply.json(201, answer)

    def _find_conversation(self, request: ServerRequest, *, allow_expired: bool = False) -> Conversation:
        conversation = self.require_conversation(request, self._service.conversations.get(request.params["id"]))
        self.authorise(request, conversation, allow_expired=allow_expired)
        return conversation

    def _history(self, request: ServerRequest) -> ServerReply:
        conversation = self._find_conversation(request)
        if request.query.get("conversationId", conversation.id) != conversation.id:
            raise InvalidRequest(400, "conversationId is not that of the path")
        limit = validate.number(request, "limit", DEFAULT_LIMIT, most=LIMIT)
        start = _number(request.query.get("nextPageToken"), len(conversation.messages))
        visible = self._service.visible(conversation, request.lag)
        page = conversation.messages[start : min(start + limit, visible)]
        answer: dict[str, Any] = {"messages": [self._shown(conversation, m) for m in page]}
        if visible > start + limit:
            answer["nextPageToken"] = f"{_PAGE}{start + limit}"
        return ServerReply.json(200, answer)

    def _refresh(self, request: ServerRequest) -> ServerReply:
        conversation = self._find_conversation(request, allow_expired=True)
        self.require_live(conversation)
        return ServerReply.json(200, {"guestToken": self.grant(conversation).token})

    # -- the socket

    def received(self, peer: Peer, text: str) -> None:
        socket: SocketState = peer.state
        key = None
        try:
            frame = validate.members(text)
            kind = frame.get("type")
            if kind == "register":
                self._register(socket, frame)
            elif kind == "send":
                key = _key(frame)
                self._send(socket, frame)
            else:
                raise InvalidRequest(400, "type is neither register nor send")
        except InvalidRequest as problem:
            if problem.status == 401:
                peer.close(POLICY_VIOLATION if problem.code == "bad.token" else TOKEN_EXPIRED, problem.message)
            else:
                answer = as_frame(type="error", code=problem.code, message=problem.message, correlationId=key)
                peer.send(answer, "send" if key is not None else None)

    def _register(self, socket: SocketState, frame: Members) -> None:
        identifier, token = validate.text(frame, "conversationId"), validate.text(frame, "guestToken")
        conversation = self.require_conversation(socket.peer.request, self._service.conversations.get(identifier))
        tokens = self._service.tokens
        grant = tokens.find(token, GUEST)
        if grant is None or grant.conversation != identifier:
            raise InvalidRequest(401, "This guestToken is none of this conversation", "bad.token")
        if tokens.expired(grant):
            raise InvalidRequest(401, "The guestToken has expired")
        self.require_live(conversation)
        self.count_connect(conversation, frame)
        socket.peer.send(as_frame(type="registered"))
        self.attach(socket, conversation, grant)

    def _send(self, socket: SocketState, frame: Members) -> None:
        fault = self.count_action(socket, "send")
        if fault is not None:
            raise InvalidRequest(fault.status, f"Fault on demand: {fault.spec}")
        message = validate.part(frame, "message")
        text = validate.text(message, "text", "message.")
        key = validate.text(validate.part(message, "attributes", "message."), "correlationId", "message.attributes.")
        if socket.conversation is None:
            raise InvalidRequest(401, "Nothing is registered on this socket", "bad.token")
        stored, new = self.accept(socket.conversation, text, key, cause=socket.peer)
        if not new:
            socket.peer.send(self.frame(socket.conversation, stored), "send")

    def token_valid_until(self, socket: SocketState) -> float:
        return (socket.grant and socket.grant.expires_at) or 0.0

    # -- frames to the guest

    def frame(self, conversation: Conversation, message: StoredMessage) -> str:
        return as_frame(type="message", message=self._shown(conversation, message))

    def _shown(self, conversation: Conversation, message: StoredMessage) -> dict[str, Any]:
        return shown(conversation, message, with_key=self.returns_keys)

    def parse_frame(self, conversation: Conversation, frame: Members) -> ShownMessage:
        message = validate.part_of(frame, "message", "message")
        by = validate.part(message, "from", "message.")
        if validate.text(by, "id", "message.from.") == conversation.guest_id:
            raise InvalidRequest(400, "message.from.id is the guest's own")
        validate.text(message, "timestamp", "message.")
        identifier, text = validate.text(message, "id", "message."), validate.text(message, "text", "message.")
        return ShownMessage(
            identifier, text, "bot" if by["id"] == "bot" else "agent", validate.text_or_none(by, "name")
        )

    def end_sockets(self, conversation: Conversation) -> None:
        over = validate.ended()
        conversation.broadcast(as_frame(type="error", code=over.code, message=over.message))
        super().end_sockets(conversation)


def shown(conversation: Conversation, message: StoredMessage, *, with_key: bool) -> dict[str, Any]:
    """Return a message as frames and history show it. `from.id` identifies its sender."""
    guest = {"id": conversation.guest_id, "name": _NAMES["guest"]}
    other = {"id": message.role, "name": message.name or _NAMES[message.role]}
    inbound = message.direction == "inbound"
    if inbound:
        other = {"id": "bot", "name": _NAMES["bot"]}
    return {
        "id": message.id,
        "type": "text",
        "from": guest if inbound else other,
        "to": other if inbound else guest,
        "text": message.text or "",
        "timestamp": message.time,
        **({"attributes": {"correlationId": message.key}} if with_key and message.key is not None else {}),
    }


def _key(frame: Members) -> str | None:
    """Return the correlation id for an error frame, even if the rest of the frame is invalid."""
    message = frame.get("message")
    attributes = message.get("attributes") if isinstance(message, dict) else None
    key = attributes.get("correlationId") if isinstance(attributes, dict) else None
    return key if isinstance(key, str) else None


def _number(token: str | None, most: int) -> int:
    """Return the position at which a page token continues. Raises InvalidRequest."""
    if token is None:
        return 0
    digits = token.removeprefix(_PAGE)
    if digits == token or not (digits.isascii() and digits.isdigit()) or len(digits) > 9 or int(digits) > most:
        raise InvalidRequest(400, "nextPageToken is unknown")
    return int(digits)
