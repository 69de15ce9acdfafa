"""Each module on whose correctness the rest stands is run, every line and branch of it, by its own tests alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.timeout(600)
def test_each_module_is_covered_by_its_own_tests() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.coverage"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
