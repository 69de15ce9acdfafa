"""What the numeric codes in web-messaging frames mean (web-messaging.md §8).

Knows: each documented code, and the failure with its stable code that it stands for. Must not know: frames,
flows, retry policy.
"""

from __future__ import annotations

from collections.abc import Mapping

from guestctl.core.errors import (
    Conflict,
    Failure,
    Forbidden,
    NetworkError,
    RateLimited,
    Refused,
    SessionOver,
    Unauthorised,
)
from guestctl.dialects.refusals import mark_written

#: The name of the API, as failures report it.
NAME = "web-messaging"

#: Both appear in a TooManyRequestsErrorMessage (§12, row 3).
RATE_LIMIT_CODES = frozenset({429, 4029})

FAILURES: Mapping[int, tuple[type[Failure], str]] = {
    401: (Unauthorised, "auth.refused"),
    403: (Forbidden, "forbidden"),
    404: (Refused, "service.not_found"),
    409: (Conflict, "conflict.read_only"),
    429: (RateLimited, "rate.limited"),
    4000: (Forbidden, "forbidden.feature"),
    4001: (Refused, "service.file"),
    4002: (Refused, "service.file"),
    4003: (Refused, "service.file"),
    4004: (Refused, "service.file"),
    4005: (Refused, "service.file"),
    4006: (SessionOver, "session.expired"),
    4007: (SessionOver, "session.gone"),
    4008: (Refused, "service.file"),
    4009: (Refused, "service.file"),
    4010: (Refused, "service.file"),
    4011: (Refused, "service.too_long"),
    4013: (Refused, "service.attributes"),
    4017: (Unauthorised, "auth.downgrade"),
    4020: (Refused, "service.missing"),
    4029: (RateLimited, "rate.limited"),
    4102: (Refused, "service.file"),
    5000: (NetworkError, "service.down"),
}


def service_failure(code: int, text: str, *, retry_after: float | None = None) -> Failure:
    """Return the failure that an error frame with this code and text stands for. `retry_after` is in seconds."""
    kind, stable = _kind_of(code, text)
    failure = kind(
        f"{text} (code {code})", code=stable, api=NAME, service_code=code, retry_after=retry_after, body=text
    )
    return mark_written(failure)


def _kind_of(code: int, text: str) -> tuple[type[Failure], str]:
    if code == 403:
        # One code for three cases; only the documented texts tell them apart (§8, context rule).
        lower = text.lower()
        if lower.startswith(("session authentication failed", "try to authenticate again")):
            return Unauthorised, "auth.refused"
        if "conversation clear" in lower or "feature toggle" in lower:
            return Forbidden, "forbidden.feature"
    if 500 <= code < 600:
        return NetworkError, "service.down"
    return FAILURES.get(code, (Refused, "service.refused"))
