"""Merge live and replayed messages: each once, and in order.

Knows: message ids, sequence numbers and service times. Must not know: sockets, clocks (the time is handed in),
printing, any dialect.

Messages are ordered by sequence number where the API has one, and by service time elsewhere. A message with the next
number passes at once. Any other is held for a short time: about a millisecond while the stream is in order, and longer
(up to `Timings.late_window`) for a while after a message arrived late. When a number does not arrive, and history does
not explain why, a `Gap` takes its place.

What the service sent and guestctl cannot read is an `Unknown` event. It has no time, so it stays where it arrived, or
where history has it. An id, or its place in history, identifies it.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import replace

from guestctl.core.model import UNREADABLE, Event, Gap, Message, Position, Presence, Unknown
from guestctl.core.timings import Timings

#: The reason of a gap: a message before a live one is missing from history.
MISSING = "missing"
#: Ids remembered to recognise duplicates.
REMEMBERED = 10_000
#: Messages in order after which a longer hold time is shortened again.
CALM_AFTER = 20
#: How many messages before the last one history is read again, for messages that later ones overtook.
OVERLAP = 20


def position_of(message: Message) -> Position:
    return Position(message.id, message.sequence, message.time)


class Merge:
    """Removes duplicates and restores order. `position` is the last message that was released.

    `position`: where to start. With `shown` False that message was not shown: when it arrives, it is released, too.
    `begins`: no message precedes the first one, so that its number is 1.
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
        #: Live events that could not be read and have no id, by their text: history may show the same ones.
        self._unreadable: Counter[str] = Counter()
        self._recent: deque[Position] = deque([position] if position else [], maxlen=OVERLAP)
        #: In order: sort key, order of arrival, time of arrival (monotonic), event.
        self._held: list[tuple[tuple[int, str], int, float, Event]] = []
        self._arrivals = 0
        #: History has been read up to this sequence number: a lower number that it did not show does not exist.
        self._read_up_to = -1
        #: The number before the first message, while there is no position.
        self._number_before_first = 0 if begins else None
        #: Until then (monotonic), history may still show messages that precede a live one.
        self._history_due = 0.0
        self._timings = timings or Timings()
        self._window = self._timings.quiet_window
        self._in_order = 0
        if position is not None and shown:
            self._seen[position.id] = None

    @property
    def anchor(self) -> Position | None:
        """A position some messages before the last one. Every message up to it was released, so that history from
        here on contains each message that a later one overtook."""
        return self._recent[0] if self._recent else self.position

    def has_seen(self, id_: str) -> bool:
        return id_ in self._seen

    def start(self, position: Position) -> None:
        """Set where the stream starts, unless something was released before."""
        if self.position is None:
            self.position = position
            self._recent.append(position)

    def wait_for_history(self, until: float) -> None:
        """Hold live messages without a number until then (monotonic), or until history is replayed: it was read, but
        may have lagged."""
        self._history_due = until

    def replay(
        self, items: Iterable[Message | Presence | Unknown], *, after: str | None = None, lags: bool = False
    ) -> list[Event]:
        """Return what history adds, marked as replayed, together with everything that was held, in order.

        `items` continue at `position` or `anchor`; `after` is the id of the entry before them. `lags`: history may
        not be complete yet, so that messages later than all of it stay held.
        """
        last_key: tuple[int, str] | None = (-1, "") if lags else None
        key = self._position_key()
        unread = 0
        for item in items:
            if isinstance(item, Unknown):
                # It has no time of its own: its place is after the entry before it.
                unread += 1
                if not self._is_repeated(item, item.id or f"unreadable {unread} after {after}"):
                    self._hold(item, 0.0, key)
            else:
                key, after, unread = self._sort_key(item), item.id, 0
                if isinstance(item, Message) and item.sequence is not None:
                    self._read_up_to = max(self._read_up_to, item.sequence)
                if item.id is not None and self._mark_seen(item.id):
                    self._hold(replace(item, source="replayed"), 0.0, key)
            if last_key is not None:
                last_key = max(last_key, key)
        self._history_due = 0.0
        return self.ready(0.0, flush=True, last_key=last_key)

    def _is_repeated(self, item: Unknown, identity: str) -> bool:
        """Return whether an entry that cannot be read was released before, live or from history."""
        if not self._mark_seen(identity):
            return True
        text = _text_of(item)
        if item.id is None and self._unreadable[text] > 0:
            self._unreadable[text] -= 1
            return True
        return False

    def add_live(self, event: Event, now: float) -> None:
        """Add an event that arrived at monotonic `now`. `ready` returns it in its turn."""
        if isinstance(event, (Message, Presence)):
            if event.id is not None and not self._mark_seen(event.id):
                return
            self._adapt_window(event)
        if isinstance(event, Unknown) and event.label == UNREADABLE:
            if event.id is not None and not self._mark_seen(event.id):
                return
            if event.id is None and len(self._unreadable) < REMEMBERED:
                self._unreadable[_text_of(event)] += 1
        self._hold(event, now)

    def _hold(self, event: Event, now: float, key: tuple[int, str] | None = None) -> None:
        self._arrivals += 1
        held = (self._sort_key(event) if key is None else key, self._arrivals, now, event)
        if not self._held or held[0] >= self._held[-1][0]:  # nearly always
            self._held.append(held)
        else:
            insort(self._held, held)

    def ready(
        self, now: float, *, flush: bool = False, over_gaps: bool = True, last_key: tuple[int, str] | None = None
    ) -> list[Event]:
        """Return every event whose turn has come, in order.

        `flush`: return all that is held, up to `last_key` if given. Without `over_gaps`, stop at a missing number, and
        at a message that waits for history.
        """
        released: list[Event] = []
        count = 0
        for key, _, arrived, event in self._held:
            if last_key is not None and key > last_key:
                break
            if not flush and self._time_left(event, arrived, now):
                break
            if not over_gaps and (self._skips_a_number(event) or self._waits_for_history(event, now)):
                break
            count += 1
            if isinstance(event, (Message, Presence)):
                if isinstance(event, Message) and self._skips_a_number(event):
                    after = self.position.id if self.position else None
                    released.append(Gap(after, event.id, MISSING))
                self._move_position(event)
            released.append(event)
        del self._held[:count]
        return released

    def wait(self, now: float) -> float | None:
        """Return the seconds until the next event is ready, None when none is held."""
        if not self._held:
            return None
        _, _, arrived, event = self._held[0]
        return self._time_left(event, arrived, now)

    @property
    def holds_messages(self) -> bool:
        """Whether a received message has not been released yet."""
        return any(isinstance(event, (Message, Presence)) for _, _, _, event in self._held)

    @property
    def first_held(self) -> str | None:
        """The id of the first message that is held."""
        return next((event.id for _, _, _, event in self._held if isinstance(event, (Message, Presence))), None)

    def waiting_since(self) -> float | None:
        """Return when (monotonic) the first of the held live messages arrived, None when none is held."""
        arrivals = (arrived for _, _, arrived, event in self._held if isinstance(event, (Message, Presence)))
        return min(arrivals, default=None)

    def continues_at(self, sequence: int) -> bool:
        """Return whether a message with this number directly follows what was released or read."""
        last = self._last_number
        return last is not None and sequence == max(last, self._read_up_to) + 1

    def covers(self, sequence: int) -> bool:
        """Return whether everything up to this number was released or read."""
        last = self._last_number
        return last is not None and sequence <= max(last, self._read_up_to)

    @property
    def after_missing(self) -> str | None:
        """The id of the next held message, if its number shows that the one before it did not arrive."""
        for _, _, _, event in self._held[:1]:
            if isinstance(event, Message) and self._skips_a_number(event):
                return event.id
        return None

    def _time_left(self, event: Event, arrived: float, now: float) -> float:
        """Return the seconds until an event is ready. Less than a clock can measure counts as nothing."""
        if not isinstance(event, (Message, Presence)):
            return 0.0
        if self._has_comparable_number(event):
            if not self._skips_a_number(event):
                return 0.0
            left = arrived + self._timings.missing_window - now
        else:
            left = arrived + self._window - now
        if now < self._history_due:
            left = max(left, self._history_due - now)
        return left if left > 1e-6 else 0.0

    def _has_comparable_number(self, event: Message | Presence) -> bool:
        """Return whether the number of an event shows if it follows the last one."""
        return isinstance(event, Message) and event.sequence is not None and self._last_number is not None

    @property
    def _last_number(self) -> int | None:
        return self.position.sequence if self.position else self._number_before_first

    def _waits_for_history(self, event: Event, now: float) -> bool:
        """Return whether an earlier message may be missing, and no sequence number proves the opposite."""
        if now >= self._history_due or not isinstance(event, (Message, Presence)):
            return False
        return not self._has_comparable_number(event) or self._skips_a_number(event)

    def _skips_a_number(self, event: Event) -> bool:
        if not isinstance(event, Message) or event.sequence is None:
            return False
        last = self._last_number
        return last is not None and event.sequence > max(last, self._read_up_to) + 1

    def _sort_key(self, event: Event) -> tuple[int, str]:
        """Return sequence number and time. An event without either stays after the events that came before it."""
        if isinstance(event, Message) and event.sequence is not None:
            return (event.sequence, event.time or "")
        if isinstance(event, (Message, Presence)) and event.time is not None:
            return (0, event.time)
        return self._held[-1][0] if self._held else (0, "")

    def _position_key(self) -> tuple[int, str]:
        last = self.position
        return (0, "") if last is None else (last.sequence or 0, last.time or "")

    def _mark_seen(self, id_: str) -> bool:
        """Remember an id; return False when it is a duplicate."""
        if id_ in self._seen:
            return False
        self._seen[id_] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return True

    def _adapt_window(self, event: Message | Presence) -> None:
        """Hold messages longer after one that arrived late, and for a shorter time after many in order."""
        last = self.position
        if last is None or last.time is None or event.time is None or event.time >= last.time:
            self._in_order += 1
            if self._in_order >= CALM_AFTER:
                self._window = self._timings.quiet_window
            return
        self._in_order = 0
        self._window = min(self._timings.late_window, max(0.25, self._window * 2))

    def _move_position(self, item: Message | Presence) -> None:
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
            self._recent.append(self.position)


def _text_of(event: Unknown) -> str:
    return str(event.raw.get("text")) if isinstance(event.raw, dict) else ""
