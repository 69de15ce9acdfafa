"""Listening through breaks: the shown messages are compared with the stored ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from guestctl.core.clock import Deadline
from guestctl.core.errors import Conflict, Failure, Forbidden, NetworkError, SessionOver, Unauthorised, Unreadable
from guestctl.core.model import (
    Connection,
    Event,
    Gap,
    Message,
    Outgoing,
    Position,
    Secret,
    Session,
    SessionEvent,
    Typing,
    Unknown,
)
from guestctl.core.timings import Timings
from guestctl.core.wire import HttpResponse
from guestctl.dialects.capabilities import Paging
from guestctl.dialects.flows import Flow
from guestctl.engine.delivery import deliver
from guestctl.engine.listener import Listener
from guestctl.engine.shown_events import BATCH
from tests.properties import examples
from tests.unit.engine_fakes import SCOPE, World, lost

TIMINGS = Timings()


@pytest.fixture(params=["forward", "numbered pages", "sequence numbers"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(monkeypatch, paging=Paging.BY_PAGE_NUMBER if request.param == "numbered pages" else Paging.FORWARD)
    world.service.numbered = request.param == "sequence numbers"
    return world


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


class Listening:
    """Runs a listener for a time, and keeps what it yields."""

    def __init__(self, world: World, **options: object) -> None:
        self.world = world
        self.listener = Listener(world.exchange, **options)  # type: ignore[arg-type]
        self.stream = self.listener.events()
        self.events: list[Event] = []
        self.failure: Failure | None = None

    def run(self, seconds: float) -> Listening:
        """Listen for some seconds."""
        until = self.world.clock.monotonic() + seconds
        while self.failure is None and self.world.clock.monotonic() < until:
            self.step()
        return self

    def step(self) -> None:
        try:
            event = next(self.stream)
        except Failure as failure:
            self.failure = failure
        else:
            if event is not None:
                self.events.append(event)

    def until(self, awaited: Callable[[Event], bool]) -> Listening:
        while self.failure is None and not any(awaited(event) for event in self.events):
            self.step()
        return self

    def live(self) -> Listening:
        return self.until(lambda event: isinstance(event, Connection) and event.state == "live")

    @property
    def texts(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Message)]

    @property
    def sources(self) -> list[str]:
        return [event.source for event in self.events if isinstance(event, Message)]

    @property
    def gaps(self) -> list[Gap]:
        return [event for event in self.events if isinstance(event, Gap)]

    def states(self) -> list[str]:
        return [event.state for event in self.events if isinstance(event, Connection)]


def texts(world: World) -> list[str]:
    return [str(entry["text"]) for entry in world.service.stored]


# --- starting points ---


def test_a_listener_without_a_position_shows_only_new_messages(world: World) -> None:
    for n in range(7):
        world.service.store(f"old {n}")
    listening = Listening(world).live()
    world.service.push("new")
    assert listening.run(2.0).texts == ["new"]
    assert listening.sources == ["live"]


def test_messages_between_connecting_and_reading_history_are_shown(world: World) -> None:
    """History already has the message when it is read first, and its frame is still on the way."""
    world.service.store("old")
    real = world.service.connect

    def connect(url: str, **options: object) -> object:
        socket = real(url, **options)
        world.service.push("one")
        world.service.push("two")
        return socket

    world.service.connect = connect  # type: ignore[method-assign, assignment]
    import guestctl.transport.socket as transport

    transport.Socket.connect = connect  # type: ignore[method-assign, assignment]
    assert Listening(world).run(2.0).texts == ["one", "two"]


def test_listening_from_a_position_shows_what_follows(world: World) -> None:
    first, *_ = [world.service.store(f"text {n}") for n in range(8)]
    listening = Listening(world, position=Position(first["id"], first["sequence"], first["time"])).run(1.0)
    assert listening.texts == [f"text {n}" for n in range(1, 8)]
    assert set(listening.sources) == {"replayed"}


@pytest.mark.parametrize("told", ["all", "time", "id"])
@pytest.mark.parametrize("socketed", [True, False])
def test_a_history_older_than_the_position_repeats_nothing(world: World, told: str, socketed: bool) -> None:
    """History does not have the position's own message yet. All its entries are older, and were shown."""
    world.dialect.socketed = socketed
    entries = [world.service.store(f"text {n}") for n in range(6)]
    last = entries[4]
    places = {
        "all": Position(last["id"], last["sequence"], last["time"]),
        "time": Position(last["id"], None, last["time"]),
        "id": Position(last["id"]),
    }
    world.service.hidden = 3
    listening = Listening(world, position=places[told]).live()
    world.service.hidden = 2
    listening.run(0.5)
    assert listening.texts == []
    world.service.hidden = 0
    assert listening.run(TIMINGS.second_look + 2.0).texts == ["text 5"]
    assert listening.gaps == []


@pytest.mark.parametrize("socketed", [True, False])
def test_a_position_missing_from_history_is_a_gap_and_listening_continues(world: World, socketed: bool) -> None:
    world.dialect.socketed = socketed
    for n in range(6):
        world.service.store(f"text {n}")
    listening = Listening(world, position=Position("gone")).run(TIMINGS.fill_deadline + 5.0)
    assert listening.texts == []
    world.service.push("new")
    assert listening.run(TIMINGS.fill_deadline + 1.0).texts == ["new"]
    assert [gap.after for gap in listening.gaps] == ["gone"]


def test_listening_from_the_start_shows_every_message(world: World) -> None:
    for n in range(8):
        world.service.store(f"text {n}")
    assert Listening(world, from_start=True).run(1.0).texts == texts(world)


