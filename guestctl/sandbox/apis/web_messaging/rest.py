"""The public configuration and the history endpoint of web-messaging.

Knows: §3 and §7.1 of web-messaging.md. Must not know: sockets, the envelopes of frames, the server library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from guestctl.sandbox.apis.web_messaging.files import FileStore
from guestctl.sandbox.apis.web_messaging.frames import body_of, dashed
from guestctl.sandbox.interfaces import RequestRefused, Route, ServerReply, ServerRequest, error
from guestctl.sandbox.issued_tokens import Grant
from guestctl.sandbox.service_state import Conversation, SandboxDeployment, Service, StoredMessage

PAGE_LIMIT = 1000
_HIDDEN = ("cleared", "ended")
#: The content types that history can contain (§7.1).
_HISTORIC = {
    "Attachment", "QuickReply", "ButtonResponse", "GenericTemplate", "Card", "Carousel", "DatePicker", "ListPicker",
}  # fmt: skip


class Rest:
    """The REST requests of a guest. `signed_in` returns the sessions of a sign-in grant.

    History shows `metadata.customMessageId` only if `return_keys` is true (§11.4).
    """

    def __init__(
        self,
        service: Service,
        files: FileStore,
        signed_in: Callable[[Grant], Iterable[Conversation]],
        *,
        return_keys: bool,
    ) -> None:
        self._service = service
        self._files = files
        self._signed_in = signed_in
        self._return_keys = return_keys

    def routes(self) -> Sequence[Route]:
        configuration = "/webdeployments/v1/deployments/{id}"
        public: dict[str, Any] = {"any_origin": True, "counted": False}
        return (
            Route("GET", configuration + "/config.json", "configuration", self._config, **public),
            Route("GET", configuration + "/domains.json", "configuration", self._domains, **public),
            Route("GET", "/api/v2/webmessaging/messages", "history", self._history),
        )

    def _config(self, request: ServerRequest) -> ServerReply:
        deployment = self._deployment(request)
        conversations = {
            "messagingEndpoint": request.socket_base,
            "showAgentTypingIndicator": True,
            "showUserTypingIndicator": deployment.typing,
            "autoStart": {"enabled": deployment.auto_start},
            "markdown": {"enabled": True},
            "conversationDisconnect": {
                "enabled": deployment.disconnect != "off",
                "type": "ReadOnly" if deployment.disconnect == "ReadOnly" else "Send",
            },
            "conversationClear": {"enabled": deployment.clear},
            "humanize": {"enabled": False},
            "notifications": {"enabled": False, "notificationContentType": "ExcludeMessagesContent"},
            "sessionDurationSeconds": int(deployment.session_life),
        }
        modes = [{"fileTypes": list(deployment.file_types), "maxFileSizeKB": deployment.max_file_kb}]
        return ServerReply.json(
            200,
            {
                "id": dashed(deployment.id.replace("-", "")[::-1].ljust(32, "0")),
                "version": "1",
                "status": "Active" if deployment.active else "Inactive",
                "languages": ["en-us"],
                "defaultLanguage": "en-us",
                "apiEndpoint": request.base,
                "headlessMode": {"enabled": False},
                "messenger": {
                    "enabled": True,
                    "apps": {"conversations": conversations},
                    "styles": {"primaryColor": "#005f73"},
                    "launcherButton": {"visibility": "On"},
                    "fileUpload": {"enableAttachments": deployment.attachments, "modes": modes},
                },
                "journeyEvents": {"enabled": False},
                "auth": {"enabled": deployment.sign_in, "allowSessionUpgrade": deployment.session_upgrade},
            },
        )

    def _domains(self, request: ServerRequest) -> ServerReply:
        domains = self._deployment(request).origins
        return ServerReply.json(200, {"allowAllDomains": not domains, "allowedDomains": list(domains)})

    def _deployment(self, request: ServerRequest) -> SandboxDeployment:
        found = self._service.deployments.get(request.params["id"])
        if found is None:  # the reply of an object store for a missing object
            body = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
            raise RequestRefused(ServerReply(403, body, {"Content-Type": "application/xml"}))
        return found

    def _history(self, request: ServerRequest) -> ServerReply:
        conversation = self._reader(request)
        request.conversation = conversation
        if not conversation.deployment.allows(request.origin):
            return error(403, "The origin is not allowed by the deployment.", "origin.not.allowed")
        number, size = _number(request, "pageNumber", 1), _number(request, "pageSize", 25)
        if size > PAGE_LIMIT:
            return error(400, f"pageSize is above {PAGE_LIMIT}")
        thread = [self._service.conversations[id] for id in conversation.notes.get("earlier", ())]
        visible = [(one, self._service.visible(one, request.lag)) for one in (*thread, conversation)]
        total = sum(count for _, count in visible)
        newest = max(0, total - (number - 1) * size)
        page = _slice(visible, max(0, newest - size), newest)
        body = {
            "entities": [self._entity(*one, request.base) for one in reversed(page)],
            "pageSize": size,
            "pageNumber": number,
            "total": total,
            "pageCount": -(-total // size),
        }
        return ServerReply.json(200, body)

    def _reader(self, request: ServerRequest) -> Conversation:
        grant = self._service.tokens.live(request.bearer, "history", "sign-in")
        if grant is None:
            raise RequestRefused(error(401))
        if grant.kind == "sign-in":
            reachable = [c for c in self._signed_in(grant) if c.state not in _HIDDEN]
            if not reachable:
                raise RequestRefused(error(404, "There is no session for this guest."))
            # If there are several: the one that this JWT opened, else the youngest.
            return max(reachable, key=lambda c: (c.id == grant.conversation, c.created))
        found = self._service.conversations.get(grant.conversation or "")
        if found is None or found.state in _HIDDEN:
            raise RequestRefused(error(401))
        return found

    def _entity(self, conversation: Conversation, message: StoredMessage, base: str) -> dict[str, Any]:
        """Return a message as history shows it: no tracingId, fewer content types, a status."""
        body = body_of(message, lambda item: self._files.shown(conversation, item, base))
        if "content" in body:
            body["content"] = [item for item in body["content"] if item["contentType"] in _HISTORIC]
        if not self._return_keys:
            body["metadata"].pop("customMessageId", None)
        body["status"] = "Sent"
        return body


def _slice(
    visible: Sequence[tuple[Conversation, int]], start: int, end: int
) -> list[tuple[Conversation, StoredMessage]]:
    """Return the messages from `start` to before `end` of several conversations in a row, each with its own.

    `visible` has how many messages of each count.
    """
    page, before = [], 0
    for conversation, count in visible:
        first, last = max(0, start - before), min(count, end - before)
        if first < last:
            page += [(conversation, message) for message in conversation.messages[first:last]]
        before += count
    return page


def _number(request: ServerRequest, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise RequestRefused(error(400, f"{name} is not a positive whole number"))
    return int(text)
