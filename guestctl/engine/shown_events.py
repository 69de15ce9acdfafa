"""The events that a listener yields, and the record of those that its caller has shown.

Knows: when an event counts as shown, the ledger and the activity log. Must not know: where events come from, printing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator

from guestctl.core.model import (
    Event,
    Gap,
    Message,
    ParticipantEvent,
    Presence,
    ServiceError,
    SessionEvent,
    Typing,
    Unknown,
)
from guestctl.engine.exchange import SessionEngine

#: Ledger rows per commit.
BATCH = 256

#: The types of events from the service, other than messages -> the kind of their records.
_KINDS: dict[type[Event], str] = {
    Typing: "typing",
    Presence: "presence",
    ServiceError: "error",
    SessionEvent: "session",
    Unknown: "unknown",
}


class ShownEvents:
    """The events on their way to the caller. With `record`, those that it has shown are recorded."""

    def __init__(self, engine: SessionEngine, *, record: bool) -> None:
        self._engine = engine
        self._record = record
        #: Events that are shown next, those that the caller has taken, and those of them that it has shown.
        self._waiting: deque[Event] = deque()
        self._taken: deque[Event] = deque()
        self._shown: list[Event] = []
        #: Messages for the ledger, and how many other events of each kind there are for the activity log.
        self._messages: list[Message] = []
        self._kinds: Counter[str] = Counter()

    def __bool__(self) -> bool:
        """Return whether an event waits to be shown."""
        return bool(self._waiting)

    def add(self, events: Iterable[Event]) -> None:
        """Add events that `show` yields."""
        if self._engine.connector.observer is not None:
            events = list(events)
            for event in events:
                if isinstance(event, Message):
                    report_reply(self._engine, event)
        self._waiting.extend(events)

    def keep_first_gap(self) -> None:
        """Drop all events that wait, except the first gap."""
        self._waiting = deque([event for event in self._waiting if isinstance(event, Gap)][:1])

    def show(self, events: Iterable[Event] = ()) -> Iterator[Event]:
        """Yield each event, and record it as shown afterwards. If the caller stops, the others wait."""
        self.add(events)
        while self._waiting:
            event = self._waiting.popleft()
            self._taken.append(event)
            try:
                yield event
            except GeneratorExit:
                # A caller that stops at an event has shown it. One that failed to show it throws that failure in.
                self._shown += self._taken
                raise
            except Exception:
                self._waiting.extendleft(reversed([*self._taken][1:]))
                raise
            except BaseException:  # a signal: it interrupted the caller before the events were shown
                self._waiting.extendleft(reversed(self._taken))
                raise
            else:
                self._shown += self._taken
            finally:
                self._taken.clear()
                self._record_shown()

    def take(self) -> Event | None:
        """Return the event after the last one, if no waiting is necessary and the ledger need not be written first.

        So the caller can show several events at once. It calls `shown` when it has shown some of them.
        """
        if not self._waiting or len(self._taken) + len(self._shown) >= BATCH:
            return None
        event = self._waiting.popleft()
        self._taken.append(event)
        return event

    def shown(self, last: Event) -> None:
        """Note that the caller has shown the events that it has taken, up to `last`."""
        while self._taken:
            self._shown.append(self._taken.popleft())
            if self._shown[-1] is last:
                return

    def _record_shown(self) -> None:
        shown, self._shown = self._shown, []
        for event in shown if self._record else ():
            if isinstance(event, Message):
                self._engine.record.store_offer(event)
                self._messages.append(event)
            elif (kind := _kind_of(event)) is not None:
                self._kinds[kind] += 1
        if len(self._messages) >= BATCH:
            self.commit()

    def commit(self) -> None:
        """Write the shown messages to the ledger, and the kinds of the shown events to the activity log.

        Afterwards, so that no message counts as shown before it is.
        """
        if self._messages:
            messages, self._messages = self._messages, []
            self._engine.state.record(self._engine.scope, self._engine.session, messages)
            self._kinds["message"] += len(messages)
        if self._kinds:
            kinds, self._kinds = self._kinds, Counter()
            for kind, count in kinds.items():
                self._engine.record.log("ws_message_received", type=kind, count=count)


def report_reply(engine: SessionEngine, message: Message) -> None:
    """Report a message that is not the guest's own to the observer."""
    if message.direction == "outbound":
        engine.report("turn", event="reply", id=message.id, text=message.text)


def _kind_of(event: Event) -> str | None:
    """Return the kind of an event's record, None for an event that does not come from the service."""
    return event.kind if isinstance(event, ParticipantEvent) else _KINDS.get(type(event))
