"""Guest sign-in of web-messaging: exchange, refresh, revoke.

Knows: §7.2 of web-messaging.md, and the identity provider that it replaces. It accepts every code except `bad`; the
part before the first colon is the person. Must not know: sockets, frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from guestctl.sandbox.apis.web_messaging.frames import FEATURE_OFF
from guestctl.sandbox.interfaces import RequestRefused, Route, ServerReply, ServerRequest, error
from guestctl.sandbox.issued_tokens import Grant
from guestctl.sandbox.service_state import Conversation, Service

SIGN_IN_LIFE = 900.0
REFRESH_LIFE = 86_400.0
_STRINGS = ("code", "redirectUri", "codeVerifier", "idToken", "nonce", "iss")


class SignInService:
    """The sign-in endpoints. `signed_in` returns the sessions of a grant, `log_out` closes the sockets of one."""

    def __init__(
        self,
        service: Service,
        signed_in: Callable[[Grant], Iterable[Conversation]],
        log_out: Callable[[Conversation], None],
    ) -> None:
        self._service = service
        self._signed_in = signed_in
        self._log_out = log_out

    def routes(self) -> Sequence[Route]:
        token = "/api/v2/webdeployments/token"
        return (
            Route("POST", token + "/oauthcodegrantjwtexchange", "sign-in", self._exchange),
            Route("POST", token + "/refresh", "refresh", self._refresh),
            Route("DELETE", token + "/revoke", "sign-in", self._revoke),
        )

    def _exchange(self, request: ServerRequest) -> ServerReply:
        body = _json(request)
        oauth = body.get("oauth")
        deployment = self._service.deployments.get(str(body.get("deploymentId", "")))
        if deployment is None:
            return error(404, "The deployment was not found.", "deployment.not.found")
        if not deployment.allows(request.origin):
            return error(403, "The origin is not allowed by the deployment.", "origin.not.allowed")
        if not deployment.sign_in:
            return error(403, FEATURE_OFF, "feature.toggle.disabled")
        if not isinstance(oauth, dict):
            return error(400, "oauth is missing.", "required.fields.missing")
        wrong = [name for name in _STRINGS if not isinstance(oauth.get(name, ""), str)]
        if wrong:
            return error(400, f"oauth.{wrong[0]} is not a string.")
        code, implicit = oauth.get("code"), oauth.get("idToken")
        if (code is None) == (implicit is None) or (code is not None and not oauth.get("redirectUri")):
            return error(400, "oauth needs code and redirectUri, or idToken.", "required.fields.missing")
        proof = str(code if code is not None else implicit)
        if proof in ("", "bad"):
            return error(401, "The identity provider refused the code.", "bad.credentials")
        person = {"person": proof.partition(":")[0], "login": self._service.new_id(), "deployment": deployment.id}
        answer = {"jwt": self._sign_in_jwt(person).token}
        if code is not None:
            answer["refreshToken"] = self._service.tokens.opaque("sign-in-refresh", life=REFRESH_LIFE, **person).token
        return ServerReply.json(200, answer)

    def _sign_in_jwt(self, person: Mapping[str, str]) -> Grant:
        claims = {"sub": person["person"], "deploymentId": person["deployment"]}
        tokens = self._service.tokens
        return tokens.jwt("sign-in", life=tokens.life(SIGN_IN_LIFE), claims=claims, **person)

    def _refresh(self, request: ServerRequest) -> ServerReply:
        token = _json(request).get("refreshToken")
        grant = self._service.tokens.live(token if isinstance(token, str) else None, "sign-in-refresh")
        if grant is None:
            return error(401)
        request.conversation = next((c for c in self._signed_in(grant)), None)
        return ServerReply.json(200, {"jwt": self._sign_in_jwt(grant.facts).token})

    def _revoke(self, request: ServerRequest) -> ServerReply:
        grant = self._service.tokens.live(request.bearer, "sign-in")
        if grant is None:
            return error(401)
        for conversation in self._signed_in(grant):
            request.conversation = conversation
            self._log_out(conversation)
        self._service.tokens.revoke_login(grant.facts["login"])
        return ServerReply(204)


def _json(request: ServerRequest) -> Mapping[str, Any]:
    try:
        body = request.json()
    except ValueError:
        raise RequestRefused(error(400, "The body is not JSON.")) from None
    if not isinstance(body, dict):
        raise RequestRefused(error(400, "The body is not a JSON object."))
    return body
