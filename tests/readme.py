"""Writes the generated parts of the README: `python -m tests.readme`. `tests/test_readme.py` holds it to them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

from guestctl.checking.keys import table
from guestctl.cli.invocation import World
from guestctl.cli.main import run
from guestctl.cli.registry import COMMANDS
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.base import Ability
from guestctl.explain import everything

README = Path(__file__).parent.parent / "README.md"
WIDTH = "100"


def spoken(*argv: str) -> str:
    """What a command prints for a person."""
    out = io.StringIO()
    world = World(stdin=io.StringIO(), stdout=out, stderr=io.StringIO(), environ={"COLUMNS": WIDTH})
    assert run(list(argv), world) == 0, argv
    return out.getvalue()


def demo() -> str:
    return f"```console\n$ guestctl demo\n{settled(spoken('demo'))}```\n"


def settled(text: str) -> str:
    """A demo's output with what differs from run to run made equal."""
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:49213", text)
    return re.sub(r"in \d+\.\d s", "in 0.1 s", text)


def apis() -> str:
    rows = ["| operation | " + " | ".join(f"`{name}`" for name in NAMES) + " |", "|---" * (len(NAMES) + 1) + "|"]
    for ability in Ability:
        marks = [dialect_class(name).abilities.get(ability) for name in NAMES]
        rows.append(f"| {ability.value} | " + " | ".join(mark.value if mark else "–" for mark in marks) + " |")
    return "\n".join(rows) + "\n"


def exits() -> str:
    rows = ["| code | meaning |", "|---|---|"]
    rows += [f"| {entry.code} | {entry.meaning} |" for entry in everything() if entry.kind == "exit code"]
    return "\n".join(rows) + "\n"


def help_pages() -> str:
    """Every command's help; the options all of them take are shown once, at the end."""
    pages, shared = [], ""
    for words, entry in COMMANDS.items():
        if entry.hidden:
            continue
        page = spoken(*words, "--help")
        found = re.search(r"Options of every command:\n.*?\n\n", page, re.DOTALL)
        if found is not None:
            page = page.replace(found[0], "")
            shared = max(shared, found[0], key=len)
        pages.append(_folded(f"guestctl {' '.join(words)}", entry.summary, page))
    pages.append(_folded("guestctl COMMAND", "options of every command", shared))
    return "\n".join(pages)


def _folded(title: str, summary: str, text: str) -> str:
    body = f"```text\n{text.rstrip()}\n```\n"
    return f"<details><summary><code>{title}</code>: {summary}</summary>\n\n{body}\n</details>\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "demo": demo,
    "check-keys": table,
    "apis": apis,
    "exits": exits,
    "help": help_pages,
}


def generated(text: str) -> str:
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        pieces = pattern.split(text)
        assert len(pieces) == 4, f"README.md has {(len(pieces) - 1) // 3} blocks for {name}"
        before, begun, end, after = pieces
        text = before + begun + make() + end + after
    return text


if __name__ == "__main__":
    README.write_text(generated(README.read_text(encoding="utf-8")), encoding="utf-8")
