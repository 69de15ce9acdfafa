"""`${name}` in a script's texts. Knows: how a reference is written. Must not know: where values come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
#: `${name}`, `${name:-default}`; `$${` is a literal `${`. Anything else after a dollar is text.
_REFERENCE = re.compile(r"\$(\$?)\{(%s)(?::-([^}]*))?\}" % NAME.pattern, re.ASCII)  # noqa: UP031


def needed(text: str) -> Iterator[str]:
    """The names that must have a value, in order."""
    for found in _REFERENCE.finditer(text):
        if not found[1] and found[3] is None:
            yield found[2]


def filled(text: str, values: Mapping[str, str], quote: Callable[[str], str] = str) -> str:
    """The text with every reference replaced by its value, each passed through `quote`."""

    def value(found: re.Match[str]) -> str:
        if found[1]:
            return found[0][1:]
        known = values.get(found[2])
        return quote(known if known is not None else found[3] or "")

    return _REFERENCE.sub(value, text) if "${" in text else text
