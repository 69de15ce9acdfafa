"""The interval of a rate: how far a few runs may be from the truth.

Knows: the Wilson score interval. Must not know: what is counted.
"""

from __future__ import annotations

import math

#: Standard deviations of an interval that contains the true rate in 95 % of cases.
_Z = 1.959964


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Return the bounds of the 95 % interval of a rate (Wilson score); 0 and 1 without any observation."""
    if count == 0:
        return 0.0, 1.0
    rate, square = successes / count, _Z * _Z
    middle = (rate + square / (2 * count)) / (1 + square / count)
    half = _Z * math.sqrt(rate * (1 - rate) / count + square / (4 * count * count)) / (1 + square / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def percent(share: float) -> str:
    """Return a share as a whole number of percent."""
    return f"{round(100 * share)} %"
