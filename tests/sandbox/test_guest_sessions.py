"""The `guest-sessions` API as other-apis.md describes it, with an independent guest."""

from __future__ import annotations

from typing import Any

import pytest

from guestctl.core.clock import epoch_of
from guestctl.sandbox import DEPLOYMENT_ID
from guestctl.sandbox.server import Sandbox
from tests.sandbox.bare import GuestSession, Line, gone, refused
from tests.sandbox.conftest import Make
from tests.sandbox.stranger import Control, HandClock

SESSIONS = "/api/v2/guest/webmessaging/sessions"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_create_returns_session_and_token(make: Make, hand_clock: HandClock) -> None:
    guest = GuestSession(make(clock=hand_clock))
    assert set(guest.created) == {"webMessagingSessionId", "guestId", "sessionToken", "expiresAt"}
    assert epoch_of(guest.created["expiresAt"]) == hand_clock.now() + 1800


@pytest.mark.parametrize(
    "body", [None, {}, {"deploymentId": DEPLOYMENT_ID}, {"more": 1}, {"customAttributes": {"n": 1}}]
)
def test_create_accepts_an_empty_body(sandbox: Sandbox, body: Any) -> None:
    GuestSession(sandbox).ask("POST", SESSIONS, body, status=201, token="")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"deploymentId": 5}, 400),
        ({"deploymentId": "other"}, 403),
        ({"customAttributes": "x"}, 400),
        ([], 400),
        ("x", 400),
    ],
)
def test_an_invalid_create_is_refused(sandbox: Sandbox, body: Any, status: int) -> None:
    GuestSession(sandbox).ask("POST", SESSIONS, body, status=status)
    assert len(Control(sandbox).sessions()) == 1


def test_send_and_history(sandbox: Sandbox) -> None:
    guest = GuestSession(sandbox)
    first = guest.send("one", "m-1")
    assert set(first) == {"messageId", "sequenceNumber", "timestamp"}
    assert (first["messageId"], first["sequenceNumber"]) == ("m-1", 1)
    assert guest.send("one", "m-1") == first
    assert guest.send("two", "m-2")["sequenceNumber"] == 3
    page = guest.history()
    assert page["lastSequenceNumber"] == 4
    assert [m["sequenceNumber"] for m in page["messages"]] == [1, 2, 3, 4]
    assert page["messages"][0] == {
        "messageId": "m-1",
        "sequenceNumber": 1,
        "direction": "inbound",
        "text": "one",
        "from": {"role": "guest"},
        "timestamp": first["timestamp"],
    }
    assert page["messages"][1]["from"] == {"role": "bot"}


def test_history_reports_the_highest_number(sandbox: Sandbox) -> None:
    guest = GuestSession(sandbox)
    for number in range(60):
        guest.send(f"n{number}")
    seen: list[int] = []
    highest = 120
    while not seen or seen[-1] < highest:
        page = guest.history(lastSequenceNumber=seen[-1] if seen else 0)
        assert page["lastSequenceNumber"] == highest
        assert len(page["messages"]) <= 50
        seen += [m["sequenceNumber"] for m in page["messages"]]
    assert seen == list(range(1, 121))
    assert len(guest.history(limit=100)["messages"]) == 100
    assert guest.history(lastSequenceNumber=500) == {"messages": [], "lastSequenceNumber": highest}


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 101}, {"lastSequenceNumber": -1}, {"lastSequenceNumber": "x"}, {"limit": "5.0"}]
)
def test_an_invalid_page_request_is_refused(sandbox: Sandbox, query: dict[str, Any]) -> None:
    GuestSession(sandbox).history(status=400, **query)


@pytest.mark.parametrize(
    "body",
    [{}, {"text": "a"}, {"messageId": "m"}, {"text": 5, "messageId": "m"}, {"text": "a", "messageId": 5},
     {"text": " ", "messageId": "m"}, {"text": None, "messageId": "m"}, [], None],
)  # fmt: skip
def test_an_invalid_message_is_refused(sandbox: Sandbox, body: Any) -> None:
    guest = GuestSession(sandbox)
    assert guest.ask("POST", guest.messages, body, status=400)["code"] == "bad.request"
    assert guest.texts() == []
    guest.ask("POST", guest.messages, {"text": "a", "messageId": "m", "more": 1})


# -- the socket


