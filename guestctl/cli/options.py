"""The declaration of a command, and the reading of its values.

Knows: the common options (contract.md §2). Must not know: what a command does, Typer. `command` turns a function into a
`Leaf`: its own parameters and the common ones. `application` lets Typer parse them; `main` runs the function.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from guestctl.cli.parameters import DEFAULT_TIMEOUT, HELP_NAME, OVERRIDES, Needs, Parameter, common, declared
from guestctl.core.clock import rfc3339
from guestctl.core.errors import UsageError
from guestctl.core.humanize import parse_duration
from guestctl.core.values import immutable

_LONGEST_NAME = 100
_DAY = 86_400.0
_AGO = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")


@immutable
class Common:
    """The values of the common options. `overrides`: profile key -> value of its option."""

    profile: str | None = None
    session: str | None = None
    output: str | None = None
    timeout: float | None = DEFAULT_TIMEOUT
    verbose: int = 0
    quiet: bool = False
    trace: Path | None = None
    trace_append: Path | None = None
    debug: bool = False
    no_state: bool = False
    traceparent: str | None = None
    propagate_baggage: bool = False
    profiles: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)


@immutable
class Leaf:
    """One command: its function and the texts of its help."""

    function: Callable[..., int | None]
    about: str
    examples: Sequence[str]
    needs: Needs
    timeout: float | None
    #: Whether it sends a guest's requests, so that the options for a trace context have an effect.
    connects: bool = True
    #: Options that one might expect here, with the message and the hint that refuse them.
    refuses: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def parameters(self) -> list[Parameter]:
        """Return the command's own parameters, then the common ones."""
        own = list(inspect.signature(self.function, eval_str=True).parameters.values())[1:]
        return [
            *(declared(one.name, one.annotation, ... if one.default is one.empty else one.default) for one in own),
            *self._common(),
        ]

    def _common(self) -> list[Parameter]:
        every = common(self.needs, self.timeout, connects=self.connects)
        return [one for one in every if one.option is None or self.refuses.keys().isdisjoint(one.option.names)]

    def read(self, values: Mapping[str, Any]) -> tuple[Common, dict[str, Any]]:
        """Return the parsed values as the common options and the arguments of the function. Raises UsageError."""
        texts = {name: _as_text(name, value) for name, value in values.items() if name != HELP_NAME}
        shared = {one.name for one in self._common()}
        options = {name: texts.pop(name) for name in list(texts) if name in shared}
        overrides = {key: found for key in OVERRIDES if (found := options.pop(key, None)) is not None}
        if options.get("traceparent") is not None:
            _check_traceparent(options["traceparent"])
        given = options.pop("timeout", None)  # absent where it is refused
        timeout = self.timeout if given is None else duration("--timeout", given, zero=False)
        return Common(**options, timeout=timeout, overrides=overrides), texts


#: What `refuses` says of a command that serves until it is stopped.
NO_TIME_LIMIT = {"--timeout": ("this command serves until it is stopped", "stop it with Ctrl-C or SIGTERM")}


def command(
    *examples: str,
    needs: Needs = "session",
    timeout: float | None = DEFAULT_TIMEOUT,
    connects: bool | None = None,
    refuses: Mapping[str, tuple[str, str]] | None = None,
) -> Callable[[Callable[..., int | None]], Leaf]:
    """Declare a command.

    The function's first argument is the `Invocation`, and its docstring is the help. It may return an exit code.
    `connects`: whether it sends a guest's requests (default: if it needs a profile). `refuses`: options that it does
    not have, with a message and a hint of their own.
    """

    def leaf(function: Callable[..., int | None]) -> Leaf:
        sends = needs != "nothing" if connects is None else connects
        return Leaf(function, inspect.cleandoc(function.__doc__ or ""), examples, needs, timeout, sends, refuses or {})

    return leaf


# --- parsing values ---

#: Parameters that are file names or another program's arguments: they may have any bytes.
_ANY_BYTES = frozenset({"profiles", "to", "words"})


def _as_text(name: str, value: Any) -> Any:
    """Return a parameter with its texts decoded as UTF-8, whatever the locale. Raises UsageError for other bytes."""
    if name in _ANY_BYTES:
        return value
    if isinstance(value, list):
        return [_as_text(name, one) for one in value]
    if not isinstance(value, str) or not any("\ud800" <= character <= "\udfff" for character in value):
        return value
    try:
        return value.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        shown = value.encode("utf-8", "backslashreplace").decode()
        raise UsageError(
            f'argument "{shown}" is not UTF-8', hint="use a UTF-8 locale, or send the text from stdin: iconv -t utf-8"
        ) from None


def duration(option: str, text: str, *, zero: bool = True) -> float:
    """Seconds of `30`, `500ms`, `2m`, `1.5h`. Raises UsageError naming the option."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = -1.0
    if not (0 < seconds < 1e9 or (zero and seconds == 0)):
        raise UsageError(f'{option}: "{text}" is not a duration', hint="give seconds, or a unit: 30, 500ms, 2m or 1.5h")
    return seconds


def moment(text: str, now: float) -> str:
    """Return a time or an id unchanged, and a time before now (`5m`, `1.5h`, `2d`) as RFC 3339.

    The unit is required, because an id may be a number.
    """
    found = _AGO.fullmatch(text)
    if found is None:
        return text
    seconds = float(found[1]) * _DAY if found[2] == "d" else parse_duration(text)
    return rfc3339(max(0.0, now - seconds))


def session_name(option: str, name: str) -> str:
    """Return the name of a session. Raises UsageError that names the option or the variable."""
    if not name.strip() or name.startswith("-") or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise UsageError(
            f'{option}: "{name}" is not a session name',
            hint=f"use 1 to {_LONGEST_NAME} printable characters that do not start with a dash",
        )
    return name


def pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """Return `KEY=VALUE` words as a mapping. Raises UsageError that names the option and the word."""
    found: dict[str, str] = {}
    for word in given or ():
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f'{option}: expected KEY=VALUE, found "{word}"')
        found[key] = value
    return found


def pattern(option: str, text: str | None) -> Any:
    """Return the compiled regular expression, None for None. Raises UsageError that names the error."""
    from guestctl.core.patterns import PatternError, compiled

    try:
        return None if text is None else compiled(text)
    except PatternError as error:
        raise UsageError(f'{option}: "{text}" is not a regular expression: {error}') from error


def _check_traceparent(text: str) -> None:
    from guestctl.core.wire import is_trace_context

    if not is_trace_context(text):
        raise UsageError(
            f'--traceparent: "{text}" is not a W3C trace context', hint="expected 00-<32 hex>-<16 hex>-<2 hex>"
        )
