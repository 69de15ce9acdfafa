"""A signal from one thread to another that waits on a socket.

Knows: a pair of sockets. Must not know: what the waiting thread does when it wakes.
"""

from __future__ import annotations

import socket
from contextlib import suppress


class Waker:
    """Wakes a thread that waits for this object to become readable. Any thread may call `wake`."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        return self._reader.fileno()

    def wake(self) -> None:
        """Wake the waiting thread, or its next wait. Several calls may wake it once."""
        with suppress(OSError):  # the buffer is full, so the thread will wake anyway; or the waker is closed
            self._writer.send(b"\0")

    def take(self) -> bool:
        """Return whether `wake` was called since the last time. Never waits."""
        try:
            return bool(self._reader.recv(4096))
        except OSError:
            return False

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
