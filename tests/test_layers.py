"""Rules about modules that tests hold: who may import whom, and which module owns which library.

The layers themselves are contracts of import-linter in `pyproject.toml`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "guestctl"
#: Not those that `tools.stubs` generates.
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not path.name.startswith("chat_stream_pb2"))

#: Library -> the modules that may import it. Every other module goes through them.
OWNERS = {
    "requests": {"transport", "sandbox_tools.admin_client"},
    "urllib3": {"transport"},
    "websocket": {"transport"},
    "yaml": {"core.strict_yaml", "output", "sandbox"},
    "ruamel": {"config.edits"},
    "typer": {"cli.application", "cli.help", "cli.main"},
    "rich": {"output", "cli"},
    "markdown_it": {"output.markdown"},
    "prompt_toolkit": {"cli.chat.prompt"},
    "tornado": {"sandbox", "proxy", "transport.web_server", "transport.web_routes"},
    "grpc": {"relay.grpc_server"},
    "google": {"relay.chat_messages"},
    "sqlite3": {"storage", "sandbox.store", "relay.log"},
    "jwt": {"core.jwt_claims", "sandbox"},
    "regex": {"core.patterns"},
    "prometheus_client": {"relay"},
    "opentelemetry": {"transport.spans"},
}

#: Modules of `dialects/` that serve every API. All others are reached by the API's name.
SHARED_BY_DIALECTS = {
    "dialects.base",
    "dialects.capabilities",
    "dialects.features",
    "dialects.flows",
    "dialects.tokens",
    "dialects.addresses",
    "dialects.refusals",
}

#: Folders that mirror each other: the same API, read by the client and by the sandbox.
MIRRORS = {"dialects", "sandbox/apis"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def within(name: str, owners: set[str]) -> bool:
    return any(name == owner or name.startswith(owner + ".") for owner in owners)


def test_imports_keep_to_the_layers() -> None:
    linter = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = subprocess.run([sys.executable, "-c", linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_has_a_docstring() -> None:
    """It says what the module knows and what it must not know."""
    assert [name_of(path) for path in MODULES if not ast.get_docstring(syntax(path))] == []


def test_each_library_has_one_owner() -> None:
    for path in MODULES:
        name = name_of(path)
        for imported, line in imports(path):
            owners = OWNERS.get(imported.partition(".")[0])
            assert owners is None or within(name, owners), f"{name}:{line} imports {imported} of {owners}"


def test_no_private_name_is_imported() -> None:
    for path in MODULES:
        for imported, line in imports(path):
            private = [
                part
                for part in imported.split(".")
                if part.startswith("_") and not part.startswith("__") and part != "_thread"
            ]
            assert not private, f"{name_of(path)}:{line} imports {imported}"


def test_no_class_of_websocket_client_is_subclassed() -> None:
    """A subclass would depend on how the library calls its own methods."""
    for path in MODULES:
        library = {found.rpartition(".")[2] for found, _ in imports(path) if found.startswith("websocket.")}
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.ClassDef):
                bases = {part.id for base in node.bases for part in ast.walk(base) if isinstance(part, ast.Name)}
                assert bases.isdisjoint(library | {"websocket"}), f"{name_of(path)}:{node.lineno}"


def test_dialects_are_reached_by_the_name_of_their_api() -> None:
    for path in MODULES:
        name = name_of(path)
        if within(name, {"dialects"}):
            continue
        for imported, line in imports(path):
            if imported.startswith("guestctl.dialects.") and imported.removeprefix("guestctl.dialects.")[0].islower():
                known = imported.removeprefix("guestctl.")
                shared = within(known, SHARED_BY_DIALECTS | {"dialects.dialect_class"})
                assert shared, f"{name}:{line} imports {imported}: it would know one API"


def test_no_module_outside_dialects_compares_api_names() -> None:
    """A dialect's name as a literal outside `dialects/`, the built-in profile and prose is a broken seam."""
    from guestctl.dialects import DEFAULT, NAMES

    for path in MODULES:
        name = name_of(path)
        if within(name, {"dialects", "sandbox"}):
            continue
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.Compare):
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and part.value in NAMES and part.value != DEFAULT:
                        pytest.fail(f"{name}:{part.lineno} compares with the API name {part.value!r}")


def test_nothing_calls_print() -> None:
    for path in MODULES:
        for node in ast.walk(syntax(path)):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not called, f"{name_of(path)} prints"


def test_the_package_root_has_at_most_six_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 6


def test_no_file_name_is_used_twice() -> None:
    """Exceptions: folders that mirror each other, and a command's module, which bears the command's name."""
    seen = Counter[str]()
    for path in MODULES:
        folder = path.relative_to(PACKAGE).parent.as_posix()
        if path.name in {"__init__.py", "__main__.py"} or folder == "cli/commands":
            continue
        mirrored = (
            folder.startswith("sandbox/apis")
            and (PACKAGE / "dialects" / path.relative_to(PACKAGE / "sandbox" / "apis")).exists()
        )
        seen[path.name] += not mirrored
    assert {name: count for name, count in seen.items() if count > 1} == {}


def test_no_public_class_name_is_used_twice() -> None:
    """Exception: the two classes of one API, one in `dialects/`, one in `sandbox/apis/`."""
    seen = defaultdict[str, set[str]](set)
    for path in MODULES:
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                seen[node.name].add(path.relative_to(PACKAGE).as_posix())
    apis = {
        *("WebMessaging", "GuestSessions", "ExternalContacts", "ConversationGuests"),
        *("MessagingConversations", "Guests", "WebmessagingConversations"),
    }
    assert {name: where for name, where in seen.items() if len(where) > 1 and name not in apis} == {}


#: Lines and methods a class may have. The `Client` facade has one short method for each verb.
LINES, METHODS, CLIENT_LINES = 420, 45, 600


def test_no_class_is_too_large() -> None:
    for node in (node for path in MODULES for node in ast.walk(syntax(path))):
        if not isinstance(node, ast.ClassDef):
            continue
        lines = (node.end_lineno or 0) - node.lineno + 1
        methods = sum(isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) for part in node.body)
        if node.name == "Client":
            assert lines <= CLIENT_LINES, f"{node.name} has {lines} lines"
        else:
            assert lines <= LINES, f"{node.name} has {lines} lines"
            assert methods <= METHODS, f"{node.name} has {methods} methods"
