"""Trust in a profile file that was found because it is in the working directory.

Knows: where trust is recorded, and for which content. Must not know: what a file may do without trust (`profiles`).

A record is an empty file whose name is the SHA-256 of the trusted content. It is in the user's state
directory and not below GUESTCTL_STATE, which may point into a directory that came with the file.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from guestctl.core.errors import UsageError


def directory(environ: Mapping[str, str]) -> Path:
    """Return the directory of the records."""
    named = environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(named):
        return Path(named) / "guestctl" / "trusted"
    from platformdirs import user_state_path

    return user_state_path("guestctl", appauthor=False) / "trusted"


def digest_of(content: bytes) -> str:
    """Return the name under which trust in this content is recorded."""
    return hashlib.sha256(content).hexdigest()


def is_trusted(digest: str, environ: Mapping[str, str]) -> bool:
    """Return whether this user has trusted the content."""
    try:
        found = os.lstat(directory(environ) / digest)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and (not hasattr(os, "geteuid") or found.st_uid == os.geteuid())


def record(digest: str, environ: Mapping[str, str]) -> None:
    """Record trust in the content. Raises UsageError `state.unusable` if the record cannot be written."""
    from guestctl.storage.private_files import create_directory, create_file

    place = directory(environ)
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        create_directory(place)
        create_file(place / digest)
    except OSError as error:
        raise UsageError(
            f"cannot record trust in {place}: {error.strerror or error}",
            code="state.unusable",
            hint="make the directory writable, or name the file: --profiles FILE",
        ) from error
