"""Read history: join pages into one ordered sequence, although messages arrive in between.

Knows: how positions and page numbers move when the conversation grows, and how many entries may be held in memory.
Must not know: any dialect's wire, sockets, printing. It does no I/O: a function that fetches one page is handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from guestctl.core.clock import epoch_of
from guestctl.core.errors import Unreadable, UsageError
from guestctl.core.model import Message, Position, Presence, Unknown
from guestctl.core.values import immutable
from guestctl.core.wire import utf8_size
from guestctl.dialects.base import HistoryEntry, HistoryPage, Omitted
from guestctl.dialects.capabilities import Paging

Item: TypeAlias = Message | Presence | Unknown
"""An entry of history that is shown. `Unknown`: one that cannot be read."""
Fetch: TypeAlias = Callable[[Position | None, str | None], HistoryPage]
"""Fetches one page: after a position, or at a cursor (see `Dialect.history`)."""

#: Entries held in memory while the start of the current conversation is searched; further ones are read twice.
HELD = 1000
#: Pages in a row that may repeat earlier entries, where the service does not state how many there are.
REPEATED_PAGES = 20
#: Entries, and their bytes, that are held at most when missed messages are read.
MISSED_ENTRIES, MISSED_BYTES = 10_000, 64 << 20


def whole(fetch: Fetch, paging: Paging, size: int, *, start: int = 0) -> Iterator[Item]:
    """Yield every entry, oldest first, with one page in memory. `start`: entries to skip (BY_PAGE_NUMBER)."""
    if paging is Paging.FORWARD:
        return _forward(fetch, None)
    return _ascending(fetch, size, start)


def current(fetch: Fetch, paging: Paging, size: int) -> Iterator[Item]:
    """Yield the current conversation: the entries after the last Disconnect that has a message after it."""
    if paging is Paging.FORWARD:
        return _forward(fetch, None)
    return _after_disconnect(fetch, size)


def newest(fetch: Fetch, paging: Paging, count: int, wanted: Callable[[Item], bool]) -> list[Item]:
    """Return the last `count` entries for which `wanted` is true, oldest first."""
    if count < 1:
        return []
    if paging is Paging.FORWARD:
        return list(deque((item for item in _forward(fetch, None) if wanted(item)), maxlen=count))
    found: dict[object, Item] = {}
    for _, item in _descending(fetch):
        if isinstance(item, Omitted) or not wanted(item):
            continue
        found.setdefault(_identity_of(item), item)
        if len(found) >= count:
            break
    return list(found.values())[::-1]


@immutable
class Following:
    """The entries after a position, oldest first.

    `anchored`: history shows the position. Without that, it is not proved that the entries continue there.
    `complete`: False when there were more entries than may be held: where pages are read backwards these are the
    newest, otherwise the oldest.
    """

    items: list[Item]
    anchored: bool = True
    complete: bool = True


def following(fetch: Fetch, paging: Paging, position: Position | None, size: int) -> tuple[list[Item], bool]:
    """Return every entry after a position, oldest first, and whether history is proved to continue there."""
    found = _following(fetch, paging, position, size, _Bound(None, None))
    return found.items, found.anchored


def missed(fetch: Fetch, paging: Paging, position: Position | None, size: int) -> Following:
    """Return the entries after a position, but at most `MISSED_ENTRIES` and `MISSED_BYTES`."""
    return _following(fetch, paging, position, size, _Bound(MISSED_ENTRIES, MISSED_BYTES))


class _Bound:
    """Counts entries and their approximate bytes. None: no limit."""

    def __init__(self, entries: int | None, size: int | None) -> None:
        self._entries, self._size = entries, size

    def exceeded_by(self, item: Item) -> bool:
        """Count one more entry, and return whether it is one too many."""
        if self._entries is None or self._size is None:
            return False
        self._entries -= 1
        self._size -= _size_of(item)
        return self._entries < 0 or self._size < 0


def _size_of(item: Item) -> int:
    """Return about how many bytes an entry takes as JSON."""
    size, rest = 0, [item.raw] if isinstance(item, (Message, Unknown)) else []
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            size += utf8_size(value)
        elif isinstance(value, dict):
            rest.extend(value)
            rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)
        size += 8
    return size


def _following(fetch: Fetch, paging: Paging, position: Position | None, size: int, bound: _Bound) -> Following:
    """Read the entries after a position. On a BY_PAGE_NUMBER API, pages are read backwards until one has it."""
    found: list[Item] = []
    if position is None or paging is Paging.FORWARD:
        anchored = True

        def fetch_and_check(after: Position | None, cursor: str | None) -> HistoryPage:
            nonlocal anchored
            page = fetch(after, cursor)
            anchored = anchored and (cursor is not None or page.anchored)
            return page

        ascending = _forward(fetch_and_check, position) if paging is Paging.FORWARD else whole(fetch, paging, size)
        for entry in ascending:
            if bound.exceeded_by(entry):
                return Following(found, anchored, complete=False)
            found.append(entry)
        return Following(found, anchored)
    gap: dict[object, Item] = {}
    for _, item in _descending(fetch):
        if isinstance(item, Omitted):
            continue
        if item.id == position.id:
            return Following(list(gap.values())[::-1])
        time = None if isinstance(item, Unknown) else item.time
        if position.time is not None and time is not None and time < position.time:
            # This entry is older than the position, which history does not have: entries in between may be missing.
            break
        if _identity_of(item) in gap:
            continue
        if bound.exceeded_by(item):
            return Following(list(gap.values())[::-1], complete=False)
        gap[_identity_of(item)] = item
    return Following(list(gap.values())[::-1], anchored=False)


def latest(fetch: Fetch, paging: Paging) -> Message | Presence | None:
    """Return the newest entry that can be read and has an id, None if there is none."""
    for item in newest(fetch, paging, 1, lambda item: not isinstance(item, Unknown) and item.id is not None):
        if not isinstance(item, Unknown):
            return item
    return None


def _forward(fetch: Fetch, after: Position | None) -> Iterator[Item]:
    cursor: str | None = None
    cursors: set[str] = set()
    seen: set[object] = set()
    while True:
        page = fetch(after if cursor is None else None, cursor)
        items = [item for item in page.items if not isinstance(item, Omitted)]
        # A page after a position may begin at its end, and so be empty.
        added = cursor is None or len(items) < len(page.items)
        for item in items:
            if item.id is None or item.id not in seen:
                added = True
                yield item
        seen = {item.id for item in items if item.id is not None}
        if page.next is None:
            return
        cursor = page.next
        if cursor in cursors or not added:
            raise Unreadable(f'history does not advance beyond the cursor "{cursor[:80]}"')
        cursors.add(cursor)


def _descending(fetch: Fetch) -> Iterator[tuple[int | None, HistoryEntry]]:
    """Yield entries newest first, each with its index counted from the oldest entry. The index never changes.

    New messages shift entries to later pages: an entry read before, and a new one, is left out. Without a `total` there
    is no index, and an entry may be yielded twice. Raises Unreadable for a page that adds no entry, although no new
    messages shifted the pages.
    """
    number, read, size, total = 1, 0, 0, 0
    lowest: int | None = None
    seen: set[str] = set()
    repeated = 0
    while True:
        page = fetch(None, str(number))
        size = max(size, len(page.items))
        ids = [item.id for item in page.items if not isinstance(item, Omitted) and item.id is not None]
        repeats = bool(ids) and seen.issuperset(ids)
        seen.update(ids)
        if page.total is None:
            # New messages may have shifted the pages by a whole page. That does not happen many times in a row.
            repeated = repeated + 1 if repeats else 0
            if repeated > REPEATED_PAGES:
                raise _repeated(number)
            yield from ((None, item) for item in reversed(page.items))
        else:
            total = _checked_total(page.total, total)
            top = total - 1 - (number - 1) * size
            if repeats and lowest is not None and top < lowest:
                raise _repeated(number)
            for index, item in zip(range(top, top - len(page.items), -1), reversed(page.items), strict=True):
                if lowest is None or index < lowest:
                    lowest = index
                    yield index, item
        read += len(page.items)
        if not page.items or (page.total is not None and read >= page.total):
            return
        number += 1


def _repeated(number: int) -> Unreadable:
    return Unreadable(f"history page {number} adds no entry to the pages before it")


def _checked_total(now: int, before: int) -> int:
    if now < before:
        raise Unreadable(f"history shrank from {before} to {now} messages while it was read")
    return now


def _identity_of(item: Item) -> object:
    """Return the id, or for an entry without one a value that no other entry has."""
    return item.id if item.id is not None else id(item)


def _ascending(fetch: Fetch, size: int, start: int) -> Iterator[Item]:
    """Yield entries oldest first, from pages that are numbered from the newest.

    The index of an entry, counted from the oldest, never changes, but its page does when messages arrive. So each page
    number is computed from the service's latest `total`, and the page is read again if the conversation has grown.
    Without a `total`, every entry has to be read and held first. Raises Unreadable for a page that adds no entry to the
    one before it.
    """
    total = fetch(None, "1").total
    if total is None:
        items = {_identity_of(item): item for _, item in _descending(fetch) if not isinstance(item, Omitted)}
        yield from list(items.values())[::-1]
        return
    index = start
    before: set[str] = set()
    while index < total:
        number = (total - 1 - index) // size + 1
        page = fetch(None, str(number))
        grown = _checked_total(page.total if page.total is not None else total, total)
        first = grown - (number - 1) * size - len(page.items)
        if not first <= index < first + len(page.items):
            if grown == total or not page.items or first < index:
                raise Unreadable(f"history page {number} does not have the entries that its total of {grown} implies")
            total = grown
            continue
        total = grown
        added = page.items[index - first :]
        ids = {item.id for item in added if not isinstance(item, Omitted) and item.id is not None}
        if ids and ids <= before:
            raise _repeated(number)
        before = ids
        for item in added:
            index += 1
            if not isinstance(item, Omitted):
                yield item


def _after_disconnect(fetch: Fetch, size: int) -> Iterator[Item]:
    """Read backwards to the last Disconnect. Beyond `HELD` entries, read them forwards a second time."""
    held: deque[Item] = deque()
    seen: set[object] = set()
    has_message = False
    start = 0
    overflowed = False
    for index, item in _descending(fetch):
        if has_message and _is_disconnect(item):
            start = 0 if index is None else index + 1
            break
        if isinstance(item, Omitted) or _identity_of(item) in seen:
            continue
        has_message = has_message or isinstance(item, Message)
        if index is not None and len(held) >= HELD:
            overflowed = True
            continue
        seen.add(_identity_of(item))
        held.appendleft(item)
    return _ascending(fetch, size, start) if overflowed else iter(held)


def _is_disconnect(item: HistoryEntry) -> bool:
    return isinstance(item, Presence) and item.presence == "Disconnect"


def messages(items: Iterable[Item]) -> list[Message]:
    """Return only the messages."""
    return [item for item in items if isinstance(item, Message)]


# --- a part of history, by time or id ---


@immutable
class Window:
    """A part of history between two bounds. Each is a time (RFC 3339) or the id of a message; None: no bound.

    A message named by `since` is excluded, one named by `until` is included.
    """

    since: str | None = None
    until: str | None = None

    def __bool__(self) -> bool:
        return bool(self.since or self.until)

    @property
    def after(self) -> Position | None:
        """The message after which the window starts, if `since` is an id."""
        return Position(self.since) if self.since and _time_of(self.since) is None else None

    def of(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the `items` that are in the window. Raises UsageError when there is no message `until`.

        `items` start after `after`.
        """
        since, until = _time_of(self.since), _time_of(self.until)
        last_id = self.until if self.until and until is None else None
        at: float | None = None
        for item in items:
            time = None if isinstance(item, Unknown) else item.time
            at = epoch_of(time) if time is not None else at  # an entry without a time is where its predecessor is
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
    conversation. Entries that cannot be read are always included. `last` keeps that many of the newest; `since` and
    `until` are as in `Window`. Raises UsageError when history has no message of that id.
    """

    def wanted(item: Item) -> bool:
        return all or isinstance(item, (Message, Unknown))

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
        f'{option}: no message has the id "{id_}"',
        code="usage.option",
        hint="`guestctl history -o json` shows the ids; a time is written 2026-03-09T12:00:00Z",
    )


def _time_of(given: str | None) -> float | None:
    """Return a time in epoch seconds, None if it is an id."""
    if not given:
        return None
    try:
        return epoch_of(given)
    except ValueError:
        return None
