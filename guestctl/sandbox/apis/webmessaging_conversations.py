"""The `webmessaging-conversations` API: everything over REST, tokens for fifteen minutes, no socket.

Knows: this API as other-apis.md describes it, with the order of its refusals. Must not know: the server library, the
client's dialect of the same name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guestctl.sandbox.apis import history_pages, validate
from guestctl.sandbox.apis.base import BaseApi
from guestctl.sandbox.apis.oauth import OAuth
from guestctl.sandbox.apis.validate import InvalidRequest, Members
from guestctl.sandbox.faults import Faults
from guestctl.sandbox.interfaces import Route, ServerReply, ServerRequest
from guestctl.sandbox.service_state import Conversation, Service, StoredMessage, dumps
from guestctl.sandbox.settings import SandboxOptions

CONVERSATIONS = "/api/v2/webmessaging/conversations"
ONE = CONVERSATIONS + "/{conversationId}"
SCOPE = "webmessaging:conversation:write"
_INVALID = "Session token is invalid or expired"


class WebmessagingConversations(BaseApi):
    """The `webmessaging-conversations` API. A frame that a test pushes has the form of a message in history."""

    name = "webmessaging-conversations"
    token_life = 900.0

    def __init__(self, service: Service, faults: Faults, options: SandboxOptions) -> None:
        super().__init__(service, faults, options)
        self._oauth = OAuth(service)

    def routes(self) -> Sequence[Route]:
        refreshes = {
            "guest-refresh": Route("POST", ONE + "/guests/{guestId}/refresh", "refresh", self._refresh_as_client),
            "guest-token": Route("POST", ONE + "/guest-token", "refresh", self._refresh_as_guest),
        }
        only = self._options.refresh_style
        return (
            Route("POST", CONVERSATIONS, "create", self._create),
            Route("POST", ONE + "/messages", "send", self._send),
            Route("GET", ONE + "/messages", "history", self._history),
            *(refreshes.values() if only is None else [refreshes[only]]),
        )

    def _create(self, request: ServerRequest) -> ServerReply:
        self._oauth.check(request, SCOPE)
        conversation = self.start(request, validate.body_of(request, may_be_empty=True), {})
        credential = self._credential(conversation)
        if self.full_answers:
            answer = {"conversationId": conversation.id, "guestId": conversation.guest_id, **credential}
        else:
            answer = {"conversationsId": conversation.id, "sessionToken": credential["sessionToken"]}
        self._service.greet(conversation)
        return ServerReply.json(201, answer)

    def _credential(self, conversation: Conversation) -> dict[str, object]:
        life = self._service.tokens.life(self.token_life)
        return {"sessionToken": self.grant(conversation).token, "expiresIn": int(life) if life % 1 == 0 else life}

    def _find_conversation(self, request: ServerRequest) -> Conversation:
        return self.require_conversation(request, self._service.conversations.get(request.params["conversationId"]))

    def _send(self, request: ServerRequest) -> ServerReply:
        conversation = self._find_conversation(request)
        if request.headers.get("content-type", "").strip().lower() != "application/json":
            raise InvalidRequest(415, "Content-Type is not application/json")
        self._authorise(request, conversation)
        body = validate.body_of(request)
        if validate.text(body, "type") != "text":
            raise InvalidRequest(400, 'type is not "text"')
        # A guest whose create answered without an id cannot name it.
        if body.get("guestId", None if self.full_answers else conversation.guest_id) != conversation.guest_id:
            raise InvalidRequest(401, _INVALID)
        text, key = validate.text(body, "text"), validate.text_or_none(body, "messageId")
        # The documented bodies have no messageId: such a message is accepted and is never a repeat.
        stored, _ = self.accept(conversation, text, key or self._service.new_uuid())
        named = {"messageId": stored.key} if self.returns_keys else {}
        return ServerReply.json(200, {"id": stored.id, **named, "timestamp": stored.time})

    def _authorise(self, request: ServerRequest, conversation: Conversation, *, allow_expired: bool = False) -> None:
        try:
            self.authorise(request, conversation, allow_expired=allow_expired)
        except InvalidRequest:
            raise InvalidRequest(401, _INVALID) from None

    def _history(self, request: ServerRequest) -> ServerReply:
        conversation = self._find_conversation(request)
        self._authorise(request, conversation)
        return history_pages.after(self._service, request, conversation, self._shown)

    # -- the two documented forms of refresh

    def _refresh_as_client(self, request: ServerRequest) -> ServerReply:
        self._oauth.check(request, SCOPE)
        conversation = self._find_conversation(request)
        if request.params["guestId"] != conversation.guest_id:
            raise InvalidRequest(404, "There is no such guest.")
        return self._renew(request, conversation, "guestId")

    def _refresh_as_guest(self, request: ServerRequest) -> ServerReply:
        conversation = self._find_conversation(request)
        self._authorise(request, conversation, allow_expired=True)
        return self._renew(request, conversation, "conversationId", "guestId")

    def _renew(self, request: ServerRequest, conversation: Conversation, *needed: str) -> ServerReply:
        body = validate.body_of(request)
        ids = {"conversationId": conversation.id, "guestId": conversation.guest_id}
        for name in needed:
            if validate.text(body, name) != ids[name]:
                raise InvalidRequest(400, f"{name} is not that of this conversation")
        self.require_live(conversation)
        return ServerReply.json(200, self._credential(conversation))

    def frame(self, conversation: Conversation, message: StoredMessage) -> str:
        """Return a message in the form of history. No socket receives it; it is the form of a frame that a test
        pushes.
        """
        return dumps(self._shown(message))

    def _shown(self, message: StoredMessage) -> dict[str, Any]:
        return history_pages.shown(message, "messageId" if self.returns_keys else None)

    def parse_frame(self, conversation: Conversation, frame: Members) -> history_pages.ShownMessage:
        return history_pages.parse(frame)
