"""`guest-sessions`: REST session, numbered messages, one events socket (other-apis.md, source 000 [q]).

Knows: how to open a session, and the address of its messages. Must not know: HTTP or WebSocket libraries.
The token cannot be renewed, so the session ends when it expires.
"""

from __future__ import annotations

from guestctl.core.model import NewSession, Session
from guestctl.core.values import Json
from guestctl.core.wire import Request, identifier, optional_identifier
from guestctl.dialects.base import id_in_path
from guestctl.dialects.capabilities import Ability, Standing
from guestctl.dialects.flows import Flow, http_request
from guestctl.dialects.numbered import NumberedDialect
from guestctl.dialects.tokens import guest_token


class GuestSessions(NumberedDialect):
    name = "guest-sessions"
    summary = "REST sessions, numbered messages, an events socket"
    abilities = {
        Ability.CREATE: Standing.DOCUMENTED,
        Ability.SEND: Standing.DOCUMENTED,
        Ability.HISTORY: Standing.DOCUMENTED,
        Ability.LISTEN: Standing.DOCUMENTED,
        Ability.RESUME: Standing.DOCUMENTED,
        Ability.TYPING: Standing.DOCUMENTED,
    }
    fields = frozenset({"attr"})
    session_ids = ("session",)
    forbidden_by = ("deployment_id",)
    documented_addresses = (
        ("create", "https://api.{region}/api/v2/guest/webmessaging/sessions"),
        ("send and history", "https://api.{region}/api/v2/guest/webmessaging/sessions/{session}/messages"),
        *NumberedDialect.documented_addresses,
    )

    def create(self, new: NewSession) -> Flow[Session]:
        body: dict[str, Json] = {}
        if self.profile.deployment_id:
            body["deploymentId"] = self.profile.deployment_id
        if new.attributes:
            body["customAttributes"] = dict(new.attributes)
        reply = yield from http_request(
            Request("POST", self.rest("/api/v2/guest/webmessaging/sessions"), "create", json=body)
        )
        answer = reply.object()
        ids = {
            "conversation": None,
            "guest": optional_identifier(answer, "guestId"),
            "session": identifier(answer, "webMessagingSessionId", "session"),
        }
        session = Session(api=self.name, profile=self.profile.name, name=new.name, ids=ids, state="active")
        # [q] shows an answer without `guestId` that calls the token `token`.
        return session.having(guest_token(reply, "token" if "sessionToken" not in answer else "sessionToken"))

    def messages(self, session: Session) -> str:
        return self.rest(f"/api/v2/guest/webmessaging/sessions/{id_in_path(session, 'session')}/messages")

    def socket_query(self, session: Session) -> dict[str, str]:
        return {"sessionId": str(session.ids["session"])}
