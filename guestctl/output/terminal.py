"""The properties of the terminal, and the escaping of remote text for it.

Knows: which streams are terminals, whether to use colour, the width of a line, and which characters must be
escaped. Must not know: the content of the text. No layout library removes escape, C1 and bidi controls, so this
module does it itself (reliability.md §8.3).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import IO, Any

from guestctl.core.values import immutable

#: Joiners that Persian and emoji need; they do not reorder text.
_JOINERS = frozenset({0x200C, 0x200D})
#: Two columns wide on terminals newer than Python's tables: symbols that Unicode 16 made wide, and halves of flags.
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
#: Minimum width of a line, regardless of COLUMNS.
_NARROWEST = 20


@immutable
class Terminal:
    """Properties of the three streams. `width` is in columns; None means no terminal: plain lines are not folded.

    Tables have a width in a pipe too, `piped_width`.
    """

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    colour: bool = False
    width: int | None = None
    stderr_colour: bool = False
    stderr_width: int | None = None
    piped_width: int = _FALLBACK_WIDTH

    @classmethod
    def of(cls, stdin: IO[Any], stdout: IO[Any], stderr: IO[Any], environ: Mapping[str, str]) -> Terminal:
        """Return the properties of the streams. NO_COLOR overrides FORCE_COLOR, which overrides detection
        (no-color.org)."""
        on_screen = _is_terminal(stdout)
        return cls(
            stdin=_is_terminal(stdin),
            stdout=on_screen,
            stderr=_is_terminal(stderr),
            colour=_wants_colour(on_screen, environ),
            width=_width(stdout, environ) if on_screen else None,
            stderr_colour=_wants_colour(_is_terminal(stderr), environ),
            stderr_width=_width(stderr, environ) if _is_terminal(stderr) else None,
            piped_width=_width(None, environ),
        )

    @property
    def drawing_width(self) -> int:
        """The width of tables: that of the terminal, otherwise COLUMNS or 80."""
        return self.piped_width if self.width is None else self.width

    def resized(self, stdout: IO[Any] | None, environ: Mapping[str, str]) -> Terminal:
        """Return the same properties with the present width of the window, unless COLUMNS states the width."""
        if not self.stdout or stdout is None or environ.get("COLUMNS"):
            return self
        try:
            columns = os.get_terminal_size(stdout.fileno()).columns
        except (OSError, ValueError):
            return self
        return replace(self, width=max(_NARROWEST, columns)) if columns else self

    def for_stderr(self) -> Terminal:
        """Return the same properties for output on stderr."""
        return replace(self, colour=self.stderr_colour, width=self.stderr_width)


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


def _width(stream: IO[Any] | None, environ: Mapping[str, str]) -> int:
    given = environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given[:6]) > 0:
        return max(_NARROWEST, int(given[:6]))
    try:
        columns = 0 if stream is None else os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return max(_NARROWEST, columns or _FALLBACK_WIDTH)


def visible(text: str, *, lines: bool = False) -> str:
    """Return a text with every control character escaped: `\\x1b`, `\\u202e`, `\\n`.

    Characters are escaped and never removed, because removing one could join two parts into a new control
    sequence. With `lines`, a newline is kept and a tab becomes spaces; the caller indents the next line.
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
    return _escaped(char)


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


#: The hyphen and the non-breaking hyphen, which no font draws unlike "-".
_HYPHENS = "\u2010\u2011"


def distinct(text: str) -> str:
    """Return a text in which two different texts do not look the same because of how their characters are encoded.

    Spaces other than U+0020 and hyphens other than U+002D are escaped, joiners next to ASCII too, and the parts of a
    character that has a code of its own: the accent in `e\\u0301`, but not in `é`.
    """
    if text.isascii():
        return text
    shown = "".join(map(_distinct_cluster, _clusters(text)))
    return re.sub("[\u200c\u200d]", lambda found: _distinct_joiner(shown, found.start()), shown)


def _clusters(text: str) -> Iterator[str]:
    """Yield each character with the marks after it; the letters of a Korean syllable count as marks."""
    start = 0
    for at, char in enumerate(text):
        if at and unicodedata.category(char)[0] != "M" and not "\u1160" <= char <= "\u11ff":
            yield text[start:at]
            start = at
    yield text[start:]


def _distinct_cluster(cluster: str) -> str:
    """Return a character with the marks after it, escaped where another encoding of it looks the same."""
    first, marks = cluster[0], cluster[1:]
    if first in _HYPHENS or (first != " " and unicodedata.category(first) == "Zs"):
        first = _escaped(first)
    if unicodedata.normalize("NFC", cluster) == cluster:
        return first + marks
    if unicodedata.normalize("NFC", first) != first:
        first = _escaped(first)
    return first + "".join(map(_escaped, marks))


def _distinct_joiner(text: str, at: int) -> str:
    """Return the joiner there, which is visible between two letters or symbols that are not ASCII."""
    around = text[max(at - 1, 0) : at], text[at + 1 : at + 2]
    return text[at] if all(one and not one.isascii() for one in around) else _escaped(text[at])


def cells(char: str) -> int:
    """Return the columns of one character: 0, 1 or 2, the most that any terminal gives it.

    With one too few, text would run over the edge, where the terminal would fold it itself.
    """
    if char.isascii():
        return 1
    if char == "\ufe0f":  # selects the wide, coloured form of the character before it
        return 1
    category = unicodedata.category(char)
    if unicodedata.combining(char) or category in {"Mn", "Me", "Cf"}:
        return 0
    wide = unicodedata.east_asian_width(char) in "WF" or category == "Cn" or ord(char) in _WIDE_ELSEWHERE
    return 2 if wide else 1


def fold(line: str, width: int) -> Iterator[str]:
    """Yield one line in pieces of at most `width` columns, not counting the space at which it is broken.

    A line is broken after a space. Only a word that is longer than a piece is broken itself, after a hyphen or an
    underscore unless this leaves most of the piece empty. A terminal that folded the line itself would start the next
    row in column one, where a message could pose as a record.
    """
    if line.isascii() and len(line) <= width:
        yield line
        return
    start = used = word = part = 0
    for at, char in enumerate(line):
        size = cells(char)
        while used + size > width and at > start:
            if char == " " and used == width:
                break  # it ends the piece, and is not drawn
            end = word if word > start else part if 3 * (part - start) > width else at
            yield line[start:end]
            start, used = end, sum(map(cells, line[end:at]))
        if char == " ":
            word = at + 1
        elif char in "-_":
            part = at + 1
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
