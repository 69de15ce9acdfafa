"""The last pages of history, for an API on which no request starts at a message (`pages_by_token`).

Knows: the tokens of the pages, and which entries a page had when it was read last. Must not know: any dialect's wire,
how a page is read.

Such an API has pages from the oldest message on, and only the page before states the token of a page. Without the
tokens, each look for a message would read the whole conversation.
"""

from __future__ import annotations

from collections import deque

from guestctl.core.model import Position, Unknown
from guestctl.core.values import immutable
from guestctl.dialects.base import HistoryEntry, HistoryPage, Omitted

#: Pages that are remembered: a look starts at one of the last ones.
REMEMBERED = 3


@immutable
class _Page:
    """`token`: None for the first page. `ids`: its entries.

    `begins_at`: the time (RFC 3339) of its first entry, or of the entry before it. `whole`: the page, if another one
    follows it: then it does not change any more.
    """

    token: str | None
    ids: frozenset[str] = frozenset()
    begins_at: str | None = None
    whole: HistoryPage | None = None


class PageTokens:
    """The last pages of one conversation, in order."""

    def __init__(self) -> None:
        self._pages: deque[_Page] = deque(maxlen=REMEMBERED)

    def clear(self) -> None:
        self._pages.clear()

    @property
    def known(self) -> bool:
        """Whether any page was read."""
        return bool(self._pages)

    @property
    def last(self) -> str | None:
        """The token of the last page that is known, None if that is the first page."""
        return self._pages[-1].token if self._pages else None

    @property
    def entries_on_last(self) -> int:
        """The number of entries that the last page had when it was read."""
        return len(self._pages[-1].ids) if self._pages else 0

    def note(self, token: str | None, page: HistoryPage) -> None:
        """Remember the page of a token, and that another one follows it."""
        ids = frozenset(id_ for item in page.items if (id_ := _id_of(item)) is not None)
        times = [time for item in page.items if (time := _time_of(item)) is not None]
        begins_at, ends_at = (times[0], times[-1]) if times else (None, None)
        if token is None:
            self.clear()
        if self._index(token) is None:
            self._pages.append(_Page(token))
        index = self._index(token)
        assert index is not None
        self._pages[index] = _Page(token, ids, begins_at, page if page.next is not None else None)
        if page.next is not None and self._index(page.next) is None:
            self._pages.append(_Page(page.next, begins_at=ends_at))

    def _index(self, token: str | None) -> int | None:
        return next((index for index, page in enumerate(self._pages) if page.token == token), None)

    def find(self, position: Position) -> str | None:
        """Return the token of the page from which on a message is found, None if that is the first page."""
        for page in self._pages:
            if position.id in page.ids:
                return page.token
        for page in reversed(self._pages):
            if page.begins_at is not None and position.time is not None and page.begins_at < position.time:
                return page.token
        return None

    def whole(self, token: str | None) -> HistoryPage | None:
        """Return the page of a token, if it was read and does not change any more."""
        return next((page.whole for page in self._pages if page.token == token), None)


def _id_of(item: HistoryEntry) -> str | None:
    return None if isinstance(item, Omitted) else item.id


def _time_of(item: HistoryEntry) -> str | None:
    return None if isinstance(item, (Omitted, Unknown)) else item.time
