"""Numbers from the service that no field can have."""

from __future__ import annotations

import json

import pytest

from guestctl.core.wire import count, duration, epoch_seconds, load_json, number, size


@pytest.mark.parametrize("text", [str(2**63), str(-(2**63) - 1), "1" + "0" * 400, "-" + "9" * 5000, "1e400", "-1e400"])
def test_a_number_out_of_range_is_read_as_text(text: str) -> None:
    assert load_json('{"n": ' + text + "}", "frame") == {"n": text}


@pytest.mark.parametrize("number", [0, -1, 2**63 - 1, -(2**63), 0.5, 1e300])
def test_a_number_in_range_stays_a_number(number: float) -> None:
    assert load_json(json.dumps({"n": number}), "frame") == {"n": number}


@pytest.mark.parametrize("value", [-1, -0.5, 86_401, 2**63 - 1, 1e300, "12", "1e400", True, None, [], {}])
def test_a_value_that_is_not_a_duration_counts_as_absent(value: object) -> None:
    assert duration(value) is None


@pytest.mark.parametrize("value", [0, -1, "12", "1e400", True, None, [], {}])
def test_a_value_that_is_not_a_size_counts_as_absent(value: object) -> None:
    assert size(value) is None


@pytest.mark.parametrize("value", [-1, 0.5, "12", "1e400", True, None, [], {}])
def test_a_value_that_is_not_a_count_counts_as_absent(value: object) -> None:
    assert count(value) is None


@pytest.mark.parametrize("value", ["12", "1e400", True, None, [], {}, float("inf"), float("nan")])
def test_a_value_that_is_not_a_number_counts_as_absent(value: object) -> None:
    assert number(value) is None


@pytest.mark.parametrize(
    "value", [0, -1, 253_402_300_800_000, 2**63, 10**400, "1e400", "NaN", "text", True, None, [], {}]
)
def test_a_value_that_is_not_a_time_counts_as_absent(value: object) -> None:
    assert epoch_seconds(value) is None


@pytest.mark.parametrize("value", [1_772_615_727, 1_772_615_727_000, "1772615727", "1772615727000.0"])
def test_a_time_is_read_in_seconds_or_milliseconds_as_number_or_text(value: object) -> None:
    assert epoch_seconds(value) == 1_772_615_727
