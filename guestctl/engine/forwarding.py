"""Posting the records of a stream to another program's address: `listen --forward-to`.

Knows: the signature, which answers end a delivery, and which are worth another try. Must not know: what a record
contains, sessions, the guest's tokens, the cursor.
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlsplit

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import Failure, NetworkError, RateLimited, Refused, UsageError
from guestctl.core.model import Secret
from guestctl.core.wire import HttpResponse, Request
from guestctl.dialects.refusals import retry_after
from guestctl.engine.retry import RetryPolicy
from guestctl.transport.hosts import is_loopback
from guestctl.transport.http import Http

#: Statuses below 500 that may pass: request timeout, too early.
_PASSING = frozenset({408, 425})


class Forwarder:
    """Posts bodies to one address, one after the other. A body is delivered when the receiver has answered with 2xx.

    `secret` signs each request. `http` must follow no redirect, which `Http` never does.
    """

    def __init__(self, url: str, secret: Secret, http: Http, clock: Clock, policy: RetryPolicy) -> None:
        self._url = url
        self._secret = secret
        self._http = http
        self._clock = clock
        self._policy = policy

    def post(self, body: bytes, deadline: Deadline) -> int:
        """Post a JSON body until the receiver accepts it, and return its 2xx status.

        Raises NetworkError `forward.failed` or RateLimited when all tries failed, and Refused `forward.refused` for an
        answer that a repetition cannot change.
        """
        request = Request("POST", self._url, "forward", content=body, idempotent=True)
        try:
            return self._policy.attempts(request, deadline).run(lambda: self._once(request, body, deadline))
        except (Refused, RateLimited):
            raise
        except NetworkError as failure:
            message = f"the receiver of --forward-to did not accept the record: {failure.message}"
            raise NetworkError(
                message, code="forward.failed", written=failure.written, http_status=failure.http_status
            ) from failure
        except Failure as failure:  # the answer is not HTTP, or the address cannot be requested
            raise Refused(
                f"the receiver of --forward-to gave no usable answer: {failure.message}", code="forward.refused"
            ) from failure

    def _once(self, request: Request, body: bytes, deadline: Deadline) -> int:
        headers = {
            "Content-Type": "application/json",
            "Guestctl-Signature": signature(self._secret, int(self._clock.now()), body),
        }
        reply = self._http.perform(request, headers=headers, deadline=deadline)
        if not reply.ok:
            raise _refusal(reply)
        return reply.status

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def signature(secret: Secret, at: int, body: bytes) -> str:
    """Return the value of `Guestctl-Signature`: the time in epoch seconds, and the HMAC-SHA256 of `TIME.BODY`."""
    signed = hmac.new(secret.reveal().encode(), f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v1={signed.hexdigest()}"


def check_address(option: str, url: str) -> None:
    """Raise UsageError unless the address is https, or http on this machine, without a user name in it."""
    hint = "give an address such as https://hooks.example/guest or http://127.0.0.1:8000/guest"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{option}: not an address", hint=hint) from error
    if parts.scheme not in {"http", "https"} or not host:
        raise UsageError(f"{option}: not an http or https address", hint=hint)
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"{option}: the address contains a user name", hint="GUESTCTL_FORWARD_SECRET signs each request"
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise UsageError(f"{option}: {host} has no TLS: anyone on the network path could read the messages", hint=hint)


def _refusal(reply: HttpResponse) -> Failure:
    """Return the failure that an answer other than 2xx stands for."""
    text = f"HTTP {reply.status}"
    if reply.status == 429:
        message = f"the receiver of --forward-to did not accept the record: {text}"
        return RateLimited(message, http_status=reply.status, retry_after=retry_after(reply))
    if reply.status >= 500 or reply.status in _PASSING:
        return NetworkError(text, written=True, http_status=reply.status, retry_after=retry_after(reply))
    reason = f"{text}; redirects are not followed" if 300 <= reply.status < 400 else text
    return Refused(
        f"the receiver of --forward-to refused the record: {reason}", code="forward.refused", http_status=reply.status
    )
