"""Many listeners that lose the service together: how long the reconnects take, and how many attempts come per second.

Knows: the client's listener with its real waits, and a service that accepts a limited number of connections per
second. Must not know: how a wait is chosen. Time is counted: each client has its own clock. The client whose
clock is furthest behind acts next, so all attempts reach the service in the order of their times.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from random import Random

import pytest

from guestctl.core.errors import NetworkError
from guestctl.core.model import Connection
from guestctl.engine.listener import Listener
from tests.fakes import FakeClock
from tests.unit.engine_fakes import FakeSocket, World

#: Number of clients; seconds of the outage; connections per second that the service accepts after it.
CLIENTS, AWAY, PER_SECOND = 1000, 20.0, 100


@dataclass
class CrowdResult:
    """The result: `last` is the time in seconds from the loss to the last reconnect, `attempts` counts all attempts,
    and `worst` counts those in the busiest second after the outage."""

    last: float
    attempts: int
    worst: int

    def __str__(self) -> str:
        """Return a table with one figure per line."""
        rows = [
            ("clients", f"{CLIENTS}"),
            ("seconds of outage", f"{AWAY:g}"),
            ("accepted per second", f"{PER_SECOND}"),
            ("attempts", f"{self.attempts}"),
            ("  in the worst second", f"{self.worst}"),
            ("seconds until all are back", f"{self.last:.1f}"),
        ]
        return "\n".join(f"{name:30}{value:>8}" for name, value in rows)


class _LimitedService:
    """The service: away at first, then it accepts a limited number of connections per second and refuses others."""

    def __init__(self) -> None:
        self.lost_at = 0.0
        self.attempts: list[float] = []
        self._accepted: Counter[int] = Counter()

    def connect(self, now: float) -> None:
        since = now - self.lost_at
        self.attempts.append(since)
        second = int(since)
        if since < AWAY or self._accepted[second] >= PER_SECOND:
            raise NetworkError("connection refused", code="network.connect")
        self._accepted[second] += 1


def crowd(seed: int) -> CrowdResult:
    """Connect all listeners, take the service away, and return how they came back."""
    with pytest.MonkeyPatch.context() as patch:
        limited = _LimitedService()
        worlds: dict[FakeClock, World] = {}
        streams = []
        for number in range(CLIENTS):
            world = World(patch)
            world.exchange.random = Random(f"{seed}/{number}")
            worlds[world.clock] = world
            stream = Listener(world.exchange, forever=True).events()
            while not _live(next(stream)):
                pass
            world.service.break_all()
            streams.append((world.clock, stream))

        def connect(url: str, *, clock: FakeClock, **options: object) -> FakeSocket:
            limited.connect(clock.monotonic())
            return worlds[clock].service.connect(url)

        patch.setattr("guestctl.transport.socket.Socket.connect", connect)
        back: list[float] = []
        waiting = [(clock.monotonic(), number) for number, (clock, _) in enumerate(streams)]
        heapify(waiting)
        while waiting:
            _, number = heappop(waiting)
            clock, stream = streams[number]
            if _live(next(stream)):
                back.append(clock.monotonic())
            else:
                heappush(waiting, (clock.monotonic(), number))
        after = Counter(int(at) for at in limited.attempts if at >= AWAY)
        return CrowdResult(max(back), len(limited.attempts), max(after.values()))


def _live(event: object) -> bool:
    return isinstance(event, Connection) and event.state == "live"
