"""A relay while the service fails, readers die and the relay is killed: random schedules on counted time, and mutants.

`python -m tests.faults --relay 2000 --seed 0` runs more of them. A violation is printed with the command that
repeats it.
"""

from __future__ import annotations

import pytest

from tests.faults.relay_mutants import RELAY_MUTANTS
from tests.faults.relay_trials import RelayTally, caught, run_plans

#: Schedules in the default run, and in the slow suite.
FEW, MANY = 7, 70

pytestmark = pytest.mark.timeout(600)


def ran(count: int, seed: int) -> RelayTally:
    """Run the schedules and assert that no oracle found a violation."""
    total = RelayTally()
    for found in run_plans(count, seed, jobs=1):
        total.add(found)
    assert not total.violations, "\n".join(total.violations)
    assert total.plans == count
    return total


def test_a_few_random_schedules_of_a_relay() -> None:
    assert ran(FEW, seed=1).delivered


def test_promises_of_the_relay_hold_in_a_sample() -> None:
    total = ran(MANY, seed=100)
    assert total.counts["kills"]
    assert total.reader_gaps


@pytest.mark.parametrize("number", range(len(RELAY_MUTANTS)), ids=lambda n: RELAY_MUTANTS[n].name)
def test_every_mutant_of_the_relay_is_caught(number: int) -> None:
    assert RELAY_MUTANTS[number].caught_by in caught(number)
