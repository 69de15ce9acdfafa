"""The file of `--cursor`: where a run stopped, for the next one.

Knows: how the file is read, and replaced in one step. Must not know: what a position is.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from guestctl.core.errors import UsageError
from guestctl.core.values import Json
from guestctl.transport.output_files import is_pipe


class PositionFile:
    """A JSON file of one object. `command` is the command that writes it, for the hint of an error.

    Raises UsageError for a path that is not one of a regular file.
    """

    def __init__(self, path: Path, command: str) -> None:
        if path.name == "-":
            raise UsageError("--cursor: - is not a file", hint="give another file name")
        self.path = path.absolute()
        self._command = command
        if is_pipe(self.path) or self.path.is_dir():
            raise self.bad("not a regular file")

    def read(self) -> dict[str, Json] | None:
        """Return the object, None if there is no file. Raises UsageError for any other content."""
        try:
            value = json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.bad(error.strerror or str(error)) from error
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise self.bad("not a cursor file")
        return value

    def replace(self, values: Mapping[str, Json], *, durable: bool = False) -> None:
        """Replace the file in one step, so that a kill cannot leave half of it; `durable`: it is on the disk then.

        Raises UsageError.
        """
        try:
            descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=".guestctl-cursor-")
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(json.dumps(values) + "\n")
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                os.replace(name, self.path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise self.bad(error.strerror or str(error)) from error

    def bad(self, why: str) -> UsageError:
        """Return the error for a file that cannot be used."""
        return UsageError(
            f"--cursor {self.path}: {why}", hint=f"name a file that `{self._command}` wrote, or a new file"
        )
