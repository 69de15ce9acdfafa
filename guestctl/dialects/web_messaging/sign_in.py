"""Authenticated guests (web-messaging.md §7.2): sign in, renew the sign-in, sign out.

Knows: the three token requests. Must not know: the identity provider, when a renewal is due.
"""

from __future__ import annotations

from dataclasses import replace

from guestctl.core.errors import Unauthorised
from guestctl.core.model import Credential, Secret, Session, SignIn
from guestctl.core.wire import Request, optional, required
from guestctl.dialects.base import Dialect
from guestctl.dialects.features import SigningIn
from guestctl.dialects.flows import Flow, http_request
from guestctl.dialects.web_messaging.deployment import origin_headers


class WebSignIn(SigningIn):
    """The token requests of one profile, at the addresses of its dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def sign_in(self, proof: SignIn) -> Flow[Credential]:
        """Exchange the proof for a JWT. The code flow also returns a refresh token; the implicit flow does not."""
        oauth = {
            "code": proof.code and proof.code.reveal(),
            "redirectUri": proof.redirect_uri,
            "codeVerifier": proof.code_verifier and proof.code_verifier.reveal(),
            "idToken": proof.id_token and proof.id_token.reveal(),
            "nonce": proof.nonce,
        }
        response = yield from http_request(
            Request(
                "POST",
                self._url("oauthcodegrantjwtexchange"),
                "sign-in",
                headers=self._headers(),
                json={
                    "deploymentId": self._dialect.need("deployment_id"),
                    "oauth": {name: value for name, value in oauth.items() if value is not None},
                },
            )
        )
        answer = response.object()
        refresh = optional(answer, "refreshToken", str)
        jwt = required(answer, "jwt", str, "sign-in")
        return Credential("sign-in", Secret(jwt), refresh=Secret(refresh) if refresh else None)

    def renew(self, session: Session) -> Flow[Session]:
        """Return the session with a new JWT, which lives 15 minutes at most. The refresh token stays the same.

        Raises Unauthorised if the sign-in has no refresh token.
        """
        credential = session.credential("sign-in")
        if credential is None or credential.refresh is None:
            raise Unauthorised("the sign-in cannot be renewed: it has no refresh token", api=self._dialect.name)
        response = yield from http_request(
            Request(
                "POST",
                self._url("refresh"),
                "refresh",
                headers=self._headers(),
                json={
                    "refreshToken": credential.refresh.reveal(),
                    "deploymentId": self._dialect.need("deployment_id"),
                },
            )
        )
        jwt = required(response.object(), "jwt", str, "token refresh")
        return session.having(replace(credential, secret=Secret(jwt), expires_at=None))

    def sign_out(self, session: Session) -> Flow[Session]:
        yield from http_request(
            Request(
                "DELETE",
                self._url("revoke"),
                "sign-in",
                headers=self._headers(),
                credential="sign-in",
                idempotent=True,
            )
        )
        return replace(session, state="ended").without("sign-in").without("history")

    def _url(self, action: str) -> str:
        return self._dialect.rest(f"/api/v2/webdeployments/token/{action}")

    def _headers(self) -> dict[str, str]:
        return origin_headers(self._dialect.profile)
