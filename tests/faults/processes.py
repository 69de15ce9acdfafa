"""The real program as a process of its own, to be killed; and the sandbox in this one, to be asked.

Knows: how guestctl is started and where its state is. Must not know: what a test is after.
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
#: Seconds after which a process that should have ended is taken for stuck.
STUCK = 60.0
Record: TypeAlias = dict[str, Any]


@dataclass
class Shell:
    """Where commands are typed: an API, its sandbox, a state directory. `through`: a proxy's address instead."""

    sandbox: Sandbox
    api: str
    folder: Path
    through: str = ""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # As in whatever a shell has put into the background; those we start would ignore it, too.
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
        """A command in a process of its own."""
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
        """A command to its end: code, stdout, stderr."""
        process = self.start(*argv, stdout=stdout)
        out, err = process.communicate(timeout=STUCK)
        return process.returncode, (out or b"").decode(), err.decode()

    def log(self) -> list[Record]:
        """What the service has stored, in order."""
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
    """End a process, and see what it left."""
    if process.poll() is None:
        process.send_signal(how)
    out, err = process.communicate(timeout=STUCK)
    return process.returncode, (out or b"").decode(), err.decode()


def records(text: str) -> list[Record]:
    """The whole lines of a stream; what a kill tore in two is none."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def traced(err: str) -> bool:
    """Whether a traceback of ours was shown; a signal may also strike while Python itself is starting."""
    return f'File "{ROOT / "guestctl"}{os.sep}' in err
