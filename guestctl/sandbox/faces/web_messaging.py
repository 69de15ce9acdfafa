"""The documented guest API: web-messaging-v1.md, seen from the service.

Knows: every action, frame, address and error code of that document. Must not know: the server
library, how faults are inflicted, the client's dialect of the same name. Section numbers are those
of web-messaging-v1.md; §11 is what this file carries out.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

from guestctl.clock import rfc3339
from guestctl.sandbox.bot import payload_of, wrong_answers
from guestctl.sandbox.faults import Faults
from guestctl.sandbox.options import SandboxOptions
from guestctl.sandbox.surface import Door, HttpReply, HttpRequest, Peer, Refused, Route, decode, error
from guestctl.sandbox.tokens import Grant
from guestctl.sandbox.world import (
    Attachment,
    Bucket,
    Conversation,
    Deployment,
    Item,
    Message,
    Role,
    World,
    attributes_size,
    dumps,
)

Frame: TypeAlias = Mapping[str, Any]

API = "web-messaging"
SOCKETS = 3  # of one token (§9)
TOKEN_LENGTH = 2048
GRACE = 1.0  # seconds between ConnectionClosedEvent and our close
HISTORY_LIFE = 60.0
SIGN_IN_LIFE = 900.0
REFRESH_LIFE = 86_400.0
DOWNLOAD_LIFE = 600
PAGE_LIMIT = 1000
NAME_LIMIT = 255
SCAN = 0.02  # seconds the virus scanner takes
_TAGGING = "organizationId=sandbox&originPlatform=PureCloud&role=guest&owner=sandbox"
_DENIED = {"message": "User is not authorized to access this resource with an explicit deny"}
_FEATURE_OFF = "Turn on the Feature Toggle or fix the configuration."
_SIGN_IN_AGAIN = "Session authentication failed. Try to authenticate again."

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
#: what history can hold (§7.1)
_HISTORIC = {
    "Attachment", "QuickReply", "ButtonResponse", "GenericTemplate", "Card", "Carousel", "DatePicker", "ListPicker",
}  # fmt: skip
_BUTTONS = ("Button", "QuickReply", "DatePicker", "ListPicker", "Form")
_TYPES = {"text": "Text", "structured": "Structured", "event": "Event"}
_ENTITIES = {"bot": "Bot", "agent": "Human", "system": "Bot"}


class _Error(Exception):
    """An answer of class `string` (§8)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class _Answered(Exception):
    """The request has been answered already."""


class _Token:
    """What belongs to (deployment, token) and outlives its conversations."""

    __slots__ = ("configures", "conversation", "messages")

    def __init__(self, world: World) -> None:
        self.conversation: Conversation | None = None
        self.messages = Bucket(world.clock, 2, 1.0)
        self.configures = Bucket(world.clock, 60, 60.0)


class _Seat:
    """What one socket is: whose deployment, whose session."""

    __slots__ = ("conversation", "deployment", "echoes", "peer", "token")

    def __init__(self, peer: Peer, deployment: Deployment, world: World) -> None:
        self.peer = peer
        self.deployment = deployment
        self.conversation: Conversation | None = None
        self.token = ""
        self.echoes = Bucket(world.clock, 2, 60.0)


