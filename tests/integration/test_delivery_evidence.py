"""Delivery on a hostile network: breaks, lagging history, frames that are held back, and services without client keys.

Every test runs commands and counts what the service stored. The sandbox keeps no client keys and stores every copy,
unless a test states otherwise. Waits are counted on the shared clock and cost nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from time import sleep as real_sleep
from typing import Any

import pytest

from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.capabilities import Rate
from guestctl.engine.inbox import DROP_FROM_BYTES, DROP_FROM_ITEMS, Inbox
from guestctl.sandbox.peer import SocketPeer
from guestctl.sandbox.server import Sandbox
from guestctl.storage.database import Database
from guestctl.storage.private_files import unusable
from guestctl.storage.state import State
from tests.cli.conftest import Result
from tests.integration.conftest import Enter
from tests.integration.front import Guest, InstantClock, Room, check
from tests.integration.middle import Asked, Gateway
from tests.ports import lasting_port

#: Seconds of real time between two looks at the counted clock.
LOOK = 0.001
KEY = "7c2f7a54-0f63-4b5e-9a0e-3a4a4d1f6a11"

SOCKET_SENDERS = [name for name in NAMES if dialect_class(name).sends_on_socket]


class CountedSandbox(Sandbox):
    """A sandbox whose postponed actions happen when the counted clock reaches their time.

    `held` is called when a frame or a request of a guest is postponed by `hold` seconds.
    """

    def __init__(self, clock: InstantClock, **settings: Any) -> None:
        super().__init__(clock=clock, **settings)
        self._counted = clock
        self.hold = 0.0
        self.held: Callable[[], object] = lambda: None

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        due = self._counted.monotonic() + seconds

        def check() -> None:
            if self._counted.monotonic() >= due:
                what()
            else:
                super(CountedSandbox, self).later(LOOK, check)

        super().later(0.0, check)
        if seconds and seconds == self.hold:
            self.held()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as found:
        yield found


@pytest.fixture
def sandbox(gateway: Gateway, time: InstantClock) -> Iterator[CountedSandbox]:
    settings: dict[str, Any] = {
        "fast": True,
        "port": lasting_port(),
        "keys": "withheld",
        "deduplicates": "no",
        "also_hosts": (f"127.0.0.1:{gateway.port}",),
    }
    found = CountedSandbox(time, **settings)
    with found:
        gateway.behind = found.port
        yield found


@pytest.fixture
def guest(gateway: Gateway, sandbox: CountedSandbox, enter: Enter, api: str) -> Guest:
    """A guest who reaches the sandbox through the gateway."""
    return enter(sandbox, api, GUESTCTL_SANDBOX_URL=gateway.url)


def is_send(asked: Asked) -> bool:
    return asked.method == "POST" and asked.target.endswith("/messages")


def break_after_storing(guest: Guest, gateway: Gateway, room: Room, *more: str) -> None:
    """Break the next send after the service has stored its message and before the guest knows."""
    if guest.dialect.sends_on_socket:
        room.faults("drop:code=1006,after=1,on=send", *more)
        return
    room.faults(*more)
    left = [True]
    gateway.loses = lambda asked: is_send(asked) and bool(left) and left.pop()


def hold_and_break(gateway: Gateway, sandbox: CountedSandbox, room: Room, milliseconds: int, *more: str) -> None:
    """Hold the next message back for a time, and break the guest's connections as soon as it is on its way."""
    sandbox.hold, sandbox.held = milliseconds / 1000, gateway.cut
    room.faults(f"late:ms={milliseconds},on=send,times=1", *more)


def stored(room: Room, text: str) -> int:
    return room.texts("inbound").count(text)


def check_outcome(result: Result) -> str:
    """Return the outcome of a send whose record and exit code agree."""
    outcome = str(result.record["delivery"])
    assert result.code == {"accepted": 0, "in_doubt": 13}[outcome], (result.code, result.out, result.err)
    return outcome


def briefly(guest: Guest, time: InstantClock, *argv: str) -> None:
    """Run a command that must succeed without waiting for a message in doubt, which would take its whole timeout."""
    time.sleeps.clear()
    guest.ok(*argv)
    assert sum(time.sleeps) < 4.0, (argv, time.sleeps)


def check_later_commands(guest: Guest, room: Room, time: InstantClock, text: str) -> None:
    """Check that later commands neither repeat a message nor wait for it."""
    for argv in (("send", "another", "-o", "json"), ("resume", "-o", "json"), ("history", "-o", "jsonl")):
        briefly(guest, time, *argv)
    assert stored(room, text) == 1


