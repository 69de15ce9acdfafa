"""Writes the manual page, `python -m tests.manpage > guestctl.1`, from the pages `--help` and `help TOPIC` print."""

from __future__ import annotations

import re
import sys

from guestctl import __version__
from guestctl.cli.registry import COMMANDS, TOPICS
from tests.readme import spoken


def manual() -> str:
    """The page in roff (man(7))."""
    parts = [f'.TH GUESTCTL 1 "" "guestctl {__version__}" "User Commands"']
    parts.append(".SH NAME\nguestctl \\- play the guest of a Genesys Cloud web\\-messaging conversation from a shell")
    parts.append(_section("SYNOPSIS", "guestctl COMMAND [OPTIONS] [ARGS]\n"))
    parts.append(_section("DESCRIPTION", spoken("--help").partition("\n\n")[2]))
    parts.append(".SH COMMANDS")
    for words, entry in COMMANDS.items():
        if not entry.hidden:
            page = re.sub(r"Options of every command:\n.*?\n\n", "", spoken(*words, "--help"), flags=re.DOTALL)
            parts.append(f".SS {_plain(' '.join(words))}\n{_shown(page)}")
    shared = re.search(r"Options of every command:\n(.*?\n)\n", spoken("send", "--help"), re.DOTALL)
    assert shared is not None
    parts.append(_section("OPTIONS OF EVERY COMMAND", shared[1]))
    parts += [_section(topic.upper().replace("-", " "), spoken("help", topic)) for topic in TOPICS]
    return "\n".join(parts) + "\n"


def _section(title: str, text: str) -> str:
    return f".SH {_plain(title)}\n{_shown(text)}"


def _shown(text: str) -> str:
    """Text whose lines stay as they are."""
    return f".nf\n{_plain(text.rstrip())}\n.fi"


def _plain(text: str) -> str:
    """Text without a meaning for roff."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return re.sub(r"^\.", r"\\&.", escaped, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.stdout.write(manual())
