"""Time: the clock, deadlines, and RFC 3339.

Knows: how to tell time, how to wait, how times are written. Must not know: what the time is for.
The only module that reads the system clock; everything else is handed a `Clock`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Protocol


class Clock(Protocol):
    """Something that tells time and waits."""

    def now(self) -> float:
        """Wall clock, epoch seconds."""

    def monotonic(self) -> float:
        """Seconds that never jump; only differences mean anything."""

    def sleep(self, seconds: float) -> None:
        """Wait; interrupted by signals as `time.sleep` is."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Deadline:
    """One point in time carried through many steps, instead of a fresh timeout for each.

    `at` is monotonic seconds; None never expires.
    """

    clock: Clock
    at: float | None

    @classmethod
    def after(cls, clock: Clock, seconds: float | None) -> Deadline:
        return cls(clock, None if seconds is None else clock.monotonic() + seconds)

    def remaining(self) -> float | None:
        """Seconds left, never negative; None when there is no limit."""
        return None if self.at is None else max(0.0, self.at - self.clock.monotonic())

    @property
    def expired(self) -> bool:
        return self.at is not None and self.clock.monotonic() >= self.at

    def bound(self, seconds: float) -> float:
        """The lesser of `seconds` and the time left."""
        left = self.remaining()
        return seconds if left is None else min(seconds, left)

    def sooner(self, seconds: float | None) -> Deadline:
        """This deadline, or one `seconds` from now if that comes first."""
        if seconds is None:
            return self
        other = Deadline.after(self.clock, seconds)
        assert other.at is not None
        return other if self.at is None or other.at < self.at else self


def rfc3339(epoch: float) -> str:
    """Epoch seconds as RFC 3339 UTC with milliseconds: 2026-03-04T09:15:27.412Z."""
    millis = round(epoch * 1000)
    whole = datetime.fromtimestamp(millis // 1000, tz=timezone.utc).isoformat()
    return f"{whole[:19]}.{millis % 1000:03d}Z"


def epoch_of(text: str) -> float:
    """RFC 3339 text as epoch seconds. Raises ValueError; a time without zone is taken as UTC."""
    moment = datetime.fromisoformat(_padded(text))
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _padded(text: str) -> str:
    """The form Python 3.10's parser takes: numeric zone, three or six digits of fraction."""
    if text[-1:] in "zZ":
        text = text[:-1] + "+00:00"
    head, dot, rest = text.partition(".")
    if not dot:
        return text
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{head}.{rest[:digits][:6].ljust(6, '0')}{rest[digits:]}"
