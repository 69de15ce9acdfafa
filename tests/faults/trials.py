"""Run and judge many schedules at once, and count the results.

Knows: the model and the oracles. Must not know: where results are printed.

A schedule mostly waits: it takes a second or two, of which a tenth is work. So each process runs several schedules
in threads. A mutant patches its whole process, so it runs alone there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from tests.faults.counted import SLACK, make_counted, run_counted
from tests.faults.model import Run, run_schedule, shortened_waits
from tests.faults.mutants import MUTANTS, Mutant
from tests.faults.oracles import Violation, judge
from tests.faults.schedules import APIS, Schedule, make

#: Violations with their own line in the table.
WORST = ("lost", "duplicated", "out of order")
#: `AT_ONCE`: schedules that a process runs at once. `BATCH`: schedules that it receives together.
AT_ONCE = 8
BATCH = 240


@dataclass
class Tally:
    """Count the results of one schedule or of many."""

    schedules: int = 0
    #: Messages that the service stored.
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
        """Return a table with one figure per line."""
        rows: list[tuple[str, int]] = [
            ("schedules", self.schedules),
            ("messages", self.messages),
            ("faults", sum(self.faults.values())),
            *((f"  {kind}", count) for kind, count in sorted(self.faults.items())),
            *((what, self.broken[what]) for what in WORST),
            ("other violations", sum(count for what, count in self.broken.items() if what not in WORST)),
            ("in doubt or killed", self.in_doubt),
            ("  still open after the next run", self.unsettled),
            ("gaps declared", self.gaps),
        ]
        return "\n".join(f"{name:30}{value:>8}" for name, value in rows)


def tally(run: Run) -> Tally:
    """Judge one run and count its results. Each violation comes with the command that repeats it."""
    found = judge(run)
    schedule = run.schedule
    which = f"--dialect {schedule.api} --seed {schedule.seed}"
    again = (
        f"python -m tests.faults --schedules 1 {which}" if schedule == make(schedule.seed, schedule.api) else schedule
    )
    return Tally(
        schedules=1,
        messages=len(run.log),
        faults=Counter({kind: count for kind, count in run.fault_counts.items() if count}),
        broken=Counter(violation.oracle.partition(" ")[2] for violation in found),
        in_doubt=sum(result.delivery in ("in_doubt", "killed") for result in run.sends),
        unsettled=sum(row.state in ("in_doubt", "writing", "queued") for row in run.outbox),
        gaps=sum(line["kind"] == "gap" for line in run.output),
        violations=[f"{violation}\n    {again}" for violation in found],
    )


def run_one(schedule: Schedule) -> Tally:
    """Run one schedule on real time and count its results."""
    return tally(run_schedule(schedule))


def run_batch(schedules: Sequence[Schedule]) -> list[Tally]:
    """Run these schedules in this process, several at once."""
    with shortened_waits(), ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(run_one, schedules))


def run_all(schedules: Iterable[Schedule], jobs: int) -> Iterator[Tally]:
    """Run the schedules in `jobs` processes. Yield the counts of each, in order."""
    plan = list(schedules)
    size = max(1, min(BATCH, -(-len(plan) // jobs)))
    batches = [plan[at : at + size] for at in range(0, len(plan), size)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for found in pool.map(run_batch, batches):
            yield from found


def run_mutant(number: int) -> list[str]:
    """Return the oracles that caught a mutant. It gets the same time limits as the correct client, so a mutant is
    never caught only because it ran on a slow machine."""
    mutant = MUTANTS[number]
    with mutant.installed():
        return [violation.oracle for violation in judged(mutant.shown_by)]


def judged(schedule: Schedule) -> list[Violation]:
    """Run one schedule, alone in this process, and return every violation."""
    if schedule.counted:
        return judge(run_counted(schedule), slack=SLACK)
    with shortened_waits():
        return judge(run_schedule(schedule))


def run_mutants(jobs: int) -> Iterator[tuple[Mutant, list[str]]]:
    """Run every mutant. Yield it with the oracles that caught it, or an empty list."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from zip(MUTANTS, pool.map(run_mutant, range(len(MUTANTS))), strict=True)


def hunt(mutant: Mutant, runs: int, seed: int) -> tuple[int, str, int] | None:
    """Run random schedules on counted time until the oracle made for the mutant catches it.

    Return how many it took, with the API and the seed of the last; None if it was not caught in `runs` schedules.
    """
    with mutant.installed():
        for n in range(runs):
            schedule = make_counted(seed + n // len(APIS), APIS[n % len(APIS)], "withholding")
            if any(violation.oracle == mutant.caught_by for violation in judged(schedule)):
                return n + 1, schedule.api, schedule.seed
    return None
