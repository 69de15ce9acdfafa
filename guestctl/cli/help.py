"""Help texts for the program, a group and a command.

Knows: the layout in two columns, and line wrapping. Must not know: what a command does. The help of the program and
of a group comes from the registry alone, the help of a command from its parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from guestctl.cli.parameters import HELP, VERSION
from guestctl.cli.registry import ABOUT, COMMANDS, GROUPS, TOPICS, CommandEntry, about, members

if TYPE_CHECKING:
    import typer

_WIDEST_NAME = 30
_WIDEST_PAGE = 100
_TAIL = (
    "`guestctl COMMAND --help` shows a command's options and two examples. Exit codes: 0 success, 1 check failed, "
    "2 usage, 3 refused, 4 not authorised, 5 forbidden, 6 conflict, 7 rate limited, 8 network, 9 timed out, "
    "10 no session, 11 unreadable answer, 12 unsupported, 13 in doubt."
)


def program(width: int | None) -> str:
    """Return the text of `guestctl --help`."""
    sections = ["Usage: guestctl COMMAND [OPTIONS] [ARGS]\n\n" + paragraphs(ABOUT, width)]
    single: dict[tuple[str, ...], CommandEntry] = {words: entry for words, entry in COMMANDS.items() if len(words) == 1}
    sections.append("Commands:\n" + _listed(single, width))
    for group, what in GROUPS.items():
        sections.append(f"{group.capitalize()} ({what}):\n" + _listed(members(group), width))
    sections.append("Topics (guestctl help TOPIC):\n" + columns(TOPICS.items(), width))
    options = ((", ".join(option.names), option.help) for option in (HELP, VERSION))
    sections.append("Options:\n" + columns(options, width))
    examples = (
        "guestctl demo",
        'guestctl sandbox exec -- guestctl ask "opening hours?"',
        'guestctl -p staging send "Where is my parcel?" --wait',
    )
    sections.append("Examples:\n" + "".join(f"  {line}\n" for line in examples))
    return "\n".join([*sections, sentences(_TAIL, width)])


def group(name: str, width: int | None) -> str:
    """Return the text of `guestctl GROUP --help`."""
    return (
        f"Usage: guestctl {name} COMMAND [OPTIONS] [ARGS]\n\n  {about(name)}\n\n"
        f"Commands:\n{_listed(members(name), width)}\n"
        + sentences(f"`guestctl {name} COMMAND --help` shows a command's options and two examples.", width)
    )


def command(context: typer.Context, about: str, examples: Sequence[str], common: str, width: int | None) -> str:
    """Return the text of `guestctl COMMAND --help`. Options of the panel `common` come last."""
    text = [f"Usage: {usage(context)}\n\n{paragraphs(about, width)}"]
    text += [f"{title}:\n{columns(rows, width)}" for title, rows in sections(context, common).items() if rows]
    text.append("Examples:\n" + "".join(f"  {example}\n" for example in examples))
    return "\n".join(text)


def usage(context: typer.Context) -> str:
    """Return the usage line of a command. Typer puts a required argument in braces, which mean a choice elsewhere."""
    pieces = context.command.collect_usage_pieces(context)
    return " ".join([context.command_path, *(re.sub(r"^\{(.*)\}$", r"\1", piece) for piece in pieces)])


def sections(context: typer.Context, common: str) -> dict[str, list[tuple[str, str]]]:
    """Return the name and the description of a command's parameters, by section title."""
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
    return {"Arguments": arguments, "Options": own, "Common options": shared}


def columns(rows: Iterable[tuple[str, str]], width: int | None) -> str:
    """Return names and descriptions in two columns. Descriptions are wrapped; a long name has its own line."""

    rows = list(rows)
    page = _room(width)
    left = min(_WIDEST_NAME, page - 28, max((len(name) for name, _ in rows), default=0)) + 4
    room = page - left
    text = ""
    for name, what in rows:
        lines = _wrapped(what, room) or [""]
        if len(name) > left - 4:
            text += "\n    ".join(_wrapped(name, _room(width) - 4, "  ")).join(("", "\n"))
            name = ""
        text += f"  {name}".ljust(left) + lines[0] + "\n"
        text += "".join(" " * left + line + "\n" for line in lines[1:])
    return text


def _listed(entries: Mapping[tuple[str, ...], CommandEntry], width: int | None) -> str:
    return columns(((" ".join(words), entry.summary) for words, entry in entries.items()), width)


def paragraphs(text: str, width: int | None) -> str:
    """Return text wrapped and indented. An empty line starts a paragraph."""
    room = _room(width)
    return "\n\n".join("\n".join(_wrapped(part, room, "  ")) for part in text.split("\n\n") if part.strip()) + "\n"


def sentences(text: str, width: int | None) -> str:
    """Return text wrapped and not indented."""
    return "\n".join(_wrapped(text, _room(width))) + "\n"


def _room(width: int | None) -> int:
    return max(32, min(width or _WIDEST_PAGE, _WIDEST_PAGE))


def _wrapped(text: str, room: int, indent: str = "") -> list[str]:
    """Return the lines of a text, broken at spaces only: an option or a path stays in one piece."""
    from textwrap import wrap

    return wrap(
        " ".join(text.split()),
        room,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


#: The next commands to try, without and with a profile.
_FIRST = (
    ("guestctl demo", "run a short tour, without account or network"),
    ("guestctl sandbox serve", "run a local service to experiment with (-p sandbox)"),
    ("guestctl profile add NAME --region REGION --deployment-id ID", "connect to your own deployment"),
)
_THEN = (
    ("guestctl ask TEXT", "send a question and print the reply"),
    ("guestctl chat", "chat in this terminal"),
    ("guestctl doctor", "check everything that a conversation needs"),
)


def next_commands(width: int | None, *, profile: bool = False) -> str:
    """Return the commands that `guestctl` without arguments suggests."""
    return "Next:\n" + columns(_THEN if profile else _FIRST, width) + "\n`guestctl --help` lists every command.\n"
