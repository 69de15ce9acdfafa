"""Tokens in the service's answers, their expiry, and the OAuth client credentials grant.

Knows: the ways in which an answer states a token's expiry, and the form of `POST /oauth/token` (other-apis.md,
`guests`). Must not know: a particular API, when to renew, the current time.
"""

from __future__ import annotations

from collections.abc import Mapping

from guestctl.core.errors import Unauthorised, Unreadable, UsageError
from guestctl.core.model import Credential, Profile, Secret
from guestctl.core.values import Json
from guestctl.core.wire import HttpResponse, Request, identifier, number, required
from guestctl.dialects.flows import Flow, http_request
from guestctl.dialects.refusals import http_date

#: Longest plausible lifetime of a token in seconds (a century). A longer one is a mistake.
_LONGEST = 100 * 366 * 86_400.0
#: Seconds by which a correct clock may differ from an answer's `Date`: one for rounding, one for the transfer.
_AGREES = 2.0


def guest_token(reply: HttpResponse, member: str) -> Credential:
    """Return the guest's token in an answer. Raises Unreadable if there is none."""
    body = reply.object()
    secret = Secret(identifier(body, member, "token"))
    until = expiry(body, secret, reply)
    return Credential("guest", secret, until, life=None if until is None else until - reply.at)


def expiry(body: Mapping[str, Json], token: Secret, reply: HttpResponse) -> float | None:
    """Return when the token in an answer expires, in epoch seconds of our own clock, or None if nothing states it.

    An answer states it as `expiresIn` (seconds), as `expiresAt` (RFC 3339) or in the token's own `exp`; the first one
    present counts. `expiresAt` and `exp` follow the service's clock, and ours may be wrong (reliability.md A16).
    Their distance from `iat` or from the answer's `Date` therefore counts. A token that has expired on arrival is
    the sign of a wrong clock and has no known expiry. Neither has one that would be valid for more than a century.
    """
    lasts = number(body.get("expiresIn"))
    if lasts is not None and 0 < lasts < _LONGEST:
        return reply.at + lasts
    until, issued = _span(body.get("expiresAt"), token, reply.at)
    if until is None:
        return None
    if issued is None:
        date = http_date(reply.headers.get("date", ""))
        # A Date is of whole seconds: as long as ours agrees with it, ours is the more exact.
        issued = date if date is not None and abs(date - reply.at) > _AGREES else None
    left = until - (reply.at if issued is None else issued)
    return reply.at + left if 0 < left < _LONGEST else None


def _span(until: Json, token: Secret, now: float) -> tuple[float | None, float | None]:
    """Return the time of expiry, and the time of issue if the token contains both."""
    if isinstance(until, str):
        from guestctl.core.clock import epoch_of

        try:
            return epoch_of(until), None
        except (ValueError, OverflowError):
            return None, None
    if token.reveal().count(".") != 2:
        return None, None
    from guestctl.core.jwt_claims import inspect

    try:
        claims = inspect(token, now)
    except Unauthorised:
        # A token need not be a JWT. Only the service can judge its tokens.
        return None, None
    return claims.expires_at, claims.issued_at


def client_credentials(profile: Profile, url: str, scope: str) -> Flow[Credential]:
    """Exchange the profile's OAuth client for an access token. Raises UsageError if the profile has no client."""
    if not profile.client_id or not profile.client_secret:
        missing = "client_secret" if profile.client_id else "client_id"
        raise UsageError(f'profile "{profile.name}": the {profile.api} API needs "oauth.{missing}"', code="config.key")
    form = {
        "grant_type": "client_credentials",
        "client_id": profile.client_id,
        "client_secret": profile.client_secret.reveal(),
        "scope": scope,
    }
    reply = yield from http_request(Request("POST", url, "oauth", form=form, idempotent=True))
    body = reply.object()
    lasts = required(body, "expires_in", (int, float), "OAuth answer")
    if not 0 < lasts < _LONGEST:
        raise Unreadable("OAuth answer: `expires_in` is not a duration")
    return Credential("oauth", Secret(identifier(body, "access_token", "OAuth answer")), reply.at + lasts, life=lasts)
