"""A small, strict YAML: plain values with line numbers.

Knows: which YAML guestctl reads (reliability.md §8.8). Must not know: what the values mean.

Refused are tags, duplicate keys, keys that are not scalars, several documents, more than 20 levels
and more than 256 KiB. Anchors, aliases and merge keys are read as if everything was written out:
aliases may add at most another 256 KiB, and an alias inside its own anchor is refused. Scalars
follow the JSON schema: unquoted `null`, `true`, `false` and JSON numbers have their JSON meaning.
Everything else is text, so that `no`, `0123`, `12:30` and `2026-03-04` stay as written. JSON's
escapes for characters outside the BMP (`\\ud83d\\ude00`) are one character, as in JSON.
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
#: What aliases may add to a document, counted as if it was written out.
MAX_ALIASED = MAX_BYTES
#: The hint for a file that cannot be read or written.
PERMISSIONS = "check the file's name and permissions"

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", re.ASCII)
#: A character or name in a message of the YAML parser.
_QUOTED = re.compile(r"'(.+?)'(?!')")
_LITERALS: Mapping[str, bool | None] = {"": None, "null": None, "~": None, "true": True, "false": False}

#: A character outside the BMP as JSON escapes it, after an even number of backslashes.
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})", re.ASCII)

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


class _SurrogatePairs:
    """Hides escaped surrogate pairs from the YAML parser, which refuses them even in double quotes.

    Outside double quotes a backslash is an ordinary character. Only the parser knows where that is, so
    each pair becomes a private mark with its digits, and each scalar turns its marks into what they mean there.
    """

    def __init__(self, text: str) -> None:
        self._mark = None
        self.text = text
        if _PAIR.search(text):
            self._mark = next((mark for mark in map(chr, range(0xE000, 0xF900)) if mark not in text), None)
        if self._mark is not None:
            self.text = _PAIR.sub(rf"\1{self._mark}\2\3", text)

    def restored(self, text: str, *, escaped: bool) -> str:
        """Return a scalar's text. `escaped`: it stood in double quotes, where a pair is one character."""
        if self._mark is None:
            return text

        def meant(match: re.Match[str]) -> str:
            if not escaped:
                return f"\\u{match[1]}\\u{match[2]}"
            return bytes.fromhex(match[1] + match[2]).decode("utf-16-be")

        return re.sub(f"{self._mark}(.{{4}})(.{{4}})", meant, text)


@immutable
class _Anchored:
    """A node with an anchor: its value, its size written out, and how many levels of lists and mappings it has."""

    located: Located
    size: int
    levels: int


class _Reader:
    """Turns the parser's events into values. Events have no types, so YAML tags never construct objects."""

    def __init__(self, text: str, name: str) -> None:
        import yaml

        self._yaml = yaml
        self._name = name
        self._line = 1
        self._pairs = _SurrogatePairs(text)
        #: The nodes with an anchor so far. None: the node is not complete, so that an alias would contain itself.
        self._anchors: dict[str, _Anchored | None] = {}
        #: The size of what was read, written out: a node counts 1 and its characters.
        self._size = 0
        #: The part of `_size` that aliases added.
        self._aliased = 0
        #: The deepest level since the node with an anchor that is being read began.
        self._deepest = 0
        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            self._events = loader(self._pairs.text)
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
        line = key_line or self._line
        if isinstance(event, events.AliasEvent):
            return self._alias(event.anchor, depth, line)
        if getattr(event, "tag", None) is not None:
            raise self._error(f"tag {event.tag}: tags are not allowed; quote the value if it is text")
        if event.anchor is None:
            return self._content(event, depth, line)
        outer, self._deepest, before = self._deepest, depth - 1, self._size
        self._anchors[event.anchor] = None
        located = self._content(event, depth, line)
        self._anchors[event.anchor] = _Anchored(located, self._size - before, self._deepest - depth + 1)
        self._deepest = max(outer, self._deepest)
        return located

    def _alias(self, name: str, depth: int, line: int) -> Located:
        """Return the anchored node again. Its size and levels count as if it was written here."""
        if name not in self._anchors:
            raise self._error(f"alias *{name}: there is no anchor &{name} above it")
        anchored = self._anchors[name]
        if anchored is None:
            raise self._error(f"alias *{name}: it stands inside its own anchor")
        self._size += anchored.size
        self._aliased += anchored.size
        if self._aliased > MAX_ALIASED:
            raise self._error(f"alias *{name}: aliases repeat more than {MAX_ALIASED // 1024} KiB")
        self._reach(depth - 1 + anchored.levels)
        return Located(anchored.located.value, line, anchored.located.text)

    def _reach(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH} levels")
        self._deepest = max(self._deepest, depth)

    def _content(self, event: Any, depth: int, line: int) -> Located:
        events = self._yaml.events
        self._size += 1
        if isinstance(event, events.ScalarEvent):
            text = self._pairs.restored(event.value, escaped=event.style == '"')
            self._size += len(text)
            return Located(self._scalar(text, quoted=bool(event.style)), line, text)
        self._reach(depth)
        if isinstance(event, events.SequenceStartEvent):
            items = []
            while not isinstance(event := self._next(), events.SequenceEndEvent):
                items.append(self._node(event, depth + 1, None))
            return Located(items, line)
        return Located(self._members(depth), line)

    def _members(self, depth: int) -> dict[str, Located]:
        events = self._yaml.events
        members: dict[str, Located] = {}
        own: dict[str, int] = {}  # the keys that the mapping has itself, with their lines
        while not isinstance(event := self._next(), events.MappingEndEvent):
            line = self._line
            if isinstance(event, events.ScalarEvent) and event.value == "<<" and not event.style:
                for key, member in self._merged(depth, line).items():
                    members.setdefault(key, member)
                continue
            key_text = self._node(event, depth + 1, None).text
            if key_text is None:
                raise UsageError(f"{self._name}:{line}: a key must be plain text", code="config.file")
            if key_text in own:
                raise self._error(f'key "{key_text}" is already set in line {own[key_text]}')
            own[key_text] = line
            members[key_text] = self._node(self._next(), depth + 1, line)
        return members

    def _merged(self, depth: int, line: int) -> dict[str, Located]:
        """Return the members that a merge key adds: those of a mapping, or of several, of which the first counts."""
        value = self._node(self._next(), depth + 1, line).value
        sources = [value] if isinstance(value, Mapping) else value
        found: dict[str, Located] = {}
        for source in sources if isinstance(sources, list) else [None]:
            inner = source.value if isinstance(source, Located) else source
            if not isinstance(inner, Mapping):
                raise _error_at(self._name, line, "merge key <<: it takes a mapping or a list of mappings")
            for key, member in inner.items():
                found.setdefault(key, member)
        return found

    def _scalar(self, text: str, *, quoted: bool) -> str | int | float | bool | None:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise self._error("an escape is half of a surrogate pair, which is not a character")
        if quoted:  # or a block: text, whatever it looks like
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
        line = "".join(self._pairs.text.split("\n")[mark.line :][:1]) if mark is not None else ""
        if mark is not None and line[mark.column : mark.column + 1] == "\t":
            problem = "a tab; YAML is indented with spaces"
        return self._error(_QUOTED.sub(r'"\1"', str(problem)))

    def _error(self, problem: str) -> UsageError:
        return _error_at(self._name, self._line, problem)
