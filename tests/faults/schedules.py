"""Schedules: which messages are sent in a run, and which faults are injected where. All of it follows from a seed.

Knows: the proxy's rules, the sandbox's fault specifications, what the dialects declare, and which faults a
client of an API must survive. Must not know: the client, or how a schedule is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from random import Random
from typing import Any, Literal, TypeAlias

from guestctl.core.model import Profile, Session
from guestctl.dialects import NAMES, dialect_class
from tests.faults.proxy import ACTIONS, Action, Direction, Kind, Rule

#: The trace ids that tell the proxy which actor opened a connection.
SENDER = "5e" * 16
LISTENER = "11" * 16
WATCHER = "a7" * 16

APIS = NAMES
#: APIs that send messages over REST, and APIs without a socket.
OVER_REST = frozenset(api for api in APIS if not dialect_class(api).sends_on_socket)
WITHOUT_SOCKET = frozenset(api for api in APIS if not dialect_class(api).has_socket)


def _renewable(api: str) -> bool:
    """Return whether a guest's token can be renewed after a refusal."""
    dialect = dialect_class(api)(Profile("p", api=api), new_id=str)
    return dialect.refreshable(Session(api=api, profile="p")) == "guest"


RENEWABLE = frozenset(api for api in APIS if _renewable(api))
#: APIs with a service that answers with the published members only. Without a guest id, a token cannot be renewed.
BARE = frozenset(APIS) - {"webmessaging-conversations"}

StepKind: TypeAlias = Literal[
    "wait_until_live", "send", "kill", "push", "pause", "history", "restart", "down", "fault", "expire", "command",
    "watch", "resume", "end", "crash", "socket", "stored", "close", "request",
]  # fmt: skip
Moment: TypeAlias = Literal["before", "intent", "torn", "line"]
MOMENTS: tuple[Moment, ...] = ("before", "intent", "torn", "line")


@dataclass(frozen=True)
class Step:
    """One step of a schedule.

    `send` sends `text` as the guest, `push` sends it as the agent. `kill` sends it and kills the process at its
    `count`th event on the wire. `fault` injects the sandbox fault `text`. `pause` and `down` last `seconds`.
    `wait_until_live` waits until the listener is live.

    Only on counted time: `command` runs `send` with a timeout of `seconds`, `watch` runs `listen --for`, `resume` runs
    `resume` with a timeout, each as a process of its own. `end` ends the listener as `--for` does, `crash` kills it at
    its next line, at the moment `how`. `socket` injects the fault `how` into the sockets of `who`, `stored` does so
    when the service has stored the guest's next message, `request` into the next request of `who`. `close` closes the
    sockets of `who` with the code `count`. A step is performed `at` that many seconds after the start, a command as
    soon as the one before it has ended.
    """

    kind: StepKind
    text: str = ""
    seconds: float = 0.0
    count: int = 0
    at: float = 0.0
    who: str = ""
    how: str = ""


@dataclass(frozen=True)
class Hook:
    """A fault for `who`, injected between storing the guest's `count`th message and confirming it."""

    count: int
    action: Action
    who: str
    kind: Kind
    seconds: float = 0.0


@dataclass(frozen=True)
class Crash:
    """The listener is killed at its `line`th line, counted from 1 over all its processes.

    Moments: before the line, after the cursor's note of the intent, in the middle of the line, after the line.
    """

    line: int
    moment: Moment


@dataclass(frozen=True)
class Schedule:
    """The plan of one run.

    `keys_return`: whether history and pushed messages show the client keys of messages. `deduplicates`: whether the
    service stores a repeated key once, and the profile states it. No source states that the live service does either.
    `counted`: it runs on counted time (see `counted.py`), and `events` happen while the commands in `steps` run.
    `bare`: the echoes and answers to messages have no client key either, as behind a gateway. `most_missed`: how many
    entries of history a client may hold, None for its own limit. `skew`: seconds by which the guest's clock is ahead of
    the service's. `recorded`: `guestctl proxy` passes everything on, between the guests and what injects the faults.
    """

    seed: int
    api: str
    steps: tuple[Step, ...]
    rules: tuple[Rule, ...] = ()
    faults: tuple[str, ...] = ()
    hooks: tuple[Hook, ...] = ()
    crashes: tuple[Crash, ...] = ()
    keys_return: bool = True
    deduplicates: bool = False
    counted: bool = False
    events: tuple[Step, ...] = ()
    bare: bool = False
    most_missed: int | None = None
    skew: float = 0.0
    recorded: bool = False

    @property
    def specs(self) -> list[str]:
        """Return the specifications of all sandbox faults."""
        return [*self.faults, *(step.text for step in (*self.steps, *self.events) if step.kind == "fault")]

    @property
    def swaps(self) -> int:
        """Return how often the service may swap two messages."""
        return sum(spec.startswith("swap") for spec in self.specs)


