"""Escaping of remote text, and the properties of the terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import termios
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from wcwidth import wcwidth

from guestctl.output.terminal import Terminal, cells, distinct, fold, visible, wrap


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def forbidden(text: str, *, lines: bool) -> list[str]:
    """Return whether a character must never reach a terminal: controls, surrogates, separators, and format
    characters except the joiners."""
    allowed = "\u200c\u200d" + ("\n" if lines else "")
    return [c for c in text if c not in allowed and unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]


def written_out(code: int) -> str:
    """Return the escaped form of a character."""
    if code <= 0xFF:
        return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code, "\\x" + bytes([code]).hex())
    return "\\u" + code.to_bytes(2, "big").hex() if code <= 0xFFFF else "\\U" + code.to_bytes(4, "big").hex()


def test_every_code_point_is_escaped_or_harmless() -> None:
    """`visible` treats each character separately, so this proves it for any text."""
    everything = [chr(code) for code in range(0x110000)]
    steering = {ord(char) for char in forbidden("".join(everything), lines=False)}
    steering |= {plane + end for plane in range(0, 0x110000, 0x10000) for end in (0xFFFE, 0xFFFF)}
    steering |= set(range(0xFDD0, 0xFDF0))
    assert len(steering) > 2000
    rule = [written_out(code) if code in steering else chr(code) for code in range(0x110000)]
    assert visible("".join(everything)) == "".join(rule)
    rule[9:11] = ["    ", "\n"]
    assert visible("".join(everything[:0x10000]), lines=True) == "".join(rule[:0x10000])


@given(st.text(), st.booleans())
def test_no_control_character_survives(text: str, lines: bool) -> None:
    assert not forbidden(visible(text, lines=lines), lines=lines)


@given(st.text(alphabet=st.characters(categories=["Lu", "Ll", "Nd", "Zs", "Po", "So"])))
def test_ordinary_text_is_unchanged(text: str) -> None:
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
def test_control_characters_are_escaped_and_not_removed(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_newlines_are_kept_only_on_request() -> None:
    assert visible("a\nb\tc\r", lines=True) == "a\nb    c\\r"


def test_escaping_creates_no_new_escape_sequence() -> None:
    assert "\x1b" not in visible("\x1b\x1b[[2J2J")


@given(st.text(alphabet="ab 日👍e\u0301", max_size=60), st.integers(2, 20))
def test_folding_loses_no_text(text: str, width: int) -> None:
    pieces = list(fold(text, width))
    assert "".join(pieces) == text
    # The space at which a line is broken is not drawn.
    assert all(sum(map(cells, piece.removesuffix(" "))) <= width for piece in pieces)


def test_lines_are_broken_between_words() -> None:
    assert list(fold("a parcel from the shop", 9)) == ["a parcel ", "from the ", "shop"]
    assert list(fold("to https://shop.example/x now", 10)) == ["to ", "https://sh", "op.example", "/x now"]


@pytest.mark.parametrize(
    ("char", "columns"),
    [
        ("a", 1),
        ("é", 1),
        ("✓", 1),
        ("日", 2),
        ("Ｗ", 2),
        ("ｱ", 1),
        ("👍", 2),
        ("\u0301", 0),
        ("\u20dd", 0),
        ("\u0e31", 0),
        ("\u200d", 0),
        ("\ufe0f", 1),
        ("\U000e5000", 2),
    ],
)
def test_cells(char: str, columns: int) -> None:
    assert cells(char) == columns


def test_cells_is_never_less_than_wcwidth() -> None:
    """wcwidth knows the newest Unicode; Python's tables are as old as the interpreter."""
    shown = visible("".join(map(chr, range(0x20, 0x40000))))  # what follows is unassigned or private
    assert [char for char in shown if wcwidth(char) > cells(char)] == []


def test_cells_is_never_less_than_the_width_that_rich_assumes() -> None:
    """Otherwise rich would cut off what we think fits."""
    planes = (range(0x20, 0x40000), range(0xE0000, 0xE0200))  # the others are unassigned or private throughout
    shown = visible("".join(chr(code) for plane in planes for code in plane))
    assert [char for char in shown if cell_len(char) > cells(char)] == []
    assert [char for char in shown if cell_len(char + "\ufe0f") > cells(char) + cells("\ufe0f")] == []


