"""What only `web-messaging` has, through the front door and the library: attributes that wait for the first
message, Join, sign-in, one token for many conversations, and an end that may be none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from guestctl.client import Client
from guestctl.core.clock import Deadline, SystemClock
from guestctl.core.model import Connection, Position
from guestctl.dialects.base import HistoryPage
from guestctl.dialects.web_messaging import dialect
from guestctl.engine.exchange import SessionEngine
from guestctl.storage.state import State
from tests.integration.conftest import Enter, Serve
from tests.integration.front import Guest, InstantClock, Room, check

ID_TOKEN = ("--id-token", "-")


@pytest.fixture
def api() -> str:
    return "web-messaging"


@pytest.fixture
def library() -> Iterator[Callable[[Guest], Client]]:
    """A client of the guest's own state, as a program would hold one."""
    with ExitStack() as stack:

        def client(guest: Guest) -> Client:
            state = stack.enter_context(State.open(Path(guest.environ["GUESTCTL_STATE"]), SystemClock()))
            held = Client("sandbox", state=state, clock=guest.clock, environ=guest.environ, timeout=10.0)
            return stack.enter_context(held)

        yield client


# --- attributes ---


def test_a_message_is_not_sent_twice(guest: Guest, room: Room, library: Callable[[Guest], Client]) -> None:
    """A listener that loaded the session before its first message would bring the attributes back."""
    guest.ok("session", "create", "--attr", "plan=gold")
    events = library(guest).listen()
    states = (event.state for event in events if isinstance(event, Connection))
    assert "live" in states
    guest.ok("send", "hi")
    guest.ok("send", "more", "--attr", "plan=platinum")
    room.disconnect(1006)
    assert "live" in states
    events.close()
    guest.ok("send", "and more")
    assert room.session["attributes"] == {"plan": "platinum"}


# --- what the service tells when a socket is opened ---


@pytest.mark.parametrize("command", [("history",), ("refresh-token",)], ids=" ".join)
def test_the_state_reported_while_attaching_is_kept(talking: Guest, room: Room, command: tuple[str, ...]) -> None:
    talking.ok("send", "hi")
    room.end()
    talking.ok(*command)
    shown = talking.ok("session", "show").record
    assert (shown["state"], shown["read_only"], shown["new_session"]) == ("read_only", True, False)


# --- ends ---


def test_an_earlier_end_of_the_conversation_does_not_end_a_new_question(
    serve: Serve, enter: Enter, api: str, library: Callable[[Guest], Client]
) -> None:
    sandbox = serve(disconnect="Send")
    guest, room = enter(sandbox, api), Room(sandbox)
    client = library(guest)
    client.create()
    assert client.ask("one").text == "echo: one"
    room.end()
    assert client.ask("two").text == "echo: two"


def test_an_expired_session_ends_even_with_a_message_in_the_response(
    talking: Guest, room: Room, library: Callable[[Guest], Client]
) -> None:
    client = library(talking)
    assert client.ask("one").text == "echo: one"
    room.expire()
    assert client.ask("two").text == "echo: two"
    assert [(session.name, session.state) for session in client.sessions()] == [("default", "active")]


def test_a_refused_message_marks_the_conversation_as_read_only(
    talking: Guest, room: Room, library: Callable[[Guest], Client]
) -> None:
    client = library(talking)
    client.send("one")
    room.end()
    with pytest.raises(Exception, match="read-only"):
        client.send("two")
    assert client.session().state == "read_only"


def test_the_report_of_an_ended_session_does_not_grow(talking: Guest, room: Room, time: InstantClock) -> None:
    talking.ok("send", "hi")
    room.expire()
    check(talking("send", "still there?"), 10, "session.expired")
    before = talking.ok("session", "report").record
    time.advance(60.0)
    after = talking.ok("session", "report").record
    assert before["duration_ms"] == after["duration_ms"]
    assert after["activity"][-1]["event"] == "session_terminated"


# --- Join ---


def test_a_session_that_joined_and_expired_is_reported_as_expired(serve: Serve, enter: Enter, api: str) -> None:
    sandbox = serve(auto_start=True)
    guest, room = enter(sandbox, api), Room(sandbox)
    guest.ok("session", "create", "--attr", "plan=gold")
    room.expire()
    check(guest("send", "hi"), 10, "session.expired", "answered with a new one")
    guest.ok("ask", "hi")
    assert [len(session["messages"]) for session in room.sessions()][-1] == 2


def test_a_greeting_is_not_a_reply(serve: Serve, enter: Enter, api: str, tmp_path: Path) -> None:
    script = tmp_path / "bot.yaml"
    script.write_text("greeting: {reply: Welcome!, delay: 50ms}\notherwise: [{text: the answer, delay: 150ms}]\n")
    guest = enter(serve(auto_start=True, script=script, bot_delay=0.03), api)
    for _ in range(3):
        assert guest.ok("ask", "--new", "hi").out == "the answer\n"


# --- signing in ---


def test_a_signed_in_guest_stays_signed_in_in_the_next_session(serve: Serve, enter: Enter, api: str) -> None:
    sandbox = serve(sign_in=True)
    guest, room = enter(sandbox, api), Room(sandbox)
    guest.ok("session", "create", *ID_TOKEN, stdin="ann:1")
    guest.ok("ask", "hi")
    room.expire()
    guest.ok("ask", "who am I?")
    trace = guest.traced("send", "and now?")[1]
    assert any('"authenticated":"true"' in line.get("text", "").replace(" ", "") for line in trace)


