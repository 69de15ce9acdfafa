"""Outcomes as one HTML file with every conversation, which opens from disk.

Knows: what a reader of the file needs, how large it may become. Must not know: how the page looks
(`pages/static/report.js`), how scenarios run. The texts of an outcome have no secrets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from guestctl.checks.outcomes import Outcome, Record, record, totals
from guestctl.checks.reports.console import explanation, headline, plural, tally
from guestctl.core.clock import rfc3339
from guestctl.core.version import __version__
from guestctl.pages import assets, single_file

#: Bytes that the file may have: at least so many, and so many for each scenario. Traffic is left out above it.
MOST_BYTES, MOST_BYTES_EACH = 1_000_000, 10_000
#: What is tried in turn until the file is small enough: the longest text, and the most frames of a failing step.
_REDUCTIONS = ((single_file.TEXT_LIMIT, 100), (2048, 40), (1024, 12), (512, 0))
#: Most lines for readers whose browser runs no JavaScript.
_MOST_PLAIN_LINES, _LONGEST_PLAIN_LINE = 400, 500


def document(outcomes: Sequence[Outcome], seconds: float, now: float) -> bytes:
    """Return the file. `seconds`: the duration of the run; `now`: its end in epoch seconds."""
    script = single_file.joined("report.js", lambda name: assets.asset(name).body.decode())
    plain = "\n".join(_plain(outcomes))
    most = max(MOST_BYTES, MOST_BYTES_EACH * len(outcomes))
    page = b""
    for step, (longest, frames) in enumerate(_REDUCTIONS):
        data = data_of(outcomes, seconds, now, frames=frames)
        data["reduced"] = step > 0
        page = single_file.document(
            f"{tally(outcomes)} · guestctl check", script, single_file.with_short_texts(data, longest), plain=plain
        )
        if len(page) <= most:
            break
    return page


def data_of(outcomes: Sequence[Outcome], seconds: float, now: float, *, frames: int = 100) -> dict[str, Any]:
    """Return what the page shows: the record of the run as `-o json` has it, and the details of each scenario."""
    return {
        **totals(outcomes, seconds),
        "version": __version__,
        "finished": rfc3339(now),
        "scenarios": [_scenario(outcome, frames) for outcome in outcomes],
    }


def _scenario(outcome: Outcome, frames: int) -> Record:
    found = record(outcome)
    details = outcome.details
    if details is not None:
        found["transcript"] = [_line(line.__dict__) for line in details.conversation]
        found["steps"] = [_full(step.__dict__) for step in details.steps]
        found["attempted"] = [_full(attempt.__dict__) for attempt in details.attempts]
        found["wire"] = [{**one.data, "at": one.at, "kind": one.kind} for one in details.wire[-frames:] if frames]
    return {name: value for name, value in found.items() if value not in (None, [], {}, "")}


def _line(line: Record) -> Record:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in line.items()
        if value or name in ("at", "text")
    }


def _full(fields: Record) -> Record:
    return {name: value for name, value in fields.items() if value not in (None, False, "")}


def _plain(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the lines of the text report."""
    count = 0
    for outcome in outcomes:
        lines = [headline(outcome), *(f"      {line}" for line in explanation(outcome, conversation=False))]
        count += len(lines)
        if count > _MOST_PLAIN_LINES:
            yield f"and more; {plural(len(outcomes), 'scenario')} in all"
            break
        yield from (line[:_LONGEST_PLAIN_LINE] for line in lines)
    yield tally(outcomes)
