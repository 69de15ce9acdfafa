"""The guests of one worker, and what they share: a network, a state in memory and the rate limits.

Knows: clients and their in-memory state. Must not know: scripts, Locust, what is measured. A state in files is never
used: a lock on a file would stop every guest of the worker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from guestctl.client import Client
from guestctl.core.clock import Clock
from guestctl.core.errors import Failure
from guestctl.core.model import NewSession, Profile, Session, SignIn
from guestctl.core.redact import Redactor
from guestctl.load.pace import GuestBudgets
from guestctl.storage.state import State, owner_of
from guestctl.transport.network import Network

if TYPE_CHECKING:
    from guestctl.storage.budgets import Budgets
    from guestctl.transport.network import Observer


class GuestClient(Client):
    """A client that reports how long `create` took, in seconds."""

    created: Callable[[float], None] | None = None

    def create(self, opening: NewSession | None = None, *, new: bool = False, sign_in: SignIn | None = None) -> Session:
        begun = self.clock.monotonic()
        session = super().create(opening, new=new, sign_in=sign_in)
        if self.created is not None:
            self.created(self.clock.monotonic() - begun)
        return session


class Guests:
    """Makes the clients of one profile. `ask` takes a place in a rate limit that all workers share (`pace`)."""

    def __init__(
        self, profile: Profile, *, clock: Clock, environ: Mapping[str, str], ask: Callable[..., float]
    ) -> None:
        self.profile = profile
        self.clock = clock
        self._environ = environ
        self._network = Network(ca=profile.ca, environ=environ, cleartext=profile.cleartext)
        self._state = State.open(None, clock)
        self._budgets = GuestBudgets(clock, ask)
        self._state.budgets = cast("Budgets", self._budgets)
        self._numbers = count(1)
        self._first = threading.Lock()
        self._configured = False

    def new(self, observer: Observer, *, timeout: float, created: Callable[[float], None]) -> Client:
        """Return the client of a new guest. Raises UsageError for an unusable profile."""
        client = GuestClient(
            self.profile,
            session=f"guest-{next(self._numbers)}",
            state=self._state,
            timeout=timeout,
            observer=observer,
            clock=self.clock,
            environ=self._environ,
            network=self._network,
        )
        client.created = created
        with self._first:
            # The other guests read the deployment's configuration from the state.
            if not self._configured:
                self._configured = True
                client.deployment()
        return client

    def before_connect(self) -> None:
        """Wait until another guest may connect."""
        if self.profile.paced:
            wait = self._budgets.first_connect()
            if wait > 0:
                self.clock.sleep(wait)

    def release(self, client: Client) -> None:
        """Close a client and forget its session, so that memory does not grow with the number of conversations."""
        session: Any = None
        with suppress(Failure):
            session = client.session()
        try:
            client.close()
        finally:
            if session is not None:
                self._budgets.forget(owner_of(client.scope, session))
            self._state.forget(client.scope, client.session_name)

    def redactor(self) -> Redactor:
        """Return a redactor that knows the profile's secrets."""
        redactor = Redactor()
        redactor.add_pair(self.profile.client_id, self.profile.client_secret)
        redactor.add_proxies(self._environ)
        return redactor

    def close(self) -> None:
        self._state.close()
