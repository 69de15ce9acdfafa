"""Random schedules on counted time: faults of 10 ms to 30 s, and the shares of messages that were accepted or in doubt.

Knows: the simulation, what happens at which time, and how outcomes are counted. Must not know: what is right or
wrong (`oracles`).

The guest's commands run one after the other, and the listener between them. Everything else (messages of the agent,
faults) happens at its own time, also while a command waits.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Literal, TypeAlias, cast, get_args
from unittest.mock import patch

from guestctl.core.clock import epoch_of
from guestctl.core.model import Gap, Message
from guestctl.dialects import NAMES, dialect_class
from guestctl.sandbox.faults import parse
from tests.faults.model import (
    PATIENCE,
    Listener,
    Record,
    Run,
    Sender,
    SendResult,
    Watch,
    kill_client,
    record_of,
)
from tests.faults.oracles import judge
from tests.faults.schedules import (
    APIS,
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
#: Seconds after which history shows a message, at most, for the goal of accepted messages.
PROMPT = 5.0

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
        seed, api, tuple(commands), counted=True, keys_return=helpful, deduplicates=helpful, events=_named(events)
    )


def _named(events: Iterable[Step]) -> tuple[Step, ...]:
    """Return the events in their order, with a text for each message of the agent."""
    names = (f"agent {n}" for n in count())
    ordered = sorted(events, key=lambda event: event.at)
    return tuple(replace(event, text=next(names)) if event.kind == "push" else event for event in ordered)


def _scene(random: Random, api: str, command: Step) -> list[Step]:
    """Return events that belong together, near a command: alone they would rarely meet."""
    scene = random.choice((_loss_while_history_lags, _held_message, _slow_pages))
    return scene(random, api, max(0.01, command.at + random.random() * command.seconds))


def _loss_while_history_lags(random: Random, api: str, at: float) -> list[Step]:
    """A listener loses its connection as the agent writes, and history shows the message later than a live one."""
    who = random.choice((LISTENER, WATCHER))
    lag = f"lag:ms={log_seconds(random, 0.1) * 1000:.0f},times={random.choice((2, 10, 100))}"
    loss = [Step("socket", who=who, how=random.choice(SOCKET_FAULTS), seconds=log_seconds(random), at=at)]
    return [
        Step("fault", lag, at=at - 0.005),
        *([] if api in WITHOUT_SOCKET else loss),
        Step("push", at=at + log_seconds(random, 0.001, 1.0)),
        *(Step("push", at=at + log_seconds(random, 0.5)) for _ in range(random.randint(0, 2))),
    ]


def _held_message(random: Random, api: str, at: float) -> list[Step]:
    """A proxy holds the guest's next message, and the connection breaks at the same time."""
    seconds = log_seconds(random, 0.1)
    if api in OVER_REST:
        return [Step("request", who=SENDER, how="late", seconds=seconds, at=at - 0.001)]
    return [Step("socket", who=SENDER, how="held", seconds=seconds, at=at - 0.001)]


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
    kinds: tuple[StepKind, ...] = (*("send",) * 8, "kill", "watch", "watch", "history", "restart")
    kind = random.choice(kinds)
    # One message in six has the text of an earlier one.
    text = f"guest {number if random.random() < 5 / 6 else random.randint(0, number)}"
    if kind == "send":
        return Step("send", text, at=at)
    if kind == "kill":
        return Step("kill", text, count=random.randint(1, 6), at=at)
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
        self._watching: Watch | None = None

    def perform(self) -> None:
        """Perform the schedule to its end, and record what happened in `run`."""
        run, simulation, sender = self.run, self.simulation, self.sender
        with simulation.client(SENDER) as client:
            created, scope = client.create(), client.scope
            client.state.close()
        simulation.on_frame = self._frame_read
        start, run.begun = simulation.time.monotonic(), simulation.time.now()
        for event in self.schedule.events:
            simulation.time.later(event.at, partial(self._happen, event))
        with closing(self.listener.processes()) as steps:
            for step in self.schedule.steps:
                self._listen(steps, start + step.at)
                self._watch(step.seconds) if step.kind == "watch" else sender.do(step)
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

    def _listen_to_end(self, steps: Iterator[None]) -> None:
        """Listen until everything was shown, and for a while longer, for what may be shown twice."""
        time = self.simulation.time
        everything, until = {one["id"] for one in self.simulation.log()}, time.monotonic() + RECOVERY
        while time.monotonic() < until and not everything <= {line.get("id") for line in self.listener.output()}:
            self._listen(steps, time.monotonic() + LOOK)
        self._listen(steps, time.monotonic() + 5.0)

    def _happen(self, event: Step) -> None:
        simulation = self.simulation
        if event.kind == "push":
            simulation.sandbox.admin.push(event.text)
        elif event.kind == "socket":
            simulation.inject(event.who, cast(SocketFault, event.how), event.seconds)
        elif event.kind == "stored":
            simulation.when_stored.append(
                lambda: simulation.inject(event.who, cast(SocketFault, event.how), event.seconds)
            )
        elif event.kind == "request":
            fault = (cast(RequestFault, event.how), event.seconds)
            simulation.request_faults.setdefault(event.who, deque()).append(fault)
        elif event.kind == "close":
            simulation.close(event.who, event.count)
        elif event.kind == "crash":
            line = self.listener.lines + 1
            self.listener.crashes[line] = Crash(line, cast(Moment, event.how))
        elif event.kind == "end":
            self.listener.ending = True
        else:
            self.sender.do(event)

    def _frame_read(self, who: str, text: str) -> None:
        if who == WATCHER and self._watching is not None:
            self._watching.received |= {
                event.text for event in self.schedule.events if event.kind == "push" and f'"{event.text}"' in text
            }

    def _watch(self, seconds: float) -> None:
        """Listen without a cursor, as `listen --for` does, and end in order."""
        simulation, time = self.simulation, self.simulation.time
        watch = self._watching = Watch(len(simulation.log()))
        self.run.watches.append(watch)
        client = simulation.client(WATCHER)
        until = time.monotonic() + seconds
        try:
            events = client.listen(left=lambda: max(0.0, until - time.monotonic()))
            for event in events:
                self._note(watch, event)
                if time.monotonic() >= until:
                    break
            for event in events.rest():
                self._note(watch, event)
        except Exception as failure:  # the command prints it, and exits with its code
            self.run.watch_failures.append(failure)
        finally:
            self._watching = None
            kill_client(client)

    def _note(self, watch: Watch, event: object) -> None:
        if isinstance(event, (Message, Gap)):
            watch.output.append(record_of(event, self.simulation))


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
        counted.perform()
    return run


