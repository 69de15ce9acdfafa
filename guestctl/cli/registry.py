"""The list of commands: the name, the module and the one-line summary of each.

Knows: names. Must not import Typer, or a command before it is named. `guestctl --help` and completion read this list
alone, and `application` makes the Typer application of it. That keeps the start-up fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from guestctl.cli.parameters import DEFAULT_TIMEOUT, VERSION, common

if TYPE_CHECKING:
    from guestctl.cli.options import Leaf
    from guestctl.core.errors import Failure

#: The hidden command that the completion scripts run. Its arguments are words of another command line, so neither this
#: list nor Typer parses them.
COMPLETE = "__complete"

#: What the program is for.
ABOUT = "Be the guest of a Genesys Cloud web messaging conversation, from the command line."


class CommandEntry:
    """The location of a command (module below `guestctl.cli`, and attribute) and its summary.

    `data`: outside a terminal the command prints JSON, and so do its errors. `lists`: it prints a list, which can be
    CSV. `refused`: a function that is called with the arguments and the failure when the arguments are wrong.
    """

    def __init__(
        self, target: str, summary: str, *, data: bool = True, lists: bool = False, refused: str | None = None
    ) -> None:
        self.target = target
        self.summary = summary
        self.data = data
        self.lists = lists
        self.refused = refused

    def load(self) -> Leaf:
        """Import the command's module and return its declaration."""
        found: Leaf = _attribute(self.target)
        return found

    def refuse(self, arguments: Sequence[str], failure: Failure) -> None:
        """Tell the command that its arguments are wrong, if it wants to know."""
        if self.refused is not None:
            _attribute(self.refused)(arguments, failure)


