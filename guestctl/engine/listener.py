"""Listening: the live events of a session, through reconnects, without gaps or duplicates, in order.

Knows: when to reconnect and how long to wait before, when to renew a token early, how to poll an API without a socket.
Must not know: what may be missing after a reconnect (`catch_up`), any dialect's wire, printing, and when to stop (the
caller gets control at every tick, and decides).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

from guestctl.core.clock import Deadline
from guestctl.core.errors import Conflict, Failure, NetworkError, RateLimited, TimedOut
from guestctl.core.interrupts import INTERRUPTS
from guestctl.core.model import (
    UNREADABLE,
    Connection,
    Event,
    Message,
    Position,
    Presence,
    ServiceError,
    SessionEvent,
    SessionState,
    Unknown,
)
from guestctl.dialects.flows import Accepted, Alive, FlowAnswer, Granted, Incoming, Opened, Rejection
from guestctl.engine.catch_up import (
    PASSING_FAILURES,
    CatchUp,
    CatchUpState,
    Continuous,
    FromNewest,
    Open,
    Unread,
)
from guestctl.engine.connect import open_socket_once
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.history import Following
from guestctl.engine.merge import Merge
from guestctl.engine.own_sockets import OwnSockets
from guestctl.engine.retry import jittered
from guestctl.engine.session_socket import SessionSocket, terminal_failure
from guestctl.engine.shown_events import ShownEvents

#: Frames read from a busy socket before events are yielded.
BATCH = 256
#: Growth of the interval between two polls that find nothing; upper limit of its jitter, as a factor.
POLL_GROWTH, POLL_JITTER = 1.5, 1.25

#: The state of a session after a session event that ends it.
_STATE_AFTER: dict[str, SessionState] = {
    "expired": "expired",
    "cleared": "cleared",
    "logged_out": "ended",
    "ended": "ended",
}


class Listener:
    """The stream of events of one session.

    `position`: the last message already shown; the stream continues after it. Without a position it starts with what
    arrives after the newest message in history (`baseline`), at the beginning of the conversation (`from_start`), or
    with what the socket brings from now on. `unread`: why history could not be read, although the caller wanted earlier
    messages: a gap stands for them. `forever`: never give up reconnecting. `record`: write shown messages to
    the ledger. `step`: seconds for one answer of the service.

    `wake` returns the seconds until the caller wants control again, `left` the seconds until the caller stops. Only
    `left` limits a connection attempt: limited by `wake`, none would ever succeed on a slow network.
    """

    def __init__(
        self,
        engine: SessionEngine,
        *,
        position: Position | None = None,
        baseline: bool = True,
        from_start: bool = False,
        unread: str | None = None,
        forever: bool = False,
        record: bool = True,
        step: float | None = 30.0,
        wake: Callable[[], float | None] = lambda: None,
        left: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.engine = engine
        self._timings = engine.timings
        state: CatchUpState
        if position is not None or from_start:
            state = Unread()
        else:
            state = FromNewest(failure=unread, broken=unread is not None) if baseline else Continuous()
        merge = Merge(position, begins=from_start, timings=self._timings)
        self.catch_up = CatchUp(engine, state, merge, deadline=self._deadline, left=left)
        self._forever = forever
        self._step = step
        self._wake, self._left = wake, left
        self._attached_socket: SessionSocket | None = None
        #: The socket whose events are shown, None while there is none.
        self._live_socket: SessionSocket | None = None
        self._sharing = OwnSockets()
        self._ignore_before: Position | None = None
        self.shown_events = ShownEvents(engine, record=record)
        #: The caller threw in a failure of its own, and asks for the `rest` itself if it can show it.
        self._abandoned = False
        self._clock = engine.clock

    def continue_after(self, position: Position) -> None:
        """Continue after the message at `position`, which was just sent. Older messages are not shown.

        The socket that `attach` opened brings everything that follows, while it is open. But if it did not echo the
        message, the service accepted it earlier: later messages are read from history.
        """
        self._ignore_before = position
        socket = self.engine.socket
        received_all = (
            socket is not None
            and socket is self._attached_socket
            and (
                not self.engine.dialect.sends_on_socket
                or any(isinstance(item, (Message, Accepted)) and item.id == position.id for item in socket.inbox)
            )
        )
        self.catch_up.start_after(position, missed=not received_all)

    def read_after(self, position: Position | None) -> Following:
        """Return history after a position (see `CatchUp.read_after`)."""
        return self.catch_up.read_after(position)

    def ignore_before(self, position: Position) -> None:
        """Show nothing older than `position`: it may have arrived on a socket that was open at that time."""
        self._ignore_before = position

    def attach(self, deadline: Deadline) -> None:
        """Open the socket now, so that no reply to the next message is missed."""
        if self.engine.dialect.socket_address(self.engine.session) is not None:
            self._attached_socket = self.engine.attached(deadline)

    def share_socket(self) -> None:
        """Use one socket together with the other listeners of the session. This process must not send on it."""
        if self.engine.dialect.socket_address(self.engine.session) is not None:
            from guestctl.engine.shared_socket import SharedSocket

            self._sharing = SharedSocket(self.engine, self._left)

    def close(self) -> None:
        """Share nothing with other listeners any more."""
        self.catch_up.reader.close()
        self._sharing.close()

    def events(self) -> Generator[Event | None, None, None]:
        """Yield events in order, each once, and None at a tick without events.

        Raises the failure that ends the stream: SessionOver (evicted, expired, cleared), Forbidden, Unauthorised, or
        NetworkError when every reconnect failed.
        """
        try:
            if self.engine.dialect.socket_address(self.engine.session) is None:
                yield from self._poll()
            else:
                yield from self._follow_socket()
        except Failure:
            if not self._abandoned:
                yield from self.rest()
            raise
        finally:
            self.shown_events.commit()

    def abandon(self) -> None:
        """End the stream at the failure that the caller throws in next: what follows stays for `rest`."""
        self._abandoned = True

    @property
    def holds_messages(self) -> bool:
        """Whether a received message was not yielded yet, because it waits for its place."""
        return bool(self.shown_events) or self.catch_up.merge.holds_messages

    def rest(self, *, gaps_only: bool = False) -> Generator[Event, None, None]:
        """Yield what was received and not shown: the stream has ended, or the caller closed it.

        Gaps come with it if nothing proved that the stream is complete. With `gaps_only`, yield only the first.
        """
        socket, live_socket = self.engine.socket, self._live_socket
        try:
            if live_socket is not None and live_socket is not socket:
                # A send found that the connection was broken, and opened another one.
                unreadable = live_socket.unreadable is not None
                self.shown_events.add(self.catch_up.socket_lost(live=True, unreadable=unreadable))
            if socket is not None:
                self._handle_all(socket)
            self.shown_events.add(self.catch_up.at_end())
            if gaps_only:
                self.shown_events.keep_first_gap()
            yield from self.shown_events.show()
        finally:
            self.shown_events.commit()

    def _handle_all(self, socket: SessionSocket) -> None:
        """Merge what has arrived on the socket, without waiting for more."""
        try:
            for _ in range(BATCH * 4):
                received = socket.receive(0.0)
                if not received:
                    return
                for item in received:
                    self._handle(item, self._clock.monotonic())
        except Failure:
            pass  # the stream ends anyway

    # --- with a socket ---

    def _follow_socket(self) -> Iterator[Event | None]:
        attempt = 0
        if self.engine.socket is not None and self.engine.socket.followed:
            self.engine.socket = None  # an earlier listener of this client used it
        while True:
            live_since: float | None = None
            socket = self.engine.socket
            try:
                if socket is None:
                    yield Connection("connecting", attempt=attempt)
                    socket = self.engine.socket = yield from self._open(attempt)
                self._live_socket = socket
                with self._sharing.beating():
                    found = self.catch_up.fill()
                self._sharing.attached(socket)
                yield from self.shown_events.show(found)
                live_since = self._clock.monotonic()
                replayed = (event for event in found if isinstance(event, Message) and event.source == "replayed")
                yield Connection("live", recovered=sum(1 for _ in replayed))
                yield from self._receive(socket)
            except PASSING_FAILURES as failure:
                self._sharing.lost(failure)
                if socket is not None:
                    # Where no socket was opened, nothing can have been missed on it.
                    unreadable = socket.unreadable is not None
                    ready = self.catch_up.socket_lost(
                        live=live_since is not None, unreadable=unreadable, at=socket.broke_at
                    )
                    self._live_socket = None
                    yield from self.shown_events.show(ready)
                    if self.engine.socket not in (None, socket):
                        continue  # a send of this process has opened another socket
                if live_since is not None and self._clock.monotonic() - live_since >= self._timings.stable_connection:
                    attempt = 0
                attempt += 1
                yield from self._connection_lost(failure, attempt)

    def _open(self, attempt: int) -> Generator[Event | None, None, SessionSocket]:
        """Return the socket of another listener, or open one, as a reconnect in its turn."""
        if not self._sharing.connects():
            followed = yield from self._sharing.follow(self._pause)
            if followed is not None:
                return followed
        if attempt:
            yield from self._pause(self.engine.connect_turn())
        with self._sharing.beating():
            return open_socket_once(self.engine, self._deadline())

    def _receive(self, socket: SessionSocket) -> Iterator[Event | None]:
        """Yield what arrives until the socket breaks (NetworkError) or the session ends."""
        catch_up, monotonic = self.catch_up, self._clock.monotonic
        while True:
            INTERRUPTS.check()  # on a busy stream, nothing below waits
            received = socket.receive(self._receive_timeout())
            count, end = 0, None
            while received and end is None:
                now = monotonic()
                for item in received:
                    failure = self._handle(item, now)
                    end = end or failure
                count += len(received)
                received = socket.receive(0.0) if end is None and count < BATCH else []
            self._sharing.publish()
            if end is not None:
                yield from self._look_last()
                raise end
            socket.unreadable = None
            # The time is read once: a message that waits for history is not shown before history was read, however
            # long it took to show earlier ones.
            now = monotonic()
            ready = catch_up.look() if catch_up.look_due(now) else []
            ready += catch_up.merge.ready(now)
            yield from self.shown_events.show(ready)
            if isinstance(catch_up.state, Continuous) and catch_up.reader.next_page_due(now):
                catch_up.reader.find_next_page()
            if not count and not ready:
                self.shown_events.commit()
                yield None
            self._renew_early(socket)

    def _look_last(self) -> Iterator[Event | None]:
        """The session has ended: show what a lagging history, or an unreadable frame, may hide."""
        for pause in (0.0, self._timings.second_look):
            if not isinstance(self.catch_up.state, Open):
                return
            yield from self._pause(pause)
            try:
                found = self.catch_up.look()
            except Failure as failure:
                self.engine.notice(f"cannot read history: {failure.message}")
                return
            yield from self.shown_events.show(found)

    def _handle(self, item: Incoming, now: float) -> Failure | None:
        """Pass what arrived on to `Merge`. Return the failure if it ends the stream."""
        if isinstance(item, Message):  # first, because most items are messages
            if self._ignore_before is None or not _older(item, self._ignore_before):
                self.catch_up.message_received(item)
                self.catch_up.merge.add_live(item, now)
            return None
        if isinstance(item, (Opened, Granted, Accepted, Alive, FlowAnswer)):
            return None
        if isinstance(item, Rejection):
            failure = item.failure
            self.engine.notice(f"the service reports: {failure.message}")
            self.catch_up.merge.add_live(ServiceError(failure.service_code, failure.body or failure.message), now)
            return None
        if self._ignore_before is None or not _older(item, self._ignore_before):
            if isinstance(item, Unknown) and item.label == UNREADABLE:
                self.catch_up.frame_unreadable()
            self.catch_up.merge.add_live(item, now)
        if not isinstance(item, SessionEvent):
            return None
        if item.change == "read_only":
            self._store_state("read_only")
        end = terminal_failure(item, self.engine.dialect.name)
        if end is None or (item.change == "token_expired" and self._refreshable()):
            return None
        if item.change in _STATE_AFTER:
            self._store_state(_STATE_AFTER[item.change])
        return end

    def _store_state(self, state: SessionState) -> None:
        self.engine.record.store(replace(self.engine.session, state=state))

    def _refreshable(self) -> bool:
        return self.engine.dialect.refreshable(self.engine.session) == "guest"

    def _renew_early(self, socket: SessionSocket) -> None:
        """Renew the guest's token before it expires, and authenticate the socket with it or open another one."""
        dialect = self.engine.dialect
        held = self.engine.session.credential("guest")
        if held is None or socket.followed or not self._refreshable():
            return
        if held.fresh_at(self._clock.now(), dialect.renewal_margins.get("guest", 0.0)):
            return
        if self.engine.credentials.renew_early("guest", self._deadline(), held) is None:
            return  # the present token is valid for a while
        if dialect.reattaches:
            reattaching = dialect.reattach(self.engine.session, traceparent=socket.traceparent)
            self.engine.record.store(self.engine.perform(reattaching, self._deadline(), socket=socket))
        else:
            for item in socket.close():
                self._handle(item, self._clock.monotonic())
            raise NetworkError("the token was renewed; opening another socket", written=True, close_code=1000)

    # --- reconnecting ---

    def _connection_lost(self, failure: Failure, attempt: int) -> Iterator[Event | None]:
        """Wait before the next attempt, or raise the failure when another attempt cannot help."""
        dialect, retry = self.engine.dialect, self.engine.dialect.profile.retry
        socket, self.engine.socket = self.engine.socket, None
        if socket is not None:
            socket.abort()
        if attempt > 1 and self._left() == 0:
            # The end of the wait cut this attempt off. The failure before it says what is wrong with the service.
            yield None
            return
        code = failure.close_code if isinstance(failure, NetworkError) else None
        action = dialect.on_close(code) if code is not None else "reconnect"
        final = isinstance(failure, NetworkError) and not failure.transient
        if final or (isinstance(failure, Conflict) and failure.code != "conflict.locked"):
            raise failure
        if action in {"final", "too_big"}:
            raise failure
        yield Connection("lost", failure.message, attempt=attempt, close_code=code, failure=failure)
        if action == "renew":
            yield from self._replace_refused_token()
        limit = retry.attempts or dialect.reconnect_attempts
        if not self._forever and attempt > limit:
            yield Connection("gave_up", failure.message, attempt=attempt - 1)
            raise NetworkError(
                f"gave up after {attempt - 1} reconnects: {failure.message}", code="network.gave_up", close_code=code
            ) from failure
        if not self._sharing.connects():
            yield Connection("retrying", attempt=attempt, delay=0.0, close_code=code)
            return  # another listener reconnects
        if attempt == 1:
            delay = self.engine.random.uniform(0.0, min(0.25, retry.base))
        else:
            delay = jittered(self.engine.random, attempt - 1, base=retry.base, cap=retry.cap)
        delay = max(delay, failure.retry_after or 0.0)
        self.engine.retry.report("socket" if dialect.has_socket else "history", delay, failure)
        yield Connection("retrying", attempt=attempt, delay=round(delay, 3), close_code=code)
        yield from self._pause(delay)
        yield from self._pause(self.engine.connect_turn())

    def _replace_refused_token(self) -> Iterator[Event | None]:
        """Renew the token that the service refused when it closed the socket. Raises Unauthorised where it cannot."""
        kind = self.engine.dialect.refreshable(self.engine.session)
        if kind != "guest":
            end = terminal_failure(SessionEvent("token_expired"), self.engine.dialect.name)
            assert end is not None
            raise end
        try:
            with self._sharing.beating():
                stale = self.engine.session.credential(kind)
                self.engine.credentials.renew_for_use(kind, self._deadline(), stale=stale)
        except (NetworkError, TimedOut, RateLimited) as failure:
            yield Connection("lost", f"cannot renew the token yet: {failure.message}")

    def _pause(self, seconds: float) -> Iterator[None]:
        """Wait, and yield None at every tick."""
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            self._sharing.publish()
            self._clock.sleep(min(left, self._limited(self._timings.tick)))
            yield None

    # --- without a socket ---

    def _poll(self) -> Iterator[Event | None]:
        """Poll history: often while messages arrive, less often while none do."""
        interval, failures = self._timings.poll_min, 0
        replaying = isinstance(self.catch_up.state, Unread)
        live = polled = False
        yield Connection("connecting")
        while True:
            left = self._left()
            if live and left is not None and left < self._timings.poll_min:
                # A poll that the caller's end would interrupt looks like a broken connection.
                yield from self._pause(left)
                yield None
                continue
            try:
                if isinstance(self.catch_up.state, FromNewest):
                    yield from self.shown_events.show(self.catch_up.find_newest())
                found = self.catch_up.read_after(self.catch_up.merge.position)
            except PASSING_FAILURES as failure:
                failures += 1
                live = False
                if polled:
                    self.catch_up.poll_failed(failure)
                yield from self._connection_lost(failure, failures)
                continue
            if not live:
                yield Connection("live", recovered=len(found.items) if failures else 0)
            gaps, fresh = self.catch_up.join_poll(found)
            yield from gaps
            if not failures and not replaying:
                fresh = [_as_live(item) for item in fresh]
            failures, live, polled, replaying = 0, True, True, False
            interval = (
                self._timings.poll_min if fresh else min(self._timings.poll_max / POLL_JITTER, interval * POLL_GROWTH)
            )
            yield from self.shown_events.show(fresh)
            self.shown_events.commit()
            yield from self._pause(self.engine.random.uniform(interval, interval * POLL_JITTER))

    # --- time ---

    def _receive_timeout(self) -> float:
        due = self.catch_up.wait(self._clock.monotonic())
        return self._limited(self._timings.tick if due is None else min(self._timings.tick, due))

    def _limited(self, seconds: float) -> float:
        """Return `seconds`, or less if the caller wants control earlier."""
        for limit in (self._wake(), self._left()):
            seconds = seconds if limit is None else max(0.0, min(seconds, limit))
        return seconds

    def _deadline(self) -> Deadline:
        """Return the deadline for one answer of the service: when the caller stops, at the latest."""
        return Deadline.after(self._clock, self._step).sooner(self._left())


