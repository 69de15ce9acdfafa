"""Opens a session's socket: takes a connection slot, performs the upgrade and attaches the session.

Knows: refused upgrades, tokens that expired or were used up, sessions that have ended. Must not know: any
dialect's wire, listening, sending, how long a caller retries after this.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
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


def open_socket(engine: SessionEngine, deadline: Deadline, *, start_new: NewSession | None = None) -> SessionSocket:
    """Open and attach the socket of the engine's session, retry temporary failures, and store the session.

    `start_new` starts the guest's next conversation, on an API that supports it. Raises Forbidden (final),
    Unauthorised, SessionOver when the session is unknown or had expired, NetworkError when the service cannot be
    reached.
    """
    attempts = engine.retry.attempts(Request("GET", "", "socket", idempotent=True), deadline)
    return attempts.run(lambda: open_socket_once(engine, deadline, start_new=start_new))


def open_socket_once(
    engine: SessionEngine, deadline: Deadline, *, start_new: NewSession | None = None
) -> SessionSocket:
    """Open the socket as `open_socket` does, in one try. Only a refused token is renewed and tried again."""
    dialect = engine.dialect
    stale = engine.session.credential("guest")
    try:
        return _open(engine, deadline, start_new)
    except Failure as failure:
        engine.record.note_failure(failure)
        if isinstance(failure, Unauthorised):
            engine.record.note_token(refused=True)
        refused = isinstance(failure, Unauthorised) or (
            isinstance(failure, NetworkError)
            and failure.written
            and dialect.on_early_close(failure.close_code or 1006) == "renew"
        )
        kind = dialect.refreshable(engine.session)
        if not refused or kind is None or kind == "history":
            raise
        stale = engine.session.credential(kind) if kind != "guest" else stale
        if not engine.credentials.new_token_may_help(kind, stale):
            raise
        engine.credentials.renew_for_use(kind, deadline, stale=stale)
        engine.credentials.unproven_since = engine.clock.monotonic()
        socket = _open(engine, deadline, start_new)
        engine.credentials.unproven_since = None
        return socket


def _open(engine: SessionEngine, deadline: Deadline, start_new: NewSession | None) -> SessionSocket:
    dialect = engine.dialect
    before = engine.session
    refuse_over(before)
    token = engine.credentials.get("guest", deadline)
    before = engine.session
    for _ in range(2):  # a token that another process got in the meantime may be used up too
        if not dialect.needs_new_token(engine.session):
            break
        token = engine.credentials.renew_for_use("guest", deadline, stale=token)
    with ExitStack() as undo:
        undo.enter_context(engine.state.slot(engine.scope, before, dialect.sockets_per_session, deadline))
        engine.count_connect()
        trace = engine.trace_headers()
        connection = _connect(engine, trace, deadline)
        socket = SessionSocket(connection, dialect, engine.session, engine.clock, engine.timings, engine.notice)
        socket.traceparent = trace.get("traceparent")
        if engine.records_frames:
            socket.recorded = []
        socket.resources = undo.pop_all()
        undo.callback(socket.abort)
        if token is not None and dialect.renews_before_reconnect:
            engine.record.store(replace(engine.session, used_token=token.secret.placeholder))
        attaching = dialect.attach(engine.session, start_new=start_new, traceparent=socket.traceparent)
        attached = engine.perform(attaching, deadline, socket=socket)
        # A new session in place of one with messages, or with a guest who has joined, means that one had expired.
        # An empty session is replaced without loss. One that was taken over from another client may not be empty.
        begun = before.state != "draft" and (
            before.attached_at is not None or dialect.began_with_join(before) or _has_messages(engine)
        )
        if begun and attached.new_session and start_new is None:
            engine.record.store(replace(before, state="expired"))
            raise SessionOver(
                f'session "{before.name}" had expired: the service answered with a new one',
                code="session.expired",
                api=dialect.name,
            )
        engine.record.store(replace(attached, refused_token=None))
        socket.session = engine.session
        engine.report("attached", new_session=attached.new_session)
        engine.record.log("ws_connected", new_session=attached.new_session)
        socket.resources.callback(_log_end, engine, socket, engine.clock.monotonic())
        undo.pop_all()
    return socket


def _log_end(engine: SessionEngine, socket: SessionSocket, connected_at: float) -> None:
    """Add the end of a connection to the activity log. A failure to write it must not hide why the connection ended."""
    code, reason = socket.ended or (None, "")
    with suppress(Failure):
        engine.record.log(
            "ws_disconnected",
            code=code,
            reason=masked(engine, reason),
            duration_ms=round((engine.clock.monotonic() - connected_at) * 1000),
        )


def masked(engine: SessionEngine, reason: str) -> str:
    """Return the reason of an end without secrets: the service may have written anything into it."""
    if reason in {"", engine.dialect.close_frame[1]}:
        return reason
    from guestctl.core.redact import Redactor

    redactor = Redactor()
    for secret in engine.credentials.secrets():
        redactor.add(secret)
    return redactor.text(reason)


def _connect(engine: SessionEngine, trace: Mapping[str, str], deadline: Deadline) -> Socket:
    from guestctl.transport.socket import Refusal, Socket

    dialect = engine.dialect
    address = dialect.socket_address(engine.session)
    if address is None:
        raise Unsupported(f"the {dialect.name} API has no socket", api=dialect.name)
    headers = dict(address.headers)
    if address.credential is not None:
        credential = engine.credentials.get(address.credential, deadline)
        if credential is not None:
            headers["Authorization"] = f"Bearer {credential.secret.reveal()}"
    headers |= trace
    try:
        return Socket.connect(
            address.url,
            headers=headers,
            network=engine.connector.network(),
            clock=engine.clock,
            deadline=deadline,
            observer=engine.connector.observer,
            user_agent=USER_AGENT,
        )
    except Refusal as refusal:
        reply = HttpResponse(refusal.status, refusal.headers, refusal.body.encode(), engine.clock.now(), address.url)
        failure = dialect.refusal(Request("GET", address.url, "socket", idempotent=True), reply)
        if isinstance(failure, NetworkError):
            failure.written = False
        raise failure from None


def refuse_over(session: Session) -> None:
    """Raise SessionOver if the session is known to have ended."""
    if session.state in OVER:
        raise SessionOver(
            f'session "{session.name}" is no longer active: {session.state}',
            code=f"session.{session.state}",
            api=session.api,
        )


def _has_messages(engine: SessionEngine) -> bool:
    state, scope, session = engine.state, engine.scope, engine.session
    return state.last_position(scope, session) is not None or bool(state.outbox(scope, session, "accepted"))
