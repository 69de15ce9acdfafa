"""What other-apis.md says about all its APIs, tested for each with an independent guest."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from guestctl.sandbox.server import Sandbox
from tests.sandbox.bare import EVERYBODY, REST_SENDERS, SOCKET_SENDERS, Guest, Line, Numbered, refused
from tests.sandbox.conftest import Make
from tests.sandbox.published import TIME
from tests.sandbox.stranger import Control, HandClock

WITH_SOCKET = tuple(kind for kind in EVERYBODY if kind.api != "webmessaging-conversations")
FIXED_PAGE = tuple(
    kind for kind in EVERYBODY if kind.api in ("conversation-guests", "guests", "webmessaging-conversations")
)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def names(kind: Any) -> str:
    return str(getattr(kind, "api", kind))


everybody = pytest.mark.parametrize("kind", EVERYBODY, ids=names)
with_socket = pytest.mark.parametrize("kind", WITH_SOCKET, ids=names)
fixed_page = pytest.mark.parametrize("kind", FIXED_PAGE, ids=names)
rest_senders = pytest.mark.parametrize("kind", REST_SENDERS, ids=names)
Kind = type[Guest]


def speak(guest: Any, text: str, key: str, line: Line | None = None) -> None:
    """Send a message as this API does it; replies stay unread on the socket."""
    if isinstance(guest, REST_SENDERS):
        guest.send(text, key)
    else:
        own = line or guest.listen()
        guest.say(own, text, key)
        if line is None:
            own.hear()
            own.leave()


def accepted(guest: Guest, line: Line) -> None:
    """Read the frames that only the sender gets."""
    if guest.api == "conversation-guests":
        line.hear(type="MESSAGE_ACCEPTED")


# -- messages


@with_socket
def test_every_message_reaches_every_socket_and_history(sandbox: Sandbox, kind: Kind) -> None:
    guest = kind(sandbox)
    sender, other = guest.listen(), guest.listen()
    speak(guest, "Wo ist mein Paket? 📦", "k-1", sender)
    accepted(guest, sender)
    heard = [guest.pushed(sender), guest.pushed(sender)]
    assert heard == [guest.pushed(other), guest.pushed(other)]
    for line in (sender, other):
        line.hear_nothing()
    assert [message["text"] for message in heard] == ["Wo ist mein Paket? 📦", "echo: Wo ist mein Paket? 📦"]
    assert guest.history()["messages"] == heard
    ids = [message[kind.id_name] for message in heard]
    (session,) = Control(sandbox).sessions()
    assert [message["id"] for message in session["messages"]] == ids
    assert [message["key"] for message in session["messages"]] == ["k-1", None]
    assert (session["api"], session["sockets"], session["configures"]) == (kind.api, 2, 1)
    assert session["requests"]["socket"] == 2


@everybody
def test_a_repeated_client_key_returns_the_first_message(sandbox: Sandbox, kind: Kind) -> None:
    guest = kind(sandbox)
    watcher = guest.listen() if kind in WITH_SOCKET else None
    for text in ("one", "one again"):
        speak(guest, text, "same")
    speak(guest, "two", "other")
    assert guest.texts() == ["one", "echo: one", "two", "echo: two"]
    if watcher is not None:
        assert [guest.pushed(watcher)["text"] for _ in range(4)] == guest.texts()
        watcher.hear_nothing()


@everybody
def test_times_are_unique_and_rise_even_when_the_clock_stands_still(
    make: Make, hand_clock: HandClock, kind: Kind
) -> None:
    guest = kind(make(clock=hand_clock, fast=True))
    for number in range(5):
        speak(guest, f"n{number}", f"k{number}")
    times = [message["timestamp"] for message in guest.history()["messages"]]
    assert len(times) == 10
    assert times == sorted(set(times))
    assert all(TIME.fullmatch(time) for time in times)


@everybody
def test_a_pushed_frame_is_sent_and_stored(sandbox: Sandbox, kind: Kind) -> None:
    guest = kind(sandbox)
    control = Control(sandbox)
    (session,) = control.sessions()
    line = guest.listen() if kind in WITH_SOCKET else None
    assert control("POST", "/push", text="Hello", to=session["id"], name="Ada") == {"pushed": 1}
    (stored,) = guest.history()["messages"]
    assert stored["text"] == "Hello"
    assert stored["from"].get("role", stored["from"].get("id")) == "agent"
    assert stored["from"]["name"] == "Ada"
    frame = stored if line is None else line.hear()
    message = frame if line is None else guest.message_in(frame)
    assert message == stored
    message.update({kind.id_name: "pushed-1", "text": "Raw"})
    for _ in range(2):
        control("POST", "/push", frame=json.dumps(frame))
    control("POST", "/push", frame="<not json>")
    if line is not None:
        assert [line.hear(), line.hear()] == [frame, frame]
        assert line.socket.recv() == "<not json>"
    first, second = guest.history()["messages"]
    assert (first["text"], second["text"], second[kind.id_name]) == ("Hello", "Raw", "pushed-1")


# -- history


@fixed_page
def test_history_after_a_message_id(sandbox: Sandbox, kind: Kind) -> None:
    guest = kind(sandbox)
    for number in range(4):
        speak(guest, f"n{number}", f"k{number}")
    whole = guest.history()
    assert whole["more"] is False
    inbound, outbound = whole["messages"][:2]
    assert set(inbound) == {"id", kind.key_name, "direction", "text", "from", "timestamp"}
    assert (inbound["direction"], inbound["from"]["role"], inbound[kind.key_name]) == ("inbound", "guest", "k0")
    assert set(outbound) == {"id", "direction", "text", "from", "timestamp"}
    assert (outbound["direction"], outbound["from"]) == ("outbound", {"role": "bot"})
    collected: list[Any] = []
    after: dict[str, Any] = {}
    for more in (True, True, False):
        page = guest.history(limit=3, **after)
        assert page["more"] is more
        collected += page["messages"]
        after = {"after": collected[-1]["id"]}
    assert collected == whole["messages"]
    assert guest.history(**after) == {"messages": [], "more": False}


@fixed_page
@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"limit": ""}, {"limit": "-1"}])
def test_an_invalid_page_request_is_refused(sandbox: Sandbox, kind: Kind, query: dict[str, str]) -> None:
    kind(sandbox).history(status=400, **query)


@fixed_page
def test_history_after_an_unknown_id_is_refused(sandbox: Sandbox, kind: Kind) -> None:
    guest, other = kind(sandbox), kind(sandbox)
    speak(other, "elsewhere", "k")
    for unknown in ("", "nothing", other.history()["messages"][0]["id"]):
        guest.history(status=404, after=unknown)


@everybody
def test_history_may_lag(make: Make, hand_clock: HandClock, kind: Kind) -> None:
    sandbox = make(clock=hand_clock, fast=True, faults=("lag:ms=500",))
    guest = kind(sandbox)
    speak(guest, "one", "k1")
    hand_clock.advance(1)
    speak(guest, "two", "k2")
    assert guest.texts() == ["one", "echo: one"]
    hand_clock.advance(1)
    assert guest.texts() == ["one", "echo: one", "two", "echo: two"]


# -- tokens


@everybody
def test_a_token_of_another_guest_is_refused(sandbox: Sandbox, kind: Kind) -> None:
    guest, other = kind(sandbox), kind(sandbox)
    own = guest.token
    for wrong in ("nonsense", other.token):
        guest.token = wrong
        assert guest.history(status=401)["code"] == "bad.credentials"
    guest.token = own
    assert guest.history()["messages"] == []


@everybody
def test_a_request_without_a_token_is_refused(sandbox: Sandbox, kind: Kind) -> None:
    guest = kind(sandbox)
    guest.token = ""
    guest.history(status=401)


@everybody
def test_unknown_conversations_are_not_found(sandbox: Sandbox, kind: Kind) -> None:
    """A conversation of another API is unknown, too."""
    guest = kind(sandbox)
    others = [other(sandbox) for other in EVERYBODY if other is not kind]
    for where in ("11111111-2222-4333-8444-555555555555", *(other.id or other.guest for other in others)):
        real = (guest.id, guest.guest)
        if isinstance(guest, Numbered):
            base, _, _ = guest.messages.rpartition("/messages")
            guest.ask("GET", f"{base.rpartition('/')[0]}/{where}/messages", status=404)
        elif kind.api == "webmessaging-conversations":
            guest.ask("GET", f"/api/v2/webmessaging/conversations/{where}/messages", status=404)
        else:
            guest.id = guest.guest = where
            guest.history(status=404)
            guest.id, guest.guest = real


@everybody
def test_a_token_expires(make: Make, hand_clock: HandClock, kind: Kind) -> None:
    guest = kind(make(clock=hand_clock, fast=True, token_life=60.0))
    hand_clock.advance(59)
    guest.history()
    hand_clock.advance(1)
    guest.history(status=401)


@with_socket
def test_expire_token_closes_4001(sandbox: Sandbox, kind: Kind) -> None:
    guest = kind(sandbox)
    line = guest.listen()
    Control(sandbox)("POST", "/expire", token=True)
    if isinstance(guest, Numbered):
        line.hear(type="tokenExpired")
    assert line.closed() == 4001
    guest.history(status=401)


@with_socket
def test_a_socket_is_closed_when_its_token_expires(make: Make, kind: Kind) -> None:
    guest = kind(make(fast=True, token_life=0.3))
    line = Line(guest.sandbox, guest.socket, guest.token) if isinstance(guest, Numbered) else guest.listen()
    frames = [line.hear()["type"] for _ in range(2)] if isinstance(guest, Numbered) else []
    assert frames == (["connected", "tokenExpired"] if isinstance(guest, Numbered) else [])
    assert line.closed() == 4001


# -- the end


@everybody
@pytest.mark.parametrize("how", ["/end", "/expire"])
def test_an_ended_conversation_closes_its_sockets(sandbox: Sandbox, kind: Kind, how: str) -> None:
    guest: Any = kind(sandbox)
    line = guest.listen() if kind in WITH_SOCKET else None
    control = Control(sandbox)
    control("POST", how)
    (session,) = control.sessions()
    assert session["state"] == ("ended" if how == "/end" else "expired")
    if line is not None:
        if kind.api == "conversation-guests":
            line.hear(type="CONVERSATION_UPDATED", state="disconnected")
        if kind.api == "messaging-conversations":
            line.hear(type="error", code="session.invalid")
        assert line.closed() == 1000
    if kind in REST_SENDERS:
        assert guest.send("too late", status=409)["code"] == "session.invalid"
    control("POST", "/push", 409, text="too late", to=session["id"])


# -- traces


@everybody
def test_trace_context_is_reported(sandbox: Sandbox, kind: Kind) -> None:
    guest: Any = kind(sandbox)
    guest.history(status=200)
    (session,) = Control(sandbox).sessions()
    assert (session["traceparent"], session["traceparents"]) == (None, {})
    guest.ask("GET", history_path(guest), headers={"traceparent": TRACE})
    (session,) = Control(sandbox).sessions()
    assert (session["traceparent"], session["traceparents"]) == (TRACE, {"history": TRACE})


def history_path(guest: Any) -> str:
    if guest.api in ("guest-sessions", "external-contacts"):
        return str(guest.messages)
    return {
        "conversation-guests": f"/api/v2/conversations/webmessaging/guests/{guest.guest}/messages",
        "messaging-conversations": f"/api/v2/messaging/conversations/{guest.id}/messages",
        "guests": f"/api/v2/guests/{guest.guest}/sessions/{guest.session}/messages",
        "webmessaging-conversations": f"/api/v2/webmessaging/conversations/{guest.id}/messages",
    }[guest.api]


# -- faults


@everybody
def test_faults_by_route(make: Make, kind: Kind) -> None:
    sandbox = make(fast=True)
    control = Control(sandbox)
    control("POST", "/faults", specs=["http:status=503,on=create,times=1"])
    with pytest.raises(AssertionError, match="503"):
        kind(sandbox)
    guest: Any = kind(sandbox)
    control("POST", "/faults", specs=["unauthorized:on=history,times=1"])
    assert guest.history(status=401)["code"] == "bad.credentials"
    guest.history()
    control(
        "POST", "/faults", specs=["ratelimit:retry_after=7,on=history,times=1", "ratelimit:retry_after=date,times=1"]
    )
    guest.history(status=429)
    assert guest.headers["Retry-After"] == "7"
    guest.history(status=429)
    assert parsedate_to_datetime(guest.headers["Retry-After"]) is not None
    guest.history()


@rest_senders
def test_faults_of_a_send_over_rest(make: Make, kind: Kind) -> None:
    sandbox = make(fast=True, faults=("unauthorized:on=send,times=1", "conflict:for=1m,on=send,after=2"))
    guest = kind(sandbox)
    guest.send("one", "k", status=401)
    assert guest.send("one", "k", status=409)["code"] == "session.locked"
    guest.send("one", "k", status=409)
    assert guest.texts() == []
    Control(sandbox)("DELETE", "/faults")
    guest.send("one", "k")
    assert guest.texts() == ["one", "echo: one"]


@with_socket
def test_faults_of_frames(make: Make, kind: Kind) -> None:
    sandbox = make(fast=True)
    control = Control(sandbox)
    guest = kind(sandbox)

    def heard(*specs: str) -> list[Any]:
        line = guest.listen()
        control("POST", "/faults", specs=specs)
        for text in ("a", "b"):
            control("POST", "/push", text=text)
        texts = []
        for _ in range(3 if "duplicate" in specs[0] else 2):
            try:
                texts.append(guest.pushed(line)["text"])
            except (ValueError, AssertionError):
                texts.append("?")
        control("DELETE", "/faults")
        line.leave()
        return texts

    assert heard("duplicate:times=1") == ["a", "a", "b"]
    assert heard("swap:times=1") == ["b", "a"]
    assert heard("garbage:times=1") == ["?", "b"]
    assert heard("truncate:times=1") == ["?", "b"]
    assert heard("silence:for=100ms") == ["a", "b"]
    line = guest.listen()
    control("POST", "/faults", specs=["drop:code=1011,times=1"])
    control("POST", "/push", text="last")
    assert line.closed() == 1011
    assert guest.texts()[-1] == "last"


@with_socket
def test_refused_upgrades(make: Make, kind: Kind) -> None:
    guest = kind(make(fast=True, faults=("refuse:status=403,times=1",)))
    with pytest.raises(Exception, match="403"):
        guest.listen()
    guest.listen()


# -- the rest


@everybody
def test_conversations_survive_a_restart(make: Make, tmp_path: Path, kind: Kind) -> None:
    with Sandbox(state=tmp_path / "state", keys="returned", deduplicates="yes", bot_delay=0.0, fast=True) as before:
        guest = kind(before)
        speak(guest, "one", "k")
        said = guest.history()
    guest.sandbox = make(state=tmp_path / "state", fast=True)
    assert guest.history() == said
    speak(guest, "again", "k")
    assert guest.history() == said


@everybody
def test_a_page_of_another_origin_is_refused(make: Make, kind: Kind) -> None:
    guest: Any = kind(make(origins=("shop.example",)))
    guest.ask(
        "GET",
        history_path(guest),
        headers={"Origin": "https://evil.example"},
        status=403,
    )
    if kind in WITH_SOCKET:
        path = {
            "conversation-guests": "/api/v2/conversations/webmessaging/websocket",
            "messaging-conversations": "/ws",
            "guests": f"/api/v2/guests/{guest.guest}/sessions/{guest.session}/ws",
        }.get(kind.api) or guest.socket
        assert refused(guest.sandbox, path, guest.token)[0] == 403  # websocket-client sends an Origin by default


@pytest.mark.parametrize("kind", SOCKET_SENDERS, ids=names)
@pytest.mark.parametrize("nonsense", ["", "<xml/>", "[]", "5", '{"type":5}', '{"type":"dance"}', "{}"])
def test_unparsable_frames_are_answered_or_ignored(sandbox: Sandbox, kind: Kind, nonsense: str) -> None:
    guest: Any = kind(sandbox)
    line = guest.listen()
    line.socket.send(nonsense)
    assert line.hear()["type"].lower() == "error"
    speak(guest, "still here", "k", line)
    accepted(guest, line)
    assert guest.pushed(line)["text"] == "still here"


def test_a_bot_sees_the_attributes(sandbox: Sandbox) -> None:
    for kind in EVERYBODY:
        kind(sandbox)
    reports = {report["api"]: report["attributes"] for report in Control(sandbox).sessions()}
    gold = {"plan": "gold"}
    assert reports == {
        "guest-sessions": gold,
        "external-contacts": {},
        "conversation-guests": gold,
        "messaging-conversations": {"source": "stranger"},
        "guests": gold,
        "webmessaging-conversations": {},
    }
