"""`python -m tests.faults`: the long form. Exit 0 when every promise was kept.

    python -m tests.faults --schedules 2000 --seed 1
    python -m tests.faults --schedules 1 --seed 17 --dialect guests
    python -m tests.faults --enumerated
    python -m tests.faults --mutants
    python -m tests.faults --machine 10000 --steps 100 --seed 1
    python -m tests.faults --soak 30
    python -m tests.faults --crowd

Seeds count from `--seed` on, each once for every dialect. A violation is printed with the command that
repeats it. The machine is Hypothesis's: rules in any order, shrunk where they break something; it takes
one process, so that several seeds may run beside each other. The soak is of one dialect, the first
given (default web-messaging), for so many minutes. The crowd is a thousand listeners after an outage.
"""

from __future__ import annotations

import argparse
import sys

from tests.faults.crowd import crowd
from tests.faults.machine import Broken, run
from tests.faults.schedules import APIS, enumerated, make
from tests.faults.soak import soak
from tests.faults.trials import Tally, many, mutants


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Clients among faults.")
    parser.add_argument("--schedules", type=int, default=70, metavar="N", help="how many (default 70)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (default 0)")
    parser.add_argument("--dialect", action="append", choices=APIS, help="only this one; may be repeated")
    parser.add_argument("--enumerated", action="store_true", help="every action at every place instead")
    parser.add_argument("--mutants", action="store_true", help="the mistaken clients instead, which must be caught")
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="one listener, on a line that breaks all the time"
    )
    parser.add_argument("--machine", type=int, metavar="N", help="so many runs of the rule machine instead")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="steps of each, at most (default 50)")
    parser.add_argument("--crowd", action="store_true", help="many listeners that lose their service at once")
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="processes (default 4)")
    options = parser.parse_args()
    if options.mutants:
        return _mutants(options.jobs)
    apis = options.dialect or list(APIS)
    if options.machine:
        return _machine(options.machine, options.steps, options.seed)
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
    for found in many(plan, options.jobs):
        total.add(found)
        for violation in found.violations:
            print(violation, file=sys.stderr, flush=True)
    print(total)
    return 1 if total.violations else 0


def _machine(runs: int, steps: int, seed: int) -> int:
    try:
        print(run(runs, steps, seed))
    except Broken as broken:
        print(broken, *getattr(broken, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    return 0


def _soak(dialects: list[str] | None, seconds: float, seed: int) -> int:
    found = soak(dialects[0] if dialects else "web-messaging", seconds, seed=seed)
    for violation in found.violations:
        print(violation, file=sys.stderr, flush=True)
    print(found)
    return 1 if found.violations else 0


def _mutants(jobs: int) -> int:
    missed = 0
    for mutant, found in mutants(jobs):
        missed += mutant.caught_by not in found
        told = "" if mutant.caught_by in found else f"NOT CAUGHT BY {mutant.caught_by}: "
        print(f"{mutant.name:48}{told}{', '.join(sorted(set(found)))}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
