"""Attachments of guests: announced, uploaded, scanned, downloaded.

Knows: §5.6 and §7.3 of web-messaging.md. Must not know: sessions and their states, the server library.

No path of a request reaches the file system: files are part of the service's state. The verdict on an upload goes to
the socket that announced it (§12 #27), or to all sockets of the session if that one has closed.
"""

from __future__ import annotations

import hmac
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

from guestctl.core.clock import rfc3339
from guestctl.sandbox.apis.web_messaging.frames import Frame, GuestError, envelope, media_type
from guestctl.sandbox.interfaces import Peer, Route, ServerReply, ServerRequest, error
from guestctl.sandbox.service_state import Conversation, Item, Service, StoredAttachment

DOWNLOAD_LIFE = 600
NAME_LIMIT = 255
SCAN = 0.02  # seconds that the virus scan takes
#: The socket that announced a file, if this run knows it. A weak reference: the file may outlive the socket.
_Announcer: TypeAlias = weakref.ref[Peer] | None
_TAGGING = "organizationId=sandbox&originPlatform=PureCloud&role=guest&owner=sandbox"


class FileStore:
    """The attachments of every session."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._files: dict[str, tuple[Conversation, StoredAttachment, _Announcer]] = {}

    def add(self, conversation: Conversation) -> None:
        """Add the attachments of a conversation that was loaded from a file."""
        for attachment in conversation.attached.values():
            self._files[attachment.id] = (conversation, attachment, None)

    def routes(self) -> Sequence[Route]:
        return (
            Route(
                "PUT", "/uploads/{id}", "upload", self._upload, any_origin=True, large=True, check=self._check_upload
            ),
            Route("GET", "/api/v2/downloads/{id}", "download", self._download, any_origin=True),
        )

    def announce(self, conversation: Conversation, peer: Peer, frame: Frame) -> StoredAttachment:
        """Accept the announcement of a file. Raises GuestError."""
        attachment = self._check_announcement(conversation, frame)
        self._files[attachment.id] = (conversation, attachment, weakref.ref(peer))
        self._service.attach(conversation, attachment)
        return attachment

    def presigned(self, attachment: StoredAttachment, base: str) -> Mapping[str, Any]:
        """Return the upload address. Without a header, some clients mistake it for a download address (§11.4)."""
        url = f"{base}/uploads/{quote(attachment.id)}?{urlencode({'signature': attachment.key})}"
        return self._description(attachment, url, {"x-amz-tagging": _TAGGING})

    def refreshed(self, attachment: StoredAttachment, base: str) -> Mapping[str, Any]:
        """Return a new download address."""
        return self._description(attachment, self._link(attachment, base), {})

    def delete(self, attachment: StoredAttachment, conversation: Conversation) -> None:
        """Delete an attachment that has not been sent. Raises GuestError."""
        if attachment.state == "sent":
            raise GuestError(400, "Attachment has been sent and cannot be deleted")
        attachment.state, attachment.data = "deleted", b""
        self._service.attach(conversation, attachment)

    def send(self, conversation: Conversation, identifier: str) -> None:
        """Mark an attachment as sent with a message."""
        attachment = conversation.attached[identifier]
        attachment.state = "sent"
        self._service.attach(conversation, attachment)

    def usable(self, conversation: Conversation, identifier: Any) -> StoredAttachment:
        """Return an attachment that passed the scan. Raises GuestError."""
        attachment = conversation.attached.get(identifier) if isinstance(identifier, str) else None
        if attachment is None or attachment.state == "deleted":
            raise GuestError(4009, "Attachment not found")
        if attachment.state not in ("uploaded", "sent"):
            raise GuestError(4010, "Attachment was not successfully uploaded")
        return attachment

    def offer(self, conversation: Conversation, name: str, type: str, data: bytes) -> Item:
        """Store a file of the agent, and return the content item that offers it. It is not scanned."""
        key = self._service.new_id()
        file = StoredAttachment(self._service.new_uuid(), name, type, len(data), key, "sent", data)
        self._files[file.id] = (conversation, file, None)
        self._service.attach(conversation, file)
        details = {"id": file.id, "filename": name, "fileSize": file.size, "mediaType": media_type(type), "mime": type}
        return {"contentType": "Attachment", "attachment": details}

    def shown(self, conversation: Conversation, item: Item, base: str) -> Item:
        """Return a content item with a new download address if it is an attachment of this conversation."""
        mine = conversation.attached.get(item["attachment"].get("id")) if "attachment" in item else None
        return item if mine is None else {**item, "attachment": {**item["attachment"], "url": self._link(mine, base)}}

    def _description(self, attachment: StoredAttachment, url: str, headers: Mapping[str, str]) -> Mapping[str, Any]:
        return {
            "attachmentId": attachment.id,
            "headers": headers,
            "url": url,
            "fileName": attachment.name,
            "fileSize": attachment.size,
            "fileType": attachment.type,
        }

    def _check_announcement(self, conversation: Conversation, frame: Frame) -> StoredAttachment:
        deployment = conversation.deployment
        name, type, size = frame.get("fileName"), frame.get("fileType"), frame.get("fileSize")
        identifier = frame.get("attachmentId", self._service.new_uuid())
        if not deployment.attachments:
            raise GuestError(4000, "Attachments are not available in this deployment")
        if (
            not isinstance(name, str)
            or not isinstance(type, str)
            or not isinstance(size, int)
            or isinstance(size, bool)
        ):
            raise GuestError(4020, "fileName, fileType and fileSize are required")
        if not isinstance(identifier, str) or not identifier or "/" in identifier or identifier in self._files:
            raise GuestError(400, "attachmentId is unusable or taken")
        if len(name) > NAME_LIMIT:
            raise GuestError(4005, f"File name is longer than {NAME_LIMIT} characters")
        if not name.strip() or any(c in '\\/{}^%`[]">~<#|' or ord(c) < 32 for c in name):
            raise GuestError(4004, "File name holds characters that are not allowed")
        if size <= 0:
            raise GuestError(4102, "File size is zero")
        if size // 1000 > deployment.max_file_kb:
            raise GuestError(4002, f"File is larger than {deployment.max_file_kb} KB")
        blocked = name.lower().endswith(tuple(deployment.blocked_extensions))
        if blocked or not any(_matches(type, pattern) for pattern in deployment.file_types):
            raise GuestError(4001, "File type is not allowed")
        return StoredAttachment(identifier, name, type, size, key=self._service.new_id())

    def _check_upload(self, request: ServerRequest) -> ServerReply | None:
        """Return the refusal of an upload, from its head alone: a refused body is not read."""
        found = self._files.get(request.params["id"])
        if found is None or not _signed(request, found[1].key):
            return error(403, "The address is not one we signed.")
        if found[1].state != "presigned":
            return error(403, "The address has been used.")
        if request.headers.get("x-amz-tagging") != _TAGGING:
            return error(403, "The signed headers are missing or changed.")
        return None

    def _upload(self, request: ServerRequest) -> ServerReply:
        refusal = self._check_upload(request)  # again: another upload may have been faster
        if refusal is not None:
            return refusal
        conversation, attachment, announcer = self._files[request.params["id"]]
        request.conversation = conversation
        attachment.state, attachment.data = "stored", request.body
        self._service.attach(conversation, attachment)
        self._service.later(SCAN, lambda: self._report_scan(conversation, attachment, announcer, request.base))
        return ServerReply(200)

    def _report_scan(
        self, conversation: Conversation, attachment: StoredAttachment, announcer: _Announcer, base: str
    ) -> None:
        """Send the verdict on an uploaded file. A file named `eicar…` is infected, so that tests can have one."""
        verdict: tuple[int, str] | None = None
        if len(attachment.data) != attachment.size:
            verdict = (4002, "File size is not the announced one")
        elif attachment.name.lower().startswith("eicar"):
            verdict = (4003, "File content is not allowed")
        stamp = {"attachmentId": attachment.id, "timestamp": rfc3339(self._service.clock.now())}
        attachment.state = "uploaded" if verdict is None else "failed"
        self._service.attach(conversation, attachment)
        if verdict is None:
            body = {**stamp, "downloadUrl": self._link(attachment, base)}
            event = envelope("UploadSuccessEvent", body, type="message")
        else:
            body = {**stamp, "errorCode": verdict[0], "errorMessage": verdict[1]}  # type: ignore[dict-item]
            event = envelope("UploadFailureEvent", body, type="message")
        peer = announcer() if announcer is not None else None
        if peer is not None and peer.open:
            peer.send(event, "upload")
        else:
            conversation.broadcast(event, "upload")

    def _link(self, attachment: StoredAttachment, base: str) -> str:
        until = int(self._service.clock.now()) + DOWNLOAD_LIFE
        signature = self._signature(attachment.id, str(until))
        return f"{base}/api/v2/downloads/{quote(attachment.id)}?{urlencode({'expires': until, 'signature': signature})}"

    def _signature(self, identifier: str, until: str) -> str:
        return hmac.new(self._service.tokens.key.encode(), f"{identifier} {until}".encode(), "sha256").hexdigest()

    def _download(self, request: ServerRequest) -> ServerReply:
        identifier, until = request.params["id"], request.query.get("expires", "")
        genuine = _signed(request, self._signature(identifier, until))
        found = self._files.get(identifier)
        if (
            not genuine
            or int(until) < self._service.clock.now()
            or found is None
            or found[1].state in ("failed", "deleted")
        ):
            return error(404, "The requested resource was not found.", "resource.not.found")
        request.conversation = found[0]
        headers = {
            "Content-Type": found[1].type if _clean_header(found[1].type) else "application/octet-stream",
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(found[1].name)}",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox",
        }
        return ServerReply(200, found[1].data, headers)


def _signed(request: ServerRequest, signature: str) -> bool:
    return hmac.compare_digest(signature.encode(), request.query.get("signature", "").encode())


def _matches(type: str, pattern: str) -> bool:
    return pattern == "*/*" or type == pattern or (pattern.endswith("/*") and type.startswith(pattern[:-1]))


def _clean_header(text: str) -> bool:
    return text.isascii() and text.isprintable()
