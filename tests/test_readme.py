"""The documents match the program: generated parts are current, links resolve, and the first command runs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from guestctl.cli.registry import COMMANDS, TOPICS
from tools.manpage import MANUAL, manual
from tools.picture import PICTURE, draw, texts
from tools.readme import PAGES, README, ROOT, parts

PROSE = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
_PARTS = [pytest.param(page, name, id=name) for page, made in PAGES.items() for name in made]
TEXT = README.read_text(encoding="utf-8")
SH = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("page", "name"), _PARTS)
def test_a_generated_part_is_current(page: Path, name: str) -> None:
    _, part, _ = parts(page.read_text(encoding="utf-8"), name)
    assert PAGES[page][name]() == part, "run: python -m tools.readme"


def test_the_first_transcript_has_eight_lines() -> None:
    shown = re.findall(r"^```console\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    assert len(shown[0].splitlines()) == 8


@pytest.mark.parametrize(("name", "lines"), [("README.md", 220), ("ARCHITECTURE.md", 150)])
def test_a_page_stays_short(name: str, lines: int) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= lines


def test_the_picture_shows_what_is_printed_today() -> None:
    """Only its texts are compared; how they are drawn depends on the version of rich."""
    assert "docs/terminal.svg" in TEXT
    assert texts(draw()) == texts(PICTURE.read_text(encoding="utf-8")), "run: python -m tools.picture"


def test_every_linked_page_exists() -> None:
    for page in [*PROSE, *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name} links to {target}"


def test_the_readme_links_to_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[^)]+)\)", TEXT))
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*") if path.suffix in {".md", ".svg"}}
    assert pages <= linked


def test_make_targets_are_documented() -> None:
    [targets] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"`make {target}" in contributing for target in targets.split())


def test_two_commands_set_everything_up() -> None:
    assert len(SH) == 2
    assert all(len(block.strip().splitlines()) == 1 for block in SH)


def test_first_command_runs_as_written() -> None:
    words = shlex.split(SH[0].rpartition("&&")[2])
    assert words[0].endswith("/guestctl")
    done = subprocess.run([sys.executable, "-m", "guestctl", *words[1:]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "  2 sent, 2 received, 0 lost, 0 duplicated\nNext:\n" in done.stdout


def test_every_command_is_documented() -> None:
    pages = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for called in COMMANDS:
        assert f"## guestctl {' '.join(called)}\n" in pages
    for topic in TOPICS:
        assert f"`{topic}`" in pages
        assert f"`{topic}`" in TEXT


def test_the_manual_page_is_current_and_valid() -> None:
    text = manual()
    assert MANUAL.read_text(encoding="utf-8") == text, "run: python -m tools.manpage"
    for called in COMMANDS:
        assert f".SS guestctl {' '.join(called)} ".replace("-", "\\-") in text
    formatter = shutil.which("groff")
    if formatter is None:
        pytest.skip("groff is not installed here")
    done = subprocess.run(
        [formatter, "-k", "-man", "-Tutf8", "-ww", "-z"],
        input=text.encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
