"""`trace view`: recorded traces as one HTML file, and served to a browser.

Knows: the command line, the data in the file, and the server's HTTP. `tests/browser` looks at the page itself.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

from tests.checks.html_report import data_of, report
from tests.cli.conftest import Front
from tests.cli.test_signals import started

STUCK = 60.0
CANARY = "eyJhbGciOi.canary-canary.sig"


def line(seconds: float, kind: str, **members: Any) -> str:
    return json.dumps({"time": "2026-03-01T10:00:00.000Z", "seconds": seconds, "kind": kind, **members}) + "\n"


CLIENT = (
    line(0.0, "request", method="GET", url="https://api.example/conf?x=1", headers={"Authorization": f"Basic {CANARY}"})
    + line(0.1, "response", method="GET", url="https://api.example/conf", status=200, headers={}, body="{}")
    + line(0.2, "connect", url="wss://socket.example/v1")
    + line(0.3, "upgrade", url="wss://socket.example/v1", status=101, headers={}, request_headers={})
    + line(0.4, "frame_out", text=json.dumps({"action": "onMessage", "token": CANARY, "message": {"text": "hi"}}))
    + line(0.5, "frame_in", text=json.dumps({"class": "StructuredMessage", "body": {"text": "</script><b>"}}))
    + line(0.6, "turn", event="accepted", key="k-1")
    + line(0.7, "close", direction="in", code=1000, reason="")
)
SECOND = line(0.05, "connect", url="wss://socket.example/v1") + line(0.06, "frame_in", text="x" * 20_000)
SANDBOX = (
    line(0.0, "connect", url="wss://socket.example/v1", socket=7)
    + line(0.1, "session", socket=7, session="s-1")
    + line(0.2, "frame_in", text="{}", socket=7, session="s-1")
    + line(0.3, "request", method="POST", url="https://x.example/guests", exchange=1)
    + line(0.4, "response", method="POST", url="https://x.example/guests", status=201, exchange=1, session="s-2")
    + line(0.5, "request", method="GET", url="https://x.example/config", exchange=2)
)


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    (tmp_path / "a.trace").write_text(CLIENT)
    (tmp_path / "b.trace").write_text(SECOND)
    (tmp_path / "sandbox.trace").write_text(SANDBOX)
    return tmp_path


def test_the_file_has_the_events_of_a_trace(alone: Front, traces: Path) -> None:
    written = alone("trace", "view", "a.trace", "--html", "a.html")
    assert (written.code, written.out, written.err) == (0, "", "")
    data = report(traces / "a.html")
    assert data["hello"] == {"title": "a.trace", "source": "trace"}
    events = data["events"]
    assert [event["n"] for event in events] == list(range(1, 9))
    assert [event["kind"] for event in events] == [json.loads(text)["kind"] for text in CLIENT.splitlines()]
    assert {event["session"] for event in events} == {"command 1"}
    assert events[0]["exchange"] == events[1]["exchange"] != events[2]["socket"]
    assert {event["socket"] for event in events[2:6]} == {events[2]["socket"]}
    summaries = [events[n]["summary"] for n in (0, 1, 4, 5, 6)]
    assert summaries[:2] == ["GET /conf?x=1", "GET /conf 200"]
    assert summaries[2:] == ["guest: hi", "service: </script><b>", "turn: event accepted, key k-1"]
    page = (traces / "a.html").read_text(encoding="utf-8")
    assert CANARY not in page
    assert page.count("<script") == 2
    assert stat.S_IMODE((traces / "a.html").stat().st_mode) == 0o600


def test_several_traces_are_in_the_order_of_their_times(alone: Front, traces: Path) -> None:
    assert alone("trace", "view", "a.trace", "b.trace", "a.trace", "--html", "-").code == 0
    data = data_of(alone("trace", "view", "a.trace", "b.trace", "--html", "-").out)
    assert data["hello"]["title"] == "2 traces"
    events = data["events"]
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    assert {event["session"] for event in events} == {"a.trace: command 1", "b.trace: command 1"}
    assert len({event["socket"] for event in events} - {None}) == 2
    (long,) = [event for event in events if event.get("shortened")]
    assert (len(long["text"]), long["shortened"]) == (16_384, {"text": 20_000})


def test_events_of_a_sandbox_belong_to_the_session_of_their_socket_or_exchange(alone: Front, traces: Path) -> None:
    events = data_of(alone("trace", "view", "sandbox.trace", "--html", "-").out)["events"]
    assert [event["session"] for event in events] == ["s-1", "s-1", "s-1", "s-2", "s-2", "requests"]
    assert len({event["socket"] for event in events[:3]}) == 1
    events = data_of(alone("trace", "view", "sandbox.trace", "a.trace", "--html", "-").out)["events"]
    found = {event["session"] for event in events}
    assert found == {"s-1", "s-2", "sandbox.trace: requests", "a.trace: command 1"}


def test_a_file_that_exists_is_not_replaced(alone: Front, traces: Path) -> None:
    (traces / "a.html").write_text("mine")
    refused = alone("trace", "view", "a.trace", "--html", "a.html")
    assert (refused.code, refused.out) == (2, "")
    assert "a.html: the file exists" in refused.err
    assert (traces / "a.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.trace"], "No such file or directory"),
        (["a.trace", "broken.trace"], "broken.trace:1: not a line of a trace"),
        (["infinite.trace"], "infinite.trace:1: not a line of a trace"),
        (["long.trace"], "long.trace:1: not a line of a trace"),
        (["empty.trace"], "contains no requests or frames"),
        (["members.trace"], "members.trace: a line lacks members that guestctl writes"),
        (["a.trace", "--html", "absent/a.html"], "No such file or directory"),
        (["a.trace", "--html", "."], "Is a directory"),
        (["a.trace", "--html", "a.html", "--open"], "--open cannot be combined with --html"),
        (["a.trace", "--trace", "x"], "a server writes no trace"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_shown(alone: Front, traces: Path, words: list[str], message: str) -> None:
    (traces / "broken.trace").write_text("no JSON\n")
    (traces / "infinite.trace").write_text(line(0.0, "connect", url="x", code=float("nan")))
    (traces / "long.trace").write_text(line(10**400, "connect", url="x"))
    (traces / "empty.trace").write_text(line(0.0, "closed"))
    (traces / "members.trace").write_text(line(0.0, "connect", url="x", socket=[]))
    refused = alone("trace", "view", *words, *([] if "--html" in words else ["--html", "-"]))
    assert (refused.code, refused.out) == (2, "")
    assert message.lower() in " ".join(refused.err.lower().split())


@contextmanager
def served(front: Front, *words: str, **more: str) -> Iterator[tuple[Any, str]]:
    """Serve traces. Yield the process and the address of the page."""
    env = {**front.environ, "PYTHONUNBUFFERED": "1", **more}
    with started(Front(env, front.cwd), "trace", "view", *words, "-o", "json") as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["ui_url"]


def test_the_page_is_served_to_who_has_the_token(alone: Front, traces: Path) -> None:
    with served(alone, "a.trace") as (process, url):
        address, _, token = url.partition("#")
        origin = address.removesuffix("/_inspector/")
        assert origin.startswith("http://127.0.0.1:")
        page = requests.get(address, timeout=STUCK)
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert requests.get(address, headers={"Host": "evil.example"}, timeout=STUCK).status_code == 403
        feed = f"ws{address.removeprefix('http')}feed"
        with pytest.raises(websocket.WebSocketBadStatusException):
            websocket.create_connection(feed, origin=origin, timeout=STUCK)
        answer = requests.post(f"{address}login", json={"token": token}, headers={"Origin": origin}, timeout=STUCK)
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
        sent = {"Origin": origin, "Cookie": cookie}
        faults = requests.post(f"{address}api/faults", json={"clear": True}, headers=sent, timeout=STUCK)
        assert faults.status_code == 404
        socket: Any = websocket.create_connection(feed, origin=origin, cookie=cookie, timeout=STUCK)
        found: dict[str, Any] = {}
        while "events" not in found:
            message = json.loads(socket.recv())
            found[message["type"]] = message
        assert (found["hello"]["source"], found["hello"]["can"]) == ("trace", [])
        (session,) = found["sessions"]["sessions"]
        assert (session["id"], session["sent"], session["received"]) == ("command 1", 2, 2)
        events = found["events"]["events"]
        # Epoch seconds of the trace, not of now.
        assert [round(event["time"] - events[0]["time"], 3) for event in events] == [n / 10 for n in range(8)]
        assert CANARY not in json.dumps(found)
        process.send_signal(signal.SIGTERM)
        last = socket.recv()
        while last and json.loads(last)["type"] != "gone":
            last = socket.recv()
        assert process.wait(STUCK) == 0
        socket.shutdown()


def test_ctrl_c_ends_the_server_and_a_port_in_use_is_named(alone: Front, traces: Path) -> None:
    with served(alone, "a.trace", "b.trace") as (process, url):
        port = url.split(":")[2].split("/")[0]
        refused = alone("trace", "view", "a.trace", "--port", port)
        assert refused.code == 2
        assert f"cannot listen on 127.0.0.1:{port}: " in refused.err
        process.send_signal(signal.SIGINT)
        assert process.wait(STUCK) == 130
        assert process.stderr.read() == b""


def test_open_starts_the_browser_with_the_address(alone: Front, traces: Path) -> None:
    script = traces / "browser"
    script.write_text(f'#!/bin/sh\nprintf %s "$1" > {shlex.quote(str(traces / "opened"))}\n')
    script.chmod(0o755)
    with served(alone, "a.trace", "--open", BROWSER=str(script)) as (process, url):
        process.send_signal(signal.SIGTERM)
        assert process.wait(STUCK) == 0
        assert (traces / "opened").read_text() == url


def test_a_conversation_of_ten_turns_is_below_250_kb(front: Front, tmp_path: Path) -> None:
    trace = str(tmp_path / "ten.trace")
    assert front("session", "create", "--trace-append", trace).code == 0
    for number in range(10):
        text = f"Where is my parcel number {number}, please? It should have come on Monday."
        assert front("ask", text, "--trace-append", trace).code == 0
    assert front("trace", "view", "ten.trace", "--html", "ten.html").code == 0
    assert (tmp_path / "ten.html").stat().st_size <= 250_000
    said = [event["summary"] for event in report(tmp_path / "ten.html")["events"] if event["kind"] == "frame_out"]
    assert sum(text.startswith("guest: Where is my parcel") for text in said) == 10


VIEW, EXPORT = ("trace", "view", "--html", "-"), ("trace", "export", "--har", "-")


@pytest.mark.parametrize(
    ("words", "content"),
    [
        *itertools.product(
            [VIEW, EXPORT, ("replay",)],
            [
                "nonsense",
                "[1]",
                "{}",
                line(0.0, "connect", url="x", code=float("nan")),
                line(10**400, "connect", url="x"),
            ],
        ),
        *itertools.product([VIEW, EXPORT], [line(0.0, "connect", url="x", socket=[])]),
    ],
)
def test_every_command_refuses_a_wrong_line_in_plain_words(
    alone: Front, tmp_path: Path, words: tuple[str, ...], content: str
) -> None:
    (tmp_path / "wrong.trace").write_text(content)
    refused = alone(*words[:2], str(tmp_path / "wrong.trace"), *words[2:])
    assert (refused.code, refused.out) == (2, "")
    assert "wrong.trace" in refused.err
    assert "hint:  record the trace again with --trace" in refused.err
    assert not re.search(r"[A-Z]\w*Error|Traceback", refused.err)
