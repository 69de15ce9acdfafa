"""The results of a load test as one HTML file, which opens from disk.

Knows: what the page needs, how large it may become. Must not know: how the page looks (`pages/static/load_report.js`),
processes, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guestctl.core.clock import rfc3339
from guestctl.core.version import __version__
from guestctl.load.load_results import LoadResults
from guestctl.load.slo import TIMES, Objective
from guestctl.pages import assets, single_file

#: Points of a chart: neighbouring slots are added until there are no more.
MOST_POINTS = 300


def document(results: LoadResults, objectives: Sequence[Objective], now: float) -> bytes:
    """Return the file. `now` is the end of the test in epoch seconds."""
    script = single_file.joined("load_report.js", lambda name: assets.asset(name).body.decode())
    data = data_of(results, objectives, now)
    plain = "\n".join(
        [
            *(
                f"{'met' if one['met'] else 'MISSED'}: {one['objective']} (measured: {one['value']})"
                for one in data["objectives"]
            ),
            *(f"{name}: {found}" for name, found in data["times"].items()),
        ]
    )
    return single_file.document("Load test · guestctl", script, single_file.with_short_texts(data, 500), plain=plain)


def data_of(results: LoadResults, objectives: Sequence[Objective], now: float) -> dict[str, Any]:
    """Return what the page shows: the record of the test, its slots and the distributions of its times."""
    step = 1 + results.slot_count // MOST_POINTS
    width = results.plan.slot * step
    rows = [
        {
            "at": round(at, 3),
            "guests": results.guests_at(at + width),
            **{name: found.counts[name] for name in ("turns", "failed", "throttled", "lost", "reconnects")},
            **{statistic: _rounded(found.statistic("reply", statistic)) for statistic in ("p50", "p95", "p99")},
        }
        for at, found in results.slots(step)
    ]
    return {
        **results.record(objectives),
        "slot": width,
        "slots": rows,
        "distributions": {
            name: [(round(percent, 4), _rounded(seconds)) for percent, seconds in results.total.distribution(name)]
            for name in TIMES
        },
        "version": __version__,
        "finished": rfc3339(now),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
