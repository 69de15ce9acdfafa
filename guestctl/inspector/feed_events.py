"""Observed traffic as feed events: what the page receives.

Knows: the kinds of a trace and their members, how long texts are cut, and one line for people about each event. Must
not know: pages, who observes, any API beyond the members that name an action and a text.

A feed event has `n`, `time` (epoch seconds), `kind`, `session`, `socket`, `exchange` and `summary`, and the members of
its kind without secrets. `shortened` has the original lengths, in characters, of texts that were cut.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from json.encoder import encode_basestring as _quote
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from guestctl.core.redact import Redactor

FeedEvent: TypeAlias = dict[str, Any]

_decode = json.JSONDecoder().decode

#: Longest text of an event, in characters.
TEXT_LIMIT = 16 << 10
#: What is masked of a longer text. It is more than what is shown, so that a secret that is cut is not shown.
_MASKED = 64 << 10
_TEXTS = frozenset({"text", "body"})
#: Longest summary, in characters.
_SUMMARY_LIMIT = 200
#: The label of requests that no session is known for.
REQUESTS = "requests"

_FRAMES = frozenset({"frame_in", "frame_out"})
#: Members that events of any kind may have.
_IN_ALL = frozenset({"session", "socket", "exchange", "guest", "direction"})
#: The members of a frame whose session is known.
OF_FRAMES = frozenset({"session", "socket", "text"})
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
    shown: FeedEvent = {}
    shortened: dict[str, int] = {}
    for name, value in data.items():
        if isinstance(value, (str, bytes)) and len(value) > _MASKED:
            shortened[name] = len(value)
            value = value[:_MASKED]
        if name in _TEXTS and isinstance(value, str):  # mostly the JSON of a frame, for which there is a faster way
            shown[name] = redactor.json_text(value)
        else:
            shown[name] = value if isinstance(value, int) else redactor.value({name: value})[name]
    event: FeedEvent = {"n": number, "time": time, "kind": kind, "session": label_of(data)}
    event["socket"], event["exchange"] = data.get("socket"), data.get("exchange")
    event["summary"] = _shortened(_summary(kind, shown), _SUMMARY_LIMIT)
    for name, value in shown.items():
        if isinstance(value, str) and len(value) > TEXT_LIMIT:
            shortened.setdefault(name, len(value))
            value = value[:TEXT_LIMIT]
        event.setdefault(name, value)
    if shortened:
        event["shortened"] = shortened
    return event


def encoded_event(number: int, time: float, kind: str, data: Mapping[str, Any], redactor: Redactor) -> bytes:
    """Return observed traffic as a feed event in JSON."""
    event = feed_event(number, time, kind, data, redactor)
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False, default=str).encode("utf-8", "replace")


def encoded_frame(
    number: int, time: float, kind: str, session: str, socket: int, text: str, redactor: Redactor
) -> bytes:
    """Return a frame of a known session as a feed event in JSON: the same as `encoded_event`, in half the time."""
    if len(text) > _MASKED or kind not in _FRAMES:
        return encoded_event(number, time, kind, {"session": session, "socket": socket, "text": text}, redactor)
    text = redactor.json_text(text)
    summary = _shortened(_of_frame(kind, text), _SUMMARY_LIMIT)
    shortened = ""
    if len(text) > TEXT_LIMIT:
        shortened, text = f',"shortened":{{"text":{len(text)}}}', text[:TEXT_LIMIT]
    line = (
        f'{{"n":{number},"time":{time!r},"kind":"{kind}","session":{_quote(session)},'
        f'"socket":{socket:d},"exchange":null,"summary":{_quote(summary)},"text":{_quote(text)}{shortened}}}'
    )
    return line.encode("utf-8", "replace")


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
    return _of_client(kind, data)


def _of_client(kind: str, data: Mapping[str, Any]) -> str:
    """Return one line about what only a client records, such as a retry, with its members."""
    shown = (
        (name, value) for name, value in data.items() if name not in _IN_ALL and isinstance(value, (str, int, float))
    )
    return f"{kind}: {', '.join(f'{name} {value}' for name, value in shown)}".removesuffix(": ")


def _of_frame(kind: str, text: object) -> str:
    if not isinstance(text, str):
        return "a frame without text"
    try:
        frame = _decode(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(frame, dict):
        return text
    code = frame.get("code")
    if isinstance(code, int) and code >= 400:
        body = frame.get("body")
        return f"{_name(frame)} {code}" + (f": {body}" if isinstance(body, str) else "")
    carriers = [frame]
    for key in _CARRIERS:
        carrier = frame.get(key)
        if isinstance(carrier, dict):
            carriers.append(carrier)
    for carrier in carriers:
        said = carrier.get("text")
        if isinstance(said, str) and said:
            return f"{_speaker(kind, carrier)}: {said}"
    for carrier in carriers:
        kinds = [one.get("contentType") or one.get("eventType") for one in _items(carrier)]
        named = [one for one in kinds if isinstance(one, str)]
        if named:
            return f"{_name(frame)} {', '.join(named)}"
    return _name(frame)


def _name(frame: Mapping[str, Any]) -> str:
    return next((frame[key] for key in _NAMES if isinstance(frame.get(key), str)), "frame")


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