def test_reading_history_first_is_retried_after_a_failure(plain: World) -> None:
    plain.service.store("old")
    plain.service.reads.extend([NetworkError("down", transient=True)] * 5)
    listening = Listening(plain).run(60.0)
    plain.service.push("new")
    plain.service.break_all()
    assert listening.run(5.0).texts == ["new"], "the whole conversation was replayed"


# --- breaks ---


def test_the_first_reconnect_loses_no_message(world: World) -> None:
    listening = Listening(world).live()
    world.service.push("before")
    listening.run(1.0)
    world.service.break_all()
    world.service.after(0.0, lambda: None)
    listening.until(lambda event: isinstance(event, Connection) and event.state == "retrying")
    world.service.store("meanwhile")
    listening.run(2.0)
    world.service.push("after")
    listening.run(2.0)
    assert listening.texts == ["before", "meanwhile", "after"]
    assert listening.sources == ["live", "replayed", "live"]
    assert listening.gaps == []


def test_a_reconnect_before_the_first_message(world: World) -> None:
    listening = Listening(world).live()
    world.service.break_all()
    listening.until(lambda event: isinstance(event, Connection) and event.state == "retrying")
    world.service.store("meanwhile")
    assert listening.run(2.0).texts == ["meanwhile"]


def test_a_message_overtaken_before_a_break_is_shown(world: World) -> None:
    """The second of two frames in reverse order never arrives. History has its message."""
    world.service.store("old")
    listening = Listening(world).live()
    world.service.store("first")
    second = world.service.store("second")
    world.service.tell(second)
    listening.run(0.3)
    world.service.break_all()
    listening.run(5.0)
    assert sorted(listening.texts) == ["first", "second"]
    if world.service.numbered:
        assert listening.texts == ["first", "second"]


def test_a_history_that_lags_after_a_reconnect_is_read_again(world: World) -> None:
    world.service.store("old")
    listening = Listening(world).live()
    world.service.break_all()
    listening.until(lambda event: isinstance(event, Connection) and event.state == "retrying")
    world.service.store("meanwhile")
    world.service.hidden = 1
    listening.until(lambda event: isinstance(event, Connection) and event.state == "live" and event.recovered == 0)
    world.service.after(0.5, lambda: setattr(world.service, "hidden", 0))
    assert listening.run(TIMINGS.second_look + 2.0).texts == ["meanwhile"]


def test_a_message_that_history_shows_does_not_wait_for_the_second_look(plain: World) -> None:
    plain.service.store("old")
    listening = Listening(plain).live()
    listening.events.clear()
    plain.service.break_all()
    listening.live()
    plain.service.push("at once")
    assert listening.run(TIMINGS.second_look / 4).texts == ["at once"]


def test_a_history_that_shows_some_missing_messages_may_still_lag(plain: World) -> None:
    """History catches up while live messages wait. Messages later than its last entry go on waiting."""
    plain.service.store("old")
    listening = Listening(plain).live()
    plain.service.break_all()
    listening.until(lambda event: isinstance(event, Connection) and event.state == "retrying")
    for n in range(3):
        plain.service.store(f"missed {n}")
    plain.service.hidden = 3
    listening.events.clear()
    listening.live()
    plain.service.push("live")
    plain.service.hidden = 3
    listening.run(0.5)
    assert listening.texts == ["missed 0"]
    plain.service.hidden = 0
    assert listening.run(TIMINGS.second_look + 1.0).texts == ["missed 0", "missed 1", "missed 2", "live"]
    assert listening.gaps == []


def test_a_history_that_shows_no_sign_of_lagging_is_read_rarely(world: World) -> None:
    """Source 002: history is not polled after a reconnect. A live message is proved by one read at once."""
    world.dialect.page_size = 10  # type: ignore[misc]
    world.service.store("old")
    listening = Listening(world).live()
    world.service.push("before")
    listening.run(1.0)
    listening.events.clear()
    world.service.break_all()
    world.service.store("missed")
    before = len(world.service.requests)
    listening.live().run(TIMINGS.quiet_look / 2)
    assert (listening.texts, len(world.service.requests)) == (["missed"], before + 1)
    listening.run(600.0)
    looks = len(world.service.requests) - before
    assert looks <= 10
    world.service.push("live")
    assert listening.run(0.2).texts == ["missed", "live"]
    assert len(world.service.requests) - before - looks <= (0 if world.service.numbered else 1)


def test_the_pages_of_a_long_outage_are_spaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.service.store("old")
    listening = Listening(world).live()
    asked: list[float] = []
    perform = world.service.perform

    def noting(*args: Any, **more: Any) -> Any:
        asked.append(world.clock.monotonic())
        return perform(*args, **more)

    monkeypatch.setattr(world.service, "perform", noting)
    world.service.break_all()
    missed = [str(world.service.store(f"missed {n}")["text"]) for n in range(10)]
    assert listening.run(1.0).texts == missed
    assert len(asked) >= 4
    assert min(b - a for a, b in pairwise(asked)) >= TIMINGS.page_pause * 0.99


def test_a_message_of_the_previous_socket_does_not_prove_completeness(plain: World) -> None:
    listening = Listening(plain, from_start=True).live()
    plain.service.push("kept")
    plain.service.hidden = 1
    plain.service.break_all()
    listening.until(lambda event: isinstance(event, Connection) and event.state == "retrying")
    plain.service.store("missed")
    plain.service.hidden = 2
    plain.service.after(0.5, lambda: setattr(plain.service, "hidden", 1))
    plain.service.after(0.6, lambda: plain.service.push("live"))
    plain.service.after(0.6, lambda: setattr(plain.service, "hidden", 2))
    listening.run(1.0)
    plain.service.hidden = 0
    assert listening.run(TIMINGS.second_look + 2.0).texts == ["kept", "missed", "live"]


