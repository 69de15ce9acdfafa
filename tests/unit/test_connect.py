"""Opening a session's socket: refused tokens, expired sessions, and what a failure must release."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guestctl.core.errors import Forbidden, NetworkError, RateLimited, SessionOver, TimedOut, Unauthorised
from guestctl.core.model import Secret
from guestctl.core.wire import HttpResponse
from guestctl.engine.connect import open_socket
from guestctl.storage.state import LedgerEntry
from guestctl.transport.socket import Refusal
from tests.unit.engine_fakes import SCOPE, World, lost


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


FRESH = HttpResponse(200, {}, b'{"token": "fresh-token"}', 0.0)


def test_an_attached_session_is_stored_and_logged(world: World) -> None:
    line = open_socket(world.exchange, world.deadline())
    assert line.session is world.exchange.session
    assert [entry.event for entry in world.state.activity(SCOPE, world.exchange.session)] == ["ws_connected"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_temporary_refusal_is_retried(world: World, status: int) -> None:
    world.service.doors.append(Refusal(status, {"retry-after": "2"}, '{"message": "later"}'))  # type: ignore[arg-type]
    open_socket(world.exchange, world.deadline())
    assert world.clock.monotonic() >= 2.0


@pytest.mark.parametrize(("status", "kind"), [(403, Forbidden), (404, SessionOver), (429, RateLimited)])
def test_a_permanent_refusal_is_raised(world: World, status: int, kind: type[Exception]) -> None:
    world.service.doors.extend([Refusal(status, {}, "no")] * 9)  # type: ignore[list-item]
    with pytest.raises(kind):
        open_socket(world.exchange, world.deadline())
    assert len(world.service.doors) == (5 if status == 429 else 8)


def test_a_refused_token_is_renewed_once(world: World) -> None:
    world.service.doors.append(Refusal(401, {}, "no"))  # type: ignore[arg-type]
    world.service.refreshes.append(FRESH)
    line = open_socket(world.exchange, world.deadline())
    assert line.session.token() == "fresh-token"
    world.service.doors.extend([Refusal(401, {}, "no")] * 2)  # type: ignore[list-item]
    world.service.refreshes.append(FRESH)
    with pytest.raises(Unauthorised):
        open_socket(world.exchange, world.deadline())


def test_a_close_that_refuses_the_token_before_the_attach_renews_it(world: World) -> None:
    real = world.service.heard

    def heard(socket: object, said: dict[str, object]) -> None:
        if said["token"] == "token-of-the-guest":
            world.service.sockets[-1].queue.append(lost(4001))
        else:
            real(socket, said)  # type: ignore[arg-type]

    world.service.heard = heard  # type: ignore[method-assign, assignment]
    world.service.refreshes.append(FRESH)
    assert open_socket(world.exchange, world.deadline()).session.token() == "fresh-token"


def test_a_token_used_up_by_a_close_is_renewed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, renews_before_reconnect=True)
    first = open_socket(world.exchange, world.deadline())
    first.abort()
    assert world.exchange.session.used_token == Secret("token-of-the-guest").placeholder
    world.service.refreshes.append(FRESH)
    open_socket(world.another(), world.deadline())
    assert [socket.said[0]["token"] for socket in world.service.sockets] == ["token-of-the-guest", "fresh-token"]


@pytest.mark.parametrize("state", ["expired", "cleared", "ended"])
def test_a_session_that_is_over_is_not_opened(world: World, state: str) -> None:
    world.exchange.session = replace(world.exchange.session, state=state)  # type: ignore[arg-type]
    with pytest.raises(SessionOver):
        open_socket(world.exchange, world.deadline())
    assert world.service.sockets == []


@pytest.mark.parametrize("known", ["ledger", "outbox"])
def test_a_new_session_in_place_of_one_with_messages_means_it_expired(world: World, known: str) -> None:
    """Contract §2: nothing more is sent, it is marked over."""
    if known == "ledger":
        world.state.record(SCOPE, world.exchange.session, [LedgerEntry("m1")])
    else:
        world.state.begin(SCOPE, world.exchange.session, "k", "{}")
        world.state.mark(SCOPE, world.exchange.session, "k", "accepted", "m1")
    world.service.new_session = True
    with pytest.raises(SessionOver) as caught:
        open_socket(world.exchange, world.deadline())
    assert caught.value.code == "session.expired"
    stored = world.state.get(SCOPE, "default")
    assert stored is not None
    assert stored.state == "expired"
    assert all(socket.gone for socket in world.service.sockets)


def test_a_new_session_may_replace_an_empty_one(world: World) -> None:
    world.service.new_session = True
    assert open_socket(world.exchange, world.deadline()).session.new_session


def test_a_failed_attach_releases_socket_and_slot(world: World) -> None:
    world.dialect.sockets_per_session = 1  # type: ignore[misc]
    world.service.heard = lambda socket, said: None  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(TimedOut) as caught:
            open_socket(world.exchange, world.deadline(2.0))
        assert "answer" in caught.value.message, "the place of the failed one was still taken"
    assert all(socket.gone and socket.closed is not None for socket in world.service.sockets)


def test_opening_waits_for_a_free_connection_slot(world: World) -> None:
    taken = [open_socket(world.another(), world.deadline()) for _ in range(3)]
    with pytest.raises(TimedOut) as caught:
        open_socket(world.exchange, world.deadline(5.0))
    assert "--timeout" in caught.value.hint
    assert world.clock.monotonic() == pytest.approx(5.0, abs=0.1)
    taken[0].close()
    open_socket(world.exchange, world.deadline(5.0))


def test_an_unreachable_service_is_a_network_error(world: World) -> None:
    world.service.doors.extend([NetworkError("refused", code="network.connect")] * 9)
    with pytest.raises(NetworkError) as caught:
        open_socket(world.exchange, world.deadline())
    assert not caught.value.written
