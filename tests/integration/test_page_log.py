"""`-v` logs each page of history that is read."""

from __future__ import annotations

import pytest

from tests.integration.front import Guest, Room


def logged(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("* history page")]


@pytest.mark.parametrize("api", ["messaging-conversations"])
def test_each_page_is_logged_with_its_token(talking: Guest, room: Room) -> None:
    """Number, size, and whether a token was returned; the token itself is in no output."""
    room.say(*[f"number {n}" for n in range(120)])
    shown, trace = talking.traced("history", "-v")
    assert logged(shown.err) == [
        "* history page 1: 50 entries, a token",
        "* history page 2: 50 entries, a token",
        "* history page 3: 20 entries, no token",
    ]
    pages = [(line["number"], line["size"], line["more"]) for line in trace if line["kind"] == "page"]
    assert pages == [(1, 50, True), (2, 50, True), (3, 20, False)]
    assert logged(talking.ok("history").err) == []


@pytest.mark.parametrize("api", ["guests"])
def test_pages_without_tokens_are_logged_too(talking: Guest, room: Room) -> None:
    room.say(*[f"number {n}" for n in range(60)])
    assert logged(talking.ok("history", "-v").err) == [
        "* history page 1: 50 entries, a further page",
        "* history page 2: 10 entries, no further page",
    ]
