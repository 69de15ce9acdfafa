"""Shell completion: a script that asks `guestctl __complete` for the candidates.

Knows: commands, options, and where names come from. Must not know: what any command does. Asking
opens no connection, and says nothing when something is wrong: a completion must never disturb.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from guestctl.cli import registry
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command
from guestctl.errors import Failure, UsageError

_BASH = """\
_guestctl() {
    local IFS=$'\\n'
    COMPREPLY=($(guestctl __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    [ "${#COMPREPLY[@]}" -gt 0 ] || compopt -o default
}
complete -F _guestctl guestctl
"""
_ZSH = """\
#compdef guestctl
_guestctl() {
    local -a found
    found=("${(@f)$(guestctl __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    [ -n "${found[1]}" ] && compadd -- "${found[@]}" || _files
}
compdef _guestctl guestctl
"""
_FISH = """\
function __guestctl_complete
    set -l words (commandline -opc) (commandline -ct)
    guestctl __complete -- $words[2..-1] 2>/dev/null
end
complete -c guestctl -f -a '(__guestctl_complete)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@command('eval "$(guestctl completion bash)"', "guestctl completion fish | source", needs="nothing")
def completion(
    run: Invocation, shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish")]
) -> None:
    """Print the completion script of a shell; profiles and sessions are completed, too."""
    if shell not in _SCRIPTS:
        raise UsageError(f"no completion for {shell!r}; there is {', '.join(_SCRIPTS)}")
    run.out.verbatim(_SCRIPTS[shell])


@command("guestctl __complete -- se", "guestctl __complete -- session cr", needs="nothing")
def complete(run: Invocation, words: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Print the candidates for the last of these words (used by the completion scripts)."""
    *before, begun = words or [""]
    for candidate in sorted(set(_candidates(run, before, begun))):
        if candidate.startswith(begun):
            run.out.verbatim(candidate + "\n")


def _candidates(run: Invocation, before: list[str], begun: str) -> Iterable[str]:
    if before and (values := _values(run, before[-1], before)) is not None:
        return values
    parsed = registry.split(before)
    if parsed.unknown is not None:
        return []
    if parsed.words in registry.COMMANDS:
        if begun.startswith("-"):
            return _options(parsed.words)
        return _arguments(run, parsed.words, before)
    if begun.startswith("-"):
        return registry.LEADING
    depth = len(parsed.words)
    return [
        words[depth] for words, entry in registry.COMMANDS.items() if words[:depth] == parsed.words and not entry.hidden
    ]


def _options(words: tuple[str, ...]) -> list[str]:
    from importlib import import_module

    from typer.main import get_command

    module, _, name = registry.COMMANDS[words].target.partition(":")
    leaf = getattr(import_module(f"guestctl.cli.{module}"), name)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(add_help_option=False)(leaf.callback(None))
    return [option for parameter in get_command(app).params for option in parameter.opts if option.startswith("--")]


def _values(run: Invocation, option: str, before: list[str]) -> list[str] | None:
    """Values of the option just typed; None when it takes none that can be listed."""
    from guestctl.dialects import NAMES
    from guestctl.output import MODES

    if option in {"-o", "--output"}:
        return list(MODES)
    if option == "--api":
        return list(NAMES)
    if option in {"-p", "--profile"}:
        return _profiles(run)
    if option in {"-s", "--session"}:
        return _sessions(run, before)
    return [] if registry.LEADING.get(option) and option not in {"--trace", "--profiles"} else None


def _arguments(run: Invocation, words: tuple[str, ...], before: list[str]) -> list[str]:
    if words in {("session", "use"), ("session", "forget")}:
        return _sessions(run, before)
    if words in {("profile", "use"), ("profile", "show")}:
        return _profiles(run)
    if words == ("schema",):
        from guestctl.schema import SCHEMAS

        return list(SCHEMAS)
    return list(_SCRIPTS) if words == ("completion",) else []


def _profiles(run: Invocation) -> list[str]:
    from guestctl.profiles import SANDBOX, find

    try:
        return [*find(run.options.profiles, run.world.environ, run.world.cwd).names, SANDBOX]
    except Failure:
        return [SANDBOX]


def _sessions(run: Invocation, before: list[str]) -> list[str]:
    """Names stored under any profile; the one being typed for may not be known yet."""
    try:
        return [session.name for _, session in run.state.sessions()]
    except Failure:
        return []
