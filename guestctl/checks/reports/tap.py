"""Outcomes as TAP 14 (testanything.org).

Knows: the format. Must not know: how scenarios run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from guestctl.checks.outcomes import Outcome
from guestctl.checks.reports.console import clean, exact, explanation


def header(count: int) -> Iterator[str]:
    """Yield the version and the plan."""
    yield "TAP version 14"
    yield f"1..{count}"


def point(number: int, outcome: Outcome) -> Iterator[str]:
    """Yield a test point with a YAML block: the duration, and why a scenario did not pass. Numbers count from 1."""
    mark = "ok" if outcome.verdict == "passed" else "not ok"
    run = f" (run {outcome.repetition})" if outcome.repetition else ""
    yield f"{mark} {number} - {_description(f'{outcome.script}: {outcome.name}{run}')}"
    yield "  ---"
    yield f"  duration_ms: {outcome.seconds * 1000:.0f}"
    if outcome.usage is not None:
        yield f"  model_calls: {outcome.usage.calls}"
    if outcome.trouble is None:
        yield "  ..."
        return
    # A JSON string is also a YAML string: on one line, with special characters escaped.
    yield f"  message: {json.dumps(exact(outcome.trouble.short))}"
    yield f"  severity: {'fail' if outcome.verdict == 'failed' else 'error'}"
    if outcome.verdict in ("undecided", "customer_failed"):
        yield f"  outcome: {outcome.verdict}"
    yield f"  at: {json.dumps(f'{clean(outcome.script)}:{outcome.trouble.line}')}"
    yield "  details:"
    yield from (f"    - {json.dumps(line)}" for line in explanation(outcome))
    yield "  ..."


def bail_out() -> Iterator[str]:
    """Yield the line of an interrupted run: scenarios without a test point were not run."""
    yield "Bail out! interrupted"


def _description(text: str) -> str:
    """Return text with backslash and `#`, which starts a directive, escaped."""
    return clean(text).replace("\\", "\\\\").replace("#", "\\#")
