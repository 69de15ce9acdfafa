"""Observed traffic as feed events: what the page receives, and what recorded traces are turned into.

Knows: the kinds of a trace and their members, how long texts are cut, and one line for people about each event. Must
not know: pages, who observes, any API beyond the members that name an action and a text.

A feed event has `n`, `time` (epoch seconds), `kind`, `session`, `socket`, `exchange` and `summary`, and the members of
its kind without secrets. `shortened` has the original lengths, in characters, of texts that were cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from guestctl.core.redact import Redactor
from guestctl.transport.recorded_trace import TraceLine, by_run

FeedEvent: TypeAlias = dict[str, Any]

#: Longest text of an event, in characters.
TEXT_LIMIT = 16 << 10
#: Longest summary, in characters.
_SUMMARY_LIMIT = 200
#: The label of requests that no session is known for.
REQUESTS = "requests"

_FRAMES = frozenset({"frame_in", "frame_out"})
_ON_SOCKETS = frozenset({"connect", "connected", "upgrade", "attached", "ping", "pong", "close", "closed", *_FRAMES})
#: Members of a frame that name its action, and those that contain its message.
_NAMES = ("action", "class", "eventName", "eventType", "topicName", "type")
_CARRIERS = ("message", "body", "payload", "eventBody")
_SPEAKERS = {"human": "agent", "agent": "agent", "bot": "bot"}


def label_of(data: Mapping[str, Any]) -> str:
    """Return the session of observed traffic, or a label until it is known."""
    session = data.get("session")
    if session is not None:
        return str(session)
    socket = data.get("socket")
    return REQUESTS if socket is None else f"socket {socket}"


def feed_event(number: int, time: float, kind: str, data: Mapping[str, Any], redactor: Redactor) -> FeedEvent:
    """Return observed traffic as a feed event."""
    shown: FeedEvent = redactor.value(dict(data))
    event: FeedEvent = {"n": number, "time": time, "kind": kind, "session": label_of(data)}
    event["socket"], event["exchange"] = data.get("socket"), data.get("exchange")
    event["summary"] = _shortened(_summary(kind, shown), _SUMMARY_LIMIT)
    shortened: dict[str, int] = {}
    for name, value in shown.items():
        if isinstance(value, str) and len(value) > TEXT_LIMIT:
            shortened[name] = len(value)
            value = value[:TEXT_LIMIT]
        event.setdefault(name, value)
    if shortened:
        event["shortened"] = shortened
    return event


def recorded_events(lines: Sequence[TraceLine], redactor: Redactor) -> list[FeedEvent]:
    """Return the lines of a trace as feed events, in the order of their times."""
    numbers = {id(line): members for run in by_run(lines) for line, members in _numbered(run)}
    shared: dict[tuple[str, Any, Any], int] = {}

    def unique(name: str, line: TraceLine, members: Mapping[str, Any]) -> None:
        """Number sockets and exchanges across all commands and guests of the file."""
        number = members.get(name)
        if number is not None:
            found[name] = shared.setdefault((name, line.run, number), len(shared) + 1)

    events = []
    for number, line in enumerate(sorted(lines, key=lambda line: line.time), 1):
        members = numbers[id(line)]
        found: dict[str, Any] = {key: value for key, value in line.data.items() if key not in _OF_LINES}
        unique("socket", line, members)
        unique("exchange", line, members)
        # In a client's trace, `session` of another kind is a name that the client chose.
        if "session" not in line.data or not ({"socket", "exchange"} & set(line.data)):
            found["session"] = line.run[1] or f"command {line.run[0]}"
        events.append(feed_event(number, line.time, line.kind, found, redactor))
    return events


#: Members of every line of a trace that are not members of its kind.
_OF_LINES = frozenset({"time", "seconds", "kind"})


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


def _summary(kind: str, data: Mapping[str, Any]) -> str:
    """Return one line for people."""
    if kind in _FRAMES:
        return _of_frame(kind, data.get("text"))
    if kind == "request":
        return f"{data.get('method')} {_path(data)}"
    if kind == "response":
        return f"{data.get('method')} {_path(data)} {data.get('status')}"
    if kind == "lost":
        return f"no response: {data.get('why')}"
    if kind == "connect":
        return f"connect {_path(data)}"
    if kind == "upgrade":
        return "connected" if data.get("status") == 101 else f"connection refused: {data.get('status')}"
    if kind == "session":
        return f"session {data.get('session')}"
    if kind in {"close", "closed"}:
        return " ".join(str(part) for part in (kind, data.get("code"), data.get("reason")) if part not in {None, ""})
    return kind


def _of_frame(kind: str, text: object) -> str:
    if not isinstance(text, str):
        return "a frame without text"
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(frame, dict):
        return text
    name = next((frame[key] for key in _NAMES if isinstance(frame.get(key), str)), "frame")
    code = frame.get("code")
    if isinstance(code, int) and code >= 400:
        body = frame.get("body")
        return f"{name} {code}" + (f": {body}" if isinstance(body, str) else "")
    carriers = [frame, *(frame[key] for key in _CARRIERS if isinstance(frame.get(key), dict))]
    for carrier in carriers:
        said = carrier.get("text")
        if isinstance(said, str) and said:
            return f"{_speaker(kind, carrier)}: {said}"
    for carrier in carriers:
        kinds = [one.get("contentType") or one.get("eventType") for one in _items(carrier)]
        named = [one for one in kinds if isinstance(one, str)]
        if named:
            return f"{name} {', '.join(named)}"
    return str(name)


def _items(carrier: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = [carrier.get("content"), carrier.get("events")]
    return [item for items in found if isinstance(items, list) for item in items if isinstance(item, dict)]


def _speaker(kind: str, carrier: Mapping[str, Any]) -> str:
    if kind == "frame_out":
        return "guest"
    if str(carrier.get("direction")).lower() == "inbound":
        return "echo"
    return _SPEAKERS.get(str(carrier.get("originatingEntity")).lower(), "service")


def _path(data: Mapping[str, Any]) -> str:
    try:
        parts = urlsplit(str(data.get("url") or ""))
    except ValueError:
        return str(data.get("url"))
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _shortened(text: str, limit: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