@pytest.mark.parametrize(
    ("line", "width", "pieces"),
    [
        ("", 5, [""]),
        ("abcde", 5, ["abcde"]),
        ("abcdef", 5, ["abcde", "f"]),
        ("abcde日", 5, ["abcde", "日"]),
        ("日本語", 5, ["日本", "語"]),
        ("日本語", 1, ["日", "本", "語"]),
        ("abc def", 5, ["abc ", "def"]),
        ("abc def", 6, ["abc ", "def"]),
        ("ab cdefghij", 5, ["ab ", "cdefg", "hij"]),
        ("a b c d e", 4, ["a b ", "c d ", "e"]),
        ("日 本 語", 4, ["日 ", "本 ", "語"]),
        ("abcde fgh", 5, ["abcde ", "fgh"]),
        ("abcde  fgh", 5, ["abcde ", " fgh"]),
        ("ab-cd-efg", 7, ["ab-cd-", "efg"]),
        ("a-bcdefghijk", 7, ["a-bcdef", "ghijk"]),
        ("x ab_cd_efg", 7, ["x ", "ab_cd_", "efg"]),
        ("e\u0301e\u0301e\u0301", 2, ["e\u0301e\u0301", "e\u0301"]),
    ],
)
def test_fold_breaks_after_a_space(line: str, width: int, pieces: list[str]) -> None:
    assert list(fold(line, width)) == pieces


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


@pytest.mark.parametrize(("environ", "width"), [({}, 80), ({"COLUMNS": "120"}, 120), ({"COLUMNS": "9"}, 20)])
def test_tables_have_a_width_in_a_pipe(environ: dict[str, str], width: int) -> None:
    assert Terminal.of(io.StringIO(), io.StringIO(), io.StringIO(), environ).drawing_width == width


@pytest.mark.parametrize(
    ("columns", "width"),
    [("1", 20), ("20", 20), ("21", 21), ("0", 80), ("", 80), ("-30", 80), ("٣٣", 80), ("1234567", 123456)],
)
def test_columns_sets_the_width(columns: str, width: int) -> None:
    assert Terminal.of(io.StringIO(), Screen(), Screen(), {"COLUMNS": columns}).width == width
    assert Terminal.of(io.StringIO(), Screen(), Screen(), {"COLUMNS": columns}).stderr_width == width


@pytest.mark.parametrize(("columns", "width"), [(0, 80), (10, 20), (33, 33)])
def test_the_width_of_the_terminal(columns: int, width: int) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(ours), os.fdopen(theirs, "w") as screen:
        found = Terminal.of(io.StringIO(), screen, screen, {})
    assert (found.stdout, found.stderr, found.colour) == (True, True, True)
    assert (found.width, found.stderr_width) == (width, width)


def test_the_width_follows_the_window() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(ours), os.fdopen(theirs, "w") as screen:
        found = Terminal.of(io.StringIO(), screen, screen, {})
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 33, 0, 0))
        assert found.resized(screen, {}).width == 33
        assert found.resized(screen, {"COLUMNS": "80"}).width == 80
    assert Terminal(stdout=True, width=50).resized(Screen(), {}).width == 50
    assert Terminal().resized(io.StringIO(), {}).width is None


def test_a_closed_or_missing_stream_is_not_a_terminal() -> None:
    closed = io.StringIO()
    closed.close()
    absent: Any = None
    found = Terminal.of(closed, absent, closed, {})
    assert found == Terminal()


def test_each_stream_is_detected_separately() -> None:
    found = Terminal.of(io.StringIO(), io.StringIO(), Screen(), {})
    assert (found.stdin, found.stdout, found.stderr) == (False, False, True)
    other = Terminal.of(Screen(), Screen(), io.StringIO(), {})
    assert (other.stdin, other.stdout, other.stderr) == (True, True, False)
    assert (other.width, other.stderr_width, other.stderr_colour) == (80, None, False)
    assert not found.colour
    assert found.for_stderr().colour
    assert found.for_stderr().width == 80


@pytest.mark.parametrize(
    ("line", "width", "pieces"),
    [
        ("one two three", None, ["one two three"]),
        ("one two three", 8, ["one two", "three"]),
        ("one two three", 7, ["one two", "three"]),
        ("see /a/very/long/path now", 10, ["see", "/a/very/long/path", "now"]),
        ("日本 語", 4, ["日本", "語"]),
        ("", 10, [""]),
    ],
)
def test_wrap_breaks_at_spaces_only(line: str, width: int | None, pieces: list[str]) -> None:
    assert list(wrap(line, width)) == pieces


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b", "a b"),
        ("a\u00a0b", "a\\xa0b"),
        ("5\u202f€", "5\\u202f€"),
        ("a\u3000b\u2009c", "a\\u3000b\\u2009c"),
        ("caf\u00e9", "caf\u00e9"),
        ("cafe\u0301", "cafe\\u0301"),
        ("q\u0301", "q\u0301"),
        ("\u212b", "\\u212b"),
        ("a\u0323\u0302", "a\\u0323\\u0302"),
        ("\ud55c", "\ud55c"),
        ("\u1112\u1161\u11ab", "\u1112\\u1161\\u11ab"),
        ("हिन्दी", "हिन्दी"),
        ("\u0915\u093c", "\u0915\u093c"),
        ("\u0958", "\\u0958"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("a\u200db", "a\\u200db"),
        ("\u200cx", "\\u200cx"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\u0301a", "\u0301a"),
        ("", ""),
        ("a\nb\u00a0", "a\nb\\xa0"),
    ],
)
def test_texts_that_differ_never_look_the_same(text: str, shown: str) -> None:
    assert distinct(text) == shown
