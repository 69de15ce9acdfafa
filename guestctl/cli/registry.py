"""Every command: its words, where it lives, one line of help. The only list of commands.

Knows: names. Must not import: any command, Typer, or anything of ours; `--help` is rendered from
here alone and argv decides which one command is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Entry(NamedTuple):
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

COMMANDS: dict[tuple[str, ...], Entry] = {
    ("ask",): Entry("talk:ask", "send a question and print only the reply", data=False),
    ("send",): Entry("talk:send", "send one message; done when the service has accepted it"),
    ("listen",): Entry("follow:listen", "live messages and events, one line each"),
    ("history",): Entry("follow:history", "the conversation so far, in order"),
    ("resume",): Entry("follow:resume", "re-attach to the stored session and say what was missed"),
    ("chat",): Entry("chat:chat", "an interactive conversation in the terminal", data=False),
    ("session", "create"): Entry("session:create", "open a guest session and store it"),
    ("session", "sign-in"): Entry("session:sign_in", "sign in the guest of a session (step-up)"),
    ("session", "sign-out"): Entry("session:sign_out", "sign the guest out; the session is over with it"),
    ("session", "list"): Entry("session:list_", "the stored sessions of the profile"),
    ("session", "show"): Entry("session:show", "one session in full, with the time left"),
    ("session", "use"): Entry("session:use", "make a stored session the default one"),
    ("session", "report"): Entry("session:report", "duration and activity log"),
    ("session", "end"): Entry("session:end", "end the conversation as the guest"),
    ("session", "clear"): Entry("session:clear", "clear the conversation"),
    ("session", "forget"): Entry("session:forget", "delete the local record only"),
    ("refresh-token",): Entry("token:refresh", "get a new credential for the session"),
    ("token", "inspect"): Entry("token:inspect", "what the session's token says, unverified"),
    ("typing",): Entry("guest:typing", "show that the guest is typing"),
    ("download",): Entry("guest:download", "fetch an attachment", data=True),
    ("guest", "sync"): Entry("guest:sync", "merge attributes into the guest's profile"),
    ("profile", "list"): Entry("profile:list_", "the profiles there are"),
    ("profile", "show"): Entry("profile:show", "each value and where it came from"),
    ("profile", "add"): Entry("profile:add", "add a profile to the file"),
    ("profile", "use"): Entry("profile:use", "make a profile the default one"),
    ("profile", "path"): Entry("profile:path", "where the file is, and why there", data=False),
    ("profile", "check"): Entry("profile:check", "is the file in order"),
    ("check",): Entry("check:check", "scripted conversations with expectations, for CI", data=False),
    ("replay",): Entry("replay:replay", "serve a recorded exchange back as a sandbox", data=False),
    ("doctor",): Entry("doctor:doctor", "what is wrong between here and a conversation, line by line"),
    ("explain",): Entry("explain:explain", "what a status, close code, failure or message means"),
    ("apis",): Entry("about:apis", "the API families and what each can do"),
    ("schema",): Entry("about:schema", "JSON Schema of the records"),
    ("sandbox", "serve"): Entry("sandbox:serve", "run the embedded service", data=False),
    ("sandbox", "exec"): Entry("sandbox:exec_", "run a command against a fresh one", data=False),
    ("sandbox", "push"): Entry("sandbox:push", "let the agent say something"),
    ("sandbox", "fault"): Entry("sandbox:fault", "make it misbehave on purpose"),
    ("sandbox", "sessions"): Entry("sandbox:sessions", "what it has seen"),
    ("sandbox", "disconnect"): Entry("sandbox:disconnect", "let the agent end the conversation"),
    ("sandbox", "expire"): Entry("sandbox:expire", "let sessions or tokens expire"),
    ("demo",): Entry("demo:demo", "a tour that really runs, without account or network", data=False),
    ("completion",): Entry("completion:completion", "shell completion script: bash, zsh or fish", data=False),
    ("__complete",): Entry("completion:complete", "candidates for the word being typed", data=False, hidden=True),
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


def members(group: str) -> dict[tuple[str, ...], Entry]:
    """The commands of one group, in order."""
    return {words: entry for words, entry in COMMANDS.items() if words[0] == group and len(words) > 1}


def suggestion(words: tuple[str, ...], unknown: str) -> str | None:
    """What was probably meant by a word or option nobody knows."""
    from difflib import get_close_matches

    if unknown.startswith("-"):
        found = get_close_matches(unknown.partition("=")[0], LEADING, 1)
        return found[0] if found else None
    if words:
        inner = [entry[1] for entry in members(words[0])]
        nearest = _begun(unknown, inner) or get_close_matches(unknown, inner, 1)
        return "` or `".join(" ".join((*words, name)) for name in nearest) or None
    names: dict[str, list[str]] = {group: [group] for group in GROUPS}
    for entry, what in COMMANDS.items():
        if not what.hidden:
            names.setdefault(entry[-1], []).append(" ".join(entry))
    first = {entry[0] for entry, what in COMMANDS.items() if not what.hidden}
    if unknown not in names and (begun := _begun(unknown, sorted(first))):
        return "` or `".join(begun)
    nearest = get_close_matches(unknown, names, 1)
    if nearest:
        return "` or `".join(names[nearest[0]])
    nearest = get_close_matches(unknown, TOPICS, 1)
    return f"help {nearest[0]}" if nearest else None


def _begun(typed: str, names: Sequence[str]) -> list[str]:
    """The names that begin with what was typed, when they are few."""
    found = [name for name in names if name.startswith(typed)]
    return found if len(found) <= 3 else []
