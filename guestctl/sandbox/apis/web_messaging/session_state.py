"""Sessions of web-messaging: tokens, the sockets attached to a session, configure and sign-in.

Knows: §5.1, §5.2, §5.9 and §10.9 of web-messaging.md. Must not know: messages, attachments, REST, the server library.

The document does not say what a socket may do after ConnectionClosedEvent or LogoutEvent. Here such a socket cannot
configure again; the guest has to open a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guestctl.sandbox.apis.web_messaging.frames import (
    FEATURE_OFF,
    SIGN_IN_AGAIN,
    Frame,
    GuestError,
    envelope,
    limits,
)
from guestctl.sandbox.interfaces import Peer
from guestctl.sandbox.issued_tokens import Grant
from guestctl.sandbox.service_state import Bucket, Conversation, SandboxDeployment, Service

API = "web-messaging"
SOCKETS = 3  # sockets of one token at the same time (§9)
TOKEN_LENGTH = 2048
GRACE = 1.0  # seconds between ConnectionClosedEvent and our close frame


class Answered(Exception):
    """Raised when a request has already been answered."""


class TokenState:
    """The state of one token at one deployment. It outlives the token's conversations."""

    __slots__ = ("configures", "conversation", "messages")

    def __init__(self, service: Service) -> None:
        self.conversation: Conversation | None = None
        self.messages = Bucket(service.clock, 2, 1.0)
        self.configures = Bucket(service.clock, 60, 60.0)


class WebMessagingSocket:
    """The state of one socket: its deployment and its session."""

    __slots__ = ("conversation", "deployment", "echoes", "given_up", "peer", "token")

    def __init__(self, peer: Peer, deployment: SandboxDeployment, service: Service) -> None:
        self.peer = peer
        self.deployment = deployment
        self.conversation: Conversation | None = None
        self.token = ""
        self.given_up = False  # ConnectionClosedEvent or LogoutEvent has been sent on it
        self.echoes = Bucket(service.clock, 2, 60.0)

    def reply(
        self, name: str, body: Any, tracing: str | None, *, code: int = 200, type: str = "response",
        route: str | None = None,
    ) -> None:  # fmt: skip
        """Send a frame of the class `name`."""
        self.peer.send(envelope(name, body, tracing, code=code, type=type), route)

    def rate_limited(
        self, text: str, tracing: str | None, route: str | None, *, number: int = 4029, wait: int = 3
    ) -> None:
        """Send the refusal of a request above a rate limit; `wait` is in seconds."""
        body = {
            "retryAfter": wait,
            "errorCode": number,
            "errorMessage": text,
            "name": "TooManyRequestsError",
            "message": text,
        }
        self.reply("TooManyRequestsErrorMessage", body, tracing, code=429, route=route)


