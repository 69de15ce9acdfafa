"""Service level objectives: what a load test must reach, and whether it did.

Knows: the grammar of `--slo`, and the names of what is measured. Must not know: how anything is measured, the command
line.

    reply p95 < 2s, failed < 0.5%, lost = 0

An objective is a measure, for times a statistic, a comparison and a limit. Commas separate objectives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt
from typing import Protocol

from guestctl.core.humanize import parse_duration
from guestctl.core.suggestions import did_you_mean

#: Times in seconds, each as a histogram.
TIMES: Mapping[str, str] = {
    "connect": "from the first packet to the open socket",
    "create": "until the service has confirmed a new session",
    "accepted": "from writing a message to its echo or answer",
    "reply": "from the moment when the message should have been sent to the first reply",
    "last_reply": "from the same moment to the last reply of the turn",
}
#: Counts, with what each is a share of.
COUNTS: Mapping[str, tuple[str, str]] = {
    "failed": ("turns", "turns that failed"),
    "unanswered": ("turns", "turns in which no awaited reply came"),
    "in_doubt": ("messages", "messages that may or may not have arrived"),
    "rejected": ("messages", "messages that the service refused or that could not be sent"),
    "throttled": ("attempts", "answers 429 of the service"),
    "reconnects": ("conversations", "connections that broke and were opened again"),
    "gaps": ("conversations", "gaps that history did not fill, and messages whose loss is not proved"),
    "lost": ("messages", "messages that arrived nowhere"),
    "duplicates": ("messages", "messages that arrived twice on one socket"),
    "swapped": ("messages", "messages that arrived after a later one"),
    "errors": ("turns", "internal errors of guestctl"),
}
STATISTICS = ("min", "mean", "max")
RATES: Mapping[str, str] = {"turns": "turns per second", "messages": "messages per second"}

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {"<": lt, "<=": le, "=": eq, ">=": ge, ">": gt}
_OBJECTIVE = re.compile(r"([a-z_]+)(?:\s+([a-z0-9.]+))?\s*(<=|>=|<|>|=)\s*(\S+)", re.ASCII)
_PERCENTILE = re.compile(r"p([0-9]{1,2}(?:\.[0-9]{1,3})?|100)", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?", re.ASCII)


class SloError(ValueError):
    """An invalid objective. The text is one line: what is wrong, and what would be right."""


class Results(Protocol):
    """What objectives are compared with."""

    def time(self, measure: str, statistic: str) -> float | None:
        """Return a statistic of a time in seconds, None without a sample."""

    def count(self, measure: str) -> int:
        """Return a count."""

    def base(self, name: str) -> int:
        """Return the number of turns, messages, conversations or attempts."""

    def rate(self, measure: str) -> float:
        """Return a number per second."""


@dataclass(frozen=True)
class Objective:
    """One objective. `statistic` is None for counts. `share`: the limit is a share of the base; `rate`: a number per
    second. Limits of times are in seconds."""

    text: str
    measure: str
    statistic: str | None
    operator: str
    limit: float
    share: bool = False
    rate: bool = False

    def value(self, results: Results) -> float | None:
        """Return the measured value in the unit of the limit, None if nothing was measured."""
        if self.rate:
            return results.rate(self.measure)
        if self.measure in TIMES:
            return results.time(self.measure, self.statistic or "p50")
        if not self.share:
            return float(results.count(self.measure))
        whole = results.base(COUNTS[self.measure][0])
        return results.count(self.measure) / whole if whole else None

    def met(self, value: float | None) -> bool:
        """Return whether a value meets the objective. Where nothing was measured, nothing is proved."""
        return value is not None and _OPERATORS[self.operator](value, self.limit)


def parse(text: str) -> tuple[Objective, ...]:
    """Return the objectives of a text. Raises SloError."""
    parts = [part.strip() for part in text.split(",")]
    if not any(parts):
        raise SloError("no objective; write for example `reply p95 < 2s`")
    if not all(parts):
        raise SloError("an objective is empty: remove the extra comma")
    return tuple(_objective(part) for part in parts)


def _objective(text: str) -> Objective:
    found = _OBJECTIVE.fullmatch(text)
    if found is None:
        raise SloError(f'"{text}" is not an objective; write for example `reply p95 < 2s` or `failed < 0.5%`')
    measure, statistic, operator, limit = found[1], found[2], found[3], found[4]
    if measure in TIMES:
        return Objective(text, measure, _statistic(text, measure, statistic), operator, _time(text, limit))
    if statistic is not None:
        _check_known(text, measure)
        raise SloError(f'"{text}": {measure} is a number, and has no "{statistic}"')
    if measure in RATES:
        return Objective(text, measure, None, operator, _rate(text, measure, limit), rate=True)
    _check_known(text, measure)
    share = limit.endswith("%")
    number = limit.removesuffix("%")
    if not _NUMBER.fullmatch(number):
        raise SloError(f'"{text}": "{limit}" is not a number or a share; write for example 5 or 0.5%')
    if share and float(number) > 100:
        raise SloError(f'"{text}": a share is at most 100%')
    return Objective(text, measure, None, operator, float(number) / 100 if share else float(number), share=share)


def _check_known(text: str, measure: str) -> None:
    names = (*TIMES, *COUNTS, *RATES)
    if measure not in names:
        raise SloError(f'"{text}": no measure "{measure}"{did_you_mean(measure, names)} (measures: {", ".join(names)})')


def _statistic(text: str, measure: str, statistic: str | None) -> str:
    if statistic is None:
        raise SloError(f'"{text}": {measure} needs a statistic; write for example {measure} p95')
    if statistic in STATISTICS or _PERCENTILE.fullmatch(statistic):
        return statistic
    raise SloError(f'"{text}": no statistic "{statistic}"; give {", ".join(STATISTICS)} or a percentile such as p99.9')


def _time(text: str, limit: str) -> float:
    if limit.endswith("%"):
        raise SloError(f'"{text}": "{limit}" is not a time; write for example 2s or 500ms')
    try:
        return parse_duration(limit)
    except ValueError:
        raise SloError(f'"{text}": "{limit}" is not a time; write for example 2s or 500ms') from None


def _rate(text: str, measure: str, limit: str) -> float:
    number = limit.removesuffix("/s")
    if not limit.endswith("/s") or not _NUMBER.fullmatch(number):
        raise SloError(f'"{text}": {measure} needs a rate; write for example 150/s')
    return float(number)
