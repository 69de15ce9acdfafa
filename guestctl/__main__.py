"""`guestctl` and `python -m guestctl`. Answers `--version` before anything is loaded.

Knows: settings of the whole process (garbage collection, how it exits). Must not know: commands. They do not apply
when a program imports the library or calls `main`.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from guestctl.core.version import __version__

#: Allocations between two garbage collections. The modules loaded at start-up are many objects and no garbage: with
#: the default of 700, a hundred useless collections take a tenth of a short command's time.
GARBAGE_EVERY = 50_000
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` has the arguments without the program's name."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if os.name != "posix":
        sys.stderr.write("error: guestctl runs on Linux and macOS only\nhint:  on Windows, use WSL\n")
        return 2
    if arguments == ["--version"] and _print(f"guestctl {__version__}\n"):
        return 0
    from guestctl.cli.main import run

    return int(run(arguments))


def command() -> NoReturn:
    """Run the console script and exit at once.

    Everything is written and closed by then. Skipping the interpreter's shutdown saves a tenth of a short command's
    time.
    """
    gc.set_threshold(GARBAGE_EVERY)
    try:
        code = main()
    except KeyboardInterrupt:  # Ctrl-C during loading, before the command line handles it
        code = _INTERRUPTED
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        sys.exit(code)  # the interpreter's shutdown reports what could not be written
    if code == _INTERRUPTED and os.isatty(2):
        # A shell stops its own loop only if the command died from SIGINT. The exit code it shows is still 130.
        import signal

        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    os._exit(code)


def _print(text: str) -> bool:
    """Write to stdout and return whether that worked; if not, the command line reports the failure."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (AttributeError, OSError, ValueError):
        return False
    return True


if __name__ == "__main__":
    command()
