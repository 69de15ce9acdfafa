"""Catch up with history: find out what may be missing from the live stream, and read it.

Knows: in which situations messages may be missing, which evidence proves that none is, when history is read again, and
when a gap is declared. Must not know: any dialect's wire, how a connection is opened or polled, printing, when the
caller stops.

Time proves nothing here. History may lag by any amount, so that neither its silence nor the entry at the position shows
that it is complete. Two things do (reliability.md §6.4):

* a message with the number after the last one shown, on an API that numbers its messages;
* a message that arrived live on the open socket and that history also shows. History becomes visible in order, so it
  then shows everything before that message, too.

`CatchUp.state` is always one of these:

`FromNewest`   Nothing older than now is wanted, and the newest entry of history is not known yet.
`Unread`       Messages after the last one shown may be missing, and history has not been read yet.
`Continuous`   Nothing is missing: the open socket brings everything that follows the last message shown.
`Open`         Messages may be missing, and nothing has proved yet that history shows them all. It is read again: soon
               and often while a sign shows that it lags, rarely otherwise, and at once when a live message arrives.
               Live messages without a consecutive number wait for the proof, or for the fill deadline.
`Unproved`     Polling only: history does not show the last message shown any more.

    start ── FromNewest ── newest entry read ────────────────► Continuous
          └─ Unread ────── history read, or unreadable ──────► Open
    Continuous ── a sequence number is missing ──────────────► Open
               └─ a frame was unreadable ────────────────────► Open
    Open ── one of the two proofs ───────────────────────────► Continuous
         └─ the fill deadline passed: gap, live messages go on, and it stays Open
    any state but FromNewest ── the socket broke ────────────► Unread
    Unread or Continuous ── a poll lost the last message ────► Unproved ── a poll shows it ──► Continuous
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import TypeAlias, TypeVar

from guestctl.core.clock import Deadline
from guestctl.core.errors import Conflict, Failure, NetworkError, RateLimited, TimedOut, Unreadable
from guestctl.core.model import Event, Gap, Message, Position, Presence, Unknown
from guestctl.core.values import immutable
from guestctl.dialects.capabilities import Paging
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.history import Fetch, Following, Item, latest, missed
from guestctl.engine.history_reader import FIRST_READ, HistoryReader, raise_if_socket_broke
from guestctl.engine.merge import MISSING, Merge

T = TypeVar("T")

#: Reads of history that may fail in a row before a gap is declared.
FILL_TRIES = 4
#: Failures after which reading history again may succeed.
PASSING_FAILURES = (NetworkError, TimedOut, RateLimited, Unreadable, Conflict)
#: Numbers are not waited for while listening: history is read again anyway.
_ANY_NUMBER = 1 << 62

#: The reasons of gaps.
UNPROVED, TOO_LONG = "unproved", "too_long"
_LAST_MESSAGE_GONE = "the last message shown is no longer in history"

# --- the states ---


@immutable
class FromNewest:
    """A listener without a position starts: it shows what arrives from now on.

    `due`: when (monotonic) the newest entry is read (again). `pause`: the pause after that. `failure`: why the last
    read failed. `broken`: a socket broke before the newest entry was known, so that messages may have been missed: the
    next read declares a gap.
    """

    due: float = 0.0
    pause: float = 0.0
    failure: str | None = None
    broken: bool = False


@immutable
class Unread:
    """A listener starts at a position, or the socket broke and a new one is open.

    `broken`: a socket broke, so that live messages may have been missed.
    """

    broken: bool = False


@immutable
class Continuous:
    """The socket has been open since the last message shown, or history has proved that nothing is missing."""


@immutable
class Open:
    """Messages may be missing before a message that arrives on the open socket.

    `due`: when (monotonic) history is read again. `pause`: the pause after that read.
    `broken`: live messages may have been missed, so that a gap is declared if the stream ends now.
    `received`: messages that arrived on this socket for the first time, with their numbers. History that shows one
    of them shows everything before the socket, too.
    `replayed`: ids that complete reads of history showed since the socket was opened: a live copy of one proves that
    they showed everything before the socket, too.
    `failures`: reads in a row that failed, the last of them with `failure`.
    `unreadable`: a frame was unreadable, so that history will show a message that was not shown.
    `declared`: a gap was declared. Nothing waits any more; entries that are found later are still shown.
    """

    due: float
    pause: float
    broken: bool = False
    received: tuple[tuple[str, int | None], ...] = ()
    replayed: frozenset[str] = frozenset()
    failures: int = 0
    failure: str | None = None
    unreadable: bool = False
    declared: bool = False


@immutable
class Unproved:
    """A poll did not show the last message shown: history lags, or that message was deleted.

    `gap`: declared when history goes on without that message, or after `Timings.fill_deadline`; None once declared.
    `since`: when (monotonic) it was not shown for the first time.
    """

    gap: Gap | None
    since: float


CatchUpState: TypeAlias = FromNewest | Unread | Continuous | Open | Unproved


class CatchUp:
    """Joins the history of one session with its live stream.

    `deadline` gives the deadline for one answer of the service, `left` the seconds until the caller stops.
    """

    def __init__(
        self,
        engine: SessionEngine,
        state: CatchUpState,
        merge: Merge,
        *,
        deadline: Callable[[], Deadline],
        left: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.engine = engine
        self.state = state
        self.merge = merge
        self.reader = HistoryReader(engine, deadline)
        self._deadline = deadline
        self._left = left
        self._clock = engine.clock
        self._timings = engine.timings
        #: The caller awaits a reply: it must receive what waits for a proof before its own deadline.
        self._awaits_reply = False
        #: Ids of live messages before which others may be missing: the first of each socket that has not been proved
        #: to continue the one before it.
        self._unproved_before: set[str] = set()
        #: Why the last poll failed, None if it did not.
        self._poll_failure: str | None = None

    def start_after(self, position: Position, *, missed: bool) -> None:
        """Start over after `position`, to await a reply.

        `missed`: the open socket may not have brought all that follows it.
        """
        self.merge = Merge(position, timings=self._timings)
        self.state = Unread() if missed else Continuous()
        self._awaits_reply = True

    # --- what happens on the socket ---

    def socket_lost(self, *, live: bool, unreadable: bool, at: float | None = None) -> list[Event]:
        """Note that the socket broke: what follows may be missing until history has been read.

        Return what can be shown before that. `live`: the socket was open and history had been read as far as possible.
        `unreadable`: a frame was unreadable shortly before, so that what came after it has to wait, too. `at`: when
        (epoch seconds) it broke, None: now.
        """
        self.reader.socket_lost(at)
        if unreadable:
            self.merge.wait_for_history(inf)
        ready = self.merge.ready(self._clock.monotonic(), flush=True, over_gaps=False)
        self.merge.wait_for_history(inf)
        if isinstance(self.state, FromNewest):
            self.state = replace(self.state, broken=self.state.broken or live)
        else:
            self.state = Unread(broken=True)
        return ready

    def message_received(self, message: Message) -> None:
        """Note a live message before it is merged: it can prove that nothing is missing, now or once history shows it.

        A message that an earlier socket brought proves nothing: the service may send it again.
        """
        self.reader.message_received()
        state = self.state
        if not isinstance(state, Open):
            return
        if message.id in state.replayed:
            self._close()
            return
        if self.merge.has_seen(message.id):
            return
        if message.sequence is not None and self.merge.continues_at(message.sequence):
            self._close()
            return
        now = self._clock.monotonic()
        soon = max(now, min(state.due, now if not state.received else state.due - state.pause + self._timings.look_min))
        received = (*state.received, (message.id, message.sequence))[-100:]
        if not state.received:
            self._unproved_before.add(message.id)
        self.state = replace(state, received=received, due=soon, pause=self._timings.look_min)

    def frame_unreadable(self) -> None:
        """Note that a frame was unreadable: if it was a message, history shows it, now or a little later."""
        if isinstance(self.state, (FromNewest, Unread)):
            return
        self._open(broken=True, unreadable=True)

    def _open(
        self, *, broken: bool, received: tuple[tuple[str, int | None], ...] = (), unreadable: bool = False
    ) -> Open:
        now = self._clock.monotonic()
        state = self.state
        broken = broken or (isinstance(state, Open) and state.broken and not state.declared)
        self.state = opened = Open(now, self._timings.look_min, broken, received, unreadable=unreadable)
        self.merge.wait_for_history(inf)
        return opened

    def _close(self) -> None:
        self.state = Continuous()
        self._unproved_before.clear()
        self.merge.wait_for_history(0.0)

    # --- after a socket was opened ---

    def fill(self) -> list[Event]:
        """Read what may be missing before the socket that has just been opened, and return it.

        Raises NetworkError when the socket itself breaks.
        """
        if isinstance(self.state, FromNewest):
            return self._find_newest(self.state)
        if isinstance(self.state, Continuous):
            return []
        self._open(broken=isinstance(self.state, Unread) and self.state.broken)
        return self.look()

    def _find_newest(self, state: FromNewest) -> list[Event]:
        """Find where the stream starts. Where history cannot be read, listening goes on, and it is tried again."""
        try:
            gaps = self.find_newest()
        except PASSING_FAILURES as failure:
            raise_if_socket_broke(failure)
            if state.failure is None:
                self.engine.notice(f"cannot read history: {failure.message}")
            pause = self.reader.next_pause(state.pause or self._timings.second_look, failure)
            self.merge.wait_for_history(0.0)
            self.state = FromNewest(self._clock.monotonic() + pause, pause, failure.message)
            return [Gap(None, None, failure.message)] if state.broken else []
        self.merge.wait_for_history(0.0)
        return gaps

    def find_newest(self) -> list[Event]:
        """Find where the stream starts. Return the gap before it. Raises the failure if history cannot be read."""
        state = self.state
        self.begin_at_newest()
        missed = isinstance(state, FromNewest) and state.broken  # what came before the newest entry was not shown
        return [Gap(None, self._last_id, _reason(state))] if missed else []

    def begin_at_newest(self) -> None:
        """Start after the newest entry of history. A message itself may still arrive on the socket, since the
        socket was open before history was read: it is shown then."""
        newest = self._read(lambda fetch: latest(fetch, self.engine.dialect.paging))
        if self.merge.position is None and not self.merge.holds_messages:
            if newest is None:
                self.merge = Merge(begins=True, timings=self._timings)
            elif newest.id is not None:
                sequence = newest.sequence if isinstance(newest, Message) else None
                position = Position(newest.id, sequence, newest.time)
                self.merge = Merge(position, shown=False, timings=self._timings)
        self.state = Continuous()

    # --- while the socket is open ---

    def look_due(self, now: float) -> bool:
        """Return whether history must be read at monotonic `now`, or a gap be declared."""
        state = self.state
        if isinstance(state, FromNewest):
            if self.merge.position is not None:
                self.state = Continuous()  # a live message was shown: the stream starts there
                return False
            return state.due <= now
        if isinstance(state, Open):
            return state.due <= now or (self._something_waits and self._fill_deadline() <= now)
        return bool(self.merge.after_missing) and self.merge.wait(now) == 0.0

    def wait(self, now: float) -> float | None:
        """Return the seconds until something has to be done, None if nothing is due."""
        state = self.state
        times = [] if (held := self.merge.wait(now)) is None else [held]
        if isinstance(state, (Open, FromNewest)):
            times.append(max(0.0, state.due - now))
        if isinstance(state, Open) and self._something_waits:
            times.append(max(0.0, self._fill_deadline() - now))
        return min(times, default=None)

    def look(self) -> list[Event]:
        """Read history, and return what can be shown now: entries that were missing, live messages, gaps."""
        if isinstance(self.state, FromNewest):
            return self._find_newest(self.state)
        if not isinstance(self.state, Open):
            # A number is missing. History shows that message, now or a little later.
            missing = self.merge.after_missing
            self._open(broken=False, received=() if missing is None else ((missing, None),))
        events = self._read_missed()
        state = self.state
        if isinstance(state, Open):
            overdue = self._something_waits and self._fill_deadline() <= self._clock.monotonic()
            unreadable = state.failures >= FILL_TRIES and not state.declared
            if overdue or unreadable:
                events += self._declare(state.failure or MISSING, unreadable=unreadable)
            elif not state.declared or self.merge.after_missing is not None:
                self.merge.wait_for_history(inf)
        return events

    def _read_missed(self) -> list[Event]:
        state = self.state
        assert isinstance(state, Open)
        try:
            found = self._read_once(self.merge.anchor)
        except PASSING_FAILURES as failure:
            raise_if_socket_broke(failure)
            if state.failure is None:
                self.engine.notice(f"cannot read history: {failure.message}")
            pause = self.reader.next_pause(max(state.pause, self._timings.second_look), failure)
            due = self._clock.monotonic() + pause
            self.state = replace(state, due=due, pause=pause, failures=state.failures + 1, failure=failure.message)
            return []
        self.state = state = replace(state, failures=0, failure=None)
        events = self._join(found)
        if isinstance(self.state, Open):
            pause = (
                self.reader.next_pause(state.pause) if self._lags(found) else self.reader.next_quiet_pause(state.pause)
            )
            self.state = replace(self.state, due=self._clock.monotonic() + pause, pause=pause)
        return events

    def _lags(self, found: Following) -> bool:
        """Return whether a sign shows that history lacks something, or a caller needs it as soon as it is there."""
        state = self.state
        assert isinstance(state, Open)
        number = self.reader.announced
        announced = number is not None and not self.merge.covers(number)
        lacks = bool(state.received) or state.unreadable or self._something_waits
        return lacks or announced or not found.anchored or self._awaits_reply

    def _join(self, found: Following) -> list[Event]:
        """Return what a read of history adds, and close the question if it is proved that nothing is missing."""
        state = self.state
        assert isinstance(state, Open)
        shown = {item.id for item in found.items}
        items = _certain(found, self.merge.anchor, self.merge.position).items
        proved = any(id_ in shown for id_, _ in state.received)
        anchored = found.anchored or (self._last_id is not None and self._last_id in shown)
        after = self.merge.anchor.id if self.merge.anchor and found.anchored else None
        fresh = frozenset(item.id for item in items if item.id is not None and not self.merge.has_seen(item.id))
        events: list[Event] = []
        if not anchored and (fresh or proved) and not state.declared:
            # History goes on without the last message shown: it was deleted, and others with it, perhaps.
            first = next((item.id for item in items if item.id is not None), None)
            events.append(Gap(self._last_id, first, _LAST_MESSAGE_GONE))
            state = replace(state, declared=True)
        if not found.complete and not self._pages_backwards:
            events += self._join_part(items, after)
            return events
        if not found.complete:  # the newest entries, which do not prove more than a whole history does
            events.append(Gap(self._last_id, next((item.id for item in items if item.id is not None), None), TOO_LONG))
        events += self.merge.replay(items, after=after, lags=not proved)
        self.state = state = replace(state, replayed=state.replayed | fresh)
        if proved or any(number is not None and self.merge.covers(number) for _, number in state.received):
            self._close()
        elif not anchored and state.declared and _is_only_an_id(self.merge.position):
            # Without its number and time, no later read could determine what follows the deleted message.
            self._start_again()
        return events

    def _join_part(self, items: Sequence[Item], after: str | None) -> list[Event]:
        """Return the part of history that may be held, and a gap where the rest is missing. Nothing is read again."""
        last, kept = self._last_id, [item for item in items if item.id is not None]
        backwards = self._pages_backwards
        gap = Gap(last, kept[0].id if kept else None, TOO_LONG) if backwards else None
        shown = self.merge.replay(items, after=after, lags=True)
        held = self.merge.ready(self._clock.monotonic(), flush=True)
        gap = gap or Gap(kept[-1].id if kept else last, None, TOO_LONG)
        self._close()
        return [gap, *shown, *held] if backwards else [*shown, gap, *held]

    @property
    def _pages_backwards(self) -> bool:
        return self.engine.dialect.paging is Paging.BY_PAGE_NUMBER

    def _declare(self, reason: str, *, unreadable: bool = False) -> list[Event]:
        """Declare gaps before the live messages that waited, and return all of them. History is read on.

        If none of them arrived on the open socket, what was missed before that socket remains to be proved, unless
        history is `unreadable`: then another gap follows.
        """
        state = self.state
        assert isinstance(state, Open)
        last = self._last_id
        self.merge.wait_for_history(0.0)
        live = self.merge.ready(self._clock.monotonic(), flush=True)
        if state.declared:
            return live  # `Merge` names a missing number
        events = self._between_gaps(live, last, reason)
        if unreadable and not state.received:
            events.append(Gap(self._last_id, None, reason))
        declared = bool(state.received) or unreadable
        self.state = replace(state, declared=declared)
        if not declared:
            self.merge.wait_for_history(inf)
        return events

    def _between_gaps(self, live: list[Event], last: str | None, reason: str) -> list[Event]:
        unproved, self._unproved_before = self._unproved_before, set()
        return _with_gaps(live, last, unproved, reason)

    @property
    def _something_waits(self) -> bool:
        return self.merge.waiting_since() is not None

    def _fill_deadline(self) -> float:
        """Return when (monotonic) the first message that waits is shown without a proof."""
        since = self.merge.waiting_since()
        if since is None:
            return inf
        patience, left = self._timings.fill_deadline, self._left()
        if self._awaits_reply and left is not None:
            now = self._clock.monotonic()
            patience = min(patience, (now - since + left) / 2)
        return since + patience

    # --- the end of the stream ---

    def at_end(self) -> list[Event]:
        """The stream ends: return everything that waits, and the gaps that nothing has disproved."""
        state, reason, last = self.state, _reason(self.state), self._last_id
        self.state = Continuous()
        live = self.merge.ready(self._clock.monotonic(), flush=True)
        # Whether messages before those that wait may be missing, and whether messages after them may be.
        before = after = False
        if isinstance(state, Unproved):
            return live if state.gap is None else [state.gap, *live]
        if isinstance(state, Open):
            before, after = not state.declared, state.broken and not state.received and not state.declared
        elif isinstance(state, (Unread, FromNewest)):
            before, after = isinstance(state, Unread) or state.broken, state.broken
        elif self._poll_failure is not None:
            after, reason = True, self._poll_failure
        events = self._between_gaps(live, last, reason) if before else live
        return [*events, Gap(self._last_id, None, reason)] if after else events

    @property
    def _last_id(self) -> str | None:
        return self.merge.position.id if self.merge.position else None

    # --- without a socket ---

    def poll_failed(self, failure: Failure) -> None:
        """Note that a poll failed after an earlier one: what it would have shown is unknown if the stream ends now."""
        self._poll_failure = failure.message

    def join_poll(self, found: Following) -> tuple[list[Gap], list[Event]]:
        """Return what a poll adds: the gap that has to be declared before it, if any, and the new events."""
        self._poll_failure = None
        now, items = self._clock.monotonic(), found.items
        position = self.merge.position
        if not found.complete:
            self.state = Continuous()
            return [], self._join_part(items, position.id if position else None)
        if found.anchored:
            self.state = Continuous()
        elif not isinstance(self.state, Unproved):
            first = next((item.id for item in items if item.id is not None), None)
            self.state = Unproved(Gap(self._last_id, first, _LAST_MESSAGE_GONE), now)
        fresh = self.merge.replay(items, after=position.id if position else None)
        state = self.state
        if not isinstance(state, Unproved) or not (fresh or now - state.since >= self._timings.fill_deadline):
            return [], fresh
        # The last message was deleted. Without its time, no later poll could determine what follows it.
        if self.merge.position is not None and self.merge.position.time is None:
            self._start_again()
            self.state = state
        gap, self.state = state.gap, replace(state, gap=None)
        return ([] if gap is None else [gap]), fresh

    def _start_again(self) -> None:
        self.merge = Merge(timings=self._timings)
        self.begin_at_newest()

    # --- reading history ---

    def read_after(self, position: Position | None) -> Following:
        """Return history after a position, oldest first (see `missed`).

        If it is not anchored, return only what is certainly later: history may not show the position yet.
        Where history lags, it is read again until it shows every accepted message, for `Timings.lag_patience` at most.
        """
        until = self._clock.monotonic() + self._timings.lag_patience
        found = _certain(self._read_once(position), position, self.merge.position)
        if not self.engine.dialect.history_lags:
            return found
        while True:
            shown = {item.id for item in found.items}
            accepted = _accepted_ids(self.engine, self.merge.position)
            absent = [i for i in accepted if i not in shown and not self.merge.has_seen(i)]
            if not absent or not found.complete:
                return found
            if self._clock.monotonic() + self._timings.lag_pause >= min(until, self._deadline().at or inf):
                self.engine.notice(
                    f"history still lacks {len(absent)} accepted message(s) after {self._timings.lag_patience:g} s"
                )
                return found
            self._clock.sleep(self._timings.lag_pause)
            found = _certain(self._read_once(position), position, self.merge.position)

    def _read_once(self, position: Position | None) -> Following:
        paging, size = self.engine.dialect.paging, self.engine.dialect.page_size
        shared = isinstance(self.state, Open) and self.state.broken
        return self.reader.read_after(
            position, lambda after: self._read(lambda fetch: missed(fetch, paging, after, size)), shared=shared
        )

    def _read(self, read: Callable[[Fetch], T]) -> T:
        """Read pages of history, each within the deadline for one answer.

        While a socket is open, live messages cannot be shown during a read. So the first reads are given less time.
        """
        known = (self.merge.position.sequence if self.merge.position else None) or 0
        patience: float | None = None
        pause = 0.0
        state = self.state
        if isinstance(state, Open):
            known, patience = _ANY_NUMBER, FIRST_READ * 2.0**state.failures
            pause = self._timings.page_pause if state.broken else 0.0
        elif isinstance(state, FromNewest) and state.failure is None:
            patience = FIRST_READ
        return self.reader.read(read, known=known, patience=patience, pause=pause)


def _reason(state: CatchUpState) -> str:
    return (state.failure if isinstance(state, (FromNewest, Open)) else None) or UNPROVED


def _accepted_ids(engine: SessionEngine, position: Position | None) -> list[str]:
    """Return the service ids of the session's accepted sends since a position, newest last."""
    rows = engine.state.outbox(engine.scope, engine.session, "accepted")
    since = position.time if position else None
    return [r.message_id for r in rows[-50:] if r.message_id and (since is None or (r.time or "") > since)]


