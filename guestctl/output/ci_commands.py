"""Commands of a CI runner in text output.

Knows: how GitHub Actions recognises a command in a line that a step prints. Must not know: streams, records.

A bot could hide a text from the log, or set an annotation, with a line such as `::add-mask::x`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: `::` at the start of a line, also after blanks, and `##[` anywhere. The runner ends a line at CR, too.
_COMMAND = re.compile(r"((?:^|(?<=[\r\n]))\s*):(?=:)|#(?=#\[)")


def runs_in_actions(environ: Mapping[str, str]) -> bool:
    """Return whether this runs in a job of GitHub Actions."""
    return environ.get("GITHUB_ACTIONS") == "true"


def escaped(text: str) -> str:
    """Return the text with the first character of each command escaped, so that the runner shows it."""
    if "::" not in text and "##[" not in text:
        return text
    return _COMMAND.sub(lambda found: "\\x23" if found[1] is None else f"{found[1]}\\x3a", text)


def has_command(text: str) -> bool:
    """Return whether the runner would recognise a command in the text."""
    return _COMMAND.search(text) is not None
