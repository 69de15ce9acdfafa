"""One attached socket: frame requests, the inbox, and when a quiet connection counts as dead."""

from __future__ import annotations

import pytest

from guestctl.core.clock import Deadline
from guestctl.core.errors import NetworkError, SessionOver, TimedOut, Unauthorised, Unreadable
from guestctl.core.model import Message, SessionEvent, Typing, Unknown
from guestctl.core.timings import Timings
from guestctl.dialects.flows import FrameRequest, Incoming
from guestctl.engine.inbox import DROP_FROM_BYTES
from guestctl.engine.session_socket import MAX_UNANSWERED_PINGS, SessionSocket, terminal_failure
from tests.unit.engine_fakes import FakeSocket, World, lost

TIMINGS = Timings()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def line(world: World) -> SessionSocket:
    line = world.exchange.attached(world.deadline())
    line.inbox.clear()
    return line


def socket_of(line: SessionSocket) -> FakeSocket:
    assert isinstance(line.socket, FakeSocket)
    return line.socket


def awaits(text: str, **more: object) -> FrameRequest:
    return FrameRequest(None, lambda h: isinstance(h, Message) and h.text == text, "send", **more)  # type: ignore[arg-type]


def test_everything_received_before_the_answer_is_kept_in_order(world: World, line: SessionSocket) -> None:
    for text in ("one", "two", "three"):
        world.service.push(text)
    answer = line.ask(awaits("two"), world.deadline())
    assert isinstance(answer, Message)
    assert answer.text == "two"
    assert [h.text for h in line.inbox if isinstance(h, Message)] == ["one", "two"]
    assert [h.text for h in line.receive(0.0) if isinstance(h, Message)] == ["one", "two"]
    assert [h.text for h in line.receive(0.0) if isinstance(h, Message)] == ["three"]


def test_frames_that_arrived_together_are_received_together(world: World, line: SessionSocket) -> None:
    for text in ("one", "two"):
        world.service.push(text)
    world.service.tell("not json at all")
    socket_of(line).queue.append(lost())
    received = line.receive(0.0)
    assert [item.text for item in received if isinstance(item, Message)] == ["one", "two"]
    assert isinstance(received[-1], Unknown)
    assert line.unreadable is not None
    with pytest.raises(NetworkError):
        line.receive(0.0)


@pytest.mark.parametrize("char", ["x", "é", "€", "😀"])
def test_the_bound_of_the_inbox_counts_bytes(world: World, line: SessionSocket, char: str) -> None:
    pushed = DROP_FROM_BYTES // (10_000 * len(char.encode())) + 50
    world.service.tell(*[f'{{"kind":"surprise","text":"{char * 10_000}"}}'] * pushed)
    world.service.push("answer")
    assert line.ask(awaits("answer"), world.deadline()) is not None
    held = sum(isinstance(item, Unknown) for item in line.inbox)
    assert pushed - 60 < held <= pushed - 50


def test_an_answer_that_has_arrived_is_returned_even_at_the_deadline(world: World, line: SessionSocket) -> None:
    world.service.push("answer")
    assert line.ask(awaits("answer"), Deadline.after(world.clock, 0.0)) is not None


def test_a_missing_answer_raises_unless_the_step_has_its_own_timeout(world: World, line: SessionSocket) -> None:
    begun = world.clock.monotonic()
    with pytest.raises(TimedOut):
        line.ask(awaits("never"), world.deadline(3.0))
    assert world.clock.monotonic() - begun == pytest.approx(3.0)
    assert line.ask(awaits("never", timeout=0.2), world.deadline(3.0)) is None
    with pytest.raises(TimedOut):
        line.ask(awaits("never", timeout=9.0), world.deadline(3.0))


def test_a_request_without_an_answer_returns_at_once(world: World, line: SessionSocket) -> None:
    begun = world.clock.monotonic()
    assert line.ask(FrameRequest('{"do":"attach"}', None, "typing"), world.deadline()) is None
    assert world.clock.monotonic() == begun


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [
        ("expired", SessionOver, "session.expired"),
        ("cleared", SessionOver, "session.cleared"),
        ("evicted", SessionOver, "session.evicted"),
        ("logged_out", SessionOver, "session.logged_out"),
        ("token_expired", Unauthorised, "auth.no_refresh"),
    ],
)
def test_an_end_of_the_session_ends_the_wait(
    world: World, line: SessionSocket, change: str, kind: type[Exception], code: str
) -> None:
    world.service.tell({"kind": "event", "change": change})
    with pytest.raises(kind) as caught:
        line.ask(awaits("never"), world.deadline())
    assert getattr(caught.value, "code", None) == code


def test_nothing_is_sent_on_an_evicted_connection(world: World, line: SessionSocket) -> None:
    """What it would answer speaks of the socket, not of the question."""
    world.service.tell({"kind": "event", "change": "evicted"})
    with pytest.raises(SessionOver) as caught:
        line.ask(FrameRequest('{"do":"jwt"}', lambda heard: True, "refresh"), world.deadline())
    assert caught.value.code == "session.evicted"
    assert {"do": "jwt"} not in socket_of(line).said


def test_only_an_event_that_ends_the_session_is_a_failure() -> None:
    assert terminal_failure(SessionEvent("read_only"), "toy") is None
    over = terminal_failure(SessionEvent("evicted", "signedIn"), "toy")
    assert over is not None
    assert "signedIn" in over.message


def test_one_bad_frame_does_not_end_the_stream(world: World, line: SessionSocket) -> None:
    world.service.tell("not json at all", {"kind": "typing"})
    heard: list[Incoming] = line.receive(0.0) + line.receive(0.0)
    assert [type(one) for one in heard] == [Unknown, Typing]
    assert line.unreadable is not None


