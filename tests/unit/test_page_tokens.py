"""Which page of history a search starts at, on an API whose pages have tokens."""

from __future__ import annotations

from guestctl.core.model import Message, Position
from guestctl.dialects.base import HistoryPage
from guestctl.engine.page_tokens import REMEMBERED, PageTokens


def page(*numbers: int, next: str | None = None) -> HistoryPage:
    return HistoryPage(tuple(Message(f"m{n}", "outbound", f"text {n}", time_of(n)) for n in numbers), next=next)


def time_of(number: int) -> str:
    return f"2026-03-09T12:00:{number:02}.000Z"


def at(number: int) -> Position:
    return Position(f"m{number}", None, time_of(number))


def three_pages() -> PageTokens:
    tokens = PageTokens()
    tokens.note(None, page(1, 2, next="b"))
    tokens.note("b", page(3, 4, next="c"))
    tokens.note("c", page(5))
    return tokens


def test_a_message_is_searched_for_on_its_page() -> None:
    tokens = three_pages()
    assert [tokens.find(at(n)) for n in range(1, 6)] == [None, None, "b", "b", "c"]
    assert tokens.find(Position("m4")) == "b"


def test_a_message_that_no_read_page_has_is_searched_for_from_the_page_of_its_time() -> None:
    tokens = three_pages()
    assert tokens.find(at(9)) == "c"
    assert tokens.find(Position("m9")) is None
    tokens.note("c", page(5, 6, next="d"))
    assert (tokens.last, tokens.find(at(9))) == ("d", "d")


def test_only_a_page_that_another_one_follows_does_not_change() -> None:
    tokens = three_pages()
    known = tokens.whole("b")
    assert known is not None
    assert [item.id for item in known.items if isinstance(item, Message)] == ["m3", "m4"]
    assert tokens.whole("c") is None
    assert tokens.entries_on_last == 1


def test_only_the_last_pages_are_remembered() -> None:
    tokens = PageTokens()
    for n in range(10):
        tokens.note(str(n) if n else None, page(n, next=str(n + 1)))
    assert [n for n in range(10) if tokens.whole(str(n)) is not None] == list(range(11 - REMEMBERED, 10))
    assert tokens.find(at(1)) is None


def test_the_first_page_starts_over() -> None:
    tokens = three_pages()
    tokens.note(None, page(1))
    assert (tokens.last, tokens.known, tokens.find(at(4))) == (None, True, None)
    tokens.clear()
    assert (tokens.known, tokens.entries_on_last) == (False, 0)
