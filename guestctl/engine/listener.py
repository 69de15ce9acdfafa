"""Listening: live events through reconnects, with gaps filled, doubles dropped and order repaired.

Knows: when to reconnect and how long to wait, how history and the live stream are joined, when to
renew ahead of expiry, how to poll an API without a socket. Must not know: any dialect's wire,
printing, stop rules (the caller's: it gets control at every tick).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from guestctl.core.clock import Deadline
from guestctl.core.errors import Conflict, Failure, NetworkError, RateLimited, TimedOut
from guestctl.core.model import Connection, Event, Message, Position, Presence, Session, SessionEvent, SessionState
from guestctl.dialects.flows import Accepted, Alive, FlowAnswer, Granted, Incoming, Opened, Rejection
from guestctl.engine.catch_up import (
    PASSING_FAILURES,
    CatchUp,
    CatchUpState,
    Continuous,
    FromNewest,
    Unread,
)
from guestctl.engine.connect import open_socket_once
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.history import Item
from guestctl.engine.merge import Merge
from guestctl.engine.retry import jittered
from guestctl.engine.session_socket import SessionSocket, ending
from guestctl.storage.state import LedgerEntry

T = TypeVar("T")

#: Frames taken from a busy socket before what is ready is handed on; ledger rows per commit.
BATCH = 256
#: Growth of the interval between two polls that find nothing; the longest wait as a multiple of the shortest.
POLL_GROWTH, POLL_JITTER = 1.5, 1.25

_AFTER: dict[str, SessionState] = {"expired": "expired", "cleared": "cleared", "logged_out": "ended", "ended": "ended"}


class Listener:
    """A stream of events for one session.

    `position`: the last message already shown; everything after it is delivered. None with
    `baseline` starts at what is newest when the stream attaches. `step`: seconds the service has for
    each answer. `wake` says how many seconds may pass before the caller wants control again, `left` how
    many until it stops for good: no connecting takes longer, while one that a mere tick cut short would never
    get through a slow network.
    """

    def __init__(
        self,
        exchange: SessionEngine,
        *,
        position: Position | None = None,
        baseline: bool = True,
        from_start: bool = False,
        forever: bool = False,
        record: bool = True,
        step: float | None = 30.0,
        wake: Callable[[], float | None] = lambda: None,
        left: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.exchange = exchange
        self._timings = exchange.timings
        state: CatchUpState
        if position is not None or from_start:
            state = Unread()
        else:
            state = FromNewest() if baseline else Continuous()
        merge = Merge(position, begins=from_start, timings=self._timings)
        self.catch_up = CatchUp(exchange, state, merge, deadline=self._deadline, pause=self._pause)
        self._forever = forever
        self._record = record
        self._step = step
        self._wake, self._left = wake, left
        self._line: SessionSocket | None = None
        self._floor: Position | None = None
        self._shown: list[LedgerEntry] = []
        self._clock = exchange.clock

    def contiguous_from(self, position: Position) -> None:
        """Everything after `position` is heard on the socket opened by `attach`, while that one is open.
        What is heard and older is not shown. A message that this socket would have confirmed and has not
        was accepted before it was opened: what followed is in history."""
        self._floor = position
        line = self.exchange.socket
        received_all = (
            line is not None
            and line is self._line
            and (
                not self.exchange.dialect.sends_on_socket
                or any(isinstance(heard, (Message, Accepted)) and heard.id == position.id for heard in line.inbox)
            )
        )
        self.catch_up.start_after(position, missed=not received_all)

    def read_after(self, position: Position | None) -> tuple[list[Item], bool]:
        """Return history after a position and whether it continues there (see `CatchUp.read_after`)."""
        return self.catch_up.read_after(position)

    def nothing_before(self, position: Position) -> None:
        """What is heard and older is not shown: the socket may have been open when that came."""
        self._floor = position

    def attach(self, deadline: Deadline) -> None:
        """Open the socket now, before something is sent whose answers must not be missed."""
        if self.exchange.dialect.socket_address(self.exchange.session) is not None:
            self._line = self.exchange.attached(deadline)

    def events(self) -> Generator[Event | None, None, None]:
        """Events in order, each once; None at a tick in which nothing came.

        Raises what ends a stream for good: SessionOver (evicted, expired, cleared), Forbidden,
        Unauthorised, NetworkError when every reconnect failed.
        """
        try:
            if self.exchange.dialect.socket_address(self.exchange.session) is None:
                yield from self._poll()
            else:
                yield from self._stream()
        except Failure:
            yield from self.catch_up.pending_gap()
            yield from self._show(self.catch_up.merge.ready(self._clock.monotonic(), flush=True))
            raise
        finally:
            self._flush()

    # --- with a socket ---

    def _stream(self) -> Iterator[Event | None]:
        attempt = 0
        while True:
            live_since: float | None = None
            line = self.exchange.socket
            try:
                if line is None:
                    yield Connection("connecting", attempt=attempt)
                    line = self.exchange.socket = open_socket_once(self.exchange, self._deadline())
                replayed = yield from self._emit(self.catch_up.fill())
                live_since = self._clock.monotonic()
                yield Connection("live", recovered=replayed)
                yield from self._live(line)
            except PASSING_FAILURES as failure:
                unreadable = line is not None and line.unreadable is not None
                yield from self._show(self.catch_up.socket_lost(unreadable=unreadable))
                if line is not None and self.exchange.socket not in (None, line):
                    continue  # whoever sent something meanwhile has opened another socket
                if live_since is not None and self._clock.monotonic() - live_since >= self._timings.stable_connection:
                    attempt = 0
                attempt += 1
                yield from self._lost(failure, attempt)

    def _live(self, line: SessionSocket) -> Iterator[Event | None]:
        """Hand on what arrives until the socket breaks (NetworkError) or the session ends."""
        hear, catch_up, now = line.hear, self.catch_up, self._clock.monotonic
        while True:
            heard = hear(self._patience())
            taken, over = 0, None
            while heard and over is None:
                at = now()
                for one in heard:
                    over = over or self._take(one, at)
                taken += len(heard)
                heard = hear(0.0) if over is None and taken < BATCH else []
            if over is not None:
                yield from self._emit(catch_up.look_last(unreadable=line.unreadable is not None))
                raise over
            if line.unreadable is not None:
                line.unreadable = None
                catch_up.frame_unreadable()
                yield from self._emit(catch_up.look_early())
            elif catch_up.early_look_due():
                yield from self._emit(catch_up.look_early())
            # One moment for both: a message that waits for history is not shown before history was read, however
            # long reading it for another one took.
            at = now()
            if catch_up.look_due(at):
                yield from self._emit(catch_up.look())
            ready = catch_up.merge.ready(at)
            yield from self._show(ready)
            if not taken and not ready:
                self._flush()
                yield None
            self._renew_ahead(line)

    def _take(self, heard: Incoming, now: float) -> Failure | None:
        """Feed one heard thing to the merge; returns the failure when it ends the stream."""
        if isinstance(heard, (Opened, Granted, Accepted, Alive, FlowAnswer)):
            return None
        if isinstance(heard, Rejection):
            self.exchange.notice(f"the service says: {heard.failure.message}")
            return None
        if self._floor is None or not _older(heard, self._floor):
            if isinstance(heard, Message):
                self.catch_up.message_received(heard)
            self.catch_up.merge.add_live(heard, now)
        if not isinstance(heard, SessionEvent):
            return None
        if heard.change == "read_only":
            self.exchange.record.store(_in_state(self.exchange, "read_only"))
        over = ending(heard, self.exchange.dialect.name)
        if over is None or (heard.change == "token_expired" and self._refreshable()):
            return None
        if heard.change in _AFTER:
            self.exchange.record.store(_in_state(self.exchange, _AFTER[heard.change]))
        return over

    def _refreshable(self) -> bool:
        return self.exchange.dialect.refreshable(self.exchange.session) == "guest"

    def _renew_ahead(self, line: SessionSocket) -> None:
        """Renew the guest's token before it expires, and tell the socket, or take a fresh one."""
        dialect = self.exchange.dialect
        held = self.exchange.session.credential("guest")
        if held is None or not self._refreshable():
            return
        if held.fresh_at(self._clock.now(), dialect.renewal_margins.get("guest", 0.0)):
            return
        if self.exchange.credentials.renew_early("guest", self._deadline(), held) is None:
            return  # the socket is good for a while yet
        if dialect.reattaches:
            self.exchange.record.store(
                self.exchange.perform(dialect.reattach(self.exchange.session), self._deadline(), socket=line)
            )
        else:
            for heard in line.close():
                self._take(heard, self._clock.monotonic())
            raise NetworkError("renewed the token, taking a fresh socket", written=True, close_code=1000)

    # --- reconnecting ---

    def _lost(self, failure: Failure, attempt: int) -> Iterator[Event | None]:
        """Decide what a broken connection means; wait before the next attempt, or raise."""
        dialect, retry = self.exchange.dialect, self.exchange.dialect.profile.retry
        line, self.exchange.socket = self.exchange.socket, None
        if line is not None:
            line.abort()
            self.exchange.record.log("ws_disconnected", reason=failure.message)
        code = failure.close_code if isinstance(failure, NetworkError) else None
        action = dialect.on_close(code) if code is not None else "reconnect"
        final = isinstance(failure, NetworkError) and not failure.transient
        if final or (isinstance(failure, Conflict) and failure.code != "conflict.locked"):
            raise failure
        if action in {"final", "too_big"}:
            raise failure
        yield Connection("lost", failure.message, attempt=attempt, close_code=code, failure=failure)
        if action == "renew":
            yield from self._renew_refused()
        limit = retry.attempts or dialect.reconnect_attempts
        if not self._forever and attempt > limit:
            yield Connection("gave_up", failure.message, attempt=attempt - 1)
            raise NetworkError(
                f"gave up after {attempt - 1} reconnects: {failure.message}", code="network.gave_up", close_code=code
            ) from failure
        if attempt == 1:
            delay = self.exchange.random.uniform(0.0, min(0.25, retry.base))
        else:
            delay = jittered(self.exchange.random, attempt - 1, base=retry.base, cap=retry.cap)
        asked = failure.retry_after
        if asked is not None:
            delay = max(delay, asked)
        self.exchange.retry.report("socket" if dialect.has_socket else "history", delay, failure)
        yield Connection("retrying", attempt=attempt, delay=round(delay, 3), close_code=code)
        yield from self._pause(delay)

    def _renew_refused(self) -> Iterator[Event | None]:
        """A close that means the token was refused: renew it, or end here when that is impossible."""
        kind = self.exchange.dialect.refreshable(self.exchange.session)
        if kind != "guest":
            over = ending(SessionEvent("token_expired"), self.exchange.dialect.name)
            assert over is not None
            raise over
        try:
            self.exchange.credentials.renew_for_use(
                kind, self._deadline(), stale=self.exchange.session.credential(kind)
            )
        except (NetworkError, TimedOut, RateLimited) as failure:
            yield Connection("lost", f"the token could not be renewed yet: {failure.message}")

    def _pause(self, seconds: float) -> Iterator[None]:
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            self._clock.sleep(min(left, self._tick(self._timings.tick)))
            yield None

    # --- without a socket ---

    def _poll(self) -> Iterator[Event | None]:
        """Poll history: often while something happens, rarely while nothing does."""
        interval, failures = self._timings.poll_min, 0
        replaying = isinstance(self.catch_up.state, Unread)
        live = False
        yield Connection("connecting")
        while True:
            try:
                if isinstance(self.catch_up.state, FromNewest):
                    self.catch_up.begin_at_newest()
                items, proved = self.catch_up.read_after(self.catch_up.merge.position)
            except PASSING_FAILURES as failure:
                failures += 1
                live = False
                yield from self._lost(failure, failures)
                continue
            if not live:
                yield Connection("live", recovered=len(items) if failures else 0)
            gaps, fresh = self.catch_up.join_poll(items, proved)
            yield from gaps
            if not failures and not replaying:
                fresh = [_as_live(item) for item in fresh]
            failures, live, replaying = 0, True, False
            interval = (
                self._timings.poll_min if fresh else min(self._timings.poll_max / POLL_JITTER, interval * POLL_GROWTH)
            )
            yield from self._show(fresh)
            self._flush()
            yield from self._pause(self.exchange.random.uniform(interval, interval * POLL_JITTER))

    # --- handing on ---

    def _show(self, events: Iterable[Event]) -> Iterator[Event]:
        """Yield each event, and record it as shown afterwards."""
        for event in events:
            try:
                yield event
            except GeneratorExit:
                # A caller that stops at an event has shown it. One that failed to show it throws that failure in.
                self._note(event)
                raise
            self._note(event)

    def _emit(self, events: Generator[Event | None, None, T]) -> Generator[Event | None, None, T]:
        """Do the same for a generator that also yields None at a tick, and has a result."""
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            if event is None:
                yield None
            else:
                yield from self._show([event])

    def _note(self, event: Event) -> None:
        if self._record and isinstance(event, Message):
            self.exchange.record.store_offer(event)
            self._shown.append(LedgerEntry(event.id, event.key, event.sequence, event.time))
            if len(self._shown) >= BATCH:
                self._flush()

    def _flush(self) -> None:
        """Commit what was handed on; after the fact, so that nothing unseen counts as seen."""
        if self._shown:
            shown, self._shown = self._shown, []
            self.exchange.state.record(self.exchange.scope, self.exchange.session, shown)
            self.exchange.record.log("ws_message_received", count=len(shown))

    def _patience(self) -> float:
        held = self.catch_up.merge.wait(self._clock.monotonic())
        return self._tick(self._timings.tick if held is None else min(self._timings.tick, held))

    def _tick(self, seconds: float) -> float:
        for asked in (self._wake(), self._left()):
            seconds = seconds if asked is None else max(0.0, min(seconds, asked))
        return seconds

    def _deadline(self) -> Deadline:
        """For one answer of the service: no longer than the caller goes on at all."""
        return Deadline.after(self._clock, self._step).sooner(self._left())


def _in_state(exchange: SessionEngine, state: SessionState) -> Session:
    return replace(exchange.session, state=state)


def _as_live(event: Event) -> Event:
    return replace(event, source="live") if isinstance(event, (Message, Presence)) else event


def _older(heard: Incoming, position: Position) -> bool:
    """Whether it is something of the conversation from before the position."""
    if not isinstance(heard, (Message, Presence)):
        return False
    if isinstance(heard, Message) and heard.sequence is not None and position.sequence is not None:
        return heard.sequence < position.sequence
    return heard.time is not None and position.time is not None and heard.time < position.time
