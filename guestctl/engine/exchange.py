"""`SessionEngine`: performs a dialect's flows for one session, over HTTP and on the session's socket.

Knows: the order of steps around one request: reserve a place in the rate limit, authorise, send, renew the token
once after a 401, retry, all under one deadline. Must not know: any dialect's wire, what an answer means, how
`listen` reconnects, what becomes of a message.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from math import ceil
from random import Random
from typing import Any, TypeVar

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import (
    Failure,
    NetworkError,
    RateLimited,
    Refused,
    SessionOver,
    TimedOut,
    Unreadable,
    Unsupported,
)
from guestctl.core.model import (
    Credential,
    Position,
    Session,
)
from guestctl.core.timings import Timings
from guestctl.core.wire import HttpResponse, Request, check_outgoing
from guestctl.dialects.base import Dialect, HistoryPage, history_from_start
from guestctl.dialects.capabilities import Rate
from guestctl.dialects.flows import Flow, FrameRequest, HttpRequest, Incoming, Rejection
from guestctl.engine.credentials import Credentials
from guestctl.engine.page_tokens import PageTokens
from guestctl.engine.retry import DEFAULT_RETRY_AFTER, LIMIT_RETRIES, RetryPolicy, jittered
from guestctl.engine.session_record import StoredSession
from guestctl.engine.session_socket import SessionSocket
from guestctl.storage.state import State
from guestctl.transport.connector import Connector

T = TypeVar("T")

#: The connects of all processes under one profile: five at once, and never more than 20 reconnects in a minute.
CONNECTS = Rate(15, 60.0, burst=5)
#: A wait for the rate limit that is at least this long is reported to the observer: seconds, also between two reports.
QUEUE_SHOWN = 1.0


def key_of(request: Request) -> str:
    """Return a digest that identifies a request for history. The credential is not part of it."""
    parts = [request.method, request.url, dict(request.query), request.json]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class SessionEngine:
    """Performs flows for one session, and keeps `session` current and stored.

    `scope` is the profile, API and addresses the session belongs to. `notice` receives one line of text for the user
    at each retry. `socket` is the attached socket, or None; `open_socket` opens one when a flow needs it, and is
    None for an API without sockets. `progress` is called with (bytes done, bytes in all) while a body is sent.
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
        self.record = StoredSession(session, dialect, state, scope, clock)
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
        self.socket: SessionSocket | None = None
        self.open_socket: Callable[[Deadline], SessionSocket] | None = None
        #: Whether a new socket records what it receives for the other listeners of the session (`shared_socket`).
        self.records_frames = False
        #: Whether a place in the budget of connects was reserved, and not used yet.
        self._connect_reserved = False
        self.progress: Callable[[int, int], None] | None = None
        #: When (monotonic) the current reading of history stops waiting for missing messages; None: not waiting yet.
        self._patient_until: float | None = None
        #: How many pages the current reading of history has requested.
        self._pages_read = 0
        #: The highest message number that was waited for in vain.
        self._given_up = 0
        #: Where the last pages of history begin (only if the dialect `pages_by_token`).
        self.page_tokens = PageTokens()
        #: Seconds between two requests for history of one reading, and when (monotonic) the last one was made.
        self._page_pause = 0.0
        self._page_read_at: float | None = None
        #: The answers of another listener that a reading of history uses, by the `key_of` their requests; and where
        #: to record the answers to our own (`shared_history`).
        self.answer_to: Callable[[str], HttpResponse] | None = None
        self.recorded_answers: list[tuple[str, HttpResponse]] | None = None

    @property
    def session(self) -> Session:
        """The session as this process knows it now."""
        return self.record.session

    @session.setter
    def session(self, session: Session) -> None:
        self.record.session = session

    def report(self, kind: str, **data: object) -> None:
        """Report an event to the observer, if there is one."""
        if self.connector.observer is not None:
            self.connector.observer(kind, data)

    # --- flows ---

    def perform(self, flow: Flow[T], deadline: Deadline, *, socket: SessionSocket | None = None) -> T:
        """Run a flow and return its result. Its frames go over `socket`, by default over the session's own.

        Raises the flow's failure; if that implies a new state of the session, the state is stored first.
        """
        answer: Any = None
        try:
            step = next(flow)
            while True:
                try:
                    answer = self._step(step, deadline, socket)
                except Failure as failure:
                    step = flow.throw(failure)
                else:
                    step = flow.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        except Failure as failure:
            self.record.note_failure(failure)
            raise

    def _step(self, step: HttpRequest | FrameRequest, deadline: Deadline, socket: SessionSocket | None) -> object:
        if isinstance(step, HttpRequest):
            request = step.request
            check_outgoing(request.url, request.query, request.headers, request.json, request.form)
            return self._history(request, deadline) if request.route == "history" else self.call(request, deadline)
        check_outgoing(step.text)
        if socket is not None:
            return socket.ask(step, deadline)
        return self._ask_on_socket(step, deadline)

    def _ask_on_socket(self, step: FrameRequest, deadline: Deadline) -> Incoming | None:
        """Send a frame on the session's own socket and return the answer; retry it when it is rate limited.

        A frame with a guest message is not retried here: `delivery` decides that. After any other frame, a broken
        socket is dropped, so that the next attempt opens another one.
        """
        limited = 0
        while True:
            socket = self.attached(deadline)
            try:
                answer = socket.ask(step, deadline)
            except NetworkError:
                if not step.message and self.socket is socket:
                    self.socket = None
                    socket.abort()
                raise
            if step.message or not isinstance(answer, Rejection) or not isinstance(answer.failure, RateLimited):
                return answer
            limited += 1
            wait, left = answer.failure.retry_after or DEFAULT_RETRY_AFTER, deadline.remaining()
            if limited > LIMIT_RETRIES or (left is not None and wait > left):
                return answer
            self.retry.report(step.route, wait, answer.failure)
            self.clock.sleep(wait)

    def attached(self, deadline: Deadline) -> SessionSocket:
        """Return the session's socket; open it and join the session on it if needed. Raises Unsupported."""
        if self.socket is None or self.socket.followed:
            if self.open_socket is None:
                raise Unsupported(f"the {self.dialect.name} API has no socket", api=self.dialect.name)
            followed, self.socket = self.socket, self.open_socket(deadline)
            if followed is not None:
                followed.abort()  # its listener goes on with the new socket
        return self.socket

    def attach_again(self, session: Session, socket: SessionSocket, deadline: Deadline) -> Session:
        """Attach the session with other credentials on its open socket, and return it as confirmed."""
        return self.perform(self.dialect.attach(session, traceparent=socket.traceparent), deadline)

    # --- history ---

    def page(
        self,
        after: Position | None,
        cursor: str | None,
        deadline: Deadline,
        *,
        known: int = 0,
        pause: float = 0.0,
    ) -> HistoryPage:
        """Return one page of the session's history (see `Dialect.history`). `pause`: seconds between two requests.

        A page may lack messages that the service has already numbered. It is then read again until they appear,
        for `timings.lag_patience` seconds counted over all pages of one reading (a page without a cursor starts
        one). After that `notice` reports the missing number, and it is not waited for again. Numbers up to `known`
        are not waited for.
        """
        self._page_pause = pause
        if cursor is None:
            self._patient_until = None
            self._pages_read = 0
        page = self._page(after, cursor, deadline)
        while (lacking := page.announced_up_to) is not None and lacking > max(known, self._given_up):
            now, left = self.clock.monotonic(), deadline.remaining()
            if self._patient_until is None:
                self._patient_until = now + self.timings.lag_patience
            if now >= self._patient_until or (left is not None and left <= self.timings.lag_pause):
                self._give_up(lacking)
                break
            self.clock.sleep(self.timings.lag_pause)
            try:
                page = self._page(after, cursor, deadline)
            except (NetworkError, TimedOut):
                if not deadline.expired:
                    raise
                # The time is over in the middle of one more look: what was read before still holds.
                self._give_up(lacking)
                break
        return page

    def _give_up(self, number: int) -> None:
        """Report that history lacks messages up to this number, and wait for them no more."""
        self._given_up = number
        self.notice(f"history is incomplete: the service has numbered messages up to {number}")

    def _page(self, after: Position | None, cursor: str | None, deadline: Deadline) -> HistoryPage:
        """Request one page. Where the API pages by token, the search for `after` starts at the last pages read."""
        if not self.dialect.pages_by_token:
            limit = self.dialect.page_size
            page = self.perform(self.dialect.history(self.session, after=after, cursor=cursor, limit=limit), deadline)
            self._report_page(page)
            return page
        if after is None or cursor is not None:
            return self.perform(self._request_page(cursor), deadline)
        if self.page_tokens.known:
            try:
                page = self.perform(history_from_start(self._known_page, after, self.page_tokens.find(after)), deadline)
            except (Refused, SessionOver, Unreadable):
                pass  # the service may not know the token any more
            else:
                if page.anchored:
                    return page
            # Only the whole history can show that the message is gone.
            self.page_tokens.clear()
        return self.perform(history_from_start(self._request_page, after), deadline)

    def _known_page(self, token: str | None) -> Flow[HistoryPage]:
        """Return the page of a token. One that does not change any more is not requested again."""
        return self.page_tokens.whole(token) or (yield from self._request_page(token))

    def _request_page(self, token: str | None) -> Flow[HistoryPage]:
        """Return the page of a token, by default the first one, and remember its place."""
        limit = self.dialect.page_size
        page = yield from self.dialect.history(self.session, after=None, cursor=token, limit=limit)
        self._report_page(page)
        self.page_tokens.note(token, page)
        return page

    def _history(self, request: Request, deadline: Deadline) -> HttpResponse:
        """Return the answer to a request for history: that of another listener, if it is being used, or our own."""
        if self.answer_to is not None:
            return self.answer_to(key_of(request))
        self._space_pages(deadline)
        answer = self.call(request, deadline)
        if self.recorded_answers is not None:
            self.recorded_answers.append((key_of(request), answer))
        return answer

    def _space_pages(self, deadline: Deadline) -> None:
        """Wait until the pause between two requests for history is over."""
        if self._page_pause and self._page_read_at is not None:
            left = self._page_read_at + self._page_pause - self.clock.monotonic()
            if left > 0:
                self.clock.sleep(deadline.bound(left))
        self._page_read_at = self.clock.monotonic()

    def _report_page(self, page: HistoryPage) -> None:
        """Report a page to the observer: its number in this reading, its entries, whether another one follows."""
        self._pages_read += 1
        if self.connector.observer is not None and self.answer_to is None:
            self.connector.observer(
                "page",
                {
                    "number": self._pages_read,
                    "size": len(page.items),
                    "more": page.next is not None,
                    "by_token": self.dialect.pages_by_token,
                },
            )

    # --- requests ---

    def call(self, request: Request, deadline: Deadline) -> HttpResponse:
        """Perform one request, retried while that can help. Raises the service's refusal or the network failure."""
        attempts = self.retry.attempts(request, deadline)
        try:
            return attempts.run(lambda: self._authorised(request, deadline))
        except Failure as failure:
            # A token refresh inside another request has used its own retries; that request must not multiply them.
            failure.after_retries(doubtful=attempts.doubtful)
            raise

    def _authorised(self, request: Request, deadline: Deadline) -> HttpResponse:
        kind = request.credential
        try:
            credential = self.credentials.get(kind, deadline) if kind else None
        except Failure as failure:
            # The request itself was never written.
            if isinstance(failure, NetworkError):
                failure.written = False
            if request.route == "send":
                failure.with_outcome("not_sent")
            raise
        reply = self._send(request, credential, deadline)
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
                if kind == "guest":
                    self.record.note_token(refused=True)
                raise refusal from None
            except NetworkError as failure:
                failure.written = False  # the service refused the only copy it received
                raise
            backoff = self.dialect.renewal_backoff
            if backoff is not None and kind == "guest":
                self.clock.sleep(deadline.bound(jittered(self.random, 0, base=backoff.base, cap=backoff.cap)))
            reply = self._send(request, credential, deadline)
        if kind == "guest" and (reply.ok or reply.status == 401):
            self.record.note_token(refused=not reply.ok)
        if reply.ok:
            return reply
        raise self.dialect.refusal(request, reply)

    def _send(self, request: Request, credential: Credential | None, deadline: Deadline) -> HttpResponse:
        self._wait_for_request_budget(deadline)
        headers = dict(request.headers)
        if credential is not None:
            headers["Authorization"] = f"Bearer {credential.secret.reveal()}"
        headers |= self.trace_headers()
        return self.connector.http.perform(request, headers=headers, deadline=deadline, progress=self.progress)

    def trace_headers(self) -> dict[str, str]:
        """Return the headers with the trace context of the next request, or of the next socket."""
        return self.connector.trace_headers(self.session.trace_context)

    # --- rate limits ---

    def _wait_for_request_budget(self, deadline: Deadline) -> None:
        """Wait until the profile may make another request, where the API declares a limit."""
        rate = self.dialect.request_rate
        if rate is not None and self.dialect.profile.paced:
            self._take(f"{self.scope}/requests", rate, deadline)

    def wait_to_send(self, deadline: Deadline, *, reserve: float = 0.0) -> None:
        """Wait until the session may send another message, where the API declares a limit.

        Raises RateLimited at once if less than `reserve` seconds would be left of the deadline after the wait: a
        message that is written with no time to wait for its echo would end in doubt.
        """
        rate = self.dialect.send_rate
        if rate is not None and self.dialect.profile.paced:
            self._take(f"{self.record.owner}/sends", rate, deadline, reserve)

    def connect_turn(self) -> float:
        """Reserve the next reconnect that all processes of the profile share, and return the seconds to wait for it.

        A reserved one that was not used yet is used first.
        """
        if not self._paces_connects or self._connect_reserved:
            return 0.0
        self._connect_reserved = True
        return self._take_connect(within=None)

    def count_connect(self) -> None:
        """Count a connect that is made now, unless a place was reserved for it: reconnects leave room for it.

        The first connect of a command does not wait, and nothing is counted when the budget is used up.
        """
        reserved, self._connect_reserved = self._connect_reserved, False
        if self._paces_connects and not reserved:
            self._take_connect(within=0.0)

    @property
    def _paces_connects(self) -> bool:
        return self.dialect.has_socket and self.dialect.profile.paced

    def _take_connect(self, *, within: float | None) -> float:
        bucket, rate = f"{self.scope}/reconnects", CONNECTS
        return self.state.budgets.take(bucket, rate.count, rate.period, burst=rate.burst, within=within)

    def wait_for_budget(self, name: str, rate: Rate, deadline: Deadline) -> None:
        """Wait for a token of one of the session's budgets.

        Raises RateLimited at once when none becomes free before the deadline.
        """
        self._take(f"{self.record.owner}/{name}", rate, deadline)

    def _take(self, budget: str, rate: Rate, deadline: Deadline, reserve: float = 0.0) -> None:
        """Take a token of a budget that all processes share, and wait in the queue until it may be used."""
        count, period, left = rate.count, rate.period, deadline.remaining()
        within = None if left is None else max(0.0, left - reserve)
        wait = self.state.budgets.take(budget, count, period, burst=rate.burst, within=within)
        if within is not None and wait > within:
            raise RateLimited(
                f"the limit of {count} in {period:g} s leaves no room before the deadline",
                api=self.dialect.name,
                retry_after=round(wait, 3),
            )
        if wait > 0:
            try:
                self._queue(wait, rate)
            except BaseException:
                with suppress(Failure):
                    self.state.budgets.give_back(budget, count, period)
                raise

    def _queue(self, wait: float, rate: Rate) -> None:
        """Wait for a reserved token. The observer learns every second how long, and how many are before this one."""
        observer, until = self.connector.observer, self.clock.monotonic() + wait
        if observer is None or wait < QUEUE_SHOWN:
            self.clock.sleep(wait)
            return
        limit = {"count": rate.count, "period": rate.period}
        left, begun = wait, True
        try:
            while left > 0:
                ahead = ceil(left * rate.count / rate.period) - 1
                observer("limit", {**limit, "begun": begun, "left": round(left, 3), "ahead": ahead})
                self.clock.sleep(min(left, QUEUE_SHOWN))
                left, begun = until - self.clock.monotonic(), False
        finally:
            observer("limit", {**limit, "begun": False, "left": 0.0, "ahead": 0})
