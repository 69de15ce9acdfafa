"""The state that guestctl keeps between commands, and the locks and budgets its processes share.

Knows: the records, what each is for and how long it is kept (contract.md §6, reliability.md §7). Must not know: any
dialect, the wire, profiles, how a scope is built, files (`database`).

Sessions, credentials, the outbox and cursors survive a power loss. The ledger, budgets, the activity log and caches
survive kill -9. A power loss may remove their last entries, which are read from history again.

Records belong to a session, not to its name, and the time of its creation identifies a session. So a process that still
uses a session which was renamed, replaced or forgotten neither reads nor writes the records of another one. What such a
process records for a session that no longer exists is dropped, and `notice` reports that.

Secrets are plain text in this database, which only its owner can read (file 0600, directory 0700); `secure_delete`
overwrites what is removed. Per session, the newest 10,000 ledger entries, settled sends and activity lines are
kept. An unsettled send is never removed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import SessionOver, TimedOut, UsageError
from guestctl.core.model import Credential, CredentialKind, Limits, Message, Secret, Session
from guestctl.core.results import Activity
from guestctl.core.values import Json, immutable
from guestctl.storage.budgets import Budgets
from guestctl.storage.database import Database, Run
from guestctl.storage.locks import Release, wait_for_lock
from guestctl.storage.session_rows import SESSION, find_row, session_key
from guestctl.storage.shared_frames import SharedFrames
from guestctl.storage.shared_reads import SharedReads
from guestctl.storage.stored_profiles import StoredProfiles

KEPT = 10_000
"""Ledger entries, settled sends and activity lines kept for one session."""

DAY = 86_400.0
"""Seconds after which a bucket that was not used is full again."""

PATIENCE = 1.0
"""Seconds to wait for a lock before `notice` reports it."""

SendState: TypeAlias = Literal["queued", "writing", "accepted", "rejected", "not_sent", "in_doubt"]


@immutable
class OutboxRow:
    """One send. Times are epoch seconds, except `time`, the service's own timestamp of the message."""

    key: str
    text: str
    state: SendState
    message_id: str | None
    time: str | None
    begun_at: float
    written_at: float | None


@immutable
class LedgerEntry:
    """One message that was shown: the service's id, and the client key, sequence number and time, if any."""

    id: str
    key: str | None = None
    sequence: int | None = None
    time: str | None = None


@immutable
class Cursor:
    """What `listen --cursor` is about to write: the identity of the file (device and inode), the size that it will have
    then, and the message: its id, and its sequence number and time, if any."""

    identity: str
    position: int
    id: str | None
    sequence: int | None = None
    time: str | None = None


class State:
    """The state database. Any number of processes, and threads of this one, may use it at once.

    Every method raises UsageError `state.unusable` when the database cannot be read or written.
    """

    def __init__(self, database: Database, clock: Clock, notice: Callable[[str], None]) -> None:
        self._database = database
        #: Moves what is stored for a profile.
        self.profiles = StoredProfiles(database)
        #: The rate limits that all processes share.
        self.budgets = Budgets(database, clock)
        #: What one listener has read of a session's history for the others.
        self.shared_reads = SharedReads(database, clock)
        #: What one listener receives on its socket for the others.
        self.shared_frames = SharedFrames(database, clock)
        self._rows = database.rows
        self._clock = clock
        self._notice = notice
        self._reported_gone: set[float] = set()
        self._pending_notices: list[str] = []

    # --- opening ---

    @staticmethod
    def directory(environ: Mapping[str, str]) -> Path:
        """Return the state directory: `GUESTCTL_STATE`, else the platform's user state directory."""
        if named := environ.get("GUESTCTL_STATE"):
            return Path(named).expanduser()
        from platformdirs import user_state_path

        return user_state_path("guestctl", appauthor=False)

    @classmethod
    def open(cls, directory: Path | None, clock: Clock, *, notice: Callable[[str], None] = lambda text: None) -> State:
        """Open the database, and create it if needed; None keeps everything in memory (`--no-state`).

        A damaged file is set aside, and `notice` reports its new name. Raises UsageError
        `state.unusable` (unsafe or unwritable place) or `state.version` (written by a newer guestctl).
        """
        return cls(Database.open(directory, clock, notice), clock, notice)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> State:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- sessions ---

    def put(self, scope: str, session: Session) -> None:
        """Store a session with its credentials under its name. Another session of that name is forgotten first."""
        with self._transaction(durable=True) as run:
            run(
                "DELETE FROM session WHERE scope = ? AND name = ? AND birth IS NOT ?",
                (scope, session.name, session.created_at),
            )
            run(
                "INSERT INTO session (scope, name, birth, body) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (scope, name) DO UPDATE SET body = excluded.body",
                (scope, session.name, session.created_at, _dump_session(session)),
            )
            run("DELETE FROM budget WHERE used_at < ?", (self._clock.now() - DAY,))

    def amend(self, scope: str, session: Session, change: Callable[[Session], Session]) -> bool:
        """Change the stored session, even if it was renamed. No other process can write at the same time.

        Return False, without calling `change`, when the session is not stored.
        """
        with self._transaction(durable=True) as run:
            number = self._row_number(run, scope, session)
            for name, body in run("SELECT name, body FROM session WHERE n = ?", (number,)).fetchall():
                changed = change(_load_session(name, body))
                run("UPDATE session SET body = ? WHERE n = ?", (_dump_session(changed), number))
        return number is not None

    def get(self, scope: str, name: str) -> Session | None:
        """Return the session that has this name now."""
        for (body,) in self._rows("SELECT body FROM session WHERE scope = ? AND name = ?", (scope, name)):
            return _load_session(name, body)
        return None

    def find(self, scope: str, session: Session) -> Session | None:
        """Return a session as it is stored now, even if it was renamed; None when it was forgotten or replaced."""
        for name, body in self._rows(
            f"SELECT name, body FROM session WHERE n = {SESSION}", session_key(scope, session)
        ):
            return _load_session(name, body)
        return None

    def sessions(self, scope: str | None = None, *, tell: bool = False) -> list[tuple[str, Session]]:
        """Return every stored session with its scope, in the order in which they were first stored.

        A session whose record is unreadable is left out; with `tell`, `notice` reports it.
        """
        rows = self._rows(
            "SELECT scope, name, body FROM session WHERE ? IS NULL OR scope = ? ORDER BY n",
            (scope, scope),
        )
        found = []
        for where, name, body in rows:
            try:
                found.append((where, _load_session(name, body)))
            except UsageError as error:
                if tell:
                    self._notice(f"{error.message}. {error.hint}")
        return found

    def names(self, scope: str) -> set[str]:
        """Return every name in use, also those of unreadable records."""
        return {str(name) for (name,) in self._rows("SELECT name FROM session WHERE scope = ?", (scope,))}

    def current(self, scope: str) -> str | None:
        """Return the name that commands use when none is given."""
        for (name,) in self._rows("SELECT name FROM current WHERE scope = ?", (scope,)):
            return str(name)
        return None

    def use(self, scope: str, name: str | None) -> None:
        """Make this the current session; None: there is none."""
        with self._transaction(durable=True) as run:
            run("DELETE FROM current WHERE scope = ?", (scope,))
            if name is not None:
                run("INSERT INTO current (scope, name) VALUES (?, ?)", (scope, name))

    def forget(self, scope: str, name: str) -> bool:
        """Remove a session and all its records. Return False when there is no such session."""
        with self._transaction(durable=True) as run:
            found = run("SELECT body FROM session WHERE scope = ? AND name = ?", (scope, name)).fetchone()
            if found is not None:
                with suppress(UsageError):  # the record cannot be read
                    run("DELETE FROM shared_read WHERE owner = ?", (owner_of(scope, _load_session(name, *found)),))
            run("DELETE FROM session WHERE scope = ? AND name = ?", (scope, name))
            run("DELETE FROM current WHERE scope = ? AND name = ?", (scope, name))
        if found is not None:
            # The token is also in the write-ahead log until SQLite reuses it. Other readers may prevent the checkpoint.
            self._rows("PRAGMA wal_checkpoint(TRUNCATE)")
            # No process needs these locks: one that still uses the session finds that it is gone.
            with suppress(UsageError):
                self._database.remove_locks(owner_of(scope, _load_session(name, *found)))
        return found is not None

    def rename(self, scope: str, old: str, new: str) -> None:
        """Give a session and all its records another name. Another session with the name `new` is forgotten first.

        Nothing happens when there is no session `old`, or when the two names are equal.
        """
        with self._transaction(durable=True) as run:
            row = run("SELECT n FROM session WHERE scope = ? AND name = ?", (scope, old)).fetchone()
            if row is None or old == new:
                return
            run("DELETE FROM session WHERE scope = ? AND name = ?", (scope, new))
            run("UPDATE session SET name = ? WHERE n = ?", (new, *row))
            run("UPDATE current SET name = ? WHERE scope = ? AND name = ?", (new, scope, old))

    def put_credential(self, scope: str, credential: Credential) -> None:
        """Store a credential that all sessions of a scope share (OAuth)."""
        with self._transaction(durable=True) as run:
            run(
                "INSERT OR REPLACE INTO credential (scope, kind, body) VALUES (?, ?, ?)",
                (scope, credential.kind, json.dumps(_dump_credential(credential))),
            )

    def get_credential(self, scope: str, kind: CredentialKind) -> Credential | None:
        for (body,) in self._rows("SELECT body FROM credential WHERE scope = ? AND kind = ?", (scope, kind)):
            return _load_credential(json.loads(body))
        return None

    # --- outbox ---

    def begin(self, scope: str, session: Session, key: str, text: str) -> OutboxRow:
        """Enter a send as `queued`, before a byte of it is sent, and return its row.

        A key that was rejected or not sent starts over. The row of one that is being written, in doubt or accepted is
        returned unchanged, and the caller decides. Raises SessionOver `session.replaced` when the session is no longer
        stored.
        """
        with self._transaction(durable=True) as run:
            number = find_row(run, scope, session)
            if number is None:
                raise replaced(session)
            run(
                "INSERT INTO outbox (session, n, key, text, state, begun_at)"
                " VALUES (?, (SELECT coalesce(max(n), 0) + 1 FROM outbox WHERE session = ?), ?, ?, 'queued', ?)"
                " ON CONFLICT (session, key) DO UPDATE SET state = 'queued', text = excluded.text,"
                " begun_at = excluded.begun_at, written_at = NULL, message_id = NULL, time = NULL"
                " WHERE state IN ('queued', 'rejected', 'not_sent')",
                (number, number, key, text, self._clock.now()),
            )
            run(
                "DELETE FROM outbox WHERE session = ? AND n <= (SELECT max(n) - ? FROM outbox WHERE session = ?)"
                " AND state IN ('accepted', 'rejected', 'not_sent')",
                (number, KEPT, number),
            )
            row = run(_OUTBOX + "AND o.key = ?", (*session_key(scope, session), key)).fetchone()
        return OutboxRow(*row)

    def mark(
        self,
        scope: str,
        session: Session,
        key: str,
        state: SendState,
        message_id: str | None = None,
        time: str | None = None,
    ) -> None:
        """Store the new state of a send.

        The state `writing` must be stored before the first byte is sent: it raises SessionOver `session.replaced` when
        the session is no longer stored, so that nothing is sent.
        """
        with self._transaction(durable=True) as run:
            number = self._row_number(run, scope, session)
            if number is None and state == "writing":
                raise replaced(session)
            run(
                "UPDATE outbox SET state = ?, message_id = coalesce(?, message_id), time = coalesce(?, time),"
                " written_at = CASE WHEN ? = 'writing' THEN ? ELSE written_at END WHERE session = ? AND key = ?",
                (state, message_id, time, state, self._clock.now(), number, key),
            )

    def outbox(self, scope: str, session: Session, *states: SendState) -> list[OutboxRow]:
        """Return the session's sends in the order in which they were begun, or only those in `states`."""
        wanted = f"AND o.state IN ({', '.join('?' * len(states))}) " if states else ""
        rows = self._rows(f"{_OUTBOX}{wanted}ORDER BY o.n", (*session_key(scope, session), *states))
        return [OutboxRow(*row) for row in rows]

    def sent(self, scope: str, session: Session, key: str) -> OutboxRow | None:
        """Return the send with this key, in any state."""
        for row in self._rows(_OUTBOX + "AND o.key = ?", (*session_key(scope, session), key)):
            return OutboxRow(*row)
        return None

    # --- ledger ---

    def record(self, scope: str, session: Session, entries: Sequence[LedgerEntry | Message]) -> None:
        """Add messages in the order in which they were shown, in one commit.

        An id that is already there keeps its place, and missing values (key, sequence, time) are added.
        """
        if not entries:
            return
        with self._transaction(durable=False) as run:
            number = self._row_number(run, scope, session)
            if number is None:
                return
            # Binding None is slow, so a missing value is passed as an empty text.
            self._database.connection.executemany(
                "INSERT INTO ledger (session, n, id, key, sequence, time)"
                " VALUES (?, (SELECT coalesce(max(n), 0) + 1 FROM ledger WHERE session = ?), ?,"
                " nullif(?, ''), nullif(?, ''), nullif(?, ''))"
                " ON CONFLICT (session, id) DO UPDATE SET key = coalesce(key, excluded.key),"
                " sequence = coalesce(sequence, excluded.sequence), time = coalesce(time, excluded.time)",
                [
                    (
                        number,
                        number,
                        one.id,
                        one.key or "",
                        "" if one.sequence is None else one.sequence,
                        one.time or "",
                    )
                    for one in entries
                ],
            )
            _trim(run, "ledger", number)

    def seen(self, scope: str, session: Session, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that are in the ledger."""
        found: set[str] = set()
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            marks = ", ".join("?" * len(some))
            rows = self._rows(
                f"SELECT id FROM ledger WHERE session = {SESSION} AND id IN ({marks})",
                (*session_key(scope, session), *some),
            )
            found.update(id_ for (id_,) in rows)
        return found

    def last_position(self, scope: str, session: Session) -> LedgerEntry | None:
        """Return the entry that was added last."""
        for row in self._rows(
            f"SELECT id, key, sequence, time FROM ledger WHERE session = {SESSION} ORDER BY n DESC LIMIT 1",
            session_key(scope, session),
        ):
            return LedgerEntry(*row)
        return None

    def cursor(self, scope: str, session: Session, path: str) -> Cursor | None:
        """Return what was last about to be written to this cursor file."""
        for row in self._rows(
            f"SELECT identity, position, id, sequence, time FROM cursor WHERE session = {SESSION} AND path = ?",
            (*session_key(scope, session), path),
        ):
            return Cursor(*row)
        return None

    def set_cursor(self, scope: str, session: Session, path: str, cursor: Cursor) -> None:
        with self._transaction(durable=True) as run:
            number = self._row_number(run, scope, session)
            if number is not None:
                run(
                    "INSERT OR REPLACE INTO cursor (session, path, identity, position, id, sequence, time)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (number, path, cursor.identity, cursor.position, cursor.id, cursor.sequence, cursor.time),
                )

    # --- locks ---

    @contextmanager
    def lock(self, name: str, deadline: Deadline, *, owner: str = "") -> Iterator[None]:
        """Hold the lock `name` among all processes that use this directory, also during network calls.

        `owner`: the owner of the lock (`owner_of` a session). The lock file is removed when that session is forgotten.
        The kernel releases the lock when its process ends. It is not re-entrant. Raises TimedOut at the deadline.
        """
        with self._hold_one_of(owner, [name], deadline, f'another guestctl process still holds the lock "{name}"'):
            yield

    @contextmanager
    def slot(self, scope: str, session: Session, limit: int, deadline: Deadline) -> Iterator[None]:
        """Hold one of the `limit` socket slots of a session; otherwise the same as `lock`."""
        slots = [f"slot {number}" for number in range(limit)]
        what = f'other guestctl processes hold all {limit} connections of session "{session.name}"'
        with self._hold_one_of(owner_of(scope, session), slots, deadline, what):
            yield

    @contextmanager
    def _hold_one_of(self, owner: str, names: Sequence[str], deadline: Deadline, refusal: str) -> Iterator[None]:
        release = wait_for_lock(lambda: self._try_each(owner, names), deadline.sooner(PATIENCE))
        if release is None and not deadline.expired:
            self._notice(f"{refusal}: waiting")
            release = wait_for_lock(lambda: self._try_each(owner, names), deadline)
        if release is None:
            raise TimedOut(refusal, code="timeout.busy")
        try:
            yield
        finally:
            release()

    def _try_each(self, owner: str, names: Sequence[str]) -> Release | None:
        for name in names:
            if (release := self._database.try_lock(owner, name)) is not None:
                return release
        return None

    # --- activity, caches, sandbox ---

    def log(self, scope: str, session: Session, event: str, details: Mapping[str, Json]) -> None:
        """Add a line to the session's activity log, with the present time. `details` must not contain a secret."""
        with self._transaction(durable=False) as run:
            number = self._row_number(run, scope, session)
            if number is None:
                return
            run(
                "INSERT INTO activity (session, n, at, event, details)"
                " VALUES (?, (SELECT coalesce(max(n), 0) + 1 FROM activity WHERE session = ?), ?, ?, ?)",
                (number, number, self._clock.now(), event, json.dumps(dict(details))),
            )
            _trim(run, "activity", number)

    def activity(self, scope: str, session: Session) -> list[Activity]:
        rows = self._rows(
            f"SELECT at, event, details FROM activity WHERE session = {SESSION} ORDER BY n",
            session_key(scope, session),
        )
        return [Activity(at, event, json.loads(details)) for at, event, details in rows]

    def put_deployment(self, scope: str, body: str) -> None:
        """Store a deployment's configuration (JSON text) for later commands."""
        with self._transaction(durable=False) as run:
            run(
                "INSERT OR REPLACE INTO deployment (scope, at, body) VALUES (?, ?, ?)", (scope, self._clock.now(), body)
            )

    def deployment(self, scope: str, max_age: float) -> str | None:
        """Return the stored configuration, if it is at most `max_age` seconds old."""
        now = self._clock.now()
        for at, body in self._rows("SELECT at, body FROM deployment WHERE scope = ?", (scope,)):
            if now - max_age <= at <= now:
                return str(body)
        return None

    def put_sandbox(self, running: Mapping[str, Json]) -> None:
        """Register a running sandbox, identified by its `url`. It becomes the default sandbox."""
        with self._transaction(durable=True) as run:
            run("INSERT OR REPLACE INTO sandbox (url, body) VALUES (?, ?)", (running["url"], json.dumps(dict(running))))

    def sandbox(self) -> Json | None:
        """Return the sandbox that was registered last and is not forgotten."""
        for (body,) in self._rows("SELECT body FROM sandbox ORDER BY n DESC LIMIT 1"):
            return json.loads(body)
        return None

    def forget_sandbox(self, url: str) -> None:
        with self._transaction(durable=True) as run:
            run("DELETE FROM sandbox WHERE url = ?", (url,))

    # --- helpers ---

    def _row_number(self, run: Run, scope: str, session: Session) -> int | None:
        """Return the row number of a session for its records; None when it is gone, which `notice` reports once."""
        number = find_row(run, scope, session)
        if number is None and session.created_at not in self._reported_gone:
            self._reported_gone.add(session.created_at)
            self._pending_notices.append(f"{_gone(session)}: nothing more is recorded for it")
        return number

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[Run]:
        with self._database.transaction(durable=durable) as run:
            yield run
        while self._pending_notices:  # only now: no process waits for the database while a notice is printed
            self._notice(self._pending_notices.pop())


_OUTBOX = (
    "SELECT o.key, o.text, o.state, o.message_id, o.time, o.begun_at, o.written_at"
    f" FROM outbox o WHERE o.session = {SESSION} "
)


def owner_of(scope: str, session: Session) -> str:
    """Return the owner of a session's locks and limits. It does not change with the name."""
    return f"{scope} {session.created_at if session.root is None else session.root!r}"


def _gone(session: Session) -> str:
    return f'session "{session.name}" was forgotten or replaced by another command'


def replaced(session: Session) -> SessionOver:
    """Return the failure of an operation on a session that is no longer stored."""
    return SessionOver(_gone(session), code="session.replaced", api=session.api)


def _trim(run: Run, table: str, session: int) -> None:
    """Delete all but the newest rows. `n` has no gaps within a session, so this costs only what it deletes."""
    run(
        f"DELETE FROM {table} WHERE session = ? AND n <= (SELECT max(n) - ? FROM {table} WHERE session = ?)",
        (session, KEPT, session),
    )


# --- sessions as text ---


#: Fields of `Session` that the record keeps among the dialect's notes, so that older and newer versions of guestctl
#: read each other's records.
_AMONG_NOTES = (
    *("used_token", "refused_token", "offer", "opening", "root", "attached_at"),
    *("traceparent", "tracestate"),
)


def _dump_session(session: Session) -> str:
    return json.dumps(
        {
            "api": session.api,
            "profile": session.profile,
            "name": session.name,
            "ids": dict(session.ids),
            "state": session.state,
            "new_session": session.new_session,
            "created_at": session.created_at,
            "expires_at": session.expires_at,
            "credentials": {key: _dump_credential(held) for key, held in session.credentials.items()},
            "limits": {field: getattr(session.limits, field) for field in Limits.__dataclass_fields__},
            "notes": {**session.notes, **_fields_among_notes(session)},
        }
    )


def _fields_among_notes(session: Session) -> dict[str, Json]:
    return {field: kept for field in _AMONG_NOTES if (kept := getattr(session, field)) is not None}


def _load_session(name: str, body: str) -> Session:
    try:
        values = json.loads(body)
        limits: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values["limits"].items()}
        notes = dict(values["notes"])
        kept = {field: notes.pop(field, None) for field in _AMONG_NOTES}
        return Session(
            **{
                **values,
                **kept,
                "name": name,
                "notes": notes,
                "credentials": {key: _load_credential(held) for key, held in values["credentials"].items()},
                "limits": Limits(**limits),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f'the stored record of session "{name}" cannot be read',
            code="state.unusable",
            hint=f"remove the record: `guestctl session forget {shlex.quote(name)}`",
        ) from error


def _dump_credential(credential: Credential) -> dict[str, Json]:
    return {
        "kind": credential.kind,
        "secret": credential.secret.reveal(),
        "expires_at": credential.expires_at,
        "refresh": None if credential.refresh is None else credential.refresh.reveal(),
        "life": credential.life,
    }


def _load_credential(values: Mapping[str, Json]) -> Credential:
    refresh = values["refresh"]
    return Credential(
        kind=values["kind"],
        secret=Secret(values["secret"]),
        expires_at=values["expires_at"],
        refresh=None if refresh is None else Secret(refresh),
        life=values.get("life"),
    )
