"""What was said, in order, and which replies an expectation may still be met by.

Knows: messages, their order by the service's own numbers or times, turns. Must not know: conditions,
YAML, clocks (times are handed in), where messages come from.

The wire may bring replies late, swapped or twice; the place of a reply here is that which the
service gave it, so that the same conversation gets the same verdict each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from guestctl.core.model import Message


@dataclass(eq=False)
class TimelineEntry:
    """One message, or a remark about the connection. `at`: seconds since the scenario began."""

    at: float
    message: Message | None = None
    remark: str | None = None
    #: An expectation was met by it.
    taken: bool = False


@dataclass
class Timeline:
    """The conversation so far."""

    entries: list[TimelineEntry] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)
    #: Where the guest's present turn begins; the last reply that was awaited and came.
    _turn: TimelineEntry | None = None
    _last: TimelineEntry | None = None
    _expected: bool = False

    def said(self, message: Message, at: float) -> None:
        """The guest's own message was accepted. After an expectation it begins a new turn: what came
        before it cannot be an answer to it."""
        entry = self._add(message, at)
        if entry is not None and self._expected:
            self._turn, self._last, self._expected = entry, None, False

    def heard(self, message: Message, at: float) -> None:
        """A message came; a double, or our own coming back, is dropped."""
        self._add(message, at)

    def remark(self, text: str, at: float) -> TimelineEntry:
        entry = TimelineEntry(at, remark=text)
        self.entries.append(entry)
        return entry

    def expecting(self) -> None:
        """An expectation is being set: what the guest says next is a new turn."""
        self._expected = True

    def take(self, entries: list[TimelineEntry]) -> None:
        """These replies met an expectation."""
        for entry in entries:
            entry.taken = True
            if self._last is None or self.entries.index(entry) > self.entries.index(self._last):
                self._last = entry

    def candidates(self, *, in_order: bool) -> list[tuple[TimelineEntry, Message]]:
        """Replies that may meet the next expectation: those after the last that met one, or with
        `in_order` False those of the whole turn."""
        begin = self._place(self._turn)
        last = self._place(self._last) if in_order else -1
        return [
            (entry, message)
            for place, entry, message in self._replies()
            if not entry.taken and place > begin and (place > last or _same_moment(message, self._last))
        ]

    def since_last(self) -> list[tuple[TimelineEntry, Message]]:
        """Replies that came after the last awaited one; nothing else breaks a silence."""
        after = max(self._place(self._turn), self._place(self._last))
        return [(entry, message) for place, entry, message in self._replies() if place > after]

    def offers(self) -> Iterator[Message]:
        """Messages with something to pick, newest first. Right after the guest has spoken only answers count."""
        after = -1 if self._expected else self._last_said()
        return (message for place, _, message in reversed(list(self._replies())) if message.options and place > after)

    def _last_said(self) -> int:
        places = range(len(self.entries) - 1, -1, -1)
        return next((n for n in places if (m := self.entries[n].message) and m.direction == "inbound"), -1)

    def _replies(self) -> Iterator[tuple[int, TimelineEntry, Message]]:
        for place, entry in enumerate(self.entries):
            if entry.message is not None and entry.message.direction == "outbound":
                yield place, entry, entry.message

    def _place(self, entry: TimelineEntry | None) -> int:
        return -1 if entry is None else self.entries.index(entry)

    def _add(self, message: Message, at: float) -> TimelineEntry | None:
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
    """Two replies of one millisecond have no order the service would vouch for."""
    other = last.message if last is not None else None
    return (
        other is not None
        and message.time is not None
        and message.time == other.time
        and (message.sequence is None or other.sequence is None)
    )