class WebMessaging:
    """The face of `web-messaging`."""

    api = API

    def __init__(self, world: World, faults: Faults, options: SandboxOptions) -> None:
        self._world = world
        self._faults = faults
        self._tokens: dict[tuple[str, str], _Token] = {}
        self._files: dict[str, tuple[Conversation, Attachment, Peer | None]] = {}
        self._actions: dict[str, Callable[[_Seat, Frame, str | None], None]] = {
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
        for conversation in world.conversations.values():
            if conversation.api == API:
                self._of(conversation.deployment, conversation.notes["token"]).conversation = conversation
                for attachment in conversation.attached.values():
                    self._files[attachment.id] = (conversation, attachment, None)

    def routes(self) -> Sequence[Route]:
        configuration = "/webdeployments/v1/deployments/{id}"
        token = "/api/v2/webdeployments/token"
        public = {"any_origin": True, "counted": False}
        return (
            Route("GET", configuration + "/config.json", "configuration", self._config, **public),
            Route("GET", configuration + "/domains.json", "configuration", self._domains, **public),
            Route("GET", "/api/v2/webmessaging/messages", "history", self._history),
            Route("POST", token + "/oauthcodegrantjwtexchange", "sign-in", self._exchange),
            Route("POST", token + "/refresh", "refresh", self._refresh),
            Route("DELETE", token + "/revoke", "sign-in", self._revoke),
            Route("PUT", "/uploads/{id}", "upload", self._put, any_origin=True, large=True),
            Route("GET", "/api/v2/downloads/{id}", "download", self._download, any_origin=True),
        )

    def doors(self) -> Sequence[Door]:
        return (Door("/v1", self._admit),)

    # -- sockets

    def _admit(self, request: HttpRequest) -> HttpReply | None:
        deployment = self._world.deployments.get(request.query.get("deploymentId", ""))
        if deployment is None or not deployment.active or not deployment.allows(request.origin):
            return HttpReply.json(403, _DENIED)
        return None

    def opened(self, peer: Peer) -> None:
        peer.note = _Seat(peer, self._world.deployments[peer.request.query["deploymentId"]], self._world)

    def closed(self, peer: Peer, clean: bool) -> None:
        self._leave(peer.note)

    def heard(self, peer: Peer, text: str) -> None:
        seat: _Seat = peer.note
        tracing: str | None = None
        try:
            try:
                frame = decode(text)
            except ValueError:
                raise _Error(400, "The request is not JSON") from None
            if not isinstance(frame, dict):
                raise _Error(400, "The request is not a JSON object")
            if isinstance(frame.get("tracingId"), str):
                tracing = frame["tracingId"]
            action = frame.get("action")
            perform = self._actions.get(action) if isinstance(action, str) else None
            if perform is None:
                raise _Error(400, f"Unknown action {action!r}" if action is not None else "action is missing")
            route = "typing" if _is_typing(frame) else _ROUTES.get(str(action))
            fault = self._faults.action(route)
            self._world.count(None if route == "create" else seat.conversation, route or str(action))
            if fault is not None and fault.kind == "ratelimit":
                self._too_many(seat, "Fault on demand", tracing, route, wait=fault.retry_after or 1)
            elif fault is not None:
                raise _Error(fault.status, f"Fault on demand: {fault.spec}")
            else:
                perform(seat, frame, tracing)
        except _Answered:
            pass
        except _Error as problem:
            self._reply(seat, "string", problem.text, tracing, code=problem.code)

    def _reply(
        self, seat: _Seat, name: str, body: Any, tracing: str | None, *, code: int = 200, type: str = "response",
        route: str | None = None,
    ) -> None:  # fmt: skip
        seat.peer.send(_frame(name, body, tracing, code=code, type=type), route)

    def _too_many(
        self, seat: _Seat, text: str, tracing: str | None, route: str | None, *, number: int = 4029, wait: int = 3
    ) -> None:
        body = {
            "retryAfter": wait,
            "errorCode": number,
            "errorMessage": text,
            "name": "TooManyRequestsError",
            "message": text,
        }
        self._reply(seat, "TooManyRequestsErrorMessage", body, tracing, code=429, route=route)

    def _of(self, deployment: Deployment, token: str) -> _Token:
        key = (deployment.id, token)
        found = self._tokens.get(key)
        if found is None:
            found = self._tokens[key] = _Token(self._world)
        return found

    # -- sessions (§5.1, §5.2, §5.9, §10.9)

    def _configure(self, seat: _Seat, frame: Frame, tracing: str | None) -> None:
        token = self._opening(seat, frame, tracing)
        known = self._resumable(token, frame)
        if known is not None and "person" in known.notes:
            raise _Error(4017, "Cannot downgrade an authenticated session to an unauthenticated one")
        conversation = known or self._start(seat, token, frame, {})
        self._sit(seat, conversation, str(frame["token"]))
        self._session_response(seat, conversation, tracing, new=known is None)

    def _configure_signed_in(self, seat: _Seat, frame: Frame, tracing: str | None) -> None:
        data = frame.get("data")
        code = data.get("code") if isinstance(data, dict) else None
        if not isinstance(code, str) or not code:
            raise _Error(4020, "data.code is missing")
        token = self._opening(seat, frame, tracing)
        if not seat.deployment.sign_in:
            raise _Error(403, _FEATURE_OFF)
        grant = self._world.tokens.live(code, "sign-in")
        if grant is None:
            raise _Error(401, "Session authentication failed: the JWT is invalid or expired")
        person = {"person": grant.facts["person"], "login": grant.facts["login"]}
        known = self._resumable(token, frame)
        stepping_up = known is not None and "person" not in known.notes
        if known is not None and known.notes.get("person", person["person"]) != person["person"]:
            raise _Error(403, _SIGN_IN_AGAIN)
        if stepping_up and (seat.conversation is not known or not seat.deployment.session_upgrade):
            raise _Error(403, _SIGN_IN_AGAIN)
        dropped = stepping_up and self._drop_older(person["person"])
        conversation = known or self._start(seat, token, frame, person)
        conversation.notes.update(person)
        grant.conversation = conversation.id
        self._world.tokens.put(grant)
        self._world.keep(conversation)
        self._sit(seat, conversation, str(frame["token"]))
        if stepping_up:
            self._close_others(seat, conversation, {"reason": "signedIn", "reasonCode": "signedIn"})
        self._session_response(seat, conversation, tracing, new=known is None, dropped=dropped)
        if stepping_up:
            name = f"{person['person'].title()} Guest"
            self._presence(conversation, "guest", "SignIn", metadata=self._metadata(conversation, {}), name=name)

    def _opening(self, seat: _Seat, frame: Frame, tracing: str | None) -> _Token:
        """The checks both kinds of configure share."""
        for name in ("deploymentId", "token"):
            if not isinstance(frame.get(name), str) or not frame[name]:
                raise _Error(4020, f"{name} is missing")
        if len(frame["token"]) > TOKEN_LENGTH:
            raise _Error(400, f"token is longer than {TOKEN_LENGTH} characters")
        if frame["deploymentId"] != seat.deployment.id:
            raise _Error(403, "deploymentId is not the one of this connection")
        if not isinstance(frame.get("startNew", False), bool):
            raise _Error(400, "startNew is not a boolean")
        token = self._of(seat.deployment, frame["token"])
        if not self._world.fast and not token.configures.take():
            self._too_many(seat, "ConfigureSession rate too high for this session", tracing, "create", number=429)
            raise _Answered
        return token

    def _resumable(self, token: _Token, frame: Frame) -> Conversation | None:
        known = token.conversation
        if known is None or frame.get("startNew"):
            return None
        self._world.live(known)
        return known if known.state in ("active", "read-only") else None

    def _start(self, seat: _Seat, token: _Token, frame: Frame, person: Mapping[str, str]) -> Conversation:
        old = token.conversation
        if old is not None and "person" in old.notes and not person:
            raise _Error(4017, "Cannot downgrade an authenticated session to an unauthenticated one")
        notes = {"token": frame["token"], **person}
        new = token.conversation = self._world.open(API, seat.deployment, notes=notes)
        if old is not None:
            new.last_millis = old.last_millis  # times stay unique for the token (§11.5)
            self._close_others(seat, old)
            self._leave(seat)
            if old.state == "active":
                self._world.close(old, "ended")
            self._world.tokens.revoke(*[g for g in self._world.tokens.of(old.id) if g.kind == "history"])
        return new

    def _sit(self, seat: _Seat, conversation: Conversation, token: str) -> None:
        if seat.conversation is not conversation:
            self._leave(seat)
            seat.conversation, seat.token = conversation, token
            conversation.observers.append(seat.peer)
        if len(conversation.observers) > SOCKETS:
            self._dismiss(conversation.observers[0], {})

    def _leave(self, seat: _Seat) -> None:
        if seat.conversation is not None and seat.peer in seat.conversation.observers:
            seat.conversation.observers.remove(seat.peer)
        seat.conversation = None

    def _dismiss(self, observer: Any, body: Any, name: str = "ConnectionClosedEvent") -> None:
        """Give a socket up: tell it why, close it when it has not closed itself."""
        observer.send(_frame(name, body, type="message"))
        self._leave(observer.note)
        self._world.later(GRACE, lambda: observer.close(1000))

    def _close_others(
        self, seat: _Seat | None, conversation: Conversation, body: Mapping[str, str] | None = None
    ) -> None:
        for observer in tuple(conversation.observers):
            if seat is None or observer is not seat.peer:
                self._dismiss(observer, body or {})

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
            self._world.close(conversation, "ended")
        return bool(older)

    def _session_response(
        self, seat: _Seat, conversation: Conversation, tracing: str | None, *, new: bool, dropped: bool = False,
        connected: bool = True,
    ) -> None:  # fmt: skip
        conversation.requests["create"] += connected
        body = {
            "connected": connected,
            "newSession": new,
            "readOnly": conversation.state == "read-only" or not connected,
            "clearedExistingSession": dropped,
            **_limits(conversation.deployment),
            "durationSeconds": int(conversation.deployment.session_life),
            "expirationDate": int(conversation.expires_at),
        }
        self._reply(seat, "SessionResponse", body, tracing, route="create")

    def _session(self, seat: _Seat, frame: Frame, tracing: str | None) -> Conversation:
        """The configured session a request belongs to, alive or read-only."""
        if not isinstance(frame.get("token"), str):
            raise _Error(4020, "token is missing")
        conversation = seat.conversation
        if conversation is None or frame["token"] != seat.token:
            raise _Error(4007, "Session not found: configure it on this connection first")
        if self._world.live(conversation) or conversation.state == "read-only":
            return conversation
        if conversation.state == "expired":
            self._reply(seat, "SessionExpiredEvent", {}, tracing)
            raise _Answered
        raise _Error(4007, "Session not found: it has ended")

    def _close_session(self, seat: _Seat, frame: Frame, tracing: str | None) -> None:
        conversation = self._session(seat, frame, tracing)
        if frame.get("closeAllConnections") is not True:
            raise _Error(4020, "closeAllConnections is missing")
        self._close_others(seat, conversation)
        self._session_response(seat, conversation, tracing, new=False, connected=False)
        self._leave(seat)

    def _get_configuration(self, seat: _Seat, frame: Frame, tracing: str | None) -> None:
        if not isinstance(frame.get("token"), str) or not frame["token"]:
            raise _Error(4020, "token is missing")
        if frame.get("deploymentId") != seat.deployment.id:
            raise _Error(403, "deploymentId is not the one of this connection")
        body = {
            **_limits(seat.deployment),
            "messageRoutingEnabled": True,
            "sessionDurationSeconds": int(seat.deployment.session_life),
        }
        self._reply(seat, "GetConfigurationResponse", body, tracing)

    def _get_jwt(self, seat: _Seat, frame: Frame, tracing: str | None) -> None:
        conversation = self._session(seat, frame, tracing)
        tokens = self._world.tokens
        claims = {
            "sub": "guest",
            "deploymentId": conversation.deployment.id,
            "sessionId": conversation.guest_id,
        }
        grant = tokens.jwt("history", life=tokens.life(HISTORY_LIFE), claims=claims, conversation=conversation.id)
        self._reply(seat, "JwtResponse", {"jwt": grant.token, "exp": grant.exp}, tracing, route="refresh")

    def _echo(self, seat: _Seat, frame: Frame, tracing: str | None) -> None:
        conversation = self._session(seat, frame, tracing)
        if not self._world.fast and not seat.echoes.take():
            self._too_many(seat, "Echo rate too high for this connection", tracing, None)
            return
        message = frame.get("message")
        if not isinstance(message, dict) or not isinstance(message.get("text", ""), str):
            raise _Error(4020, "message is missing")
        identifier = self._world.new_id()
        body = {
            "id": identifier,
            "type": "Text",
            "text": message.get("text", ""),
            "direction": "Inbound",
            "channel": _channel(rfc3339(self._world.clock.now()), identifier),
            "metadata": {
                **_string_map(message.get("metadata"), "metadata"),
                "correlationId": _dashed(identifier),
                "durationSeconds": str(int(conversation.deployment.session_life)),
                "expirationDate": str(int(conversation.expires_at)),
            },
        }
        self._reply(seat, "StructuredMessage", body, tracing)

    # -- messages (§5.4, §5.5)

    def _on_message(self, seat: _Seat, frame: Frame, tracing: str | None) -> None:
        conversation = self._session(seat, frame, tracing)
        world = self._world
        if not world.fast and not self._of(seat.deployment, seat.token).messages.take():
            self._too_many(seat, "Message rate too high for this session", tracing, "send")
            return
        message = frame.get("message")
        if not isinstance(message, dict):
            raise _Error(4020, "message is missing")
        kind = message.get("type")
        if kind == "Event" or (kind is None and message.get("events")):
            self._event(seat, conversation, frame, message, tracing)
            return
        if kind not in (None, "Text", "Structured"):
            raise _Error(400, f"message.type {kind!r} is not one a guest may send")
        self._writable(conversation)
        text = message.get("text")
        content = message.get("content", [])
        if not isinstance(text, (str, type(None))) or not isinstance(content, list):
            raise _Error(400, "message.text is not a string or message.content not a list")
        if not content and not (text and text.strip()):
            raise _Error(400, "message has no text, no content and no events")
        if text and len(text) > conversation.deployment.text_limit:
            raise _Error(4011, f"Message is longer than {conversation.deployment.text_limit} characters")
        metadata = self._metadata(conversation, _string_map(message.get("metadata"), "message.metadata"))
        attributes = self._attributes(conversation, frame, message)
        stored = [self._content_item(conversation, item) for item in content]
        files = [item["attachment"]["id"] for item in stored if item["contentType"] == "Attachment"]
        if len(files) > 1:
            raise _Error(400, "At most one attachment in a message")
        self._accept(conversation, attributes, files)
        answers = payload_of(stored) if stored else None
        if answers is not None:
            self._check_answers(conversation, stored)
        world.guest_says(
            conversation,
            text or None,
            key=metadata.get("customMessageId") or tracing,
            kind="structured" if kind == "Structured" else "text",
            content=stored,
            metadata=metadata,
            payload=answers,
            prompt=None if text else _label(stored),
            cause=(tracing, seat.peer.request.base),
        )

    def _writable(self, conversation: Conversation) -> None:
        if conversation.state == "read-only":
            raise _Error(409, "Session is read-only, no new messages allowed")
        deployment = conversation.deployment
        if deployment.sign_in and not deployment.session_upgrade and "person" not in conversation.notes:
            raise _Error(403, _SIGN_IN_AGAIN)

    def _metadata(self, conversation: Conversation, given: Mapping[str, str]) -> Mapping[str, str]:
        return {**given, "authenticated": "true"} if "person" in conversation.notes else given

    def _attributes(self, conversation: Conversation, frame: Frame, message: Frame) -> Mapping[str, str]:
        """Custom attributes of both places; the legacy one is remarked on, or ignored when strict."""
        inner, legacy = _custom_attributes(message), _custom_attributes(frame)
        if legacy:
            _complain(conversation, "customAttributes in the deprecated place (channel beside message)")
        attributes = inner if conversation.deployment.strict_attributes else {**legacy, **inner}
        limit = conversation.deployment.attributes_limit
        if attributes_size(attributes) > limit:
            raise _Error(4013, f"Custom Attributes in channel metadata is larger than {limit} bytes")
        return attributes

    def _accept(self, conversation: Conversation, attributes: Mapping[str, str], files: Sequence[str] = ()) -> None:
        """Nothing can be refused any more: the message's side effects happen."""
        conversation.attributes.update(attributes)
        for identifier in files:
            attachment = conversation.attached[identifier]
            attachment.state = "sent"
            self._world.attach(conversation, attachment)

    def _content_item(self, conversation: Conversation, item: Any) -> dict[str, Any]:
        kind = item.get("contentType") if isinstance(item, dict) else None
        if kind == "ButtonResponse":
            return {"contentType": kind, "buttonResponse": _button(item.get("buttonResponse"))}
        if kind == "Form":
            return {"contentType": kind, "form": _form(item.get("form"))}
        if kind == "Attachment":
            body = item.get("attachment")
            attachment = self._attachment(conversation, body.get("id") if isinstance(body, dict) else None)
            return {
                "contentType": kind,
                "attachment": {
                    "id": attachment.id,
                    "filename": attachment.name,
                    "fileSize": attachment.size,
                    "mediaType": _media_type(attachment.type),
                    "mime": attachment.type,
                },
            }
        raise _Error(400, f"content item {kind!r} is not one a guest may send")

    def _check_answers(self, conversation: Conversation, content: Sequence[Item]) -> None:
        offered = [(m.id, m.content) for m in conversation.messages[-200:] if m.content and m.direction == "outbound"]
        for problem in wrong_answers(content, offered):
            _complain(conversation, problem)

    def _event(
        self, seat: _Seat, conversation: Conversation, frame: Frame, message: Frame, tracing: str | None
    ) -> None:
        events = message.get("events")
        if not isinstance(events, list) or len(events) != 1 or not isinstance(events[0], dict):
            raise _Error(400, "message.events is not a list of one event")
        event = events[0]
        if event.get("eventType") == "Typing":
            if not conversation.deployment.typing:
                raise _Error(403, _FEATURE_OFF)
            self._writable(conversation)
            if _part(event, "typing").get("type") != "On":
                raise _Error(400, "typing.type is not On")
            return
        if event.get("eventType") != "Presence":
            raise _Error(403, _FEATURE_OFF)
        presence = _part(event, "presence").get("type")
        given = self._metadata(conversation, _string_map(message.get("metadata"), "message.metadata"))
        cause = (tracing, seat.peer.request.base)
        if presence == "Clear":
            if not conversation.deployment.clear:
                raise _Error(403, "Presence events Conversation Clear are not supported")
            self._presence(conversation, "guest", "Clear", metadata=given, key=tracing, cause=cause)
            self._clear(conversation)
        elif presence == "Join":
            self._writable(conversation)
            self._accept(conversation, self._attributes(conversation, frame, message))
            self._presence(conversation, "guest", "Join", metadata=given, key=tracing, cause=cause)
            if not conversation.notes.get("joined"):
                conversation.notes["joined"] = True
                self._world.keep(conversation)
                self._world.greet(conversation)
        elif presence == "Disconnect":
            self._writable(conversation)
            self._presence(conversation, "guest", "Disconnect", metadata=given, key=tracing, cause=cause)
            self.ended(conversation, "system")
        else:
            raise _Error(400, f"presence {presence!r} is not one a guest may send")

    def _presence(
        self, conversation: Conversation, role: Role, type: str, *, metadata: Mapping[str, str] | None = None,
        name: str | None = None, key: str | None = None, cause: Any = None,
    ) -> None:  # fmt: skip
        events = [{"eventType": "Presence", "presence": {"type": type}}]
        self._world.record(
            conversation, role, "event", events=events, metadata=metadata, name=name, key=key, cause=cause
        )

    def _clear(self, conversation: Conversation) -> None:
        self._world.close(conversation, "cleared")
        self._world.tokens.revoke(*[g for g in self._world.tokens.of(conversation.id) if g.kind == "history"])
        conversation.broadcast(_frame("SessionClearedEvent", {}, type="message"))
        self._close_others(None, conversation)

    # -- what the world tells (see world.Teller)

    def said(self, conversation: Conversation, message: Message, cause: Any) -> None:
        if not conversation.observers:
            return
        tracing, base = cause or (None, "")
        body = self._body(conversation, message, base)
        conversation.broadcast(
            _frame("StructuredMessage", body, tracing, type="message"),
            "send" if message.direction == "inbound" else None,
        )

    def typing(self, conversation: Conversation, role: Role, name: str | None, millis: int) -> None:
        event = {"eventType": "Typing", "typing": {"type": "On", "duration": millis}}
        stamp = self._world.stamp(conversation)
        passing = Message(
            self._world.new_id(), 0, stamp, rfc3339(stamp / 1000), "outbound", role, "event", name, events=(event,)
        )
        self.said(conversation, passing, None)

    def ended(self, conversation: Conversation, role: Role) -> None:
        policy = conversation.deployment.disconnect
        if policy == "off" or conversation.state != "active":
            return
        if policy == "ReadOnly":
            self._world.close(conversation, "read-only")
        metadata = {"readOnly": "true"} if policy == "ReadOnly" else {}
        self._presence(conversation, role, "Disconnect", metadata=self._metadata(conversation, metadata))

    def expired(self, conversation: Conversation) -> None:
        conversation.broadcast(_frame("SessionExpiredEvent", {}, type="message"))

    def token_expired(self, conversation: Conversation) -> None:
        """Nothing is said: the next use of the JWT is refused."""

    def pushed(self, conversation: Conversation, frame: str) -> None:
        """Deliver as it is. What is a well-formed message to the guest also enters the history."""
        try:
            body = decode(frame)["body"]
            kept = body["direction"] == "Outbound" and body["type"] in ("Text", "Structured")
            if kept and isinstance(body["id"], str):
                role: Role = "bot" if body.get("originatingEntity") == "Bot" else "agent"
                self._world.say(
                    conversation,
                    body.get("text"),
                    role=role,
                    content=body.get("content") or (),
                    message_id=body["id"],
                    tell=False,
                )
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # no message: hostile or unknown frames are what this is for
        conversation.broadcast(frame)

    def _body(self, conversation: Conversation, message: Message, base: str) -> dict[str, Any]:
        """A message as a frame shows it (§6.3, §11.4)."""
        inbound = message.direction == "inbound"
        body: dict[str, Any] = {"id": message.id, "type": _TYPES[message.kind]}
        if message.text is not None:
            body["text"] = message.text
        body["direction"] = "Inbound" if inbound else "Outbound"
        if not inbound:
            body["originatingEntity"] = _ENTITIES[message.role]
        body["channel"] = _channel(message.time, message.id if inbound else None, _sender(message))
        if message.content:
            body["content"] = [self._shown(conversation, item, base) for item in message.content]
        if message.events:
            body["events"] = message.events
        body["metadata"] = {**message.metadata, "correlationId": _dashed(message.id)}
        return body

    def _shown(self, conversation: Conversation, item: Item, base: str) -> Item:
        """An attachment of ours gets a fresh address each time it is shown."""
        mine = conversation.attached.get(item["attachment"].get("id")) if "attachment" in item else None
        return item if mine is None else {**item, "attachment": {**item["attachment"], "url": self._link(mine, base)}}

    # -- attachments (§5.6, §7.3)

    def _on_attachment(self, seat: _Seat, frame: Frame, tracing: str | None) -> None:
        conversation = self._session(seat, frame, tracing)
        self._writable(conversation)
        identifier = frame.get("attachmentId")
        try:
            attachment = self._announced(conversation, frame)
        except _Error as problem:
            if frame.get("errorsAsJson") is not True:
                raise
            body = {
                "name": "GenerateUrlError",
                "message": problem.text,
                "errorCode": problem.code,
                "errorMessage": problem.text,
                "timestamp": rfc3339(self._world.clock.now()),
                **({"attachmentId": identifier} if isinstance(identifier, str) else {}),
            }
            self._reply(seat, "GenerateUrlError", body, tracing, type="message", route="upload")
            return
        self._files[attachment.id] = (conversation, attachment, seat.peer)
        self._world.attach(conversation, attachment)
        url = f"{seat.peer.request.base}/uploads/{attachment.id}?{urlencode({'signature': attachment.key})}"
        body = {
            "attachmentId": attachment.id,
            "headers": {"x-amz-tagging": _TAGGING},
            "url": url,
            "fileName": attachment.name,
            "fileSize": attachment.size,
            "fileType": attachment.type,
        }
        self._reply(seat, "PresignedUrlResponse", body, tracing, route="upload")

    def _announced(self, conversation: Conversation, frame: Frame) -> Attachment:
        deployment = conversation.deployment
        name, type, size = frame.get("fileName"), frame.get("fileType"), frame.get("fileSize")
        identifier = frame.get("attachmentId", self._world.new_uuid())
        if not deployment.attachments:
            raise _Error(4000, "Attachments are not available in this deployment")
        if (
            not isinstance(name, str)
            or not isinstance(type, str)
            or not isinstance(size, int)
            or isinstance(size, bool)
        ):
            raise _Error(4020, "fileName, fileType and fileSize are required")
        if not isinstance(identifier, str) or not identifier or "/" in identifier or identifier in self._files:
            raise _Error(400, "attachmentId is unusable or taken")
        if len(name) > NAME_LIMIT:
            raise _Error(4005, f"File name is longer than {NAME_LIMIT} characters")
        if not name.strip() or any(c in '\\/{}^%`[]">~<#|' or ord(c) < 32 for c in name):
            raise _Error(4004, "File name holds characters that are not allowed")
        if size <= 0:
            raise _Error(4102, "File size is zero")
        if size // 1000 > deployment.max_file_kb:
            raise _Error(4002, f"File is larger than {deployment.max_file_kb} KB")
        blocked = name.lower().endswith(tuple(deployment.blocked_extensions))
        if blocked or not any(_matches(type, pattern) for pattern in deployment.file_types):
            raise _Error(4001, "File type is not allowed")
        return Attachment(identifier, name, type, size, key=self._world.new_id())

    def _attachment(self, conversation: Conversation, identifier: Any) -> Attachment:
        attachment = conversation.attached.get(identifier) if isinstance(identifier, str) else None
        if attachment is None:
            raise _Error(4009, "Attachment not found")
        if attachment.state not in ("uploaded", "sent"):
            raise _Error(4010, "Attachment was not successfully uploaded")
        return attachment

    def _get_attachment(self, seat: _Seat, frame: Frame, tracing: str | None) -> None:
        attachment = self._attachment(self._session(seat, frame, tracing), frame.get("attachmentId"))
        body = {
            "attachmentId": attachment.id,
            "headers": {},
            "url": self._link(attachment, seat.peer.request.base),
            "fileName": attachment.name,
            "fileSize": attachment.size,
            "fileType": attachment.type,
        }
        self._reply(seat, "PresignedUrlResponse", body, tracing, route="upload")

    def _delete_attachment(self, seat: _Seat, frame: Frame, tracing: str | None) -> None:
        conversation = self._session(seat, frame, tracing)
        attachment = self._attachment(conversation, frame.get("attachmentId"))
        if attachment.state == "sent":
            raise _Error(400, "Attachment has been sent and cannot be deleted")
        attachment.state, attachment.data = "failed", b""
        self._world.attach(conversation, attachment)
        self._reply(
            seat, "AttachmentDeletedResponse", {"attachmentId": attachment.id}, tracing, type="message", route="upload"
        )

    def _put(self, request: HttpRequest) -> HttpReply:
        found = self._files.get(request.params["id"])
        if found is None or not hmac.compare_digest(found[1].key, request.query.get("signature", "")):
            return error(403, "The address is not one we signed.")
        conversation, attachment, peer = found
        request.conversation = conversation
        if attachment.state != "presigned":
            return error(403, "The address has been used.")
        if request.headers.get("x-amz-tagging") != _TAGGING:
            return error(403, "The signed headers are missing or changed.")
        attachment.state, attachment.data = "stored", request.body
        self._world.attach(conversation, attachment)
        self._world.later(SCAN, lambda: self._scanned(conversation, attachment, peer, request.base))
        return HttpReply(200)

    def _scanned(self, conversation: Conversation, attachment: Attachment, peer: Peer | None, base: str) -> None:
        """The verdict on a stored file. One named `eicar` is infected, so that tests can have a bad one."""
        verdict: tuple[int, str] | None = None
        if len(attachment.data) != attachment.size:
            verdict = (4002, "File size is not the announced one")
        elif attachment.name.lower().startswith("eicar"):
            verdict = (4003, "File content is not allowed")
        stamp = {"attachmentId": attachment.id, "timestamp": rfc3339(self._world.clock.now())}
        attachment.state = "uploaded" if verdict is None else "failed"
        self._world.attach(conversation, attachment)
        if peer is None:
            return
        if verdict is None:
            body = {**stamp, "downloadUrl": self._link(attachment, base)}
            peer.send(_frame("UploadSuccessEvent", body, type="message"), "upload")
        else:
            body = {**stamp, "errorCode": verdict[0], "errorMessage": verdict[1]}  # type: ignore[dict-item]
            peer.send(_frame("UploadFailureEvent", body, type="message"), "upload")

    def _link(self, attachment: Attachment, base: str) -> str:
        until = int(self._world.clock.now()) + DOWNLOAD_LIFE
        signature = self._signature(attachment.id, str(until))
        return f"{base}/api/v2/downloads/{quote(attachment.id)}?{urlencode({'expires': until, 'signature': signature})}"

    def _signature(self, identifier: str, until: str) -> str:
        return hmac.new(self._world.tokens.key.encode(), f"{identifier} {until}".encode(), "sha256").hexdigest()

    def _download(self, request: HttpRequest) -> HttpReply:
        identifier, until = request.params["id"], request.query.get("expires", "")
        genuine = hmac.compare_digest(self._signature(identifier, until), request.query.get("signature", ""))
        found = self._files.get(identifier)
        if not genuine or int(until) < self._world.clock.now() or found is None or found[1].state == "failed":
            return error(404, "The requested resource was not found.", "resource.not.found")
        request.conversation = found[0]
        headers = {
            "Content-Type": found[1].type if _clean_header(found[1].type) else "application/octet-stream",
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(found[1].name)}",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox",
        }
        return HttpReply(200, found[1].data, headers)

    # -- REST (§3, §7.1, §7.2)

    def _config(self, request: HttpRequest) -> HttpReply:
        deployment = self._deployment(request)
        conversations = {
            "messagingEndpoint": request.socket_base,
            "showAgentTypingIndicator": True,
            "showUserTypingIndicator": deployment.typing,
            "autoStart": {"enabled": deployment.auto_start},
            "markdown": {"enabled": True},
            "conversationDisconnect": {
                "enabled": deployment.disconnect != "off",
                "type": "ReadOnly" if deployment.disconnect == "ReadOnly" else "Send",
            },
            "conversationClear": {"enabled": deployment.clear},
            "humanize": {"enabled": False},
            "notifications": {"enabled": False, "notificationContentType": "ExcludeMessagesContent"},
            "sessionDurationSeconds": int(deployment.session_life),
        }
        modes = [{"fileTypes": list(deployment.file_types), "maxFileSizeKB": deployment.max_file_kb}]
        return HttpReply.json(
            200,
            {
                "id": _dashed(deployment.id.replace("-", "")[::-1].ljust(32, "0")),
                "version": "1",
                "status": "Active" if deployment.active else "Inactive",
                "languages": ["en-us"],
                "defaultLanguage": "en-us",
                "apiEndpoint": request.base,
                "headlessMode": {"enabled": False},
                "messenger": {
                    "enabled": True,
                    "apps": {"conversations": conversations},
                    "styles": {"primaryColor": "#005f73"},
                    "launcherButton": {"visibility": "On"},
                    "fileUpload": {"enableAttachments": deployment.attachments, "modes": modes},
                },
                "journeyEvents": {"enabled": False},
                "auth": {"enabled": deployment.sign_in, "allowSessionUpgrade": deployment.session_upgrade},
            },
        )

    def _domains(self, request: HttpRequest) -> HttpReply:
        domains = self._deployment(request).origins
        return HttpReply.json(200, {"allowAllDomains": not domains, "allowedDomains": list(domains)})

    def _deployment(self, request: HttpRequest) -> Deployment:
        found = self._world.deployments.get(request.params["id"])
        if found is None:  # an object store's way of not finding something
            body = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
            raise Refused(HttpReply(403, body, {"Content-Type": "application/xml"}))
        return found

    def _history(self, request: HttpRequest) -> HttpReply:
        conversation = self._reader(request)
        request.conversation = conversation
        if not conversation.deployment.allows(request.origin):
            return error(403, "The origin is not allowed by the deployment.", "origin.not.allowed")
        number, size = _number(request, "pageNumber", 1), _number(request, "pageSize", 25)
        if size > PAGE_LIMIT:
            return error(400, f"pageSize is above {PAGE_LIMIT}")
        messages = self._world.history(conversation, request.lag)
        total = len(messages)
        newest = max(0, total - (number - 1) * size)
        page = messages[max(0, newest - size) : newest]
        body = {
            "entities": [self._entity(conversation, message, request.base) for message in reversed(page)],
            "pageSize": size,
            "pageNumber": number,
            "total": total,
            "pageCount": -(-total // size),
        }
        return HttpReply.json(200, body)

    def _reader(self, request: HttpRequest) -> Conversation:
        grant = self._world.tokens.live(request.bearer, "history", "sign-in")
        if grant is None:
            raise Refused(error(401))
        found = self._world.conversations.get(grant.conversation or "")
        if found is None and "login" in grant.facts:
            found = next((c for c in self._signed_in(grant)), None)
            if found is None:
                raise Refused(error(404, "There is no session for this guest."))
        if found is None or found.state in ("cleared", "ended"):
            raise Refused(error(401))
        return found

    def _entity(self, conversation: Conversation, message: Message, base: str) -> dict[str, Any]:
        """A message as history shows it: no tracingId, fewer content types, a status."""
        body = self._body(conversation, message, base)
        if "content" in body:
            body["content"] = [item for item in body["content"] if item["contentType"] in _HISTORIC]
        if not conversation.deployment.return_message_id:
            body["metadata"].pop("customMessageId", None)
        body["status"] = "Sent"
        return body

    def _exchange(self, request: HttpRequest) -> HttpReply:
        """Any code but `bad` is good. What stands before its first colon is the person."""
        body = _json(request)
        oauth = body.get("oauth")
        deployment = self._world.deployments.get(str(body.get("deploymentId", "")))
        if deployment is None:
            return error(404, "The deployment was not found.", "deployment.not.found")
        if not deployment.allows(request.origin):
            return error(403, "The origin is not allowed by the deployment.", "origin.not.allowed")
        if not deployment.sign_in:
            return error(403, _FEATURE_OFF, "feature.toggle.disabled")
        if not isinstance(oauth, dict):
            return error(400, "oauth is missing.", "required.fields.missing")
        code, implicit = oauth.get("code"), oauth.get("idToken")
        if (code is None) == (implicit is None) or (code is not None and not oauth.get("redirectUri")):
            return error(400, "oauth needs code and redirectUri, or idToken.", "required.fields.missing")
        proof = code if code is not None else implicit
        if not isinstance(proof, str) or not proof or proof == "bad":
            return error(401, "The identity provider refused the code.", "bad.credentials")
        person = {"person": proof.partition(":")[0], "login": self._world.new_id(), "deployment": deployment.id}
        answer = {"jwt": self._sign_in_jwt(person).token}
        if code is not None:
            answer["refreshToken"] = self._world.tokens.opaque("sign-in-refresh", life=REFRESH_LIFE, **person).token
        return HttpReply.json(200, answer)

    def _sign_in_jwt(self, person: Mapping[str, str]) -> Grant:
        claims = {"sub": person["person"], "deploymentId": person["deployment"]}
        tokens = self._world.tokens
        return tokens.jwt("sign-in", life=tokens.life(SIGN_IN_LIFE), claims=claims, **person)

    def _refresh(self, request: HttpRequest) -> HttpReply:
        token = _json(request).get("refreshToken")
        grant = self._world.tokens.live(token if isinstance(token, str) else None, "sign-in-refresh")
        if grant is None:
            return error(401)
        request.conversation = next((c for c in self._signed_in(grant)), None)
        return HttpReply.json(200, {"jwt": self._sign_in_jwt(grant.facts).token})

    def _revoke(self, request: HttpRequest) -> HttpReply:
        grant = self._world.tokens.live(request.bearer, "sign-in")
        if grant is None:
            return error(401)
        for conversation in self._signed_in(grant):
            request.conversation = conversation
            for observer in tuple(conversation.observers):
                self._dismiss(observer, {}, "LogoutEvent")
        self._world.tokens.revoke_login(grant.facts["login"])
        return HttpReply(204)

    def _signed_in(self, grant: Grant) -> list[Conversation]:
        """The reachable sessions of one sign-in."""
        login = grant.facts["login"]
        held = (token.conversation for token in self._tokens.values())
        return [c for c in held if c is not None and c.notes.get("login") == login]


def _frame(name: str, body: Any, tracing: str | None = None, *, code: int = 200, type: str = "response") -> str:
    """The envelope (§4.2)."""
    frame = {"type": type, "class": name, "code": code, "body": body}
    if tracing is not None:
        frame["tracingId"] = tracing
    return dumps(frame)


def _limits(deployment: Deployment) -> dict[str, Any]:
    types = [{"type": type} for type in deployment.file_types] if deployment.attachments else []
    return {
        "maxCustomDataBytes": deployment.attributes_limit,
        "allowedMedia": {"inbound": {"fileTypes": types, "maxFileSizeKB": deployment.max_file_kb}},
        "blockedExtensions": list(deployment.blocked_extensions),
    }


def _channel(time: str, identifier: str | None, sender: Mapping[str, str] | None = None) -> dict[str, Any]:
    channel: dict[str, Any] = {"time": time, "type": "Private", "from": sender or {}, "to": {}}
    if identifier is not None:
        channel["messageId"] = _dashed(identifier[::-1])
    return channel


def _dashed(x: str) -> str:
    """32 hex digits as a UUID: one id of a message gives its others, the same in every copy of it."""
    return f"{x[:8]}-{x[8:12]}-{x[12:16]}-{x[16:20]}-{x[20:]}"


def _sender(message: Message) -> dict[str, str]:
    if message.name is None:
        return {}
    if message.role != "guest":
        return {"nickname": message.name}
    first, _, last = message.name.partition(" ")
    return {"firstName": first, "lastName": last}


def _is_typing(frame: Frame) -> bool:
    message = frame.get("message") if frame.get("action") == "onMessage" else None
    events = message.get("events") if isinstance(message, dict) else None
    return (
        isinstance(events, list)
        and bool(events)
        and isinstance(events[0], dict)
        and (events[0].get("eventType") == "Typing")
    )


def _part(holder: Frame, name: str) -> Mapping[str, Any]:
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def _string_map(value: Any, name: str) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(entry, str) for entry in value.values()):
        raise _Error(400, f"{name} is not a map of strings")
    return value


