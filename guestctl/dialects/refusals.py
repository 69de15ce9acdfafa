"""The meaning of refusals: HTTP statuses, error texts and close codes as failures and reactions.

Knows: the rules that all APIs share (other-apis.md, "Shared rules"). Must not know: a particular API (its dialect
overrides what differs), retry policy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

from guestctl.core.errors import (
    Conflict,
    Failure,
    Forbidden,
    NetworkError,
    RateLimited,
    Refused,
    SessionOver,
    Unauthorised,
    Unreadable,
)
from guestctl.core.wire import HttpResponse, Request, duration, load_json
from guestctl.dialects.capabilities import Capabilities

#: Maximum number of characters shown of an answer that has no `message`.
TEXT_PLAIN_LIMIT = 500

CloseAction: TypeAlias = Literal["done", "reconnect", "renew", "final", "too_big"]
"""How the client reacts to a close code.

`renew`: renew the token, then reconnect. `too_big`: the service refused our last frame for its size, so the message
in it is rejected.
"""


class Refusals(Capabilities):
    """The meaning of one API's refusals."""

    def on_close(self, code: int) -> CloseAction:
        """Return the reaction to a close code (other-apis.md, "Shared rules")."""
        if code == 1000:
            return "done"
        if code in {1001, 1005, 1006, 1011, 1012, 1013, 1014}:
            return "reconnect"
        return "renew" if code in {1008, 4001} else "final"

    def on_early_close(self, code: int) -> CloseAction:
        """Return the reaction to a close code that arrives before the service has confirmed the attach.

        The engine performs `renew` once here: if a new token does not help, the token was not the cause.
        """
        return self.on_close(code)

    def refusal(self, request: Request, reply: HttpResponse) -> Failure:
        """Return the failure that a non-2xx response stands for, with the service's own text."""
        body = reply.text()[:2000]
        members = self._error_members(body)
        text = members.get("message") or _plain_text(body) or "no explanation"
        service_code = members.get("code")
        kind, code = self.status_failure(reply.status, service_code, request)
        if kind is Forbidden:
            text = self.with_checked_values(text, request)
        failure = kind(
            f"{request.route}: HTTP {reply.status}: {text}",
            code=code,
            api=self.name,
            http_status=reply.status,
            service_code=service_code,
            retry_after=retry_after(reply),
            body=body,
        )
        return mark_written(failure)

    def with_checked_values(self, text: str, request: Request) -> str:
        """Return the text of a 403 together with what this API checks, and the values that it was given."""
        return text

    def status_failure(
        self, status: int, service_code: str | int | None, request: Request
    ) -> tuple[type[Failure], str]:
        """Return the failure class and stable code of an HTTP status (other-apis.md, "Shared rules")."""
        if status < 400:
            # An upgrade answered with 200 or a redirect is not a refusal: another program is listening there.
            return Unreadable, "answer.redirect" if status >= 300 else "answer.unreadable"
        if status >= 500:
            return NetworkError, "service.down"
        if request.route == "oauth" and service_code in _CLIENT_REFUSALS:
            return Unauthorised, "auth.oauth"
        if status == 401:
            oauth = "oauth" in (request.credential, request.route)
            return Unauthorised, "auth.oauth" if oauth else "auth.refused"
        if status == 403:
            return Forbidden, "forbidden.upgrade" if request.route == "socket" else "forbidden"
        if status == 404:
            no_session = request.route in {"create", "oauth", "configuration", "download"}
            if no_session or (request.route == "socket" and self.shared_socket_address):
                return Refused, "service.not_found"
            return SessionOver, "session.gone"
        if status == 409:
            return Conflict, _CONFLICTS.get(service_code, "conflict")
        if status == 429:
            return RateLimited, "rate.limited"
        return Refused, "service.refused"

    def stream_failure(self, status: int, text: str, *, service_code: str | int | None = None) -> Failure:
        """Return the failure that a refusal on the socket stands for, if its code is an HTTP status."""
        kind, code = self.status_failure(status, service_code, Request("GET", "", "send"))
        shown = service_code or status
        return mark_written(kind(f"{text} ({shown})", code=code, api=self.name, service_code=shown, body=text))

    @staticmethod
    def _error_members(body: str) -> dict[str, str]:
        try:
            value = load_json(body, "refusal")
        except Unreadable:
            return {}
        if not isinstance(value, dict):
            return {}
        members = {
            # The second name is that of RFC 6749 §5.2; the platform's own sign-in uses the third.
            "message": value.get("message", value.get("error_description", value.get("description"))),
            "code": value.get("code", value.get("error")),
        }
        return {k: str(v) for k, v in members.items() if isinstance(v, (str, int)) and not isinstance(v, bool)}

    def renewal_may_help(self, failure: Failure) -> bool:
        """Return whether to renew the token, attach again and repeat the send after this refusal on the socket.

        Over REST, the engine has already repeated the request with a new token.
        """
        return self.sends_on_socket and isinstance(failure, Unauthorised)


#: The errors of RFC 6749 §5.2 about the client and what it may do. Their status may be 400 or 401.
_CLIENT_REFUSALS = frozenset({"invalid_client", "invalid_grant", "invalid_scope", "unauthorized_client"})

_CONFLICTS: Mapping[str | int | None, str] = {
    "session.locked": "conflict.locked",
    "session.invalid": "conflict.ended",
}


def mark_written(failure: Failure) -> Failure:
    """Mark a refusal as written and return it: it proves that the request arrived. Other failures imply that."""
    if isinstance(failure, NetworkError):
        failure.written = True
    return failure


def _plain_text(body: str) -> str:
    """Return a body without `message` as one line; of an HTML page, its title or its text."""
    if body.lstrip().startswith("<"):
        title = re.search(r"<(title|message)>([^<]+)", body, re.IGNORECASE)
        body = title[2] if title else re.sub(r"<[^>]*>", " ", body)
    return " ".join(body.split())[:TEXT_PLAIN_LIMIT]


def retry_after(reply: HttpResponse) -> float | None:
    """Return `Retry-After` in seconds after the arrival of the response (RFC 9110 §10.2.3).

    The header holds seconds or an HTTP date; a date in the past returns 0. None if it is missing or malformed, or asks
    for more than a day.
    """
    value = reply.headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return duration(int(value)) if len(value) <= 9 else None
    moment = http_date(value)
    return None if moment is None else duration(max(0.0, moment - reply.at))


def http_date(value: str) -> float | None:
    """Return an HTTP date (RFC 9110 §5.6.7) in epoch seconds, or None if the value is not one."""
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
