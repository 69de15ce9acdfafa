"""Sending one message and saying truthfully what became of it.

Knows: the outbox, the four outcomes (contract.md §5), settling a doubt from history, and when a
message may be sent again. Must not know: any dialect's wire, printing, reconnect policy of `listen`.

Nothing leaves before the outbox says `writing`. A break after that is a doubt: history is searched
for our own id first, and the message goes out again, once, only where its absence is proved or the
service drops repeated ids. Once an attempt has left us in doubt, nothing that happens to a later
one makes the message `rejected` or `not_sent`: it is found in history, or stays in doubt.
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

#: Endings heard instead of an answer, which leave open whether the message was taken before them.
_CUT_SHORT = frozenset({"session.evicted", "session.ended"})


def deliver(exchange: SessionEngine, outgoing: Outgoing, deadline: Deadline) -> Message:
    """Send one message; returns it as the service accepted it.

    Sends of one session take turns among all processes, so that order holds and every unfinished
    row met here is a dead process's. A key that was accepted before is not sent again. Every
    failure's `delivery` says what became of the message: the service's refusal (rejected),
    whatever kept it from leaving (not_sent), or InDoubt.
    """
    with _not_sent_so_far():
        earlier = exchange.state.sent(exchange.scope, exchange.session, outgoing.key)
        if earlier is not None and earlier.state == "accepted":
            return _remembered(earlier)
        exchange.dialect.check_message(exchange.session, outgoing)
        if exchange.dialect.sends_on_socket:
            # First a place for the socket, then the turn: in the other order, those who have a
            # place and await their turn would hold up the one whose turn it is.
            exchange.attached(deadline)
        with exchange.record.lock("send", deadline):
            settle_open(exchange, deadline)
            row = exchange.state.begin(exchange.scope, exchange.session, outgoing.key, _dump(outgoing))
            if row.state == "accepted":
                return _remembered(row)
            send = _Send(exchange, outgoing, deadline)
            if row.state != "queued":
                raise send.in_doubt("it could not be settled")
            return send.run()


def settle_open(exchange: SessionEngine, deadline: Deadline) -> list[Message]:
    """Settle what an earlier command left open: found in history, it was accepted; absent, it goes
    out again. What stays in doubt is left for the next run, and `notice` told. Needs the session's
    send lock. Returns what turned out to be, or has now been, accepted."""
    settled = []
    for row in exchange.state.outbox(exchange.scope, exchange.session, "queued", "writing", "in_doubt"):
        if row.state == "queued":
            exchange.state.mark(exchange.scope, exchange.session, row.key, "not_sent")
            continue
        exchange.notice(f"settling an earlier message ({row.key}): looking for it in history")
        try:
            settled.append(_Send(exchange, _load(row), deadline).settle())
        except InDoubt as doubt:
            exchange.notice(f"an earlier message is still in doubt: {doubt.message}")
        except Failure as failure:
            failure.with_outcome(None)  # it would be taken for the next message's
            raise
    return settled


@dataclass
class _Send:
    exchange: SessionEngine
    outgoing: Outgoing
    deadline: Deadline
    #: An attempt was written whose fate is not known; how often the message was sent again after one.
    doubtful: bool = False
    repeats: int = 0
    #: Attempts of which no byte left.
    unwritten: int = 0

    def run(self) -> Message:
        """Until it is accepted, refused, or in doubt."""
        limited = healed = 0
        while True:
            written = False
            try:
                self.exchange.wait_to_send(self.deadline)
                if self.exchange.dialect.sends_on_socket:
                    self.exchange.attached(self.deadline)
                self._mark("writing")
                written = True
                message = self.exchange.perform(
                    self.exchange.dialect.send(self.exchange.session, self.outgoing), self._reserving()
                )
            except RateLimited as failure:
                limited += 1
                self.doubtful |= failure.doubtful
                if failure.retried or limited > LIMIT_RETRIES or not self._pause(failure):
                    return self._refused(failure, "rejected" if written else "not_sent")
            except Failure as failure:
                if not written:
                    return self._refused(failure, "not_sent")
                self.doubtful |= failure.doubtful
                if isinstance(failure, (NetworkError, TimedOut, Unreadable)) or failure.code in _CUT_SHORT:
                    outcome = self._after_break(failure)
                    if outcome is not None:
                        return outcome
                elif not healed and self.exchange.dialect.renewal_may_help(failure) and self._renewed():
                    healed += 1
                else:
                    return self._refused(failure, "rejected")
            else:
                return self._accepted(message)

    def settle(self) -> Message:
        """Bring an unfinished send of an earlier process to its end. Raises InDoubt."""
        self.doubtful = True
        return self._resolved("an earlier command was cut off") or self.run()

    # --- outcomes ---

    def _accepted(self, message: Message) -> Message:
        self._mark("accepted", message)
        session = self.exchange.session
        known = replace(self.exchange.dialect.after_acceptance(session), new_session=False)
        if known != session:
            self.exchange.record.store(known)
        if message.key is None:
            message = replace(message, key=self.outgoing.key)
        return message

    def _refused(self, failure: Failure, delivery: SendState) -> Message:
        """Raise it; unless an earlier attempt may have arrived, for which history has the last word."""
        if self.doubtful:
            return self._last_look(failure)
        if failure.delivery == "not_sent":  # it failed before the request, for want of a token
            delivery = "not_sent"
        self._mark(delivery)
        raise failure.with_outcome(delivery)

    def _last_look(self, failure: Failure) -> Message:
        try:
            found = self._look()
        except Failure:
            found = None
        if found is None:
            raise self.in_doubt(failure.message) from None
        return self._accepted(found)

    def in_doubt(self, why: str) -> InDoubt:
        self._mark("in_doubt")
        return InDoubt(
            f"message {self.outgoing.key} may or may not have arrived ({why})",
            key=self.outgoing.key,
            api=self.exchange.dialect.name,
        )

    def _mark(self, state: SendState, message: Message | None = None) -> None:
        exchange = self.exchange
        known = (message.id, message.time) if message is not None else (None, None)
        try:
            exchange.state.mark(exchange.scope, exchange.session, self.outgoing.key, state, *known)
        except Failure as failure:
            # The outcome stands, even where it cannot be written down.
            failure.with_outcome(state)
            raise

    # --- doubt ---

    def _after_break(self, failure: Failure) -> Message | None:
        """The connection broke while sending. A Message: it had arrived. None: send it again now."""
        self._drop_line()
        if isinstance(failure, NetworkError):
            action = None if failure.close_code is None else self.exchange.dialect.on_close(failure.close_code)
            if action == "renew":
                self._renewed()
            if action == "too_big":
                refusal = Refused(failure.message, code="service.too_long", api=self.exchange.dialect.name)
                return self._refused(refusal, "rejected")
            if not failure.written:
                self.unwritten += 1
                hopeless = failure.retried or not failure.transient or self.unwritten > self._attempts()
                if hopeless or self.deadline.expired:
                    return self._refused(failure, "not_sent")
                return None
        self.doubtful = True
        return self._last_look(failure) if self.repeats else self._resolved(failure.message)

    def _resolved(self, why: str) -> Message | None:
        """Our message as history has it; None when it may be sent again. Raises InDoubt when nothing is proved."""
        repeatable = self.exchange.dialect.deduplicates
        try:
            found = self._look()
            if found is None and not repeatable:
                # What was written may still be on its way: look again after a moment.
                if not self._sleep(self.exchange.timings.settling_pause):
                    raise self.in_doubt(why)
                found = self._look()
        except Failure:
            # The doubt outweighs whatever keeps us from settling it.
            if not repeatable or self.deadline.expired:
                raise self.in_doubt(why) from None
            found = None
        if found is not None:
            return self._accepted(found)
        self.repeats += 1
        return None

    def _look(self) -> Message | None:
        """Our message in history: by its key, else as the one candidate with its text that no other
        send of ours claims. None: it is not there.

        Raises InDoubt when some candidate could be it but need not, Failure when history cannot be
        read. What was accepted before ours was begun bounds the search: our clock may differ from the
        service's.
        """
        exchange, key = self.exchange, self.outgoing.key
        rows = exchange.state.outbox(exchange.scope, exchange.session)
        claimed = {row.message_id: row for row in rows if row.state == "accepted"}
        begun = next((row.begun_at for row in rows if row.key == key), None)
        before = [
            row.time
            for row in claimed.values()
            if row.time is not None and row.written_at is not None and begun is not None and row.written_at < begun
        ]
        since = max(before, default=None)
        recent = recent_inbound(exchange, self.deadline, since)
        for message in recent:
            if message.key == key:
                return message
        if exchange.dialect.returns_client_key:
            return None
        unclaimed = [m for m in recent if m.key is None and m.id not in claimed]
        same = [m for m in unclaimed if m.text.split() == _words(self.outgoing)]
        if len(same) == 1:
            return same[0]
        # What has the text of another unsettled send is that one.
        others = [_words(_load(row)) for row in rows if row.key != key and row.state in {"writing", "in_doubt"}]
        if same or any(m.text.split() not in others for m in unclaimed):
            # Several with this text, or something of the guest's that the service may have altered.
            raise self.in_doubt(f"history has {len(unclaimed)} that could be it")
        return None

    # --- means ---

    def _reserving(self) -> Deadline:
        """The deadline of the attempt, leaving time to settle it."""
        left = self.deadline.remaining()
        if left is None:
            return Deadline.after(self.exchange.clock, 30.0)
        return Deadline.after(self.exchange.clock, left - min(self.exchange.timings.settling_reserve, left / 3))

    def _attempts(self) -> int:
        return self.exchange.dialect.profile.retry.attempts or self.exchange.dialect.reconnect_attempts

    def _renewed(self) -> bool:
        kind = self.exchange.dialect.refreshable(self.exchange.session)
        if kind is None:
            return False
        self._drop_line()
        try:
            self.exchange.credentials.renew_for_use(kind, self.deadline, stale=self.exchange.session.credential(kind))
        except Failure as failure:
            self.exchange.notice(f"the token could not be renewed: {failure.message}")
            return False
        return True

    def _drop_line(self) -> None:
        line, self.exchange.socket = self.exchange.socket, None
        if line is not None:
            line.abort()

    def _pause(self, failure: RateLimited) -> bool:
        """Wait as long as the service asks before sending again; says whether there is time."""
        wait = failure.retry_after or 1.0
        self.exchange.retry.report("send", wait, failure)
        return self._sleep(wait)

    def _sleep(self, seconds: float) -> bool:
        """Wait, unless the deadline comes first; says whether there was time."""
        left = self.deadline.remaining()
        if left is not None and seconds > left:
            return False
        self.exchange.clock.sleep(seconds)
        return True


def recent_inbound(exchange: SessionEngine, deadline: Deadline, since: str | None) -> list[Message]:
    """The guest's own messages in history from `since` (the service's time) on; all, when that is None."""
    dialect = exchange.dialect

    def fetch(after: Position | None, cursor: str | None) -> HistoryPage:
        return exchange.page(after, cursor, deadline)

    # No message has this id: pages that come newest first are read until they are older than `since`.
    oldest = Position("", None, since) if since is not None and dialect.paging is Paging.BY_PAGE_NUMBER else None
    items, _ = following(fetch, dialect.paging, oldest, dialect.page_size)
    return [item for item in items if isinstance(item, Message) and item.direction == "inbound"]


@contextmanager
def _not_sent_so_far() -> Iterator[None]:
    """What fails before a message is begun, or begun and not written, leaves it not sent."""
    try:
        yield
    except Failure as failure:
        failure.with_outcome(failure.delivery or "not_sent")
        raise


def _remembered(row: OutboxRow) -> Message:
    """An accepted send, from the outbox alone."""
    return Message(
        id=row.message_id or "",
        direction="inbound",
        text=_load(row).text,
        time=row.time,
        key=row.key,
        sender=Sender("guest"),
    )


def _words(outgoing: Outgoing) -> list[str]:
    """Its text as the service keeps it, give or take white space."""
    return (outgoing.text or ", ".join(option.text for option in outgoing.picks)).split()


def _dump(outgoing: Outgoing) -> str:
    return json.dumps(asdict(outgoing), ensure_ascii=False)


def _load(row: OutboxRow) -> Outgoing:
    value = json.loads(row.text)
    value["picks"] = tuple(Option(**option) for option in value.get("picks") or ())
    return Outgoing(**value)
