"""How fast the guests of a load test may connect and send: rate limits that all its workers share.

Knows: token buckets, and which of them belong to a profile and which to one session. Must not know: Locust, any API,
how a worker asks the master.

The client takes its places from `storage/budgets.py`. Here its buckets are in memory, because a lock on a file would
stop all guests of a worker. The buckets of one session stay in its worker. Those of a profile are the master's
(`Governor`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from guestctl.core.clock import Clock

#: Connections to one deployment: 50 at once, and never more than 1,000 in any minute (web-messaging.md §9).
CONNECTS = (950, 60.0, 50)
#: The client's names of the buckets that belong to a profile.
_SHARED = ("/reconnects", "/requests")


class Governor:
    """Token buckets in memory, with the rules of `storage/budgets.py`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Name -> when (monotonic) the bucket will be full.
        self._full_at: dict[str, float] = {}

    def take(
        self, bucket: str, count: int, period: float, *, burst: int | None = None, within: float | None = 0.0
    ) -> float:
        """Take a token, and return the seconds to wait before it may be used (see `Budgets.take`)."""
        interval = period / count
        now = self._clock.monotonic()
        full_at = max(now, self._full_at.get(bucket, now))
        wait = max(0.0, full_at - ((burst or count) - 1) * interval - now)
        if within is None or wait <= within:
            self._full_at[bucket] = full_at + interval
        return wait

    def give_back(self, bucket: str, count: int, period: float) -> None:
        """Return a reserved token that was not used."""
        if bucket in self._full_at:
            self._full_at[bucket] -= period / count

    def forget(self, prefix: str) -> None:
        """Remove the buckets of a session that is gone."""
        for name in [name for name in self._full_at if name.startswith(prefix)]:
            del self._full_at[name]


class _Turn(threading.local):
    """Whether the present thread, which is a guest under gevent, has taken its turn for the next connection."""

    taken = False


class GuestBudgets:
    """Replaces the budgets of a state (`storage/budgets.py`) for all guests of one worker.

    `ask` takes a token of a bucket that all workers share, and returns the seconds to wait.
    """

    def __init__(self, clock: Clock, ask: Callable[..., float]) -> None:
        self._own = Governor(clock)
        self._ask = ask
        self._turn = _Turn()

    def first_connect(self) -> float:
        """Reserve the first connection of a guest, and return the seconds to wait before it may be made."""
        count, period, burst = CONNECTS
        wait = self._ask("connects", count, period, burst=burst, within=None)
        self._turn.taken = True
        return wait

    def take(
        self, bucket: str, count: int, period: float, *, burst: int | None = None, within: float | None = 0.0
    ) -> float:
        """Take a token (see `Budgets.take`)."""
        if bucket.endswith("/reconnects"):
            return self._connect(within)
        if bucket.endswith(_SHARED):
            return self._ask(bucket, count, period, burst=burst, within=within)
        return self._own.take(bucket, count, period, burst=burst, within=within)

    def _connect(self, within: float | None) -> float:
        """Count a connection. The client waits for a reconnect (`within` is None), but not for any other one."""
        if within is not None and self._turn.taken:
            self._turn.taken = False
            return 0.0
        count, period, burst = CONNECTS
        wait = self._ask("connects", count, period, burst=burst, within=None)
        return wait if within is None else 0.0

    def give_back(self, bucket: str, count: int, period: float) -> None:
        """Return a reserved token that was not used. Those of the shared buckets are rare, and stay used."""
        if not bucket.endswith(_SHARED):
            self._own.give_back(bucket, count, period)

    def forget(self, owner: str) -> None:
        """Remove the buckets of a session that is gone."""
        self._own.forget(f"{owner}/")
