"""The results of a load test: the measurements of all workers, and what follows from them.

Knows: totals, rates, the record, the rows of the CSV, whether the objectives are met. Must not know: processes, files,
how anything is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guestctl.load.measurements import Measurements
from guestctl.load.plan import LoadPlan
from guestctl.load.slo import COUNTS, TIMES, Objective

#: The statistics of a time that are reported.
STATISTICS = ("min", "mean", "p50", "p90", "p95", "p99", "p99.9", "max")


@dataclass
class LoadResults:
    """What was measured so far. `seconds` is the duration of the test, None while it runs.

    `workers` is how many took part, `lost_workers` how many of them are gone. `incomplete`: the processes did not end
    in order. `throttled_off`: the test was stopped because the service throttled it; `interrupted`: by a signal.
    """

    plan: LoadPlan
    seconds: float | None = None
    workers: int = 0
    lost_workers: int = 0
    incomplete: bool = False
    throttled_off: bool = False
    interrupted: bool = False
    first_failure: Mapping[str, Any] | None = None
    #: (seconds since the start, guests) of each report.
    guests: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.total = Measurements()
        #: The reports of each slot, as they came: a histogram in memory is a hundred times as large.
        self._reports: dict[int, list[Mapping[str, Any]]] = {}

    def add(self, report: Mapping[str, Any]) -> None:
        """Add a report of the leading process."""
        for number, values in report["slots"].items():
            self.total.add(Measurements.decoded(values))
            self._reports.setdefault(int(number), []).append(values)
        self.guests.append((report["seconds"], report["guests"]))
        self.first_failure = self.first_failure or report["first_failure"]

    @property
    def elapsed(self) -> float:
        """The seconds that the results stand for."""
        if self.seconds is not None:
            return self.seconds
        return self.guests[-1][0] if self.guests else 0.0

    def slots(self, width: int = 1) -> Iterator[tuple[float, Measurements]]:
        """Yield the start of each slot in seconds, and its measurements. `width` neighbours are added."""
        for first in range(0, max(self._reports, default=-1) + 1, width):
            found = Measurements()
            for number in range(first, first + width):
                for values in self._reports.get(number, ()):
                    found.add(Measurements.decoded(values))
            yield first * self.plan.slot, found

    @property
    def slot_count(self) -> int:
        """The number of slots so far."""
        return max(self._reports, default=-1) + 1

    # --- what objectives need ---

    def time(self, measure: str, statistic: str) -> float | None:
        return self.total.statistic(measure, statistic)

    def count(self, measure: str) -> int:
        return self.total.counts[measure]

    def base(self, name: str) -> int:
        return self.total.counts[name]

    def rate(self, measure: str) -> float:
        return self.total.counts[measure] / self.elapsed if self.elapsed else 0.0

    def recent(self, seconds: float) -> tuple[int, int]:
        """Return how many attempts were throttled in the last seconds, and how many attempts there were."""
        first = (self.elapsed - seconds) / self.plan.slot
        parts = [values["counts"] for number, reports in self._reports.items() if number >= first for values in reports]
        return sum(part.get("throttled", 0) for part in parts), sum(part.get("attempts", 0) for part in parts)

    # --- for people and programs ---

    def record(self, objectives: Sequence[Objective]) -> dict[str, Any]:
        """Return the record `load`. Times are in seconds."""
        counts = self.total.counts
        return {
            "kind": "load",
            "script": self.plan.script,
            "seconds": round(self.elapsed, 3),
            "guests": self.plan.guests,
            "workers": self.workers,
            "lost_workers": self.lost_workers,
            "complete": self.complete,
            "stopped": "throttled" if self.throttled_off else "interrupted" if self.interrupted else None,
            "conversations": counts["conversations"],
            "passed": counts["passed"],
            "not_passed": counts["not_passed"],
            "unfinished": counts["unfinished"],
            "turns": counts["turns"],
            "messages": counts["messages"],
            "attempts": counts["attempts"],
            "turns_per_second": round(self.rate("turns"), 3),
            **{name: counts[name] for name in COUNTS},
            "times": {name: self.times(name) for name in TIMES},
            "failures": [{"what": what, "count": number} for what, number in self.total.failures.most_common()],
            "objectives": [
                {
                    "objective": objective.text,
                    "value": None if (value := objective.value(self)) is None else round(value, 6),
                    "met": objective.met(value),
                }
                for objective in objectives
            ],
        }

    def times(self, name: str) -> dict[str, Any]:
        """Return the statistics of one time."""
        found: dict[str, Any] = {"count": self.total.samples(name)}
        for statistic in STATISTICS:
            value = self.total.statistic(name, statistic)
            found[statistic.replace(".", "_")] = None if value is None else round(value, 6)
        return found

    @property
    def complete(self) -> bool:
        """Whether everything that was measured is in the results."""
        return not (self.lost_workers or self.incomplete)

    def missed(self, objectives: Sequence[Objective]) -> list[Objective]:
        """Return the objectives that are not met."""
        return [objective for objective in objectives if not objective.met(objective.value(self))]

    def rows(self) -> Iterator[list[str]]:
        """Yield the rows of the CSV: the header, one row for each slot, and the total."""
        names = [f"{name}_{statistic}" for name in TIMES for statistic in ("p50", "p95", "p99", "max")]
        counts = ["conversations", "turns", "messages", "attempts", *COUNTS]
        yield ["second", "guests", *counts, *names]
        for at, found in self.slots():
            yield [f"{at:g}", str(self.guests_at(at + self.plan.slot)), *_cells(found, counts)]
        yield ["total", str(self.plan.guests), *_cells(self.total, counts)]

    def guests_at(self, seconds: float) -> int:
        """Return how many guests there were at a time."""
        before = [guests for at, guests in self.guests if at <= seconds + 0.5]
        return before[-1] if before else 0


def _cells(found: Measurements, counts: Sequence[str]) -> list[str]:
    cells = [str(found.counts[name]) for name in counts]
    for name in TIMES:
        for statistic in ("p50", "p95", "p99", "max"):
            value = found.statistic(name, statistic)
            cells.append("" if value is None else f"{value:.6f}")
    return cells
