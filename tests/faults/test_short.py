"""Fault schedules in the test suite: fixed seeds for every API, enumerated schedules, and the mutants.

`python -m tests.faults --schedules 1 --seed N --dialect API` repeats a failed seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.faults import trials
from tests.faults.mutants import MUTANTS
from tests.faults.proxy import ACTIONS
from tests.faults.schedules import APIS, Crash, Schedule, chosen, make, scripted
from tests.faults.trials import Tally, run_all, run_mutants

#: For every API: 1,001 schedules in all.
SEEDS = range(143)
JOBS = 2
#: Each of these seeds once found a defect.
ONCE_FAILED = (
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
    """Run the schedules and assert that no oracle found a violation."""
    total = Tally()
    for found in run_all(plan, JOBS):
        total.add(found)
    assert not total.violations, "\n".join(total.violations)
    assert total.schedules == len(plan)
    return total


@pytest.mark.parametrize("api", APIS)
def test_a_few_seeds(api: str) -> None:
    """The default run uses a sample; the slow suite runs all of `SEEDS`."""
    judged([make(seed, api) for seed in SEEDS[:4]])


@pytest.mark.parametrize("api", APIS)
def test_a_few_seeds_through_the_recording_proxy(api: str) -> None:
    judged([replace(make(seed, api), recorded=True) for seed in SEEDS[:4]])


@pytest.mark.parametrize("api", APIS)
def test_fixed_seeds(api: str) -> None:
    judged([make(seed, api) for seed in SEEDS])


@pytest.mark.parametrize("api", APIS)
def test_every_action_on_every_connection(api: str) -> None:
    """One position each; `--enumerated` runs all positions."""
    assert set(judged(list(chosen(api))).faults) >= set(ACTIONS)


def test_there_are_enough_enumerated_schedules() -> None:
    assert sum(len(list(chosen(api))) for api in APIS) >= 400


def test_seeds_that_once_failed() -> None:
    judged([make(seed, api) for api, seed in ONCE_FAILED])


def test_a_listener_killed_after_each_line_repeats_nothing() -> None:
    """No process lives long enough to confirm its line: the next one knows only the intent."""
    crashes = tuple(Crash(line, "line") for line in range(3, 7))
    judged([scripted(api, *(f"guest {n}" for n in range(6)), crashes=crashes) for api in APIS])


def test_a_seed_always_makes_the_same_schedule() -> None:
    assert [make(seed, api) for seed in range(50) for api in APIS] == [
        make(seed, api) for seed in range(50) for api in APIS
    ]


def test_every_mutant_is_caught() -> None:
    """The right oracle must catch it: a run may also break other promises because the machine is slow."""
    assert [(mutant.name, found) for mutant, found in run_mutants(8) if mutant.caught_by not in found] == []


def test_the_correct_client_passes_the_schedules_of_the_mutants() -> None:
    shown = [mutant.shown_by for mutant in MUTANTS]
    judged([schedule for schedule in shown if not schedule.counted])
    for schedule in shown:
        assert not schedule.counted or trials.judged(schedule) == []
