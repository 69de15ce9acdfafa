"""Deadlines, and reading and writing RFC 3339."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as some

from guestctl.core.clock import Deadline, SystemClock, epoch_of, rfc3339
from tests.fakes import FakeClock


def test_a_deadline_is_shared_by_many_steps(clock: FakeClock) -> None:
    deadline = Deadline.after(clock, 10.0)
    clock.sleep(4.0)
    assert deadline.remaining() == pytest.approx(6.0)
    assert deadline.bound(2.0) == 2.0
    assert deadline.bound(20.0) == pytest.approx(6.0)
    clock.jump(-86_400)
    assert deadline.remaining() == pytest.approx(6.0), "the wall clock does not count"
    clock.advance(100.0)
    assert deadline.remaining() == 0.0
    assert deadline.expired
    assert deadline.bound(2.0) == 0.0


def test_a_deadline_without_a_limit_never_expires(clock: FakeClock) -> None:
    deadline = Deadline.after(clock, None)
    clock.advance(1e9)
    assert deadline.remaining() is None
    assert not deadline.expired
    assert deadline.bound(2.0) == 2.0
    assert deadline.sooner(None) is deadline
    assert deadline.sooner(5.0).remaining() == pytest.approx(5.0)


def test_sooner_never_extends(clock: FakeClock) -> None:
    deadline = Deadline.after(clock, 3.0)
    assert deadline.sooner(5.0) is deadline
    assert deadline.sooner(1.0).remaining() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "epoch"),
    [
        ("2026-03-04T09:15:27Z", 1772615727.0),
        ("2026-03-04T09:15:27.4Z", 1772615727.4),
        ("2026-03-04T09:15:27.412345678Z", 1772615727.412345),
        ("2026-03-04T10:15:27.412+01:00", 1772615727.412),
        ("2026-03-04T09:15:27.412+0000", 1772615727.412),
        ("2026-03-04T09:15:27", 1772615727.0),
        ("2026-03-04", 1772582400.0),
    ],
)
def test_epoch_of_reads_rfc3339(text: str, epoch: float) -> None:
    if text.endswith("+0000") and sys.version_info < (3, 11):
        pytest.skip("a zone without a colon is read from 3.11 on")
    assert epoch_of(text) == pytest.approx(epoch, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026-13-01T00:00:00Z", "2026-03-04T09:15:60Z", "9d1f0c", "Z", "."],
)
def test_epoch_of_refuses_other_texts(text: str) -> None:
    with pytest.raises(ValueError):
        epoch_of(text)


@given(some.text(max_size=40))
def test_any_text_is_a_finite_time_or_a_value_error(text: str) -> None:
    try:
        assert math.isfinite(epoch_of(text))
    except ValueError:
        pass


@given(some.integers(0, 4_000_000_000_000))
def test_rfc3339_round_trip(millis: int) -> None:
    text = rfc3339(millis / 1000)
    assert len(text) == 24
    assert round(epoch_of(text) * 1000) == millis


@given(some.integers(0, 4_000_000_000_000), some.integers(0, 4_000_000_000_000))
def test_rfc3339_texts_sort_like_their_times(one: int, other: int) -> None:
    assert (rfc3339(one / 1000) < rfc3339(other / 1000)) == (one < other)


def test_rounding_carries_into_the_next_second() -> None:
    assert rfc3339(1772615727.9996) == "2026-03-04T09:15:28.000Z"


def test_the_system_clock_runs() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    clock.sleep(0.0)
    assert clock.monotonic() >= before
    assert clock.now() > 1_700_000_000
