"""The progress bar on stderr.

Knows: when a bar is worth drawing, and its line. Must not know: streams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guestctl.output.drawing import Canvas

#: Seconds of work before a progress bar is drawn.
_PATIENCE = 1.0


class ProgressBar:
    """A callback (done, total) that draws a bar on a canvas. The canvas is created for the first bar.

    `put(text, unfinished)` writes to the current line, and `drawing` returns whether an unfinished bar is still on it.
    The bar appears when the work takes longer than a second. Each file and each retry starts that time again.
    """

    def __init__(
        self,
        canvas: Callable[[], Canvas],
        label: str,
        monotonic: Callable[[], float],
        put: Callable[[str, bool], None],
        drawing: Callable[[], bool],
    ) -> None:
        self._canvas = canvas
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
        unfinished = done < total
        text = "\r" + self._canvas().bar(self._label, min(done, total), total)
        self._put(text if unfinished else text + "\n", unfinished)
