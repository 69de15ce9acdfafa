"""Start guestctl as separate processes that tests can kill, with the sandbox in the test's own process.

Knows: how guestctl is started and where its state is. Must not know: what a test checks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

from guestctl.sandbox.server import Sandbox

ROOT = Path(__file__).parents[2]
#: Seconds after which a process that should have ended counts as stuck.
STUCK = 60.0
Record: TypeAlias = dict[str, Any]


@dataclass
class Shell:
    """Runs commands for one API, with its sandbox and a state directory. `through`: the URL of a proxy, if any."""

    sandbox: Sandbox
    api: str
    folder: Path
    through: str = ""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # SIGINT is ignored in background jobs of a shell, and child processes would inherit that.
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @property
    def environ(self) -> Mapping[str, str]:
        passed = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {
            **passed,
            "PYTHONPATH": str(ROOT),
            "GUESTCTL_PROFILE": "sandbox",
            "GUESTCTL_API": self.api,
            "GUESTCTL_SANDBOX_URL": self.through or self.sandbox.url,
            "GUESTCTL_STATE": str(self.folder / "state"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
        }

    def start(
        self,
        *argv: str,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Start a command in its own process."""
        process = subprocess.Popen(
            [sys.executable, "-m", "guestctl", *argv],
            cwd=self.folder,
            env=self.environ,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        self.started.append(process)
        return process

    def run(self, *argv: str, stdout: int | IO[bytes] = subprocess.PIPE) -> tuple[int, str, str]:
        """Run a command to its end. Return its exit code, stdout and stderr."""
        process = self.start(*argv, stdout=stdout)
        out, err = process.communicate(timeout=STUCK)
        return process.returncode, (out or b"").decode(), err.decode()

    def log(self) -> list[Record]:
        """Return the messages that the service has stored, in order."""
        return self.sandbox.call(
            lambda: [one for session in self.sandbox.admin.sessions()["sessions"] for one in session["messages"]]
        )

    def push(self, text: str) -> None:
        self.sandbox.call(lambda: self.sandbox.admin.push(text))

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def stop(process: subprocess.Popen[bytes], how: signal.Signals) -> tuple[int, str, str]:
    """Send a signal to a process and wait for its end. Return its exit code, stdout and stderr."""
    if process.poll() is None:
        process.send_signal(how)
    out, err = process.communicate(timeout=STUCK)
    return process.returncode, (out or b"").decode(), err.decode()


def records(text: str) -> list[Record]:
    """Return the records of a stream. A last line that a kill cut off is left out."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def shows_traceback(err: str) -> bool:
    """Return whether stderr shows a traceback through guestctl's code.

    A signal may also arrive while Python itself starts. Such a traceback is not guestctl's.
    """
    return f'File "{ROOT / "guestctl"}{os.sep}' in err
