"""Typed reading of a strict YAML document.

Knows: how to read a text, number, duration, list or mapping, and how to name its place in an error.
Must not know: which keys a document has, or what they mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

from guestctl.core.errors import UsageError
from guestctl.core.humanize import parse_duration
from guestctl.core.strict_yaml import Located, Value
from guestctl.core.suggestions import did_you_mean
from guestctl.core.values import immutable


@immutable
class YamlField:
    """One value of a document. Every read method raises UsageError `config.file` with file, line and place.

    `where` is the place as errors show it, such as `rules[1].match`; it is empty for the document.
    `hint` is the next step shown with errors.
    """

    located: Located
    file: str
    where: str = ""
    hint: str | None = None

    @property
    def line(self) -> int:
        return self.located.line

    @property
    def value(self) -> Value:
        return self.located.value

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.value, Mapping)

    @property
    def is_list(self) -> bool:
        return self.located.text is None and not self.is_mapping

    def error(self, problem: str) -> UsageError:
        """Return the error that reports `problem` at this place."""
        place = f"{self.where}: " if self.where else ""
        return UsageError(f"{self.file}:{self.line}: {place}{problem}", code="config.file", hint=self.hint)

    def named(self, where: str) -> YamlField:
        """Return the same value under another name for errors."""
        return replace(self, where=where)

    # --- lists and mappings ---

    def members(self, joint: str = ".") -> dict[str, YamlField]:
        """Return the members of a mapping. `joint` separates the key from the place of the mapping in errors."""
        if not isinstance(self.value, Mapping):
            raise self.error("must be a mapping (`key: value` lines)")
        prefix = f"{self.where}{joint}" if self.where else ""
        return {key: self._inner(inner, f"{prefix}{key}") for key, inner in self.value.items()}

    def mapping(self, allowed: Iterable[str], joint: str = ".") -> dict[str, YamlField]:
        """Return the members of a mapping that may only have `allowed` keys."""
        keys = tuple(allowed)
        if not self.is_mapping:
            raise self.error(f"must be a mapping with keys out of {', '.join(keys)}")
        members = self.members(joint)
        for key, member in members.items():
            if key not in keys:
                problem = f'unknown key "{key}"{did_you_mean(key, keys)} (keys: {", ".join(keys)})'
                raise member.named(self.where).error(problem)
        return members

    def items(self) -> list[YamlField]:
        """Return the items of a list that must not be empty. Items count from 1 in errors."""
        if not self.is_list:
            raise self.error("must be a list (lines that start with `-`)")
        items = cast("Sequence[Located]", self.value)
        if not items:
            raise self.error("the list is empty")
        return [self._inner(item, f"{self.where}[{number}]") for number, item in enumerate(items, 1)]

    def required(self, members: Mapping[str, YamlField], key: str) -> YamlField:
        """Return a member that this mapping must have."""
        if key not in members:
            raise self.error(f"`{key}` is missing")
        return members[key]

    def _inner(self, located: Located, where: str) -> YamlField:
        return YamlField(located, self.file, where, self.hint)

    # --- scalars ---

    def text(self) -> str:
        """Return a scalar as written: `No`, `007` and `12:30` are texts."""
        if self.located.text is None:
            raise self.error("must be a text")
        if self.value is None and not self.located.text:
            raise self.error("the value is missing")
        return self.located.text

    def texts(self) -> tuple[str, ...]:
        """Return a list of texts. A single text counts as a list of one."""
        return tuple(item.text() for item in (self.items() if self.is_list else [self]))

    def flag(self) -> bool:
        """Return `true` or `false`."""
        if not isinstance(self.value, bool):
            raise self.error("must be true or false")
        return self.value

    def whole_number(self, least: int, most: int) -> int:
        """Return a whole number in a range, both ends included."""
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not least <= self.value <= most:
            raise self.error(f"must be a whole number from {least} to {most}")
        return self.value

    def duration(self, longest: float, *, zero: bool = False) -> float:
        """Return a duration of at most `longest` seconds, in seconds. `zero`: whether 0 is allowed."""
        try:
            seconds = parse_duration(self.located.text or "")
        except ValueError:
            seconds = -1.0
        if not 0.0 <= seconds <= longest or (seconds == 0.0 and not zero):
            raise self.error(f"must be a duration such as 2s, 500ms or 1m, at most {longest:g} s")
        return seconds

    def choice(self, choices: Sequence[str]) -> str:
        """Return a text that must be one of `choices`."""
        text = self.text()
        if text not in choices:
            raise self.error(f'"{text}" is not one of {", ".join(choices)}{did_you_mean(text, choices)}')
        return text
