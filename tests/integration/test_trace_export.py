"""`trace export`: a recorded trace as HAR. tests/otel has the export as spans."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.front import Guest, Room, check

APIS = ["web-messaging", "guests", "webmessaging-conversations"]


@pytest.fixture
def trace(guest: Guest) -> Path:
    """The trace of a session and a question."""
    path = guest.cwd / "bug.trace"
    guest.ok("session", "create", "--trace-append", str(path))
    guest.ok("ask", "Where is my parcel?", "--trace-append", str(path))
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("api", APIS)
def test_a_trace_becomes_har(guest: Guest, trace: Path) -> None:
    """Every request and every frame is there, in order, as a browser writes them."""
    found = guest.ok("trace", "export", "bug.trace", "--har", "bug.har")
    assert found.out == ""
    path = guest.cwd / "bug.har"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log = json.loads(path.read_text())["log"]
    assert (log["version"], log["creator"]["name"]) == ("1.2", "guestctl")
    lines = lines_of(trace)
    requests = [entry for entry in log["entries"] if entry["_resourceType"] == "xhr"]
    sockets = [entry for entry in log["entries"] if entry["_resourceType"] == "websocket"]
    sent = [(line["method"], line["url"], line["body"]) for line in lines if line["kind"] == "request"]
    assert [
        (one["request"]["method"], one["request"]["url"], one["request"].get("postData", {}).get("text"))
        for one in requests
    ] == sent
    answers = [(line["status"], line["body"]) for line in lines if line["kind"] == "response"]
    assert [(one["response"]["status"], one["response"]["content"]["text"]) for one in requests] == answers
    frames = [(line["kind"], line["text"]) for line in lines if line["kind"].startswith("frame")]
    kinds = {"send": "frame_out", "receive": "frame_in"}
    messages = [message for socket in sockets for message in socket["_webSocketMessages"]]
    assert [(kinds[message["type"]], message["data"]) for message in messages] == frames
    assert [message["time"] for message in messages] == sorted(message["time"] for message in messages)
    assert {message["opcode"] for message in messages} <= {1}
    assert all(socket["response"]["status"] == 101 for socket in sockets)
    for entry in log["entries"]:
        assert entry["time"] >= 0
        assert {"send", "wait", "receive"} == set(entry["timings"])
        assert {"name": "User-Agent", "value": entry["request"]["headers"][0]["value"]} in entry["request"]["headers"]


@pytest.mark.parametrize("api", ["web-messaging"])
def test_har_goes_to_stdout_and_replaces_no_file(guest: Guest, trace: Path) -> None:
    assert json.loads(guest.ok("trace", "export", "bug.trace", "--har", "-").out)["log"]["entries"]
    (guest.cwd / "bug.har").write_text("precious")
    check(guest("trace", "export", "bug.trace", "--har", "bug.har", "-o", "json"), 2, "output.failed", "exists")
    assert (guest.cwd / "bug.har").read_text() == "precious"


@pytest.mark.parametrize("api", ["web-messaging"])
def test_guests_of_a_check_are_distinguished(guest: Guest) -> None:
    """Scenarios that run at the same time share the file; each connection keeps its own frames."""
    script = guest.cwd / "two.yaml"
    script.write_text("scenarios: {one: [say: first, expect: {contains: first}], two: [say: second]}")
    guest.ok("check", str(script), "--parallel", "2", "--trace", str(guest.cwd / "two.trace"))
    har = json.loads(guest.ok("trace", "export", "two.trace", "--har", "-").out)
    sockets = [entry for entry in har["log"]["entries"] if entry["_resourceType"] == "websocket"]
    texts = ["".join(message["data"] for message in socket["_webSocketMessages"]) for socket in sockets]
    assert sorted(("first" in text, "second" in text) for text in texts) == [(False, True), (True, False)]


@pytest.mark.parametrize("api", ["web-messaging"])
@pytest.mark.parametrize(
    ("content", "word"),
    [("", "no requests"), ("{}", ":1: not a line"), ("nonsense", ":1: not a line"), ("[1]", ":1: not a line")],
)
def test_a_file_that_is_no_trace_is_refused(guest: Guest, content: str, word: str) -> None:
    (guest.cwd / "no.trace").write_text(content)
    check(guest("trace", "export", "no.trace", "--har", "-", "-o", "json"), 2, "usage", word)


@pytest.mark.parametrize("api", ["web-messaging"])
def test_wrong_arguments(guest: Guest, trace: Path, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    check(guest("trace", "export", "bug.trace", "-o", "json"), 2, "usage", "--otlp or --har")
    check(guest("trace", "export", "bug.trace", "--otlp", "nowhere", "-o", "json"), 2, "usage", "nowhere")
    check(guest("trace", "export", "missing", "--har", "-", "-o", "json"), 2, "usage", "missing")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    found = guest("trace", "export", "bug.trace", "--otlp", "http://127.0.0.1:1", "-o", "json")
    check(found, 2, "config.key", "guestctl[otel]")
