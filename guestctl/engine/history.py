"""Reading history: pages of either kind become one ordered stream, stable while messages arrive.

Knows: how positions and page numbers move when the conversation grows, and how much may be held in
memory. Must not know: any dialect's wire, sockets, printing. It is given a function that fetches
one page; it does no I/O of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from guestctl.core.clock import epoch_of
from guestctl.core.errors import Unreadable, UsageError
from guestctl.core.model import Message, Position, Presence, Unknown
from guestctl.core.values import immutable
from guestctl.dialects.base import HistoryPage
from guestctl.dialects.capabilities import Paging

Item: TypeAlias = Message | Presence
Fetch: TypeAlias = Callable[[Position | None, str | None], HistoryPage]
"""Fetch one page: after a position, or at a cursor (see `Dialect.history`)."""

#: Messages held while looking for where the current conversation begins; beyond it they are read twice.
HELD = 1000


def whole(fetch: Fetch, paging: Paging, size: int, *, start: int = 0) -> Iterator[Item]:
    """Everything, oldest first, holding one page at a time. `start`: entries to leave out (BY_PAGE_NUMBER)."""
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
    if count < 1:
        return []
    if paging is Paging.FORWARD:
        return list(deque((item for item in _forward(fetch, None) if wanted(item)), maxlen=count))
    found: dict[object, Item] = {}
    for _, item in _descending(fetch):
        if isinstance(item, Unknown) or not wanted(item):
            continue
        found.setdefault(_identity(item), item)
        if len(found) >= count:
            break
    return list(found.values())[::-1]


def following(fetch: Fetch, paging: Paging, position: Position | None, size: int) -> tuple[list[Item], bool]:
    """Everything after a position, oldest first, and whether contiguity with it was proved.

    On a BY_PAGE_NUMBER API the pages are read backwards until the position is met; only the gap is held.
    """
    if position is None:
        return list(whole(fetch, paging, size)), True
    if paging is Paging.FORWARD:
        anchored = True

        def noting(after: Position | None, cursor: str | None) -> HistoryPage:
            nonlocal anchored
            page = fetch(after, cursor)
            anchored = anchored and (cursor is not None or page.anchored)
            return page

        return list(_forward(noting, position)), anchored
    gap: dict[object, Item] = {}
    for _, item in _descending(fetch):
        if isinstance(item, Unknown):
            continue
        if item.id == position.id:
            return list(gap.values())[::-1], True
        if position.time is not None and item.time is not None and item.time < position.time:
            # Older than the position, which is gone from history: contiguity is not proved.
            return list(gap.values())[::-1], False
        gap.setdefault(_identity(item), item)
    return list(gap.values())[::-1], False


def latest(fetch: Fetch, paging: Paging) -> Item | None:
    """The newest item there is, None in an empty conversation."""
    last = newest(fetch, paging, 1, lambda item: True)
    return last[0] if last else None


def _forward(fetch: Fetch, after: Position | None) -> Iterator[Item]:
    cursor: str | None = None
    cursors: set[str] = set()
    seen: set[object] = set()
    while True:
        page = fetch(after if cursor is None else None, cursor)
        items = [item for item in page.items if not isinstance(item, Unknown)]
        for item in items:
            if item.id not in seen:
                yield item
        seen = {item.id for item in items if item.id is not None}
        if page.next is None:
            return
        cursor = page.next
        if cursor in cursors:
            raise Unreadable(f"history does not advance beyond {cursor[:80]!r}")
        cursors.add(cursor)


def _descending(fetch: Fetch) -> Iterator[tuple[int | None, Item | Unknown]]:
    """Newest first, each with its index counted from the oldest, which never changes.

    Arrivals shift entries to later pages: what is met again, or has only arrived since, is left out.
    Without a `total` there is no index, and what is met again comes again.
    """
    number, read, size, total = 1, 0, 0, 0
    lowest: int | None = None
    while True:
        page = fetch(None, str(number))
        size = max(size, len(page.items))
        if page.total is None:
            yield from ((None, item) for item in reversed(page.items))
        else:
            total = _not_less(page.total, total)
            top = total - 1 - (number - 1) * size
            for index, item in zip(range(top, top - len(page.items), -1), reversed(page.items), strict=True):
                if lowest is None or index < lowest:
                    lowest = index
                    yield index, item
        read += len(page.items)
        if not page.items or (page.total is not None and read >= page.total):
            return
        number += 1


def _not_less(now: int, before: int) -> int:
    if now < before:
        raise Unreadable(f"history shrank from {before} to {now} messages while it was read")
    return now


def _identity(item: Item) -> object:
    """What makes it one and the same; an entry without an id is only itself."""
    return item.id if item.id is not None else id(item)


def _ascending(fetch: Fetch, size: int, start: int) -> Iterator[Item]:
    """Oldest first over pages that are numbered from the newest.

    Counted from the oldest, an entry's index never changes, while its page does: so the page is
    worked out anew from the service's own `total`, and read again if the conversation has grown
    between the two. Without a `total` everything has to be read and held first.
    """
    total = fetch(None, "1").total
    if total is None:
        items = {_identity(item): item for _, item in _descending(fetch) if not isinstance(item, Unknown)}
        yield from list(items.values())[::-1]
        return
    index = start
    while index < total:
        number = (total - 1 - index) // size + 1
        page = fetch(None, str(number))
        grown = _not_less(page.total if page.total is not None else total, total)
        first = grown - (number - 1) * size - len(page.items)
        if not first <= index < first + len(page.items):
            if grown == total or not page.items or first < index:
                raise Unreadable(f"history page {number} does not hold what its total of {grown} promises")
            total = grown
            continue
        total = grown
        for item in page.items[index - first :]:
            index += 1
            if not isinstance(item, Unknown):
                yield item


def _since_disconnect(fetch: Fetch, size: int) -> Iterator[Item]:
    """Walk back to the last Disconnect, holding what is met up to a bound; beyond it read forward again."""
    held: deque[Item] = deque()
    seen: set[object] = set()
    met_message = False
    start = 0
    too_many = False
    for index, item in _descending(fetch):
        if met_message and _disconnects(item):
            start = 0 if index is None else index + 1
            break
        if isinstance(item, Unknown) or _identity(item) in seen:
            continue
        met_message = met_message or isinstance(item, Message)
        if index is not None and len(held) >= HELD:
            too_many = True
            continue
        seen.add(_identity(item))
        held.appendleft(item)
    return _ascending(fetch, size, start) if too_many else iter(held)


def _disconnects(item: Item | Unknown) -> bool:
    return isinstance(item, Presence) and item.presence == "Disconnect"


def messages(items: Iterable[Item]) -> list[Message]:
    """Only the messages."""
    return [item for item in items if isinstance(item, Message)]


# --- a part of it, by time or id ---


@immutable
class Window:
    """What lies between two bounds, each a time (RFC 3339) or the id of a message; None: no bound.

    `since` excludes a message it names, `until` includes it.
    """

    since: str | None = None
    until: str | None = None

    def __bool__(self) -> bool:
        return bool(self.since or self.until)

    @property
    def after(self) -> Position | None:
        """The message it begins behind, where it begins behind one."""
        return Position(self.since) if self.since and _moment(self.since) is None else None

    def of(self, items: Iterable[Item]) -> Iterator[Item]:
        """Those of `items` that lie in it; what follows `after` is given. Raises UsageError without the last one."""
        since, until = _moment(self.since), _moment(self.until)
        last_id = self.until if self.until and until is None else None
        for item in items:
            at = epoch_of(item.time) if item.time is not None else None
            if since is not None and at is not None and at < since:
                continue
            if until is not None and at is not None and at > until:
                return
            yield item
            if last_id is not None and item.id == last_id:
                return
        if last_id is not None:
            raise no_message("--until", last_id)


def selection(
    fetch: Fetch,
    paging: Paging,
    size: int,
    *,
    last: int | None = None,
    since: str | None = None,
    until: str | None = None,
    all: bool = False,
) -> Iterator[Item]:
    """Return the part of history that a caller asked for, oldest first.

    Without `all`: the messages of the current conversation. With it: messages and presence events of every
    conversation. `last` keeps that many of the newest; `since` and `until` are as in `Window`. Raises UsageError when
    history has no message of that id.
    """

    def wanted(item: Item) -> bool:
        return all or isinstance(item, Message)

    window = Window(since, until)
    items: Iterator[Item]
    if last is not None and not window:
        items = iter(newest(fetch, paging, last, wanted))
    elif window.after is not None:
        found, proved = following(fetch, paging, window.after, size)
        if not proved:
            raise no_message("--since", window.after.id)
        items = iter(found)
    elif all:
        items = whole(fetch, paging, size)
    else:
        items = current(fetch, paging, size)
    chosen = items if all else filter(wanted, items)
    if window:
        chosen = window.of(chosen)
        chosen = chosen if last is None else iter(deque(chosen, maxlen=last))
    return chosen


def position_before_last(fetch: Fetch, paging: Paging, count: int) -> Position | None:
    """Return the position that the last `count` messages follow; None when history has no more than those."""
    found = messages(newest(fetch, paging, count + 1, lambda item: isinstance(item, Message)))
    if len(found) <= count:
        return None
    return Position(found[0].id, found[0].sequence, found[0].time)


def no_message(option: str, id_: str) -> UsageError:
    return UsageError(
        f"{option}: there is no message with the id {id_!r}",
        code="usage.option",
        hint="`guestctl history -o json` shows the ids; a time is written 2026-03-09T12:00:00Z.",
    )


def _moment(given: str | None) -> float | None:
    """A time in epoch seconds; None for what is none (then it is an id)."""
    if not given:
        return None
    try:
        return epoch_of(given)
    except ValueError:
        return None
