"""The retry policy: which failures are worth another try, and how long to wait before it.

Knows: the failures that may pass, the number of tries for each kind, full jitter, `Retry-After` and the deadline
(reliability.md §2.5, §6.1). Must not know: how a request is sent, tokens, stored sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, TypeVar

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import Conflict, Failure, NetworkError, RateLimited
from guestctl.core.wire import Request
from guestctl.dialects.base import Dialect
from guestctl.dialects.capabilities import Backoff

if TYPE_CHECKING:
    from guestctl.transport.network import Observer

T = TypeVar("T")

#: Tries of one request after failures that may pass, and retries after 429 (other-apis.md, "Shared rules").
TRIES = 4
LIMIT_RETRIES = 3
#: Bounds of the random wait in seconds between two tries of a locked session.
LOCK_WAIT = (0.2, 0.5)
#: Seconds to wait after a 429 without `Retry-After`.
DEFAULT_RETRY_AFTER = 1.0
#: Seconds before the first retry at most; doubled with each further one, up to the profile's cap.
BASE = 0.5


def jittered(random: Random, attempt: int, *, base: float, cap: float) -> float:
    """Return a wait in seconds with full jitter: uniform(0, min(cap, base·2^attempt)). `attempt` counts from 0."""
    return random.uniform(0.0, min(cap, base * 2.0 ** min(attempt, 30)))


@dataclass(repr=False, eq=False)
class RetryPolicy:
    """What the retries of one session share.

    `lock_patience` is how many seconds a session locked by another connection is retried
    (other-apis.md, "guest-sessions"); with 0 the first refusal is final. `notice` receives one line of text for
    the user at each retry, `observer` the same as data.
    """

    dialect: Dialect
    clock: Clock
    random: Random
    notice: Callable[[str], None]
    lock_patience: float
    observer: Observer | None = None

    def attempts(self, request: Request, deadline: Deadline) -> Attempts:
        """Return the tries of one request or socket upgrade, none of them made yet."""
        return Attempts(self, request, deadline)

    def report(self, route: str, wait: float, cause: BaseException | None) -> None:
        """Report to the observer that `route` is tried again in `wait` seconds, and the failure that caused it."""
        if self.observer is not None:
            message = cause.message if isinstance(cause, Failure) else None
            code = cause.code if isinstance(cause, Failure) else None
            self.observer("retry", {"route": route, "wait": round(wait, 3), "why": message, "code": code})


@dataclass(repr=False, eq=False)
class Attempts:
    """The tries of one request or socket upgrade."""

    policy: RetryPolicy
    request: Request
    deadline: Deadline
    #: Failures so far that were answered 429, and those that were network failures.
    limited: int = 0
    failed: int = 0
    #: When (monotonic) the session was first found locked.
    locked_since: float | None = None
    #: A try was written, and its outcome is unknown.
    doubtful: bool = False
    #: The last network failure. A lock that is found after it comes from our own broken connection.
    broken: NetworkError | None = None
    #: The failure that was answered by another try.
    previous: Failure | None = None

    def run(self, once: Callable[[], T]) -> T:
        """Return the result of `once`, called again while that can help.

        Raises the last failure when no retry can help, or when the wait before it does not fit before the deadline.
        """
        while True:
            try:
                return once()
            except Failure as failure:
                if not self.may_retry(failure):
                    raise self._cause(failure) from failure.__cause__
                wait, left = self._wait_after(failure), self.deadline.remaining()
                if left is not None and wait > left:
                    raise self._cause(failure) from failure.__cause__
                self.previous = failure
                self.policy.report(self.request.route, wait, failure)
                self.policy.notice(f"{self.request.route}: trying again in {wait:.1f} s")
            self.policy.clock.sleep(wait)

    def _cause(self, failure: Failure) -> Failure:
        """Return the failure to report.

        Neither the lock that our own broken connection left behind, nor, for a read, a try that the deadline cut off:
        the failure before it says what is wrong with the service.
        """
        if failure.code == "conflict.locked" and self.broken is not None:
            return self.broken
        cut_off = self.request.method == "GET" and isinstance(failure, NetworkError) and self.deadline.expired
        return self.previous if cut_off and self.previous is not None else failure

    @property
    def _backoff(self) -> Backoff | None:
        """The API's own retry schedule for a token refresh; None for every other request."""
        return self.policy.dialect.renewal_backoff if self.request.route == "refresh" else None

    def may_retry(self, failure: Failure) -> bool:
        """Return whether another try may succeed, and note a try whose outcome is unknown."""
        self.doubtful |= isinstance(failure, NetworkError) and failure.written
        if failure.retried:
            return False
        backoff = self._backoff
        if isinstance(failure, RateLimited):
            return self.limited < (LIMIT_RETRIES if backoff is None else backoff.tries - 1)
        if isinstance(failure, Conflict) and failure.code == "conflict.locked":
            patience, since = self.policy.lock_patience, self.locked_since
            if patience <= 0:
                return False
            return since is None or self.policy.clock.monotonic() - since < patience
        if isinstance(failure, NetworkError) and failure.transient:
            tries = TRIES if backoff is None else backoff.tries
            return self.failed < tries - 1 and (self.request.idempotent or not failure.written)
        return False

    def _wait_after(self, failure: Failure) -> float:
        """Return the seconds to wait after this failure, and count it."""
        backoff, asked, random = self._backoff, failure.retry_after, self.policy.random
        if isinstance(failure, RateLimited):
            self.limited += 1
            if backoff is None:
                return DEFAULT_RETRY_AFTER if asked is None else asked
            return max(asked or 0.0, jittered(random, self.limited, base=backoff.base, cap=backoff.cap))
        if isinstance(failure, Conflict):
            if self.locked_since is None:
                self.locked_since = self.policy.clock.monotonic()
            return random.uniform(*LOCK_WAIT)
        self.failed += 1
        self.broken = failure if isinstance(failure, NetworkError) else None
        base, cap = (BASE, self.policy.dialect.profile.retry.cap) if backoff is None else (backoff.base, backoff.cap)
        return max(asked or 0.0, jittered(random, self.failed - 1, base=base, cap=cap))
