"""Traces are complete and without secrets, and a replayed trace makes guestctl behave as recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import websocket

from guestctl.core.clock import epoch_of
from guestctl.core.errors import UsageError
from guestctl.dialects import NAMES
from guestctl.dialects.addresses import matching_addresses
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from guestctl.sandbox_tools.replay import (
    GuestAction,
    RecordedTrace,
    ReplayState,
    ServiceFrame,
    apis_of,
    kind_of,
    load,
    pattern_of,
    replay_apis,
)
from tests.cli.conftest import Front
from tests.cli.test_signals import started

API = {"GUESTCTL_API": "web-messaging"}


def recorded(front: Front, *argv: str, **more: str) -> Path:
    path = front.cwd / "exchange.trace"
    told = Front({**front.environ, **more}, front.cwd)(*argv, "--trace", str(path))
    assert told.code == 0, told.err
    return path


@pytest.fixture
def replayed(tmp_path: Path) -> Callable[[Path], Any]:
    """A guest of a replay, without the state of the recorded guest."""

    @contextmanager
    def serve(path: Path, **rules: Any) -> Iterator[Front]:
        with running(SandboxOptions(fast=True), apis=replay_apis(load([path]), **rules)) as sandbox:
            environ = {
                "GUESTCTL_PROFILE": "sandbox",
                "GUESTCTL_SANDBOX_URL": sandbox.url,
                "GUESTCTL_SANDBOX_ADMIN_KEY": sandbox.admin_key,
                "GUESTCTL_STATE": str(tmp_path / "other-state"),
                "XDG_CONFIG_HOME": str(tmp_path / "config"),
            }
            yield Front(environ, tmp_path)

    return serve


def kinds(path: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in path.read_text().splitlines()]


# --- traces ---


@pytest.mark.parametrize("api", NAMES)
def test_every_address_in_a_trace_is_declared_by_its_api(front: Front, api: str) -> None:
    path = recorded(front, "ask", "hello", GUESTCTL_API=api)
    urls = [entry["url"] for entry in map(json.loads, path.read_text().splitlines()) if "url" in entry]
    assert urls
    for url in urls:
        assert api in {place.api for place in matching_addresses(url)}, url


def test_retries_and_lost_answers_are_in_the_trace(front: Front, sandboxed: Callable[[Sandbox], Front]) -> None:
    with running(SandboxOptions(fast=True, faults=("ratelimit:retry_after=0,times=1,on=send",))) as sandbox:
        own = sandboxed(sandbox)
        path = recorded(own, "ask", "hello", GUESTCTL_API="guest-sessions")
    retries = [entry for entry in map(json.loads, path.read_text().splitlines()) if entry["kind"] == "retry"]
    assert [(entry["route"], entry["code"]) for entry in retries] == [("send", "rate.limited")]


def test_a_reconnect_is_in_the_trace(sandboxed: Callable[[Sandbox], Front]) -> None:
    with running(SandboxOptions(fast=True)) as sandbox:
        front = sandboxed(sandbox)
        assert front("session", "create").code == 0
        front("sandbox", "fault", "drop:code=1006,after=2")
        path = front.cwd / "listen.trace"
        front("listen", "--for", "1.5", "--trace", str(path), "-q")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    closes = [entry["code"] for entry in found if entry["kind"] == "close" and entry["direction"] == "in"]
    assert 1006 in closes
    assert "retry" in kinds(path)


def test_a_trace_is_written_even_without_requests(alone: Front) -> None:
    assert alone("explain", "403", "--trace", str(alone.cwd / "none.trace")).code == 0
    assert (alone.cwd / "none.trace").read_text() == ""


def test_admin_requests_are_traced_without_the_key(front: Front) -> None:
    path = recorded(front, "sandbox", "sessions")
    assert kinds(path) == ["request", "response"]
    assert front.environ["GUESTCTL_SANDBOX_ADMIN_KEY"] not in path.read_text()
    with pytest.raises(UsageError, match="no requests or frames"):
        load([path])


# --- replay ---


@pytest.mark.parametrize("api", NAMES)
def test_a_recorded_conversation_is_replayed(front: Front, replayed: Any, api: str) -> None:
    path = recorded(front, "ask", "hello", GUESTCTL_API=api)
    assert api in apis_of(load([path]))
    with replayed(path) as guest:
        for words in ("hello", "other words"):  # and again in the session that is stored by then
            told = guest("ask", words, GUESTCTL_API=api)
            assert (told.code, told.out) == (0, "echo: hello\n"), told.err
        fresh = guest("ask", "-s", "another", "hello", GUESTCTL_API=api)
        assert (fresh.code, fresh.out) == (0, "echo: hello\n"), fresh.err


def test_replayed_ids_are_those_of_the_new_guest(front: Front, replayed: Any) -> None:
    path = recorded(front, "ask", "hello")
    key = "11111111-2222-4333-8444-555555555555"
    with replayed(path) as guest:
        assert guest("session", "create").code == 0
        sent = guest("send", "hello", "--id", key)
        assert sent.code == 0, sent.err
        assert sent.record["key"] == key
        assert sent.record["delivery"] == "accepted"


def test_a_refusal_is_replayed(front: Front, replayed: Any) -> None:
    path = front.cwd / "refused.trace"
    asked = ("session", "create", "--deployment-id", "00000000-0000-4000-8000-000000000000", "--trace", str(path))
    first = front(*asked)
    assert first.code == 5
    with replayed(path) as guest:
        again = guest("session", "create")
        assert again.code == 5
        assert again.error["body"] == first.error["body"]


def test_a_broken_connection_is_replayed(sandboxed: Callable[[Sandbox], Front], replayed: Any) -> None:
    with running(SandboxOptions(fast=True, faults=("drop:code=1006,after=1,on=send",))) as sandbox:
        path = recorded(sandboxed(sandbox), "ask", "hello")
    assert kinds(path).count("connect") == 2
    with replayed(path) as guest:
        again = guest.cwd / "again.trace"
        told = guest("ask", "hello", "--trace", str(again))
        assert (told.code, told.out) == (0, "echo: hello\n"), told.err
        assert kinds(again).count("connect") == 2


def test_the_answer_to_the_guests_close_is_not_sent_unasked(front: Front) -> None:
    """Only a close that the service began is replayed: the answer to the guest's would break its connection."""
    path = recorded(front, "ask", "hello")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["direction"] for entry in found if entry["kind"] == "close"] == ["out", "in"]
    assert [frame for frame in load([path]).events if isinstance(frame, ServiceFrame) and frame.code is not None] == []


