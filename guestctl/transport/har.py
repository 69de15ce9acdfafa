"""A trace as HAR 1.2, which browsers and many other tools read.

Knows: the HAR format, and `_webSocketMessages` as browsers write it. Must not know: any API, secrets (a trace has
none).
"""

from __future__ import annotations

import http
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from guestctl.core.clock import rfc3339
from guestctl.core.version import __version__
from guestctl.transport.recorded_trace import TraceLine, by_run

Entry: TypeAlias = dict[str, Any]

_TEXT_FRAME = 1


def har_of(lines: Sequence[TraceLine]) -> dict[str, Any]:
    """Return the requests and the connections of a trace as a HAR object, in the order of their start.

    Raises ValueError, LookupError, TypeError or AttributeError for a line without its fields.
    """
    entries = [entry for run in by_run(lines) for entry in _entries(run)]
    entries.sort(key=lambda entry: entry["startedDateTime"])
    return {
        "log": {
            "version": "1.2",
            "creator": {"name": "guestctl", "version": __version__},
            "pages": [],
            "entries": entries,
        }
    }


def _entries(run: Sequence[TraceLine]) -> list[Entry]:
    entries: list[Entry] = []
    begun: dict[int, float] = {}
    waiting: list[tuple[Any, Entry]] = []  # with the number of the exchange, which only a server's trace has
    sockets: dict[Any, Entry] = {}
    for line in run:
        kind, data = line.kind, line.data
        socket = sockets.get(data.get("socket"))
        if kind == "request":
            entry = _entry(line, str(data["method"]), "xhr")
            _add_body(entry["request"], data)
            waiting.append((data.get("exchange"), entry))
        elif kind == "connect":
            entry = sockets[data.get("socket")] = _entry(line, "GET", "websocket")
            entry["_webSocketMessages"] = []
        elif kind in {"response", "lost"}:
            number = data.get("exchange")
            pair = next((one for one in waiting if one[0] == number and (number or _answers(data, one[1]))), None)
            if pair is not None:
                waiting.remove(pair)
                answered = pair[1]
                _end(answered, line.time - begun[id(answered)])
                if kind == "response":
                    answered["response"] = _response(data)
                else:
                    answered["response"]["_error"] = str(data.get("why") or "")
            continue
        elif socket is not None:
            _add_to_socket(socket, line)
            _end(socket, line.time - begun[id(socket)])
            continue
        else:
            continue
        entries.append(entry)
        begun[id(entry)] = line.time
    return entries


def _entry(line: TraceLine, method: str, kind: str) -> Entry:
    url, headers = str(line.data["url"]), line.data.get("headers") or {}
    query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    return {
        "startedDateTime": rfc3339(line.time),
        "time": 0.0,
        "request": {
            "method": method,
            "url": url,
            "httpVersion": "HTTP/1.1",
            "cookies": [],
            "headers": _pairs(headers),
            "queryString": [{"name": name, "value": value} for name, value in query],
            "headersSize": -1,
            "bodySize": 0,
        },
        "response": _response({"status": 0}),
        "cache": {},
        "timings": {"send": 0, "wait": 0.0, "receive": 0},
        "_resourceType": kind,
    }


def _end(entry: Entry, seconds: float) -> None:
    entry["time"] = entry["timings"]["wait"] = round(seconds * 1000, 3)


def _add_body(request: Entry, data: Mapping[str, Any]) -> None:
    body = data.get("body")
    if body is not None:
        kind = next((pair["value"] for pair in request["headers"] if pair["name"].lower() == "content-type"), "")
        request["postData"] = {"mimeType": kind, "text": str(body)}
        request["bodySize"] = len(str(body).encode("utf-8", "surrogatepass"))


def _answers(data: Mapping[str, Any], entry: Entry) -> bool:
    """Return whether an answer belongs to a request: a trace states its address without the query, or not at all."""
    request = entry["request"]
    address = data.get("url")
    return bool(data["method"] == request["method"]) and address in {None, request["url"].partition("?")[0]}


def _response(data: Mapping[str, Any]) -> Entry:
    status, headers, body = int(data["status"]), data.get("headers") or {}, str(data.get("body") or "")
    kind = next((str(value) for name, value in headers.items() if str(name).lower() == "content-type"), "")
    known = {one.value: one.phrase for one in http.HTTPStatus}
    return {
        "status": status,
        "statusText": known.get(status, ""),
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": _pairs(headers),
        "content": {"size": len(body.encode("utf-8", "surrogatepass")), "mimeType": kind, "text": body},
        "redirectURL": "",
        "headersSize": -1,
        "bodySize": -1,
    }


def _add_to_socket(socket: Entry, line: TraceLine) -> None:
    data = line.data
    if line.kind == "upgrade":
        socket["request"]["headers"] = _pairs(data.get("request_headers") or {})
        socket["response"] = _response(data)
    elif line.kind in {"frame_in", "frame_out"}:
        direction = "receive" if line.kind == "frame_in" else "send"
        message = {"type": direction, "time": line.time, "opcode": _TEXT_FRAME, "data": str(data["text"])}
        socket["_webSocketMessages"].append(message)
    elif line.kind == "close" and "_closeCode" not in socket and data.get("code") is not None:
        socket["_closeCode"] = int(data["code"])


def _pairs(headers: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": str(name), "value": str(value)} for name, value in headers.items()]
