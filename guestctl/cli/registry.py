"""Every command: its words, where it lives, one line of help. The only list of commands.

Knows: names. Must not import: any command, Typer, or anything of ours; `--help` is rendered from
here alone and argv decides which one command is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class CommandEntry(NamedTuple):
    """Where a command lives (module under `guestctl.cli` and attribute), and what it does in one line.

    `data`: in a pipe its stdout is JSON, so its errors are too.
    """

    target: str
    summary: str
    data: bool = True
    hidden: bool = False


GROUPS: dict[str, str] = {
    "session": "stored guest sessions",
    "token": "the session's token",
    "guest": "the guest's own profile at the service",
    "profile": "the YAML profile store",
    "sandbox": "the embedded service",
}

COMMANDS: dict[tuple[str, ...], CommandEntry] = {
    ("ask",): CommandEntry("commands.send_ask:ask", "send a question and print only the reply", data=False),
    ("send",): CommandEntry("commands.send_ask:send", "send one message; done when the service has accepted it"),
    ("listen",): CommandEntry("commands.listen_history:listen", "live messages and events, one line each"),
    ("history",): CommandEntry("commands.listen_history:history", "the conversation so far, in order"),
    ("resume",): CommandEntry(
        "commands.listen_history:resume", "re-attach to the stored session and say what was missed"
    ),
    ("chat",): CommandEntry("chat.prompt:chat", "an interactive conversation in the terminal", data=False),
    ("session", "create"): CommandEntry("commands.session:create", "open a guest session and store it"),
    ("session", "sign-in"): CommandEntry("commands.session:sign_in", "sign in the guest of a session (step-up)"),
    ("session", "sign-out"): CommandEntry(
        "commands.session:sign_out", "sign the guest out; the session is over with it"
    ),
    ("session", "list"): CommandEntry("commands.session:list_", "the stored sessions of the profile"),
    ("session", "show"): CommandEntry("commands.session:show", "one session in full, with the time left"),
    ("session", "use"): CommandEntry("commands.session:use", "make a stored session the default one"),
    ("session", "report"): CommandEntry("commands.session:report", "duration and activity log"),
    ("session", "end"): CommandEntry("commands.session:end", "end the conversation as the guest"),
    ("session", "clear"): CommandEntry("commands.session:clear", "clear the conversation"),
    ("session", "forget"): CommandEntry("commands.session:forget", "delete the local record only"),
    ("refresh-token",): CommandEntry("commands.token:refresh", "get a new credential for the session"),
    ("token", "inspect"): CommandEntry("commands.token:inspect", "what the session's token says, unverified"),
    ("typing",): CommandEntry("commands.guest:typing", "show that the guest is typing"),
    ("download",): CommandEntry("commands.guest:download", "fetch an attachment", data=True),
    ("guest", "sync"): CommandEntry("commands.guest:sync", "merge attributes into the guest's profile"),
    ("profile", "list"): CommandEntry("commands.profile:list_", "the profiles there are"),
    ("profile", "show"): CommandEntry("commands.profile:show", "each value and where it came from"),
    ("profile", "add"): CommandEntry("commands.profile:add", "add a profile to the file"),
    ("profile", "use"): CommandEntry("commands.profile:use", "make a profile the default one"),
    ("profile", "path"): CommandEntry("commands.profile:path", "where the file is, and why there", data=False),
    ("profile", "check"): CommandEntry("commands.profile:check", "is the file in order"),
    ("check",): CommandEntry("commands.check:check", "scripted conversations with expectations, for CI", data=False),
    ("replay",): CommandEntry("commands.replay:replay", "serve a recorded exchange back as a sandbox", data=False),
    ("doctor",): CommandEntry("commands.doctor:doctor", "what is wrong between here and a conversation, line by line"),
    ("explain",): CommandEntry("commands.explain:explain", "what a status, close code, failure or message means"),
    ("apis",): CommandEntry("commands.about:apis", "the API families and what each can do"),
    ("schema",): CommandEntry("commands.about:schema", "JSON Schema of the records"),
    ("sandbox", "serve"): CommandEntry("commands.sandbox:serve", "run the embedded service", data=False),
    ("sandbox", "exec"): CommandEntry("commands.sandbox:exec_", "run a command against a fresh one", data=False),
    ("sandbox", "push"): CommandEntry("commands.sandbox:push", "let the agent say something"),
    ("sandbox", "fault"): CommandEntry("commands.sandbox:fault", "make it misbehave on purpose"),
    ("sandbox", "sessions"): CommandEntry("commands.sandbox:sessions", "what it has seen"),
    ("sandbox", "disconnect"): CommandEntry("commands.sandbox:disconnect", "let the agent end the conversation"),
    ("sandbox", "expire"): CommandEntry("commands.sandbox:expire", "let sessions or tokens expire"),
    ("demo",): CommandEntry("commands.demo:demo", "a tour that really runs, without account or network", data=False),
    ("completion",): CommandEntry(
        "commands.completion:completion", "shell completion script: bash, zsh or fish", data=False
    ),
    ("__complete",): CommandEntry(
        "commands.completion:complete", "candidates for the word being typed", data=False, hidden=True
    ),
}

#: Topics of `guestctl help TOPIC`; their pages are in `cli/topics.py`.
TOPICS: dict[str, str] = {
    "bots": "scripts for the sandbox's bot",
    "checks": "scripts for `guestctl check`",
    "environment": "the variables guestctl reads",
    "exit-codes": "how a command can end",
    "faults": "how the sandbox can misbehave",
    "output": "formats and records",
    "profiles": "where to talk: the file, its keys, the regions",
}

#: Options that may stand before the command's name, and whether each takes a value.
LEADING: dict[str, bool] = {
    "-p": True,
    "--profile": True,
    "-s": True,
    "--session": True,
    "-o": True,
    "--output": True,
    "--timeout": True,
    "--trace": True,
    "--traceparent": True,
    "--profiles": True,
    "--api": True,
    "--region": True,
    "--deployment-id": True,
    "--origin": True,
    "--base-url": True,
    "--socket-url": True,
    "--config-url": True,
    "-v": False,
    "-vv": False,
    "--verbose": False,
    "-q": False,
    "--quiet": False,
    "--debug": False,
    "--no-state": False,
    "-h": False,
    "--help": False,
    "--version": False,
}


class Parsed(NamedTuple):
    """argv split: the command's words as far as they are known, and everything else in order.

    `unknown`: the word or option that no command or leading option has; None when all is well.
    `topic`: what `help` was asked about, when that is no command.
    """

    words: tuple[str, ...]
    rest: list[str]
    unknown: str | None = None
    topic: str | None = None


def split(argv: Sequence[str]) -> Parsed:
    """Find the command in argv; options that came before its name move behind it."""
    words: tuple[str, ...] = ()
    leading: list[str] = []
    waiting = list(argv)
    while waiting and words not in COMMANDS:
        word = waiting.pop(0)
        if word == "--":
            return Parsed(words, leading, waiting[0] if waiting else None)
        if word.startswith("-") and word != "-":
            if not _leads(word):
                return Parsed(words, leading, word)
            leading.append(word)
            if LEADING.get(word) and waiting:
                leading.append(waiting.pop(0))
        elif word == "help" and not words:
            if waiting and waiting[0] in TOPICS:
                return Parsed((), leading + waiting[1:], topic=waiting[0])
            leading.append("--help")
        elif (*words, word) in COMMANDS or (not words and word in GROUPS):
            words = (*words, word)
        else:
            return Parsed(words, leading, word)
    return Parsed(words, leading + waiting)


def _leads(word: str) -> bool:
    name, equals, _ = word.partition("=")
    if name in LEADING:
        return LEADING[name] or not equals
    return not word.startswith("--") and bool(LEADING.get(word[:2])) and len(word) > 2


def members(group: str) -> dict[tuple[str, ...], CommandEntry]:
    """The commands of one group, in order."""
    return {words: entry for words, entry in COMMANDS.items() if words[0] == group and len(words) > 1}


def suggestion(words: tuple[str, ...], unknown: str) -> str | None:
    """What was probably meant by a word or option nobody knows."""
    from guestctl.core.suggestions import nearest

    if unknown.startswith("-"):
        found = nearest(unknown.partition("=")[0], LEADING)
        return found[0] if found else None
    if words:
        inner = [entry[1] for entry in members(words[0])]
        found = _begun(unknown, inner) or nearest(unknown, inner)
        return "` or `".join(" ".join((*words, name)) for name in found) or None
    names: dict[str, list[str]] = {group: [group] for group in GROUPS}
    for entry, what in COMMANDS.items():
        if not what.hidden:
            names.setdefault(entry[-1], []).append(" ".join(entry))
    first = {entry[0] for entry, what in COMMANDS.items() if not what.hidden}
    if unknown not in names and (begun := _begun(unknown, sorted(first))):
        return "` or `".join(begun)
    found = nearest(unknown, names)
    if found:
        return "` or `".join(names[found[0]])
    found = nearest(unknown, TOPICS)
    return f"help {found[0]}" if found else None


def _begun(typed: str, names: Sequence[str]) -> list[str]:
    """The names that begin with what was typed, when they are few."""
    found = [name for name in names if name.startswith(typed)]
    return found if len(found) <= 3 else []
