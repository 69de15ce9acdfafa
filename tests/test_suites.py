"""The lists of slow tests name only tests that exist, and a sample takes a part of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.suites import ALWAYS, ONE_CASE, SLOW, in_sample

TESTS = Path(__file__).parent


@pytest.mark.parametrize("entry", sorted(SLOW | ALWAYS | ONE_CASE))
def test_every_slow_test_exists(entry: str) -> None:
    file, _, name = entry.partition("::")
    text = (TESTS / file).read_text(encoding="utf-8")
    assert not name or re.search(rf"^(?:async )?def {name}\(", text, re.MULTILINE), f"{file} has no {name}"


def test_samples_differ_and_together_contain_every_test() -> None:
    tests = [f"test_file.py::test_something[{number}]" for number in range(1000)]
    samples = [
        {test for test in tests if in_sample("test_file.py::test_something", test, 4, seed)} for seed in range(40)
    ]
    assert all(200 < len(sample) < 300 for sample in samples)
    assert samples[0] != samples[1]
    assert set.union(*samples) == set(tests)
    for name in ALWAYS:
        test = name if "::" in name else f"{name}::test_something"
        assert in_sample(test, f"tests/{test}[x]", 1000, 0)
