"""SIGINT and SIGTERM: a command that is told to stop does stop, whatever it is in the middle of.

Knows: what becomes of an exception that a signal handler raises. Must not know: what any command does.

It is raised wherever the main thread happens to be, so that everything unwinds. Python loses it in some
places (a callback of the import system, of garbage collection): there the signal is given once more. It can
leave a lock locked that unwinding then waits for: what is not over after `GRACE` is ended as if killed,
which state is made to survive.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from guestctl.core.errors import Exit

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

#: Seconds for goodbyes and reports after the first signal.
GRACE = 5.0
#: Seconds until a signal whose exception was lost is given again: by then Python has left that place.
_AGAIN = 0.01


class Terminated(BaseException):
    """SIGTERM came; unwinds like Ctrl-C."""


class Signals:
    """The signals of one command. `answered` is called at the first Ctrl-C, inside the handler; `read`, whether
    a person still reads what was shown, which is nothing that hangs."""

    def __init__(self, answered: Callable[[], None], read: Callable[[], bool] = lambda: False) -> None:
        #: What the command ends with; None: no signal came.
        self.exit: Exit | None = None
        self._answered = answered
        self._read = read
        self._over = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Only in the main thread. A SIGINT that whoever started us ignores, or that somebody else handles,
        stays so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ours = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            ours.append(signal.SIGINT)
        before = {number: signal.signal(number, self._stop) for number in ours}
        unraisable = sys.unraisablehook

        def lost(found: UnraisableHookArgs) -> None:
            if issubclass(found.exc_type, KeyboardInterrupt):
                _thread.start_new_thread(self._give_again, (signal.SIGINT,))
            elif found.exc_type is Terminated:
                _thread.start_new_thread(self._give_again, (signal.SIGTERM,))
            else:
                unraisable(found)

        sys.unraisablehook = lost
        try:
            yield
        finally:
            self._over = True
            sys.unraisablehook = unraisable
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        interrupted = number == signal.SIGINT
        if self.exit is None:
            # Not `threading.Thread`, whose start takes locks that the main thread may hold right now.
            _thread.start_new_thread(self._end, (number,))
            if interrupted:
                self._answered()
        self.exit = Exit.INTERRUPTED if interrupted else Exit.TERMINATED
        raise KeyboardInterrupt if interrupted else Terminated

    def _give_again(self, number: int) -> None:
        time.sleep(_AGAIN)
        if not self._over:
            give(number)

    def _end(self, number: int) -> None:
        read = True
        while read and not self._over:
            read = number == signal.SIGINT and self._read()
            time.sleep(GRACE)
        if not self._over:
            os._exit(128 + number)


def give(number: int) -> None:
    """Send this process a signal; reaches a main thread that waits, too."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)
