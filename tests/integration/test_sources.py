"""What each published source adds, one behaviour at a time through the front door (other-apis.md)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import pytest

from guestctl.client import Client
from guestctl.core.clock import SystemClock, epoch_of
from guestctl.core.model import Connection
from guestctl.core.version import __version__
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.capabilities import Rate
from guestctl.sandbox import CLIENT_SECRET
from guestctl.sandbox.server import Sandbox
from guestctl.storage.state import State
from tests.integration.conftest import Enter, Serve
from tests.integration.front import Guest, InstantClock, Record, Room, check, listen, messages, texts
from tests.integration.published_code import SOURCES
from tests.sandbox.bare import ConversationGuest, Line
from tools.statements import statements

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def of(api: str) -> pytest.MarkDecorator:
    """The one API a test is about."""
    return pytest.mark.parametrize("api", [api], indirect=True)


def stop() -> None:
    raise KeyboardInterrupt


def losing_its_socket(guest: Guest, room: Room) -> None:
    """The guest's only socket breaks, and the guest is gone."""

    def happened() -> None:
        room.disconnect(1006)
        stop()

    assert listen(guest, lives=[happened]).code == 130


def asked(trace: list[Record], route: str) -> list[Record]:
    return [line for line in trace if line["kind"] == "request" and line["route"] == route]


def said(trace: list[Record]) -> list[Record]:
    return [json.loads(line["text"]) for line in trace if line["kind"] == "frame_out"]


def goodbyes(trace: list[Record]) -> list[tuple[int, str]]:
    return [(line["code"], line["reason"]) for line in trace if line["kind"] == "close" and line["direction"] == "out"]


# --- guest-sessions ---


@of("guest-sessions")
@pytest.mark.parametrize("command", ["send hi", "history", "resume"])
def test_locked_after_a_lost_socket(talking: Guest, room: Room, time: InstantClock, command: str) -> None:
    """409 for two seconds: waited for, then it succeeds."""
    losing_its_socket(talking, room)
    time.sleeps.clear()
    _, trace = talking.traced(*command.split())
    statuses = [line["status"] for line in trace if line["kind"] in {"response", "upgrade"}]
    assert statuses.count(409) >= 2
    assert statuses[-1] in {200, 101}
    assert sum(time.sleeps) < 3
    assert not command.startswith("send") or room.texts("inbound") == ["hi"]


@of("guest-sessions")
def test_not_locked_after_a_clean_close(talking: Guest, room: Room, time: InstantClock) -> None:
    talking.ok("resume")
    time.sleeps.clear()
    talking.ok("send", "hi")
    assert time.sleeps == []


@of("guest-sessions")
def test_locked_for_too_long(talking: Guest, room: Room, time: InstantClock) -> None:
    room.faults("conflict:for=10m,on=send")
    time.sleeps.clear()
    result = talking("send", "hi")
    error = check(result, 6, "conflict.locked")
    assert (error["http_status"], error["service_code"]) == (409, "session.locked")
    assert 0 < sum(time.sleeps) < 6
    assert result.record["delivery"] == "rejected"


@of("guest-sessions")
def test_resume_on_conflict(talking: Guest, room: Room, time: InstantClock) -> None:
    losing_its_socket(talking, room)
    time.sleeps.clear()
    check(talking("resume", "--on-conflict", "fail"), 6, "conflict.locked")
    assert time.sleeps == []
    talking.ok("resume", "--on-conflict", "wait")
    room.end()
    error = check(talking("resume", "--on-conflict", "wait"), 6, "conflict.ended")
    assert error["service_code"] == "session.invalid"
    for action in ("wait", "fail"):
        check(talking("resume", "--on-conflict", action), 10, "session.ended")
    assert len(room.sessions()) == 1
    record = talking.ok("resume", "--on-conflict", "new").record
    assert (record["new_session"], record["missed"]) == (True, [])
    assert record["ids"]["session"] == room.sessions()[1]["id"]
    talking.ok("send", "hello again")
    assert [len(session["messages"]) for session in room.sessions()] == [0, 2]


@of("guest-sessions")
def test_a_new_session_shows_its_greeting(serve: Serve, enter: Enter, api: str, tmp_path: Path) -> None:
    script = tmp_path / "bot.yaml"
    script.write_text("greeting: Hello!\n")
    sandbox = serve(script=script)
    guest, room = enter(sandbox, api), Room(sandbox)
    guest.ok("session", "create")
    room.end()
    record = guest.ok("resume", "--on-conflict", "new").record
    assert (record["new_session"], [m["text"] for m in record["missed"]]) == (True, ["Hello!"])


@of("conversation-guests")
def test_no_socket_is_opened_with_a_token_that_another_process_replaced(talking: Guest, room: Room) -> None:
    """The first process reads the new token only when it opens its second socket."""
    frames: list[str] = []

    def watch(kind: str, told: Mapping[str, Any]) -> None:
        if kind == "frame_in":
            frames.append(str(told["text"]))

    with (
        State.open(Path(talking.environ["GUESTCTL_STATE"]), talking.clock) as state,
        Client("sandbox", state=state, clock=talking.clock, environ=talking.environ, observer=watch) as client,
    ):
        events = client.listen()
        states = (event.state for event in events if isinstance(event, Connection))
        assert "live" in states
        talking.ok("send", "one")
        room.disconnect(1006)
        assert "live" in states
        client.send("two")
        events.close()
    assert frames
    assert frames
    assert not any(json.loads(frame).get("status") == 403 for frame in frames)


