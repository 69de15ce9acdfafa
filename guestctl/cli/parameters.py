"""The declarations of options and arguments, and the common options.

Knows: names, help texts, and what a value completes to. Must not import Typer: completion and the help of the program
read these declarations as they are, and `application` makes Typer's parameters of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

DEFAULT_TIMEOUT = 30.0

#: What a command needs: nothing, a profile, or a profile and a stored session.
Needs: TypeAlias = Literal["nothing", "profile", "session"]

#: A list of names that completion offers as values. An empty list lets the shell offer file names.
Names: TypeAlias = Literal["api", "event", "fault", "mode", "profile", "record", "region", "session"]

#: The values that completion offers: a list of names, the words themselves, or nothing.
Completes: TypeAlias = Names | tuple[str, ...]


class CommandArgument:
    """An argument of a command, declared in the annotation of a parameter."""

    def __init__(self, *, metavar: str, help: str, completes: Completes = ()) -> None:
        self.metavar = metavar
        self.help = help
        self.completes = completes


class CommandOption:
    """An option of a command, declared in the annotation of a parameter. Without `metavar` it takes no value.

    `min` and `max` are the bounds of a whole number. `count`: the value is how often the option is given. `eager`: it
    is evaluated before the other options, even if they are wrong.
    """

    def __init__(
        self,
        *names: str,
        help: str,
        metavar: str | None = None,
        min: int | None = None,
        max: int | None = None,
        completes: Completes = (),
        show_default: bool = True,
        count: bool = False,
        eager: bool = False,
    ) -> None:
        self.names = names
        self.help = help
        self.metavar = metavar
        self.min = min
        self.max = max
        self.completes = completes
        self.show_default = show_default
        self.count = count
        self.eager = eager

    @property
    def takes_value(self) -> bool:
        return self.metavar is not None


class Parameter:
    """One parameter of a command's function. `default` is `...` if a value is required.

    `common`: other commands have it, too. This is not a named tuple, because creating such a class is slow.
    """

    def __init__(
        self, name: str, type: Any, declared: CommandOption | CommandArgument, default: Any, *, common: bool = False
    ) -> None:
        self.name = name
        self.type = type
        self.declared = declared
        self.default = default
        self.common = common

    @property
    def option(self) -> CommandOption | None:
        """The declaration if it is an option, None for an argument."""
        return self.declared if isinstance(self.declared, CommandOption) else None

    @property
    def takes_several_words(self) -> bool:
        """Whether it is an argument that takes all remaining words."""
        return self.option is None and any(get_origin(one) is list for one in (self.type, *get_args(self.type)))


def declared(name: str, annotation: Any, default: Any) -> Parameter:
    """Return the parameter with the annotation `Annotated[type, CommandOption(…)]`. Raises TypeError for any other."""
    if get_origin(annotation) is Annotated:
        kind, *notes = get_args(annotation)
        for note in notes:
            if isinstance(note, (CommandOption, CommandArgument)):
                return Parameter(name, kind, note, default)
    raise TypeError(f"the parameter {name} is neither a CommandOption nor a CommandArgument")


#: For the commands that send messages.
TraceAttribute = Annotated[
    str | None,
    CommandOption("--trace-attribute", metavar="NAME", help="state the trace id in this custom attribute of messages"),
]

#: For the commands that call models.
ModelRecord = Annotated[
    Path | None, CommandOption("--model-record", metavar="DIR", help="store each call of a model in DIR")
]
ModelReplay = Annotated[
    Path | None, CommandOption("--model-replay", metavar="DIR", help="take the answers of models from DIR only")
]

_TEXT = str | None
_PATH = Path | None

#: Profile keys that have an option.
OVERRIDES: dict[str, CommandOption] = {
    "api": CommandOption("--api", metavar="NAME", help="API (default: the profile's)", completes="api"),
    "region": CommandOption(
        "--region", metavar="NAME", help="region or domain (default: the profile's)", completes="region"
    ),
    "deployment_id": CommandOption("--deployment-id", metavar="ID", help="deployment id (default: the profile's)"),
    "origin": CommandOption("--origin", metavar="URL", help="Origin header to send (default: the profile's)"),
    "base_url": CommandOption(
        "--base-url", metavar="URL", help="REST address (default: the profile's or the region's)"
    ),
    "socket_url": CommandOption(
        "--socket-url", metavar="URL", help="socket address (default: the profile's or the region's)"
    ),
    "config_url": CommandOption(
        "--config-url", metavar="URL", help="configuration address (default: the profile's or the region's)"
    ),
}

#: The options of the program. Every command has the first, too.
HELP = CommandOption("-h", "--help", help="show this help", eager=True)
VERSION = CommandOption("--version", help="show the version")


#: The name of the parameter for --help. `help` is a function of Python.
HELP_NAME = "help_"


def common(needs: Needs, timeout: float | None, *, connects: bool = True) -> list[Parameter]:
    """Return the common options of a command (contract.md §2). `timeout` is the default of --timeout, in seconds.

    `connects`: whether the command sends a guest's requests, which have a trace context.
    """
    limit = "none" if timeout is None else f"{timeout:g}"
    found = [
        _common(
            "output",
            _TEXT,
            CommandOption(
                *("-o", "--output"),
                metavar="MODE",
                help="auto, table, json, jsonl, yaml or csv (default: auto) [GUESTCTL_OUTPUT]",
                completes="mode",
            ),
        ),
        _common(
            "timeout",
            _TEXT,
            CommandOption("--timeout", metavar="TIME", help=f"time limit: seconds, 500ms or 2m (default: {limit})"),
        ),
        _common(
            "profile",
            _TEXT,
            CommandOption(
                "-p", "--profile", metavar="NAME", help="profile to use [GUESTCTL_PROFILE]", completes="profile"
            ),
        ),
        _common(
            "profiles", _TEXT, CommandOption("--profiles", metavar="FILE", help="profile file [GUESTCTL_PROFILES]")
        ),
        _common(
            "verbose",
            int,
            CommandOption(
                *("-v", "--verbose"),
                help="print requests on stderr, and full times in tables; twice: frames too",
                count=True,
                show_default=False,
            ),
            0,
        ),
        _common("quiet", bool, CommandOption("-q", "--quiet", help="print only data and errors"), False),
        _common(
            "trace",
            _PATH,
            CommandOption("--trace", metavar="FILE", help="write requests and frames to a new FILE, secrets masked"),
        ),
        _common(
            "trace_append",
            _PATH,
            CommandOption("--trace-append", metavar="FILE", help="like --trace, but extend FILE [GUESTCTL_TRACE]"),
        ),
        *(_TRACING if connects else ()),
        _common("no_state", bool, CommandOption("--no-state", help="neither read nor store sessions"), False),
        _common("debug", bool, CommandOption("--debug", help="print tracebacks, without values"), False),
    ]
    if needs == "session":
        session = CommandOption(
            *("-s", "--session"),
            metavar="NAME",
            help="stored session (default: the current one) [GUESTCTL_SESSION]",
            completes="session",
        )
        found.insert(3, _common("session", _TEXT, session))
    if needs != "nothing":
        found += [_common(key, _TEXT, option) for key, option in OVERRIDES.items()]
    return [*found, _common(HELP_NAME, bool, HELP, False)]


def _common(name: str, kind: Any, option: CommandOption, default: Any = None) -> Parameter:
    return Parameter(name, kind, option, default, common=True)


_TRACING = (
    _common(
        "traceparent",
        _TEXT,
        CommandOption("--traceparent", metavar="CONTEXT", help="W3C trace context to send [TRACEPARENT]"),
    ),
    _common("propagate_baggage", bool, CommandOption("--propagate-baggage", help="also send BAGGAGE"), False),
)
