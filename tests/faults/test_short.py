"""The short form: fixed seeds for every dialect, every action everywhere, and every mutant caught.

`python -m tests.faults --schedules 1 --seed N --dialect API` repeats one that failed.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.faults.mutants import MUTANTS
from tests.faults.proxy import ACTIONS
from tests.faults.schedules import APIS, Crash, Schedule, chosen, make, scripted
from tests.faults.trials import Tally, many, mutants

#: Of every dialect: 1,001 schedules in all.
SEEDS = range(143)
JOBS = 2
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
    ("messaging-conversations", 26),
    ("messaging-conversations", 126),
    ("messaging-conversations", 5030),
)

pytestmark = pytest.mark.timeout(1200)


def judged(plan: Sequence[Schedule]) -> Tally:
    """So many carried out; all must have kept every promise."""
    total = Tally()
    for found in many(plan, JOBS):
        total.add(found)
    assert not total.violations, "\n".join(total.violations)
    assert total.schedules == len(plan)
    return total


@pytest.mark.parametrize("api", APIS)
def test_a_few_seeds(api: str) -> None:
    """The sample of the default run; the slow suite has all of `SEEDS`."""
    judged([make(seed, api) for seed in SEEDS[:4]])


@pytest.mark.parametrize("api", APIS)
def test_fixed_seeds(api: str) -> None:
    judged([make(seed, api) for seed in SEEDS])


@pytest.mark.parametrize("api", APIS)
def test_every_action_everywhere(api: str) -> None:
    """`--enumerated` is this at every position."""
    assert set(judged(list(chosen(api))).faults) >= set(ACTIONS)


def test_there_are_enough_of_them() -> None:
    assert sum(len(list(chosen(api))) for api in APIS) >= 400


def test_seeds_that_once_failed() -> None:
    judged([make(seed, api) for api, seed in TELLING])


def test_killed_behind_one_line_and_then_behind_the_next() -> None:
    """No life lasts long enough to note its line: each next one knows only what was intended."""
    crashes = tuple(Crash(line, "line") for line in range(3, 7))
    judged([scripted(api, *(f"guest {n}" for n in range(6)), crashes=crashes) for api in APIS])


def test_a_seed_is_a_schedule() -> None:
    assert [make(seed, api) for seed in range(50) for api in APIS] == [
        make(seed, api) for seed in range(50) for api in APIS
    ]


def test_every_mutant_is_caught() -> None:
    """By the oracle that is for it: a run may also break promises because the machine is slow."""
    assert [(mutant.name, found) for mutant, found in mutants(8) if mutant.caught_by not in found] == []


def test_what_catches_a_mutant_is_the_mutant() -> None:
    """The same schedules, the client as it is."""
    judged([mutant.shown_by for mutant in MUTANTS])
