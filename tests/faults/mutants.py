"""Clients with one mistake each: the harness is worth something only if it catches them all (§5.4).

Knows: the client's inside, one place per mistake. Must not know: schedules' details, beyond one that
shows each mistake.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from guestctl.cli.commands import cursor
from guestctl.cli.commands.cursor import CursorFile
from guestctl.core.clock import Deadline
from guestctl.core.errors import Failure, Unreadable
from guestctl.core.model import Message, NewSession
from guestctl.dialects.flows import FrameRequest
from guestctl.engine import connect, delivery, history, sessions
from guestctl.engine.catch_up import CatchUp, Continuous
from guestctl.engine.delivery import _Send
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.merge import Merge
from guestctl.engine.session_socket import SessionSocket
from guestctl.storage.state import State
from tests.faults.model import TIMEOUT
from tests.faults.oracles import SLACK
from tests.faults.proxy import Rule
from tests.faults.schedules import LISTENER, SENDER, Crash, Hook, Schedule, Step, scripted

Patch = tuple[Any, str, Any]


@dataclass(frozen=True)
class Mutant:
    """One mistake, the promise it breaks, and a schedule that shows it and a client without it lives through."""

    name: str
    caught_by: str
    shown_by: Schedule
    patches: Sequence[Patch]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with ExitStack() as stack:
            for where, what, instead in self.patches:
                stack.enter_context(patch.object(where, what, instead))
            yield


# --- sending ---


def _resend(send: _Send, why: str) -> None:
    send.repeats += 1


def _assume_accepted(send: _Send, failure: Failure) -> Message:
    send._drop_socket()
    return send._finish_accepted(Message("unknown", "inbound", send.outgoing.text, None, key=send.outgoing.key))


def _assume_not_sent(send: _Send, failure: Failure) -> Message:
    send._drop_socket()
    send.doubtful = False
    return send._finish_refused(failure, "not_sent")


def _forget(exchange: SessionEngine, deadline: Deadline) -> list[Message]:
    for row in exchange.state.outbox(exchange.scope, exchange.session, "queued", "writing", "in_doubt"):
        exchange.state.mark(exchange.scope, exchange.session, row.key, "not_sent")
    return []


_ask = SessionSocket.ask


def _take_the_first(line: SessionSocket, turn: FrameRequest, deadline: Deadline) -> Any:
    own = turn.answers
    if turn.message and own is not None:
        turn = replace(turn, answers=lambda heard: isinstance(heard, Message) or own(heard))
    return _ask(line, turn, deadline)


_open_line = connect.open_socket


def _start_afresh(exchange: SessionEngine, deadline: Deadline, **options: Any) -> SessionSocket:
    if exchange.session.state != "draft":
        asked = NewSession(name=exchange.session.name, queue="q", email="guest@example.test", guest_name="guest")
        fresh = exchange.perform(exchange.dialect.create(asked), deadline)
        exchange.session = replace(fresh, name=exchange.session.name, created_at=exchange.session.created_at)
    return _open_line(exchange, deadline, **options)


# --- listening ---


_hold, _replay, _ready = Merge._hold, Merge.replay, Merge.ready


def _hold_by_second(merge: Merge, event: Any, now: float) -> None:
    if not isinstance(event, Message) or merge._mark_seen(f"second {(event.time or '')[:19]}"):
        _hold(merge, event, now)


def _replay_but_one(merge: Merge, items: Any, **options: Any) -> Any:
    fresh = [item for item in items if item.id is None or not merge.has_seen(item.id)]
    return _replay(merge, fresh[1:], **options)


def _ready_backwards(merge: Merge, *args: Any, **options: Any) -> Any:
    return _ready(merge, *args, **options)[::-1]


def _fill_nothing(catch_up: CatchUp) -> Generator[None, None, int]:
    catch_up.state = Continuous()
    yield None
    return 0


def _burst(line: SessionSocket, frame: Any) -> Any:
    try:
        return list(line._dialect.decode(frame, line.session))
    except Unreadable as error:
        raise ValueError(error.message) from error


def _take_for_a_message(line: SessionSocket, frame: Any) -> Any:
    try:
        return list(line._dialect.decode(frame, line.session))
    except Unreadable:
        return [Message(frame.text[:20], "outbound", frame.text, None)]


def _hold_loudly(merge: Merge, event: Any, now: float) -> None:
    _hold(merge, replace(event, text=event.text.upper()) if isinstance(event, Message) else event, now)


# --- the rest ---


def _patient(send: _Send) -> Deadline:
    """Longer than the whole command has, by more than is forgiven."""
    return Deadline.after(send.engine.clock, TIMEOUT + SLACK + 2.0)


def _there_or_not(descriptor: int, end: int, begin: int) -> bool:
    return os.fstat(descriptor).st_size >= end


_log = State.log


def _scribble(state: State, *args: Any) -> None:
    _log(state, *args)
    for held in state._rows("PRAGMA database_list"):
        with open(held[2], "r+b") as file:
            # Every page but the first: one alone may be written anew from memory before anybody reads it.
            size = os.fstat(file.fileno()).st_size
            file.seek(4096)
            file.write(bytes(max(0, size - 4096)))


def _written_first(file: CursorFile, message: Message, size: int) -> None:
    file.written(message)


def _one_page(fetch: Any, after: Any) -> Iterator[Any]:
    yield from fetch(after, None).items


_call = SessionEngine.call


def _tell_all(exchange: SessionEngine, request: Any, deadline: Deadline) -> Any:
    try:
        return _call(exchange, request, deadline)
    except Failure as failure:
        for held in exchange.session.credentials.values():
            failure.message += f" (token {held.secret.reveal()})"
        exchange.notice(failure.message)
        raise


def _nothing(*args: Any, **options: Any) -> None:
    return None


def _never(*args: Any, **options: Any) -> bool:
    return False


def _yes(merge: Merge, identity: str) -> bool:
    merge._seen[identity] = None
    return True


_CUT = Hook(1, "cut", SENDER, "socket")
_GUESTS = tuple(f"guest {n}" for n in range(6))

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "sends again without looking",
        "O2 doubled",
        scripted("web-messaging", *_GUESTS, hooks=(_CUT,)),
        [(_Send, "_resolve_doubt", _resend)],
    ),
    Mutant(
        "takes a break for acceptance",
        "O1 outcome",
        scripted("web-messaging", *_GUESTS, hooks=(_CUT,)),
        [(_Send, "_after_break", _assume_accepted)],
    ),
    Mutant(
        "takes a break for nothing sent",
        "O1 outcome",
        scripted("messaging-conversations", *_GUESTS, hooks=(_CUT,)),
        [(_Send, "_after_break", _assume_not_sent)],
    ),
    Mutant(
        "forgets what is in doubt",
        "O1 settling",
        Schedule(0, "guests", (Step("send", "guest 0"), Step("kill", "guest 1", count=2))),
        [(delivery, "settle_open", _forget), (sessions, "settle_open", _forget)],
    ),
    Mutant(
        "takes the first message it hears for its own",
        "O1 outcome",
        scripted("messaging-conversations", *_GUESTS, faults=("swap:on=send",)),
        [(SessionSocket, "ask", _take_the_first)],
    ),
    Mutant(
        "starts another session when the line breaks",
        "O5 identity",
        scripted("web-messaging", *_GUESTS, hooks=(_CUT,)),
        [(sessions, "open_socket", _start_afresh)],
    ),
    Mutant(
        "tells doubles by their time",
        "O3 lost",
        scripted("web-messaging", "agent 0", "agent 1", "agent 2"),
        [(Merge, "_hold", _hold_by_second)],
    ),
    Mutant(
        "tells no doubles",
        "O3 doubled",
        scripted("guests", *_GUESTS, faults=("duplicate",)),
        [(Merge, "_mark_seen", _yes)],
    ),
    Mutant(
        "fills no gap",
        "O3 lost",
        scripted("messaging-conversations", "agent 0", "agent 1", "agent 2", faults=("drop:code=1006,after=2",)),
        [(CatchUp, "fill", _fill_nothing), (CatchUp, "look_due", _never)],
    ),
    Mutant(
        "loses one message at a reconnect",
        "O3 lost",
        scripted("external-contacts", "agent 0", "agent 1", "agent 2", faults=("drop:code=1006,after=2",)),
        [(Merge, "replay", _replay_but_one)],
    ),
    Mutant(
        "hands on in the wrong order",
        "O3 out of order",
        # Held for a while, the frames come together: there is an order to get wrong.
        scripted("guest-sessions", *_GUESTS, faults=("silence:for=1s,after=1",)),
        [(Merge, "ready", _ready_backwards)],
    ),
    Mutant(
        "never asks whether the peer is alive",
        "O3 lost",
        Schedule(
            0,
            "guests",
            (Step("attend"), Step("pause", seconds=0.6), Step("send", "guest 0"), Step("push", "agent 0")),
            hooks=(Hook(1, "hole", LISTENER, "socket"),),
        ),
        [(SessionSocket, "keep_alive", _nothing)],
    ),
    Mutant(
        "lets a library's exception out",
        "O9 traceback",
        scripted("conversation-guests", "agent 0", "agent 1", faults=("garbage:after=2",)),
        [(SessionSocket, "_decode", _burst)],
    ),
    Mutant(
        "moves the cursor before the line",
        "O3 lost",
        scripted("webmessaging-conversations", *_GUESTS, crashes=(Crash(2, "intent"),)),
        [(CursorFile, "writing", _written_first)],
    ),
    Mutant(
        "notes no intent",
        "O3 doubled",
        scripted("webmessaging-conversations", *_GUESTS, crashes=(Crash(2, "line"),)),
        [(CursorFile, "writing", _nothing)],
    ),
    Mutant(
        "reads the first page only",
        "O4 history",
        scripted("guests", *_GUESTS, "history"),
        [(history, "_forward", _one_page)],
    ),
    Mutant(
        "shows a token",
        "O9 secret",
        scripted("web-messaging", "guest 0", "history", faults=("http:status=500,on=history,times=4",)),
        [(SessionEngine, "call", _tell_all)],
    ),
    Mutant(
        "takes what it cannot read for a message",
        "O3 phantom",
        scripted("guests", "agent 0", "agent 1", faults=("garbage:after=2",)),
        [(SessionSocket, "_decode", _take_for_a_message)],
    ),
    Mutant(
        "shows another text",
        "O3 altered",
        scripted("conversation-guests", "agent 0", "guest 0"),
        [(Merge, "_hold", _hold_loudly)],
    ),
    Mutant(
        "takes more time than it has",
        "O8 bounds",
        scripted("external-contacts", *_GUESTS[:2], rules=(Rule("hole", SENDER, "request", 1, "down", 0),)),
        [(_Send, "_attempt_deadline", _patient)],
    ),
    Mutant(
        "leaves half a line",
        "O3 torn",
        scripted("webmessaging-conversations", *_GUESTS, crashes=(Crash(2, "torn"),)),
        [(cursor, "_holds", _there_or_not)],
    ),
    Mutant(
        "writes into its own database",
        "O6 state",
        scripted("webmessaging-conversations", *_GUESTS[:2]),
        [(State, "log", _scribble)],
    ),
)
