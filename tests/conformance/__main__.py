"""`python -m tests.conformance client|server`: run the Autobahn test suite for RFC 6455.

    python -m tests.conformance client --python27 ENV/bin/python
    python -m tests.conformance server --python27 ENV/bin/python --cases '7.*' --keep reports

Exit 0 when no case failed and no close was wrong, 1 otherwise, 2 when there is no suite to run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.conformance.autobahn import EXCLUDED, VARIABLE, Missing, interpreter
from tests.conformance.halves import HALVES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="WebSocket conformance.")
    parser.add_argument("half", choices=HALVES, help="whose side is tested")
    parser.add_argument("--python27", metavar="PATH", help=f"a Python 2.7 with autobahntestsuite (or ${VARIABLE})")
    parser.add_argument("--cases", action="append", metavar="PATTERN", help="only these; may be repeated")
    parser.add_argument("--exclude", action="append", metavar="PATTERN", default=[], help="not these")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the suite's reports here")
    given = parser.parse_args()
    try:
        python = interpreter(given.python27)
        with tempfile.TemporaryDirectory() as room:
            where = given.keep or Path(room)
            where.mkdir(parents=True, exist_ok=True)
            found = HALVES[given.half](python, where, given.cases or ["*"], [*EXCLUDED, *given.exclude])
    except Missing as missing:
        print(f"not run: {missing}", file=sys.stderr)
        return 2
    print(f"{given.half}: {found.table()}")
    return 1 if found.bad else 0


if __name__ == "__main__":
    sys.exit(main())
