"""The trace: every request, response, frame, close and retry, with times.

Knows: the trace file (JSON Lines, mode 0600) and the one-line form for `-v`. Must not know: any dialect, the client.
`redact` replaces the secrets in everything that this module writes.

A line is {"time","seconds","kind",…}, where `seconds` counts from the start of the trace. `replay` serves a trace.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from guestctl.core.clock import Clock, rfc3339
from guestctl.core.errors import UsageError
from guestctl.core.redact import Redactor
from guestctl.transport.output_files import is_pipe, open_output

_FRAMES = frozenset({"frame_in", "frame_out", "ping", "pong"})
#: Kinds that only the file has: `-v` shows what causes them.
_ONLY_IN_FILE = frozenset({"connected", "attached", "closed", "turn"})


class TraceFile:
    """A file that only its owner can read, with one JSON object per line.

    A new trace never replaces a file that exists; with `append` it extends one. `option` names the file in errors.
    Raises UsageError `output.failed`.
    """

    def __init__(self, path: Path, *, append: bool = False, option: str = "--trace") -> None:
        self._name = f"{option} {path}"
        if str(path) == "-":
            raise UsageError(
                f"{option}: a trace cannot be written to stdout",
                code="output.failed",
                hint="give another file name",
            )
        new = 0 if append or is_pipe(path) else os.O_EXCL  # with O_EXCL, a symbolic link is not followed either
        try:
            self._descriptor = open_output(path, option, os.O_CREAT | os.O_APPEND | new)
        except FileExistsError:
            raise UsageError(
                f"{self._name}: the file exists",
                code="output.failed",
                hint="give another name, or extend the file with --trace-append",
            ) from None
        regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._alone = regular and not append  # nobody else writes to a new file
        if regular and hasattr(os, "fchmod"):
            with suppress(OSError):  # another user's file
                os.fchmod(self._descriptor, 0o600)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line. Raises UsageError if the file cannot be written.

        If a disk is full, the part of the line that fits is removed, so that what is there can be read.
        """
        line = json.dumps(record, ensure_ascii=True, separators=(",", ":"), default=str) + "\n"
        left = memoryview(line.encode())
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            written = len(line) - len(left)
            if written and self._alone:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise UsageError(f"{self._name}: {error.strerror or error}", code="output.failed") from error

    def __enter__(self) -> TraceFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


class Watcher:
    """The observer of a client: it writes to the trace file and prints the one-line form for `-v`.

    `show(text, level)` prints a line: level 1 for requests and connections, level 2 for frames.
    """

    def __init__(
        self,
        clock: Clock,
        redactor: Redactor,
        file: TraceFile | None,
        show: Callable[[str, int], None] | None,
    ) -> None:
        self._clock = clock
        self._redactor = redactor
        self._file = file
        self._show = show
        self._begun = clock.monotonic()

    def __call__(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind == "limit" and not data["begun"]:
            return  # only the start of a wait, and not each second of it
        shown = self._redactor.value(dict(data))
        if self._file is not None:
            seconds = round(self._clock.monotonic() - self._begun, 6)
            self._file.write({"time": rfc3339(self._clock.now()), "seconds": seconds, "kind": kind, **shown})
        if self._show is not None and kind not in _ONLY_IN_FILE:
            self._show(_line(kind, shown), 2 if kind in _FRAMES else 1)


def _line(kind: str, data: Mapping[str, Any]) -> str:
    if kind == "request":
        return f"> {data.get('method')} {_place(data)} ({data.get('route')})"
    if kind == "response":
        return f"< {data.get('status')} {_place(data)}"
    if kind == "connect":
        proxy = f" through {data['proxy']}" if data.get("proxy") else ""
        return f"> connect {_place(data)}{proxy}"
    if kind == "upgrade":
        refusal = f": {' '.join(str(data.get('body') or '').split())}" if data.get("status") != 101 else ""
        return f"< upgrade {data.get('status')} {_upgrade_target(data)}{refusal}"
    if kind in {"frame_in", "frame_out"}:
        return f"{'<' if kind == 'frame_in' else '>'} frame {data.get('text')}"
    if kind in {"ping", "pong", "close"}:
        code = f" {data['code']} {data.get('reason') or ''}".rstrip() if data.get("code") is not None else ""
        return f"{'<' if data.get('direction') == 'in' else '>'} {kind}{code}"
    if kind == "retry":
        return f"* retrying {data.get('route')} in {data.get('wait')} s: {data.get('why')}"
    if kind == "limit":
        return f"* waiting {data.get('left')} s for the limit of {data.get('count')} in {data.get('period')} s"
    if kind == "page":
        what = "token" if data.get("by_token") else "further page"
        what = f"a {what}" if data.get("more") else f"no {what}"
        return f"* history page {data.get('number')}: {data.get('size')} entries, {what}"
    if kind == "follow":
        return f'* using the connection of another guestctl process that listens to session "{data.get("session")}"'
    if kind == "lost":
        return f"< no response: {data.get('why')}"
    return f"* {kind} " + json.dumps(data, ensure_ascii=False, default=str)


def _upgrade_target(data: Mapping[str, Any]) -> str:
    """Return the address with its query, and the Origin: the service accepts or refuses an upgrade by these."""
    query = urlsplit(str(data.get("url", ""))).query
    origin = next((v for k, v in (data.get("request_headers") or {}).items() if k.lower() == "origin"), None)
    return f"{_place(data)}{'?' + query if query else ''} ({'Origin ' + str(origin) if origin else 'no Origin'})"


def _place(data: Mapping[str, Any]) -> str:
    parts = urlsplit(str(data.get("url", "")))
    return f"{parts.scheme}://{parts.netloc}{parts.path}"
