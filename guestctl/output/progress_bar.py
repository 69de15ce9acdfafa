"""The progress bar on stderr, and the counter of a wait.

Knows: when a bar is worth drawing, and its line. Must not know: streams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

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
        #: Columns of the text that `line` shows.
        self._shown = 0

    def __call__(self, done: int, total: int) -> None:
        if done < self._before:
            self._started = self._monotonic()
        self._before = done
        if not total or (self._monotonic() - self._started < _PATIENCE and not self._drawing()):
            return
        unfinished, self._shown = done < total, self._canvas().width - 1
        text = "\r" + self._canvas().bar(self._label, min(done, total), total)
        self._put(text if unfinished else text + "\n", unfinished)

    def line(self, text: str) -> None:
        """Show a short text in place of the bar. An empty text removes it."""
        text = text[: self._canvas().width - 1]
        self._put("\r" + text.ljust(self._shown) + ("" if text else "\r"), bool(text))
        self._shown = len(text)


class QueueCounter:
    """Shows how long a request still waits for the rate limit, and how many requests are before it.

    `bar` returns what draws on the terminal, None if it cannot be drawn on.
    """

    def __init__(self, bar: Callable[[], ProgressBar | None]) -> None:
        self._bar = bar
        self._drawn: ProgressBar | None = None

    def __call__(self, limit: Mapping[str, Any]) -> None:
        """Show the data of a `limit` event."""
        if limit["begun"]:
            self._drawn = self._bar()
        if self._drawn is not None:
            ahead = f", {limit['ahead']} ahead" if limit["ahead"] else ""
            self._drawn.line(f"waiting for the rate limit: {limit['left']:.0f} s{ahead}" if limit["left"] else "")
