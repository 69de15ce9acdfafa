"""-v and --trace of a sandbox and of a proxy: one line on stderr for each request and frame, and the trace.

Knows: what a line looks like, and what follows if the trace cannot be written. Must not know: how guests are served,
any API.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from guestctl.core.errors import UsageError
from guestctl.output.terminal import visible

if TYPE_CHECKING:
    from guestctl.cli.invocation import Invocation
    from guestctl.inspector.feed_events import FeedEvent
    from guestctl.transport.trace import Watcher

#: Kinds without a line of their own: the close before says why.
_SILENT = frozenset({"closed", "request"})
#: Kinds that only -vv shows.
_PINGS = frozenset({"ping", "pong"})
#: Characters of the label of a session.
_LABEL = 9
#: Requests whose answer is awaited.
_MOST_WAITING = 10_000


class TrafficLog:
    """The observer of a server. `exit_code` also says whether the trace is complete.

    If the trace cannot be written any more, that is reported once. The server continues without it, because its guests
    need it, and the command does not exit with 0.
    """

    def __init__(self, run: Invocation, server: str = "sandbox") -> None:
        self._run = run
        self._server = server
        self._failure: UsageError | None = None
        self._watcher: Watcher | None = None
        self._lines: TrafficLines | None = None
        # A trace that the environment names is that of the guests, which inherit the environment.
        asked = run.options.trace is not None or run.options.trace_append is not None
        file = run.trace_file if asked else None
        if file is not None:
            from guestctl.transport.trace import Watcher

            self._watcher = Watcher(run.clock, run.redactor, file, None)
        if run.out.verbose:
            self._lines = TrafficLines(run)

    @property
    def observer(self) -> Callable[[str, Mapping[str, Any]], None] | None:
        """What receives the events, None if nothing is to be shown or recorded."""
        return None if self._watcher is None and self._lines is None else self._observe

    def exit_code(self, code: int, *, replaces: bool = True) -> int:
        """Return the code to exit with: that of an incomplete trace, unless there is none.

        `replaces`: it replaces a code that is not 0, too.
        """
        return self._failure.exit if self._failure is not None and (replaces or code == 0) else code

    def _observe(self, kind: str, data: Mapping[str, Any]) -> None:
        if self._watcher is not None:
            try:
                self._watcher(kind, data)
            except UsageError as failure:
                self._watcher = None
                self._failure = failure
                failure.hint = (
                    f"the trace ends here; the {self._server} goes on without it, and guestctl does not exit with 0"
                )
                self._run.out.failure(failure)
        if self._lines is not None:
            self._lines(kind, data)


class TrafficLines:
    """Prints one line for each request with its answer, and for each frame. With -vv, bodies and pings, too.

    14:03:07 socket 1  > connect /v1
    14:03:07 c4274ab0  > guest: hi
    14:03:07 c4274ab0  < bot: Hello!
    14:03:08 c4274ab0  = GET /api/v2/webmessaging/messages 200 (4 ms)
    """

    def __init__(self, run: Invocation) -> None:
        self._run = run
        self._number = 0
        self._waiting: dict[int, FeedEvent] = {}

    def __call__(self, kind: str, data: Mapping[str, Any]) -> None:
        from guestctl.inspector.feed_events import feed_event

        out = self._run.out
        if kind in _PINGS and out.verbose < 2:
            return
        self._number += 1
        event = feed_event(self._number, self._run.clock.now(), kind, data, self._run.redactor)
        if kind == "request" and len(self._waiting) < _MOST_WAITING:
            self._waiting[event["exchange"]] = event
        if kind in _SILENT:
            return
        for level, line in self._drawn(kind, event):
            out.detail(line, level)

    def _drawn(self, kind: str, event: FeedEvent) -> Iterator[tuple[int, str]]:
        clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
        session = str(event["session"])
        start = f"{clock} {session if ' ' in session else session[: _LABEL - 1]:<{_LABEL}} "
        request = self._waiting.pop(event["exchange"], None) if kind in {"response", "lost"} else None
        summary, end = event["summary"], ""
        if request is not None:
            duration = f"({max(0.0, event['time'] - request['time']) * 1000:.0f} ms)"
            answer = str(event["status"]) if kind == "response" else summary
            summary, end = request["summary"], f" {answer} {duration}"
        yield 1, self._fitting(f"{start}{_arrow(kind, event)} {summary}", end)
        sent = None if request is None else request.get("body")
        for arrow, body in ((">", sent), (_arrow(kind, event) if request is None else "<", _body(event))):
            if body:
                yield 2, f"{' ' * len(start)}{arrow} {body}"

    def _fitting(self, line: str, end: str) -> str:
        """Return a line that is not wrapped on a terminal: it is cut before its end."""
        width = self._run.out.terminal.stderr_width
        if width is None or len(line) + len(end) <= width // 2:  # at most two columns for each character
            return line + end
        from rich.cells import cell_len, set_cell_size

        line = visible(line)
        room = max(0, width - cell_len(end))
        return (line if cell_len(line) <= room else set_cell_size(line, max(0, room - 1)).rstrip() + "…") + end


def _arrow(kind: str, event: FeedEvent) -> str:
    """Return > from the guest, < to the guest, = for a request with its answer, and * for what only became known."""
    if kind in {"response", "lost"}:
        return "="
    if kind in {"frame_out", "connect"} or event.get("direction") == "out":
        return ">"
    return "*" if kind == "session" else "<"


def _body(event: FeedEvent) -> str | None:
    body = event.get("text", event.get("body"))
    return body if isinstance(body, str) else None
