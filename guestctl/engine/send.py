"""Sending one message: the answer it gives, the files it carries, and the reply to it.

Knows: what happens before and after a delivery, and what is decided before anything is sent (`preview` uses that, too).
Must not know: any dialect's wire, how a message is delivered, stored sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias, cast

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
    Typing,
)
from guestctl.core.results import Sent
from guestctl.core.values import Json, immutable
from guestctl.dialects.base import Dialect, HistoryPage
from guestctl.dialects.capabilities import Ability
from guestctl.engine.delivery import MessageInDoubt, begin_turn, check_same, deliver
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.history import messages, newest
from guestctl.engine.listener import POLL_JITTER, Listener
from guestctl.engine.local_files import LocalFile, check_file
from guestctl.engine.shown_events import report_reply

if TYPE_CHECKING:
    from guestctl.core.patterns import Pattern

#: How many of the newest messages are searched for choices and forms.
PICK_AMONG = 50
#: Codes of failures which mean, after a message was accepted, that its conversation has ended.
_ENDED = frozenset({"conflict.ended", "session.ended", "session.cleared", "session.gone"})

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes sent so far, and the total."""


@immutable
class Awaited:
    """The awaited reply: any reply, or one whose text matches.

    With `silence`, the messages after it are awaited too, until none has come for that many seconds.
    """

    pattern: Pattern | None = None
    silence: float | None = None


@immutable
class Answer:
    """Choices to pick, or values for a form. `to`: the message with the choices or the form; None: the newest one."""

    pick: Sequence[str | int] = ()
    form: Mapping[str, Json] | None = None
    to: Message | None = None


class _Silence:
    """The time without another message after which the reply is complete. It starts with the first message."""

    def __init__(self, engine: SessionEngine, seconds: float | None) -> None:
        self._clock = engine.clock
        # Without a socket, a message is only seen by the next poll.
        polling = 0.0 if engine.dialect.has_socket else POLL_JITTER * engine.timings.poll_min
        self._seconds = 0.0 if seconds is None else seconds + polling
        self._until: float | None = None

    def restart(self) -> None:
        self._until = self._clock.monotonic() + self._seconds

    def left(self) -> float | None:
        """Return the seconds until the reply is complete, None before its first message."""
        return None if self._until is None else max(0.0, self._until - self._clock.monotonic())

    @property
    def over(self) -> bool:
        return self.left() == 0.0


# --- decided before anything is sent ---


def needs_new_session(stored: Session | None, *, new: bool) -> bool:
    """Whether `ask` creates a session first: there is none, it has ended, or a new one was requested."""
    return new or stored is None or stored.state in OVER


def continues_stored_session(dialect: Dialect, stored: Session | None, *, new: bool, signs_in: bool) -> bool:
    """Whether a `new` session is the stored guest's next conversation, started on the stored session's socket.

    It is not when the guest signs in: that is another guest, who gets another token.
    """
    return new and not signs_in and stored is not None and stored.state not in OVER and dialect.can_start_new


def needs_socket_first(dialect: Dialect, session: Session, *, awaited: bool, files: bool) -> bool:
    """Whether the socket is opened before the message is sent, even where a request carries it.

    So no reply is missed; and the service reports on the socket which files it accepts.
    """
    return (awaited or files) and dialect.socket_address(session) is not None


def messages_with_files(
    outgoing: Outgoing, files: Sequence[LocalFile], new_id: Callable[[], str]
) -> Iterator[tuple[Outgoing, LocalFile]]:
    """Yield one message per file. The text goes with the first file."""
    for file in files:
        yield outgoing, file
        outgoing = Outgoing(key=new_id())


def check_not_empty(outgoing: Outgoing, *, more: bool) -> None:
    """Check that a message has text, unless it has `more` (a file or an answer). Raises UsageError."""
    if not more and not outgoing.text.strip():
        raise UsageError("nothing to send: the text is empty")


# --- sending ---