@pytest.mark.parametrize(("route", "message"), [("create", False), ("send", True)])
def test_an_unreadable_frame_instead_of_an_awaited_answer_raises(
    world: World, line: SessionSocket, route: str, message: bool
) -> None:
    world.service.tell("not json at all")
    with pytest.raises(Unreadable):
        line.ask(FrameRequest(None, lambda h: False, route, message=message), world.deadline())  # type: ignore[arg-type]


# --- keeping alive ---


def test_a_quiet_socket_is_pinged(world: World, line: SessionSocket) -> None:
    for _ in range(7):
        line.receive(5.0)
    assert len(socket_of(line).pings) == 3


def test_a_busy_socket_is_not_pinged(world: World, line: SessionSocket) -> None:
    for _ in range(20):
        world.clock.advance(5.0)
        world.service.push("chatter")
        line.receive(0.0)
    assert socket_of(line).pings == []


def test_two_unanswered_pings_end_the_connection(world: World, line: SessionSocket) -> None:
    socket = socket_of(line)
    socket.answers_pings = False
    begun = world.clock.monotonic()
    with pytest.raises(NetworkError) as caught:
        line.ask(awaits("never"), world.deadline(None))
    assert world.clock.monotonic() - begun <= TIMINGS.ping_interval * (MAX_UNANSWERED_PINGS + 1) + 0.5
    assert caught.value.close_code == 1006
    assert socket.gone


def test_frames_without_pongs_keep_the_connection_alive(world: World, line: SessionSocket) -> None:
    """Any frame resets the count (reliability.md §6.3)."""
    socket_of(line).answers_pings = False
    for _ in range(40):
        world.service.push("chatter")
        line.receive(0.0)
        for _ in range(30):
            line.receive(0.5)  # fifteen seconds of silence: one ping
    assert len(socket_of(line).pings) == 40


def test_a_heartbeat_is_sent_at_its_interval(
    world: World, line: SessionSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = FrameRequest('{"do":"attach"}', None, "socket")
    monkeypatch.setattr(world.dialect, "heartbeat", lambda session: beat)
    before = len(socket_of(line).said)
    while world.clock.monotonic() < TIMINGS.heartbeat_interval * 2 + 1:
        line.receive(5.0)
    assert len(socket_of(line).said) - before == 2


@pytest.mark.parametrize("heartbeat", [False, True], ids=["ping", "heartbeat"])
def test_a_failed_ping_keeps_the_message_before_it_in_doubt(
    world: World, line: SessionSocket, monkeypatch: pytest.MonkeyPatch, heartbeat: bool
) -> None:
    """Otherwise a written message would be reported as not sent, or sent again without reading history."""
    socket = socket_of(line)

    def refuse(*_: object, **__: object) -> None:
        raise lost(written=False)

    if heartbeat:
        monkeypatch.setattr(world.dialect, "heartbeat", lambda session: FrameRequest('{"do":"attach"}', None, "socket"))
        line._timings = Timings(heartbeat_interval=1.0)
        send = socket.send
        said: list[str] = []

        def once(text: str, *, deadline: Deadline) -> None:
            said.append(text)
            send(text, deadline=deadline) if len(said) == 1 else refuse()

        monkeypatch.setattr(socket, "send", once)
    else:
        monkeypatch.setattr(socket, "ping", refuse)
    message = FrameRequest('{"do":"attach"}', lambda heard: False, "send", message=True)
    with pytest.raises(NetworkError) as caught:
        line.ask(message, world.deadline())
    assert caught.value.written


# --- ending ---


def test_close_returns_the_inbox_first(world: World, line: SessionSocket) -> None:
    world.service.push("one")
    line.ask(awaits("one"), world.deadline())
    world.service.push("two")
    assert [h.text for h in line.close() if isinstance(h, Message)] == ["one", "two"]
    assert socket_of(line).closed == world.dialect.close_frame


@pytest.mark.parametrize("how", ["close", "abort"])
def test_closing_releases_the_connection_slot(world: World, line: SessionSocket, how: str) -> None:
    given_back = []
    line.resources.callback(lambda: given_back.append(True))
    getattr(line, how)()
    getattr(line, how)()
    assert given_back == [True]
    assert socket_of(line).gone
    assert socket_of(line).closed is not None, "an aborted socket still holds a descriptor until it is closed"


def test_a_break_is_raised_after_the_frames_before_it(world: World, line: SessionSocket) -> None:
    world.service.push("one")
    world.service.break_all(lost(1012))
    assert len(line.receive(0.0)) == 1
    with pytest.raises(NetworkError) as caught:
        line.receive(0.0)
    assert caught.value.close_code == 1012


def test_a_frame_received_before_the_send_is_not_its_answer(world: World, line: SessionSocket) -> None:
    """The second copy of a refusal must not pass for the answer to the next attempt."""
    world.service.push("answer")
    world.service.sends.append("silent")
    again = FrameRequest('{"do": "send", "key": "k", "text": "again"}', awaits("answer").answers, "send")
    with pytest.raises(TimedOut):
        line.ask(again, world.deadline(1.0))
    assert [h.text for h in line.receive(0.0) if isinstance(h, Message)] == ["answer"]


def test_a_socket_broken_before_the_send_has_written_nothing(world: World, line: SessionSocket) -> None:
    world.service.break_all()
    with pytest.raises(NetworkError) as caught:
        line.ask(FrameRequest('{"do": "nothing"}', lambda heard: True, "send", message=True), world.deadline())
    assert not caught.value.written
