"""Tokens as services grant them: how long they last, and the OAuth client credentials grant.

Knows: the ways an answer states a token's end, and the form of `POST /oauth/token` (other-apis.md,
`guests`). Must not know: which family asks, when to renew, what time it is now.
"""

from __future__ import annotations

from collections.abc import Mapping

from guestctl.core.errors import Unauthorised, Unreadable, UsageError
from guestctl.core.model import Credential, Profile, Secret
from guestctl.core.values import Json
from guestctl.core.wire import HttpResponse, Request, required
from guestctl.dialects.flows import Flow, http_request
from guestctl.dialects.refusals import http_date

#: Seconds (a century) beyond which a life is no life but a mistake.
_LONGEST = 100 * 366 * 86_400.0
#: Seconds by which a clock that is right may differ from an answer's `Date`: its own, and those of the way.
_AGREES = 2.0


def guest_token(reply: HttpResponse, member: str) -> Credential:
    """The guest's token in an answer. Raises Unreadable when there is none."""
    body = reply.object()
    secret = Secret(required(body, member, str, "token"))
    until = expiry(body, secret, reply)
    return Credential("guest", secret, until, life=None if until is None else until - reply.at)


def expiry(body: Mapping[str, Json], token: Secret, reply: HttpResponse) -> float | None:
    """When what an answer grants expires, epoch seconds by our own clock: as `expiresIn` (seconds), else
    `expiresAt` (RFC 3339), else the token's own `exp`; None when nothing says it.

    A moment is told by the service's clock, and ours may be wrong (reliability.md A16): what counts is how far
    off it is from `iat` or the answer's `Date`. What would be over already is no expiry, but a wrong clock.
    """
    lasts = body.get("expiresIn")
    if isinstance(lasts, (int, float)) and not isinstance(lasts, bool) and 0 < lasts < _LONGEST:
        return reply.at + lasts
    until, issued = _span(body.get("expiresAt"), token, reply.at)
    if until is None:
        return None
    if issued is None:
        date = http_date(reply.headers.get("date", ""))
        # A Date is of whole seconds: as long as ours agrees with it, ours is the more exact.
        issued = date if date is not None and abs(date - reply.at) > _AGREES else None
    left = until - (reply.at if issued is None else issued)
    return reply.at + left if left > 0 else None


def _span(until: Json, token: Secret, now: float) -> tuple[float | None, float | None]:
    """The moment of expiry, and the one it was granted at where the token tells both."""
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
        # What the service hands out need not be a JWT; it alone judges its tokens.
        return None, None
    return claims.expires_at, claims.issued_at


def client_credentials(profile: Profile, url: str, scope: str) -> Flow[Credential]:
    """The profile's OAuth client, exchanged for an access token. Raises UsageError without a client."""
    if not profile.client_id or not profile.client_secret:
        missing = "client_secret" if profile.client_id else "client_id"
        raise UsageError(
            f"profile {profile.name!r}: `oauth.{missing}` is needed by the {profile.api} API", code="config.key"
        )
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
        raise Unreadable("OAuth answer: `expires_in` is no span of time")
    return Credential(
        "oauth", Secret(required(body, "access_token", str, "OAuth answer")), reply.at + lasts, life=lasts
    )