def send_message(
    engine: SessionEngine,
    outgoing: Outgoing,
    deadline: Deadline,
    *,
    new_id: Callable[[], str],
    answer: Answer | None = None,
    files: Sequence[LocalFile] = (),
    awaited: Awaited | None = None,
    progress: Progress | None = None,
    resend: bool = False,
) -> Sent:
    """Send one message, and wait for the reply if one is `awaited`.

    `resend` allows another copy of a message in doubt.

    Every failure has the outcome as its `delivery`, and the record of the message as `sent`. The record of a message
    in doubt has the reply, too, if one arrived.
    """
    dialect = engine.dialect
    earlier: list[Message] = []
    listener = None
    silence = _Silence(engine, None if awaited is None else awaited.silence)
    begin_turn(engine, outgoing)
    try:
        if needs_socket_first(dialect, engine.session, awaited=awaited is not None, files=bool(files)):
            engine.attached(deadline)
        if awaited is not None:
            listener = Listener(
                engine, baseline=False, step=deadline.remaining(), left=deadline.remaining, wake=silence.left
            )
            listener.attach(deadline)
        outgoing = _with_trace_id(engine, outgoing)
        if answer is not None:
            outgoing = _with_answer(engine, outgoing, answer, deadline)
        for file in files:
            check_file(engine.session, file)
        given = outgoing
        for outgoing, file in messages_with_files(given, files, new_id):
            outgoing = _with_trace_id(engine, outgoing)
            earlier.append(
                _deliver_file(engine, _with_uploaded_file(engine, outgoing, file, deadline, progress), deadline)
            )
        message = earlier.pop() if files else deliver(engine, outgoing, deadline, resend=resend)
    except MessageInDoubt as failure:
        outcome = Sent(outgoing.key, "in_doubt", outgoing.text, earlier=tuple(earlier))
        if listener is not None and awaited is not None:
            replies = _replies_in_doubt(engine, listener, failure, awaited, silence, deadline)
            outcome = replace(outcome, reply=replies[0] if replies else None, following=tuple(replies[1:]))
        engine.report("turn", event="in_doubt", key=outgoing.key)
        failure.with_outcome("in_doubt", outcome)
        raise
    except Failure as failure:
        delivery = cast("Delivery | None", failure.delivery)
        if delivery is None and not isinstance(failure, (UsageError, Unsupported)):
            delivery = "not_sent"
        if delivery is None:
            raise
        engine.report("turn", event=delivery, key=outgoing.key)
        known = failure.sent if isinstance(failure.sent, Sent) else Sent(outgoing.key, delivery, outgoing.text)
        failure.with_outcome(delivery, replace(known, earlier=tuple(earlier)))
        raise
    sent = Sent(message.key or outgoing.key, "accepted", message.text, message, earlier=tuple(earlier))
    if listener is None or awaited is None:
        return sent
    try:
        first, *following = _wait_for_reply(engine, listener, (*earlier, message)[0], awaited, silence, deadline)
        return replace(sent, reply=first, following=tuple(following))
    except Failure as failure:
        failure.with_outcome("accepted", sent)
        raise


def _with_trace_id(engine: SessionEngine, outgoing: Outgoing) -> Outgoing:
    """Add the custom attribute that states the trace id, if the client wants one. Raises UsageError."""
    added = engine.connector.trace_attributes(engine.session.trace_context)
    return replace(outgoing, attributes={**outgoing.attributes, **added}) if added else outgoing


def _wait_for_reply(
    engine: SessionEngine, listener: Listener, sent: Message, awaited: Awaited, silence: _Silence, deadline: Deadline
) -> list[Message]:
    """Return the messages of the reply: the first that matches, and those that follow it before the silence."""
    listener.continue_after(Position(sent.id, sent.sequence, sent.time))
    pattern = awaited.pattern
    found: list[Message] = []
    closest: str | None = None
    lost: Exception | None = None
    try:
        with _ending_recognised(engine), closing(listener.events()) as events:
            for event in events:
                if isinstance(event, Message) and event.is_reply:
                    if found or pattern is None or pattern.search(event.text):
                        found.append(event)
                        silence.restart()
                        if awaited.silence is None:
                            return found
                    closest = event.text
                if isinstance(event, Typing) and found and event.duration != 0:
                    silence.restart()  # another message is being written
                if isinstance(event, Connection):
                    lost = None if event.state == "live" else _more_specific(event.failure, lost)
                if _ends_conversation(event):
                    raise _conversation_ended(engine)
                if deadline.expired or silence.over:
                    break
    except Failure as failure:
        if not found:
            raise
        if failure.code != "conversation.ended":
            engine.notice(f"messages after the first reply may be missing: {failure.message}")
    if found:
        return found
    if lost is not None:
        raise lost  # the client was not connected, so a reply may have been missed
    wanted = f' that matches "{pattern.text}"' if pattern else ""
    last = f'; the last reply was "{closest}"' if closest is not None else ""
    raise TimedOut(f"timed out waiting for a reply{wanted}{last}", api=engine.dialect.name)


