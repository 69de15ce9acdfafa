"""Numbers from the service that no field can have."""

from __future__ import annotations

import json

import pytest

from guestctl.core.wire import duration, load_json, size


@pytest.mark.parametrize("text", [str(2**63), str(-(2**63) - 1), "1" + "0" * 400, "-" + "9" * 5000, "1e400", "-1e400"])
def test_a_number_out_of_range_is_read_as_text(text: str) -> None:
    assert load_json('{"n": ' + text + "}", "frame") == {"n": text}


@pytest.mark.parametrize("number", [0, -1, 2**63 - 1, -(2**63), 0.5, 1e300])
def test_a_number_in_range_stays_a_number(number: float) -> None:
    assert load_json(json.dumps({"n": number}), "frame") == {"n": number}


@pytest.mark.parametrize("value", [-1, -0.5, 2**63 - 1, 1e300, "12", "1e400", True, None, [], {}])
def test_a_value_that_is_not_a_duration_counts_as_absent(value: object) -> None:
    assert duration(value) is None


@pytest.mark.parametrize("value", [0, -1, "12", "1e400", True, None, [], {}])
def test_a_value_that_is_not_a_size_counts_as_absent(value: object) -> None:
    assert size(value) is None
