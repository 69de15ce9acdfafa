"""Every behaviour of the contract, for every API of the registry, through the front door.

What an API declares must work; what it lacks must exit 12 (a command) or 2 (an option) and name the
APIs that have it. Nothing is skipped: the registry decides what is expected.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from guestctl.core.clock import epoch_of, rfc3339
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.capabilities import Ability
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.service_state import StoredMessage as Stored
from tests.integration.conftest import Enter, Serve
from tests.integration.front import (
    Guest,
    InstantClock,
    Record,
    Room,
    able,
    check,
    check_lacking,
    listen,
    messages,
    texts,
)

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MESSAGE = [
    "kind", "id", "key", "session", "direction", "from", "text", "time", "source", "content", "options", "attachments",
]  # fmt: skip
SESSION = [
    "kind", "name", "api", "profile", "ids", "state", "new_session", "read_only", "created_at", "expires_at",
    "token_expires_at",
]  # fmt: skip


# --- sessions ---


def test_create(guest: Guest, room: Room) -> None:
    record = guest.ok("session", "create", "--as", "cart").record
    assert list(record) == SESSION
    assert (record["kind"], record["name"], record["api"], record["profile"]) == (
        "session",
        "cart",
        guest.api,
        "sandbox",
    )
    assert (record["state"], record["new_session"], record["read_only"]) == ("active", True, False)
    assert {"conversation", "guest"} <= set(record["ids"])
    held = {room.session["id"], room.session["guest"]}
    told = {value for name, value in record["ids"].items() if value is not None and name != "session"}
    assert told <= held
    assert told or guest.api == "web-messaging"
    assert room.session["api"] == guest.api
    shown = guest.ok("session", "show").record
    assert {**shown, "new_session": True} == record
    assert [session["name"] for session in guest.ok("session", "list").records] == ["cart"]
    token = guest.token()
    for command in (("session", "show"), ("session", "report"), ("history",), ("send", "hi", "--raw")):
        result = guest.ok(*command, "-vv")
        assert token not in result.out + result.err


def test_two_guests_do_not_see_each_other(guest: Guest, room: Room) -> None:
    guest.ok("session", "create", "--as", "ann")
    guest.ok("session", "create", "--as", "ben")
    guest.ok("send", "mine", "-s", "ann")
    guest.ok("send", "yours", "-s", "ben")
    ann, ben = room.sessions()
    room.push("for ann", to=ann["id"])
    assert texts(guest.ok("history", "-s", "ann")) == ["mine", "echo: mine", "for ann"]
    assert texts(guest.ok("history", "-s", "ben")) == ["yours", "echo: yours"]

    def to_both() -> None:
        room.push("secret", to=ann["id"])
        room.push("hello ben", to=ben["id"])

    assert texts(listen(guest, "-s", "ben", "--max", "1", lives=[to_both])) == ["hello ben"]


@pytest.mark.parametrize("field", ["attr", "queue", "skill", "language", "email", "name"])
def test_an_option_without_a_field(guest: Guest, room: Room, field: str) -> None:
    value = {"attr": "plan=gold", "email": "ann@shop.example"}.get(field, "x")
    result = guest("session", "create", f"--{field}", value)
    if field in guest.dialect.fields:
        assert result.code == 0, result.err
        assert len(room.sessions()) == 1
        return
    error = check(result, 2, "usage.option", f"--{field}")
    named = error["message"].partition("; ")[2].removeprefix("these have one: ").split(", ")
    assert named == [name for name in NAMES if field in dialect_class(name).fields]
    assert room.sessions() == []
    assert room.requests == {}


def test_a_session_is_new_until_it_is_written_to(guest: Guest, room: Room) -> None:
    assert guest.ok("session", "create").record["new_session"]
    guest.ok("send", "hi")
    assert not guest.ok("session", "show").record["new_session"]


def test_attributes_of_a_session(guest: Guest, room: Room) -> None:
    if "attr" in guest.dialect.fields:
        guest.ok("session", "create", "--attr", "plan=gold")
        guest.ok("send", "hi")
        assert room.session["attributes"]["plan"] == "gold"
    else:
        check(guest("session", "create", "--attr", "plan=gold"), 2, "usage.option")


def test_attributes_of_the_next_conversation(guest: Guest, room: Room) -> None:
    if "attr" not in guest.dialect.fields:
        pytest.skip("no attributes")
    guest.ok("session", "create", "--attr", "plan=free")
    guest.ok("session", "create", "--new", "--attr", "tier=gold")
    guest.ok("send", "hi")
    (written,) = [one for one in room.sessions() if one["messages"]]
    assert written["attributes"]["tier"] == "gold"
    assert "plan" not in written["attributes"], "those of the conversation left behind were never said"


def test_attributes_of_a_message(talking: Guest, room: Room) -> None:
    before = room.requests
    result = talking("send", "hi", "--attr", "plan=gold")
    if "attr" in talking.dialect.send_fields:
        assert room.session["attributes"] == {"plan": "gold"}
        assert result.record["delivery"] == "accepted"
    else:
        error = check(result, 2, "usage.option", "--attr")
        assert all(name in error["message"] for name in NAMES if "attr" in dialect_class(name).send_fields)
        assert room.requests == before


def test_end(talking: Guest, room: Room) -> None:
    talking.ok("send", "hi")
    result = talking("session", "end", "--yes")
    if not talking.can(Ability.END):
        check_lacking(result, Ability.END)
        return
    assert result.record["state"] in {"ended", "cleared"}
    check(talking("send", "more"), 10, f"session.{result.record['state']}")
    assert talking.ok("session", "report").record["activity"][-1]["event"] == "session_terminated"


def test_clear(talking: Guest, room: Room) -> None:
    talking.ok("send", "hi")
    result = talking("session", "clear", "--yes")
    if not talking.can(Ability.CLEAR):
        check_lacking(result, Ability.CLEAR)
        return
    assert result.record["state"] == "cleared"
    assert room.session["state"] == "cleared"


def test_report(talking: Guest, time: InstantClock) -> None:
    talking.ok("send", "hi")
    time.advance(100)
    talking.ok("resume")
    listen(talking, "--replay", "1", "--max", "1")
    report = talking.ok("session", "report").record
    assert (report["kind"], report["session"], report["api"]) == ("report", "default", talking.api)
    assert report["duration_ms"] >= 100_000
    events = [line["event"] for line in report["activity"]]
    assert "session_started" in events[:2]
    assert {"session_resumed", "ws_message_received"} <= set(events)
    assert ("ws_connected" in events) == talking.dialect.has_socket
    assert all(list(line) == ["timestamp", "event", "details"] for line in report["activity"])


def test_no_session(guest: Guest, room: Room) -> None:
    for command in (("send", "hi"), ("history",), ("listen",), ("resume",), ("session", "show"), ("session", "report")):
        check(guest(*command), 10, "session.none", "no session")
    assert room.sessions() == []


@pytest.mark.parametrize("command", ["send", "history", "resume", "listen"])
def test_a_session_unknown_to_the_service_is_reported(
    talking: Guest, restarted: Callable[[], Room], command: str
) -> None:
    talking.ok("send", "hi")
    room = restarted()
    result = talking(command, *(["again"] if command == "send" else []), "--timeout", "5")
    assert result.code == 10, (result.out, result.err)
    assert result.error["code"] in {"session.gone", "session.expired"}
    assert [text for session in room.sessions() for text in session["messages"]] == []


def test_an_expired_session(talking: Guest, room: Room) -> None:
    """Exit 10, or 6 where the service's own word for it is 409 (contract.md §5)."""
    talking.ok("send", "one")
    room.expire()
    result = talking("send", "two")
    error = result.error
    if 409 in (error["http_status"], error["service_code"]) or error["service_code"] == "session.invalid":
        check(result, 6, "conflict.ended")
    else:
        assert error["code"] in {"session.expired", "session.gone"}
        assert result.code == 10
    assert result.record["delivery"] in {"not_sent", "rejected"}
    assert room.sessions()[0]["messages"][-1]["text"] == "echo: one"


