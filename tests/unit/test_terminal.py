"""The sanitiser and the facts about the terminal."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestctl.terminal import Terminal, block, cells, fold, visible


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def forbidden(text: str, *, lines: bool) -> list[str]:
    """What may never reach a terminal: controls, surrogates, separators, format characters but the joiners."""
    allowed = "\u200c\u200d" + ("\n" if lines else "")
    return [c for c in text if c not in allowed and unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]


@given(st.text(), st.booleans())
def test_nothing_that_steers_a_terminal_survives(text: str, lines: bool) -> None:
    assert not forbidden(visible(text, lines=lines), lines=lines)


@given(st.text(alphabet=st.characters(categories=["Lu", "Ll", "Nd", "Zs", "Po", "So"])))
def test_ordinary_text_is_untouched(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;aGk=\x07", "\\x1b]52;c;aGk=\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb", "a\\rb"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("\u2028\u200b\ufeff", "\\u2028\\u200b\\ufeff"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\uffff", "\\uffff"),
        ("é 👩\u200d👩 می\u200cخواهم", "é 👩\u200d👩 می\u200cخواهم"),
    ],
)
def test_written_out_not_removed(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_lines_survive_only_on_request() -> None:
    assert visible("a\nb\tc\r", lines=True) == "a\nb    c\\r"


def test_a_removed_escape_cannot_make_a_new_one() -> None:
    assert "\x1b" not in visible("\x1b\x1b[[2J2J")


def test_every_line_of_a_block_is_indented_and_fits() -> None:
    text = "one " * 10 + "\n12:00:00 < agent: fake"
    lines = block(text, 12, 40).split("\n")
    assert all(line.startswith(" " * 12) for line in lines[1:])
    assert all(len(line) <= 40 for line in lines[1:])
    assert len(lines[0]) <= 28


@given(st.text(alphabet="ab 日👍e\u0301", max_size=60), st.integers(2, 20))
def test_folding_loses_nothing(text: str, width: int) -> None:
    pieces = list(fold(text, width))
    assert "".join(pieces) == text
    assert all(sum(map(cells, piece)) <= width for piece in pieces)


def test_lines_are_broken_between_words() -> None:
    assert list(fold("a parcel from the shop", 9)) == ["a parcel ", "from the ", "shop"]
    assert list(fold("to https://shop.example/x now", 10)) == ["to ", "https://sh", "op.example", "/x now"]


def test_no_terminal_no_width() -> None:
    assert list(fold("x" * 500, None)) == ["x" * 500]


@pytest.mark.parametrize(
    ("environ", "on_screen", "colour"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colour(environ: dict[str, str], on_screen: bool, colour: bool) -> None:
    stdout = Screen() if on_screen else io.StringIO()
    assert Terminal.of(io.StringIO(), stdout, io.StringIO(), environ).colour is colour


def test_width_comes_from_columns_and_only_on_a_terminal() -> None:
    assert Terminal.of(io.StringIO(), Screen(), Screen(), {"COLUMNS": "55"}).width == 55
    assert Terminal.of(io.StringIO(), Screen(), Screen(), {"COLUMNS": "nonsense"}).width == 80
    assert Terminal.of(io.StringIO(), io.StringIO(), Screen(), {"COLUMNS": "55"}).width is None


def test_each_stream_is_asked_for_itself() -> None:
    found = Terminal.of(io.StringIO(), io.StringIO(), Screen(), {})
    assert (found.stdin, found.stdout, found.stderr) == (False, False, True)
    assert not found.colour
    assert found.for_talk().colour
    assert found.for_talk().width == 80
