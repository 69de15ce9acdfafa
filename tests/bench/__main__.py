"""Run the named items (all by default), print a table, and write JSON with `--json`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.bench.figures import SCALES, Figure, machine, row
from tests.bench.items import ITEMS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure guestctl, compared with plain scripts."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(ITEMS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--scale", choices=SCALES, default="usual", help="amount of work (long: a million messages)")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(ITEMS))
    if unknown:
        parser.error(f"no such item: {', '.join(unknown)}")
    found: list[Figure] = []
    for name in given.names or ITEMS:
        for figure in ITEMS[name](SCALES[given.scale]):
            found.append(figure)
            print(row(figure), flush=True)
    if given.json is not None:
        report = {"machine": machine(), "scale": given.scale, "figures": [figure.record() for figure in found]}
        given.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if all(figure.met for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
