"""Recordings: each model call in a file, under the hash of what was asked.

Knows: the canonical form of a call, the files, the nearest recording of a call that has none. Must not know: prompts,
servers, budgets. A recording has no key, no address and no id of the service.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from guestctl.checks.ai.model_client import ModelAnswer, ModelRequest
from guestctl.core.errors import UsageError
from guestctl.core.values import Json

#: The form of the files. Another number belongs to another version.
FORMAT = 1
#: The largest file that is read, in bytes.
_MOST_BYTES = 10 << 20

#: Ids and moments differ from run to run. Each distinct one becomes a number, so that equal ones stay equal.
_PASSING = re.compile(
    r"(?P<id>\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b)|"
    r"(?P<time>\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?)",
    re.ASCII | re.IGNORECASE,
)
#: Characters around the first difference of two texts that an error shows.
_CONTEXT = 30


def canonical(request: ModelRequest) -> dict[str, Json]:
    """Return what identifies a call, with ids and moments replaced by their number."""
    numbers: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        kind = found.lastgroup or ""
        return numbers.setdefault(found[0].lower(), f"<{kind} {len(numbers) + 1}>")

    def normal(value: Json) -> Json:
        if isinstance(value, str):
            return _PASSING.sub(number, value)
        if isinstance(value, Mapping):
            return {str(name): normal(member) for name, member in value.items()}
        if isinstance(value, (list, tuple)):
            return [normal(item) for item in value]
        return value

    return {"parts": normal(request.parts), "request": normal(request.body())}


def digest(asked: Mapping[str, Json]) -> str:
    """Return the hash under which a canonical call is stored."""
    text = json.dumps(asked, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Recorder:
    """Writes recordings into a directory. Raises UsageError (output.failed) if it cannot."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            raise self._failure(error) from error

    def store(self, request: ModelRequest, answer: ModelAnswer) -> None:
        """Store one call. A reader never sees half of a file."""
        asked = canonical(request)
        name = digest(asked)
        found = {
            "format": FORMAT,
            "call": asked,
            "answer": {
                "text": answer.text,
                "refused": answer.refused,
                "cut": answer.cut,
                "tokens": answer.tokens,
                "seconds": answer.seconds,
            },
        }
        content = json.dumps(found, ensure_ascii=False, indent=1).encode("utf-8", "replace") + b"\n"
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self._directory, prefix=".", suffix=".tmp")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                os.replace(temporary, self._directory / f"{name}.json")
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> UsageError:
        return UsageError(f"--model-record {self._directory}: {error.strerror or error}", code="output.failed")


