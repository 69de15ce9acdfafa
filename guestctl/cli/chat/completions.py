"""Completion of commands and paths in a typed line.

Knows: how `/file` splits its paths. Must not know: the keyboard, the screen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from guestctl.core.values import immutable


@immutable
class Completion:
    """A word of the line being typed, with what can replace it.

    `start` is the index of the word in the text before the cursor. `insert` replaces the word. `choices` are the names
    to show when the word cannot be made longer without a decision.
    """

    start: int
    insert: str
    choices: tuple[str, ...] = ()


def complete(text: str, commands: Sequence[str], cwd: Path) -> Completion | None:
    """Return the completion of a text that ends at the cursor, or None if there is none.

    The first word completes to a command, the words after `/file` complete to paths.
    """
    command, separator, _ = text.lstrip().partition(" ")
    if not command.startswith("/"):
        return None
    if not separator:
        start = len(text) - len(command)
        return _completion(start, command, [f"{name} " for name in commands if name.startswith(command)])
    if command != "/file":
        return None
    start, word = _last_word(text)
    return _completion(start, word, _files(word, cwd))


def _completion(start: int, word: str, found: Sequence[str]) -> Completion | None:
    if not found:
        return None
    if len(found) == 1:
        name = found[0].removesuffix(" ")
        return Completion(start, _escaped(name) + found[0][len(name) :])
    first, last = min(found), max(found)  # what these two have in common, all have
    common = first[: next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]
    common = common.rstrip(" ")
    choices = () if len(common) > len(word) else tuple(_last_part(one.removesuffix(" ")) for one in found)
    return Completion(start, _escaped(common), choices)


def _last_part(path: str) -> str:
    """Return the name at the end of a path, with the slash of a directory."""
    return path[path.rstrip("/").rfind("/") + 1 :] if path.rstrip("/").rfind("/") > 0 else path


def _files(word: str, cwd: Path) -> list[str]:
    """Return the paths that start with a word: directories end with a slash, files with a space."""
    directory, slash, beginning = word.rpartition("/")
    try:
        entries = sorted((cwd / Path(directory + slash).expanduser()).iterdir())
    except (OSError, RuntimeError, ValueError):
        return []
    # A name with control characters cannot be shown, nor one that is not text.
    shown = [one for one in entries if one.name.startswith(beginning) and one.name.isprintable()]
    return [
        f"{directory}{slash}{one.name}{'/' if _is_directory(one) else ' '}"
        for one in shown
        if beginning.startswith(".") or not one.name.startswith(".")
    ]


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _last_word(text: str) -> tuple[int, str]:
    """Return the index of the last word and the word without quotes and backslashes, as a shell reads them."""
    start, word, quote, escaped = len(text), "", "", False
    inside = False
    for index, char in enumerate(text):
        if not inside and not char.isspace():
            start, word, inside = index, "", True
        if escaped:
            word, escaped = word + char, False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote, word = ("", word) if char == quote else (quote, word + char)
        elif char in "'\"":
            quote = char
        elif char.isspace():
            start, word, inside = index + 1, "", False
        else:
            word += char
    return start, word


def _escaped(path: str) -> str:
    """Return a path as it is typed after `/file`."""
    return re.sub(r"([^\w@%+=:,./~-])", r"\\\1", path)