@pytest.mark.parametrize("left", [None, 4.0])
def test_only_the_end_limits_a_connection_attempt_and_a_tick_does_not(plain: World, left: float | None) -> None:
    real, given = plain.service.connect, []

    def connect(url: str, *, deadline: Deadline, **options: object) -> object:
        given.append(deadline.remaining())
        return real(url, **options)

    import guestctl.transport.socket as transport

    transport.Socket.connect = connect  # type: ignore[method-assign, assignment]
    Listening(plain, wake=lambda: 0.1, left=lambda: left).live()
    assert given == [left or 30.0]


def test_an_unreadable_history_is_reported_as_a_gap(plain: World) -> None:
    listening = Listening(plain).live()
    plain.service.push("before")
    listening.run(1.0)
    plain.service.break_all()
    plain.service.reads.extend([NetworkError("down", transient=True)] * 16)
    listening.run(60.0)
    [gap] = listening.gaps
    assert gap.after == "m1"


def test_live_messages_are_shown_after_a_gap_that_could_not_be_filled(plain: World) -> None:
    listening = Listening(plain).live()
    plain.service.push("before")
    listening.run(1.0)
    plain.service.break_all()
    plain.service.reads.extend([NetworkError("down", transient=True)] * 16)
    listening.run(60.0)
    plain.service.push("after")
    assert listening.run(1.0).texts == ["before", "after"]
    assert len(listening.gaps) == 1


def test_a_last_message_missing_from_history_is_reported_as_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, paging=Paging.BY_PAGE_NUMBER)
    entry = world.service.store("old")
    listening = Listening(world, position=Position("gone", None, entry["time"])).live()
    world.service.push("new")
    assert listening.run(1.0).texts == ["new"]
    assert [gap.after for gap in listening.gaps] == ["gone"]


def test_a_socket_that_breaks_while_history_is_read_causes_no_gap(plain: World) -> None:
    listening = Listening(plain).live()
    plain.service.push("before")
    listening.run(1.0)
    plain.service.break_all()
    plain.service.reads.append(lost(1006))
    plain.service.store("meanwhile")
    listening.run(5.0)
    assert listening.texts == ["before", "meanwhile"]
    assert listening.gaps == []


def test_a_listener_that_never_connected_declares_no_gap(plain: World) -> None:
    plain.service.doors.extend([NetworkError("refused", code="network.connect")] * 50)
    listening = Listening(plain).run(1.0)
    assert "lost" in listening.states()
    assert list(listening.listener.rest()) == []


def test_listening_gives_up_after_the_attempts_of_the_api(plain: World) -> None:
    listening = Listening(plain).live()
    plain.service.break_all()
    plain.service.doors.extend([NetworkError("refused", code="network.connect")] * 50)
    listening.run(3600.0)
    assert listening.failure is not None
    assert listening.failure.code == "network.gave_up"
    assert listening.states().count("retrying") == plain.dialect.reconnect_attempts
    assert listening.states()[-1] == "gave_up"
    assert len(plain.service.doors) == 50 - plain.dialect.reconnect_attempts


def test_an_attempt_that_the_end_of_the_wait_cuts_off_reports_no_other_failure(plain: World) -> None:
    end = plain.clock.monotonic() + 10.0
    listening = Listening(plain, left=lambda: max(0.0, end - plain.clock.monotonic())).live()
    plain.service.break_all()
    plain.service.doors.append(NetworkError("HTTP 503", code="service.down"))
    real = plain.service.connect

    def connect(url: str, **options: Any) -> object:
        if plain.service.doors:
            return real(url, **options)
        plain.clock.advance(10.0)
        raise NetworkError("timed out", code="network.connect")

    import guestctl.transport.socket as transport

    transport.Socket.connect = connect  # type: ignore[method-assign, assignment]
    listening.run(5.0)
    losses = [event.failure for event in listening.events if isinstance(event, Connection) and event.failure]
    assert [failure.code for failure in losses if isinstance(failure, Failure)][-1] == "service.down"


def test_a_listener_with_forever_never_gives_up(plain: World) -> None:
    listening = Listening(plain, forever=True).live()
    plain.service.break_all()
    plain.service.doors.extend([NetworkError("refused", code="network.connect")] * 50)
    listening.run(3600.0)
    assert listening.failure is None
    assert listening.states()[-1] == "live"


def test_short_connections_do_not_reset_the_count_of_attempts(plain: World) -> None:
    """Each connection breaks before it counts as stable."""
    listening = Listening(plain).live()
    for _ in range(60):
        plain.service.break_all()
        listening.run(TIMINGS.stable_connection / 4)
        if listening.failure is not None:
            break
    assert listening.failure is not None
    assert listening.states().count("live") <= plain.dialect.reconnect_attempts + 1


def test_stable_connections_reset_the_count_of_attempts(plain: World) -> None:
    listening = Listening(plain).live()
    for _ in range(plain.dialect.reconnect_attempts * 2):
        listening.run(TIMINGS.stable_connection + 5.0)
        plain.service.break_all()
    listening.run(TIMINGS.stable_connection)
    assert listening.failure is None


def test_reconnect_waits_stay_within_the_limits_of_jitter(plain: World) -> None:
    listening = Listening(plain, forever=True).live()
    plain.service.break_all()
    plain.service.doors.extend([NetworkError("refused")] * 12)
    listening.run(600.0)
    delays = [event.delay for event in listening.events if isinstance(event, Connection) and event.state == "retrying"]
    for attempt, delay in enumerate(delays):
        assert delay is not None
        assert 0 <= delay <= min(30.0, 2.0**attempt)
    assert len(set(delays)) == len(delays)


