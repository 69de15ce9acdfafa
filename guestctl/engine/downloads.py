"""Saves an attachment: makes its name safe, refuses a hostile address, overwrites nothing.

Knows: file names, the addresses a file may come from, size limits (reliability.md §8.5), where an attachment's
address is found. Must not know: any dialect's wire, tokens: a presigned address carries its own authority, and is sent
no header of guestctl.
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
from guestctl.dialects.features import FileTransfer
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.send import recent
from guestctl.transport.hosts import is_loopback

if TYPE_CHECKING:
    from guestctl.transport.http import Http


#: Largest file that is downloaded, in bytes.
DOWNLOAD_LIMIT = 64 * 1024 * 1024
#: Longest file name written, in bytes.
NAME_BYTES = 200
#: File names that are devices on Windows.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class Stale(Refused):
    """The attachment's address has expired. A fresh one may be requested."""


def download(
    engine: SessionEngine,
    files: FileTransfer,
    attachment_id: str,
    to: Path,
    deadline: Deadline,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Save an attachment of the session into the folder (or under the new name) `to`; return the path written.

    The service is asked for a current address, and once more if that has expired by the time it is used. Raises as
    `save` does.
    """
    local = is_loopback(urlsplit(engine.dialect.rest("/")).hostname or "")

    def attempt() -> Path:
        located = locate(engine, files, attachment_id, deadline)
        return save(
            engine.connector.http,
            located,
            attachment_id,
            to,
            deadline,
            limit=DOWNLOAD_LIMIT,
            local=local,
            progress=progress,
        )

    try:
        return attempt()
    except Stale:
        return attempt()


def locate(
    engine: SessionEngine, files: FileTransfer, attachment_id: str, deadline: Deadline
) -> tuple[Request, str | None]:
    """Return the request that fetches an attachment, and the file name offered for it.

    If the service gives no address, the one in a recent message is used. Raises Refused when there is none either.
    """
    try:
        return engine.perform(files.download(engine.session, attachment_id), deadline)
    except Refused as refusal:
        for message in reversed(recent(engine, deadline)):
            for attachment in message.attachments:
                if attachment.id == attachment_id and attachment.url is not None:
                    request = Request("GET", attachment.url.reveal(), "download", idempotent=True)
                    return request, attachment.name
        refusal.hint = "`guestctl history -o table` shows the ids of attachments"
        raise refusal


def safe_name(offered: str | None, fallback: str) -> str:
    """Return a file name without folders, control characters, bidi marks and device names.

    When nothing is left of `offered`, the name is made from `fallback`.
    """
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
    """Return whether a file may be fetched from this address. `local`: the service itself is on loopback."""
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
    """Fetch a file into the folder `to`, or under the new file name `to`; return the path written.

    `located` is the request and the offered file name, `limit` the largest size in bytes. Raises UsageError when the
    file exists or cannot be written, Stale when the address has expired, Refused for an address that is not allowed
    or a file over the limit, Unreadable for a redirect, which is not followed. A partial file is removed.
    """
    request, offered = located
    if not allowed(request.url, local=local):
        raise Refused("no file may be fetched from the attachment's address", code="service.file")
    target = to / safe_name(offered, attachment_id) if to.is_dir() else to
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # with O_EXCL, a symbolic link is not followed either
    try:
        descriptor = os.open(target, flags, 0o600)
    except FileExistsError:
        raise UsageError(f'"{target}" exists', hint="give another name with `--to`; nothing is overwritten") from None
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
