"""The sockets of a listener that shares them with nobody. `shared_socket` overrides this for those that do.

Knows: nothing but what a listener asks. Must not know: other listeners, the state database.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from guestctl.core.errors import Failure
from guestctl.engine.session_socket import SessionSocket

T = TypeVar("T")


class OwnSockets:
    """Each socket is opened by the listener, and nobody else uses it."""

    def connects(self) -> bool:
        """Return whether the next socket is one of this listener's own."""
        return True

    def follow(self, pause: Callable[[float], Iterable[T]]) -> Generator[T, None, SessionSocket | None]:
        """Return the socket of another listener; None: there is none."""
        yield from ()
        return None

    def publish(self) -> None:
        """Pass on what has arrived."""

    def attached(self, socket: SessionSocket) -> None:
        """Note that the socket is open, and that history has been read."""

    def lost(self, failure: Failure) -> None:
        """Note that the socket broke, or that no socket could be opened."""

    def beating(self) -> AbstractContextManager[None]:
        """Show others that this process is alive while it waits for the service."""
        return nullcontext()

    def close(self) -> None:
        """Share nothing any more."""
