"""Saving an attachment: a hostile name made safe, a hostile address refused, nothing overwritten.

Knows: file names, addresses a file may come from, size limits (reliability.md §8.5). Must not know:
any dialect, sessions, tokens: a presigned address carries its own authority and gets no header of ours.
"""

from __future__ import annotations

import ipaddress
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from guestctl.core.clock import Deadline
from guestctl.core.errors import NetworkError, Refused, Unreadable, UsageError
from guestctl.core.wire import Request

if TYPE_CHECKING:
    from guestctl.transport.http import Http


class Stale(Refused):
    """The address was good once; a fresh one may be asked for."""


#: Longest file name written, in bytes.
NAME_BYTES = 200
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_name(offered: str | None, fallback: str) -> str:
    """A file name with nothing in it but a name: no folders, controls, bidi marks, device names."""
    name = (offered or "").replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(" " if unicodedata.category(c)[0] == "Z" else c for c in name)
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C" and c not in '<>:"|?*')
    name = name.strip().lstrip(".- ").rstrip(". ")
    if len(name.encode()) > NAME_BYTES:
        suffix = os.path.splitext(name)[1]
        end = suffix.encode() if len(suffix) < 20 else b""
        name = name.encode()[: NAME_BYTES - len(end)].decode(errors="ignore").rstrip(". ") + end.decode()
    if not name or _DEVICES.fullmatch(name):
        name = "attachment-" + re.sub(r"[^0-9A-Za-z-]", "", fallback)[:40]
    return name


def allowed(url: str, *, local: bool) -> bool:
    """Whether a file may be fetched from this address. `local`: the service itself is on loopback."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        return False
    if parts.username is not None or parts.password is not None or not host:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if host == "localhost" or host.endswith(".localhost"):
            return local and parts.scheme in {"http", "https"}
        return parts.scheme == "https"
    return local and address.is_loopback and parts.scheme in {"http", "https"}


def save(
    http: Http,
    located: tuple[Request, str | None],
    attachment_id: str,
    to: Path,
    deadline: Deadline,
    *,
    limit: int,
    local: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Fetch into the folder `to`, or under the new file name `to`; returns the path written.

    Raises UsageError when the file exists or cannot be written, Stale when the address is good no
    more, Refused for one that is not allowed or a file over `limit` bytes, Unreadable for a redirect, which
    is not followed. A partial file is removed.
    """
    request, offered = located
    if not allowed(request.url, local=local):
        raise Refused("the attachment's address is not one a file may come from", code="service.file")
    target = to / safe_name(offered, attachment_id) if to.is_dir() else to
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # exclusive: nor is a link followed
    try:
        descriptor = os.open(target, flags, 0o600)
    except FileExistsError:
        raise UsageError(f"{target} exists; nothing is overwritten, give another name with --to") from None
    except OSError as error:
        raise UsageError(f"{target}: {error.strerror or error}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            reply = http.download(
                request, headers=request.headers, deadline=deadline, write=file.write, limit=limit, progress=progress
            )
        if reply.status in {403, 404}:
            raise Stale("the attachment's address has expired", code="service.file", http_status=reply.status)
        if 300 <= reply.status < 400:
            raise Unreadable(f"download: HTTP {reply.status}", code="answer.redirect", http_status=reply.status)
        if not reply.ok:
            raise NetworkError(f"download: HTTP {reply.status}", code="service.down", http_status=reply.status)
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, Unreadable) and error.code != "answer.redirect":
            raise Refused(error.message, code="service.file") from error
        if isinstance(error, OSError):
            raise UsageError(f"{target}: {error.strerror or error}") from error
        raise
    return target
