"""Switches for faults: what a page in a browser shows of them and changes.

Knows: the armed faults, and which kinds there are. Must not know: the page, HTTP, on what the faults act.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from guestctl.sandbox.faults import Fault, FaultError, Faults, kinds_report, parse


class FaultSwitches:
    """Arms and disarms faults, in the thread to which they belong.

    `faults` returns them. `refused` makes the exception with a reason. `check` raises FaultError for a spec that cannot
    be armed, as for all those of the kinds `without`.
    """

    def __init__(
        self,
        faults: Callable[[], Faults],
        refused: Callable[[str], Exception],
        *,
        check: Callable[[str], Fault] = parse,
        without: Collection[str] = (),
    ) -> None:
        self._faults = faults
        self._refused = refused
        self._check = check
        self._without = without

    def armed(self) -> list[dict[str, Any]]:
        """Return the armed faults with their counters."""
        return self._faults().report()

    def kinds(self) -> list[dict[str, Any]]:
        """Return the kinds of faults that can be armed, with their keys."""
        return [kind for kind in kinds_report() if kind["kind"] not in self._without]

    def add_faults(self, specs: Sequence[str]) -> None:
        """Arm all of these, or none if one is invalid."""
        try:
            self._faults().add_all(specs, self._check)
        except FaultError as problem:
            raise self._refused(str(problem)) from None

    def remove_fault(self, spec: str) -> None:
        """Disarm one fault."""
        if not self._faults().remove(spec):
            raise self._refused(f'no fault "{spec}" is armed')

    def clear_faults(self) -> None:
        """Disarm all faults."""
        self._faults().clear()
