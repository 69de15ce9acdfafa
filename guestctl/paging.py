"""Reading history: pages of either kind become one ordered stream, stable while messages arrive.

Knows: how positions and page numbers move when the conversation grows, and how much may be held in
memory. Must not know: any dialect's wire, sockets, printing. It is given a function that fetches
one page; it does no I/O of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from guestctl.dialects.base import Page, Paging, Position
from guestctl.errors import Unreadable
from guestctl.model import Message, Presence, Unknown

Item: TypeAlias = Message | Presence
Fetch: TypeAlias = Callable[[Position | None, str | None], Page]
"""Fetch one page: after a position, or at a cursor (see `Dialect.history`)."""

#: Messages held while looking for where the current conversation begins; beyond it they are read twice.
HELD = 1000


def whole(fetch: Fetch, paging: Paging, size: int, *, start: int = 0) -> Iterator[Item]:
    """Everything, oldest first, holding one page at a time. `start`: entries to leave out (NUMBERED)."""
    if paging is Paging.FORWARD:
        return _forward(fetch, None)
    return _ascending(fetch, size, start)


def current(fetch: Fetch, paging: Paging, size: int) -> Iterator[Item]:
    """The current conversation: what follows the last Disconnect that anything follows."""
    if paging is Paging.FORWARD:
        return _forward(fetch, None)
    return _since_disconnect(fetch, size)


def newest(fetch: Fetch, paging: Paging, count: int, wanted: Callable[[Item], bool]) -> list[Item]:
    """The last `count` items that are wanted, oldest first."""
    if paging is Paging.FORWARD:
        return list(deque((item for item in _forward(fetch, None) if wanted(item)), maxlen=count))
    found: dict[str | None, Item] = {}
    for item in _descending(fetch):
        if isinstance(item, Unknown) or not wanted(item):
            continue
        found.setdefault(item.id, item)
        if len(found) >= count:
            break
    return list(found.values())[::-1]


def following(fetch: Fetch, paging: Paging, position: Position | None, size: int) -> tuple[list[Item], bool]:
    """Everything after a position, oldest first, and whether contiguity with it was proved.

    On a NUMBERED API the pages are read backwards until the position is met; only the gap is held.
    """
    if position is None:
        return list(whole(fetch, paging, size)), True
    if paging is Paging.FORWARD:
        return list(_forward(fetch, position)), True
    gap: dict[str | None, Item] = {}
    for item in _descending(fetch):
        if isinstance(item, Unknown):
            continue
        if item.id == position.id:
            return list(gap.values())[::-1], True
        if position.time is not None and item.time is not None and item.time < position.time:
            # Older than the position, which is gone from history: contiguity is not proved.
            return list(gap.values())[::-1], False
        gap.setdefault(item.id, item)
    return list(gap.values())[::-1], False


def latest(fetch: Fetch, paging: Paging) -> Item | None:
    """The newest item there is, None in an empty conversation."""
    last = newest(fetch, paging, 1, lambda item: True)
    return last[0] if last else None


def _forward(fetch: Fetch, after: Position | None) -> Iterator[Item]:
    cursor: str | None = None
    seen: set[str | None] = set()
    while True:
        page = fetch(after if cursor is None else None, cursor)
        for item in page.items:
            if not isinstance(item, Unknown) and item.id not in seen:
                yield item
        seen = {item.id for item in page.items if not isinstance(item, Unknown)}
        if page.next is None:
            return
        if page.next == cursor:
            raise Unreadable(f"history does not advance beyond {cursor!r}")
        cursor = page.next


def _descending(fetch: Fetch) -> Iterator[Item | Unknown]:
    """Newest first. An arrival shifts entries to later pages: they are met twice, never missed."""
    number = 1
    while True:
        page = fetch(None, str(number))
        if not page.items:
            return
        yield from reversed(page.items)
        if page.total is not None and page.total <= 0:
            return
        number += 1


def _ascending(fetch: Fetch, size: int, start: int) -> Iterator[Item]:
    """Oldest first over pages that are numbered from the newest.

    Counted from the oldest, an entry's index never changes, while its page does: so the page is
    worked out anew from the service's own `total`, and read again if the conversation has grown
    between the two. Without a `total` the pages have to be walked and counted first.
    """
    total = _total(fetch, size)
    index = start
    while index < total:
        number = (total - 1 - index) // size + 1
        page = fetch(None, str(number))
        grown = page.total if page.total is not None else total
        if grown < total:
            raise Unreadable(f"history shrank from {total} to {grown} messages while it was read")
        first = grown - (number - 1) * size - len(page.items)
        total = grown
        if not first <= index < first + len(page.items):
            if not page.items or first < index:
                raise Unreadable(f"history page {number} does not hold what its total of {grown} promises")
            continue
        for item in page.items[index - first :]:
            index += 1
            if not isinstance(item, Unknown):
                yield item


def _total(fetch: Fetch, size: int) -> int:
    page = fetch(None, "1")
    if page.total is not None:
        return page.total
    count, number = len(page.items), 1
    while page.items and len(page.items) >= size:
        number += 1
        page = fetch(None, str(number))
        count += len(page.items)
    return count


def _since_disconnect(fetch: Fetch, size: int) -> Iterator[Item]:
    """Walk back to the last Disconnect, holding what is met up to a bound; beyond it read forward again."""
    held: deque[Item] = deque()
    total: int | None = None
    passed = 0

    def counted(after: Position | None, cursor: str | None) -> Page:
        nonlocal total
        page = fetch(after, cursor)
        if total is None:
            total = page.total
        return page

    seen: set[str | None] = set()
    met_message = False
    for item in _descending(counted):
        if not isinstance(item, Unknown) and item.id in seen:
            continue
        if met_message and _disconnects(item):
            break
        passed += 1
        if isinstance(item, Unknown):
            continue
        met_message = met_message or isinstance(item, Message)
        if len(held) < HELD:
            seen.add(item.id)
            held.appendleft(item)
    if len(held) < HELD:
        return iter(held)
    start = 0 if total is None else max(0, total - passed)
    return _ascending(fetch, size, start)


def _disconnects(item: Item | Unknown) -> bool:
    return isinstance(item, Presence) and item.presence == "Disconnect"


def messages(items: Iterable[Item]) -> list[Message]:
    """Only the messages."""
    return [item for item in items if isinstance(item, Message)]
