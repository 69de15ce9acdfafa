"""One attached socket of one session: performs frame requests, and keeps everything received in order.

Knows: how a `FrameRequest` becomes frames and an answer, keep-alive, which session events end the session. Must not
know: any dialect's frames, reconnecting, history, the state database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import ClassVar, Protocol

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import Failure, NetworkError, SessionOver, TimedOut, Unauthorised, Unreadable
from guestctl.core.model import Message, Session, SessionEvent
from guestctl.core.timings import Timings
from guestctl.core.wire import Frame, utf8_size
from guestctl.dialects.base import Dialect, unreadable_frame
from guestctl.dialects.flows import Accepted, Alive, FlowAnswer, FrameRequest, Granted, Incoming, Opened, Rejection
from guestctl.engine.inbox import Inbox

#: Unanswered pings after which the connection counts as dead (reliability.md §6.3).
MAX_UNANSWERED_PINGS = 2
#: The code of an end without a close frame.
_NO_CLOSE = 1006
#: Frames that are read before one is sent. More could keep it from being sent for ever.
MOST_PENDING = 1_000
#: Frames that are received together, if they arrived together.
MOST_TOGETHER = 256

#: Change of a session event that ends the session or our connection -> failure type, code, message.
_ENDINGS: dict[str, tuple[type[Failure], str, str]] = {
    "expired": (SessionOver, "session.expired", "the session expired"),
    "cleared": (SessionOver, "session.cleared", "the conversation was cleared"),
    "evicted": (SessionOver, "session.evicted", "the service evicted this connection"),
    "ended": (SessionOver, "session.ended", "the conversation has ended"),
    "logged_out": (SessionOver, "session.logged_out", "the guest was signed out"),
    "token_expired": (Unauthorised, "auth.no_refresh", "the session's token expired"),
}


def terminal_failure(event: SessionEvent, api: str) -> Failure | None:
    """Return the failure for an event that ends the session or our connection to it; None for any other event."""
    known = _ENDINGS.get(event.change)
    if known is None:
        return None
    kind, code, message = known
    reason = f" ({event.reason})" if event.reason else ""
    return kind(message + reason, code=code, api=api)


#: What answers a request on the socket. Only the process that made the request needs it.
ANSWERS = (Opened, Granted, Accepted, Alive, FlowAnswer)


class FrameSource(Protocol):
    """Where a `SessionSocket` gets its frames from: a connection (`transport.socket.Socket`), for example."""

    @property
    def heard_at(self) -> float: ...

    @property
    def ended(self) -> tuple[int, str] | None: ...

    def send(self, text: str, *, deadline: Deadline) -> None: ...

    def ping(self) -> None: ...

    def receive(self, timeout: float) -> Frame | None: ...

    def arrived(self, most: int) -> list[Frame]: ...

    def close(self, code: int = ..., reason: str = ...) -> list[Frame]: ...

    def abort(self) -> None: ...


class SessionSocket:
    """An open, attached socket.

    `session` is the session as the service last described it. `inbox` holds what was received and not yet returned by
    `receive`; its first `before_request` items came before the last request was sent. `unreadable` is the failure of
    the last frame that could not be read. `ended` is the code and the reason with which the connection ended (1006 if
    no close frame was exchanged), None while it is open. `traceparent` is the trace context with which it was opened.
    `resources` are released when the socket closes, for example its connection slot. `recorded` are the received frames
    for the other listeners of the session, None if there are none. `followed` states that another listener of the
    session has the connection: nothing can be sent. `broke_at` is when (epoch seconds) that connection broke, if it is
    known.
    """

    followed: ClassVar[bool] = False

    def __init__(
        self,
        socket: FrameSource,
        dialect: Dialect,
        session: Session,
        clock: Clock,
        timings: Timings,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.socket = socket
        self.session = session
        self.inbox = Inbox()
        self.before_request = 0
        self.unreadable: Unreadable | None = None
        self.ended: tuple[int, str] | None = None
        self.traceparent: str | None = None
        self.resources = ExitStack()
        self.recorded: list[Frame] | None = None
        self._dialect = dialect
        self._clock = clock
        self._timings = timings
        self._notice = notice
        self._pinged_at = clock.monotonic()
        #: Pings sent since the last frame was received.
        self._unanswered_pings = 0
        self._heartbeat_at = clock.monotonic()

    @property
    def broke_at(self) -> float | None:
        return None

    def ask(self, request: FrameRequest, deadline: Deadline) -> Incoming | None:
        """Send the frame of a request and return its answer; None when it awaits none or its own timeout passed.

        Everything received goes to the inbox, also the answer unless it is a rejection: the caller reports that one.
        Raises TimedOut at the deadline, NetworkError when the socket breaks, SessionOver when the session ends
        before the answer, Unreadable when an unreadable frame came where the answer decides what happens next.
        """
        if request.text is not None:
            self._receive_pending(deadline)
            self.before_request = len(self.inbox)
            self.socket.send(request.text, deadline=deadline)
        if request.answers is None:
            return None
        patience = deadline.sooner(request.timeout)
        unreadable = self.unreadable
        while True:
            answer = None
            received, frame = self._receive(patience.bound(0.5))
            for item in received:
                answers = answer is None and request.answers(item)
                if not (answers and isinstance(item, Rejection)):
                    self._keep_all((item,), frame)
                if answers:
                    answer = item
                elif answer is None:
                    self._raise_ending([item])
            if answer is not None:
                return answer
            if (
                self.unreadable is not unreadable
                and self.unreadable is not None
                and (request.route in {"create", "socket"} or request.message)
            ):
                raise self.unreadable
            if patience.expired:
                if deadline.expired or request.timeout is None:
                    raise TimedOut(f"{request.route}: the service did not answer in time")
                return None
            self.keep_alive()

    def _raise_ending(self, received: Sequence[Incoming]) -> None:
        for event in received:
            over = terminal_failure(event, self._dialect.name) if isinstance(event, SessionEvent) else None
            if over is not None:
                raise over

    def _receive_pending(self, deadline: Deadline) -> None:
        """Receive what has already arrived, before a frame is sent.

        It cannot answer that frame: the second copy of a rejection must not be used as the answer to the next try. If
        the socket turns out to be broken here, the frame was not written. If the service has evicted this
        connection, its next answer would be about that, so the frame is not sent.
        """
        try:
            for _ in range(MOST_PENDING):
                received, frame = self._receive(0.0)
                if not received or deadline.expired:
                    return
                self._keep_all(received, frame)
                self._raise_ending(received)
        except NetworkError as failure:
            failure.written = False
            raise

    def receive(self, timeout: float) -> list[Incoming]:
        """Return and empty the inbox; if it is empty, wait up to `timeout` seconds for a frame.

        The frames that arrived together with it are returned, too. Keeps the connection alive.
        """
        if not self.inbox:
            received, first = self._receive(timeout)
            self._keep_all(received, first)
            if received:
                for frame in self.socket.arrived(MOST_TOGETHER - 1):
                    self._keep_all(self._decode(frame), frame)
            self.keep_alive()
        return self._take_inbox()

    def recognise(self, own: Message, ids: Mapping[str, str | None]) -> None:
        """Take a received message for the guest's own, and know the session's ids from now on.

        An API may show only by the acceptance of a message who the guest is.
        """
        self.session = replace(self.session, ids=ids)
        for index, item in enumerate(self.inbox):
            if isinstance(item, Message) and item.id == own.id and item.direction != own.direction:
                self.inbox.replace(index, replace(item, direction=own.direction, sender=own.sender))

    def _keep_all(self, items: Sequence[Incoming], frame: Frame | None) -> None:
        """Add the items of a frame to the inbox. When there is no room for a message, the connection ends."""
        if frame is None:
            return
        try:
            self.inbox.add(items, utf8_size(frame.text))
        except Unreadable as failure:
            self._drop(failure.message)
            raise
        if self.recorded is not None:
            self._record(items, frame)

    def _record(self, items: Sequence[Incoming], frame: Frame) -> None:
        """Record a frame for the other listeners, once, if it has anything for them: no token, for example."""
        recorded = self.recorded
        if recorded is None or all(isinstance(item, ANSWERS) for item in items):
            return
        if not recorded or recorded[-1] is not frame:
            recorded.append(frame)

    def _take_inbox(self) -> list[Incoming]:
        """Return and empty the inbox, and report what was dropped from it."""
        self.before_request = 0
        dropped = self.inbox.take_dropped()
        if dropped:
            self._notice(f"the service sent too many frames without a message: {dropped} were dropped")
        return self.inbox.take()

    def _receive(self, timeout: float) -> tuple[Sequence[Incoming], Frame | None]:
        """Return what the next frame holds, and the frame."""
        frame = self.socket.receive(timeout)
        return ((), None) if frame is None else (self._decode(frame), frame)

    def _decode(self, frame: Frame) -> Sequence[Incoming]:
        try:
            return self._dialect.decode(frame, self.session)
        except Unreadable as error:
            # One bad frame must not end the stream: it is passed on as an unknown event.
            self.unreadable = error
            return [unreadable_frame(frame, error.message)]

    def keep_alive(self) -> None:
        """Send a ping or a heartbeat when one is due. Raises NetworkError when too many pings went unanswered."""
        now = self._clock.monotonic()
        if self.socket.heard_at >= self._pinged_at:
            self._unanswered_pings = 0
        if now - max(self.socket.heard_at, self._pinged_at) >= self._timings.ping_interval:
            if self._unanswered_pings >= MAX_UNANSWERED_PINGS:
                self._drop("the service does not answer pings")
                raise NetworkError(
                    "the connection is dead: the service does not answer pings", written=True, close_code=1006
                )
            self._unanswered_pings += 1
            self._pinged_at = now
            with _message_may_be_written():
                self.socket.ping()
        if now - self._heartbeat_at >= self._timings.heartbeat_interval:
            beat = self._dialect.heartbeat(self.session)
            self._heartbeat_at = now
            if beat is not None and beat.text is not None:
                with _message_may_be_written():
                    self.socket.send(beat.text, deadline=Deadline.after(self._clock, 10.0))

    def close(self, close_frame: tuple[int, str] | None = None) -> list[Incoming]:
        """Close with this code and reason, by default as this API's guests do.

        Returns what was received and not yet returned: first the inbox, then what arrived during the close.
        """
        received = self._take_inbox()
        close_frame = close_frame or self._dialect.close_frame
        with self.resources:
            for frame in self.socket.close(*close_frame):
                items = self._decode(frame)
                self._record(items, frame)
                received.extend(items)
            self.ended = self.ended or self.socket.ended or close_frame
        return received

    def abort(self) -> None:
        """Drop the socket without waiting for the peer."""
        self._take_inbox()
        with self.resources:
            self._drop("guestctl dropped the connection")
            self.socket.close(*self._dialect.close_frame)

    def _drop(self, reason: str) -> None:
        self.ended = self.ended or self.socket.ended or (_NO_CLOSE, reason)
        self.socket.abort()


@contextmanager
def _message_may_be_written() -> Iterator[None]:
    """Keep a message in doubt when the ping after it fails: an unwritten ping proves nothing about the message."""
    try:
        yield
    except NetworkError as failure:
        failure.written = True
        raise
