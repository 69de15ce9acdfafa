"""Regular expressions: the one place that compiles and runs them.

Knows: the library `regex`, and how long a match may take. Must not know: what a pattern is for, the syntax that a
person writes (`pattern_syntax`).

A pattern that backtracks can take longer than anyone waits, and the text comes from a stranger. A match therefore has
2 s of CPU time. `regex` counts the CPU time of the whole process, so a match that runs out of it runs again while no
other match does, once. If it runs out of time again, neither answer is known: the caller gets PatternTimeout.
`regex` is imported with the first pattern, because most commands have none.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guestctl.core.errors import UsageError
from guestctl.core.pattern_syntax import Flags, PatternError, group_names, literal, translated

__all__ = ["Match", "Pattern", "PatternError", "PatternTimeout", "SlowMatch", "compiled", "group_names", "literal"]

#: Seconds of CPU time for a match.
LIMIT = 2.0
#: Seconds of CPU time for the first try, in the caller's own thread. It blocks every other thread.
_QUICK = 0.02
#: How many slow matches and their results are remembered, so that none of them runs more often than needed.
_REMEMBERED = 64


class PatternTimeout(UsageError):
    """A match that took too long, twice. Whether the text matches is unknown."""

    default_code = "check.pattern_timeout"


class SlowMatch(Exception):
    """A match that takes longer than a caller may wait who serves others. `finish` blocks until it has a result."""

    def __init__(self, pattern: Pattern, text: str) -> None:
        super().__init__(pattern.text)
        self._pattern, self._text = pattern, text

    def finish(self) -> None:
        """Run the match; afterwards `search_at_once` has its result."""
        self._pattern.run_slowly(self._text)

    def give_up(self) -> None:
        """Treat the match as one that took too long, because there is no time to run it."""
        self._pattern.remember(self._text, _TIMED_OUT)


@dataclass(frozen=True)
class Match:
    """What a pattern found: the whole text, its groups by number (from 1) and by name. None: no part of the match."""

    whole: str
    groups: tuple[str | None, ...] = ()
    named: Mapping[str, str | None] = field(default_factory=dict)


#: The result of a match that took too long, and of one that has not run.
_TIMED_OUT, _UNKNOWN = object(), object()

#: Held while a slow match runs, so that no two of them count each other's CPU time.
_alone = threading.Lock()
_slow: OrderedDict[tuple[str, Flags, str], object] = OrderedDict()
_slow_lock = threading.Lock()


class Pattern:
    """A compiled pattern. `text` is the pattern as written."""

    def __init__(self, text: str, flags: Flags) -> None:
        import regex

        source, effective = translated(text, flags)
        self.text = text
        self._flags = flags
        try:
            self._regex: Any = regex.compile(source, regex.V0 | (regex.IGNORECASE if effective.any_case else 0))
        except (regex.error, OverflowError) as error:
            # The translation is valid except for names of properties, which only the library knows.
            raise PatternError(getattr(error, "msg", None) or str(error)) from error

    @property
    def group_count(self) -> int:
        return int(self._regex.groups)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._regex.groupindex)

    def search(self, text: str) -> Match | None:
        """Return the first match, None if there is none. Raises PatternTimeout.

        Signals are handled while a slow match runs, and other threads go on.
        """
        try:
            return self.search_at_once(text)
        except SlowMatch:
            pass
        results: list[object] = []
        worker = threading.Thread(target=lambda: results.append(self.run_slowly(text)), name="pattern", daemon=True)
        worker.start()
        worker.join()
        return self._answer(results[0] if results else _TIMED_OUT, text)

    def search_at_once(self, text: str) -> Match | None:
        """Return the first match like `search`, but raise SlowMatch if its result is not known at once."""
        with _slow_lock:
            result = _slow.get((self.text, self._flags, text), _UNKNOWN)
        if result is not _UNKNOWN:
            return self._answer(result, text)
        try:
            return self._match(text, _QUICK)
        except TimeoutError:
            raise SlowMatch(self, text) from None

    def _answer(self, result: object, text: str) -> Match | None:
        """Return the result of a slow match. Raises PatternTimeout."""
        if result is _TIMED_OUT:
            shown = self.text if len(self.text) <= 100 else self.text[:99] + "…"
            raise PatternTimeout(f'the pattern "{shown}" took too long on a text of {len(text)} characters')
        assert result is None or isinstance(result, Match)
        return result

    def run_slowly(self, text: str) -> object:
        """Run the match to its end, remember the result and return it. At most one match runs so at a time."""
        with _alone:
            with _slow_lock:
                result = _slow.get((self.text, self._flags, text), _UNKNOWN)
            if result is not _UNKNOWN:
                return result
            result = _TIMED_OUT
            for _ in range(2):
                try:
                    result = self._match(text, LIMIT, release=True)
                    break
                except TimeoutError:
                    pass
                except MemoryError:
                    break
            self.remember(text, result)
            return result

    def remember(self, text: str, result: object) -> None:
        """Remember the result of a slow match."""
        with _slow_lock:
            _slow[self.text, self._flags, text] = result
            while len(_slow) > _REMEMBERED:
                _slow.popitem(last=False)

    def _match(self, text: str, limit: float, *, release: bool = False) -> Match | None:
        """Run the match. `release`: other threads run at the same time. Raises TimeoutError."""
        found = self._regex.search(text, timeout=limit, concurrent=release)
        return None if found is None else Match(found[0], found.groups(), found.groupdict())

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def compiled(pattern: str, *, any_case: bool = False, lines: bool = False) -> Pattern:
    """Return a compiled pattern. `any_case` and `lines` are JavaScript's flags `i` and `m`. Raises PatternError."""
    try:
        return Pattern(pattern, Flags(any_case, lines))
    except RecursionError:
        raise PatternError("nested too deeply") from None
