"""What the terminal is, and how remote text is made safe for it.

Knows: which streams are terminals, whether colour is wanted, how wide a line is, and which
characters must be made visible. Must not know: what is shown. Hand-written on purpose: no layout
library removes escape, C1 and bidi controls (reliability.md §8.3).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import IO, Any

from guestctl.core.values import immutable

#: Joiners that Persian and emoji need; they reorder nothing.
_JOINERS = frozenset({0x200C, 0x200D})
#: Two columns on newer terminals than Python's tables know: symbols that Unicode 16 made wide, and halves of flags.
_WIDE_ELSEWHERE = frozenset(
    code
    for first, last in (
        (0x2630, 0x2637),
        (0x268A, 0x268F),
        (0x4DC0, 0x4DFF),
        (0x1D300, 0x1D356),
        (0x1D360, 0x1D376),
        (0x1F1E6, 0x1F1FF),
    )
    for code in range(first, last + 1)
)
_FALLBACK_WIDTH = 80
#: No line is folded narrower than this, whatever COLUMNS says.
_NARROWEST = 20


@immutable
class Terminal:
    """Facts about the three streams. `width` in columns; None: nothing is ever folded (no terminal)."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    colour: bool = False
    width: int | None = None
    talk_colour: bool = False
    talk_width: int | None = None

    @classmethod
    def of(cls, stdin: IO[Any], stdout: IO[Any], stderr: IO[Any], environ: Mapping[str, str]) -> Terminal:
        """Look once. NO_COLOR wins over FORCE_COLOR, which wins over what the stream is (no-color.org)."""
        on_screen = _is_terminal(stdout)
        return cls(
            stdin=_is_terminal(stdin),
            stdout=on_screen,
            stderr=_is_terminal(stderr),
            colour=_wants_colour(on_screen, environ),
            width=_width(stdout, environ) if on_screen else None,
            talk_colour=_wants_colour(_is_terminal(stderr), environ),
            talk_width=_width(stderr, environ) if _is_terminal(stderr) else None,
        )

    def for_talk(self) -> Terminal:
        """The same facts for what is drawn on stderr."""
        return replace(self, colour=self.talk_colour, width=self.talk_width)


def _is_terminal(stream: IO[Any] | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _wants_colour(on_screen: bool, environ: Mapping[str, str]) -> bool:
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return on_screen and environ.get("TERM") != "dumb"


def _width(stream: IO[Any], environ: Mapping[str, str]) -> int:
    given = environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given[:6]) > 0:
        return max(_NARROWEST, int(given[:6]))
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return max(_NARROWEST, columns or _FALLBACK_WIDTH)


def visible(text: str, *, lines: bool = False) -> str:
    """Text with everything that could steer a terminal written out: `\\x1b`, `\\u202e`, `\\n`.

    Escaped, never removed, so that nothing new appears where something was cut out. With `lines`
    a newline stays one and a tab becomes spaces; the caller indents what follows a newline.
    """
    if text.isprintable():
        return text
    return "".join(_shown(char, lines) for char in text)


def _shown(char: str, lines: bool) -> str:
    code = ord(char)
    if char.isprintable():
        return char
    if lines and char == "\n":
        return char
    if lines and char == "\t":
        return "    "
    if char in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[char]
    category = unicodedata.category(char)
    nonchar = (code & 0xFFFE) == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    if not nonchar and (category in {"Zs", "Co", "Cn"} or code in _JOINERS):
        return char
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def cells(char: str) -> int:
    """Columns one character takes, 0, 1 or 2: the most that any terminal gives it, for one too few lets text
    run over the edge, where the terminal would fold it itself."""
    if char.isascii():
        return 1
    if char == "\ufe0f":  # asks for the wide, coloured form of what precedes it
        return 1
    category = unicodedata.category(char)
    if unicodedata.combining(char) or category in {"Mn", "Me", "Cf"}:
        return 0
    wide = unicodedata.east_asian_width(char) in "WF" or category == "Cn" or ord(char) in _WIDE_ELSEWHERE
    return 2 if wide else 1


def fold(line: str, width: int | None) -> Iterator[str]:
    """One line in pieces of at most `width` columns, broken after a space where there is one; a terminal
    that folded it itself would start the next row in column one, where a message could pose as a record."""
    if width is None or (line.isascii() and len(line) <= width):
        yield line
        return
    start = used = word = 0
    for at, char in enumerate(line):
        size = cells(char)
        while used + size > width and at > start:
            end = word if word > start else at
            yield line[start:end]
            start, used = end, sum(map(cells, line[end:at]))
        if char == " ":
            word = at + 1
        used += size
    yield line[start:]


def wrap(line: str, width: int | None) -> Iterator[str]:
    """Yield one line in pieces of at most `width` columns, broken at spaces only.

    A word that is longer, such as a path or a command, stays whole: it can be copied in one piece.
    """
    if width is None:
        yield line
        return
    piece, used = "", 0
    for word in re.findall(r"\S*\s|\S+", line):  # every kind of space: a no-break space would let text pose as a label
        size = sum(map(cells, word.rstrip()))
        if piece and used + size > width:
            yield piece.rstrip()
            piece, used = "", 0
        piece += word
        used += sum(map(cells, word))
    yield piece.rstrip()


def block(text: str, indent: int, width: int | None) -> str:
    """Remote text as one or more lines, every one after the first indented by `indent` spaces."""
    room = None if width is None else max(_NARROWEST // 2, width - indent)
    pieces = [piece for line in visible(text, lines=True).split("\n") for piece in fold(line, room)]
    return ("\n" + " " * indent).join(pieces)
