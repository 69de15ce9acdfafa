"""`webmessaging-conversations`: REST only, with a short-lived session token (other-apis.md, source 004).

Knows: the requests of this API and its two documented ways to refresh. Must not know: HTTP libraries, the current
time, when to refresh. No socket is documented, so listening polls history.
"""

from __future__ import annotations

from guestctl.core.errors import Refused, SessionOver
from guestctl.core.model import Credential, CredentialKind, Message, NewSession, Outgoing, Position, Sender, Session
from guestctl.core.values import Json
from guestctl.core.wire import Request, identifier, optional_identifier
from guestctl.dialects.base import Dialect, HistoryPage, id_in_path
from guestctl.dialects.capabilities import Ability, Backoff, Standing
from guestctl.dialects.flows import Flow, http_request
from guestctl.dialects.history_pages import history_after, read_time
from guestctl.dialects.tokens import client_credentials, guest_token

#: Values of `refresh_style`: the request in [a1], which is the default, and the one in [a3].
STYLES = ("guest-refresh", "guest-token")


class WebmessagingConversations(Dialect):
    name = "webmessaging-conversations"
    summary = "REST alone, a token of 15 minutes, listening by polling"
    abilities = {
        Ability.CREATE: Standing.DOCUMENTED,
        Ability.SEND: Standing.DOCUMENTED,
        Ability.HISTORY: Standing.ASSUMED,
        Ability.LISTEN: Standing.ASSUMED,
        Ability.RESUME: Standing.ASSUMED,
        Ability.REFRESH: Standing.DOCUMENTED,
    }
    required = (("region", "base_url"),)
    session_ids = ("conversation",)
    scopes = "webmessaging:conversation:write"
    forbidden_by = ("deployment_id",)
    renewal_margins = {"guest": 60.0, "oauth": 5.0}
    renewal_backoff = Backoff(base=0.1, cap=5.0, tries=3)
    has_socket = False
    uses_oauth = True
    documented_addresses = (
        ("OAuth", "https://api.{region}/oauth/token"),
        ("create", "https://api.{region}/api/v2/webmessaging/conversations"),
        ("send and history", "https://api.{region}/api/v2/webmessaging/conversations/{conversation}/messages"),
        (
            "refresh (guest-refresh)",
            "https://api.{region}/api/v2/webmessaging/conversations/{conversation}/guests/{guest}/refresh",
        ),
        ("refresh (guest-token)", "https://api.{region}/api/v2/webmessaging/conversations/{conversation}/guest-token"),
    )

    # --- addresses ---

    def default_rest(self) -> str:
        return f"https://api.{self.need('region')}"

    def _conversations(self) -> str:
        return self.rest("/api/v2/webmessaging/conversations")

    def _conversation(self, session: Session) -> str:
        return f"{self._conversations()}/{id_in_path(session, 'conversation')}"

    # --- session ---

    def oauth(self) -> Flow[Credential]:
        return client_credentials(self.profile, self.rest("/oauth/token"), self.scopes)

    def create(self, new: NewSession) -> Flow[Session]:
        body = {"deploymentId": self.profile.deployment_id} if self.profile.deployment_id else {}
        reply = yield from http_request(Request("POST", self._conversations(), "create", json=body, credential="oauth"))
        answer = reply.object()
        # [q] spells it "conversationsId"; the answers in the same thread spell it "conversationId".
        member = "conversationsId" if "conversationsId" in answer else "conversationId"
        ids = {
            "conversation": identifier(answer, member, "conversation"),
            "guest": optional_identifier(answer, "guestId"),  # [q] shows an answer without it
        }
        session = Session(api=self.name, profile=self.profile.name, name=new.name, ids=ids, state="active")
        return session.having(guest_token(reply, "sessionToken"))

    def obtain(self, kind: CredentialKind, session: Session) -> Flow[Session]:
        style = self.profile.refresh_style or STYLES[0]
        try:
            reply = yield from http_request(self._refresh(style, session))
        except SessionOver as failure:
            if failure.http_status != 404:
                raise
            other = next(name for name in STYLES if name != style)
            raise Refused(
                f'{failure.message} (refresh_style "{style}"; the other documented way is "refresh_style: {other}")',
                code="service.refresh_style",
                api=self.name,
                http_status=404,
                body=failure.body,
            ) from failure
        return session.having(guest_token(reply, "sessionToken"))

    def _refresh(self, style: str, session: Session) -> Request:
        guest = _guest_member(session)
        base = self._conversation(session)
        if style == "guest-token":
            body = {"conversationId": session.ids["conversation"], **guest}
            return Request("POST", f"{base}/guest-token", "refresh", json=body, credential="guest", idempotent=True)
        url = f"{base}/guests/{id_in_path(session, 'guest')}/refresh"
        return Request("POST", url, "refresh", json=guest, credential="oauth", idempotent=True)

    # --- messages ---

    def send(self, session: Session, message: Outgoing) -> Flow[Message]:
        """Send the token in the header, and `guestId` and `type` in the body: the service wants all three.

        A session without a guest's id is sent without it: only the service can say whether it accepts that.
        """
        body = {"type": "text", "text": message.text, **_guest_member(session), "messageId": message.key}
        url = f"{self._conversation(session)}/messages"
        request = Request("POST", url, "send", json=body, credential="guest", idempotent=self.deduplicates)
        stored = (yield from http_request(request)).object()
        return Message(
            id=identifier(stored, "id", "accepted message"),
            direction="inbound",
            text=message.text,
            time=read_time(stored, "accepted message"),
            key=message.key,
            sender=Sender("guest"),
            raw=stored,
        )

    def history(self, session: Session, *, after: Position | None, cursor: str | None, limit: int) -> Flow[HistoryPage]:
        return history_after(f"{self._conversation(session)}/messages", after=after, cursor=cursor, limit=limit)


def _guest_member(session: Session) -> dict[str, Json]:
    guest = session.ids.get("guest")
    return {} if guest is None else {"guestId": guest}
