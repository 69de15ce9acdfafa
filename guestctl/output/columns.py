"""The columns of a table, and how they share the width of a terminal.

Knows: the widths that a column accepts. Must not know: rich, records, the texts in the columns. So the widths are the
same whatever the texts are, and commands can declare columns without loading rich.
"""

from __future__ import annotations

from collections.abc import Sequence

from guestctl.core.values import immutable


@immutable
class Column:
    """A column of a table, in columns of the terminal.

    `least` is its width where space is short, and `most` where there is enough. `breaks`: a word that is longer may be
    broken. `gap` is the space between it and the next column.
    """

    header: str
    least: int
    most: int = 0
    breaks: bool = False
    gap: int = 2


def fitted(columns: Sequence[Column], width: int) -> list[int] | None:
    """Return the width of each column, None if they do not fit. Columns on the left grow first."""
    widths = [column.least for column in columns]
    left = width - sum(widths) - sum(column.gap for column in columns[:-1])
    if left < 0:
        return None
    for place, column in enumerate(columns):
        grown = min(left, max(0, column.most - column.least))
        widths[place] += grown
        left -= grown
    return widths
