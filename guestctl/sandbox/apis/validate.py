"""Checks of bodies and frames, and the refusal when a check fails.

Knows: JSON objects and their members. Must not know: any API, conversations, sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from guestctl.sandbox.interfaces import RequestRefused, ServerRequest, decode, error
from guestctl.sandbox.service_state import dumps

Members: TypeAlias = Mapping[str, Any]


class InvalidRequest(RequestRefused):
    """A refusal with its parts, for APIs that send it in a frame instead of a reply."""

    def __init__(self, status: int, message: str | None = None, code: str | None = None, **headers: str) -> None:
        super().__init__(error(status, message, code, **headers))
        body = decode(self.reply.body)
        self.status = status
        self.message: str = body["message"]
        self.code: str = body["code"]


def ended() -> InvalidRequest:
    """Return the refusal for an ended conversation. Only a new conversation helps (other-apis.md, "guest-sessions")."""
    return InvalidRequest(409, "The session has ended.", "session.invalid")


def members(value: str | bytes) -> Members:
    """Parse a JSON object. Raises InvalidRequest."""
    try:
        found = decode(value)
    except ValueError:
        raise InvalidRequest(400, "This is not JSON") from None
    if not isinstance(found, dict):
        raise InvalidRequest(400, "This is not a JSON object")
    return found


def body_of(request: ServerRequest, *, may_be_empty: bool = False) -> Members:
    """Return the object in a request's body. With `may_be_empty`, no body is an empty object. Raises InvalidRequest."""
    return {} if may_be_empty and not request.body else members(request.body)


def text(holder: Members, name: str, at: str = "") -> str:
    """Return a member that is a string and not blank. Raises InvalidRequest."""
    found = holder.get(name)
    if not isinstance(found, str) or not found.strip():
        raise InvalidRequest(400, f"{at}{name} is not a string, or is missing or empty")
    return found


def is_unknown_queue(queue: str) -> bool:
    """Return whether there is no queue with this id. The sandbox has every queue whose id does not start like this."""
    return queue.startswith("unknown")


def check_queue(queue: str) -> None:
    """Raise InvalidRequest for a queue that guests cannot be routed to."""
    if is_unknown_queue(queue):
        raise InvalidRequest(403, "The queue is not provisioned for web messaging.")


def text_or_none(holder: Members, name: str, at: str = "") -> str | None:
    return text(holder, name, at) if holder.get(name) is not None else None


def part(holder: Members, name: str, at: str = "") -> Members:
    """Return a member that is an object. Raises InvalidRequest."""
    found = holder.get(name)
    if not isinstance(found, dict):
        raise InvalidRequest(400, f"{at}{name} is not an object, or is missing")
    return found


def part_of(frame: Members, kind: str, name: str) -> Members:
    """Return the object in a frame of the type `kind`. Raises InvalidRequest."""
    if frame.get("type") != kind:
        raise InvalidRequest(400, f"type is not {kind}")
    return part(frame, name)


def part_or_empty(holder: Members, name: str, at: str = "") -> Members:
    return part(holder, name, at) if holder.get(name) is not None else {}


def number(request: ServerRequest, name: str, default: int, *, least: int = 1, most: int = 10**9) -> int:
    """Return a whole number from the query. Raises InvalidRequest."""
    written = request.query.get(name, str(default))
    if not (written.isascii() and written.isdigit() and len(written) < 11 and least <= int(written) <= most):
        raise InvalidRequest(400, f"{name} is not a whole number from {least} to {most}")
    return int(written)


def as_texts(attributes: Members) -> dict[str, str]:
    """Return attributes as bots and reports show them: values that are not strings become JSON."""
    return {key: value if isinstance(value, str) else dumps(value) for key, value in attributes.items()}
