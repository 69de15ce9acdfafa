"""Reading a trace file, and turning it into spans.

Knows: the lines of a trace (`trace`), and that several guests, or several commands, may have written one file. Must not
know: what a span means (`span_tree`), how spans are exported, any API.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path
from random import Random
from typing import Any

from guestctl.core.clock import epoch_of
from guestctl.core.errors import UsageError
from guestctl.core.input_files import read_bytes
from guestctl.core.model import TraceContext
from guestctl.core.wire import is_trace_context
from guestctl.transport.span_tree import Span, SpanTree

#: Largest trace that is read, in bytes.
TRACE_LIMIT = 1 << 30


@dataclass(frozen=True)
class TraceLine:
    """One line of a trace. `time` is in epoch seconds. `run` distinguishes commands and guests that share the file."""

    time: float
    kind: str
    data: Mapping[str, Any]
    run: tuple[int, str]
    number: int


_AGAIN = "record the trace again with --trace"

#: What a line without its members raises while it is used.
WRONG_LINE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


def parsed_line(text: str) -> Any:
    """Return the JSON of a line. Raises one of `WRONG_LINE`."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    """Return a number. Raises ValueError for one that JSON cannot contain, which no page could read."""
    if not isfinite(number := float(text)):
        raise ValueError(f"{text} is not JSON")
    return number


def read_trace(path: Path) -> list[TraceLine]:
    """Return the lines of a trace. Raises UsageError with file and line for one that is not part of a trace.

    A command that extends a file counts its seconds from zero again.
    """
    try:
        lines = read_bytes(path, TRACE_LIMIT).decode("utf-8").splitlines()
    except (OSError, ValueError) as failure:
        raise UsageError(f"{path}: {getattr(failure, 'strerror', None) or 'not UTF-8'}") from failure
    found: list[tuple[float, str, Mapping[str, Any], int]] = []
    command, begun, before = 0, 0.0, 0.0
    for number, text in enumerate(lines, 1):
        try:
            entry = parsed_line(text)
            seconds, kind = float(entry["seconds"]), str(entry["kind"])
            if not found or seconds < before:
                command += 1
                begun = epoch_of(entry["time"]) - seconds
            before = seconds
            entry.get("guest")
        except WRONG_LINE as failure:
            raise wrong_line(path, number) from failure
        found.append((begun + seconds, kind, entry, command))
    if not any(kind in {"request", "connect"} for _, kind, _, _ in found):
        raise UsageError(f"{path}: the trace contains no requests or frames")
    guests = guests_of([(command, entry) for _, _, entry, command in found])
    return [
        TraceLine(time, kind, entry, (command, guest), number)
        for number, ((time, kind, entry, command), guest) in enumerate(zip(found, guests, strict=True), 1)
    ]


def guests_of(lines: Sequence[tuple[int, Mapping[str, Any]]]) -> list[str]:
    """Return the guest of each line, of which the number of its command is known.

    A client names its guests, or has only one, whose name is empty. The lines of a server have the number of a request
    (`exchange`) or of a socket. They belong to the session that any line with the same number names: the first of
    several, if a guest starts a new session on the same socket. A socket of an unknown session is a guest of its own,
    and all requests of unknown sessions are one.
    """
    first: dict[str, str] = {}  # session -> the first session of the same guest
    sessions: dict[tuple[int, str, Any], str] = {}

    def root(session: str) -> str:
        while first.get(session, session) != session:
            session = first[session]
        return session

    keys: list[tuple[int, str, Any] | None] = []
    for command, entry in lines:
        kind = next((name for name in ("socket", "exchange") if entry.get(name) is not None), None)
        key = None if kind is None else (command, kind, str(entry[kind]))
        keys.append(key)
        if key is not None and entry.get("session"):
            session = root(str(entry["session"]))
            earlier = root(sessions.setdefault(key, session))
            if earlier != session:
                first[session] = earlier
    found = []
    for (_, entry), key in zip(lines, keys, strict=True):
        if key is None:
            found.append(str(entry.get("guest") or ""))
        elif key in sessions:
            found.append(root(sessions[key]))
        else:
            found.append(f"socket {key[2]}" if key[1] == "socket" else "")
    return found


def wrong_line(path: Path, number: int) -> UsageError:
    """Return the error for a line that is not part of a trace."""
    return UsageError(f"{path}:{number}: not a line of a trace", hint=_AGAIN)


@contextmanager
def lines_in_use(*paths: Path) -> Iterator[None]:
    """Let what a line without its members raises become a UsageError that names the files."""
    try:
        yield
    except WRONG_LINE as failure:
        names = ", ".join(str(path) for path in paths)
        message = f"{names}: a line lacks members that guestctl writes, or has others in their place"
        raise UsageError(message, hint=_AGAIN) from failure


def by_run(lines: Sequence[TraceLine]) -> Iterator[list[TraceLine]]:
    """Yield the lines of each command, and of each guest of a check or a sandbox, in the order of their first lines."""
    runs: dict[tuple[int, str], list[TraceLine]] = {}
    for line in lines:
        runs.setdefault(line.run, []).append(line)
    yield from runs.values()


def spans_of(path: Path, lines: Sequence[TraceLine]) -> list[Span]:
    """Return the spans of a trace, one tree for each command or guest. Raises UsageError for a line without its fields.

    Ids follow from the content, so that a trace that is exported twice has the same spans. The trace id is the one that
    was sent. If every request sent the same context, as without an export, its span is above the tree.
    """
    found: list[Span] = []
    for number, run in enumerate(by_run(lines)):
        digest = sha256(json.dumps([number, *(dict(line.data) for line in run)], sort_keys=True).encode()).digest()
        at = run[0].time
        name = f"trace {path.name}" + (f" {run[0].run[1]}" if run[0].run[1] else "")
        tree = SpanTree(name, now=lambda: at, finished=found.append, random=Random(digest))  # noqa: B023
        contexts = {context for line in run if (context := _context(line.data)) is not None}
        if contexts:
            first = next(context for line in run if (context := _context(line.data)) is not None)
            tree.begin(TraceContext(f"{first[:52]}-01"), root=len(contexts) > 1)
        for line in run:
            at = line.time
            try:
                tree(line.kind, line.data)
            except WRONG_LINE as failure:
                raise wrong_line(path, line.number) from failure
        tree.end()
    return found


def _context(data: Mapping[str, Any]) -> str | None:
    """Return the trace context that a line states."""
    headers = data.get("headers") if "method" in data and "status" not in data else data.get("request_headers")
    named = {str(name).lower(): value for name, value in headers.items()} if isinstance(headers, Mapping) else {}
    given = named.get("traceparent") or data.get("traceparent")
    return given if isinstance(given, str) and is_trace_context(given) else None
