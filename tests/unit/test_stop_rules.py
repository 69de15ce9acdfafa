"""When listen stops."""

from __future__ import annotations

from guestctl.cli.commands.stop_rules import StopRules
from guestctl.core.patterns import compiled
from tests.fakes import FakeClock


def test_without_rules_listen_never_stops() -> None:
    rules = StopRules(FakeClock())
    rules.printed(counts=True, text="x")
    assert not rules.met()
    assert rules.left() is None


def test_max_counts_only_counted_lines() -> None:
    rules = StopRules(FakeClock(), most=2)
    rules.printed(counts=True, text="a")
    rules.printed(counts=False, text=None)
    assert not rules.met()
    rules.printed(counts=True, text="b")
    assert rules.met()


def test_until_matches_anywhere() -> None:
    rules = StopRules(FakeClock(), until=compiled("bye"))
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


def test_idle_counts_from_the_first_connection() -> None:
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


def test_idle_does_not_restart_with_a_reconnect() -> None:
    """One that breaks more often than that would never let it end; what was missed is printed before it is live."""
    clock = FakeClock()
    rules = StopRules(clock, idle=4)
    for _ in range(2):
        rules.attempted(live=True)
        clock.advance(2)
        rules.attempted(live=False)
    assert rules.met()


def test_idle_ends_while_the_service_is_unreachable() -> None:
    clock = FakeClock()
    rules = StopRules(clock, idle=4)
    for _ in range(2):
        rules.attempted(live=False)
        clock.advance(2)
    assert rules.met()
