"""Run the command line in a test: arguments in; exit code, stdout and stderr out, against a real sandbox."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from guestctl.cli.invocation import Environment
from guestctl.cli.main import run
from guestctl.core.clock import Clock, SystemClock
from guestctl.core.timings import Timings
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions


class Stream(io.TextIOWrapper):
    """A stream in memory that can pose as a terminal."""

    def __init__(self, content: bytes = b"", *, terminal: bool = False) -> None:
        self.kept = io.BytesIO(content)
        self._terminal = terminal
        super().__init__(self.kept, encoding="utf-8")

    def isatty(self) -> bool:
        return self._terminal

    def fileno(self) -> int:
        raise io.UnsupportedOperation

    def text(self) -> str:
        self.flush()
        return self.kept.getvalue().decode()


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.split("\n") if line]

    @property
    def error(self) -> dict[str, Any]:
        found = json.loads(self.err)["error"]
        assert isinstance(found, dict)
        return found


@dataclass(frozen=True)
class Front:
    """`front("send", "hi")` runs guestctl in this process with these variables."""

    environ: Mapping[str, str]
    cwd: Path
    more: dict[str, str] = field(default_factory=dict)
    clock: Clock = field(default_factory=SystemClock)

    def __call__(self, *argv: str, stdin: str | bytes = "", tty: bool = False, **more: str) -> Result:
        content = stdin.encode() if isinstance(stdin, str) else stdin
        given, out, err = Stream(content, terminal=tty), Stream(terminal=tty), Stream(terminal=tty)
        environ = {**self.environ, **more}
        world = Environment(given, out, err, environ, self.cwd, self.clock, Timings(reply_silence=0.03))
        return Result(int(run(argv, world)), out.text(), err.text())


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """A shared sandbox that answers at once; every test has its own session."""
    with running(SandboxOptions(fast=True, keys="returned", deduplicates="yes", unknown_deployment="refused")) as found:
        yield found


@pytest.fixture
def sandboxed(tmp_path: Path) -> Callable[[Sandbox], Front]:
    """Return the function that runs commands against a given sandbox."""

    def front(sandbox: Sandbox) -> Front:
        environ = {
            "GUESTCTL_PROFILE": "sandbox",
            "GUESTCTL_SANDBOX_URL": sandbox.url,
            "GUESTCTL_SANDBOX_ADMIN_KEY": sandbox.admin_key,
            "GUESTCTL_SANDBOX_LIMITS": "none" if sandbox.options.fast else "enforced",
            "GUESTCTL_STATE": str(tmp_path / "state"),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "PATH": "/usr/bin:/bin",
        }
        if sandbox.ca is not None:
            environ["GUESTCTL_SANDBOX_CA"] = sandbox.ca
        return Front(environ, tmp_path)

    return front


@pytest.fixture
def front(sandbox: Sandbox, sandboxed: Callable[[Sandbox], Front]) -> Iterator[Front]:
    """Run commands against the shared sandbox. A fault that a failed test leaves there must not reach the next test."""
    yield sandboxed(sandbox)
    if sandbox.faults.list():
        sandbox.call(sandbox.faults.clear)


@pytest.fixture
def alone(tmp_path: Path) -> Front:
    """Run commands without any sandbox or profile."""
    return Front({"GUESTCTL_STATE": str(tmp_path / "state"), "XDG_CONFIG_HOME": str(tmp_path / "config")}, tmp_path)
