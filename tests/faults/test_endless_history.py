"""Histories without an end, and histories that repeat themselves: each command ends, within its time.

Every test runs commands on counted time. Each page of history takes a tenth of a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, SupportsIndex, overload

import pytest

from guestctl.core.errors import Exit
from guestctl.sandbox.service_state import StoredMessage
from tests.faults.command_line import CountedGuest
from tests.faults.schedules import APIS, OVER_REST, SENDER

#: Seconds for one page, and for a command.
PAGE_TIME, TIMEOUT = 0.1, 4.0
#: Entries that a client may hold, in the tests of the bound.
HELD = 250


class Endless(list[StoredMessage]):
    """A million messages that are made when they are read. With `repeats`, every page has the same ones.

    `stored` has what was sent since.
    """

    def __init__(self, *, repeats: bool) -> None:
        super().__init__()
        self._repeats = repeats
        self.stored: list[StoredMessage] = []

    def __len__(self) -> int:
        return 1_000_000

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[StoredMessage]:
        raise AssertionError("nobody can read all of it")

    @overload
    def __getitem__(self, place: SupportsIndex) -> StoredMessage: ...
    @overload
    def __getitem__(self, place: slice) -> list[StoredMessage]: ...
    def __getitem__(self, place: SupportsIndex | slice) -> StoredMessage | list[StoredMessage]:
        if not isinstance(place, slice):
            return self._message(range(len(self))[place])
        places = range(len(self))[place]
        return [self._message(n) for n in (range(len(places)) if self._repeats else places)]

    def append(self, message: StoredMessage) -> None:
        self.stored.append(message)

    def _message(self, n: int) -> StoredMessage:
        millis = 1_700_000_000_000 + n
        time = f"2023-11-14T22:{13 + n // 60_000:02}:{n // 1000 % 60:02}.{n % 1000:03}Z" if n < 2_000_000 else ""
        return StoredMessage(f"endless-{n}", n + 1, millis, time, "outbound", "agent", text=f"message {n}")


class Places(dict[str, int]):
    """The places of endless messages."""

    def get(self, identity: str, default: Any = None) -> Any:
        return int(identity.removeprefix("endless-")) if identity.startswith("endless-") else default


def without_end(guest: CountedGuest, *, repeats: bool = False) -> Endless:
    """Give the guest an endless history."""
    conversation = guest.conversation
    conversation.messages = messages = Endless(repeats=repeats)
    conversation.positions = Places()
    guest.simulation.fault(f"delay:ms={PAGE_TIME * 1000:g},on=history")
    return messages


def pages(guest: CountedGuest) -> int:
    """Return how many pages of history were requested."""
    return int(guest.simulation.fired()["delay"])


@pytest.mark.parametrize("api", APIS)
def test_resume_ends_at_its_timeout(counted_guest: CountedGuest) -> None:
    without_end(counted_guest)
    resumed = counted_guest("resume", "--timeout", f"{TIMEOUT:g}", "-o", "json")
    assert resumed.code in {Exit.NETWORK, Exit.TIMED_OUT}
    assert resumed.records == []
    assert TIMEOUT - 1 <= resumed.seconds <= TIMEOUT + 1
    assert pages(counted_guest) <= TIMEOUT / PAGE_TIME


@pytest.mark.parametrize("api", APIS)
def test_resume_prints_as_many_entries_as_it_may_hold_and_a_gap(
    counted_guest: CountedGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guestctl.engine.history.MISSED_ENTRIES", HELD)
    without_end(counted_guest)
    resumed = counted_guest("resume", "-o", "json")
    assert resumed.code == Exit.DONE
    missed = resumed.records[0]["missed"]
    assert len([line for line in missed if line["kind"] == "message"]) == HELD
    assert [line["reason"] for line in missed if line["kind"] == "gap"] == ["too_long"]


@pytest.mark.parametrize("api", APIS)
def test_a_message_is_not_looked_for_without_end(counted_guest: CountedGuest, api: str) -> None:
    messages, simulation = without_end(counted_guest), counted_guest.simulation
    if api in OVER_REST:
        simulation.request_faults[SENDER] = deque([("unanswered", 0.0)])
    else:
        simulation.when_stored.append(lambda: simulation.inject(SENDER, "cut", 0.0))
    sent = counted_guest("send", "once", "--timeout", f"{TIMEOUT:g}", "-o", "json")
    assert (sent.code, sent.records[0]["delivery"]) == (Exit.IN_DOUBT, "in_doubt")
    assert sent.seconds <= TIMEOUT + 1
    assert [message.text for message in messages.stored if message.direction == "inbound"] == ["once"]


@pytest.mark.parametrize("api", APIS)
def test_listen_ends_when_it_should(counted_guest: CountedGuest) -> None:
    without_end(counted_guest)
    listened = counted_guest("listen", "--for", f"{TIMEOUT:g}", "-o", "jsonl")
    assert listened.code in {Exit.DONE, Exit.NETWORK, Exit.TIMED_OUT}
    assert listened.seconds <= TIMEOUT + 2
    assert pages(counted_guest) <= TIMEOUT / PAGE_TIME + 1


@pytest.mark.parametrize("command", ["resume", "history", "history --all"])
@pytest.mark.parametrize("api", APIS)
def test_a_history_that_repeats_itself_is_unreadable(counted_guest: CountedGuest, command: str) -> None:
    without_end(counted_guest, repeats=True)
    assert counted_guest(*command.split(), "-o", "jsonl").code == Exit.UNREADABLE
    assert pages(counted_guest) <= 25
