"""The JavaScript of the pages: types, style, and the unit tests in `tests/pages/*.test.mjs`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from guestctl.pages.assets import asset

ROOT = Path(__file__).parents[2]
NODE = ROOT / "tests" / "node"
STATIC = ROOT / "guestctl" / "pages" / "static"


def program(name: str) -> str:
    """Return a program of the packages of tests/node. Skips the test if it is missing."""
    found = shutil.which(name, path=str(NODE / "node_modules" / ".bin"))
    if found is None or shutil.which("node") is None:
        pytest.skip(f"{name} is not installed (npm ci --prefix tests/node)")
    return found


def passes(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], cwd=NODE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_are_correct() -> None:
    passes(program("tsc"), "--project", NODE / "tsconfig.json")


def test_format_and_lint() -> None:
    scripts = Path(__file__).parent.glob("*.mjs")
    passes(program("biome"), "check", "--error-on-warnings", f"--config-path={NODE}", STATIC, *scripts)


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_scripts_are_delivered_without_comments_but_otherwise_unchanged(path: Path) -> None:
    esbuild = program("esbuild")

    def minified(code: bytes) -> bytes:
        # Whitespace in templates and texts stays: only the code around them is compared.
        options = ["--minify-whitespace", "--legal-comments=none"]
        return subprocess.run([esbuild, *options], input=code, capture_output=True, check=True).stdout

    delivered = asset(path.name).body
    assert b"/**" not in delivered
    assert minified(delivered) == minified(path.read_bytes())


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("*.test.mjs")), ids=lambda path: path.name)
def test_units(path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    passes(node, "--test", path)
