"""Deliver one message, and report truthfully whether the service accepted it.

Knows: the outbox, the four outcomes (contract.md §5), how history settles a message in doubt, and when a message may be
sent again. Must not know: any dialect's wire, printing, how `listen` reconnects.

The outbox says `writing` before the first byte is sent. A message whose last byte was handed to the operating system
may arrive at any later time. So no silence, and no history without it, allows another copy: the client looks for the
message until its deadline, and then it is in doubt. Only a service that stores a repeated message once
(`service.deduplicates` in the profile) gets another copy. Later commands look for a message in doubt; they never
repeat it and never wait for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from guestctl.core.clock import Deadline
from guestctl.core.errors import (
    Conflict,
    Failure,
    InDoubt,
    NetworkError,
    RateLimited,
    Refused,
    TimedOut,
    Unreadable,
)
from guestctl.core.model import Message, Option, Outgoing, Position, Sender
from guestctl.core.results import Sent
from guestctl.core.wire import check_outgoing
from guestctl.dialects.base import HistoryPage
from guestctl.dialects.capabilities import Paging
from guestctl.dialects.flows import Flow, FrameRequest, Incoming
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.history import following
from guestctl.engine.retry import LIMIT_RETRIES
from guestctl.storage.state import OutboxRow, SendState

#: Failures that replace an answer: the service may have accepted the message before the session ended.
_ENDED_WITHOUT_ANSWER = frozenset({"session.evicted", "session.ended"})

#: Seconds for which a message in doubt is looked for when the command has no deadline.
SETTLING_LIMIT = 30.0
#: Factor between two pauses while history does not show a message in doubt, and the longest pause in seconds.
PAUSE_GROWTH, LONGEST_PAUSE = 1.5, 5.0
#: Seconds for the first page of history in which a message in doubt is looked for. They are doubled after each read
#: that fails: a connection that hangs must not use up the deadline.
FIRST_LOOK = 5.0
#: Waiting for the service's rate limit must leave this much to write a message: seconds, and part of the timeout.
WRITE_RESERVE, WRITE_SHARE = 1.0, 1 / 3


def deliver(engine: SessionEngine, outgoing: Outgoing, deadline: Deadline, *, resend: bool = False) -> Message:
    """Send one message, and return it as the service accepted it.

    A lock lets only one process at a time send in a session. So messages keep their order, and an unfinished row in
    the outbox was left by a process that has ended. A key that was accepted before is not sent again, and one in doubt
    only with `resend`. Every failure has the outcome as its `delivery`: `rejected` (the service refused the message),
    `not_sent` or `in_doubt`. Raises Conflict when the key belongs to another message.
    """
    begin_turn(engine, outgoing)
    with _not_sent_by_default():
        earlier = engine.state.sent(engine.scope, engine.session, outgoing.key)
        if earlier is not None:
            check_same(earlier, outgoing)
            if earlier.state == "accepted":
                return _accepted_before(engine, earlier)
        check_outgoing(asdict(outgoing))
        engine.dialect.check_message(engine.session, outgoing)
        if engine.dialect.sends_on_socket:
            # Open the socket before taking the lock. The service limits the sockets of a session: the process with
            # the lock could wait for a socket that a process waiting for the lock has.
            engine.attached(deadline)
        with engine.record.lock("send", deadline):
            settle_open(engine, deadline)
            row = engine.state.begin(engine.scope, engine.session, outgoing.key, _dump(outgoing))
            if row.state == "accepted":
                return _accepted_before(engine, row)
            send = _Send(engine, outgoing, deadline)
            if row.state != "queued":
                if not resend:
                    raise send.in_doubt("an earlier command sent it, and history does not show it")
                send.doubtful = True
            return send.run()


def begin_turn(engine: SessionEngine, outgoing: Outgoing) -> None:
    """Report that a message begins its turn, unless it has."""
    session = engine.session
    engine.report(
        "turn", event="begin", key=outgoing.key, api=session.api, conversation=session.ids.get("conversation")
    )


def _accepted_before(engine: SessionEngine, row: OutboxRow) -> Message:
    engine.report("turn", event="accepted", key=row.key, id=row.message_id)
    return _from_outbox(row)


def settle_open(engine: SessionEngine, deadline: Deadline) -> list[Message]:
    """Look once for the messages that earlier commands left open, and return those that history shows.

    The others stay in doubt, and `notice` reports them. Nothing is sent, and a history that cannot be read now keeps
    nobody from sending. The caller holds the session's send lock.
    """
    unsettled = []
    for row in engine.state.outbox(engine.scope, engine.session, "queued", "writing", "in_doubt"):
        if row.state == "queued":
            engine.state.mark(engine.scope, engine.session, row.key, "not_sent")
        else:
            unsettled.append(row)
    if not unsettled:
        return []
    left = deadline.remaining()
    reserve = engine.timings.settling_reserve
    within = deadline.sooner(reserve if left is None else min(reserve, left / 4))
    sends = [_Send(engine, _load(row), within) for row in unsettled]
    try:
        recent = recent_inbound(engine, within, min_or_none(send.accepted_before() for send in sends))
    except Failure as failure:
        engine.notice(f"cannot look for {_earlier(len(sends))} in doubt now: {failure.message}")
        for row in unsettled:
            engine.state.mark(engine.scope, engine.session, row.key, "in_doubt")
        return []
    settled = [message for send in sends if (message := send.settle(recent)) is not None]
    if len(settled) < len(sends):
        engine.notice(f"{_earlier(len(sends) - len(settled))} still in doubt; see `guestctl explain send.in_doubt`")
    return settled


def _earlier(count: int) -> str:
    return "an earlier message" if count == 1 else f"{count} earlier messages"


def min_or_none(times: Iterable[str | None]) -> str | None:
    """Return the earliest time, or None if one of them is unknown or there is none."""
    found = list(times)
    return None if not found or None in found else min(time for time in found if time is not None)


def check_same(row: OutboxRow, outgoing: Outgoing) -> None:
    """Raise Conflict if a key that may have reached the service is used for another message."""
    if row.state in {"rejected", "not_sent"}:
        return
    if _content(_load(row)) != _content(outgoing):
        raise Conflict(
            f'the id "{row.key}" belongs to another message of this session',
            code="conflict.key",
        )


class MessageInDoubt(InDoubt):
    """The message may or may not have arrived, but something else did after it was written.

    `echo` is an echo that may be this message's or another's. `received` are replies, oldest first.
    """

    def __init__(
        self, message: str, *, key: str, api: str, echo: Message | None = None, received: Sequence[Message] = ()
    ) -> None:
        super().__init__(message, key=key, api=api)
        self.echo = echo
        self.received = tuple(received)


@dataclass(repr=False, eq=False)
class _Send:
    """The attempts to send one message."""

    engine: SessionEngine
    outgoing: Outgoing
    deadline: Deadline
    #: An attempt was written, and its outcome is unknown.
    doubtful: bool = False
    #: How often the message was sent again after such an attempt.
    repeats: int = 0
    #: Attempts whose last byte was not handed to the operating system.
    unwritten: int = 0
    #: An echo without a key that may be this message's.
    echo: Message | None = None
    #: Replies that arrived after the message was written, on a socket that has been dropped since.
    received: list[Message] = field(default_factory=list)
    #: Seconds for one page of history.
    page_patience: float = FIRST_LOOK
    #: What must be left of the deadline after waiting for the rate limit, in seconds.
    write_reserve: float = field(init=False)

    def __post_init__(self) -> None:
        left = self.deadline.remaining()
        self.write_reserve = WRITE_RESERVE if left is None else min(WRITE_RESERVE, left * WRITE_SHARE)

    def run(self) -> Message:
        """Try until the message is accepted. Raises the refusal, or InDoubt."""
        limited = renewed = 0
        while True:
            written = False
            try:
                self.engine.wait_to_send(self.deadline, reserve=self.write_reserve)
                if self.engine.dialect.sends_on_socket:
                    self.engine.attached(self.deadline)
                self._mark("writing")
                written = True
                flow = self.engine.dialect.send(self.engine.session, self.outgoing)
                flow = _accepting_bare_echo(flow, self.outgoing, self._claimed_ids(), self._as_own)
                message = self.engine.perform(flow, self._attempt_deadline())
            except RateLimited as failure:
                limited += 1
                self.doubtful |= failure.doubtful
                # Before writing, the limit is this command's own: waiting for it would leave too little time.
                hopeless = not written or failure.retried or limited > LIMIT_RETRIES
                if hopeless or not self._wait_as_requested(failure):
                    return self._finish_refused(failure, "rejected" if written else "not_sent")
            except Failure as failure:
                if not written:
                    return self._finish_refused(failure, "not_sent")
                self.doubtful |= failure.doubtful
                if isinstance(failure, (NetworkError, TimedOut, Unreadable)) or failure.code in _ENDED_WITHOUT_ANSWER:
                    outcome = self._after_break(failure)
                    if outcome is not None:
                        return outcome
                elif not renewed and self.engine.dialect.renewal_may_help(failure) and self._renew_token():
                    renewed += 1
                else:
                    return self._finish_refused(failure, "rejected")
            else:
                if message.key is None and not self._only_with_its_text():
                    return self._look_after_ambiguous_echo(message)
                return self._finish_accepted(message)

    def settle(self, recent: Sequence[Message]) -> Message | None:
        """Return the message if history shows a send of an earlier command; otherwise leave it in doubt."""
        try:
            found = self._find(recent)
        except InDoubt:
            return None
        if found is None:
            self._mark("in_doubt")
            return None
        return self._finish_accepted(found)

    # --- outcomes ---

    def _finish_accepted(self, message: Message) -> Message:
        message = replace(message, key=self.outgoing.key)
        self._mark("accepted", message)
        session = self.engine.session
        known = replace(self.engine.dialect.after_acceptance(session, message), new_session=False)
        if self.engine.socket is not None:
            self.engine.socket.recognise(message, known.ids)
        if known != session:
            try:
                self.engine.record.store(known)
            except Failure as failure:
                raise _accepted(failure, message) from None
        return message

    def _finish_refused(self, failure: Failure, delivery: SendState) -> Message:
        """Raise the failure, unless an earlier attempt may have arrived: then history decides."""
        if self.doubtful:
            return self._look_last(failure.message)
        if failure.delivery == "not_sent":  # there was no token, so the request was not sent
            delivery = "not_sent"
        failure.message += self._mark(delivery)
        raise failure.with_outcome(delivery)

    def _look_last(self, why: str) -> Message:
        try:
            found = self._find_in_history()
        except Failure:
            found = None
        if found is None:
            raise self.in_doubt(why) from None
        return self._finish_accepted(found)

    def _look_after_ambiguous_echo(self, echo: Message) -> Message:
        """An echo without a key may be another send's, which has the same text: history may show our key."""
        self.doubtful = True
        self.echo = echo
        return self._look_last("an echo of its text has no key, and another message in doubt has the same text")

    def in_doubt(self, why: str) -> MessageInDoubt:
        why += self._mark("in_doubt")
        return MessageInDoubt(
            f"message {self.outgoing.key} may or may not have arrived: {why}",
            key=self.outgoing.key,
            api=self.engine.dialect.name,
            echo=self.echo,
            received=self.received,
        )

    def _mark(self, state: SendState, message: Message | None = None) -> str:
        """Store the state of the send. Return what a failure to store it adds to the failure of the send, or "".

        Raises the failure itself for a message that is about to be written, or that was accepted.
        """
        engine = self.engine
        known = (message.id, message.time) if message is not None else (None, None)
        event = "write" if state == "writing" else state
        text = {"text": self.outgoing.text} if state == "writing" else {}
        engine.report("turn", event=event, key=self.outgoing.key, id=known[0], **text)
        try:
            engine.state.mark(engine.scope, engine.session, self.outgoing.key, state, *known)
        except Failure as failure:
            if state not in {"writing", "accepted"}:
                return f"; this cannot be stored: {failure.message}"
            # The outcome is known, even though the outbox cannot store it.
            raise (failure.with_outcome("not_sent") if message is None else _accepted(failure, message)) from None
        return ""

    # --- in doubt ---

    def _after_break(self, failure: Failure) -> Message | None:
        """The connection broke while sending. Return the message if it was accepted, None to send it again."""
        self._drop_socket()
        if isinstance(failure, NetworkError):
            action = None if failure.close_code is None else self.engine.dialect.on_close(failure.close_code)
            if action == "renew":
                self._renew_token()
            if action == "too_big":
                refusal = Refused(failure.message, code="service.too_long", api=self.engine.dialect.name)
                return self._finish_refused(refusal, "rejected")
            if not failure.written:
                self.unwritten += 1
                hopeless = failure.retried or not failure.transient or self.unwritten > self._max_attempts()
                if hopeless or self.deadline.expired:
                    return self._finish_refused(failure, "not_sent")
                return None
        self.doubtful = True
        if self.engine.dialect.deduplicates and self.repeats < self._max_attempts() and not self.deadline.expired:
            return self._find_or_repeat()
        return self._look_until_deadline(failure.message)

    def _find_or_repeat(self) -> Message | None:
        """Return the message if history shows it. None: send another copy, which the service stores once."""
        try:
            found = self._find_in_history()
        except Failure:
            found = None
        if found is not None:
            return self._finish_accepted(found)
        self.repeats += 1
        return None

    def _look_until_deadline(self, why: str) -> Message:
        """Read history until it shows the message, at growing intervals. Raises InDoubt at the deadline.

        The deadline ends the search; that nothing was found until then proves nothing.
        """
        self._mark("in_doubt")
        self.engine.notice(f"{why}; looking for the message in history")
        if self.deadline.at is None:
            self.deadline = Deadline.after(self.engine.clock, SETTLING_LIMIT)
        pause = self.engine.timings.settling_pause
        while True:
            try:
                found = self._find_in_history()
            except InDoubt:
                raise
            except Failure as failure:
                if not isinstance(failure, (NetworkError, TimedOut, RateLimited, Unreadable, Conflict)):
                    raise self.in_doubt(why) from None
                found = None
            if found is not None:
                return self._finish_accepted(found)
            if not self._sleep_if_time(pause):
                raise self.in_doubt(why)
            pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE)

    def _find_in_history(self) -> Message | None:
        """Read history, and return our message from it. Raises as `_find`, and Failure when history cannot be read."""
        try:
            recent = recent_inbound(self.engine, self.deadline, self.accepted_before(), patience=self.page_patience)
        except Failure:
            self.page_patience *= 2
            raise
        return self._find(recent)

    def accepted_before(self) -> str | None:
        """Return the service's time of the last message that was accepted before ours was begun, if one is known.

        The order of the service's own times is used, because our clock may differ.
        """
        rows = self.engine.state.outbox(self.engine.scope, self.engine.session)
        begun = next((row.begun_at for row in rows if row.key == self.outgoing.key), None)
        before = [
            row.time
            for row in rows
            if row.state == "accepted" and row.time is not None and row.written_at is not None
            if begun is not None and row.written_at < begun
        ]
        return max(before, default=None)

    def _find(self, recent: Sequence[Message]) -> Message | None:
        """Return our message from entries of history, None when none of them is ours.

        Its key identifies it. An entry without a client's key is ours if it is the only one with our text that no
        other send claims, accepted or in doubt, in any process. Entries from before our send, and entries with another
        key, are not ours. Raises InDoubt when several entries could be our message.
        """
        engine, key = self.engine, self.outgoing.key
        for message in recent:
            if message.key == key:
                return message
        rows = engine.state.outbox(engine.scope, engine.session)
        claimed = self._claimed_ids()
        since = self.accepted_before()
        same = [
            message
            for message in recent
            if _without_key(message, rows) and message.id not in claimed
            if message.text.split() == _words(self.outgoing)
            if since is None or message.time is None or message.time >= since
        ]
        if not same:
            return None
        if len(same) == 1 and self._only_with_its_text():
            return same[0]
        raise self.in_doubt(f"{len(same)} entries of history could be this message or another one with its text")

    def _claimed_ids(self) -> frozenset[str | None]:
        """Return the service's ids of the messages that this session's sends were accepted as."""
        rows = self.engine.state.outbox(self.engine.scope, self.engine.session, "accepted")
        return frozenset(row.message_id for row in rows)

    def _only_with_its_text(self) -> bool:
        """Return whether no other send of this session that is being written or in doubt has the same text."""
        unsettled = self.engine.state.outbox(self.engine.scope, self.engine.session, "writing", "in_doubt")
        words = _words(self.outgoing)
        return not any(row.key != self.outgoing.key and _words(_load(row)) == words for row in unsettled)

    # --- helpers ---

    def _as_own(self, message: Message) -> Message | None:
        return self.engine.dialect.as_own(self.engine.session, message)

    def _attempt_deadline(self) -> Deadline:
        """Return the deadline of one attempt. It leaves time to settle the message afterwards."""
        left = self.deadline.remaining()
        if left is None:
            return Deadline.after(self.engine.clock, 30.0)
        return Deadline.after(self.engine.clock, left - min(self.engine.timings.settling_reserve, left / 3))

    def _max_attempts(self) -> int:
        return self.engine.dialect.profile.retry.attempts or self.engine.dialect.reconnect_attempts

    def _renew_token(self) -> bool:
        kind = self.engine.dialect.refreshable(self.engine.session)
        if kind is None:
            return False
        self._drop_socket()
        try:
            self.engine.credentials.renew_for_use(kind, self.deadline, stale=self.engine.session.credential(kind))
        except Failure as failure:
            self.engine.notice(f"cannot renew the token: {failure.message}")
            return False
        return True

    def _drop_socket(self) -> None:
        line, self.engine.socket = self.engine.socket, None
        if line is not None:
            arrived = list(line.inbox)[line.before_request :]
            self.received += [item for item in arrived if isinstance(item, Message) and item.is_reply]
            line.abort()

    def _wait_as_requested(self, failure: RateLimited) -> bool:
        """Wait as long as the service requests before sending again. Return False when the deadline comes first."""
        wait = failure.retry_after or 1.0
        self.engine.retry.report("send", wait, failure)
        return self._sleep_if_time(wait)

    def _sleep_if_time(self, seconds: float) -> bool:
        """Wait. Return False, without waiting, when the deadline comes first."""
        left = self.deadline.remaining()
        if left is not None and seconds > left:
            return False
        self.engine.clock.sleep(seconds)
        return True


