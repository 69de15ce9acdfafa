"""What it means when a service says no: statuses, words and close codes, as failures and next moves.

Knows: the rules all families share (other-apis.md, "Shared rules"). Must not know: any family, which says
where it differs by overriding one of these; who tries again, and when.
"""

from __future__ import annotations

import json
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
from guestctl.core.wire import HttpResponse, Request
from guestctl.dialects.capabilities import Capabilities

#: Characters of an answer without a message of its own that are shown.
TEXT_PLAIN_LIMIT = 500

CloseAction: TypeAlias = Literal["done", "reconnect", "renew", "final", "too_big"]
"""What a close code asks of the client. `renew`: refresh the token, then a fresh socket.
`too_big`: our last frame was refused for its size, which rejects that send."""


class Refusals(Capabilities):
    """How one API's refusals read."""

    def on_close(self, code: int) -> CloseAction:
        """What a close code means (other-apis.md, "Shared rules")."""
        if code == 1000:
            return "done"
        if code in {1001, 1005, 1006, 1011, 1012, 1013, 1014}:
            return "reconnect"
        return "renew" if code in {1008, 4001} else "final"

    def on_early_close(self, code: int) -> CloseAction:
        """The same for a close that comes before the service has confirmed our first words. `renew`
        here is tried once: when the new token fares no better, it was not the token."""
        return self.on_close(code)

    def refusal(self, request: Request, reply: HttpResponse) -> Failure:
        """A non-2xx answer as the failure it means, with the service's own words."""
        body = reply.text()[:2000]
        said = self._said(body)
        words = said.get("message") or _plain_words(body) or "no explanation"
        service_code = said.get("code")
        what = f"{request.route}: HTTP {reply.status}: {words}"
        kind, code = self.status_failure(reply.status, service_code, request)
        failure = kind(
            what,
            code=code,
            api=self.name,
            http_status=reply.status,
            service_code=service_code,
            retry_after=retry_after(reply),
            body=body,
        )
        return mark_written(failure)

    def status_failure(
        self, status: int, service_code: str | int | None, request: Request
    ) -> tuple[type[Failure], str]:
        """Failure class and stable code of an HTTP status (other-apis.md, "Shared rules")."""
        if status < 400:
            # A socket's upgrade answered 200 is no refusal: what answers is not this service.
            return Unreadable, "answer.redirect" if status >= 300 else "answer.unreadable"
        if status >= 500:
            return NetworkError, "service.down"
        if status == 401:
            oauth = "oauth" in (request.credential, request.route)
            return Unauthorised, "auth.oauth" if oauth else "auth.refused"
        if status == 403:
            return Forbidden, "forbidden.upgrade" if request.route == "socket" else "forbidden"
        if status == 404:
            nobody = request.route in {"create", "oauth", "configuration", "download"}
            if nobody or (request.route == "socket" and self.shared_socket_address):
                return Refused, "service.not_found"
            return SessionOver, "session.gone"
        if status == 409:
            return Conflict, _CONFLICTS.get(service_code, "conflict")
        if status == 429:
            return RateLimited, "rate.limited"
        return Refused, "service.refused"

    def stream_failure(self, status: int, words: str, *, service_code: str | int | None = None) -> Failure:
        """A refusal in the stream whose code is an HTTP status, as the failure it means."""
        kind, code = self.status_failure(status, service_code, Request("GET", "", "send"))
        what = f"{words} ({status})"
        return mark_written(kind(what, code=code, api=self.name, service_code=service_code or status, body=words))

    @staticmethod
    def _said(body: str) -> dict[str, str]:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return {}
        if not isinstance(value, dict):
            return {}
        said = {
            "message": value.get("message", value.get("error_description")),  # RFC 6749 §5.2 names them so
            "code": value.get("code", value.get("error")),
        }
        return {k: str(v) for k, v in said.items() if isinstance(v, (str, int))}

    def renewal_may_help(self, failure: Failure) -> bool:
        """Whether a refusal in the stream means that the token is spoilt: renew, re-attach, send again.

        Over REST the request itself has been repeated with a new token by then."""
        return self.sends_on_socket and isinstance(failure, Unauthorised)


_CONFLICTS: Mapping[str | int | None, str] = {
    "session.locked": "conflict.locked",
    "session.invalid": "conflict.ended",
}


def mark_written(failure: Failure) -> Failure:
    """What a service said no to had reached it, which of all kinds only `NetworkError` leaves open."""
    if isinstance(failure, NetworkError):
        failure.written = True
    return failure


def _plain_words(body: str) -> str:
    """What a body without a `message` says, in one line; of a page, its title or what stands between its tags."""
    if body.lstrip().startswith("<"):
        title = re.search(r"<(title|message)>([^<]+)", body, re.IGNORECASE)
        body = title[2] if title else re.sub(r"<[^>]*>", " ", body)
    return " ".join(body.split())[:TEXT_PLAIN_LIMIT]


def retry_after(reply: HttpResponse) -> float | None:
    """`Retry-After` in seconds from the reply's arrival: seconds or an HTTP date (RFC 9110 §10.2.3).
    None when absent or malformed; a date in the past is 0."""
    value = reply.headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    moment = http_date(value)
    return None if moment is None else max(0.0, moment - reply.at)


def http_date(value: str) -> float | None:
    """An HTTP date (RFC 9110 §5.6.7) in epoch seconds; None for what is none."""
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
