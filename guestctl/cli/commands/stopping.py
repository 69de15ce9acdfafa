"""When `listen` stops. Knows: its rules and a clock. Must not know: events, the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from re import Pattern

from guestctl.core.clock import Clock


@dataclass
class StopRules:
    """`most` printed messages, a text that matches `until`, `longest` seconds in all, `idle` seconds
    without a printed line, which count from when something can be heard. None: no such rule."""

    clock: Clock
    most: int | None = None
    until: Pattern[str] | None = None
    longest: float | None = None
    idle: float | None = None
    matched: bool = field(default=False, init=False)
    _counted: int = field(default=0, init=False)
    _begun: float = field(init=False)
    _silent_since: float | None = field(default=None, init=False)
    _heard: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._begun = self.clock.monotonic()

    def tried(self, *, live: bool) -> None:
        """An attempt to connect has ended. Silence counts from the first success; until there is one, from the
        first failure, so that a service that stays away is not waited for. A reconnect has been silent only
        if nothing was missed before it: that would have been printed."""
        if self._silent_since is None or (live and not self._heard):
            self._silent_since = self.clock.monotonic()
        self._heard = self._heard or live

    def printed(self, *, counts: bool, text: str | None) -> None:
        """A line was printed; `counts` when it is one that --max counts, `text` what --until looks at."""
        self._silent_since = self.clock.monotonic()
        self._counted += counts
        if self.until is not None and text is not None and self.until.search(text):
            self.matched = True

    def over(self) -> bool:
        """Whether any rule ends it now."""
        left = self.left()
        return (
            self.matched or (self.most is not None and self._counted >= self.most) or (left is not None and left <= 0)
        )

    def left(self) -> float | None:
        """Seconds until a rule about time ends it; None when there is none."""
        now = self.clock.monotonic()
        ends = [self._begun + self.longest] if self.longest is not None else []
        if self.idle is not None and self._silent_since is not None:
            ends.append(self._silent_since + self.idle)
        return max(0.0, min(ends) - now) if ends else None
