"""Figures, how much work each scale does, and side-by-side measuring.

Knows: clocks, medians, tables. Must not know: what is measured.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Scale:
    """How much work: `runs` of short commands, `messages` streamed, `kept` in history, and so on."""

    runs: int = 15
    rounds: int = 5
    messages: int = 200_000
    burst: int = 30_000
    timed: int = 1_000
    kept: int = 100_000
    idle: int = 5_000
    guests: int = 200
    trips: int = 20_000
    sessions: int = 1_000
    rows: int = 1_000_000
    clients: int = 500
    scenarios: int = 200


SCALES = {
    "smoke": Scale(1, 1, 600, 300, 20, 300, 20, 5, 50, 5, 100, 5, 4),
    "usual": Scale(),
    "long": Scale(runs=31, messages=1_000_000),
}


@dataclass(frozen=True)
class Sample:
    """One measurement: the figure of its row, and the seconds of processor time (user and system) that it took."""

    value: float
    cpu: float


@dataclass(frozen=True)
class Figure:
    """One figure. `value` is guestctl's figure divided by the other one, or (`more`) the difference in `unit`.

    `ceiling`: the aim is an upper bound, else a lower one. `cpu` is the same ratio of processor time (of a rate: theirs
    divided by ours), which other processes of a busy machine disturb less. It decides whether the aim is met.
    """

    name: str
    baseline: str
    ours: float
    theirs: float
    unit: str
    value: float
    aim: float
    kind: Literal["ratio", "more"] = "ratio"
    ceiling: bool = True
    note: str = ""
    cpu: float | None = None

    @property
    def met(self) -> bool:
        return self._reaches(self.value if self.cpu is None else self.cpu)

    @property
    def verdict(self) -> str:
        """Say whether the aim is met: by processor time, and if not so, that it is missed by the clock."""
        by_clock = "" if not self.met or self._reaches(self.value) else " by CPU only"
        return f"met{by_clock}" if self.met else "MISSED"

    def _reaches(self, value: float) -> bool:
        return value <= self.aim if self.ceiling else value >= self.aim

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def row(figure: Figure) -> str:
    """Return one line of the table."""
    sign = "≤" if figure.ceiling else "≥"
    unit = "×" if figure.kind == "ratio" else figure.unit
    sides = f"{figure.ours:,.4g} {figure.unit} compared with {figure.theirs:,.4g} ({figure.baseline})"
    cpu = "" if figure.cpu is None else f"CPU {figure.cpu:.2f} ×"
    text = f"{figure.name:<34} {figure.value:8.2f} {unit:<2} {cpu:<10} aim {sign} {figure.aim:g} {unit:<2} "
    return f"{text}{figure.verdict:<6}  {sides}{'; ' + figure.note if figure.note else ''}"


def side_by_side(
    name: str,
    ours: Callable[[], Sample | float],
    theirs: Callable[[], Sample | float],
    *,
    runs: int,
    aim: float,
    baseline: str,
    unit: str = "ms",
    ceiling: bool = True,
    warm: int = 1,
    note: str = "",
) -> Figure:
    """Measure both in turn, `runs` times after `warm` uncounted runs, and swap the order every time.

    The value is the median of the ratios, because a disturbance of the machine affects both halves of a run.
    """
    pairs: list[tuple[Sample | float, Sample | float]] = []
    for number in range(warm + runs):
        if number % 2:
            b, a = theirs(), ours()
        else:
            a, b = ours(), theirs()
        if number >= warm:
            pairs.append((a, b))
    values = [(_value(a), _value(b)) for a, b in pairs]
    cpu = [(a.cpu, b.cpu) for a, b in pairs if isinstance(a, Sample) and isinstance(b, Sample)]
    return Figure(
        name,
        baseline,
        statistics.median(a for a, _ in values),
        statistics.median(b for _, b in values),
        unit,
        statistics.median(a / b for a, b in values),
        aim,
        ceiling=ceiling,
        note=note,
        cpu=statistics.median(a / b if ceiling else b / a for a, b in cpu) if cpu else None,
    )


def _value(sample: Sample | float) -> float:
    return sample.value if isinstance(sample, Sample) else sample


def machine() -> dict[str, Any]:
    """Return a description of the machine."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": [round(one, 2) for one in os.getloadavg()],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
