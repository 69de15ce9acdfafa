"""The agent desk and the fault switches: what a page asks for, checked and passed on.

Knows: the bodies of the page's requests. Must not know: HTTP, the feed, how a source performs what it is asked for.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

Body: TypeAlias = Mapping[str, Any]


class CannotDo(Exception):
    """The source cannot do what the page asks for. The text is one line for people."""


class Controls(Protocol):
    """What a page may control and see of a source. Methods are called in the thread of the server's event loop.

    `can` has `agent`, `faults` and `guest`, as far as they are possible. Methods raise `CannotDo`.
    """

    @property
    def can(self) -> Sequence[str]: ...

    @property
    def guest(self) -> Mapping[str, str] | None:
        """The `socket_url` and the `deployment_id` for a guest in the page, None without one."""

    def sessions(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the `api`, `state`, `sockets`, `messages` and `started` of each session, by its id."""

    def send_text(self, session: str, text: str) -> None: ...

    def send_content(self, session: str, text: str | None, content: Sequence[Mapping[str, Any]]) -> None: ...

    def send_file(self, session: str, name: str, content_type: str, content: bytes) -> None: ...

    def show_typing(self, session: str) -> None: ...

    def end(self, session: str) -> None: ...

    def armed(self) -> Sequence[Mapping[str, Any]]:
        """Return the `spec`, `kind`, `times_left` and `fired` of each armed fault."""

    def kinds(self) -> Sequence[Mapping[str, Any]]:
        """Return the `kind`, `keys` and `about` of each kind of fault."""

    def add_faults(self, specs: Sequence[str]) -> None: ...

    def remove_fault(self, spec: str) -> None: ...

    def clear_faults(self) -> None: ...


class Desk:
    """Performs the requests of a page with the controls of the source."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls

    def send(self, body: Body) -> None:
        """Perform one thing that an agent can do. Raises CannotDo."""
        session = _text(body, "session")
        asked = [name for name in ("content", "file", "typing", "end") if body.get(name)] or ["text"]
        if len(asked) > 1 or (asked[0] not in {"text", "content"} and "text" in body):
            raise CannotDo("give one of text, content, file, typing and end")
        actions: dict[str, Callable[[], None]] = {
            "text": lambda: self._controls.send_text(session, _text(body, "text")),
            "content": lambda: self._controls.send_content(session, _some_text(body), _content(body)),
            "file": lambda: self._controls.send_file(session, *_file(body)),
            "typing": lambda: self._controls.show_typing(session),
            "end": lambda: self._controls.end(session),
        }
        actions[asked[0]]()

    def faults(self, body: Body) -> None:
        """Arm, remove or clear faults. Raises CannotDo."""
        asked = [name for name in ("add", "remove", "clear") if body.get(name) not in (None, False)]
        if asked == ["add"]:
            specs = body["add"]
            if not isinstance(specs, list) or not all(isinstance(spec, str) for spec in specs):
                raise CannotDo("add is a list of fault specs")
            self._controls.add_faults(specs)
        elif asked == ["remove"]:
            self._controls.remove_fault(_text(body, "remove"))
        elif asked == ["clear"] and body["clear"] is True:
            self._controls.clear_faults()
        else:
            raise CannotDo("give one of add, remove and clear")


def _text(body: Body, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise CannotDo(f"{name} is empty or not a text")
    return value


def _some_text(body: Body) -> str | None:
    return _text(body, "text") if body.get("text") is not None else None


def _content(body: Body) -> Sequence[Mapping[str, Any]]:
    content = body.get("content")
    if not isinstance(content, list) or not content or not all(isinstance(item, dict) for item in content):
        raise CannotDo("content is not a list of objects")
    return content


def _file(body: Body) -> tuple[str, str, bytes]:
    file = body.get("file")
    if not isinstance(file, dict):
        raise CannotDo("file is not an object")
    try:
        content = base64.b64decode(_text(file, "base64"), validate=True)
    except (binascii.Error, ValueError):
        raise CannotDo("the file is not valid Base64") from None
    return _text(file, "name"), _text(file, "type"), content