def _custom_attributes(holder: Frame) -> Mapping[str, str]:
    given = _part(_part(holder, "channel"), "metadata").get("customAttributes")
    return _string_map(given, "customAttributes")


def _button(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict) or body.get("type") not in _BUTTONS:
        raise _Error(400, f"buttonResponse.type is not one of {', '.join(_BUTTONS)}")
    if not isinstance(body.get("text"), str) or not isinstance(body.get("payload"), str):
        raise _Error(400, "buttonResponse needs text and payload")
    return body


def _form(body: Any) -> dict[str, Any]:
    answers = body.get("response") if isinstance(body, dict) else None
    if not isinstance(answers, list):
        raise _Error(400, "form.response is missing")
    for answer in answers:
        component = answer.get("component") if isinstance(answer, dict) else None
        if not isinstance(component, dict) or not isinstance(answer.get("id"), str):
            raise _Error(400, "a form response needs id and component")
        _button(component.get("buttonResponse"))
    assert isinstance(body, dict)
    return body


def _label(content: Sequence[Item]) -> str | None:
    """What a textless button says."""
    texts = [item["buttonResponse"]["text"] for item in content if "buttonResponse" in item]
    return ", ".join(texts) or None


def _media_type(mime: str) -> str:
    return {"image": "Image", "audio": "Audio", "video": "Video"}.get(mime.partition("/")[0].lower(), "File")


def _matches(type: str, pattern: str) -> bool:
    return pattern == "*/*" or type == pattern or (pattern.endswith("/*") and type.startswith(pattern[:-1]))


def _clean_header(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _complain(conversation: Conversation, text: str) -> None:
    if text not in conversation.complaints:
        conversation.complaints.append(text)


def _number(request: HttpRequest, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise Refused(error(400, f"{name} is not a positive whole number"))
    return int(text)


def _json(request: HttpRequest) -> Mapping[str, Any]:
    try:
        body = request.json()
    except ValueError:
        raise Refused(error(400, "The body is not JSON.")) from None
    if not isinstance(body, dict):
        raise Refused(error(400, "The body is not a JSON object."))
    return body