@pytest.mark.parametrize(
    "failure",
    [
        Forbidden("no"),
        Unauthorised("no"),
        SessionOver("gone"),
        Conflict("ended", code="conflict.ended"),
        NetworkError("bad certificate", code="network.tls", transient=False),
    ],
)
def test_failures_that_no_reconnect_can_fix_end_the_stream(plain: World, failure: Failure) -> None:
    plain.dialect.refreshes = None
    listening = Listening(plain).live()
    plain.service.break_all()
    plain.service.doors.append(failure)
    listening.run(60.0)
    assert listening.failure is failure


def test_a_socket_opened_by_a_send_is_used_after_a_break(plain: World) -> None:
    listening = Listening(plain).live()
    old = plain.exchange.socket
    assert old is not None
    plain.exchange.socket = None
    old.abort()
    plain.exchange.attached(plain.deadline())
    plain.service.push("hello")
    listening.run(5.0)
    assert listening.texts == ["hello"]
    assert len(plain.service.sockets) == 2
    assert not plain.service.sockets[1].gone


# --- sequence numbers ---


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(monkeypatch)
    world.service.numbered = True
    return world


def one_left_out(numbered: World) -> Listening:
    """Return a listener whose stream brought a message, but not the one before it."""
    numbered.service.store("old")
    listening = Listening(numbered).live()
    numbered.service.store("left out")
    numbered.service.push("shown")
    return listening


def test_a_missing_number_is_read_from_history_and_shown_in_order(numbered: World) -> None:
    numbered.service.store("old")
    listening = Listening(numbered).live()
    entries = [numbered.service.store(f"text {n}") for n in range(5)]
    numbered.service.tell(*(entries[n] for n in (0, 2, 4)))
    listening.run(5.0)
    assert listening.texts == [f"text {n}" for n in range(5)]
    assert listening.gaps == []


def test_a_break_while_a_number_is_missing_loses_nothing(numbered: World) -> None:
    numbered.service.store("old")
    listening = Listening(numbered).live()
    entries = [numbered.service.store(f"text {n}") for n in range(3)]
    numbered.service.tell(entries[0], entries[2])
    listening.run(0.1)
    numbered.service.break_all()
    listening.run(5.0)
    assert listening.texts == ["text 0", "text 1", "text 2"]


def test_a_missing_number_is_read_from_history_on_a_busy_stream(numbered: World) -> None:
    numbered.service.store("old")
    listening = Listening(numbered).live()
    numbered.service.store("left out")
    for n in range(40):
        numbered.service.after(n * 0.1, lambda n=n: numbered.service.push(f"text {n}"))  # type: ignore[misc]
    listening.run(8.0)
    assert listening.texts == ["left out", *(f"text {n}" for n in range(40))]
    assert listening.gaps == []


def test_a_failing_history_does_not_close_a_good_socket(numbered: World) -> None:
    listening = one_left_out(numbered)
    numbered.service.reads.extend([NetworkError("down", transient=False)] * 4)
    listening.run(TIMINGS.fill_deadline + 8 * TIMINGS.second_look)
    assert listening.texts == ["shown", "left out"]
    assert listening.sources == ["live", "replayed"]
    assert [(gap.after, gap.before) for gap in listening.gaps] == [("m1", "m3")]
    assert len(numbered.service.sockets) == 1


def test_each_missing_number_gets_the_same_number_of_attempts(numbered: World) -> None:
    numbered.service.store("old")
    listening = Listening(numbered).live()
    for n in range(2):
        numbered.service.store(f"left out {n}")
        numbered.service.push(f"shown {n}")
        numbered.service.reads.extend([Unreadable("nonsense")] * (4, 3)[n])
        listening.run(TIMINGS.fill_deadline + 8 * TIMINGS.second_look)
    assert listening.texts == ["shown 0", "left out 0", "left out 1", "shown 1"]
    assert len(listening.gaps) == 1


def test_a_history_that_fails_once_does_not_change_the_order(numbered: World) -> None:
    listening = one_left_out(numbered)
    numbered.service.reads.append(Unreadable("nonsense"))
    assert listening.run(5.0).texts == ["left out", "shown"]
    assert listening.gaps == []


def test_a_history_without_the_received_message_is_read_again(numbered: World) -> None:
    listening = one_left_out(numbered)
    numbered.service.hidden = 2
    numbered.service.after(TIMINGS.missing_window + 0.5, lambda: setattr(numbered.service, "hidden", 0))
    assert listening.run(5.0).texts == ["left out", "shown"]
    assert listening.gaps == []


def test_a_history_that_keeps_lagging_is_given_up(numbered: World) -> None:
    listening = one_left_out(numbered)
    numbered.service.hidden = 2
    listening.run(TIMINGS.fill_deadline + 8 * TIMINGS.second_look)
    assert listening.texts == ["shown"]
    assert [(gap.after, gap.before) for gap in listening.gaps] == [("m1", "m3")]


def test_a_late_frame_is_shown_in_order(numbered: World) -> None:
    numbered.service.store("old")
    listening = Listening(numbered).live()
    late, early = numbered.service.store("late"), numbered.service.store("early")
    numbered.service.hidden = 2
    numbered.service.tell(early)
    numbered.service.after(TIMINGS.missing_window + 0.5, lambda: numbered.service.tell(late))
    assert listening.run(5.0).texts == ["late", "early"]


