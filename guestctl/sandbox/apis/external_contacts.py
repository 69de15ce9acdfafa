"""The `external-contacts` API: guests with an e-mail address.

Knows: this API as other-apis.md describes it. Must not know: the server library, the client's dialect of the same
name. Typing and the socket are those of `guest_sessions`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from guestctl.sandbox.apis import validate
from guestctl.sandbox.apis.numbered import Numbered
from guestctl.sandbox.apis.validate import InvalidRequest
from guestctl.sandbox.interfaces import Route, ServerReply, ServerRequest
from guestctl.sandbox.service_state import Conversation

MESSAGING = "/api/v2/conversations/messaging"
MESSAGES = MESSAGING + "/external-contacts/{guestId}/messages"
_ADDRESS = re.compile(r"email:[^@\s]+@[^@\s]+")


class ExternalContacts(Numbered):
    """The `external-contacts` API. An address proves nothing about its sender, so each create makes a new guest."""

    name = "external-contacts"

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", MESSAGING + "/addresses", "create", self._create),
            Route("POST", MESSAGES, "send", self.send),
            Route("GET", MESSAGES, "history", self.history),
        )

    def _create(self, request: ServerRequest) -> ServerReply:
        body = validate.body_of(request)
        address = validate.text(body, "address")
        if not _ADDRESS.fullmatch(address):
            raise InvalidRequest(400, "address is not email: and an e-mail address")
        conversation = self.start(request, {}, {}, {"address": address})
        answer = {"guestId": conversation.guest_id, "sessionToken": self.grant(conversation).token}
        self._service.greet(conversation)
        return ServerReply.json(201, answer)

    def find_conversation(self, request: ServerRequest) -> Conversation:
        return self.require_conversation(request, self._service.by_guest(request.params["guestId"]), "guest")
