"""What a socket has received while an answer was awaited, and nobody has taken yet. It is bounded.

Knows: how much is held, and what may be dropped. Must not know: any dialect's frames, sockets, who takes the items.

Messages are never dropped silently: when they exceed the bound, `Unreadable` ends the connection, and history is read.
Frames that guestctl does not know, and typing events, are outside that promise. They are dropped and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from guestctl.core.errors import Unreadable
from guestctl.core.model import Typing, Unknown
from guestctl.dialects.flows import Incoming

#: Bounds for everything that is held: items, and bytes of their frames.
MOST_ITEMS, MOST_BYTES = 10_000, 64 * 2**20
#: Bounds from which on unknown frames and typing events are dropped.
DROP_FROM_ITEMS, DROP_FROM_BYTES = 1_000, 4 * 2**20


class Inbox:
    """The items in the order of arrival. `dropped` counts what was dropped since `take_dropped`."""

    def __init__(self) -> None:
        self._items: deque[Incoming] = deque()
        self._bytes = 0
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Incoming]:
        return iter(self._items)

    def add(self, items: Sequence[Incoming], size: int) -> None:
        """Add the items of one frame, which has `size` bytes. Raises Unreadable when the bound is reached."""
        count, held = len(self._items) + len(items), self._bytes + size * len(items)
        if count <= DROP_FROM_ITEMS and held <= DROP_FROM_BYTES:
            self._items.extend(items)
            self._bytes = held
            return
        for item in items:
            self._add_one(item, size)

    def _add_one(self, item: Incoming, size: int) -> None:
        count, held = len(self._items) + 1, self._bytes + size
        if isinstance(item, (Unknown, Typing)) and (count > DROP_FROM_ITEMS or held > DROP_FROM_BYTES):
            self._dropped += 1
            return
        if count > MOST_ITEMS or held > MOST_BYTES:
            raise Unreadable(
                f"the service sent more than {MOST_ITEMS} frames or {MOST_BYTES >> 20} MiB before its answer"
            )
        self._items.append(item)
        self._bytes = held

    def take(self) -> list[Incoming]:
        """Return all items, and empty the inbox."""
        taken = list(self._items)
        self.clear()
        return taken

    def replace(self, index: int, item: Incoming) -> None:
        """Put an item in the place of another one, as it was understood later."""
        self._items[index] = item

    def clear(self) -> None:
        self._items.clear()
        self._bytes = 0

    def take_dropped(self) -> int:
        """Return how many items were dropped since the last call."""
        dropped, self._dropped = self._dropped, 0
        return dropped