class Recordings:
    """Reads recordings from a directory, and nothing else. Raises UsageError (ai.recording)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._known: dict[str, Mapping[str, Any]] = {}
        if not directory.is_dir():
            raise UsageError(
                f'--model-replay: no directory "{directory}"',
                code="ai.recording",
                hint="record the calls first: guestctl check --model-record DIR",
            )

    def has(self, request: ModelRequest) -> bool:
        """Return whether a call is recorded."""
        name = digest(canonical(request))
        return name in self._known or (self._directory / f"{name}.json").is_file()

    def answer(self, request: ModelRequest) -> ModelAnswer:
        """Return the recorded answer.

        Without one, raise an error that names the nearest recording and how it differs.
        """
        asked = canonical(request)
        name = digest(asked)
        if not self.has(request):
            raise self._missing(asked)
        answer = self._load(name)["answer"]
        return ModelAnswer(answer["text"], answer["refused"], answer["cut"], answer["tokens"], float(answer["seconds"]))

    def _load(self, name: str) -> Mapping[str, Any]:
        with self._lock:
            if name not in self._known:
                self._known[name] = self._read(self._directory / f"{name}.json", name)
            return self._known[name]

    def _read(self, path: Path, name: str) -> Mapping[str, Any]:
        try:
            # A pipe or a device might never end.
            if path.exists() and not path.is_file():
                raise ValueError("it is not a regular file")
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
            if len(content) > _MOST_BYTES:
                raise ValueError("it is too large")
            found = json.loads(content.decode("utf-8"))
            _check(found, name)
        except (OSError, ValueError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else _why(error)
            raise UsageError(f"{path}: not a usable recording: {why}", code="ai.recording") from error
        checked: Mapping[str, Any] = found
        return checked

    def _missing(self, asked: Mapping[str, Json]) -> UsageError:
        """Return the error of a call that was not recorded."""
        wanted = dict(_leaves(asked))
        nearest: tuple[int, str, Mapping[str, Json]] | None = None
        for path in sorted(self._directory.glob("*.json")):
            try:
                call = self._load(path.stem)["call"]
            except UsageError:
                continue  # a broken file is nobody's nearest recording
            score = _likeness(wanted, dict(_leaves(call)))
            if nearest is None or score > nearest[0]:
                nearest = score, path.name, call
        parts = asked["parts"]
        what = f"this call of the {parts.get('role', 'model')} is not recorded in {self._directory}"
        if nearest is None:
            return UsageError(f"{what}, which has no usable recording", code="ai.recording")
        return UsageError(
            f"{what}; the nearest recording is {nearest[1]}, and the first difference is "
            f"{_difference(asked, nearest[2])}",
            code="ai.recording",
        )


def _check(found: Any, name: str) -> None:
    """Raise ValueError for a file that no Recorder has written."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"it does not have the format {FORMAT}")
    call, answer = found.get("call"), found.get("answer")
    if not isinstance(call, dict) or not isinstance(call.get("parts"), dict) or digest(call) != name:
        raise ValueError("its name is not the hash of its call")
    kinds = {"text": str, "refused": bool, "cut": bool, "tokens": int, "seconds": (int, float)}
    if not isinstance(answer, dict) or not all(isinstance(answer.get(key), kind) for key, kind in kinds.items()):  # type: ignore[arg-type]
        raise ValueError("its answer is incomplete")


def _why(error: BaseException) -> str:
    """Return the reason without the text of the parser, which names positions but no cause."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return "it is not JSON" if isinstance(error, (json.JSONDecodeError, RecursionError)) else str(error)


def _leaves(value: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Yield each value that is no list and no mapping, with its path."""
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _leaves(member, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield from _leaves(item, f"{path}[{number}]")
    else:
        yield path, value


#: What a recording must share with a call before anything else makes it near.
_WEIGHTS = {
    "parts.role": 1000,
    "parts.scenario": 500,
    "parts.run": 200,
    "parts.attempt": 200,
    "parts.call": 200,
    "parts.vote": 100,
    "parts.criterion": 50,
}


def _likeness(one: Mapping[str, Json], other: Mapping[str, Json]) -> int:
    return sum(_WEIGHTS.get(path, 10) for path, value in one.items() if path in other and other[path] == value)


def _difference(asked: Mapping[str, Json], recorded: Mapping[str, Json]) -> str:
    """Return the first difference: of the parts, else of the request itself."""
    before = dict(_leaves(recorded))
    now = dict(_leaves(asked))
    for path in [*now, *(path for path in before if path not in now)]:
        if now.get(path) != before.get(path) or (path in now) != (path in before):
            name = path.removeprefix("parts.")
            return f"{name}: {_compared(now.get(path), before.get(path))}"
    return "in its order"


def _compared(now: Json, before: Json) -> str:
    """Return two values next to each other; of two texts the part in which they differ."""
    if isinstance(now, str) and isinstance(before, str):
        at = next((n for n, (a, b) in enumerate(zip(now, before, strict=False)) if a != b), min(len(now), len(before)))
        start = max(0, at - _CONTEXT // 2)
        now, before = (("…" if start else "") + text[start : start + _CONTEXT] for text in (now, before))
    return f"{_shown(now)} instead of {_shown(before)}"


def _shown(value: Json) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
