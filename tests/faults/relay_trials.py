"""Run and judge many plans of a relay, and count the results.

Knows: plans, runs, oracles, mutants. Must not know: where results are printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from tests.faults.relay_mutants import RELAY_MUTANTS
from tests.faults.relay_oracles import judge_relay
from tests.faults.relay_plans import make_plan
from tests.faults.relay_run import perform
from tests.faults.schedules import APIS

#: Violations with their own line in the table.
PROMISES = {"lost without a gap": "R3 lost", "twice or out of order": "R2 order", "wrong or repeated sends": "R6 send"}


@dataclass
class RelayTally:
    """Counts of one plan or of many."""

    plans: int = 0
    messages: int = 0
    committed: int = 0
    delivered: int = 0
    answers: int = 0
    gaps: int = 0
    reader_gaps: int = 0
    faults: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, other: RelayTally) -> None:
        self.plans += other.plans
        self.messages += other.messages
        self.committed += other.committed
        self.delivered += other.delivered
        self.answers += other.answers
        self.gaps += other.gaps
        self.reader_gaps += other.reader_gaps
        self.faults += other.faults
        self.counts.update(other.counts)
        self.broken.update(other.broken)
        self.violations += other.violations

    def __str__(self) -> str:
        """Return a table with one figure per line."""
        named = Counter(self.broken)
        rows = [
            ("schedules", self.plans),
            ("messages at the service", self.messages),
            ("events in the logs", self.committed),
            ("records that readers got", self.delivered),
            ("answers to sends", self.answers),
            ("faults of the service", self.faults),
            *sorted(self.counts.items()),
            ("gaps of the upstream", self.gaps),
            ("gaps of the log", self.reader_gaps),
            *((name, named.pop(oracle, 0)) for name, oracle in PROMISES.items()),
            ("other violations", sum(named.values())),
        ]
        return "\n".join(f"{name:30}{value:>8}" for name, value in rows)


def try_plan(seed: int, api: str) -> RelayTally:
    """Perform and judge one plan. Each violation comes with the command that repeats it."""
    outcome = perform(make_plan(seed, api))
    found = judge_relay(outcome)
    again = f"python -m tests.faults --relay 1 --dialect {api} --seed {seed}"
    records = [one for reader in outcome.readers for one in reader.received]
    counts = Counter(outcome.counts)
    counts["ended by a failure"] = len(outcome.ended)
    return RelayTally(
        plans=1,
        messages=len(outcome.run.log),
        committed=len(outcome.committed),
        delivered=len(records),
        answers=counts.pop("answers", 0),
        gaps=sum(record["kind"] == "gap" for _, _, record in outcome.committed),
        reader_gaps=sum("first_missing" in one.record for one in records),
        faults=sum(outcome.run.fault_counts.values()),
        counts=counts,
        broken=Counter(violation.oracle for violation in found),
        violations=[f"{violation}\n    {again}" for violation in found],
    )


def _try_all(plans: Sequence[tuple[int, str]]) -> list[RelayTally]:
    return [try_plan(seed, api) for seed, api in plans]


def run_plans(count: int, seed: int, jobs: int, apis: Sequence[str] = APIS) -> Iterator[RelayTally]:
    """Run the plans from a seed on in `jobs` processes. Yield the counts of each, in order."""
    plans = [(seed + n // len(apis), apis[n % len(apis)]) for n in range(count)]
    if jobs == 1:
        for one in plans:
            yield try_plan(*one)
        return
    size = max(1, min(50, -(-count // jobs)))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for found in pool.map(_try_all, [plans[at : at + size] for at in range(0, count, size)]):
            yield from found


def caught(number: int) -> set[str]:
    """Return the oracles that catch a mutant, by its number."""
    mutant = RELAY_MUTANTS[number]
    with mutant.installed():
        return {violation.oracle for violation in judge_relay(perform(make_plan(mutant.seed, mutant.api)))}
