"""The live table of `check` on a terminal.

Knows: rich's live display, one line per scenario. Must not know: how scenarios run. Control
characters in names and steps are escaped, and nothing is read as markup. The table disappears at the
end of the run.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from guestctl.output.terminal import Terminal, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.live import Live
    from rich.table import Table

    from guestctl.checks.runner import Progress
    from guestctl.core.clock import Clock

#: Most lines in the table: running scenarios first, then those that have just finished.
ROWS = 12
_PER_SECOND = 8


class Screen:
    """The live table. `update` may be called from any thread."""

    def __init__(self, stream: IO[Any], terminal: Terminal, names: Sequence[str], clock: Clock) -> None:
        from rich.live import Live

        from guestctl.output.drawing import console_of

        self._names = names
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[int, tuple[str, float]] = {}
        self._finished: list[tuple[int, str, float]] = []
        self._count = {"passed": 0, "failed": 0, "error": 0}
        self._live: Live = Live(
            console=console_of(terminal, stream, width=terminal.width, moves_cursor=True),
            get_renderable=self.table,
            transient=True,
            refresh_per_second=_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, progress: Progress) -> None:
        """Show the progress of a scenario."""
        with self._lock:
            if progress.outcome is None:
                begun = self._running.get(progress.number, ("", self._clock.monotonic()))[1]
                self._running[progress.number] = (progress.doing, begun)
                return
            self._running.pop(progress.number, None)
            outcome = progress.outcome
            self._count[outcome.verdict] += 1
            # The table shows only the last few.
            self._finished = [*self._finished[-ROWS:], (progress.number, outcome.verdict, outcome.seconds)]

    def table(self) -> Table:
        """Return the present table."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=False, expand=True)
        table.add_column(no_wrap=True, width=7)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=2)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
        table.add_column(no_wrap=True, justify="right", width=9)
        with self._lock:
            now = self._clock.monotonic()
            running = list(self._running.items())[:ROWS]
            room = ROWS - len(running)
            for number, verdict, seconds in self._finished[-room:] if room else []:
                style = "green" if verdict == "passed" else "red"
                name = Text(visible(self._names[number]))
                table.add_row(Text(verdict, style=style), name, Text(""), Text(f"{seconds:.2f} s"))
            for number, (doing, begun) in running:
                name = Text(visible(self._names[number]))
                table.add_row(Text("…"), name, Text(visible(doing), style="dim"), Text(f"{now - begun:.1f} s"))
            done = sum(self._count.values())
            summary = ", ".join(f"{count} {verdict}" for verdict, count in self._count.items() if count)
            table.add_row(Text(f"{done}/{len(self._names)}"), Text(summary), Text(""), Text(""))
        return table
