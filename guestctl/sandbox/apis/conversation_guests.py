"""The `conversation-guests` API: CONNECT on one of three sockets, with a token that serves one socket only.

Knows: this API as other-apis.md describes it. Must not know: the server library, the client's dialect of the same
name.

A CONNECT without a genuine, live token is answered with ERROR 401 and a close: 4001 if the token has expired, 1008 if
it does not belong to the conversation. An open socket works while the conversation has a live token; then it is closed
with 4001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from guestctl.sandbox.apis import history_pages, validate
from guestctl.sandbox.apis.base import GUEST, POLICY_VIOLATION, TOKEN_EXPIRED, BaseApi, SocketState, as_frame
from guestctl.sandbox.apis.validate import InvalidRequest, Members
from guestctl.sandbox.interfaces import Peer, Route, ServerReply, ServerRequest, SocketRoute
from guestctl.sandbox.issued_tokens import Grant
from guestctl.sandbox.service_state import Conversation, StoredMessage

WEBMESSAGING = "/api/v2/conversations/webmessaging"
GUESTS = WEBMESSAGING + "/guests"


@dataclass(slots=True, eq=False)
class _ConnectedSocket(SocketState):
    may_send: bool = False  # its token had not been used by a closed socket before
    used: list[Grant] = field(default_factory=list)


class ConversationGuests(BaseApi):
    """The `conversation-guests` API. The service replays no messages on a socket."""

    name = "conversation-guests"
    actions = {"SEND_MESSAGE": "send"}

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", GUESTS, _create_or_refresh, self._create),
            Route("GET", GUESTS + "/{id}/messages", "history", self._history),
        )

    def socket_routes(self) -> Sequence[SocketRoute]:
        return (
            self.socket_route(WEBMESSAGING + "/websocket", lambda request: None),
            self.socket_route(GUESTS + "/{id}/ws", self._by_guest),
            # The documented socket path has the conversation's id where history has the guest's.
            self.socket_route(GUESTS + "/{id}/messages", self._by_conversation),
        )

    def _by_guest(self, request: ServerRequest) -> Conversation:
        return self.require_conversation(request, self._service.by_guest(request.params["id"]), "guest")

    def _by_conversation(self, request: ServerRequest) -> Conversation:
        return self.require_conversation(request, self._service.conversations.get(request.params["id"]))

    # -- REST

    def _create(self, request: ServerRequest) -> ServerReply:
        body = validate.body_of(request, may_be_empty=True)
        if "conversationId" in body or "guestId" in body:
            return self._reattach(request, body)
        conversation = self.start(request, body, validate.part_or_empty(body, "attributes"))
        answer = self._ids(conversation)
        self._service.greet(conversation)
        return ServerReply.json(201, answer)

    def _reattach(self, request: ServerRequest, body: Members) -> ServerReply:
        identifier, guest = validate.text(body, "conversationId"), validate.text(body, "guestId")
        conversation = self.require_conversation(request, self._service.conversations.get(identifier))
        if guest != conversation.guest_id:
            raise InvalidRequest(404, "There is no such guest in this conversation.")
        self.authorise(request, conversation, allow_expired=True)
        self.require_live(conversation)
        return ServerReply.json(200, self._ids(conversation))

    def _ids(self, conversation: Conversation) -> dict[str, str]:
        return {
            "conversationId": conversation.id,
            "guestId": conversation.guest_id,
            "token": self.grant(conversation).token,
        }

    def _history(self, request: ServerRequest) -> ServerReply:
        conversation = self._by_guest(request)
        self.authorise(request, conversation)
        return history_pages.after(self._service, request, conversation, self._shown)

    # -- the socket

    def opened(self, peer: Peer) -> None:
        peer.state = _ConnectedSocket(peer)

    def closed(self, peer: Peer, clean: bool) -> None:
        """Mark the tokens used on this socket. A later CONNECT with one of them cannot send."""
        for grant in peer.state.used:
            grant.facts["used"] = True
            self._service.tokens.put(grant)
        super().closed(peer, clean)

    def received(self, peer: Peer, text: str) -> None:
        key = None
        try:
            frame = validate.members(text)
            kind = frame.get("type")
            if kind == "CONNECT":
                self._connect(peer.state, frame)
            elif kind == "SEND_MESSAGE":
                key = frame["messageId"] if isinstance(frame.get("messageId"), str) else None
                self._send(peer.state, frame)
            else:
                raise InvalidRequest(400, "type is neither CONNECT nor SEND_MESSAGE")
        except InvalidRequest as problem:
            route = "send" if key is not None else None
            peer.send(as_frame(type="ERROR", status=problem.status, message=problem.message, messageId=key), route)
            if problem.status == 401 and key is None:
                peer.close(POLICY_VIOLATION if problem.code == "bad.token" else TOKEN_EXPIRED, problem.message)

    def _connect(self, socket: _ConnectedSocket, frame: Members) -> None:
        identifier, guest = validate.text(frame, "conversationId"), validate.text(frame, "guestId")
        token = validate.text(frame, "token")
        conversation = self.require_conversation(socket.peer.request, self._service.conversations.get(identifier))
        if guest != conversation.guest_id:
            raise InvalidRequest(404, "There is no such guest in this conversation.")
        if socket.peer.request.params.get("id", guest) not in (guest, identifier):
            raise InvalidRequest(400, "This address is another guest's")
        tokens = self._service.tokens
        grant = tokens.find(token, GUEST)
        if grant is None or grant.conversation != identifier:
            raise InvalidRequest(401, "Unauthorized", "bad.token")
        if tokens.expired(grant):
            raise InvalidRequest(401, "Unauthorized")
        self.require_live(conversation)
        self.count_connect(conversation, frame)
        socket.may_send = not grant.facts.get("used", False)
        socket.used.append(grant)
        socket.peer.send(as_frame(type="CONVERSATION_UPDATED", conversationId=conversation.id, state="connected"))
        self.attach(socket, conversation, grant)

    def _send(self, socket: _ConnectedSocket, frame: Members) -> None:
        fault = self.count_action(socket, "send")
        if fault is not None:
            raise InvalidRequest(fault.status, f"Fault on demand: {fault.spec}")
        key = validate.text(frame, "messageId")
        if socket.conversation is None or not socket.may_send:
            raise InvalidRequest(403, "Forbidden")
        if validate.text(frame, "conversationId") != socket.conversation.id:
            raise InvalidRequest(403, "Forbidden")
        stored, new = self.accept(socket.conversation, validate.text(frame, "text"), key, cause=socket.peer)
        if not new:
            socket.peer.send(_accepted(stored), "send")

    # -- frames to the guest

    def message_stored(self, conversation: Conversation, message: StoredMessage, cause: Any) -> None:
        """Send the acceptance to the sender before any socket gets the message."""
        if cause is not None:
            cause.send(_accepted(message), "send")
        conversation.broadcast(self.frame(conversation, message))

    def frame(self, conversation: Conversation, message: StoredMessage) -> str:
        return as_frame(type="MESSAGE_RECEIVED", message=self._shown(message))

    def _shown(self, message: StoredMessage) -> dict[str, Any]:
        return history_pages.shown(message, "messageId" if self.returns_keys else None)

    def parse_frame(self, conversation: Conversation, frame: Members) -> history_pages.ShownMessage:
        return history_pages.parse(validate.part_of(frame, "MESSAGE_RECEIVED", "message"))

    def end_sockets(self, conversation: Conversation) -> None:
        conversation.broadcast(
            as_frame(type="CONVERSATION_UPDATED", conversationId=conversation.id, state="disconnected")
        )
        super().end_sockets(conversation)


def _accepted(message: StoredMessage) -> str:
    return as_frame(type="MESSAGE_ACCEPTED", messageId=message.key, id=message.id, timestamp=message.time)


def _create_or_refresh(request: ServerRequest) -> str:
    """Return the route's name. One address creates and re-attaches, and the body decides which."""
    try:
        body = validate.members(request.body) if request.body else {}
    except InvalidRequest:
        return "create"
    return "refresh" if "conversationId" in body else "create"
