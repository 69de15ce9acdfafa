"""A small, strict YAML: plain values with line numbers.

Knows: which YAML guestctl reads (reliability.md §8.8). Must not know: what the values mean.

Refused are anchors, aliases, merge keys, tags, duplicate keys, keys that are not scalars, several
documents, more than 20 levels and more than 256 KiB. Scalars follow the JSON schema: unquoted
`null`, `true`, `false` and JSON numbers have their JSON meaning. Everything else is text, so that
`no`, `0123`, `12:30` and `2026-03-04` stay as written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from guestctl.core.errors import UsageError
from guestctl.core.input_files import read_bytes
from guestctl.core.values import Json, immutable

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
#: The hint for a file that cannot be read or written.
PERMISSIONS = "Check the file's name and permissions."

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", re.ASCII)
_LITERALS: Mapping[str, bool | None] = {"": None, "null": None, "~": None, "true": True, "false": False}

Value: TypeAlias = "str | int | float | bool | Sequence[Located] | Mapping[str, Located] | None"


@immutable
class Located:
    """A value and its line, counted from 1: for a member of a mapping, the line of its key.

    `text` is a scalar as written, whatever its type; None for lists and mappings.
    """

    value: Value
    line: int
    text: str | None = None

    def plain(self) -> Json:
        """Return the value without line numbers."""
        if isinstance(self.value, Mapping):
            return {key: member.plain() for key, member in self.value.items()}
        if self.text is None and isinstance(self.value, Sequence):
            return [item.plain() for item in self.value if isinstance(item, Located)]
        return self.value


def read(path: Path) -> Located:
    """Return the document in a file. Raises UsageError `config.file` if it cannot be read or is not valid."""
    try:
        content = read_bytes(path, MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{path}: {why}", code="config.file", hint=PERMISSIONS) from error
    return parse_bytes(content, str(path))


def parse_bytes(content: bytes, name: str) -> Located:
    """Return the one document in UTF-8 bytes, with or without a byte order mark.

    `name` is the file's name for errors. Raises UsageError `config.file`.
    """
    if len(content) > MAX_BYTES:
        raise _error_at(name, 1, f"larger than {MAX_BYTES // 1024} KiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _error_at(name, content.count(b"\n", 0, error.start) + 1, "not UTF-8") from error
    return parse(text, name)


def parse(text: str, name: str) -> Located:
    """Return the one document in `text`; null for an empty text.

    `name` is the file's name for errors. Raises UsageError `config.file`.
    """
    if len(text) > MAX_BYTES:
        raise _error_at(name, 1, f"larger than {MAX_BYTES // 1024} KiB")
    return _Reader(text, name).document()


def _error_at(name: str, line: int, problem: str) -> UsageError:
    return UsageError(f"{name}:{line}: {problem}", code="config.file")


class _Reader:
    """Turns the parser's events into values. Events have no types, so YAML tags never construct objects."""

    def __init__(self, text: str, name: str) -> None:
        import yaml

        self._yaml = yaml
        self._name = name
        self._text = text
        self._line = 1
        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            self._events = loader(text)
        except (yaml.YAMLError, ValueError) as error:
            raise self._unreadable(error) from error

    def document(self) -> Located:
        events = self._yaml.events
        self._next()  # stream start
        if isinstance(self._next(), events.StreamEndEvent):
            return Located(None, 1, "")
        root = self._node(self._next(), 1, None)
        self._next()  # document end
        if not isinstance(self._next(), events.StreamEndEvent):
            raise self._error("a second document starts here; a file has one")
        return root

    def _next(self) -> Any:
        try:
            event = self._events.get_event()
        except (self._yaml.YAMLError, ValueError, ArithmeticError, LookupError) as error:
            # The parser also raises the errors of chr() and decode() for bad escapes.
            raise self._unreadable(error) from error
        self._line = event.start_mark.line + 1
        return event

    def _node(self, event: Any, depth: int, key_line: int | None) -> Located:
        events = self._yaml.events
        if isinstance(event, events.AliasEvent):
            raise self._error(f"alias *{event.anchor}: aliases are not allowed; write the value out")
        if getattr(event, "anchor", None) is not None:
            raise self._error(f"anchor &{event.anchor}: anchors are not allowed; write the value out")
        if getattr(event, "tag", None) is not None:
            raise self._error(f"tag {event.tag}: tags are not allowed; quote the value if it is text")
        line = key_line or self._line
        if isinstance(event, events.ScalarEvent):
            return Located(self._scalar(event), line, event.value)
        if depth > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, events.SequenceStartEvent):
            items = []
            while not isinstance(event := self._next(), events.SequenceEndEvent):
                items.append(self._node(event, depth + 1, None))
            return Located(items, line)
        return Located(self._members(depth), line)

    def _members(self, depth: int) -> dict[str, Located]:
        events = self._yaml.events
        members: dict[str, Located] = {}
        while not isinstance(event := self._next(), events.MappingEndEvent):
            line = self._line
            if isinstance(event, events.ScalarEvent) and event.value == "<<" and not event.style:
                raise self._error("merge key <<: merge keys are not allowed; write the members out")
            key = self._node(event, depth + 1, None).text
            if key is None:
                raise UsageError(f"{self._name}:{line}: a key must be plain text", code="config.file")
            if key in members:
                raise self._error(f'key "{key}" is already set in line {members[key].line}')
            members[key] = self._node(self._next(), depth + 1, line)
        return members

    def _scalar(self, event: Any) -> str | int | float | bool | None:
        text: str = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise self._error("an escape is half of a surrogate pair, which is not a character")
        if event.style:  # quoted or a block: text, whatever it looks like
            return text
        if text in _LITERALS:
            return _LITERALS[text]
        number = _NUMBER.fullmatch(text)
        if number is None:
            return text
        if number.group(1) is None and number.group(2) is None:
            if len(text) > 100:
                raise self._error("a number of more than 100 digits; quote it if it is text")
            return int(text)
        if not math.isfinite(value := float(text)):
            raise self._error(f"{text} is too large for a number; quote it if it is text")
        return value

    def _unreadable(self, error: Exception) -> UsageError:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        if mark is not None:
            self._line = mark.line + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        # YAML also ends lines at other characters, so its line number may exceed the number of "\n".
        line = "".join(self._text.split("\n")[mark.line :][:1]) if mark is not None else ""
        if mark is not None and line[mark.column : mark.column + 1] == "\t":
            problem = "a tab; YAML is indented with spaces"
        return self._error(str(problem))

    def _error(self, problem: str) -> UsageError:
        return _error_at(self._name, self._line, problem)