class SessionRegistry:
    """All sessions by token, and the sockets attached to them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._tokens: dict[tuple[str, str], TokenState] = {}

    def token_state(self, deployment: SandboxDeployment, token: str) -> TokenState:
        """Return the state of a token, new if the token is unexisting."""
        key = (deployment.id, token)
        found = self._tokens.get(key)
        if found is None:
            found = self._tokens[key] = TokenState(self._service)
        return found

    def configure(self, socket: WebMessagingSocket, frame: Frame, tracing: str | None) -> None:
        """Start or resume a guest session on a socket (§5.1)."""
        token = self._check_configure(socket, frame, tracing)
        existing = self._resumable(token, frame)
        if existing is not None and "person" in existing.notes:
            raise GuestError(4017, "Cannot downgrade an authenticated session to an unauthenticated one")
        conversation = existing or self._start(socket, token, frame, {})
        self._attach(socket, conversation, str(frame["token"]))
        self._session_response(socket, conversation, tracing, new=existing is None)

    def configure_signed_in(self, socket: WebMessagingSocket, frame: Frame, tracing: str | None) -> Conversation | None:
        """Configure a socket with a sign-in JWT (§10.9).

        Return the conversation if a guest session has become a signed-in one, else None.
        """
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
        existing = self._resumable(token, frame)
        moved = existing is None and self._may_move(socket, frame)
        if moved:
            existing = socket.conversation
        upgraded = existing is not None and "person" not in existing.notes
        if existing is not None and existing.notes.get("person", person["person"]) != person["person"]:
            raise GuestError(403, SIGN_IN_AGAIN)
        if upgraded and (socket.conversation is not existing or not socket.deployment.session_upgrade):
            raise GuestError(403, SIGN_IN_AGAIN)
        dropped_older = upgraded and self._drop_older(person["person"])
        if moved:
            self._move(socket, token, frame)
        conversation = existing or self._start(socket, token, frame, person)
        conversation.notes.update(person)
        grant.conversation = conversation.id
        self._service.tokens.put(grant)
        self._service.save(conversation)
        self._attach(socket, conversation, str(frame["token"]))
        if upgraded:
            self.close_others(socket, conversation, {"reason": "signedIn", "reasonCode": "signedIn"})
        self._session_response(
            socket, conversation, tracing, new=existing is None, dropped_older=dropped_older or moved
        )
        return conversation if upgraded else None

    def _may_move(self, socket: WebMessagingSocket, frame: Frame) -> bool:
        """Return whether a sign-in with a new token continues the guest session of this socket.

        The mobile SDK makes a new token when a guest signs in, and sends it on the socket that is still configured
        with the old one.
        """
        conversation = socket.conversation
        return (
            conversation is not None
            and not frame.get("startNew")
            and frame["token"] != socket.token
            and socket.deployment.session_upgrade
            and "person" not in conversation.notes
            and self._service.live(conversation)
        )

    def _move(self, socket: WebMessagingSocket, token: TokenState, frame: Frame) -> None:
        """Let the session of a socket continue under a new token. The old token has no session any more."""
        conversation = socket.conversation
        assert conversation is not None
        self.token_state(socket.deployment, socket.token).conversation = None
        token.conversation = conversation
        socket.token = conversation.notes["token"] = str(frame["token"])

    def _check_configure(self, socket: WebMessagingSocket, frame: Frame, tracing: str | None) -> TokenState:
        """Check what both configure actions share, and return the state of the token."""
        self.check_address(socket, frame)
        if socket.given_up:
            raise GuestError(4007, "Session not found: this connection has been given up")
        if len(frame["token"]) > TOKEN_LENGTH:
            raise GuestError(400, f"token is longer than {TOKEN_LENGTH} characters")
        if not isinstance(frame.get("startNew", False), bool):
            raise GuestError(400, "startNew is not a boolean")
        token = self.token_state(socket.deployment, frame["token"])
        if not self._service.fast and not token.configures.take():
            socket.rate_limited("ConfigureSession rate too high for this session", tracing, "create", number=429)
            raise Answered
        return token

    def check_address(self, socket: WebMessagingSocket, frame: Frame) -> None:
        """Raise GuestError if the frame has no token or names another deployment than its socket."""
        if not socket.deployment.active:
            raise GuestError(400, "Deployment not found")
        for name in ("deploymentId", "token"):
            if not isinstance(frame.get(name), str) or not frame[name]:
                raise GuestError(4020, f"{name} is missing")
        if frame["deploymentId"] != socket.deployment.id:
            raise GuestError(403, "deploymentId is not the one of this connection")

    def _resumable(self, token: TokenState, frame: Frame) -> Conversation | None:
        existing = token.conversation
        if existing is None or frame.get("startNew"):
            return None
        self._service.live(existing)
        return existing if existing.state in ("active", "read-only") else None

    def _start(
        self, socket: WebMessagingSocket, token: TokenState, frame: Frame, person: Mapping[str, str]
    ) -> Conversation:
        old = token.conversation
        if old is not None and "person" in old.notes and not person:
            raise GuestError(4017, "Cannot downgrade an authenticated session to an unauthenticated one")
        earlier = [] if frame.get("startNew") else _earlier(old, person)
        notes = {"token": frame["token"], "earlier": earlier, **person}
        new = token.conversation = self._service.open(API, socket.deployment, notes=notes)
        if old is not None:
            new.last_millis = old.last_millis  # times stay unique for the token (§11.5)
            self.close_others(socket, old)
            self.detach(socket)
            if old.state == "active":
                self._service.close(old, "ended")
            self._service.tokens.revoke(*[g for g in self._service.tokens.of(old.id) if g.kind == "history"])
        return new

    def _attach(self, socket: WebMessagingSocket, conversation: Conversation, token: str) -> None:
        if socket.conversation is not conversation:
            self.detach(socket)
            socket.conversation, socket.token = conversation, token
            conversation.observers.append(socket.peer)
            self._service.changed(conversation)
        if len(conversation.observers) > SOCKETS:
            self._give_up(conversation.observers[0], {})

    def detach(self, socket: WebMessagingSocket) -> None:
        """Remove a socket from its conversation."""
        if socket.conversation is not None and socket.peer in socket.conversation.observers:
            socket.conversation.observers.remove(socket.peer)
            self._service.changed(socket.conversation)
        socket.conversation = None

    def _give_up(self, observer: Any, body: Any, name: str = "ConnectionClosedEvent") -> None:
        """Send a socket its last event, and close it after `GRACE` if the guest does not."""
        observer.send(envelope(name, body, type="message"))
        observer.state.given_up = True
        self.detach(observer.state)
        self._service.later(GRACE, lambda: observer.close(1000))

    def close_others(
        self, socket: WebMessagingSocket | None, conversation: Conversation, body: Mapping[str, str] | None = None
    ) -> None:
        """Close every socket of a conversation except this one (None: all of them)."""
        for observer in tuple(conversation.observers):
            if socket is None or observer is not socket.peer:
                self._give_up(observer, body or {})

    def _drop_older(self, person: str) -> bool:
        """End the older session of a person. A person has one signed-in session at a time."""
        older = [
            token.conversation
            for token in self._tokens.values()
            if token.conversation is not None
            and token.conversation.notes.get("person") == person
            and token.conversation.state in ("active", "read-only")
        ]
        for conversation in older:
            self.close_others(None, conversation, {"reason": "signedIn", "reasonCode": "signedIn"})
            self._service.close(conversation, "ended")
        return bool(older)

    def _session_response(
        self,
        socket: WebMessagingSocket,
        conversation: Conversation,
        tracing: str | None,
        *,
        new: bool,
        dropped_older: bool = False,
        connected: bool = True,
    ) -> None:
        if connected:
            self._service.count_for(conversation, "create")
        body = {
            "connected": connected,
            "newSession": new,
            "readOnly": conversation.state == "read-only" or not connected,
            "clearedExistingSession": dropped_older,
            **limits(conversation.deployment),
            "durationSeconds": int(conversation.deployment.session_life),
            "expirationDate": int(conversation.expires_at),
        }
        socket.reply("SessionResponse", body, tracing, route="create")

    def require(
        self, socket: WebMessagingSocket, frame: Frame, tracing: str | None, *, any_token: bool = False
    ) -> Conversation:
        """Return the active or read-only session that a request belongs to. Raises GuestError or Answered.

        `any_token` lets the session of the connection decide once the guest has signed in: some releases of the
        mobile SDK send the token they were created with.
        """
        if not isinstance(frame.get("token"), str):
            raise GuestError(4020, "token is missing")
        conversation = socket.conversation
        signed_in = conversation is not None and "person" in conversation.notes
        if conversation is None or (frame["token"] != socket.token and not (any_token and signed_in)):
            raise GuestError(4007, "Session not found: configure it on this connection first")
        if self._service.live(conversation) or conversation.state == "read-only":
            return conversation
        if conversation.state == "expired":
            socket.reply("SessionExpiredEvent", {}, tracing)
            raise Answered
        raise GuestError(4007, "Session not found: it has ended")

    def close_session(self, socket: WebMessagingSocket, frame: Frame, tracing: str | None) -> None:
        """Close all sockets of a session (§5.9). The session stays."""
        conversation = self.require(socket, frame, tracing)
        if frame.get("closeAllConnections") is not True:
            raise GuestError(4020, "closeAllConnections is missing")
        self.close_others(socket, conversation)
        self._session_response(socket, conversation, tracing, new=False, connected=False)
        self.detach(socket)

    def signed_in(self, grant: Grant) -> list[Conversation]:
        """Return the latest sessions of one sign-in."""
        login = grant.facts["login"]
        latest = (token.conversation for token in self._tokens.values())
        return [c for c in latest if c is not None and c.notes.get("login") == login]

    def log_out(self, conversation: Conversation) -> None:
        """Close every socket of a session that has been signed out."""
        for observer in tuple(conversation.observers):
            self._give_up(observer, {}, "LogoutEvent")


def _earlier(old: Conversation | None, person: Mapping[str, str]) -> list[str]:
    """Return the conversations that history shows before the new one (§7.1), never those of another person."""
    if old is None or old.state != "expired" or old.notes.get("person") not in (None, person.get("person")):
        return []
    return [*old.notes.get("earlier", ()), old.id]