# --- a message is stored once, however history lags and whatever comes back ---


@pytest.mark.parametrize("lag", [1500, 3000, 6000])
def test_a_break_before_the_echo_with_a_lagging_history(
    guest: Guest, gateway: Gateway, room: Room, time: InstantClock, lag: int
) -> None:
    guest.ok("session", "create")
    break_after_storing(guest, gateway, room, f"lag:ms={lag}")
    outcome = check_outcome(guest("send", "once", "-o", "json"))
    assert outcome == "accepted"  # history shows it within the deadline
    assert stored(room, "once") == 1
    room.clear()
    check_later_commands(guest, room, time, "once")


@pytest.mark.parametrize("lag", [3000, 60_000])
def test_a_history_that_lags_beyond_the_deadline_leaves_the_message_in_doubt(
    guest: Guest, gateway: Gateway, room: Room, time: InstantClock, lag: int
) -> None:
    guest.ok("session", "create")
    break_after_storing(guest, gateway, room, f"lag:ms={lag}")
    result = guest("send", "once", "--timeout", "2", "-o", "json")
    assert (check_outcome(result), result.code) == ("in_doubt", 13)
    guest.ok("send", "another")  # history still lags: nothing is found, repeated or waited for
    assert stored(room, "once") == 1
    room.clear()
    time.advance(lag / 1000)
    check_later_commands(guest, room, time, "once")
    again = guest.ok("send", "once", "--id", result.record["key"], "-o", "json")
    assert again.record["delivery"] == "accepted"
    assert stored(room, "once") == 1


@pytest.mark.parametrize("milliseconds", [1200, 4000, 9000])
def test_a_message_held_back_beyond_its_connection(
    guest: Guest, gateway: Gateway, sandbox: CountedSandbox, room: Room, time: InstantClock, milliseconds: int
) -> None:
    guest.ok("session", "create")
    hold_and_break(gateway, sandbox, room, milliseconds)
    assert check_outcome(guest("send", "once", "-o", "json")) == "accepted"
    assert stored(room, "once") == 1
    check_later_commands(guest, room, time, "once")


@pytest.mark.parametrize("milliseconds", [3000, 9000, 30_000])
def test_a_message_held_back_beyond_the_deadline(
    guest: Guest, gateway: Gateway, sandbox: CountedSandbox, room: Room, time: InstantClock, milliseconds: int
) -> None:
    """The next command runs while the first copy is still on its way, and sends no second one."""
    guest.ok("session", "create")
    hold_and_break(gateway, sandbox, room, milliseconds)
    result = guest("send", "once", "--timeout", "1", "-o", "json")
    assert check_outcome(result) == "in_doubt"
    assert stored(room, "once") == 0
    briefly(guest, time, "send", "another")
    time.advance(milliseconds / 1000)
    wait_until(lambda: stored(room, "once") == 1)
    check_later_commands(guest, room, time, "once")
    assert guest.ok("send", "once", "--id", result.record["key"], "-o", "json").record["delivery"] == "accepted"
    assert stored(room, "once") == 1


@pytest.mark.parametrize("lag", [0, 3000])
def test_guest_sessions_that_answer_with_an_id_only(
    gateway: Gateway, sandbox: CountedSandbox, room: Room, enter: Enter, time: InstantClock, lag: int
) -> None:
    guest = enter(sandbox, "guest-sessions", GUESTCTL_SANDBOX_URL=gateway.url)
    gateway.change = lambda value: (
        {"messageId": value.get("messageId", value.get("id"))} if is_send(gateway.asked[-1]) else value
    )
    guest.ok("session", "create")
    room.faults(f"lag:ms={lag}")
    assert check_outcome(guest("send", "once", "-o", "json")) == "accepted"
    assert stored(room, "once") == 1
    room.clear()
    check_later_commands(guest, room, time, "once")


# --- a client key belongs to one message ---


def test_an_id_used_for_another_text_is_a_conflict(
    guest: Guest, gateway: Gateway, sandbox: CountedSandbox, room: Room, time: InstantClock
) -> None:
    """Both while the first message is in doubt and after it was accepted."""
    guest.ok("session", "create")
    hold_and_break(gateway, sandbox, room, 5000)
    assert guest("send", "once", "--id", KEY, "--timeout", "1").code == 13
    check(guest("send", "twice", "--id", KEY, "--resend"), 6, "conflict.key", KEY)
    time.advance(6.0)
    wait_until(lambda: stored(room, "once") == 1)
    guest.ok("send", "another")
    check(guest("send", "twice", "--id", KEY), 6, "conflict.key", KEY)
    assert stored(room, "twice") == 0
    assert guest.ok("send", "once", "--id", KEY).record["delivery"] == "accepted"
    assert stored(room, "once") == 1


