"""Outcomes as TAP 14 (testanything.org). Knows: the format. Must not know: how anything ran."""

from __future__ import annotations

import json
from collections.abc import Iterator

from guestctl.checks.outcomes import Outcome
from guestctl.checks.reports.console import clean, explanation


def header(count: int) -> Iterator[str]:
    """The version and the plan."""
    yield "TAP version 14"
    yield f"1..{count}"


def point(number: int, outcome: Outcome) -> Iterator[str]:
    """One test point, from 1, with a YAML block when it did not pass."""
    mark = "ok" if outcome.verdict == "passed" else "not ok"
    yield f"{mark} {number} - {_description(f'{outcome.script}: {outcome.name}')}"
    if outcome.trouble is None:
        return
    yield "  ---"
    # A JSON string is a YAML string, on one line and with everything odd escaped.
    yield f"  message: {json.dumps(clean(outcome.trouble.short))}"
    yield f"  severity: {'fail' if outcome.verdict == 'failed' else 'error'}"
    yield f"  at: {json.dumps(f'{clean(outcome.script)}:{outcome.trouble.line}')}"
    yield "  details:"
    yield from (f"    - {json.dumps(line)}" for line in explanation(outcome))
    yield "  ..."


def bail_out() -> Iterator[str]:
    """The run was cut off: what has no test point was not run."""
    yield "Bail out! interrupted"


def _description(text: str) -> str:
    """Backslash and `#` (which begins a directive) are escaped."""
    return clean(text).replace("\\", "\\\\").replace("#", "\\#")
