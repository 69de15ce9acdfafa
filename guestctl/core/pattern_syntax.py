"""The pattern syntax: JavaScript's regular expressions, translated for the library `regex`.

Knows: what every construct of a JavaScript pattern means, and how `regex` writes it. Must not know: which library
runs the result, how long a match may take.

One syntax serves check scripts, bot scripts, `--expect` and `--until`. It is JavaScript's as it is without the flag
`u`, so that any escaped character stands for itself, with three additions: a character is a whole code point,
`\\p{…}` and `\\u{…}` work, and flags may stand at the start, as in `(?i)`. `(?P<name>…)` and `(?P=name)` are accepted.
Words, digits and word boundaries are ASCII. Without the flag `m`, `^` and `$` match only at the ends of the text; with
it, also at every line end: LF, CR, U+2028 and U+2029. A group that has not matched is referred to as an empty text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

Ranges: TypeAlias = "Sequence[tuple[int, int]]"

_LAST = 0x10FFFF
_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACES: Ranges = (
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
    *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACES}
#: Letters that `regex` takes for each other without regard to case: long s, the Kelvin sign and two letters of Turkish
#: for s, k and i. In JavaScript no letter outside ASCII equals one of ASCII.
_FOLDED = "\u017f\u212a\u0130\u0131sSkKiI"
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}

_LINE_ENDS = r"\n\r\U00002028\U00002029"
_ANY = "(?s:.)"
_NOTHING = "(?!)"
_W = "(?-i:[0-9A-Z_a-z])"
_BOUNDARY = {"b": f"(?:(?<={_W})(?!{_W})|(?<!{_W})(?={_W}))", "B": f"(?:(?<={_W})(?={_W})|(?<!{_W})(?!{_W}))"}

_QUANTIFIER = re.compile(r"[*+?]|\{([0-9]+)(?:(,)([0-9]*))?\}")
_FLAGS = re.compile(r"\(\?([ims]*)(?:-([ims]+))?([:)])")
_GROUP = re.compile(r"\(\?P?<([^>=!][^>]*)>")
_NAME = re.compile(r"[^\W\d]\w*")
_PROPERTY = re.compile(r"([pP])\{(\w+(?:=\w+)?)\}", re.ASCII)
_HEX = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{0*([0-9A-Fa-f]{1,6})\}")
_OCTAL = re.compile(r"[0-3][0-7]{0,2}|[4-7][0-7]?")
_TOO_LARGE = 1 << 31


class PatternError(ValueError):
    """A pattern that is not valid, with the reason in a few words."""


@dataclass(frozen=True)
class Flags:
    """How a pattern, or a part of it, matches: `i`, `m` and `s` of JavaScript."""

    any_case: bool = False
    lines: bool = False
    dot_all: bool = False

    def changed(self, on: str, off: str) -> Flags:
        """Return the flags after those of `on` are set and those of `off` are cleared."""
        names = {"i": "any_case", "m": "lines", "s": "dot_all"}
        if set(on) & set(off):
            raise PatternError(f"a flag is both set and cleared: (?{on}-{off})")
        return replace(self, **dict.fromkeys((names[f] for f in on), True), **{names[f]: False for f in off})


def translated(pattern: str, flags: Flags) -> tuple[str, Flags]:
    """Return the pattern as `regex` writes it, and the flags with those at its start. Raises PatternError."""
    return _Translator(pattern, flags).result()


def literal(text: str) -> str:
    """Return a pattern that matches exactly this text."""
    return re.sub(r"[\^$\\.*+?()\[\]{}|/-]", r"\\\g<0>", text)


def group_names(pattern: str) -> Iterator[str]:
    """Yield the names of the groups of a valid pattern."""
    return (name for _, name in _groups(pattern) if name)


def _groups(pattern: str) -> Iterator[tuple[int, str]]:
    """Yield the position and the name of every capturing group; the name of one without a name is empty."""
    at, in_class = 0, False
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character == "(":
            named = _GROUP.match(pattern, at)
            if named is not None or not pattern.startswith("(?", at):
                yield at, named[1] if named is not None else ""
        at += 1


class _Translator:
    """Translates one pattern, from left to right."""

    def __init__(self, pattern: str, flags: Flags) -> None:
        self._pattern = pattern
        self._at = 0
        self._flags = flags
        #: The position of every group -> its number; the number of every name; the groups that are not closed yet.
        self._numbers: dict[int, int] = {}
        self._names: dict[str, int] = {}
        self._open: list[int] = []
        for number, (place, name) in enumerate(_groups(pattern), 1):
            self._numbers[place] = number
            if name and not _NAME.fullmatch(name):
                raise PatternError(f'"{name}" cannot be the name of a group')
            if name in self._names:
                raise PatternError(f'two groups have the name "{name}"')
            if name:
                self._names[name] = number

    def result(self) -> tuple[str, Flags]:
        at_start = _FLAGS.match(self._pattern)
        if at_start is not None and at_start[3] == ")" and at_start[0] != "(?)":
            self._flags = self._flags.changed(at_start[1], at_start[2] or "")
            self._at = at_start.end()
        flags = self._flags
        found = self._alternatives()
        if self._at < len(self._pattern):
            raise PatternError(f"a ) without its ( at position {self._at}")
        return found, flags

    def _alternatives(self) -> str:
        """Return everything up to the end, or up to the `)` that belongs to an earlier `(`."""
        found: list[str] = []
        while self._at < len(self._pattern) and (character := self._pattern[self._at]) != ")":
            if character == "|":
                self._at += 1
                found.append("|")
                continue
            atom, repeatable = self._atom(character)
            found.append(atom + self._quantifier(repeatable))
        return "".join(found)

    def _quantifier(self, repeatable: bool) -> str:
        found = _QUANTIFIER.match(self._pattern, self._at)
        if found is None:
            return ""
        if not repeatable:
            raise self._nothing_to_repeat()
        self._at = found.end()
        lazy = self._pattern.startswith("?", self._at)
        self._at += lazy
        if _QUANTIFIER.match(self._pattern, self._at):
            raise self._nothing_to_repeat()
        return _bounds(found) + "?" * lazy

    def _nothing_to_repeat(self) -> PatternError:
        return PatternError(f"nothing to repeat at position {self._at}")

    def _atom(self, character: str) -> tuple[str, bool]:
        """Return the next part, and whether a quantifier may follow it."""
        if character == "(":
            return self._group()
        if character == "[":
            return self._character_class(), True
        if character == "\\":
            return self._escape()
        if _QUANTIFIER.match(self._pattern, self._at):
            raise self._nothing_to_repeat()
        self._at += 1
        if character == "^":
            return (rf"(?:\A|(?<=[{_LINE_ENDS}]))" if self._flags.lines else r"\A"), False
        if character == "$":
            return (rf"(?=[{_LINE_ENDS}]|\Z)" if self._flags.lines else r"\Z"), False
        if character == ".":
            return (_ANY if self._flags.dot_all else f"[^{_LINE_ENDS}]"), True
        return self._literal(ord(character)), True

    def _literal(self, code: int) -> str:
        """Return one character outside a class."""
        character = chr(code)
        if not self._flags.any_case or character not in _FOLDED:
            return _character(code)
        return f"(?-i:[{_either_case(character)}])"

    # --- groups ---

    def _group(self) -> tuple[str, bool]:
        start, flags = self._at, self._flags
        number = self._numbers.get(start)
        reference = re.compile(r"\(\?P=([^)]*)\)").match(self._pattern, start)
        if reference is not None:
            self._at = reference.end()
            return self._reference_by_name(reference[1]), True
        head = self._head(start, number)
        if number is not None:
            self._open.append(number)
        inner = self._alternatives()
        if number is not None:
            self._open.pop()
        if self._at >= len(self._pattern):
            raise PatternError(f"the ( at position {start} is not closed")
        self._at += 1
        self._flags = flags
        return f"{head}{inner})", head not in ("(?<=", "(?<!")

    def _head(self, start: int, number: int | None) -> str:
        """Return how a group begins."""
        if number is not None:
            named = _GROUP.match(self._pattern, start)
            self._at = named.end() if named is not None else start + 1
            return f"(?P<{named[1]}>" if named is not None else "("
        for head in ("(?=", "(?!", "(?<=", "(?<!"):
            if self._pattern.startswith(head, start):
                self._at = start + len(head)
                return head
        given = _FLAGS.match(self._pattern, start)
        if given is None:
            raise PatternError(f'unknown group "{self._pattern[start : start + 4]}" at position {start}')
        if given[3] == ")":
            raise PatternError(f"flags such as {given[0]} belong at the start, or use {given[0][:-1]}:…)")
        self._flags = self._flags.changed(given[1], given[2] or "")
        self._at = given.end()
        return "(?i:" if self._flags.any_case else "(?-i:"

    def _reference_by_name(self, name: str) -> str:
        if name not in self._names:
            raise PatternError(f'no group has the name "{name}"')
        return self._reference(self._names[name])

    def _reference(self, number: int) -> str:
        """Return a reference to a group; one that has not matched yet stands for an empty text."""
        return "(?:)" if number in self._open else rf"(?({number})\g<{number}>|)"

    # --- escapes ---

    def _escape(self) -> tuple[str, bool]:
        after = self._pattern[self._at + 1 : self._at + 2]
        if after in ("b", "B") and after:
            self._at += 2
            return _BOUNDARY[after], False
        if after == "k" and self._names:
            named = re.compile(r"\\k<([^>]*)>").match(self._pattern, self._at)
            if named is None:
                raise PatternError(f"\\k at position {self._at} needs the name of a group, as in \\k<name>")
            self._at = named.end()
            return self._reference_by_name(named[1]), True
        number = re.compile(r"\\([1-9][0-9]*)").match(self._pattern, self._at)
        if number is not None and int(number[1][:6]) <= len(self._numbers):
            self._at = number.end()
            return self._reference(int(number[1])), True
        found = self._escaped()
        if isinstance(found, int):
            return self._literal(found), True
        # None of these classes depends on case, but a property may.
        return (f"[{found}]" if found.startswith(("\\p", "\\P")) else f"(?-i:[{found}])"), True

    def _escaped(self) -> int | str:
        """Return an escaped character, or the members of a class such as `\\d`, as both may occur in `[…]` too."""
        self._at += 1
        if self._at >= len(self._pattern):
            raise PatternError("a \\ at the end")
        character = self._pattern[self._at]
        members = self._shorthand(character)
        if members is not None:
            return members
        for expression, base in ((_HEX, 16), (_OCTAL, 8)):
            found = expression.match(self._pattern, self._at)
            if found is not None:
                code = int(next(filter(None, found.groups()), found[0]) if base == 16 else found[0], base)
                if code > _LAST:
                    raise PatternError(f"\\{found[0]} is not a character")
                self._at = found.end()
                return self._with_low_surrogate(code)
        letter = self._pattern[self._at + 1 : self._at + 2]
        if character == "c" and letter.isascii() and letter.isalpha():
            self._at += 2
            return ord(letter) % 32
        if character == "c":
            return ord("\\")  # the `c` is then read as itself
        self._at += 1
        return _CONTROLS.get(character, ord(character))

    def _with_low_surrogate(self, code: int) -> int:
        """Return the character of two escapes `\\ud83d\\ude00`, which JavaScript needs for one outside the BMP."""
        low = re.compile(r"\\u([dD][c-fC-F][0-9A-Fa-f]{2})").match(self._pattern, self._at)
        if low is None or not 0xD800 <= code <= 0xDBFF:
            return code
        self._at = low.end()
        return 0x10000 + (code - 0xD800) * 0x400 + int(low[1], 16) - 0xDC00

    def _shorthand(self, character: str) -> str | None:
        """Return the members of `\\d`, `\\w`, `\\s`, `\\p{…}` or one of their opposites; None for anything else."""
        ranges = _CLASSES.get(character.lower())
        if ranges is not None:
            self._at += 1
            return _members(ranges if character.islower() else _others(ranges))
        found = _PROPERTY.match(self._pattern, self._at)
        if found is None:
            return None
        self._at = found.end()
        return rf"\{found[1]}{{{found[2]}}}"

    # --- character classes ---

    def _character_class(self) -> str:
        start = self._at
        self._at += 1
        negated = self._pattern.startswith("^", self._at)
        self._at += negated
        members: list[str] = []
        while not self._pattern.startswith("]", self._at):
            if self._at >= len(self._pattern):
                raise PatternError(f"the [ at position {start} is not closed")
            first = self._class_atom()
            last = self._end_of_range()
            if last is None:
                members.append(_member(first))
            elif isinstance(first, int) and isinstance(last, int):
                if first > last:
                    raise PatternError(f"a range in the [ at position {start} is out of order")
                members.append(_members([(first, last)]))
            else:  # a class cannot be the end of a range: the dash is itself
                members += [_member(first), _character(ord("-")), _member(last)]
        self._at += 1
        if not members:
            return _ANY if negated else _NOTHING
        found = f"[{'^' * negated}{''.join(members)}]"
        outside = self._outside(members)
        if not outside:
            return found
        return f"(?:(?-i:[{outside}])|{found})" if negated else f"(?:(?!(?-i:[{outside}])){found})"

    def _outside(self, members: Sequence[str]) -> str:
        """Return the characters of `_FOLDED` that no member of a class equals in JavaScript."""
        if not self._flags.any_case or any(member.startswith(("\\p", "\\P")) for member in members):
            return ""
        exact = re.compile(f"[{''.join(members)}]")
        return "".join(c for c in _FOLDED if not any(map(exact.match, _either_case(c))))

    def _end_of_range(self) -> int | str | None:
        """Return the part after a dash; None if there is no dash, or if the dash is the last character."""
        rest = self._pattern[self._at : self._at + 2]
        if len(rest) < 2 or rest[0] != "-" or rest[1] == "]":
            return None
        self._at += 1
        return self._class_atom()

    def _class_atom(self) -> int | str:
        character = self._pattern[self._at]
        if character != "\\":
            self._at += 1
            return ord(character)
        if self._pattern.startswith("\\b", self._at):
            self._at += 2
            return 0x08
        control = re.compile(r"\\c([0-9_])").match(self._pattern, self._at)
        if control is not None:  # only in a class
            self._at = control.end()
            return ord(control[1]) % 32
        return self._escaped()


def _bounds(found: re.Match[str]) -> str:
    """Return a quantifier without its `?`. A maximum beyond what `regex` can count is no maximum."""
    if found[1] is None:
        return found[0]
    least, most = int(found[1][:12]), None if found[2] and not found[3] else int((found[3] or found[1])[:12])
    if most is not None and most < least:
        raise PatternError(f"the numbers in {found[0]} are out of order")
    if least >= _TOO_LARGE:
        raise PatternError(f"{found[0]} repeats too often")
    return f"{{{least},{'' if most is None or most >= _TOO_LARGE else most}}}"


def _others(ranges: Ranges) -> Iterator[tuple[int, int]]:
    """Yield the ranges of all other characters."""
    begin = 0
    for first, last in ranges:
        if begin < first:
            yield begin, first - 1
        begin = last + 1
    yield begin, _LAST


def _members(ranges: Iterable[tuple[int, int]]) -> str:
    return "".join(_character(a) if a == b else f"{_character(a)}-{_character(b)}" for a, b in ranges)


def _either_case(character: str) -> str:
    """Return a letter in both cases; one outside ASCII has no other case that equals it."""
    return character.lower() + character.upper() if character.isascii() else character


def _member(atom: int | str) -> str:
    return _character(atom) if isinstance(atom, int) else atom


def _character(code: int) -> str:
    """Return one character so that `regex` reads it as itself everywhere."""
    character = chr(code)
    return character if character.isascii() and character.isalnum() else f"\\U{code:08X}"
