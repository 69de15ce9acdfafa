"""Time: the clock, deadlines, and RFC 3339.

Knows: how to read the time, how to wait, how times are written. Must not know: what a time is used for.
Only this module reads the system clock. Every other module receives a `Clock`.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Protocol

from guestctl.core.interrupts import INTERRUPTS
from guestctl.core.values import immutable


class Clock(Protocol):
    """Reads the time and waits."""

    def now(self) -> float:
        """Return the wall-clock time in epoch seconds."""

    def monotonic(self) -> float:
        """Return seconds that never jump. Only differences between two values are meaningful."""

    def sleep(self, seconds: float) -> None:
        """Wait. A signal interrupts the wait as it interrupts `time.sleep`."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        with INTERRUPTS.allowed():
            time.sleep(seconds)


@immutable
class Deadline:
    """One point in time shared by many steps, instead of a new timeout for each.

    `at` is in monotonic seconds; None means that the deadline never expires.
    """

    clock: Clock
    at: float | None

    @classmethod
    def after(cls, clock: Clock, seconds: float | None) -> Deadline:
        return cls(clock, None if seconds is None else clock.monotonic() + seconds)

    def remaining(self) -> float | None:
        """Return the seconds left, never negative; None without a limit."""
        return None if self.at is None else max(0.0, self.at - self.clock.monotonic())

    @property
    def expired(self) -> bool:
        return self.at is not None and self.clock.monotonic() >= self.at

    def bound(self, seconds: float) -> float:
        """Return the smaller of `seconds` and the time left."""
        left = self.remaining()
        return seconds if left is None else min(seconds, left)

    def sooner(self, seconds: float | None) -> Deadline:
        """Return this deadline, or one `seconds` from now if that is earlier."""
        if seconds is None:
            return self
        other = Deadline.after(self.clock, seconds)
        assert other.at is not None
        return other if self.at is None or other.at < self.at else self


def rfc3339(epoch: float) -> str:
    """Return epoch seconds as RFC 3339 UTC with milliseconds: 2026-03-04T09:15:27.412Z."""
    millis = round(epoch * 1000)
    whole = datetime.fromtimestamp(millis // 1000, tz=timezone.utc).isoformat()
    return f"{whole[:19]}.{millis % 1000:03d}Z"


def epoch_of(text: str) -> float:
    """Return an RFC 3339 text as epoch seconds. A time without a zone is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(_padded(text))
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _padded(text: str) -> str:
    """Return the form that Python 3.10 parses: a numeric zone, and a fraction of six digits."""
    if text[-1:] in "zZ":
        text = text[:-1] + "+00:00"
    head, dot, rest = text.partition(".")
    if not dot:
        return text
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{head}.{rest[:digits][:6].ljust(6, '0')}{rest[digits:]}"
