"""Writes the table of docs/protocol/sources.md, which `python -m tools.readme` puts into the page.

Knows: how tests/statements.yaml becomes Markdown. Must not know: what the sources state.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import yaml

STATEMENTS = Path(__file__).parent.parent / "tests" / "statements.yaml"


class Statement(NamedTuple):
    """One statement of a source: its number, what it is about, and a test, a reason to differ, or both."""

    number: str
    about: str
    test: str | None = None
    differs: str | None = None


def statements() -> list[Statement]:
    """Return every statement, in the order of the file."""
    found = yaml.safe_load(STATEMENTS.read_text(encoding="utf-8"))
    return [Statement(number, **members) for number, members in found.items()]


def table() -> str:
    """Return one row per statement: its number, what it is about, whether guestctl differs, and why or which test."""
    rows = ["| Statement | About | guestctl | Reason, or test |", "|---|---|---|---|"]
    for each in statements():
        path, _, name = (each.test or "").partition("::")
        test = f"`{name}` in `tests/{path}`" if each.test else ""
        if each.differs is None:
            rows.append(f"| {each.number} | {each.about} | works | {test} |")
        else:
            rows.append(f"| {each.number} | {each.about} | differs | {each.differs}{test and f' ({test})'} |")
    return "\n".join(rows) + "\n"
