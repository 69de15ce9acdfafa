"""Taking over a session that another client made: a browser, a middleware, or guestctl on another machine.

Knows: which ids a session needs, that it is attached once before it is stored. Must not know: any API's wire, where
the token comes from, printing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from guestctl.core.clock import Deadline
from guestctl.core.errors import Conflict, SessionOver, UsageError
from guestctl.core.jwt_claims import expiry_of
from guestctl.core.model import Credential, Session
from guestctl.dialects.base import Dialect
from guestctl.engine.sessions import Sessions, creation_lock

#: Names of the ids that a session may have.
IDS = ("conversation", "guest", "session")


def foreign_session(
    dialect: Dialect,
    name: str,
    credential: Credential,
    *,
    ids: Mapping[str, str | None],
    now: float,
    expires_at: float | None = None,
    sign_in: Credential | None = None,
) -> Session:
    """Return a session of another client, to be stored under `name`. `now` and `expires_at` are in epoch seconds.

    Raises Unauthorised for a text that is no token, and UsageError if the API needs an id that is missing.
    """
    unknown = [key for key in ids if key not in IDS]
    if unknown:
        raise UsageError(f'a session has no id "{unknown[0]}"', hint=f"available ids: {', '.join(IDS)}")
    missing = [key for key in dialect.session_ids if not ids.get(key)]
    if missing:
        raise UsageError(
            f"the {dialect.name} API needs the ids {' and '.join(dialect.session_ids)}; {missing[0]} is missing"
            if len(dialect.session_ids) > 1
            else f"the {dialect.name} API needs the {missing[0]} id",
            hint="take the ids from the answer with which the other client created the session",
        )
    dialect.check_token(credential.secret)
    # Where the end of a socket spends its token, the other client's sockets have spent this one, or will.
    spent = credential.secret.placeholder if dialect.renews_before_reconnect else None
    session = Session(
        api=dialect.name,
        profile=dialect.profile.name,
        name=name,
        ids={"conversation": None, "guest": None, **ids},
        new_session=False,
        created_at=now,
        expires_at=expires_at,
        used_token=spent,
        attached_at=now,
    ).having(replace(credential, expires_at=expiry_of(credential, now)))
    return session if sign_in is None else session.having(sign_in)


def take_over(sessions: Sessions, foreign: Session, deadline: Deadline) -> Session:
    """Attach a session of another client, store it, and make it the current one.

    Nothing is stored before the service has accepted its token. Raises Conflict `conflict.name` if a session of the
    name is stored, and the failure with which the service refuses the session.
    """
    state, scope, name = sessions.state, sessions.scope, foreign.name
    with creation_lock(state, scope, name, deadline):
        if name in state.names(scope):
            raise Conflict(f'there is a session "{name}" already', code="conflict.name", api=foreign.api)
        engine = sessions.open(foreign)  # a draft, so that it gets an engine of its own
        engine.record.on_trial = True
        engine.session = replace(engine.session, state="active")
        try:
            if sessions.dialect.has_socket:
                engine.attached(deadline)
            else:
                engine.page(None, None, deadline)
        except SessionOver as over:
            if over.code != "session.expired":
                raise
            raise SessionOver(
                "the service answered with a new session: it does not know the token, or the session has expired",
                code="session.expired",
                api=foreign.api,
            ) from over
        engine.record.on_trial = False
        attached = engine.session
        engine.session = replace(attached, state="draft")  # nothing is stored of it yet
        engine.record.store(attached)
        state.use(scope, name)
        sessions.given_name = name
    engine.record.log("session_attached", api=foreign.api)
    return engine.session