def _is_only_an_id(position: Position | None) -> bool:
    return position is not None and position.time is None and position.sequence is None


def _certain(found: Following, *positions: Position | None) -> Following:
    """Return only what is certainly after one of the positions, if history does not show the position read after."""
    if found.anchored:
        return found
    bounds = [position for position in positions if position is not None]
    return replace(found, items=[item for item in found.items if any(_certainly_after(item, b) for b in bounds)])


def _certainly_after(item: Item, position: Position) -> bool:
    """Return whether an item came after a position that history does not show."""
    if isinstance(item, Unknown):
        return False
    sequence = item.sequence if isinstance(item, Message) else None
    if sequence is not None and position.sequence is not None:
        return sequence > position.sequence
    return item.time is not None and position.time is not None and item.time > position.time


def _with_gaps(live: list[Event], last: str | None, unproved_before: set[str], reason: str) -> list[Event]:
    """Return live messages with a gap before the first, and before each that begins another socket.

    `last` is the message before them. Missing numbers have gaps already, which `Merge` declares.
    """
    if any(isinstance(event, Gap) for event in live):
        return live
    events: list[Event] = []
    first = True
    for event in live:
        if isinstance(event, (Message, Presence)) and event.id is not None:
            if first or event.id in unproved_before:
                events.append(Gap(last, event.id, reason))
            first, last = False, event.id
        events.append(event)
    return events
