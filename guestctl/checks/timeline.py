"""The messages of a conversation in order, and the replies that may still meet an expectation.

Knows: messages, their order by the service's sequence numbers or times, turns. Must not know:
conditions, YAML, clocks (times are handed in), where messages come from.

Replies may arrive late, swapped or twice. A reply has the position that the service gave it, so that
the same conversation gets the same verdict in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from guestctl.core.model import Message


@dataclass(eq=False)
class TimelineEntry:
    """One message, or a remark about the connection. `at`: seconds since the start of the scenario."""

    at: float
    message: Message | None = None
    remark: str | None = None
    #: Whether an expectation has been met by it.
    taken: bool = False


@dataclass
class Timeline:
    """The conversation so far."""

    entries: list[TimelineEntry] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)
    #: The first entry of the guest's present turn; the last reply that met an expectation in it.
    _turn: TimelineEntry | None = None
    _last: TimelineEntry | None = None
    #: Whether an expectation has been set since the turn began: the next guest message starts a new turn.
    _expected: bool = False

    def add_sent(self, message: Message, at: float) -> None:
        """Add a guest message that the service accepted.

        After an expectation it starts a new turn: earlier replies cannot answer it.
        """
        entry = self._add(message, at)
        if entry is not None and self._expected:
            self._turn, self._last, self._expected = entry, None, False

    def add_received(self, message: Message, at: float) -> None:
        """Add a received message, unless it is a duplicate or an echo of a guest message."""
        self._add(message, at)

    def remark(self, text: str, at: float) -> TimelineEntry:
        """Add a remark and return its entry."""
        entry = TimelineEntry(at, remark=text)
        self.entries.append(entry)
        return entry

    def expect(self) -> None:
        """Note that an expectation is set: the next guest message starts a new turn."""
        self._expected = True

    def mark_met(self, entries: list[TimelineEntry]) -> None:
        """Note that these replies met an expectation."""
        for entry in entries:
            entry.taken = True
            if self._last is None or self.entries.index(entry) > self.entries.index(self._last):
                self._last = entry

    def candidates(self, *, in_order: bool) -> list[tuple[TimelineEntry, Message]]:
        """Return the replies that may meet the next expectation.

        With `in_order` these are the replies after the last one that met an expectation, else all
        replies of the turn.
        """
        begin = self._place(self._turn)
        last = self._place(self._last) if in_order else -1
        return [
            (entry, message)
            for place, entry, message in self._replies()
            if not entry.taken and place > begin and (place > last or _same_moment(message, self._last))
        ]

    def since_last_match(self) -> list[tuple[TimelineEntry, Message]]:
        """Return the replies after the last one that met an expectation. Only these break a silence."""
        after = max(self._place(self._turn), self._place(self._last))
        return [(entry, message) for place, entry, message in self._replies() if place > after]

    @property
    def last_match(self) -> Message | None:
        """The last reply of the turn that met an expectation."""
        return None if self._last is None else self._last.message

    def offers(self) -> Iterator[Message]:
        """Yield messages with options, newest first. After a guest message only answers to it count."""
        after = -1 if self._expected else self._last_sent()
        return (message for place, _, message in reversed(list(self._replies())) if message.options and place > after)

    def _last_sent(self) -> int:
        places = range(len(self.entries) - 1, -1, -1)
        return next((n for n in places if (m := self.entries[n].message) and m.direction == "inbound"), -1)

    def _replies(self) -> Iterator[tuple[int, TimelineEntry, Message]]:
        for place, entry in enumerate(self.entries):
            if entry.message is not None and entry.message.is_reply:
                yield place, entry, entry.message

    def _place(self, entry: TimelineEntry | None) -> int:
        return -1 if entry is None else self.entries.index(entry)

    def _add(self, message: Message, at: float) -> TimelineEntry | None:
        """Insert a message at its position. Return None for a message that is already there."""
        names = {name for name in (message.id, message.key) if name}
        if names & self._known:
            self._known |= names
            return None
        self._known |= names
        entry = TimelineEntry(at, message)
        place = len(self.entries)
        for n in range(place - 1, -1, -1):
            other = self.entries[n].message
            if other is not None:
                if not _before(message, other):
                    break
                place = n
        self.entries.insert(place, entry)
        return entry


def _before(message: Message, other: Message) -> bool:
    if message.sequence is not None and other.sequence is not None:
        return message.sequence < other.sequence
    return message.time is not None and other.time is not None and message.time < other.time


def _same_moment(message: Message, last: TimelineEntry | None) -> bool:
    """Return whether two replies have the same millisecond, so that the service gives them no order."""
    other = last.message if last is not None else None
    return (
        other is not None
        and message.time is not None
        and message.time == other.time
        and (message.sequence is None or other.sequence is None)
    )
