"""Opening a session's socket: a free place, the upgrade, the first words, and what the answer means.

Knows: refused upgrades, spoilt and expired tokens, sessions that turn out to be over. Must not
know: any dialect's wire, listening, sending, how long a caller goes on trying after this.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from guestctl.core.clock import Deadline
from guestctl.core.errors import Failure, NetworkError, SessionOver, Unauthorised, Unsupported
from guestctl.core.model import OVER, NewSession, Session
from guestctl.core.wire import HttpResponse, Request
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.session_socket import SessionSocket
from guestctl.transport.connector import USER_AGENT

if TYPE_CHECKING:
    from guestctl.transport.socket import Socket


def open_socket(exchange: SessionEngine, deadline: Deadline, *, start_new: NewSession | None = None) -> SessionSocket:
    """An attached line for the exchange's session, which is updated and stored.

    Raises Forbidden (final), Unauthorised, SessionOver when the session has gone or had expired,
    NetworkError when the service cannot be reached.
    """
    attempts = exchange.retry.attempts(Request("GET", "", "socket", idempotent=True), deadline)
    return attempts.run(lambda: open_socket_once(exchange, deadline, start_new=start_new))


def open_socket_once(
    exchange: SessionEngine, deadline: Deadline, *, start_new: NewSession | None = None
) -> SessionSocket:
    """Open the socket as `open_socket` does, in one try. Only a refused token is renewed and tried again."""
    dialect = exchange.dialect
    stale = exchange.session.credential("guest")
    try:
        return _open(exchange, deadline, start_new)
    except Failure as failure:
        exchange.record.note_failure(failure)
        refused = isinstance(failure, Unauthorised) or (
            isinstance(failure, NetworkError)
            and failure.written
            and dialect.on_early_close(failure.close_code or 1006) == "renew"
        )
        kind = dialect.refreshable(exchange.session)
        if not refused or kind is None or kind == "history":
            raise
        stale = exchange.session.credential(kind) if kind != "guest" else stale
        if not exchange.credentials.new_token_may_help(kind, stale):
            raise
        exchange.credentials.renew_for_use(kind, deadline, stale=stale)
        exchange.credentials.unproven_since = exchange.clock.monotonic()
        line = _open(exchange, deadline, start_new)
        exchange.credentials.unproven_since = None
        return line


def _open(exchange: SessionEngine, deadline: Deadline, start_new: NewSession | None) -> SessionSocket:
    dialect = exchange.dialect
    before = exchange.session
    refuse_over(before)
    token = exchange.credentials.get("guest", deadline)
    before = exchange.session
    for _ in range(2):  # what another process was given meanwhile, it may have spoilt, too
        if not dialect.needs_new_token(exchange.session):
            break
        token = exchange.credentials.renew_for_use("guest", deadline, stale=token)
    with ExitStack() as held:
        held.enter_context(exchange.state.slot(exchange.scope, before, dialect.sockets_per_session, deadline))
        line = SessionSocket(_connect(exchange, deadline), dialect, exchange.session, exchange.clock, exchange.timings)
        line.held = held.pop_all()
        held.callback(line.abort)
        if token is not None and dialect.renews_before_reconnect:
            exchange.record.store(replace(exchange.session, used_token=token.secret.placeholder))
        attached = exchange.perform(dialect.attach(exchange.session, start_new=start_new), deadline, socket=line)
        begun = before.state != "draft" and (dialect.began_with_join(before) or _has_messages(exchange))
        if begun and attached.new_session and start_new is None:
            exchange.record.store(replace(before, state="expired"))
            raise SessionOver(
                f"session {before.name!r} had expired: the service answered with a new one, nothing was sent",
                code="session.expired",
                api=dialect.name,
            )
        exchange.record.store(attached)
        line.session = exchange.session
        exchange.record.log("ws_connected", new_session=attached.new_session)
        held.pop_all()
    return line


def _connect(exchange: SessionEngine, deadline: Deadline) -> Socket:
    from guestctl.transport.socket import Refusal, Socket

    dialect = exchange.dialect
    door = dialect.socket_address(exchange.session)
    if door is None:
        raise Unsupported(f"the {dialect.name} API has no socket", api=dialect.name)
    headers = dict(door.headers)
    if door.credential is not None:
        credential = exchange.credentials.get(door.credential, deadline)
        if credential is not None:
            headers["Authorization"] = f"Bearer {credential.secret.reveal()}"
    if dialect.traceparent:
        headers["traceparent"] = dialect.traceparent
    try:
        return Socket.connect(
            door.url,
            headers=headers,
            network=exchange.connector.network(),
            clock=exchange.clock,
            deadline=deadline,
            observer=exchange.connector.observer,
            user_agent=USER_AGENT,
        )
    except Refusal as refusal:
        reply = HttpResponse(refusal.status, refusal.headers, refusal.body.encode(), exchange.clock.now(), door.url)
        failure = dialect.refusal(Request("GET", door.url, "socket", idempotent=True), reply)
        if isinstance(failure, NetworkError):
            failure.written = False
        raise failure from None


def refuse_over(session: Session) -> None:
    """Raises SessionOver for one that is known to be."""
    if session.state in OVER:
        raise SessionOver(
            f"session {session.name!r} is over: {session.state}", code=f"session.{session.state}", api=session.api
        )


def _has_messages(exchange: SessionEngine) -> bool:
    state, scope, session = exchange.state, exchange.scope, exchange.session
    return state.last_position(scope, session) is not None or bool(state.outbox(scope, session, "accepted"))
