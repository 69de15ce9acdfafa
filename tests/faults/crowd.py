"""A crowd that loses its service at once: how soon all are back, and how hard they press.

Knows: the client's own listener, with its own waits, and a service that lets so many in per second. Must
not know: how a wait is chosen. Time is counted, each client on a clock of its own; whoever's clock is
furthest behind acts next, so that all attempts come to the service in the order of their times.
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

#: Clients; seconds the service is away; how many it then lets in per second.
CLIENTS, AWAY, PER_SECOND = 1000, 20.0, 100


@dataclass
class Returned:
    """Seconds from the loss until the last client was back; attempts in all, and in the worst second
    once the service was there again."""

    last: float
    attempts: int
    worst: int

    def __str__(self) -> str:
        """The table, a figure a line."""
        rows = [
            ("clients", f"{CLIENTS}"),
            ("seconds away", f"{AWAY:g}"),
            ("then lets in per second", f"{PER_SECOND}"),
            ("attempts", f"{self.attempts}"),
            ("  in the worst second after", f"{self.worst}"),
            ("all back after seconds", f"{self.last:.1f}"),
        ]
        return "\n".join(f"{name:30}{value:>8}" for name, value in rows)


class _Door:
    """The service: away at first, then letting so many in per second. Who is not let in is refused."""

    def __init__(self) -> None:
        self.lost_at = 0.0
        self.attempts: list[float] = []
        self._let_in: Counter[int] = Counter()

    def knock(self, now: float) -> None:
        since = now - self.lost_at
        self.attempts.append(since)
        second = int(since)
        if since < AWAY or self._let_in[second] >= PER_SECOND:
            raise NetworkError("connection refused", code="network.connect")
        self._let_in[second] += 1


def crowd(seed: int) -> Returned:
    """Everybody connected, the service lost and back."""
    with pytest.MonkeyPatch.context() as patch:
        door = _Door()
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
            door.knock(clock.monotonic())
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
        after = Counter(int(at) for at in door.attempts if at >= AWAY)
        return Returned(max(back), len(door.attempts), max(after.values()))


def _live(event: object) -> bool:
    return isinstance(event, Connection) and event.state == "live"
