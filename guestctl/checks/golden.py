"""Golden transcripts: conversations as they should be, in a file next to the script that people review.

Knows: the file, and which parts of a conversation it has. Must not know: how a conversation runs.
Captured values are written as `${name}`, so that an order number may differ from run to run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import unified_diff
from pathlib import Path

from guestctl.checks.outcomes import TranscriptLine
from guestctl.core.errors import UsageError
from guestctl.output.terminal import visible

_LARGEST = 16 * 1024 * 1024


def lines(transcript: Iterable[TranscriptLine], captured: Mapping[str, str]) -> tuple[str, ...]:
    """Return a conversation as lines: one for each message, option, file and content item."""
    found: list[str] = []
    for line in transcript:
        if line.who is None:
            continue
        mark = ">" if line.who == "guest" else "<"
        found.append(f"{mark} {_named(line.text, captured)}")
        found += [f"  {_named(text, captured)}" for text in line.content]
        found += [f"  [{n}] {_named(option, captured)}" for n, option in enumerate(line.options, 1)]
        found += [f"  (file) {_named(name, captured)}" for name in line.files]
    return tuple(found)


def without_content(transcript: Iterable[str]) -> tuple[str, ...]:
    """Return the lines that golden transcripts had before they had cards, pickers and forms."""
    return tuple(line for line in transcript if not line.startswith("  (") or line.startswith("  (file) "))


def _named(text: str, captured: Mapping[str, str]) -> str:
    for name, value in sorted(captured.items(), key=lambda item: -len(item[1])):
        if len(value) > 1:
            text = text.replace(value, f"${{{name}}}")
    return visible(text)


def differences(golden: Sequence[str], actual: Sequence[str]) -> str:
    """Return the differences as a unified diff without its header."""
    return "\n".join(list(unified_diff(golden, actual, lineterm="", n=2))[2:])


def load(path: Path) -> dict[str, tuple[str, ...]]:
    """Return scenario name -> lines; empty if there is no file yet. Raises UsageError `config.file`."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror or error}", code="config.file", hint="check the permissions of the file"
        ) from error
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not all(_is_transcript(entry) for entry in value.values()):
        raise UsageError(
            f"{path}: not a golden transcript file",
            code="config.file",
            hint="restore it, or remove it and run with --bless",
        )
    return {name: tuple(entry) for name, entry in value.items()}


def save(path: Path, transcripts: Mapping[str, Sequence[str]]) -> None:
    """Replace the file in one step. Raises UsageError `output.failed`."""
    text = json.dumps({name: list(entry) for name, entry in transcripts.items()}, ensure_ascii=False, indent=2) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"{path}: {error.strerror or error}", code="output.failed") from error


def _is_transcript(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(line, str) for line in value)
