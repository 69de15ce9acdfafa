"""The progress bar on stderr.

Knows: when a bar is worth drawing, and its text. Must not know: streams.
"""

from __future__ import annotations

from collections.abc import Callable

#: Seconds of work before a progress bar is drawn.
_PATIENCE = 1.0
#: Columns of a progress bar.
_BAR = 30


class ProgressBar:
    """A callback (done, total) that draws a bar. `put(text, unfinished)` writes to the current line, and
    `drawing` returns whether an unfinished bar is still on it.

    The bar appears when the work takes longer than a second. Each file and each retry starts that time again.
    """

    def __init__(
        self,
        label: str,
        monotonic: Callable[[], float],
        put: Callable[[str, bool], None],
        drawing: Callable[[], bool],
    ) -> None:
        self._label = label
        self._monotonic = monotonic
        self._put = put
        self._started, self._before = monotonic(), 0
        self._drawing = drawing

    def __call__(self, done: int, total: int) -> None:
        if done < self._before:
            self._started = self._monotonic()
        self._before = done
        if not total or (self._monotonic() - self._started < _PATIENCE and not self._drawing()):
            return
        filled = _BAR * min(done, total) // total
        bar = "#" * filled + "-" * (_BAR - filled)
        unfinished = done < total
        text = f"\r{self._label} [{bar}] {100 * min(done, total) // total:3} %"
        self._put(text if unfinished else text + "\n", unfinished)
