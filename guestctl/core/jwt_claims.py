"""Reads the claims of a token without verifying it; every result states that it is unverified.

Knows: PyJWT's unverified decoding, expiry, which claims a caller requires. Must not know: which API
a token belongs to, where it came from. The claims are for display and timing only (reliability.md §8.9).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import field
from typing import Any, Literal

from guestctl.core.clock import rfc3339
from guestctl.core.errors import Unauthorised, Unreadable
from guestctl.core.model import Credential, Secret
from guestctl.core.redact import Redactor
from guestctl.core.values import Json, immutable
from guestctl.core.wire import LATEST, load_json, number

#: The characters of a bearer token (RFC 6750 §2.1).
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{8,}", re.ASCII)


@immutable
class UnverifiedClaims:
    """The content of a token, unverified. Times are in epoch seconds, None where the token has none."""

    form: Literal["jwt", "opaque"]
    header: dict[str, Json] = field(default_factory=dict)
    claims: dict[str, Json] = field(default_factory=dict)
    issued_at: float | None = None
    expires_at: float | None = None
    problems: tuple[str, ...] = ()

    def record(self, now: float) -> dict[str, Any]:
        """Return the record of `token inspect`; secrets among the claims are masked."""
        left = None if self.expires_at is None else math.floor(self.expires_at - now)
        return {
            "kind": "token",
            "form": self.form,
            "verified": False,
            "header": Redactor().value(self.header),
            "claims": Redactor().value(self.claims),
            "issued_at": None if self.issued_at is None else rfc3339(self.issued_at),
            "expires_at": None if self.expires_at is None else rfc3339(self.expires_at),
            "seconds_left": left,
            "expired": None if left is None else left <= 0,
            "problems": list(self.problems),
        }


def inspect(
    token: Secret, now: float, *, required: Sequence[str] = (), known_expiry: float | None = None
) -> UnverifiedClaims:
    """Read a token without verifying it.

    `required` names claims that must not be empty (other-apis.md, "guests"). `known_expiry` is the expiry
    that the service reported, used for a token without one of its own. Raises Unauthorised `auth.secret` if
    the text is not a token or the JWT is malformed.
    """
    text = token.reveal().strip()
    if text[:7].lower() == "bearer ":
        text = text[7:].strip()
    if not _TOKEN.fullmatch(text):
        raise Unauthorised(
            "not a token: empty, too short, or with characters that a token cannot have", code="auth.secret"
        )
    if "." not in text and not text.startswith("eyJ"):
        if required:
            raise Unauthorised("not a token: expected a JWT with three parts", code="auth.secret")
        return UnverifiedClaims("opaque", expires_at=known_expiry, problems=_expiry_problem(known_expiry, now))
    header, claims = _decoded(text)
    expires_at, issued_at = _moment(claims, "exp"), _moment(claims, "iat")
    if expires_at is None:
        expires_at = known_expiry
    problems = _expiry_problem(expires_at, now)
    if required and expires_at is None:
        problems += ("exp missing",)
    problems += tuple(f"{name.replace('_', ' ')} missing" for name in required if not claims.get(name))
    return UnverifiedClaims("jwt", header, claims, issued_at, expires_at, problems)


def _decoded(text: str) -> tuple[dict[str, Json], dict[str, Json]]:
    import jwt

    parts = text.count(".") + 1
    if parts != 3:
        raise Unauthorised(f"malformed: a JWT has three parts, this one has {parts}", code="auth.secret")
    try:
        whole = jwt.decode_complete(text, options={"verify_signature": False})
        # The library also reads what is not JSON: NaN and numbers without a bound.
        parts_read = load_json(json.dumps([whole["header"], whole["payload"]]), "token")
    except (jwt.PyJWTError, ValueError, RecursionError, Unreadable) as error:
        # The library's own message may quote the token.
        raise Unauthorised(f"malformed: not base64url of JSON ({type(error).__name__})", code="auth.secret") from None
    return parts_read[0], parts_read[1]


def _moment(claims: dict[str, Json], name: str) -> float | None:
    """Return a NumericDate claim, None if it is absent. Raises Unauthorised if it is not a valid time."""
    value = claims.get(name)
    if value is None:
        return None
    found = number(value)
    if found is None or not 0 <= found <= LATEST:
        raise Unauthorised(f"malformed: `{name}` is not a time", code="auth.secret")
    return float(found)


def _expiry_problem(expires_at: float | None, now: float) -> tuple[str, ...]:
    return (f"expired {rfc3339(expires_at)}",) if expires_at is not None and expires_at <= now else ()


def expiry_of(credential: Credential, now: float) -> float | None:
    """Return when a credential expires, in epoch seconds: as the service reported, or else by its own claim."""
    if credential.expires_at is not None:
        return credential.expires_at
    try:
        return inspect(credential.secret, now).expires_at
    except Unauthorised:  # a malformed token has no readable expiry
        return None
