"""`completion`: the script with which a shell asks the hidden `__complete` for candidates (`cli/completion.py`).

Knows: the shells. Must not know: commands and their options.
"""

from __future__ import annotations

from typing import Annotated

from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command
from guestctl.cli.parameters import CommandArgument
from guestctl.core.errors import UsageError

# Each script runs the program as typed, which may not be on the PATH, and falls back to file names. A line of
# `__complete --descriptions` is a candidate, or a candidate, a tab and its description.

# Bash has no descriptions of its own, so they are part of the candidates when there are several. It inserts only what
# the candidates have in common, and they differ before the descriptions begin. The types of completion that insert a
# whole candidate, 37 (menu-complete) and 42 (insert-completions), get no descriptions.
_BASH = """\
_guestctl() {
    local tab=$'\\t' line name text at longest=0 room=${COLUMNS:-80}
    local -a names=() texts=()
    COMPREPLY=()
    while IFS= read -r line; do
        name=$(printf %q "${line%%$tab*}")
        case $line in *"$tab"*) text=${line#*$tab} ;; *) text= ;; esac
        names+=("$name")
        texts+=("$text")
        [ ${#name} -le $longest ] || longest=${#name}
    done < <("$1" __complete --descriptions -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    for at in "${!names[@]}"; do
        line=${names[at]}
        if [ ${#names[@]} -gt 1 ] && [ -n "${texts[at]}" ]; then
            case ${COMP_TYPE:-9} in
                37|42) ;;
                *) printf -v line "%-${longest}s  (%s)" "$line" "${texts[at]}" ;;
            esac
            [ ${#line} -lt $room ] || line="${line:0:room-5}...)"
        fi
        COMPREPLY+=("$line")
    done
}
complete -o default -F _guestctl guestctl
"""
_ZSH = """\
#compdef guestctl
_guestctl() {
    local -a lines names shown
    local name
    local -i at longest=0
    lines=("${(@f)$("${(Q)words[1]}" __complete --descriptions -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    [ -n "${lines[1]}" ] || { _files; return; }
    names=("${(@)lines%%$'\\t'*}")
    for name in "${names[@]}"; do
        (( ${#name} > longest )) && longest=${#name}
    done
    for (( at = 1; at <= ${#lines}; at++ )); do
        name=${names[at]}
        [[ ${lines[at]} == *$'\\t'* ]] && name="${(r:longest:)name}  -- ${lines[at]#*$'\\t'}"
        shown+=("$name")
    done
    if [[ ${(j::)lines} == *$'\\t'* ]]; then
        compadd -l -d shown -- "${names[@]}"
    else
        compadd -- "${names[@]}"
    fi
}
if [ "${funcstack[1]}" = _guestctl ]; then
    _guestctl "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
    compdef _guestctl guestctl
fi
"""
# Fish makes completions of its own from the manual page: every option of every command, after any command. It loads
# them at the first completion, so the script completes once, and then erases them.
_FISH = """\
function __guestctl_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] __complete --descriptions -- $words[2..-1] 2>/dev/null)
    if set -q found[1]
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -C 'guestctl ' >/dev/null
complete -c guestctl -e
complete -c guestctl -f -a '(__guestctl_complete)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@command('eval "$(guestctl completion bash)"', "guestctl completion fish | source", needs="nothing")
def completion(
    run: Invocation,
    shell: Annotated[str, CommandArgument(metavar="SHELL", help="shell: bash, zsh or fish", completes=tuple(_SCRIPTS))],
) -> None:
    """Print the completion script of a shell.

    It completes commands, options, profiles, sessions and other names, and shows descriptions.
    """
    if shell not in _SCRIPTS:
        raise UsageError(f'no completion for "{shell}"', hint=f"available shells: {', '.join(_SCRIPTS)}")
    run.out.verbatim(_SCRIPTS[shell])
