"""Listening: live events through reconnects, with gaps filled, doubles dropped and order repaired.

Knows: when to reconnect and how long to wait, how history and the live stream are joined, when to
renew ahead of expiry, how to poll an API without a socket. Must not know: any dialect's wire,
printing, stop rules (the caller's: it gets control at every tick).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from math import inf
from typing import TypeVar

from guestctl.core.clock import Deadline
from guestctl.core.errors import Conflict, Failure, NetworkError, RateLimited, TimedOut, Unreadable
from guestctl.core.model import Connection, Event, Gap, Message, Position, Presence, Session, SessionEvent, SessionState
from guestctl.dialects.flows import Accepted, Alive, FlowAnswer, Granted, Incoming, Opened, Rejection
from guestctl.engine.connect import open_once
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.history import Fetch, Item, following, latest
from guestctl.engine.merge import Merge
from guestctl.engine.retry import jittered
from guestctl.engine.session_socket import SessionSocket, ending
from guestctl.storage.state import LedgerEntry

T = TypeVar("T")

#: Frames taken from a busy socket before what is ready is handed on; ledger rows per commit.
BATCH = 256
#: Growth of the interval between two polls that find nothing; the longest wait as a multiple of the shortest.
POLL_GROWTH, POLL_JITTER = 1.5, 1.25
#: Tries at filling a gap before it is declared.
FILL_TRIES = 4

_GONE = "the last message shown is not in history any more"
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
        self.merge = Merge(position, begins=from_start, timings=self._timings)
        self._filled = position is None and not from_start
        self._baseline = baseline and position is None and not from_start
        self._forever = forever
        self._record = record
        self._step = step
        self._wake, self._left = wake, left
        self._line: SessionSocket | None = None
        self._floor: Position | None = None
        self._look_at: float | None = None
        #: Looks that failed in a row; whether live messages wait for one.
        self._looks, self._settling = 0, False
        #: The first live message that waits for the second look may bring it forward.
        self._hasty = False
        #: Ids heard on this line since history was read to begin with: whoever shows one lacks nothing from
        #: before the line was there. None: not even that would tell, since something on the line is missing.
        self._fresh: set[str] | None = None
        #: Capabilities unless the second look proves that history was only behind.
        self._doubt: Gap | None = None
        self._shown: list[LedgerEntry] = []
        self._clock = exchange.clock

    def contiguous_from(self, position: Position) -> None:
        """Everything after `position` is heard on the socket opened by `attach`, while that one is open.
        What is heard and older is not shown. A message that this socket would have confirmed and has not
        was accepted before it was opened: what followed is in history."""
        self.merge = Merge(position, timings=self._timings)
        self._floor = position
        line = self.exchange.line
        self._filled = (
            line is not None
            and line is self._line
            and (
                not self.exchange.dialect.sends_on_socket
                or any(isinstance(heard, (Message, Accepted)) and heard.id == position.id for heard in line.inbox)
            )
        )

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
            yield from self._doubted()
            yield from self._emit(self.merge.ready(self._clock.monotonic(), flush=True))
            raise
        finally:
            self._flush()

    # --- with a socket ---

    def _stream(self) -> Iterator[Event | None]:
        attempt = 0
        while True:
            live_since: float | None = None
            line = self.exchange.line
            try:
                if line is None:
                    yield Connection("connecting", attempt=attempt)
                    line = self.exchange.line = open_once(self.exchange, self._deadline())
                replayed = yield from self._catch_up()
                live_since = self._clock.monotonic()
                yield Connection("live", recovered=replayed)
                yield from self._live(line)
            except (NetworkError, TimedOut, Unreadable, RateLimited, Conflict) as failure:
                # What is behind a missing number, behind a frame that could not be read, or not settled yet,
                # waits until history has been read again.
                if line is not None and line.unreadable is not None:
                    self.merge.unsettled(inf)
                yield from self._emit(self.merge.ready(self._clock.monotonic(), flush=True, over_gaps=False))
                self.merge.unsettled(inf)
                self._filled = False
                if line is not None and self.exchange.line not in (None, line):
                    continue  # whoever sent something meanwhile has opened another socket
                if live_since is not None and self._clock.monotonic() - live_since >= self._timings.stable_connection:
                    attempt = 0
                attempt += 1
                yield from self._lost(failure, attempt)

    def _live(self, line: SessionSocket) -> Iterator[Event | None]:
        """Hand on what arrives until the socket breaks (NetworkError) or the session ends."""
        hear, merge, now = line.hear, self.merge, self._clock.monotonic
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
                yield from self._look_last(line)
                raise over
            if line.unreadable is not None:
                # Whatever that frame said is in history, if it was a message: now, or a little later.
                line.unreadable = None
                self._look_again()
                self._fresh = None
                yield from self._look(early=True)
            elif self._hasty and merge.waiting(now()):
                self._hasty = False
                yield from self._look(early=True)
            # One moment for both: what waits for the look has no turn before it, however long another took.
            at = now()
            if (merge.missing and merge.wait(at) == 0.0) or (self._look_at is not None and self._look_at <= at):
                yield from self._look()
            ready = merge.ready(at)
            yield from self._emit(ready)
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
            if self._settling and self._fresh is not None and isinstance(heard, Message):
                self._fresh.add(heard.id)
            self.merge.feed(heard, now)
        if not isinstance(heard, SessionEvent):
            return None
        if heard.change == "read_only":
            self.exchange.keep(_in_state(self.exchange, "read_only"))
        over = ending(heard, self.exchange.dialect.name)
        if over is None or (heard.change == "token_expired" and self._refreshable()):
            return None
        if heard.change in _AFTER:
            self.exchange.keep(_in_state(self.exchange, _AFTER[heard.change]))
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
        if self.exchange.ahead("guest", self._deadline(), held) is None:
            return  # the socket is good for a while yet
        if dialect.reattaches:
            self.exchange.keep(
                self.exchange.perform(dialect.reattach(self.exchange.session), self._deadline(), line=line)
            )
        else:
            for heard in line.close():
                self._take(heard, self._clock.monotonic())
            raise NetworkError("renewed the token, taking a fresh socket", written=True, close_code=1000)

    # --- reconnecting ---

    def _lost(self, failure: Failure, attempt: int) -> Iterator[Event | None]:
        """Decide what a broken connection means; wait before the next attempt, or raise."""
        dialect, retry = self.exchange.dialect, self.exchange.dialect.profile.retry
        line, self.exchange.line = self.exchange.line, None
        if line is not None:
            line.abort()
            self.exchange.log("ws_disconnected", reason=failure.message)
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
            self.exchange.replacement(kind, self._deadline(), stale=self.exchange.session.credential(kind))
        except (NetworkError, TimedOut, RateLimited) as failure:
            yield Connection("lost", f"the token could not be renewed yet: {failure.message}")

    def _pause(self, seconds: float) -> Iterator[None]:
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            self._clock.sleep(min(left, self._tick(self._timings.tick)))
            yield None

    # --- history ---

    def _catch_up(self) -> Generator[Event | None, None, int]:
        """Join history and the stream; returns how many messages were replayed."""
        if self._baseline:
            self._begin_at_newest()
            self.merge.unsettled(0.0)
            return 0
        if self._filled:
            # The socket that is open now has heard everything since the position.
            self._filled = False
            return 0
        last = self._last_id
        for attempt in range(FILL_TRIES):
            try:
                items, proved = self.after(self.merge.anchor)
                break
            except (NetworkError, TimedOut, RateLimited, Unreadable, Conflict) as failure:
                if isinstance(failure, NetworkError) and failure.close_code is not None:
                    raise  # the socket itself, over which the history token comes
                if attempt == FILL_TRIES - 1:
                    self.exchange.notice(f"history could not be read: {failure.message}")
                    self._doubt = None
                    yield Gap(last, None, failure.message)
                    yield from self._emit(self.merge.ready(self._clock.monotonic(), flush=True))
                    return 0
                yield from self._pause(jittered(self.exchange.random, attempt, base=1.0, cap=5.0))
        replayed = self.merge.replay(items, lags=True)
        found = proved or last in {item.id for item in items}
        self._doubt = None if found else Gap(last, _first_id(replayed), _GONE)
        if replayed:
            yield from self._doubted()
        yield from self._emit(replayed)
        self._look_again()
        return sum(isinstance(event, Message) for event in replayed)

    def _begin_at_newest(self) -> None:
        """Show what arrives from now on. The newest message in history may have arrived after the socket
        was attached, and still be on its way to us."""
        newest = self._history(lambda fetch: latest(fetch, self.exchange.dialect.paging))
        if newest is None:
            self.merge = Merge(begins=True, timings=self._timings)
        elif newest.id is not None:
            sequence = newest.sequence if isinstance(newest, Message) else None
            self.merge = Merge(Position(newest.id, sequence, newest.time), shown=False, timings=self._timings)
        self._baseline = self._filled = False

    def after(self, position: Position | None) -> tuple[list[Item], bool]:
        """History after a position, oldest first, and whether contiguity with it was proved. Without that
        proof only what is certain to be later: the position may be one that history does not show yet.

        Where history lags it is read again, for a bounded time, until every acknowledged id is there.
        """
        until = self._clock.monotonic() + self._timings.lag_patience
        found = self._following(position)
        if not self.exchange.dialect.history_lags:
            return found
        while True:
            there = {item.id for item in found[0]}
            absent = [i for i in self._acknowledged() if i not in there and not self.merge.known(i)]
            if not absent:
                return found
            if self._clock.monotonic() >= until:
                self.exchange.notice(
                    f"history still lacks {len(absent)} acknowledged message(s) after {self._timings.lag_patience:g} s"
                )
                return found
            self._clock.sleep(self._timings.lag_pause)
            found = self._following(position)

    def _following(self, position: Position | None) -> tuple[list[Item], bool]:
        paging, size = self.exchange.dialect.paging, self.exchange.dialect.page_size
        items, proved = self._history(lambda fetch: following(fetch, paging, position, size))
        if not proved:
            places = [place for place in (position, self.merge.position) if place is not None]
            items = [item for item in items if any(_later(item, place) for place in places)]
        return items, proved

    def _acknowledged(self) -> list[str]:
        """Ids of this session's accepted sends since the position, newest last."""
        rows = self.exchange.state.outbox(self.exchange.scope, self.exchange.session, "accepted")
        since = self.merge.position.time if self.merge.position else None
        return [r.message_id for r in rows[-50:] if r.message_id and (since is None or (r.time or "") > since)]

    def _history(self, read: Callable[[Fetch], T]) -> T:
        known = (self.merge.position.sequence if self.merge.position else None) or 0
        return read(lambda after, cursor: self.exchange.page(after, cursor, self._deadline(), known=known))

    def _look_again(self) -> None:
        """History may not show yet what came last: until a second look, nothing live is put before it."""
        self._look_at = self._clock.monotonic() + self._timings.second_look
        self._looks, self._settling, self._hasty = 0, True, True
        self._fresh = set()
        self.merge.unsettled(self._look_at)

    def _look(self, *, early: bool = False) -> Iterator[Event | None]:
        """Ask history for what the stream should have brought. `early`: finding nothing proves nothing,
        and the second look is still to come."""
        if not early:
            self._look_at = None
        try:
            items, proved = self.after(self.merge.anchor)
        except (NetworkError, TimedOut, RateLimited, Unreadable, Conflict) as failure:
            if isinstance(failure, NetworkError) and failure.close_code is not None:
                raise
            self.exchange.notice(f"history could not be read: {failure.message}")
            if early:
                return
            self._looks += 1
            if self._looks < FILL_TRIES:
                self._wait_for_look(hold=self._settling or self.merge.missing is not None)
                return
            self._looks = 0
            if self._settling:
                self._settling, self._doubt = False, None
                yield Gap(self._last_id, None, failure.message)
            return
        if early and not (proved and self._tells(items)):
            return
        if early and not (self._fresh and any(item.id in self._fresh for item in items)):
            # It shows more, and may be behind still: what is later than all of it goes on waiting.
            yield from self._emit(self.merge.replay(items, lags=True))
            self.merge.unsettled(self._look_at or 0.0)
        elif proved:
            if self._behind(items):
                self._looks += 1
                yield from self._emit(self.merge.replay(items, lags=True))
                if self.merge.missing is not None and self._looks < FILL_TRIES:
                    self._wait_for_look(hold=True)
                    return
            self._look_at, self._looks, self._settling, self._hasty, self._doubt = None, 0, False, False, None
            yield from self._emit(self.merge.replay(items))
        else:
            self._settling = False
            yield from self._doubted()

    def _wait_for_look(self, *, hold: bool) -> None:
        self._look_at = self._clock.monotonic() + self._timings.second_look
        if hold:
            self.merge.unsettled(self._look_at)

    def _behind(self, items: Sequence[Item]) -> bool:
        """Whether history does not even show the message that a number is missing before."""
        missing = self.merge.missing
        return missing is not None and all(item.id != missing for item in items)

    def _look_last(self, line: SessionSocket) -> Iterator[Event | None]:
        """The session has ended: what a frame that could not be read, or a history that was behind, may hide."""
        if line.unreadable is None and not self._settling:
            return
        if line.unreadable is not None:
            self._look_again()
        yield from self._pause(max(0.0, (self._look_at or 0.0) - self._clock.monotonic()))
        try:
            items, proved = self.after(self.merge.anchor)
        except Failure as failure:
            self._doubt = Gap(self._last_id, None, failure.message)
        else:
            if proved:
                self._doubt = None
                yield from self._emit(self.merge.replay(items))

    def _doubted(self) -> Iterator[Event]:
        """Declare the gap that nothing has disproved."""
        doubt, self._doubt = self._doubt, None
        if doubt is not None:
            yield doubt

    @property
    def _last_id(self) -> str | None:
        return self.merge.position.id if self.merge.position else None

    def _tells(self, items: Sequence[Item]) -> bool:
        """Whether history has moved on since it was read last: it shows something unknown, or what waits for it."""
        waiting = self.merge.waiting(self._clock.monotonic())
        return any(item.id is not None and (item.id in waiting or not self.merge.known(item.id)) for item in items)

    # --- without a socket ---

    def _poll(self) -> Iterator[Event | None]:
        """Poll history: often while something happens, rarely while nothing does."""
        interval, failures = self._timings.poll_min, 0
        replaying = not self._filled
        live = False
        doubted_at: float | None = None
        yield Connection("connecting")
        while True:
            try:
                if self._baseline:
                    self._begin_at_newest()
                items, proved = self.after(self.merge.position)
            except (NetworkError, TimedOut, Unreadable, RateLimited, Conflict) as failure:
                failures += 1
                live = False
                yield from self._lost(failure, failures)
                continue
            if not live:
                yield Connection("live", recovered=len(items) if failures else 0)
            now = self._clock.monotonic()
            if proved:
                doubted_at = None
            elif doubted_at is None:
                self._doubt, doubted_at = Gap(self._last_id, _first_id(items), _GONE), now
            fresh = self.merge.replay(items)
            if proved:
                self._doubt = None
            elif fresh or now - (doubted_at or 0.0) >= self._timings.second_look:
                # Not merely behind. A place that cannot be told from history's times is given up.
                if self.merge.position is not None and self.merge.position.time is None:
                    self._begin_at_newest()
                yield from self._doubted()
            if not failures and not replaying:
                fresh = [_as_live(item) for item in fresh]
            failures, live, replaying = 0, True, False
            interval = (
                self._timings.poll_min if fresh else min(self._timings.poll_max / POLL_JITTER, interval * POLL_GROWTH)
            )
            yield from self._emit(fresh)
            self._flush()
            yield from self._pause(self.exchange.random.uniform(interval, interval * POLL_JITTER))

    # --- handing on ---

    def _emit(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            try:
                yield event
            except GeneratorExit:
                # Whoever stops at an event has had it; who failed to show it throws that failure in.
                self._note(event)
                raise
            self._note(event)

    def _note(self, event: Event) -> None:
        if self._record and isinstance(event, Message):
            self.exchange.remember(event)
            self._shown.append(LedgerEntry(event.id, event.key, event.sequence, event.time))
            if len(self._shown) >= BATCH:
                self._flush()

    def _flush(self) -> None:
        """Commit what was handed on; after the fact, so that nothing unseen counts as seen."""
        if self._shown:
            shown, self._shown = self._shown, []
            self.exchange.state.record(self.exchange.scope, self.exchange.session, shown)
            self.exchange.log("ws_message_received", count=len(shown))

    def _patience(self) -> float:
        held = self.merge.wait(self._clock.monotonic())
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


def _first_id(events: Sequence[Event]) -> str | None:
    for event in events:
        if isinstance(event, (Message, Presence)):
            return event.id
    return None


def _older(heard: Incoming, position: Position) -> bool:
    """Whether it is something of the conversation from before the position."""
    if not isinstance(heard, (Message, Presence)):
        return False
    if isinstance(heard, Message) and heard.sequence is not None and position.sequence is not None:
        return heard.sequence < position.sequence
    return heard.time is not None and position.time is not None and heard.time < position.time


def _later(item: Item, place: Position) -> bool:
    """Whether it is certain to have come after a place that history does not show."""
    sequence = item.sequence if isinstance(item, Message) else None
    if sequence is not None and place.sequence is not None:
        return sequence > place.sequence
    return item.time is not None and place.time is not None and item.time > place.time