# --- saying ---


def test_send(talking: Guest, room: Room) -> None:
    record = talking.ok("send", "Where", "is it?").record
    assert list(record) == [*MESSAGE, "delivery"]
    assert (record["text"], record["direction"], record["delivery"]) == ("Where is it?", "inbound", "accepted")
    assert record["from"]["role"] == "guest"
    stored = room.session["messages"][0]
    assert (record["id"], record["key"], record["time"]) == (stored["id"], stored["key"], stored["time"])


def test_an_id_is_sent_once(talking: Guest, room: Room) -> None:
    key = str(uuid4())
    first = talking.ok("send", "once", "--id", key).record
    again = talking.ok("send", "once", "--id", key).record
    assert first["key"] == again["key"] == key
    assert first["id"] == again["id"]
    assert room.texts("inbound") == ["once"]


def test_a_lost_response_does_not_duplicate_a_message(talking: Guest, room: Room) -> None:
    """The message arrived, its acceptance did not: one message, accepted, whatever it takes to find out."""
    if talking.dialect.sends_on_socket:
        room.faults("drop:code=1006,on=send,times=1")
    else:
        room.faults("truncate:on=send,times=1")
    result = talking("send", "did it arrive?", "--timeout", "20")
    if result.code != 0:  # an answer that cannot be read leaves it open until the next run
        check(result, 13, "send.in_doubt")
        assert talking.ok("resume").code == 0
    assert room.texts("inbound") == ["did it arrive?"]
    talking.ok("send", "next")
    assert room.texts("inbound") == ["did it arrive?", "next"]


