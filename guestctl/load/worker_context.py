"""What the guests of one worker have in common: the plan, the clients, the measurements, whether the test is stopping.

Knows: which scenario comes next, where something is counted. Must not know: Locust.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from guestctl.checks.outcomes import Trouble
from guestctl.checks.script import Scenario, Script, ThinkTime
from guestctl.core.clock import Clock
from guestctl.core.errors import UsageError
from guestctl.load.guest_clients import Guests
from guestctl.load.measurements import Measurements, SlottedMeasurements
from guestctl.load.plan import DEFAULT_THINK, LoadPlan


@dataclass(frozen=True)
class ScenarioChoice:
    """A scenario that guests may run, with its weight, think time and golden transcript."""

    scenario: Scenario
    weight: int
    think: ThinkTime
    golden: tuple[str, ...] | None


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


def read_script(plan: LoadPlan, environ: Mapping[str, str]) -> tuple[Script, list[ScenarioChoice]]:
    """Read and validate the script of a plan. Raises UsageError for what a load test cannot run."""
    from guestctl.checks import golden
    from guestctl.checks.reader import load
    from guestctl.checks.runner import selected
    from guestctl.checks.service import check_abilities

    script = load(Path(plan.script), plan.variables, environ)
    check_abilities(script, plan.profile)
    scenarios = selected(script, plan.tags)
    if not scenarios:
        raise UsageError("no scenario has the tag " + " or ".join(f'"{tag}"' for tag in plan.tags))
    for scenario in scenarios:
        step = next(
            (step for step in (*scenario.steps, *scenario.teardown) if step.action in ("customer", "judge")), None
        )
        if step is not None:
            raise UsageError(
                f"{script.path}:{step.line}: `{step.action}` asks a model, which a load test does not do",
                code="config.file",
                hint="choose other scenarios with --tag, or replace the step: `guestctl check --keys` lists the steps",
            )
    transcripts = golden.load(script.golden) if any(scenario.golden for scenario in scenarios) else {}
    common = script.load.think or ThinkTime(DEFAULT_THINK, DEFAULT_THINK)
    # The weight is that of the scenario: its matrix shares it.
    rows = {scenario.base: sum(other.base == scenario.base for other in scenarios) for scenario in scenarios}
    whole = 1
    for number in rows.values():
        whole *= number
    return script, [
        ScenarioChoice(
            scenario,
            script.load.weights.get(scenario.base, 1) * whole // rows[scenario.base],
            script.load.thinks.get(scenario.base, common),
            transcripts.get(scenario.name),
        )
        for scenario in scenarios
    ]
