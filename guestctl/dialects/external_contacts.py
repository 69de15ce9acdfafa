"""`external-contacts`: a guest who is identified by an e-mail address (other-apis.md, source 000 [a1]).

Knows: the request that turns an e-mail address into a guest, and the address of the guest's messages. Must not know:
HTTP or WebSocket libraries.
"""

from __future__ import annotations

from guestctl.core.errors import UsageError
from guestctl.core.model import NewSession, Session
from guestctl.core.wire import Request, identifier
from guestctl.dialects.base import id_in_path
from guestctl.dialects.capabilities import Ability, Standing
from guestctl.dialects.flows import Flow, http_request
from guestctl.dialects.numbered import NumberedDialect
from guestctl.dialects.tokens import guest_token


class ExternalContacts(NumberedDialect):
    name = "external-contacts"
    summary = "guests by e-mail address, numbered messages, an events socket"
    abilities = {
        Ability.CREATE: Standing.DOCUMENTED,
        Ability.SEND: Standing.ASSUMED,
        Ability.HISTORY: Standing.DOCUMENTED,
        Ability.LISTEN: Standing.ASSUMED,
        Ability.RESUME: Standing.DOCUMENTED,
        Ability.TYPING: Standing.DOCUMENTED,
    }
    fields = frozenset({"email"})
    session_ids = ("guest",)
    documented_addresses = (
        ("create", "https://api.{region}/api/v2/conversations/messaging/addresses"),
        ("send and history", "https://api.{region}/api/v2/conversations/messaging/external-contacts/{guest}/messages"),
        *NumberedDialect.documented_addresses,
    )

    def create(self, new: NewSession) -> Flow[Session]:
        if not new.email:
            raise UsageError(
                f'profile "{self.profile.name}": the {self.name} API needs an e-mail address',
                code="config.key",
                hint='add --email, or set "email" in the profile',
            )
        url = self.rest("/api/v2/conversations/messaging/addresses")
        reply = yield from http_request(Request("POST", url, "create", json={"address": f"email:{new.email}"}))
        ids = {"conversation": None, "guest": identifier(reply.object(), "guestId", "address")}
        session = Session(api=self.name, profile=self.profile.name, name=new.name, ids=ids, state="active")
        return session.having(guest_token(reply, "sessionToken"))

    def messages(self, session: Session) -> str:
        path = f"/api/v2/conversations/messaging/external-contacts/{id_in_path(session, 'guest')}/messages"
        return self.rest(path)

    def socket_query(self, session: Session) -> dict[str, str]:
        return {"guestId": str(session.ids["guest"])}
