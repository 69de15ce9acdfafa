"""What a load test counts: numbers, and times as histograms, in slots of the test's duration.

Knows: HDR histograms (`hdrhistogram`), how the parts of several workers are added. Must not know: what is measured,
Locust.

A histogram holds microseconds with three significant digits, so a percentile is at most 0.1 % off. Histograms of
workers are added without further loss. Parts travel as bytes (`encoded`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from hdrh.histogram import HdrHistogram

from guestctl.load.slo import TIMES

#: The shortest and the longest time that a histogram distinguishes, in microseconds.
LEAST, MOST = 1, 3_600_000_000
_DIGITS = 3
#: Different failures that are listed one by one; the others are added to `OTHERS`.
MOST_FAILURES = 50
OTHERS = "other failures"


def histogram() -> Any:
    """Return an empty histogram."""
    return HdrHistogram(LEAST, MOST, _DIGITS)


def _ranks(found: Any) -> tuple[list[int], list[int]]:
    """Return the running total of the counts that are not 0, and their indexes."""
    first = found._counts_index_for(found.get_min_value())
    last = found._counts_index_for(found.get_max_value())
    counts = found.counts[first : last + 1]
    indexes = [first + place for place, number in enumerate(counts) if number]
    return list(accumulate(number for number in counts if number)), indexes


class Measurements:
    """Counts, failures by text, and a histogram for each time. Times are given and returned in seconds."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._times: dict[str, Any] = {}
        #: By name: how many times there were, and for each different value how many are at most as long.
        self._ranks: dict[str, tuple[int, list[int], list[int]]] = {}
        #: Sum of the exact times, because the histograms round: for the mean.
        self._sums: dict[str, float] = {}

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count."""
        if number:
            self.counts[name] += number

    def time(self, name: str, seconds: float) -> None:
        """Add a time. One beyond the range counts as its end."""
        known = self._times.get(name)
        if known is None:
            known = self._times[name] = histogram()
        known.record_value(min(MOST, max(LEAST, round(seconds * 1e6))))
        self._sums[name] = self._sums.get(name, 0.0) + seconds

    def failure(self, text: str, number: int = 1) -> None:
        """Count a failure by its text."""
        if text not in self.failures and len(self.failures) >= MOST_FAILURES:
            text = OTHERS
        self.failures[text] += number

    def add(self, other: Measurements) -> None:
        """Add everything that another object has measured."""
        self.counts.update(other.counts)
        for text, number in other.failures.items():
            self.failure(text, number)
        for name, found in other._times.items():
            if name not in self._times:
                self._times[name] = histogram()
            self._times[name].add(found)
        for name, seconds in other._sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + seconds

    @property
    def empty(self) -> bool:
        return not (self.counts or self.failures or self._times)

    # --- statistics ---

    def samples(self, name: str) -> int:
        """Return how many times were measured."""
        found = self._times.get(name)
        return 0 if found is None else int(found.get_total_count())

    def statistic(self, name: str, statistic: str) -> float | None:
        """Return `min`, `mean`, `max` or a percentile such as `p99.9` in seconds, None without a sample."""
        total = self.samples(name)
        if not total:
            return None
        found = self._times[name]
        if statistic == "mean":
            return float(self._sums[name] / total)
        if statistic == "min":
            return float(found.get_min_value()) / 1e6
        if statistic == "max":
            return float(found.get_max_value()) / 1e6
        return self._at(name, float(statistic.removeprefix("p")))

    def distribution(self, name: str) -> list[tuple[float, float]]:
        """Return (percentile, seconds) pairs that draw the whole distribution, as far as there are samples for it."""
        total = self.samples(name)
        steps = [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 85.0]
        left = 10.0
        while left * total >= 50.0 and left > 1e-4:
            steps += [100.0 - left, 100.0 - left / 2, 100.0 - left / 4]
            left /= 10
        return [(step, self._at(name, step)) for step in steps] if total else []

    def _at(self, name: str, percentile: float) -> float:
        """Return a percentile as the library does, which searches all its counts for each one: that is slow."""
        found, total = self._times[name], self.samples(name)
        known = self._ranks.get(name)
        if known is None or known[0] != total:
            known = self._ranks[name] = (total, *_ranks(found))
        _, numbers, indexes = known
        at = bisect_left(numbers, max(1, int(percentile / 100 * total + 0.5)))
        value = found.get_value_from_index(indexes[min(at, len(indexes) - 1)])
        return float(found.get_highest_equivalent_value(value)) / 1e6

    # --- on the way from a worker ---

    def encoded(self) -> dict[str, Any]:
        """Return everything as values that Locust's messages can carry."""
        return {
            "counts": dict(self.counts),
            "failures": dict(self.failures),
            "times": {name: found.encode().decode("ascii") for name, found in self._times.items()},
            "sums": dict(self._sums),
        }

    @classmethod
    def decoded(cls, values: Mapping[str, Any]) -> Measurements:
        """Return what `encoded` returned. Raises ValueError for anything else."""
        made = cls()
        try:
            made.counts.update({str(name): int(number) for name, number in values["counts"].items()})
            made.failures.update({str(text): int(number) for text, number in values["failures"].items()})
            for name, data in values["times"].items():
                if name in TIMES:
                    made._times[name] = HdrHistogram.decode(data.encode("ascii"))
            made._sums.update({str(name): _finite(number) for name, number in values["sums"].items()})
        except Exception as error:
            raise ValueError("not the measurements of a worker") from error
        return made


def _finite(number: Any) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError("a sum is not finite")
    return value


class SlottedMeasurements:
    """Measurements in slots of `width` seconds since the start of the test.

    A slot that nobody adds to any more can be taken away, so a worker holds only those that it has not reported yet.
    """

    def __init__(self, width: float) -> None:
        self.width = width
        self.slots: dict[int, Measurements] = {}

    def at(self, seconds: float) -> Measurements:
        """Return the measurements of the slot that `seconds` after the start is in."""
        number = max(0, int(seconds / self.width + 1e-9))
        found = self.slots.get(number)
        if found is None:
            found = self.slots[number] = Measurements()
        return found

    def take(self) -> dict[int, Measurements]:
        """Return everything since the last call."""
        taken, self.slots = self.slots, {}
        return taken

    def add(self, slots: Mapping[int, Measurements]) -> None:
        """Add slots of another object with the same width."""
        for number, found in slots.items():
            self.slots.setdefault(number, Measurements()).add(found)

    def total(self) -> Measurements:
        """Return the sum of all slots."""
        made = Measurements()
        for found in self.slots.values():
            made.add(found)
        return made