@of("guests")
def test_a_new_token_that_does_not_help_is_not_replaced_again(talking: Guest, room: Room) -> None:
    room.faults("drop:code=1006,times=50")
    talking("send", "hi", "--timeout", "8")
    assert room.requests.get("refresh", 0) == 1


@of("guests")
def test_another_oauth_client_has_another_grant(talking: Guest, room: Room) -> None:
    check(talking("session", "create", "--as", "two", GUESTCTL_OAUTH_CLIENT_SECRET="another"), 4, "auth.oauth")


@of("guest-sessions")
def test_history_that_lags(talking: Guest, room: Room, time: InstantClock) -> None:
    """What the service has acknowledged is not missing: it is waited for, bounded, and named if it never comes."""
    talking.ok("send", "one")
    room.faults("lag:ms=2000")
    record = talking.ok("resume").record
    assert [m["text"] for m in record["missed"]] == ["echo: one"]
    room.clear()
    room.faults("lag:ms=3600000")
    talking.ok("send", "two")
    result = talking.ok("resume")
    assert result.record["missed"] == []
    assert "1 accepted message(s)" in result.err
    room.clear()
    assert [m["text"] for m in talking.ok("resume").record["missed"]] == ["echo: two"]


@pytest.fixture
def behind(talking: Guest, room: Room, time: InstantClock) -> Room:
    """History shows only what is older than two seconds, and the last thing said is newer."""
    room.say("one", "two")
    time.advance(10)
    room.faults("lag:ms=2000")
    room.say("late")
    time.sleeps.clear()
    return room


@of("guest-sessions")
@pytest.mark.parametrize("command", ["history", "resume", "history --last 1"])
def test_history_is_read_until_it_shows_the_last_number(
    talking: Guest, behind: Room, time: InstantClock, command: str
) -> None:
    """The service announces a third message; the command waits until history shows it."""
    found = talking.ok(*command.split())
    shown = found.record["missed"] if command == "resume" else messages(found)
    assert shown[-1]["text"] == "late"
    assert sum(time.sleeps) < 3
    assert found.err == ""


@of("guest-sessions")
def test_a_reconnect_reads_until_it_has_the_last_number(talking: Guest, room: Room, time: InstantClock) -> None:
    """Said while the socket was away, not shown by history yet, and followed by nothing."""
    room.say("one")
    time.advance(10)

    def lose() -> None:
        room.faults("lag:ms=4000")
        room.disconnect(1001)
        room.say("late")

    assert texts(listen(talking, "--max", "1", "--for", "7s", lives=[lose])) == ["late"]


@of("guest-sessions")
@pytest.mark.parametrize("command", ["history", "resume", "listen --replay 1 --for 8s"])
def test_a_missing_sequence_number_is_awaited_once_and_reported(
    talking: Guest, behind: Room, time: InstantClock, command: str
) -> None:
    behind.clear()
    behind.faults("lag:ms=3600000")
    found = talking.ok(*command.split())
    assert "numbered messages up to 3" in found.err
    assert found.err.count("numbered messages up to 3") == 1
    assert "late" not in found.out
    assert sum(time.sleeps) < 6