def _without_key(message: Message, rows: Sequence[OutboxRow]) -> bool:
    """Return whether an entry of history does not identify its send.

    Some APIs have one field for the service's id and the client's key. If it has neither the key of a send of this
    session, nor has the service taken the key of an accepted send as its id, it is the service's own.
    """
    if message.key is None:
        return True
    if message.key != message.id:
        return False
    return not any(row.key == message.key or (row.state == "accepted" and row.message_id == row.key) for row in rows)


def _accepting_bare_echo(
    flow: Flow[Message],
    outgoing: Outgoing,
    claimed: frozenset[str | None],
    as_own: Callable[[Message], Message | None],
) -> Flow[Message]:
    """Perform a send flow that also returns an echo without a key, if it has the text of the message.

    Gateways and mocks of the service leave the key out. Messages with the ids in `claimed` are other sends'. `as_own`
    returns a message as the guest's own, if it can be that. The caller decides whether another send may own the echo.
    """
    words = _words(outgoing)

    def bare_echo(incoming: object) -> Message | None:
        if not isinstance(incoming, Message) or incoming.key is not None or incoming.text.split() != words:
            return None
        return None if incoming.id in claimed else as_own(incoming)

    def is_bare_echo(incoming: Incoming) -> bool:
        return bare_echo(incoming) is not None

    answer: Any = None
    failure: Failure | None = None
    while True:
        try:
            step = flow.send(answer) if failure is None else flow.throw(failure)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        if isinstance(step, FrameRequest) and step.message and step.answers is not None:
            step = replace(step, answers=_either(step.answers, is_bare_echo))
        answer = failure = None
        try:
            answer = yield step
        except Failure as problem:
            failure = problem
        echo = bare_echo(answer)
        if echo is not None:
            flow.close()
            return echo


