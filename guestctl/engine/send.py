"""One message with all that belongs to it: what it answers, the files it carries, the reply it gets.

Knows: the order of things around a delivery, and what of it is decided before anything is sent (which
`preview` goes by too). Must not know: any dialect's wire, how a message is delivered, stored sessions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TypeAlias, cast

from guestctl.core.clock import Deadline
from guestctl.core.errors import CheckFailed, Conflict, Failure, SessionOver, TimedOut, Unsupported, UsageError
from guestctl.core.model import (
    OVER,
    Connection,
    Delivery,
    Event,
    Message,
    Outgoing,
    Position,
    Presence,
    Session,
    SessionEvent,
)
from guestctl.core.results import Sent
from guestctl.core.values import Json, immutable
from guestctl.dialects.base import Dialect, HistoryPage
from guestctl.dialects.capabilities import Ability
from guestctl.engine.delivery import deliver
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.history import messages, newest
from guestctl.engine.listener import Listener
from guestctl.engine.local_files import LocalFile, check_file

#: How many of the newest messages are searched for something to pick.
PICK_AMONG = 50
#: Codes that say, once a message was accepted, that its conversation is over.
_ENDED = frozenset({"conflict.ended", "session.ended", "session.cleared", "session.gone"})

Progress: TypeAlias = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""


@immutable
class Awaited:
    """The reply that is waited for: any, or one whose text matches."""

    pattern: re.Pattern[str] | None = None


@immutable
class Answer:
    """What is picked or filled in, and of which message; None: the newest that offers something of the kind."""

    pick: Sequence[str] = ()
    form: Mapping[str, Json] | None = None
    to: Message | None = None


# --- decided before anything is sent ---


def needs_another(stored: Session | None, *, new: bool) -> bool:
    """Whether a question opens another session first: there is none, it is over, or another is wanted."""
    return new or stored is None or stored.state in OVER


def goes_on(dialect: Dialect, stored: Session | None, *, new: bool, signs_in: bool) -> bool:
    """Whether a `new` session is the stored guest's next conversation, begun on the stored session's socket. Who
    signs in is another guest, and gets a token of their own."""
    return new and not signs_in and stored is not None and stored.state not in OVER and dialect.can_start_new


def socket_first(dialect: Dialect, session: Session, *, awaited: bool, files: bool) -> bool:
    """Whether the socket is open before the message goes, whatever that goes over: so that no reply is
    missed, and because it tells what a file may be."""
    return (awaited or files) and dialect.socket_address(session) is not None


def each_message(
    outgoing: Outgoing, files: Sequence[LocalFile], new_id: Callable[[], str]
) -> Iterator[tuple[Outgoing, LocalFile]]:
    """Several files make several messages: what was given goes with the first."""
    for file in files:
        yield outgoing, file
        outgoing = Outgoing(key=new_id())


def check_said(outgoing: Outgoing, *, more: bool) -> None:
    """Raises UsageError for a message without text, unless there is `more` to it."""
    if not more and not outgoing.text.strip():
        raise UsageError("there is nothing to send: the text is empty")


# --- saying it ---


def say(
    exchange: SessionEngine,
    outgoing: Outgoing,
    deadline: Deadline,
    *,
    new_id: Callable[[], str],
    answer: Answer | None = None,
    files: Sequence[LocalFile] = (),
    awaited: Awaited | None = None,
    progress: Progress | None = None,
) -> Sent:
    """Send it; with `awaited` wait for the reply. The failure it ended with has the outcome: `delivery`,
    and the record as `sent`."""
    dialect = exchange.dialect
    earlier: list[Message] = []
    listener = None
    try:
        if socket_first(dialect, exchange.session, awaited=awaited is not None, files=bool(files)):
            exchange.attached(deadline)
        if awaited is not None:
            listener = Listener(exchange, baseline=False, step=deadline.remaining(), left=deadline.remaining)
            listener.attach(deadline)
        if answer is not None:
            outgoing = _answering(exchange, outgoing, answer, deadline)
        for file in files:
            check_file(exchange.session, file)
        given = outgoing
        for outgoing, file in each_message(given, files, new_id):
            earlier.append(_deliver_file(exchange, _with_file(exchange, outgoing, file, deadline, progress), deadline))
        message = earlier.pop() if files else deliver(exchange, outgoing, deadline)
    except Failure as failure:
        delivery = cast("Delivery | None", failure.delivery)
        if delivery is None and not isinstance(failure, (UsageError, Unsupported)):
            delivery = "not_sent"
        if delivery is None:
            raise
        failure.with_outcome(delivery, Sent(outgoing.key, delivery, outgoing.text, earlier=tuple(earlier)))
        raise
    sent = Sent(message.key or outgoing.key, "accepted", message.text, message, earlier=tuple(earlier))
    if listener is None or awaited is None:
        return sent
    try:
        return replace(sent, reply=_reply(exchange, listener, (*earlier, message)[0], awaited, deadline))
    except Failure as failure:
        failure.with_outcome("accepted", sent)
        raise


def _reply(exchange: SessionEngine, listener: Listener, sent: Message, awaited: Awaited, deadline: Deadline) -> Message:
    listener.continue_after(Position(sent.id, sent.sequence, sent.time))
    pattern = awaited.pattern
    closest: str | None = None
    lost: Exception | None = None
    with _until_it_ends(exchange), closing(listener.events()) as events:
        for event in events:
            if isinstance(event, Message) and event.direction == "outbound":
                if pattern is None or pattern.search(event.text):
                    return event
                closest = event.text
            if isinstance(event, Connection):
                lost = None if event.state == "live" else _worse(event.failure, lost)
            if _ends_conversation(event):
                raise _ended(exchange)
            if deadline.expired:
                break
    if lost is not None:
        raise lost  # nothing could be heard by then: that no reply came means nothing
    said = f"; the last reply was {closest!r}" if closest is not None else ""
    missing = f"no reply matched {pattern.pattern!r} in time" if pattern else "no reply came in time"
    raise TimedOut(missing + said, api=exchange.dialect.name)


@contextmanager
def _until_it_ends(exchange: SessionEngine) -> Iterator[None]:
    """However the service says, once our message was accepted, that nobody will answer it."""
    try:
        yield
    except (SessionOver, Conflict) as over:
        if over.code not in _ENDED:
            raise
        raise _ended(exchange) from over


def _ended(exchange: SessionEngine) -> CheckFailed:
    return CheckFailed(
        "the conversation ended before the awaited reply", code="conversation.ended", api=exchange.dialect.name
    )


def _worse(failure: Exception | None, known: Exception | None) -> Exception | None:
    """Of what kept us from hearing, what tells most: that the time for one more try ran out is no cause."""
    return known if failure is None or isinstance(failure, TimedOut) else failure


def _ends_conversation(event: Event | None) -> bool:
    if isinstance(event, Presence):
        return event.presence == "Disconnect" and event.direction == "outbound"
    return isinstance(event, SessionEvent) and event.change in {"read_only", "ended"}


# --- what was offered ---


def recent(exchange: SessionEngine, deadline: Deadline) -> list[Message]:
    """The newest messages, with what one of them offers where history leaves that out."""

    def fetch(after: Position | None, cursor: str | None) -> HistoryPage:
        return exchange.page(after, cursor, deadline)

    found = messages(newest(fetch, exchange.dialect.paging, PICK_AMONG, lambda m: isinstance(m, Message)))
    offer = exchange.record.stored_offer()
    return [offer if offer is not None and message.id == offer.id else message for message in found]


def _answering(exchange: SessionEngine, outgoing: Outgoing, answer: Answer, deadline: Deadline) -> Outgoing:
    """What is picked or filled in, found among the newest messages that offer something."""
    rich = exchange.dialect.rich_content
    if rich is None:
        raise exchange.dialect.unsupported(Ability.PICK)
    among = recent(exchange, deadline) if answer.to is None else [answer.to]
    for message in reversed(among):
        if message.direction == "outbound":
            found = rich.answer(outgoing, message, answer.pick, answer.form)
            if found is not None:
                return found
    raise UsageError(
        f"none of the recent messages {'has a form' if answer.form is not None else 'offers anything to pick'}",
        code="usage.option",
        hint="`guestctl history -o table` shows what was offered.",
    )


# --- files ---


def _with_file(
    exchange: SessionEngine, outgoing: Outgoing, file: LocalFile, deadline: Deadline, progress: Progress | None
) -> Outgoing:
    """The message with the file uploaded for it; as it is when it was accepted before."""
    files = exchange.dialect.files
    if files is None:
        raise exchange.dialect.unsupported(Ability.FILES)
    known = exchange.state.sent(exchange.scope, exchange.session, outgoing.key)
    if known is not None and known.state == "accepted":
        return outgoing
    exchange.progress = progress
    try:
        flow = files.upload(exchange.session, file.name, file.mime, file.read())
        return replace(outgoing, attachment_id=exchange.perform(flow, deadline))
    finally:
        exchange.progress = None


def _deliver_file(exchange: SessionEngine, outgoing: Outgoing, deadline: Deadline) -> Message:
    """Deliver it; delete the uploaded file when the message was not taken."""
    try:
        return deliver(exchange, outgoing, deadline)
    except Failure as failure:
        files, connected = exchange.dialect.files, exchange.socket is not None or not exchange.dialect.has_socket
        uploaded = outgoing.attachment_id if failure.delivery in {"rejected", "not_sent"} and connected else None
        if files is not None and uploaded is not None:
            try:
                exchange.perform(files.discard(exchange.session, uploaded), deadline.sooner(5.0))
            except Failure as left:
                # The service forgets what nobody sent by itself, in time.
                exchange.notice(f"the uploaded file could not be deleted: {left.message}")
        raise
