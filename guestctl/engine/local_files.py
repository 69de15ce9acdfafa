"""A local file that a guest wants to send: what it is, and whether the session takes it.

Knows: names, kinds and sizes, the limits a session states. Must not know: how files travel, any API.
"""

from __future__ import annotations

import mimetypes
import stat
from pathlib import Path

from guestctl.core.errors import Refused, UsageError
from guestctl.core.model import Session
from guestctl.core.values import immutable


@immutable
class LocalFile:
    """A regular file as it was when looked at. `size` in bytes; `mime` is guessed from the name."""

    path: Path
    name: str
    mime: str
    size: int

    def read(self) -> bytes:
        """All of it. Raises UsageError when it cannot be read."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise UsageError(f"{self.path}: {error.strerror or error}") from error


def looked_at(path: Path) -> LocalFile:
    """What there is at `path`, unread. Raises UsageError for anything but a file with a name one can write."""
    try:
        found = path.stat()
        path.name.encode()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except ValueError:
        raise UsageError(f"{path!r}: its name is not UTF-8", hint="Copy it to another name and send that.") from None
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path}: not a file", hint="Only files can be sent; pack a folder first.")
    # What §7.3 of web-messaging.md says of `.opus`; the tables of most systems do not have it.
    mime = "audio/ogg" if path.suffix == ".opus" else mimetypes.guess_type(path.name)[0]
    return LocalFile(path, path.name, mime or "application/octet-stream", found.st_size)


def check_file(session: Session, file: LocalFile) -> None:
    """Refuse a file the session's own limits are bound to refuse (web-messaging.md §10.11). Raises Refused."""
    limits = session.limits

    def refuse(why: str, code: int) -> Refused:
        failure = Refused(f"{file.name}: {why}", code="service.file", api=session.api, service_code=code)
        failure.delivery = "not_sent"
        return failure

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