def test_held_messages_are_shown_when_the_caller_stops(plain: World) -> None:
    """A message with an older service time is held for a while, and so are those after it."""
    wake: list[float | None] = [None]
    listening = Listening(plain, wake=lambda: wake[0]).live()
    late, early, held = (plain.service.store(text) for text in ("late", "early", "held"))
    plain.service.tell(early)
    listening.run(0.1)
    wake[0] = 0.0  # from here on no time passes
    plain.service.tell(late, held)
    for _ in range(5):
        listening.step()
    assert listening.texts == ["early"]
    listening.stream.close()
    rest = list(listening.listener.rest())
    assert [event.text for event in rest if isinstance(event, Message)] == ["late", "held"]


def test_held_messages_are_shown_when_the_session_ends(numbered: World) -> None:
    listening = one_left_out(numbered)
    numbered.service.tell({"kind": "event", "change": "expired"})
    listening.run(5.0)
    assert listening.texts == ["shown"]
    assert len(listening.gaps) == 1
    assert isinstance(listening.failure, SessionOver)


def test_an_unreadable_frame_before_the_end_is_read_from_history(world: World) -> None:
    listening = Listening(world).live()
    world.service.store("garbled")
    world.service.tell({"kind": "unreadable"})
    world.service.push("after")
    world.service.tell({"kind": "event", "change": "ended"})
    assert listening.run(TIMINGS.second_look + 5.0).texts == ["garbled", "after"]
    assert isinstance(listening.failure, SessionOver)
    assert listening.gaps == []


def test_a_close_together_with_an_end_reports_the_end(world: World) -> None:
    listening = Listening(world).live()
    world.service.tell({"kind": "event", "change": "ended"})
    world.service.break_all()
    listening.run(5.0)
    assert isinstance(listening.failure, SessionOver)
    assert not any(isinstance(event, Connection) and event.state == "lost" for event in listening.events)


def test_an_unreadable_history_after_the_end_is_reported_as_a_gap(world: World) -> None:
    listening = Listening(world).live()
    world.service.push("before")
    listening.run(1.0)
    world.service.store("garbled")
    world.service.tell({"kind": "unreadable"}, {"kind": "event", "change": "ended"})
    world.service.reads.append(SessionOver("gone"))
    listening.run(TIMINGS.second_look + 5.0)
    assert isinstance(listening.failure, SessionOver)
    assert [gap.after for gap in listening.gaps] == ["m1"]


def test_an_end_before_the_second_look_waits_for_it(world: World) -> None:
    world.service.store("old")
    listening = Listening(world).live()
    world.service.break_all()
    listening.until(lambda event: isinstance(event, Connection) and event.state == "retrying")
    world.service.store("missed")
    world.service.hidden = 1
    listening.events.clear()
    listening.live()
    world.service.tell({"kind": "event", "change": "ended"})
    listening.run(0.1)
    world.service.hidden = 0
    listening.run(TIMINGS.second_look + 5.0)
    assert listening.texts == ["missed"]
    assert isinstance(listening.failure, SessionOver)


# --- frames that are not messages ---


def test_unknown_frames_and_typing_are_shown(plain: World) -> None:
    listening = Listening(plain).live()
    plain.service.tell({"kind": "novelty"}, {"kind": "typing"}, {"kind": "event", "change": "read_only"})
    listening.run(1.0)
    assert [type(event) for event in listening.events[-3:]] == [Unknown, Typing, SessionEvent]
    stored = plain.state.get(SCOPE, "default")
    assert stored is not None
    assert stored.state == "read_only"


def test_a_message_in_an_unreadable_frame_is_read_from_history(plain: World) -> None:
    listening = Listening(plain).live()
    plain.service.store("mangled")
    plain.service.tell("{ not json")
    assert listening.run(2.0).texts == ["mangled"]


def test_listening_reconnects_after_a_protocol_error(plain: World) -> None:
    listening = Listening(plain).live()
    plain.service.sockets[0].queue.append(Unreadable("bad frame", code="answer.frame"))
    plain.service.store("meanwhile")
    assert listening.run(5.0).texts == ["meanwhile"]


@pytest.mark.parametrize(
    ("change", "kind", "state"),
    [
        ("expired", SessionOver, "expired"),
        ("cleared", SessionOver, "cleared"),
        ("logged_out", SessionOver, "ended"),
        ("evicted", SessionOver, "active"),
    ],
)
def test_an_end_is_shown_raised_and_stored(plain: World, change: str, kind: type[Failure], state: str) -> None:
    listening = Listening(plain).live()
    plain.service.tell({"kind": "event", "change": change})
    listening.run(1.0)
    assert isinstance(listening.failure, kind)
    assert isinstance(listening.events[-1], SessionEvent)
    stored = plain.state.get(SCOPE, "default")
    assert stored is not None
    assert stored.state == state


# --- the token ---


def expiring(world: World, seconds: float) -> None:
    held = world.exchange.session.credential("guest")
    assert held is not None
    world.exchange.record.store(world.exchange.session.having(replace(held, expires_at=world.clock.now() + seconds)))


def granted(world: World, token: str, life: float) -> HttpResponse:
    body = f'{{"token": "{token}", "expires_at": {world.clock.now() + life}}}'
    return HttpResponse(200, {}, body.encode(), world.clock.now())


