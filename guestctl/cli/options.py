"""The common options, the declaration of a command, and the parsing of values.

Knows: Typer's annotations and the common options (contract.md §2). Must not know: what a command does. `command` turns
a function into a `Leaf`: its own parameters and the common ones. Typer only parses; `main` runs the function.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from guestctl.core.clock import rfc3339
from guestctl.core.errors import UsageError
from guestctl.core.humanize import parse_duration
from guestctl.core.values import immutable

PANEL = "common"
DEFAULT_TIMEOUT = 30.0

_LONGEST_NAME = 100
_DAY = 86_400.0
_AGO = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")

#: What a command needs: nothing, a profile, or a profile and a stored session.
Needs: TypeAlias = Literal["nothing", "profile", "session"]


@immutable
class Completes:
    """An annotation of an argument: the kind of name that shell completion offers for it."""

    what: Literal["session", "profile", "record", "fault", "shell"]


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
    profiles: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)


class HelpWanted(Exception):
    """Raised for `--help`; carries the help text."""


@immutable
class Leaf:
    """One command: its function and the texts of its help."""

    function: Callable[..., int | None]
    about: str
    examples: Sequence[str]
    needs: Needs
    timeout: float | None
    #: Options that one might expect here, with the message and the hint that refuse them.
    refuses: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def completes(self) -> Completes | None:
        """The kind of name that its argument takes, None if there is none."""
        parameters = inspect.signature(self.function, eval_str=True).parameters.values()
        metadata = (one for parameter in parameters for one in getattr(parameter.annotation, "__metadata__", ()))
        return next((one for one in metadata if isinstance(one, Completes)), None)

    def callback(self, width: int | None) -> Callable[..., tuple[Common, dict[str, Any]]]:
        """Return the function that Typer calls: it returns the common options and the command's own arguments."""
        own = inspect.signature(self.function, eval_str=True)
        parameters = list(own.parameters.values())[1:]
        refused = {name.strip("-").replace("-", "_") for name in self.refuses}
        common = [option for option in _common(self.needs, self.timeout) if option.name not in refused]
        shared = [*common, self._help(width)]

        def parsed(**values: Any) -> tuple[Common, dict[str, Any]]:
            values = {name: _as_text(name, value) for name, value in values.items()}
            mine = {name: value for name, value in values.items() if name in own.parameters}
            return self._gathered({name: value for name, value in values.items() if name not in mine}), mine

        parsed.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*parameters, *shared)],
            return_annotation=inspect.Signature.empty,
        )
        parsed.__annotations__ = {}
        return parsed

    def _gathered(self, values: dict[str, Any]) -> Common:
        timeout = values.pop("timeout")
        values.pop("help_", None)
        overrides = {key: values.pop(key) for key in _OVERRIDES if values.get(key) is not None}
        for key in _OVERRIDES:
            values.pop(key, None)
        if values["traceparent"] is not None:
            _check_traceparent(values["traceparent"])
        return Common(
            **values,
            timeout=self.timeout if timeout is None else duration("--timeout", timeout, zero=False),
            overrides=overrides,
        )

    def _help(self, width: int | None) -> inspect.Parameter:
        def show(context: typer.Context, value: bool) -> None:
            if value:
                from guestctl.cli.help import command as rendered

                raise HelpWanted(rendered(context, self.about, self.examples, PANEL, width))

        # Eager, so that `--help` works even if other arguments are wrong.
        option = typer.Option(
            "-h", "--help", is_eager=True, callback=show, help="show this help", rich_help_panel=PANEL
        )
        return _parameter("help_", Annotated[bool, option], False)


def command(
    *examples: str,
    needs: Needs = "session",
    timeout: float | None = DEFAULT_TIMEOUT,
    refuses: Mapping[str, tuple[str, str]] | None = None,
) -> Callable[[Callable[..., int | None]], Leaf]:
    """Declare a command.

    The function's first argument is the `Invocation`, and its docstring is the help. It may return an exit code.
    `refuses`: options that it does not have, with a message and a hint of their own.
    """

    def declared(function: Callable[..., int | None]) -> Leaf:
        return Leaf(function, inspect.cleandoc(function.__doc__ or ""), examples, needs, timeout, refuses or {})

    return declared


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _option(kind: Any, *names: str, help: str, metavar: str | None = None, count: bool = False) -> Any:
    return Annotated[
        kind,
        typer.Option(*names, help=help, metavar=metavar, count=count, show_default=False, rich_help_panel=PANEL),
    ]


#: Profile keys that have an option, with its name and help.
_OVERRIDES: dict[str, tuple[str, str, str]] = {
    "api": ("--api", "NAME", "API (default: the profile's)"),
    "region": ("--region", "NAME", "region or domain (default: the profile's)"),
    "deployment_id": ("--deployment-id", "ID", "deployment id (default: the profile's)"),
    "origin": ("--origin", "URL", "Origin header to send (default: the profile's)"),
    "base_url": ("--base-url", "URL", "REST address (default: the profile's or the region's)"),
    "socket_url": ("--socket-url", "URL", "socket address (default: the profile's or the region's)"),
    "config_url": ("--config-url", "URL", "configuration address (default: the profile's or the region's)"),
}


def _common(needs: Needs, timeout: float | None) -> list[inspect.Parameter]:
    text = str | None
    times = f"time limit: seconds, 500ms or 2m (default: {'none' if timeout is None else f'{timeout:g}'})"
    found = [
        _parameter(
            "output",
            _option(
                text,
                "-o",
                "--output",
                metavar="MODE",
                help="auto, table, json, jsonl, yaml or csv (default: auto) [GUESTCTL_OUTPUT]",
            ),
            None,
        ),
        _parameter("timeout", _option(text, "--timeout", metavar="TIME", help=times), None),
        _parameter(
            "profile", _option(text, "-p", "--profile", metavar="NAME", help="profile to use [GUESTCTL_PROFILE]"), None
        ),
        _parameter(
            "profiles", _option(text, "--profiles", metavar="FILE", help="profile file [GUESTCTL_PROFILES]"), None
        ),
        _parameter(
            "verbose",
            _option(
                int,
                "-v",
                "--verbose",
                count=True,
                help="print requests on stderr, and full times in tables; twice: frames too",
            ),
            0,
        ),
        _parameter("quiet", _option(bool, "-q", "--quiet", help="print only data and errors"), False),
        _parameter(
            "trace",
            _option(
                Path | None, "--trace", metavar="FILE", help="write requests and frames to a new FILE, secrets masked"
            ),
            None,
        ),
        _parameter(
            "trace_append",
            _option(
                Path | None, "--trace-append", metavar="FILE", help="like --trace, but extend FILE [GUESTCTL_TRACE]"
            ),
            None,
        ),
        _parameter(
            "traceparent", _option(text, "--traceparent", metavar="CONTEXT", help="W3C trace context to send"), None
        ),
        _parameter("no_state", _option(bool, "--no-state", help="neither read nor store sessions"), False),
        _parameter("debug", _option(bool, "--debug", help="print tracebacks, without values"), False),
    ]
    if needs == "session":
        found.insert(
            3,
            _parameter(
                "session",
                _option(
                    text,
                    "-s",
                    "--session",
                    metavar="NAME",
                    help="stored session (default: the current one) [GUESTCTL_SESSION]",
                ),
                None,
            ),
        )
    if needs != "nothing":
        found += [
            _parameter(key, _option(text, name, metavar=metavar, help=what), None)
            for key, (name, metavar, what) in _OVERRIDES.items()
        ]
    return found


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
