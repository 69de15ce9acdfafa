"""The public Python names: exported from the package, loaded when first used, and documented."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import guestctl
from tools.api_docs import PAGE, page

ROOT = Path(__file__).parent.parent
#: Modules whose public classes and type aliases are all exported.
_WHOLE = ("core/errors.py", "core/model.py", "core/results.py")


def _defined(module: str) -> set[str]:
    body = ast.parse((ROOT / "guestctl" / module).read_text(encoding="utf-8")).body
    names = {node.name for node in body if isinstance(node, ast.ClassDef)}
    aliases = (node for node in body if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias")
    names |= {ast.unparse(node.target) for node in aliases}
    return {name for name in names if not name.startswith("_")}


def test_every_public_type_and_error_is_exported() -> None:
    expected = {"Client", "Timings", "Json", "__version__"}.union(*map(_defined, _WHOLE))
    assert set(guestctl.__all__) == expected
    assert dir(guestctl) == sorted(guestctl.__all__)


@pytest.mark.parametrize("name", guestctl.__all__)
def test_each_name_can_be_imported(name: str) -> None:
    assert getattr(guestctl, name) is not None
    if name != "__version__":
        assert f"\n### {name}\n" in PAGE.read_text(encoding="utf-8")


def test_a_type_checker_sees_the_same_names() -> None:
    tree = ast.parse((ROOT / "guestctl" / "__init__.py").read_text(encoding="utf-8"))
    checked = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name for node in checked for each in node.body if isinstance(each, ast.ImportFrom) for alias in each.names
    }
    assert seen | {"__version__"} == set(guestctl.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        guestctl.Clint  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [("import guestctl", set()), ("from guestctl import Failure", {"guestctl.core.errors"})],
)
def test_importing_loads_only_what_is_used(statement: str, loaded: set[str]) -> None:
    probe = f"import sys\n{statement}\nprint(*(name for name in sys.modules if name.startswith('guestctl')))"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"guestctl", "guestctl.core", "guestctl.core.version"} | loaded


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tools.api_docs"
