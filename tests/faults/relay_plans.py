"""Random plans for a relay on counted time: faults of the service, readers that die, and kills of the relay.

Knows: what may happen and when. Must not know: the relay, how a plan is performed, what is right or wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias, get_args

from tests.faults.counted import LOSSES, make_events
from tests.faults.schedules import BARE, LISTENER, WITHOUT_SOCKET, Schedule, Step, log_seconds

Protocol: TypeAlias = Literal["sse", "json lines", "websocket", "hub"]
"""How a reader reads. `hub` takes events from the hub itself, as the gRPC server does."""
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

Moment: TypeAlias = Literal[
    "now", "before append", "after append", "before begin", "after begin", "sent", "before settle", "after settle"
]
"""When a kill happens: now, before and after events are committed (the readers have not got them), before and after
a send is stored, after its message has left, and before and after its answer is stored."""
MOMENTS: tuple[Moment, ...] = get_args(Moment)

Damage: TypeAlias = Literal["none", "removed", "overwritten", "truncated", "torn page"]
"""What happens to the file of the log while the relay is down."""
DAMAGES: tuple[Damage, ...] = get_args(Damage)


@dataclass(frozen=True)
class Visit:
    """One connection of a reader, which it breaks after some `seconds` to stay `away` for some.

    `slow` is the number of seconds that each piece of the stream takes, 0 for a reader that keeps up. With `torn` it
    gets a part of the next piece before it dies.
    """

    seconds: float
    away: float
    slow: float
    torn: bool


@dataclass(frozen=True)
class ReaderPlan:
    """One reader: where it begins, whether it reads all kinds, and its visits. After them it stays to the end."""

    protocol: Protocol
    at: float
    after: str
    everything: bool
    visits: tuple[Visit, ...]


@dataclass(frozen=True)
class SendPlan:
    """One `Idempotency-Key` and the times at which it is used. `other` are uses with another text.

    `patience` is how long a request waits for its answer.
    """

    key: str
    text: str
    at: tuple[float, ...]
    other: tuple[float, ...]
    patience: float


@dataclass(frozen=True)
class Kill:
    """A kill at the first `moment` after `at`. The relay is `down` for some seconds, and its files may be damaged."""

    at: float
    moment: Moment
    down: float
    damage: Damage


@dataclass(frozen=True)
class Plan:
    """Everything that happens in one run.

    `full` are times between which the disk of the log is full. `set_back` is when the clock is set back, and by how
    many seconds. `stops` are orderly stops, as at SIGTERM.
    """

    schedule: Schedule
    retain: int
    queue: int
    readers: tuple[ReaderPlan, ...]
    sends: tuple[SendPlan, ...]
    kills: tuple[Kill, ...]
    stops: tuple[float, ...]
    full: tuple[float, float] | None
    set_back: tuple[float, float] | None
    end: float


def make_plan(seed: int, api: str) -> Plan:
    """Return the plan of a seed. It is the same in every run."""
    random = Random(f"relay/{api}/{seed}")
    end = random.choice((20.0, 60.0, 120.0))
    helpful = random.random() < 0.5
    events = [Step("push", at=round(random.uniform(0.0, end), 3)) for _ in range(random.randint(3, 12))]
    for _ in range(random.choice((0, 0, 1, 2))):  # several events arrive together
        at = random.uniform(0.0, end)
        events += [Step("push", at=at + n / 1000) for n in range(random.randint(3, 30))]
    if api not in WITHOUT_SOCKET:
        for _ in range(random.choice((0, 1, 2, 4))):
            how = random.choice((*LOSSES, "late"))
            events.append(
                Step("socket", who=LISTENER, how=how, seconds=log_seconds(random), at=random.uniform(0.0, end))
            )
    schedule = Schedule(
        seed,
        api,
        (),
        counted=True,
        keys_return=helpful,
        deduplicates=helpful,
        events=make_events(random, api, events, end),
        bare=not helpful and api in BARE and random.random() < 0.5,
        most_missed=random.choice((None, None, None, 20)),
        skew=random.choice((0.0, 0.0, 1.0, -1.0)) * log_seconds(random, 0.01, 86_400.0),
    )
    return Plan(
        schedule,
        retain=random.choice((1, 3, 10, 50, 10_000, 10_000)),
        queue=random.choice((1, 5, 1_000)),
        readers=tuple(_reader(random, PROTOCOLS[n % 4], end) for n in range(random.randint(4, 6))),
        sends=tuple(_send(random, n, end) for n in range(random.choice((0, 2, 4, 6)))),
        kills=tuple(_kill(random, end) for _ in range(random.choice((0, 1, 2, 3, 5)))),
        stops=tuple(random.uniform(0.0, end) for _ in range(random.choice((0, 0, 1)))),
        full=_span(random, end) if random.random() < 0.15 else None,
        set_back=(random.uniform(0.0, end), log_seconds(random, 1.0, 86_400.0)) if random.random() < 0.15 else None,
        end=end,
    )


def _reader(random: Random, protocol: Protocol, end: float) -> ReaderPlan:
    visits = [
        Visit(
            log_seconds(random, 0.01, end),
            log_seconds(random, 0.01, end / 2),
            log_seconds(random, 0.01, 5.0) if random.random() < 0.3 else 0.0,
            random.random() < 0.5,
        )
        for _ in range(random.choice((0, 0, 1, 2, 4)))
    ]
    return ReaderPlan(
        protocol,
        round(random.uniform(0.0, end / 2), 3),
        random.choice(("first", "first", "last")),
        random.random() < 0.5,
        tuple(visits),
    )


def _send(random: Random, number: int, end: float) -> SendPlan:
    first = random.uniform(0.0, end)
    times = [first, *(min(end, first + log_seconds(random)) for _ in range(random.choice((0, 1, 2))))]
    other = [first + log_seconds(random)] if random.random() < 0.2 else []
    key = f"{random.getrandbits(128):032x}"
    uuid = f"{key[:8]}-{key[8:12]}-4{key[13:16]}-8{key[17:20]}-{key[20:]}"
    return SendPlan(uuid, f"guest {number}", tuple(times), tuple(other), random.choice((0.5, 5.0, 30.0)))


def _kill(random: Random, end: float) -> Kill:
    damage = random.choice(DAMAGES[1:]) if random.random() < 0.15 else "none"
    return Kill(random.uniform(0.0, end), random.choice(MOMENTS), log_seconds(random), damage)


def _span(random: Random, end: float) -> tuple[float, float]:
    begin = random.uniform(0.0, end)
    return begin, min(end, begin + log_seconds(random, 0.1))
