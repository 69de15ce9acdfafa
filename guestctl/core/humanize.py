"""Durations and sizes as a person reads them.

Knows: numbers. Must not know: records, terminals.
"""

from __future__ import annotations


def span(seconds: float) -> str:
    """A duration in its two largest units: `1 h 12 min`, `45 s`."""
    left = int(seconds)
    found = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= size:
            found.append(f"{left // size} {unit}")
            left %= size
    return " ".join(found[:2]) or "0 s"


def size_of(count: int | None) -> str:
    """A size in bytes, for reading."""
    if count is None:
        return "size unknown"
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.1f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"
