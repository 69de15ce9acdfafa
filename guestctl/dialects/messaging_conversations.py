"""`messaging-conversations`: public create, and a socket on which the guest registers (other-apis.md, source 002).

Knows: the frames, the page tokens and the refresh of this API. Must not know: HTTP or WebSocket libraries, when to
reconnect, the current time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from guestctl.core.errors import Failure, Forbidden, UsageError
from guestctl.core.model import (
    Credential,
    CredentialKind,
    Message,
    NewSession,
    Outgoing,
    Position,
    Role,
    Sender,
    Session,
    SessionEvent,
    Source,
)
from guestctl.core.values import Json
from guestctl.core.wire import (
    Frame,
    HttpResponse,
    Request,
    SocketAddress,
    identifier,
    optional,
    optional_identifier,
    required,
)
from guestctl.dialects.base import (
    Dialect,
    HistoryEntry,
    HistoryPage,
    frame_object,
    history_from_start,
    id_in_path,
    other_frame,
    read_entries,
)
from guestctl.dialects.capabilities import Ability, Standing
from guestctl.dialects.flows import Flow, Incoming, Opened, Rejection, answered, frame_request, http_request
from guestctl.dialects.history_pages import as_object, read_time
from guestctl.dialects.refusals import CloseAction
from guestctl.dialects.tokens import guest_token

#: Tokens live 30 to 60 minutes. Assume the shortest life and renew 5 minutes before its end, in seconds.
LIFETIME, RENEWAL_MARGIN = 30 * 60.0, 5 * 60.0
#: HTTP statuses for `error` frames whose code is text: the platform's own codes, and common ones.
_STATUSES = {
    "authentication.required": 401,
    "bad.credentials": 401,
    "invalid.token": 401,
    "token.expired": 401,
    "unauthorized": 401,
    "forbidden": 403,
    "not.authorized": 403,
    "not.found": 404,
    "conflict": 409,
    "session.invalid": 409,
    "session.locked": 409,
    "too.many.requests": 429,
    "internal.server.error": 500,
    "service.unavailable": 503,
}
_ENDED = "session.invalid"


class MessagingConversations(Dialect):
    name = "messaging-conversations"
    summary = "public create, a socket to register on, history by page token"
    abilities = {
        Ability.CREATE: Standing.DOCUMENTED,
        Ability.SEND: Standing.DOCUMENTED,
        Ability.HISTORY: Standing.DOCUMENTED,
        Ability.LISTEN: Standing.DOCUMENTED,
        Ability.RESUME: Standing.DOCUMENTED,
        Ability.REFRESH: Standing.DOCUMENTED,
    }
    fields = frozenset({"attr", "queue", "name"})
    required = (("environment", "base_url"),)
    session_ids = ("conversation",)
    scopes = "webmessaging:guest:send webmessaging:guest:read webmessaging:conversation:read"
    forbidden_by = ("queue",)
    renewal_margins = {"guest": RENEWAL_MARGIN}
    pages_by_token = True
    reattaches = True
    sends_on_socket = True
    shared_socket_address = True
    close_frame = (1000, "Client shutting down")
    documented_addresses = (
        ("create", "https://{environment}.mygen.com/api/v2/messaging/conversations"),
        ("history", "https://{environment}.mygen.com/api/v2/messaging/conversations/{conversation}/messages"),
        ("refresh", "https://{environment}.mygen.com/api/v2/messaging/conversations/{conversation}/guest-tokens"),
        ("socket", "wss://{environment}.mygen.com/ws"),
    )

    # --- addresses ---

    def default_rest(self) -> str:
        return f"https://{self.need('environment')}.mygen.com"

    def default_socket(self) -> str:
        return f"wss://{self.need('environment')}.mygen.com"

    def socket_address(self, session: Session) -> SocketAddress:
        return SocketAddress(self.socket("/ws"))

    def _conversation(self, session: Session) -> str:
        return self.rest(f"/api/v2/messaging/conversations/{id_in_path(session, 'conversation')}")

    # --- session ---

    def create(self, new: NewSession) -> Flow[Session]:
        if not new.queue:
            raise UsageError(
                f'profile "{self.profile.name}": the {self.name} API needs a queue',
                code="config.key",
                hint='add --queue, or set "queue" in the profile',
            )
        body = {
            "conversationName": new.guest_name or "guestctl",
            "routing": {"selectedQueueId": new.queue},
            "attributes": {"custom": {"source": "guestctl", **new.attributes}},
        }
        reply = yield from http_request(
            Request("POST", self.rest("/api/v2/messaging/conversations"), "create", json=body)
        )
        answer = reply.object()
        ids = {
            "conversation": identifier(answer, "id", "conversation"),
            "guest": optional_identifier(answer, "guestId"),
        }
        session = Session(api=self.name, profile=self.profile.name, name=new.name, ids=ids, state="active")
        return session.having(_token(reply))

    def queue_in(self, request: Request) -> str | None:
        routing = request.json.get("routing") if isinstance(request.json, dict) else None
        return optional(routing, "selectedQueueId", str) if isinstance(routing, dict) else None

    def obtain(self, kind: CredentialKind, session: Session) -> Flow[Session]:
        url = f"{self._conversation(session)}/guest-tokens"
        reply = yield from http_request(Request("POST", url, "refresh", credential="guest", idempotent=True))
        return session.having(_token(reply))

    def attach(
        self, session: Session, *, start_new: NewSession | None = None, traceparent: str | None = None
    ) -> Flow[Session]:
        frame = {
            "type": "register",
            "conversationId": session.ids["conversation"],
            "guestToken": session.token(),
        }
        if traceparent:
            frame["traceparent"] = traceparent
        yield from answered(frame_request(frame, lambda incoming: isinstance(incoming, (Opened, Rejection)), "socket"))
        return replace(session, new_session=False)

    def reattach(self, session: Session, *, traceparent: str | None = None) -> Flow[Session]:
        return self.attach(session, traceparent=traceparent)

    # --- messages ---

    def send(self, session: Session, message: Outgoing) -> Flow[Message]:
        frame = {
            "type": "send",
            "message": {"text": message.text, "attributes": {"correlationId": message.key}},
        }

        def answers(incoming: Incoming) -> bool:
            if isinstance(incoming, Rejection):
                return incoming.reply_to in (message.key, None)
            return isinstance(incoming, Message) and incoming.key == message.key

        echo = yield from answered(frame_request(frame, answers, "send", message=True))
        assert isinstance(echo, Message)
        return echo

    def as_own(self, session: Session, message: Message) -> Message | None:
        """Without the guest's id, a message of anybody but the bot may be the guest's own."""
        if session.ids.get("guest") or message.direction == "inbound" or message.sender.role == "bot":
            return super().as_own(session, message)
        return replace(message, direction="inbound", sender=replace(message.sender, role="guest"))

    def after_acceptance(self, session: Session, accepted: Message | None = None) -> Session:
        """Learn the guest's id from the accepted message: it identifies the guest's other messages."""
        if session.ids.get("guest") or accepted is None or not isinstance(accepted.raw, dict):
            return session
        return replace(session, ids={**session.ids, "guest": _sender_id(accepted.raw)})

    def history(self, session: Session, *, after: Position | None, cursor: str | None, limit: int) -> Flow[HistoryPage]:
        """Read the pages before `after`, too: no request of this API starts at a message."""

        def page(token: str | None) -> Flow[HistoryPage]:
            query = {"limit": str(limit), "conversationId": str(session.ids["conversation"])}
            if token:
                query["nextPageToken"] = token
            url = f"{self._conversation(session)}/messages"
            request = Request("GET", url, "history", query=query, credential="guest", idempotent=True)
            body = (yield from http_request(request)).object()
            found = required(body, "messages", list, "history")
            items = read_entries(found, lambda item: _message(item, session, "history", "history"))
            return HistoryPage(_by_time(items), next=optional(body, "nextPageToken", str) or None)

        return page(cursor) if after is None or cursor is not None else history_from_start(page, after)

    # --- reading ---

    def decode(self, frame: Frame, session: Session) -> Sequence[Incoming]:
        value = frame_object(frame)
        kind = value.get("type")
        if kind == "message":
            return (_message(required(value, "message", dict, "message frame"), session, "message frame"),)
        if kind == "registered":
            return (Opened(value),)
        if kind == "error":
            key = optional(value, "correlationId", str)
            refused = Rejection(self._error(value), key)
            if key is None and value.get("code") == _ENDED:
                return (refused, SessionEvent("ended", optional(value, "message", str)))
            return (refused,)
        return (other_frame(kind, value, self.name),)

    def _error(self, value: dict[str, Json]) -> Failure:
        code = value.get("code")
        word = re.sub(r"[-_ ]+", ".", str(code).lower())
        status = int(word) if word.isascii() and word.isdigit() and len(word) == 3 else _STATUSES.get(word, 400)
        text = optional(value, "message", str) or "no explanation"
        failure = self.stream_failure(status, text, service_code=code if code is None else str(code))
        if isinstance(failure, Forbidden):
            failure.message = self.with_checked_values(failure.message, Request("GET", "", "send"))
        return failure

    def on_close(self, code: int) -> CloseAction:
        """1009 refuses the token here, like 1008."""
        return "renew" if code == 1009 else super().on_close(code)


def _token(reply: HttpResponse) -> Credential:
    """Return the token with the shortest documented lifetime, or its own if that is shorter."""
    token = guest_token(reply, "guestToken")
    life = LIFETIME if token.life is None else min(token.life, LIFETIME)
    return replace(token, expires_at=reply.at + life, life=life)


def _by_time(items: Sequence[HistoryEntry]) -> tuple[HistoryEntry, ...]:
    """Return entries in the order of their times. One without a time stays after the entry before it."""
    times: list[str] = []
    for item in items:
        times.append(item.time or "" if isinstance(item, Message) else times[-1] if times else "")
    order = sorted(range(len(items)), key=lambda index: times[index])
    return tuple(items[index] for index in order)


def _message(value: Json, session: Session, what: str, source: Source = "live") -> Message:
    """Return `{id, type, from: {id, name}, to, text, timestamp, attributes}` as a Message. Raises Unreadable."""
    value = as_object(value, what)
    origin = required(value, "from", dict, what)
    sender = identifier(origin, "id", f"{what}: from")
    key = optional_identifier(optional(value, "attributes", dict) or {}, "correlationId")
    guest = session.ids.get("guest")
    # Without the guest's id, recognise a guest message by its correlationId, which only guests set. The first
    # accepted message tells the guest's id.
    inbound = sender == guest if guest else key is not None
    role: Role = "guest" if inbound else "bot" if sender == "bot" else "agent"
    return Message(
        id=identifier(value, "id", what),
        direction="inbound" if inbound else "outbound",
        text=required(value, "text", str, what),
        time=read_time(value, what),
        key=key if inbound else None,
        sender=Sender(role, optional(origin, "name", str)),
        source=source,
        raw=value,
    )


def _sender_id(message: Mapping[str, Json]) -> str | None:
    origin = message.get("from")
    return optional_identifier(origin, "id") if isinstance(origin, dict) else None
