"""The files of the pages: what they may contain, and how large they are together."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from guestctl.pages.assets import asset, names

STATIC = Path(__file__).parents[2] / "guestctl" / "pages" / "static"
SCRIPTS = sorted(path for path in STATIC.iterdir() if path.suffix == ".js")

#: Each turns a text into markup or code, or loads something from elsewhere.
BANNED = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|setHTMLUnsafe|parseHTMLUnsafe|createContextualFragment|DOMParser"
    r"|document\.write|\beval\b|\bFunction\b|\bimport\(|javascript:|importScripts|srcdoc"
    r"|setAttribute\(\s*[\"'`]on|set(Timeout|Interval)\(\s*[\"'`]|https?://(?!www\.w3\.org/2000/svg\")"
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_can_turn_a_text_into_markup_or_code(path: Path) -> None:
    code = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [found[0] for found in BANNED.finditer(code)] == []


def code_lines(path: Path) -> list[str]:
    """Return the lines of a script that are neither blank nor a comment."""
    code = re.sub(r"^\s*/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [line for line in code.splitlines() if line.strip() and not line.lstrip().startswith("//")]


def test_assets_stay_small() -> None:
    bodies = [asset(name).body for name in names()]
    assert sum(map(len, bodies)) <= 100_000
    assert sum(len(gzip.compress(body, 9)) for body in bodies) <= 35_000
    assert sum(len(code_lines(path)) for path in SCRIPTS) <= 2_000


def test_scripts_import_only_each_other() -> None:
    for path in SCRIPTS:
        for line in path.read_text(encoding="utf-8").splitlines():
            if found := re.match(r"(?:import|export) .*from (.+);$|\} from (.+);$|import (\".+);$", line):
                module = next(part for part in found.groups() if part)
                assert re.fullmatch(r'"\./[a-z_]+\.js"', module), line
                assert module[3:-1] in names(), line


def test_an_asset_has_its_content_type_and_no_path_leaves_the_folder() -> None:
    assert asset("dom.js").content_type == "text/javascript; charset=utf-8"
    for name in ("../__init__.py", "assets.py", "", ".", "DOM.JS"):
        with pytest.raises(KeyError):
            asset(name)
