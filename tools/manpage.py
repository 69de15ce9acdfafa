"""Writes the manual page that the wheel installs: `python -m tools.manpage`.

Knows: roff. Must not know: any command; the texts come from the declarations, like `--help` and `help TOPIC`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from guestctl.cli.application import PANEL, context
from guestctl.cli.commands.explanations import everything
from guestctl.cli.help import sections, usage
from guestctl.cli.main import app
from guestctl.cli.registry import ABOUT, COMMANDS, TOPICS
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
    yield f".SH NAME\nguestctl \\- {_plain(ABOUT[:1].lower() + ABOUT[1:].rstrip('.'))}"
    yield ".SH SYNOPSIS\n.B guestctl\n.I COMMAND\n[OPTIONS] [ARGS]\n.br\n.B guestctl help\n.I TOPIC"
    yield ".SH DESCRIPTION"
    yield _text("`guestctl demo` runs a short tour. Every command has --help.")
    yield _listed((" ".join(words), entry.summary) for words, entry in COMMANDS.items())
    yield ".SH COMMANDS"
    shared: list[tuple[str, str]] = []
    for words, entry in COMMANDS.items():
        leaf, at = entry.load(), context(app, words)
        found = sections(at, PANEL)
        shared = max(shared, found.pop("Common options"), key=len)
        yield f".SS {_plain(usage(at))}"
        yield "\n.PP\n".join(_text(part) for part in leaf.about.split("\n\n"))
        yield from (_listed(rows) for rows in found.values() if rows)
        yield ".PP\n.nf\n.RS 4\n" + "\n".join(_plain(example) for example in leaf.examples) + "\n.RE\n.fi"
    yield ".SH COMMON OPTIONS\n" + _listed(shared)
    yield ".SH EXIT STATUS\n" + _listed((e.code, e.meaning) for e in everything() if e.kind == "exit code")
    for topic in (topic for topic in TOPICS if topic != "exit-codes"):
        yield f".SH {_plain(topic.upper())}\n.nf\n{_plain(output_of('help', topic).rstrip())}\n.fi"
    yield ".SH FILES\n" + _listed(_FILES)


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
