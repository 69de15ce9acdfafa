"""Shell completion: a script that asks `guestctl __complete` for the candidates.

Knows: the commands, their options and where names come from. Must not know: what a command does. Completion uses
no network and prints no errors, because it must never disturb the command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from guestctl.cli import registry
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import Completes, Leaf, command
from guestctl.core.errors import Failure, UsageError

# Each script runs the program as typed, which may not be on the PATH, and falls back to file names.
_BASH = """\
_guestctl() {
    local IFS=$'\\n' found
    COMPREPLY=()
    for found in $("$1" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null); do
        COMPREPLY+=("$(printf %q "$found")")
    done
}
complete -o default -F _guestctl guestctl
"""
_ZSH = """\
#compdef guestctl
_guestctl() {
    local -a found
    found=("${(@f)$("${(Q)words[1]}" __complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    [ -n "${found[1]}" ] && compadd -- "${found[@]}" || _files
}
if [ "${funcstack[1]}" = _guestctl ]; then
    _guestctl "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
    compdef _guestctl guestctl
fi
"""
_FISH = """\
function __guestctl_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] __complete -- $words[2..-1] 2>/dev/null)
    if set -q found[1]
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c guestctl -f -a '(__guestctl_complete)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
#: Options of single commands that take one of a few values.
_CHOICES = {
    "--on-conflict": ("wait", "new", "fail"),
    "--format": ("md", "html", "txt"),
    "--refresh-style": ("guest-refresh", "guest-token"),
    "--disconnect": ("ReadOnly", "Send"),
}


@command('eval "$(guestctl completion bash)"', "guestctl completion fish | source", needs="nothing")
def completion(
    run: Invocation,
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="shell: bash, zsh or fish"), Completes("shell")],
) -> None:
    """Print the completion script of a shell.

    It completes commands, options, profiles, sessions and other names.
    """
    if shell not in _SCRIPTS:
        raise UsageError(f'no completion for "{shell}"', hint=f"available shells: {', '.join(_SCRIPTS)}")
    run.out.verbatim(_SCRIPTS[shell])


@command("guestctl __complete -- se", "guestctl __complete -- session cr", needs="nothing")
def complete(run: Invocation, words: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Print the candidates for the last word. The completion scripts run this command."""
    *before, begun = words or [""]
    attached = ""
    if begun.startswith("--") and "=" in begun:
        option, _, begun = begun.partition("=")
        before.append(option)
        attached = f"{option}="
    elif begun == "=" and before:  # bash splits --option=value into three words
        begun = ""
    elif before and before[-1] == "=":
        before.pop()
    for candidate in sorted(set(_candidates(run, before, begun))):
        if candidate.startswith(begun):
            run.out.verbatim(f"{attached}{candidate}\n")


def _candidates(run: Invocation, before: list[str], begun: str) -> Iterable[str]:
    if "--" in before:
        return []
    if before and (values := _values(run, before[-1])) is not None:
        return values
    parsed = registry.split(before)
    if parsed.unknown is not None or parsed.topic is not None:
        return []
    if parsed.words in registry.COMMANDS:
        if begun.startswith("-"):
            return _options(parsed.words)
        return _arguments(run, parsed.words)
    if begun.startswith("-"):
        return registry.LEADING
    depth = len(parsed.words)
    found = [
        words[depth] for words, entry in registry.COMMANDS.items() if words[:depth] == parsed.words and not entry.hidden
    ]
    if depth:
        return found
    return [*found, *registry.TOPICS] if "help" in before else [*found, "help"]


def _leaf(words: tuple[str, ...]) -> Leaf:
    from importlib import import_module

    module, _, name = registry.COMMANDS[words].target.partition(":")
    found: Leaf = getattr(import_module(f"guestctl.cli.{module}"), name)
    return found


def _options(words: tuple[str, ...]) -> list[str]:
    from typer.main import get_command

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(add_help_option=False)(_leaf(words).callback(None))
    return [option for parameter in get_command(app).params for option in parameter.opts if option.startswith("--")]


def _values(run: Invocation, option: str) -> Iterable[str] | None:
    """Return the values of an option, None if it takes no value or a file."""
    from guestctl.dialects import NAMES
    from guestctl.output.writer import MODES

    if option in {"-o", "--output"}:
        return MODES
    if option == "--api":
        return NAMES
    if option in {"-p", "--profile"}:
        return _profiles(run)
    if option in {"-s", "--session"}:
        return _sessions(run)
    if option == "--region":
        from guestctl.config.regions import REGIONS

        return [found.aws for found in REGIONS]
    if option == "--only":
        from guestctl.output.records import EVENT_KINDS

        return EVENT_KINDS
    if option == "--from":
        from guestctl.cli.commands.hooks import ROLES

        return ROLES
    if option in _CHOICES:
        return _CHOICES[option]
    return [] if registry.LEADING.get(option) and option not in {"--trace", "--profiles"} else None


def _arguments(run: Invocation, words: tuple[str, ...]) -> Iterable[str]:
    completes = _leaf(words).completes
    what = completes.what if completes is not None else None
    if what == "session":
        return _sessions(run)
    if what == "profile":
        return _profiles(run)
    if what == "record":
        from guestctl.output.record_types import RECORD_TYPES

        return RECORD_TYPES
    if what == "fault":
        from guestctl.sandbox.faults import KINDS

        return KINDS
    return _SCRIPTS if what == "shell" else []


def _profiles(run: Invocation) -> list[str]:
    from guestctl.config.profiles import SANDBOX, find

    try:
        return [*find(run.options.profiles, run.world.environ, run.world.cwd).names, SANDBOX]
    except Failure:
        return [SANDBOX]


def _sessions(run: Invocation) -> list[str]:
    """Return the session names of all profiles, since the profile is not known yet. Creates no state."""
    from guestctl.storage.state import State

    if not State.directory(run.world.environ).is_dir():
        return []
    try:
        return [session.name for _, session in run.state.sessions()]
    except Failure:
        return []
