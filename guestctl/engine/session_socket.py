"""One attached socket of one session: turns are asked on it, and everything heard is kept in order.

Knows: how a `FrameRequest` becomes frames and an answer, keep-alive, and which session events end
everything. Must not know: any dialect's frames, reconnecting, history, the state database.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import Failure, NetworkError, SessionOver, TimedOut, Unauthorised, Unreadable
from guestctl.core.model import Session, SessionEvent, Unknown
from guestctl.core.timings import Timings
from guestctl.core.wire import Frame
from guestctl.dialects.base import Dialect
from guestctl.dialects.flows import FrameRequest, Incoming, Rejection

if TYPE_CHECKING:
    from guestctl.transport.socket import Socket

#: Beats without an answer after which the peer counts as dead (reliability.md §6.3).
BEATS = 2

_ENDINGS: dict[str, tuple[type[Failure], str, str]] = {
    "expired": (SessionOver, "session.expired", "the session expired"),
    "cleared": (SessionOver, "session.cleared", "the conversation was cleared"),
    "evicted": (SessionOver, "session.evicted", "the service gave this connection up"),
    "ended": (SessionOver, "session.ended", "the conversation has ended"),
    "logged_out": (SessionOver, "session.logged_out", "the guest was signed out"),
    "token_expired": (Unauthorised, "auth.no_refresh", "the session's token expired"),
}


def ending(event: SessionEvent, api: str) -> Failure | None:
    """The failure a session event means when it ends the session or our place in it, else None."""
    known = _ENDINGS.get(event.change)
    if known is None:
        return None
    kind, code, words = known
    reason = f" ({event.reason})" if event.reason else ""
    return kind(words + reason, code=code, api=api)


class SessionSocket:
    """An open socket. `session` is as the service last described it; `inbox` what nobody took yet;
    `unreadable` the last frame that could not be read."""

    def __init__(
        self,
        socket: Socket,
        dialect: Dialect,
        session: Session,
        clock: Clock,
        timings: Timings,
    ) -> None:
        self.socket = socket
        self.session = session
        self.inbox: deque[Incoming] = deque()
        self.unreadable: Unreadable | None = None
        #: What goes with the socket (its place among the session's sockets); released when it closes.
        self.held = ExitStack()
        self._dialect = dialect
        self._clock = clock
        self._timings = timings
        self._pinged_at = clock.monotonic()
        #: Our pings since anything was heard.
        self._silent = 0
        self._beat_at = clock.monotonic()

    def ask(self, turn: FrameRequest, deadline: Deadline) -> Incoming | None:
        """Say it and wait for the answer; what else is heard goes to the inbox, the answer too
        unless it is a refusal.

        None when nothing was awaited or the turn's patience ran out. Raises TimedOut at the
        deadline, NetworkError when the socket breaks, SessionOver when the session ends meanwhile.
        """
        if turn.text is not None:
            self._hear_first(deadline)
            self.socket.send(turn.text, deadline=deadline)
        if turn.answers is None:
            return None
        patience = deadline.sooner(turn.timeout)
        unreadable = self.unreadable
        while True:
            answer = None
            for heard in self._receive(patience.bound(0.5)):
                answers = answer is None and turn.answers(heard)
                if not (answers and isinstance(heard, Rejection)):  # which whoever asked will tell
                    self.inbox.append(heard)
                if answers:
                    answer = heard
                elif answer is None:
                    self._raise_ending([heard])
            if answer is not None:
                return answer
            if (
                self.unreadable is not unreadable
                and self.unreadable is not None
                and (turn.route in {"create", "socket"} or turn.message)
            ):
                raise self.unreadable
            if patience.expired:
                if deadline.expired or turn.timeout is None:
                    raise TimedOut(f"{turn.route}: the service did not answer in time")
                return None
            self.keep_alive()

    def _raise_ending(self, heard: Sequence[Incoming]) -> None:
        for event in heard:
            over = ending(event, self._dialect.name) if isinstance(event, SessionEvent) else None
            if over is not None:
                raise over

    def _hear_first(self, deadline: Deadline) -> None:
        """Take what has arrived already: it answers nothing that is still to be said (the second copy of
        a refusal would pass for the answer to the next attempt). A socket found dead here has taken none of it,
        and one that was given up answers with whatever that makes of the question."""
        try:
            while not deadline.expired and (heard := self._receive(0.0)):
                self.inbox.extend(heard)
                self._raise_ending(heard)
        except NetworkError as failure:
            failure.written = False
            raise

    def hear(self, timeout: float) -> list[Incoming]:
        """What the inbox holds, else what arrives within `timeout` seconds; keeps the socket alive."""
        if not self.inbox:
            self.inbox.extend(self._receive(timeout))
            self.keep_alive()
        taken = list(self.inbox)
        self.inbox.clear()
        return taken

    def _receive(self, timeout: float) -> list[Incoming]:
        frame = self.socket.receive(timeout)
        return [] if frame is None else self._decode(frame)

    def _decode(self, frame: Frame) -> list[Incoming]:
        try:
            return list(self._dialect.decode(frame, self.session))
        except Unreadable as error:
            # One bad frame must not end the stream: it is kept and shown as unknown.
            self.unreadable = error
            return [Unknown("unreadable", {"reason": error.message, "text": frame.text[:200]})]

    def keep_alive(self) -> None:
        """Ping when the socket has been quiet; give it up when `BEATS` pings brought no sign of life."""
        now = self._clock.monotonic()
        if self.socket.heard_at >= self._pinged_at:
            self._silent = 0
        if now - max(self.socket.heard_at, self._pinged_at) >= self._timings.ping_interval:
            if self._silent >= BEATS:
                self.socket.abort()
                raise NetworkError("the connection is dead: nothing answers our pings", written=True, close_code=1006)
            self._silent += 1
            self._pinged_at = now
            with _of_the_line():
                self.socket.ping()
        if now - self._beat_at >= self._timings.heartbeat_interval:
            beat = self._dialect.heartbeat(self.session)
            self._beat_at = now
            if beat is not None and beat.text is not None:
                with _of_the_line():
                    self.socket.send(beat.text, deadline=Deadline.after(self._clock, 10.0))

    def close(self, words: tuple[int, str] | None = None) -> list[Incoming]:
        """Close with this code and reason, else as this API's guests do; returns what was still heard,
        undelivered things first."""
        heard = list(self.inbox)
        self.inbox.clear()
        with self.held:
            for frame in self.socket.close(*(words or self._dialect.close_frame)):
                heard.extend(self._decode(frame))
        return heard

    def abort(self) -> None:
        """Drop the socket without waiting for the peer."""
        with self.held:
            self.socket.abort()
            self.socket.close(*self._dialect.close_frame)


@contextmanager
def _of_the_line() -> Iterator[None]:
    """That a ping has not left proves nothing of what was said before it, and an answer may be awaited to that."""
    try:
        yield
    except NetworkError as failure:
        failure.written = True
        raise
