"""The conditions that a reply must meet.

Knows: the conditions of a script and how each is tested on a message. Must not know: YAML, time,
order (`timeline`), where messages come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from guestctl.checks.variables import filled
from guestctl.core import patterns
from guestctl.core.model import Message, Role
from guestctl.core.rich_content import Card, read

T = TypeVar("T")

#: Characters of a reply that patterns see. A limit, because a pattern that backtracks may take for ever on a long text.
MATCHED_LENGTH = 10_000
#: Any card or file, whatever its text.
ANY = ""


@dataclass(frozen=True)
class Conditions:
    """Conditions for one reply. None and empty mean no condition. Texts may hold `${name}` until `bound`."""

    contains: str | None = None
    matches: str | None = None
    equals: str | None = None
    role: Role | None = None
    options: tuple[str, ...] = ()
    card: str | None = None
    attachment: str | None = None
    unless: tuple[Conditions, ...] = ()

    def bound(self, values: Mapping[str, str]) -> Conditions:
        """Return the conditions with every reference replaced. In a pattern a value matches itself."""

        def text(given: str | None) -> str | None:
            return None if given is None else filled(given, values)

        return replace(
            self,
            contains=text(self.contains),
            matches=None if self.matches is None else filled(self.matches, values, patterns.literal),
            equals=text(self.equals),
            options=tuple(filled(option, values) for option in self.options),
            card=text(self.card),
            attachment=text(self.attachment),
            unless=tuple(other.bound(values) for other in self.unless),
        )

    def texts(self) -> Iterator[str]:
        """Yield every text of the conditions that may contain references."""
        texts = (self.contains, self.matches, self.equals, self.card, self.attachment)
        yield from (text for text in texts if text is not None)
        yield from self.options
        for other in self.unless:
            yield from other.texts()

    def met_by(self, message: Message) -> bool:
        """Return whether a message meets every condition. Raises PatternTimeout."""
        return next(self.unmet_by(message), None) is None

    def unmet_by(self, message: Message) -> Iterator[str]:
        """Yield the text of each condition that a message does not meet. Raises PatternTimeout."""
        if self.contains is not None and not _contains(message.text, self.contains):
            yield self._contains_text
        if self.equals is not None and self.equals.strip() != message.text.strip():
            yield self._equals_text
        if self._pattern is not None and self._pattern.search(message.text[:MATCHED_LENGTH]) is None:
            yield self._matches_text
        if self.role is not None and self.role != message.sender.role:
            yield self._role_text
        if missing := [option for option in self.options if not _offered(option, message)]:
            yield _options_text(missing)
        if self.card is not None and not any(_contains(text, self.card) for text in _cards(message)):
            yield self._card_text
        if self.attachment is not None and not any(_contains(text, self.attachment) for text in _files(message)):
            yield self._file_text
        yield from (_not_text(other) for other in self.unless if other.met_by(message))

    def captured(self, message: Message, name: str | None) -> dict[str, str]:
        """Return the variables that a matching reply sets for later steps.

        These are the pattern's named groups and, under `name`, the pattern's first group, else the
        whole match, else the reply's text.
        """
        found = self._pattern.search(message.text[:MATCHED_LENGTH]) if self._pattern is not None else None
        groups = {} if found is None else {k: v for k, v in found.named.items() if v is not None}
        if name is None:
            return groups
        if found is None:
            return {name: message.text}
        whole = next((group for group in found.groups if group is not None), found.whole)
        return {**groups, name: whole}

    @cached_property
    def _pattern(self) -> patterns.Pattern | None:
        return None if self.matches is None else compiled(self.matches)

    def __str__(self) -> str:
        parts = []
        if self.contains is not None:
            parts.append(self._contains_text)
        if self.matches is not None:
            parts.append(self._matches_text)
        if self.equals is not None:
            parts.append(self._equals_text)
        if self.role is not None:
            parts.append(self._role_text)
        if self.options:
            parts.append(_options_text(self.options))
        if self.card is not None:
            parts.append(self._card_text)
        if self.attachment is not None:
            parts.append(self._file_text)
        parts += [f"and {_not_text(other)}" for other in self.unless]
        return " ".join(["a reply", *parts])

    # --- the text of each condition ---

    @property
    def _contains_text(self) -> str:
        return f'containing "{self.contains}"'

    @property
    def _matches_text(self) -> str:
        return f"matching /{self.matches}/"

    @property
    def _equals_text(self) -> str:
        return f'that equals "{self.equals}"'

    @property
    def _role_text(self) -> str:
        return f"from {'an' if self.role == 'agent' else 'a'} {self.role}"

    @property
    def _card_text(self) -> str:
        return "with a card" + (f' "{self.card}"' if self.card else "")

    @property
    def _file_text(self) -> str:
        return "with a file" + (f' "{self.attachment}"' if self.attachment else "")


def _options_text(options: Sequence[str]) -> str:
    return f"with the option{'s' * (len(options) != 1)} " + ", ".join(f'"{option}"' for option in options)


def _not_text(conditions: Conditions) -> str:
    return f"not {' '.join(str(conditions).split()[2:]) or 'any'}"


def compiled(pattern: str) -> patterns.Pattern:
    """Return a script's pattern with the flags that scripts of the web-messaging tester have: `i` and `m`.

    Raises PatternError.
    """
    return patterns.compiled(pattern, any_case=True, lines=True)


def assigned(
    expected: Sequence[Conditions], candidates: Sequence[tuple[T, Message]], *, in_order: bool
) -> list[T] | None:
    """Return one candidate for each of `expected`, or None if some have none.

    With `in_order` the candidates must come in the order of `expected`, else in any order.
    """
    return _in_order(expected, candidates) if in_order else _in_any_order(expected, candidates)


def _in_order(expected: Sequence[Conditions], candidates: Sequence[tuple[T, Message]]) -> list[T] | None:
    left: Iterator[tuple[T, Message]] = iter(candidates)
    found = []
    for conditions in expected:
        match = next((item for item, message in left if conditions.met_by(message)), None)
        if match is None:
            return None
        found.append(match)
    return found


def _in_any_order(expected: Sequence[Conditions], candidates: Sequence[tuple[T, Message]]) -> list[T] | None:
    """Return a maximum matching by augmenting paths: a reply that meets two conditions goes to the right one."""
    fits = [[n for n, (_, message) in enumerate(candidates) if one.met_by(message)] for one in expected]
    taken: dict[int, int] = {}

    def place(one: int, tried: set[int]) -> bool:
        for n in fits[one]:
            if n not in tried:
                tried.add(n)
                if n not in taken or place(taken[n], tried):
                    taken[n] = one
                    return True
        return False

    if not all(place(one, set()) for one in range(len(expected))):
        return None
    return [candidates[n][0] for n, _ in sorted(taken.items(), key=lambda pair: pair[1])]


def offers_choice(message: Message, choice: str | int) -> bool:
    """Return whether a message offers a choice, given as a label, a payload or a place; an int is only a place."""
    if isinstance(choice, int):
        return 1 <= choice <= len(message.options)
    if choice.isascii() and choice.isdigit() and 1 <= int(choice[:6]) <= len(message.options):
        return True
    return _offered(choice, message)


def _offered(choice: str, message: Message) -> bool:
    folded = choice.strip().casefold()
    return any(folded in (option.text.strip().casefold(), option.payload.casefold()) for option in message.options)


def _contains(text: str, part: str) -> bool:
    return part.casefold() in text.casefold()


def _cards(message: Message) -> Iterator[str]:
    """Yield title and description of every card, including those of a carousel."""
    return (f"{card.title}\n{card.description}" for card in read(message.content) if isinstance(card, Card))


def _files(message: Message) -> Iterator[str]:
    return (f"{file.name or ''}\n{file.mime or ''}" for file in message.attachments)
