"""A bash for documented commands: `guestctl` and `jq` on the PATH, and a sandbox as the service.

Knows: how a printed line is run. Must not know: what a line does.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.conftest import Front

ROOT = Path(__file__).parents[2]
_FOUND = "/usr/local/bin:/usr/bin:/bin"
#: Replaces jq if only its Python binding is installed. Takes a program after -r or -s.
_JQ = """\
import sys, jq
[program], options = [w for w in sys.argv[1:] if w not in ("-r", "-s")], sys.argv[1:]
for found in jq.compile(program).input_text(sys.stdin.read(), slurp="-s" in options):
    print(found if "-r" in options and isinstance(found, str) else jq.compile(".").input_value(found).text())
"""


class Shell:
    """Runs command lines in the test's directory and environment. Skips the test without bash."""

    def __init__(self, front: Front) -> None:
        if shutil.which("bash") is None:
            pytest.skip("bash is not installed here")
        self.cwd = front.cwd
        self._started: list[subprocess.Popen[str]] = []
        self._place = front.cwd / "bin"
        self._place.mkdir()
        self.environ = {**front.environ, "HOME": str(front.cwd), "PYTHONPATH": str(ROOT)}
        self.environ["PATH"] = f"{self._place}:{_FOUND}"
        self.program("guestctl", f'exec {shlex.quote(sys.executable)} -m guestctl "$@"')
        if shutil.which("jq", path=_FOUND) is None and find_spec("jq") is not None:
            self.program("jq", f'exec {shlex.quote(sys.executable)} -c {shlex.quote(_JQ)} "$@"')

    def program(self, name: str, script: str) -> None:
        """Put a program on the PATH."""
        path = self._place / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def needs(self, line: str) -> None:
        """Skip the test if the line needs a program that is not installed."""
        if "jq " in line and shutil.which("jq", path=self.environ["PATH"]) is None:
            pytest.skip("neither jq nor its Python binding is installed here")

    def start(self, line: str, **environ: str) -> subprocess.Popen[str]:
        """Start a line; it runs until `close` at the latest. It receives Ctrl-C even if the tests ignore it."""
        self.needs(line)
        launcher = (
            "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp('bash', sys.argv[1:])"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", launcher, "bash", "-o", "pipefail", "-c", line if "|" in line else f"exec {line}"],
            cwd=self.cwd, env={**self.environ, **environ}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._started.append(process)
        return process

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def __call__(self, line: str, environ: Mapping[str, str] | None = None, *, code: int = 0) -> str:
        self.needs(line)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=self.cwd, env={**self.environ, **(environ or {})}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == code, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout
