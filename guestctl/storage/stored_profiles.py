"""Moving everything that is stored for a profile to another name or scope.

Knows: which tables have a scope, and how a scope contains the profile's name. Must not know: what the records mean
(`state`), the profile file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from guestctl.storage.database import Database, Run

#: Tables whose rows are caches, or values that the new scope may have by now: its own row then stays.
_KEYED = ("current", "credential", "deployment")


class StoredProfiles:
    """The records of each profile in the state database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def adopt(self, former: str, scope: str, profile: str) -> None:
        """Move the sessions that an earlier version stored in the scope `former` to `scope`."""
        if self._database.rows("SELECT 1 FROM session WHERE scope = ? LIMIT 1", (former,)):
            with self._database.transaction(durable=True) as run:
                _move(run, former, scope, profile)

    def sessions(self, profile: str) -> int:
        """Return the number of sessions that are stored for a profile, in all of its scopes."""
        with self._database.transaction(durable=False) as run:
            return _count(run, _scopes_of(run, profile))

    @contextmanager
    def renaming(self, old: str, new: str | None) -> Iterator[int]:
        """Move everything of a profile to its new name, or remove it (None), in one transaction with the block.

        The block changes the profile file. If it fails, nothing is moved. Yields the number of sessions.
        """
        with self._database.transaction(durable=True) as run:
            scopes = _scopes_of(run, old)
            count = _count(run, scopes)
            for scope in scopes:
                if new is None:
                    _forget(run, scope)
                else:
                    _move(run, scope, _moved(scope, old, new), new)
            yield count
        if new is None and count:
            # The tokens are also in the write-ahead log until SQLite reuses it.
            self._database.rows("PRAGMA wal_checkpoint(TRUNCATE)")


def _count(run: Run, scopes: Sequence[str]) -> int:
    return sum(int(run("SELECT count(*) FROM session WHERE scope = ?", (scope,)).fetchone()[0]) for scope in scopes)


def _scopes_of(run: Run, profile: str) -> list[str]:
    """Return the scopes of a profile: `NAME/API/DIGEST`. The name itself may contain slashes."""
    form = re.compile(rf"{re.escape(profile)}/[^/]+/[0-9a-f]{{16}}", re.DOTALL)
    rows = run(
        "SELECT scope FROM session UNION SELECT scope FROM current UNION SELECT scope FROM credential"
        " UNION SELECT scope FROM deployment"
    ).fetchall()
    # The scope of an OAuth credential has a second digest.
    found = (form.match(scope) for (scope,) in rows)
    return sorted({match[0] for match in found if match is not None})


def _moved(scope: str, old: str, new: str) -> str:
    """Return a scope with another profile's name."""
    return new + scope[len(old) :]


def _move(run: Run, old: str, new: str, profile: str) -> None:
    """Give everything of one scope to another one. `profile`: the name of the profile in the new scope.

    A session whose name is in use there gets a number after it.
    """
    taken = {name for (name,) in run("SELECT name FROM session WHERE scope = ?", (new,))}
    for number, name, body in run("SELECT n, name, body FROM session WHERE scope = ? ORDER BY n", (old,)).fetchall():
        free = (
            name if name not in taken else next(f"{name}-{n}" for n in range(1, 10_000) if f"{name}-{n}" not in taken)
        )
        taken.add(free)
        run(
            "UPDATE session SET scope = ?, name = ?, body = ? WHERE n = ?",
            (new, free, _of_profile(body, profile), number),
        )
        run("UPDATE current SET name = ? WHERE scope = ? AND name = ?", (free, old, name))
    for table in _KEYED:
        # Also the scopes that begin with this one: those of OAuth credentials.
        for (scope,) in run(
            f"SELECT DISTINCT scope FROM {table} WHERE substr(scope, 1, ?) = ?", (len(old), old)
        ).fetchall():
            run(f"UPDATE OR IGNORE {table} SET scope = ? WHERE scope = ?", (_moved(scope, old, new), scope))
            run(f"DELETE FROM {table} WHERE scope = ?", (scope,))
    run(
        "UPDATE OR REPLACE budget SET bucket = ? || substr(bucket, ?) WHERE substr(bucket, 1, ?) = ?",
        (new, len(old) + 1, len(old), old),
    )


def _forget(run: Run, scope: str) -> None:
    """Remove everything of one scope."""
    run("DELETE FROM session WHERE scope = ?", (scope,))
    for table in _KEYED:
        run(f"DELETE FROM {table} WHERE substr(scope, 1, ?) = ?", (len(scope), scope))


def _of_profile(body: Any, profile: str) -> Any:
    """Return a session's record with another profile's name. A record that cannot be read stays as it is."""
    try:
        values = json.loads(body)
    except ValueError:
        return body
    return json.dumps({**values, "profile": profile}) if isinstance(values, dict) else body
