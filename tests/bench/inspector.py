"""What the inspector costs the sandbox, and how soon a page has what passes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench.crowd import guests
from tests.bench.figures import Figure, Sample, Scale, side_by_side
from tests.bench.processes import bare, cpu_of, environment, sandbox, serving

#: Frames of one round trip: the guest's message, its echo and the bot's answer.
FRAMES = 3


def cost(scale: Scale) -> Iterator[Figure]:
    """Round trips of many guests: with the page closed and with it open, compared with a sandbox without it."""
    with TemporaryDirectory() as place:
        environ = environment(Path(place) / "state")
        for name, aim, is_open in (("closed", 0.98, False), ("open", 0.85, True)):
            with sandbox(environ) as plain, sandbox(environ, "--ui") as shown, ExitStack() as stack:
                if is_open:
                    stack.enter_context(serving(bare("page", shown[0]["ui_url"]), environ))
                yield side_by_side(
                    f"inspector, page {name}: trips/s",
                    lambda: _trips(*shown, scale, environ),
                    lambda: _trips(*plain, scale, environ),
                    runs=scale.rounds,
                    aim=aim,
                    ceiling=False,
                    baseline="without --ui",
                    unit="/s",
                )


def _trips(found: Mapping[str, str], process: Popen[bytes], scale: Scale, environ: Mapping[str, str]) -> Sample:
    before = cpu_of(process.pid)
    with serving(guests(found, scale.guests, scale.trips, '"direction":"Outbound"'), environ) as (told, _):
        return Sample(float(told["second"]), cpu_of(process.pid) - before)


def delay(scale: Scale) -> Iterator[Figure]:
    """From the wire to the feed, with one guest that talks; and the time until a new page has a long history."""
    with TemporaryDirectory() as place:
        environ = environment(Path(place) / "state")
        with sandbox(environ, "--ui") as (found, _), serving(bare("page", found["ui_url"]), environ) as (_, page):
            with serving(guests(found, 1, scale.timed, '"direction":"Outbound"'), environ):
                pass
            delays = sorted(1000 * one for one in _report(page, FRAMES * scale.timed)["delays"])
            for share, aim in ((0.5, 30), (0.99, 100)):
                found_delay = delays[int(len(delays) * share)]
                name = f"inspector, wire to feed: p{100 * share:.0f}"
                yield Figure(name, "aim", found_delay, aim, "ms", found_delay, aim, "more")
        with sandbox(environ, "--ui") as (found, _):
            events = min(50_000, FRAMES * scale.trips)
            with serving(guests(found, scale.guests, events // FRAMES, '"direction":"Outbound"'), environ):
                pass
            with serving(bare("page", found["ui_url"]), environ) as (_, page):
                seconds = _report(page, events)["seconds"]
                yield Figure(f"inspector, {events:,} events of history", "aim", seconds, 5, "s", seconds, 5, "more")


def _report(page: Popen[bytes], events: int) -> dict[str, Any]:
    assert page.stdin is not None
    assert page.stdout is not None
    page.stdin.write(f"{events}\n".encode())
    page.stdin.flush()
    report: dict[str, Any] = json.loads(page.stdout.readline())
    return report
