"""Durations, sizes and values of keys as people write and read them.

Knows: numbers and their units, and how YAML and JSON write a value. Must not know: records, terminals.
"""

from __future__ import annotations

import json
import re

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})\s*(ms|s|m|h)?", re.ASCII | re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Return the seconds in a duration such as `30`, `500ms`, `30s`, `2m` or `1.5h`.

    A number without a unit is a number of seconds. Raises ValueError.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError("expected a duration such as 30, 500ms, 30s or 2m")
    return float(found[1]) * _SECONDS[(found[2] or "s").lower()]


def format_duration(seconds: float, units: int = 2) -> str:
    """Return a duration in its largest units, at most `units` of them: `1 h 12 min`, `45 s`."""
    left = int(seconds)
    found = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= size:
            found.append(f"{left // size} {unit}")
            left %= size
    return " ".join(found[:units]) or "0 s"


def format_size(count: int | None) -> str:
    """Return a number of bytes in B, kB or MB; `size unknown` for None."""
    if count is None:
        return "size unknown"
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.1f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def as_written(value: object) -> str:
    """Return a value as a profiles file has it: `false`, `30.0`, `{"plan": "gold"}`, and a text without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
