"""What the service delivered to one guest: which messages arrived, how often, and in which order.

Knows: decoded frames, and history. Must not know: how the client removes duplicates and restores order. It is a second
look at the same bytes, so the counts do not depend on what the client repairs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from guestctl.core.errors import Failure, RateLimited
from guestctl.core.model import Message
from guestctl.core.wire import Frame
from guestctl.dialects.flows import Incoming, Rejection
from guestctl.load.measurements import Measurements

if TYPE_CHECKING:
    from guestctl.core.model import Session
    from guestctl.dialects.base import Dialect


class WireLedger:
    """The messages that arrived on the sockets of one guest."""

    def __init__(self, dialect: Dialect, session: Session, measurements: Callable[[], Measurements]) -> None:
        self._dialect = dialect
        #: The session as the dialect needs it to read a frame. It is replaced when the guest has one.
        self.session = session
        self._measurements = measurements
        #: Ids that arrived on the present socket, and on any.
        self._on_this_socket: set[str] = set()
        self.arrived: set[str] = set()
        self._last: tuple[int | None, str | None] = (None, None)

    def connected(self) -> None:
        """A socket was opened. A service may repeat on it what an earlier socket delivered."""
        self._on_this_socket.clear()
        self._last = (None, None)

    def frame(self, text: str) -> None:
        """A frame has arrived."""
        for item in self._decoded(text):
            if isinstance(item, Message):
                self._message(item)
            elif isinstance(item, Rejection) and isinstance(item.failure, RateLimited):
                self._measurements().count("throttled")

    def _decoded(self, text: str) -> Sequence[Incoming]:
        try:
            return self._dialect.decode(Frame(text, 0.0), self.session)
        except Failure:
            return ()  # the client reports it

    def _message(self, message: Message) -> None:
        if not message.id:
            return
        if message.id in self._on_this_socket:
            self._measurements().count("duplicates")
            return
        self._on_this_socket.add(message.id)
        self.arrived.add(message.id)
        if self._is_late(message):
            self._measurements().count("swapped")
        else:
            self._last = (message.sequence, message.time)

    def _is_late(self, message: Message) -> bool:
        """Return whether a message that the service put after this one arrived before it."""
        sequence, time = self._last
        if message.sequence is not None and sequence is not None:
            return message.sequence < sequence
        return message.time is not None and time is not None and message.time < time

    def missing(self, history: Iterable[Message], shown: Collection[str]) -> list[str]:
        """Return the ids of replies that history has, and that neither arrived on a socket nor were shown."""
        return [
            message.id
            for message in history
            if message.is_reply and message.id and message.id not in self.arrived and message.id not in shown
        ]
