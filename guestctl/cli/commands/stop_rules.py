"""When `listen` stops. Knows: the stop rules and a clock. Must not know: events, the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from guestctl.core.clock import Clock

if TYPE_CHECKING:
    from guestctl.core.patterns import Pattern


@dataclass
class StopRules:
    """The rules: `most` printed messages, a text that matches `until`, `longest` seconds in total, or `idle` seconds
    without a printed line. None means that there is no such rule.

    `holds`: whether a received message waits for its place. That is no silence.
    """

    clock: Clock
    most: int | None = None
    until: Pattern | None = None
    longest: float | None = None
    idle: float | None = None
    holds: Callable[[], bool] = lambda: False
    matched: bool = field(default=False, init=False)
    _counted: int = field(default=0, init=False)
    _started: float = field(init=False)
    _idle_since: float | None = field(default=None, init=False)
    _connected: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._started = self.clock.monotonic()

    def attempted(self, *, live: bool) -> None:
        """Record the end of a connection attempt.

        `idle` counts from the first successful attempt. Until then it counts from the first failure, so that an
        unreachable service also ends the command. A reconnect does not restart it: missed messages are printed,
        and printing does.
        """
        if self._idle_since is None or (live and not self._connected):
            self._idle_since = self.clock.monotonic()
        self._connected = self._connected or live

    def printed(self, *, counts: int, text: str | None = None) -> None:
        """Record printed lines: how many of them --max counts, and the text that --until matches.

        Raises PatternTimeout.
        """
        self._idle_since = self.clock.monotonic()
        self._counted += counts
        if self.until is not None and text is not None and self.until.search(text):
            self.matched = True

    @property
    def room(self) -> float:
        """How many more lines --max counts before it applies."""
        return inf if self.most is None else self.most - self._counted

    def met(self) -> bool:
        """Return whether any rule applies now."""
        return self.satisfied or self.left() == 0

    @property
    def satisfied(self) -> bool:
        """Whether --max or --until applies: then no further message is printed."""
        return self.matched or (self.most is not None and self._counted >= self.most)

    def left(self) -> float | None:
        """Return the seconds until a rule about time applies, None without such a rule."""
        if self.longest is None and self.idle is None:
            return None
        now = self.clock.monotonic()
        ends = [self._started + self.longest] if self.longest is not None else []
        if self.idle is not None and self._idle_since is not None and not self.holds():
            ends.append(self._idle_since + self.idle)
        return max(0.0, min(ends) - now) if ends else None