@of("guest-sessions")
def test_what_was_read_counts_when_the_time_ends_the_wait_for_a_missing_number(
    talking: Guest, behind: Room, time: InstantClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind.clear()
    behind.faults("lag:ms=3600000")
    monkeypatch.setattr(time, "sleep", lambda seconds: time.advance(60))
    found = talking.ok("history")
    assert found.err.count("numbered messages up to 3") == 1


@of("guest-sessions")
def test_a_history_that_is_not_behind_is_read_once(talking: Guest, room: Room, time: InstantClock) -> None:
    talking.ok("send", "one", "--wait")
    time.sleeps.clear()
    talking.ok("history")
    assert room.requests["history"] == 1
    assert time.sleeps == []


@of("guest-sessions")
def test_the_socket_lives_as_long_as_the_token(serve: Serve, enter: Enter, api: str) -> None:
    guest = enter(serve(token_life=0.6), api)
    guest.ok("session", "create")
    error = check(listen(guest), 4, "auth.no_refresh")
    assert "session create" in error["hint"]
    assert "token expired" in error["message"]


@of("guest-sessions")
def test_catching_up_by_number(talking: Guest, room: Room) -> None:
    talking.ok("send", "one", "--wait")
    room.push("three")
    result, trace = talking.traced("resume")
    assert [m["text"] for m in result.record["missed"]] == ["three"]
    assert "lastSequenceNumber=2" in asked(trace, "history")[0]["url"]


# --- external-contacts ---


@of("external-contacts")
def test_a_guest_is_identified_by_an_address(guest: Guest, sandbox: Sandbox) -> None:
    guest.ok("session", "create", "--email", "ann@shop.example")
    assert [c.notes["address"] for c in sandbox.service.conversations.values()] == ["email:ann@shop.example"]
    check(guest("session", "create", "--email", "nobody"), 3, "service.refused", "e-mail")


@of("external-contacts")
def test_an_address_is_needed(sandbox: Sandbox, guest: Guest, room: Room) -> None:
    file = guest.cwd / "profiles.yaml"
    file.write_text(f"profiles: {{shop: {{api: external-contacts, base_url: '{sandbox.url}'}}}}\n")
    error = check(guest("session", "create", "-p", "shop"), 2, "config.key", "e-mail address")
    assert "--email" in error["hint"]
    assert room.sessions() == []


@of("external-contacts")
def test_a_message_sent_twice_shows_once(talking: Guest, room: Room, tmp_path: Path) -> None:
    """From two machines that know nothing of each other, while a third listens."""
    shutil.copytree(talking.environ["GUESTCTL_STATE"], tmp_path / "other")
    key = str(uuid4())

    def both() -> None:
        first = talking.ok("send", "once", "--id", key).record
        second = talking.ok("send", "once", "--id", key, GUESTCTL_STATE=str(tmp_path / "other")).record
        assert first["id"] == second["id"]
        room.push("end")

    assert texts(listen(talking, "--until", "^end$", lives=[both])) == ["once", "echo: once", "end"]
    assert texts(talking.ok("history")) == ["once", "echo: once", "end"]
    assert room.session["requests"]["send"] == 2


@of("external-contacts")
def test_typing_both_ways(talking: Guest, room: Room, sandbox: Sandbox) -> None:
    talking.ok("typing")
    assert room.session["requests"]["typing"] == 1

    def agent_types() -> None:
        def types() -> None:
            (conversation,) = sandbox.service.conversations.values()
            sandbox.service.apis[conversation.api].typing(conversation, "agent", None, 5000)

        sandbox.call(types)
        room.push("hello")

    def on(record: Record) -> None:
        if record.get("state") == "live":
            agent_types()

    result = talking("listen", "--only", "message,typing,connection", "--max", "1", "-o", "jsonl", on=on)
    assert [record["kind"] for record in result.records if record["kind"] != "connection"] == ["typing", "message"]


# --- conversation-guests ---


@of("conversation-guests")
@pytest.mark.parametrize(
    "path",
    [
        "/api/v2/conversations/webmessaging/websocket",
        "/api/v2/conversations/webmessaging/guests/{guestId}/ws",
        "/api/v2/conversations/webmessaging/guests/{conversationId}/messages",
    ],
)
def test_three_socket_paths(talking: Guest, room: Room, path: str) -> None:
    there = path.replace("{guestId}", room.session["guest"]).replace("{conversationId}", room.session["id"])
    _, trace = talking.traced("send", "hi", "--wait", GUESTCTL_SOCKET_PATH=path)
    assert [line["url"].partition("?")[0] for line in trace if line["kind"] == "upgrade"] == [
        "ws" + talking.environ["GUESTCTL_SANDBOX_URL"][4:] + there
    ]
    assert room.texts() == ["hi", "echo: hi"]


@of("conversation-guests")
def test_an_unreachable_socket_address_does_not_end_the_session(talking: Guest, room: Room) -> None:
    """Its address is every session's: `ask` gave up a live session over it, and met the same again."""
    room.faults("refuse:status=404")
    for words in (("send", "a"), ("ask", "b")):
        check(talking(*words, "-o", "json"), 3, "service.not_found")
    room.clear()
    talking.ok("send", "c")
    assert room.texts("inbound") == ["c"]


@of("conversation-guests")
def test_a_403_in_the_stream(talking: Guest, room: Room, sandbox: Sandbox) -> None:
    """A token replaced by another socket connects but may not send. After attaching again the message is sent once."""
    stranger = ConversationGuest.__new__(ConversationGuest)
    stranger.sandbox, stranger.token = sandbox, talking.token()
    stranger.id, stranger.guest = room.session["id"], room.session["guest"]
    line = stranger.connect()
    line.hear(type="CONVERSATION_UPDATED")
    line.leave()
    line.shut()
    result, trace = talking.traced("send", "after all")
    assert result.record["delivery"] == "accepted"
    sent = [frame for frame in said(trace) if frame["type"] == "SEND_MESSAGE"]
    assert [frame["messageId"] for frame in sent] == [result.record["key"]] * 2
    heard = [json.loads(line["text"]) for line in trace if line["kind"] == "frame_in"]
    assert [frame["status"] for frame in heard if frame["type"] == "ERROR"] == [403]
    assert room.session["refreshes"] == 1
    assert room.texts("inbound") == ["after all"]


@of("conversation-guests")
def test_a_socket_is_attached_again_before_the_token_is_refused(talking: Guest, room: Room) -> None:
    """The client's own sockets replace tokens too, and none of its messages gets a 403."""

    def lose() -> None:
        room.disconnect(1006)
        room.push("b")

    def answer() -> None:
        result, trace = talking.traced("send", "on another socket")
        assert result.code == 0
        assert "ERROR" not in [json.loads(line["text"])["type"] for line in trace if line["kind"] == "frame_in"]

    talking.ok("send", "one")
    listen(talking, "--until", "^echo: on", lives=[lambda: room.push("a")], said={"a": lose, "b": answer})
    assert room.texts("inbound") == ["one", "on another socket"]


@of("conversation-guests")
def test_retries_use_full_jitter_below_the_cap(talking: Guest, room: Room) -> None:
    def dead() -> None:
        room.faults("refuse:status=503")
        room.disconnect(1006)

    result = listen(talking, lives=[dead], GUESTCTL_RETRY_ATTEMPTS="40", GUESTCTL_RETRY_CAP="2s")
    delays = [r["delay"] for r in result.records if r["kind"] == "connection" and r["state"] == "retrying"]
    assert len(delays) == 40
    assert max(delays) <= 2
    assert max(delays) - min(delays[2:]) > 0.5
    check(result, 8, "network.gave_up", "40 reconnects")


@of("conversation-guests")
def test_the_trace_context_is_sent(guest: Guest, room: Room) -> None:
    """On connect, on reconnect and on every REST call; `--traceparent` wins over the environment."""
    guest.ok("session", "create", TRACEPARENT=TRACE)
    later = TRACE[:-5] + "ff-01"

    def lose() -> None:
        room.disconnect(1006)
        room.push("back")

    trace = guest.cwd / "trace"
    argv = ("--max", "1", "--traceparent", later, "--trace", str(trace))
    listen(guest, *argv, lives=[lose], TRACEPARENT=TRACE)
    seen = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [frame["traceparent"] for frame in said(seen) if frame["type"] == "CONNECT"] == [later, later]
    assert {line["headers"]["traceparent"] for line in seen if line["kind"] == "request"} == {later}
    assert room.session["traceparents"] == {"create": TRACE, "refresh": later, "history": later, "socket": later}


# --- messaging-conversations ---


@of("messaging-conversations")
def test_registered_again_on_the_open_socket(talking: Guest, room: Room, time: InstantClock) -> None:
    """The scheduled refresh, 25 minutes on: the same socket, the new token."""

    def later() -> None:
        time.advance(25 * 60 + 1)

    def on(record: Record) -> None:
        if record.get("state") == "live":
            room.push("first")
        elif record.get("text") == "first":
            later()
            room.push("second")
        elif record.get("text") == "second":
            room.push("third")

    result, trace = talking.traced("listen", "--max", "3", "--only", "message,connection", "-o", "jsonl", on=on)
    assert texts(result) == ["first", "second", "third"]
    assert [line["kind"] for line in trace].count("upgrade") == 1
    assert [frame["type"] for frame in said(trace)] == ["register", "register"]
    assert room.session["refreshes"] == 1
    assert {m["source"] for m in messages(result)} == {"live"}


@of("messaging-conversations")
@pytest.mark.parametrize("code", [1008, 1009, 4001])
def test_a_close_that_refuses_the_token(talking: Guest, room: Room, code: int) -> None:
    def refuse() -> None:
        room.disconnect(code)
        room.push("b")

    result = listen(
        talking, "--max", "3", lives=[lambda: room.push("a")], said={"a": refuse, "b": lambda: room.push("c")}
    )
    assert [(m["text"], m["source"]) for m in messages(result)] == [("a", "live"), ("b", "replayed"), ("c", "live")]
    assert (room.session["refreshes"], room.requests["socket"]) == (1, 2)
    assert [r["close_code"] for r in result.records if r.get("state") == "lost"] == [code]


@of("messaging-conversations")
def test_a_forbidden_message_is_rejected_once(talking: Guest, room: Room) -> None:
    """The socket stays: only a token's trouble closes it, and another token would not help."""
    room.faults("http:status=403,on=send")
    result = talking("send", "hi")
    check(result, 5, "forbidden")
    assert result.record["delivery"] == "rejected"
    assert (room.requests["send"], room.requests["socket"]) == (1, 1)


@of("messaging-conversations")
def test_1006_backs_off(talking: Guest, room: Room) -> None:
    def fail() -> None:
        room.faults("refuse:status=503,times=3")
        room.disconnect(1006)
        room.push("b")

    result = listen(talking, "--max", "1", lives=[fail])
    assert texts(result) == ["b"]
    retries = [r for r in result.records if r.get("state") == "retrying"]
    assert [r["attempt"] for r in retries] == [1, 2, 3, 4]
    assert all(r["delay"] <= 2.0 ** (n - 1) for n, r in enumerate(retries, 1))
    assert room.session["refreshes"] == 0


@of("messaging-conversations")
def test_pages_of_fifty(talking: Guest, room: Room) -> None:
    room.say(*[f"number {n}" for n in range(120)])
    result, trace = talking.traced("history")
    assert len(texts(result)) == 120
    pages = [line["url"] for line in asked(trace, "history")]
    assert len(pages) == 3
    assert "limit=50" in pages[0]  # a page token is masked, with the text around it
    assert len(set(pages)) == 3


@of("messaging-conversations")
@pytest.mark.parametrize("route", ["create", "refresh", "history"])
def test_at_most_three_retries(talking: Guest, room: Room, time: InstantClock, route: str) -> None:
    command = {"create": ("session", "create"), "refresh": ("refresh-token",), "history": ("history",)}[route]
    for how in ("2", "date"):
        before = room.requests.get(route, 0)
        room.faults(f"ratelimit:retry_after={how},on={route},times=3")
        time.sleeps.clear()
        talking.ok(*command)
        assert room.requests[route] == before + 4
        assert len([s for s in time.sleeps if 0.5 < s <= 2]) == 3
        room.clear()
    room.faults(f"ratelimit:on={route}")
    before = room.requests[route]
    check(talking(*command), 7, "rate.limited")
    assert room.requests[route] == before + 4


@of("messaging-conversations")
@pytest.mark.parametrize("command", [("send", "hi"), ("listen", "--for", "1s"), ("resume",)])
def test_a_graceful_close(talking: Guest, command: tuple[str, ...]) -> None:
    _, trace = talking.traced(*command)
    assert goodbyes(trace) == [(1000, "Client shutting down")]


# --- guests ---


def in_a_process(guest: Guest, *argv: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "guestctl", *argv],
        env={**os.environ, **guest.environ, **more},
        cwd=guest.cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture
def real(serve: Serve, enter: Enter) -> Callable[[str], tuple[Guest, Room]]:
    """A sandbox on the machine's own clock, for clients in other processes."""

    def made(api: str) -> tuple[Guest, Room]:
        sandbox = serve(clock=SystemClock())
        guest = enter(sandbox, api, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        return guest, Room(sandbox)

    return made


def test_an_access_token_for_all_processes(real: Callable[[str], tuple[Guest, Room]]) -> None:
    guest, room = real("guests")
    for name in ("one", "two"):
        code, _, err = finished(in_a_process(guest, "session", "create", "--as", name))
        assert code == 0, err
    assert (room.requests["create"], room.requests["oauth"]) == (2, 1)


@of("guests")
def test_an_access_token_until_it_expires(guest: Guest, room: Room, time: InstantClock) -> None:
    guest.ok("session", "create", "--as", "one")
    time.advance(3500)
    guest.ok("session", "create", "--as", "two")
    assert room.requests["oauth"] == 1
    time.advance(96)
    guest.ok("session", "create", "--as", "three")
    assert room.requests["oauth"] == 2


@of("guests")
def test_the_client_s_secret_is_never_shown(sandbox: Sandbox, guest: Guest) -> None:
    (guest.cwd / "profiles.yaml").write_text(
        f"profiles:\n  shop:\n    api: guests\n    base_url: {sandbox.url}\n    queue: q\n"
        "    oauth: {client_id: sandbox-client, client_secret: '${SHOP_SECRET}'}\n"
    )
    shop = {"GUESTCTL_PROFILE": "shop", "SHOP_SECRET": CLIENT_SECRET}
    trace = guest.cwd / "trace"
    everything = ""
    for command in (("session", "create", "-vv", "--trace", str(trace)), ("profile", "show"), ("send", "hi", "-vv")):
        result = guest.ok(*command, **shop)
        everything += result.out + result.err
    everything += trace.read_text()
    (oauth,) = [g for g in sandbox.service.tokens._table.values() if g.kind == "oauth"]
    for secret in (CLIENT_SECRET, oauth.token, guest.ok("session", "show", "--show-token", **shop).record["token"]):
        assert secret not in everything
    guest.ok("session", "forget", "default", **shop)
    wrong = guest("session", "create", "-p", "shop", "--no-state", SHOP_SECRET="not-the-secret-at-all")
    error = check(wrong, 4, "auth.oauth", "The client id or secret is wrong")
    assert "not-the-secret-at-all" not in json.dumps(error)
    assert error["service_code"] == "invalid_client"


@of("guests")
@pytest.mark.parametrize("spec", ["http:status=503,times=2", "ratelimit:retry_after=3,times=2"])
def test_oauth_is_retried(guest: Guest, room: Room, spec: str) -> None:
    room.faults(spec)
    guest.ok("session", "create")
    assert room.requests["oauth"] == 3


@of("guests")
def test_oauth_is_not_retried_when_refused(guest: Guest, room: Room) -> None:
    room.faults("unauthorized")
    check(guest("session", "create"), 4, "auth.oauth", "401")
    assert room.requests == {"oauth": 1}


@of("guests")
def test_routing_hints(guest: Guest) -> None:
    guest.ok("session", "create", "--queue", "q-7", "--skill", "s-7", "--language", "de", "--attr", "plan=gold")
    inspected = guest.ok("token", "inspect")
    claims = inspected.record["claims"]
    assert claims["routing_hints"] == {"queue": "q-7", "skill": "s-7", "language": "de"}
    assert claims["attributes"] == {
        "source": "guestctl",
        "locale": "de",
        "user_agent": f"guestctl/{__version__}",
        "plan": "gold",
    }
    assert inspected.record["verified"] is False
    assert 1700 < inspected.record["seconds_left"] <= 1800
    assert guest.token() not in inspected.out + inspected.err


@of("guests")
def test_a_profile_changes_the_default_attributes(guest: Guest, room: Room) -> None:
    """The locale is that of the machine, unless the guest has a language."""
    url = guest.environ["GUESTCTL_SANDBOX_URL"]
    (guest.cwd / "profiles.yaml").write_text(
        f"profiles: {{shop: {{api: guests, base_url: '{url}', queue: q, attributes: {{source: shop, locale: fr}}, "
        "oauth: {client_id: sandbox-client, client_secret: '${S}'}}}\n"
    )
    shop = {"GUESTCTL_PROFILE": "shop", "S": CLIENT_SECRET, "LANG": "it_IT.UTF-8"}
    guest.ok("session", "create", **shop)
    guest.ok("session", "create", "--as", "two", "--attr", "locale=es", "--attr", "source=cli", **shop)
    file = guest.cwd / "profiles.yaml"
    file.write_text(file.read_text().replace("attributes: {source: shop, locale: fr}, ", ""))
    guest.ok("session", "create", "--as", "three", **shop)
    guest.ok("session", "create", "--as", "four", **{**shop, "LANG": "C"})
    found = [(one["attributes"]["source"], one["attributes"]["locale"]) for one in room.sessions()]
    assert found == [("shop", "fr"), ("cli", "es"), ("guestctl", "it-IT"), ("guestctl", "en-US")]


@of("guests")
def test_invalid_tokens_are_refused(talking: Guest, time: InstantClock) -> None:
    def inspect(token: str) -> Any:
        return talking("token", "inspect", "-", stdin=token)

    def made(**claims: Any) -> str:
        return jwt.encode({"exp": time.now() + 600, "routing_hints": {"queue": "q"}, **claims}, "k" * 32)

    assert inspect(made()).code == 0
    head, _, tail = made().split(".")
    found = {
        "not a token": inspect("hello there"),
        "three parts": inspect("eyJhbGciOiJIUzI1NiJ9.eyJ"),
        "base64url": inspect(f"{head}.!!!.{tail}".replace("!", "-")),
        "expired": inspect(made(exp=time.now() - 60)),
        "routing hints missing": inspect(made(routing_hints={})),
    }
    for words, result in found.items():
        error = json.loads(result.err.splitlines()[-1])["error"]
        assert result.code == 4
        assert words in error["message"], (words, error)
    assert len({json.loads(r.err.splitlines()[-1])["error"]["message"] for r in found.values()}) == len(found)
    when = found["expired"].err
    assert time_in(when) < time.now()


def time_in(text: str) -> float:
    return epoch_of(text.partition("expired ")[2][:24])


@of("guests")
def test_tokens_of_every_length_are_read(guest: Guest) -> None:
    """The published decoder pads wrongly and refuses two of three."""
    lengths = set()
    for number in range(12):
        guest.ok("session", "create", "--as", f"s{number}")
        lengths.add(len(guest.token().split(".")[1]) % 4)
        guest.ok("token", "inspect")
    assert len(lengths) > 1


@of("guests")
@pytest.mark.parametrize("ahead", [-86_400, 3600, 86_400])
def test_a_wrong_clock_does_not_shorten_a_token(guest: Guest, room: Room, ahead: int) -> None:
    """reliability.md A16: to a clock that ran ahead, each new token was one that had expired."""

    class Wrong(InstantClock):
        def now(self) -> float:
            return super().now() + ahead

    wrong = replace(guest, clock=Wrong())
    wrong.ok("session", "create")
    wrong.ok("send", "hi")
    assert texts(listen(wrong, "--max", "1", lives=[lambda: room.push("hello")])) == ["hello"]
    assert room.requests["socket"] == 2
    assert "refresh" not in room.requests


def sync(guest: Guest, **attributes: str) -> Any:
    words = [word for key, value in attributes.items() for word in ("--attr", f"{key}={value}")]
    return guest("guest", "sync", "--provider", "shop", "--email", "ann@shop.example", *words)


@of("guests")
def test_guest_sync(talking: Guest, room: Room, time: InstantClock) -> None:
    assert sync(talking, tier="gold").code == 0
    held = room.session["attributes"]
    assert held["external_provider_id"] == "shop"
    assert held["external_email"] == "ann@shop.example"
    assert held["delegation_verified"] == "true"
    assert held["tier"] == "gold"
    assert abs(epoch_of(held["synced_at"]) - time.now()) < 60
    sync(talking, colour="red")
    assert {"tier", "colour"} <= set(room.session["attributes"])

    before = room.requests
    error = check(sync(talking, note="é" * 5200), 3, "service.attributes", "10240")
    assert "nothing was sent" in error["message"]
    assert room.requests == before

    assert sync(talking, first="x" * 6000).code == 0
    error = check(sync(talking, second="y" * 6000), 3, "service.refused", "10240")
    assert error["http_status"] == 400

    room.faults("ratelimit:retry_after=2,times=2")
    time.sleeps.clear()
    assert sync(talking).code == 0
    assert time.sleeps == [2.0, 2.0]
    room.end()
    error = check(sync(talking), 10, "session.gone")
    assert (error["message"], error["http_status"]) == ("Guest not found. Session may have expired.", 404)


@of("guests")
def test_guest_sync_reports_what_it_sent(talking: Guest, room: Room) -> None:
    created = room.session["attributes"]
    told = sync(talking, tier="gold").record["attributes"]
    assert not created.keys() & told.keys()
    assert {**created, **told} == {**room.session["attributes"], "delegation_verified": True}
    before = room.session["attributes"]
    for key in ("external_provider_id", "external_email", "synced_at", "delegation_verified"):
        check(sync(talking, **{key: "no"}), 2, "usage.option", key)
    assert room.session["attributes"] == before
    assert room.requests["sync"] == 1


@of("guests")
def test_the_report_of_a_resumed_session(talking: Guest, room: Room, time: InstantClock) -> None:
    """Duration counts from the first start, whatever was resumed and refreshed since."""
    talking.ok("send", "hi", "--wait")
    time.advance(3600)
    talking.ok("resume")
    listen(talking, "--max", "1", lives=[lambda: room.push("hello")])
    sync(talking)
    time.advance(600)
    report = talking.ok("session", "report").record
    assert 4200_000 <= report["duration_ms"] < 4300_000
    events = [line["event"] for line in report["activity"]]
    assert events[0] == "session_started"
    assert {"ws_connected", "session_resumed", "token_refreshed", "ws_message_received", "profile_synced"} <= set(
        events
    )
    stamps = [epoch_of(line["timestamp"]) for line in report["activity"]]
    assert stamps == sorted(stamps)
    _, trace = talking.traced("session", "end")
    assert goodbyes(trace) == [(1000, "Widget disconnect")]
    ended = talking.ok("session", "report").record
    time.advance(1000)
    assert talking.ok("session", "report").record["duration_ms"] == ended["duration_ms"]
    assert ended["activity"][-1]["event"] == "session_terminated"


@of("guests")
def test_the_bucket_is_shared(
    talking: Guest, sandbox: Sandbox, enter: Enter, room: Room, time: InstantClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With five a minute instead of 200: the sixth waits for a token; without the time to wait it is not sent."""
    time.advance(120)
    monkeypatch.setattr(dialect_class("guests"), "request_rate", Rate(5, 60.0))
    other = enter(sandbox, "guests")
    begun = time.monotonic()
    time.sleeps.clear()
    for one in (talking, other, talking, other, talking):
        one.ok("history")
    assert time.sleeps == []
    before = room.requests["history"]
    check(other("history", "--timeout", "5"), 7, "rate.limited", "5 in 60 s")
    assert room.requests["history"] == before
    shown = other.ok("history", "--timeout", "90", tty=True).err
    assert time.monotonic() - begun >= 12
    counter = [int(seconds) for seconds in re.findall(r"waiting for the rate limit: (\d+) s", shown)]
    assert counter == sorted(counter, reverse=True)
    assert counter[0] > counter[-1]
    assert {name for name in NAMES if dialect_class(name).request_rate is not None} == {"guests"}


def test_two_hundred_messages_per_minute_are_allowed() -> None:
    assert dialect_class("guests").request_rate == Rate(200, 60.0)


# --- webmessaging-conversations ---


@of("webmessaging-conversations")
def test_a_token_is_refreshed_before_a_request(talking: Guest, room: Room, time: InstantClock) -> None:
    """Within 60 seconds of the expiry, before each send; the service refuses nothing."""
    time.advance(900 - 65)
    talking.ok("send", "early enough")
    assert room.session["refreshes"] == 0
    time.advance(10)
    talking.ok("send", "after a refresh")
    assert room.session["refreshes"] == 1
    assert room.requests["send"] == 2


@of("webmessaging-conversations")
@pytest.mark.parametrize(("served", "other"), [("guest-refresh", "guest-token"), ("guest-token", "guest-refresh")])
def test_both_refresh_styles(serve: Serve, enter: Enter, api: str, served: str, other: str) -> None:
    sandbox = serve(refresh_style=served)
    guest, room = enter(sandbox, api), Room(sandbox)
    guest.ok("session", "create")
    guest.ok("refresh-token", GUESTCTL_REFRESH_STYLE=served)
    room.expire(token=True)
    guest.ok("send", "hi", GUESTCTL_REFRESH_STYLE=served)
    assert room.session["refreshes"] == 2
    wrong = guest("refresh-token", GUESTCTL_REFRESH_STYLE=other)
    assert wrong.code == 3
    assert f"refresh_style: {served}" in wrong.error["message"]
    assert wrong.error["http_status"] == 404


@of("webmessaging-conversations")
def test_a_401_is_answered_by_one_refresh_and_a_wait(talking: Guest, room: Room, time: InstantClock) -> None:
    room.faults("unauthorized:on=send,times=1")
    time.sleeps.clear()
    talking.ok("send", "hi")
    assert (room.session["refreshes"], room.requests["send"]) == (1, 2)
    assert len(time.sleeps) == 1
    assert time.sleeps[0] <= 0.1
    room.faults("unauthorized:on=send")
    result = talking("send", "again")
    check(result, 4, "auth.refused", "401")
    assert (room.session["refreshes"], room.requests["send"]) == (2, 4)
    assert result.record["delivery"] == "rejected"


@of("webmessaging-conversations")
def test_a_refresh_that_is_limited(talking: Guest, room: Room) -> None:
    """At most three tries, and only while the refresh itself answers 429 or 5xx."""
    room.expire(token=True)
    room.faults("http:status=503,on=refresh,times=2")
    talking.ok("send", "hi")
    assert room.requests["refresh"] == 3
    room.expire(token=True)
    room.clear()
    room.faults("http:status=503,on=refresh")
    check(talking("send", "again"), 8, "service.down")
    assert room.requests["refresh"] == 6


def test_many_listeners_do_not_reconnect_at_once(real: Callable[[str], tuple[Guest, Room]]) -> None:
    """Ten processes with one expired token: one refresh, ten messages."""
    guest, room = real("webmessaging-conversations")
    code, _, err = finished(in_a_process(guest, "session", "create"))
    assert code == 0, err
    room.expire(token=True)
    herd = [in_a_process(guest, "send", f"number {n}", "--timeout", "60") for n in range(10)]
    results = [finished(process) for process in herd]
    assert [code for code, _, _ in results] == [0] * 10, results
    assert [json.loads(out)["delivery"] for _, out, _ in results] == ["accepted"] * 10
    assert room.session["refreshes"] == 1
    assert sorted(room.texts("inbound")) == [f"number {n}" for n in range(10)]


@of("webmessaging-conversations")
def test_adaptive_polling(talking: Guest, room: Room, time: InstantClock) -> None:
    """Rarely while nothing happens, often once something does, never before a 429 lets it."""
    result = talking("listen", "--for", "100")
    assert result.code == 0
    quiet = room.requests["history"]
    assert 10 <= quiet <= 100 / 5 * 1.25 + 8

    def on(record: Record) -> None:
        if record.get("text", "").isdigit() and int(record["text"]) < 9:
            room.push(str(int(record["text"]) + 1))
        elif record.get("state") == "live":
            room.push("1")

    time.sleeps.clear()
    result = talking("listen", "--until", "^9$", "--only", "message,connection", "-o", "jsonl", on=on)
    assert texts(result) == [str(n) for n in range(1, 10)]
    assert sum(time.sleeps) <= 9 * 0.5 * 1.25

    def limited() -> None:
        room.faults("ratelimit:retry_after=17,on=history,times=1")
        room.push("after the limit")

    time.sleeps.clear()
    assert texts(listen(talking, "--max", "1", lives=[limited])) == ["after the limit"]
    assert 17.0 in time.sleeps


@of("webmessaging-conversations")
def test_tokens_that_are_never_written(guest: Guest, room: Room, sandbox: Sandbox) -> None:
    memory: Mapping[str, str] = {"GUESTCTL_STORE_TOKENS": "memory"}
    guest.ok("session", "create", **memory)
    guest.ok("send", "hi", **memory)
    assert texts(guest.ok("history", **memory)) == ["hi", "echo: hi"]
    assert guest.ok("session", "show", "--show-token", **memory).record["token"] is None
    issued = [grant.token.encode() for grant in sandbox.service.tokens._table.values()]
    assert len(issued) >= 4
    written = b"".join(f.read_bytes() for f in Path(guest.environ["GUESTCTL_STATE"]).rglob("*") if f.is_file())
    assert b"default" in written
    assert not [token for token in issued if token in written]
    (state,) = Path(guest.environ["GUESTCTL_STATE"]).glob("state.db")
    assert state.stat().st_mode & 0o777 == 0o600


@pytest.fixture(autouse=True)
def lines_are_shut() -> Any:
    yield
    while Line.lines:
        Line.lines.pop().shut()


# --- every statement (docs/protocol/sources.md) ---


def test_every_statement_works_or_has_a_reason_to_differ() -> None:
    for each in statements():
        assert re.fullmatch(r"00[0-4]-\d+", each.number)
        assert each.about
        assert each.test or each.differs, each.number


def test_every_test_of_a_statement_exists() -> None:
    root = Path(__file__).parents[1]
    for each in statements():
        if each.test is not None:
            path, _, name = each.test.partition("::")
            assert f"\ndef {name}(" in (root / path).read_text(encoding="utf-8"), each


def test_no_statement_of_the_inventory_is_missing() -> None:
    inventory = SOURCES / "INVENTORY.md"
    if not inventory.is_file():
        pytest.skip("the inventory of the published sources is not on this machine")
    stated = re.findall(r"^\| (00\d-\d+) \|", inventory.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(stated) > 130
    assert [each.number for each in statements()] == stated
