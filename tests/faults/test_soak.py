"""The soak's short form. `python -m tests.faults --soak 30` is the long one."""

from __future__ import annotations

import sys

import pytest

from tests.faults.soak import soak

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")


def test_a_line_that_breaks_every_few_seconds() -> None:
    found = soak("web-messaging", 10.0, warm=200)
    assert not found.violations, found.violations
    assert found.messages > 20
    assert sum(found.breaks.values()) >= 2
    assert found.connections >= 1
