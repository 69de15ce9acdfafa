"""Random schedules on counted time, with faults of 10 ms to 30 s.

Knows: the simulation, and what happens at which time. Must not know: what is right or wrong (`oracles`), or how
outcomes are counted (`figures`).

The guest's commands run one after the other, and the listener between them. Everything else (messages of the agent,
faults) happens at its own time, also while a command waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Literal, TypeAlias, cast, get_args
from unittest.mock import patch

from guestctl.dialects import NAMES, dialect_class
from tests.faults.command_line import CommandLine
from tests.faults.model import PATIENCE, Listener, Run, Sender
from tests.faults.schedules import (
    BARE,
    LISTENER,
    LONGEST,
    MOMENTS,
    OVER_REST,
    RENEWABLE,
    SENDER,
    SLOW_FAULTS,
    WATCHER,
    WITHOUT_SOCKET,
    Crash,
    Moment,
    Schedule,
    Step,
    StepKind,
    log_seconds,
    random_fault,
    slow_fault,
)
from tests.faults.simulation import REQUEST_FAULTS, SOCKET_FAULTS, RequestFault, Simulation, SocketFault

#: Where the state directory is: in memory, if the system has such a folder.
MEMORY = Path("/dev/shm")
#: Entries per page of history, so that a few messages fill several pages.
PAGE = 5
#: Seconds in which a listener must show everything after the last fault, and the steps in which this is checked.
RECOVERY, LOOK = 120.0, 1.0
#: Seconds by which a command may exceed its deadline, for closing a socket and for data in transit.
SLACK = 2.0
#: Faults by which a listener misses messages.
LOSSES: tuple[SocketFault, ...] = ("cut", "cut", "fin", "hole", "outbound lost", "stall")
#: The shortest timeout of a command, in seconds. The longest is the default.
SHORTEST_TIMEOUT = 1.0

Service: TypeAlias = Literal["withholding", "helpful"]
"""`withholding`: keys do not come back, and a repeated key is stored again (the sandbox's default). `helpful`: keys
come back, a repeated key is stored once, and the profile states it."""
SERVICES: tuple[Service, ...] = get_args(Service)


# --- schedules ---


def make_counted(seed: int, api: str, service: Service) -> Schedule:
    """Return the schedule of a seed. It is the same in every run."""
    random = Random(f"counted/{service}/{api}/{seed}")
    commands, now = [], 0.0
    for number in range(random.randint(4, 8)):
        now += log_seconds(random)
        commands.append(_command(random, number, now))
    end = now + LONGEST
    events = [Step("push", at=_moment(random, end)) for _ in range(random.randint(2, 6))]
    events += [_event(random, api, _moment(random, end)) for _ in range(random.choice((0, 1, 2, 4, 8)))]
    for _ in range(random.choice((0, 1, 1, 2))):
        events += _scene(random, api, random.choice(commands))
    helpful = service == "helpful"
    return Schedule(
        seed,
        api,
        tuple(commands),
        counted=True,
        keys_return=helpful,
        deduplicates=helpful,
        events=_named(events),
        bare=not helpful and api in BARE and random.random() < 0.5,
        most_missed=random.choice((None, None, None, None, 4 * PAGE)),
        skew=random.choice((0.0, 0.0, 1.0, -1.0)) * log_seconds(random, 0.01, 86_400.0),
    )


def make_events(random: Random, api: str, events: Iterable[Step], end: float) -> tuple[Step, ...]:
    """Return events in their order, and a few random faults of one connection that listens and sends."""
    found = list(events)
    for _ in range(random.choice((0, 1, 2, 4, 8))):
        event = _event(random, api, _moment(random, end))
        if event.kind not in ("end", "crash"):
            found.append(replace(event, who=LISTENER))
    return _named(found)


def _named(events: Iterable[Step]) -> tuple[Step, ...]:
    """Return the events in their order, with a text for each message of the agent."""
    names = (f"agent {n}" for n in count())
    ordered = sorted(events, key=lambda event: event.at)
    return tuple(replace(event, text=next(names)) if event.kind == "push" else event for event in ordered)


def _scene(random: Random, api: str, command: Step) -> list[Step]:
    """Return events that belong together, near a command: alone they would rarely meet."""
    scene = random.choice(
        (_loss_while_history_lags, _loss_while_history_lags, _held_message, _slow_pages, _unreachable, _lost_message)
    )
    lasts = command.seconds if command.kind == "watch" else 0.0
    return scene(random, api, max(0.01, command.at + random.random() * lasts))


def _loss_while_history_lags(random: Random, api: str, at: float) -> list[Step]:
    """A listener loses its connection as the agent writes, and history shows the message later than a live one.

    In every second scene both come late: a client that trusts some seconds of waiting then loses the message.
    """
    who = random.choice((LISTENER, WATCHER))
    shortest = random.choice((0.5, LONGEST / 3))
    lag = f"lag:ms={log_seconds(random, shortest) * 1000:.0f},times={random.choice((2, 100, 1000))}"
    loss = [Step("socket", who=who, how=random.choice(LOSSES), seconds=log_seconds(random), at=at)]
    return [
        Step("fault", lag, at=at - 0.005),
        *([] if api in WITHOUT_SOCKET else loss),
        Step("push", at=at + log_seconds(random, 0.001, 1.0)),
        *(Step("push", at=at + log_seconds(random, shortest)) for _ in range(random.randint(1, 3))),
    ]


def _held_message(random: Random, api: str, at: float) -> list[Step]:
    """A proxy holds the guest's next message, and the connection breaks at the same time, or the proxy answers."""
    seconds = log_seconds(random, 0.1)
    if api in OVER_REST:
        return [Step("request", who=SENDER, how=random.choice(("late", "gateway")), seconds=seconds, at=at - 0.001)]
    return [Step("socket", who=SENDER, how="held", seconds=seconds, at=at - 0.001)]


def _unreachable(random: Random, api: str, at: float) -> list[Step]:
    """The network is down, or each of the next connections breaks before the message has left."""
    if random.random() < 0.5:
        return [Step("down", seconds=log_seconds(random, 1.0, 2 * LONGEST), at=at - 0.001)]
    kind: StepKind = "request" if api in OVER_REST else "socket"
    return [Step(kind, who=SENDER, how="torn", at=at - 0.001) for _ in range(random.randint(1, 6))]


def _lost_message(random: Random, api: str, at: float) -> list[Step]:
    """The guest's next message leaves and reaches nobody."""
    if api in OVER_REST:
        return [Step("request", who=SENDER, how="lost", at=at - 0.001)]
    return [Step("socket", who=SENDER, how="inbound lost", at=at - 0.001)]


def _slow_pages(random: Random, api: str, at: float) -> list[Step]:
    """History has many pages, and each is slow, when the client looks for its message."""
    if api in OVER_REST:
        loss = Step("request", who=SENDER, how="unanswered", at=at - 0.001)
    else:
        loss = Step("stored", who=SENDER, how="cut", at=at - 0.001)
    slow = f"delay:ms={log_seconds(random, 0.5) * 1000:.0f},on=history,times={random.choice((4, 20))}"
    pushed = (Step("push", at=at * random.random()) for _ in range(random.randint(8, 20)))
    return [*pushed, Step("fault", slow, at=at - 0.002), loss]


def _moment(random: Random, end: float) -> float:
    """Return a random time. Half of them are soon after the start, so that short schedules meet faults, too."""
    return round(random.uniform(0.0, end) if random.random() < 0.5 else log_seconds(random, 0.01, end), 3)


def _command(random: Random, number: int, at: float) -> Step:
    kinds: tuple[StepKind, ...] = (
        *("send",) * 4, *("command",) * 4, "kill", "watch", "watch", "resume", "history", "restart",
    )  # fmt: skip
    kind = random.choice(kinds)
    # One message in six has the text of an earlier one.
    text = f"guest {number if random.random() < 5 / 6 else random.randint(0, number)}"
    if kind == "send":
        return Step("send", text, at=at)
    if kind == "command":
        # Half of them have the default timeout, the others a shorter one: many faults outlast it.
        return Step("command", text, random.choice((PATIENCE, log_seconds(random, SHORTEST_TIMEOUT, PATIENCE))), at=at)
    if kind == "kill":
        return Step("kill", text, count=random.randint(1, 6), at=at)
    if kind == "resume":
        return Step("resume", seconds=log_seconds(random, SHORTEST_TIMEOUT, PATIENCE), at=at)
    return Step("watch", seconds=log_seconds(random), at=at) if kind == "watch" else Step(kind, at=at)


def _event(random: Random, api: str, at: float) -> Step:
    """Return one fault. Actors and kinds are chosen so that every kind can do something on this API."""
    seconds = log_seconds(random)
    who = random.choice((SENDER, SENDER, LISTENER, WATCHER))
    over_rest = api in WITHOUT_SOCKET or (api in OVER_REST and who == SENDER)
    kinds: list[StepKind | Literal["slow"]] = ["request", "down", "slow", "slow", "slow", "fault", "end", "crash"]
    if not over_rest:
        kinds += ["socket", "socket", "stored", "close"]
    if api in RENEWABLE:
        kinds.append("expire")
    kind = random.choice(kinds)
    if kind == "request":
        return Step("request", who=who, how=random.choice(REQUEST_FAULTS), seconds=seconds, at=at)
    if kind == "slow":
        faults = SLOW_FAULTS if api not in WITHOUT_SOCKET else ("lag", "late", "delay")
        return Step("fault", slow_fault(random.choice(faults), seconds, random.randint(1, 4)), at=at)
    if kind == "fault":
        return Step("fault", random_fault(random, api), at=at)
    if kind == "crash":
        return Step("crash", how=random.choice(MOMENTS), at=at)
    if kind == "socket" or kind == "stored":
        return Step(kind, who=who, how=random.choice(SOCKET_FAULTS), seconds=seconds, at=at)
    if kind == "close":
        return Step("close", who=who, count=random.choice((1000, 1001, 1005, 1011, 1012, 1013)), at=at)
    return Step(kind, seconds=seconds, at=at)


# --- runs ---


class CountedRun:
    """One schedule on counted time."""

    def __init__(self, schedule: Schedule, run: Run, directory: Path) -> None:
        self.run, self.schedule = run, schedule
        self.simulation = Simulation(schedule, run, directory)
        self.simulation.timeout = PATIENCE
        self.listener = Listener(self.simulation)
        self.sender = Sender(self.simulation, self.listener)
        self.command_line = CommandLine(self.simulation)

    def perform(self) -> None:
        """Perform the schedule to its end, and record what happened in `run`."""
        run, simulation, sender = self.run, self.simulation, self.sender
        with simulation.client(SENDER) as client:
            created, scope = client.create(), client.scope
        client.state.close()
        start, run.begun = simulation.time.monotonic(), simulation.time.now()
        for event in self.schedule.events:
            simulation.time.later(event.at, partial(self._happen, event))
        with closing(self.listener.processes()) as steps:
            for step in self.schedule.steps:
                self._listen(steps, start + step.at)
                self._do(step)
            last = max((event.at for event in self.schedule.events), default=0.0)
            self._listen(steps, max(simulation.time.monotonic(), start + last) + 0.01)
            run.fault_counts.update(simulation.fired())
            simulation.heal()
            simulation.time.sleep(LONGEST)  # what is late arrives
            self.listener.crashes.clear()
            sender.restart() if self.schedule.seed % 2 else sender.close()
            sender.settle()
            sender.read()
            self._listen_to_end(steps)
            sender.close()
        run.log, run.output = simulation.log(), self.listener.output()
        run.connections = simulation.attempts[LISTENER]
        simulation.outcome(created, scope)

    def _listen(self, steps: Iterator[None], until: float) -> None:
        while self.simulation.time.monotonic() < until and next(steps, self) is None:
            pass
        self.simulation.time.until(until)  # if the listener has failed for good

    def _listen_to_end(self, steps: Iterator[None]) -> None:
        """Listen until everything was shown, and for a while longer, for what may be shown twice."""
        time = self.simulation.time
        everything, until = {one["id"] for one in self.simulation.log()}, time.monotonic() + RECOVERY
        while time.monotonic() < until and not everything <= {line.get("id") for line in self.listener.output()}:
            self._listen(steps, time.monotonic() + LOOK)
        self._listen(steps, time.monotonic() + 5.0)

    def _do(self, step: Step) -> None:
        if step.kind == "command":
            self.command_line.send(step)
        elif step.kind == "resume":
            self.command_line.resume(step)
        elif step.kind == "watch":
            self.command_line.listen(step)
        else:
            self.sender.do(step)

    def _happen(self, event: Step) -> None:
        if event.kind == "crash":
            line = self.listener.lines + 1
            self.listener.crashes[line] = Crash(line, cast(Moment, event.how))
        elif event.kind == "end":
            self.listener.ending = True
        else:
            happen(self.simulation, event)


def happen(simulation: Simulation, event: Step) -> None:
    """Let a message of the agent arrive, or inject a fault."""
    if event.kind == "push":
        simulation.sandbox.admin.push(event.text)
    elif event.kind == "socket":
        simulation.inject(event.who, cast(SocketFault, event.how), event.seconds)
    elif event.kind == "stored":
        simulation.when_stored.append(lambda: simulation.inject(event.who, cast(SocketFault, event.how), event.seconds))
    elif event.kind == "request":
        fault = (cast(RequestFault, event.how), event.seconds)
        simulation.request_faults.setdefault(event.who, deque()).append(fault)
    elif event.kind == "close":
        simulation.close(event.who, event.count)
    elif event.kind == "down":
        simulation.down(event.seconds)
    elif event.kind == "fault":
        simulation.fault(event.text)
    else:
        assert event.kind == "expire"
        simulation.expire_token()


def run_counted(schedule: Schedule) -> Run:
    """Run one schedule on counted time and return what happened."""
    run = Run(schedule)
    with ExitStack() as stack:
        for name in NAMES:
            stack.enter_context(patch.object(dialect_class(name), "page_size", PAGE))
        place = MEMORY if MEMORY.is_dir() else None
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="guestctl-counted-", dir=place)))
        counted = CountedRun(schedule, run, directory)
        stack.enter_context(counted.simulation.installed())
        stack.enter_context(counted.command_line.installed())
        counted.perform()
    return run
