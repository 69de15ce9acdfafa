"""What `load` shows: the progress on a terminal, and the results for people.

Knows: the terminal, the record of a load test. Must not know: processes, exit codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from guestctl.cli.invocation import Invocation
from guestctl.core.humanize import format_duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from guestctl.load.load_results import LoadResults
    from guestctl.load.plan import LoadPlan
    from guestctl.load.slo import Objective

#: The times and the counts that the progress shows.
_TIMES = ("reply", "accepted", "create")
_COUNTS = ("failed", "unanswered", "throttled", "reconnects", "lost", "duplicates", "swapped")
#: The most failures that are listed for people.
_MOST_FAILURES = 10


class ProgressView:
    """The progress of a test: some lines on stderr that are drawn again after each report, if it is a terminal."""

    def __init__(self, run: Invocation, plan: LoadPlan, objectives: Sequence[Objective]) -> None:
        self._run = run
        self._plan = plan
        self._objectives = objectives
        self._live: Live | None = None

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw in this block. The lines are removed at its end."""
        run = self._run
        if not run.out.terminal.stderr or run.options.quiet or self._plan.role == "worker":
            yield
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(file=run.world.stderr, highlight=False, markup=False)
        self._live = Live(console=console, transient=True, auto_refresh=False)
        try:
            with self._live:
                yield
        finally:
            self._live = None

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Remove the lines while something else is printed."""
        live = self._live
        if live is None:
            yield
            return
        live.stop()
        try:
            yield
        finally:
            live.start()

    def show(self, results: LoadResults) -> None:
        """Draw the results so far."""
        if self._live is not None:
            self._live.update(self._lines(results), refresh=True)

    def _lines(self, results: LoadResults) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        def line(text: str, style: str = "") -> Text:
            return Text(text, style=style, no_wrap=True, overflow="ellipsis")

        plan = self._plan
        whole = "" if plan.seconds is None else f" of {format_duration(plan.seconds)}"
        guests = results.guests[-1][1] if results.guests else 0
        lines = [
            line(
                f"{format_duration(results.elapsed)}{whole} · {guests} of {plan.guests} guests · "
                f"{results.count('turns')} turns · {results.rate('turns'):.1f}/s",
                "bold",
            )
        ]
        for name in _TIMES:
            found = results.times(name)
            if found["count"]:
                shown = "  ".join(f"{one} {time_text(found[one])}" for one in ("p50", "p95", "p99", "max"))
                lines.append(line(f"{name:10}{shown}"))
        lines.append(line(" · ".join(f"{name} {results.count(name)}" for name in _COUNTS)))
        for objective in self._objectives:
            met = objective.met(objective.value(results))
            lines.append(line(f"{'met' if met else 'missed':8}{objective.text}", "green" if met else "red"))
        return Group(*lines)


def print_results(run: Invocation, record: dict[str, Any]) -> None:
    """Print the record for people."""
    from guestctl.load.slo import COUNTS
    from guestctl.output.columns import Column

    out = run.out
    out.text(
        f"{_number(record['conversations'], 'conversation')}, {_number(record['turns'], 'turn')} and "
        f"{_number(record['messages'], 'message')} in {format_duration(record['seconds'])}: "
        f"{record['turns_per_second']:.1f} turns per second",
        prose=True,
    )
    names = ("count", "p50", "p90", "p95", "p99", "max")
    columns = [Column("time", 10, 10), *(Column(name, 6, 8) for name in names)]
    out.grid(
        columns,
        [
            [name, str(found["count"]), *(time_text(found[one]) for one in names[1:])]
            for name, found in record["times"].items()
        ],
    )
    out.text(", ".join(f"{name.replace('_', ' ')} {record[name]}" for name in COUNTS), prose=True)
    for found in record["failures"][:_MOST_FAILURES]:
        out.text(f"{found['count']} × {found['what']}", prose=True)
    for found in record["objectives"]:
        measured = "nothing measured" if found["value"] is None else f"measured: {found['value']:.6g}"
        mark, style = ("met", "service") if found["met"] else ("missed", "bad")
        out.parts((f"{mark:8}", style), (f"{found['objective']} ({measured})", ""), hanging=8)


def time_text(seconds: float | None) -> str:
    """Return a time in a few characters: `21 ms`, `1.5 s`."""
    if seconds is None:
        return "-"
    if seconds < 0.0095:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def _number(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count} {what}s"
