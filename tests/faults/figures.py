"""Figures of random schedules on counted time: broken promises, and what became of the messages.

Knows: the oracles, and how outcomes are counted. Must not know: how a schedule is made or run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

from guestctl.core.clock import epoch_of
from guestctl.sandbox.faults import parse
from tests.faults.counted import PAGE, SLACK, Service, make_counted, run_counted
from tests.faults.model import PATIENCE, Record, Run, SendResult
from tests.faults.oracles import gaps_with_a_loss, judge
from tests.faults.schedules import APIS

#: Seconds of lag, and seconds until history can show a message, at most, for the goal of accepted messages.
PROMPT = 5.0
#: The promises of reliability.md §1, and the oracles that find each one broken.
PROMISES = {
    "lost without a gap": ("O3 lost", "O3 dropped"),
    "sent twice": ("O2 duplicated",),
    "false claims": ("O1 lost", "O1 outcome", "O1 exit code", "O1 settling", "O3 phantom", "O3 altered"),
}


@dataclass
class Figures:
    """Counts of outcomes. `kinds` counts sends by what happened to them, `gaps` counts gap records by their reason, and
    `needed` those with a message in them that was never shown. `broken` counts violations by their oracle."""

    schedules: int = 0
    commands: int = 0
    sends: int = 0
    faults: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    gaps: Counter[str] = field(default_factory=Counter)
    needed: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        self.schedules += other.schedules
        self.commands += other.commands
        self.sends += other.sends
        self.faults += other.faults
        self.kinds.update(other.kinds)
        self.gaps.update(other.gaps)
        self.needed += other.needed
        self.broken.update(other.broken)
        self.violations += other.violations

    @property
    def goal_missed(self) -> bool:
        """Whether fewer sends than promised were accepted or proved to be unsent (reliability.md §1)."""
        kinds = self.kinds
        accepted = kinds["prompt accepted"] >= 0.99 * kinds["prompt"]
        return not accepted or kinds["unsent not_sent"] < kinds["unsent"]

    def __str__(self) -> str:
        """Return a table with one figure per line, and its share where it is a part of the figure above."""
        kinds, gaps = self.kinds, sum(self.gaps.values())
        rows = [
            ("schedules", self.schedules, None),
            ("faults", self.faults, None),
            ("commands", self.commands, None),
            *((what, sum(self.broken[name] for name in names), None) for what, names in PROMISES.items()),
            ("other violations", sum(self.broken.values()) - self._promises_broken, None),
            ("sends", self.sends, None),
            ("stored, lag up to 5 s, one entry", kinds["easy"], None),
            ("  accepted", kinds["easy accepted"], kinds["easy"]),
            ("  of these, to be found within 5 s", kinds["prompt"], kinds["easy"]),
            ("    accepted", kinds["prompt accepted"], kinds["prompt"]),
            ("stored otherwise", kinds["other"], None),
            ("  accepted", kinds["other accepted"], kinds["other"]),
            ("last byte never left", kinds["unsent"], None),
            ("  not_sent", kinds["unsent not_sent"], kinds["unsent"]),
            ("left and reached nobody", kinds["nobody"], None),
            ("  in doubt", kinds["nobody in_doubt"], kinds["nobody"]),
            ("  rejected by name", kinds["nobody rejected"], kinds["nobody"]),
            ("  refused, and the repeat never left", kinds["nobody not_sent"], kinds["nobody"]),
            ("killed", kinds["killed"], None),
            ("in doubt", kinds["in_doubt"], self.sends - kinds["killed"]),
            ("  found by a later command", kinds["found later"], kinds["in_doubt"]),
            ("gaps declared", gaps, None),
            *((f"  {reason}", count, gaps) for reason, count in sorted(self.gaps.items())),
            ("  with a message that was never shown", self.needed, gaps),
        ]
        return "\n".join(
            f"{name:40}{value:>8}" + (f"{100 * value / whole:>9.2f} %" if whole else "") for name, value, whole in rows
        )

    @property
    def _promises_broken(self) -> int:
        return sum(self.broken[name] for names in PROMISES.values() for name in names)


def figures(run: Run, service: Service) -> Figures:
    """Judge one run and count its outcomes. Each violation comes with the command that repeats it."""
    schedule, found = run.schedule, judge(run, slack=SLACK)
    again = f"python -m tests.faults --evidence 1 --service {service} --dialect {schedule.api} --seed {schedule.seed}"
    streams = [run.output, *(watch.output for watch in run.watches), *(resumed.missed for resumed in run.resumed)]
    total = Figures(
        schedules=1,
        commands=len(run.sends) + len(run.read) + len(run.watches) + len(run.resumed),
        sends=len(run.sends),
        faults=sum(run.fault_counts.values()),
        gaps=Counter(_reason(line) for lines in streams for line in lines if line["kind"] == "gap"),
        needed=sum(gaps_with_a_loss(run, lines) for lines in streams),
        broken=Counter(violation.oracle for violation in found),
        violations=[f"{violation}\n    {again}" for violation in found],
    )
    later = {row.key for row in run.outbox if row.state == "accepted"}
    for result in run.sends:
        _count(run, result, later, total.kinds)
    return total


def _reason(gap: Record) -> str:
    return gap["reason"] if gap["reason"] in ("missing", "unproved", "too_long") else "other reasons"


def _count(run: Run, result: SendResult, later: set[str], kinds: Counter[str]) -> None:
    """Count one send by what happened to its message."""
    delivery = result.delivery
    if delivery == "killed":
        kinds["killed"] += 1
        return
    if delivery == "in_doubt":
        kinds["in_doubt"] += 1
        kinds["found later"] += result.key in later
    left = run.handed_over.get(result.key)
    entries = [one for one in run.log if one["key"] == result.key]
    if left is None:
        kind = "unsent"
    elif not entries:
        kind = "nobody"
    else:
        easy, found_after = _easy(run, result, left, entries[0])
        kind = "easy" if easy else "other"
        if easy and found_after <= PROMPT:
            kinds["prompt"] += 1
            kinds[f"prompt {delivery}"] += 1
    kinds[kind] += 1
    kinds[f"{kind} {delivery}"] += 1


def _easy(run: Run, result: SendResult, left: float, entry: Record) -> tuple[bool, float]:
    """Return whether the lag was at most `PROMPT`, no other send has the text and the command had the default timeout.

    The second value is the number of seconds from the message's last byte until history can be read to an end that
    shows it: the network held the message, history lags, and each page is late.
    """
    alike = sum(one.text == result.text for one in run.sends)
    ended = result.begun + result.took - run.begun
    faults = [parse(event.text) for event in run.schedule.events if event.kind == "fault" and event.at <= ended]
    lag = max((fault.seconds for fault in faults if fault.kind == "lag"), default=0.0)
    page = max((fault.seconds for fault in faults if fault.kind == "delay" and fault.on == "history"), default=0.0)
    pages = len(run.log) // PAGE + 1
    easy = lag <= PROMPT and alike == 1 and result.limit >= PATIENCE
    return easy, epoch_of(entry["time"]) - left + lag + page * pages


def run_seeds(service: Service, api_seeds: Sequence[tuple[str, int]]) -> Figures:
    """Run these schedules in this process, and return their counts."""
    total = Figures()
    for api, seed in api_seeds:
        total.add(figures(run_counted(make_counted(seed, api, service)), service))
    return total


def evidence(service: Service, runs: int, seed: int, jobs: int, apis: Sequence[str] = APIS) -> Iterator[Figures]:
    """Run `runs` schedules in `jobs` processes. Yield the counts of each part. Each seed runs once for every API."""
    plan = [(apis[n % len(apis)], seed + n // len(apis)) for n in range(runs)]
    parts = [plan[at : at + 70] for at in range(0, runs, 70)]
    if jobs == 1:
        yield from (run_seeds(service, part) for part in parts)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(run_seeds, service), parts)
