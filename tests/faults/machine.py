"""Any rule, in any order, as often as it likes: what must always be true is looked at after each.

Knows: what can happen to a guest (the rules), which Hypothesis puts together and, where something
breaks, takes apart again until nothing can be left out. Must not know: what is right or wrong (`oracles`).

Time is counted, not waited for, so the client's own constants hold: half a minute until a dead peer is
found out costs nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.faults.model import Listener, Run, Speaker
from tests.faults.oracles import Violation, judge, so_far
from tests.faults.schedules import APIS, LISTENER, MOMENTS, RENEWABLE, SENDER, Crash, Moment, Schedule, Step, spec
from tests.faults.stage import BREAKS, MISHAPS, Break, Mishap, Stage

#: Where state is kept meanwhile: in memory, where the system has such a place.
_MEMORY = Path("/dev/shm")
#: Seconds a listener has for everything once nothing goes wrong any more; by which a verb may overrun
#: its deadline: a goodbye, and what was on the way.
RECOVERY = 120.0
SLACK = 2.0
#: Sockets a session may have.
SOCKETS = 3

ACTORS = st.sampled_from((SENDER, LISTENER))
LISTENING = st.sampled_from((0.0, 0.05, 1.0, 5.0, 40.0))
SECONDS = st.sampled_from((0.02, 0.3, 1.0, 6.0))


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class Ran:
    """What the machines of this process have done."""

    runs: int = 0
    steps: int = 0
    messages: int = 0
    struck: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """The table, a figure a line."""
        rows = [
            ("runs", self.runs),
            ("steps", self.steps),
            ("messages", self.messages),
            ("faults on the way", sum(self.struck.values())),
            *((f"  {kind}", count) for kind, count in sorted(self.struck.items())),
            ("violations", 0),
        ]
        return "\n".join(f"{name:30}{value:>8}" for name, value in rows)


class Guests(RuleBasedStateMachine):
    """One guest who speaks, one who listens, an agent, and everything that goes wrong."""

    ran: ClassVar[Ran] = Ran()

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._steps: list[Step] = []
        self._said = 0

    @initialize(api=st.sampled_from(APIS), seed=st.integers(0, 3), keys_return=st.booleans())
    def create(self, api: str, seed: int, keys_return: bool) -> None:
        schedule = Schedule(seed, api, (), keys_return=keys_return)
        place = _MEMORY if _MEMORY.is_dir() else None
        directory = Path(self._stack.enter_context(TemporaryDirectory(prefix="guestctl-machine-", dir=place)))
        self._run = Run(schedule)
        self._stage = stage = Stage(schedule, self._run, directory)
        self._stack.enter_context(stage.at_work())
        with stage.client(SENDER) as client:
            self._created, self._scope = client.create(), client.scope
            client.state.close()
        self._listener = Listener(stage)
        self._speaker = Speaker(stage, self._listener)
        self._lives = self._stack.enter_context(closing(self._listener.lives()))

    # --- what people do ---

    @rule(then=LISTENING)
    def send(self, then: float) -> None:
        self._do(Step("send", f"guest {self._number()}"))
        self.listen(then)

    @rule(at=st.integers(1, 6))
    def killed_while_sending(self, at: int) -> None:
        self._do(Step("kill", f"guest {self._number()}", count=at))

    @rule(times=st.integers(1, 4), then=LISTENING)
    def push(self, times: int, then: float) -> None:
        for _ in range(times):
            self._do(Step("push", f"agent {self._number()}"))
        self.listen(then)

    @rule(seconds=LISTENING)
    def listen(self, seconds: float) -> None:
        until = self._stage.time.monotonic() + seconds
        while self._stage.time.monotonic() < until and next(self._lives, self) is None:
            pass

    @rule(seconds=st.sampled_from((0.05, 2.0, 30.0, 600.0)))
    def nobody_runs(self, seconds: float) -> None:
        self._stage.time.sleep(seconds)

    @rule()
    def history(self) -> None:
        self._do(Step("history"))

    @rule(after=st.integers(1, 3))
    def history_while_something_arrives(self, after: int) -> None:
        stage, text = self._stage, f"agent {self._number()}"
        waiting = stage.on_history = deque([lambda: None] * after)
        waiting.append(lambda: stage.sandbox.admin.push(text))
        self._do(Step("history"))
        stage.on_history = deque()

    # --- what happens to processes and tokens ---

    @rule()
    def restart(self) -> None:
        self._do(Step("restart"))

    @rule(moment=st.sampled_from(MOMENTS))
    def listener_killed_at_its_next_line(self, moment: Moment) -> None:
        line = self._listener.lines + 1
        self._listener.crashes[line] = Crash(line, moment)

    @precondition(lambda self: self._run.schedule.api in RENEWABLE)
    @rule()
    def token_expires(self) -> None:
        self._do(Step("expire"))

    # --- what happens on the way ---

    @rule(who=ACTORS, how=st.sampled_from(BREAKS), seconds=SECONDS)
    def socket_breaks(self, who: str, how: Break, seconds: float) -> None:
        self._stage.strike(who, how, seconds)

    @rule(who=ACTORS, code=st.sampled_from((1000, 1001, 1005, 1011, 1012, 1013)))
    def socket_closed(self, who: str, code: int) -> None:
        self._stage.close(who, code)

    @rule(who=ACTORS, how=st.sampled_from(BREAKS), seconds=SECONDS)
    def socket_breaks_once_stored(self, who: str, how: Break, seconds: float) -> None:
        self._stage.when_stored.append(lambda: self._stage.strike(who, how, seconds))

    @rule(who=ACTORS, how=st.sampled_from(MISHAPS), seconds=SECONDS)
    def request_goes_wrong(self, who: str, how: Mishap, seconds: float) -> None:
        self._stage.mishaps.setdefault(who, deque()).append((how, seconds))

    @rule(seconds=SECONDS)
    def service_down(self, seconds: float) -> None:
        self._do(Step("down", seconds=seconds))

    @rule(seed=st.integers(0, 200))
    def service_faulty(self, seed: int) -> None:
        self._do(Step("fault", spec(Random(seed), self._run.schedule.api)))

    # --- what must be true ---

    @invariant()
    def honest_so_far(self) -> None:
        run, stage = self._run, self._stage
        self.ran.steps += 1
        run.log, run.heard = stage.log(), self._listener.heard()
        found = so_far(run)
        if len(stage.sandbox.peers) > SOCKETS + self._zombies():
            found.append(Violation("O6 sockets", f"{len(stage.sandbox.peers)} are open"))
        _fail(found)

    def teardown(self) -> None:
        with self._stack:
            if hasattr(self, "_lives"):
                self._end()

    def _end(self) -> None:
        run, stage, speaker = self._run, self._stage, self._speaker
        stage.heal()
        self._listener.crashes.clear()
        speaker.restart() if self._said % 2 else speaker.close()
        speaker.settle()
        speaker.read()
        run.log = stage.log()
        until = stage.time.monotonic() + RECOVERY
        everything = {one["id"] for one in run.log}
        while stage.time.monotonic() < until and next(self._lives, self) is None:
            if everything <= {line.get("id") for line in self._listener.heard()}:
                break
        self.listen(5.0)
        speaker.close()
        run.log, run.heard = stage.log(), self._listener.heard()
        run.connections = stage.attempts[LISTENER]
        stage.outcome(self._created, self._scope)
        self.ran.runs += 1
        self.ran.messages += len(run.log)
        self.ran.struck.update(run.struck)
        _fail(judge(run, slack=SLACK))

    # --- inside ---

    def _do(self, step: Step) -> None:
        self._steps.append(step)
        self._run.schedule = replace(self._run.schedule, steps=tuple(self._steps))
        self._speaker.do(step)

    def _number(self) -> int:
        self._said += 1
        return self._said

    def _zombies(self) -> int:
        """Sockets whose guest has gone, which the service does not know yet."""
        return sum(socket.forsaken for socket in self._stage.open_sockets())


def _fail(found: list[Violation]) -> None:
    if found:
        raise Broken("\n".join(map(str, found)))


def run(runs: int, steps: int, seed: int | None = None) -> Ran:
    """So many machines of so many steps at most, the same every time; with a seed, others. Raises Broken."""
    Guests.ran = Ran()
    machine = Guests if seed is None else seeded(seed)(type("Guests", (Guests,), {}))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=runs,
            stateful_step_count=steps,
            derandomize=seed is None,
            report_multiple_bugs=False,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        ),
    )
    return Guests.ran
