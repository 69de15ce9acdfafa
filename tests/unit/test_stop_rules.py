"""When listen stops."""

from __future__ import annotations

import re

from guestctl.cli.commands.stop_rules import StopRules
from tests.fakes import FakeClock


def test_without_rules_it_never_stops() -> None:
    rules = StopRules(FakeClock())
    rules.printed(counts=True, text="x")
    assert not rules.met()
    assert rules.left() is None


def test_max_counts_what_counts() -> None:
    rules = StopRules(FakeClock(), most=2)
    rules.printed(counts=True, text="a")
    rules.printed(counts=False, text=None)
    assert not rules.met()
    rules.printed(counts=True, text="b")
    assert rules.met()


def test_until_matches_anywhere() -> None:
    rules = StopRules(FakeClock(), until=re.compile("bye"))
    rules.printed(counts=True, text="hello")
    assert not rules.met()
    rules.printed(counts=True, text="goodbye")
    assert rules.matched
    assert rules.met()


def test_for_is_from_the_start_and_idle_from_the_last_line() -> None:
    clock = FakeClock()
    rules = StopRules(clock, longest=10, idle=4)
    clock.advance(3)
    rules.printed(counts=True, text="x")
    assert rules.left() == 4
    clock.advance(3.5)
    rules.printed(counts=True, text="x")
    assert rules.left() == 3.5
    clock.advance(3.5)
    assert rules.met()


def test_idle_counts_from_when_something_can_be_heard() -> None:
    clock = FakeClock()
    rules = StopRules(clock, idle=4)
    clock.advance(100)
    assert (rules.left(), rules.met()) == (None, False)
    rules.attempted(live=False)
    clock.advance(3)
    rules.attempted(live=True)
    assert rules.left() == 4
    clock.advance(3.5)
    assert rules.left() == 0.5
    clock.advance(0.5)
    assert rules.met()


def test_idle_does_not_begin_again_with_a_connection() -> None:
    """One that breaks more often than that would never let it end; what was missed is printed before it is live."""
    clock = FakeClock()
    rules = StopRules(clock, idle=4)
    for _ in range(2):
        rules.attempted(live=True)
        clock.advance(2)
        rules.attempted(live=False)
    assert rules.met()


def test_idle_ends_while_nothing_is_reached() -> None:
    clock = FakeClock()
    rules = StopRules(clock, idle=4)
    for _ in range(2):
        rules.attempted(live=False)
        clock.advance(2)
    assert rules.met()
