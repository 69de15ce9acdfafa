"""The files of the pages.

Knows: the folder `static/` and the content types of its files. Must not know: HTTP, where a page is served, what it
shows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_STATIC = Path(__file__).parent / "static"
#: Comments of a script. A test compares the code without them with the code that a parser of JavaScript reads.
_COMMENT = re.compile(rb"^[ \t]*(?:/\*\*(?:(?!\*/).)*\*/[ \t]*|//[^\n]*)\n|/\*\*(?:(?!\*/).)*\*/ ?", re.S | re.M)
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


@dataclass(frozen=True)
class Asset:
    """One file of a page."""

    body: bytes
    content_type: str


@cache
def names() -> frozenset[str]:
    """Return the names of all assets, such as "app.js"."""
    return frozenset(path.name for path in _STATIC.iterdir() if path.suffix in _TYPES)


@cache
def asset(name: str) -> Asset:
    """Return an asset. Raises KeyError if there is none of this name, so that no path leaves the folder.

    Scripts have no comments: types and explanations are for developers, and every file of a report would contain them.
    """
    if name not in names():
        raise KeyError(name)
    path = _STATIC / name
    body = path.read_bytes()
    return Asset(_COMMENT.sub(b"", body) if path.suffix == ".js" else body, _TYPES[path.suffix])
