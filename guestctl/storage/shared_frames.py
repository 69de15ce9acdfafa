"""What one listener receives on its socket, for the other listeners of its session: they need no socket of their own.

Knows: who leads and who follows, the rows that the leader writes, how long they are kept. Must not know: what a row
means, any dialect, what is missing from a stream.

The leader holds a kernel lock, and each follower one of its own (its *seat*). The leader numbers its rows. A follower
that finds a hole in the numbers has missed something. Each leader has another number, so that the rows of two leaders
are never taken for one stream.

Rows have texts of messages, like the outbox. The last listener removes them when it ends, and they are removed with
their session. If all listeners were killed, the next leader removes rows that are more than a minute old.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from guestctl.core.clock import Clock
from guestctl.core.model import Session
from guestctl.core.values import immutable
from guestctl.storage.database import Database
from guestctl.storage.locks import Release
from guestctl.storage.session_rows import SESSION, find_row, session_key

#: Seconds after which a row is of no use to anybody.
KEPT = 60.0
#: Followers of one session at most.
SEATS = 32
#: Rows that a follower reads at once.
MOST_READ = 256

RowKind: TypeAlias = Literal["frame", "attached", "lost", "ended"]


@immutable
class SharedRow:
    """One row of a leader. `at` is in epoch seconds."""

    number: int
    at: float
    kind: RowKind
    body: str


@immutable
class Seat:
    """The place of one follower: its number, and what ends it."""

    number: int
    release: Release


@immutable
class Place:
    """Where a follower reads: the leader that has admitted it (None: none yet), the number of the row after which it
    reads, and a number that changes whenever the present leader writes."""

    leader: int | None
    after: int
    beat: tuple[int, int] | None


class SharedFrames:
    """The rows of all sessions. `owner` identifies the session for its locks (`owner_of`).

    Every method raises UsageError `state.unusable` when the database cannot be used.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # --- the leader ---

    def try_lead(self, owner: str) -> Release | None:
        """Become the listener that opens the socket; None while another process is."""
        return self._database.try_lock(owner, "listener socket")

    def begin(self, scope: str, session: Session) -> int | None:
        """Return the number of a new leader; None if the session is not stored any more."""
        with self._database.transaction(durable=False) as run:
            row = find_row(run, scope, session)
            if row is None:
                return None
            run(
                "INSERT INTO leader VALUES (?, 1, 0) ON CONFLICT (session) DO UPDATE SET number = number + 1, beat = 0",
                (row,),
            )
            number: int = run("SELECT number FROM leader WHERE session = ?", (row,)).fetchone()[0]
            return number

    def remove_old(self) -> None:
        """Remove the rows of leaders that were killed more than a minute ago."""
        old = self._clock.now() - KEPT
        if self._database.rows("SELECT 1 FROM shared_frame WHERE at < ? LIMIT 1", (old,)):
            with self._database.transaction(durable=False) as run:
                run("DELETE FROM shared_frame WHERE at < ?", (old,))

    def followers(self, scope: str, session: Session) -> dict[int, int | None] | None:
        """Return the seats that are taken, each with the leader that has admitted its follower.

        None: the session is not stored any more.
        """
        rows = self._database.rows(
            "SELECT follower.seat, follower.leader FROM session LEFT JOIN follower ON follower.session = session.n"
            f" WHERE session.n = {SESSION}",
            session_key(scope, session),
        )
        return {seat: leader for seat, leader in rows if seat is not None} if rows else None

    def remove_dead(self, owner: str, scope: str, session: Session, seat: int) -> bool:
        """Remove a follower if its process has ended; return whether it has."""
        release = self._database.try_lock(owner, _seat_lock(seat))
        if release is None:
            return False
        try:
            self.leave(scope, session, seat)
        finally:
            release()
        return True

    def write(
        self,
        scope: str,
        session: Session,
        leader: int,
        rows: Sequence[SharedRow],
        *,
        admit: Sequence[int] = (),
        after: int = 0,
        remove_to: int = 0,
    ) -> bool:
        """Write rows of a leader, and count it as alive. Return False if the session is not stored any more.

        `admit`: seats whose followers read the rows after number `after`. Rows up to `remove_to` are removed.
        """
        with self._database.transaction(durable=False) as run:
            row = find_row(run, scope, session)
            if row is None:
                return False
            run("UPDATE leader SET beat = beat + 1 WHERE session = ? AND number = ?", (row, leader))
            for seat in admit:
                run(
                    "UPDATE follower SET leader = ?, after = ? WHERE session = ? AND seat = ?",
                    (leader, after, row, seat),
                )
            self._database.connection.executemany(
                "INSERT INTO shared_frame VALUES (?, ?, ?, ?, ?, ?)",
                [(row, leader, one.number, one.at, one.kind, one.body) for one in rows],
            )
            if remove_to:
                run("DELETE FROM shared_frame WHERE session = ? AND leader = ? AND n <= ?", (row, leader, remove_to))
        return True

    def clear(self, scope: str, session: Session) -> None:
        """Remove all rows of a session, unless somebody follows."""
        with self._database.transaction(durable=False) as run:
            row = find_row(run, scope, session)
            run(
                "DELETE FROM shared_frame WHERE session = ? AND NOT EXISTS (SELECT 1 FROM follower WHERE session = ?)",
                (row, row),
            )

    # --- a follower ---

    def take_seat(self, owner: str, scope: str, session: Session) -> Seat | None:
        """Become a follower, whom the leader has to admit; None if there is no seat, or the session is gone."""
        for number in range(SEATS):
            if (release := self._database.try_lock(owner, _seat_lock(number))) is not None:
                if self.ask(scope, session, number):
                    return Seat(number, release)
                release()
                break
        return None

    def ask(self, scope: str, session: Session, seat: int) -> bool:
        """Ask the leader to admit the follower on this seat (again). Return False if the session is gone."""
        with self._database.transaction(durable=False) as run:
            row = find_row(run, scope, session)
            if row is not None:
                run("INSERT OR REPLACE INTO follower VALUES (?, ?, NULL, 0)", (row, seat))
            return row is not None

    def leave(self, scope: str, session: Session, seat: int) -> None:
        """Remove a follower, whose lock the caller holds."""
        with self._database.transaction(durable=False) as run:
            run(f"DELETE FROM follower WHERE session = {SESSION} AND seat = ?", (*session_key(scope, session), seat))

    def place(self, scope: str, session: Session, seat: int) -> Place | None:
        """Return where the follower on this seat reads; None if it was removed."""
        for leader, after, number, beat in self._database.rows(
            "SELECT follower.leader, follower.after, leader.number, leader.beat FROM follower"
            f" LEFT JOIN leader ON leader.session = follower.session WHERE follower.session = {SESSION} AND seat = ?",
            (*session_key(scope, session), seat),
        ):
            return Place(leader, after, None if number is None else (number, beat))
        return None

    def rows(self, scope: str, session: Session, leader: int, after: int) -> list[SharedRow]:
        """Return the next rows of a leader after a number, in order."""
        found = self._database.rows(
            f"SELECT n, at, kind, body FROM shared_frame WHERE session = {SESSION} AND leader = ? AND n > ?"
            f" ORDER BY n LIMIT {MOST_READ}",
            (*session_key(scope, session), leader, after),
        )
        return [SharedRow(*row) for row in found]


def _seat_lock(number: int) -> str:
    return f"follower {number}"
