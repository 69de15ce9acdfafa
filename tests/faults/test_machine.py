"""The rule machine's short form. `python -m tests.faults --machine 10000 --steps 100` is the long one."""

from __future__ import annotations

import pytest

from tests.faults.machine import Broken, Guests, run
from tests.faults.mutants import MUTANTS
from tests.faults.schedules import SENDER

RUNS, STEPS = 500, 50

#: Shrinking what fails takes Hypothesis up to five minutes.
pytestmark = pytest.mark.timeout(1200)


def test_whatever_happens_in_whatever_order() -> None:
    ran = run(RUNS, STEPS)
    assert ran.runs >= RUNS
    assert ran.steps > RUNS * STEPS * 0.9


def test_the_cursor_s_message_is_not_in_history_yet() -> None:
    """What run 20261127 of 1,500 found: a listener killed behind its line showed everything again."""
    guests = Guests()
    guests.create(api="guest-sessions", seed=0, keys_return=False)
    for at in (6, 3):
        guests.killed_while_sending(at=at)
    guests.listen(seconds=5.0)
    guests.request_goes_wrong(who=SENDER, how="refused", seconds=0.02)
    for at in (*[1] * 9, 4, 1):
        guests.killed_while_sending(at=at)
    guests.service_faulty(seed=0)
    guests.service_faulty(seed=4)
    guests.killed_while_sending(at=1)
    guests.send(then=5.0)
    for _ in range(2):
        guests.request_goes_wrong(who=SENDER, how="refused", seconds=0.02)
    guests.service_faulty(seed=181)
    for at in (1, 6):
        guests.killed_while_sending(at=at)
    guests.service_faulty(seed=52)
    for at in (6, 1):
        guests.killed_while_sending(at=at)
    guests.send(then=0.0)
    guests.killed_while_sending(at=2)
    guests.service_faulty(seed=139)
    guests.listen(seconds=0.05)
    guests.listener_killed_at_its_next_line(moment="line")
    guests.send(then=0.0)
    guests.listen(seconds=0.05)
    guests.honest_so_far()
    guests.teardown()


@pytest.mark.parametrize("name", ["tells no doubles", "forgets what is in doubt"])
def test_it_finds_a_mistake_and_shows_it_in_a_few_steps(name: str) -> None:
    [mutant] = [one for one in MUTANTS if one.name == name]
    with mutant.at_work(), pytest.raises(Broken) as caught:
        run(RUNS, STEPS)
    shown = "\n".join(getattr(caught.value, "__notes__", ()))
    steps = [line for line in shown.splitlines() if line.startswith("state.") and "honest_so_far" not in line]
    assert 0 < len(steps) <= 10, shown
