"""Which scenarios guests may run, and how often.

Knows: scripts, weights, think times, what a load test cannot run. Must not know: Locust, clients, what is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from guestctl.checks.script import Scenario, Script, ThinkTime
from guestctl.core.errors import UsageError
from guestctl.load.plan import DEFAULT_THINK, LoadPlan


@dataclass(frozen=True)
class ScenarioChoice:
    """A scenario that guests may run, with its weight, think time and golden transcript."""

    scenario: Scenario
    weight: int
    think: ThinkTime
    golden: tuple[str, ...] | None


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