def scripted(api: str, *texts: str, **more: Any) -> Schedule:
    """Return a written schedule. "guest N" is sent by the guest, "agent N" by the agent; "history" reads history."""
    steps = [Step("history") if text == "history" else Step(_BY[text[:5]], text) for text in texts]
    return Schedule(0, api, (Step("wait_until_live"), *steps), **more)


_BY: Mapping[str, StepKind] = {"guest": "send", "agent": "push"}


def enumerated(api: str) -> Iterator[Schedule]:
    """Return schedules for every action on every kind of connection, in both directions, at four positions."""
    for rules in _combinations(api):
        for rule in rules:
            yield scripted(api, *_EXCHANGE, rules=(rule,))


def chosen(api: str) -> Iterator[Schedule]:
    """Return a part of the enumerated schedules: one position for each action, kind of connection and direction."""
    for n, rules in enumerate(_combinations(api)):
        yield scripted(api, *_EXCHANGE, rules=(rules[n % len(rules)],))


def _combinations(api: str) -> Iterator[list[Rule]]:
    """Return, for each connection, direction and action, one rule per position."""
    places: list[tuple[str, Kind]] = [(LISTENER, "request"), (SENDER, "request")]
    if api not in WITHOUT_SOCKET:
        places.append((LISTENER, "socket"))
        places += [(SENDER, "socket")] if api not in OVER_REST else []
    random = Random(api)
    for who, kind in places:
        for direction in _DIRECTIONS:
            for action in ACTIONS:
                yield [
                    Rule(action, who, kind, 1, direction, at, *_extent(random, action)) for at in (0, 150, 700, 1500)
                ]


_DIRECTIONS: tuple[Direction, ...] = ("up", "down")
_EXCHANGE = ("agent 0", "guest 0", "guest 1", "agent 1", "guest 2", "agent 2")


def make(seed: int, api: str) -> Schedule:
    """Return the schedule of a seed. It is the same in every run."""
    random = Random(f"{api}/{seed}")
    steps = _steps(random, api)
    return Schedule(
        seed,
        api,
        steps,
        rules=tuple(_rule(random, api) for _ in range(random.choice((0, 1, 2, 3, 5)))),
        faults=tuple(random_fault(random, api) for _ in range(random.choice((0, 1, 1, 2, 3)))),
        hooks=tuple(_hook(random, api) for _ in range(random.choice((0, 1, 1, 2)))),
        crashes=tuple(
            Crash(line, random.choice(MOMENTS))
            for line in sorted(random.sample(range(1, 12), random.choice((0, 0, 1, 2))))
        ),
        keys_return=random.random() < 0.75,
        deduplicates=random.random() < 0.25,
    )


def _steps(random: Random, api: str) -> tuple[Step, ...]:
    sends = [Step("send", f"guest {n}") for n in range(random.randint(3, 6))]
    sends = [Step("kill", step.text, count=random.randint(1, 6)) if random.random() < 0.12 else step for step in sends]
    pushed = [Step("push", f"agent {n}") for n in range(random.randint(2, 6))]
    others = [_other(random, api) for _ in range(random.choice((0, 1, 2, 4)))]
    return tuple(_interleaved(random, sends, pushed, others))


def _other(random: Random, api: str) -> Step:
    choices: list[Step] = [
        Step("pause", seconds=random.choice((0.02, 0.1, 0.3))),
        Step("history"),
        Step("restart"),
        Step("down", seconds=random.choice((0.05, 0.3))),
        Step("fault", random_fault(random, api)),
        Step("fault", random_fault(random, api)),
    ]
    if api in RENEWABLE:
        choices.append(Step("expire"))
    return random.choice(choices)


def _interleaved(random: Random, *rows: Sequence[Step]) -> list[Step]:
    """Mix the rows at random; each row keeps its order."""
    left = [list(row) for row in rows if row]
    mixed: list[Step] = []
    while left:
        row = random.choice(left)
        mixed.append(row.pop(0))
        left = [row for row in left if row]
    return mixed


