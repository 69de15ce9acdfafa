"""Once, in order: what a stream does with doubles, late frames and gaps.

Knows: message ids, sequence numbers and service times. Must not know: sockets, clocks (the time is
handed in), printing, any dialect. A `Merge` is fed everything heard or replayed and gives back
what may be shown now.

Order is by sequence number where the API has one, else by service time. A frame that is next in
sequence passes at once. Otherwise it is held for a window: a millisecond or so while the stream
behaves, twice the observed lateness (up to `Timings.late_window`) for a while after a late frame was met.
A number that never comes, and that history does not explain, is passed over with a `Gap`.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import replace

from guestctl.core.model import Event, Gap, Message, Position, Presence
from guestctl.core.timings import Timings

#: Ids remembered for dropping doubles; a window of this many messages cannot repeat unnoticed.
REMEMBERED = 10_000
#: Messages in order after which a widened window shrinks again.
CALM_AFTER = 20
#: Messages before the last one from which history is read again, for what the stream overtook.
OVERLAP = 20


def position_of(message: Message) -> Position:
    return Position(message.id, message.sequence, message.time)


class Merge:
    """Drops doubles and repairs order. `position` is the last message let through.

    It starts behind `position`; with `shown` False that message itself may still come and is let through.
    `begins`: there is nothing before what it will be fed, so that number 1 is the first.
    """

    def __init__(
        self,
        position: Position | None = None,
        *,
        shown: bool = True,
        begins: bool = False,
        timings: Timings | None = None,
    ) -> None:
        self.position = position
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._trail: deque[Position] = deque([position] if position else [], maxlen=OVERLAP)
        #: In order: rank, order of arrival, when it came (monotonic), what came.
        self._held: list[tuple[tuple[int, str], int, float, Event]] = []
        self._arrivals = 0
        #: History has told all there is up to this sequence number.
        self._told = -1
        #: The number before the first one that may come, while there is no position.
        self._before = 0 if begins else None
        #: Until then (monotonic) history may still show what belongs before a live message.
        self._settled_at = 0.0
        self._timings = timings or Timings()
        self._window = self._timings.quiet_window
        self._calm = 0
        if position is not None and shown:
            self._seen[position.id] = None

    @property
    def anchor(self) -> Position | None:
        """A place some messages back, everything before which has been let through: history from here
        on holds whatever the stream may have overtaken."""
        return self._trail[0] if self._trail else self.position

    def known(self, identity: str) -> bool:
        return identity in self._seen

    def unsettled(self, until: float) -> None:
        """History has been read and may have lagged: what is live and has no number waits until then
        (monotonic), or until history has been replayed once more."""
        self._settled_at = until

    def replay(self, items: Iterable[Message | Presence], *, lags: bool = False) -> list[Event]:
        """History that is contiguous with `position` or `anchor`: what is new of it, marked as replayed,
        in its place among what is held, which all has its turn now; but nothing that is later than
        all of it, where it `lags`."""
        reached: tuple[int, str] | None = (-1, "") if lags else None
        for item in items:
            if reached is not None:
                reached = max(reached, self._rank(item))
            if isinstance(item, Message) and item.sequence is not None:
                self._told = max(self._told, item.sequence)
            if item.id is not None and self._remember(item.id):
                self._hold(replace(item, source="replayed"), 0.0)
        self._settled_at = 0.0
        return self.ready(0.0, flush=True, reached=reached)

    def feed(self, event: Event, now: float) -> None:
        """Take one live event at monotonic `now`; `ready` gives it back in its turn."""
        if isinstance(event, (Message, Presence)):
            if event.id is not None and not self._remember(event.id):
                return
            self._note_lateness(event)
        self._hold(event, now)

    def _hold(self, event: Event, now: float) -> None:
        self._arrivals += 1
        insort(self._held, (self._rank(event), self._arrivals, now, event))

    def ready(
        self, now: float, *, flush: bool = False, over_gaps: bool = True, reached: tuple[int, str] | None = None
    ) -> list[Event]:
        """Everything whose turn has come, in order. `flush`: all that is held (up to the rank `reached`),
        but nothing behind a missing number, or that history has still to settle, unless `over_gaps`."""
        shown: list[Event] = []
        taken = 0
        for rank, _, arrived, event in self._held:
            if reached is not None and rank > reached:
                break
            if not flush and self._left(event, arrived, now):
                break
            if not over_gaps and (self._skips(event) or self._unsettled(event, now)):
                break
            taken += 1
            if self._skips(event) and isinstance(event, Message):
                after = self.position.id if self.position else None
                shown.append(Gap(after, event.id, f"nothing is known of what came before number {event.sequence}"))
            if isinstance(event, (Message, Presence)):
                self._advance(event)
            shown.append(event)
        del self._held[:taken]
        return shown

    def wait(self, now: float) -> float | None:
        """Seconds until something held is due; None when nothing is held."""
        if not self._held:
            return None
        _, _, arrived, event = self._held[0]
        return self._left(event, arrived, now)

    def waiting(self, now: float) -> frozenset[str]:
        """Ids of what came live and waits for history to be read once more."""
        if now >= self._settled_at:
            return frozenset()
        return frozenset(
            event.id
            for _, _, _, event in self._held
            if isinstance(event, (Message, Presence)) and event.id is not None and self._unsettled(event, now)
        )

    @property
    def missing(self) -> str | None:
        """The id of the next held message, when its number shows that one before it never came."""
        for _, _, _, event in self._held[:1]:
            if isinstance(event, Message) and self._skips(event):
                return event.id
        return None

    def _left(self, event: Event, arrived: float, now: float) -> float:
        """Seconds until its turn; what is less than a clock can tell is nothing."""
        left = arrived + self._patience(event) - now
        if self._unsettled(event, now):
            left = max(left, self._settled_at - now)
        return left if left > 1e-6 else 0.0

    def _patience(self, event: Event) -> float:
        if self._last is not None and isinstance(event, Message) and event.sequence is not None:
            return self._timings.missing_window if self._skips(event) else 0.0
        return self._window if isinstance(event, (Message, Presence)) else 0.0

    @property
    def _last(self) -> int | None:
        return self.position.sequence if self.position else self._before

    def _unsettled(self, event: Event, now: float) -> bool:
        """Whether something before it may still be missing, and no number says that nothing is."""
        if now >= self._settled_at or not isinstance(event, (Message, Presence)):
            return False
        numbered = isinstance(event, Message) and event.sequence is not None and self._last is not None
        return not numbered or self._skips(event)

    def _skips(self, event: Event) -> bool:
        last = self._last
        return (
            isinstance(event, Message)
            and event.sequence is not None
            and last is not None
            and event.sequence > max(last, self._told) + 1
        )

    def _rank(self, event: Event) -> tuple[int, str]:
        """Sort key: sequence, then time; what has neither keeps its place behind what came before it."""
        if isinstance(event, Message) and event.sequence is not None:
            return (event.sequence, event.time or "")
        if isinstance(event, (Message, Presence)) and event.time is not None:
            return (0, event.time)
        return self._held[-1][0] if self._held else (0, "")

    def _remember(self, identity: str) -> bool:
        if identity in self._seen:
            return False
        self._seen[identity] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return True

    def _note_lateness(self, event: Message | Presence) -> None:
        last = self.position
        if last is None or last.time is None or event.time is None or event.time >= last.time:
            self._calm += 1
            if self._calm >= CALM_AFTER:
                self._window = self._timings.quiet_window
            return
        self._calm = 0
        self._window = min(self._timings.late_window, max(0.25, self._window * 2))

    def _advance(self, item: Message | Presence) -> None:
        if item.id is None:
            return
        sequence = item.sequence if isinstance(item, Message) else None
        last = self.position
        if last is not None:
            if sequence is not None and last.sequence is not None and sequence < last.sequence:
                return
            if sequence is None and item.time is not None and last.time is not None and item.time < last.time:
                return
        if sequence is None and last is not None:
            sequence = last.sequence
        self.position = Position(item.id, sequence, item.time or (last.time if last else None))
        if isinstance(item, Message):
            self._trail.append(self.position)
