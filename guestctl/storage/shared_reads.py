"""What one process has read of a session's history after a break, for the other listeners of that session.

Knows: the row that holds it, how long it is kept. Must not know: requests and answers, any dialect, what is missing.

The row has texts of messages, like the outbox. It is removed when the listener that wrote it ends, or when the session
is forgotten. If that listener was killed, the next listener that writes a row removes it after a minute.
"""

from __future__ import annotations

from guestctl.core.clock import Clock
from guestctl.core.values import immutable
from guestctl.storage.database import Database
from guestctl.storage.locks import Release

#: Seconds after which a read is of no use to anybody.
KEPT = 60.0
#: Listeners of one session that can know of each other.
_LISTENERS = 4


@immutable
class SharedRead:
    """One read of history. `begun_at` is when it began (epoch seconds), `body` what was read, as JSON."""

    begun_at: float
    body: str


@immutable
class Listening:
    """A listener that is counted: its number, and what ends that."""

    number: int
    release: Release


class SharedReads:
    """The reads, one for each session at most. `owner` identifies the session (`owner_of`).

    Every method raises UsageError `state.unusable` when the database cannot be used.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def join(self, owner: str) -> Listening | None:
        """Count as a listener of a session until the release; None if there are too many to count."""
        for number in range(_LISTENERS):
            if (release := self._database.try_lock(owner, f"listener {number}")) is not None:
                return Listening(number, release)
        return None

    def has_others(self, owner: str, listening: Listening) -> bool:
        """Return whether the session has another listener than the caller, who has joined."""
        # A lock of one's own must not be tried: SQLite keeps the descriptor of the attempt until the lock is released.
        for number in range(_LISTENERS):
            if number != listening.number:
                release = self._database.try_lock(owner, f"listener {number}")
                if release is None:
                    return True
                release()
        return False

    def try_lead(self, owner: str) -> Release | None:
        """Become the process that reads history for all; None while another process is."""
        return self._database.try_lock(owner, "history")

    def put(self, owner: str, read: SharedRead) -> None:
        """Publish a read in place of the last one."""
        with self._database.transaction(durable=False) as run:
            run("DELETE FROM shared_read WHERE begun_at < ?", (self._clock.now() - KEPT,))
            run("INSERT OR REPLACE INTO shared_read VALUES (?, ?, ?)", (owner, read.begun_at, read.body))

    def get(self, owner: str, after: float) -> SharedRead | None:
        """Return the last read, if it began after this time (epoch seconds)."""
        for row in self._database.rows(
            "SELECT begun_at, body FROM shared_read WHERE owner = ? AND begun_at > ?", (owner, after)
        ):
            return SharedRead(*row)
        return None

    def remove(self, owner: str) -> None:
        with self._database.transaction(durable=False) as run:
            run("DELETE FROM shared_read WHERE owner = ?", (owner,))
