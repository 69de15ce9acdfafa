"""The tests of the extra `guestctl[load]`. CONTRIBUTING.md has the command that installs what they need."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from guestctl.sandbox.server import Sandbox


@pytest.fixture(autouse=True)
def locust() -> None:
    """Skip tests without the packages of the extra. Locust is not imported here: it changes the standard library."""
    from importlib.util import find_spec

    for name in ("locust", "gevent", "hdrh"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed (CONTRIBUTING.md)")


@dataclass
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        """The record that the command printed."""
        lines = [line for line in self.out.splitlines() if line.strip()]
        assert len(lines) == 1, self.out + self.err
        found: dict[str, Any] = json.loads(lines[0])
        return found


@dataclass
class Room:
    """A directory, an environment, and what runs commands in it."""

    path: Path
    environ: Mapping[str, str]

    def write(self, name: str, text: str) -> Path:
        (self.path / name).write_text(text, encoding="utf-8")
        return self.path / name

    def start(self, words: str, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "guestctl", *shlex.split(words)],
            cwd=self.path,
            env=dict(self.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def run(self, words: str) -> Done:
        process = self.start(words)
        out, err = process.communicate(timeout=110)
        return Done(process.returncode, out, err)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    """Return a room without a sandbox."""
    # The documented command names the packages relative to the directory in which the tests run.
    packages = os.pathsep.join(
        os.path.abspath(one) for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one
    )
    return Room(
        tmp_path,
        {
            **os.environ,
            "GUESTCTL_STATE": str(tmp_path / "state"),
            "HOME": str(tmp_path),
            "PYTHONPATH": packages,
        },
    )


@pytest.fixture
def at_sandbox(room: Room) -> Callable[[Sandbox], Room]:
    """Return a function that makes the room of a running sandbox."""

    def enter(served: Sandbox) -> Room:
        return Room(
            room.path,
            {
                **room.environ,
                "GUESTCTL_PROFILE": "sandbox",
                "GUESTCTL_SANDBOX_URL": served.url,
                "GUESTCTL_SANDBOX_ADMIN_KEY": served.admin_key,
                "GUESTCTL_SANDBOX_LIMITS": "none" if served.options.fast else "enforced",
            },
        )

    return enter


@pytest.fixture
def served() -> Iterator[Sandbox]:
    """A sandbox that answers at once, without limits."""
    with Sandbox(fast=True, keys="returned") as sandbox:
        yield sandbox


HELLO = """
scenarios:
  hello:
    - say: hi
    - expect: "echo: hi"
    - say: there
    - expect: "echo: there"
load: {think: 100ms}
"""


@pytest.fixture
def at_served(at_sandbox: Callable[[Sandbox], Room], served: Sandbox) -> Room:
    room = at_sandbox(served)
    room.write("hello.yaml", HELLO)
    return room
