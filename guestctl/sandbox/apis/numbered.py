"""What `guest-sessions` and `external-contacts` share: messages that are numbered, and one socket for both.

Knows: their send, history, typing and frames (other-apis.md). Must not know: how a session is created,
when one is locked.
"""

from __future__ import annotations

from guestctl.sandbox.apis import history_pages, validate
from guestctl.sandbox.apis.base import GUEST, Family, Seat, as_frame
from guestctl.sandbox.apis.validate import Members, Wrong
from guestctl.sandbox.interfaces import ServerReply, ServerRequest
from guestctl.sandbox.world import Conversation, Role, StoredMessage


class Numbered(Family):
    """A family whose messages count from 1. `place` finds the conversation a request's path names."""

    def place(self, request: ServerRequest) -> Conversation:
        raise NotImplementedError

    def usable(self, request: ServerRequest) -> Conversation:
        """The conversation of a request whose bearer may use it. Raises Wrong."""
        conversation = self.place(request)
        self.authorised(request, conversation)
        self.lively(conversation)
        return conversation

    def send(self, request: ServerRequest) -> ServerReply:
        conversation = self.usable(request)
        body = validate.body_of(request)
        key = validate.text(body, "messageId")
        stored, _ = self.take(conversation, validate.text(body, "text"), key, message_id=key)
        return ServerReply.json(
            200, {"messageId": stored.id, "sequenceNumber": stored.sequence, "timestamp": stored.time}
        )

    def history(self, request: ServerRequest) -> ServerReply:
        return history_pages.by_number(self._world, request, self.usable(request))

    def greeted(self, seat: Seat) -> None:
        """The upgrade carried the token: nothing is asked of the guest any more."""
        request = seat.peer.request
        grant = self._world.tokens.find(request.bearer, GUEST)
        assert request.conversation is not None
        if grant is None:  # ended between the upgrade and now
            seat.peer.close()
            return
        self.booked(request.conversation, request.headers)
        seat.peer.send(as_frame(type="connected"))
        self.sit(seat, request.conversation, grant)

    def outlived(self, seat: Seat) -> None:
        seat.peer.send(as_frame(type="tokenExpired"))
        super().outlived(seat)

    def frame(self, conversation: Conversation, message: StoredMessage) -> str:
        return as_frame(type="message", message=history_pages.numbered(message))

    def told(self, conversation: Conversation, frame: Members) -> history_pages.ShownMessage:
        message = validate.part_of(frame, "message", "message")
        if not isinstance(message.get("sequenceNumber"), int):
            raise Wrong(400, "message.sequenceNumber is not a number")
        return history_pages.told(message, "messageId")

    def typing(self, conversation: Conversation, role: Role, name: str | None, millis: int) -> None:
        conversation.broadcast(as_frame(type="typing"), "typing")