def _rule(random: Random, api: str) -> Rule:
    who = random.choice((SENDER, LISTENER))
    kind: Kind = "socket" if api not in WITHOUT_SOCKET and random.random() < 0.65 else "request"
    if api in OVER_REST and who == SENDER:
        kind = "request"
    direction: Direction = random.choice(("up", "down"))
    action = random.choice(_WEIGHTED)
    most = 5000 if action in ("delay", "throttle", "slice") else 4000
    at = random.choice((0, random.randint(1, 600), random.randint(200, 2000), random.randint(500, most)))
    seconds, size = _extent(random, action)
    return Rule(action, who, kind, random.choice((1, 1, 1, 2, 2, 3)), direction, at, seconds, size)


_WEIGHTED: tuple[Action, ...] = (
    "cut", "cut", "cut", "fin", "half-close", "stall", "delay", "throttle", "slice", "slice", "hole", "one-way hole",
    "late", "late",
)  # fmt: skip


def _extent(random: Random, action: Action) -> tuple[float, int]:
    if action == "stall":
        return random.choice((0.1, 0.3, 0.8)), 0
    if action == "delay":
        return random.choice((0.01, 0.05)), 0
    if action == "late":
        return random.choice((0.02, 0.1)), 0
    if action == "throttle":
        return 0.0, random.choice((4000, 20_000))
    return 0.0, random.choice((1, 3, 7, 64)) if action == "slice" else 0


def _hook(random: Random, api: str) -> Hook:
    action: Action = random.choice(("cut", "cut", "cut", "fin", "hole", "stall"))
    who = random.choice((SENDER, SENDER, LISTENER))
    over_rest = api in WITHOUT_SOCKET or (api in OVER_REST and who == SENDER)
    return Hook(random.randint(1, 5), action, who, "request" if over_rest else "socket", 0.3)


def random_fault(random: Random, api: str) -> str:
    """Return a random sandbox fault that a client of this API must survive."""
    after = random.randint(1, 12)
    choices = [
        f"http:status={random.choice((500, 502, 503, 504))},after={random.randint(1, 5)}",
        f"http:status=503,on=history,times={random.randint(1, 3)}",
        f"delay:ms={random.choice((5, 50))},every={random.randint(1, 4)},times=6",
        f"truncate:on=history,after={random.randint(1, 3)}",
        f"garbage:on=history,after={random.randint(1, 3)}",
        f"lag:ms={random.choice((50, 150))},times={random.randint(1, 3)}",
        f"ratelimit:retry_after=0,on=history,after={random.randint(1, 3)}",
        f"ratelimit:retry_after=0,on=send,after={random.randint(1, 5)}",
    ]
    if api not in WITHOUT_SOCKET:
        choices += [
            f"drop:code={random.choice((1000, 1001, 1005, 1006, 1006, 1011, 1012, 1013))},after={after}",
            f"drop:code=1006,every={random.randint(3, 6)},times=3",
            f"duplicate:every={random.randint(1, 3)},times=6",
            f"swap:after={after}",
            f"silence:for={random.choice((200, 500))}ms,after={after}",
            f"truncate:after={after}",
            f"garbage:after={after}",
            f"refuse:status={random.choice((429, 500, 503))},times={random.randint(1, 3)}",
        ]
    if api in RENEWABLE:
        choices.append(f"unauthorized:on={random.choice(('history', 'send'))},after={random.randint(1, 4)}")
    return random.choice(choices)


# --- on counted time ---

#: The shortest and the longest fault on counted time, in seconds.
SHORTEST, LONGEST = 0.01, 30.0
#: Faults of the service that last.
SLOW_FAULTS = ("lag", "late", "delay", "silence")


def log_seconds(random: Random, shortest: float = SHORTEST, longest: float = LONGEST) -> float:
    """Return a random duration. Each power of ten is equally likely."""
    return round(exp(random.uniform(log(shortest), log(longest))), 3)


def slow_fault(kind: str, seconds: float, after: int) -> str:
    """Return a fault of the service that lasts `seconds`, at the `after`th chance."""
    if kind == "silence":
        return f"silence:for={seconds * 1000:.0f}ms,after={after}"
    if kind == "lag":
        return f"lag:ms={seconds * 1000:.0f},times={4 * after}"
    on = ",on=send" if kind == "late" else ""
    return f"{kind}:ms={seconds * 1000:.0f},after={after}{on}"
