"""`guestctl` and `python -m guestctl`. Answers `--version` before anything is loaded.

Knows: what belongs to a whole process of ours and to nobody who calls `main` or the library.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from guestctl.core.version import __version__

#: Objects between two searches for garbage. What is loaded at the start is none, and it is much: the
#: interpreter's 700 make a hundred fruitless searches of it, a tenth of a short command.
GARBAGE_EVERY = 20_000
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words == ["--version"] and _written(f"guestctl {__version__}\n"):
        return 0
    from guestctl.cli.main import run

    return int(run(words))


def command() -> NoReturn:
    """The console script: run, then leave at once.

    By then everything is written and closed; taking the interpreter apart first costs a tenth of a
    short command.
    """
    gc.set_threshold(GARBAGE_EVERY)
    try:
        code = main()
    except KeyboardInterrupt:  # while loading, before anybody could take it in hand
        code = _INTERRUPTED
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        sys.exit(code)  # the usual end tells what could not be written
    if code == _INTERRUPTED and os.isatty(2):
        # A shell ends its loop only when Ctrl-C was the end of the command, too; it shows the same 130.
        import signal

        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    os._exit(code)


def _written(text: str) -> bool:
    """Whether stdout took it; whatever keeps it from that is told by whoever tells failures."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (AttributeError, OSError, ValueError):
        return False
    return True


if __name__ == "__main__":
    command()
