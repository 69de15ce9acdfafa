"""What a terminal does with drawn rows when its width changes.

Knows: which terminals wrap drawn rows again. Must not know: what is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: Variables that a terminal which wraps again sets.
_VARIABLES = (
    "VTE_VERSION",
    "KITTY_WINDOW_ID",
    "KONSOLE_VERSION",
    "WEZTERM_PANE",
    "ALACRITTY_WINDOW_ID",
    "GHOSTTY_RESOURCES_DIR",
    "WT_SESSION",
    "LC_TERMINAL",  # iTerm2, also through ssh
)
_PROGRAMS = {"iTerm.app", "Apple_Terminal", "vscode", "WezTerm", "ghostty"}
_TERMS = ("tmux", "screen", "xterm-kitty", "xterm-ghostty", "alacritty", "foot", "wezterm", "konsole", "gnome", "vte")


def wraps_again(environ: Mapping[str, str]) -> bool:
    """Whether the terminal wraps drawn rows again when it becomes narrower; others cut them off.

    False if unknown: a leftover row does less harm than an erased message.
    """
    if "TMUX" in environ:
        return True
    if "STY" in environ or "XTERM_VERSION" in environ:  # GNU screen and xterm cut rows off
        return False
    return (
        any(name in environ for name in _VARIABLES)
        or environ.get("TERM_PROGRAM") in _PROGRAMS
        or environ.get("TERM", "").startswith(_TERMS)
    )


def rows_above(rows: Sequence[Sequence[int]], cursor: int, columns: int) -> int:
    """Return how many rows are above the cursor after the terminal has wrapped drawn rows to `columns`.

    Each drawn row is given as the widths of its characters; the cursor is in column `cursor` of the last one.
    """
    *above, last = rows
    # Behind the last character of a full row, the cursor stays in that row.
    return sum(_rows(row, columns) for row in above) + _rows(last[: cursor + 1], columns) - 1


def _rows(widths: Sequence[int], columns: int) -> int:
    rows, used = 1, 0
    for width in widths:
        if used + width > columns:
            rows, used = rows + 1, 0
        used += width
    return rows
