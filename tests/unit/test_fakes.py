"""The fakes complain: of what they did not expect, and of what never came."""

from __future__ import annotations

import json
import socket

import pytest

from guestctl.client import Client
from guestctl.core.clock import Deadline
from guestctl.core.errors import NetworkError, Unauthorised
from guestctl.core.model import Profile
from guestctl.core.values import Json
from guestctl.core.wire import Frame, Request
from guestctl.dialects.flows import Flow, Incoming, frame_request, http_request
from guestctl.storage.state import State
from tests.conftest import SocketUsed
from tests.fakes import FakeClock, FlowDriver, ScriptedTransport, ids, reply

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


def test_an_unexpected_request(clock: FakeClock) -> None:
    with pytest.raises(AssertionError, match="unexpected request"):
        ScriptedTransport(clock).perform(Request("GET", URL, "history"), headers={}, deadline=Deadline(clock, None))


def test_a_request_that_never_came(clock: FakeClock) -> None:
    transport = ScriptedTransport(clock)
    transport.expect("GET", URL, reply())
    transport.expect_socket("wss://api.example.test/v1")
    with pytest.raises(AssertionError, match="never requested"):
        transport.finish()


def test_a_socket_follows_its_script(clock: FakeClock) -> None:
    deadline = Deadline(clock, None)
    transport = ScriptedTransport(clock)
    lost = NetworkError("gone")
    transport.expect_socket(URL).expects({"a": 1}).delivers({"b": 2}, "raw").breaks(lost)
    opened = transport.connect(URL, headers={})
    assert opened.receive(0.5) is None
    assert clock.monotonic() == 0.5
    opened.send('{"a": 1, "more": true}', deadline=deadline)
    assert opened.receive(1.0) == Frame('{"b": 2}', clock.now())
    assert opened.receive(1.0) == Frame("raw", clock.now())
    with pytest.raises(NetworkError):
        opened.receive(1.0)
    transport.finish()
    with pytest.raises(AssertionError, match="unexpected frame"):
        opened.send("{}", deadline=deadline)


def test_a_whole_client_over_a_scripted_transport(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape of the fake is the shape of the transport."""

    def configured(sent: list[Json]) -> Json:
        body = {"connected": True, "newSession": True}
        return {
            "type": "response",
            "class": "SessionResponse",
            "code": 200,
            "tracingId": sent[-1]["tracingId"],
            "body": body,
        }

    def echoed(sent: list[Json]) -> Json:
        body = {"id": "m-1", "type": "Text", "text": "hi", "direction": "Inbound"}
        return {
            "type": "message",
            "class": "StructuredMessage",
            "code": 200,
            "tracingId": sent[-1]["tracingId"],
            "body": body,
        }

    profile = Profile(name="p", base_url="https://api.example.test", deployment_id="d", application="t")
    with ScriptedTransport(clock) as transport:
        transport.install(monkeypatch)
        config = "https://api.example.test/webdeployments/v1/deployments/d/config.json"
        transport.expect("GET", config, reply(200, {"status": "Active", "messenger": {"enabled": True}}))
        door = transport.expect_socket("wss://api.example.test/v1?deploymentId=d&application=t")
        door.expects({"action": "configureSession"}).delivers(configured)
        door.expects({"action": "onMessage"}).delivers(echoed)
        with Client(profile, state=State.open(None, clock), clock=clock, new_id=ids(), environ={}) as guest:
            guest.create()
            sent = guest.send("hi")
        assert sent.delivery == "accepted"
        assert json.loads(json.dumps(transport.sockets[0].sent[-1]))["message"]["text"] == "hi"
        assert transport.sockets[0].closed is not None
