"""The face of `conversation-guests`: CONNECT on one of three sockets, tokens that a lost socket spoils.

Knows: that family's table and behaviour in other-apis.md. Must not know: the server library, the
client's dialect of the same name.

A CONNECT without a genuine, live token is answered ERROR 401 and closed: 4001 when the token has
expired, 1008 when it is none of this conversation. A socket that is open keeps working while the
conversation has any live token, then it is closed 4001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from guestctl.sandbox.apis import history_pages, validate
from guestctl.sandbox.apis.base import GUEST, NOT_ALLOWED, REFUSED_TOKEN, Family, Seat, as_frame
from guestctl.sandbox.apis.validate import Members, Wrong
from guestctl.sandbox.interfaces import Peer, Route, ServerReply, ServerRequest, SocketRoute
from guestctl.sandbox.issued_tokens import Grant
from guestctl.sandbox.world import Conversation, StoredMessage

WEBMESSAGING = "/api/v2/conversations/webmessaging"
GUESTS = WEBMESSAGING + "/guests"


@dataclass(slots=True, eq=False)
class _Seat(Seat):
    fit: bool = False  # may send: its token was not spoilt when it connected
    used: list[Grant] = field(default_factory=list)


class ConversationGuests(Family):
    """The service replays nothing by itself."""

    api = "conversation-guests"

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", GUESTS, _create_or_refresh, self._create),
            Route("GET", GUESTS + "/{id}/messages", "history", self._history),
        )

    def doors(self) -> Sequence[SocketRoute]:
        return (
            self.door(WEBMESSAGING + "/websocket", lambda request: None),
            self.door(GUESTS + "/{id}/ws", self._by_guest),
            # Published for the socket with the conversation's id, where history takes the guest's.
            self.door(GUESTS + "/{id}/messages", self._by_conversation),
        )

    def _by_guest(self, request: ServerRequest) -> Conversation:
        return self.known(request, self._world.by_guest(request.params["id"]), "guest")

    def _by_conversation(self, request: ServerRequest) -> Conversation:
        return self.known(request, self._world.conversations.get(request.params["id"]))

    # -- REST

    def _create(self, request: ServerRequest) -> ServerReply:
        body = validate.body_of(request, may_be_empty=True)
        if "conversationId" in body or "guestId" in body:
            return self._reattach(request, body)
        conversation = self.start(request, body, validate.part_or_empty(body, "attributes"))
        answer = self._ids(conversation)
        self._world.greet(conversation)
        return ServerReply.json(201, answer)

    def _reattach(self, request: ServerRequest, body: Members) -> ServerReply:
        identifier, guest = validate.text(body, "conversationId"), validate.text(body, "guestId")
        conversation = self.known(request, self._world.conversations.get(identifier))
        if guest != conversation.guest_id:
            raise Wrong(404, "There is no such guest in this conversation.")
        self.authorised(request, conversation, lapsed=True)
        self.lively(conversation)
        return ServerReply.json(200, self._ids(conversation))

    def _ids(self, conversation: Conversation) -> dict[str, str]:
        return {
            "conversationId": conversation.id,
            "guestId": conversation.guest_id,
            "token": self.grant(conversation).token,
        }

    def _history(self, request: ServerRequest) -> ServerReply:
        conversation = self._by_guest(request)
        self.authorised(request, conversation)
        return history_pages.after(self._world, request, conversation)

    # -- the socket

    def opened(self, peer: Peer) -> None:
        peer.note = _Seat(peer)

    def closed(self, peer: Peer, clean: bool) -> None:
        """However it went: its tokens are spoilt for every later CONNECT."""
        for grant in peer.note.used:
            grant.facts["spoilt"] = True
            self._world.tokens.put(grant)
        super().closed(peer, clean)

    def heard(self, peer: Peer, text: str) -> None:
        key = None
        try:
            frame = validate.members(text)
            kind = frame.get("type")
            if kind == "CONNECT":
                self._connect(peer.note, frame)
            elif kind == "SEND_MESSAGE":
                key = frame["messageId"] if isinstance(frame.get("messageId"), str) else None
                self._send(peer.note, frame)
            else:
                raise Wrong(400, "type is neither CONNECT nor SEND_MESSAGE")
        except Wrong as problem:
            route = "send" if key is not None else None
            peer.send(as_frame(type="ERROR", status=problem.status, message=problem.message, messageId=key), route)
            if problem.status == 401 and key is None:
                peer.close(NOT_ALLOWED if problem.code == "bad.token" else REFUSED_TOKEN, problem.message)

    def _connect(self, seat: _Seat, frame: Members) -> None:
        identifier, guest = validate.text(frame, "conversationId"), validate.text(frame, "guestId")
        token = validate.text(frame, "token")
        conversation = self.known(seat.peer.request, self._world.conversations.get(identifier))
        if guest != conversation.guest_id:
            raise Wrong(404, "There is no such guest in this conversation.")
        if seat.peer.request.params.get("id", guest) not in (guest, identifier):
            raise Wrong(400, "This address is another guest's")
        tokens = self._world.tokens
        grant = tokens.find(token, GUEST)
        if grant is None or grant.conversation != identifier:
            raise Wrong(401, "Unauthorized", "bad.token")
        if tokens.expired(grant):
            raise Wrong(401, "Unauthorized")
        self.lively(conversation)
        self.booked(conversation, frame)
        seat.fit = not grant.facts.get("spoilt", False)
        seat.used.append(grant)
        seat.peer.send(as_frame(type="CONVERSATION_UPDATED", conversationId=conversation.id, state="connected"))
        self.sit(seat, conversation, grant)

    def _send(self, seat: _Seat, frame: Members) -> None:
        fault = self.asked(seat, "send")
        if fault is not None:
            raise Wrong(fault.status, f"Fault on demand: {fault.spec}")
        key = validate.text(frame, "messageId")
        if seat.conversation is None or not seat.fit:
            raise Wrong(403, "Forbidden")
        if validate.text(frame, "conversationId") != seat.conversation.id:
            raise Wrong(403, "Forbidden")
        stored, new = self.take(seat.conversation, validate.text(frame, "text"), key, cause=seat.peer)
        if not new:
            seat.peer.send(_accepted(stored), "send")

    # -- what is said

    def said(self, conversation: Conversation, message: StoredMessage, cause: Any) -> None:
        """The sender hears that it is accepted before anybody, itself included, hears the message."""
        if cause is not None:
            cause.send(_accepted(message), "send")
        conversation.broadcast(self.frame(conversation, message))

    def frame(self, conversation: Conversation, message: StoredMessage) -> str:
        return as_frame(type="MESSAGE_RECEIVED", message=history_pages.shown(message))

    def told(self, conversation: Conversation, frame: Members) -> history_pages.ShownMessage:
        return history_pages.told(validate.part_of(frame, "MESSAGE_RECEIVED", "message"))

    def farewell(self, conversation: Conversation) -> None:
        conversation.broadcast(
            as_frame(type="CONVERSATION_UPDATED", conversationId=conversation.id, state="disconnected")
        )
        super().farewell(conversation)


def _accepted(message: StoredMessage) -> str:
    return as_frame(type="MESSAGE_ACCEPTED", messageId=message.key, id=message.id, timestamp=message.time)


def _create_or_refresh(request: ServerRequest) -> str:
    """One address creates and re-attaches: what faults and reports call it is in the body."""
    try:
        body = validate.members(request.body) if request.body else {}
    except Wrong:
        return "create"
    return "refresh" if "conversationId" in body else "create"