def _either(first: Callable[[Incoming], bool], second: Callable[[Incoming], bool]) -> Callable[[Incoming], bool]:
    return lambda incoming: first(incoming) or second(incoming)


def recent_inbound(
    engine: SessionEngine, deadline: Deadline, since: str | None, *, patience: float | None = None
) -> list[Message]:
    """Return the guest's own messages in history since a time of the service, or all of them.

    `patience`: seconds for one page, within the deadline.
    """
    dialect = engine.dialect

    def fetch(after: Position | None, cursor: str | None) -> HistoryPage:
        return engine.page(after, cursor, deadline.sooner(patience))

    # No message has this id, so that pages with the newest entries first are read until they are older than `since`.
    oldest = Position("", None, since) if since is not None and dialect.paging is Paging.BY_PAGE_NUMBER else None
    items, _ = following(fetch, dialect.paging, oldest, dialect.page_size)
    found = [dialect.as_own(engine.session, item) for item in items if isinstance(item, Message)]
    return [own for own in found if own is not None]


@contextmanager
def _not_sent_by_default() -> Iterator[None]:
    """Give failures without an outcome the outcome `not_sent`: they happen before a byte of the message is written."""
    try:
        yield
    except Failure as failure:
        failure.with_outcome(failure.delivery or "not_sent", failure.sent)
        raise


