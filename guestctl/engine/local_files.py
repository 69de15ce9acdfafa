"""A local file that a guest wants to send: its name, type and size, and whether the session accepts it.

Knows: names, types and sizes, the limits that a session states. Must not know: how files are uploaded, any API.
"""

from __future__ import annotations

import stat
from pathlib import Path

from guestctl.core.errors import Refused, UsageError
from guestctl.core.model import Session
from guestctl.core.values import immutable


@immutable
class LocalFile:
    """A regular file as it was when inspected. `size` is in bytes; `mime` is guessed from the name."""

    path: Path
    name: str
    mime: str
    size: int

    def read(self) -> bytes:
        """Return the whole content. Raises UsageError when the file cannot be read."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise UsageError(f"{self.path}: {error.strerror or error}") from error


def inspect_file(path: Path) -> LocalFile:
    """Return the file at `path` without reading it.

    Raises UsageError for anything but a regular file, and for a name that is not UTF-8.
    """
    try:
        found = path.stat()
        path.name.encode()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except ValueError:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise UsageError(f'"{shown}": its name is not UTF-8', hint="copy it to another name") from None
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(
            f"{path}: not a file", hint="give a regular file; to send a folder, pack it into an archive first"
        )
    import mimetypes  # only here: few commands send a file

    # Most systems have no type for `.opus`; this one is from web-messaging.md §7.3.
    mime = "audio/ogg" if path.suffix == ".opus" else mimetypes.guess_type(path.name)[0]
    return LocalFile(path, path.name, mime or "application/octet-stream", found.st_size)


def check_file(session: Session, file: LocalFile) -> None:
    """Check a file against the session's stated limits (web-messaging.md §10.11). Raises Refused."""
    limits = session.limits

    def refuse(why: str, code: int) -> Refused:
        return Refused(
            f"{file.name}: {why}", code="service.file", api=session.api, service_code=code, delivery="not_sent"
        )

    if file.size == 0:
        raise refuse("the file is empty", 4102)
    if limits.file_kilobytes is not None and file.size // 1000 > limits.file_kilobytes:
        raise refuse(f"{file.size} bytes, the limit is {limits.file_kilobytes} kB", 4002)
    if any(file.name.endswith(extension) for extension in limits.blocked_extensions):
        raise refuse("this kind of file is blocked", 4001)
    if limits.file_types and not any(_mime_matches(file.mime, allowed) for allowed in limits.file_types):
        raise refuse(f"type {file.mime} is not among {', '.join(limits.file_types)}", 4001)


def _mime_matches(mime: str, allowed: str) -> bool:
    kind, _, sub = allowed.partition("/")
    return allowed in ("*/*", mime) or (sub == "*" and mime.startswith(kind + "/"))
