"""Client keys: what comes back, what is stored once, and what a late first copy does (`--keys`, `--deduplicates`)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import requests

from guestctl.sandbox.server import Sandbox
from tests.sandbox import bare
from tests.sandbox.bare import EVERYBODY, REST_SENDERS, SOCKET_SENDERS, Guest, gone
from tests.sandbox.conftest import Make
from tests.sandbox.stranger import Join

LATE = 30.0
everybody = pytest.mark.parametrize("kind", EVERYBODY, ids=lambda kind: kind.api)
socket_senders = pytest.mark.parametrize("kind", SOCKET_SENDERS, ids=lambda kind: kind.api)


def inbound(sandbox: Sandbox) -> list[str | None]:
    """Return the texts of all stored guest messages."""
    return sandbox.call(
        lambda: [m.text for c in sandbox.service.conversations.values() for m in c.messages if m.role == "guest"]
    )


def send(guest: Any, text: str, key: str, *, repeated: bool = False) -> Any:
    """Send a message and return what the service answers with or pushes."""
    if isinstance(guest, REST_SENDERS):
        return guest.send(text, key)
    line = guest.listen()
    guest.say(line, text, key)
    answers = [line.hear()]
    if guest.api == "conversation-guests" and not repeated:
        answers.append(line.hear())  # after MESSAGE_ACCEPTED, which answers by key, comes the message itself
    line.leave()
    return answers[-1]


def test_by_default_a_sandbox_withholds_keys_and_does_not_deduplicate() -> None:
    assert (Sandbox().options.keys, Sandbox().options.deduplicates) == ("withheld", "no")


@everybody
@pytest.mark.parametrize("keys", ["withheld", "returned"])
def test_client_keys_come_back_only_on_request(make: Make, kind: type[Guest], keys: str) -> None:
    guest = kind(make(fast=True, keys=keys))
    answer = send(guest, "hi", "key-of-the-client")
    shown = "key-of-the-client" in str(guest.history()), "key-of-the-client" in str(answer)
    assert shown == (keys == "returned",) * 2


@everybody
@pytest.mark.parametrize(("deduplicates", "times"), [("no", 2), ("yes", 1)])
@pytest.mark.parametrize("keys", ["withheld", "returned"])
def test_deduplicates_decides_whether_a_repeated_key_is_stored_again(
    make: Make, kind: type[Guest], keys: str, deduplicates: str, times: int
) -> None:
    sandbox = make(fast=True, keys=keys, deduplicates=deduplicates)
    guest = kind(sandbox)
    send(guest, "hi", "same")
    send(guest, "hi", "same", repeated=times == 1)
    assert Counter(inbound(sandbox)) == {"hi": times}
    shown = [m[guest.id_name] for m in guest.history()["messages"]]
    assert len(shown) == len(set(shown)) == 2 * times  # each with its echo, and each under an id of its own


class Postponed:
    """The work of a sandbox that is 30 seconds late, until `perform` does it. No test waits for it."""

    def __init__(self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        self._sandbox = sandbox
        self.held: list[Callable[[], None]] = []
        later = sandbox.later

        def hold(seconds: float, what: Callable[[], None]) -> None:
            self.held.append(what) if seconds == LATE else later(seconds, what)

        monkeypatch.setattr(sandbox, "later", hold)

    def perform(self) -> None:
        for what in self.held:
            self._sandbox.call(what)


def _wait_for(found: Callable[[], bool]) -> None:
    for _ in range(5000):
        if found():
            return
        time.sleep(0.001)
    raise AssertionError("it did not happen")


@socket_senders
def test_a_late_frame_is_stored_after_its_socket_broke(
    make: Make, kind: type[Guest], monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = make(fast=True, faults=("late:ms=30000,on=send,times=1",))
    late = Postponed(sandbox, monkeypatch)
    guest: Any = kind(sandbox)
    line = guest.listen()
    guest.say(line, "first", "a")
    _wait_for(lambda: bool(late.held))
    line.tear()
    gone(sandbox)
    send(guest, "second", "b")
    assert inbound(sandbox) == ["second"]
    late.perform()
    assert inbound(sandbox) == ["second", "first"]
    assert not sandbox.call(lambda: [c.observers for c in sandbox.service.conversations.values() if c.observers])


@pytest.mark.parametrize("kind", REST_SENDERS, ids=lambda kind: kind.api)
def test_a_late_request_is_performed_after_its_connection_broke(
    make: Make, kind: type[Guest], monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = make(fast=True, faults=("late:ms=30000,on=send,times=1",))
    late = Postponed(sandbox, monkeypatch)
    guest = kind(sandbox)
    monkeypatch.setattr(bare, "PATIENCE", 0.2)
    with pytest.raises(requests.Timeout):
        guest.send("first", "a")
    monkeypatch.undo()
    guest.send("second", "b")
    assert inbound(sandbox) == ["second"]
    late.perform()
    _wait_for(lambda: inbound(sandbox) == ["second", "first"])


def test_a_late_frame_of_web_messaging_is_stored_after_its_socket_broke(
    make: Make, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = make(fast=True, faults=("late:ms=30000,on=send,times=1",))
    late = Postponed(sandbox, monkeypatch)
    guest = join(sandbox)
    guest.configure()
    guest.message("first")
    _wait_for(lambda: bool(late.held))
    guest.leave(broken=True)
    gone(sandbox)
    assert inbound(sandbox) == []
    again = join(sandbox)
    again.configure()
    late.perform()
    assert again.expect("StructuredMessage")["body"]["text"] == "first"
    assert inbound(sandbox) == ["first"]


@pytest.mark.parametrize(("deduplicates", "times"), [("no", 2), ("yes", 1)])
def test_web_messaging_deduplicates_by_custom_message_id(make: Make, join: Join, deduplicates: str, times: int) -> None:
    sandbox = make(fast=True, deduplicates=deduplicates)
    guest = join(sandbox)
    guest.configure()
    echoes = []
    for tracing in ("t1", "t2"):
        guest.message("Hi", tracing, metadata={"customMessageId": "same"})
        echoes.append(guest.expect("StructuredMessage"))
        if len(echoes) == 1 or times == 2:
            guest.expect("StructuredMessage")
    assert [echo["tracingId"] for echo in echoes] == ["t1", "t2"]
    assert len({echo["body"]["id"] for echo in echoes}) == times
    assert inbound(sandbox) == ["Hi"] * times
