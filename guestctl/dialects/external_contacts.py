"""`external-contacts`: a guest known by an e-mail address (dialects.md, source 000 [a1]).

Knows: how an address becomes a guest and where the guest's messages live. Must not know: HTTP or
WebSocket libraries.
"""

from __future__ import annotations

from guestctl.dialects.base import id_in_path
from guestctl.dialects.declared import Ability, Standing
from guestctl.dialects.grants import guest_token
from guestctl.dialects.sequenced import Sequenced
from guestctl.errors import UsageError
from guestctl.model import Opening, Session
from guestctl.wire import Flow, Request, call, take


class ExternalContacts(Sequenced):
    name = "external-contacts"
    summary = "guests by e-mail address, numbered messages, an events socket"
    abilities = {
        Ability.CREATE: Standing.PUBLISHED,
        Ability.SEND: Standing.FIXED,
        Ability.HISTORY: Standing.PUBLISHED,
        Ability.LISTEN: Standing.FIXED,
        Ability.RESUME: Standing.PUBLISHED,
        Ability.TYPING: Standing.PUBLISHED,
    }
    fields = frozenset({"email"})
    places = (
        ("create", "https://api.{region}/api/v2/conversations/messaging/addresses"),
        ("send and history", "https://api.{region}/api/v2/conversations/messaging/external-contacts/{guest}/messages"),
        *Sequenced.places,
    )

    def create(self, opening: Opening) -> Flow[Session]:
        if not opening.email:
            raise UsageError(
                f"profile {self.profile.name!r}: the {self.name} API needs the guest's `email`",
                code="config.key",
                hint="Give --email, or set `email` in the profile.",
            )
        url = self.rest("/api/v2/conversations/messaging/addresses")
        reply = yield from call(Request("POST", url, "create", json={"address": f"email:{opening.email}"}))
        ids = {"conversation": None, "guest": take(reply.object(), "guestId", str, "address")}
        session = Session(api=self.name, profile=self.profile.name, name=opening.name, ids=ids, state="active")
        return session.having(guest_token(reply, "sessionToken"))

    def messages(self, session: Session) -> str:
        path = f"/api/v2/conversations/messaging/external-contacts/{id_in_path(session, 'guest')}/messages"
        return self.rest(path)

    def watched(self, session: Session) -> dict[str, str]:
        return {"guestId": str(session.ids["guest"])}
