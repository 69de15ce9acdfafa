"""The mutants: clients with one deliberate mistake each, which the harness must catch (reliability.md §5.4).

Knows: the client's internals, one place per mistake. Must not know: details of schedules, except one that
shows each mistake.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from math import inf
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

from guestctl.cli.commands import cursor, listen_history
from guestctl.cli.commands.cursor import CursorFile
from guestctl.core.clock import Deadline
from guestctl.core.errors import Failure, Unreadable
from guestctl.core.model import Message, NewSession
from guestctl.dialects.flows import FrameRequest
from guestctl.engine import connect, delivery, history, sessions
from guestctl.engine.catch_up import CatchUp, Continuous, Open
from guestctl.engine.delivery import _Send
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.merge import Merge
from guestctl.engine.session_socket import SessionSocket
from guestctl.storage.state import State
from tests.faults.model import PATIENCE, TIMEOUT
from tests.faults.oracles import SLACK
from tests.faults.proxy import Rule
from tests.faults.schedules import LISTENER, SENDER, WATCHER, Crash, Hook, Schedule, Step, scripted

Patch = tuple[Any, str, Any]


@contextmanager
def patched(patches: Sequence[Patch]) -> Iterator[None]:
    """Apply all patches until the block ends."""
    with ExitStack() as stack:
        for where, what, instead in patches:
            stack.enter_context(patch.object(where, what, instead))
        yield


@dataclass(frozen=True)
class Mutant:
    """One mistake, the oracle that must catch it, and a schedule that shows it and that the correct client survives."""

    name: str
    caught_by: str
    shown_by: Schedule
    patches: Sequence[Patch]

    def installed(self) -> AbstractContextManager[None]:
        return patched(self.patches)


# --- sending ---


def _resend(send: _Send, why: str) -> None:
    send.repeats += 1


def _repeat_when_absent_for(seconds: float) -> Callable[[_Send, str], Message | None]:
    def look(send: _Send, why: str) -> Message | None:
        until = send.engine.clock.monotonic() + seconds
        while send.engine.clock.monotonic() < until:
            with suppress(Failure):
                if (found := send._find_in_history()) is not None:
                    return send._finish_accepted(found)
            send.engine.clock.sleep(1.0)
        send.repeats += 1
        return None

    return look


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


def _accept_any_message(line: SessionSocket, turn: FrameRequest, deadline: Deadline) -> Any:
    own = turn.answers
    if turn.message and own is not None:
        turn = replace(turn, answers=lambda event: isinstance(event, Message) or own(event))
    return _ask(line, turn, deadline)


_open_line = connect.open_socket


def _open_another_session(exchange: SessionEngine, deadline: Deadline, **options: Any) -> SessionSocket:
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


_declare = CatchUp._declare


def _declare_for_good(catch_up: CatchUp, reason: str, **options: Any) -> list[Any]:
    events = _declare(catch_up, reason, **options)
    if isinstance(catch_up.state, Open):
        catch_up.state = replace(catch_up.state, declared=True)
        catch_up.merge.wait_for_history(0.0)
    return events


def _raise_untyped(line: SessionSocket, frame: Any) -> Any:
    try:
        return list(line._dialect.decode(frame, line.session))
    except Unreadable as error:
        raise ValueError(error.message) from error


def _decode_anything(line: SessionSocket, frame: Any) -> Any:
    try:
        return list(line._dialect.decode(frame, line.session))
    except Unreadable:
        return [Message(frame.text[:20], "outbound", frame.text, None)]


def _hold_in_upper_case(merge: Merge, event: Any, now: float) -> None:
    _hold(merge, replace(event, text=event.text.upper()) if isinstance(event, Message) else event, now)


_join, _open = CatchUp._join, CatchUp._open


def _complete_after(seconds: float) -> Sequence[Patch]:
    """Return the patches of a client that takes history for complete some seconds after a socket was opened."""
    opened: WeakKeyDictionary[CatchUp, float] = WeakKeyDictionary()

    def open_(catch_up: CatchUp, **options: Any) -> Open:
        opened[catch_up] = catch_up.engine.clock.monotonic()
        return _open(catch_up, **options)

    def join(catch_up: CatchUp, found: Any) -> list[Any]:
        events = _join(catch_up, found)
        late = catch_up.engine.clock.monotonic() - opened.get(catch_up, inf) >= seconds
        if late and isinstance(catch_up.state, Open):
            catch_up._close()
        return events

    return ((CatchUp, "_open", open_), (CatchUp, "_join", join))


# --- other mistakes ---


def _too_late(send: _Send) -> Deadline:
    """Return a deadline that exceeds the one of the command by more than the oracle allows."""
    return Deadline.after(send.engine.clock, TIMEOUT + SLACK + 2.0)


def _has_grown(descriptor: int, end: int, begin: int) -> bool:
    return os.fstat(descriptor).st_size >= end


_log = State.log


def _overwrite_database(state: State, *args: Any) -> None:
    _log(state, *args)
    for held in state._rows("PRAGMA database_list"):
        with open(held[2], "r+b") as file:
            # All pages except the first: SQLite may rewrite a single page from memory before anything reads it.
            size = os.fstat(file.fileno()).st_size
            file.seek(4096)
            file.write(bytes(max(0, size - 4096)))


def _written_first(file: CursorFile, message: Message, size: int) -> None:
    file.written(message)


def _one_page(fetch: Any, after: Any) -> Iterator[Any]:
    yield from fetch(after, None).items


_read_page = SessionEngine.page


def _page_with_its_own_deadline(
    engine: SessionEngine, after: Any, cursor: Any, deadline: Deadline, **known: int
) -> Any:
    return _read_page(engine, after, cursor, Deadline.after(engine.clock, PATIENCE), **known)


_call = SessionEngine.call


def _show_tokens(exchange: SessionEngine, request: Any, deadline: Deadline) -> Any:
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


def _mark_unseen(merge: Merge, identity: str) -> bool:
    merge._seen[identity] = None
    return True


_CUT = Hook(1, "cut", SENDER, "socket")
_GUESTS = tuple(f"guest {n}" for n in range(6))


def _counted(*steps: Step, events: Sequence[Step]) -> Schedule:
    """Return a schedule on counted time for a service that withholds keys and stores a repeated key again."""
    return Schedule(0, "web-messaging", steps, counted=True, keys_return=False, events=tuple(events))


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "sends again instead of looking for the message",
        "O2 duplicated",
        scripted("web-messaging", *_GUESTS, hooks=(_CUT,)),
        [(_Send, "_look_until_deadline", _resend)],
    ),
    Mutant(
        "treats a broken connection as acceptance",
        "O1 outcome",
        scripted("web-messaging", *_GUESTS, hooks=(_CUT,)),
        [(_Send, "_after_break", _assume_accepted)],
    ),
    Mutant(
        "treats a broken connection as not sent",
        "O1 outcome",
        scripted("messaging-conversations", *_GUESTS, hooks=(_CUT,)),
        [(_Send, "_after_break", _assume_not_sent)],
    ),
    Mutant(
        "forgets messages in doubt",
        "O1 settling",
        Schedule(0, "guests", (Step("send", "guest 0"), Step("kill", "guest 1", count=2))),
        [(delivery, "settle_open", _forget), (sessions, "settle_open", _forget)],
    ),
    Mutant(
        "treats the first received message as the echo",
        "O1 outcome",
        scripted("messaging-conversations", *_GUESTS, faults=("swap:on=send",)),
        [(SessionSocket, "ask", _accept_any_message)],
    ),
    Mutant(
        "starts another session after a break",
        "O5 identity",
        scripted("web-messaging", *_GUESTS, hooks=(_CUT,)),
        [(sessions, "open_socket", _open_another_session)],
    ),
    Mutant(
        "recognizes duplicates by their time",
        "O3 lost",
        scripted("web-messaging", "agent 0", "agent 1", "agent 2"),
        [(Merge, "_hold", _hold_by_second)],
    ),
    Mutant(
        "keeps duplicates",
        "O3 duplicated",
        scripted("guests", *_GUESTS, faults=("duplicate",)),
        [(Merge, "_mark_seen", _mark_unseen)],
    ),
    Mutant(
        "fills no gap",
        "O3 lost",
        scripted("messaging-conversations", "agent 0", "agent 1", "agent 2", faults=("drop:code=1006,after=2",)),
        [(CatchUp, "fill", _fill_nothing), (CatchUp, "look_due", _never)],
    ),
    Mutant(
        "loses one message in a reconnect",
        "O3 lost",
        scripted("external-contacts", "agent 0", "agent 1", "agent 2", faults=("drop:code=1006,after=2",)),
        [(Merge, "replay", _replay_but_one)],
    ),
    Mutant(
        "reverses the order",
        "O3 out of order",
        # After the silence several frames arrive together, so that there is an order to reverse.
        _counted(
            Step("history", at=12.0),
            events=(
                Step("fault", "silence:for=3s,after=1", at=1.0),
                *(Step("push", f"agent {n}", at=2.0 + n / 10) for n in range(4)),
            ),
        ),
        [(Merge, "ready", _ready_backwards)],
    ),
    Mutant(
        "sends no ping",
        "O3 lost",
        Schedule(
            0,
            "guests",
            (Step("wait_until_live"), Step("pause", seconds=0.6), Step("send", "guest 0"), Step("push", "agent 0")),
            hooks=(Hook(1, "hole", LISTENER, "socket"),),
        ),
        # Reading history again would find the messages without a ping.
        [(SessionSocket, "keep_alive", _nothing), (CatchUp, "look_due", _never)],
    ),
    Mutant(
        "raises an untyped exception",
        "O9 traceback",
        scripted("conversation-guests", "agent 0", "agent 1", faults=("garbage:after=2",)),
        [(SessionSocket, "_decode", _raise_untyped)],
    ),
    Mutant(
        "moves the cursor before it writes the line",
        "O3 lost",
        scripted("webmessaging-conversations", *_GUESTS, crashes=(Crash(2, "intent"),)),
        [(CursorFile, "writing", _written_first)],
    ),
    Mutant(
        "stores no intent in the cursor",
        "O3 duplicated",
        scripted("webmessaging-conversations", *_GUESTS, crashes=(Crash(2, "line"),)),
        [(CursorFile, "writing", _nothing)],
    ),
    Mutant(
        "reads only the first page",
        "O4 history",
        scripted("guests", *_GUESTS, "history"),
        [(history, "_forward", _one_page)],
    ),
    Mutant(
        "shows a token",
        "O9 secret",
        scripted("web-messaging", "guest 0", "history", faults=("http:status=500,on=history,times=4",)),
        [(SessionEngine, "call", _show_tokens)],
    ),
    Mutant(
        "treats an unreadable frame as a message",
        "O3 phantom",
        scripted("guests", "agent 0", "agent 1", faults=("garbage:after=2",)),
        [(SessionSocket, "_decode", _decode_anything)],
    ),
    Mutant(
        "changes the text",
        "O3 altered",
        scripted("conversation-guests", "agent 0", "guest 0"),
        [(Merge, "_hold", _hold_in_upper_case)],
    ),
    Mutant(
        "exceeds its deadline",
        "O8 bounds",
        scripted("external-contacts", *_GUESTS[:2], rules=(Rule("hole", SENDER, "request", 1, "down", 0),)),
        [(_Send, "_attempt_deadline", _too_late)],
    ),
    Mutant(
        "leaves a torn line",
        "O3 torn",
        scripted("webmessaging-conversations", *_GUESTS, crashes=(Crash(2, "torn"),)),
        [(cursor, "_holds", _has_grown)],
    ),
    Mutant(
        "writes into its own database",
        "O6 state",
        scripted("webmessaging-conversations", *_GUESTS[:2]),
        [(State, "log", _overwrite_database)],
    ),
    Mutant(
        "takes history for complete after two seconds",
        "O3 lost",
        # The message that the break loses appears in history after eight seconds, a live one comes after four.
        _counted(
            Step("history", at=40.0),
            events=(
                Step("push", "agent 0", at=5.0),
                Step("fault", "lag:ms=8000,times=100", at=9.9),
                Step("socket", who=LISTENER, how="cut", at=10.0),
                Step("push", "agent 1", at=10.001),
                Step("push", "agent 2", at=14.0),
            ),
        ),
        _complete_after(2.0),
    ),
    Mutant(
        "takes history for complete after 15 seconds",
        "O3 lost",
        _counted(
            Step("history", at=60.0),
            events=(
                Step("push", "agent 0", at=5.0),
                Step("fault", "lag:ms=29000,times=1000", at=9.9),
                Step("socket", who=LISTENER, how="cut", at=10.0),
                Step("push", "agent 1", at=10.001),
                Step("push", "agent 2", at=35.0),
            ),
        ),
        _complete_after(15.0),
    ),
    Mutant(
        "repeats what history does not show for a second",
        "O2 duplicated",
        _counted(
            Step("send", "guest 0", at=1.0),
            Step("send", "guest 1", at=5.0),
            events=(Step("socket", who=SENDER, how="held", seconds=6.0, at=4.9),),
        ),
        [(_Send, "_look_until_deadline", _repeat_when_absent_for(1.0))],
    ),
    Mutant(
        "repeats what history does not show for 20 seconds",
        "O2 duplicated",
        _counted(
            Step("send", "guest 0", at=1.0),
            Step("send", "guest 1", at=5.0),
            events=(Step("socket", who=SENDER, how="held", seconds=28.0, at=4.9),),
        ),
        [(_Send, "_look_until_deadline", _repeat_when_absent_for(20.0))],
    ),
    Mutant(
        "drops what waits for its place when --for ends it",
        "O3 dropped",
        _counted(
            Step("watch", seconds=12.0, at=5.0),
            events=(
                Step("fault", "lag:ms=20000,times=100", at=7.9),
                Step("socket", who=WATCHER, how="cut", at=8.0),
                Step("push", "agent 0", at=12.0),
            ),
        ),
        [(listen_history, "_print_rest", _nothing)],
    ),
    Mutant(
        "gives every page of history a deadline of its own",
        "O8 bounds",
        _counted(
            Step("resume", seconds=4.0, at=10.0),
            events=(
                Step("socket", who=LISTENER, how="hole", at=0.05),
                *(Step("push", f"agent {n}", at=9.0 + n / 50) for n in range(20)),
                Step("fault", "delay:ms=3000,on=history", at=9.5),
            ),
        ),
        [(SessionEngine, "page", _page_with_its_own_deadline)],
    ),
    Mutant(
        "declares one gap for two broken connections",
        "O3 lost",
        _counted(
            Step("watch", seconds=30.0, at=1.0),
            events=(
                Step("fault", "lag:ms=60000,times=1000", at=4.9),
                Step("socket", who=WATCHER, how="cut", at=5.0),
                Step("push", "agent 0", at=5.001),
                Step("push", "agent 1", at=8.0),
                Step("socket", who=WATCHER, how="cut", at=9.0),
                Step("push", "agent 2", at=9.001),
                Step("push", "agent 3", at=25.0),
            ),
        ),
        [(CatchUp, "_declare", _declare_for_good)],
    ),
)
