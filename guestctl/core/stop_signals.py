"""SIGINT, SIGTERM and SIGHUP as a readable socket, for servers that run until one of them arrives.

Knows: Python's signal handlers. Must not know: what is served. Only the main thread can handle signals.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_STOPPERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def stop_signals() -> Iterator[socket.socket]:
    """Yield a socket that becomes readable when a signal asks us to stop, and then holds the signal's number."""
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        with handling(lambda number, frame: None):
            before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            try:
                yield reader
            finally:
                signal.set_wakeup_fd(before)


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the stop signals with `handler`, except those ignored at start (nohup, a background job)."""
    before = {number: signal.getsignal(number) for number in _STOPPERS}
    handled = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in handled:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in handled.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


def exit_code_of(number: int) -> int:
    """Return the exit code of a server that a signal stopped: 0 for SIGTERM, which is a supervisor's orderly stop."""
    return 0 if number == signal.SIGTERM else 128 + number
