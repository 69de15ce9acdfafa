"""When the turns of one conversation begin and end, and what is measured of each.

Knows: planned times, turns, what a failed turn is. Must not know: scripts, clients, the wire. Times are handed in, in
monotonic seconds.

A turn is a guest's message and the replies to it. Every message has a planned time: that of the message before it, plus
the think time. A guest who had to wait for the service sends late, but the reply is measured from the planned time.
Otherwise a service that stalls would be measured only as often as it answers (*coordinated omission*). The first
message of a conversation is planned for the moment when the session is ready.
"""

from __future__ import annotations

from collections.abc import Callable

from guestctl.load.measurements import Measurements


class TurnMeter:
    """Measures one conversation. `now` returns the present slot's measurements for what is counted now."""

    def __init__(self, measurements: Callable[[], Measurements]) -> None:
        self._measurements = measurements
        #: When the last message should have been sent, None before the first one.
        self._planned: float | None = None
        #: The present turn: when it should have begun, when its last reply came.
        self._begun: float | None = None
        self._replied: float | None = None
        #: Whether a reply is awaited in this turn; whether the turn has failed.
        self._awaited = False
        self._failed = False
        #: By client key: when the message was first written.
        self._written: dict[str, float] = {}

    def next_planned(self, now: float, think: float) -> float:
        """Return when the next message should be sent. Without a think time, that is now."""
        return now if self._planned is None or think <= 0 else self._planned + think

    def begin_message(self, planned: float) -> None:
        """A message is about to be sent. It begins a turn, unless nothing was expected or came since the last one."""
        self._planned = planned
        if self._begun is None or self._awaited or self._replied is not None:
            self.end_turn()
            self._begun = planned
            self._measurements().count("turns")

    def await_reply(self) -> None:
        """A reply is awaited from now on, if the guest has sent anything."""
        self._awaited = self._awaited or self._begun is not None

    def written(self, key: str, now: float) -> None:
        """The first byte of a message is about to be written."""
        self._written.setdefault(key, now)

    def accepted(self, key: str, now: float) -> None:
        """The service has accepted a message."""
        found = self._measurements()
        found.count("messages")
        written = self._written.pop(key, None)
        if written is not None:
            found.time("accepted", now - written)

    def not_accepted(self, key: str, outcome: str) -> None:
        """A message was not accepted: `in_doubt`, `rejected` or `not_sent`."""
        self._written.pop(key, None)
        found = self._measurements()
        found.count("messages")
        found.count("in_doubt" if outcome == "in_doubt" else "rejected")
        self.fail_turn()

    def reply(self, now: float) -> None:
        """A reply has come."""
        if self._begun is None:
            return  # a greeting
        if self._replied is None:
            self._measurements().time("reply", now - self._begun)
        self._replied = now

    def fail_turn(self) -> None:
        """The present turn has failed. It counts once."""
        if not self._failed:
            self._failed = True
            self._measurements().count("failed")

    def end_turn(self, *, unfinished: bool = False) -> None:
        """End the present turn. `unfinished`: the test ended in it, so that a missing reply proves nothing."""
        if self._begun is not None and self._replied is not None:
            self._measurements().time("last_reply", self._replied - self._begun)
        elif self._begun is not None and self._awaited and not unfinished:
            self._measurements().count("unanswered")
            self.fail_turn()
        self._begun = self._replied = None
        self._awaited = self._failed = False
