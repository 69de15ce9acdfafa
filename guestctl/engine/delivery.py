"""Deliver one message, and report truthfully whether the service accepted it.

Knows: the outbox, the four outcomes (contract.md §5), how history settles a message in doubt, and when a message may be
sent again. Must not know: any dialect's wire, printing, how `listen` reconnects.

The outbox says `writing` before the first byte is sent. When the connection breaks after that, the message is in doubt:
the client looks for it in history. It sends the message again, once, only if history proves that it is absent, or if
the service removes duplicate ids. Once a message has been in doubt, no failure of a later attempt makes it `rejected`
or `not_sent`: either history shows it, or it stays in doubt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from guestctl.core.clock import Deadline
from guestctl.core.errors import (
    Failure,
    InDoubt,
    NetworkError,
    RateLimited,
    Refused,
    TimedOut,
    Unreadable,
)
from guestctl.core.model import Message, Option, Outgoing, Position, Sender
from guestctl.dialects.base import HistoryPage
from guestctl.dialects.capabilities import Paging
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.history import following
from guestctl.engine.retry import LIMIT_RETRIES
from guestctl.storage.state import OutboxRow, SendState

#: Failures that replace an answer: the service may have accepted the message before the session ended.
_ENDED_WITHOUT_ANSWER = frozenset({"session.evicted", "session.ended"})


def deliver(engine: SessionEngine, outgoing: Outgoing, deadline: Deadline) -> Message:
    """Send one message, and return it as the service accepted it.

    A lock lets only one process at a time send in a session. So messages keep their order, and an unfinished row in
    the outbox was left by a process that has ended. A key that was accepted before is not sent again. Every failure
    has the outcome as its `delivery`: `rejected` (the service refused the message), `not_sent` or `in_doubt`.
    """
    with _not_sent_by_default():
        earlier = engine.state.sent(engine.scope, engine.session, outgoing.key)
        if earlier is not None and earlier.state == "accepted":
            return _from_outbox(earlier)
        engine.dialect.check_message(engine.session, outgoing)
        if engine.dialect.sends_on_socket:
            # Open the socket before taking the lock. The service limits the sockets of a session: the process with
            # the lock could wait for a socket that a process waiting for the lock has.
            engine.attached(deadline)
        with engine.record.lock("send", deadline):
            settle_open(engine, deadline)
            row = engine.state.begin(engine.scope, engine.session, outgoing.key, _dump(outgoing))
            if row.state == "accepted":
                return _from_outbox(row)
            send = _Send(engine, outgoing, deadline)
            if row.state != "queued":
                raise send.in_doubt("it is still unsettled")
            return send.run()


def settle_open(engine: SessionEngine, deadline: Deadline) -> list[Message]:
    """Settle the messages that earlier commands left open, and return the accepted ones.

    A message that history shows was accepted; an absent one is sent again. `notice` reports a message that stays in
    doubt. The caller holds the session's send lock.
    """
    settled = []
    for row in engine.state.outbox(engine.scope, engine.session, "queued", "writing", "in_doubt"):
        if row.state == "queued":
            engine.state.mark(engine.scope, engine.session, row.key, "not_sent")
            continue
        engine.notice(f"looking in history for an earlier message ({row.key})")
        try:
            settled.append(_Send(engine, _load(row), deadline).settle())
        except InDoubt as doubt:
            engine.notice(f"an earlier message is still in doubt: {doubt.message}")
        except Failure as failure:
            failure.with_outcome(None)  # the caller would report it as the outcome of its own message
            raise
    return settled


@dataclass
class _Send:
    """The attempts to send one message."""

    engine: SessionEngine
    outgoing: Outgoing
    deadline: Deadline
    #: An attempt was written, and its outcome is unknown.
    doubtful: bool = False
    #: How often the message was sent again after such an attempt.
    repeats: int = 0
    #: Attempts of which no byte was sent.
    unwritten: int = 0

    def run(self) -> Message:
        """Try until the message is accepted. Raises the refusal, or InDoubt."""
        limited = renewed = 0
        while True:
            written = False
            try:
                self.engine.wait_to_send(self.deadline)
                if self.engine.dialect.sends_on_socket:
                    self.engine.attached(self.deadline)
                self._mark("writing")
                written = True
                message = self.engine.perform(
                    self.engine.dialect.send(self.engine.session, self.outgoing), self._attempt_deadline()
                )
            except RateLimited as failure:
                limited += 1
                self.doubtful |= failure.doubtful
                if failure.retried or limited > LIMIT_RETRIES or not self._wait_as_requested(failure):
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
                return self._finish_accepted(message)

    def settle(self) -> Message:
        """Settle a send that an earlier process left unfinished. Raises InDoubt."""
        self.doubtful = True
        return self._resolve_doubt("an earlier command was interrupted") or self.run()

    # --- outcomes ---

    def _finish_accepted(self, message: Message) -> Message:
        self._mark("accepted", message)
        session = self.engine.session
        known = replace(self.engine.dialect.after_acceptance(session), new_session=False)
        if known != session:
            self.engine.record.store(known)
        if message.key is None:
            message = replace(message, key=self.outgoing.key)
        return message

    def _finish_refused(self, failure: Failure, delivery: SendState) -> Message:
        """Raise the failure, unless an earlier attempt may have arrived: then history decides."""
        if self.doubtful:
            return self._look_last(failure)
        if failure.delivery == "not_sent":  # there was no token, so the request was not sent
            delivery = "not_sent"
        self._mark(delivery)
        raise failure.with_outcome(delivery)

    def _look_last(self, failure: Failure) -> Message:
        try:
            found = self._find_in_history()
        except Failure:
            found = None
        if found is None:
            raise self.in_doubt(failure.message) from None
        return self._finish_accepted(found)

    def in_doubt(self, why: str) -> InDoubt:
        self._mark("in_doubt")
        return InDoubt(
            f"message {self.outgoing.key} may or may not have arrived ({why})",
            key=self.outgoing.key,
            api=self.engine.dialect.name,
        )

    def _mark(self, state: SendState, message: Message | None = None) -> None:
        engine = self.engine
        known = (message.id, message.time) if message is not None else (None, None)
        try:
            engine.state.mark(engine.scope, engine.session, self.outgoing.key, state, *known)
        except Failure as failure:
            # The outcome is known, even though the outbox cannot store it.
            failure.with_outcome(state)
            raise

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
        return self._look_last(failure) if self.repeats else self._resolve_doubt(failure.message)

    def _resolve_doubt(self, why: str) -> Message | None:
        """Return the message if history shows it, None if it may be sent again. Raises InDoubt otherwise."""
        repeatable = self.engine.dialect.deduplicates
        try:
            found = self._find_in_history()
            if found is None and not repeatable:
                # The message may still be on its way: look again after a short time.
                if not self._sleep_if_time(self.engine.timings.settling_pause):
                    raise self.in_doubt(why)
                found = self._find_in_history()
        except Failure:
            # That the message is in doubt is more important than the failure to settle it.
            if not repeatable or self.deadline.expired:
                raise self.in_doubt(why) from None
            found = None
        if found is not None:
            return self._finish_accepted(found)
        self.repeats += 1
        return None

    def _find_in_history(self) -> Message | None:
        """Return our message from history, None when it is not there.

        Its key identifies it. Where history has no keys, it is the only entry with its text that no other send of
        this client claims. The search starts at the last message accepted before ours was begun, by the service's
        time, because our clock may differ.

        Raises InDoubt when an entry may or may not be our message, and Failure when history cannot be read.
        """
        engine, key = self.engine, self.outgoing.key
        rows = engine.state.outbox(engine.scope, engine.session)
        claimed = {row.message_id: row for row in rows if row.state == "accepted"}
        begun = next((row.begun_at for row in rows if row.key == key), None)
        before = [
            row.time
            for row in claimed.values()
            if row.time is not None and row.written_at is not None and begun is not None and row.written_at < begun
        ]
        since = max(before, default=None)
        recent = recent_inbound(engine, self.deadline, since)
        for message in recent:
            if message.key == key:
                return message
        if engine.dialect.returns_client_key:
            return None
        unclaimed = [m for m in recent if m.key is None and m.id not in claimed]
        same = [m for m in unclaimed if m.text.split() == _words(self.outgoing)]
        if len(same) == 1:
            return same[0]
        # An entry with the text of another unsettled send is attributed to that send.
        others = [_words(_load(row)) for row in rows if row.key != key and row.state in {"writing", "in_doubt"}]
        if same or any(m.text.split() not in others for m in unclaimed):
            # Several entries have this text, or the service may have altered the text of one.
            raise self.in_doubt(f"{len(unclaimed)} entries of history could be this message")
        return None

    # --- helpers ---

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


def recent_inbound(engine: SessionEngine, deadline: Deadline, since: str | None) -> list[Message]:
    """Return the guest's own messages in history since a time of the service, or all of them."""
    dialect = engine.dialect

    def fetch(after: Position | None, cursor: str | None) -> HistoryPage:
        return engine.page(after, cursor, deadline)

    # No message has this id, so that pages with the newest entries first are read until they are older than `since`.
    oldest = Position("", None, since) if since is not None and dialect.paging is Paging.BY_PAGE_NUMBER else None
    items, _ = following(fetch, dialect.paging, oldest, dialect.page_size)
    return [item for item in items if isinstance(item, Message) and item.direction == "inbound"]


@contextmanager
def _not_sent_by_default() -> Iterator[None]:
    """Give failures without an outcome the outcome `not_sent`: they happen before a byte of the message is written."""
    try:
        yield
    except Failure as failure:
        failure.with_outcome(failure.delivery or "not_sent")
        raise


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


def _dump(outgoing: Outgoing) -> str:
    return json.dumps(asdict(outgoing), ensure_ascii=False)


def _load(row: OutboxRow) -> Outgoing:
    value = json.loads(row.text)
    value["picks"] = tuple(Option(**option) for option in value.get("picks") or ())
    return Outgoing(**value)
