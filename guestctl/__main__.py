"""`guestctl` and `python -m guestctl`. Answers `--version` before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from guestctl import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words == ["--version"]:
        sys.stdout.write(f"guestctl {__version__}\n")
        return 0
    from guestctl.cli.main import run

    return int(run(words))


if __name__ == "__main__":
    sys.exit(main())
