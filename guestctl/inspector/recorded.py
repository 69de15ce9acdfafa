"""Recorded traces as traffic that the inspector shows.

Knows: that several commands, guests and files may be shown together, and how requests, answers and frames of a client's
trace belong together. Must not know: how a trace is read, pages, any API.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, NoReturn, TypeAlias

from guestctl.core.redact import Redactor
from guestctl.inspector.desk import CannotDo
from guestctl.inspector.feed_events import REQUESTS, FeedEvent, feed_event
from guestctl.transport.recorded_trace import TraceLine, by_run

Traffic: TypeAlias = tuple[float, str, dict[str, Any]]
"""The time in epoch seconds, the kind and the members of one event."""

_Place: TypeAlias = tuple[tuple[int, str], str, Any]
"""The run of a line, `socket` or `exchange`, and its number there."""

#: Members of every line of a trace that are not members of its kind.
_OF_LINES = frozenset({"time", "seconds", "kind"})
_ON_SOCKETS = frozenset(
    {"connect", "connected", "upgrade", "attached", "frame_in", "frame_out", "ping", "pong", "close", "closed"}
)


def recorded_traffic(traces: Mapping[str, Sequence[TraceLine]]) -> list[Traffic]:
    """Return the lines of traces, by the names of their files, in the order of their times.

    Sockets and exchanges are numbered across all files. In a trace of a sandbox or a proxy, which numbers them itself,
    all events of a socket or an exchange belong to its session. Other lines belong to their guest or their command, and
    with several files the name of the file comes first.

    Raises LookupError, TypeError or AttributeError for a line without its fields.
    """
    lines: list[tuple[TraceLine, dict[str, Any], str]] = []
    sessions: dict[_Place, str] = {}
    commands = 0
    for name, found in traces.items():
        prefix = f"{name}: " if len(traces) > 1 else ""
        own = [replace(line, run=(line.run[0] + commands, line.run[1])) for line in found]
        for run in by_run(own):
            guest = run[0].run[1] or f"command {run[0].run[0] - commands}"
            for line, members in _numbered(run):
                places = _places(line)
                if places and line.data.get("session") is not None:
                    sessions |= dict.fromkeys(places, str(line.data["session"]))
                lines.append((line, members, f"{prefix}{REQUESTS if places else guest}"))
        commands += max((line.run[0] for line in found), default=0)
    lines.sort(key=lambda entry: entry[0].time)
    shared: dict[_Place, int] = {}
    traffic: list[Traffic] = []
    for line, members, label in lines:
        data: dict[str, Any] = {key: value for key, value in line.data.items() if key not in _OF_LINES}
        for name, number in members.items():
            data[name] = shared.setdefault((line.run, name, number), len(shared) + 1)
        known = [sessions[place] for place in _places(line) if place in sessions]
        data["session"] = known[0] if known else label
        traffic.append((line.time, line.kind, data))
    return traffic


def _places(line: TraceLine) -> list[_Place]:
    """Return the socket and the exchange of a line that states them."""
    names = ("socket", "exchange")
    return [(line.run, name, line.data[name]) for name in names if line.data.get(name) is not None]


def recorded_events(traffic: Sequence[Traffic], redactor: Redactor) -> list[FeedEvent]:
    """Return recorded traffic as feed events."""
    return [feed_event(number, *event, redactor) for number, event in enumerate(traffic, 1)]


def _numbered(run: Sequence[TraceLine]) -> Iterator[tuple[TraceLine, dict[str, Any]]]:
    """Yield each line of one guest with its `socket` and `exchange`, paired in order if the lines do not have them."""
    sockets, exchanges = count(1), count(1)
    socket: int | None = None
    waiting: list[tuple[int, str, str | None]] = []
    for line in run:
        kind, data = line.kind, line.data
        members: dict[str, Any] = {name: data[name] for name in ("socket", "exchange") if data.get(name) is not None}
        if members:
            yield line, members
            continue
        if kind == "request":
            members["exchange"] = next(exchanges)
            waiting.append((members["exchange"], str(data.get("method")), data.get("url")))
        elif kind in {"response", "lost"}:
            answered = next((one for one in waiting if _answers(data, one)), None)
            if answered is not None:
                waiting.remove(answered)
                members["exchange"] = answered[0]
        elif kind in _ON_SOCKETS:
            if kind == "connect" or socket is None:
                socket = next(sockets)
            members["socket"] = socket
        yield line, members


def _answers(data: Mapping[str, Any], waiting: tuple[int, str, str | None]) -> bool:
    """Return whether an answer belongs to a request: a trace states its address without the query, or not at all."""
    _, method, url = waiting
    return data.get("method") == method and data.get("url") in {None, str(url).partition("?")[0]}


class RecordedControls:
    """What a page may control of a trace: nothing."""

    can: Sequence[str] = ()
    guest: Mapping[str, str] | None = None

    def sessions(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def armed(self) -> Sequence[Mapping[str, Any]]:
        return ()

    def kinds(self) -> Sequence[Mapping[str, Any]]:
        return ()

    def _refuse(self, *_: Any) -> NoReturn:
        raise CannotDo("a trace is over")

    send_text = send_content = send_file = show_typing = end = add_faults = remove_fault = clear_faults = _refuse