def test_send_lines(talking: Guest, room: Room) -> None:
    result = talking.ok("send", "-", "--lines", stdin="one\ntwo\nthree\n")
    assert texts(result) == ["one", "two", "three"]
    assert room.texts("inbound") == ["one", "two", "three"]


def test_ask(guest: Guest, room: Room) -> None:
    assert guest.ok("ask", "opening", "hours?").out == "echo: opening hours?\n"
    reply = guest.ok("ask", "and", "today?", "-o", "json").record
    assert (reply["direction"], reply["text"]) == ("outbound", "echo: and today?")
    assert list(reply) == [*MESSAGE, "following"]
    assert reply["following"] == []
    assert room.session["configures"] == 1 or not guest.dialect.fields or guest.api == "web-messaging"
    guest.ok("ask", "--new", "elsewhere?")
    assert len(room.sessions()) == 2 or guest.dialect.can_start_new


def test_send_wait_and_expect(talking: Guest, time: InstantClock) -> None:
    waited = talking.ok("send", "one", "--wait").record
    assert list(waited) == [*MESSAGE, "delivery", "reply"]
    assert waited["reply"]["text"] == "echo: one"
    assert talking.ok("send", "two", "--expect", "^echo: t.o$").record["reply"]["text"] == "echo: two"
    time.advance(5)
    unmatched = talking("send", "three", "--expect", "goodbye", "--timeout", "2")
    check(unmatched, 9, "timeout", "goodbye", "echo: three")
    assert (unmatched.record["delivery"], unmatched.record["reply"]) == ("accepted", None)


@pytest.mark.parametrize(
    ("api", "faults"),
    [
        ("web-messaging", ("drop:after=3", "refuse:status=503,after=2,times=1000")),
        ("webmessaging-conversations", ("http:status=503,on=history",)),
    ],
    indirect=["api"],
)
def test_a_service_that_was_down_until_the_deadline_is_no_missing_reply(
    guest: Guest, room: Room, faults: tuple[str, ...]
) -> None:
    """contract.md §5: the deadline ends a retry, and the code is that of the last failure."""
    guest.ok("session", "create")
    room.faults(*faults)
    unheard = guest("send", "hi", "--wait", "--timeout", "3")
    check(unheard, 8, "service.down", "HTTP 503")
    assert (unheard.record["delivery"], unheard.record["reply"]) == ("accepted", None)


def test_the_conversation_ends_before_the_reply(serve: Serve, enter: Enter, api: str, tmp_path: Path) -> None:
    script = tmp_path / "bot.yaml"
    script.write_text("rules:\n  - match: bye\n    disconnect: true\n")
    guest = enter(serve(script=script), api)
    guest.ok("session", "create")
    result = guest("send", "bye", "--wait", "--timeout", "2")
    if api == "webmessaging-conversations":  # a client that polls history gets no event
        check(result, 9, "timeout")
    else:
        check(result, 1, "conversation.ended")
    assert result.record["delivery"] == "accepted"


def test_typing(talking: Guest, room: Room) -> None:
    result = talking("typing")
    if talking.can(Ability.TYPING):
        assert result.record["kind"] == "typing"
        assert room.session["requests"].get("typing", 0) + room.session["requests"].get("send", 0) == 1
    else:
        check_lacking(result, Ability.TYPING)


def test_files_picks_and_sync(talking: Guest) -> None:
    file = talking.cwd / "note.txt"
    file.write_text("hello")
    commands = {
        Ability.FILES: ("send", "--file", str(file)),
        Ability.SYNC: ("guest", "sync", "--provider", "shop", "--email", "ann@shop.example"),
    }
    for ability, command in commands.items():
        result = talking(*command)
        if talking.can(ability):
            assert result.code == 0, result.err
        else:
            check_lacking(result, ability)
    picked = talking("send", "--pick", "1")
    if talking.can(Ability.PICK):
        check(picked, 2, "usage.option", "has choices")
    else:
        check_lacking(picked, Ability.PICK)


# --- history ---


