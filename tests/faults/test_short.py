"""The short form: fixed seeds for every dialect, and every mutant caught.

`python -m tests.faults --schedules 1 --seed N --dialect API` repeats one that failed.
"""

from __future__ import annotations

import pytest

from tests.faults.mutants import MUTANTS
from tests.faults.schedules import APIS, make
from tests.faults.trials import Tally, many, mutants

SEEDS = range(4)
JOBS = 4
#: Each of these once found a defect.
TELLING = (
    ("web-messaging", 28),
    ("web-messaging", 5025),
    ("web-messaging", 7077),
    ("guest-sessions", 30),
    ("guest-sessions", 1026),
    ("guest-sessions", 1031),
    ("conversation-guests", 10),
    ("conversation-guests", 2098),
    ("messaging-conversations", 5030),
)

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("api", APIS)
def test_fixed_seeds(api: str) -> None:
    total = Tally()
    for found in many([make(seed, api) for seed in SEEDS], JOBS):
        total.add(found)
    assert not total.violations, "\n".join(total.violations)
    assert total.schedules == len(SEEDS)


def test_seeds_that_once_failed() -> None:
    found = [
        violation for one in many([make(seed, api) for api, seed in TELLING], JOBS) for violation in one.violations
    ]
    assert not found, "\n".join(found)


def test_a_seed_is_a_schedule() -> None:
    assert [make(seed, api) for seed in range(50) for api in APIS] == [
        make(seed, api) for seed in range(50) for api in APIS
    ]


def test_every_mutant_is_caught() -> None:
    assert [name for name, found in mutants(JOBS) if not found] == []


def test_what_catches_a_mutant_is_the_mutant() -> None:
    """The same schedules, the client as it is."""
    found = [violation for one in many([mutant.shown_by for mutant in MUTANTS], JOBS) for violation in one.violations]
    assert not found, "\n".join(found)
