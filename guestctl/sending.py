"""Sending one message and saying truthfully what became of it.

Knows: the outbox, the four outcomes (contract.md §5), settling a doubt from history, and when a
message may be sent again. Must not know: any dialect's wire, printing, reconnect policy of `listen`.

Nothing leaves before the outbox says `writing`. A break after that is a doubt: history is searched
for our own id first, and the message goes out again, once, only where its absence is proved or the
service drops repeated ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from guestctl.clock import Deadline, epoch_of
from guestctl.dialects.base import Page, Paging, Position
from guestctl.errors import (
    Failure,
    InDoubt,
    NetworkError,
    RateLimited,
    Refused,
    TimedOut,
    Unreadable,
)
from guestctl.exchange import LIMIT_RETRIES, Exchange
from guestctl.model import Message, Option, Outgoing, Sender
from guestctl.paging import Item, following, newest
from guestctl.state import OutboxRow

#: Seconds kept back from a send's deadline for settling it; and between two looks that find nothing.
SETTLING = 5.0
GRACE = 1.0
#: Seconds the service's clock may differ from ours when a message is looked for by its text.
SKEW = 120.0
#: How many of the newest messages are searched for one of ours.
SEARCHED = 500


def deliver(exchange: Exchange, outgoing: Outgoing, deadline: Deadline) -> Message:
    """Send one message; returns it as the service accepted it.

    Sends of one session take turns among all processes, so that order holds and every unfinished
    row met here is a dead process's. A key that was accepted before is not sent again. Raises the
    service's refusal (`delivery` rejected), NetworkError or TimedOut (`not_sent`), or InDoubt.
    """
    scope, name = exchange.scope, exchange.session.name
    with exchange.state.lock(f"send/{scope}/{name}", deadline):
        settle_open(exchange, deadline)
        earlier = exchange.state.sent(scope, name, outgoing.key)
        if earlier is not None and earlier.state == "accepted":
            return _remembered(earlier)
        try:
            exchange.dialect.check(exchange.session, outgoing)
        except Failure as failure:
            failure.delivery = "not_sent"
            raise
        exchange.state.begin(scope, name, outgoing.key, _dump(outgoing))
        return _Send(exchange, outgoing, deadline).run()


def settle_open(exchange: Exchange, deadline: Deadline) -> list[Message]:
    """Settle what an earlier command left open: found in history, it was accepted; absent, it goes
    out again. What stays in doubt is left for the next run. Needs the session's send lock.
    Returns what turned out to be, or has now been, accepted."""
    settled = []
    for row in exchange.state.outbox(exchange.scope, exchange.session.name, "queued", "writing", "in_doubt"):
        if row.state == "queued":
            exchange.state.mark(exchange.scope, exchange.session.name, row.key, "not_sent")
            continue
        exchange.notice(f"settling an earlier message ({row.key}): looking for it in history")
        settled.append(_Send(exchange, _load(row), deadline).settle(row))
    return settled


@dataclass
class _Send:
    exchange: Exchange
    outgoing: Outgoing
    deadline: Deadline
    repeats: int = 0

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
                if limited > LIMIT_RETRIES or not self._sleep(failure.retry_after or 1.0):
                    raise self._refused(failure, "rejected" if written else "not_sent") from None
            except (NetworkError, TimedOut, Unreadable) as failure:
                if not written:
                    raise self._refused(failure, "not_sent") from None
                outcome = self._after_break(failure)
                if outcome is not None:
                    return outcome
            except Failure as failure:
                if written and not healed and self.exchange.dialect.healed_by_renewal(failure) and self._renewed():
                    healed += 1
                    continue
                if failure.code == "session.evicted" and written:
                    self._drop_line()
                    outcome = self._after_break(failure)
                    if outcome is not None:
                        return outcome
                    continue
                raise self._refused(failure, "rejected" if written else "not_sent") from None
            else:
                return self._accepted(message)

    # --- outcomes ---

    def _accepted(self, message: Message) -> Message:
        self.exchange.state.mark(
            self.exchange.scope, self.exchange.session.name, self.outgoing.key, "accepted", message.id, message.time
        )
        session = self.exchange.session
        if "pending_attributes" in session.notes and self.outgoing.attributes:
            rest = {k: v for k, v in session.notes.items() if k != "pending_attributes"}
            self.exchange.keep(replace(session, notes=rest))
        if message.key is None:
            message = replace(message, key=self.outgoing.key)
        return message

    def _refused(self, failure: Failure, delivery: str) -> Failure:
        self._mark(delivery)
        failure.delivery = delivery
        return failure

    def _in_doubt(self, failure: Failure | None) -> InDoubt:
        self._mark("in_doubt")
        why = f" ({failure.message})" if failure is not None else ""
        doubt = InDoubt(
            f"message {self.outgoing.key} may or may not have arrived{why}",
            key=self.outgoing.key,
            api=self.exchange.dialect.name,
        )
        doubt.delivery = "in_doubt"
        return doubt

    def _mark(self, state: str) -> None:
        self.exchange.state.mark(
            self.exchange.scope,
            self.exchange.session.name,
            self.outgoing.key,
            state,  # type: ignore[arg-type]
        )

    # --- doubt ---

    def _after_break(self, failure: Failure) -> Message | None:
        """The connection broke while sending. A Message: it had arrived. None: send it again now."""
        self._drop_line()
        if isinstance(failure, NetworkError):
            if failure.close_code is not None and self.exchange.dialect.on_close(failure.close_code) == "too_big":
                refusal = Refused(failure.message, code="service.too_long", api=self.exchange.dialect.name)
                raise self._refused(refusal, "rejected")
            if not failure.written:
                if not failure.transient or self.repeats >= self._attempts() or self.deadline.expired:
                    raise self._refused(failure, "not_sent")
                self.repeats += 1
                return None
        if self.repeats:
            found = self._look()
            if found is not None:
                return self._accepted(found)
            raise self._in_doubt(failure)
        try:
            return self._resolve()
        except InDoubt:
            raise
        except Failure:
            if self.exchange.dialect.deduplicates and not self.deadline.expired:
                self.repeats += 1
                return None
            # The doubt outweighs whatever kept us from settling it.
            raise self._in_doubt(failure) from None

    def _resolve(self) -> Message | None:
        """Look for our message; None when it may be sent again. Raises InDoubt when nothing is proved."""
        found = self._look()
        if found is None and not self.exchange.dialect.deduplicates:
            # What we wrote may still be on its way: look again after a moment before repeating it.
            if not self._sleep(GRACE):
                raise self._in_doubt(None)
            found = self._look()
        if found is not None:
            return self._accepted(found)
        self.repeats += 1
        return None

    def settle(self, row: OutboxRow) -> Message:
        """Bring an unfinished send of an earlier process to its end."""
        try:
            found = self._look(row)
        except Failure as failure:
            raise self._in_doubt(failure) from None
        if found is not None:
            return self._accepted(found)
        self.repeats += 1
        return self.run()

    def _look(self, row: OutboxRow | None = None) -> Message | None:
        """Our message in history, by its key, else as the one unclaimed candidate with the same text.

        Raises InDoubt when several could be it, Failure when history cannot be read.
        """
        exchange = self.exchange
        row = row or exchange.state.sent(exchange.scope, exchange.session.name, self.outgoing.key)
        begun = row.begun_at if row is not None else exchange.clock.now()
        recent = recent_inbound(exchange, self.deadline, begun - SKEW)
        for message in recent:
            if message.key == self.outgoing.key:
                return message
        if exchange.dialect.returns_key:
            return None
        claimed = {
            other.message_id for other in exchange.state.outbox(exchange.scope, exchange.session.name, "accepted")
        }
        unclaimed = [m for m in recent if m.key is None and m.id not in claimed and m.text == self.outgoing.text]
        if len(unclaimed) > 1:
            raise self._in_doubt(None)
        return unclaimed[0] if unclaimed else None

    # --- means ---

    def _reserving(self) -> Deadline:
        """The deadline of the attempt, leaving time to settle it."""
        left = self.deadline.remaining()
        if left is None:
            return Deadline.after(self.exchange.clock, 30.0)
        return Deadline.after(self.exchange.clock, left - min(SETTLING, left / 3))

    def _attempts(self) -> int:
        return self.exchange.dialect.profile.retry.attempts or self.exchange.dialect.attempts

    def _renewed(self) -> bool:
        kind = self.exchange.dialect.refreshable(self.exchange.session)
        if kind is None:
            return False
        self._drop_line()
        self.exchange.renew(kind, self.deadline, stale=self.exchange.session.credential(kind))
        return True

    def _drop_line(self) -> None:
        line, self.exchange.line = self.exchange.line, None
        if line is not None:
            line.abort()

    def _sleep(self, seconds: float) -> bool:
        """Wait, unless the deadline comes first; says whether there was time."""
        left = self.deadline.remaining()
        if left is not None and seconds > left:
            return False
        self.exchange.clock.sleep(seconds)
        return True


def recent_inbound(exchange: Exchange, deadline: Deadline, since: float) -> list[Message]:
    """The guest's own messages in history from about `since` (epoch seconds) on."""
    dialect = exchange.dialect

    def fetch(after: Position | None, cursor: str | None) -> Page:
        return exchange.perform(
            dialect.history(exchange.session, after=after, cursor=cursor, limit=dialect.page_size), deadline
        )

    items: Iterable[Item]
    if dialect.paging is Paging.NUMBERED:
        items = newest(fetch, dialect.paging, SEARCHED, lambda item: True)
    else:
        items = following(fetch, dialect.paging, None, dialect.page_size)[0]
    return [
        item
        for item in items
        if isinstance(item, Message) and item.direction == "inbound" and not _before(item.time, since)
    ]


def _before(time: str | None, since: float) -> bool:
    try:
        return time is not None and epoch_of(time) < since
    except ValueError:
        return False


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


def _dump(outgoing: Outgoing) -> str:
    return json.dumps(asdict(outgoing), ensure_ascii=False)


def _load(row: OutboxRow) -> Outgoing:
    value = json.loads(row.text)
    value["picks"] = tuple(Option(**option) for option in value.get("picks") or ())
    return Outgoing(**value)
