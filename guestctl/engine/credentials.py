"""The credentials of one session: which token authorises a request, and when it is renewed.

Knows: expiry margins, early renewal, that only one process asks for a new token and the others take it. Must not
know: how a request is sent or retried, what a token is used for, sockets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

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
from guestctl.core.model import Credential, CredentialKind, Profile, Secret, Session
from guestctl.core.timings import Timings
from guestctl.dialects.base import Dialect
from guestctl.dialects.flows import Flow
from guestctl.engine.session_record import StoredSession
from guestctl.storage.state import State


class Credentials:
    """The tokens of one session and the profile's OAuth grant.

    `perform` runs a flow to its result. `attach` opens the session's socket if it is closed: some tokens are issued
    there. `notice` receives one line of text for the user.
    """

    def __init__(
        self,
        record: StoredSession,
        *,
        clock: Clock,
        timings: Timings,
        notice: Callable[[str], None],
        perform: Callable[[Flow[Any], Deadline], Any],
        attach: Callable[[Deadline], object],
    ) -> None:
        self._record = record
        self._dialect: Dialect = record.dialect
        self._state: State = record.state
        self._clock = clock
        self._timings = timings
        self._notice = notice
        self._perform = perform
        self._attach = attach
        #: How often this process has asked the service for a new token.
        self.renewals = 0
        #: When (monotonic) a token was renewed that no socket has been opened with yet; None: there is none.
        self.unproven_since: float | None = None
        self._oauth: Credential | None = None
        #: Kinds being renewed. A renewal that is authorised by the old token must not renew it first.
        self._renewing: set[CredentialKind] = set()
        #: When (monotonic) an early renewal that failed may be tried again.
        self._early_again_at: dict[CredentialKind, float] = {}

    # --- reading ---

    def get(self, kind: CredentialKind, deadline: Deadline) -> Credential | None:
        """Return a valid credential, renewed before it expires; None when the session has none of this kind.

        While a kind is being renewed, its old credential (or None) authorises the renewal. Raises SessionOver when
        the token was never stored (`store_tokens: memory`) and this API gives no other.
        """
        held = self._held(kind)
        margin = self._dialect.renewal_margins.get(kind, 0.0)
        renewing = self.renewing(kind)
        if (
            held is None
            and kind == "guest"
            and (renewing or self._dialect.refreshable(self._record.session) != "guest")
        ):
            raise not_stored(self._record.session)
        if renewing or (held is not None and held.fresh_at(self._clock.now(), margin)):
            return held
        try:
            if held is not None and held.fresh_at(self._clock.now(), 0.0):
                renewed = self.renew_early(kind, deadline, held)
                if renewed is not None or held.fresh_at(self._clock.now(), 0.0):
                    return renewed or held
            return self.renew_for_use(kind, deadline, stale=held)
        except Unsupported:
            # This API has no refresh: the service decides whether the old credential is still good.
            return held

    def secrets(self) -> Iterator[Secret]:
        """Yield every token held here, stored or not, so that the caller can redact them."""
        for credential in (*self._record.session.credentials.values(), self._oauth):
            if credential is not None:
                yield credential.secret
                if credential.refresh is not None:
                    yield credential.refresh

    def renewing(self, kind: CredentialKind) -> bool:
        """Return whether a credential of this kind is being renewed right now."""
        return kind in self._renewing

    def _held(self, kind: CredentialKind) -> Credential | None:
        if kind == "oauth":
            return self._oauth or self._state.get_credential(self._oauth_scope, "oauth")
        return self._record.session.credential(kind)

    # --- renewing ---

    def renew_early(self, kind: CredentialKind, deadline: Deadline, held: Credential) -> Credential | None:
        """Renew `held` while it is still valid; None when that did not succeed soon enough.

        This never waits for another process, and only briefly for the service, because `held` still works. After
        a failure the next attempt is put off. Raises the failure that ends renewals, once `held` has expired too.
        """
        if self._clock.monotonic() < self._early_again_at.get(kind, 0.0):
            return None
        left, limit = deadline.remaining(), self._timings.early_renewal
        within = deadline.sooner(limit if left is None else min(limit, left * self._timings.early_renewal_share))
        try:
            return self.renew(kind, within, stale=held, wait=False)
        except (UsageError, Unsupported):
            raise
        except Failure as failure:
            passing = isinstance(failure, (NetworkError, TimedOut, RateLimited))
            if not passing and not held.fresh_at(self._clock.now(), 0.0):
                raise
            if failure.code != "timeout.busy":
                self._notice(f"the {kind} token could not be renewed yet: {failure.message}")
                self._early_again_at[kind] = self._clock.monotonic() + self._timings.early_renewal_pause
            return None

    def renew_for_use(self, kind: CredentialKind, deadline: Deadline, *, stale: Credential | None) -> Credential:
        """Renew as `renew` does, within half of the time left.

        The other half is for the request that needs the token, and for another process that waits for our renewal.
        """
        left = deadline.remaining()
        return self.renew(kind, deadline.sooner(self._timings.renewal if left is None else left / 2), stale=stale)

    def renew(
        self, kind: CredentialKind, deadline: Deadline, *, stale: Credential | None, wait: bool = True
    ) -> Credential:
        """Return a credential other than `stale`. One process asks the service; the others take its result.

        Raises NetworkError when another process is asking and has no answer by the deadline; without `wait`,
        TimedOut `timeout.busy` at once.
        """
        owner = self._record.scope if kind == "oauth" else self._record.owner
        with ExitStack() as stack:
            try:
                lock = self._state.lock(f"renew {kind}", deadline if wait else deadline.sooner(0.0), owner=owner)
                stack.enter_context(lock)
            except TimedOut as busy:
                if not wait:
                    raise
                raise NetworkError(
                    f"another guestctl process is renewing the {kind} token and has no answer yet",
                    api=self._dialect.name,
                    retried=True,  # waiting for the lock was the retry
                ) from busy
            found, used = self._stored(kind)
            if found is not None and found != stale and found.fresh_at(self._clock.now(), 0.0):
                # Another process renewed it while we waited for the lock.
                if kind == "oauth":
                    self._oauth = found
                else:
                    self._record.session = replace(self._record.session.having(found), used_token=used)
                return found
            self._renewing.add(kind)
            self.renewals += 1
            try:
                if kind == "oauth":
                    return self._exchange_oauth_client(deadline)
                if kind == "history":
                    self._attach(deadline)  # it is issued on the socket; opening that also updates the session
                session: Session = self._perform(self._dialect.obtain(kind, self._record.session), deadline)
                self._record.store(session)
            finally:
                self._renewing.discard(kind)
        renewed = self._record.session.credential(kind)
        if renewed is None:
            raise Unauthorised(f"the service gave no new {kind} token", api=self._dialect.name)
        if kind == self._dialect.refreshable(self._record.session):
            self._record.log("token_refreshed", kind=kind)
        return renewed

    def new_token_may_help(self, kind: CredentialKind, stale: Credential | None) -> bool:
        """Return whether another token may open a socket where `stale` did not.

        A token that another process was given may. A token asked for now may, unless the last one asked for did
        not open a socket either, a moment ago.
        """
        since = self.unproven_since
        if since is None or self._clock.monotonic() - since >= self._timings.early_renewal_pause:
            return True
        found, _ = self._stored(kind)
        return found is not None and found != stale

    @property
    def _oauth_scope(self) -> str:
        return oauth_scope(self._record.scope, self._dialect.profile)

    def _exchange_oauth_client(self, deadline: Deadline) -> Credential:
        """Exchange the profile's OAuth client for a grant, which every session of the scope shares."""
        granted: Credential = self._perform(self._dialect.oauth(), deadline)
        self._oauth = granted
        if self._dialect.profile.store_tokens != "memory":
            self._state.put_credential(self._oauth_scope, granted)
        return granted

    def _stored(self, kind: CredentialKind) -> tuple[Credential | None, str | None]:
        """Return the credential as another process may have stored it, and the token last used on a socket."""
        if kind == "oauth":
            return self._state.get_credential(self._oauth_scope, "oauth"), None
        stored = self._state.find(self._record.scope, self._record.session)
        if stored is None:
            return None, self._record.session.used_token
        held = stored.credential(kind)
        if held is not None and stored.ids != self._record.session.ids:
            self._record.session = stored
        return held, stored.used_token


def oauth_scope(scope: str, profile: Profile) -> str:
    """Return the key that a profile's OAuth grant is stored under. It differs for each OAuth client."""
    client = [profile.client_id or "", profile.client_secret.reveal() if profile.client_secret else ""]
    return f"{scope}/{hashlib.sha256(json.dumps(client).encode()).hexdigest()[:16]}"


def not_stored(session: Session) -> SessionOver:
    """Return the failure for a session whose token was never stored, so that nothing can be done with it."""
    return SessionOver(
        f'the token of session "{session.name}" was not stored (store_tokens: memory)',
        code="session.no_token",
        api=session.api,
    )
