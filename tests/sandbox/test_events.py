"""A sandbox reports to its observer everything that passes between guests and it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
import requests
import websocket
from tornado.web import RequestHandler

from guestctl.sandbox import DEPLOYMENT_ID
from guestctl.sandbox.server import Sandbox
from tests.sandbox.bare import EVERYBODY, Guest, GuestSession, refused
from tests.sandbox.observed import Events
from tests.sandbox.stranger import PATIENCE, Join

Make = Callable[..., Sandbox]


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def observed(make: Make, events: Events) -> Sandbox:
    return make(fast=True, observer=events)


def id_of(sandbox: Sandbox) -> str:
    (conversation,) = sandbox.call(lambda: list(sandbox.service.conversations))
    return conversation


def faults(sandbox: Sandbox, *specs: str) -> None:
    sandbox.call(lambda: [sandbox.faults.add(spec) for spec in specs])


def test_a_socket_is_reported_from_its_upgrade_to_its_end(observed: Sandbox, events: Events, join: Join) -> None:
    guest = join(observed)
    guest.configure()
    guest.message("hi")
    received = [guest.receive(), guest.receive()]
    guest.socket.ping()
    guest.socket.pong()
    guest.socket.send_close(4000, b"bye")
    assert guest.expect_close() == 4000
    events.wait("closed")
    session = id_of(observed)
    assert events.kinds() == [
        *("connect", "upgrade", "frame_out", "session", "frame_in", "frame_out", "frame_in", "frame_in"),
        *("ping", "pong", "pong", "close", "close", "closed"),
    ]
    assert {data["socket"] for _, data in events.all} == {1}
    assert [data.get("session") for _, data in events.all] == [None] * 3 + [session] * 11
    (connect,), (upgrade,) = events.of("connect"), events.of("upgrade")
    assert connect["url"] == upgrade["url"] == f"{observed.socket_url}?deploymentId={DEPLOYMENT_ID}"
    assert upgrade["status"] == 101
    assert upgrade["request_headers"]["Host"] == urlsplit(observed.url).netloc
    assert upgrade["headers"]["upgrade"] == "websocket"
    assert json.loads(events.of("frame_out")[1]["text"])["message"]["text"] == "hi"
    assert [json.loads(data["text"]) for data in events.of("frame_in")[1:]] == received
    assert [data["direction"] for data in events.of("ping", "pong")] == ["out", "in", "out"]
    assert [(data["direction"], data["code"], data["reason"]) for data in events.of("close")] == [
        ("out", 4000, "bye"),
        ("in", 4000, ""),
    ]
    assert (events.of("closed")[0]["code"], events.of("closed")[0]["error"]) == (4000, None)


@pytest.mark.parametrize("kind", EVERYBODY)
def test_every_request_and_frame_belongs_to_its_session(kind: type[Guest], observed: Sandbox, events: Events) -> None:
    """A session is known with the answer of its create request, and with every later request and frame."""
    guest = kind(observed)
    session = id_of(observed)
    creates = [data for data in events.of("request", "response") if data["route"] == "create"]
    assert [data.get("session") for data in creates] == [None, session]
    guest.history()
    if not isinstance(guest, EVERYBODY[-1]):
        line = guest.listen()
        line.leave()
        events.wait("closed")
    later = [data for _, data in events.all if data.get("route") not in {"oauth", "create"}]
    learned = [kind for kind, _ in events.all].count("session")
    unknown = [data for data in later if data.get("session") is None]
    assert all(data.get("session") in {None, session} for data in later)
    assert not unknown if not learned else all("socket" in data for data in unknown)


def test_a_request_and_its_answer_have_the_same_number(observed: Sandbox, events: Events) -> None:
    guest = GuestSession(observed)
    guest.send("hi", "key")
    guest.history(limit=5)
    pairs = list(zip(events.of("request"), events.of("response"), strict=True))
    assert [(one["exchange"], other["exchange"]) for one, other in pairs] == [(1, 1), (2, 2), (3, 3)]
    assert [(one["method"], one["route"], other["status"]) for one, other in pairs] == [
        ("POST", "create", 201),
        ("POST", "send", 200),
        ("GET", "history", 200),
    ]
    sent, answer = pairs[1]
    assert json.loads(sent["body"]) == {"text": "hi", "messageId": "key"}
    assert sent["headers"]["Authorization"] == f"Bearer {guest.token}"
    assert json.loads(answer["body"])["messageId"]
    assert answer["headers"]["content-length"] == str(len(answer["body"]))
    asked, shown = pairs[2]
    assert asked["url"] == f"{observed.url}{guest.messages}?limit=5"
    assert shown["url"] == f"{observed.url}{guest.messages}"
    assert asked["body"] is None


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        ("duplicate", ["a", "a", "b"]),
        ("swap:after=1", ["b", "a"]),
        ("garbage:after=1", [None, "b"]),
        ("truncate:after=1", [None, "b"]),
        ("delay:ms=50,after=1", ["a", "b"]),
    ],
)
def test_frames_are_reported_as_they_were_written(
    observed: Sandbox, events: Events, join: Join, fault: str, wanted: list[str | None]
) -> None:
    guest = join(observed)
    guest.configure()
    begun = len(events.wait("frame_in"))
    faults(observed, fault if "after" in fault else f"{fault}:times=1")
    observed.call(lambda: [observed.admin.push(text) for text in ("a", "b")])
    received = [guest.socket.recv() for _ in wanted]
    written = [data["text"] for data in events.wait("frame_in", begun + len(wanted))][begun:]
    assert written == received

    def text_of(frame: str) -> str | None:
        with suppress(ValueError):
            return str(json.loads(frame)["body"]["text"])
        return None

    assert [text_of(frame) for frame in written] == wanted


def test_a_refused_upgrade_is_reported_with_its_answer(observed: Sandbox, events: Events) -> None:
    faults(observed, "refuse:status=503,times=1")
    status, _ = refused(observed, f"/v1?deploymentId={DEPLOYMENT_ID}")
    assert status == 503
    (ended,) = events.wait("closed")
    assert events.kinds() == ["connect", "upgrade", "closed"]
    (upgrade,) = events.of("upgrade")
    assert upgrade["status"] == 503
    assert json.loads(upgrade["body"])["status"] == 503
    assert (ended["code"], ended["error"]) == (None, "503")


def test_an_upgrade_without_its_headers_is_reported_as_refused(observed: Sandbox, events: Events) -> None:
    answer = requests.get(
        f"{observed.url}/v1?deploymentId={DEPLOYMENT_ID}", headers={"Upgrade": "websocket"}, timeout=PATIENCE
    )
    assert answer.status_code == 400
    assert events.wait("upgrade")[0]["status"] == 400


@pytest.mark.parametrize("ending", ["reset by the service", "reset by the guest", "violation"])
def test_an_end_without_the_guests_close_frame_is_reported(
    observed: Sandbox, events: Events, join: Join, ending: str
) -> None:
    guest = join(observed)
    guest.configure()
    if ending == "reset by the service":
        faults(observed, "drop:after=1")
        observed.call(lambda: observed.admin.push("lost"))
    elif ending == "reset by the guest":
        guest.leave(broken=True)
    else:
        guest.socket.send(b"\x00", opcode=websocket.ABNF.OPCODE_BINARY)
        guest.expect_close()
        guest.leave()
    (closed,) = events.wait("closed")
    close = events.of("close")[0]
    expected = {
        "reset by the service": ("in", 1006),
        "reset by the guest": ("out", 1006),
        "violation": ("in", 1003),
    }[ending]
    assert (close["direction"], close["code"]) == expected
    assert closed["code"] == expected[1]
    assert not any("lost" in str(data["text"]) for data in events.of("frame_in"))


def test_an_answer_that_the_guest_does_not_wait_for_is_lost(observed: Sandbox, events: Events) -> None:
    guest = GuestSession(observed)
    faults(observed, "delay:ms=86400000,on=history")
    with socket.create_connection((urlsplit(observed.url).hostname, observed.port)) as connection:
        host = urlsplit(observed.url).netloc
        head = f"GET {guest.messages} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {guest.token}\r\n\r\n"
        connection.sendall(head.encode())
        events.wait("request", 2)
    (lost,) = events.wait("lost")
    asked = events.of("request")[1]
    assert (lost["exchange"], lost["session"], lost["method"]) == (2, asked["session"], "GET")
    assert len(events.of("response")) == 1


def test_a_request_that_breaks_off_is_reported_as_lost(observed: Sandbox, events: Events) -> None:
    with socket.create_connection((urlsplit(observed.url).hostname, observed.port)) as connection:
        host = urlsplit(observed.url).netloc
        head = f"POST /api/v2/guest/webmessaging/sessions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b"{")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    events.wait("lost")
    assert [kind for kind, _ in events.all] == ["request", "lost"]
    assert events.of("request")[0]["body"] is None


def test_admin_requests_are_no_events(observed: Sandbox, events: Events) -> None:
    bearer = {"Authorization": f"Bearer {observed.admin_key}"}
    assert requests.get(observed.admin_url + "/sessions", headers=bearer, timeout=PATIENCE).status_code == 200
    assert requests.get(observed.admin_url + "/sessions", timeout=PATIENCE).status_code == 401
    assert requests.get(observed.url + "/nothing", timeout=PATIENCE).status_code == 404
    assert [urlsplit(data["url"]).path for data in events.of("request")] == ["/nothing"]
    assert [(data["status"], data["route"]) for data in events.of("response")] == [(404, "other")]


def test_an_observer_may_come_and_go_while_the_sandbox_runs(make: Make, events: Events, join: Join) -> None:
    sandbox = make(fast=True)
    guest = join(sandbox)
    guest.configure()

    def observe(observer: Events | None) -> None:
        sandbox.observer = observer

    sandbox.call(lambda: observe(events))
    sandbox.call(lambda: sandbox.admin.push("seen"))
    guest.receive()
    sandbox.call(lambda: observe(None))
    sandbox.call(lambda: sandbox.admin.push("unseen"))
    guest.receive()
    assert events.kinds() == ["session", "frame_in"]
    assert events.of("frame_in")[0]["session"] == id_of(sandbox)


def test_extra_rules_come_before_the_addresses_of_guests(make: Make, events: Events) -> None:
    class Page(RequestHandler):
        def get(self, name: str) -> None:
            self.write(f"page {name}")

    sandbox = make(fast=True, observer=events, extra_rules=[(r"/pages/(.*)", Page)])
    assert requests.get(sandbox.url + "/pages/one", timeout=PATIENCE).text == "page one"
    assert requests.get(sandbox.url + "/page", timeout=PATIENCE).status_code == 404
    assert len(events.of("request")) == 1


def test_the_address_is_that_which_the_guest_wrote(make: Make, events: Events) -> None:
    sandbox = make(fast=True, observer=events, also_hosts=("shop.example:8080",))
    requests.get(sandbox.url + "/x?y=1", headers={"Host": "shop.example:8080"}, timeout=PATIENCE)
    assert events.wait("request")[0]["url"] == "http://shop.example:8080/x?y=1"
