"""The rule machine's short form. `python -m tests.faults --machine 10000 --steps 100` is the long one."""

from __future__ import annotations

import pytest

from tests.faults.machine import Broken, run
from tests.faults.mutants import MUTANTS

RUNS, STEPS = 500, 50

#: Shrinking what fails takes Hypothesis up to five minutes.
pytestmark = pytest.mark.timeout(1200)


def test_whatever_happens_in_whatever_order() -> None:
    ran = run(RUNS, STEPS)
    assert ran.runs >= RUNS
    assert ran.steps > RUNS * STEPS * 0.9


@pytest.mark.parametrize("name", ["tells no doubles", "forgets what is in doubt"])
def test_it_finds_a_mistake_and_shows_it_in_a_few_steps(name: str) -> None:
    [mutant] = [one for one in MUTANTS if one.name == name]
    with mutant.at_work(), pytest.raises(Broken) as caught:
        run(RUNS, STEPS)
    shown = "\n".join(getattr(caught.value, "__notes__", ()))
    steps = [line for line in shown.splitlines() if line.startswith("state.") and "honest_so_far" not in line]
    assert 0 < len(steps) <= 10, shown
