"""The rule machine: Hypothesis applies rules in random order, and the oracles judge the run after each.

Knows: what can happen to a guest (the rules). Hypothesis combines the rules and, after a violation, shrinks the run
to the steps that are needed. Must not know: what is right or wrong (`oracles`).

Time is counted, not waited for, so the client uses its real timings. The 30 seconds until a dead peer is
detected cost nothing.
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

from tests.faults.model import Listener, Run, Sender
from tests.faults.oracles import Violation, judge, judge_so_far
from tests.faults.schedules import (
    APIS,
    LISTENER,
    LONGEST,
    MOMENTS,
    RENEWABLE,
    SENDER,
    SLOW_FAULTS,
    Crash,
    Moment,
    Schedule,
    Step,
    random_fault,
    slow_fault,
)
from tests.faults.simulation import REQUEST_FAULTS, SOCKET_FAULTS, RequestFault, Simulation, SocketFault

#: Where the state directory is: in memory, if the system has such a folder.
_MEMORY = Path("/dev/shm")
#: Seconds in which a listener must show everything after the last fault.
RECOVERY = 120.0
#: Seconds by which a command may exceed its deadline, for closing a socket and for data in transit.
SLACK = 2.0
#: Maximum number of open sockets per session.
SOCKETS = 3

ACTORS = st.sampled_from((SENDER, LISTENER))
LISTENING = st.sampled_from((0.0, 0.05, 1.0, 5.0, 40.0))
#: How long a fault lasts: 10 ms to 30 s, on a logarithmic scale.
SECONDS = st.sampled_from((0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0))


class PromiseBroken(AssertionError):
    """The oracles found a violation."""


@dataclass
class Totals:
    """Count what the machines of this process did."""

    runs: int = 0
    steps: int = 0
    messages: int = 0
    fault_counts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """Return a table with one figure per line."""
        rows = [
            ("runs", self.runs),
            ("steps", self.steps),
            ("messages", self.messages),
            ("faults", sum(self.fault_counts.values())),
            *((f"  {kind}", count) for kind, count in sorted(self.fault_counts.items())),
            ("violations", 0),
        ]
        return "\n".join(f"{name:30}{value:>8}" for name, value in rows)


class GuestMachine(RuleBasedStateMachine):
    """One process that sends, one that listens, an agent, and all faults."""

    totals: ClassVar[Totals] = Totals()

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._steps: list[Step] = []
        self._numbered = 0

    @initialize(
        api=st.sampled_from(APIS), seed=st.integers(0, 3), keys_return=st.booleans(), deduplicates=st.booleans()
    )
    def create(self, api: str, seed: int, keys_return: bool, deduplicates: bool) -> None:
        schedule = Schedule(seed, api, (), keys_return=keys_return, deduplicates=deduplicates)
        place = _MEMORY if _MEMORY.is_dir() else None
        directory = Path(self._stack.enter_context(TemporaryDirectory(prefix="guestctl-machine-", dir=place)))
        self._run = Run(schedule)
        self._simulation = simulation = Simulation(schedule, self._run, directory)
        self._stack.enter_context(simulation.installed())
        with simulation.client(SENDER) as client:
            self._created, self._scope = client.create(), client.scope
        client.state.close()
        self._listener = Listener(simulation)
        self._sender = Sender(simulation, self._listener)
        self._steps_of_listener = self._stack.enter_context(closing(self._listener.processes()))

    # --- what the guest and the agent do ---

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
        until = self._simulation.time.monotonic() + seconds
        while self._simulation.time.monotonic() < until and next(self._steps_of_listener, self) is None:
            pass

    @rule(seconds=st.sampled_from((0.05, 2.0, 30.0, 600.0)))
    def time_passes(self, seconds: float) -> None:
        self._simulation.time.sleep(seconds)

    @rule()
    def history(self) -> None:
        self._do(Step("history"))

    @rule(after=st.integers(1, 3))
    def history_while_a_message_arrives(self, after: int) -> None:
        simulation, text = self._simulation, f"agent {self._number()}"
        waiting = simulation.on_history = deque([lambda: None] * after)
        waiting.append(lambda: simulation.sandbox.admin.push(text))
        self._do(Step("history"))
        simulation.on_history = deque()

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

    # --- what happens on the network ---

    @rule(who=ACTORS, how=st.sampled_from(SOCKET_FAULTS), seconds=SECONDS)
    def socket_breaks(self, who: str, how: SocketFault, seconds: float) -> None:
        self._simulation.inject(who, how, seconds)

    @rule(who=ACTORS, code=st.sampled_from((1000, 1001, 1005, 1011, 1012, 1013)))
    def socket_closed(self, who: str, code: int) -> None:
        self._simulation.close(who, code)

    @rule(who=ACTORS, how=st.sampled_from(SOCKET_FAULTS), seconds=SECONDS)
    def socket_breaks_after_a_message_is_stored(self, who: str, how: SocketFault, seconds: float) -> None:
        self._simulation.when_stored.append(lambda: self._simulation.inject(who, how, seconds))

    @rule(who=ACTORS, how=st.sampled_from(REQUEST_FAULTS), seconds=SECONDS)
    def request_fails(self, who: str, how: RequestFault, seconds: float) -> None:
        self._simulation.request_faults.setdefault(who, deque()).append((how, seconds))

    @rule(seconds=SECONDS)
    def service_goes_down(self, seconds: float) -> None:
        self._do(Step("down", seconds=seconds))

    @rule(seed=st.integers(0, 200))
    def service_injects_a_fault(self, seed: int) -> None:
        self._do(Step("fault", random_fault(Random(seed), self._run.schedule.api)))

    @rule(kind=st.sampled_from(SLOW_FAULTS), seconds=SECONDS, after=st.integers(1, 4))
    def service_is_slow(self, kind: str, seconds: float, after: int) -> None:
        self._do(Step("fault", slow_fault(kind, seconds, after)))

    # --- what must be true ---

    @invariant()
    def promises_hold(self) -> None:
        run, simulation = self._run, self._simulation
        self.totals.steps += 1
        run.log, run.output = simulation.log(), self._listener.output()
        found = judge_so_far(run)
        if len(simulation.sandbox.peers) > SOCKETS + self._zombies():
            found.append(Violation("O6 sockets", f"{len(simulation.sandbox.peers)} are open"))
        _raise_if_any(found)

    def teardown(self) -> None:
        with self._stack:
            if hasattr(self, "_steps_of_listener"):
                self._end()

    def _end(self) -> None:
        run, simulation, sender = self._run, self._simulation, self._sender
        simulation.heal()
        simulation.time.sleep(LONGEST)  # what is late arrives
        self._listener.crashes.clear()
        sender.restart() if self._numbered % 2 else sender.close()
        sender.settle()
        sender.read()
        run.log = simulation.log()
        until = simulation.time.monotonic() + RECOVERY
        everything = {one["id"] for one in run.log}
        while simulation.time.monotonic() < until and next(self._steps_of_listener, self) is None:
            if everything <= {line.get("id") for line in self._listener.output()}:
                break
        self.listen(5.0)
        sender.close()
        run.log, run.output = simulation.log(), self._listener.output()
        run.connections = simulation.attempts[LISTENER]
        simulation.outcome(self._created, self._scope)
        self.totals.runs += 1
        self.totals.messages += len(run.log)
        self.totals.fault_counts.update(run.fault_counts)
        _raise_if_any(judge(run, slack=SLACK))

    # --- helpers ---

    def _do(self, step: Step) -> None:
        self._steps.append(step)
        self._run.schedule = replace(self._run.schedule, steps=tuple(self._steps))
        self._sender.do(step)

    def _number(self) -> int:
        self._numbered += 1
        return self._numbered

    def _zombies(self) -> int:
        """Return the number of sockets that the guest has closed and the service still counts as open."""
        return sum(socket.forsaken for socket in self._simulation.open_sockets())


def _raise_if_any(found: list[Violation]) -> None:
    if found:
        raise PromiseBroken("\n".join(map(str, found)))


def run(runs: int, steps: int, seed: int | None = None) -> Totals:
    """Run `runs` machines of at most `steps` steps each. Without a seed the runs are always the same.

    Raises PromiseBroken for the first violation, with the shrunk steps in its notes.
    """
    GuestMachine.totals = Totals()
    machine = GuestMachine if seed is None else seeded(seed)(type("GuestMachine", (GuestMachine,), {}))
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
    return GuestMachine.totals
