"""Changes to single lines of a YAML file, so that comments stay where the user wrote them.

Knows: how block mappings are laid out in lines, and the line of each key. Must not know: what a profile contains,
files.

Each function returns the changed text, or None where the text has another layout (a flow mapping, an alias). The caller
compares the meaning of the result with what it wants.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from guestctl.core.strict_yaml import Located, parse
from guestctl.core.values import Json

#: A scalar: in quotes, or plain up to a comment or a colon.
_SCALAR = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s"'#&*!|>{}\[\],?%@`-][^#]*?)"""
_KEY = re.compile(rf"(?P<indent> *){_SCALAR}(?P<rest>\s*:(?:[ \t].*)?)", re.DOTALL)
_LINE = re.compile(
    rf"(?P<key> *{_SCALAR}\s*:[ \t]+)(?:{_SCALAR}|\{{[^#]*\}}|\[[^#]*\])(?P<comment>\s*(?:#.*)?)", re.DOTALL
)
_OPEN = re.compile(rf" *{_SCALAR}\s*:\s*(?:#.*)?", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
#: Words that are no texts in YAML.
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def lines_of(text: str) -> list[str]:
    """Return lines with their ends. Python's `splitlines` knows more line ends than YAML."""
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)


def without(text: str, path: Sequence[str]) -> str | None:
    """Remove the key at this path and everything that belongs to it."""
    lines = lines_of(text)
    at = _line(text, path)
    if at is None or not _KEY.fullmatch(_content(lines[at])):
        return None
    return "".join([*lines[:at], *lines[_end(lines, at) :]])


def with_name(text: str, path: Sequence[str], name: str) -> str | None:
    """Give the key at this path another name."""
    lines = lines_of(text)
    at = _line(text, path)
    found = None if at is None else _KEY.fullmatch(_content(lines[at]))
    if at is None or found is None:
        return None
    return _replaced(lines, at, f"{found['indent']}{_scalar(name)}{found['rest']}")


def with_value(text: str, path: Sequence[str], value: Json) -> str | None:
    """Set the value of the key at this path.

    A key that does not exist is added at the end of its mapping, and so is one whose value has lines of its own.
    """
    lines = lines_of(text)
    at = _line(text, path)
    if at is not None:
        found = _LINE.fullmatch(_content(lines[at]))
        if found is not None:
            return _replaced(lines, at, f"{found['key']}{_written(value)}{found['comment']}")
        cut = without(text, path)
        return None if cut is None else with_value(cut, path, value)
    above = _line(text, path[:-1])
    if above is None or not _OPEN.fullmatch(_content(lines[above])):
        return None
    end = _end(lines, above)
    inner = next((line for line in lines[above + 1 : end] if line.strip() and not line.lstrip().startswith("#")), None)
    step = _indent(lines[above]) or 2
    indent = _indent(lines[above]) + step if inner is None else _indent(inner)
    line_end = lines[above][len(_content(lines[above])) :] or "\n"
    before = lines[:end]
    if not before[-1].endswith(("\r", "\n")):
        before[-1] += line_end
    return "".join([*before, f"{' ' * indent}{_scalar(path[-1])}: {_written(value)}{line_end}", *lines[end:]])


def _written(value: Json) -> str:
    """Return a value on one line: a text as a scalar, a tree as a flow mapping."""
    return _scalar(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _line(text: str, path: Sequence[str]) -> int | None:
    """Return the line of a key, from 0, None if there is no such key."""
    found: Located = parse(text, "")
    for name in path:
        if not isinstance(found.value, Mapping) or name not in found.value:
            return None
        found = found.value[name]
    return found.line - 1


def _end(lines: Sequence[str], at: int) -> int:
    """Return the line after everything that belongs to the key on line `at`."""
    indent = _indent(lines[at])
    end = at + 1
    for number in range(at + 1, len(lines)):
        if not lines[number].strip():
            continue
        if _indent(lines[number]) <= indent:
            break  # the next key, or a comment before it
        end = number + 1
    return end


def _replaced(lines: Sequence[str], at: int, content: str) -> str:
    return "".join([*lines[:at], content + lines[at][len(_content(lines[at])) :], *lines[at + 1 :]])


def _content(line: str) -> str:
    return line.rstrip("\r\n")


def _scalar(text: str) -> str:
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else json.dumps(text, ensure_ascii=False)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