def _attribute(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(import_module(f"guestctl.cli.{module}"), name)


GROUPS: dict[str, str] = {
    "session": "stored guest sessions",
    "token": "the session's token",
    "guest": "the guest's profile at the service",
    "profile": "profiles in the YAML file",
    "relay": "one connection for many readers",
    "trace": "recorded traces",
    "sandbox": "the built-in local service",
}

COMMANDS: dict[tuple[str, ...], CommandEntry] = {
    ("ask",): CommandEntry("commands.send_ask:ask", "send a question and print the reply", data=False),
    ("send",): CommandEntry("commands.send_ask:send", "send one message and wait until the service accepts it"),
    ("listen",): CommandEntry("commands.listen_history:listen", "print live messages and events, one line each"),
    ("history",): CommandEntry(
        "commands.listen_history:history", "print the conversation's messages in order", lists=True
    ),
    ("resume",): CommandEntry("commands.listen_history:resume", "attach to the session again, print missed messages"),
    ("chat",): CommandEntry("chat.prompt:chat", "chat interactively in the terminal", data=False),
    ("session", "create"): CommandEntry("commands.session:create", "create a guest session and store it"),
    ("session", "sign-in"): CommandEntry("commands.session:sign_in", "sign in the guest of an anonymous session"),
    ("session", "sign-out"): CommandEntry("commands.session:sign_out", "sign the guest out and end the session"),
    ("session", "list"): CommandEntry("commands.session:list_", "list the stored sessions of the profile", lists=True),
    ("session", "show"): CommandEntry("commands.session:show", "show one session and its remaining time"),
    ("session", "use"): CommandEntry("commands.session:use", "choose the session that later commands use"),
    ("session", "report"): CommandEntry("commands.session:report", "show the session's duration and activity"),
    ("session", "export"): CommandEntry("commands.handover:export", "print a session for another client"),
    ("session", "attach"): CommandEntry("commands.handover:attach", "take over a session of another client"),
    ("session", "end"): CommandEntry("commands.session:end", "end the conversation as the guest"),
    ("session", "clear"): CommandEntry("commands.session:clear", "clear the conversation and delete its transcript"),
    ("session", "forget"): CommandEntry("commands.session:forget", "delete the stored session only"),
    ("refresh-token",): CommandEntry("commands.token:refresh", "renew the session's token"),
    ("token", "inspect"): CommandEntry("commands.token:inspect", "show the claims of a token, unverified"),
    ("typing",): CommandEntry("commands.guest:typing", "send a typing indicator"),
    ("download",): CommandEntry("commands.guest:download", "download an attachment", data=True),
    ("guest", "sync"): CommandEntry("commands.guest:sync", "merge attributes into the guest's profile"),
    ("profile", "list"): CommandEntry("commands.profile:list_", "list the profiles", lists=True),
    ("profile", "show"): CommandEntry("commands.profile:show", "show each value and where it comes from"),
    ("profile", "add"): CommandEntry("commands.profile:add", "add a profile to the file"),
    ("profile", "set"): CommandEntry("commands.profile:set_", "change values of a profile"),
    ("profile", "rename"): CommandEntry("commands.profile:rename", "rename a profile, with its sessions"),
    ("profile", "remove"): CommandEntry("commands.profile:remove", "remove a profile, with its sessions"),
    ("profile", "use"): CommandEntry("commands.profile:use", "make a profile the default"),
    ("profile", "path"): CommandEntry("commands.profile:path", "print the path of the file", data=False),
    ("profile", "trust"): CommandEntry("commands.profile:trust", "trust a profile file of the working directory"),
    ("profile", "check"): CommandEntry("commands.profile:check", "check the file for errors"),
    ("check",): CommandEntry(
        "commands.check:check", "run scripted conversation tests", data=False, refused="commands.check:refused"
    ),
    ("load",): CommandEntry("commands.load:load", "run check scripts with many guests at once", data=False),
    ("relay", "serve"): CommandEntry("commands.relay:serve", "pass a session's events to many readers", data=False),
    ("relay", "key"): CommandEntry("commands.relay:key", "print the key that the relay's readers need", data=False),
    ("judge",): CommandEntry("commands.judge:judge", "measure a judge of AI checks with your labels", data=False),
    ("trace", "export"): CommandEntry(
        "commands.trace:export", "turn a trace into spans or HAR for other tools", data=False
    ),
    ("trace", "view"): CommandEntry("commands.trace_view:view", "show recorded traces in a browser", data=False),
    ("proxy",): CommandEntry(
        "commands.proxy:proxy", "record any client's traffic between it and a service", data=False
    ),
    ("replay",): CommandEntry("commands.replay:replay", "serve a trace as a sandbox", data=False),
    ("doctor",): CommandEntry("commands.doctor:doctor", "check everything that a conversation needs", lists=True),
    ("explain",): CommandEntry("commands.explain:explain", "explain a status, close code, failure or message"),
    ("apis",): CommandEntry("commands.about:apis", "list the APIs and what each can do", lists=True),
    ("schema",): CommandEntry("commands.about:schema", "print the JSON Schema of the records"),
    ("sandbox", "serve"): CommandEntry("commands.sandbox:serve", "run a sandbox until Ctrl-C", data=False),
    ("sandbox", "exec"): CommandEntry("commands.sandbox:exec_", "run a command against a new sandbox", data=False),
    ("sandbox", "push"): CommandEntry("commands.sandbox:push", "send a message from the agent"),
    ("sandbox", "fault"): CommandEntry("commands.sandbox:fault", "inject faults"),
    ("sandbox", "sessions"): CommandEntry("commands.sandbox:sessions", "list the sandbox's sessions", lists=True),
    ("sandbox", "disconnect"): CommandEntry("commands.sandbox:disconnect", "end the conversation as the agent"),
    ("sandbox", "expire"): CommandEntry("commands.sandbox:expire", "expire sessions or their tokens"),
    ("demo",): CommandEntry("commands.demo:demo", "run a short tour, without account or network", data=False),
    ("completion",): CommandEntry("commands.completion:completion", "print a shell completion script", data=False),
}

#: Topics of `guestctl help TOPIC`; their pages are in `cli/topics.py`.
TOPICS: dict[str, str] = {
    "bots": "scripts for the sandbox's bot",
    "checks": "scripts for `guestctl check`",
    "environment": "the variables that guestctl reads",
    "exit-codes": "the exit codes of every command",
    "faults": "faults that the sandbox can inject",
    "output": "output modes and records",
    "profiles": "the profile file, its keys, the regions",
}

#: The options that are allowed before the command's name: the common ones and those of the program.
LEADING_OPTIONS = (*(one.option for one in common("session", DEFAULT_TIMEOUT) if one.option), VERSION)

#: Their names, and whether each takes a value.
LEADING: dict[str, bool] = {name: option.takes_value for option in LEADING_OPTIONS for name in option.names}
LEADING["-vv"] = False


class Parsed:
    """The split arguments: the words of the command, and the rest in order.

    `unknown`: the first word or option that is neither a command nor a leading option, None without one.
    `topic`: the topic after `help`, None without one.
    """

    def __init__(
        self, words: tuple[str, ...], rest: list[str], unknown: str | None = None, topic: str | None = None
    ) -> None:
        self.words = words
        self.rest = rest
        self.unknown = unknown
        self.topic = topic


def split(argv: Sequence[str]) -> Parsed:
    """Find the command in the arguments. Options before its name move after it."""
    words: tuple[str, ...] = ()
    leading: list[str] = []
    waiting = list(argv)
    while waiting and words not in COMMANDS:
        word = waiting.pop(0)
        if word == "--":
            return Parsed(words, leading, waiting[0] if waiting else None)
        if word.startswith("-") and word != "-":
            if not _is_leading_option(word):
                return Parsed(words, leading, word)
            leading.append(word)
            if LEADING.get(word) and waiting:
                leading.append(waiting.pop(0))
        elif word == COMPLETE and not words:
            return Parsed((COMPLETE,), waiting)
        elif word == "help" and not words:
            if waiting and waiting[0] in TOPICS:
                return Parsed((), leading + waiting[1:], topic=waiting[0])
            leading.append("--help")
        elif (*words, word) in COMMANDS or (not words and word in GROUPS):
            words = (*words, word)
        else:
            return Parsed(words, leading, word)
    return Parsed(words, leading + waiting)


def _is_leading_option(word: str) -> bool:
    name, equals, _ = word.partition("=")
    if name in LEADING:
        return LEADING[name] or not equals
    return not word.startswith("--") and bool(LEADING.get(word[:2])) and len(word) > 2


def names(words: tuple[str, ...] = ()) -> list[str]:
    """Return the names of the commands and groups after these words, in order, each once."""
    depth = len(words)
    found = [one[depth] for one in COMMANDS if one[:depth] == words and len(one) > depth]
    return list(dict.fromkeys(found))


def summary(words: tuple[str, ...]) -> str:
    """Return the one-line summary of a command or a group."""
    return COMMANDS[words].summary if words in COMMANDS else GROUPS[words[0]]


def about(group: str) -> str:
    """Return the sentence that describes a group."""
    return f"Manage {GROUPS[group]}."


def members(group: str) -> dict[tuple[str, ...], CommandEntry]:
    """Return the commands of one group, in order."""
    return {words: entry for words, entry in COMMANDS.items() if words[0] == group and len(words) > 1}


def suggestion(words: tuple[str, ...], unknown: str) -> str | None:
    """Return the command or option that an unknown word most likely stands for."""
    from guestctl.core.suggestions import nearest

    if unknown.startswith("-"):
        found = nearest(unknown.partition("=")[0], LEADING)
        return found[0] if found else None
    if words:
        inner = [entry[1] for entry in members(words[0])]
        found = _starting_with(unknown, inner) or nearest(unknown, inner)
        return "` or `".join(" ".join((*words, name)) for name in found) or None
    names: dict[str, list[str]] = {group: [group] for group in GROUPS}
    for entry in COMMANDS:
        names.setdefault(entry[-1], []).append(" ".join(entry))
    first = {entry[0] for entry in COMMANDS}
    if unknown not in names and (started := _starting_with(unknown, sorted(first))):
        return "` or `".join(started)
    found = nearest(unknown, names)
    if found:
        return "` or `".join(names[found[0]])
    found = nearest(unknown, TOPICS)
    return f"help {found[0]}" if found else None


def _starting_with(typed: str, names: Sequence[str]) -> list[str]:
    """Return the names that start with what was typed, unless there are more than three."""
    found = [name for name in names if name.startswith(typed)]
    return found if len(found) <= 3 else []