# --- figures ---


@dataclass
class Figures:
    """Counts of outcomes. `kinds` counts sends by what happened to them, `gaps` counts gap records by their reason."""

    schedules: int = 0
    sends: int = 0
    faults: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    gaps: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        self.schedules += other.schedules
        self.sends += other.sends
        self.faults += other.faults
        self.kinds.update(other.kinds)
        self.gaps.update(other.gaps)
        self.broken.update(other.broken)
        self.violations += other.violations

    @property
    def goal_missed(self) -> bool:
        """Whether fewer sends than promised were accepted or proved to be unsent (reliability.md §1)."""
        kinds = self.kinds
        accepted = kinds["prompt accepted"] >= 0.99 * kinds["prompt"]
        return not accepted or kinds["unsent not_sent"] < kinds["unsent"]

    def __str__(self) -> str:
        """Return a table with one figure per line, and its share where it is a part of the figure above."""
        kinds = self.kinds
        rows = [
            ("schedules", self.schedules, None),
            ("faults", self.faults, None),
            ("sends", self.sends, None),
            ("stored, in history within 5 s", kinds["prompt"], None),
            ("  accepted", kinds["prompt accepted"], kinds["prompt"]),
            ("stored, in history later or not alone", kinds["slow"], None),
            ("  accepted", kinds["slow accepted"], kinds["slow"]),
            ("last byte never left", kinds["unsent"], None),
            ("  not_sent", kinds["unsent not_sent"], kinds["unsent"]),
            ("left and reached nobody", kinds["nobody"], None),
            ("  in doubt", kinds["nobody in_doubt"], kinds["nobody"]),
            ("killed", kinds["killed"], None),
            ("in doubt", kinds["in_doubt"], self.sends - kinds["killed"]),
            ("  found by a later command", kinds["found later"], kinds["in_doubt"]),
            ("gaps declared", sum(self.gaps.values()), None),
            *((f"  {reason}", count, None) for reason, count in sorted(self.gaps.items())),
            *((what, self.broken[what], None) for what in ("lost", "duplicated", "outcome", "dropped")),
            ("other violations", sum(self.broken.values()) - sum(self.broken[what] for what in _NAMED), None),
        ]
        return "\n".join(
            f"{name:40}{value:>8}" + (f"{100 * value / whole:>9.2f} %" if whole else "") for name, value, whole in rows
        )


