"""OAuth client credentials, for the APIs whose guests are created by a server.

Knows: `POST /oauth/token` (other-apis.md, RFC 6749 §4.4), what a scope permits, and the two requests of an
administrator that are served here. Must not know: any one API.
"""

from __future__ import annotations

import base64
import hmac
from urllib.parse import parse_qs, unquote_plus

from guestctl.sandbox import CLIENT_ID, CLIENT_SECRET
from guestctl.sandbox.apis.validate import InvalidRequest, is_unknown_queue
from guestctl.sandbox.interfaces import Route, ServerReply, ServerRequest
from guestctl.sandbox.service_state import Service

LIFE = 3600.0
DETAILS_SCOPES = ("conversation:message:view", "conversation:webmessaging:view")
QUEUE_SCOPES = ("routing:readonly", "guest:create")
SCOPES = frozenset({
    "guest:create", "guest:read", "routing:readonly", "user:read", "webchat:send",
    "webmessaging:conversation:read", "webmessaging:conversation:write", "webmessaging:guest:read",
    "webmessaging:guest:send", *DETAILS_SCOPES,
})  # fmt: skip


class OAuth:
    """The OAuth client of a sandbox."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> tuple[Route, ...]:
        details = "/api/v2/conversations/messages/{messageId}/details"
        return (
            Route("POST", "/oauth/token", "oauth", self._token),
            Route("GET", details, "details", self._details, any_origin=True),
            Route("GET", "/api/v2/routing/queues/{queueId}", "queue", self._queue, any_origin=True),
        )

    def _details(self, request: ServerRequest) -> ServerReply:
        """Return a message of any API by its id, as an administrator sees it (web-messaging.md §7.5)."""
        self.check(request, *DETAILS_SCOPES)
        found = self._service.find_message(request.params["messageId"])
        if found is None:
            raise InvalidRequest(404, "The message was not found.")
        conversation, message = found
        text = {} if message.text is None else {"textBody": message.text}
        normal = {} if message.text is None else {"text": message.text}
        kind = {"text": "Text", "structured": "Structured", "event": "Event"}[message.kind]
        answer = {
            "id": message.id,
            "conversationId": conversation.id,
            "timestamp": message.time,
            "direction": message.direction,
            "messengerType": "webmessaging",
            **text,
            "status": "sent",
            "media": [],
            "normalizedMessage": {
                "id": message.id,
                "type": kind,
                "direction": message.direction.title(),
                **normal,
                **({"content": message.content} if message.content else {}),
            },
        }
        return ServerReply.json(200, answer)

    def _queue(self, request: ServerRequest) -> ServerReply:
        """Return a queue, as an administrator sees it."""
        self.check(request, *QUEUE_SCOPES)
        queue = request.params["queueId"]
        if is_unknown_queue(queue):
            raise InvalidRequest(404, "The queue was not found.")
        return ServerReply.json(200, {"id": queue, "name": f"Queue {queue}"})

    def check(self, request: ServerRequest, *scopes: str) -> None:
        """Raise InvalidRequest unless the bearer token is a live access token with one of these scopes."""
        grant = self._service.tokens.live(request.bearer, "oauth")
        if grant is None:
            raise InvalidRequest(401)
        if not set(scopes) & set(grant.facts["scopes"]):
            raise InvalidRequest(403, f"The access token lacks the scope {' or '.join(scopes)}.", "missing.scope")

    def _token(self, request: ServerRequest) -> ServerReply:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            return _refusal(400, "invalid_request", "The body is not form-encoded.")
        form = parse_qs(request.body.decode("utf-8", "replace"), keep_blank_values=True)
        if any(len(values) > 1 for values in form.values()):
            return _refusal(400, "invalid_request", "A parameter is given twice.")
        if "grant_type" not in form:
            return _refusal(400, "invalid_request", "grant_type is missing.")
        if form["grant_type"] != ["client_credentials"]:
            return _refusal(400, "unsupported_grant_type", "Only client_credentials is served here.")
        pair = _basic(request)
        if pair is None:
            pair = (form.get("client_id", [""])[0], form.get("client_secret", [""])[0])
        elif "client_secret" in form:
            return _refusal(400, "invalid_request", "The client is authenticated in two ways.")
        given = [text.encode() for text in pair]
        genuine = [CLIENT_ID.encode(), CLIENT_SECRET.encode()]
        if not all(map(hmac.compare_digest, given, genuine)):
            refusal = _refusal(401, "invalid_client", "The client id or secret is wrong.")
            refusal.headers["WWW-Authenticate"] = 'Basic realm="sandbox"'
            return refusal
        # Without a scope a client gets all that its roles permit, as the platform's SDKs expect.
        scopes = form.get("scope", [""])[0].split() or sorted(SCOPES)
        if not SCOPES.issuperset(scopes):
            return _refusal(400, "invalid_scope", f"Scopes are {', '.join(sorted(SCOPES))}.")
        grant = self._service.tokens.opaque("oauth", life=LIFE, scopes=scopes)
        answer = {
            "access_token": grant.token,
            "token_type": "bearer",
            "expires_in": int(LIFE),
            "scope": " ".join(scopes),
        }
        return ServerReply.json(200, answer, **{"Cache-Control": "no-store"})


def _basic(request: ServerRequest) -> tuple[str, str] | None:
    """Return client id and secret of HTTP Basic (RFC 6749 §2.3.1), None without this header."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return unquote_plus(name), unquote_plus(secret)


def _refusal(status: int, error: str, description: str) -> ServerReply:
    """Return an error reply in the form of RFC 6749 §5.2."""
    return ServerReply.json(status, {"error": error, "error_description": description})
