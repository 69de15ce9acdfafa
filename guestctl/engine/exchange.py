"""Performing a dialect's flows: requests, turns, credentials, and when to try again.

Knows: the order of things around one exchange: authorise, ask, on 401 renew once, on 429 wait as
told, on a passing fault try again, all under one deadline. Must not know: any dialect's wire, what
an answer means, listening, sending policy.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import (
    Failure,
    NetworkError,
    RateLimited,
    Unsupported,
)
from guestctl.core.model import (
    Credential,
    Position,
    Session,
)
from guestctl.core.timings import Timings
from guestctl.core.wire import HttpResponse, Request
from guestctl.dialects.base import Dialect, HistoryPage
from guestctl.dialects.flows import Flow, FrameRequest, HttpRequest, Incoming, Rejection
from guestctl.engine.credentials import Credentials
from guestctl.engine.retry import LIMIT_RETRIES, RetryPolicy, jittered
from guestctl.engine.session_record import SessionRecord
from guestctl.engine.session_socket import SessionSocket
from guestctl.storage.state import State
from guestctl.transport.connector import Connector

T = TypeVar("T")


class SessionEngine:
    """Performs flows for one session under one name. Keeps `session` current and stored.

    `line` is the attached socket, when there is one; `open_line` makes one when a turn needs it.
    """

    def __init__(
        self,
        *,
        dialect: Dialect,
        connector: Connector,
        state: State,
        scope: str,
        clock: Clock,
        random: Random,
        notice: Callable[[str], None],
        session: Session,
        timings: Timings | None = None,
    ) -> None:
        self.dialect = dialect
        self.connector = connector
        self.state = state
        self.scope = scope
        self.clock = clock
        self.random = random
        self.notice = notice
        self.timings = timings or Timings()
        self.record = SessionRecord(session, dialect, state, scope, clock)
        self.retry = RetryPolicy(
            dialect,
            clock,
            random,
            notice,
            observer=connector.observer,
            lock_patience=self.timings.lock_patience,
        )
        self.credentials = Credentials(
            self.record,
            clock=clock,
            timings=self.timings,
            notice=notice,
            perform=self.perform,
            attach=self.attached,
        )
        self.line: SessionSocket | None = None
        self.open_line: Callable[[Deadline], SessionSocket] | None = None
        #: Called with (bytes done, bytes in all) while a body is sent.
        self.progress: Callable[[int, int], None] | None = None
        #: When (monotonic) the current reading of history stops waiting for missing messages; None: not waiting yet.
        self._patient_until: float | None = None
        #: The highest message number that was waited for in vain.
        self._given_up = 0

    @property
    def session(self) -> Session:
        """The session as this process knows it now."""
        return self.record.session

    @session.setter
    def session(self, session: Session) -> None:
        self.record.session = session

    # --- flows ---

    def perform(self, flow: Flow[T], deadline: Deadline, *, line: SessionSocket | None = None) -> T:
        """Run a flow to its result. `line` is used for its turns instead of the session's own. A failure that
        says what has become of the session is noted."""
        answer: Any = None
        try:
            step = next(flow)
            while True:
                try:
                    answer = self._step(step, deadline, line)
                except Failure as failure:
                    step = flow.throw(failure)
                else:
                    step = flow.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        except Failure as failure:
            self.record.note_failure(failure)
            raise

    def _step(self, step: HttpRequest | FrameRequest, deadline: Deadline, line: SessionSocket | None) -> object:
        if isinstance(step, HttpRequest):
            return self.call(step.request, deadline)
        if line is not None:
            return line.ask(step, deadline)
        return self._told(step, deadline)

    def _told(self, step: FrameRequest, deadline: Deadline) -> Incoming | None:
        """Said on the session's own socket; again, if nothing but the rate was wrong with it. A message is
        repeated by whoever knows what becomes of messages."""
        limited = 0
        while True:
            heard = self.attached(deadline).ask(step, deadline)
            if step.message or not isinstance(heard, Rejection) or not isinstance(heard.failure, RateLimited):
                return heard
            limited += 1
            wait, left = heard.failure.retry_after or 1.0, deadline.remaining()
            if limited > LIMIT_RETRIES or (left is not None and wait > left):
                return heard
            self.retry.report(step.route, wait, heard.failure)
            self.clock.sleep(wait)

    def attached(self, deadline: Deadline) -> SessionSocket:
        """The session's socket, opened and attached if it is not."""
        if self.line is None:
            if self.open_line is None:
                raise Unsupported(f"the {self.dialect.name} API has no socket", api=self.dialect.name)
            self.line = self.open_line(deadline)
        return self.line

    def page(self, after: Position | None, cursor: str | None, deadline: Deadline, *, known: int = 0) -> HistoryPage:
        """One page of the session's history (see `Dialect.history`).

        One that is short of what the service tells of is read again, all in all for a bounded time from a reading's
        first page (which has no cursor) to its last, unless the number is `known`. What has not come by then is
        told, and not waited for again.
        """
        size = self.dialect.page_size
        if cursor is None:
            self._patient_until = None
        while True:
            page = self.perform(self.dialect.history(self.session, after=after, cursor=cursor, limit=size), deadline)
            if page.announced_up_to is None or page.announced_up_to <= max(known, self._given_up):
                return page
            now, left = self.clock.monotonic(), deadline.remaining()
            if self._patient_until is None:
                self._patient_until = now + self.timings.lag_patience
            if now >= self._patient_until or (left is not None and left <= self.timings.lag_pause):
                self._given_up = page.announced_up_to
                self.notice(
                    f"history does not show all there is yet: the service tells of number {page.announced_up_to}"
                )
                return page
            self.clock.sleep(self.timings.lag_pause)

    # --- requests ---

    def call(self, request: Request, deadline: Deadline) -> HttpResponse:
        """One request, retried where that can help. Raises what the service or the network said."""
        attempts = self.retry.attempts(request, deadline)
        try:
            return attempts.run(lambda: self._authorised(request, deadline))
        except Failure as failure:
            # A refresh inside another request has had its tries: that request does not multiply them.
            failure.retried = True
            failure.doubtful = attempts.doubtful
            raise

    def _authorised(self, request: Request, deadline: Deadline) -> HttpResponse:
        kind = request.credential
        try:
            credential = self.credentials.get(kind, deadline) if kind else None
        except Failure as failure:
            # Of this request, nothing has left.
            if isinstance(failure, NetworkError):
                failure.written = False
            if request.route == "send":
                failure.delivery = "not_sent"
            raise
        reply = self._ask(request, credential, deadline)
        renewals = self.credentials.renewals
        # The service is asked for one new token. A token that another process was given is tried first; it may be
        # refused too, which is why this is a loop.
        while reply.status == 401 and kind and credential and not self.credentials.renewing(kind):
            if self.credentials.renewals != renewals:
                break
            refusal = self.dialect.refusal(request, reply)
            try:
                credential = self.credentials.renew_for_use(kind, deadline, stale=credential)
            except Unsupported:
                raise refusal from None
            except NetworkError as failure:
                failure.written = False  # the service has refused what it got
                raise
            backoff = self.dialect.renewal_backoff
            if backoff is not None and kind == "guest":
                self.clock.sleep(deadline.bound(jittered(self.random, 0, base=backoff.base, cap=backoff.cap)))
            reply = self._ask(request, credential, deadline)
        if reply.ok:
            return reply
        raise self.dialect.refusal(request, reply)

    def _ask(self, request: Request, credential: Credential | None, deadline: Deadline) -> HttpResponse:
        self._pace(deadline)
        headers = dict(request.headers)
        if credential is not None:
            headers["Authorization"] = f"Bearer {credential.secret.reveal()}"
        if self.dialect.traceparent:
            headers["traceparent"] = self.dialect.traceparent
        return self.connector.http.perform(request, headers=headers, deadline=deadline, progress=self.progress)

    def _pace(self, deadline: Deadline) -> None:
        """Take a place in the profile's shared request budget, where the API declares one."""
        rate = self.dialect.request_rate
        if rate is not None:
            self._book(f"{self.scope}/requests", rate.count, rate.period, deadline)

    def wait_for_place(self, budget: str, count: int, period: float, deadline: Deadline) -> None:
        """Book one place of the session's budget of this name. Raises RateLimited when it cannot fit."""
        self._book(f"{self.record.owner}/{budget}", count, period, deadline)

    def _book(self, bucket: str, count: int, period: float, deadline: Deadline) -> None:
        """Book one place of a budget shared by all processes."""
        while True:
            wait = self.state.take(bucket, count, period)
            if wait <= 0:
                return
            left = deadline.remaining()
            if left is not None and wait > left:
                raise RateLimited(
                    f"the limit of {count} in {period:g} s leaves no room before the deadline",
                    api=self.dialect.name,
                    retry_after=round(wait, 3),
                )
            self.clock.sleep(wait)

    def wait_to_send(self, deadline: Deadline) -> None:
        """Take a place in the session's message budget, where the API declares one."""
        rate = self.dialect.send_rate
        if rate is not None:
            self.wait_for_place("sends", rate.count, rate.period, deadline)
