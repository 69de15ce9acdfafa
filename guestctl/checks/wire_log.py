"""The last requests and frames of one guest, for reports that show them.

Knows: the kinds of traffic that an observer gets. Must not know: what they mean, secrets (`Redactor`), reports.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from guestctl.core.clock import Clock
from guestctl.core.values import immutable

#: Kinds of traffic that a report shows.
KINDS = frozenset({"request", "response", "lost", "connect", "upgrade", "frame_out", "frame_in", "close"})
#: Most events that are stored for one guest; older ones are dropped.
MOST_EVENTS = 100


@immutable
class WireEvent:
    """One request, answer, frame or close. `at`: seconds since the start of the scenario."""

    at: float
    kind: str
    data: Mapping[str, Any]


class WireLog:
    """An observer of one guest that stores the traffic since the last `clear`. It stores secrets, too."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: deque[WireEvent] = deque(maxlen=MOST_EVENTS)
        self._begun = clock.monotonic()
        self._lock = threading.Lock()  # an interrupted run is read by another thread

    def __call__(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind in KINDS:
            at = round(self._clock.monotonic() - self._begun, 3)
            with self._lock:
                self._events.append(WireEvent(at, kind, dict(data)))

    def clear(self) -> None:
        """Drop everything that is stored."""
        with self._lock:
            self._events.clear()

    def events(self) -> tuple[WireEvent, ...]:
        """Return what is stored, oldest first."""
        with self._lock:
            return tuple(self._events)
