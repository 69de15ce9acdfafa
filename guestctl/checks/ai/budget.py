"""The limits of model calls and tokens, shared by the scenarios that run at once.

Knows: what was used, what is in flight, when a call may start. Must not know: what is asked.

A call starts only while the limit is not reached. Where the calls in flight could reach it together, they run one
after the other, so that the limit is never exceeded by more than one call.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from guestctl.checks.ai.plans import Spending
from guestctl.core.errors import RateLimited


@dataclass
class ModelUsage:
    """What model calls have used. `seconds` is the sum of their durations."""

    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Count one call."""
        self.calls += 1
        self.tokens += tokens
        self.seconds = round(self.seconds + seconds, 6)


@dataclass
class CallBudget:
    """One limit. `name` is what it limits, as errors name it."""

    name: str
    limit: Spending
    used: ModelUsage = field(default_factory=ModelUsage)
    #: Calls that have begun, and the most tokens that they may use.
    begun: int = 0
    expected: int = 0

    def check(self) -> None:
        """Raise RateLimited (ai.budget) if the limit is reached."""
        if self.limit.calls is not None and self.used.calls + self.begun >= self.limit.calls:
            raise _spent(f"{self.limit.calls} model calls", self.name)
        if self.limit.tokens is not None and self.used.tokens >= self.limit.tokens:
            raise _spent(f"{self.limit.tokens} tokens", self.name)

    def has_room(self, expected: int) -> bool:
        """Return whether a call may start next to those in flight."""
        if self.limit.tokens is None or not self.begun:
            return True
        return self.used.tokens + self.expected + expected <= self.limit.tokens


@dataclass
class CallResult:
    """What a call has used; the caller sets it when the answer has arrived."""

    tokens: int = 0
    seconds: float = 0.0


class CallGate:
    """Lets calls start as their budgets allow."""

    def __init__(self) -> None:
        self._change = threading.Condition()

    @contextmanager
    def passed(self, budgets: Sequence[CallBudget], expected: int) -> Iterator[CallResult]:
        """Start a call that may use `expected` tokens, and count it at the end. Raises RateLimited (ai.budget)."""
        with self._change:
            while True:
                for budget in budgets:
                    budget.check()
                if all(budget.has_room(expected) for budget in budgets):
                    break
                self._change.wait()
            for budget in budgets:
                budget.begun += 1
                budget.expected += expected
        result = CallResult()
        try:
            yield result
        finally:
            with self._change:
                for budget in budgets:
                    budget.begun -= 1
                    budget.expected -= expected
                    budget.used.add(result.tokens, result.seconds)
                self._change.notify_all()


def _spent(what: str, name: str) -> RateLimited:
    return RateLimited(f"the budget of {what} for {name} is used up", code="ai.budget")