def test_history(talking: Guest, room: Room, time: InstantClock) -> None:
    assert talking.ok("history").out == ""
    assert json.loads(talking.ok("history", "-o", "json").out) == []
    for text in ("one", "two", "three"):
        time.advance(60)
        talking.ok("send", text)
    whole = talking.ok("history").records
    assert [(m["direction"], m["text"]) for m in whole] == [
        pair for text in ("one", "two", "three") for pair in (("inbound", text), ("outbound", f"echo: {text}"))
    ]
    assert [m["id"] for m in whole] == [m["id"] for m in room.session["messages"]]
    assert all(list(m) == MESSAGE and m["source"] == "history" for m in whole)
    assert [m["from"]["role"] for m in whole] == ["guest", "bot"] * 3
    assert texts(talking.ok("history", "--last", "2")) == ["three", "echo: three"]
    assert texts(talking.ok("history", "--last", "0")) == []
    assert texts(talking.ok("history", "--last", "99")) == [m["text"] for m in whole]
    assert texts(talking.ok("history", "--since", whole[3]["id"])) == ["three", "echo: three"]
    assert texts(talking.ok("history", "--since", whole[2]["time"])) == [m["text"] for m in whole[2:]]
    assert texts(talking.ok("history", "--until", whole[1]["id"])) == ["one", "echo: one"]
    assert texts(talking.ok("history", "--until", whole[1]["time"])) == ["one", "echo: one"]
    assert texts(talking.ok("history", "--since", whole[0]["id"], "--until", whole[2]["id"])) == ["echo: one", "two"]
    check(talking("history", "--since", "no-such-id"), 2, "usage.option", "no-such-id")
    check(talking("history", "--until", "no-such-id"), 2, "usage.option", "no-such-id")


def test_history_reads_all_pages(talking: Guest, room: Room) -> None:
    talking.ok("send", "first")
    many = [f"number {n}" for n in range(1, 231)]
    room.say(*many)
    assert texts(talking.ok("history")) == ["first", "echo: first", *many]
    assert room.session["requests"]["history"] >= 3
    assert texts(talking.ok("history", "--last", "60")) == many[-60:]
    since = room.session["messages"][101]["id"]
    assert texts(talking.ok("history", "--since", since)) == many[100:]


def test_history_while_messages_arrive(talking: Guest, room: Room) -> None:
    """Pages that shift under the reader neither repeat nor lose anything."""
    many = [f"number {n}" for n in range(1, 171)]
    room.say(*many)

    late = iter(range(1, 11))

    def another(record: object) -> None:
        if (number := next(late, None)) is not None:
            room.say(f"late {number}")

    seen = texts(talking.ok("history", "-o", "jsonl", on=another))
    assert seen[:170] == many
    assert len(set(seen)) == len(seen)


# --- hearing ---


def test_listen_shows_what_arrives(talking: Guest, room: Room) -> None:
    talking.ok("send", "before")

    def two() -> None:
        room.push("a")
        room.push("b")

    heard = messages(listen(talking, "--max", "2", lives=[two]))
    assert [(m["text"], m["direction"], m["source"]) for m in heard] == [
        ("a", "outbound", "live"),
        ("b", "outbound", "live"),
    ]
    assert heard[0]["id"] == room.session["messages"][-2]["id"]


def test_listen_until(talking: Guest, room: Room) -> None:
    result = listen(
        talking, "--until", "^good", lives=[lambda: room.push("hello")], said={"hello": lambda: room.push("goodbye")}
    )
    assert (result.code, texts(result)) == (0, ["hello", "goodbye"])
    check(talking("listen", "--until", "never", "--for", "200ms"), 9, "timeout", "never")


def test_listen_idle(talking: Guest, room: Room) -> None:
    idle = "300ms" if talking.dialect.has_socket else "6"  # polling sleeps, and sleep costs nothing here
    result = listen(talking, "--idle", idle, lives=[lambda: room.push("a")])
    assert (result.code, texts(result)) == (0, ["a"])


def test_listen_replay(talking: Guest, room: Room) -> None:
    for text in ("one", "two"):
        talking.ok("send", text)
    result = listen(talking, "--replay", "3", "--max", "4", said={"echo: two": lambda: room.push("new")})
    assert [(m["text"], m["source"]) for m in messages(result)] == [
        ("echo: one", "replayed"),
        ("two", "replayed"),
        ("echo: two", "replayed"),
        ("new", "live"),
    ]


def test_listen_cursor(talking: Guest, room: Room) -> None:
    cursor = str(talking.cwd / "cursor")
    talking.ok("send", "one")
    first = listen(talking, "--cursor", cursor, "--max", "2")
    assert texts(first) == ["one", "echo: one"]
    room.push("while away")
    room.push("and again")
    second = listen(talking, "--cursor", cursor, "--max", "3", said={"and again": lambda: room.push("live")})
    assert texts(second) == ["while away", "and again", "live"]
    assert texts(listen(talking, "--cursor", cursor, "--idle", "200ms")) == []


