"""Measure `check` on loopback: one question and answer, a hundred at once, two hundred at once.

    python -m tests.checks.bench

The service runs in a process of its own, as in a real run; nothing is warmed up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

CASES = ((1, 1), (100, 20), (200, 50))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        for count, parallel in CASES:
            script = Path(folder) / f"{count}.yaml"
            turns = "".join(f"  s{n}: [{{say: 'q{n}'}}, {{expect: {{equals: 'echo: q{n}'}}}}]\n" for n in range(count))
            script.write_text(f"scenarios:\n{turns}")
            guestctl = [sys.executable, "-m", "guestctl"]
            check = [*guestctl, "check", str(script), "--parallel", str(parallel), "-o", "json"]
            done = subprocess.run([*guestctl, "sandbox", "exec", "--", *check], capture_output=True, check=True)
            found = json.loads(done.stdout)
            slowest = max(scenario["seconds"] for scenario in found["scenarios"])
            print(f"{count:4} scenarios, {parallel:2} at once: {found['seconds']:.3f} s; the slowest {slowest:.3f} s")
            assert found["passed"] == count
    return 0


if __name__ == "__main__":
    sys.exit(main())
