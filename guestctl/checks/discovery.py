"""Finding the check scripts below a directory.

Knows: which names and which content make a file a check script. Must not know: what the keys of a script mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from guestctl.core.errors import UsageError
from guestctl.core.input_files import read_bytes
from guestctl.core.strict_yaml import MAX_BYTES, PERMISSIONS, parse_bytes
from guestctl.core.suggestions import did_you_mean

SUFFIXES = (".yaml", ".yml", ".json")
_KEY = "scenarios"


def scripts_below(directory: Path) -> tuple[list[Path], list[Path]]:
    """Return the check scripts below a directory, sorted, and the YAML and JSON files that are none.

    A script has the key `scenarios`, or one that looks like a slip of it. Hidden files and directories and golden
    transcripts are left out. Raises UsageError for a directory that cannot be read or has no script.
    """
    scripts: list[Path] = []
    others: list[Path] = []
    for path in sorted(_files(directory)):
        (scripts if _is_script(path) else others).append(path)
    if not scripts:
        raise UsageError(
            f'no check script below "{directory}"',
            code="config.file",
            hint="a check script is a .yaml, .yml or .json file with the key `scenarios`",
        )
    return scripts, others


def _files(directory: Path) -> Iterator[Path]:
    def refused(error: OSError) -> None:
        raise UsageError(f"{error.filename}: {error.strerror}", code="config.file", hint=PERMISSIONS) from error

    for folder, inner, names in os.walk(directory, onerror=refused):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and name.endswith(SUFFIXES) and not name.endswith(".golden.json"):
                path = Path(folder, name)
                if path.is_file():
                    yield path


def _is_script(path: Path) -> bool:
    """Return whether a file is a check script. One that cannot be read may be one: reading it reports the reason."""
    try:
        content = read_bytes(path, MAX_BYTES + 1)
    except OSError:
        return True
    try:
        value = parse_bytes(content, str(path)).value
    except UsageError:
        return _KEY.encode() in content
    return isinstance(value, dict) and (_KEY in value or any(did_you_mean(key, [_KEY]) for key in value))
