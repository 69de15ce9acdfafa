"""Where the records of one session are: the number of its row in the database.

Knows: what identifies a stored session. Must not know: what is recorded for it.
"""

from __future__ import annotations

from guestctl.core.model import Session
from guestctl.storage.database import Run

# Statements have plain `?` only: Python 3.12.0 to 3.12.3 warn about `?1` with a sequence of values.
#: The row of a session, by scope, time of creation and name. The name matters only for sessions created at the same
#: instant.
SESSION = "(SELECT n FROM session WHERE scope = ? AND birth = ? ORDER BY name <> ? LIMIT 1)"


def session_key(scope: str, session: Session) -> tuple[str, float, str]:
    """Return the parameters of `SESSION`."""
    return scope, session.created_at, session.name


def find_row(run: Run, scope: str, session: Session) -> int | None:
    """Return the row number of a session, None when it is not stored any more."""
    number: int | None = run(f"SELECT {SESSION}", session_key(scope, session)).fetchone()[0]
    return number