@pytest.mark.parametrize("noted", ["as it is", "by its id alone"])
def test_listen_cursor_where_history_is_behind(talking: Guest, room: Room, noted: str) -> None:
    """History does not show the cursor's own message: nothing from before it is shown again."""
    cursor = talking.cwd / "cursor"
    for text in ("one", "two"):
        talking.ok("send", text)
    listen(talking, "--cursor", str(cursor), "--max", "4")
    if noted != "as it is":
        cursor.write_text(json.dumps({"after": json.loads(cursor.read_text())["after"]}))
    (conversation,) = room.sandbox.service.conversations.values()
    room.sandbox.call(lambda: age(conversation.messages, first=2))
    room.faults("lag:ms=60000,times=2")
    assert texts(listen(talking, "--cursor", str(cursor), "--idle", "200ms")) == []


def age(stored: list[Stored], *, first: int) -> None:
    """The first so many are old enough for any history to show them."""
    stored[:first] = [replace(one, millis=one.millis - 3_600_000) for one in stored[:first]]


def break_off(guest: Guest, room: Room) -> None:
    """The connection is lost; where there is none, every try of one poll fails."""
    if guest.dialect.has_socket:
        room.disconnect(1006)
    else:
        room.faults("http:status=503,on=history,times=4")


def test_listen_fills_the_gap_after_a_reconnect(talking: Guest, room: Room) -> None:
    talking.ok("send", "before")

    def lose() -> None:
        break_off(talking, room)
        room.push("b")
        room.push("c")

    result = listen(
        talking, "--max", "4", lives=[lambda: room.push("a")], said={"a": lose, "c": lambda: room.push("d")}
    )
    assert [(m["text"], m["source"]) for m in messages(result)] == [
        ("a", "live"),
        ("b", "replayed"),
        ("c", "replayed"),
        ("d", "live"),
    ]
    states = [record["state"] for record in result.records if record["kind"] == "connection"]
    assert states[:2] == ["connecting", "live"]
    assert {"lost", "retrying"} <= set(states)
    assert states[-1] == "live"
    assert not [record for record in result.records if record["kind"] == "gap"]


def test_listen_stops_after_its_last_attempt(talking: Guest, room: Room) -> None:
    """A bounded number of reconnects, then exit 8."""

    def dead() -> None:
        if talking.dialect.has_socket:
            room.faults("refuse:status=503")
        else:
            room.faults("http:status=503,on=history")
        break_off(talking, room)

    result = listen(talking, lives=[dead])
    check(result, 8, "network.gave_up", f"after {talking.dialect.reconnect_attempts} reconnects")
    retries = [r for r in result.records if r["kind"] == "connection" and r["state"] == "retrying"]
    assert len(retries) == talking.dialect.reconnect_attempts
    assert all(r["delay"] <= min(30, 2.0**n) for n, r in enumerate(retries))


def test_listen_removes_duplicates(talking: Guest, room: Room) -> None:
    def twice() -> None:
        room.faults("duplicate:times=2")
        for text in ("a", "b", "c"):
            room.push(text)

    assert texts(listen(talking, "--max", "3", lives=[twice])) == ["a", "b", "c"]


def test_listen_restores_the_order(talking: Guest, room: Room) -> None:
    def crossed() -> None:
        room.faults("swap:times=1")
        for text in ("a", "b", "c"):
            room.push(text)

    result = listen(talking, "--max", "3", lives=[crossed])
    assert texts(result) == ["a", "b", "c"]
    assert not [record for record in result.records if record["kind"] == "gap"]


def test_listen_continues_after_unreadable_frames(talking: Guest, room: Room) -> None:
    """A broken frame is reported, and its message is read from history."""

    def broken() -> None:
        room.faults("garbage:times=1", "truncate:after=2")
        for text in ("a", "b", "c"):
            room.push(text)

    result = listen(talking, "--max", "3", lives=[broken])
    assert sorted(texts(result)) == ["a", "b", "c"]


def test_listen_when_the_token_dies(talking: Guest, room: Room) -> None:
    """Where the guest's token can be renewed the stream goes on; elsewhere it ends with exit 4."""
    talking.ok("history")
    refreshes = room.session["refreshes"]

    def die() -> None:
        room.expire(token=True)
        room.push("after")

    result = listen(talking, "--max", "1", lives=[die])
    if talking.can(Ability.REFRESH):
        assert (result.code, texts(result)) == (0, ["after"])
        assert talking.api == "web-messaging" or room.session["refreshes"] == refreshes + 1
    else:
        assert result.code == 4
        assert result.error["code"] in {"auth.refused", "auth.no_refresh"}


