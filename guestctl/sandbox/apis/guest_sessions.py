"""The `guest-sessions` API: sessions over REST, numbered messages, a socket with a bearer token.

Knows: this API as other-apis.md describes it. Must not know: the server library, the client's dialect of the same
name.
"""

from __future__ import annotations

from collections.abc import Sequence

from guestctl.core.clock import rfc3339
from guestctl.sandbox.apis import validate
from guestctl.sandbox.apis.numbered import Numbered
from guestctl.sandbox.apis.validate import InvalidRequest
from guestctl.sandbox.faults import Faults
from guestctl.sandbox.interfaces import Peer, Route, ServerReply, ServerRequest, SocketRoute
from guestctl.sandbox.service_state import Conversation, Service
from guestctl.sandbox.settings import SandboxOptions

SESSIONS = "/api/v2/guest/webmessaging/sessions"
EVENTS = "/v2/guest/webmessaging/events"  # documented without /api
TYPING = "/api/v2/conversations/messaging/external-contacts/{guestId}/typing"
LOCK = 2.0  # seconds that a session stays locked after its socket broke


class GuestSessions(Numbered):
    """The `guest-sessions` API. It also serves the socket and the typing of `external-contacts`."""

    name = "guest-sessions"

    def __init__(self, service: Service, faults: Faults, options: SandboxOptions) -> None:
        super().__init__(service, faults, options)
        self._locked: dict[str, float] = {}  # conversation id -> monotonic seconds at which its lock ends

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", SESSIONS, "create", self._create),
            Route("POST", SESSIONS + "/{sessionId}/messages", "send", self.send),
            Route("GET", SESSIONS + "/{sessionId}/messages", "history", self.history),
            Route("POST", TYPING, "typing", self._typing),
        )

    def socket_routes(self) -> Sequence[SocketRoute]:
        return (self.socket_route(EVENTS, self._admit),)

    def _create(self, request: ServerRequest) -> ServerReply:
        body = validate.body_of(request, may_be_empty=True)
        conversation = self.start(request, body, validate.part_or_empty(body, "customAttributes"))
        grant = self.grant(conversation)
        answer = {
            "webMessagingSessionId": conversation.id,
            "guestId": conversation.guest_id,
            "sessionToken": grant.token,
            "expiresAt": rfc3339(grant.expires_at or 0.0),
        }
        if not self.full_answers:
            answer = {"webMessagingSessionId": conversation.id, "token": grant.token}
        self._service.greet(conversation)
        return ServerReply.json(201, answer)

    def find_conversation(self, request: ServerRequest) -> Conversation:
        return self.require_conversation(
            request, self._service.conversations.get(request.params["sessionId"]), "session"
        )

    def require_usable(self, request: ServerRequest) -> Conversation:
        conversation = super().require_usable(request)
        self._require_unlocked(conversation)
        return conversation

    def _require_unlocked(self, conversation: Conversation) -> None:
        """Raise InvalidRequest (409) while the lock lasts: the last socket has just broken."""
        until = self._locked.get(conversation.id)
        if until is None:
            return
        if self._service.clock.monotonic() < until:
            raise InvalidRequest(409, "The session is locked: its last socket broke a moment ago.", "session.locked")
        del self._locked[conversation.id]

    # -- for guest-sessions and external-contacts

    def _require_guest(self, request: ServerRequest, found: Conversation | None) -> Conversation:
        if found is None or found.api not in (self.name, "external-contacts"):
            raise InvalidRequest(404, "There is no such session or guest.")
        request.conversation = found
        self.authorise(request, found)
        self.require_live(found)
        return found

    def _typing(self, request: ServerRequest) -> ServerReply:
        self._require_guest(request, self._service.by_guest(request.params["guestId"]))
        return ServerReply(204)

    def _admit(self, request: ServerRequest) -> None:
        session, guest = request.query.get("sessionId"), request.query.get("guestId")
        if (session is None) == (guest is None):
            raise InvalidRequest(400, "Either sessionId or guestId is needed")
        if session is not None:
            found = self._service.conversations.get(session)
            wanted = self.name
        else:
            found = self._service.by_guest(guest or "")
            wanted = "external-contacts"
        self._require_unlocked(
            self._require_guest(request, found if found is not None and found.api == wanted else None)
        )

    def opened(self, peer: Peer) -> None:
        super().opened(peer)
        self.attach_by_upgrade(peer.state)

    def closed(self, peer: Peer, clean: bool) -> None:
        conversation: Conversation | None = peer.state.conversation
        super().closed(peer, clean)
        if not clean and conversation is not None and conversation.api == self.name:
            self._locked[conversation.id] = self._service.clock.monotonic() + LOCK
