"""References `${name}` in the texts of a script.

Knows: how a reference is written. Must not know: where values come from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
#: `$${`, which is a literal `${`; `${name}`; `${name:-default}`. Anything else after a dollar is text, except
#: `${name` without the closing brace: a mistake that would otherwise be sent as text.
_REFERENCE = re.compile(r"(\$\$\{)|\$\{(%s)(?:(?::-([^}]*))?\}|(?![A-Za-z0-9_.-])())" % NAME.pattern, re.ASCII)  # noqa: UP031

#: The value of a variable with one of these in its name is masked in reports, and never sent to a model.
_SECRET_NAMES = ("password", "secret", "token", "jwt", "pin", "passwd", "apikey", "api_key", "credential")


def is_secret(name: str) -> bool:
    """Return whether the value of a variable with this name is masked."""
    return any(word in name.lower() for word in _SECRET_NAMES)


def needed(text: str) -> Iterator[str]:
    """Yield the names that must have a value, in order."""
    for found in _REFERENCE.finditer(text):
        if found[2] and found[3] is None and found[4] is None:
            yield found[2]


def unclosed(text: str) -> str | None:
    """Return the first name after a `${` that is never closed; None without one."""
    return next((found[2] for found in _REFERENCE.finditer(text) if found[4] is not None), None)


def filled(text: str, values: Mapping[str, str], quote: Callable[[str], str] = str) -> str:
    """Return the text with every reference replaced by its value, after `quote` is applied to the value."""

    def value(found: re.Match[str]) -> str:
        if found[1]:
            return found[1][1:]
        if found[4] is not None:
            return found[0]
        known = values.get(found[2])
        return quote(known if known is not None else found[3] or "")

    return _REFERENCE.sub(value, text) if "${" in text else text
