"""Collects the wire events of a sandbox, and waits for them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from tests.sandbox.stranger import PATIENCE


class Events:
    """An observer. `Sandbox(observer=events)` adds every event."""

    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []
        self._changed = threading.Condition()

    def __call__(self, kind: str, data: Mapping[str, Any]) -> None:
        with self._changed:
            self.all.append((kind, dict(data)))
            self._changed.notify_all()

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the members of the events of these kinds, in order."""
        with self._changed:
            return [data for kind, data in self.all if kind in kinds]

    def wait(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Return the events of a kind as soon as there are this many."""
        with self._changed:
            there = self._changed.wait_for(lambda: sum(one == kind for one, _ in self.all) >= count, PATIENCE)
        assert there, f"{count} events of the kind {kind} were due: {self.all}"
        return self.of(kind)

    def kinds(self) -> list[str]:
        """Return the kinds of all events in order."""
        with self._changed:
            return [kind for kind, _ in self.all]
