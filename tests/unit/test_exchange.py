"""`SessionEngine`: retries, token renewal, the stored session and lagging history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import responses
from hypothesis import given
from hypothesis import strategies as some

from guestctl.core.clock import Deadline
from guestctl.core.errors import (
    Conflict,
    Failure,
    Forbidden,
    NetworkError,
    RateLimited,
    SessionOver,
    TimedOut,
    Unauthorised,
    Unsupported,
)
from guestctl.core.model import Credential, Secret, Session
from guestctl.core.timings import Timings
from guestctl.core.wire import HttpResponse, Request
from guestctl.dialects.base import HistoryPage
from guestctl.dialects.capabilities import Backoff, Rate
from guestctl.dialects.flows import Flow, done, frame_request, http_request
from guestctl.engine.credentials import oauth_scope
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.retry import LIMIT_RETRIES, TRIES, jittered
from guestctl.transport.http import Http
from guestctl.transport.network import Network
from tests.unit.engine_fakes import SCOPE, World

TIMINGS = Timings()

GET = Request("GET", "https://toy.example.test/x", "history", idempotent=True)
POST = Request("POST", "https://toy.example.test/x", "create")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


class Answers:
    """The service's answers in order, the last one for ever. Remembers the requests, and the headers as sent.

    An answer passes through guestctl's HTTP transport. A failure is raised in its place, because only real sockets
    determine whether a request was written.
    """

    def __init__(self, world: World, *outcomes: HttpResponse | Failure | Callable[[], HttpResponse]) -> None:
        self.outcomes = list(outcomes)
        self.headers: list[Mapping[str, str]] = []
        self.asked: list[Request] = []
        self._http = Http(Network(ca=None, environ={}), world.clock, user_agent="guestctl/test")
        world.service.perform = self.perform  # type: ignore[method-assign, assignment]

    def perform(self, request: Request, *, headers: dict[str, str], deadline: Deadline, **_: object) -> HttpResponse:
        self.asked.append(request)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        self.headers.append(headers)
        if isinstance(outcome, Failure):
            # A fresh one each time, as a transport would make it.
            raise _again(outcome)
        answer = outcome if isinstance(outcome, HttpResponse) else outcome()
        with responses.RequestsMock() as service:
            service.add(request.method, request.url, answer.body, status=answer.status, headers=dict(answer.headers))
            reply = self._http.perform(request, headers=headers, deadline=deadline)
            self.headers[-1] = service.calls[0].request.headers
        return reply


def _again(failure: Failure) -> Failure:
    fresh = type(failure).__new__(type(failure), failure.message)
    fresh.__dict__.update(failure.__dict__)
    return fresh


def said(status: int, body: bytes = b"{}", **headers: str) -> HttpResponse:
    return HttpResponse(status, headers, body, 0.0)


DOWN = NetworkError("down", written=True)
UNSENT = NetworkError("refused", written=False)


@pytest.mark.parametrize(
    ("request_", "failure", "tries"),
    [
        (GET, DOWN, TRIES),
        (GET, UNSENT, TRIES),
        (POST, UNSENT, TRIES),
        (POST, DOWN, 1),
        (GET, NetworkError("bad certificate", transient=False), 1),
        (GET, Forbidden("no"), 1),
        (GET, RateLimited("slow", retry_after=0.5), 1 + LIMIT_RETRIES),
        (POST, RateLimited("slow", retry_after=0.5), 1 + LIMIT_RETRIES),
        (GET, Conflict("ended", code="conflict.ended"), 1),
        (GET, TimedOut("late"), 1),
    ],
)
def test_failures_that_may_pass_are_retried(world: World, request_: Request, failure: Failure, tries: int) -> None:
    answers = Answers(world, failure)
    with pytest.raises(type(failure)):
        world.exchange.call(request_, world.deadline(300.0))
    assert len(answers.asked) == tries


@pytest.mark.parametrize(
    ("first", "doubtful"),
    [
        (NetworkError("cut", written=True), True),
        (NetworkError("unreachable", written=False), False),
        (RateLimited("slow"), False),
    ],
)
def test_the_last_failure_is_doubtful_when_an_earlier_try_was_written(
    world: World, first: Failure, doubtful: bool
) -> None:
    Answers(world, first, Conflict("ended", code="conflict.ended"))
    with pytest.raises(Conflict) as caught:
        world.exchange.call(GET, world.deadline())
    assert caught.value.doubtful is doubtful


def test_retry_after_is_respected(world: World) -> None:
    Answers(world, RateLimited("slow", retry_after=7.0), RateLimited("slow"), said(200))
    assert world.exchange.call(GET, world.deadline()).ok
    assert world.clock.sleeps == [7.0, 1.0]
    assert len(world.notices) == 2


def test_a_wait_past_the_deadline_raises_the_last_failure_at_once(world: World) -> None:
    answers = Answers(world, RateLimited("slow", retry_after=31.0))
    with pytest.raises(RateLimited):
        world.exchange.call(GET, world.deadline(30.0))
    assert (len(answers.asked), world.clock.sleeps) == (1, [])


def test_a_read_that_the_deadline_cuts_off_raises_the_failure_before_it(world: World) -> None:
    def cut_off() -> HttpResponse:
        world.clock.advance(30.0)
        raise NetworkError("timed out", written=True)

    Answers(world, NetworkError("HTTP 503", code="service.down", written=True), cut_off)
    with pytest.raises(NetworkError) as caught:
        world.exchange.call(GET, world.deadline(30.0))
    assert caught.value.code == "service.down"


def test_a_locked_session_is_retried_for_a_limited_time(world: World) -> None:
    Answers(world, Conflict("locked", code="conflict.locked"))
    with pytest.raises(Conflict):
        world.exchange.call(POST, world.deadline())
    assert TIMINGS.lock_patience <= world.clock.monotonic() <= TIMINGS.lock_patience + 0.5
    assert all(0.2 <= wait <= 0.5 for wait in world.clock.sleeps)
    world.exchange.retry.lock_patience = 0.0
    world.clock.sleeps.clear()
    with pytest.raises(Conflict):
        world.exchange.call(POST, world.deadline())
    assert world.clock.sleeps == []


@given(some.integers(0, 200), some.floats(0.01, 60), some.floats(0.01, 600), some.integers())
def test_jitter_stays_within_its_bounds(attempt: int, base: float, cap: float, seed: int) -> None:
    wait = jittered(Random(seed), attempt, base=base, cap=cap)
    assert 0.0 <= wait <= min(cap, base * 2.0 ** min(attempt, 30))


def test_jitter_covers_the_whole_range() -> None:
    random = Random(1)
    waits = [jittered(random, 3, base=1.0, cap=30.0) for _ in range(2000)]
    assert min(waits) < 0.1
    assert max(waits) > 7.9
    assert 3.7 < sum(waits) / len(waits) < 4.3


# --- budgets ---


def test_a_budget_paces_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, request_rate=Rate(3, 60.0))
    Answers(world, said(200))
    for _ in range(3):
        world.exchange.call(GET, world.deadline())
    with pytest.raises(RateLimited) as caught:
        world.exchange.call(GET, world.deadline(10.0))
    assert caught.value.retry_after == pytest.approx(20.0, abs=1.0)
    world.exchange.call(GET, world.deadline(100.0))
    assert world.clock.monotonic() == pytest.approx(20.0, abs=1.0)


# --- credentials ---

BEARER = replace(GET, credential="guest")


def expiring(world: World, seconds: float) -> None:
    held = world.exchange.session.credential("guest")
    assert held is not None
    world.exchange.record.store(world.exchange.session.having(replace(held, expires_at=world.clock.now() + seconds)))


def test_the_token_is_sent_only_where_the_request_asks_for_it(world: World) -> None:
    answers = Answers(world, said(200))
    world.exchange.call(BEARER, world.deadline())
    world.exchange.call(GET, world.deadline())
    assert [headers.get("Authorization") for headers in answers.headers] == ["Bearer token-of-the-guest", None]


def test_the_token_is_renewed_after_401(world: World) -> None:
    answers = Answers(world, said(401), said(200, b'{"token": "fresh"}'), said(200))
    assert world.exchange.call(BEARER, world.deadline()).ok
    assert [one.route for one in answers.asked] == ["history", "refresh", "history"]
    assert answers.headers[2]["Authorization"] == "Bearer fresh"
    stored = world.state.get(SCOPE, "default")
    assert stored is not None
    assert stored.token() == "fresh"


def test_a_second_401_is_final(world: World) -> None:
    answers = Answers(world, said(401), said(200, b'{"token": "fresh"}'), said(401))
    with pytest.raises(Unauthorised):
        world.exchange.call(BEARER, world.deadline())
    assert len(answers.asked) == 3


def test_a_renewal_authorised_by_the_old_token_does_not_wait_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, renewal_margins={"guest": 60.0})
    expiring(world, 10.0)
    answers = Answers(world, said(200, b'{"token": "fresh"}'), said(200))
    begun = world.clock.monotonic()
    world.exchange.call(BEARER, world.deadline())
    assert world.clock.monotonic() == begun
    assert [headers["Authorization"] for headers in answers.headers] == ["Bearer token-of-the-guest", "Bearer fresh"]


def test_a_refused_renewal_is_not_retried(world: World) -> None:
    answers = Answers(world, said(401))
    with pytest.raises(Unauthorised):
        world.exchange.call(BEARER, world.deadline())
    assert [one.route for one in answers.asked] == ["history", "refresh"]


def test_a_token_renewed_by_another_process_is_used(world: World) -> None:
    other = world.another()
    held = other.session.credential("guest")
    assert held is not None
    other.record.store(other.session.having(replace(held, secret=Secret("from the other"))))
    answers = Answers(world, said(401), said(200))
    world.exchange.call(BEARER, world.deadline())
    assert [one.route for one in answers.asked] == ["history", "history"]
    assert answers.headers[1]["Authorization"] == "Bearer from the other"


def test_a_refused_token_of_another_process_is_renewed(world: World) -> None:
    """This process did not renew it, so it asks the service once."""
    other = world.another()
    held = other.session.credential("guest")
    assert held is not None
    other.record.store(other.session.having(replace(held, secret=Secret("from the other"))))
    answers = Answers(world, said(401), said(401), said(200, b'{"token": "fresh"}'), said(200))
    world.exchange.call(BEARER, world.deadline())
    assert [one.route for one in answers.asked] == ["history", "history", "refresh", "history"]
    assert answers.headers[-1]["Authorization"] == "Bearer fresh"


def test_an_api_without_refresh_raises_the_service_s_refusal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def obtain(*_: object) -> Flow[Session]:
        raise Unsupported("no refresh")
        yield

    monkeypatch.setattr(world.dialect, "obtain", obtain)
    Answers(world, said(401))
    with pytest.raises(Unauthorised):
        world.exchange.call(BEARER, world.deadline())


def test_a_failed_renewal_leaves_the_request_unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, renewal_margins={"guest": 60.0})
    expiring(world, -1.0)
    Answers(world, DOWN)
    with pytest.raises(NetworkError) as caught:
        world.exchange.call(replace(POST, credential="guest"), world.deadline())
    assert not caught.value.written


def test_retries_of_a_renewal_are_not_multiplied_by_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, renewal_margins={"guest": 60.0}, renewal_backoff=Backoff(0.1, 5.0, 3))
    expiring(world, -1.0)
    answers = Answers(world, UNSENT)
    with pytest.raises(NetworkError):
        world.exchange.call(BEARER, world.deadline(300.0))
    assert len(answers.asked) == 3


# --- renewing ahead of time, and waiting for it ---


@pytest.fixture
def ageing(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(monkeypatch, renewal_margins={"guest": 60.0})
    expiring(world, 50.0)
    return world


def silent(world: World, seconds: float) -> Callable[[], HttpResponse]:
    """The service takes a renewal and says nothing, which takes the time there is."""

    def nothing() -> HttpResponse:
        world.clock.advance(seconds)
        raise NetworkError("timed out before the response was complete", written=True)

    return nothing


def test_an_early_renewal_does_not_wait_for_another_process(ageing: World) -> None:
    answers = Answers(ageing, said(200))
    with ageing.another().record.lock("renew guest", ageing.deadline()):
        assert ageing.exchange.call(BEARER, ageing.deadline()).ok
    assert (answers.headers[0]["Authorization"], ageing.clock.monotonic()) == ("Bearer token-of-the-guest", 0.0)
    assert ageing.notices == []


@pytest.mark.parametrize("outcome", ["silence", "refused", "nonsense"])
def test_a_failed_early_renewal_does_not_fail_the_request(ageing: World, outcome: str) -> None:
    fails: dict[str, HttpResponse | Callable[[], HttpResponse]] = {
        "silence": silent(ageing, TIMINGS.early_renewal),
        "refused": said(401),
        "nonsense": said(200, b"<html>"),
    }
    answers = Answers(ageing, fails[outcome], said(200), said(200), said(200, b'{"token": "fresh"}'), said(200))
    for _ in range(2):
        assert ageing.exchange.call(BEARER, ageing.deadline()).ok
    assert [one.route for one in answers.asked] == ["refresh", "history", "history"]
    assert answers.headers[2]["Authorization"] == "Bearer token-of-the-guest"
    assert "could not be renewed yet" in ageing.notices[0]
    ageing.clock.advance(TIMINGS.early_renewal_pause)
    ageing.exchange.call(BEARER, ageing.deadline())
    assert [one.route for one in answers.asked[3:]] == ["refresh", "history"]
    assert answers.headers[4]["Authorization"] == "Bearer fresh"


@pytest.mark.parametrize(("left", "share"), [(30.0, TIMINGS.early_renewal), (8.0, 2.0), (None, TIMINGS.early_renewal)])
def test_an_early_renewal_gets_a_share_of_the_deadline(
    ageing: World, monkeypatch: pytest.MonkeyPatch, left: float | None, share: float
) -> None:
    given: list[float | None] = []

    def perform(request: Request, *, deadline: Deadline, **_: object) -> HttpResponse:
        given.append(deadline.remaining())
        return said(200, b'{"token": "fresh"}')

    monkeypatch.setattr(ageing.service, "perform", perform)
    ageing.exchange.call(BEARER, ageing.deadline(left))
    assert given == [share, left]


def test_a_token_that_expires_during_an_early_renewal_is_renewed_again(ageing: World) -> None:
    ageing.clock.advance(51.0 - TIMINGS.early_renewal)
    answers = Answers(ageing, silent(ageing, TIMINGS.early_renewal), said(200, b'{"token": "fresh"}'), said(200))
    ageing.exchange.call(BEARER, ageing.deadline())
    assert [one.route for one in answers.asked] == ["refresh", "refresh", "history"]


@pytest.mark.parametrize("why", ["expired", "refused"])
def test_waiting_for_another_process_s_renewal_ends_as_a_network_error(ageing: World, why: str) -> None:
    """Contract §5: 9 only when the service was reached and the awaited thing did not come."""
    if why == "expired":
        ageing.clock.advance(51.0)
    else:
        expiring(ageing, 1000.0)
    begun = ageing.clock.monotonic()
    answers = Answers(ageing, said(401))
    with ageing.another().record.lock("renew guest", ageing.deadline()), pytest.raises(NetworkError) as caught:
        ageing.exchange.call(replace(POST, route="send", credential="guest"), ageing.deadline(20.0))
    assert "another guestctl process" in caught.value.message
    assert not caught.value.written
    assert ageing.clock.monotonic() - begun == pytest.approx(10.0, abs=0.1)
    assert len(answers.asked) == (0 if why == "expired" else 1)


def test_a_waiting_process_renews_the_token_itself_in_the_time_left(ageing: World) -> None:
    """The one before has given up in time for that."""
    ageing.clock.advance(51.0)
    begun = ageing.clock.monotonic()
    first, second = ageing.exchange, ageing.another()
    answers = Answers(ageing, said(200, b'{"token": "fresh"}'), said(200))
    holding = first.record.lock("renew guest", ageing.deadline())
    holding.__enter__()
    sleep = ageing.clock.sleep

    def slept(seconds: float) -> None:
        sleep(seconds)
        if ageing.clock.monotonic() - begun > 5.0:
            ageing.clock.sleep = sleep  # type: ignore[method-assign]
            holding.__exit__(None, None, None)

    ageing.clock.sleep = slept  # type: ignore[method-assign]
    assert second.call(BEARER, ageing.deadline(20.0)).ok
    assert [one.route for one in answers.asked] == ["refresh", "history"]


def test_an_oauth_grant_of_another_process_replaces_our_refused_one(world: World) -> None:
    """Our own is not tried again before each request."""

    def granted() -> Flow[Credential]:
        reply = yield from http_request(Request("POST", "https://toy.example.test/oauth", "oauth"))
        return Credential("oauth", Secret(str(reply.object()["token"])), world.clock.now() + 1000)

    world.dialect.oauth = granted  # type: ignore[method-assign]
    ours, theirs = said(200, b'{"token": "ours"}'), Credential("oauth", Secret("theirs"), world.clock.now() + 1000)
    answers = Answers(world, ours, said(200), said(401), said(200))
    request = replace(GET, credential="oauth")
    world.exchange.call(request, world.deadline())
    world.state.put_credential(oauth_scope(SCOPE, world.dialect.profile), theirs)
    world.exchange.call(request, world.deadline())
    world.exchange.call(request, world.deadline())
    sent = [headers.get("Authorization") for headers in answers.headers]
    assert sent == [None, "Bearer ours", "Bearer ours", "Bearer theirs", "Bearer theirs"]


# --- keeping ---


def test_a_newer_token_of_another_process_is_not_overwritten(world: World) -> None:
    listening, other = world.exchange, world.another()
    now = world.clock.now()
    listening.record.store(listening.session.having(Credential("guest", Secret("old"), now + 10)))
    other.record.store(other.session.having(Credential("guest", Secret("new"), now + 1000)))
    listening.record.store(replace(listening.session, new_session=False))
    stored = world.state.get(SCOPE, "default")
    assert stored is not None
    assert stored.token() == listening.session.token() == "new"


def test_a_credential_revoked_at_the_end_is_not_stored_again(world: World) -> None:
    listening, other = world.exchange, world.another()
    signed_in = listening.session.having(Credential("sign-in", Secret("revoked"), world.clock.now() + 1000))
    listening.record.store(signed_in)
    other.record.store(replace(other.session, state="ended"))  # it never knew of the sign-in: as good as revoked
    listening.record.store(replace(listening.session, state="ended"))
    stored = world.state.get(SCOPE, "default")
    assert stored is not None
    assert stored.credential("sign-in") is None
    assert stored.credential("guest") is not None


def test_a_sign_in_by_another_process_is_not_lost(world: World) -> None:
    """`listen` keeps a message to be answered; it had never heard of the sign-in."""
    listening, other = world.exchange, world.another()
    other.record.store(other.session.having(Credential("sign-in", Secret("given elsewhere"), world.clock.now() + 1000)))
    listening.record.store(replace(listening.session, offer={"text": "pick one"}))
    stored = world.state.get(SCOPE, "default")
    assert stored is not None
    assert stored.credential("sign-in") == listening.session.credential("sign-in") is not None
    listening.record.store(listening.session.without("sign-in"))
    stored = world.state.get(SCOPE, "default")
    assert stored is not None
    assert stored.credential("sign-in") is None, "but what we give up ourselves is gone"


def test_a_token_without_expiry_from_another_process_is_not_overwritten(world: World) -> None:
    listening, other = world.exchange, world.another()
    listening.record.store(listening.session.having(Credential("sign-in", Secret("old"))))
    other.record.store(other.session.having(Credential("sign-in", Secret("new"))))
    listening.record.store(replace(listening.session, offer={"text": "pick one"}))
    stored = world.state.get(SCOPE, "default")
    assert stored is not None
    assert (
        stored.credential("sign-in") == listening.session.credential("sign-in") == Credential("sign-in", Secret("new"))
    )


def test_a_session_ended_by_another_process_stays_over(world: World) -> None:
    listening, other = world.exchange, world.another()
    other.record.store(replace(other.session, state="ended"))
    listening.record.store(replace(listening.session, offer={"text": "pick one"}))
    stored = world.state.get(SCOPE, "default")
    assert stored is not None
    assert stored.state == listening.session.state == "ended"


def test_a_token_is_not_renewed_again_soon_after_a_renewal_that_did_not_help(world: World) -> None:
    """But one that another process was given is taken, and after a while one is asked for again."""
    ours, other = world.exchange, world.another()
    held = ours.session.credential("guest")
    assert ours.credentials.new_token_may_help("guest", held)
    ours.credentials.unproven_since = world.clock.monotonic()
    assert not ours.credentials.new_token_may_help("guest", held)
    other.record.store(other.session.having(Credential("guest", Secret("given elsewhere"), world.clock.now() + 1000)))
    assert ours.credentials.new_token_may_help("guest", held)
    assert not ours.credentials.new_token_may_help("guest", other.session.credential("guest"))
    world.clock.advance(TIMINGS.early_renewal_pause)
    assert ours.credentials.new_token_may_help("guest", other.session.credential("guest"))


def test_notes_deleted_by_another_process_stay_deleted(world: World) -> None:
    """`listen` loaded the session before its first message took along what it was opened with."""
    world.exchange.record.store(replace(world.exchange.session, notes={"pending": {"plan": "gold"}, "kept": 1}))
    listening, other = world.exchange, world.another()
    other.record.store(replace(other.session, notes={"kept": 1}))
    listening.record.store(replace(listening.session, notes={**listening.session.notes, "heard": 2}))
    stored = world.state.get(SCOPE, "default")
    assert stored is not None
    assert stored.notes == listening.session.notes == {"kept": 1, "heard": 2}


@pytest.mark.parametrize(
    "theirs",
    [{"state": "read_only"}, {"offer": {"text": "pick"}}, {"new_session": True}, {"expires_at": 9.0}],
    ids=lambda theirs: next(iter(theirs)),
)
def test_fields_changed_only_by_another_process_are_kept(world: World, theirs: dict[str, Any]) -> None:
    ours, other = world.exchange, world.another()
    other.record.store(replace(other.session, **theirs))
    ours.record.store(replace(ours.session, used_token="spoilt"))
    stored = world.state.get(SCOPE, "default")
    assert stored is not None
    assert stored.used_token == "spoilt"
    assert {name: getattr(stored, name) for name in theirs} == theirs
    ours.record.store(replace(ours.session, state="active", offer=None, new_session=False, expires_at=None))
    stored = world.state.get(SCOPE, "default")
    assert stored is not None
    assert (stored.state, stored.offer, stored.new_session, stored.expires_at) == ("active", None, False, None)


def test_a_forgotten_session_is_not_stored_again(world: World) -> None:
    world.state.forget(SCOPE, "default")
    world.exchange.record.store(replace(world.exchange.session, new_session=False))
    assert world.state.get(SCOPE, "default") is None
    assert any("forgotten" in notice for notice in world.notices)


def test_a_new_session_keeps_the_name_it_took(world: World) -> None:
    """`listen` goes on with the old session while another command sets it aside and begins a new one."""
    listening = world.exchange
    world.state.rename(SCOPE, "default", "default-2")
    world.clock.advance(60.0)
    began = Session("toy", "p", state="active", created_at=world.clock.now()).having(
        Credential("guest", Secret("token of the new"))
    )
    world.state.put(SCOPE, began)
    listening.record.store(replace(listening.session, new_session=False))
    stored = world.state.get(SCOPE, "default")
    assert stored is not None
    assert stored.token() == "token of the new"
    assert (listening.session.name, listening.session.token()) == ("default-2", "token-of-the-guest")
    assert world.notices == []


def test_a_new_session_is_stored(world: World) -> None:
    world.state.forget(SCOPE, "default")
    world.exchange.session = Session("toy", "p", created_at=world.clock.now())
    world.exchange.record.store(replace(world.exchange.session, state="active"))
    world.exchange.record.store(replace(world.exchange.session, new_session=False))
    stored = world.state.get(SCOPE, "default")
    assert stored is not None
    assert (stored.state, stored.new_session) == ("active", False)


def test_tokens_are_not_stored_with_store_tokens_memory(world: World) -> None:
    world.dialect.profile = replace(world.dialect.profile, store_tokens="memory")
    world.exchange.record.store(world.exchange.session)
    stored = world.state.get(SCOPE, "default")
    assert stored is not None
    assert stored.credentials == {}
    assert world.exchange.session.token() == "token-of-the-guest"


# --- flows ---


def test_a_flow_can_catch_a_failure(world: World) -> None:
    def flow() -> Flow[str]:
        try:
            yield from http_request(GET)
        except Forbidden:
            reply = yield from http_request(replace(GET, route="configuration"))
            return str(reply.status)
        return "not reached"

    Answers(world, Forbidden("no"), said(204, b""))
    assert world.exchange.perform(flow(), world.deadline()) == "204"


def test_the_first_frame_opens_the_socket(world: World) -> None:
    world.exchange.perform(frame_request({"do": "attach"}, None, "typing"), world.deadline())
    assert len(world.service.sockets) == 1
    world.exchange.perform(frame_request({"do": "attach"}, None, "typing"), world.deadline())
    assert len(world.service.sockets) == 1


def test_an_api_without_a_socket_is_unsupported(world: World) -> None:
    exchange: SessionEngine = world.exchange
    exchange.open_socket = None
    with pytest.raises(Unsupported):
        exchange.attached(world.deadline())


def test_a_token_that_was_never_stored_ends_the_session(world: World) -> None:
    world.dialect.refreshes = None
    world.exchange.session = replace(world.exchange.session, credentials={})
    with pytest.raises(SessionOver):
        world.exchange.credentials.get("guest", world.deadline())


# --- a history that is behind itself ---


class Short:
    """A history that reports one more message each time and shows none."""

    def __init__(self, world: World) -> None:
        self.number = self.growth = 0
        self.world = world
        world.dialect.history = self.page  # type: ignore[method-assign]

    def page(self, *_: object, **__: object) -> Flow[HistoryPage]:
        self.number += self.growth
        return done(HistoryPage((), announced_up_to=self.number or None))

    def read(self, *, cursor: str | None = None, within: float | None = 30.0, known: int = 0) -> float:
        """How long one page took."""
        begun = self.world.clock.monotonic()
        self.world.exchange.page(None, cursor, self.world.deadline(within), known=known)
        return self.world.clock.monotonic() - begun


def test_one_reading_waits_once_for_missing_messages(world: World) -> None:
    short = Short(world)
    assert short.read() == 0.0
    short.growth = 1
    assert short.read() == TIMINGS.lag_patience
    assert short.read(cursor="more of it") == 0.0
    assert len(world.notices) == 2
    assert short.read() == TIMINGS.lag_patience


def test_known_numbers_and_those_waited_for_before_are_not_waited_for(world: World) -> None:
    short = Short(world)
    short.number = 5
    assert short.read(known=5) == 0.0
    assert world.notices == []
    assert short.read() == TIMINGS.lag_patience
    assert short.read() == 0.0
    assert len(world.notices) == 1
    assert "up to 5" in world.notices[0]


def test_the_deadline_ends_the_wait_before_the_reading(world: World) -> None:
    short = Short(world)
    short.number = 5
    assert 0.5 <= short.read(within=1.0) < 1.0
    assert len(world.notices) == 1
