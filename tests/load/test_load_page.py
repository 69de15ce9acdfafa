"""The page of `load --html`: its size, and what it does with hostile texts."""

from __future__ import annotations

import random
from typing import Any

import pytest

from guestctl.core.model import Profile
from guestctl.load.plan import LoadPlan, slot_of
from tests.checks.html_report import data_of


def results(seconds: float, failures: dict[str, int]) -> Any:
    """Return the results of a test of this duration, with samples in every slot."""
    from guestctl.load.load_results import LoadResults
    from guestctl.load.measurements import Measurements

    found = LoadResults(LoadPlan("smoke.yaml", Profile("sandbox"), seconds=seconds, slot=slot_of(seconds)))
    chance = random.Random(5)
    for number in range(int(seconds / found.plan.slot)):
        slot = Measurements()
        slot.count("turns", 10)
        for name in ("create", "reply"):
            slot.time(name, chance.expovariate(3.0))
        for text, count in failures.items():
            slot.failure(text, count)
        report = {"seconds": number * found.plan.slot, "guests": 5, "slots": {str(number): slot.encoded()}}
        found.add(report | {"first_failure": None})
    found.seconds = seconds
    return found


@pytest.mark.parametrize("seconds", [600.0, 4 * 3600.0])
def test_the_page_of_a_long_test_stays_small(seconds: float) -> None:
    from guestctl.load.load_page import MOST_POINTS, document

    found = results(seconds, {f"line {n}: {'x' * 1000}": 1 for n in range(60)})
    page = document(found, (), 0.0)
    assert len(page) <= 300_000
    slots = data_of(page.decode())["slots"]
    assert 100 <= len(slots) <= MOST_POINTS + 1
    assert sum(slot["turns"] for slot in slots) == found.count("turns")


def test_hostile_texts_stay_data() -> None:
    from guestctl.load.load_page import document

    hostile = "</script><script>alert(1)</script>\u2028\u202e"
    page = document(results(3.0, {hostile: 1}), (), 0.0).decode()
    assert "<script>alert" not in page
    assert data_of(page)["failures"] == [{"what": hostile, "count": 3}]
