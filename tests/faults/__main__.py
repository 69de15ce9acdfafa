"""`python -m tests.faults`: run the fault harness for longer than the tests do. Exit code 0: no violation.

    python -m tests.faults --schedules 2000 --seed 1
    python -m tests.faults --schedules 1 --seed 17 --dialect guests
    python -m tests.faults --enumerated
    python -m tests.faults --mutants
    python -m tests.faults --hunt 700 --seed 5000
    python -m tests.faults --machine 10000 --steps 100 --seed 1
    python -m tests.faults --evidence 700 --seed 1
    python -m tests.faults --soak 30
    python -m tests.faults --crowd
    python -m tests.faults --relay 2000 --seed 0

Seeds count up from `--seed`. Each seed runs once for every API. A violation is printed with the command that
repeats it. README.md in this folder explains the schedules, the mutants, the rule machine, the soak and the crowd.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.faults.counted import SERVICES, Service
from tests.faults.crowd import crowd
from tests.faults.figures import Figures, evidence
from tests.faults.machine import PromiseBroken, run
from tests.faults.mutants import MUTANTS
from tests.faults.relay_trials import RelayTally, run_plans
from tests.faults.schedules import APIS, enumerated, make
from tests.faults.soak import soak
from tests.faults.trials import Tally, hunt, run_all, run_mutants


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description="Run guestctl while faults are injected."
    )
    parser.add_argument(
        "--schedules", type=int, default=70, metavar="N", help="number of random schedules (default 70)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="first seed (default 0)")
    parser.add_argument("--dialect", action="append", choices=APIS, help="only this API; may be repeated")
    parser.add_argument("--enumerated", action="store_true", help="run every enumerated schedule instead")
    parser.add_argument("--mutants", action="store_true", help="run the mutants instead and check that each is caught")
    parser.add_argument(
        "--hunt", type=int, metavar="N", help="find each mutant on counted time with at most N random schedules"
    )
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="run one listener while its connection breaks every few seconds"
    )
    parser.add_argument("--machine", type=int, metavar="N", help="number of runs of the rule machine instead")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="maximum steps of each run (default 50)")
    parser.add_argument(
        "--evidence", type=int, metavar="N", help="run N random schedules on counted time, and print what was accepted"
    )
    parser.add_argument(
        "--service", action="append", choices=SERVICES, help="only this kind of service in --evidence (default both)"
    )
    parser.add_argument("--crowd", action="store_true", help="run 1,000 listeners that lose the service together")
    parser.add_argument(
        "--relay", type=int, metavar="N", help="run N random schedules of a relay on counted time, with kills"
    )
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="number of processes (default 4)")
    options = parser.parse_args()
    if options.mutants:
        return _mutants(options.jobs)
    if options.hunt:
        return _hunt(options.hunt, options.seed)
    apis = options.dialect or list(APIS)
    if options.machine:
        return _machine(options.machine, options.steps, options.seed)
    if options.evidence:
        return _evidence(options.service or SERVICES, options.evidence, options.seed, options.jobs, apis)
    if options.relay:
        return _relay(options.relay, options.seed, options.jobs, apis)
    if options.crowd:
        print(crowd(options.seed))
        return 0
    if options.soak:
        return _soak(options.dialect, 60 * options.soak, options.seed)
    if options.enumerated:
        plan = [schedule for api in apis for schedule in enumerated(api)]
    else:
        plan = [make(options.seed + n // len(apis), apis[n % len(apis)]) for n in range(options.schedules)]
    total = Tally()
    for found in run_all(plan, options.jobs):
        total.add(found)
        for violation in found.violations:
            print(violation, file=sys.stderr, flush=True)
    print(total)
    return 1 if total.violations else 0


def _machine(runs: int, steps: int, seed: int) -> int:
    try:
        print(run(runs, steps, seed))
    except PromiseBroken as failure:
        print(failure, *getattr(failure, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    return 0


def _hunt(runs: int, seed: int) -> int:
    missed = 0
    for mutant in (mutant for mutant in MUTANTS if mutant.shown_by.counted):
        found = hunt(mutant, runs, seed)
        missed += found is None
        verdict = "NOT FOUND" if found is None else f"{found[0]} schedules (--dialect {found[1]} --seed {found[2]})"
        print(f"{mutant.name:56}{verdict}", flush=True)
    return 1 if missed else 0


def _evidence(services: Sequence[Service], count: int, seed: int, jobs: int, apis: Sequence[str]) -> int:
    failed = False
    for service in services:
        total = Figures()
        interrupted = False
        try:
            for found in evidence(service, count, seed, jobs, apis):
                total.add(found)
                for violation in found.violations:
                    print(violation, file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            interrupted = True  # the figures so far are printed
        print(f"{service} service", total, "", sep="\n", flush=True)
        if interrupted:
            return 130
        failed |= bool(total.violations) or (service == "withholding" and total.goal_missed)
    return 1 if failed else 0


def _relay(count: int, seed: int, jobs: int, apis: Sequence[str]) -> int:
    total = RelayTally()
    interrupted = False
    try:
        for found in run_plans(count, seed, jobs, apis):
            total.add(found)
            for violation in found.violations:
                print(violation, file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        interrupted = True  # the figures so far are printed
    print(total)
    return 130 if interrupted else 1 if total.violations else 0


def _soak(dialects: list[str] | None, seconds: float, seed: int) -> int:
    found = soak(dialects[0] if dialects else "web-messaging", seconds, seed=seed)
    for violation in found.violations:
        print(violation, file=sys.stderr, flush=True)
    print(found)
    return 1 if found.violations else 0


def _mutants(jobs: int) -> int:
    missed = 0
    for mutant, found in run_mutants(jobs):
        missed += mutant.caught_by not in found
        verdict = "" if mutant.caught_by in found else f"NOT CAUGHT BY {mutant.caught_by}: "
        print(f"{mutant.name:56}{verdict}{', '.join(sorted(set(found)))}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
