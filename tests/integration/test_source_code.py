"""The published code of four sources, run by node against the sandbox (other-apis.md, sources 000 and 001).

Only the addresses are changed. Where the published code has a fault, the test shows what the code does because of it.
`published_code.py` runs the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from guestctl.sandbox import CLIENT_ID, CLIENT_SECRET
from guestctl.sandbox.server import Sandbox
from tests.integration.front import Room
from tests.integration.published_code import Program, Start, addressed, code_of, compiled


@pytest.fixture
def start(sandbox: Sandbox, tmp_path: Path) -> Iterator[Start]:
    """Return a function that runs statements of a source with names that the source leaves open."""
    with ExitStack() as stack:

        def started(number: str, *wanted: str, ready: bool = True, before: str = "", **names: Any) -> Program:
            code = "\n".join(code_of(number, *wanted))
            if number in {"002", "003"}:
                code = compiled(code)
            file = tmp_path / "source.js"
            file.write_text(before + addressed(code, sandbox), encoding="utf-8")
            program = Program(file, names)
            stack.callback(program.stop)
            if ready:
                program.await_line("started")
            return program

        yield started


def session_of(sandbox: Sandbox, path: str, body: Any = None) -> Any:
    """Create a session as any other program would."""
    answer = requests.post(f"{sandbox.url}{path}", json=body or {}, timeout=60)
    assert answer.ok, answer.text
    return answer.json()


# --- source 000 ---


def test_source_000_reads_history_and_has_no_answer_to_a_lock(sandbox: Sandbox, room: Room, start: Start) -> None:
    """The function returns the error of a locked session as if it were history."""
    session = session_of(sandbox, "/api/v2/guest/webmessaging/sessions")
    room.push("while you were away")
    program = start("000", "function resumeSession", token=session["sessionToken"])
    resume = f"resumeSession('{session['webMessagingSessionId']}')"
    assert [message["text"] for message in program(resume)["messages"]] == ["while you were away"]
    room.faults("conflict:for=10m,on=history")
    assert program(resume)["code"] == "session.locked"
    room.clear()
    assert [message["text"] for message in program(resume)["messages"]] == ["while you were away"]


def test_source_000_creates_once_and_returns_with_the_stored_session(room: Room, start: Start) -> None:
    """The second visit of the page connects with the same guest and token, and creates nothing."""
    names = {"userEmail": "ann@shop.example"}
    # The text does not show this function.
    code = "var connectWebSocket = (guestId, sessionToken) => print({ connects: [guestId, sessionToken] });\n"
    page = "storedSession"
    first = start("000", page, before=code, **names)
    (guest, token), stored = first.lines("connects")[0], first("localStorage.getItem('genesysGuestSession')")
    assert room.session["guest"] == guest
    second = start("000", page, before=code, stored={"genesysGuestSession": stored}, **names)
    assert second.lines("connects") == [[guest, token]]
    assert room.requests == {"create": 1}


# --- source 001 ---


def test_source_001_connects_without_a_first_frame_and_waits_without_jitter(
    sandbox: Sandbox, room: Room, start: Start
) -> None:
    """The socket opens, but the code sends no CONNECT, so that it receives nothing and cannot send."""
    conversation = session_of(sandbox, "/api/v2/conversations/webmessaging/guests")["conversationId"]
    program = start("001", ready=False, conversationId=conversation)
    program.await_line("log", "Connected")
    room.push("who hears this?")
    assert room.session["sockets"] == 0
    sandbox.stop()
    waits = []
    for _ in range(5):
        waits.append(program.await_line("timer"))
        program.run_timers()
    program.await_line("log", "Disconnected: 1006")
    assert waits == [1000, 2000, 4000, 8000, 16000]
    assert program("reconnectAttempts") == 5  # it has given up


def test_source_001_counts_from_the_start_after_a_connection(sandbox: Sandbox, room: Room, start: Start) -> None:
    conversation = session_of(sandbox, "/api/v2/conversations/webmessaging/guests")["conversationId"]
    room.faults("refuse:status=503,times=2")
    program = start("001", ready=False, conversationId=conversation)
    assert program.await_line("timer") == 1000
    program.run_timers()
    assert program.await_line("timer") == 2000
    program.run_timers()
    program.await_line("log", "Connected")
    assert program("reconnectAttempts") == 0


# --- source 002 ---


def client_of(start: Start, **config: Any) -> Program:
    program = start("002", config={"environment": "any", "queueId": "queue-1", **config})
    program("void (globalThis.client = new GenesysWebMessagingClient(config))")
    return program


@pytest.fixture
def talking(start: Start) -> Program:
    program = client_of(start)
    program("client.start()")
    assert program.await_line("log", "Successfully registered")
    return program


def test_source_002_talks_and_ends(talking: Program, room: Room) -> None:
    talking("client.sendGuestMessage('Hello')")
    assert talking.await_line("log", "Hello")[1]["message"]["attributes"]["correlationId"]
    assert talking.await_line("log", "echo: Hello")[1]["message"]["from"]["name"] == "Bot"
    room.push("from the agent")
    talking.await_line("log", "from the agent")
    talking("client.stop()")
    assert talking.raised("client.sendGuestMessage('too late')") == "WebSocket is not connected"
    assert room.texts("inbound") == ["Hello"]


def test_source_002_registers_again_after_25_minutes(talking: Program, room: Room) -> None:
    assert talking.lines("timer") == [25 * 60 * 1000]
    talking.run_timers(25 * 60 * 1000)
    assert talking.await_line("log", "Re-registered")
    talking.await_line("log", "Successfully registered")
    room.push("to the new token")
    talking.await_line("log", "to the new token")
    assert (room.session["refreshes"], room.requests["socket"]) == (1, 1)


def test_source_002_fills_the_first_gap_only(talking: Program, room: Room) -> None:
    """The flag of the first synchronization is never reset, and neither is the number of attempts."""
    for attempt, missed in ((1, "one"), (2, "two")):
        room.say(*(f"{missed} {n}" for n in range(60)))
        room.disconnect(1006)
        base = 1000 * 2 ** (attempt - 1)
        assert base <= talking.await_line("timer") <= 2 * base
        talking.run_timers()
        talking.await_line("log", f"Reconnecting (attempt {attempt})")
        if attempt == 1:
            talking.await_line("log", "Fetched page 2 of conversation history (10 messages)")
            talking.await_line("log", "Replaying 60 historical messages")
            talking.run_timers()
            talking.await_line("log", "[History Replay 60/60] Agent: one 59")
        talking.await_total("log", "Successfully registered", attempt + 1)
    assert talking("client.historySynced") is True
    assert room.requests["history"] == 2


def test_source_002_gives_up_after_so_many_losses_in_its_life(start: Start, room: Room) -> None:
    """Two losses use up two attempts, although a connection followed each."""
    program = client_of(start, maxReconnectAttempts=2)
    program("client.start()")
    program.await_line("log", "Successfully registered")
    for _ in range(2):
        room.disconnect(1006)
        program.await_line("timer")
        program.run_timers()
        program.await_line("log", "Successfully registered")
    room.disconnect(1006)
    program.await_line("error", "Max reconnection attempts reached")


@pytest.mark.parametrize("code", [1008, 1009, 4001])
def test_source_002_never_returns_from_a_refused_token(talking: Program, room: Room, code: int) -> None:
    """The code renews the token, but registers it only on an open socket, and opens no other."""
    room.disconnect(code)
    talking.await_line("warn", "Session expired or invalid")
    assert talking.await_line("timer") == 25 * 60 * 1000
    assert talking.raised("client.sendGuestMessage('hi')") == "WebSocket is not connected"
    assert (room.session["refreshes"], room.requests["socket"]) == (1, 1)


def test_source_002_waits_at_most_four_times_for_a_limit(start: Start, room: Room) -> None:
    room.faults("ratelimit:retry_after=7,on=create")
    program = client_of(start)
    program.begin("client.start()")
    for _ in range(4):
        assert program.await_line("timer") == 7000
        program.run_timers()
    assert program.await_line("raised") == "Max retries exceeded for 429 response"
    assert room.requests == {"create": 4}


def test_source_002_shows_the_body_of_a_refusal(start: Start, room: Room) -> None:
    room.faults("http:status=403,on=create")
    assert client_of(start).raised("client.start()").startswith("API Error 403: {")


# --- source 003 ---

CONFIG = {
    "org": "any",
    "clientId": CLIENT_ID,
    "clientSecret": CLIENT_SECRET,
    "routingQueueId": "queue-1",
    "routingSkillId": "skill-1",
    "routingLanguage": "en-US",
}


def manager_of(start: Start, **config: str) -> Program:
    browser = {"language": "de-DE", "userAgent": "Browser/1.0"}
    program = start("003", config={**CONFIG, **config}, navigator=browser)
    program("void (globalThis.manager = new GuestSessionManager(config))")
    return program


def initialized(start: Start, sandbox: Sandbox) -> Program:
    """Return a program with a guest. Its decoder reads one token of three, so it may need several guests."""
    program = manager_of(start)
    for tries in range(1, 40):
        said = program("manager.initialize().then(() => '', (error) => error.name)")
        payload = token_of(sandbox).split(".")[1]
        assert (said == "") is (len(payload) % 4 == 3), (said, len(payload))
        if said == "":
            assert program("localStorage.getItem(STORAGE_KEY) !== null")
            return program
        assert said == "InvalidCharacterError"
        assert len(program.lines("error")) == tries  # "Token validation failed, discarding session:"
    raise AssertionError("no token could be read")


def token_of(sandbox: Sandbox) -> str:
    """Return the newest token of a guest."""
    return [grant.token for grant in sandbox.service.tokens._table.values() if grant.token.count(".") == 2][-1]


def test_source_003_talks_syncs_and_ends(sandbox: Sandbox, room: Room, start: Start) -> None:
    program = initialized(start, sandbox)
    assert program.lines("log") == [["New guest session created and persisted"]]
    received = "new Promise((done) => manager.socket.addEventListener('message', done)).then(() => '')"
    program(f"manager.connectWebSocket(), {received}")
    program("manager.connectWebSocket()")
    assert "already connected" in program.lines("log")[-1][0]
    guest = room.sessions()[-1]
    assert guest["attributes"] == {"source": "custom_widget", "locale": "de-DE", "user_agent": "Browser/1.0"}
    assert guest["sockets"] == 1
    program("manager.syncExternalProfile('shop', 'ann@shop.example')")
    assert room.sessions()[-1]["attributes"]["external_email"] == "ann@shop.example"
    program("manager.terminate()")
    assert program("localStorage.getItem(STORAGE_KEY)") is None
    assert [line[0] for line in program.lines("log") if "terminated" in line[0]] == ["Session terminated. Metrics:"]
    logs = program("manager.getMetrics().logs")
    assert [(entry["event"], entry["details"]) for entry in logs[:3]] == [
        ("session_started", {"duration_ms": 0}),
        ("ws_message_received", {"type": "handshake"}),
        ("profile_synced", {"provider_id": "shop"}),
    ]


def test_source_003_counts_a_resumed_session_from_1970(sandbox: Sandbox, start: Start) -> None:
    """And without the administrator's token, which is not stored, it cannot sync."""
    program = initialized(start, sandbox)
    program("void (globalThis.second = new GuestSessionManager(config))")
    program("second.initialize()")
    assert program.lines("log")[-1] == ["Resumed existing guest session"]
    assert program("second.getMetrics().duration_ms") > 50 * 365 * 86_400_000
    refused = program.raised("second.syncExternalProfile('shop', 'ann@shop.example')")
    assert refused == "Session not initialized or admin token unavailable"