def test_the_upgrade_needs_a_token_of_the_session(sandbox: Sandbox) -> None:
    guest, other = GuestSession(sandbox), GuestSession(sandbox)
    assert refused(sandbox, guest.socket)[0] == 401
    assert refused(sandbox, guest.socket, other.token)[0] == 401
    assert refused(sandbox, "/v2/guest/webmessaging/events", guest.token)[0] == 400
    assert refused(sandbox, f"{guest.socket}&guestId={guest.guest}", guest.token)[0] == 400
    assert refused(sandbox, "/v2/guest/webmessaging/events?sessionId=nobody", guest.token)[0] == 404
    assert refused(sandbox, f"/api{guest.socket}", guest.token)[0] == 404
    guest.listen()


def test_an_expired_token_is_refused_everywhere(make: Make, hand_clock: HandClock) -> None:
    guest = GuestSession(make(clock=hand_clock))
    hand_clock.advance(1800)
    assert refused(guest.sandbox, guest.socket, guest.token)[0] == 401
    guest.send("late", status=401)


def test_typing_works_in_both_directions(make: Make, tmp_path: Any) -> None:
    script = tmp_path / "bot.yaml"
    script.write_text("otherwise: {reply: Hi, typing: true}\n")
    guest = GuestSession(make(script=script, fast=True))
    line = guest.listen()
    guest.typing()
    guest.send("hello")
    frames = [line.hear() for _ in range(3)]
    assert [frame["type"] for frame in frames] == ["message", "typing", "message"]
    assert frames[1] == {"type": "typing"}
    (session,) = Control(guest.sandbox).sessions()
    assert session["requests"]["typing"] == 1
    Control(guest.sandbox)("POST", "/faults", specs=["duplicate:on=typing,times=1"])
    guest.send("again")
    assert [line.hear()["type"] for _ in range(4)] == ["message", "typing", "typing", "message"]


def test_traces_on_the_upgrade_and_after(sandbox: Sandbox) -> None:
    guest = GuestSession(sandbox)
    line = Line(sandbox, guest.socket, guest.token, traceparent=TRACE)
    line.hear(type="connected")
    body = {"text": "a", "messageId": "m"}
    guest.ask("POST", guest.messages, body, headers={"traceparent": TRACE.replace("01", "00")})
    (session,) = Control(sandbox).sessions()
    assert session["traceparents"] == {"socket": TRACE, "send": TRACE.replace("01", "00")}
    assert session["traceparent"] == TRACE.replace("01", "00")


# -- locked and ended sessions


def test_a_broken_socket_locks_the_session_for_two_seconds(make: Make, hand_clock: HandClock) -> None:
    guest = GuestSession(make(clock=hand_clock))
    other = guest.listen()
    guest.listen().tear()
    gone(guest.sandbox, left=1)
    for _ in range(2):
        assert guest.send("now", status=409)["code"] == "session.locked"
        assert guest.history(status=409)["code"] == "session.locked"
        status, body = refused(guest.sandbox, guest.socket, guest.token)
        assert (status, body["code"]) == (409, "session.locked")
        guest.typing()
        hand_clock.advance(0.99)
    hand_clock.advance(0.03)
    guest.send("now")
    assert guest.texts()[0] == "now"
    assert other.hear()["message"]["text"] == "now"
    guest.listen()


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4001])
def test_a_clean_close_does_not_lock_the_session(sandbox: Sandbox, code: int) -> None:
    guest = GuestSession(sandbox)
    guest.listen().leave()
    line = guest.listen()
    Control(sandbox)("POST", "/disconnect", code=code)
    assert line.closed() == code
    line.leave()
    gone(sandbox)
    guest.send("at once")


def test_a_reset_by_the_sandbox_locks_the_session(sandbox: Sandbox) -> None:
    guest = GuestSession(sandbox)
    line = guest.listen()
    Control(sandbox)("POST", "/disconnect", code=1006)
    assert line.closed() == 1006
    gone(sandbox)
    assert guest.history(status=409)["code"] == "session.locked"


def test_an_ended_session_is_invalid_everywhere(sandbox: Sandbox) -> None:
    guest = GuestSession(sandbox)
    guest.send("one", "m-1")
    Control(sandbox)("POST", "/end")
    assert guest.send("one", "m-1", status=409)["code"] == "session.invalid"
    assert guest.history(status=409)["code"] == "session.invalid"
    assert refused(sandbox, guest.socket, guest.token)[1]["code"] == "session.invalid"
    guest.typing(status=409)
