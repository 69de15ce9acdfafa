"""Read history for a listener: each page within a deadline, and with a pause between two pages.

Knows: how long one page may take, how the pause between two reads grows, how a socket that breaks during a read shows,
when another page has begun. Must not know: what is missing from the stream, any dialect's wire.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from guestctl.core.clock import Deadline
from guestctl.core.errors import Failure, NetworkError
from guestctl.core.model import Position
from guestctl.dialects.base import HistoryPage
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.history import Fetch, Following

if TYPE_CHECKING:
    from guestctl.engine.shared_history import SharedHistory

T = TypeVar("T")

#: Seconds for the first read of history while a socket is open; doubled after each read that fails.
FIRST_READ = 5.0
#: Growth of the pause between two reads of history: while it lags, and while nothing shows that it does.
LOOK_GROWTH, QUIET_GROWTH = 1.5, 3.0


class HistoryReader:
    """Reads the history of one session. `deadline` gives the deadline for one answer of the service."""

    def __init__(self, engine: SessionEngine, deadline: Callable[[], Deadline]) -> None:
        self._engine = engine
        self._deadline = deadline
        #: The highest number that the service announced with the last page, if that page does not reach it.
        self.announced: int | None = None
        #: Live messages since history was read last, and when (monotonic) its next page may be read.
        self._since_read = 0
        self._page_due = 0.0
        self._shared: SharedHistory | None = None
        #: When (epoch seconds) the socket broke.
        self._broke_at = 0.0

    def read(
        self, read: Callable[[Fetch], T], *, known: int = 0, patience: float | None = None, pause: float = 0.0
    ) -> T:
        """Return what `read` makes of the pages.

        `known`: a number up to which messages are not waited for. `patience`: seconds for one page, within its
        deadline. `pause`: seconds between two requests.
        """

        def fetch(after: Position | None, cursor: str | None) -> HistoryPage:
            deadline = self._deadline().sooner(patience)
            page = self._engine.page(after, cursor, deadline, known=known, pause=pause)
            self._since_read = 0
            self.announced = page.announced_up_to
            return page

        return read(fetch)

    def next_pause(self, pause: float, failure: Failure | None = None) -> float:
        """Return the seconds until the next read, while history lags or cannot be read. `pause`: the last ones."""
        asked = 0.0 if failure is None else failure.retry_after or 0.0
        return max(asked, min(self._engine.timings.look_max, pause * LOOK_GROWTH))

    def next_quiet_pause(self, pause: float) -> float:
        """Return the seconds until the next read, while nothing shows that history lags."""
        timings = self._engine.timings
        return max(timings.quiet_look, min(timings.quiet_look_max, pause * QUIET_GROWTH))

    # --- shared with the other listeners of the session ---

    def share(self) -> None:
        """Share what is read after a break with the other listeners of the session."""
        from guestctl.engine.shared_history import SharedHistory

        self._shared = SharedHistory(self._engine, self._deadline)

    def close(self) -> None:
        """Share nothing any more."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()

    def socket_lost(self, at: float | None) -> None:
        """Note that the socket broke (None: now): what another listener read before is of no use."""
        self._broke_at = self._engine.clock.now() if at is None else at

    def read_after(
        self, position: Position | None, read: Callable[[Position | None], Following], *, shared: bool
    ) -> Following:
        """Return what `read` finds after a position; `shared`: unless another listener has read it since the break."""
        if self._shared is None or not shared:
            return read(position)
        return self._shared.read(position, read, broke_at=self._broke_at)

    # --- pages with tokens ---

    def message_received(self) -> None:
        """Note a live message: history has one more."""
        self._since_read += 1

    def next_page_due(self, now: float) -> bool:
        """Return whether live messages are on a page of history whose token is not known yet."""
        return self._engine.dialect.pages_by_token and self._after_last_page > 0 and self._page_due <= now

    @property
    def _after_last_page(self) -> int:
        """The number of messages that do not fit on the last page that is known."""
        return self._engine.page_tokens.entries_on_last + self._since_read - self._engine.dialect.page_size

    def find_next_page(self) -> None:
        """Read the last page that is known, to learn the token of the next one. Its entries were shown live.

        So the number of pages that a reconnect has to read does not grow with the conversation.
        """
        engine, rest = self._engine, self._after_last_page
        pause = engine.timings.look_min
        try:
            page = engine.page(None, engine.page_tokens.last, self._deadline().sooner(FIRST_READ))
        except Failure as failure:
            raise_if_socket_broke(failure)
            pause = engine.timings.quiet_look_max
        else:
            self._since_read = 0 if page.next is None else rest
        self._page_due = engine.clock.monotonic() + pause


def raise_if_socket_broke(failure: Failure) -> None:
    """Raise the failure again if it broke the socket that the token for history is requested on."""
    if isinstance(failure, NetworkError) and failure.close_code is not None:
        raise failure
