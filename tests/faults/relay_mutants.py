"""Relays with one deliberate mistake each, which the oracles of the relay must catch.

Knows: the relay's internals, one place per mistake. Must not know: details of plans, except the seed of one that shows
each mistake.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from guestctl.core.errors import Failure
from guestctl.core.model import Event
from guestctl.engine.delivery import _Send
from guestctl.engine.listener import Listener
from guestctl.relay.hub import Hub, Subscription
from guestctl.relay.log import Arrival, EventLog, LogEntry, Missing
from guestctl.relay.sends import SendAnswer, Sends, WantedMessage
from tests.faults.mutants import Patch, _resend, patched


@dataclass(frozen=True)
class RelayMutant:
    """One mistake, the oracle that must catch it, and the plan that shows it (`seed`, `api`)."""

    name: str
    caught_by: str
    seed: int
    api: str
    patches: Sequence[Patch]

    def installed(self) -> AbstractContextManager[None]:
        return patched(self.patches)


_append, _locate, _entries_after = EventLog.append, EventLog.locate, Hub.entries_after
_held: WeakKeyDictionary[EventLog, tuple[Sequence[Arrival], float]] = WeakKeyDictionary()


def _append_later(log: EventLog, arrivals: Sequence[Arrival], at: float) -> list[LogEntry]:
    """Pass events on at once, and commit them together with the next ones."""
    if before := _held.pop(log, None):
        _append(log, *before)
    _held[log] = (arrivals, at)
    entries = [
        LogEntry(log.id(log.last + n), one.kind, one.conversation, at, one.body) for n, one in enumerate(arrivals, 1)
    ]
    log._last += len(entries)
    return entries


def _one_too_far(log: EventLog, after: str) -> tuple[int, Missing | None]:
    number, missing = _locate(log, after)
    return min(number + 1, log.last), missing


def _one_too_early(log: EventLog, after: str) -> tuple[int, Missing | None]:
    number, missing = _locate(log, after)
    return max(number - 1, 0), missing


def _nothing_missing(log: EventLog, after: str) -> tuple[int, Missing | None]:
    return _locate(log, after)[0], None


def _no_epoch(log: EventLog, birth: str) -> int:
    _remove_other(log, birth)
    return 1 << 49


def _undamaged(log: EventLog) -> tuple[int, str | None, bool]:
    return 0, None, False


def _skip_one(hub: Hub, number: int, most: int) -> tuple[Sequence[LogEntry], int]:
    found, dropped = _entries_after(hub, number, most)
    return (found[1:] if len(found) > 2 else found), dropped


def _drop_any(log: EventLog, run: Any, usual: int, passing: int) -> tuple[int, int]:
    number = run("SELECT max(number) FROM event").fetchone()[0] - log._retain
    if number > 0:
        run("INSERT OR REPLACE INTO meta VALUES ('dropped', ?), ('dropped_at', '0')", (str(number),))
        run("DELETE FROM event WHERE number <= ?", (number,))
    return usual, passing


def _not_sent(sends: Sends, key: str, message: WantedMessage, failure: Failure) -> SendAnswer:
    return sends._answer(sends._client_key(key), message, failure.with_outcome("not_sent"))


def _rest_on_any_socket(listener: Listener, *, gaps_only: bool = False) -> Generator[Event, None, None]:
    listener._live_socket = None
    return _rest(listener, gaps_only=gaps_only)


_rest = Listener.rest
_remove_other = EventLog._remove_other

RELAY_MUTANTS: tuple[RelayMutant, ...] = (
    RelayMutant(
        "passes events on before they are committed",
        "R1 commit",
        0,
        "web-messaging",
        [(EventLog, "append", _append_later)],
    ),
    RelayMutant("continues one event too far", "R3 lost", 0, "web-messaging", [(EventLog, "locate", _one_too_far)]),
    RelayMutant(
        "continues one event too early", "R2 order", 0, "web-messaging", [(EventLog, "locate", _one_too_early)]
    ),
    RelayMutant("tells no reader of a gap", "R3 lost", 2, "guest-sessions", [(EventLog, "locate", _nothing_missing)]),
    RelayMutant(
        "gives every log the same epoch", "R1 commit", 0, "web-messaging", [(EventLog, "_remove_other", _no_epoch)]
    ),
    RelayMutant(
        "uses a damaged log", "R7 recovery", 0, "webmessaging-conversations", [(EventLog, "_look", _undamaged)]
    ),
    RelayMutant(
        "skips an event between log and memory", "R4 gap", 0, "web-messaging", [(Hub, "entries_after", _skip_one)]
    ),
    RelayMutant(
        "counts connection events as messages", "R4 gap", 0, "messaging-conversations", [(EventLog, "_drop", _drop_any)]
    ),
    RelayMutant(
        "lets a slow reader continue at the end",
        "R3 lost",
        0,
        "external-contacts",
        [(Subscription, "resume_after", property(lambda reader: str(reader._hub.log.id(reader._hub.log.last))))],
    ),
    RelayMutant(
        "starts at the beginning after a crash",
        "R2 order",
        0,
        "guest-sessions",
        [(EventLog, "position", property(lambda log: None))],
    ),
    RelayMutant(
        "continues on another socket when it stops, as if nothing were missing",
        "R3 lost",
        9,
        "guests",
        [(Listener, "rest", _rest_on_any_socket)],
    ),
    RelayMutant(
        "sends again what history does not show",
        "R6 send",
        1,
        "web-messaging",
        [(_Send, "_look_until_deadline", _resend)],
    ),
    RelayMutant(
        "forgets which message a key belongs to",
        "R6 send",
        0,
        "web-messaging",
        [(Sends, "_client_key", lambda sends, key: str(uuid.uuid4()))],
    ),
    RelayMutant("calls a withdrawn request not sent", "R6 send", 21, "web-messaging", [(Sends, "not_sent", _not_sent)]),
)