def test_resume_prints_missed_messages(talking: Guest, room: Room) -> None:
    assert talking.ok("send", "hi", "--wait").record["reply"]["text"] == "echo: hi"
    room.push("x")
    room.push("y")
    record = talking.ok("resume").record
    assert list(record) == [*SESSION, "missed"]
    assert (record["state"], record["new_session"]) == ("active", False)
    assert [(m["text"], m["source"]) for m in record["missed"]] == [("x", "replayed"), ("y", "replayed")]
    assert talking.ok("resume").record["missed"] == []


def test_resume_after_a_long_absence(talking: Guest, room: Room) -> None:
    talking.ok("send", "hi", "--wait")
    missed = [f"number {n}" for n in range(140)]
    room.say(*missed)
    assert [m["text"] for m in talking.ok("resume").record["missed"]] == missed


def test_a_401_while_catching_up(talking: Guest, room: Room) -> None:
    """The socket is open again, the history that fills the gap is refused once: one refresh, nothing lost."""

    def lose() -> None:
        break_off(talking, room)
        room.faults("unauthorized:on=history,times=1")
        room.push("b")

    result = listen(talking, "--max", "2", lives=[lambda: room.push("a")], said={"a": lose})
    if talking.can(Ability.REFRESH):
        assert (result.code, texts(result)) == (0, ["a", "b"])
    else:
        check(result, 4, "auth.no_refresh")


def test_resume_and_listen(talking: Guest, room: Room) -> None:
    """What was missed begins the stream; Ctrl-C ends it."""
    talking.ok("send", "hi", "--wait")
    room.push("missed")

    def on(record: Record) -> None:
        if record.get("text") == "missed":
            room.push("live")
        if record.get("text") == "live":
            signal.raise_signal(signal.SIGINT)

    result = talking("resume", "--listen", "-o", "jsonl", on=on)
    assert result.code == 130
    assert [(m["text"], m["source"]) for m in messages(result)][:1] == [("missed", "replayed")]
    assert texts(result) == ["missed", "live"]


# --- credentials ---


def test_refresh_token(talking: Guest, room: Room) -> None:
    if not talking.can(Ability.REFRESH):
        check_lacking(talking("refresh-token"), Ability.REFRESH)
        check_lacking(talking("refresh-token", "--if-expiring", "60"), Ability.REFRESH)
        return
    before, count = talking.token(), room.session["refreshes"]
    record = talking.ok("refresh-token").record
    assert record["kind"] == "session"
    assert room.session["refreshes"] == count + 1
    assert (talking.token() == before) == (talking.renews == "history")
    talking.ok("refresh-token", "--if-expiring", "1")
    assert room.session["refreshes"] == count + 1
    talking.ok("refresh-token", "--if-expiring", "24h")
    told = record["token_expires_at"] is not None or talking.renews == "history"
    assert room.session["refreshes"] == count + (2 if told else 1)
    talking.ok("send", "still here")
    assert texts(talking.ok("history")) == ["still here", "echo: still here"]


def test_refresh_ahead_of_expiry(talking: Guest, room: Room, time: InstantClock) -> None:
    """Before the token dies, not after: the service never sees a dead one. Where the service does not say
    when that is, or when nothing renews it, its 401 says so."""
    talking.ok("history")
    asked, refreshes = room.requests["history"], room.session["refreshes"]
    expires = talking.ok("session", "show").record["token_expires_at"]
    if talking.renews == "history":
        expires = rfc3339(time.now() + 60)
    if talking.renews is None or expires is None:
        time.advance(1801)
        result = talking("history")
        if talking.renews is None:
            check(result, 4, "auth.no_refresh")
        else:
            assert (result.code, room.session["refreshes"], room.requests["history"]) == (0, refreshes + 1, asked + 2)
        return
    margin = talking.dialect.renewal_margins[talking.renews]
    time.advance(epoch_of(expires) - margin - 10 - time.now())
    talking.ok("history")
    assert room.session["refreshes"] == refreshes
    time.advance(11)
    talking.ok("history")
    assert room.session["refreshes"] == refreshes + 1
    assert room.requests["history"] == asked + 2


def test_short_lived_tokens(serve: Serve, enter: Enter, api: str, time: InstantClock) -> None:
    """A life shorter than the API's margin: renewed at half of it, not as soon as it is granted."""
    sandbox = serve(token_life=40.0)
    guest, room = enter(sandbox, api), Room(sandbox)
    record = guest.ok("session", "create").record
    guest.ok("send", "hi")
    guest.ok("history")
    before = room.requests
    if guest.renews == "guest":
        assert room.session["refreshes"] == 0 or guest.dialect.renews_before_reconnect
    told = record["token_expires_at"] is not None and epoch_of(record["token_expires_at"]) < time.now() + 60
    if not told or guest.renews is None:
        return
    refreshes = room.session["refreshes"]
    time.advance(25)
    guest.ok("history")
    assert room.session["refreshes"] == refreshes + 1
    assert room.requests["history"] == before["history"] + 1

    def soon() -> None:
        time.advance(25)
        room.push("still here")

    result = listen(guest, "--max", "1", lives=[soon])
    assert (result.code, texts(result)) == (0, ["still here"])
    assert room.session["refreshes"] == refreshes + 2


