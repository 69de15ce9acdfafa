"""Performing a dialect's flows: requests, turns, credentials, and when to try again.

Knows: the order of things around one exchange: authorise, ask, on 401 renew once, on 429 wait as
told, on a passing fault try again, all under one deadline. Must not know: any dialect's wire, what
an answer means, listening, sending policy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import (
    Failure,
    NetworkError,
    RateLimited,
    SessionOver,
    TimedOut,
    Unauthorised,
    Unsupported,
    UsageError,
)
from guestctl.core.model import (
    Credential,
    CredentialKind,
    Position,
    Profile,
    Secret,
    Session,
)
from guestctl.core.timings import Timings
from guestctl.core.wire import HttpResponse, Request
from guestctl.dialects.base import Dialect, HistoryPage
from guestctl.dialects.flows import Flow, FrameRequest, HttpRequest, Incoming, Rejection
from guestctl.engine.retry import LIMIT_RETRIES, RetryPolicy, jittered
from guestctl.engine.session_record import SessionRecord
from guestctl.engine.session_socket import SessionSocket
from guestctl.storage.state import State, owner_of
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
        self.line: SessionSocket | None = None
        self.open_line: Callable[[Deadline], SessionSocket] | None = None
        #: Called with (bytes done, bytes in all) while a body is sent.
        self.progress: Callable[[int, int], None] | None = None
        #: Kinds being renewed: a renewal that is itself authorised by the old token must not renew it first.
        self._renewing: set[CredentialKind] = set()
        #: How often the service was asked for a new one.
        self._renewals = 0
        self._oauth: Credential | None = None
        #: When (monotonic) a new token was had with which no socket has been opened yet.
        self.in_vain_since: float | None = None
        #: When a renewal ahead of time may be tried again, in monotonic seconds.
        self._ahead_at: dict[CredentialKind, float] = {}
        #: Until when (monotonic) the current reading of history waits for missing messages; None: it has not waited.
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
            credential = self.credential(kind, deadline) if kind else None
        except Failure as failure:
            # Of this request, nothing has left.
            if isinstance(failure, NetworkError):
                failure.written = False
            if request.route == "send":
                failure.delivery = "not_sent"
            raise
        reply = self._ask(request, credential, deadline)
        asked = self._renewals
        # One new token is asked for. What another process has been given is tried first, and may be dead, too.
        while reply.status == 401 and kind and credential and kind not in self._renewing and self._renewals == asked:
            refusal = self.dialect.refusal(request, reply)
            try:
                credential = self.replacement(kind, deadline, stale=credential)
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
        self._book(f"{owner_of(self.scope, self.session)}/{budget}", count, period, deadline)

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

    # --- credentials ---

    def credential(self, kind: CredentialKind, deadline: Deadline) -> Credential | None:
        """A credential that is good now, renewed ahead of its expiry. While one is being renewed, the old
        one (or none) authorises that. Raises SessionOver when the session's token was never written
        down (`store_tokens: memory`) and this API gives no other."""
        held = self._held(kind)
        margin = self.dialect.renewal_margins.get(kind, 0.0)
        renewing = kind in self._renewing
        if held is None and kind == "guest" and (renewing or self.dialect.refreshable(self.session) != "guest"):
            raise not_stored(self.session)
        if renewing or (held is not None and held.fresh_at(self.clock.now(), margin)):
            return held
        try:
            if held is not None and held.fresh_at(self.clock.now(), 0.0):
                renewed = self.ahead(kind, deadline, held)
                if renewed is not None or held.fresh_at(self.clock.now(), 0.0):
                    return renewed or held
            return self.replacement(kind, deadline, stale=held)
        except Unsupported:
            # An API without refresh: let the service say what it thinks of the old one.
            return held

    def _held(self, kind: CredentialKind) -> Credential | None:
        if kind == "oauth":
            return self._oauth or self.state.get_credential(self._oauth_scope, "oauth")
        return self.session.credential(kind)

    def ahead(self, kind: CredentialKind, deadline: Deadline, held: Credential) -> Credential | None:
        """`held` renewed before its time, where that is soon done. None: go on with it, and ask again later.

        Nothing waits for another process here, and little for the service: what is still good will do.
        Raises what ends a renewal for good, once the old one has expired too.
        """
        if self.clock.monotonic() < self._ahead_at.get(kind, 0.0):
            return None
        left = deadline.remaining()
        limit = self.timings.early_renewal
        within = deadline.sooner(limit if left is None else min(limit, left * self.timings.early_renewal_share))
        try:
            return self.renew(kind, within, stale=held, wait=False)
        except (UsageError, Unsupported):
            raise
        except Failure as failure:
            passing = isinstance(failure, (NetworkError, TimedOut, RateLimited))
            if not passing and not held.fresh_at(self.clock.now(), 0.0):
                raise
            if failure.code != "timeout.busy":
                self.notice(f"the {kind} token could not be renewed yet: {failure.message}")
                self._ahead_at[kind] = self.clock.monotonic() + self.timings.early_renewal_pause
            return None

    def replacement(self, kind: CredentialKind, deadline: Deadline, *, stale: Credential | None) -> Credential:
        """As `renew`, for something that waits for it: in half of the time left, since without the other
        half a new token would be of no use, and so that whoever waits for us gets a try too."""
        left = deadline.remaining()
        return self.renew(kind, deadline.sooner(self.timings.renewal if left is None else left / 2), stale=stale)

    def worth_renewing(self, kind: CredentialKind, stale: Credential | None) -> bool:
        """Whether another token may open a socket where this one did not: one that another process was given
        may, and one asked for now, unless the last one asked for did not help either and that is not long ago."""
        since = self.in_vain_since
        if since is None or self.clock.monotonic() - since >= self.timings.early_renewal_pause:
            return True
        found, _ = self._stored(kind)
        return found is not None and found != stale

    def renew(
        self, kind: CredentialKind, deadline: Deadline, *, stale: Credential | None, wait: bool = True
    ) -> Credential:
        """A credential other than `stale`. One process asks the service; the others take its result.

        Raises NetworkError when another one asks and has no answer by the deadline; without `wait`,
        TimedOut `timeout.busy` at once.
        """
        owner = self.scope if kind == "oauth" else owner_of(self.scope, self.session)
        with ExitStack() as held:
            try:
                turn = self.state.lock(f"renew {kind}", deadline if wait else deadline.sooner(0.0), owner=owner)
                held.enter_context(turn)
            except TimedOut as busy:
                if not wait:
                    raise
                failure = NetworkError(
                    f"another guestctl process asks for a new {kind} token and has had no answer yet",
                    api=self.dialect.name,
                )
                failure.retried = True  # this was the wait
                raise failure from busy
            found, used = self._stored(kind)
            if found is not None and found != stale and found.fresh_at(self.clock.now(), 0.0):
                if kind == "oauth":
                    self._oauth = found
                else:
                    self.session = replace(self.session.having(found), used_token=used)
                return found
            self._renewing.add(kind)
            self._renewals += 1
            try:
                if kind == "oauth":
                    return self._grant(deadline)
                if kind == "history":
                    self.attached(deadline)  # it is asked for there; what opening it tells of the session stands
                self.record.store(self.perform(self.dialect.obtain(kind, self.session), deadline))
            finally:
                self._renewing.discard(kind)
        renewed = self.session.credential(kind)
        if renewed is None:
            raise Unauthorised(f"the service gave no new {kind} token", api=self.dialect.name)
        if kind == self.dialect.refreshable(self.session):
            self.record.log("token_refreshed", kind=kind)
        return renewed

    @property
    def _oauth_scope(self) -> str:
        return oauth_scope(self.scope, self.dialect.profile)

    def _grant(self, deadline: Deadline) -> Credential:
        """The profile's OAuth client, exchanged; shared by every session of the scope."""
        self._oauth = self.perform(self.dialect.oauth(), deadline)
        if self.dialect.profile.store_tokens != "memory":
            self.state.put_credential(self._oauth_scope, self._oauth)
        return self._oauth

    def _stored(self, kind: CredentialKind) -> tuple[Credential | None, str | None]:
        """As another process may have left it; and which token it opened a socket with."""
        if kind == "oauth":
            return self.state.get_credential(self._oauth_scope, "oauth"), None
        stored = self.state.find(self.scope, self.session)
        if stored is None:
            return None, self.session.used_token
        held = stored.credential(kind)
        if held is not None and stored.ids != self.session.ids:
            self.session = stored
        return held, stored.used_token

    def secrets(self) -> Iterator[Secret]:
        """All that authorises here, stored or not, for whoever must keep it from being shown."""
        for credential in (*self.session.credentials.values(), self._oauth):
            if credential is not None:
                yield credential.secret
                if credential.refresh is not None:
                    yield credential.refresh


def oauth_scope(scope: str, profile: Profile) -> str:
    """Under what the grant of a profile's OAuth client is stored: with another client it is another grant."""
    client = [profile.client_id or "", profile.client_secret.reveal() if profile.client_secret else ""]
    return f"{scope}/{hashlib.sha256(json.dumps(client).encode()).hexdigest()[:16]}"


def not_stored(session: Session) -> SessionOver:
    """Why a session without its token is of no use."""
    return SessionOver(
        f"the token of session {session.name!r} was not stored (store_tokens: memory)",
        code="session.no_token",
        api=session.api,
    )