def test_only_resend_repeats_a_message_in_doubt(
    guest: Guest, gateway: Gateway, sandbox: CountedSandbox, room: Room, time: InstantClock
) -> None:
    guest.ok("session", "create")
    hold_and_break(gateway, sandbox, room, 60_000)
    assert guest("send", "once", "--id", KEY, "--timeout", "1").code == 13
    assert guest("send", "once", "--id", KEY, "--timeout", "1").code == 13
    assert stored(room, "once") == 0
    assert guest.ok("send", "once", "--id", KEY, "--resend").record["delivery"] == "accepted"
    assert stored(room, "once") == 1
    assert guest.ok("send", "once", "--id", KEY, "--resend").record["delivery"] == "accepted"
    assert stored(room, "once") == 1  # it is not in doubt any more
    time.advance(60.0)
    wait_until(lambda: stored(room, "once") == 2)  # what the user asked for
    guest.ok("send", "another")
    assert stored(room, "once") == 2


# --- an echo without the client's key ---


def leave_out_keys(monkeypatch: pytest.MonkeyPatch, *, echo: Callable[[str], str] = str) -> None:
    """Leave the client's key out of every echo of a guest's message. `echo` changes its text."""
    send = SocketPeer.send

    def changed(peer: SocketPeer, text: str, route: str | None = None) -> None:
        frame = json.loads(text)
        if frame.get("type") == "MESSAGE_ACCEPTED":
            return
        if '"once"' in text and "echo: " not in text:
            frame.pop("tracingId", None)
            for holder in (frame, *(v for v in frame.values() if isinstance(v, dict))):
                for name in ("correlationId", "messageId", "attributes", "metadata"):
                    holder.pop(name, None)
            text = json.dumps(frame).replace('"once"', json.dumps(echo("once")))
        send(peer, text, route)

    monkeypatch.setattr(SocketPeer, "send", changed)


