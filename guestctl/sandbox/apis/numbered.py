"""What `guest-sessions` and `external-contacts` share: numbered messages and one socket.

Knows: their send, history, typing and frames (other-apis.md). Must not know: how a session is created or locked.
"""

from __future__ import annotations

from guestctl.sandbox.apis import history_pages, validate
from guestctl.sandbox.apis.base import GUEST, BaseApi, SocketState, as_frame
from guestctl.sandbox.apis.validate import InvalidRequest, Members
from guestctl.sandbox.interfaces import ServerReply, ServerRequest
from guestctl.sandbox.service_state import Conversation, Role, StoredMessage


class Numbered(BaseApi):
    """An API whose messages are numbered from 1. `find_conversation` returns the conversation in a request's path."""

    def find_conversation(self, request: ServerRequest) -> Conversation:
        raise NotImplementedError

    def require_usable(self, request: ServerRequest) -> Conversation:
        """Return the conversation of a request whose bearer token is valid for it. Raises InvalidRequest."""
        conversation = self.find_conversation(request)
        self.authorise(request, conversation)
        self.require_live(conversation)
        return conversation

    def send(self, request: ServerRequest) -> ServerReply:
        conversation = self.require_usable(request)
        body = validate.body_of(request)
        key = validate.text(body, "messageId")
        # The id has no other name on the wire, so it is the client key where keys are returned.
        own = key if self.returns_keys and key not in conversation.by_key else None
        stored, _ = self.accept(conversation, validate.text(body, "text"), key, message_id=own)
        more = {"sequenceNumber": stored.sequence, "timestamp": stored.time} if self.full_answers else {}
        return ServerReply.json(200, {"messageId": stored.id, **more})

    def history(self, request: ServerRequest) -> ServerReply:
        return history_pages.by_number(self._service, request, self.require_usable(request))

    def attach_by_upgrade(self, socket: SocketState) -> None:
        """Attach a new socket by the token of its upgrade. The guest sends no further frame for it."""
        request = socket.peer.request
        grant = self._service.tokens.find(request.bearer, GUEST)
        assert request.conversation is not None
        if grant is None:  # the conversation ended after the upgrade
            socket.peer.close()
            return
        self.count_connect(request.conversation, request.headers)
        socket.peer.send(as_frame(type="connected"))
        self.attach(socket, request.conversation, grant)

    def close_expired(self, socket: SocketState) -> None:
        socket.peer.send(as_frame(type="tokenExpired"))
        super().close_expired(socket)

    def frame(self, conversation: Conversation, message: StoredMessage) -> str:
        return as_frame(type="message", message=history_pages.numbered(message))

    def parse_frame(self, conversation: Conversation, frame: Members) -> history_pages.ShownMessage:
        message = validate.part_of(frame, "message", "message")
        if not isinstance(message.get("sequenceNumber"), int):
            raise InvalidRequest(400, "message.sequenceNumber is not a number")
        return history_pages.parse(message, "messageId")

    def typing(self, conversation: Conversation, role: Role, name: str | None, millis: int) -> None:
        conversation.broadcast(as_frame(type="typing"), "typing")