def test_source_003_replaces_the_guest_of_a_token_that_expires_soon(sandbox: Sandbox, room: Room, start: Start) -> None:
    """It announces a refresh, and creates another guest."""
    program = initialized(start, sandbox)
    before = len(room.sessions())
    program("void (Date.now = () => JSON.parse(localStorage.getItem(STORAGE_KEY)).expiresAt - 299_000)")
    program("manager.initialize().catch(() => '').then(() => '')")  # its decoder may refuse the new token
    assert program.lines("warn") == [["Session approaching expiration, refresh required"]]
    assert len(room.sessions()) == before + 1


def test_source_003_tries_a_wrong_secret_three_times(room: Room, start: Start) -> None:
    program = manager_of(start, clientSecret="wrong")
    program.begin("manager.initialize()")
    for wait in (2000, 4000):
        assert program.await_line("timer") == wait
        program.run_timers()
    assert program.await_line("raised").startswith("Token acquisition failed: 401")
    assert room.requests == {"oauth": 3}


def test_source_003_waits_for_a_limit_without_a_bound(room: Room, start: Start) -> None:
    room.faults("ratelimit:retry_after=2,on=create")
    program = manager_of(start)
    program.begin("manager.initialize()")
    for _ in range(12):
        assert program.await_line("timer") == 2000
        program.run_timers()
    assert program.await_line("timer") == 2000
    assert room.requests["create"] == 13


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("''", "Invalid guest token format"),
        ("'a.b'", "Malformed JWT structure"),
        ("`a.${btoa(JSON.stringify({ exp: 1, pad: 'xx' }))}.c`.replace(/=/g, '')", "Guest token has expired"),
        (
            "`a.${btoa(JSON.stringify({ exp: 9e9, pad: 'xx' }))}.c`.replace(/=/g, '')",
            "Guest token missing routing hints",
        ),
    ],
)
def test_source_003_refuses_a_token(start: Start, token: str, message: str) -> None:
    assert manager_of(start).raised(f"validateGuestToken({token})") == message
