"""An interactive shell under `sandbox exec`: its prompt shows that its commands use the sandbox.

Knows: how bash, zsh, fish and plain shells learn their prompt. Must not know: how the sandbox serves.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

#: What a prompt starts with.
MARK = "(sandbox) "
#: Shells that take their prompt from the environment, unless the user's own files set one.
_PLAIN = frozenset({"sh", "dash", "ash", "ksh", "mksh"})


def is_interactive_shell(command: Sequence[str]) -> bool:
    """Return whether a command is a shell without arguments whose user sits at a terminal."""
    known = Path(command[0]).name in {"bash", "zsh", "fish", *_PLAIN}
    return known and len(command) == 1 and os.isatty(0) and os.isatty(2)


def greeting(url: str, api: str) -> str:
    """Return the line that such a shell starts with."""
    return f"commands in this shell use a sandbox at {url} ({api}); `exit` stops it"


def with_prompt(
    command: Sequence[str], environ: Mapping[str, str], directory: Path
) -> tuple[Sequence[str], dict[str, str]]:
    """Return the command and the variables with which a shell shows the mark in front of the user's own prompt.

    The user's files are read as usual. `directory` is an empty directory for files that the shell reads.
    """
    variables, shell = dict(environ), Path(command[0]).name
    if shell == "bash":
        startup = directory / "bashrc"
        startup.write_text(f'[ -f ~/.bashrc ] && . ~/.bashrc\nPS1="{MARK}$PS1"\n')
        return (*command, "--rcfile", str(startup), "-i"), variables
    if shell == "zsh":
        own = shlex.quote(environ.get("ZDOTDIR") or environ.get("HOME", "/"))
        # zsh finds the second file through the variable, which the user's own first file may set.
        (directory / ".zshenv").write_text(
            f"ZDOTDIR={own}\n"
            '[[ -f $ZDOTDIR/.zshenv ]] && source "$ZDOTDIR/.zshenv"\n'
            f"guestctl_own=$ZDOTDIR ZDOTDIR={shlex.quote(str(directory))}\n"
        )
        (directory / ".zshrc").write_text(
            "ZDOTDIR=$guestctl_own; unset guestctl_own\n"
            '[[ -f $ZDOTDIR/.zshrc ]] && source "$ZDOTDIR/.zshrc"\n'
            f'PROMPT="{MARK}$PROMPT"\n'
        )
        variables["ZDOTDIR"] = str(directory)
    elif shell == "fish":
        marked = (
            "functions --copy fish_prompt guestctl_own_prompt; "
            f"function fish_prompt; printf '{MARK}'; guestctl_own_prompt; end"
        )
        return (*command, "--init-command", marked), variables
    else:
        variables["PS1"] = f"{MARK}$ "
    return command, variables
