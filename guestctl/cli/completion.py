"""The candidates of shell completion, each with its description.

Knows: the declarations of the commands, and where names come from. Must not know: what a command does, Typer, which
would make each press of the Tab key slower. Completion uses no network, because it must never disturb the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from guestctl.cli import registry
from guestctl.cli.invocation import Invocation
from guestctl.cli.parameters import CommandOption, Completes
from guestctl.core.errors import Failure

#: The option of `__complete` that asks for descriptions, and the character before a description.
DESCRIBED = "--descriptions"
_BEFORE = "\t"

#: Candidates and their descriptions.
_Found = Mapping[str, str]


def print_candidates(run: Invocation, rest: Sequence[str]) -> None:
    """Print the candidates for the last word, one a line. `rest` is `[--descriptions] -- WORD...`."""
    described = rest[:1] == [DESCRIBED]
    words = rest[described:]
    *before, begun = words[1:] if words[:1] == ["--"] else words or [""]
    attached = ""
    if begun.startswith("--") and "=" in begun:
        option, _, begun = begun.partition("=")
        before.append(option)
        attached = f"{option}="
    elif begun == "=" and before:  # bash splits --option=value into three words
        begun = ""
    elif before and before[-1] == "=":
        before.pop()
    for candidate, what in sorted(_candidates(run, before, begun).items()):
        if candidate.startswith(begun):
            description = _BEFORE + " ".join(what.split()) if described and what else ""
            run.out.verbatim(f"{attached}{candidate}{description}\n")


def _candidates(run: Invocation, before: list[str], begun: str) -> _Found:
    parsed = registry.split(before)
    if "--" in before or parsed.unknown is not None or parsed.topic is not None:
        return {}
    entry = registry.COMMANDS.get(parsed.words)
    parameters = entry.load().parameters() if entry is not None else ()
    options = [one.option for one in parameters if one.option] if parameters else registry.LEADING_OPTIONS
    for option in options:
        if option.takes_value and before and before[-1] in option.names:
            return _values(run, option.completes)
    if begun.startswith("-"):
        return _names(options)
    if parameters:
        arguments = (one.declared.completes for one in parameters if not one.option)
        return _values(run, next(filter(None, arguments), ()))
    return _commands(parsed.words, with_topics="help" in before)


def _names(options: Iterable[CommandOption]) -> _Found:
    """Return the long names of options. A short name is not worth completing."""
    return {name: option.help for option in options for name in option.names if name.startswith("--")}


def _commands(words: tuple[str, ...], *, with_topics: bool) -> _Found:
    found = {name: registry.summary((*words, name)) for name in registry.names(words)}
    if words:
        return found
    return {**found, **(registry.TOPICS if with_topics else {"help": "show the help of a command or a topic"})}


def _values(run: Invocation, completes: Completes) -> _Found:
    if isinstance(completes, tuple):
        return dict.fromkeys(completes, "")
    return _LISTS[completes](run)


def _profiles(run: Invocation) -> _Found:
    from guestctl.config.profiles import SANDBOX, find

    known = {SANDBOX: "the built-in local service"}
    try:
        return dict.fromkeys(find(run.options.profiles, run.world.environ, run.world.cwd).names, "") | known
    except Failure:
        return known


def _sessions(run: Invocation) -> _Found:
    """Return the sessions of all profiles, since the profile is not known yet. Creates no state."""
    from guestctl.storage.state import State

    if not State.directory(run.world.environ).is_dir():
        return {}
    try:
        return {session.name: "" for _, session in run.state.sessions()}
    except Failure:
        return {}


def _apis(run: Invocation) -> _Found:
    from guestctl.dialects import NAMES

    return dict.fromkeys(NAMES, "")


def _regions(run: Invocation) -> _Found:
    from guestctl.config.regions import REGIONS

    return {found.aws: f"{found.place}, {found.domain}" for found in REGIONS}


def _modes(run: Invocation) -> _Found:
    from guestctl.output.writer import MODES

    return dict.fromkeys(MODES, "")


def _events(run: Invocation) -> _Found:
    from guestctl.output.records import EVENT_KINDS

    return dict.fromkeys(EVENT_KINDS, "")


def _records(run: Invocation) -> _Found:
    from guestctl.output.record_types import RECORD_TYPES

    return {name: what for name, (what, _) in RECORD_TYPES.items()}


def _faults(run: Invocation) -> _Found:
    from guestctl.sandbox.faults import KINDS

    return {name: kind.does for name, kind in KINDS.items()}


_LISTS: dict[str, Callable[[Invocation], _Found]] = {
    "api": _apis,
    "event": _events,
    "fault": _faults,
    "mode": _modes,
    "profile": _profiles,
    "record": _records,
    "region": _regions,
    "session": _sessions,
}