def _accepted(failure: Failure, message: Message) -> Failure:
    """Return a failure to store something after the message was accepted, with the message as its outcome."""
    return failure.with_outcome("accepted", Sent(message.key or "", "accepted", message.text, message))


def _from_outbox(row: OutboxRow) -> Message:
    """Return an accepted message as the outbox has it."""
    return Message(
        id=row.message_id or "",
        direction="inbound",
        text=_load(row).text,
        time=row.time,
        key=row.key,
        sender=Sender("guest"),
    )


def _words(outgoing: Outgoing) -> list[str]:
    """Return the words of its text. The service may change the white space between them."""
    return (outgoing.text or ", ".join(option.text for option in outgoing.picks)).split()


def _content(outgoing: Outgoing) -> dict[str, Any]:
    """Return all that the user chose for a message, as the outbox stores it."""
    stored: dict[str, Any] = json.loads(_dump(replace(outgoing, key="", attachment_id=None, picks_from=None)))
    return stored


def _dump(outgoing: Outgoing) -> str:
    return json.dumps(asdict(outgoing), ensure_ascii=False)


def _load(row: OutboxRow) -> Outgoing:
    value = json.loads(row.text)
    value["picks"] = tuple(Option(**option) for option in value.get("picks") or ())
    return Outgoing(**value)