def _replies_in_doubt(
    engine: SessionEngine,
    listener: Listener,
    doubt: MessageInDoubt,
    awaited: Awaited,
    silence: _Silence,
    deadline: Deadline,
) -> list[Message]:
    """Return the messages that arrived after a message in doubt was written. They may answer it."""
    try:
        if doubt.echo is not None and engine.socket is not None:
            return _wait_for_reply(engine, listener, doubt.echo, awaited, silence, deadline)
        pattern, replies = awaited.pattern, doubt.received
        first = next((n for n, reply in enumerate(replies) if pattern is None or pattern.search(reply.text)), None)
    except Failure as failure:
        engine.notice(f"no reply: {failure.message}")
        return []
    if first is None:
        return []
    for reply in replies:
        report_reply(engine, reply)
    return list(replies[first : None if awaited.silence is not None else first + 1])


@contextmanager
def _ending_recognised(engine: SessionEngine) -> Iterator[None]:
    """Raise one failure for all ways in which the service ends a conversation after it accepted the message."""
    try:
        yield
    except (SessionOver, Conflict) as failure:
        if failure.code not in _ENDED:
            raise
        raise _conversation_ended(engine) from failure


def _conversation_ended(engine: SessionEngine) -> CheckFailed:
    return CheckFailed(
        "the conversation ended before the awaited reply", code="conversation.ended", api=engine.dialect.name
    )


def _more_specific(failure: Exception | None, known: Exception | None) -> Exception | None:
    """Keep the most specific failure; a timeout never replaces another cause."""
    return known if failure is None or isinstance(failure, TimedOut) else failure


def _ends_conversation(event: Event | None) -> bool:
    if isinstance(event, Presence):
        return event.presence == "Disconnect" and event.direction == "outbound"
    return isinstance(event, SessionEvent) and event.change in {"read_only", "ended"}


# --- choices and forms ---


def recent(engine: SessionEngine, deadline: Deadline) -> list[Message]:
    """Return the newest messages. Where history omits the choices of one, they are restored from the session."""

    def fetch(after: Position | None, cursor: str | None) -> HistoryPage:
        return engine.page(after, cursor, deadline)

    found = messages(newest(fetch, engine.dialect.paging, PICK_AMONG, lambda m: isinstance(m, Message)))
    offer = engine.record.stored_offer()
    return [offer if offer is not None and message.id == offer.id else message for message in found]


def _with_answer(engine: SessionEngine, outgoing: Outgoing, answer: Answer, deadline: Deadline) -> Outgoing:
    """Add the answer to the newest message with choices or a form. Raises UsageError when there is none."""
    rich = engine.dialect.rich_content
    if rich is None:
        raise engine.dialect.unsupported(Ability.PICK)
    among = recent(engine, deadline) if answer.to is None else [answer.to]
    for message in reversed(among):
        if message.direction == "outbound":
            found = rich.answer(outgoing, message, answer.pick, answer.form)
            if found is not None:
                return found
    raise UsageError(
        f"none of the recent messages has {'a form' if answer.form is not None else 'choices'}",
        code="usage.option",
        hint="list the recent messages: guestctl history -o table",
    )


# --- files ---


def _with_uploaded_file(
    engine: SessionEngine, outgoing: Outgoing, file: LocalFile, deadline: Deadline, progress: Progress | None
) -> Outgoing:
    """Upload the file and add it to the message, unless the message was accepted before.

    Raises Conflict, before anything is uploaded, when the key belongs to another message.
    """
    files = engine.dialect.files
    if files is None:
        raise engine.dialect.unsupported(Ability.FILES)
    content = file.read()
    outgoing = replace(outgoing, file=f"{file.name} {sha256(content).hexdigest()}")
    known = engine.state.sent(engine.scope, engine.session, outgoing.key)
    if known is not None:
        check_same(known, outgoing)
        if known.state == "accepted":
            return outgoing
    engine.progress = progress
    try:
        flow = files.upload(engine.session, file.name, file.mime, content)
        return replace(outgoing, attachment_id=engine.perform(flow, deadline))
    finally:
        engine.progress = None


def _deliver_file(engine: SessionEngine, outgoing: Outgoing, deadline: Deadline) -> Message:
    """Deliver a message. If it is not accepted, delete its uploaded file."""
    try:
        return deliver(engine, outgoing, deadline)
    except Failure as failure:
        files, connected = engine.dialect.files, engine.socket is not None or not engine.dialect.has_socket
        uploaded = outgoing.attachment_id if failure.delivery in {"rejected", "not_sent"} and connected else None
        if files is not None and uploaded is not None:
            try:
                engine.perform(files.discard(engine.session, uploaded), deadline.sooner(5.0))
            except Failure as not_deleted:
                # The service deletes unsent files itself after a while.
                engine.notice(f"cannot delete the uploaded file: {not_deleted.message}")
        raise
