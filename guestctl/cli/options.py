"""What every command accepts, how a command is declared, and how values are read from words.

Knows: Typer's annotations and the common options of contract.md §2. Must not know: what any
command does. `command` turns a function into a `Leaf`: its own parameters plus the common ones;
Typer only parses, the function runs afterwards, inside our own boundary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from guestctl.core.errors import UsageError
from guestctl.core.humanize import parse_duration
from guestctl.core.values import immutable

PANEL = "common"
DEFAULT_TIMEOUT = 30.0

_LONGEST_NAME = 100

#: What a command needs of a profile: nothing, its values, or its values and a stored session.
Needs: TypeAlias = Literal["nothing", "profile", "session"]


@immutable
class Completes:
    """In the annotation of an argument: what may stand there, for shell completion."""

    what: Literal["session", "profile", "record", "fault", "shell"]


@immutable
class Common:
    """The common options as given. `overrides`: profile key -> value from an option."""

    profile: str | None = None
    session: str | None = None
    output: str | None = None
    timeout: float | None = DEFAULT_TIMEOUT
    verbose: int = 0
    quiet: bool = False
    trace: Path | None = None
    debug: bool = False
    no_state: bool = False
    traceparent: str | None = None
    profiles: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)


class HelpWanted(Exception):
    """`--help` was among the words; carries the text."""


@immutable
class Leaf:
    """One command: the function, and what belongs to its help."""

    function: Callable[..., int | None]
    about: str
    examples: Sequence[str]
    needs: Needs
    timeout: float | None

    @property
    def completes(self) -> Completes | None:
        """What its argument may be, where it says so."""
        parameters = inspect.signature(self.function, eval_str=True).parameters.values()
        said = (one for parameter in parameters for one in getattr(parameter.annotation, "__metadata__", ()))
        return next((one for one in said if isinstance(one, Completes)), None)

    def callback(self, width: int | None) -> Callable[..., tuple[Common, dict[str, Any]]]:
        """What Typer fills in: it returns the common options and the function's own arguments."""
        own = inspect.signature(self.function, eval_str=True)
        parameters = list(own.parameters.values())[1:]
        shared = [*_common(self.needs, self.timeout), self._help(width)]

        def parsed(**values: Any) -> tuple[Common, dict[str, Any]]:
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

        # Eager, so that `--help` wins over whatever else is wrong with the words.
        option = typer.Option("-h", "--help", is_eager=True, callback=show, help="show this", rich_help_panel=PANEL)
        return _parameter("help_", Annotated[bool, option], False)


def command(
    *examples: str, needs: Needs = "session", timeout: float | None = DEFAULT_TIMEOUT
) -> Callable[[Callable[..., int | None]], Leaf]:
    """Declare a command. The function gets an `Invocation` first and may return an exit code of its
    own; its docstring is its help."""

    def declared(function: Callable[..., int | None]) -> Leaf:
        return Leaf(function, inspect.cleandoc(function.__doc__ or ""), examples, needs, timeout)

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
    "api": ("--api", "NAME", "API family, instead of the profile's"),
    "region": ("--region", "NAME", "region or domain, instead of the profile's"),
    "deployment_id": ("--deployment-id", "ID", "deployment, instead of the profile's"),
    "origin": ("--origin", "URL", "Origin to send, instead of the profile's"),
    "base_url": ("--base-url", "URL", "REST address, instead of the region's"),
    "socket_url": ("--socket-url", "URL", "socket address, instead of the region's"),
    "config_url": ("--config-url", "URL", "configuration address, instead of the region's"),
}


def _common(needs: Needs, timeout: float | None) -> list[inspect.Parameter]:
    text = str | None
    times = f"seconds, 500ms or 2m (default {'none' if timeout is None else f'{timeout:g}'})"
    found = [
        _parameter(
            "output",
            _option(text, "-o", "--output", metavar="MODE", help="auto, table, json, jsonl or yaml [GUESTCTL_OUTPUT]"),
            None,
        ),
        _parameter("timeout", _option(text, "--timeout", metavar="TIME", help=times), None),
        _parameter(
            "profile", _option(text, "-p", "--profile", metavar="NAME", help="profile [GUESTCTL_PROFILE]"), None
        ),
        _parameter(
            "profiles", _option(text, "--profiles", metavar="FILE", help="profile file [GUESTCTL_PROFILES]"), None
        ),
        _parameter("verbose", _option(int, "-v", "--verbose", count=True, help="requests; twice: frames too"), 0),
        _parameter("quiet", _option(bool, "-q", "--quiet", help="only data and errors"), False),
        _parameter(
            "trace", _option(Path | None, "--trace", metavar="FILE", help="write the exchange, secrets masked"), None
        ),
        _parameter("traceparent", _option(text, "--traceparent", metavar="CONTEXT", help="W3C trace context"), None),
        _parameter("no_state", _option(bool, "--no-state", help="remember nothing, read nothing remembered"), False),
        _parameter("debug", _option(bool, "--debug", help="tracebacks, without values"), False),
    ]
    if needs == "session":
        found.insert(
            3, _parameter("session", _option(text, "-s", "--session", metavar="NAME", help="stored session"), None)
        )
    if needs != "nothing":
        found += [
            _parameter(key, _option(text, name, metavar=metavar, help=what), None)
            for key, (name, metavar, what) in _OVERRIDES.items()
        ]
    return found


# --- reading words ---


def duration(option: str, text: str, *, zero: bool = True) -> float:
    """Seconds of `30`, `500ms`, `2m`, `1.5h`. Raises UsageError naming the option."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = -1.0
    if not (0 < seconds < 1e9 or (zero and seconds == 0)):
        raise UsageError(f"{option} {text!r}: not a duration; give seconds, 500ms or 2m")
    return seconds


def session_name(option: str, name: str) -> str:
    """A name that a session can have. Raises UsageError naming the option, or the variable."""
    if not name.strip() or name.startswith("-") or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise UsageError(f"{option} {name!r}: a session's name is printable, short and does not begin with a dash")
    return name


def pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """`k=v` words as a mapping. Raises UsageError naming the option and the word."""
    found: dict[str, str] = {}
    for word in given or ():
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} {word!r}: expected KEY=VALUE")
        found[key] = value
    return found


def pattern(option: str, text: str | None) -> Any:
    """A compiled regular expression, or None. Raises UsageError saying where it is wrong."""
    import re

    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise UsageError(f"{option} {text!r}: not a regular expression: {error}") from error


def _check_traceparent(text: str) -> None:
    from guestctl.core.wire import is_trace_context

    if not is_trace_context(text):
        raise UsageError(f"--traceparent {text!r}: expected 00-<32 hex>-<16 hex>-<2 hex> (W3C Trace Context)")
