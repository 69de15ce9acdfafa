"""`guest-sessions`: REST session, numbered messages, one events socket (dialects.md, source 000 [q]).

Knows: how a session is opened and where its messages live. Must not know: HTTP or WebSocket libraries.
A session's socket lives as long as its token, and nothing renews that: then it is over.
"""

from __future__ import annotations

from guestctl.dialects.base import id_in_path
from guestctl.dialects.declared import Ability, Standing
from guestctl.dialects.grants import guest_token
from guestctl.dialects.sequenced import Sequenced
from guestctl.model import Opening, Session
from guestctl.values import Json
from guestctl.wire import Flow, Request, call, take


class GuestSessions(Sequenced):
    name = "guest-sessions"
    summary = "REST sessions, numbered messages, an events socket"
    abilities = {
        Ability.CREATE: Standing.PUBLISHED,
        Ability.SEND: Standing.PUBLISHED,
        Ability.HISTORY: Standing.PUBLISHED,
        Ability.LISTEN: Standing.PUBLISHED,
        Ability.RESUME: Standing.PUBLISHED,
        Ability.TYPING: Standing.PUBLISHED,
    }
    fields = frozenset({"attr"})
    places = (
        ("create", "https://api.{region}/api/v2/guest/webmessaging/sessions"),
        ("send and history", "https://api.{region}/api/v2/guest/webmessaging/sessions/{session}/messages"),
        *Sequenced.places,
    )

    def create(self, opening: Opening) -> Flow[Session]:
        body: dict[str, Json] = {}
        if self.profile.deployment_id:
            body["deploymentId"] = self.profile.deployment_id
        if opening.attributes:
            body["customAttributes"] = dict(opening.attributes)
        reply = yield from call(Request("POST", self.rest("/api/v2/guest/webmessaging/sessions"), "create", json=body))
        answer = reply.object()
        ids = {
            "conversation": None,
            "guest": take(answer, "guestId", str, "session"),
            "session": take(answer, "webMessagingSessionId", str, "session"),
        }
        session = Session(api=self.name, profile=self.profile.name, name=opening.name, ids=ids, state="active")
        return session.having(guest_token(reply, "sessionToken"))

    def messages(self, session: Session) -> str:
        return self.rest(f"/api/v2/guest/webmessaging/sessions/{id_in_path(session, 'session')}/messages")

    def watched(self, session: Session) -> dict[str, str]:
        return {"sessionId": str(session.ids["session"])}
