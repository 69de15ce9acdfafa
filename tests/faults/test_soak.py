"""The soak, for ten seconds. `python -m tests.faults --soak 30` runs it for half an hour."""

from __future__ import annotations

import sys

import pytest

from tests.faults.soak import soak

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc")


def test_a_connection_that_breaks_every_few_seconds_loses_nothing() -> None:
    found = soak("web-messaging", 10.0, warm_up=200)
    assert not found.violations, found.violations
    assert found.messages > 20
    assert sum(found.breaks.values()) >= 2
    assert found.connections >= 1
