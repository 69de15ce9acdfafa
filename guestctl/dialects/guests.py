"""`guests`: an OAuth client creates the guest, and a socket carries the messages (other-apis.md, source 003).

Knows: the requests and frames of this API, and the maximum size of attributes. Must not know: HTTP or WebSocket
libraries, the current time. A refresh opens a new session of the *same* guest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import quote

from guestctl.core.clock import rfc3339
from guestctl.core.errors import Refused, SessionOver, Unauthorised, Unreadable, UsageError
from guestctl.core.jwt_claims import UnverifiedClaims, inspect
from guestctl.core.model import Credential, CredentialKind, Message, NewSession, Outgoing, Position, Secret, Session
from guestctl.core.values import Json
from guestctl.core.version import __version__
from guestctl.core.wire import Frame, HttpResponse, Request, SocketAddress, identifier, optional, required, utf8
from guestctl.dialects.base import Dialect, HistoryPage, frame_object, id_in_path, other_frame
from guestctl.dialects.capabilities import Ability, Rate, Standing
from guestctl.dialects.flows import Flow, Incoming, Opened, Rejection, answered, done, frame_request, http_request
from guestctl.dialects.history_pages import as_object, history_after, read_message
from guestctl.dialects.refusals import CloseAction, http_date
from guestctl.dialects.tokens import client_credentials, guest_token

#: Maximum size of a guest's attributes as compact JSON, in bytes.
ATTRIBUTE_BYTES = 10 * 1024
_VERIFIED = "delegation_verified"


class Guests(Dialect):
    name = "guests"
    summary = "OAuth create with routing, a socket with a handshake, profile sync"
    abilities = {
        Ability.CREATE: Standing.DOCUMENTED,
        Ability.SEND: Standing.ASSUMED,
        Ability.HISTORY: Standing.ASSUMED,
        Ability.LISTEN: Standing.DOCUMENTED,
        Ability.RESUME: Standing.DOCUMENTED,
        Ability.REFRESH: Standing.ASSUMED,
        Ability.END: Standing.DOCUMENTED,
        Ability.SYNC: Standing.DOCUMENTED,
    }
    fields = frozenset({"attr", "queue", "skill", "language", "name"})
    required = (("org", "base_url"),)
    session_ids = ("guest", "session")
    scopes = "guest:create guest:read webchat:send"
    forbidden_by = ("queue",)
    token_claims = ("routing_hints",)
    request_rate = Rate(200, 60.0)
    renewal_margins = {"guest": 300.0, "oauth": 5.0}
    sends_on_socket = True
    end_close_frame = (1000, "Widget disconnect")
    uses_oauth = True
    documented_addresses = (
        ("OAuth", "https://{org}.mypurecloud.com/oauth/token"),
        ("create", "https://{org}.mypurecloud.com/api/v2/guests"),
        ("profile sync", "https://{org}.mypurecloud.com/api/v2/guests/{guest}"),
        ("refresh", "https://{org}.mypurecloud.com/api/v2/guests/{guest}/sessions"),
        ("history", "https://{org}.mypurecloud.com/api/v2/guests/{guest}/sessions/{session}/messages"),
        ("queue", "https://{org}.mypurecloud.com/api/v2/routing/queues/{queue}"),
        ("socket", "wss://{org}.mypurecloud.com/api/v2/guests/{guest}/sessions/{session}/ws"),
    )

    # --- addresses ---

    def default_rest(self) -> str:
        return f"https://{self.need('org')}.mypurecloud.com"

    def default_socket(self) -> str:
        return f"wss://{self.need('org')}.mypurecloud.com"

    def socket_address(self, session: Session) -> SocketAddress:
        guest, current = id_in_path(session, "guest"), id_in_path(session, "session")
        return SocketAddress(self.socket(f"/api/v2/guests/{guest}/sessions/{current}/ws"))

    # --- session ---

    def oauth(self) -> Flow[Credential]:
        return client_credentials(self.profile, self.rest("/oauth/token"), self.scopes)

    def default_attributes(self, new: NewSession) -> Mapping[str, str]:
        """Return what the source's own widget sends with each guest."""
        return {
            "source": "guestctl",
            "locale": new.language or self.profile.locale or "en-US",
            "user_agent": f"guestctl/{__version__}",
        }

    def create(self, new: NewSession) -> Flow[Session]:
        self._check_size(new.attributes)
        routing: dict[str, Json] = {}
        if new.queue:
            routing["queue"] = {"id": new.queue}
        if new.skill:
            routing["skill"] = {"id": new.skill}
        if new.language:
            routing["language"] = new.language
        body = {"name": new.guest_name or "Guest", "attributes": dict(new.attributes), "routing": routing}
        reply = yield from http_request(
            Request("POST", self.rest("/api/v2/guests"), "create", json=body, credential="oauth")
        )
        answer = reply.object()
        ids = {"conversation": None, "guest": identifier(answer, "id", "guest"), "session": _session_id(answer)}
        session = Session(api=self.name, profile=self.profile.name, name=new.name, ids=ids, state="active")
        return session.having(self._token(reply))

    def queue_in(self, request: Request) -> str | None:
        routing = request.json.get("routing") if isinstance(request.json, dict) else None
        queue = routing.get("queue") if isinstance(routing, dict) else None
        return optional(queue, "id", str) if isinstance(queue, dict) else None

    def read_queue(self, queue: str) -> Flow[str | None]:
        url = self.rest(f"/api/v2/routing/queues/{quote(queue, safe='')}")
        request = Request("GET", url, "configuration", credential="oauth", idempotent=True)
        return optional((yield from http_request(request)).object(), "name", str)

    def obtain(self, kind: CredentialKind, session: Session) -> Flow[Session]:
        """Open a new session of the same guest, which continues the transcript."""
        url = self.rest(f"/api/v2/guests/{id_in_path(session, 'guest')}/sessions")
        reply = yield from http_request(Request("POST", url, "refresh", credential="oauth", idempotent=True))
        ids = {**session.ids, "session": _session_id(reply.object())}
        return replace(session, ids=ids).having(self._token(reply))

    def _token(self, reply: HttpResponse) -> Credential:
        """Return the token in an answer. Raises Unreadable or Unauthorised for one that cannot be used.

        The source names four reasons. A token has expired if both our clock and the service's agree on that.
        """
        answer = reply.object()
        text = identifier(answer, "guestToken", "guest") if isinstance(answer.get("guestToken"), str) else ""
        malformed = _malformed(text)
        if malformed is not None:
            raise Unreadable(malformed, code="answer.token", api=self.name)
        claims = inspect(Secret(text), reply.at)
        served_at = http_date(reply.headers.get("date", ""))
        now = reply.at if served_at is None else min(reply.at, served_at)
        if claims.expires_at is None or claims.expires_at < now:
            when = "it has no `exp`" if claims.expires_at is None else f"on {rfc3339(claims.expires_at)}"
            raise Unauthorised(f"guest token has expired: {when}", code="auth.token_expired", api=self.name)
        self._check_routing(claims)
        return guest_token(reply, "guestToken")

    def check_token(self, token: Secret) -> None:
        malformed = _malformed(token.reveal())
        if malformed is not None:
            raise Unauthorised(malformed, code="auth.secret", api=self.name)
        self._check_routing(inspect(token, 0.0))

    def _check_routing(self, claims: UnverifiedClaims) -> None:
        if not claims.claims.get("routing_hints"):
            raise Unauthorised(
                "guest token missing routing hints: it names no queue, skill or language",
                code="auth.token_routing",
                api=self.name,
            )

    def attach(
        self, session: Session, *, start_new: NewSession | None = None, traceparent: str | None = None
    ) -> Flow[Session]:
        frame = {"type": "handshake", "token": session.token()}
        if traceparent:
            frame["traceparent"] = traceparent
        yield from answered(frame_request(frame, lambda incoming: isinstance(incoming, (Opened, Rejection)), "socket"))
        return replace(session, new_session=False)

    def end(self, session: Session) -> Flow[Session]:
        """Return the session as ended. The close code ends the conversation (`end_close_frame`)."""
        return done(replace(session, state="ended"))

    def sync(self, session: Session, attributes: Mapping[str, Json]) -> Flow[Mapping[str, Json]]:
        if _VERIFIED in attributes:
            raise UsageError(
                f'the attribute "{_VERIFIED}" cannot be set: every sync sends it as true', code="usage.option"
            )
        merged = {**attributes, _VERIFIED: True}
        self._check_size(merged)
        url = self.rest(f"/api/v2/guests/{id_in_path(session, 'guest')}")
        request = Request("PUT", url, "sync", json={"attributes": merged}, credential="oauth", idempotent=True)
        try:
            yield from http_request(request)
        except SessionOver as gone:
            raise SessionOver(
                "Guest not found. Session may have expired.",
                api=self.name,
                http_status=gone.http_status,
                service_code=gone.service_code,
                body=gone.body,
            ) from gone
        return merged

    def _check_size(self, attributes: Mapping[str, Json]) -> None:
        size = len(utf8(json.dumps(attributes, ensure_ascii=False, separators=(",", ":"))))
        if size > ATTRIBUTE_BYTES:
            raise Refused(
                f"the attributes take {size} bytes of JSON, the limit is {ATTRIBUTE_BYTES}; nothing was sent",
                code="service.attributes",
                api=self.name,
            )

    # --- messages ---

    def send(self, session: Session, message: Outgoing) -> Flow[Message]:
        frame = {"type": "message", "payload": {"text": message.text, "correlationId": message.key}}

        def answers(incoming: Incoming) -> bool:
            if isinstance(incoming, Rejection):
                return incoming.reply_to in (message.key, None)
            return isinstance(incoming, Message) and incoming.key == message.key

        echo = yield from answered(frame_request(frame, answers, "send", message=True))
        assert isinstance(echo, Message)
        return echo

    def history(self, session: Session, *, after: Position | None, cursor: str | None, limit: int) -> Flow[HistoryPage]:
        guest, current = id_in_path(session, "guest"), id_in_path(session, "session")
        url = self.rest(f"/api/v2/guests/{guest}/sessions/{current}/messages")
        return history_after(url, after=after, cursor=cursor, limit=limit, key="correlationId")

    # --- reading ---

    def decode(self, frame: Frame, session: Session) -> Sequence[Incoming]:
        value = frame_object(frame)
        kind = value.get("type")
        if kind == "message":
            return (read_message(required(value, "payload", dict, kind), kind, key="correlationId"),)
        if kind == "handshake":
            payload = required(value, "payload", dict, kind)
            status = required(payload, "status", str, kind)
            if status == "ok":
                return (Opened(payload),)
            text = optional(payload, "message", str) or f'the service answered the handshake with "{status[:80]}"'
            return (Rejection(Unauthorised(text, api=self.name)),)
        return (other_frame(kind, value, self.name),)

    def on_early_close(self, code: int) -> CloseAction:
        """A close without a code before the answer to the handshake may mean an expired token."""
        return "renew" if code in {1005, 1006} else self.on_close(code)


def _malformed(token: str) -> str | None:
    """Return what keeps a text from being a JWT, None if it is one."""
    if not token:
        return "invalid guest token format: it is empty or not a text"
    parts = token.count(".") + 1
    if parts != 3:
        return f"Malformed JWT structure: a JWT has three parts, this one has {parts}"
    try:
        inspect(Secret(token), 0.0, required=("routing_hints",))
    except Unauthorised as problem:
        return f"Malformed JWT structure: {problem.message.removeprefix('malformed: ')}"
    return None


def _session_id(answer: Mapping[str, Json]) -> str:
    sessions = required(answer, "sessions", list, "guest")
    if not sessions:
        raise Unreadable("guest: `sessions` is empty")
    return identifier(as_object(sessions[0], "guest: session"), "id", "guest: session")
