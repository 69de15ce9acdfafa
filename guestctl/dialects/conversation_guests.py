"""`conversation-guests`: everything except create happens on the socket (other-apis.md, source 001).

Knows: the frames of this API, its three documented socket addresses and its trap. The end of a socket spends its
token: the next CONNECT still accepts the token, but every SEND_MESSAGE after it is refused. Must not know: HTTP or
WebSocket libraries, when to reconnect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from guestctl.core.errors import Conflict, Failure, UsageError
from guestctl.core.model import (
    CredentialKind,
    Message,
    NewSession,
    Outgoing,
    Position,
    Profile,
    Sender,
    Session,
    SessionEvent,
    Unknown,
)
from guestctl.core.values import Json
from guestctl.core.wire import Frame, HttpResponse, Request, SocketAddress, identifier, optional, required
from guestctl.dialects.base import Dialect, HistoryPage, frame_object, id_in_path, other_frame
from guestctl.dialects.capabilities import Ability, Standing
from guestctl.dialects.flows import Accepted, Flow, Incoming, Opened, Rejection, answered, frame_request, http_request
from guestctl.dialects.history_pages import history_after, read_message, read_time
from guestctl.dialects.tokens import guest_token

#: The address in [q], which has its own host. Those in [a2] and [a4] contain the guest or the conversation.
SOCKET_PATH = "/api/v2/conversations/webmessaging/websocket"
_ENDED = frozenset({"disconnected", "ended", "closed", "terminated"})


class ConversationGuests(Dialect):
    name = "conversation-guests"
    summary = "REST create, messages over the socket, re-attach before each reconnect"
    abilities = {
        Ability.CREATE: Standing.DOCUMENTED,
        Ability.SEND: Standing.DOCUMENTED,
        Ability.HISTORY: Standing.ASSUMED,
        Ability.LISTEN: Standing.DOCUMENTED,
        Ability.RESUME: Standing.ASSUMED,
        Ability.REFRESH: Standing.ASSUMED,
    }
    fields = frozenset({"attr"})
    required = (("region", "base_url"),)
    session_ids = ("conversation", "guest")
    forbidden_by = ("deployment_id",)
    reconnect_attempts = 5
    renewal_margins = {"guest": 60.0}
    renews_before_reconnect = True
    documented_addresses = (
        ("create and refresh", "https://api.{region}/api/v2/conversations/webmessaging/guests"),
        ("history", "https://api.{region}/api/v2/conversations/webmessaging/guests/{guest}/messages"),
        ("socket", "wss://webchat-{aws_region}.platform.genesys.cloud/api/v2/conversations/webmessaging/websocket"),
        ("socket", "wss://api.{region}/api/v2/conversations/webmessaging/guests/{guest}/ws"),
        ("socket", "wss://api.{region}/api/v2/conversations/webmessaging/guests/{conversation}/messages"),
    )
    sends_on_socket = True

    def __init__(self, profile: Profile, *, new_id: Callable[[], str]) -> None:
        super().__init__(profile, new_id=new_id)
        self._socket_path = profile.socket_path or SOCKET_PATH
        self.shared_socket_address = "{" not in self._socket_path

    # --- addresses ---

    def default_rest(self) -> str:
        return f"https://api.{self.need('region')}"

    def default_socket(self) -> str:
        if self._socket_path == SOCKET_PATH:
            return f"wss://webchat-{self.need('aws_region')}.platform.genesys.cloud"
        return f"wss://api.{self.need('region')}"

    def socket_address(self, session: Session) -> SocketAddress:
        path = self._socket_path
        for name, known in (("{guestId}", "guest"), ("{conversationId}", "conversation")):
            path = path.replace(name, id_in_path(session, known))
        unknown = re.search(r"\{[^}]*\}", path)
        if unknown:
            raise UsageError(
                f'profile "{self.profile.name}": socket_path: unknown placeholder "{unknown[0]}"',
                code="config.key",
                hint="available placeholders: {guestId}, {conversationId}",
            )
        return SocketAddress(self.socket(path))

    # --- session ---

    def create(self, new: NewSession) -> Flow[Session]:
        body: dict[str, Json] = {}
        if self.profile.deployment_id:
            body["deploymentId"] = self.profile.deployment_id
        if new.attributes:
            body["attributes"] = dict(new.attributes)
        reply = yield from http_request(Request("POST", self._guests(), "create", json=body))
        session = Session(api=self.name, profile=self.profile.name, name=new.name, state="active")
        return _granted(session, reply)

    def obtain(self, kind: CredentialKind, session: Session) -> Flow[Session]:
        """Return the same conversation and guest with a token that no closed socket has spent."""
        body = {"conversationId": session.ids["conversation"], "guestId": session.ids["guest"]}
        request = Request("POST", self._guests(), "refresh", json=body, credential="guest", idempotent=True)
        return _granted(session, (yield from http_request(request)))

    def _guests(self) -> str:
        return self.rest("/api/v2/conversations/webmessaging/guests")

    def attach(
        self, session: Session, *, start_new: NewSession | None = None, traceparent: str | None = None
    ) -> Flow[Session]:
        frame = {
            "type": "CONNECT",
            "conversationId": session.ids["conversation"],
            "guestId": session.ids["guest"],
            "token": session.token(),
        }
        if traceparent:
            frame["traceparent"] = traceparent
        yield from answered(frame_request(frame, lambda incoming: isinstance(incoming, (Opened, Rejection)), "socket"))
        return replace(session, new_session=False)

    # --- messages ---

    def send(self, session: Session, message: Outgoing) -> Flow[Message]:
        frame = {
            "type": "SEND_MESSAGE",
            "conversationId": session.ids["conversation"],
            "messageId": message.key,
            "text": message.text,
        }

        def answers(incoming: Incoming) -> bool:
            if isinstance(incoming, Rejection):
                return incoming.reply_to in (message.key, None)
            # The echo of the message proves acceptance as well as MESSAGE_ACCEPTED does.
            return isinstance(incoming, (Accepted, Message)) and incoming.key == message.key

        answer = yield from answered(frame_request(frame, answers, "send", message=True))
        if isinstance(answer, Message):
            return answer
        assert isinstance(answer, Accepted)
        return Message(answer.id, "inbound", message.text, answer.time, key=message.key, sender=Sender("guest"))

    def renewal_may_help(self, failure: Failure) -> bool:
        """A 403 on the socket also means a spent token; a 403 over HTTP does not."""
        in_stream = failure.http_status is None
        return (in_stream and failure.code == "forbidden") or super().renewal_may_help(failure)

    def status_failure(
        self, status: int, service_code: str | int | None, request: Request
    ) -> tuple[type[Failure], str]:
        """An ERROR frame has only a status: the one 409 on the socket reports the end of the conversation."""
        if status == 409 and request.route == "send":
            return Conflict, "conflict.ended"
        return super().status_failure(status, service_code, request)

    def history(self, session: Session, *, after: Position | None, cursor: str | None, limit: int) -> Flow[HistoryPage]:
        url = f"{self._guests()}/{id_in_path(session, 'guest')}/messages"
        return history_after(url, after=after, cursor=cursor, limit=limit)

    # --- reading ---

    def decode(self, frame: Frame, session: Session) -> Sequence[Incoming]:
        value = frame_object(frame)
        kind = value.get("type")
        if kind == "MESSAGE_RECEIVED":
            return (read_message(required(value, "message", dict, "MESSAGE_RECEIVED"), "MESSAGE_RECEIVED"),)
        if kind == "MESSAGE_ACCEPTED":
            key, identity = identifier(value, "messageId", kind), identifier(value, "id", kind)
            return (Accepted(key, identity, read_time(value, kind)),)
        if kind == "CONVERSATION_UPDATED":
            state = optional(value, "state", str, "")
            if state == "connected":
                return (Opened(value),)
            return (SessionEvent("ended", state) if state in _ENDED else Unknown(kind, value),)
        if kind == "ERROR":
            status = required(value, "status", int, kind)
            failure = self.stream_failure(status, optional(value, "message", str) or "no explanation")
            return (Rejection(failure, optional(value, "messageId", str)),)
        return (other_frame(kind, value, self.name),)


def _granted(session: Session, reply: HttpResponse) -> Session:
    """Return the session with the ids and the token of an answer."""
    answer = reply.object()
    ids = {
        "conversation": identifier(answer, "conversationId", "guest"),
        "guest": identifier(answer, "guestId", "guest"),
    }
    return replace(session, ids=ids).having(guest_token(reply, "token"))
