"""What the APIs of other-apis.md share: guest tokens, one transcript, sockets that receive all of it.

Knows: the shared rules of that document. Must not know: the paths, frames or field names of any one API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from guestctl.sandbox.apis import validate
from guestctl.sandbox.apis.history_pages import ShownMessage
from guestctl.sandbox.apis.validate import InvalidRequest, Members
from guestctl.sandbox.faults import Fault, Faults
from guestctl.sandbox.interfaces import Peer, RequestRefused, Route, ServerReply, ServerRequest, SocketRoute, error
from guestctl.sandbox.issued_tokens import Grant
from guestctl.sandbox.service_state import AgentFiles, Conversation, Role, Service, StoredMessage, dumps
from guestctl.sandbox.settings import SandboxOptions

GUEST = "guest"  # the kind of every guest token
TOKEN_EXPIRED = 4001  # close code: the token has expired
POLICY_VIOLATION = 1008  # close code: the token is missing or not genuine
_TOKEN_POLL = 1.0  # seconds between two checks of a long-lived token; the check also releases a closed socket


@dataclass(slots=True, eq=False)
class SocketState:
    """The state of one socket: its conversation and its token."""

    peer: Peer
    conversation: Conversation | None = None
    grant: Grant | None = None


class BaseApi:
    """An API without its paths, frames and field names."""

    name: str
    token_life: float = 1800.0
    agent_files: AgentFiles | None = None

    def __init__(self, service: Service, faults: Faults, options: SandboxOptions) -> None:
        self._service = service
        self._faults = faults
        self._options = options

    @property
    def returns_keys(self) -> bool:
        """Return whether history and pushed messages show client keys. No source states that they do."""
        return self._options.keys == "returned"

    @property
    def full_answers(self) -> bool:
        """Return whether create and send answer with the assumed members, too, not only the published ones."""
        return self._options.answers == "full"

    # -- REST

    def routes(self) -> Sequence[Route]:
        raise NotImplementedError

    def socket_routes(self) -> Sequence[SocketRoute]:
        return ()

    def socket_route(self, pattern: str, check: Callable[[ServerRequest], object]) -> SocketRoute:
        """Return a route for a socket address. `check` refuses an upgrade by raising RequestRefused."""

        def admit(request: ServerRequest) -> ServerReply | None:
            if request.origin is not None and not self._service.allows(request.origin):
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
        """Start a conversation on the deployment named in the body, if any. Raises InvalidRequest."""
        wanted = validate.text_or_none(body, "deploymentId")
        deployment = None if wanted is None else self._service.deployments.get(wanted)
        if wanted is not None and (deployment is None or not deployment.active):
            raise InvalidRequest(403, "deploymentId is not one that is served here")
        conversation = self._service.open(self.name, deployment, attributes=validate.as_texts(attributes), notes=notes)
        request.conversation = conversation
        return conversation

    def grant(self, conversation: Conversation) -> Grant:
        """Issue a guest token."""
        life = self._service.tokens.life(self.token_life)
        return self._service.tokens.opaque(GUEST, life=life, conversation=conversation.id)

    def require_conversation(
        self, request: ServerRequest, found: Conversation | None, what: str = "conversation"
    ) -> Conversation:
        """Return `found` if this API owns it, and set it on the request. Raises InvalidRequest (404)."""
        if found is None or found.api != self.name:
            raise InvalidRequest(404, f"There is no such {what}.")
        request.conversation = found
        return found

    def authorise(self, request: ServerRequest, conversation: Conversation, *, allow_expired: bool = False) -> Grant:
        """Return the grant of the request's bearer token. `allow_expired` accepts an expired one, for a refresh.

        Raises InvalidRequest.
        """
        tokens = self._service.tokens
        grant = tokens.find(request.bearer, GUEST)
        if grant is None or grant.conversation != conversation.id or (tokens.expired(grant) and not allow_expired):
            raise InvalidRequest(401)
        return grant

    def require_live(self, conversation: Conversation) -> None:
        """Raise InvalidRequest (409) if the conversation has ended."""
        if not self._service.live(conversation):
            raise validate.ended()

    def accept(
        self, conversation: Conversation, text: str, key: str, *, message_id: str | None = None, cause: Any = None
    ) -> tuple[StoredMessage, bool]:
        """Store a guest message, or return the message already stored under this key if the sandbox deduplicates.

        The second value is true for a new message. Raises InvalidRequest if the conversation has ended.
        """
        self.require_live(conversation)
        before = conversation.by_key.get(key) if self._options.deduplicates == "yes" else None
        if before is not None:
            return before, False
        return self._service.receive(conversation, text, key=key, message_id=message_id, cause=cause), True

    # -- sockets

    def opened(self, peer: Peer) -> None:
        peer.state = SocketState(peer)

    def closed(self, peer: Peer, clean: bool) -> None:
        self.detach(peer.state)

    #: `type` of a guest's frame -> the action in `faults.ON`
    actions: Mapping[str, str] = {}

    def route_of(self, text: str) -> str | None:
        try:
            return self.actions.get(str(validate.members(text).get("type")))
        except InvalidRequest:
            return None

    def received(self, peer: Peer, text: str) -> None:
        """Ignore the frame: most APIs define no frames from a guest."""

    def attach(self, socket: SocketState, conversation: Conversation, grant: Grant) -> None:
        """Attach a socket to a conversation for as long as its token is valid."""
        if socket.conversation is not conversation:
            self.detach(socket)
            socket.conversation = conversation
            conversation.observers.append(socket.peer)
            self._service.changed(conversation)
        socket.grant = grant
        self._watch_token(socket, grant)

    def detach(self, socket: SocketState) -> None:
        if socket.conversation is not None and socket.peer in socket.conversation.observers:
            socket.conversation.observers.remove(socket.peer)
            self._service.changed(socket.conversation)
        socket.conversation = None

    def token_valid_until(self, socket: SocketState) -> float:
        """Return the epoch seconds until which a socket may stay open: any live token of its conversation counts."""
        assert socket.conversation is not None
        assert socket.grant is not None
        tokens = self._service.tokens
        if not tokens.expired(socket.grant):  # look through all grants only when this one has expired
            return socket.grant.expires_at or 0.0
        return max((grant.expires_at or 0.0 for grant in tokens.of(socket.conversation.id)), default=0.0)

    def close_expired(self, socket: SocketState) -> None:
        socket.peer.close(TOKEN_EXPIRED, "Token expired")

    def _watch_token(self, socket: SocketState, grant: Grant) -> None:
        if socket.conversation is None or socket.grant is not grant or not socket.peer.open:
            return
        left = self.token_valid_until(socket) - self._service.clock.now()
        if left > 0:
            self._service.later(min(left, _TOKEN_POLL), partial(self._watch_token, socket, grant))
        else:
            self.close_expired(socket)

    def count_connect(self, conversation: Conversation, opening: Members) -> None:
        """Count a connected socket for its conversation, with the trace context of its first frame or upgrade."""
        trace = opening.get("traceparent")
        self._service.count_for(conversation, "socket", trace if isinstance(trace, str) else None)

    def count_action(self, socket: SocketState, route: str) -> Fault | None:
        """Count an action of a frame, and return the fault that refuses it."""
        self._service.count(socket.conversation, route)
        return self._faults.action(route)

    # -- what the service reports (see service_state.ApiCallbacks)

    def message_stored(self, conversation: Conversation, message: StoredMessage, cause: Any) -> None:
        """Send a stored message to every socket. For the socket that sent it, the frame is the answer."""
        if not conversation.observers:
            return
        frame = self.frame(conversation, message)
        for observer in tuple(conversation.observers):
            observer.send(frame, "send" if observer is cause else None)

    def frame(self, conversation: Conversation, message: StoredMessage) -> str:
        """Return the frame that pushes a stored message."""
        raise NotImplementedError

    def typing(self, conversation: Conversation, role: Role, name: str | None, millis: int) -> None:
        """Send nothing: most APIs have no typing frame."""

    def ended(self, conversation: Conversation, role: Role) -> None:
        if conversation.state == "active":
            self._service.close(conversation, "ended")
            self.end_sockets(conversation)

    def expired(self, conversation: Conversation) -> None:
        self.end_sockets(conversation)

    def end_sockets(self, conversation: Conversation) -> None:
        """Close the sockets of an ended conversation."""
        for observer in tuple(conversation.observers):
            observer.close(1000, "Conversation ended")

    def token_expired(self, conversation: Conversation) -> None:
        for observer in tuple(conversation.observers):
            socket: SocketState = observer.state  # type: ignore[attr-defined]
            if socket.grant is not None:
                self._watch_token(socket, socket.grant)

    def pushed(self, conversation: Conversation, frame: str) -> None:
        """Send a frame as it is. An outbound message in it is also stored in history."""
        try:
            pushed_message = self.parse_frame(conversation, validate.members(frame))
        except InvalidRequest:
            pushed_message = None  # tests push broken frames on purpose
        if pushed_message is not None and pushed_message.id not in conversation.positions:
            self._service.send(
                conversation,
                pushed_message.text,
                role=pushed_message.role,
                name=pushed_message.name,
                message_id=pushed_message.id,
                notify=False,
            )
        conversation.broadcast(frame)

    def parse_frame(self, conversation: Conversation, frame: Members) -> ShownMessage:
        """Parse an outbound message frame: the reverse of `frame`. Raises InvalidRequest for any other frame."""
        raise NotImplementedError


def as_frame(**fields: Any) -> str:
    """Return a JSON frame without the members that are None."""
    return dumps({key: value for key, value in fields.items() if value is not None})
