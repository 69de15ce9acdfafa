"""What the guests of one worker have in common: the plan, the clients, the measurements, whether the test is stopping.

Knows: which scenario comes next, where something is counted. Must not know: Locust.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from guestctl.checks.outcomes import Trouble
from guestctl.checks.script import Script, ThinkTime
from guestctl.core.clock import Clock
from guestctl.load.guest_clients import Guests
from guestctl.load.measurements import Measurements, SlottedMeasurements
from guestctl.load.plan import LoadPlan
from guestctl.load.scenario_choice import ScenarioChoice, read_script


class WorkerContext:
    """One worker, or the only process of a test."""

    def __init__(self, plan: LoadPlan, *, clock: Clock, environ: Mapping[str, str], ask: Callable[..., float]) -> None:
        self.plan = plan
        self.clock = clock
        self.environ = environ
        self.guests = Guests(plan.profile, clock=clock, environ=environ, ask=ask)
        self.slots = SlottedMeasurements(plan.slot)
        self.stopping = False
        self.script: Script | None = None
        self.choices: Sequence[ScenarioChoice] = ()
        self.random = Random()
        #: The first failure to begin a conversation: its exit code, code and message.
        self.first_failure: dict[str, Any] | None = None
        self._started = clock.monotonic()

    def start(self) -> None:
        """The test starts now."""
        self._started = self.clock.monotonic()
        self.stopping = False

    def measurements(self) -> Measurements:
        """Return where to count what happens now."""
        return self.slots.at(self.clock.monotonic() - self._started)

    def note(self, trouble: Trouble, *, opened: bool) -> None:
        """Count what went wrong. Of the failures to begin a conversation, the first is remembered."""
        failure = trouble.failure
        what = trouble.message.splitlines()[0] if failure is None else failure.code
        where = f"line {trouble.line}: " if trouble.line and opened else ""
        self.measurements().failure(where + what)
        if failure is not None and not opened and self.first_failure is None:
            self.first_failure = {"exit": int(failure.exit), "code": failure.code, "message": failure.message}

    def load_script(self) -> None:
        """Read the script of the plan. Raises UsageError."""
        self.script, self.choices = read_script(self.plan, self.environ)

    def choose(self) -> ScenarioChoice:
        """Return the scenario of the next conversation."""
        return self.random.choices(self.choices, [choice.weight for choice in self.choices])[0]

    def seconds(self, think: ThinkTime) -> float:
        """Return one think time."""
        return self.random.uniform(think.least, think.most)
