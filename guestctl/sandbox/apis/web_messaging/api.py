"""The `web-messaging` API: one socket, and every action that a guest can request on it.

Knows: which action is handled where, faults on actions, and §5.3, §5.6 and §5.7 of web-messaging.md. Must not know: the
server library, REST.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from guestctl.core.clock import rfc3339
from guestctl.sandbox.apis.web_messaging.files import FileStore
from guestctl.sandbox.apis.web_messaging.frames import (
    Frame,
    GuestError,
    channel,
    check_optional,
    dashed,
    is_typing,
    limits,
    string_map,
)
from guestctl.sandbox.apis.web_messaging.messages import MessageExchange
from guestctl.sandbox.apis.web_messaging.rest import Rest
from guestctl.sandbox.apis.web_messaging.session_state import API, Answered, SessionRegistry, WebMessagingSocket
from guestctl.sandbox.apis.web_messaging.sign_in import SignInService
from guestctl.sandbox.faults import Faults
from guestctl.sandbox.interfaces import Peer, Route, ServerReply, ServerRequest, SocketRoute, decode
from guestctl.sandbox.service_state import AgentFiles, Conversation, Role, SandboxDeployment, Service, StoredMessage
from guestctl.sandbox.settings import SandboxOptions

HISTORY_LIFE = 60.0  # seconds that a history JWT is valid
_DENIED = {"message": "User is not authorized to access this resource with an explicit deny"}

#: The name that faults and reports use for an action.
_ROUTES = {
    "configureSession": "create",
    "configureAuthenticatedSession": "create",
    "onMessage": "send",
    "getJwt": "refresh",
    "onAttachment": "upload",
    "getAttachment": "upload",
    "deleteAttachment": "upload",
}


def _route_of(frame: Frame) -> str | None:
    return "typing" if is_typing(frame) else _ROUTES.get(str(frame.get("action")))


class WebMessaging:
    """The `web-messaging` API."""

    name = API

    def __init__(self, service: Service, faults: Faults, options: SandboxOptions) -> None:
        self._service = service
        self._faults = faults
        self._unknown_answered = options.unknown_deployment == "answered"
        self._sessions = SessionRegistry(service)
        self._files = FileStore(service)
        self.agent_files: AgentFiles | None = self._files
        self._messages = MessageExchange(
            service, self._files, self._sessions, deduplicates=options.deduplicates == "yes"
        )
        self._rest = Rest(service, self._files, self._sessions.signed_in, return_keys=options.keys == "returned")
        self._sign_in = SignInService(service, self._sessions.signed_in, self._sessions.log_out)
        self._actions: dict[str, Callable[[WebMessagingSocket, Frame, str | None], None]] = {
            "configureSession": self._sessions.configure,
            "configureAuthenticatedSession": self._configure_signed_in,
            "getConfiguration": self._get_configuration,
            "onMessage": self._messages.on_message,
            "onAttachment": self._on_attachment,
            "getAttachment": self._get_attachment,
            "deleteAttachment": self._delete_attachment,
            "getJwt": self._get_jwt,
            "echo": self._echo,
            "closeSession": self._sessions.close_session,
        }
        for conversation in service.conversations.values():
            if conversation.api == API:
                token = self._sessions.token_state(conversation.deployment, conversation.notes["token"])
                token.conversation = conversation
                self._files.add(conversation)

    def routes(self) -> Sequence[Route]:
        return (*self._rest.routes(), *self._sign_in.routes(), *self._files.routes())

    def socket_routes(self) -> Sequence[SocketRoute]:
        return (SocketRoute("/v1", self._admit),)

    # -- sockets

    def _admit(self, request: ServerRequest) -> ServerReply | None:
        deployment = self._service.deployments.get(request.query.get("deploymentId", ""))
        if deployment is None:
            answered = self._unknown_answered and request.query.get("deploymentId")
            return None if answered else ServerReply.json(403, _DENIED)
        if not deployment.active or not deployment.allows(request.origin):
            return ServerReply.json(403, _DENIED)
        return None

    def opened(self, peer: Peer) -> None:
        identifier = peer.request.query["deploymentId"]
        deployment = self._service.deployments.get(identifier) or SandboxDeployment(identifier, active=False)
        peer.state = WebMessagingSocket(peer, deployment, self._service)

    def closed(self, peer: Peer, clean: bool) -> None:
        self._sessions.detach(peer.state)

    def route_of(self, text: str) -> str | None:
        try:
            frame = decode(text)
        except ValueError:
            return None
        return _route_of(frame) if isinstance(frame, dict) else None

    def received(self, peer: Peer, text: str) -> None:
        socket: WebMessagingSocket = peer.state
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
                    400, f'Unknown action "{str(action)[:40]}"' if action is not None else "action is missing"
                )
            route = _route_of(frame)
            fault = self._faults.action(route)
            self._service.count(None if route == "create" else socket.conversation, route or str(action))
            if fault is not None and fault.kind == "ratelimit":
                wait = 1 if fault.retry_after is None else fault.retry_after  # a frame has no form for dates
                socket.rate_limited("Fault on demand", tracing, route, wait=wait)
            elif fault is not None:
                raise GuestError(fault.status, f"Fault on demand: {fault.spec}")
            else:
                perform(socket, frame, tracing)
        except Answered:
            pass
        except GuestError as problem:
            socket.reply("string", problem.text, tracing, code=problem.code, route=route)

    # -- actions

    def _configure_signed_in(self, socket: WebMessagingSocket, frame: Frame, tracing: str | None) -> None:
        conversation = self._sessions.configure_signed_in(socket, frame, tracing)
        if conversation is not None:
            name = f"{conversation.notes['person'].title()} Guest"
            metadata = self._messages.metadata(conversation, {})
            self._messages.presence(conversation, "guest", "SignIn", metadata=metadata, name=name)

    def _get_configuration(self, socket: WebMessagingSocket, frame: Frame, tracing: str | None) -> None:
        self._sessions.check_address(socket, frame)
        body = {
            **limits(socket.deployment),
            "messageRoutingEnabled": True,
            "sessionDurationSeconds": int(socket.deployment.session_life),
        }
        socket.reply("GetConfigurationResponse", body, tracing)

    def _get_jwt(self, socket: WebMessagingSocket, frame: Frame, tracing: str | None) -> None:
        conversation = self._sessions.require(socket, frame, tracing, any_token=True)
        tokens = self._service.tokens
        claims = {
            "sub": "guest",
            "deploymentId": conversation.deployment.id,
            "sessionId": conversation.guest_id,
        }
        grant = tokens.jwt("history", life=tokens.life(HISTORY_LIFE), claims=claims, conversation=conversation.id)
        socket.reply("JwtResponse", {"jwt": grant.token, "exp": grant.exp}, tracing, route="refresh")

    def _echo(self, socket: WebMessagingSocket, frame: Frame, tracing: str | None) -> None:
        if "token" not in frame and socket.conversation is not None:
            frame = {**frame, "token": socket.token}
            self._messages.complain(socket.conversation, "echo without a token")
        conversation = self._sessions.require(socket, frame, tracing)
        if not self._service.fast and not socket.echoes.take():
            socket.rate_limited("Echo rate too high for this connection", tracing, None)
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
        socket.reply("StructuredMessage", body, tracing)

    # -- attachments (§5.6, §7.3)

    def _on_attachment(self, socket: WebMessagingSocket, frame: Frame, tracing: str | None) -> None:
        conversation = self._sessions.require(socket, frame, tracing)
        self._messages.require_writable(conversation)
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
            socket.reply("GenerateUrlError", body, tracing, type="message", route="upload")
            return
        answer = self._files.presigned(attachment, socket.peer.request.base)
        socket.reply("PresignedUrlResponse", answer, tracing, route="upload")

    def _get_attachment(self, socket: WebMessagingSocket, frame: Frame, tracing: str | None) -> None:
        attachment = self._files.usable(self._sessions.require(socket, frame, tracing), frame.get("attachmentId"))
        answer = self._files.refreshed(attachment, socket.peer.request.base)
        socket.reply("PresignedUrlResponse", answer, tracing, route="upload")

    def _delete_attachment(self, socket: WebMessagingSocket, frame: Frame, tracing: str | None) -> None:
        conversation = self._sessions.require(socket, frame, tracing)
        attachment = self._files.usable(conversation, frame.get("attachmentId"))
        self._files.delete(attachment, conversation)
        answer = {"attachmentId": attachment.id}
        socket.reply("AttachmentDeletedResponse", answer, tracing, type="message", route="upload")

    # -- what the service reports (see service_state.ApiCallbacks)

    def message_stored(self, conversation: Conversation, message: StoredMessage, cause: Any) -> None:
        self._messages.message_stored(conversation, message, cause)

    def typing(self, conversation: Conversation, role: Role, name: str | None, millis: int) -> None:
        self._messages.typing(conversation, role, name, millis)

    def ended(self, conversation: Conversation, role: Role) -> None:
        self._messages.ended(conversation, role)

    def expired(self, conversation: Conversation) -> None:
        self._messages.expired(conversation)

    def token_expired(self, conversation: Conversation) -> None:
        """Send nothing: the next request with the JWT is refused."""

    def pushed(self, conversation: Conversation, frame: str) -> None:
        self._messages.pushed(conversation, frame)
