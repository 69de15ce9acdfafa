"""Suggestions for a misspelled name.

Knows: how to compare names. Must not know: what the names stand for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Longest part of a name that is compared. The time grows with the square of the length.
_LONGEST = 240


def nearest(word: str, choices: Iterable[str], count: int = 1) -> list[str]:
    """Return up to `count` choices that look like `word`, the most similar first.

    If no choice is similar as written, compare without case, spaces and punctuation, so that
    `quick_replies` finds `quickReplies`.
    """
    from difflib import get_close_matches

    names = list(choices)
    # Two letters resemble too many names: `ai` is no misspelled `api`.
    found = get_close_matches(word[:_LONGEST], names, count) if len(word) > 2 else []
    if found or len(word) <= 2:
        return found
    folded = {_fold(name): name for name in names}
    return [folded[key] for key in get_close_matches(_fold(word[:_LONGEST]), folded, count)]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `; did you mean "NAME"?` with the most similar choice, or an empty string if none is similar."""
    found = nearest(word, choices)
    return f'; did you mean "{found[0]}"?' if found else ""


def _fold(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())
