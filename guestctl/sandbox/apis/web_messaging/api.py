"""Sessions and messages of web-messaging: every action a socket can ask for.

Knows: sessions, sockets and messages of web-messaging.md, whose section numbers it cites. Must
not know: the server library, how faults are inflicted, REST.

Chosen, where the document is silent: a socket that was given up (ConnectionClosedEvent, LogoutEvent)
configures no more until it is closed; anew the guest comes on another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from guestctl.core.clock import epoch_of, rfc3339
from guestctl.sandbox.apis.web_messaging.files import FileStore
from guestctl.sandbox.apis.web_messaging.frames import (
    FEATURE_OFF,
    SIGN_IN_AGAIN,
    Frame,
    GuestError,
    body_of,
    button,
    channel,
    check_optional,
    custom_attributes,
    dashed,
    envelope,
    form,
    is_typing,
    label,
    limits,
    media_type,
    part,
    string_map,
)
from guestctl.sandbox.apis.web_messaging.rest import Rest
from guestctl.sandbox.apis.web_messaging.sign_in import SignInService
from guestctl.sandbox.bot.bots import payload_of, wrong_answers
from guestctl.sandbox.faults import Faults
from guestctl.sandbox.interfaces import Peer, Route, ServerReply, ServerRequest, SocketRoute, decode
from guestctl.sandbox.issued_tokens import Grant
from guestctl.sandbox.service_state import (
    Bucket,
    Conversation,
    Item,
    Role,
    SandboxDeployment,
    Service,
    StoredMessage,
    attributes_size,
)
from guestctl.sandbox.settings import SandboxOptions

API = "web-messaging"
SOCKETS = 3  # of one token (§9)
TOKEN_LENGTH = 2048
GRACE = 1.0  # seconds between ConnectionClosedEvent and our close
HISTORY_LIFE = 60.0
_DENIED = {"message": "User is not authorized to access this resource with an explicit deny"}

#: action -> what faults and reports call it
_ROUTES = {
    "configureSession": "create",
    "configureAuthenticatedSession": "create",
    "onMessage": "send",
    "getJwt": "refresh",
    "onAttachment": "upload",
    "getAttachment": "upload",
    "deleteAttachment": "upload",
}


class _Answered(Exception):
    """The request has been answered already."""


class TokenState:
    """What belongs to (deployment, token) and outlives its conversations."""

    __slots__ = ("configures", "conversation", "messages")

    def __init__(self, service: Service) -> None:
        self.conversation: Conversation | None = None
        self.messages = Bucket(service.clock, 2, 1.0)
        self.configures = Bucket(service.clock, 60, 60.0)


class SocketState:
    """What one socket is: whose deployment, whose session."""

    __slots__ = ("conversation", "deployment", "echoes", "given_up", "peer", "token")

    def __init__(self, peer: Peer, deployment: SandboxDeployment, service: Service) -> None:
        self.peer = peer
        self.deployment = deployment
        self.conversation: Conversation | None = None
        self.token = ""
        self.given_up = False
        self.echoes = Bucket(service.clock, 2, 60.0)


class WebMessaging:
    """The api of `web-messaging`."""

    name = API

    def __init__(self, service: Service, faults: Faults, options: SandboxOptions) -> None:
        self._service = service
        self._faults = faults
        self._tokens: dict[tuple[str, str], TokenState] = {}
        self._files = FileStore(service)
        self._rest = Rest(service, self._files, self._signed_in)
        self._sign_in = SignInService(service, self._signed_in, self._log_out)
        self._actions: dict[str, Callable[[SocketState, Frame, str | None], None]] = {
            "configureSession": self._configure,
            "configureAuthenticatedSession": self._configure_signed_in,
            "getConfiguration": self._get_configuration,
            "onMessage": self._on_message,
            "onAttachment": self._on_attachment,
            "getAttachment": self._get_attachment,
            "deleteAttachment": self._delete_attachment,
            "getJwt": self._get_jwt,
            "echo": self._echo,
            "closeSession": self._close_session,
        }
        for conversation in service.conversations.values():
            if conversation.api == API:
                self._token_state(conversation.deployment, conversation.notes["token"]).conversation = conversation
                self._files.add(conversation)

    def routes(self) -> Sequence[Route]:
        return (*self._rest.routes(), *self._sign_in.routes(), *self._files.routes())

    def socket_routes(self) -> Sequence[SocketRoute]:
        return (SocketRoute("/v1", self._admit),)

    # -- sockets

    def _admit(self, request: ServerRequest) -> ServerReply | None:
        deployment = self._service.deployments.get(request.query.get("deploymentId", ""))
        if deployment is None or not deployment.active or not deployment.allows(request.origin):
            return ServerReply.json(403, _DENIED)
        return None

    def opened(self, peer: Peer) -> None:
        peer.state = SocketState(peer, self._service.deployments[peer.request.query["deploymentId"]], self._service)

    def closed(self, peer: Peer, clean: bool) -> None:
        self._detach(peer.state)

    def received(self, peer: Peer, text: str) -> None:
        socket: SocketState = peer.state
        tracing: str | None = None
        route: str | None = None
        try:
            try:
                frame = decode(text)
            except ValueError:
                raise GuestError(400, "The request is not JSON") from None
            if not isinstance(frame, dict):
                raise GuestError(400, "The request is not a JSON object")
            if isinstance(frame.get("tracingId"), str):
                tracing = frame["tracingId"]
            check_optional(frame)
            action = frame.get("action")
            perform = self._actions.get(action) if isinstance(action, str) else None
            if perform is None:
                raise GuestError(
                    400, f"Unknown action {str(action)[:40]!r}" if action is not None else "action is missing"
                )
            route = "typing" if is_typing(frame) else _ROUTES.get(str(action))
            fault = self._faults.action(route)
            self._service.count(None if route == "create" else socket.conversation, route or str(action))
            if fault is not None and fault.kind == "ratelimit":
                wait = 1 if fault.retry_after is None else fault.retry_after  # a frame has no form for dates
                self._rate_limited(socket, "Fault on demand", tracing, route, wait=wait)
            elif fault is not None:
                raise GuestError(fault.status, f"Fault on demand: {fault.spec}")
            else:
                perform(socket, frame, tracing)
        except _Answered:
            pass
        except GuestError as problem:
            self._reply(socket, "string", problem.text, tracing, code=problem.code, route=route)

    def _reply(
        self, socket: SocketState, name: str, body: Any, tracing: str | None, *, code: int = 200,
        type: str = "response", route: str | None = None,
    ) -> None:  # fmt: skip
        socket.peer.send(envelope(name, body, tracing, code=code, type=type), route)

    def _rate_limited(
        self,
        socket: SocketState,
        text: str,
        tracing: str | None,
        route: str | None,
        *,
        number: int = 4029,
        wait: int = 3,
    ) -> None:
        body = {
            "retryAfter": wait,
            "errorCode": number,
            "errorMessage": text,
            "name": "TooManyRequestsError",
            "message": text,
        }
        self._reply(socket, "TooManyRequestsErrorMessage", body, tracing, code=429, route=route)

    def _token_state(self, deployment: SandboxDeployment, token: str) -> TokenState:
        key = (deployment.id, token)
        found = self._tokens.get(key)
        if found is None:
            found = self._tokens[key] = TokenState(self._service)
        return found

    # -- sessions (§5.1, §5.2, §5.9, §10.9)

    def _configure(self, socket: SocketState, frame: Frame, tracing: str | None) -> None:
        token = self._check_configure(socket, frame, tracing)
        known = self._resumable(token, frame)
        if known is not None and "person" in known.notes:
            raise GuestError(4017, "Cannot downgrade an authenticated session to an unauthenticated one")
        conversation = known or self._start(socket, token, frame, {})
        self._attach(socket, conversation, str(frame["token"]))
        self._session_response(socket, conversation, tracing, new=known is None)

    def _configure_signed_in(self, socket: SocketState, frame: Frame, tracing: str | None) -> None:
        data = frame.get("data")
        code = data.get("code") if isinstance(data, dict) else None
        if not isinstance(code, str) or not code:
            raise GuestError(4020, "data.code is missing")
        token = self._check_configure(socket, frame, tracing)
        if not socket.deployment.sign_in:
            raise GuestError(403, FEATURE_OFF)
        grant = self._service.tokens.live(code, "sign-in")
        if grant is None:
            raise GuestError(401, "Session authentication failed: the JWT is invalid or expired")
        person = {"person": grant.facts["person"], "login": grant.facts["login"]}
        known = self._resumable(token, frame)
        stepping_up = known is not None and "person" not in known.notes
        if known is not None and known.notes.get("person", person["person"]) != person["person"]:
            raise GuestError(403, SIGN_IN_AGAIN)
        if stepping_up and (socket.conversation is not known or not socket.deployment.session_upgrade):
            raise GuestError(403, SIGN_IN_AGAIN)
        dropped = stepping_up and self._drop_older(person["person"])
        conversation = known or self._start(socket, token, frame, person)
        conversation.notes.update(person)
        grant.conversation = conversation.id
        self._service.tokens.put(grant)
        self._service.save(conversation)
        self._attach(socket, conversation, str(frame["token"]))
        if stepping_up:
            self._close_others(socket, conversation, {"reason": "signedIn", "reasonCode": "signedIn"})
        self._session_response(socket, conversation, tracing, new=known is None, dropped=dropped)
        if stepping_up:
            name = f"{person['person'].title()} Guest"
            self._presence(conversation, "guest", "SignIn", metadata=self._metadata(conversation, {}), name=name)

    def _check_configure(self, socket: SocketState, frame: Frame, tracing: str | None) -> TokenState:
        """The checks both kinds of configure share."""
        self._check_address(socket, frame)
        if socket.given_up:
            raise GuestError(4007, "Session not found: this connection has been given up")
        if len(frame["token"]) > TOKEN_LENGTH:
            raise GuestError(400, f"token is longer than {TOKEN_LENGTH} characters")
        if not isinstance(frame.get("startNew", False), bool):
            raise GuestError(400, "startNew is not a boolean")
        token = self._token_state(socket.deployment, frame["token"])
        if not self._service.fast and not token.configures.take():
            self._rate_limited(socket, "ConfigureSession rate too high for this session", tracing, "create", number=429)
            raise _Answered
        return token

    def _check_address(self, socket: SocketState, frame: Frame) -> None:
        for name in ("deploymentId", "token"):
            if not isinstance(frame.get(name), str) or not frame[name]:
                raise GuestError(4020, f"{name} is missing")
        if frame["deploymentId"] != socket.deployment.id:
            raise GuestError(403, "deploymentId is not the one of this connection")

    def _resumable(self, token: TokenState, frame: Frame) -> Conversation | None:
        known = token.conversation
        if known is None or frame.get("startNew"):
            return None
        self._service.live(known)
        return known if known.state in ("active", "read-only") else None

    def _start(self, socket: SocketState, token: TokenState, frame: Frame, person: Mapping[str, str]) -> Conversation:
        old = token.conversation
        if old is not None and "person" in old.notes and not person:
            raise GuestError(4017, "Cannot downgrade an authenticated session to an unauthenticated one")
        earlier = [] if frame.get("startNew") else _earlier(old, person)
        notes = {"token": frame["token"], "earlier": earlier, **person}
        new = token.conversation = self._service.open(API, socket.deployment, notes=notes)
        if old is not None:
            new.last_millis = old.last_millis  # times stay unique for the token (§11.5)
            self._close_others(socket, old)
            self._detach(socket)
            if old.state == "active":
                self._service.close(old, "ended")
            self._service.tokens.revoke(*[g for g in self._service.tokens.of(old.id) if g.kind == "history"])
        return new

    def _attach(self, socket: SocketState, conversation: Conversation, token: str) -> None:
        if socket.conversation is not conversation:
            self._detach(socket)
            socket.conversation, socket.token = conversation, token
            conversation.observers.append(socket.peer)
        if len(conversation.observers) > SOCKETS:
            self._give_up(conversation.observers[0], {})

    def _detach(self, socket: SocketState) -> None:
        if socket.conversation is not None and socket.peer in socket.conversation.observers:
            socket.conversation.observers.remove(socket.peer)
        socket.conversation = None

    def _give_up(self, observer: Any, body: Any, name: str = "ConnectionClosedEvent") -> None:
        """Give a socket up: tell it why, close it when it has not closed itself."""
        observer.send(envelope(name, body, type="message"))
        observer.state.given_up = True
        self._detach(observer.state)
        self._service.later(GRACE, lambda: observer.close(1000))

    def _close_others(
        self, socket: SocketState | None, conversation: Conversation, body: Mapping[str, str] | None = None
    ) -> None:
        for observer in tuple(conversation.observers):
            if socket is None or observer is not socket.peer:
                self._give_up(observer, body or {})

    def _drop_older(self, person: str) -> bool:
        """A person has one signed-in session; the older one ends when a guest session steps up."""
        older = [
            token.conversation
            for token in self._tokens.values()
            if token.conversation is not None
            and token.conversation.notes.get("person") == person
            and token.conversation.state in ("active", "read-only")
        ]
        for conversation in older:
            self._close_others(None, conversation, {"reason": "signedIn", "reasonCode": "signedIn"})
            self._service.close(conversation, "ended")
        return bool(older)

    def _session_response(
        self, socket: SocketState, conversation: Conversation, tracing: str | None, *, new: bool, dropped: bool = False,
        connected: bool = True,
    ) -> None:  # fmt: skip
        if connected:
            self._service.count_for(conversation, "create")
        body = {
            "connected": connected,
            "newSession": new,
            "readOnly": conversation.state == "read-only" or not connected,
            "clearedExistingSession": dropped,
            **limits(conversation.deployment),
            "durationSeconds": int(conversation.deployment.session_life),
            "expirationDate": int(conversation.expires_at),
        }
        self._reply(socket, "SessionResponse", body, tracing, route="create")

    def _session(self, socket: SocketState, frame: Frame, tracing: str | None) -> Conversation:
        """The configured session a request belongs to, alive or read-only."""
        if not isinstance(frame.get("token"), str):
            raise GuestError(4020, "token is missing")
        conversation = socket.conversation
        if conversation is None or frame["token"] != socket.token:
            raise GuestError(4007, "Session not found: configure it on this connection first")
        if self._service.live(conversation) or conversation.state == "read-only":
            return conversation
        if conversation.state == "expired":
            self._reply(socket, "SessionExpiredEvent", {}, tracing)
            raise _Answered
        raise GuestError(4007, "Session not found: it has ended")

    def _close_session(self, socket: SocketState, frame: Frame, tracing: str | None) -> None:
        conversation = self._session(socket, frame, tracing)
        if frame.get("closeAllConnections") is not True:
            raise GuestError(4020, "closeAllConnections is missing")
        self._close_others(socket, conversation)
        self._session_response(socket, conversation, tracing, new=False, connected=False)
        self._detach(socket)

    def _get_configuration(self, socket: SocketState, frame: Frame, tracing: str | None) -> None:
        self._check_address(socket, frame)
        body = {
            **limits(socket.deployment),
            "messageRoutingEnabled": True,
            "sessionDurationSeconds": int(socket.deployment.session_life),
        }
        self._reply(socket, "GetConfigurationResponse", body, tracing)

    def _get_jwt(self, socket: SocketState, frame: Frame, tracing: str | None) -> None:
        conversation = self._session(socket, frame, tracing)
        tokens = self._service.tokens
        claims = {
            "sub": "guest",
            "deploymentId": conversation.deployment.id,
            "sessionId": conversation.guest_id,
        }
        grant = tokens.jwt("history", life=tokens.life(HISTORY_LIFE), claims=claims, conversation=conversation.id)
        self._reply(socket, "JwtResponse", {"jwt": grant.token, "exp": grant.exp}, tracing, route="refresh")

    def _echo(self, socket: SocketState, frame: Frame, tracing: str | None) -> None:
        conversation = self._session(socket, frame, tracing)
        if not self._service.fast and not socket.echoes.take():
            self._rate_limited(socket, "Echo rate too high for this connection", tracing, None)
            return
        message = frame.get("message")
        if not isinstance(message, dict) or not isinstance(message.get("text", ""), str):
            raise GuestError(4020, "message is missing")
        identifier = self._service.new_id()
        body = {
            "id": identifier,
            "type": "Text",
            "text": message.get("text", ""),
            "direction": "Inbound",
            "channel": channel(rfc3339(self._service.clock.now()), identifier),
            "metadata": {
                **string_map(message.get("metadata"), "metadata"),
                "correlationId": dashed(identifier),
                "durationSeconds": str(int(conversation.deployment.session_life)),
                "expirationDate": str(int(conversation.expires_at)),
            },
        }
        self._reply(socket, "StructuredMessage", body, tracing)

    # -- messages (§5.4, §5.5)

    def _on_message(self, socket: SocketState, frame: Frame, tracing: str | None) -> None:
        conversation = self._session(socket, frame, tracing)
        service = self._service
        if not service.fast and not self._token_state(socket.deployment, socket.token).messages.take():
            self._rate_limited(socket, "Message rate too high for this session", tracing, "send")
            return
        message = frame.get("message")
        if not isinstance(message, dict):
            raise GuestError(4020, "message is missing")
        kind = message.get("type")
        if kind == "Event" or (kind is None and message.get("events")):
            self._event(socket, conversation, frame, message, tracing)
            return
        if kind not in (None, "Text", "Structured"):
            raise GuestError(400, f"message.type {str(kind)[:40]!r} is not one a guest may send")
        self._require_writable(conversation)
        text = message.get("text")
        content = message.get("content", [])
        if not isinstance(text, (str, type(None))) or not isinstance(content, list):
            raise GuestError(400, "message.text is not a string or message.content not a list")
        if not content and not (text and text.strip()):
            raise GuestError(400, "message has no text, no content and no events")
        if text and len(text) > conversation.deployment.text_limit:
            raise GuestError(4011, f"Message is longer than {conversation.deployment.text_limit} characters")
        metadata = self._metadata(conversation, string_map(message.get("metadata"), "message.metadata"))
        attributes = self._attributes(conversation, frame, message)
        stored = [self._content_item(conversation, item) for item in content]
        files = [item["attachment"]["id"] for item in stored if item["contentType"] == "Attachment"]
        if len(files) > 1:
            raise GuestError(400, "At most one attachment in a message")
        self._accept(conversation, attributes, files)
        answers = payload_of(stored) if stored else None
        if answers is not None:
            self._check_answers(conversation, stored)
        service.receive(
            conversation,
            text or None,
            key=metadata.get("customMessageId") or tracing,
            kind="structured" if kind == "Structured" else "text",
            content=stored,
            metadata=metadata,
            payload=answers,
            prompt=None if text else label(stored),
            cause=(tracing, socket.peer.request.base),
        )

    def _require_writable(self, conversation: Conversation) -> None:
        if conversation.state == "read-only":
            raise GuestError(409, "Session is read-only, no new messages allowed")
        deployment = conversation.deployment
        if deployment.sign_in and not deployment.session_upgrade and "person" not in conversation.notes:
            raise GuestError(403, SIGN_IN_AGAIN)

    def _metadata(self, conversation: Conversation, given: Mapping[str, str]) -> Mapping[str, str]:
        return {**given, "authenticated": "true"} if "person" in conversation.notes else given

    def _attributes(self, conversation: Conversation, frame: Frame, message: Frame) -> Mapping[str, str]:
        """Custom attributes of both places; the legacy one is remarked on, or ignored when strict."""
        inner, legacy = custom_attributes(message), custom_attributes(frame)
        if legacy:
            self._complain(conversation, "customAttributes in the deprecated place (channel beside message)")
        attributes = inner if conversation.deployment.strict_attributes else {**legacy, **inner}
        limit = conversation.deployment.attributes_limit
        if attributes_size(attributes) > limit:
            raise GuestError(4013, f"Custom Attributes in channel metadata is larger than {limit} bytes")
        return attributes

    def _accept(self, conversation: Conversation, attributes: Mapping[str, str], files: Sequence[str] = ()) -> None:
        """Nothing can be refused any more: the message's side effects happen."""
        conversation.attributes.update(attributes)
        for identifier in files:
            self._files.send(conversation, identifier)

    def _content_item(self, conversation: Conversation, item: Any) -> dict[str, Any]:
        kind = item.get("contentType") if isinstance(item, dict) else None
        if kind == "ButtonResponse":
            return {"contentType": kind, "buttonResponse": button(item.get("buttonResponse"))}
        if kind == "Form":
            return {"contentType": kind, "form": form(item.get("form"))}
        if kind == "Attachment":
            body = item.get("attachment")
            attachment = self._files.usable(conversation, body.get("id") if isinstance(body, dict) else None)
            return {
                "contentType": kind,
                "attachment": {
                    "id": attachment.id,
                    "filename": attachment.name,
                    "fileSize": attachment.size,
                    "mediaType": media_type(attachment.type),
                    "mime": attachment.type,
                },
            }
        raise GuestError(400, f"content item {str(kind)[:40]!r} is not one a guest may send")

    def _check_answers(self, conversation: Conversation, content: Sequence[Item]) -> None:
        offered = [(m.id, m.content) for m in conversation.messages[-200:] if m.content and m.direction == "outbound"]
        for problem in wrong_answers(content, offered):
            self._complain(conversation, problem)

    def _complain(self, conversation: Conversation, text: str) -> None:
        if text not in conversation.complaints:
            conversation.complaints.append(text)
            self._service.save(conversation)

    def _event(
        self, socket: SocketState, conversation: Conversation, frame: Frame, message: Frame, tracing: str | None
    ) -> None:
        events = message.get("events")
        if not isinstance(events, list) or len(events) != 1 or not isinstance(events[0], dict):
            raise GuestError(400, "message.events is not a list of one event")
        event = events[0]
        if event.get("eventType") == "Typing":
            if not conversation.deployment.typing:
                raise GuestError(403, FEATURE_OFF)
            self._require_writable(conversation)
            if part(event, "typing").get("type") != "On":
                raise GuestError(400, "typing.type is not On")
            return
        if event.get("eventType") != "Presence":
            raise GuestError(403, FEATURE_OFF)
        presence = part(event, "presence").get("type")
        given = self._metadata(conversation, string_map(message.get("metadata"), "message.metadata"))
        cause = (tracing, socket.peer.request.base)
        if presence == "Clear":
            if not conversation.deployment.clear:
                raise GuestError(403, "Presence events Conversation Clear are not supported")
            self._presence(conversation, "guest", "Clear", metadata=given, key=tracing, cause=cause)
            self._clear(conversation)
        elif presence == "Join":
            self._require_writable(conversation)
            self._accept(conversation, self._attributes(conversation, frame, message))
            self._presence(conversation, "guest", "Join", metadata=given, key=tracing, cause=cause)
            if not conversation.notes.get("joined"):
                conversation.notes["joined"] = True
                self._service.save(conversation)
                self._service.greet(conversation)
        elif presence == "Disconnect":
            self._require_writable(conversation)
            self._presence(conversation, "guest", "Disconnect", metadata=given, key=tracing, cause=cause)
            self.ended(conversation, "system")
        else:
            raise GuestError(400, f"presence {str(presence)[:40]!r} is not one a guest may send")

    def _presence(
        self, conversation: Conversation, role: Role, type: str, *, metadata: Mapping[str, str] | None = None,
        name: str | None = None, key: str | None = None, cause: Any = None,
    ) -> None:  # fmt: skip
        events = [{"eventType": "Presence", "presence": {"type": type}}]
        self._service.append(
            conversation, role, "event", events=events, metadata=metadata, name=name, key=key, cause=cause
        )

    def _clear(self, conversation: Conversation) -> None:
        self._service.close(conversation, "cleared")
        self._service.tokens.revoke(*[g for g in self._service.tokens.of(conversation.id) if g.kind == "history"])
        conversation.broadcast(envelope("SessionClearedEvent", {}, type="message"))
        self._close_others(None, conversation)

    # -- what the service tells (see service_state.ApiCallbacks)

    def message_stored(self, conversation: Conversation, message: StoredMessage, cause: Any) -> None:
        if not conversation.observers:
            return
        tracing, base = cause or (None, "")
        body = self._body(conversation, message, base)
        conversation.broadcast(
            envelope("StructuredMessage", body, tracing, type="message"),
            "send" if message.direction == "inbound" else None,
        )

    def typing(self, conversation: Conversation, role: Role, name: str | None, millis: int) -> None:
        event = {"eventType": "Typing", "typing": {"type": "On", "duration": millis}}
        stamp = self._service.next_millis(conversation)
        passing = StoredMessage(
            self._service.new_id(), 0, stamp, rfc3339(stamp / 1000), "outbound", role, "event", name, events=(event,)
        )
        frame = envelope("StructuredMessage", self._body(conversation, passing, ""), type="message")
        conversation.broadcast(frame, "typing")

    def ended(self, conversation: Conversation, role: Role) -> None:
        if conversation.state != "active":
            return
        policy = conversation.deployment.disconnect
        if policy == "ReadOnly":
            self._service.close(conversation, "read-only")
        else:  # the guest may write on, in a new conversation under the same session (§10.6)
            self._service.reset_bot(conversation)
        if policy != "off":
            metadata = {"readOnly": "true"} if policy == "ReadOnly" else {}
            self._presence(conversation, role, "Disconnect", metadata=self._metadata(conversation, metadata))

    def expired(self, conversation: Conversation) -> None:
        conversation.broadcast(envelope("SessionExpiredEvent", {}, type="message"))

    def token_expired(self, conversation: Conversation) -> None:
        """Nothing is said: the next use of the JWT is refused."""

    def pushed(self, conversation: Conversation, frame: str) -> None:
        """Deliver as it is. What is a well-formed message to the guest also enters the history, once and as it is
        (§11.5); where it has no time, with ours.
        """
        try:
            pushed = decode(frame)
        except ValueError:
            pushed = None  # hostile frames are what this is for
        body = pushed.get("body") if isinstance(pushed, dict) else None
        if _keepable(body):
            assert isinstance(body, dict)
            heading = body.get("channel", {})
            if all(message.id != body["id"] for message in conversation.messages):
                self._service.send(
                    conversation,
                    body.get("text"),
                    role="bot" if body.get("originatingEntity") == "Bot" else "agent",
                    name=heading.get("from", {}).get("nickname"),
                    content=body.get("content", ()),
                    message_id=body["id"],
                    metadata=body.get("metadata"),
                    time=heading.get("time"),
                    notify=False,
                )
        conversation.broadcast(frame)

    def _body(self, conversation: Conversation, message: StoredMessage, base: str) -> dict[str, Any]:
        return body_of(message, lambda item: self._files.shown(conversation, item, base))

    # -- attachments (§5.6, §7.3)

    def _on_attachment(self, socket: SocketState, frame: Frame, tracing: str | None) -> None:
        conversation = self._session(socket, frame, tracing)
        self._require_writable(conversation)
        identifier = frame.get("attachmentId")
        try:
            attachment = self._files.announce(conversation, socket.peer, frame)
        except GuestError as problem:
            if frame.get("errorsAsJson") is not True:
                raise
            body = {
                "name": "GenerateUrlError",
                "message": problem.text,
                "errorCode": problem.code,
                "errorMessage": problem.text,
                "timestamp": rfc3339(self._service.clock.now()),
                **({"attachmentId": identifier} if isinstance(identifier, str) else {}),
            }
            self._reply(socket, "GenerateUrlError", body, tracing, type="message", route="upload")
            return
        answer = self._files.presigned(attachment, socket.peer.request.base)
        self._reply(socket, "PresignedUrlResponse", answer, tracing, route="upload")

    def _get_attachment(self, socket: SocketState, frame: Frame, tracing: str | None) -> None:
        attachment = self._files.usable(self._session(socket, frame, tracing), frame.get("attachmentId"))
        answer = self._files.refreshed(attachment, socket.peer.request.base)
        self._reply(socket, "PresignedUrlResponse", answer, tracing, route="upload")

    def _delete_attachment(self, socket: SocketState, frame: Frame, tracing: str | None) -> None:
        conversation = self._session(socket, frame, tracing)
        attachment = self._files.usable(conversation, frame.get("attachmentId"))
        self._files.delete(attachment, conversation)
        answer = {"attachmentId": attachment.id}
        self._reply(socket, "AttachmentDeletedResponse", answer, tracing, type="message", route="upload")

    # -- sign-in

    def _signed_in(self, grant: Grant) -> list[Conversation]:
        """The reachable sessions of one sign-in."""
        login = grant.facts["login"]
        held = (token.conversation for token in self._tokens.values())
        return [c for c in held if c is not None and c.notes.get("login") == login]

    def _log_out(self, conversation: Conversation) -> None:
        for observer in tuple(conversation.observers):
            self._give_up(observer, {}, "LogoutEvent")


