"""Catch up with history: find out what may be missing from the live stream, and read it.

Knows: in which situations messages may be missing, when history is read again, and when a gap is declared.
Must not know: any dialect's wire, how a connection is opened or polled, printing, when the caller stops.

`CatchUp.state` is always one of these:

`FromNewest`   Nothing older than now is wanted, and the newest entry of history is not known yet.
`Unread`       Messages after the last one shown may be missing, and history has not been read yet.
`Continuous`   Nothing is missing: the open socket brings everything that follows the last message shown.
`Settling`     History was read just after the socket opened, and may lag: it is read again before live messages
               without a sequence number are shown.
`Rereading`    Nothing was missing when the socket opened, but now a sequence number is, and history does not
               show that message yet.
`Unproved`     Polling only: history does not show the last message shown any more.

    start ── FromNewest ── newest entry read ───────────────► Continuous
          └─ Unread ────── history read ────────────────────► Settling
                        └─ history unreadable: gap ─────────► Continuous
    Continuous ── a sequence number is missing ─────────────► Rereading ── found, or given up: gap ──► Continuous
               └─ a frame was unreadable ───────────────────► Settling
    Settling ── history shows all, or given up: gap ────────► Continuous
    any state but FromNewest ── the socket broke ───────────► Unread
    Unread or Continuous ── a poll lost the last message ───► Unproved ── a poll shows it ──► Continuous
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from math import inf
from typing import TypeAlias, TypeVar

from guestctl.core.clock import Deadline
from guestctl.core.errors import Conflict, Failure, NetworkError, RateLimited, TimedOut, Unreadable
from guestctl.core.model import Event, Gap, Message, Position, Presence
from guestctl.core.values import immutable
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.history import Fetch, Item, following, latest
from guestctl.engine.merge import Merge
from guestctl.engine.retry import jittered

T = TypeVar("T")

#: Attempts to read history before a gap is declared.
FILL_TRIES = 4
#: Failures after which reading history again may succeed.
PASSING_FAILURES = (NetworkError, TimedOut, RateLimited, Unreadable, Conflict)

_LAST_MESSAGE_GONE = "the last message shown is no longer in history"

# --- the states ---


@immutable
class FromNewest:
    """A listener without a position starts: it shows what arrives from now on."""


@immutable
class Unread:
    """A listener starts at a position, or the socket broke and a new one is open.

    `gap`: an earlier read of history did not prove that nothing is missing. The gap is declared when the stream ends,
    unless the next read proves otherwise.
    """

    gap: Gap | None = None


@immutable
class Continuous:
    """The socket has been open since the last message shown, or history has proved that nothing is missing."""


@immutable
class Settling:
    """History was read after a socket was opened, or must be, because a frame on the socket was unreadable.

    `due`: when (monotonic) history is read again; until then messages without a number wait.
    `gap`: declared at `due`, unless history proves that nothing is missing.
    `received`: ids of messages that arrived on this socket since then. Once history shows one of them, it has caught up
    with everything before the socket was opened. None: even that proves nothing, because the missing message was
    sent on this socket.
    `early_look`: the next live message that has to wait makes the client read history at once.
    `failures`: attempts in a row that failed, or did not show enough.
    """

    due: float
    gap: Gap | None
    received: set[str] | None
    early_look: bool = True
    failures: int = 0


@immutable
class Rereading:
    """A live message shows that the number before it is missing, and history could not be read, or lags.

    `due`: when (monotonic) history is read again. `failures`: attempts in a row that failed, or did not show enough.
    """

    due: float
    failures: int


@immutable
class Unproved:
    """A poll did not show the last message shown: history lags, or that message was deleted.

    `gap`: declared when history goes on without that message, or after `Timings.second_look`; None once declared.
    `since`: when (monotonic) it was not shown for the first time.
    """

    gap: Gap | None
    since: float


CatchUpState: TypeAlias = FromNewest | Unread | Continuous | Settling | Rereading | Unproved


class CatchUp:
    """Joins the history of one session with its live stream.

    `deadline` gives the deadline for one answer of the service. `pause` waits for some seconds and returns control to
    the caller in between.
    """

    def __init__(
        self,
        engine: SessionEngine,
        state: CatchUpState,
        merge: Merge,
        *,
        deadline: Callable[[], Deadline],
        pause: Callable[[float], Iterator[None]],
    ) -> None:
        self.engine = engine
        self.state = state
        self.merge = merge
        self._deadline = deadline
        self._pause = pause
        self._clock = engine.clock
        self._timings = engine.timings

    def start_after(self, position: Position, *, missed: bool) -> None:
        """Start over after `position`. `missed`: the open socket may not have brought all that follows it."""
        self.merge = Merge(position, timings=self._timings)
        self.state = Unread() if missed else Continuous()

    def pending_gap(self) -> list[Gap]:
        """Return the gap that nothing has disproved, once: the stream ends, or history will not show more."""
        state = self.state
        if not isinstance(state, (Unread, Settling, Unproved)) or state.gap is None:
            return []
        self.state = replace(state, gap=None)
        return [state.gap]

    # --- what happens on the socket ---

    def socket_lost(self, *, unreadable: bool) -> list[Event]:
        """Note that the socket broke: what follows may be missing until history has been read.

        Return what can be shown before that. `unreadable`: a frame was unreadable shortly before, so that what
        came after it has to wait, too.
        """
        if unreadable:
            self.merge.wait_for_history(inf)
        ready = self.merge.ready(self._clock.monotonic(), flush=True, over_gaps=False)
        self.merge.wait_for_history(inf)
        if not isinstance(self.state, FromNewest):
            self.state = Unread(self._gap)
        return ready

    def message_received(self, message: Message) -> None:
        """Note a live message: it may show, in history, that history has caught up."""
        if isinstance(self.state, Settling) and self.state.received is not None:
            self.state.received.add(message.id)

    def frame_unreadable(self) -> None:
        """Note that a frame was unreadable: if it was a message, history shows it, now or a little later."""
        self._settle(self._gap, None)

    def _settle(self, gap: Gap | None, received: set[str] | None) -> None:
        state = Settling(self._clock.monotonic() + self._timings.second_look, gap, received)
        self.state = state
        self.merge.wait_for_history(state.due)

    @property
    def _gap(self) -> Gap | None:
        return self.state.gap if isinstance(self.state, (Unread, Settling, Unproved)) else None

    # --- after a socket was opened ---

    def fill(self) -> Generator[Event | None, None, int]:
        """Read what may be missing before the socket that has just been opened.

        Return the number of messages replayed. Raises NetworkError when the socket itself breaks.
        """
        if isinstance(self.state, FromNewest):
            self.begin_at_newest()
            self.merge.wait_for_history(0.0)
            return 0
        if isinstance(self.state, Continuous):
            return 0
        last = self._last_id
        for attempt in range(FILL_TRIES):
            try:
                items, proved = self.read_after(self.merge.anchor)
                break
            except PASSING_FAILURES as failure:
                _raise_if_socket_broke(failure)
                if attempt == FILL_TRIES - 1:
                    # History stays unreadable: declare the gap and go on with the live stream.
                    self.engine.notice(f"cannot read history: {failure.message}")
                    self.state = Continuous()
                    yield Gap(last, None, failure.message)
                    yield from self.merge.ready(self._clock.monotonic(), flush=True)
                    self.merge.wait_for_history(0.0)
                    return 0
                yield from self._pause(jittered(self.engine.random, attempt, base=1.0, cap=5.0))
        replayed = self.merge.replay(items, lags=True)
        found = proved or last in {item.id for item in items}
        self.state = Unread(None if found else Gap(last, _first_id(replayed), _LAST_MESSAGE_GONE))
        if replayed:
            yield from self.pending_gap()
        yield from replayed
        self._settle(self._gap, set())
        return sum(isinstance(event, Message) for event in replayed)

    def begin_at_newest(self) -> None:
        """Start after the newest entry of history. A message itself may still arrive on the socket, since the
        socket was open before history was read: it is shown then."""
        newest = self._read(lambda fetch: latest(fetch, self.engine.dialect.paging))
        if newest is None:
            self.merge = Merge(begins=True, timings=self._timings)
        elif newest.id is not None:
            sequence = newest.sequence if isinstance(newest, Message) else None
            position = Position(newest.id, sequence, newest.time)
            self.merge = Merge(position, shown=False, timings=self._timings)
        self.state = Continuous()

    # --- while the socket is open ---

    def early_look_due(self) -> bool:
        """Return whether a live message waits for history, for the first time since the socket was opened."""
        state = self.state
        if not isinstance(state, Settling) or not state.early_look:
            return False
        if not self.merge.waiting_for_history(self._clock.monotonic()):
            return False
        self.state = replace(state, early_look=False)
        return True

    def look_due(self, now: float) -> bool:
        """Return whether history must be read at monotonic `now`: a number is missing, or the second look is due."""
        if self.merge.after_missing and self.merge.wait(now) == 0.0:
            return True
        return isinstance(self.state, (Settling, Rereading)) and self.state.due <= now

    def look_early(self) -> Generator[Event, None, None]:
        """Read history before the second look is due: where it has caught up already, nothing has to wait.

        Where it shows nothing new, that proves nothing, and the second look is still to come.
        """
        state = self.state
        assert isinstance(state, Settling)
        try:
            items, proved = self.read_after(self.merge.anchor)
        except PASSING_FAILURES as failure:
            _raise_if_socket_broke(failure)
            self.engine.notice(f"cannot read history: {failure.message}")
            return
        if not proved or not self._shows_more(items):
            return
        if state.received and any(item.id in state.received for item in items):
            # History shows a message of this socket: it shows everything that came before the socket, too.
            yield from self._join(items)
        else:
            # It shows more than before, and may still lag: messages later than all of it keep waiting.
            yield from self.merge.replay(items, lags=True)
            self.merge.wait_for_history(state.due)

    def look(self) -> Generator[Event, None, None]:
        """Read what the live stream should have brought. What history still does not show afterwards is a gap."""
        try:
            items, proved = self.read_after(self.merge.anchor)
        except PASSING_FAILURES as failure:
            _raise_if_socket_broke(failure)
            self.engine.notice(f"cannot read history: {failure.message}")
            settling = isinstance(self.state, Settling)
            if self._failures + 1 < FILL_TRIES:
                self._look_later(hold=settling or self.merge.after_missing is not None)
                return
            # History stays unreadable. Where only a number is missing, `Merge` declares the gap.
            self.state = Continuous()
            if settling:
                yield Gap(self._last_id, None, failure.message)
            return
        if proved:
            yield from self._join(items)
        else:
            # History does not show the last message any more, although it had time to catch up.
            yield from self.pending_gap()
            self.state = Continuous()

    def _join(self, items: Sequence[Item]) -> Iterator[Event]:
        """Show history that continues what was shown. Nothing is missing any more, unless it lags."""
        missing = self.merge.after_missing
        if missing is not None and all(item.id != missing for item in items):
            # It does not even show the live message that follows the missing one: it lags.
            yield from self.merge.replay(items, lags=True)
            if self.merge.after_missing is not None and self._failures + 1 < FILL_TRIES:
                self._look_later(hold=True)
                return
        self.state = Continuous()
        yield from self.merge.replay(items)

    @property
    def _failures(self) -> int:
        return self.state.failures if isinstance(self.state, (Settling, Rereading)) else 0

    def _look_later(self, *, hold: bool) -> None:
        """Read history once more after a while. `hold`: live messages wait for that."""
        due, failures = self._clock.monotonic() + self._timings.second_look, self._failures + 1
        if isinstance(self.state, Settling):
            self.state = replace(self.state, due=due, failures=failures)
        else:
            self.state = Rereading(due, failures)
        if hold:
            self.merge.wait_for_history(due)

    def look_last(self, *, unreadable: bool) -> Generator[Event | None, None, None]:
        """The session has ended: show what a lagging history, or an unreadable frame, may hide."""
        if unreadable:
            self._settle(self._gap, set())
        state = self.state
        if not isinstance(state, Settling):
            return
        yield from self._pause(max(0.0, state.due - self._clock.monotonic()))
        try:
            items, proved = self.read_after(self.merge.anchor)
        except Failure as failure:
            self.state = replace(state, gap=Gap(self._last_id, None, failure.message))
        else:
            if proved:
                self.state = Continuous()
                yield from self.merge.replay(items)

    @property
    def _last_id(self) -> str | None:
        return self.merge.position.id if self.merge.position else None

    def _shows_more(self, items: Sequence[Item]) -> bool:
        """Return whether history has grown since the last read: it shows something new, or something that waits."""
        waiting = self.merge.waiting_for_history(self._clock.monotonic())
        return any(item.id is not None and (item.id in waiting or not self.merge.has_seen(item.id)) for item in items)

    # --- without a socket ---

    def join_poll(self, items: Sequence[Item], proved: bool) -> tuple[list[Gap], list[Event]]:
        """Return what a poll adds: the gap that has to be declared before it, if any, and the new events."""
        now = self._clock.monotonic()
        if proved:
            self.state = Continuous()
        elif not isinstance(self.state, Unproved):
            self.state = Unproved(Gap(self._last_id, _first_id(items), _LAST_MESSAGE_GONE), now)
        fresh = self.merge.replay(items)
        state = self.state
        if not isinstance(state, Unproved) or not (fresh or now - state.since >= self._timings.second_look):
            return [], fresh
        # The last message was deleted. Without its time, no later poll could determine what follows it.
        if self.merge.position is not None and self.merge.position.time is None:
            self.begin_at_newest()
            self.state = state
        return self.pending_gap(), fresh

    # --- reading history ---

    def read_after(self, position: Position | None) -> tuple[list[Item], bool]:
        """Return history after a position, oldest first, and whether it is proved to continue there.

        Without that proof, return only what is certainly later: history may not show the position yet.
        Where history lags, it is read again until it shows every accepted message, for `Timings.lag_patience` at most.
        """
        until = self._clock.monotonic() + self._timings.lag_patience
        found = self._read_once(position)
        if not self.engine.dialect.history_lags:
            return found
        while True:
            shown = {item.id for item in found[0]}
            absent = [i for i in self._accepted_ids() if i not in shown and not self.merge.has_seen(i)]
            if not absent:
                return found
            if self._clock.monotonic() >= until:
                self.engine.notice(
                    f"history still lacks {len(absent)} accepted message(s) after {self._timings.lag_patience:g} s"
                )
                return found
            self._clock.sleep(self._timings.lag_pause)
            found = self._read_once(position)

    def _read_once(self, position: Position | None) -> tuple[list[Item], bool]:
        paging, size = self.engine.dialect.paging, self.engine.dialect.page_size
        items, proved = self._read(lambda fetch: following(fetch, paging, position, size))
        if not proved:
            bounds = [bound for bound in (position, self.merge.position) if bound is not None]
            items = [item for item in items if any(_certainly_after(item, bound) for bound in bounds)]
        return items, proved

    def _accepted_ids(self) -> list[str]:
        """Service ids of this session's accepted sends since the position, newest last."""
        rows = self.engine.state.outbox(self.engine.scope, self.engine.session, "accepted")
        since = self.merge.position.time if self.merge.position else None
        return [r.message_id for r in rows[-50:] if r.message_id and (since is None or (r.time or "") > since)]

    def _read(self, read: Callable[[Fetch], T]) -> T:
        known = (self.merge.position.sequence if self.merge.position else None) or 0
        return read(lambda after, cursor: self.engine.page(after, cursor, self._deadline(), known=known))


def _raise_if_socket_broke(failure: Failure) -> None:
    """Raise the failure again if it broke the socket that the token for history is requested on."""
    if isinstance(failure, NetworkError) and failure.close_code is not None:
        raise failure


def _first_id(events: Sequence[Event]) -> str | None:
    for event in events:
        if isinstance(event, (Message, Presence)):
            return event.id
    return None


def _certainly_after(item: Item, position: Position) -> bool:
    """Return whether an item came after a position that history does not show."""
    sequence = item.sequence if isinstance(item, Message) else None
    if sequence is not None and position.sequence is not None:
        return sequence > position.sequence
    return item.time is not None and position.time is not None and item.time > position.time