class EventStream(Generator["Event | None", None, None]):
    """The events of a listener, which `start` makes when the first event is wanted.

    A caller that stops before the stream ends asks for the `rest`: what was received and waits for its place.
    """

    def __init__(self, start: Callable[[], Listener]) -> None:
        self._start = start
        self._listener: Listener | None = None
        self._events: Generator[Event | None, None, None] | None = None

    def _running(self) -> Generator[Event | None, None, None]:
        if self._events is None:
            self._listener = self._start()
            self._events = self._listener.events()
        return self._events

    def __next__(self) -> Event | None:
        return next(self._running())

    def send(self, value: None) -> Event | None:
        return next(self._running())

    def throw(self, *error: Any) -> Event | None:
        running = self._running()
        if self._listener is not None:
            self._listener.abandon()
        return running.throw(*error)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
        if self._listener is not None:
            self._listener.close()

    @property
    def has_ready(self) -> bool:
        """Whether the next event can be yielded without waiting: it arrived together with the last one."""
        return self._listener is not None and bool(self._listener.shown_events)

    @property
    def holds_messages(self) -> bool:
        """Whether a received message was not yielded yet, because it waits for its place."""
        return self._listener is not None and self._listener.holds_messages

    def take_ready(self) -> Event | None:
        """Return the event after the last one, if it need not be waited for (see `ShownEvents.take`)."""
        return None if self._listener is None else self._listener.shown_events.take()

    def shown(self, last: Event) -> None:
        """Note that the events up to `last` were shown. Without it, those taken count as shown at the next one."""
        if self._listener is not None:
            self._listener.shown_events.shown(last)

    def rest(self, *, gaps_only: bool = False) -> Generator[Event, None, None]:
        """Close the stream, and yield what was received and not yielded yet (see `Listener.rest`)."""
        self.close()
        if self._listener is not None:
            yield from self._listener.rest(gaps_only=gaps_only)


def _as_live(event: Event) -> Event:
    return replace(event, source="live") if isinstance(event, (Message, Presence)) else event


def _older(item: Incoming, position: Position) -> bool:
    """Return whether an event is a message or presence from before the position."""
    if not isinstance(item, (Message, Presence)):
        return False
    if isinstance(item, Message) and item.sequence is not None and position.sequence is not None:
        return item.sequence < position.sequence
    return item.time is not None and position.time is not None and item.time < position.time
