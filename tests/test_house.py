"""The rules of the house, held by reading syntax trees: who may import whom, who owns which library."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "guestctl"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: Library -> the modules that may name it. Everything else goes through them.
OWNERS = {
    "requests": {"transport", "sandbox_admin"},
    "urllib3": {"transport"},
    "websocket": {"transport"},
    "yaml": {"strict_yaml", "output", "sandbox"},
    "ruamel": {"profile_edits"},
    "typer": {"cli", "__main__"},
    "rich": {"views", "cli", "terminal", "output"},
    "markdown_it": {"markdown"},
    "prompt_toolkit": {"cli.chat"},
    "tornado": {"sandbox.server"},
    "sqlite3": {"database", "sandbox.store"},
    "jwt": {"jwt_claims", "sandbox"},
    "tenacity": {"exchange"},
}

#: What others may know of dialects without knowing any family; those are reached by their names (`dialects`).
SHAPE = {"dialects.base", "dialects.declared", "dialects.parts"}

#: Module -> what of ours it may import, besides `values`. The core is listed, from the ground up; the longest
#: name counts, and a module not named here sits above it.
BELOW = {
    "values": set[str](),
    "errors": set[str](),
    "clock": set[str](),
    "model": set[str](),
    "content": set[str](),
    "regions": {"errors"},
    "files": {"errors", "model"},
    "strict_yaml": {"errors", "model"},
    "wire": {"errors", "model"},
    "dialects.declared": set[str](),
    "dialects.parts": {"model", "wire"},
    "dialects.refusals": {"errors", "wire", "dialects.declared"},
    "dialects.base": {"errors", "clock", "model", "wire", *SHAPE, "dialects.refusals"},
    "dialects": {"errors", "clock", "model", "wire", "dialects", "jwt_claims"},
    "profile_keys": {"errors", "model", "regions", "dialects"},
    "profiles": {"errors", "model", "regions", "strict_yaml", "profile_keys"},
    "continuity": {"model", *SHAPE},
    "paging": {"errors", "clock", "model", *SHAPE},
    "transport": {"errors", "clock", "model", "wire", "transport"},
    "database": {"errors", "clock"},
    "profile_edits": {"errors", "clock", "strict_yaml", "profile_keys", "profiles", "database"},
    "state": {"errors", "clock", "model", "database"},
    "line": {"errors", "clock", "model", "wire", *SHAPE, "transport"},
    "exchange": {"errors", "clock", "model", "wire", *SHAPE, "transport", "state", "line", ""},
    "opening": {"errors", "clock", "model", "wire", "transport", "line", "exchange"},
    "sending": {"errors", "clock", "model", *SHAPE, "paging", "state", "exchange"},
    "listening": {
        "errors",
        "clock",
        "model",
        "wire",
        *SHAPE,
        "continuity",
        "paging",
        "state",
        "line",
        "exchange",
        "opening",
    },
    "saying": {"errors", "clock", "model", *SHAPE, "files", "paging", "exchange", "sending", "listening"},
    "preview": {"errors", "model", "wire", *SHAPE, "files", "saying"},
    "sandbox": {"clock", "sandbox"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


def within(name: str, owners: set[str]) -> bool:
    return any(name == owner or name.startswith(owner + ".") for owner in owners)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_says_what_it_knows(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, f"{path.name} has no docstring saying what it knows and must not know"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_have_one_owner(path: Path) -> None:
    name = name_of(path)
    for imported, line in imports(path):
        owners = OWNERS.get(imported.partition(".")[0])
        assert owners is None or within(name, owners), f"{name}:{line} imports {imported}, which belongs to {owners}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    name = name_of(path)
    parts = name.split(".")
    layer = next((known for n in range(len(parts), 0, -1) if (known := ".".join(parts[:n])) in BELOW), None)
    if layer is None:
        return
    allowed = BELOW[layer] | ({"values"} if layer != "sandbox" else set())
    for imported, line in imports(path):
        first, _, rest = imported.partition(".")
        if first == "guestctl":
            assert within(rest, allowed), f"{name}:{line} imports {imported}: a {layer} module must not know it"


def test_families_are_reached_by_name_alone() -> None:
    for path in MODULES:
        name = name_of(path)
        if within(name, {"dialects"}):
            continue
        for imported, line in imports(path):
            if imported.startswith("guestctl.dialects."):
                known = imported.removeprefix("guestctl.")
                # How a token's end is read is nobody's own.
                assert known in SHAPE | {"dialects.grants"}, (
                    f"{name}:{line} imports {imported}: it would know one family"
                )


def test_nobody_asks_which_api_it_is_talking_to() -> None:
    """A dialect's name as a literal outside dialects/, the built-in profile and prose is a broken seam."""
    from guestctl.dialects import DEFAULT, NAMES

    for path in MODULES:
        name = name_of(path)
        if within(name, {"dialects", "sandbox"}):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and part.value in NAMES and part.value != DEFAULT:
                        pytest.fail(f"{name}:{part.lineno} compares with the API name {part.value!r}")


def test_print_is_nowhere() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not called, f"{name_of(path)} prints"
