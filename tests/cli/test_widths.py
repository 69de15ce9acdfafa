"""Terminals of every width: no view breaks a word, runs over the edge or loses a word.

Knows: the command line, and the width that COLUMNS states. Must not know: how a view is laid out. The words of a view
on a very wide terminal are those of the same view on a narrow one.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.cli.conftest import Front

WIDE = 4000
WIDTHS = [60, 80, 120]
VIEWS = [
    "schema",
    "explain 4001",
    "explain send.in_doubt",
    "profile list",
    "profile show",
    "session list",
    "session show",
    "session report",
    "sandbox sessions",
    "doctor",
]


@pytest.fixture
def short(front: Front) -> Iterator[Front]:
    """Run commands with a state directory whose path fits into every line."""
    with tempfile.TemporaryDirectory() as state:
        yield replace(front, environ={**front.environ, "GUESTCTL_STATE": f"{state}/s"})


def words(text: str) -> set[str]:
    """Return the words of a view. Digits are all alike, because times and durations pass between two runs."""
    return set(re.sub(r"\d+", "0", text).split())


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_the_same_words_at_every_width(short: Front, view: str) -> None:
    short("session", "create")
    short("send", "hello", "--wait")
    short("session", "create", "--as", "a-longer-name-than-usual")

    def shown(width: int) -> str:
        return short(*view.split(), tty=True, NO_COLOR="1", COLUMNS=str(width)).out

    whole = words(shown(WIDE))
    for width in WIDTHS:
        narrow = shown(width)
        assert max(map(len, narrow.splitlines())) <= width
        assert words(narrow) == whole, width


def test_the_list_of_apis_breaks_no_name(alone: Front) -> None:
    """A wide terminal gets a row for each operation instead, so its words are others."""
    narrow, wide = (alone("apis", tty=True, NO_COLOR="1", COLUMNS=str(width)).out for width in (60, 120))
    assert words(narrow) == words(wide)


def test_a_catalogue_stays_a_table_on_a_narrow_terminal(alone: Front) -> None:
    """Only long names are broken there, and no code: it is what one copies from the list."""
    wide, narrow = (alone("explain", tty=True, NO_COLOR="1", COLUMNS=str(width)).out for width in (WIDE, 80))
    assert narrow.splitlines()[0].split() == ["CODE", "TYPE", "MEANING", "EXIT", "API"]
    assert max(map(len, narrow.splitlines())) <= 80
    broken = words(wide) - words(narrow)
    assert broken
    assert all(re.fullmatch(r"[A-Za-z,-]{17,}", word) for word in broken), broken


#: What guestctl says, by the arguments: a view on stdout, or notices and errors on stderr.
SAYINGS = {
    "": "`guestctl --help` lists every command.",
    "demo": "(dropping the connection on purpose, before the next message is acknowledged)",
    "ask this question is so long that neither it nor its answer fits into one line of a narrow terminal": "",
    "sandbox disconnect": "conversations ended",
    "profile path": "it does not exist yet",
    "session use default": "",
    "resume": "no missed messages",
    "send --pick nothing": "hint: ",
    "session create --queue one-of-the-queues": "hint: ",
}


@pytest.mark.parametrize("argv", SAYINGS)
def test_what_guestctl_says_is_wrapped_between_words(short: Front, argv: str) -> None:
    short("session", "create")

    def said(width: int) -> str:
        result = short(*argv.split(), tty=True, NO_COLOR="1", COLUMNS=str(width))
        return result.out + result.err

    whole = said(WIDE)
    assert SAYINGS[argv] in whole
    for width in (40, 60, 80):
        narrow = said(width)
        # A word that is longer than the terminal stays in one piece, because it may be a path or a command.
        assert all(len(line) <= width or len(line.split()) == 1 for line in narrow.splitlines()), narrow
        assert words(narrow) == words(whole)


@pytest.mark.parametrize(("argv", "notice"), [("session list", "no session is stored"), ("history", "has no messages")])
def test_an_empty_table_says_so_on_stderr(short: Front, argv: str, notice: str) -> None:
    if argv == "history":
        short("session", "create")
    shown = short(*argv.split(), tty=True)
    assert (shown.code, shown.out) == (0, "")
    assert notice in shown.err
    assert short(*argv.split()).err == ""