def test_a_close_that_the_service_began_is_loaded(sandboxed: Callable[[Sandbox], Front]) -> None:
    with running(SandboxOptions(fast=True, faults=("drop:code=1006,after=1,on=send",))) as sandbox:
        path = recorded(sandboxed(sandbox), "ask", "hello")
    codes = [frame.code for frame in load([path]).events if isinstance(frame, ServiceFrame)]
    assert [code for code in codes if code is not None] == [1006]


def test_a_request_missing_from_the_trace_is_not_found(front: Front, replayed: Any) -> None:
    path = recorded(front, "ask", "hello")
    with replayed(path) as guest:
        url = f"{guest.environ['GUESTCTL_SANDBOX_URL']}/api/v2/guest/webmessaging/sessions"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url)
        assert caught.value.code == 404
        caught.value.close()


def test_pace_preserves_the_pauses(front: Front, replayed: Any) -> None:
    path = recorded(front, "ask", "hello")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    last = max(number for number, line in enumerate(lines) if line["kind"] == "frame_in")
    for line in lines[last:]:
        line["seconds"] += 0.4
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with replayed(path, pace=True) as guest:
        again = guest.cwd / "again.trace"
        assert guest("ask", "hello", "--trace", str(again)).code == 0
    found = [json.loads(line) for line in again.read_text().splitlines()]
    sent = [line["seconds"] for line in found if line["kind"] == "frame_out" and "onMessage" in line["text"]]
    answered = [line["seconds"] for line in found if line["kind"] == "frame_in"]
    assert answered[-1] - sent[0] > 0.3


#: API -> the member that has the text of a message. On some, a frame carries it.
TEXTS = {
    "web-messaging": "frame onMessage/Text: message.text",
    "guest-sessions": "POST /api/v2/guest/webmessaging/sessions/*/messages: text",
    "external-contacts": "POST /api/v2/conversations/messaging/external-contacts/*/messages: text",
    "conversation-guests": "frame SEND_MESSAGE: text",
    "messaging-conversations": "frame send: message.text",
    "guests": "frame message: payload.text",
    "webmessaging-conversations": "POST /api/v2/webmessaging/conversations/*/messages: text",
}


