"""The rule machine, for a short time. `python -m tests.faults --machine 10000 --steps 100` runs it for longer."""

from __future__ import annotations

import pytest

from tests.faults.machine import GuestMachine, PromiseBroken, run
from tests.faults.mutants import MUTANTS
from tests.faults.schedules import SENDER

RUNS, STEPS = 500, 50

#: Hypothesis takes up to five minutes to shrink a failure.
pytestmark = pytest.mark.timeout(1200)


def test_random_rules_in_random_order_break_no_promise() -> None:
    totals = run(RUNS, STEPS)
    assert totals.runs >= RUNS
    assert totals.steps > RUNS * STEPS * 0.9


def test_a_cursor_whose_message_is_not_in_history_yet_repeats_nothing() -> None:
    """A found defect: a listener that was killed after it had written a line showed everything again."""
    machine = GuestMachine()
    machine.create(api="guest-sessions", seed=0, keys_return=True, deduplicates=True)
    for at in (6, 3):
        machine.killed_while_sending(at=at)
    machine.listen(seconds=5.0)
    machine.request_fails(who=SENDER, how="refused", seconds=0.02)
    for at in (*[1] * 9, 4, 1):
        machine.killed_while_sending(at=at)
    machine.service_injects_a_fault(seed=0)
    machine.service_injects_a_fault(seed=4)
    machine.killed_while_sending(at=1)
    machine.send(then=5.0)
    for _ in range(2):
        machine.request_fails(who=SENDER, how="refused", seconds=0.02)
    machine.service_injects_a_fault(seed=181)
    for at in (1, 6):
        machine.killed_while_sending(at=at)
    machine.service_injects_a_fault(seed=52)
    for at in (6, 1):
        machine.killed_while_sending(at=at)
    machine.send(then=0.0)
    machine.killed_while_sending(at=2)
    machine.service_injects_a_fault(seed=139)
    machine.listen(seconds=0.05)
    machine.listener_killed_at_its_next_line(moment="line")
    machine.send(then=0.0)
    machine.listen(seconds=0.05)
    machine.promises_hold()
    machine.teardown()


@pytest.mark.parametrize("name", ["keeps duplicates", "forgets messages in doubt"])
def test_a_mutant_is_found_and_shrunk_to_a_few_steps(name: str) -> None:
    [mutant] = [one for one in MUTANTS if one.name == name]
    with mutant.installed(), pytest.raises(PromiseBroken) as caught:
        run(RUNS, STEPS)
    shown = "\n".join(getattr(caught.value, "__notes__", ()))
    steps = [line for line in shown.splitlines() if line.startswith("state.") and "promises_hold" not in line]
    assert 0 < len(steps) <= 10, shown