@pytest.fixture
def ageing(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(monkeypatch, renewal_margins={"guest": 60.0}, reattaches=True)

    def reattach(session: Session, *, traceparent: str | None = None) -> Flow[Session]:
        return session
        yield

    monkeypatch.setattr(world.dialect, "reattach", reattach)
    expiring(world, 120.0)
    return world


def test_the_token_is_renewed_early_on_the_open_socket(ageing: World) -> None:
    listening = Listening(ageing).live()
    ageing.service.refreshes.append(granted(ageing, "second-token", 1000))
    listening.run(90.0)
    held = ageing.exchange.session.credential("guest")
    assert held is not None
    assert held.secret == Secret("second-token")
    assert len(ageing.service.sockets) == 1


def test_the_token_is_renewed_early_on_a_busy_stream(ageing: World) -> None:
    listening = Listening(ageing).live()
    ageing.service.refreshes.append(granted(ageing, "second-token", 1000))
    for n in range(900):
        ageing.service.after(n * 0.1, lambda n=n: ageing.service.push(f"text {n}"))  # type: ignore[misc]
    listening.run(91.0)
    assert len(listening.texts) == 900
    assert not ageing.service.refreshes


def test_a_failed_early_renewal_keeps_the_socket_and_is_retried(ageing: World) -> None:
    listening = Listening(ageing).live()
    ageing.service.refreshes.extend([NetworkError("down", written=True)] * 2)
    ageing.service.refreshes.append(granted(ageing, "second-token", 1000))
    listening.run(60.0 + 3 * TIMINGS.early_renewal_pause + 1)
    assert listening.failure is None
    assert len(ageing.service.sockets) == 1
    assert not ageing.service.refreshes


def test_another_socket_for_a_renewed_token_loses_no_message(ageing: World) -> None:
    ageing.dialect.reattaches = False  # type: ignore[misc]
    listening = Listening(ageing).live()
    ageing.service.refreshes.append(granted(ageing, "second-token", 1000))
    listening.run(59.0)
    socket = ageing.service.sockets[0]
    close = socket.close

    def closing(code: int = 1000, reason: str = "") -> object:
        if not socket.gone:
            ageing.service.push("in the last moment")
            ageing.service.tell({"kind": "typing"})
        return close(code, reason)

    socket.close = closing  # type: ignore[method-assign, assignment]
    listening.run(10.0)
    assert listening.texts == ["in the last moment"]
    assert any(isinstance(event, Typing) for event in listening.events)
    assert len(ageing.service.sockets) == 2


# --- without a socket ---


@pytest.fixture
def polled(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch, socketed=False)


def test_polling_starts_after_the_newest_message(polled: World) -> None:
    for n in range(5):
        polled.service.store(f"old {n}")
    listening = Listening(polled).live()
    polled.service.store("new")
    listening.run(10.0)
    assert listening.texts == ["new"]
    assert listening.sources == ["live"]


def test_polling_from_a_position_shows_what_follows(polled: World) -> None:
    first, *_ = [polled.service.store(f"text {n}") for n in range(5)]
    listening = Listening(polled, position=Position(first["id"])).run(1.0)
    polled.service.store("new")
    listening.run(10.0)
    assert listening.texts == ["text 1", "text 2", "text 3", "text 4", "new"]
    assert listening.sources == ["replayed"] * 4 + ["live"]


def test_polls_are_half_a_second_to_five_seconds_apart(polled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """other-apis.md, webmessaging-conversations: adaptive 0.5-5 s, jittered."""
    asked: list[float] = []
    perform = polled.service.perform

    def noting(*args: Any, **more: Any) -> Any:
        asked.append(polled.clock.monotonic())
        return perform(*args, **more)

    monkeypatch.setattr(polled.service, "perform", noting)
    listening = Listening(polled).live()
    for n in range(200):
        polled.service.store(f"text {n}")
        listening.run(0.3)
    listening.run(300.0)
    waits = [b - a for a, b in pairwise(asked[2:])]  # the first two find the starting point
    assert 0.5 <= min(waits) < 0.55
    assert 4.9 < max(waits) <= 5.0
    assert len(set(waits)) > 100


def test_polling_continues_after_failures(polled: World) -> None:
    polled.service.store("old")
    polled.service.reads.extend([NetworkError("down", transient=False, written=True)] * 1)
    listening = Listening(polled)
    listening.run(5.0)
    assert isinstance(listening.failure, NetworkError), "what cannot heal is final"
    polled.service.reads.extend([NetworkError("down")] * 4)
    listening = Listening(polled).run(60.0)
    polled.service.reads.extend([NetworkError("down")] * 4)
    polled.service.store("new")
    listening.run(60.0)
    assert listening.failure is None
    assert listening.texts == ["new"]


# --- an awaited reply ---


def test_a_reply_is_received_on_the_open_socket(plain: World) -> None:
    listener = Listening(plain, baseline=False)
    listener.listener.attach(plain.deadline())
    message = deliver(plain.exchange, Outgoing("k1", "question"), plain.deadline())
    sent = {"id": str(message.id), "time": str(message.time)}
    plain.service.push("answer")
    listener.listener.continue_after(Position(sent["id"], None, sent["time"]))
    before = len(plain.service.requests)
    assert listener.run(1.0).texts == ["answer"]
    assert len(plain.service.requests) == before, "history was read for nothing"


def test_the_reply_to_a_message_accepted_earlier_is_in_history(plain: World) -> None:
    deliver(plain.exchange, Outgoing("k1", "question"), plain.deadline())
    plain.service.push("answer")
    plain.exchange = plain.another()
    again = Listening(plain, baseline=False)
    again.listener.attach(plain.deadline())
    message = deliver(again.listener.engine, Outgoing("k1", "question"), plain.deadline())
    again.listener.continue_after(Position(message.id, None, message.time))
    assert again.run(1.0).texts == ["answer"]


def test_a_message_before_the_question_is_no_reply(world: World) -> None:
    listening = Listening(world, baseline=False)
    listening.listener.attach(world.deadline())
    world.service.push("late answer to something else")
    sent = world.service.push("question", "inbound")
    world.service.push("answer")
    listening.listener.continue_after(Position(sent["id"], sent["sequence"], sent["time"]))
    assert listening.run(1.0).texts == ["answer"]


def test_a_reply_that_overtook_the_echo_is_shown(world: World) -> None:
    listening = Listening(world, baseline=False)
    listening.listener.attach(world.deadline())
    sent = world.service.store("question", "inbound")
    answer = world.service.store("answer")
    world.service.tell(answer, sent)
    listening.listener.continue_after(Position(sent["id"], sent["sequence"], sent["time"]))
    assert listening.run(1.0).texts == ["answer"]


def test_a_reply_during_a_break_is_read_from_history(world: World) -> None:
    listening = Listening(world, baseline=False)
    listening.listener.attach(world.deadline())
    sent = world.service.push("question", "inbound")
    world.service.push("answer")
    line, world.exchange.socket = world.exchange.socket, None
    assert line is not None
    line.abort()
    listening.listener.continue_after(Position(sent["id"], sent["sequence"], sent["time"]))
    assert listening.run(1.0).texts == ["answer"]


# --- the ledger ---


@pytest.mark.parametrize("shown", [True, False])
def test_the_ledger_has_exactly_the_shown_messages(plain: World, shown: bool) -> None:
    """A caller that stops at an event has shown it. A caller that failed to show it throws the failure in."""
    listening = Listening(plain).live()
    for text in ("one", "two", "three"):
        plain.service.push(text)
    listening.until(lambda event: isinstance(event, Message) and event.text == "two")
    if shown:
        listening.stream.close()
    else:
        with pytest.raises(BrokenPipeError):
            listening.stream.throw(BrokenPipeError())
    assert plain.state.seen(SCOPE, plain.exchange.session, ["m1", "m2", "m3"]) == ({"m1", "m2"} if shown else {"m1"})
    last = plain.state.last_position(SCOPE, plain.exchange.session)
    assert last is not None
    assert last.id == ("m2" if shown else "m1")


@pytest.mark.parametrize(
    ("error", "recorded", "rest"),
    [(GeneratorExit, 4, []), (BrokenPipeError, 2, ["four"]), (KeyboardInterrupt, 2, ["three", "four"])],
)
def test_the_ledger_has_those_of_several_messages_that_were_shown(
    plain: World, error: type[BaseException], recorded: int, rest: list[str]
) -> None:
    """A caller that failed to show one of several messages has shown those before it, and none after it."""
    listening = Listening(plain).live()
    for text in ("one", "two", "three", "four"):
        plain.service.push(text)
    first = next(event for event in listening.stream if isinstance(event, Message))
    taken: list[Event] = [first]
    while (event := listening.listener.shown_events.take()) is not None:
        taken.append(event)
    assert [event.text for event in taken if isinstance(event, Message)] == ["one", "two", "three", "four"]
    listening.listener.shown_events.shown(taken[1])
    if error is GeneratorExit:
        listening.stream.close()
    else:
        listening.listener.abandon()
        with pytest.raises(error):
            listening.stream.throw(error())
    ids = [f"m{number}" for number in range(1, 5)]
    assert plain.state.seen(SCOPE, plain.exchange.session, ids) == set(ids[:recorded])
    assert [event.text for event in listening.listener.rest() if isinstance(event, Message)] == rest


def test_no_more_messages_are_taken_at_once_than_one_commit_writes(plain: World) -> None:
    listening = Listening(plain).live()
    for number in range(BATCH + 10):
        plain.service.push(f"message {number}")
    first = next(event for event in listening.stream if isinstance(event, Message))
    assert len([first, *iter(listening.listener.shown_events.take, None)]) <= BATCH
    assert next(listening.stream) is not None
    assert plain.state.last_position(SCOPE, plain.exchange.session) is not None


def test_the_caller_gets_control_when_it_requested_it(plain: World) -> None:
    begun = plain.clock.monotonic()
    listening = Listening(plain, wake=lambda: max(0.0, begun + 0.2 - plain.clock.monotonic())).live()
    assert next(listening.stream) is None
    assert plain.clock.monotonic() - begun == pytest.approx(0.2)


def test_a_lagging_history_is_read_until_it_shows_accepted_messages(plain: World) -> None:
    plain.dialect.history_lags = True  # type: ignore[misc]
    entry = plain.service.store("mine", "inbound", "k1")
    plain.state.begin(SCOPE, plain.exchange.session, "k1", "{}")
    plain.state.mark(SCOPE, plain.exchange.session, "k1", "accepted", entry["id"], entry["time"])
    plain.service.hidden = 1
    real = plain.clock.sleep

    def sleep(seconds: float) -> None:
        real(seconds)
        if plain.clock.monotonic() > 1.0:
            plain.service.hidden = 0

    plain.clock.sleep = sleep  # type: ignore[method-assign]
    listener = Listener(plain.exchange, from_start=True)
    found = listener.read_after(None)
    assert [item.id for item in found.items] == ["m1"]
    assert found.anchored
    assert 1.0 < plain.clock.monotonic() < 2.0


# --- any course of faults ---


@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=some.sampled_from(["forward", "numbered pages", "sequence numbers"]),
    course=some.lists(
        some.tuples(
            some.sampled_from(["push", "push", "push", "miss", "double", "swap", "break", "garbage"]),
            some.floats(0.0, 3.0),
        ),
        max_size=25,
    ),
)
def test_every_message_is_shown_once_under_any_faults(
    monkeypatch: pytest.MonkeyPatch, kind: str, course: list[tuple[str, float]]
) -> None:
    """`miss`: a message is stored but not pushed, and the connection breaks soon, as after a half-open socket."""
    world = World(monkeypatch, paging=Paging.BY_PAGE_NUMBER if kind == "numbered pages" else Paging.FORWARD)
    service = world.service
    service.numbered = kind == "sequence numbers"
    listening = Listening(world, forever=True).live()
    for n, (what, seconds) in enumerate(course):
        if what == "push":
            service.push(f"text {n}")
        elif what == "double":
            service.tell(service.push(f"text {n}"))
        elif what == "miss":
            service.store(f"text {n}")
            service.break_all()
        elif what == "swap":
            first, second = service.store(f"first {n}"), service.store(f"second {n}")
            service.tell(second, first)
        elif what == "break":
            service.break_all()
        else:
            service.tell("{ garbage")
        listening.run(seconds)
    listening.run(60.0)
    assert listening.failure is None
    assert len(listening.texts) == len(set(listening.texts)), "something was shown twice"
    assert set(listening.texts) == set(texts(world)), "something was lost"
    assert listening.gaps == []
    if service.numbered:
        assert listening.texts == texts(world), "out of order"


def test_a_history_that_lags_at_the_start(world: World) -> None:
    """A message was stored before the socket was opened, and history does not show it yet. The second look finds it."""
    world.service.store("first")
    world.service.hidden = 1
    listening = Listening(world, from_start=True).live()
    world.service.push("second")
    world.service.hidden = 2
    world.service.after(0.5, lambda: setattr(world.service, "hidden", 0))
    assert listening.run(TIMINGS.second_look + 2.0).texts == ["first", "second"]


def test_an_unreadable_frame_that_history_shows_later(world: World) -> None:
    world.service.store("old")
    listening = Listening(world).live()
    world.service.store("garbled")
    world.service.hidden = 1
    world.service.tell({"kind": "unreadable"})
    listening.run(0.1)
    world.service.push("after")
    world.service.hidden = 2
    world.service.after(0.5, lambda: setattr(world.service, "hidden", 0))
    assert listening.run(TIMINGS.second_look + 2.0).texts == ["garbled", "after"]


def test_messages_after_an_unreadable_frame_wait_for_history_over_a_break(world: World) -> None:
    listening = Listening(world).live()
    world.service.store("garbled")
    world.service.tell({"kind": "unreadable"})
    world.service.push("after")
    world.service.break_all()
    assert listening.run(5.0).texts == ["garbled", "after"]


def test_a_second_look_that_fails_is_repeated(plain: World) -> None:
    plain.service.store("old")
    listening = Listening(plain).live()
    plain.service.break_all()
    listening.until(lambda event: isinstance(event, Connection) and event.state == "retrying")
    plain.service.store("meanwhile")
    plain.service.hidden = 1
    listening.until(lambda event: isinstance(event, Connection) and event.recovered == 0)
    plain.service.hidden = 0
    plain.service.reads.extend([Unreadable("nonsense"), Unreadable("nonsense")])
    assert listening.run(TIMINGS.second_look * 8).texts == ["meanwhile"]


def test_a_slow_early_look_does_not_replace_the_second_look(plain: World) -> None:
    plain.service.store("old")
    listening = Listening(plain).live()
    plain.service.store("garbled")
    plain.service.reads.append(Unreadable("nonsense"))
    plain.service.silence = TIMINGS.second_look + 1.0
    plain.service.push("after")
    plain.service.tell({"kind": "unreadable"})
    assert listening.run(TIMINGS.second_look * 4).texts == ["garbled", "after"]


def test_unsettled_messages_wait_through_failed_reconnects(world: World) -> None:
    world.service.store("first")
    world.service.hidden = 1
    listening = Listening(world, from_start=True).live()
    world.service.push("second")
    world.service.hidden = 2
    listening.run(0.1)
    world.service.doors.extend([NetworkError("down", transient=True)] * 6)
    world.service.break_all()
    world.service.after(TIMINGS.second_look + 1.0, lambda: setattr(world.service, "hidden", 0))
    assert listening.run(120.0).texts == ["first", "second"]


def test_a_reconnect_while_history_lags_settles_nothing(world: World) -> None:
    world.service.store("first")
    world.service.hidden = 1
    listening = Listening(world, from_start=True).live()
    world.service.push("second")
    world.service.hidden = 2
    listening.run(0.1)
    world.service.break_all()
    world.service.after(1.5, lambda: setattr(world.service, "hidden", 0))
    assert listening.run(TIMINGS.second_look + 2.0).texts == ["first", "second"]


def test_live_messages_wait_for_a_successful_second_look(world: World) -> None:
    world.service.store("first")
    world.service.hidden = 1
    listening = Listening(world, from_start=True).live()
    world.service.push("second")
    world.service.hidden = 0
    world.service.reads.extend([Unreadable("nonsense"), Unreadable("nonsense")])
    assert listening.run(TIMINGS.second_look * 4).texts == ["first", "second"]


def test_failed_second_looks_are_reported_as_a_gap_and_listening_continues(world: World) -> None:
    world.service.store("first")
    world.service.hidden = 1
    listening = Listening(world, from_start=True).live()
    world.service.push("second")
    world.service.hidden = 0
    world.service.reads.extend([Unreadable("nonsense")] * 40)
    listening.run(TIMINGS.second_look * 8)
    assert listening.texts == ["second"]
    assert listening.gaps
