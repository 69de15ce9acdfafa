"""Signals that are held back while something could be lost.

Knows: when the exception of a signal may be raised in this thread. Must not know: which signals there are, what is
protected.

The handler of a signal raises wherever the thread is, also where a received message is only in a local variable.
A stream therefore holds signals back (`held`). They are raised where it waits (`allowed`), and where it asks for them
(`check`): nothing is on its way there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupts(threading.local):
    """The state of one thread. Signals arrive in the main thread only."""

    def __init__(self) -> None:
        self._depth = 0
        self._waiting: type[BaseException] | None = None

    @property
    def are_held(self) -> bool:
        """Whether a signal that arrives now is held back."""
        return self._depth > 0

    def raise_or_hold(self, error: type[BaseException]) -> None:
        """Raise the exception of a signal, now or later. A signal handler calls this."""
        if not self._depth:
            raise error
        self._waiting = error

    def check(self) -> None:
        """Raise the exception of a signal that was held back."""
        error, self._waiting = self._waiting, None
        if error is not None:
            raise error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold signals back. After the block, the last of them is raised, unless another exception leaves it."""
        self._depth += 1
        try:
            yield
        except BaseException:
            self._waiting = None
            raise
        finally:
            self._depth -= 1
        if not self._depth:
            self.check()

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Raise signals as usual: the thread only waits in this block."""
        depth, self._depth = self._depth, 0
        try:
            self.check()
            yield
        finally:
            self._depth = depth


INTERRUPTS = Interrupts()
