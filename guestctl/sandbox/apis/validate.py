"""What a body or a frame must hold, and how a guest is told that it does not.

Knows: JSON objects and their members. Must not know: any dialect, conversations, sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from guestctl.sandbox.interfaces import RequestRefused, ServerRequest, decode, error
from guestctl.sandbox.service_state import dumps

Members: TypeAlias = Mapping[str, Any]


class InvalidRequest(RequestRefused):
    """A refusal with its parts, for families that say it in a frame instead of a reply."""

    def __init__(self, status: int, message: str | None = None, code: str | None = None, **headers: str) -> None:
        super().__init__(error(status, message, code, **headers))
        body = decode(self.reply.body)
        self.status = status
        self.message: str = body["message"]
        self.code: str = body["code"]


def ended() -> InvalidRequest:
    """The conversation is over; only a new one helps (other-apis.md, `guest-sessions`)."""
    return InvalidRequest(409, "The session has ended.", "session.invalid")


def members(value: str | bytes) -> Members:
    """A JSON object. Raises InvalidRequest."""
    try:
        found = decode(value)
    except ValueError:
        raise InvalidRequest(400, "This is not JSON") from None
    if not isinstance(found, dict):
        raise InvalidRequest(400, "This is not a JSON object")
    return found


def body_of(request: ServerRequest, *, may_be_empty: bool = False) -> Members:
    """A request's object; no body is an empty one where the published code sends none. Raises InvalidRequest."""
    return {} if may_be_empty and not request.body else members(request.body)


def text(holder: Members, name: str, at: str = "") -> str:
    """A string that says something. Raises InvalidRequest."""
    found = holder.get(name)
    if not isinstance(found, str) or not found.strip():
        raise InvalidRequest(400, f"{at}{name} is not a string, or is missing or empty")
    return found


def text_or_none(holder: Members, name: str, at: str = "") -> str | None:
    return text(holder, name, at) if holder.get(name) is not None else None


def part(holder: Members, name: str, at: str = "") -> Members:
    """An object within. Raises InvalidRequest."""
    found = holder.get(name)
    if not isinstance(found, dict):
        raise InvalidRequest(400, f"{at}{name} is not an object, or is missing")
    return found


def part_of(frame: Members, kind: str, name: str) -> Members:
    """What a frame of this type carries. Raises InvalidRequest."""
    if frame.get("type") != kind:
        raise InvalidRequest(400, f"type is not {kind}")
    return part(frame, name)


def part_or_empty(holder: Members, name: str, at: str = "") -> Members:
    return part(holder, name, at) if holder.get(name) is not None else {}


def number(request: ServerRequest, name: str, default: int, *, least: int = 1, most: int = 10**9) -> int:
    """A whole number of the query. Raises InvalidRequest."""
    written = request.query.get(name, str(default))
    if not (written.isascii() and written.isdigit() and len(written) < 11 and least <= int(written) <= most):
        raise InvalidRequest(400, f"{name} is not a whole number from {least} to {most}")
    return int(written)


def as_texts(attributes: Members) -> dict[str, str]:
    """Attributes as bots and reports see them: what is not a string is shown as JSON."""
    return {key: value if isinstance(value, str) else dumps(value) for key, value in attributes.items()}