@pytest.mark.parametrize("api", NAMES)
def test_a_strict_replay_refuses_what_was_not_recorded(front: Front, replayed: Any, api: str) -> None:
    """The recorded conversation passes twice, with other ids and tokens. Another text does not."""
    path, reported = recorded(front, "ask", "hello", GUESTCTL_API=api), list[str]()
    with replayed(path, strict=True, refused=reported.append) as guest:
        for name in ("one", "two"):
            told = guest("ask", "-s", name, "hello", GUESTCTL_API=api)
            assert (told.code, told.out, reported) == (0, "echo: hello\n", []), told.err
        refused = guest("ask", "-s", "three", "other words", "--timeout", "1s", GUESTCTL_API=api)
    by_frame = TEXTS[api].startswith("frame ")
    assert (refused.code, refused.out) == (13 if by_frame else 3, "")
    assert reported[0] == f'not in the trace: {TEXTS[api]} is "other words", and "hello" in the trace'
    assert ("(1008: not in the trace)" if by_frame else f"HTTP 400: {reported[0]}") in refused.err


def test_a_strict_replay_reports_every_other_address(front: Front, replayed: Any) -> None:
    path, reported = recorded(front, "ask", "hello"), list[str]()
    with replayed(path, strict=True, refused=reported.append) as guest:
        url = guest.environ["GUESTCTL_SANDBOX_URL"]
        for place in ("/v1?deploymentId=1", "/api/v2/guests/5a4db0c5-0000-4000-8000-677565737463/x"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(urllib.request.Request(url + place, method="PUT"))
            caught.value.close()
        with pytest.raises(websocket.WebSocketBadStatusException, match="400 Bad Request"):
            websocket.create_connection(f"ws{url[4:]}/v1?deploymentId=other", timeout=10)
        with pytest.raises(websocket.WebSocketBadStatusException, match="404 Not Found"):
            websocket.create_connection(f"ws{url[4:]}/ws", timeout=10)
    assert reported == [
        "not in the trace: PUT /v1",
        "not in the trace: PUT /api/v2/guests/*/x",
        "not in the trace: socket /v1: query.application is missing",
        "not in the trace: socket /ws",
    ]


def test_a_health_check_that_was_not_recorded_breaks_no_strict_replay(front: Front, replayed: Any) -> None:
    path, reported = recorded(front, "ask", "hello"), list[str]()
    connect = next(entry for entry in map(json.loads, path.read_text().splitlines()) if entry["kind"] == "connect")
    with replayed(path, strict=True, refused=reported.append) as guest:
        place = urlsplit(connect["url"])
        base = guest.environ["GUESTCTL_SANDBOX_URL"].replace("http", "ws")
        peer: Any = websocket.create_connection(f"{base}{place.path}?{place.query}", timeout=10)
        peer.send(json.dumps({"action": "echo", "token": "t", "message": {"type": "Text", "text": "ping"}}))
        peer.send(json.dumps({"action": "echo", "token": "t", "message": {"type": "Image"}}))
        assert peer.recv_data(control_frame=True)[1][:2] == (1008).to_bytes(2, "big")
        peer.shutdown()
    assert reported == ["not in the trace: frame echo/Image"]


@pytest.mark.parametrize("api", ["web-messaging", "guest-sessions"])
def test_replay_serves_as_a_program(front: Front, tmp_path: Path, api: str) -> None:
    path = recorded(front, "ask", "hello", GUESTCTL_API=api)
    environ = {**os.environ, "GUESTCTL_STATE": str(tmp_path / "served")}
    command = [sys.executable, "-m", "guestctl", "replay", str(path), "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, text=True) as server:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        told = Front(dict(environ), tmp_path)("ask", "hello", "-p", "sandbox")
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
    assert ready["url"].startswith("http://127.0.0.1:")
    assert (told.code, told.out) == (0, "echo: hello\n"), told.err


@pytest.mark.parametrize(
    "content", ["not json\n", "[]\n", '{"kind":"request"}\n', '{"kind":"frame_in","time":"x","seconds":0,"text":""}\n']
)
def test_an_invalid_trace_is_refused_with_its_line(alone: Front, content: str) -> None:
    path = alone.cwd / "bad.trace"
    path.write_text(content)
    told = alone("replay", str(path))
    assert told.code == 2
    assert "bad.trace:1" in told.err


def test_empty_and_missing_traces_are_refused(alone: Front) -> None:
    (alone.cwd / "empty.trace").write_text("")
    assert alone("replay", "empty.trace").code == 2
    assert alone("replay", "absent.trace").code == 2


def test_a_strict_replay_as_a_program_reports_on_stderr(front: Front) -> None:
    """Also with JSON output, where other notices wait for the end."""
    path = recorded(front, "ask", "hello")
    with started(front, "replay", "--strict", str(path), "-o", "json") as server:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{ready['url']}/other")
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=10)
    assert (server.returncode, out, err.decode().splitlines()[0]) == (0, b"", "not in the trace: GET /other")


# --- the rules ---


def script(*events: GuestAction | ServiceFrame) -> ReplayState:
    recording = RecordedTrace(list(events), started_at=1000.0, bases={"https://api.x.example", "wss://ws.x.example"})
    return ReplayState(recording, lambda: 1500.0, lambda: "new-token")


def test_an_action_is_matched_forward_then_from_the_start() -> None:
    one, two = GuestAction("frame", "a", 0.0), GuestAction("frame", "b", 2.0)
    found = script(one, ServiceFrame(1, 1.0, "after a"), two, ServiceFrame(1, 3.0, "after b"))
    assert found.match("frame", "a") == (one, [])
    # b arrives: the frames before it are due
    assert found.match("frame", "b") == (two, [ServiceFrame(1, 1.0, "after a")])
    assert [frame.text for frame in found.next_frames()] == ["after b"]
    assert found.match("frame", "c") is None
    assert found.match("frame", "a") == (one, [])
    assert [frame.text for frame in found.next_frames()] == ["after a"]


def test_values_the_guest_made_are_replaced_by_its_own() -> None:
    made = "3530345c-c5bc-4088-9f16-7862b8daf226"
    found = script()
    found.pair_values(
        {"tracingId": made, "token": "***0123abcd", "text": "hi"}, {"tracingId": "t", "token": "s", "text": "x"}
    )
    said = json.loads(
        found.rewrite(json.dumps({"id": made, "of": ["***0123abcd"], "text": "hi"}), "http://h", "ws://h")
    )
    assert said == {"id": "t", "of": ["s"], "text": "hi"}


def test_addresses_and_expiry_are_moved() -> None:
    body = {"url": "https://api.x.example/a", "socket": "wss://ws.x.example/v1", "exp": 1060, "time": 1060}
    body |= {"expirationDate": 1060000000000, "expiresAt": "1970-01-01T00:17:40.000Z"}
    said = json.loads(script().rewrite(json.dumps(body), "http://here", "ws://here"))
    assert (said["url"], said["socket"]) == ("http://here/a", "ws://here/v1")
    assert (said["exp"], said["time"], said["expirationDate"]) == (1560, 1060, 1060000500000)
    assert epoch_of(said["expiresAt"]) == 1560.0


def test_paths_and_frames_have_patterns() -> None:
    path = "/api/v2/guests/5a4db0c5-0000-4000-8000-677565737463/sessions/9f/messages"
    assert pattern_of(path) == "/api/v2/guests/{p4}/sessions/9f/messages"
    assert kind_of({"action": "configureSession"}) == "configureSession"
    assert kind_of({"action": "onMessage", "message": {"type": "Text", "text": "x"}}) == "onMessage/Text"
    presence = {"eventType": "Presence", "presence": {"type": "Join"}}
    assert kind_of({"action": "onMessage", "message": {"type": "Event", "events": [presence]}}) == (
        "onMessage/Event/Presence/Join"
    )
    assert kind_of({"type": "handshake", "token": "t"}) == "handshake"
    assert kind_of([1]) == "?"


def test_a_strict_comparison_ignores_what_each_guest_makes() -> None:
    recorded = {
        "id": "3530345c-c5bc-4088-9f16-7862b8daf226",
        "token": "***0123abcd",
        "at": "2026-01-01T00:00:00.000Z",
        "link": "https://api.x.example/a",
        "agent": "guestctl/0.1.0",
        "list": [1, {"text": "hi"}],
    }
    own = {"id": "k-1", "token": "s", "at": "2027-01-01T00:00:00Z", "link": "http://here/a", "agent": "guestctl/0.2.0"}
    action, found = GuestAction("frame", "a", 0.0, sent=recorded), script()
    assert found.compared(action, {**own, "list": [1, {"text": "hi"}]}, {}) is None
    for changed, difference in (
        ({"list": [1, {"text": "ho"}]}, 'list[1].text is "ho", and "hi" in the trace'),
        ({"list": [True, {"text": "hi"}]}, "list[0] is true, and 1 in the trace"),
        ({"list": [1]}, 'list is [1], and [1, {"text": "hi"}] in the trace'),
        ({"list": [1, {"text": "hi"}], "more": 1}, "more is not in the trace"),
        ({}, "list is missing"),
    ):
        assert found.compared(action, {**own, **changed}, {}) == difference
    assert found.compared(action, {**own, "list": recorded["list"]}, {"page": "2"}) == "query.page is not in the trace"
    assert found.compared(action, None, {}).startswith("body is null, and {")  # type: ignore[union-attr]
