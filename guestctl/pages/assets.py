"""The files of the pages.

Knows: the folder `static/` and the content types of its files. Must not know: HTTP, where a page is served, what it
shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

_STATIC = Path(__file__).parent / "static"
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
    """Return an asset. Raises KeyError if there is none of this name, so that no path leaves the folder."""
    if name not in names():
        raise KeyError(name)
    path = _STATIC / name
    return Asset(path.read_bytes(), _TYPES[path.suffix])
