"""Help as text: the whole program, one group, one command.

Knows: two columns and where lines are folded. Must not know: what a command does. The program's
and the groups' help come from the registry alone; a command's from its own parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from guestctl.cli.registry import COMMANDS, GROUPS, TOPICS, CommandEntry, members

if TYPE_CHECKING:
    import typer

_WIDEST_NAME = 30
_WIDEST_PAGE = 100
_TAIL = (
    "`guestctl COMMAND --help` shows a command's options and two examples.\n"
    "Exit codes: 0 done, 1 no, 2 usage, 3 refused, 4 not authorised, 5 forbidden, 6 conflict,\n"
    "7 rate limited, 8 network, 9 timed out, 10 no session, 11 unreadable, 12 unsupported, 13 in doubt.\n"
)


def program(width: int | None) -> str:
    """What `guestctl --help` prints."""
    sections = [
        "Usage: guestctl COMMAND [OPTIONS] [ARGS]\n\n"
        "  Play the guest of a Genesys Cloud web-messaging conversation from a shell.\n"
    ]
    single: dict[tuple[str, ...], CommandEntry] = {words: entry for words, entry in COMMANDS.items() if len(words) == 1}
    sections.append("Commands:\n" + _listed(single, width))
    for group, what in GROUPS.items():
        sections.append(f"{group.capitalize()} ({what}):\n" + _listed(members(group), width))
    sections.append("Topics (guestctl help TOPIC):\n" + columns(TOPICS.items(), width))
    options = (("-h, --help", "show this"), ("--version", "show the version"))
    sections.append("Options:\n" + columns(options, width))
    examples = (
        "guestctl demo",
        'guestctl sandbox exec -- guestctl ask "opening hours?"',
        'guestctl -p staging send "Where is my parcel?" --wait',
    )
    sections.append("Examples:\n" + "".join(f"  {line}\n" for line in examples))
    return "\n".join([*sections, _TAIL])


def group(name: str, width: int | None) -> str:
    """What `guestctl GROUP --help` prints."""
    return (
        f"Usage: guestctl {name} COMMAND [OPTIONS] [ARGS]\n\n  {GROUPS[name].capitalize()}.\n\n"
        f"Commands:\n{_listed(members(name), width)}\n"
        f"`guestctl {name} COMMAND --help` shows a command's options and two examples.\n"
    )


def command(context: typer.Context, about: str, examples: Sequence[str], common: str, width: int | None) -> str:
    """What `guestctl COMMAND --help` prints. Options of the panel `common` come last."""
    text = [f"Usage: {usage(context)}\n\n{paragraphs(about, width)}"]
    text += [f"{title}:\n{columns(rows, width)}" for title, rows in sections(context, common).items() if rows]
    text.append("Examples:\n" + "".join(f"  {example}\n" for example in examples))
    return "\n".join(text)


def usage(context: typer.Context) -> str:
    return " ".join([context.command_path, *context.command.collect_usage_pieces(context)])


def sections(context: typer.Context, common: str) -> dict[str, list[tuple[str, str]]]:
    """A command's parameters, name and description, under their titles."""
    own: list[tuple[str, str]] = []
    shared: list[tuple[str, str]] = []
    arguments: list[tuple[str, str]] = []
    for parameter in context.command.params:
        row = parameter.get_help_record(context)
        if row is None:
            continue
        if parameter.param_type_name == "argument":
            arguments.append((parameter.make_metavar(context), row[1]))
        elif getattr(parameter, "rich_help_panel", None) == common:
            shared.append(row)
        else:
            own.append(row)
    return {"Arguments": arguments, "Options": own, "Options of every command": shared}


def columns(rows: Iterable[tuple[str, str]], width: int | None) -> str:
    """Name and description side by side, the description folded; a long name has its own line."""
    from textwrap import wrap

    rows = list(rows)
    left = min(_WIDEST_NAME, max((len(name) for name, _ in rows), default=0)) + 4
    room = max(24, min(width or _WIDEST_PAGE, _WIDEST_PAGE) - left)
    text = ""
    for name, what in rows:
        lines = wrap(what, room) or [""]
        if len(name) > left - 4:
            text += f"  {name}\n"
            name = ""
        text += f"  {name}".ljust(left) + lines[0] + "\n"
        text += "".join(" " * left + line + "\n" for line in lines[1:])
    return text


def _listed(entries: Mapping[tuple[str, ...], CommandEntry], width: int | None) -> str:
    return columns(((" ".join(words), entry.summary) for words, entry in entries.items() if not entry.hidden), width)


def paragraphs(text: str, width: int | None) -> str:
    """Text folded and set in; an empty line begins a paragraph."""
    from textwrap import fill

    room = max(30, min(width or _WIDEST_PAGE, _WIDEST_PAGE))
    parts = (" ".join(part.split()) for part in text.split("\n\n"))
    return "\n\n".join(fill(part, room, initial_indent="  ", subsequent_indent="  ") for part in parts if part) + "\n"


#: What to type next: before there is a profile, and with one.
_FIRST = (
    ("guestctl demo", "a tour that really runs; no account, no network"),
    ("guestctl sandbox serve", "keep a service running to try things on (-p sandbox)"),
    ("guestctl profile add NAME --region REGION --deployment-id ID", "talk to your own deployment"),
)
_THEN = (
    ("guestctl ask TEXT", "say it, and print the reply"),
    ("guestctl chat", "a conversation in this terminal"),
    ("guestctl doctor", "is everything between here and a conversation in order"),
)


def next_commands(*, profile: bool = False) -> str:
    """What a bare `guestctl` proposes."""
    return "Next:\n" + columns(_THEN if profile else _FIRST, None) + "\n`guestctl --help` lists every command.\n"
