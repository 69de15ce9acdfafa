"""Draws texts in columns of fixed width, with rich.

Knows: rich's console and tables, how a text is broken into lines. Must not know: records.

Every text is escaped before it becomes a rich `Text`, and no text is read as markup. The widths follow from the width
of the terminal alone, so a record can be drawn before the next one is known. Texts are broken here and not by rich:
rich counts some characters narrower than a terminal may draw them, and a line that is longer than the terminal would
continue in column one, where a message could pose as a record (reliability.md §8.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from itertools import accumulate
from typing import IO

from rich.cells import cell_len
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from guestctl.output.columns import Column, fitted
from guestctl.output.terminal import Terminal, cells, fold, visible

#: Columns of a progress bar.
_LONGEST_BAR = 30
STYLES = {
    "": Style(),
    "dim": Style(dim=True),
    "bold": Style(bold=True),
    "italic": Style(italic=True),
    "strike": Style(strike=True),
    "underline": Style(underline=True),
    "guest": Style(color="cyan"),
    "service": Style(color="green"),
    "warn": Style(color="yellow"),
    "bad": Style(color="red"),
}


def styled(text: str, style: str = "") -> Text:
    """Return an untrusted text for rich: control characters are escaped, line breaks are kept."""
    found = Text(visible(text, lines=True), no_wrap=True)
    found.stylize(STYLES[style])  # the characters only, not what is added around them
    return found


def folded(text: Text, width: int, *, hanging: int = 0) -> list[Text]:
    """Return a text as lines of at most `width` columns. Lines that continue another are indented by `hanging`."""
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        first, *others = _pieces(line, width)
        lines.append(first)
        if others and hanging:
            others = _pieces(line[len(first.plain) :], width - hanging)
        lines += [Text.assemble(" " * hanging, _without_margin(piece)) for piece in others]
    return lines


def _without_margin(line: Text) -> Text:
    return line[len(line.plain) - len(line.plain.lstrip(" ")) :]


def _pieces(line: Text, width: int) -> list[Text]:
    ends = list(accumulate(map(len, fold(line.plain, width))))
    return list(line.divide(ends[:-1]))


def console_of(terminal: Terminal, file: IO[str], *, width: int | None, height: int | None = None) -> Console:
    """Return rich's console for a terminal. It reads no text as markup and guesses nothing about the terminal."""
    return Console(
        file=file,
        width=width,
        height=height,
        force_terminal=terminal.colour,
        color_system="standard" if terminal.colour else None,
        no_color=not terminal.colour,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )


class Canvas:
    """The rich console of one terminal. It draws into texts, which the caller writes."""

    def __init__(self, terminal: Terminal) -> None:
        #: Columns of a line.
        self.width = terminal.drawing_width
        # Without a height, rich ignores the width of a simple terminal.
        self._console = console_of(terminal, StringIO(), width=self.width, height=25)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Text]], *, header: bool = False) -> str:
        """Return rows as a table. A cell has as many lines as its text needs.

        Where the columns do not fit, or a word that must not be broken, each row becomes a table of its own: the
        header and the value of each column.
        """
        widths = fitted(columns, self.width)
        if widths is None or not all(_words_fit(columns, widths, row) for row in rows):
            return "\n\n".join(self.pairs(zip((column.header for column in columns), row, strict=True)) for row in rows)
        table = Table(box=None, show_header=header, pad_edge=False, padding=0, header_style="")
        for column, width in zip(columns, widths, strict=True):
            gap = 0 if column is columns[-1] else column.gap
            table.add_column(styled(column.header, "bold"), width=width + gap, no_wrap=True)
        for row in rows:
            table.add_row(*_aligned([folded(cell, width) for cell, width in zip(row, widths, strict=True)]))
        return self._drawn(table)

    def pairs(self, rows: Iterable[tuple[str, Text]]) -> str:
        """Return a table of names and values. Its columns have the same width whatever the names are."""
        name = max(20, min(24, self.width // 4)) if self.width >= 40 else self.width // 2
        columns = (Column("", name, breaks=True), Column("", max(4, self.width - name - 2), breaks=True))
        return self.table(columns, [(styled(label, "dim"), value) for label, value in rows])

    def text(self, text: Text, *, hanging: int = 0) -> str:
        """Return a text as lines of the terminal's width."""
        return self._drawn(Text("\n").join(folded(text, self.width, hanging=hanging)))

    def bar(self, label: str, done: int, total: int) -> str:
        """Return a progress bar as one line: the label, the bar and the percentage."""
        share = f"{100 * done // total:3} %"
        width = min(_LONGEST_BAR, self.width - len(label) - len(share) - 3)
        bar = ProgressBar(
            total,
            done,
            max(1, width),
            style=STYLES["dim"],
            complete_style=STYLES["service"],
            finished_style=STYLES["service"],
        )
        row = Table.grid(padding=(0, 1))
        row.add_row(Text(label), bar, Text(share))
        return self._drawn(row)

    def _drawn(self, what: Table | Text) -> str:
        with self._console.capture() as drawn:
            self._console.print(what, no_wrap=True, crop=False)
        return "\n".join(line.rstrip() for line in drawn.get().removesuffix("\n").split("\n"))


def _words_fit(columns: Sequence[Column], widths: Sequence[int], row: Sequence[Text]) -> bool:
    """Return whether every word fits its column, where words must not be broken."""
    return all(
        column.breaks or all(sum(map(cells, word)) <= width for word in cell.plain.split())
        for column, width, cell in zip(columns, widths, row, strict=True)
    )


def _aligned(cells_of_row: Sequence[list[Text]]) -> Iterator[Text]:
    """Yield the cells of one row of a table.

    A line whose width is in doubt has nothing on its right, because that would not be in its column on every terminal:
    the cells on its right start below it.
    """
    start = 0
    for lines in cells_of_row:
        for line in lines:
            line.rstrip()
        yield Text("\n", no_wrap=True).join([*[Text()] * start, *lines])
        doubtful = [place for place, line in enumerate(lines) if cell_len(line.plain) != sum(map(cells, line.plain))]
        start = max(start, start + doubtful[-1] + 1 if doubtful else 0)
