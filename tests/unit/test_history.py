"""History while it grows: neither a hole nor a double, whatever arrives between two fetches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from guestctl.core.clock import rfc3339
from guestctl.core.errors import Unreadable, UsageError
from guestctl.core.model import UNREADABLE, Message, Position, Presence, Unknown
from guestctl.dialects.base import HistoryEntry, HistoryPage, Omitted
from guestctl.dialects.capabilities import Paging
from guestctl.engine import history
from guestctl.engine.history import Fetch, Item, Window, current, following, latest, messages, missed, newest, whole
from tests.fakes import START
from tests.properties import examples

Entry = HistoryEntry


def entry(n: int, kind: str = "message") -> Entry:
    time = rfc3339(START + n)
    if kind == "omitted":
        return Omitted()
    if kind == "unreadable":
        return Unknown(UNREADABLE, id=f"e{n}")
    if kind == "disconnect":
        return Presence("Disconnect", "outbound", id=f"e{n}", time=time)
    if kind == "join":
        return Presence("Join", "inbound", id=f"e{n}", time=time)
    return Message(f"e{n}", "outbound", str(n), time)


class Growing:
    """A conversation that grows by so many entries before each fetch, and answers in pages."""

    def __init__(
        self, kinds: list[str], arrivals: list[int], size: int, *, totals: bool = True, kind: str = "message"
    ) -> None:
        self.entries = [entry(n, one) for n, one in enumerate(kinds)]
        self.arrivals = iter(arrivals)
        self.size = size
        self.totals = totals
        self.kind = kind
        self.fetched: list[str | None] = []

    def grow(self) -> None:
        for _ in range(next(self.arrivals, 0)):
            self.entries.append(entry(len(self.entries), self.kind))

    def numbered(self, after: Position | None, cursor: str | None) -> HistoryPage:
        assert len(self.fetched) < 1000, "it never ends"
        self.fetched.append(cursor)
        self.grow()
        end = len(self.entries) - (int(cursor or "1") - 1) * self.size
        items = self.entries[max(0, end - self.size) : max(0, end)]
        return HistoryPage(tuple(items), total=len(self.entries) if self.totals else None)

    def forward(self, after: Position | None, cursor: str | None) -> HistoryPage:
        self.fetched.append(cursor)
        self.grow()
        begin = int(cursor or 0)
        if after is not None:
            begin = next(n for n, one in enumerate(self.entries, 1) if getattr(one, "id", None) == after.id)
        end = begin + self.size
        items = self.entries[begin:end]
        return HistoryPage(tuple(items), next=str(end) if end < len(self.entries) else None)


def ids(items: list[Item] | Iterator[Item]) -> list[str | None]:
    return [item.id for item in items]


def shown(entries: list[Entry]) -> list[str | None]:
    return [one.id for one in entries if not isinstance(one, Omitted)]


KINDS = some.lists(
    some.sampled_from(["message", "message", "message", "join", "omitted", "unreadable", "disconnect"]), max_size=25
)
ARRIVALS = some.lists(some.integers(0, 7), max_size=12)
SIZES = some.integers(1, 6)


@settings(max_examples=examples(150))
@given(KINDS, ARRIVALS, SIZES)
def test_whole_history_is_a_snapshot_in_order(kinds: list[str], arrivals: list[int], size: int) -> None:
    """All that was there at the first fetch, then what had arrived by the last: no hole, no double."""
    service = Growing(kinds, arrivals, size)
    found = ids(whole(service.numbered, Paging.BY_PAGE_NUMBER, size))
    assert found == shown(service.entries)[: len(found)]
    assert len(found) >= len(shown(service.entries[: len(kinds)]))


@settings(max_examples=examples(100))
@given(KINDS, ARRIVALS, SIZES)
def test_whole_history_without_totals(kinds: list[str], arrivals: list[int], size: int) -> None:
    service = Growing(kinds, [min(size, n) for n in arrivals], size, totals=False)
    found = ids(whole(service.numbered, Paging.BY_PAGE_NUMBER, size))
    assert found == shown(service.entries)[: len(found)]
    assert len(found) >= len(shown(service.entries[: len(kinds)]))


@settings(max_examples=examples(100))
@given(KINDS, ARRIVALS, SIZES)
def test_whole_history_of_forward_pages(kinds: list[str], arrivals: list[int], size: int) -> None:
    service = Growing(kinds, arrivals, size)
    assert ids(whole(service.forward, Paging.FORWARD, size)) == shown(service.entries)


@settings(max_examples=examples(150))
@given(KINDS, ARRIVALS, SIZES, some.data(), some.booleans())
def test_entries_after_a_position_are_complete(
    kinds: list[str], arrivals: list[int], size: int, data: some.DataObject, totals: bool
) -> None:
    if not totals:
        arrivals = [min(size, n) for n in arrivals]
    service = Growing(["message", *kinds], arrivals, size, totals=totals)
    place = data.draw(some.sampled_from([one for one in service.entries if isinstance(one, (Message, Presence))]))
    assert place.id is not None
    items, proved = following(service.numbered, Paging.BY_PAGE_NUMBER, Position(place.id, None, place.time), size)
    assert proved
    everything = shown(service.entries)
    begin = everything.index(place.id) + 1
    assert ids(items) == everything[begin : begin + len(items)]
    assert begin + len(items) >= len(shown(service.entries[: len(kinds) + 1]))


@settings(max_examples=examples(100))
@given(KINDS, ARRIVALS, SIZES, some.integers(1, 20))
def test_the_newest_entries(kinds: list[str], arrivals: list[int], size: int, count: int) -> None:
    service = Growing(kinds, arrivals, size)
    found = newest(service.numbered, Paging.BY_PAGE_NUMBER, count, lambda item: isinstance(item, Message))
    everything: list[str | None] = [one.id for one in service.entries if isinstance(one, Message)]
    if found:
        end = everything.index(found[-1].id) + 1
        assert ids(found) == everything[max(0, end - count) : end]
    assert len(found) >= min(count, kinds.count("message"))


def current_begins(entries: list[Entry]) -> int:
    """The meaning of `current`, said plainly: behind the last Disconnect that a message follows."""
    met = False
    for index in range(len(entries) - 1, -1, -1):
        one = entries[index]
        if met and isinstance(one, Presence) and one.presence == "Disconnect":
            return index + 1
        met = met or isinstance(one, Message)
    return 0


@pytest.mark.parametrize("held", [2, 1000])
@settings(max_examples=examples(150))
@given(kinds=KINDS, arrivals=ARRIVALS, size=SIZES)
def test_the_current_conversation(held: int, kinds: list[str], arrivals: list[int], size: int) -> None:
    """As it was at the first fetch, and what arrived since; also where there is more of it than is held."""
    service = Growing(kinds, arrivals, size)
    at_first = len(kinds) + sum(arrivals[:1])
    before, history.HELD = history.HELD, held
    try:
        found = ids(current(service.numbered, Paging.BY_PAGE_NUMBER, size))
    finally:
        history.HELD = before
    begin = current_begins(service.entries[:at_first])
    expected = shown(service.entries[begin:])
    assert found == expected[: len(found)]
    assert len(found) >= len(shown(service.entries[begin:at_first]))


# --- contradictions are errors, not holes ---


def shrinking(pages: dict[str, tuple[int, int, int]]) -> Callable[[Position | None, str | None], HistoryPage]:
    """Page number -> first index, count, total; pages beyond are empty."""

    def fetch(after: Position | None, cursor: str | None) -> HistoryPage:
        first, count, total = pages.get(cursor or "1", (0, 0, 0))
        return HistoryPage(tuple(entry(n) for n in range(first, first + count)), total=total)

    return fetch


READS: dict[str, Callable[[Fetch], object]] = {
    "whole": lambda fetch: list(whole(fetch, Paging.BY_PAGE_NUMBER, 3)),
    "following": lambda fetch: following(fetch, Paging.BY_PAGE_NUMBER, Position("none"), 3),
    "newest": lambda fetch: newest(fetch, Paging.BY_PAGE_NUMBER, 100, lambda item: True),
    "current": lambda fetch: list(current(fetch, Paging.BY_PAGE_NUMBER, 3)),
}


@pytest.mark.parametrize("read", READS)
def test_a_conversation_that_shrinks(read: str) -> None:
    fetch = shrinking({"1": (3, 3, 6), "2": (0, 2, 5)})
    with pytest.raises(Unreadable, match="shrank"):
        READS[read](fetch)


def test_pages_smaller_than_requested() -> None:
    """The service gives two entries where three were asked for: the count does not add up, and says so."""
    fetch = shrinking({"1": (4, 2, 6), "2": (2, 2, 6), "3": (0, 2, 6)})
    with pytest.raises(Unreadable, match="implies"):
        list(whole(fetch, Paging.BY_PAGE_NUMBER, 3))
    assert ids(following(fetch, Paging.BY_PAGE_NUMBER, Position("e0"), 3)[0]) == [f"e{n}" for n in range(1, 6)]


def test_an_empty_page_instead_of_a_full_one() -> None:
    with pytest.raises(Unreadable, match="implies"):
        list(whole(shrinking({"1": (3, 3, 6), "2": (0, 0, 6)}), Paging.BY_PAGE_NUMBER, 3))


@pytest.mark.parametrize("cursors", [["a", "a"], ["a", "b", "a"]])
def test_a_repeated_cursor_is_an_error(cursors: list[str]) -> None:
    following_cursor = iter([*cursors, *cursors])
    with pytest.raises(Unreadable, match="advance"):
        list(whole(lambda after, cursor: HistoryPage((entry(1),), next=next(following_cursor)), Paging.FORWARD, 3))


# --- in particular ---


def test_an_empty_history() -> None:
    for way, fetch in (
        (Paging.BY_PAGE_NUMBER, Growing([], [], 3).numbered),
        (Paging.FORWARD, Growing([], [], 3).forward),
    ):
        assert list(whole(fetch, way, 3)) == []
        assert list(current(fetch, way, 3)) == []
        assert latest(fetch, way) is None
        assert following(fetch, way, None, 3) == ([], True)


def test_a_position_missing_from_history() -> None:
    service = Growing(["message"] * 6, [], 3)
    items, proved = following(service.numbered, Paging.BY_PAGE_NUMBER, Position("gone", None, rfc3339(START + 3)), 3)
    assert not proved
    assert ids(items) == ["e3", "e4", "e5"]
    items, proved = following(service.numbered, Paging.BY_PAGE_NUMBER, Position("gone"), 3)
    assert not proved
    assert len(items) == 6


def test_a_forward_page_that_is_not_anchored() -> None:
    def fetch(after: Position | None, cursor: str | None) -> HistoryPage:
        if cursor is None:
            return HistoryPage((entry(1),), next="2", anchored=False)
        return HistoryPage((entry(2),))

    items, proved = following(fetch, Paging.FORWARD, Position("gone"), 3)
    assert (ids(items), proved) == (["e1", "e2"], False)


def test_only_existing_pages_are_requested() -> None:
    service = Growing(["message"] * 3, [], 100)
    assert len(list(current(service.numbered, Paging.BY_PAGE_NUMBER, 100))) == 3
    assert service.fetched == ["1"]


def test_entries_without_an_id_are_distinct() -> None:
    nameless = [Presence("Join", "inbound"), Presence("Join", "inbound"), entry(3)]

    def fetch(after: Position | None, cursor: str | None) -> HistoryPage:
        return HistoryPage(tuple(nameless), total=3)

    assert len(newest(fetch, Paging.BY_PAGE_NUMBER, 9, lambda item: True)) == 3
    assert len(following(fetch, Paging.BY_PAGE_NUMBER, Position("e0"), 9)[0]) == 3
    assert len(list(current(fetch, Paging.BY_PAGE_NUMBER, 9))) == 3
    assert len(list(whole(fetch, Paging.BY_PAGE_NUMBER, 9))) == 3


def test_messages_leaves_other_entries_out() -> None:
    assert ids(list(messages([one for one in (entry(1, "join"), entry(2)) if not isinstance(one, Omitted)]))) == ["e2"]


# --- histories without an end ---


def never_ending(kind: str) -> Fetch:
    """Return a history whose pages never end: with new entries, with the same ones, or with none."""

    def fetch(after: Position | None, cursor: str | None) -> HistoryPage:
        number = int(cursor or "1")
        if kind == "same":
            return HistoryPage((entry(1), entry(2)), next=str(number + 1))
        if kind == "empty":
            return HistoryPage((), next=str(number + 1))
        first = 10**6 - 100 * number
        return HistoryPage(tuple(entry(first + n) for n in range(100)), next=str(number + 1))

    return fetch


@pytest.mark.parametrize("paging", Paging)
def test_missed_messages_are_bounded(paging: Paging) -> None:
    found = missed(never_ending("new"), paging, Position("none"), 100)
    assert not found.complete
    assert len(found.items) == history.MISSED_ENTRIES


@pytest.mark.parametrize("paging", Paging)
def test_missed_bytes_are_bounded(paging: Paging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MISSED_BYTES", 5_000)

    def fetch(after: Position | None, cursor: str | None) -> HistoryPage:
        number = int(cursor or "1")
        big = replace(cast("Message", entry(number)), raw={"text": "x" * 1000})
        return HistoryPage((big,), next=str(number + 1))

    found = missed(fetch, paging, Position("none"), 100)
    assert not found.complete
    assert len(found.items) == 4


@pytest.mark.parametrize("paging", Paging)
@pytest.mark.parametrize("read", [name for name in READS if name != "whole"])
def test_a_page_that_adds_no_entry_is_an_error(read: str, paging: Paging) -> None:
    ways: dict[str, Callable[[Fetch], object]] = {
        "following": lambda fetch: following(fetch, paging, Position("none"), 3),
        "newest": lambda fetch: newest(fetch, paging, 100, lambda item: True),
        "current": lambda fetch: list(current(fetch, paging, 3)),
    }
    with pytest.raises(Unreadable):
        ways[read](never_ending("same"))


def test_an_empty_page_with_a_cursor_is_an_error() -> None:
    with pytest.raises(Unreadable, match="advance"):
        list(whole(never_ending("empty"), Paging.FORWARD, 3))


# --- a part of it ---


def between(since: str | None = None, until: str | None = None) -> str:
    items = iter([Message(f"m{n}", "inbound", str(n), f"2026-03-04T09:15:2{n}.000Z") for n in range(5)])
    return "".join(str(item.id)[1] for item in Window(since, until).of(items))


def test_a_window_returns_the_entries_between_its_bounds() -> None:
    assert between() == "01234"
    assert between(since="2026-03-04T09:15:22Z") == "234"
    assert between(until="2026-03-04T09:15:22Z") == "012"
    assert between(until="m3") == "0123"
    with pytest.raises(UsageError, match="m9"):
        between(until="m9")


@pytest.mark.parametrize("given_", ["9d1f0c2e", "b9c7-not-a-time", "m1"])
def test_an_id_is_not_read_as_a_time(given_: str) -> None:
    assert Window(since=given_).after == Position(given_)


def test_a_time_is_not_read_as_an_id() -> None:
    assert (Window().after, Window(since="2026-03-04T09:15:22Z").after) == (None, None)


def test_the_hint_for_an_unknown_id_says_where_ids_are_listed() -> None:
    with pytest.raises(UsageError) as caught:
        list(Window(until="nosuch").of([]))
    assert caught.value.hint.startswith("`guestctl history -o json` shows the ids")
