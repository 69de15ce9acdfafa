"""OAuth client credentials, for the APIs whose guests are created by a server.

Knows: `POST /oauth/token` (other-apis.md, RFC 6749 §4.4) and what a scope permits. Must not know: what the permission
is used for.
"""

from __future__ import annotations

import hmac
from urllib.parse import parse_qs

from guestctl.sandbox import CLIENT_ID, CLIENT_SECRET
from guestctl.sandbox.apis.validate import InvalidRequest
from guestctl.sandbox.interfaces import Route, ServerReply, ServerRequest
from guestctl.sandbox.service_state import Service

LIFE = 3600.0
SCOPES = frozenset({
    "guest:create", "guest:read", "user:read", "webchat:send",
    "webmessaging:conversation:read", "webmessaging:conversation:write", "webmessaging:guest:read",
    "webmessaging:guest:send",
})  # fmt: skip


class OAuth:
    """The OAuth client of a sandbox."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def route(self) -> Route:
        return Route("POST", "/oauth/token", "oauth", self._token)

    def check(self, request: ServerRequest, scope: str) -> None:
        """Raise InvalidRequest unless the bearer token is a live access token with this scope."""
        grant = self._service.tokens.live(request.bearer, "oauth")
        if grant is None:
            raise InvalidRequest(401)
        if scope not in grant.facts["scopes"]:
            raise InvalidRequest(403, f"The access token lacks the scope {scope}.", "missing.scope")

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
        given = [form.get(name, [""])[0].encode() for name in ("client_id", "client_secret")]
        genuine = [CLIENT_ID.encode(), CLIENT_SECRET.encode()]
        if not all(map(hmac.compare_digest, given, genuine)):
            return _refusal(401, "invalid_client", "The client id or secret is wrong.")
        scopes = form.get("scope", [""])[0].split()
        if not scopes or not SCOPES.issuperset(scopes):
            return _refusal(400, "invalid_scope", f"Scopes are {', '.join(sorted(SCOPES))}.")
        grant = self._service.tokens.opaque("oauth", life=LIFE, scopes=scopes)
        answer = {
            "access_token": grant.token,
            "token_type": "bearer",
            "expires_in": int(LIFE),
            "scope": " ".join(scopes),
        }
        return ServerReply.json(200, answer, **{"Cache-Control": "no-store"})


def _refusal(status: int, error: str, description: str) -> ServerReply:
    """Return an error reply in the form of RFC 6749 §5.2."""
    return ServerReply.json(status, {"error": error, "error_description": description})
