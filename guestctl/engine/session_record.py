"""One session as this process knows it, and its copy in the state database.

Knows: how our changes are merged with those of other processes, what a failure says of the session's state, the
activity log, the session's locks. Must not know: how a flow is performed, tokens beyond storing them, sockets.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import Failure, Unauthorised
from guestctl.core.model import OVER, Credential, Message, Session, SessionState, TraceContext
from guestctl.core.values import Json
from guestctl.core.wire import Frame
from guestctl.dialects.base import Dialect
from guestctl.storage.state import State, owner_of

#: Longest message, in bytes of JSON, that is stored so that a later command can answer it.
OFFER_LENGTH = 64 * 1024

#: Codes of failures that mean the session itself has changed -> its new state.
_STATE_AFTER: dict[str, SessionState] = {
    "conflict.ended": "ended",
    "conflict.read_only": "read_only",
    "session.expired": "expired",
    "session.cleared": "cleared",
    "session.logged_out": "ended",
}
_ABOUT_A_NEW_TOKEN = frozenset({"auth.token_expired", "auth.token_routing"})
#: Fields that change independently of each other. Each keeps the value of the process that changed it.
_INDEPENDENT = (
    *("state", "new_session", "expires_at", "limits", "used_token", "refused_token", "offer"),
    *("traceparent", "tracestate"),
)


@dataclass(repr=False, eq=False)
class StoredSession:
    """The current `session` and its stored copy. `scope` is the profile, API and addresses it belongs to.

    `on_trial`: a session of another client that the service has not accepted yet. Nothing of it is stored.
    """

    session: Session
    dialect: Dialect
    state: State
    scope: str
    clock: Clock
    on_trial: bool = False

    @property
    def owner(self) -> str:
        """The name under which the session's locks and budgets are shared; it survives a rename."""
        return owner_of(self.scope, self.session)

    def lock(self, name: str, deadline: Deadline) -> AbstractContextManager[None]:
        """Return the session's lock of this name, shared by all processes. Entering raises TimedOut."""
        return self.state.lock(name, deadline, owner=self.owner)

    def store(self, session: Session) -> None:
        """Make `session` the current one and store it, without tokens if the profile requires that.

        The stored copy is merged, not overwritten: a token that another process renewed stays, a session that
        another process ended stays over, and the credentials revoked with that stay deleted. A renamed session is
        stored under its new name. A forgotten one is not stored again, and a session that took its name is left
        alone. If the session has expired, `expires_at` becomes now at the latest.
        """
        if self.on_trial:
            self.session = session
            return
        before = self.session
        if session.state == "expired" != before.state:
            now = self.clock.now()
            session = replace(session, expires_at=now if session.expires_at is None else min(now, session.expires_at))
        in_memory = self.dialect.profile.store_tokens == "memory"

        def accept(session: Session) -> Session:
            self.session = session
            return replace(session, credentials={}) if in_memory else session

        if before.state == "draft":
            self.state.put(self.scope, accept(session))
        elif not self.state.amend(self.scope, session, lambda stored: accept(merged(session, stored, before))):
            self.session = session
        if self.session.state in OVER and before.state not in OVER:
            self.log("session_terminated", state=self.session.state)

    def note_failure(self, failure: Failure) -> None:
        """Store what a failure implies for the session as a whole: its state, or that its token was refused."""
        state = _STATE_AFTER.get(failure.code)
        if state is not None and self.session.state not in {"draft", *OVER}:
            self.store(replace(self.session, state=state))
        # A request names the credential that it was refused with; on the socket it is the guest's. A new token that
        # cannot be used says nothing of the stored one.
        refused = isinstance(failure, Unauthorised) and failure.http_status is None
        if failure.code == "session.gone" or (refused and failure.code not in _ABOUT_A_NEW_TOKEN):
            self.note_token(refused=True)

    def note_token(self, *, refused: bool) -> None:
        """Store whether the service refused the guest's token the last time."""
        held = self.session.credential("guest")
        token = held.secret.placeholder if refused and held is not None else None
        if token != self.session.refused_token and self.session.state not in {"draft", *OVER}:
            self.store(replace(self.session, refused_token=token))

    def trace_with(self, context: TraceContext | None) -> None:
        """Store the trace context of the session, unless it has one.

        A failure to store it is no failure of the command: this process sends the context all the same.
        """
        if context is None or self.session.traceparent is not None:
            return
        session = traced(self.session, context)
        if session.state not in {"draft", *OVER}:
            with suppress(Failure):
                self.store(session)
        self.session = traced(self.session, context)

    def log(self, event: str, **details: object) -> None:
        """Append to the session's activity log."""
        if self.on_trial:
            return
        self.state.log(self.scope, self.session, event, details)

    # --- the last offer ---

    def store_offer(self, message: Message) -> None:
        """Store a message whose choices history leaves out, so that a later command can answer it."""
        rich = self.dialect.rich_content if message.content else None
        if rich is not None and rich.history_omits(message) and len(json.dumps(message.raw)) <= OFFER_LENGTH:
            self.store(replace(self.session, offer=message.raw))

    def stored_offer(self) -> Message | None:
        """Return the message stored last by `store_offer`."""
        if self.session.offer is None:
            return None
        decoded = self.dialect.decode(Frame(json.dumps(self.session.offer), self.clock.now()), self.session)
        return next((item for item in decoded if isinstance(item, Message)), None)


# --- the trace context ---


def traced(session: Session, context: TraceContext | None) -> Session:
    """Return the session with a trace context; None leaves it without one."""
    if context is None:
        return replace(session, traceparent=None, tracestate=None)
    return replace(session, traceparent=context.traceparent, tracestate=context.tracestate)


# --- merging ---


def merged(session: Session, stored: Session, before: Session) -> Session:
    """Three-way merge: apply our changes, from `before` to `session`, to the session as now stored."""
    unchanged_by_us = {
        field: getattr(stored, field) for field in _INDEPENDENT if getattr(session, field) == getattr(before, field)
    }
    session = replace(session, name=stored.name, notes=_merged_notes(session, stored, before), **unchanged_by_us)
    for kind, theirs in stored.credentials.items():
        ours = session.credentials.get(kind)
        if ours is not None and _newer(theirs, ours):
            # Another process renewed the token after us. The ids of its session belong to that token.
            session = replace(session.having(theirs), ids=stored.ids)
        elif ours == before.credentials.get(kind) and session.state not in OVER:
            # We did not change this credential, so the stored one is kept.
            session = session.having(theirs)
    if stored.state in OVER:
        # Another process ended the session and deleted what was revoked with it.
        left = {kind: held for kind, held in session.credentials.items() if kind in stored.credentials}
        session = replace(session, credentials=left, state=session.state if session.state in OVER else stored.state)
    return session


def _merged_notes(session: Session, stored: Session, before: Session) -> dict[str, Json]:
    ours = {key for key in (*session.notes, *before.notes) if session.notes.get(key) != before.notes.get(key)}
    theirs = {key: value for key, value in stored.notes.items() if key not in ours}
    return theirs | {key: value for key, value in session.notes.items() if key in ours}


def _newer(theirs: Credential, ours: Credential) -> bool:
    return theirs.expires_at is not None and ours.expires_at is not None and theirs.expires_at > ours.expires_at
