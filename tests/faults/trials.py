"""Schedules carried out and judged, many at once, and what came of them in numbers.

Knows: the model and the oracles. Must not know: what is printed, and where.

A schedule is nearly all waiting: a second or two, of which a tenth is work. So each process has many
under way, in threads. A mutant is patched into its process, and has one for itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from tests.faults.model import Run, carry_out, hurried
from tests.faults.mutants import MUTANTS, Mutant
from tests.faults.oracles import judge
from tests.faults.schedules import Schedule, make

#: What must never be.
WORST = ("lost", "doubled", "out of order")
#: Schedules under way at once in a process; and those it is given at a time.
AT_ONCE = 8
BATCH = 240


@dataclass
class Tally:
    """One schedule, or many, in numbers."""

    schedules: int = 0
    #: What guests and agents said, and the service stored.
    messages: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    in_doubt: int = 0
    unsettled: int = 0
    gaps: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.schedules += other.schedules
        self.messages += other.messages
        self.faults.update(other.faults)
        self.broken.update(other.broken)
        self.in_doubt += other.in_doubt
        self.unsettled += other.unsettled
        self.gaps += other.gaps
        self.violations += other.violations

    def __str__(self) -> str:
        """The table, a figure a line."""
        rows: list[tuple[str, int]] = [
            ("schedules", self.schedules),
            ("messages", self.messages),
            ("faults", sum(self.faults.values())),
            *((f"  {kind}", count) for kind, count in sorted(self.faults.items())),
            *((what, self.broken[what]) for what in WORST),
            ("other violations", sum(count for what, count in self.broken.items() if what not in WORST)),
            ("in doubt or killed", self.in_doubt),
            ("  still so after the next run", self.unsettled),
            ("gaps declared", self.gaps),
        ]
        return "\n".join(f"{name:30}{value:>8}" for name, value in rows)


def tally(run: Run) -> Tally:
    """One run in numbers."""
    found = judge(run)
    schedule = run.schedule
    which = f"--dialect {schedule.api} --seed {schedule.seed}"
    again = (
        f"python -m tests.faults --schedules 1 {which}" if schedule == make(schedule.seed, schedule.api) else schedule
    )
    return Tally(
        schedules=1,
        messages=len(run.log),
        faults=Counter({kind: count for kind, count in run.struck.items() if count}),
        broken=Counter(violation.oracle.partition(" ")[2] for violation in found),
        in_doubt=sum(said.delivery in ("in_doubt", "killed") for said in run.said),
        unsettled=sum(row.state in ("in_doubt", "writing", "queued") for row in run.outbox),
        gaps=sum(line["kind"] == "gap" for line in run.heard),
        violations=[f"{violation}\n    {again}" for violation in found],
    )


def one(schedule: Schedule) -> Tally:
    return tally(carry_out(schedule))


def batch(schedules: Sequence[Schedule]) -> list[Tally]:
    """So many at once, in this process."""
    with hurried(), ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(one, schedules))


def many(schedules: Iterable[Schedule], jobs: int) -> Iterator[Tally]:
    """Each schedule's figures, in order, from so many processes."""
    plan = list(schedules)
    size = max(1, min(BATCH, -(-len(plan) // jobs)))
    batches = [plan[at : at + size] for at in range(0, len(plan), size)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for found in pool.map(batch, batches):
            yield from found


def caught(number: int) -> list[str]:
    """What the oracles have against a mutant's run. It has the time that everybody has: none is caught for
    being slow that would not be slow as it should be."""
    mutant = MUTANTS[number]
    with hurried(), mutant.at_work():
        return [violation.oracle for violation in judge(carry_out(mutant.shown_by))]


def mutants(jobs: int) -> Iterator[tuple[Mutant, list[str]]]:
    """Each mutant and what was found; nothing, when it got through."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from zip(MUTANTS, pool.map(caught, range(len(MUTANTS))), strict=True)