def _earlier(old: Conversation | None, person: Mapping[str, str]) -> list[str]:
    """The conversations that history shows before the next one (§7.1); nobody inherits another person's."""
    if old is None or old.state != "expired" or old.notes.get("person") not in (None, person.get("person")):
        return []
    return [*old.notes.get("earlier", ()), old.id]


def _keepable(body: Any) -> bool:
    """Whether a pushed frame's body is a message to the guest that history can show."""
    if (
        not isinstance(body, dict)
        or body.get("direction") != "Outbound"
        or body.get("type") not in ("Text", "Structured")
    ):
        return False
    content, metadata, heading = body.get("content", []), body.get("metadata", {}), body.get("channel", {})
    sender = heading.get("from", {}) if isinstance(heading, dict) else None
    return (
        isinstance(body.get("id"), str)
        and isinstance(body.get("text", ""), str)
        and isinstance(sender, dict)
        and isinstance(sender.get("nickname", ""), str)
        and ("time" not in heading or _is_time(heading["time"]))
        and isinstance(metadata, dict)
        and all(isinstance(value, str) for value in metadata.values())
        and isinstance(content, list)
        and all(isinstance(item, dict) and isinstance(item.get("contentType"), str) for item in content)
        and all(isinstance(item.get("attachment", {}), dict) for item in content)
    )


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and epoch_of(value) > 0
    except (ValueError, OverflowError):
        return False
