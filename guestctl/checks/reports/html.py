"""Outcomes as one HTML file with every conversation, which opens from disk.

Knows: what a reader of the file needs, how large it may become. Must not know: how the page looks
(`pages/static/report.js`), how scenarios run. The texts of an outcome have no secrets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from guestctl.checks.outcomes import Outcome, Record, Verdict, record, totals
from guestctl.checks.reports.console import explanation, headline, pass_rates, plural, tally, usage
from guestctl.checks.wire_log import WireEvent
from guestctl.core.clock import rfc3339
from guestctl.core.redact import Redactor
from guestctl.core.version import __version__
from guestctl.inspector.feed_events import feed_event
from guestctl.pages import assets, single_file

#: Bytes that the file may have: at least so many, and so many for each scenario. Traffic is left out above it.
MOST_BYTES, MOST_BYTES_EACH = 1_000_000, 10_000
#: What is tried in turn until the file is small enough: the longest text, and the most frames of a failing step.
_REDUCTIONS = ((single_file.TEXT_LIMIT, 100), (2048, 40), (1024, 12), (512, 0))
_REDUCED = "Traffic and long texts are shortened to keep this file small. A trace (--trace FILE) has all of it."
#: What each verdict says about the bot.
_MEANINGS: dict[Verdict, str] = {
    "passed": "Every step was met.",
    "failed": "An expectation was not met.",
    "undecided": "The votes of the judge decide nothing: nobody knows whether the bot is right.",
    "customer_failed": "The customer was at fault. This says nothing about the bot.",
    "error": "The service or the model could not be used, so nothing could be tested.",
}
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
        data["note"] = _REDUCED if step > 0 else ""
        page = single_file.document(
            f"{tally(outcomes)} · guestctl check", script, single_file.with_short_texts(data, longest), plain=plain
        )
        if len(page) <= most:
            break
    return page


def data_of(outcomes: Sequence[Outcome], seconds: float, now: float, *, frames: int = 100) -> dict[str, Any]:
    """Return what the page shows: the record of the run as `-o json` has it, and the details of each scenario."""
    bad = sum(outcome.verdict != "passed" for outcome in outcomes)
    count = plural(len(outcomes), "scenario")
    finished = f"{rfc3339(now)[:19].replace('T', ' ')} UTC"
    return {
        **totals(outcomes, seconds),
        "headline": f"{bad} of {count} did not pass" if bad else f"{count} passed",
        "facts": [f"guestctl {__version__}", finished, f"{seconds:.1f} s", *filter(None, [usage(outcomes)])],
        "pass_rates": [line.removeprefix("rate").strip() for line in pass_rates(outcomes)],
        "scenarios": [_scenario(outcome, frames) for outcome in outcomes],
    }


def _scenario(outcome: Outcome, frames: int) -> Record:
    found = {**record(outcome), "model": usage([outcome]), "meaning": _MEANINGS[outcome.verdict]}
    details = outcome.details
    if details is not None:
        found["transcript"] = [_line(line.__dict__) for line in details.conversation]
        found["steps"] = [_full(step.__dict__) for step in details.steps]
        found["attempted"] = [_full(attempt.__dict__) for attempt in details.attempts]
        found["wire"] = [_event(one) for one in details.wire[-frames:] if frames]
    return {name: value for name, value in found.items() if value not in (None, [], {}, "")}


def _event(event: WireEvent) -> Record:
    summary = feed_event(0, event.at, event.kind, event.data, Redactor())["summary"]
    return {**event.data, "at": event.at, "kind": event.kind, "summary": summary}


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
