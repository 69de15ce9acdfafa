"""The pager of GUESTCTL_PAGER.

Knows: how a pager is started and ended. Must not know: what it shows.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

from guestctl.core.errors import UsageError


class Pager:
    """A running pager. Its `stdin` takes what it shows."""

    def __init__(self, command: str, environ: Mapping[str, str]) -> None:
        """Start the pager. Raises UsageError if it cannot be run."""
        try:
            self._process = subprocess.Popen(
                shlex.split(command), stdin=subprocess.PIPE, env={"LESS": "-R", **environ, "LESSSECURE": "1"}
            )
        except (OSError, ValueError, IndexError) as error:
            raise UsageError(
                f'GUESTCTL_PAGER: cannot run "{command}": {getattr(error, "strerror", None) or error}',
                hint="set GUESTCTL_PAGER to a pager command, or unset it",
            ) from error

    @property
    def stdin(self) -> IO[bytes] | None:
        return self._process.stdin

    def wait(self) -> None:
        """Wait until the pager exits. Ctrl-C reaches guestctl too, but is meant for the pager."""
        while self._process.returncode is None:
            with suppress(KeyboardInterrupt):
                if self._process.stdin is not None:
                    with suppress(OSError):
                        self._process.stdin.close()
                self._process.wait()