@pytest.mark.parametrize("command", [("session", "create", "--new"), ("ask", "--new", "hello")], ids=" ".join)
def test_a_new_session_after_the_sign_in_has_expired(
    serve: Serve, enter: Enter, api: str, time: InstantClock, command: tuple[str, ...]
) -> None:
    guest = enter(serve(sign_in=True, token_life=60), api)
    guest.ok("session", "create", *ID_TOKEN, stdin="ann:1")
    guest.ok("send", "hi")
    time.advance(100)
    check(guest("send", "still me?"), 4, "auth.refused")
    told = guest.ok(*command)
    assert "another guest takes the place" in told.err
    assert [record["name"] for record in guest.ok("session", "list").records] == ["default"]
    guest.ok("send", "hello again")


def test_signing_in_and_out_after_the_sign_in_has_expired(
    serve: Serve, enter: Enter, api: str, time: InstantClock
) -> None:
    guest = enter(serve(sign_in=True, token_life=60), api)
    guest.ok("session", "create", *ID_TOKEN, stdin="ann:1")
    guest.ok("send", "hi")
    time.advance(100)
    guest.ok("session", "sign-in", *ID_TOKEN, stdin="ann:2")
    guest.ok("send", "it is me")
    time.advance(100)
    assert guest.ok("session", "sign-out").record["state"] == "ended"
    check(guest("session", "sign-out"), 2, "usage")


def test_a_sign_in_with_an_expiry_is_renewed_before_it_expires(
    serve: Serve, enter: Enter, api: str, time: InstantClock
) -> None:
    sandbox = serve(sign_in=True, token_life=60)
    guest, room = enter(sandbox, api), Room(sandbox)
    code = ("--auth-code", "ann:1", "--redirect-uri", "https://shop.example/cb")
    guest.ok("session", "create", *code)
    before = room.requests
    guest.ok("refresh-token", "--if-expiring", "10")
    assert room.requests == before
    guest.ok("refresh-token", "--if-expiring", "3600")
    assert room.requests != before


# --- the rate ---


@pytest.mark.parametrize("command", [("typing",), ("session", "end", "--yes")], ids=" ".join)
def test_a_message_sent_too_fast_is_retried_later(
    talking: Guest, room: Room, time: InstantClock, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The machine may be too busy for an error frame within the usual time. The repeat is accepted without an answer.
    usual, sleep = dialect.TYPING_TIMEOUT, time.sleep
    monkeypatch.setattr(dialect, "TYPING_TIMEOUT", 60.0)

    def wait_to_repeat(seconds: float) -> None:
        monkeypatch.setattr(dialect, "TYPING_TIMEOUT", usual)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", wait_to_repeat)
    talking.ok("send", "hi")
    room.faults(f"ratelimit:retry_after=2,times=1,on={'typing' if command[0] == 'typing' else 'send'}")
    time.sleeps.clear()
    talking.ok(*command)
    assert 2.0 in time.sleeps


def test_a_join_sent_too_fast_is_sent_again(serve: Serve, enter: Enter, api: str, tmp_path: Path) -> None:
    script = tmp_path / "bot.yaml"
    script.write_text("greeting: Welcome!\n")
    sandbox = serve(auto_start=True, script=script, faults=("ratelimit:retry_after=1,times=1,on=send",))
    enter(sandbox, api).ok("session", "create")
    assert Room(sandbox).texts() == ["Welcome!"]


# --- nothing half done ---


@pytest.mark.parametrize("command", [("ask", "--new", ""), ("ask", "-s", "fresh", " ")], ids=" ".join)
def test_an_empty_question_opens_no_connection(talking: Guest, room: Room, command: tuple[str, ...]) -> None:
    talking.ok("send", "keep me")
    before = room.sessions()
    check(talking(*command, "-o", "json"), 2, "usage", "empty")
    assert room.sessions() == before
    assert [record["name"] for record in talking.ok("session", "list").records] == ["default"]


def test_one_deadline_for_all_of_a_question(
    guest: Guest, room: Room, library: Callable[[Guest], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = library(guest)
    made: list[Deadline] = []
    deadline = client._deadline

    def counted() -> Deadline:
        made.append(deadline())
        return made[-1]

    monkeypatch.setattr(client, "_deadline", counted)
    client.ask("one")
    room.expire()
    client.ask("two")
    assert len(room.sessions()) == 2
    assert len(made) == 2


def test_an_expectation_may_be_empty(talking: Guest, library: Callable[[Guest], Client]) -> None:
    reply = library(talking).send("hi", expect="").reply
    assert reply is not None
    assert reply.text == "echo: hi"


def test_a_replay_ends_with_the_time_limit_of_listen(
    talking: Guest, library: Callable[[Guest], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, within = SessionEngine.page, []

    def watched(
        exchange: SessionEngine, after: Position | None, cursor: str | None, deadline: Deadline, **more: int
    ) -> HistoryPage:
        within.append(deadline.remaining())
        return page(exchange, after, cursor, deadline, **more)

    monkeypatch.setattr(SessionEngine, "page", watched)
    events = library(talking).listen(replay=2, left=lambda: 7.0)
    next(events)
    events.close()
    assert within
    assert all(seconds is not None and seconds <= 7.0 for seconds in within)
