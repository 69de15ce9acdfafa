"""The vocabulary of the doctor: what a check finds and what the probes report.

Knows: the result types and the `Probes` protocol. Must not know: how an answer is judged, how a probe
connects, how a finding is printed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from guestctl.core.errors import Failure
from guestctl.core.model import Credential, Deployment, Session
from guestctl.dialects.base import Dialect

Result: TypeAlias = Literal["ok", "warning", "failed", "skipped"]

#: Seconds that each check may take.
CHECK_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's output.

    `failure` is the stable code of the failure, `fix` its next step, `seconds` the duration of the check.
    `applies` is False for a check that was skipped because this API does not have the feature.
    """

    check: str
    result: Result
    found: str
    target: str | None = None
    failure: str | None = None
    fix: str | None = None
    seconds: float | None = None
    details: Mapping[str, object] = field(default_factory=dict)
    applies: bool = True


@dataclass(frozen=True, slots=True)
class EffectiveProfile:
    """The profile as guestctl uses it: each value with its source. Secrets are placeholders."""

    name: str
    values: Mapping[str, tuple[object, str]]
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate of a verified TLS peer. `expires_at` is in epoch seconds; `authorities` names the
    trusted authorities that were used."""

    version: str
    subject: str
    chain: tuple[str, ...]
    expires_at: float | None
    authorities: str


@dataclass(frozen=True, slots=True)
class UpgradeAnswer:
    """The answer to a WebSocket upgrade: 101, or another status with its body and its failure."""

    status: int
    body: str = ""
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class QueueAnswer:
    """The answer to the request for a queue. `readable` is False if no call can read it; then `name` says why."""

    readable: bool
    name: str | None


@dataclass(frozen=True, slots=True)
class TokenSummary:
    """The claims of a token in one line, unverified, and the problems with them."""

    text: str
    problems: tuple[str, ...] = ()


class TrialSession(Protocol):
    """A session configured with a throw-away token, with its socket open."""

    session: Session

    def echo(self) -> bool:
        """Send an application heartbeat. Return False if this API has none. Raises Failure."""

    def history_token(self) -> Credential | None:
        """Return a short-lived token for history, None if this API needs none. Raises Failure."""

    def close(self) -> None: ...


class Probes(Protocol):
    """Every operation that uses the network or the state. Each takes at most CHECK_TIMEOUT and raises Failure."""

    def profile(self) -> EffectiveProfile: ...

    def state(self) -> str:
        """Return the directory that stores the sessions."""

    @property
    def dialect(self) -> Dialect:
        """The profile's dialect. Use it only after `profile` has succeeded."""

    def proxy(self, url: str) -> str | None:
        """Return the proxy for this address, without its credentials."""

    def resolve(self, url: str) -> list[str]:
        """Return the addresses of the host, or of its proxy; empty if there is no name to resolve."""

    def connect(self, url: str) -> None:
        """Open and close a TCP connection to the host, or to its proxy."""

    def certificate(self, url: str) -> Certificate:
        """Return the verified certificate of the host."""

    def clock_skew(self, url: str) -> float | None:
        """Return the seconds by which this clock is ahead of the service's `Date`; None without that header."""

    def deployment(self) -> Deployment | None:
        """Return the published configuration, None if this API publishes none."""

    def oauth_credential(self) -> Credential | None:
        """Return the OAuth client's credential, None if this API uses none."""

    def queue(self, queue: str) -> QueueAnswer:
        """Read a queue as the OAuth client."""

    def upgrade(self, origin: str | None) -> UpgradeAnswer | None:
        """Request an upgrade with this Origin and close the socket without sending a frame.

        Return None if only a session gives the socket's address.
        """

    def open_trial_session(self) -> TrialSession | None:
        """Return a trial session, None if a new session would start a conversation."""

    def stored_session(self) -> Session | None: ...

    def verify_session(self, session: Session) -> Session:
        """Read the stored session's history and return the session as it is afterwards."""

    def token_summary(self, session: Session) -> TokenSummary:
        """Return the unverified claims of the session's token."""
