"""What the families of other-apis.md share: bearers, one transcript, sockets that hear all of it.

Knows: the page's shared rules. Must not know: any family's paths, frames or words; each face beside
this module adds its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from guestctl.sandbox.apis import validate
from guestctl.sandbox.apis.history_pages import ShownMessage
from guestctl.sandbox.apis.validate import Members, Wrong
from guestctl.sandbox.faults import Fault, Faults
from guestctl.sandbox.interfaces import Peer, RequestRefused, Route, ServerReply, ServerRequest, SocketRoute, error
from guestctl.sandbox.issued_tokens import Grant
from guestctl.sandbox.settings import SandboxOptions
from guestctl.sandbox.world import Conversation, Role, Service, StoredMessage, dumps

GUEST = "guest"  # the kind of every token a guest bears
REFUSED_TOKEN = 4001  # close code: the token has expired
NOT_ALLOWED = 1008  # close code: no genuine token, or none at all
_GLANCE = 1.0  # seconds between two looks at a token that lives long; a closed socket is forgotten within them


@dataclass(slots=True, eq=False)
class Seat:
    """What one socket is: whose conversation, on which token."""

    peer: Peer
    conversation: Conversation | None = None
    grant: Grant | None = None


class Family:
    """A face without its words."""

    api: str
    token_life: float = 1800.0

    def __init__(self, world: Service, faults: Faults, options: SandboxOptions) -> None:
        self._world = world
        self._faults = faults
        self._options = options

    # -- REST

    def routes(self) -> Sequence[Route]:
        raise NotImplementedError

    def doors(self) -> Sequence[SocketRoute]:
        return ()

    def door(self, pattern: str, check: Callable[[ServerRequest], object]) -> SocketRoute:
        """A socket address; `check` refuses by raising."""

        def admit(request: ServerRequest) -> ServerReply | None:
            if request.origin is not None and not self._world.allows(request.origin):
                return error(403, "The origin is not allowed by the deployment.", "origin.not.allowed")
            try:
                check(request)
            except RequestRefused as refused:
                return refused.reply
            return None

        return SocketRoute(pattern, admit)

    def start(
        self, request: ServerRequest, body: Members, attributes: Members, notes: Members | None = None
    ) -> Conversation:
        """A new conversation on the deployment the body may name. Raises Wrong."""
        wanted = validate.text_or_none(body, "deploymentId")
        deployment = None if wanted is None else self._world.deployments.get(wanted)
        if wanted is not None and (deployment is None or not deployment.active):
            raise Wrong(403, "deploymentId is not one that is served here")
        conversation = self._world.open(self.api, deployment, attributes=validate.as_texts(attributes), notes=notes)
        request.conversation = conversation
        return conversation

    def grant(self, conversation: Conversation) -> Grant:
        """A fresh guest token."""
        life = self._world.tokens.life(self.token_life)
        return self._world.tokens.opaque(GUEST, life=life, conversation=conversation.id)

    def known(self, request: ServerRequest, found: Conversation | None, what: str = "conversation") -> Conversation:
        """A conversation of this family, booked to the request. Raises Wrong."""
        if found is None or found.api != self.api:
            raise Wrong(404, f"There is no such {what}.")
        request.conversation = found
        return found

    def authorised(self, request: ServerRequest, conversation: Conversation, *, lapsed: bool = False) -> Grant:
        """The bearer's grant; one that has `lapsed` serves for a refresh. Raises Wrong."""
        tokens = self._world.tokens
        grant = tokens.find(request.bearer, GUEST)
        if grant is None or grant.conversation != conversation.id or (tokens.expired(grant) and not lapsed):
            raise Wrong(401)
        return grant

    def lively(self, conversation: Conversation) -> None:
        """Raises Wrong for a conversation that is over."""
        if not self._world.live(conversation):
            raise validate.ended()

    def take(
        self, conversation: Conversation, text: str, key: str, *, message_id: str | None = None, cause: Any = None
    ) -> tuple[StoredMessage, bool]:
        """Store what the guest says, or find what a repeated id stands for; True when it is new. Raises Wrong."""
        self.lively(conversation)
        before = conversation.by_key.get(key)
        if before is not None:
            return before, False
        return self._world.guest_says(conversation, text, key=key, message_id=message_id, cause=cause), True

    # -- sockets

    def opened(self, peer: Peer) -> None:
        peer.note = Seat(peer)

    def closed(self, peer: Peer, clean: bool) -> None:
        self.leave(peer.note)

    def heard(self, peer: Peer, text: str) -> None:
        """Families without frames of a guest's take none to heart."""

    def sit(self, seat: Seat, conversation: Conversation, grant: Grant) -> None:
        """From now on the socket hears the conversation, for as long as its token serves."""
        if seat.conversation is not conversation:
            self.leave(seat)
            seat.conversation = conversation
            conversation.observers.append(seat.peer)
        seat.grant = grant
        self._guard(seat, grant)

    def leave(self, seat: Seat) -> None:
        if seat.conversation is not None and seat.peer in seat.conversation.observers:
            seat.conversation.observers.remove(seat.peer)
        seat.conversation = None

    def serves(self, seat: Seat) -> float:
        """Epoch seconds until which the socket's token serves: any live token of its conversation will do."""
        assert seat.conversation is not None
        assert seat.grant is not None
        tokens = self._world.tokens
        if not tokens.expired(seat.grant):  # all grants need only be looked through when it has
            return seat.grant.expires_at or 0.0
        return max((grant.expires_at or 0.0 for grant in tokens.of(seat.conversation.id)), default=0.0)

    def outlived(self, seat: Seat) -> None:
        seat.peer.close(REFUSED_TOKEN, "Token expired")

    def _guard(self, seat: Seat, grant: Grant) -> None:
        if seat.conversation is None or seat.grant is not grant or not seat.peer.open:
            return
        left = self.serves(seat) - self._world.clock.now()
        if left > 0:
            self._world.later(min(left, _GLANCE), partial(self._guard, seat, grant))
        else:
            self.outlived(seat)

    def booked(self, conversation: Conversation, opening: Members) -> None:
        """A socket found its conversation: books it there, with the trace its opening carries."""
        trace = opening.get("traceparent")
        self._world.book(conversation, "socket", trace if isinstance(trace, str) else None)

    def asked(self, seat: Seat, route: str) -> Fault | None:
        """Books what a frame asks for; returns the fault that refuses it."""
        self._world.count(seat.conversation, route)
        return self._faults.action(route)

    # -- what the world tells (see world.Teller)

    def said(self, conversation: Conversation, message: StoredMessage, cause: Any) -> None:
        """A stored message goes to every socket; to the one that sent it, as the answer."""
        if not conversation.observers:
            return
        frame = self.frame(conversation, message)
        for observer in tuple(conversation.observers):
            observer.send(frame, "send" if observer is cause else None)

    def frame(self, conversation: Conversation, message: StoredMessage) -> str:
        """A stored message as this family pushes it."""
        raise NotImplementedError

    def typing(self, conversation: Conversation, role: Role, name: str | None, millis: int) -> None:
        """Most families publish no frame for it."""

    def ended(self, conversation: Conversation, role: Role) -> None:
        if conversation.state == "active":
            self._world.close(conversation, "ended")
            self.farewell(conversation)

    def expired(self, conversation: Conversation) -> None:
        self.farewell(conversation)

    def farewell(self, conversation: Conversation) -> None:
        """The conversation is over: its sockets are done."""
        for observer in tuple(conversation.observers):
            observer.close(1000, "Conversation ended")

    def token_expired(self, conversation: Conversation) -> None:
        for observer in tuple(conversation.observers):
            seat: Seat = observer.note  # type: ignore[attr-defined]
            if seat.grant is not None:
                self._guard(seat, seat.grant)

    def pushed(self, conversation: Conversation, frame: str) -> None:
        """Deliver as it is. What is a message to the guest also enters the history."""
        try:
            told = self.told(conversation, validate.members(frame))
        except Wrong:
            told = None  # hostile frames are what this is for
        if told is not None and all(message.id != told.id for message in conversation.messages):
            self._world.say(conversation, told.text, role=told.role, name=told.name, message_id=told.id, tell=False)
        conversation.broadcast(frame)

    def told(self, conversation: Conversation, frame: Members) -> ShownMessage:
        """What a frame of this family's tells the guest; the reverse of `frame`. Raises Wrong for any other."""
        raise NotImplementedError


def as_frame(**fields: Any) -> str:
    """A frame; a member that is None is left out."""
    return dumps({key: value for key, value in fields.items() if value is not None})
