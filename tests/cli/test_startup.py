"""Which modules are loaded, tested by name and not by time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from guestctl.core.version import __version__
from tests.cli.conftest import Front

ROOT = Path(__file__).parents[2]
HEAVY = ("requests", "urllib3", "websocket", "yaml", "ruamel", "rich", "tornado", "asyncio", "jwt")
OURS = ("guestctl.client", "guestctl.transport", "guestctl.sandbox", "guestctl.storage", "guestctl.dialects")

_PROBE = """
import sys
from guestctl.__main__ import main
code = main(sys.argv[1:])
sys.stderr.write("\\n" + " ".join(sorted(sys.modules)))
sys.exit(code)
"""


def loaded(*argv: str, **environ: str) -> set[str]:
    """Return the modules of a new interpreter after one command."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *argv],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": os.defpath, **environ},
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def among(modules: set[str], names: tuple[str, ...]) -> list[str]:
    return sorted({name for module in modules for name in names if module == name or module.startswith(name + ".")})


@pytest.mark.parametrize("argv", [("--version",), ("--help",), (), ("session",), ("session", "--help")])
def test_help_and_version_load_nothing_heavy(argv: tuple[str, ...]) -> None:
    modules = loaded(*argv)
    assert among(modules, (*HEAVY, *OURS, "typer")) == []


@pytest.mark.parametrize(
    "words", [[""], ["session", ""], ["send", "-"], ["listen", "--only", ""], ["ask", "--api", ""], ["-p", ""]]
)
def test_completion_loads_neither_typer_nor_other_commands(tmp_path: Path, words: list[str]) -> None:
    modules = loaded("__complete", "--descriptions", "--", *words, GUESTCTL_STATE=str(tmp_path))
    named = {"listen": "listen_history", "send": "send_ask", "ask": "send_ask"}.get(words[0], "about")
    ours = [found for found in modules if found.startswith("guestctl.cli.commands.")]
    unneeded = {found.rpartition(".")[2] for found in ours} - {named, "dry_run", "stop_rules"}
    assert (among(modules, ("typer", "rich", "requests", "websocket", "tornado", "asyncio")), unneeded) == ([], set())


@pytest.mark.parametrize("argv", [("send", "--help"), ("ask", "-h"), ("listen", "-h"), ("sandbox", "serve", "-h")])
def test_a_commands_help_builds_only_that_command(argv: tuple[str, ...]) -> None:
    modules = loaded(*argv)
    assert among(modules, (*HEAVY, "guestctl.client", "guestctl.transport", "guestctl.sandbox")) == []
    built = {module for module in modules if module.startswith("guestctl.cli.")} - {"guestctl.cli.commands"}
    common = (
        *("main", "registry", "help", "invocation", "application", "parameters", "options", "signals"),
        *("commands.stop_rules", "commands.dry_run"),
    )
    shared = {f"guestctl.cli.{name}" for name in common}
    assert len(built - shared) == 1


def test_version_loads_almost_no_module_of_guestctl() -> None:
    assert {m for m in loaded("--version") if m.startswith("guestctl")} <= {
        *("guestctl", "guestctl.__main__", "guestctl.core", "guestctl.core.version")
    }


def test_ask_and_send_load_what_they_need(front: Front) -> None:
    front("session", "create")  # which reads the deployment's configuration over HTTP
    environ = dict(front.environ)
    modules = loaded("ask", "hello", **environ)
    assert among(modules, ("yaml", "ruamel", "requests", "urllib3", "rich", "tornado", "asyncio", "jwt")) == []
    assert "websocket" in modules
    modules = loaded("send", "hello", **environ)
    assert among(modules, ("yaml", "ruamel", "requests", "urllib3", "rich", "tornado", "asyncio", "jwt")) == []


TRACING = (
    "opentelemetry",
    *(f"guestctl.transport.{name}" for name in ("propagation", "span_tree", "spans", "recorded_trace")),
)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"OTEL_SERVICE_NAME": "shop"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_ask_loads_nothing_of_tracing_unless_spans_are_exported(front: Front, more: dict[str, str]) -> None:
    front("session", "create")
    assert among(loaded("ask", "hello", **{**front.environ, **more}), TRACING) == []


@pytest.mark.parametrize(
    "argv",
    [
        "session create --new",
        "session show",
        "session list",
        "send hi --wait",
        "ask hi",
        "ask hi -o json",
        "history",
        "history -o yaml",
        "listen --replay 1 --max 1 -v",
        "resume",
        "sandbox sessions",
        "doctor",
    ],
)
def test_json_and_the_text_of_ask_do_not_load_rich(front: Front, argv: str) -> None:
    front("ask", "hi")
    assert among(loaded(*argv.split(), **front.environ), ("rich",)) == []


@pytest.mark.parametrize("argv", ["session list", "history", "send hi"])
def test_tables_load_rich(front: Front, argv: str) -> None:
    front("ask", "hi")
    assert among(loaded(*argv.split(), "-o", "table", **front.environ), ("rich",)) == ["rich"]


def test_version(alone: Front) -> None:
    assert alone("--version").out == f"guestctl {__version__}\n"
    done = subprocess.run(
        [sys.executable, "-m", "guestctl", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == f"guestctl {__version__}\n"


def test_importing_the_package_does_nothing() -> None:
    # Without coverage.py, which the environment may load and which uses sqlite3 itself.
    probe = "import sys, guestctl; sys.exit(any(m in sys.modules for m in ('requests', 'sqlite3', 'socket', 'yaml')))"
    environ = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")}
    subprocess.run([sys.executable, "-c", probe], check=True, cwd=ROOT, env=environ)
