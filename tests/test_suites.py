"""The list of slow tests names only tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.suites import SLOW

TESTS = Path(__file__).parent


@pytest.mark.parametrize("entry", sorted(SLOW))
def test_every_slow_test_exists(entry: str) -> None:
    file, _, name = entry.partition("::")
    text = (TESTS / file).read_text(encoding="utf-8")
    assert not name or re.search(rf"^(?:async )?def {name}\(", text, re.MULTILINE), f"{file} has no {name}"