@pytest.mark.parametrize("api", SOCKET_SENDERS, indirect=True)
def test_an_echo_without_a_key_is_accepted_if_no_other_send_has_its_text(
    guest: Guest, room: Room, time: InstantClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_keys(monkeypatch)
    guest.ok("session", "create")
    record = guest.ok("send", "once", "--wait", "-o", "json").record
    assert (record["delivery"], record["reply"]["text"]) == ("accepted", "echo: once")
    assert guest.ok("ask", "once").out == "echo: once\n"
    assert stored(room, "once") == 2


@pytest.mark.parametrize("mode", ["text", "json"])
@pytest.mark.parametrize("command", ["send", "ask"])
@pytest.mark.parametrize("api", SOCKET_SENDERS, indirect=True)
def test_an_echo_that_may_be_another_send_leaves_the_message_in_doubt(
    guest: Guest,
    gateway: Gateway,
    sandbox: CountedSandbox,
    room: Room,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    mode: str,
) -> None:
    """The first copy is still on its way when the second is sent. The reply is printed nevertheless."""
    guest.ok("session", "create")
    hold_and_break(gateway, sandbox, room, 600_000)
    assert guest("send", "once", "--timeout", "1").code == 13
    leave_out_keys(monkeypatch)
    argv = ("send", "once", "--wait") if command == "send" else ("ask", "once")
    result = guest(*argv, "-o", "table" if mode == "text" else "json")
    assert (result.code, stored(room, "once")) == (13, 1)
    if mode == "text":
        assert "echo: once" in result.out
        assert "may or may not have arrived" in result.err
    else:
        record = result.record
        assert (record if command == "ask" else record["reply"])["text"] == "echo: once"
        assert command == "ask" or record["delivery"] == "in_doubt"
        assert json.loads(result.err.splitlines()[-1])["error"]["code"] == "send.in_doubt"


@pytest.mark.parametrize("command", ["send", "ask"])
@pytest.mark.parametrize("api", SOCKET_SENDERS, indirect=True)
def test_a_reply_is_printed_when_the_echo_cannot_be_recognised(
    guest: Guest, room: Room, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The service masks the text of the message, live and in history."""
    monkeypatch.setattr("guestctl.sandbox.service_state.Service.visible", lambda *_: 0)
    leave_out_keys(monkeypatch, echo=lambda text: "****")
    guest.ok("session", "create")
    argv = ("send", "once", "--wait") if command == "send" else ("ask", "once")
    result = guest(*argv, "--timeout", "3", "-o", "table")
    assert (result.code, stored(room, "once")) == (13, 1)
    assert "echo: once" in result.out


# --- what is reported of an accepted message ---


def expire_after_the_echo(gateway: Gateway, room: Room) -> None:
    """Break the connection between the next echo and the reply. The session has expired at the next connect."""
    upgrades = [0]

    def rule(asked: Asked) -> None:
        upgrades[0] += asked.upgrade
        if asked.upgrade and upgrades[0] == 2:
            room.expire()

    gateway.rule = rule
    room.faults("drop:code=1006,after=3")  # after the answer to the configure frame and the echo


@pytest.mark.parametrize("mode", ["table", "json"])
@pytest.mark.parametrize("command", ["send", "ask"])
@pytest.mark.parametrize("api", ["web-messaging"], indirect=True)
def test_a_session_that_expires_after_the_echo_does_not_hide_the_delivery(
    guest: Guest, gateway: Gateway, room: Room, command: str, mode: str
) -> None:
    guest.ok("session", "create")
    guest.ok("send", "first")
    expire_after_the_echo(gateway, room)
    argv = ("send", "once", "--wait") if command == "send" else ("ask", "once")
    result = guest(*argv, "-o", mode)
    assert result.code == 10
    assert [m["text"] for session in room.sessions() for m in session["messages"]].count("once") == 1
    assert "had expired" in result.err
    assert "not sent" not in result.err
    if command == "ask":
        assert "the question was accepted" in result.err
    elif mode == "json":
        assert (result.record["delivery"], result.record["reply"]) == ("accepted", None)
    else:
        assert re.fullmatch(r"\S+ +> guest +once +accepted\n", result.out)


# --- a full disk ---


class Disk:
    """Makes every write to the state fail after a message has been marked as being written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patches = monkeypatch
        self.full = False
        mark, transaction = State.mark, Database.transaction

        def marked(state: State, scope: str, session: Any, key: str, to: str, *more: Any) -> None:
            mark(state, scope, session, key, to, *more)  # type: ignore[arg-type]
            self.full |= to == "writing"

        def written(database: Database, *, durable: bool) -> Any:
            if self.full:
                raise unusable(database.directory, "database or disk is full")
            return transaction(database, durable=durable)

        monkeypatch.setattr(State, "mark", marked)
        monkeypatch.setattr(Database, "transaction", written)

    def free(self) -> None:
        self._patches.undo()


COMMANDS = {"send": ("send", "once"), "send --wait": ("send", "once", "--wait"), "ask": ("ask", "once")}
#: Each API with one command; one API with each command in each output mode.
SHOWN = [(api, "send", "json") for api in NAMES]
SHOWN += [("web-messaging", command, mode) for command in COMMANDS for mode in ("auto", "table", "json")]


@pytest.mark.parametrize(("api", "command", "mode"), SHOWN, indirect=["api"])
def test_a_disk_that_fills_up_does_not_hide_the_delivery(
    guest: Guest, room: Room, time: InstantClock, monkeypatch: pytest.MonkeyPatch, command: str, mode: str
) -> None:
    guest.ok("session", "create")
    disk = Disk(monkeypatch)
    result = guest(*COMMANDS[command], "-o", mode)
    assert (result.code, stored(room, "once")) == (2, 1)
    assert "database or disk is full" in result.err
    assert "was accepted" in result.err
    if command != "ask" and mode != "table":
        assert result.record["delivery"] == "accepted"
        assert result.record["id"]
    disk.free()
    check_later_commands(guest, room, time, "once")


@pytest.mark.parametrize(("api", "command", "mode"), SHOWN, indirect=["api"])
def test_a_disk_that_fills_up_does_not_hide_a_doubt(
    guest: Guest,
    gateway: Gateway,
    room: Room,
    time: InstantClock,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    mode: str,
) -> None:
    guest.ok("session", "create")
    break_after_storing(guest, gateway, room, "lag:ms=60000")
    disk = Disk(monkeypatch)
    result = guest(*COMMANDS[command], "--timeout", "2", "-o", mode)
    assert (result.code, stored(room, "once")) == (13, 1)
    assert "database or disk is full" in result.err
    assert "may or may not have arrived" in result.err
    if command != "ask" and mode != "table":
        assert result.record["delivery"] == "in_doubt"
    disk.free()
    room.clear()
    check_later_commands(guest, room, time, "once")


# --- deadlines that the rate limit uses up ---


@pytest.mark.parametrize("api", [name for name in NAMES if dialect_class(name).send_rate is not None], indirect=True)
@pytest.mark.parametrize("seconds", ["0.6", "1"])
def test_a_send_that_would_have_no_time_left_is_refused_before_writing(
    guest: Guest, room: Room, time: InstantClock, monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    """The clock stands still between waits, so that eight sends come at once. A token takes 1.5 s to come."""
    monkeypatch.setattr(dialect_class(guest.api), "send_rate", Rate(2, 3.0))
    guest.ok("session", "create")
    now, monotonic = time.now(), time.monotonic()
    time.sleeps.clear()
    monkeypatch.setattr(time, "now", lambda: now + sum(time.sleeps))
    monkeypatch.setattr(time, "monotonic", lambda: monotonic + sum(time.sleeps))
    results = []
    for n in range(8):
        time.sleep(0.1)
        results.append(guest("send", f"text {n}", "--timeout", seconds, "-o", "json"))
    refused = [result for result in results if result.code]
    assert refused
    for result in refused:
        error = check(result, 7, "rate.limited")
        assert error["retry_after"] > 0
        assert result.record["delivery"] == "not_sent"
    accepted = [result.record["text"] for result in results if not result.code]
    assert room.texts("inbound") == accepted


# --- floods while an answer is awaited ---


def flood(monkeypatch: pytest.MonkeyPatch, frames: Callable[[SocketPeer], object]) -> None:
    """Send many frames before the first acceptance or echo of "once"."""
    send, left = SocketPeer.send, [True]

    def flooded(peer: SocketPeer, text: str, route: str | None = None) -> None:
        if left and ('"once"' in text or "MESSAGE_ACCEPTED" in text):
            left.pop()
            frames(peer)
        send(peer, text, route)

    monkeypatch.setattr(SocketPeer, "send", flooded)


@pytest.mark.parametrize("filler", [0, 20_000], ids=["many", "large"])
@pytest.mark.parametrize("api", SOCKET_SENDERS, indirect=True)
def test_a_flood_of_unknown_frames_is_counted_and_not_kept(
    guest: Guest, room: Room, monkeypatch: pytest.MonkeyPatch, filler: int
) -> None:
    frame = {"type": "surprise", "class": "Surprise", "code": 200, "body": {"filler": "x" * filler}}
    text, most = json.dumps(frame), [0]
    add = Inbox.add

    def added(inbox: Inbox, item: Any, size: int) -> None:
        add(inbox, item, size)
        most[0] = max(most[0], len(inbox))

    monkeypatch.setattr(Inbox, "add", added)
    count = 300 if filler else 1500

    def surprise(peer: SocketPeer) -> None:
        for _ in range(count):
            peer.send(text)

    flood(monkeypatch, surprise)
    guest.ok("session", "create")
    result = guest.ok("ask", "once", "-o", "table")
    assert result.out == "echo: once\n"
    assert stored(room, "once") == 1
    (notice,) = result.err.splitlines()
    dropped = int(re.sub(r"\D", "", notice))
    limit = DROP_FROM_BYTES // filler if filler else DROP_FROM_ITEMS
    assert count - limit - 5 <= dropped <= count - limit + 5
    assert most[0] <= limit + 5


@pytest.mark.parametrize("api", SOCKET_SENDERS, indirect=True)
def test_a_flood_of_messages_loses_none(guest: Guest, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """More messages than the inbox holds: the connection ends, and history shows them."""
    monkeypatch.setattr("guestctl.engine.inbox.MOST_ITEMS", 50)
    service = room.sandbox.service

    def many(peer: SocketPeer) -> None:
        (conversation,) = service.conversations.values()
        for n in range(100):
            service.send(conversation, f"news {n}")

    flood(monkeypatch, many)
    guest.ok("session", "create")
    result = guest.ok("send", "once", "--expect", "^echo: once$", "-o", "json")
    assert (result.record["delivery"], result.record["reply"]["text"]) == ("accepted", "echo: once")
    assert stored(room, "once") == 1
    shown = {json.loads(line)["text"] for line in guest.ok("history", "--all", "-o", "jsonl").out.splitlines()}
    assert {f"news {n}" for n in range(100)} < shown


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        real_sleep(LOOK)
    raise AssertionError("it did not happen")