def test_tokens_kept_in_memory(guest: Guest, room: Room, sandbox: Sandbox) -> None:
    """Nothing of them is ever written; a later command gets another, or says why it cannot."""
    memory: Record = {"GUESTCTL_STORE_TOKENS": "memory"}
    guest.ok("session", "create", **memory)
    sent = guest("send", "hi", **memory)
    if sent.code != 0:
        error = check(sent, 10, "session.no_token", "was not stored")
        assert "guestctl ask" in error["hint"]
        assert "store_tokens" in error["hint"]
        assert sent.out == "" or sent.record["delivery"] == "not_sent"
        assert room.texts() == []
    else:
        assert room.texts("inbound") == ["hi"]
        assert texts(guest.ok("history", **memory)) == ["hi", "echo: hi"]
    assert guest.ok("ask", "still?", **memory).out == "echo: still?\n"
    issued = [grant.token.encode() for grant in sandbox.service.tokens._table.values()]
    state = b"".join(f.read_bytes() for f in Path(guest.environ["GUESTCTL_STATE"]).rglob("*") if f.is_file())
    assert b"sandbox" in state
    assert not [token for token in issued if token in state]


def test_one_retry_after_one_refresh(talking: Guest, room: Room) -> None:
    talking.ok("history")
    asked, refreshes = room.session["requests"]["history"], room.session["refreshes"]
    total = room.requests["history"]
    room.faults("unauthorized:on=history,times=1")
    result = talking("history")
    if not talking.can(Ability.REFRESH):
        check(result, 4, "auth.no_refresh")
        assert room.requests["history"] == total + 1
        return
    assert result.code == 0, result.err
    assert room.session["refreshes"] == refreshes + 1
    assert (room.session["requests"]["history"], room.requests["history"]) == (asked + 1, total + 2)
    room.faults("unauthorized:on=history,times=2")
    check(talking("history"), 4, "auth.refused", "401")
    assert room.session["refreshes"] == refreshes + 2
    assert room.requests["history"] == total + 4


def test_a_send_that_is_refused_401_once(talking: Guest, room: Room) -> None:
    """A refusal by name is repeated with a new token. A close of the socket does not name the message: in doubt."""
    room.faults("unauthorized:on=send,times=1")
    result = talking("send", "hi", "--timeout", "20")
    if talking.renews is None:
        assert result.code == 4, result.err
        assert result.record["delivery"] == "rejected"
        assert room.texts() == []
    elif talking.api in {"messaging-conversations", "guests"}:
        assert (result.code, result.record["delivery"]) == (13, "in_doubt"), result.err
        assert room.texts("inbound") == []
    else:
        assert (result.code, result.record["delivery"]) == (0, "accepted"), result.err
        assert room.texts("inbound") == ["hi"]
        assert room.session["refreshes"] == 1


# --- limits and faults ---


@pytest.mark.parametrize("how", ["1", "date"])
def test_a_429_is_retried_after_its_wait(talking: Guest, room: Room, time: InstantClock, how: str) -> None:
    talking.ok("history")
    room.faults(f"ratelimit:retry_after={how},on=history,times=3")
    time.sleeps.clear()
    talking.ok("history")
    assert len([s for s in time.sleeps if s > 0.5]) == 3
    room.clear()
    room.faults("ratelimit:retry_after=2,on=history,times=4")
    error = check(talking("history"), 7, "rate.limited")
    assert (error["http_status"], error["retry_after"]) == (429, 2)


def test_a_send_that_is_limited(talking: Guest, room: Room, time: InstantClock) -> None:
    """At most three retries. If the API reports the limit by closing the socket, the message is in doubt."""
    room.faults("ratelimit:on=send,times=1")
    first = talking("send", "hi")
    if first.code == 13:
        assert room.texts("inbound") == []
        return
    assert first.code == 0
    assert room.requests["send"] == 2
    room.faults("ratelimit:on=send")
    time.advance(5)
    result = talking("send", "again")
    assert result.code in {7, 13}
    assert room.texts("inbound") == ["hi"]
    if result.code == 7:
        check(result, 7, "rate.limited", "Fault on demand")
        assert result.record["delivery"] == "rejected"
        assert room.requests["send"] == 6


def test_a_service_that_cannot_be_reached(talking: Guest, sandbox: Sandbox) -> None:
    sandbox.stop()
    result = talking("send", "hi", "--timeout", "20")
    check(result, 8, "network.connect")
    assert result.record["delivery"] == "not_sent"


