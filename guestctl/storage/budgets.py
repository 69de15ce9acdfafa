"""Rate limits that all processes share: token buckets in the state database.

Knows: how many tokens a bucket has, and who queues for the next ones. Must not know: what a token is needed for, any
dialect, how a caller waits.

A bucket survives kill -9. A token that was reserved by a process that was killed is lost.
"""

from __future__ import annotations

from guestctl.core.clock import Clock
from guestctl.storage.database import Database


class Budgets:
    """The buckets. Every method raises UsageError `state.unusable` when the database cannot be used."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def take(
        self, bucket: str, count: int, period: float, *, burst: int | None = None, within: float | None = 0.0
    ) -> float:
        """Take a token from a bucket that all processes share. Return the seconds to wait before it may be used.

        The bucket gets `count` tokens in `period` seconds, and has `burst` (default: `count`) when it is full. When
        it is empty, a coming token is reserved, so that callers queue in the order in which they came. If the wait
        would be longer than `within` seconds, nothing is reserved; None accepts any wait.
        """
        interval = period / count
        with self._database.transaction(durable=False) as run:
            now = full_at = self._clock.now()
            row = run("SELECT full_at, used_at FROM budget WHERE bucket = ?", (bucket,)).fetchone()
            if row is not None:
                # A use in the future means that the clock was set back: the bucket was used now at the latest.
                full_at = max(now, row[0] - max(0.0, row[1] - now))
            wait = full_at - ((burst or count) - 1) * interval - now
            # The clock reads the present time to about a microsecond. A wait must not be rounded to 0.0.
            wait = 0.0 if wait < 1e-6 else max(0.001, wait)
            if within is None or wait <= within:
                full_at += interval
            run("INSERT OR REPLACE INTO budget VALUES (?, ?, ?)", (bucket, full_at, now))
            return wait

    def give_back(self, bucket: str, count: int, period: float) -> None:
        """Return a reserved token that was not used."""
        with self._database.transaction(durable=False) as run:
            run("UPDATE budget SET full_at = full_at - ? WHERE bucket = ?", (period / count, bucket))
