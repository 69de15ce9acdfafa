"""SIGINT, SIGTERM and SIGHUP stop a command at any point.

Knows: what can happen to an exception that a signal handler raises. Must not know: what a command does.

The exception is raised wherever the main thread is, so that everything unwinds; a stream of messages holds it back
until none can be lost (`core/interrupts.py`). Python loses it in some places, such as
a callback of the import system or of garbage collection; the signal is then sent again. The exception can also leave a
lock locked that unwinding then waits for. A command that has not ended after `GRACE` seconds is ended like a killed
process, which the stored state survives.
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
from guestctl.core.interrupts import INTERRUPTS

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

#: Seconds after the first signal for closing connections and writing reports.
GRACE = 5.0
#: Seconds until a lost signal is sent again: by then Python has left the place that lost it.
_RESEND_AFTER = 0.01


class Terminated(BaseException):
    """Raised by SIGTERM; unwinds like Ctrl-C."""

    number = signal.SIGTERM
    exit = Exit.TERMINATED


class HungUp(Terminated):
    """Raised by SIGHUP: the terminal was closed."""

    number = getattr(signal, "SIGHUP", signal.SIGTERM)
    exit = Exit.HUNG_UP


class Signals:
    """The signals of one command.

    `on_interrupt` is called at the first Ctrl-C, inside the handler. `paging` returns whether a pager is open: then
    the command is not stuck, and its end is waited for.
    """

    def __init__(self, on_interrupt: Callable[[], None], paging: Callable[[], bool] = lambda: False) -> None:
        #: The exit code of the command after a signal, None without a signal.
        self.exit: Exit | None = None
        self._on_interrupt = on_interrupt
        self._paging = paging
        self._ended = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals, in the main thread only. A SIGINT or SIGHUP that the parent process ignores, or that
        another handler has, stays unchanged."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            handled.append(signal.SIGINT)
        if signal.getsignal(HungUp.number) is signal.SIG_DFL and HungUp.number not in handled:  # `nohup` ignores it
            handled.append(HungUp.number)
        before = {number: signal.signal(number, self._stop) for number in handled}
        unraisable = sys.unraisablehook

        def resend_lost(found: UnraisableHookArgs) -> None:
            if issubclass(found.exc_type, KeyboardInterrupt):
                _thread.start_new_thread(self._send_again, (signal.SIGINT,))
            elif issubclass(found.exc_type, Terminated):
                _thread.start_new_thread(self._send_again, (found.exc_type.number,))
            else:
                unraisable(found)

        sys.unraisablehook = resend_lost
        try:
            yield
        finally:
            self._ended = True
            sys.unraisablehook = unraisable
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        interrupted = number == signal.SIGINT
        error = HungUp if number == HungUp.number else Terminated
        if self.exit is None:
            # Not `threading.Thread`: its start takes locks that the main thread may hold at this moment.
            _thread.start_new_thread(self._end, (number,))
            if interrupted:
                self._on_interrupt()
        self.exit = Exit.INTERRUPTED if interrupted else error.exit
        INTERRUPTS.raise_or_hold(KeyboardInterrupt if interrupted else error)

    def _send_again(self, number: int) -> None:
        time.sleep(_RESEND_AFTER)
        if not self._ended:
            send_signal(number)

    def _end(self, number: int) -> None:
        paging = True
        while paging and not self._ended:
            paging = number == signal.SIGINT and self._paging()
            time.sleep(GRACE)
        if not self._ended:
            os._exit(128 + number)


def send_signal(number: int) -> None:
    """Send a signal to the main thread of this process, even if it is waiting."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)