def test_a_passing_fault_of_the_service(talking: Guest, room: Room) -> None:
    talking.ok("send", "hi")
    room.faults("http:status=503,on=history,times=2")
    assert texts(talking.ok("history")) == ["hi", "echo: hi"]
    room.faults("http:status=500,on=history")
    error = check(talking("history", "--timeout", "20"), 8, "service.down", "500")
    assert error["http_status"] == 500


@pytest.mark.parametrize("spec", ["garbage", "truncate"])
def test_a_history_that_cannot_be_read(talking: Guest, room: Room, spec: str) -> None:
    talking.ok("send", "hi")
    room.faults(f"{spec}:on=history")
    check(talking("history"), 11, "answer.unreadable")


def test_forbidden_is_not_retried(talking: Guest, room: Room) -> None:
    talking.ok("history")
    total = room.requests["history"]
    room.faults("http:status=403,on=history")
    error = check(talking("history"), 5, "forbidden", "Fault on demand")
    assert error["http_status"] == 403
    assert "Fault on demand" in error["body"]
    assert room.requests["history"] == total + 1


# --- traces ---


def test_trace_context(guest: Guest, room: Room) -> None:
    """On every REST call and in the first frame, from the environment or the option, reconnects included."""
    guest.ok("session", "create", TRACEPARENT=TRACE)
    guest.ok("send", "hi", TRACEPARENT=TRACE)
    guest.ok("history", TRACEPARENT=TRACE)
    other = TRACE.replace("4bf9", "5bf9")

    def lose() -> None:
        if guest.api != "web-messaging":
            assert room.session["traceparent"] == other
        break_off(guest, room)
        room.push("back")

    said = {"history"} if guest.api == "web-messaging" else {"create", "history"}
    if not guest.dialect.sends_on_socket:
        said.add("send")
    found = room.session["traceparents"]
    assert said <= set(found)
    assert set(found.values()) == {TRACE}
    trace = guest.cwd / "trace"
    listen(guest, "--max", "1", "--traceparent", other, "--trace", str(trace), lives=[lose])
    seen = [json.loads(line) for line in trace.read_text().splitlines()]
    opened = [line["request_headers"]["traceparent"] for line in seen if line["kind"] == "upgrade"]
    assert set(opened) == ({other} if guest.dialect.has_socket else set())
    assert len(opened) >= 2 * guest.dialect.has_socket
    spoken = [json.loads(line["text"]).get("traceparent") for line in seen if line["kind"] == "frame_out"]
    if guest.dialect.sends_on_socket:
        assert spoken.count(other) == 2
    nonsense = guest.ok("history", TRACEPARENT="00-xyz")
    assert "TRACEPARENT" in nonsense.err
    assert room.session["traceparents"]["history"] == TRACE  # the context that the session was created with
    check(guest("history", "--traceparent", "00-xyz"), 2, "usage", "--traceparent")


# --- the table ---


def test_the_command_apis_lists_every_registered_api(guest: Guest) -> None:
    rows = guest.ok("apis", "-o", "jsonl").records
    assert [row["name"] for row in rows] == list(NAMES)
    mine = next(row for row in rows if row["name"] == guest.api)
    for ability in Ability:
        assert (mine["operations"][ability.value] is not None) == (guest.api in able(ability))
    assert set(mine["operations"].values()) <= {"documented", "assumed", None}


def test_one_sandbox_serves_every_api(sandbox: Sandbox, enter: Enter, room: Room) -> None:
    """All APIs at once, in one state directory, each with a session of its own."""
    for name in NAMES:
        enter(sandbox, name).ok("ask", "who are you?")
    assert [session["api"] for session in room.sessions()] == list(NAMES)
    for name in NAMES:
        assert texts(enter(sandbox, name).ok("history")) == ["who are you?", "echo: who are you?"]


def test_a_new_session_keeps_the_settings_of_the_ended_one(serve: Serve, enter: Enter, api: str) -> None:
    sandbox = serve()
    guest, room = enter(sandbox, api), Room(sandbox)
    fields = {"attr": "plan=gold", "queue": "q-7", "email": "ann@shop.example", "name": "Ann"}
    given = [word for field, value in fields.items() if field in guest.dialect.fields for word in (f"--{field}", value)]
    guest.ok("session", "create", *given)
    guest.ok("send", "hi")
    room.expire() if api == "web-messaging" else room.end()  # an end that is none, there
    guest.ok("ask", "are you there?")
    first, *_, second = room.sessions()
    assert second["attributes"] == first["attributes"]
    assert len(second["messages"]) == 2
    sessions = {record["name"]: record["state"] for record in guest.ok("session", "list").records}
    assert sessions["default"] == "active"
