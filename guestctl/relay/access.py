"""The keys of a relay's readers: one to read, one to read and send, for each session.

Knows: files, comparing keys. Must not know: HTTP headers, sessions, events.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path
from typing import Literal, TypeAlias

from guestctl.core.model import Secret
from guestctl.storage import private_files

Right: TypeAlias = Literal["read", "send"]

#: Longer texts are no keys. They are not compared.
_LONGEST = 200


def relay_files(directory: Path, scope: str, session: str) -> Path:
    """Return the path, without its ending, of the files of a session's relay in this state directory."""
    name = hashlib.sha256(f"{scope}\n{session}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return directory / "relay" / name


class AccessKeys:
    """The keys of one session, each in a file that only its owner can read.

    `base` is the path without its ending; the files end in `.read.key` and `.send.key`. A file that another process
    replaces counts at the next request. Every method raises UsageError `state.unusable` if a file cannot be used.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._known: dict[Path, tuple[tuple[int, int, int], str]] = {}

    def key(self, right: Right, *, rotate: bool = False) -> Secret:
        """Return the key with a right, a new one with `rotate` or if there is none."""
        found = None if rotate else self._read(right)
        return Secret(found or self._create(right))

    def stored(self, right: Right) -> Secret | None:
        """Return the key with a right, None if there is none yet."""
        found = self._read(right)
        return None if found is None else Secret(found)

    def allows(self, key: str, right: Right) -> bool:
        """Return whether a key has a right. The key to send may also read."""
        if not key or len(key) > _LONGEST:
            return False
        given = key.encode("utf-8", "surrogatepass")
        allowed = False
        for known in ("send",) if right == "send" else ("read", "send"):
            stored = self._read("send" if known == "send" else "read")
            # Every key is compared, so that the time of an answer shows nothing.
            if stored is not None and hmac.compare_digest(given, stored.encode()):
                allowed = True
        return allowed

    def _path(self, right: Right) -> Path:
        return self._base.with_name(f"{self._base.name}.{right}.key")

    def _read(self, right: Right) -> str | None:
        path = self._path(right)
        with private_files.failures_explained(path.parent):
            if private_files.file_identity(path) is None:
                return None
            found = path.stat()
            identity = (found.st_ino, found.st_mtime_ns, found.st_size)
            if (known := self._known.get(path)) is None or known[0] != identity:
                known = self._known[path] = (identity, path.read_text("ascii").strip())
        return known[1] or None

    def _create(self, right: Right) -> str:
        key = f"gr{right[0]}_{secrets.token_urlsafe(32)}"
        path = self._path(right)
        private_files.create_directory(path.parent)
        with private_files.failures_explained(path.parent):
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".key-")
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(key + "\n")
                os.replace(name, path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        return key
