"""The phrases of the old style do not come back: help, docs, docstrings, comments, error texts and test names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.phrases import ROOT, findings, search


def test_files_use_plain_english() -> None:
    found = [str(finding) for finding in search([ROOT])]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("guestctl/x.py", '"""Shows whence it came."""\n', [1]),
        ("guestctl/x.py", "x = 1  # what was\n# fine\n\n# Whoever\n", [4]),
        ("guestctl/x.py", "# one\n# it is\n# told\n", [2]),
        ("guestctl/x.py", 'x = 1\ny = f"{x} is told"\n', [2]),
        ("guestctl/x.py", "whoever = beside = 1\n", []),
        ("tests/x.py", "x = 'beside'\n", []),
        ("tests/x.py", "def test_it_is_told() -> None:\n    pass\n", [1]),
        ("docs/x.md", "One.\n\nTwo\ngoes\n  behind `--`. Besides, doubles.\n", [4, 5]),
        ("docs/x.md", "It runs besides well-being and knockout.\n", []),
    ],
)
def test_a_phrase_is_found_at_its_line(name: str, text: str, lines: list[int]) -> None:
    assert [finding.line for finding in findings(Path(name), text)] == lines
