"""Draws docs/terminal.svg, a terminal with a real conversation: `python -m tools.picture`.

Knows: which commands are typed, and how their output becomes a picture. Must not know: what they print.
`tests/test_readme.py` compares the texts in the picture with what the commands print today.
"""

from __future__ import annotations

import html
import io
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from guestctl.sandbox.serve import running
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front

PICTURE = Path(__file__).parent.parent / "docs" / "terminal.svg"
WIDTH = 80
_BOT = """
rules:
  - contains: parcel
    reply: It is on its way and comes today.
    quickReplies: [Track it, Send it back]
  - equals: Track it
    reply: "**Out for delivery**, three stops before you."
"""
#: Replacements in the picture for the time, and for the age of the session.
_CLOCK, _AGE = "09:15:27", "3 s ago"


def lines() -> Iterator[Text]:
    """Yield the lines of the terminal, with their colours."""
    with tempfile.TemporaryDirectory() as place:
        bot = Path(place) / "bot.yaml"
        bot.write_text(_BOT, encoding="utf-8")
        with running(SandboxOptions(fast=True, script=bot)) as sandbox:
            environ = {"GUESTCTL_PROFILE": "sandbox", "GUESTCTL_SANDBOX_URL": sandbox.url, "TZ": "UTC"}
            environ |= {"GUESTCTL_SANDBOX_ADMIN_KEY": sandbox.admin_key, "GUESTCTL_STATE": f"{place}/state"}
            guest = Front({**environ, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}, Path(place))
            yield from _typed(guest, "ask", "Where is my parcel?")
            yield from _typed(guest, "send", "--pick", "1", "--wait")
            yield from _typed(guest, "session", "list")
            agent = threading.Thread(target=_push, args=[guest, "Mina here: it has just arrived."])
            agent.start()
            yield from _typed(guest, "listen", "--replay", "2", "--max", "3")
            agent.join()


def _typed(guest: Front, *argv: str) -> Iterator[Text]:
    typed = " ".join(f'"{word}"' if " " in word else word for word in argv)
    yield Text(f"$ guestctl {typed}", "bold")
    result = guest(*argv, tty=True)
    assert result.code == 0, result.err
    text = re.sub(r"(?<!\d)\d\d:\d\d:\d\d(?!\d)", _CLOCK, result.out)
    text = re.sub(r"(?:now|\d s ago) +", f"{_AGE:<12}", text)
    yield from map(Text.from_ansi, text.rstrip("\n").split("\n"))


def _push(guest: Front, text: str) -> None:
    """Send a text as the agent as soon as a guest listens."""
    for _ in range(400):
        if any(session["sockets"] for session in guest("sandbox", "sessions").records):
            break
        time.sleep(0.02)
    time.sleep(1.0)  # the guest reads history first; afterwards the message is a live one
    guest("sandbox", "push", text)


def draw() -> str:
    """Return the picture. The web fonts of rich are removed, so that showing it loads nothing."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="standard")
    for line in lines():
        console.print(line, soft_wrap=True)
    svg = console.export_svg(title="guestctl", unique_id="guestctl")
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)


def texts(svg: str) -> list[str]:
    """Return the texts of a picture, row by row."""
    return [html.unescape(text).replace("\xa0", " ").rstrip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
