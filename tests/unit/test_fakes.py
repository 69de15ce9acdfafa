"""The fakes complain: of what they did not expect, and of what never came."""

from __future__ import annotations

import socket

import pytest

from guestctl.core.errors import Unauthorised
from guestctl.core.wire import Request
from guestctl.dialects.flows import Flow, Incoming, frame_request, http_request
from tests.conftest import SocketUsed
from tests.fakes import FakeClock, FlowDriver, ids, reply

URL = "https://api.example.test/x"


def test_time_passes_only_when_told(clock: FakeClock) -> None:
    began = clock.now()
    clock.sleep(1.5)
    clock.advance(10)
    clock.jump(3600)
    assert clock.sleeps == [1.5]
    assert clock.monotonic() == 11.5
    assert clock.now() == began + 3611.5


def test_no_test_here_reaches_the_network() -> None:
    with socket.socket() as one, pytest.raises(SocketUsed):
        one.connect(("127.0.0.1", 9))
    with pytest.raises(SocketUsed):
        socket.getaddrinfo("localhost", 80)


def test_the_same_ids_in_every_run() -> None:
    assert [ids()() for _ in range(2)] == ["00000000-0000-4000-8000-000000000001"] * 2


def _asks_twice() -> Flow[str]:
    first = yield from http_request(Request("GET", URL, "history"))
    heard = yield from frame_request({"say": first.text()}, lambda h: h == "yes", "send", timeout=1.0)  # type: ignore[comparison-overlap]
    return str(heard)


def test_a_flow_driven_by_hand() -> None:
    hand = FlowDriver(_asks_twice())
    assert hand.request.url == URL
    hand.answer(reply(200, "hi"))
    assert hand.sent == {"say": "hi"}
    awaited: list[Incoming] = ["no", "yes"]  # type: ignore[list-item]
    assert hand.receive(awaited)
    assert hand.done() == "yes"


def test_a_flow_that_fails() -> None:
    hand = FlowDriver(_asks_twice())
    hand.fail(Unauthorised("no"))
    with pytest.raises(Unauthorised):
        hand.done()