_NAMED = ("lost", "duplicated", "outcome", "dropped")


def figures(run: Run, service: Service) -> Figures:
    """Judge one run and count its outcomes. Each violation comes with the command that repeats it."""
    schedule, found = run.schedule, judge(run, slack=SLACK)
    again = f"python -m tests.faults --evidence 1 --service {service} --dialect {schedule.api} --seed {schedule.seed}"
    total = Figures(
        schedules=1,
        sends=len(run.sends),
        faults=sum(run.fault_counts.values()),
        gaps=Counter(_reason(line) for line in run.output if line["kind"] == "gap"),
        broken=Counter(violation.oracle.partition(" ")[2] for violation in found),
        violations=[f"{violation}\n    {again}" for violation in found],
    )
    later = {row.key for row in run.outbox if row.state == "accepted"}
    for result in run.sends:
        _count(run, result, later, total.kinds)
    return total


def _reason(gap: Record) -> str:
    return gap["reason"] if gap["reason"] in ("missing", "unproved", "too_long") else "other reasons"


def _count(run: Run, result: SendResult, later: set[str], kinds: Counter[str]) -> None:
    """Count one send by what happened to its message."""
    delivery = result.delivery
    if delivery == "killed":
        kinds["killed"] += 1
        return
    if delivery == "in_doubt":
        kinds["in_doubt"] += 1
        kinds["found later"] += result.key in later
    left = run.handed_over.get(result.key)
    entries = [one for one in run.log if one["key"] == result.key]
    if left is None:
        kind = "unsent"
    elif not entries:
        kind = "nobody"
    else:
        kind = "prompt" if _is_prompt(run, result, left, entries[0]) else "slow"
    kinds[kind] += 1
    kinds[f"{kind} {delivery}"] += 1


def _is_prompt(run: Run, result: SendResult, left: float, entry: Record) -> bool:
    """Return whether history can be read and shows the message within `PROMPT` seconds, and no other entry could be it.

    The time is the sum of all delays until then: of the message, of the lag, and of the pages if they are slow.
    """
    alike = sum(one.text == result.text for one in run.sends)
    ended = result.begun + result.took - run.begun
    faults = [parse(event.text) for event in run.schedule.events if event.kind == "fault" and event.at <= ended]
    lag = max((fault.seconds for fault in faults if fault.kind == "lag"), default=0.0)
    page = max((fault.seconds for fault in faults if fault.kind == "delay" and fault.on == "history"), default=0.0)
    pages = len(run.log) // PAGE + 1
    return alike == 1 and epoch_of(entry["time"]) - left + lag + page * pages <= PROMPT


def run_seeds(service: Service, api_seeds: Sequence[tuple[str, int]]) -> Figures:
    """Run these schedules in this process, and return their counts."""
    total = Figures()
    for api, seed in api_seeds:
        total.add(figures(run_counted(make_counted(seed, api, service)), service))
    return total


def evidence(service: Service, runs: int, seed: int, jobs: int, apis: Sequence[str] = APIS) -> Iterator[Figures]:
    """Run `runs` schedules in `jobs` processes. Yield the counts of each part. Each seed runs once for every API."""
    plan = [(apis[n % len(apis)], seed + n // len(apis)) for n in range(runs)]
    parts = [plan[at : at + 70] for at in range(0, runs, 70)]
    if jobs == 1:
        yield from (run_seeds(service, part) for part in parts)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(run_seeds, service), parts)
