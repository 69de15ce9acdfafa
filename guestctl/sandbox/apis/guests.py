"""The `guests` API: guests created by an OAuth client, JWT tokens, one transcript over many sessions.

Knows: this API as other-apis.md describes it. Must not know: the server library, the client's dialect of the same
name.

The API defines no error frame. A handshake with an invalid token breaks the connection. A frame that cannot be
accepted is answered with `{"type":"error","payload":{status, message, correlationId?}}`, which is our own form. A
refusal on demand closes the socket: 4001 for 401, 1008 for 403, 1013 for 429, 1011 for the rest.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from guestctl.sandbox.apis import history_pages, validate
from guestctl.sandbox.apis.base import GUEST, POLICY_VIOLATION, TOKEN_EXPIRED, BaseApi, SocketState, as_frame
from guestctl.sandbox.apis.oauth import OAuth
from guestctl.sandbox.apis.validate import InvalidRequest, Members
from guestctl.sandbox.faults import Faults
from guestctl.sandbox.interfaces import Peer, Route, ServerReply, ServerRequest, SocketRoute
from guestctl.sandbox.issued_tokens import Grant
from guestctl.sandbox.service_state import Bucket, Conversation, Service, StoredMessage, dumps
from guestctl.sandbox.settings import SandboxOptions

GUESTS = "/api/v2/guests"
ONE = GUESTS + "/{guestId}"
SESSION = ONE + "/sessions/{sessionId}"
ATTRIBUTES_LIMIT = 10_240  # bytes of compact UTF-8 JSON
GONE = "Guest not found. Session may have expired."
_CLOSES = {401: TOKEN_EXPIRED, 403: POLICY_VIOLATION, 429: 1013}


class Guests(BaseApi):
    """The `guests` API. It accepts 200 requests a minute, as documented, unless the sandbox is fast."""

    name = "guests"
    actions = {"message": "send"}

    def __init__(self, service: Service, faults: Faults, options: SandboxOptions) -> None:
        super().__init__(service, faults, options)
        self._oauth = OAuth(service)
        self._requests = Bucket(service.clock, 200, 60.0)

    def routes(self) -> Sequence[Route]:
        return (
            *self._oauth.routes(),
            Route("POST", GUESTS, "create", self._limited(self._create)),
            Route("PUT", ONE, "sync", self._limited(self._sync)),
            Route("POST", ONE + "/sessions", "refresh", self._limited(self._refresh)),
            Route("GET", SESSION + "/messages", "history", self._limited(self._history)),
        )

    def socket_routes(self) -> Sequence[SocketRoute]:
        return (self.socket_route(SESSION + "/ws", self._session),)

    def _limited(self, handle: Callable[[ServerRequest], ServerReply]) -> Callable[[ServerRequest], ServerReply]:
        def limited(request: ServerRequest) -> ServerReply:
            if not self._service.fast and not self._requests.take():
                raise InvalidRequest(429, **{"Retry-After": "1"})
            return handle(request)

        return limited

    # -- REST

    def _create(self, request: ServerRequest) -> ServerReply:
        self._oauth.check(request, "guest:create")
        body = validate.body_of(request)
        name = validate.text(body, "name")
        attributes = validate.part_or_empty(body, "attributes")
        _within_limit(attributes)
        hints = _hints(validate.part_or_empty(body, "routing"))
        validate.check_queue(hints.get("queue", ""))
        notes = {"name": name, "hints": hints, "attributes": attributes, "sessions": []}
        conversation = self.start(request, {}, attributes, notes)
        answer = {"id": conversation.guest_id, **self._credential(conversation), "attributes": attributes}
        self._service.greet(conversation)
        return ServerReply.json(201, answer)

    def _credential(self, conversation: Conversation) -> dict[str, Any]:
        """Return a new token and session for a guest. Earlier sessions still lead to the same transcript."""
        session = self._service.new_uuid()
        conversation.notes["sessions"].append(session)
        self._service.save(conversation)
        return {"guestToken": self.grant(conversation).token, "sessions": [{"id": session}]}

    def grant(self, conversation: Conversation) -> Grant:
        tokens, notes = self._service.tokens, conversation.notes
        return tokens.jwt(
            GUEST,
            life=tokens.life(self.token_life),
            conversation=conversation.id,
            claims={
                # Of three lengths, so that a decoder that pads incorrectly, such as a published one, fails soon.
                "jti": secrets.token_hex(8)[secrets.randbelow(3) :],
                "sub": conversation.guest_id,
                "routing_hints": notes["hints"],
                "attributes": notes["attributes"],
            },
        )

    def _guest(self, request: ServerRequest) -> Conversation:
        found = self._service.by_guest(request.params["guestId"])
        if found is None or found.api != self.name or not self._service.live(found):
            raise InvalidRequest(404, GONE)
        return self.require_conversation(request, found)

    def _sync(self, request: ServerRequest) -> ServerReply:
        self._oauth.check(request, "guest:read")
        conversation = self._guest(request)
        attributes = {**conversation.notes["attributes"], **validate.part(validate.body_of(request), "attributes")}
        _within_limit(attributes)
        conversation.notes["attributes"] = attributes
        conversation.attributes = validate.as_texts(attributes)
        self._service.save(conversation)
        return ServerReply.json(200, {"id": conversation.guest_id, "attributes": attributes})

    def _refresh(self, request: ServerRequest) -> ServerReply:
        self._oauth.check(request, "guest:create")
        return ServerReply.json(201, self._credential(self._guest(request)))

    def _session(self, request: ServerRequest) -> Conversation:
        conversation = self.require_conversation(request, self._service.by_guest(request.params["guestId"]), "guest")
        if request.params["sessionId"] not in conversation.notes["sessions"]:
            raise InvalidRequest(404, "There is no such session of this guest.")
        return conversation

    def _history(self, request: ServerRequest) -> ServerReply:
        conversation = self._session(request)
        self.authorise(request, conversation)
        return history_pages.after(self._service, request, conversation, partial(self._shown, conversation))

    # -- the socket

    def received(self, peer: Peer, text: str) -> None:
        socket: SocketState = peer.state
        key = None
        try:
            frame = validate.members(text)
            kind = frame.get("type")
            if kind == "handshake":
                self._handshake(socket, frame)
            elif kind == "message":
                payload = validate.part(frame, "payload")
                key = payload["correlationId"] if isinstance(payload.get("correlationId"), str) else None
                self._send(socket, payload)
            else:
                raise InvalidRequest(400, "type is neither handshake nor message")
        except InvalidRequest as problem:
            payload = {"status": problem.status, "message": problem.message}
            payload.update({} if key is None else {"correlationId": key})
            peer.send(as_frame(type="error", payload=payload), "send" if key is not None else None)

    def _handshake(self, socket: SocketState, frame: Members) -> None:
        token = validate.text(frame, "token")
        conversation = socket.peer.request.conversation
        assert conversation is not None
        grant = self._service.tokens.live(token, GUEST)
        if grant is None or grant.conversation != conversation.id or not self._service.live(conversation):
            socket.peer.abort()
            return
        self.count_connect(conversation, frame)
        socket.peer.send(as_frame(type="handshake", payload={"status": "ok"}))
        self.attach(socket, conversation, grant)

    def _send(self, socket: SocketState, payload: Members) -> None:
        fault = self.count_action(socket, "send")
        if fault is not None:
            socket.peer.close(_CLOSES.get(fault.status, 1011), f"Fault on demand: {fault.spec}"[:120])
            return
        text = validate.text(payload, "text", "payload.")
        key = validate.text(payload, "correlationId", "payload.")
        if socket.conversation is None:
            raise InvalidRequest(403, "No handshake has been made on this socket")
        stored, new = self.accept(socket.conversation, text, key, cause=socket.peer)
        if not new:
            socket.peer.send(self.frame(socket.conversation, stored), "send")

    def frame(self, conversation: Conversation, message: StoredMessage) -> str:
        return as_frame(type="message", payload=self._shown(conversation, message))

    def parse_frame(self, conversation: Conversation, frame: Members) -> history_pages.ShownMessage:
        return history_pages.parse(validate.part_of(frame, "message", "payload"))

    def _shown(self, conversation: Conversation, message: StoredMessage) -> dict[str, Any]:
        """Return a message as frames and history show it, with the guest's name."""
        found = history_pages.shown(message, "correlationId" if self.returns_keys else None)
        if message.role == "guest":
            found["from"]["name"] = conversation.notes["name"]
        return found


def _hints(routing: Members) -> dict[str, str]:
    """Return queue, skill and language as given. Raises InvalidRequest."""
    hints = {}
    for name in ("queue", "skill"):
        if routing.get(name) is not None:
            hints[name] = validate.text(validate.part(routing, name, "routing."), "id", f"routing.{name}.")
    language = validate.text_or_none(routing, "language", "routing.")
    return hints if language is None else {**hints, "language": language}


def _within_limit(attributes: Members) -> None:
    size = len(dumps(attributes).encode())
    if size > ATTRIBUTES_LIMIT:
        raise InvalidRequest(400, f"attributes are {size} bytes of JSON; a guest may have {ATTRIBUTES_LIMIT}")
