"""Writes the manual page that the wheel installs: `python -m tools.manpage`.

Knows: roff. Must not know: any command; the texts come from the declarations, like `--help` and `help TOPIC`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

import typer
from typer.main import get_command

from guestctl.cli.commands.explanations import everything
from guestctl.cli.help import sections, usage
from guestctl.cli.options import PANEL, Leaf
from guestctl.cli.registry import COMMANDS, TOPICS
from guestctl.core.version import __version__
from tools.readme import output_of

MANUAL = Path(__file__).parent.parent / "docs" / "guestctl.1"
_NOTHING = "\\&"
_FILES = (
    ("./profiles.yaml", "profiles; otherwise the user's file, whose path `guestctl profile path` prints"),
    (
        "the user's state directory",
        "sessions, the outbox and the ledger, in one SQLite database; GUESTCTL_STATE sets another directory",
    ),
)


def manual() -> str:
    """Return the page in roff (man(7))."""
    return "\n".join(_parts()) + "\n"


def _parts() -> Iterator[str]:
    yield f'.TH GUESTCTL 1 "" "guestctl {__version__}" "User Commands"'
    yield ".SH NAME\nguestctl \\- be the guest of a Genesys Cloud web messaging conversation, from the command line"
    yield ".SH SYNOPSIS\n.B guestctl\n.I COMMAND\n[OPTIONS] [ARGS]\n.br\n.B guestctl help\n.I TOPIC"
    yield ".SH DESCRIPTION"
    yield _text("`guestctl demo` runs a short tour. Every command has --help.")
    yield _listed((" ".join(words), entry.summary) for words, entry in COMMANDS.items() if not entry.hidden)
    yield ".SH COMMANDS"
    shared: list[tuple[str, str]] = []
    for words, entry in COMMANDS.items():
        if not entry.hidden:
            leaf, context = _built(words)
            found = sections(context, PANEL)
            shared = max(shared, found.pop("Common options"), key=len)
            yield f".SS {_plain(usage(context))}"
            yield "\n.PP\n".join(_text(part) for part in leaf.about.split("\n\n"))
            yield from (_listed(rows) for rows in found.values() if rows)
            yield ".PP\n.nf\n.RS 4\n" + "\n".join(_plain(example) for example in leaf.examples) + "\n.RE\n.fi"
    yield ".SH COMMON OPTIONS\n" + _listed(shared)
    yield ".SH EXIT STATUS\n" + _listed((e.code, e.meaning) for e in everything() if e.kind == "exit code")
    for topic in (topic for topic in TOPICS if topic != "exit-codes"):
        yield f".SH {_plain(topic.upper())}\n.nf\n{_plain(output_of('help', topic).rstrip())}\n.fi"
    yield ".SH FILES\n" + _listed(_FILES)


def _built(words: tuple[str, ...]) -> tuple[Leaf, typer.Context]:
    """Return the declaration of a command and its Typer context."""
    module, _, name = COMMANDS[words].target.partition(":")
    leaf: Leaf = getattr(import_module(f"guestctl.cli.{module}"), name)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(add_help_option=False)(leaf.callback(None))
    return leaf, typer.Context(get_command(app), info_name=" ".join(("guestctl", *words)))


def _listed(rows: Iterable[tuple[str, str]]) -> str:
    listed = "\n".join(f".TP 22\n.B {_plain(name)}\n{_plain(what) or _NOTHING}" for name, what in rows)
    return f".PP\n.PD 0\n{listed}\n.PD"


def _text(text: str) -> str:
    return _plain(" ".join(text.split()))


def _plain(text: str) -> str:
    """Return text with the characters escaped that roff interprets."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return re.sub(r"^\.", r"\\&.", escaped, flags=re.MULTILINE)


if __name__ == "__main__":
    MANUAL.write_text(manual(), encoding="utf-8")
