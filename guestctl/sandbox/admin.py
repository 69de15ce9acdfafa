"""The admin endpoint: what a test may read and control.

Knows: the operations of the admin endpoint (contract.md §7). Must not know: the server library, the wire of any API.
No reply contains a token, a JWT or a presigned address.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from guestctl.core.clock import rfc3339
from guestctl.sandbox.faults import FaultError, Faults
from guestctl.sandbox.interfaces import RequestRefused, ServerReply, ServerRequest
from guestctl.sandbox.service_state import Conversation, Service, dumps
from guestctl.sandbox.session_changes import SessionChanges

PATH = "/sandbox/admin"
_ENDED = ("ended", "cleared", "expired", "read-only")
#: Seconds that a request for changes may wait: a connection that is quiet for longer may be cut.
_LONGEST_WAIT = 20
_MOST = 10**15 - 1


class Admin:
    """Answers requests under `PATH`. Each needs `Authorization: Bearer KEY`."""

    def __init__(self, service: Service, faults: Faults, key: str, changes: SessionChanges) -> None:
        self._service = service
        self._changes = changes
        self._faults = faults
        self._key = key.encode()
        self._operations = {
            ("GET", "/health"): lambda request: {"status": "ok"},
            ("GET", "/sessions"): lambda request: self.sessions(),
            ("GET", "/faults"): lambda request: {"specs": list(self._faults.list())},
            ("DELETE", "/faults"): self._clear_faults,
            ("POST", "/faults"): self._add_faults,
            ("POST", "/push"): self._push,
            ("POST", "/end"): self._end,
            ("POST", "/disconnect"): self._disconnect,
            ("POST", "/expire"): self._expire,
        }

    def check_key(self, request: ServerRequest) -> ServerReply | None:
        """Return the refusal of a request without the admin key."""
        if not hmac.compare_digest((request.bearer or "").encode(), self._key):
            return _problem(401, "the admin key is missing or wrong")
        return None

    async def answer(self, request: ServerRequest) -> ServerReply:
        """Answer a request with the admin key. A request for changes of sessions waits until there are any."""
        if (request.method, request.path) != ("GET", f"{PATH}/sessions/changes"):
            return self.handle(request)
        try:
            since, wait = _number(request, "since", 0, _MOST), _number(request, "wait", _LONGEST_WAIT, _LONGEST_WAIT)
        except RequestRefused as refused:
            return refused.reply
        if request.query.get("instance") != self._changes.instance:
            since = 0  # the versions are those of an earlier sandbox
        version, changed = await self._changes.since(since, wait)
        sessions = [{"id": conversation.id, **conversation.summary()} for conversation in changed]
        return ServerReply.json(200, {"instance": self._changes.instance, "version": version, "sessions": sessions})

    def handle(self, request: ServerRequest) -> ServerReply:
        """Answer a request that does not wait."""
        path = request.path.removeprefix(PATH)
        operation = self._operations.get((request.method, path))
        if operation is None:
            known = [method for method, name in self._operations if name == path]
            return _problem(405, f"use {' or '.join(known)}") if known else _problem(404, "no such admin operation")
        try:
            return ServerReply.json(200, operation(request))
        except RequestRefused as refused:
            return refused.reply

    def sessions(self) -> dict[str, Any]:
        """Return every session with its accepted messages, oldest first, and all requests by route."""
        return {
            "sessions": [_report(conversation) for conversation in self._service.conversations.values()],
            "requests": dict(self._service.requests),
        }

    def push(
        self, text: str | None = None, *, frame: str | None = None, to: str | None = None, name: str | None = None
    ) -> int:
        """Send a message as the agent to one session, or to all that have not ended. Return how many."""
        targets = self._targets(to)
        for conversation in targets:
            if frame is not None:
                self._service.apis[conversation.api].pushed(conversation, frame)
            else:
                self._service.send(conversation, text, role="agent", name=name)
        return len(targets)

    def _push(self, request: ServerRequest) -> dict[str, Any]:
        body = _body(request, "text", "frame", "to", "name")
        text, frame = body.get("text"), body.get("frame")
        if (text is None) == (frame is None):
            raise _refused(400, "give either text or frame")
        if text is not None and not (isinstance(text, str) and text):
            raise _refused(400, "text is empty or not a string")
        raw = frame if frame is None or isinstance(frame, str) else dumps(frame)
        return {"pushed": self.push(text, frame=raw, to=_name(body, "to"), name=_name(body, "name"))}

    def _end(self, request: ServerRequest) -> dict[str, Any]:
        """End the conversation as the agent."""
        targets = self._targets(_name(_body(request, "to"), "to"))
        for conversation in targets:
            self._service.apis[conversation.api].ended(conversation, "agent")
        return {"ended": len(targets)}

    def _disconnect(self, request: ServerRequest) -> dict[str, Any]:
        """Close sockets with `code` (default 1001). 1006 resets them."""
        body = _body(request, "to", "code")
        code = body.get("code", 1001)
        if not isinstance(code, int) or isinstance(code, bool) or not 1 <= code <= 65535:
            raise _refused(400, "code is not a close code")
        to = _name(body, "to")
        targets = [self._find(to)] if to else list(self._service.conversations.values())
        sockets = [observer for conversation in targets for observer in conversation.observers if observer.open]
        for socket in sockets:
            socket.close(code)
        return {"disconnected": len(sockets)}

    def _expire(self, request: ServerRequest) -> dict[str, Any]:
        body = _body(request, "to", "token")
        only_token = body.get("token", False)
        if not isinstance(only_token, bool):
            raise _refused(400, "token is true or false")
        targets = self._targets(_name(body, "to"))
        for conversation in targets:
            if only_token:
                self._service.expire_token(conversation)
            else:
                self._service.expire(conversation)
        return {"expired": len(targets)}

    def _add_faults(self, request: ServerRequest) -> dict[str, Any]:
        specs = _body(request, "specs").get("specs")
        if not isinstance(specs, list) or not all(isinstance(spec, str) for spec in specs):
            raise _refused(400, "specs is a list of strings")
        try:
            self._faults.add_all(specs)
        except FaultError as problem:
            raise _refused(400, str(problem)) from None
        return {"specs": list(self._faults.list())}

    def _clear_faults(self, request: ServerRequest) -> dict[str, Any]:
        self._faults.clear()
        return {"specs": []}

    def _targets(self, to: str | None) -> list[Conversation]:
        if to is None:
            return [c for c in tuple(self._service.conversations.values()) if self._service.live(c)]
        found = self._find(to)
        if found.state in _ENDED:
            raise _refused(409, f"session {to} has ended ({found.state})")
        return [found]

    def _find(self, to: str) -> Conversation:
        found = self._service.conversations.get(to)
        if found is None:
            raise _refused(404, "no session has this id; see `sandbox sessions`")
        return found


def _report(conversation: Conversation) -> dict[str, Any]:
    requests = conversation.requests
    return {
        "id": conversation.id,
        "guest": conversation.guest_id,
        "api": conversation.api,
        "state": conversation.state,
        "created_at": rfc3339(conversation.created),
        "sockets": sum(observer.open for observer in conversation.observers),
        "refreshes": requests["refresh"],
        "configures": requests["create"],
        "requests": dict(requests),
        "traceparent": next(reversed(conversation.traces.values()), None),
        "traceparents": conversation.traces,
        "attributes": conversation.attributes,
        "complaints": conversation.complaints,
        "messages": [
            {
                "id": message.id,
                "key": message.key,
                "direction": message.direction,
                "role": message.role,
                "text": message.text,
                "time": message.time,
                **({"content": message.content} if message.content else {}),
            }
            for message in conversation.messages
            if message.kind != "event"
        ],
    }


def _number(request: ServerRequest, name: str, default: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 15 and int(text) <= most):
        raise _refused(400, f"{name} is not a whole number from 0 to {most}")
    return int(text)


def _body(request: ServerRequest, *keys: str) -> Mapping[str, Any]:
    try:
        body = request.json() if request.body else {}
    except ValueError:
        raise _refused(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise _refused(400, "the body is not an object")
    unknown = sorted(set(body) - set(keys))
    if unknown:
        raise _refused(400, f'unknown key "{unknown[0]}"; known: {", ".join(keys)}')
    return body


def _name(body: Mapping[str, Any], key: str) -> str | None:
    value = body.get(key)
    if value is None or (isinstance(value, str) and value):
        return value
    raise _refused(400, f"{key} is not a name")


def _problem(status: int, message: str) -> ServerReply:
    return ServerReply.json(status, {"message": message})


def _refused(status: int, message: str) -> RequestRefused:
    return RequestRefused(_problem(status, message))
