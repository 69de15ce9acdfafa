"""`deliver` against a service that fails at exact points: the reported outcome is compared with the stored messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from guestctl.core.errors import (
    Conflict,
    Failure,
    Forbidden,
    InDoubt,
    NetworkError,
    RateLimited,
    Refused,
    SessionOver,
    TimedOut,
    Unauthorised,
    Unreadable,
    UsageError,
)
from guestctl.core.model import Option, Outgoing, Session
from guestctl.core.wire import HttpResponse
from guestctl.dialects.capabilities import Paging, Rate
from guestctl.engine.delivery import deliver, settle_open
from tests.properties import examples
from tests.unit.engine_fakes import SCOPE, World, lost

KEYED = {"deduplicates": True, "returns_client_key": True}
PLAIN = {"deduplicates": False, "returns_client_key": False, "paging": Paging.BY_PAGE_NUMBER}


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> World:
    """An API that removes messages with a repeated key, and returns keys in history."""
    return World(monkeypatch, **KEYED)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> World:
    """An API that neither removes such messages nor returns keys."""
    world = World(monkeypatch, **PLAIN)
    world.service.keeps_keys = False
    return world


@pytest.fixture
def rest(monkeypatch: pytest.MonkeyPatch) -> World:
    """An API with messages over REST that removes messages with a repeated key."""
    return World(monkeypatch, sends_on_socket=False, **KEYED)


def say(world: World, text: str = "hello", key: str = "k1", *, seconds: float | None = 30.0) -> str:
    """Send a message and return the outcome that the client reports."""
    claim: str | None = "accepted"
    try:
        deliver(world.exchange, Outgoing(key, text), world.deadline(seconds))
    except Failure as failure:
        claim = failure.delivery
    assert claim is not None, "a send that fails must say what became of the message"
    row = world.state.sent(SCOPE, world.exchange.session, key)
    assert row is None or row.state == claim
    return claim


def state_of(world: World, key: str = "k1") -> str | None:
    row = world.state.sent(SCOPE, world.exchange.session, key)
    return None if row is None else row.state


# --- without faults ---


def test_an_accepted_message_is_stored_and_not_sent_again(keyed: World) -> None:
    message = deliver(keyed.exchange, Outgoing("k1", "hello"), keyed.deadline())
    assert (message.id, message.key, message.text) == ("m1", "k1", "hello")
    again = deliver(keyed.exchange, Outgoing("k1", "hello"), keyed.deadline())
    assert (again.id, again.key, again.text) == ("m1", "k1", "hello")
    assert keyed.service.texts() == ["hello"]


def test_a_key_accepted_before_needs_no_network(keyed: World) -> None:
    assert say(keyed) == "accepted"
    keyed.exchange.socket = None
    keyed.service.doors.append(NetworkError("down", transient=False))
    assert say(keyed) == "accepted"


def test_sends_keep_to_the_rate_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, send_rate=Rate(2, 1.0, burst=1), **KEYED)
    begun = world.clock.monotonic()
    for n in range(5):
        assert say(world, f"text {n}", f"k{n}") == "accepted"
    assert world.service.texts() == [f"text {n}" for n in range(5)]
    assert 2.0 <= world.clock.monotonic() - begun < 2.1


def test_a_rate_limit_that_lasts_beyond_the_deadline_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, send_rate=Rate(1, 60.0), **KEYED)
    assert say(world) == "accepted"
    assert say(world, key="k2", seconds=5.0) == "not_sent"
    assert world.service.texts() == ["hello"]


# --- breaks ---


@pytest.mark.parametrize("world_name", ["keyed", "plain", "rest"])
@pytest.mark.parametrize("fault", ["echo_lost", "frame_lost", "stored_silent", "silent"])
def test_a_message_is_accepted_once_after_one_break(
    world_name: str, fault: str, request: pytest.FixtureRequest
) -> None:
    world: World = request.getfixturevalue(world_name)
    world.service.sends.append(fault)
    absent = fault in {"frame_lost", "silent"} and world_name == "plain"
    assert say(world) == ("in_doubt" if absent else "accepted")
    assert world.service.texts() == ([] if absent else ["hello"])
    assert state_of(world) == ("in_doubt" if absent else "accepted")


@pytest.mark.parametrize("world_name", ["keyed", "plain"])
def test_an_attempt_without_a_byte_sent_is_repeated(world_name: str, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(world_name)
    world.service.sends.append(lost(None, written=False))
    assert say(world) == "accepted"
    assert world.service.texts() == ["hello"]


def test_a_break_before_the_first_byte_does_not_count_as_the_repeat(plain: World) -> None:
    plain.service.sends.extend([lost(None, written=False), "echo_lost"])
    assert say(plain) == "accepted"
    assert plain.service.texts() == ["hello"]


def test_a_message_is_repeated_only_once(plain: World) -> None:
    plain.service.sends.extend(["frame_lost", "frame_lost", "ok"])
    assert say(plain) == "in_doubt"
    assert plain.service.texts() == []


def test_an_unreachable_service_is_not_sent(keyed: World) -> None:
    keyed.service.doors.extend([NetworkError("refused", code="network.connect")] * 20)
    assert say(keyed) == "not_sent"
    assert keyed.service.texts() == []


def test_a_bad_certificate_is_not_retried(keyed: World) -> None:
    keyed.service.doors.append(NetworkError("bad certificate", code="network.tls", transient=False))
    assert say(keyed) == "not_sent"
    assert len(keyed.service.sockets) == 0
    assert keyed.clock.sleeps == []


@pytest.mark.parametrize("fault", ["echo_lost", "frame_lost"])
@pytest.mark.parametrize("world_name", ["keyed", "plain"])
def test_an_outage_after_writing_is_in_doubt(world_name: str, fault: str, request: pytest.FixtureRequest) -> None:
    """A later attempt without a byte sent does not make the first one `not_sent`."""
    world: World = request.getfixturevalue(world_name)
    world.service.sends.append(fault)
    world.service.reads.extend([NetworkError("down")] * 200)
    world.service.doors.append(None)
    world.service.doors.extend([NetworkError("down")] * 200)
    assert say(world) == "in_doubt"


@pytest.mark.parametrize(
    "refusal",
    [Refused("no"), Forbidden("no"), Conflict("over"), SessionOver("gone"), RateLimited("slow", retry_after=99)],
)
def test_a_refused_repeat_does_not_reject_the_first_attempt(keyed: World, refusal: Failure) -> None:
    """The first attempt was stored. History lags, so the message is sent again and refused."""
    keyed.service.sends.extend(["echo_lost", refusal])
    keyed.service.hidden = 1
    assert say(keyed) == "in_doubt"
    assert keyed.service.texts() == ["hello"]


@pytest.mark.parametrize("last", [Conflict("locked"), RateLimited("slow", retry_after=99), lost(None, written=False)])
@pytest.mark.parametrize("arrived", [True, False])
def test_a_refusal_after_an_attempt_that_may_have_arrived(keyed: World, last: Failure, arrived: bool) -> None:
    """The request was repeated by the retry policy: its last failure says nothing about its first attempt."""
    last.doubtful = True
    keyed.service.sends.extend([last] * 20)
    if arrived:
        keyed.service.store("hello", "inbound", "k1")
    assert say(keyed) == ("accepted" if arrived else "in_doubt")


def test_a_refused_repeat_is_accepted_when_history_shows_the_message(keyed: World) -> None:
    keyed.service.sends.extend(["echo_lost", Refused("no")])
    keyed.service.reads.append(NetworkError("down", transient=False))
    assert say(keyed) == "accepted"
    assert keyed.service.texts() == ["hello"]


def test_a_history_that_is_refused_leaves_the_message_in_doubt(plain: World) -> None:
    plain.service.sends.append("echo_lost")
    plain.service.reads.extend([Unauthorised("no")] * 9)
    assert say(plain) == "in_doubt"


def test_an_unreadable_answer_is_no_refusal(rest: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real, spoilt = rest.service.perform, [True]

    def perform(request: object, **options: object) -> HttpResponse:
        reply = real(request, **options)  # type: ignore[arg-type]
        if getattr(request, "route", "") == "send" and spoilt:
            spoilt.clear()
            return HttpResponse(200, {}, b"<html>OK</html>", reply.at)
        return reply

    monkeypatch.setattr(rest.service, "perform", perform)
    assert say(rest) == "accepted"
    assert rest.service.texts() == ["hello"]


def test_a_protocol_error_leaves_the_message_in_doubt(keyed: World) -> None:
    keyed.exchange.attached(keyed.deadline())
    socket = keyed.service.sockets[0]
    keyed.service.sends.append("stored_silent")
    keyed.service.after(0.1, lambda: socket.queue.append(Unreadable("bad frame", code="answer.frame")))
    assert say(keyed) == "accepted"
    assert keyed.service.texts() == ["hello"]


def test_a_message_that_is_too_big_is_rejected(keyed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed.dialect, "on_close", lambda code: "too_big" if code == 1009 else "reconnect")
    keyed.service.sends.append(lost(1009))
    assert say(keyed) == "rejected"


def test_an_eviction_while_waiting_is_settled_from_history(keyed: World) -> None:
    keyed.service.sends.append("stored_silent")
    keyed.service.after(0.2, lambda: keyed.service.tell({"kind": "event", "change": "evicted"}))
    assert say(keyed) == "accepted"
    assert keyed.service.texts() == ["hello"]


# --- refusals ---


@pytest.mark.parametrize("refusal", [Refused("no"), Forbidden("no"), Conflict("read-only")])
@pytest.mark.parametrize("world_name", ["keyed", "plain", "rest"])
def test_a_refused_message_is_rejected(world_name: str, refusal: Failure, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(world_name)
    world.service.sends.append(refusal)
    assert say(world) == "rejected"
    assert world.service.texts() == []


def test_a_rate_limited_message_is_retried_three_times(keyed: World) -> None:
    keyed.service.sends.extend([RateLimited("slow", retry_after=2.0)] * 4)
    begun = keyed.clock.monotonic()
    assert say(keyed) == "rejected"
    assert keyed.clock.monotonic() - begun == pytest.approx(6.0)


def test_a_rate_limited_message_is_accepted_later(keyed: World) -> None:
    keyed.service.sends.extend([RateLimited("slow", retry_after=2.0)] * 2)
    assert say(keyed) == "accepted"
    assert keyed.service.texts() == ["hello"]


def test_an_invalid_token_is_renewed_once(keyed: World) -> None:
    keyed.service.sends.append(Unauthorised("spoilt"))
    keyed.service.refreshes.append(HttpResponse(200, {}, b'{"token": "fresh-token"}', 0.0))
    assert say(keyed) == "accepted"
    assert keyed.service.sockets[-1].said[0]["token"] == "fresh-token"


@pytest.mark.parametrize(
    "failure", [NetworkError("down", written=True, transient=False), Unauthorised("no"), TimedOut("no")]
)
def test_a_failed_renewal_leaves_the_message_rejected(keyed: World, failure: Failure) -> None:
    keyed.service.sends.append(Unauthorised("spoilt"))
    keyed.service.refreshes.append(failure)
    assert say(keyed) == "rejected"


def test_a_message_is_checked_before_it_is_sent(keyed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(*_: object) -> None:
        raise Refused("too long")

    monkeypatch.setattr(keyed.dialect, "check_message", check)
    assert say(keyed) == "not_sent"
    assert keyed.service.sockets == []


# --- failures of the client ---


def test_a_send_lock_that_stays_taken_is_not_sent(keyed: World) -> None:
    with keyed.exchange.record.lock("send", keyed.deadline()):
        assert say(keyed, seconds=1.0) == "not_sent"


def test_a_full_disk_stops_a_message_before_the_network(keyed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    keyed.exchange.attached(keyed.deadline())

    def full(*_: object, **__: object) -> None:
        raise UsageError("disk full", code="state.unusable")

    monkeypatch.setattr(keyed.state, "begin", full)
    with pytest.raises(UsageError) as caught:
        deliver(keyed.exchange, Outgoing("k1", "hello"), keyed.deadline())
    assert caught.value.delivery == "not_sent"
    assert keyed.service.texts() == []


@pytest.mark.parametrize(("at", "claimed"), [("writing", "not_sent"), ("accepted", "accepted")])
def test_a_disk_that_fills_up_during_a_send(
    keyed: World, monkeypatch: pytest.MonkeyPatch, at: str, claimed: str
) -> None:
    real = keyed.state.mark

    def mark(scope: str, name: str, key: str, state: str, *rest: object) -> None:
        if state == at or at == "writing":
            raise UsageError("disk full", code="state.unusable")
        real(scope, name, key, state, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(keyed.state, "mark", mark)
    with pytest.raises(UsageError) as caught:
        deliver(keyed.exchange, Outgoing("k1", "hello"), keyed.deadline())
    assert caught.value.delivery == claimed
    assert keyed.service.texts() == ([] if claimed == "not_sent" else ["hello"])


def test_the_socket_is_opened_before_the_lock_is_taken(keyed: World) -> None:
    """Every process opens its socket first and takes the send lock second. Otherwise they could wait for each other."""
    keyed.service.doors.append(NetworkError("down", transient=False))
    with keyed.exchange.record.lock("send", keyed.deadline()):
        begun = keyed.clock.monotonic()
        assert say(keyed) == "not_sent"
        assert keyed.clock.monotonic() == begun


# --- settling unfinished messages of an earlier run ---


def leave(world: World, key: str, text: str, state: str = "writing", **more: object) -> None:
    """Store the send of a process that was killed."""
    from guestctl.engine.delivery import _dump

    world.state.begin(SCOPE, world.exchange.session, key, _dump(replace(Outgoing(key, text), **more)))  # type: ignore[arg-type]
    world.state.mark(SCOPE, world.exchange.session, key, state)  # type: ignore[arg-type]


@pytest.mark.parametrize("world_name", ["keyed", "plain"])
def test_a_message_that_history_shows_is_settled_as_accepted(world_name: str, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(world_name)
    leave(world, "old", "from before")
    world.service.store("from before", "inbound", "old" if world_name == "keyed" else None)
    assert say(world) == "accepted"
    assert world.service.texts() == ["from before", "hello"]
    assert state_of(world, "old") == "accepted"


@pytest.mark.parametrize("world_name", ["keyed", "plain"])
def test_a_later_command_never_repeats_an_absent_message(world_name: str, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(world_name)
    leave(world, "old", "from before")
    before = world.clock.monotonic()
    assert say(world) == "accepted"
    assert world.service.texts() == ["hello"]
    assert state_of(world, "old") == "in_doubt"
    assert world.clock.monotonic() - before < 1.0, "it waited for the earlier message"


def test_only_resend_sends_a_message_in_doubt_again(plain: World) -> None:
    leave(plain, "k1", "hello")
    assert say(plain) == "in_doubt"
    assert plain.service.texts() == []
    deliver(plain.exchange, Outgoing("k1", "hello"), plain.deadline(), resend=True)
    assert plain.service.texts() == ["hello"]
    assert state_of(plain) == "accepted"


@pytest.mark.parametrize("state", ["accepted", "in_doubt"])
def test_a_key_with_another_text_is_a_conflict(plain: World, state: str) -> None:
    if state == "accepted":
        assert say(plain) == "accepted"
    else:
        leave(plain, "k1", "hello")
    sent = plain.service.texts()
    with pytest.raises(Conflict) as caught:
        deliver(plain.exchange, Outgoing("k1", "another text"), plain.deadline())
    assert caught.value.code == "conflict.key"
    assert plain.service.texts() == sent


def test_a_queued_message_is_settled_as_not_sent(keyed: World) -> None:
    leave(keyed, "old", "from before", "queued")
    assert say(keyed) == "accepted"
    assert keyed.service.texts() == ["hello"]
    assert state_of(keyed, "old") == "not_sent"


def test_a_message_that_stays_in_doubt_does_not_stop_the_next_one(plain: World) -> None:
    """The next message is not reported as in doubt: it was sent."""
    leave(plain, "old", "twice")
    plain.service.store("twice", "inbound")
    plain.service.store("twice", "inbound")
    assert say(plain) == "accepted"
    assert plain.service.texts() == ["twice", "twice", "hello"]
    assert state_of(plain, "old") == "in_doubt"
    assert any("still in doubt" in notice for notice in plain.notices)


def test_a_failed_search_for_an_earlier_message_stops_nobody(keyed: World) -> None:
    leave(keyed, "old", "from before")
    keyed.service.reads.extend([Refused("no")])
    assert say(keyed) == "accepted"
    assert keyed.service.texts() == ["hello"]
    assert state_of(keyed, "old") == "in_doubt"


def test_a_key_in_doubt_is_not_sent_again(plain: World) -> None:
    leave(plain, "k1", "twice", "in_doubt")
    plain.service.store("twice", "inbound")
    plain.service.store("twice", "inbound")
    with pytest.raises(InDoubt) as caught:
        deliver(plain.exchange, Outgoing("k1", "twice"), plain.deadline())
    assert caught.value.key == "k1"
    assert plain.service.texts() == ["twice", "twice"]


@pytest.mark.parametrize("skew", [-86_400.0, -300.0, 300.0, 86_400.0])
def test_a_wrong_clock_never_sends_twice(plain: World, skew: float) -> None:
    assert say(plain, "first", "k0") == "accepted"
    plain.clock.jump(skew)
    plain.service.sends.append("echo_lost")
    assert say(plain, "second", "k1") == "accepted"
    assert plain.service.texts() == ["first", "second"]


def test_a_long_history_is_searched_to_its_end(plain: World) -> None:
    leave(plain, "old", "needle")
    plain.service.store("needle", "inbound")
    for n in range(600):
        plain.service.store(f"chatter {n}")
    assert [m.id for m in settle_open(plain.exchange, plain.deadline())] == ["m1"]
    assert plain.service.texts() == ["needle"]


def test_an_altered_text_does_not_count_as_absent(plain: World) -> None:
    plain.service.alters = lambda text: text.strip()
    plain.service.sends.append("echo_lost")
    assert say(plain, "  hello ") == "accepted"
    assert plain.service.texts() == ["hello"]


def test_a_masked_text_stays_in_doubt(plain: World) -> None:
    plain.service.alters = lambda text: "card ****"
    plain.service.sends.append("echo_lost")
    assert say(plain, "card 4111 1111") == "in_doubt"
    assert plain.service.texts() == ["card ****"]


def test_a_pick_is_found_by_the_text_of_its_choices(plain: World) -> None:
    leave(plain, "old", "", picks=(Option("Yes", "yes", "QuickReply"),))
    plain.service.store("Yes", "inbound")
    assert settle_open(plain.exchange, plain.deadline())[0].id == "m1"
    assert plain.service.texts() == ["Yes"]


def test_an_accepted_entry_is_not_claimed_by_another_send(plain: World) -> None:
    assert say(plain, "hi", "k1") == "accepted"
    plain.service.sends.append("echo_lost")
    assert say(plain, "hi", "k2") == "accepted"
    assert plain.service.texts() == ["hi", "hi"]
    assert {row.message_id for row in plain.state.outbox(SCOPE, plain.exchange.session)} == {"m1", "m2"}
    plain.service.sends.append("frame_lost")
    assert say(plain, "hi", "k3") == "in_doubt"
    assert plain.service.texts() == ["hi", "hi"]


# --- any course of faults ---

SENDS = some.sampled_from(
    ["ok", "ok", "echo_lost", "frame_lost", "silent", "stored_silent", "unwritten", "refused", "limited"]
)
READS = some.sampled_from([None, None, "down", "gone"])
DOORS = some.sampled_from([None, None, "down"])
FAILURES: dict[str | None, Failure | None] = {
    None: None,
    "unwritten": lost(None, written=False),
    "refused": Refused("no"),
    "limited": RateLimited("slow", retry_after=1.0),
    "down": NetworkError("down"),
    "gone": SessionOver("gone"),
}


@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    declared=some.sampled_from([KEYED, PLAIN, {**KEYED, "sends_on_socket": False}]),
    sends=some.lists(SENDS, max_size=8),
    reads=some.lists(READS, max_size=8),
    doors=some.lists(DOORS, max_size=8),
    seconds=some.sampled_from([1.0, 10.0, 30.0, None]),
)
def test_a_claimed_entry_belongs_to_one_send(
    monkeypatch: pytest.MonkeyPatch,
    declared: dict[str, object],
    sends: list[str],
    reads: list[str | None],
    doors: list[str | None],
    seconds: float | None,
) -> None:
    """Send three messages, then run without faults: none is stored twice, and no reported outcome is wrong."""
    world = World(monkeypatch, **declared)
    world.service.keeps_keys = bool(declared["returns_client_key"])
    world.service.sends.extend(FAILURES.get(what) or what for what in sends)
    world.service.reads.extend(FAILURES[what] for what in reads)
    world.service.doors.extend(FAILURES[what] for what in doors)

    def compare(claims: dict[str, str]) -> None:
        log = world.service.texts()
        for text, claim in claims.items():
            copies = log.count(text)
            assert copies <= 1, f"{text} is there {copies} times"
            if claim == "accepted":
                assert copies == 1
            if claim in {"rejected", "not_sent"}:
                assert copies == 0

    claims = {}
    for n in range(3):
        world.clock.advance(0.01)
        claims[f"text {n}"] = say(world, f"text {n}", f"k{n}", seconds=seconds)
        compare(claims)
    for script in (world.service.sends, world.service.reads, world.service.doors):
        script.clear()
    assert say(world, "the last", "k9") == "accepted"
    for n in range(3):
        claims[f"text {n}"] = state_of(world, f"k{n}") or claims[f"text {n}"]
        if claims[f"text {n}"] == "in_doubt":
            assert world.service.texts().count(f"text {n}") == 0, "a run without faults finds what was stored"
    compare(claims)


# --- a session that is replaced during a send ---


def successor(world: World) -> Session:
    """Let another command create a session of the same name."""
    world.clock.advance(1.0)
    begun = replace(world.exchange.session, created_at=world.clock.now())
    world.state.put(SCOPE, begun)
    return begun


def test_a_send_is_settled_under_its_session_after_a_rename(keyed: World) -> None:
    """Another command renames the session while the service does not answer."""
    old = keyed.exchange.session
    keyed.service.sends.append("stored_silent")
    begun: list[Session] = []

    def set_aside() -> None:
        keyed.state.rename(SCOPE, "default", "default-1")
        begun.append(successor(keyed))

    keyed.service.after(1.0, set_aside)
    assert say(keyed) == "accepted"
    assert [row.state for row in keyed.state.outbox(SCOPE, old)] == ["accepted"]
    assert keyed.state.outbox(SCOPE, begun[0]) == []
    assert keyed.service.texts() == ["hello"]


def test_the_send_lock_holds_across_a_rename(keyed: World) -> None:
    """Otherwise a message that another process is writing would be taken for one of a killed process."""
    late = keyed.another()
    keyed.state.rename(SCOPE, "default", "default-1")
    keyed.exchange.record.store(keyed.exchange.session)
    assert keyed.exchange.session.name == "default-1"
    with late.record.lock("send", keyed.deadline()), pytest.raises(TimedOut):
        deliver(keyed.exchange, Outgoing("k1", "hello"), keyed.deadline(2.0))


def test_nothing_is_sent_for_a_replaced_session(keyed: World) -> None:
    begun = successor(keyed)
    with pytest.raises(SessionOver) as caught:
        deliver(keyed.exchange, Outgoing("k1", "hello"), keyed.deadline())
    assert (caught.value.code, caught.value.delivery) == ("session.replaced", "not_sent")
    assert keyed.service.texts() == []
    assert keyed.state.outbox(SCOPE, begun) == []


def test_nothing_is_sent_for_a_session_replaced_before_the_first_byte(
    rest: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest.exchange, "wait_to_send", lambda deadline, reserve: successor(rest))
    with pytest.raises(SessionOver) as caught:
        deliver(rest.exchange, Outgoing("k1", "hello"), rest.deadline())
    assert (caught.value.code, caught.value.delivery) == ("session.replaced", "not_sent")
    assert rest.service.texts() == []


def test_a_notice_reports_an_outcome_that_cannot_be_recorded(rest: World) -> None:
    send = rest.service._send

    def replaced_during_send(*args: Any) -> Any:
        successor(rest)
        return send(*args)

    rest.service._send = replaced_during_send  # type: ignore[method-assign, assignment]
    assert deliver(rest.exchange, Outgoing("k1", "hello"), rest.deadline()).id == "m1"
    assert rest.notices == [
        'session "default" was forgotten or replaced by another command: nothing more is recorded for it'
    ]
