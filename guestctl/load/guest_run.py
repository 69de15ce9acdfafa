"""One conversation of a load test: a scenario run whose steps keep to planned times and are measured.

Knows: how the steps of a check (`checks/scenario.py`) become turns, what the observer of a client reports. Must not
know: Locust, YAML, other guests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from guestctl.checks.outcomes import Trouble
from guestctl.checks.scenario import ScenarioRun
from guestctl.checks.script import Step
from guestctl.core.errors import Failure
from guestctl.core.model import Event, Gap, Message, Session
from guestctl.dialects.capabilities import Ability
from guestctl.load.measurements import Measurements
from guestctl.load.turn_meter import TurnMeter
from guestctl.load.wire_ledger import WireLedger

#: Actions that send a message, and those that await one.
_SENDS = frozenset({"say", "attach", "pick"})
_AWAITS = frozenset({"expect"})
#: Seconds to wait at the end of a conversation for messages that history already has. What comes later is no loss: the
#: end of the connection decides that.
SETTLE = 2.0
_NO_CLOSE = 1006


class GuestObserver:
    """Measures what the observer of a client reports: connections, requests, frames, the outcome of messages."""

    def __init__(self, measurements: Callable[[], Measurements], monotonic: Callable[[], float]) -> None:
        self._measurements = measurements
        self._monotonic = monotonic
        self.meter = TurnMeter(measurements)
        self.ledger: WireLedger | None = None
        #: Learns the session when the client has attached.
        self.session: Callable[[], Session] | None = None
        #: Whether the service has closed the present socket in order: what it had not sent by then, it lost.
        self.closed_in_order = False
        #: Messages of both sides in the order in which the guest learned of them, and those that were accepted.
        self.seen: dict[str, int] = {}
        self.accepted_ids: set[str] = set()
        self._connecting_since: float | None = None
        #: Whether a socket was open before.
        self._connected = False

    def __call__(self, kind: str, data: Mapping[str, Any]) -> None:
        handler = _HANDLERS.get(kind)
        if handler is not None:
            handler(self, data)

    def see(self, id_: str) -> None:
        """Note the place of a message in the conversation, as the guest knows it."""
        self.seen.setdefault(id_, len(self.seen))

    def _close(self, data: Mapping[str, Any]) -> None:
        if data.get("direction") == "in":
            self.closed_in_order = data.get("code") != _NO_CLOSE

    def _connect(self, data: Mapping[str, Any]) -> None:
        self.closed_in_order = False
        self._connecting_since = self._monotonic()

    def _upgrade(self, data: Mapping[str, Any]) -> None:
        found = self._measurements()
        found.count("attempts")
        if data.get("status") == 101 and self._connecting_since is not None:
            found.time("connect", self._monotonic() - self._connecting_since)
            found.count("reconnects", int(self._connected))
            self._connected = True
        elif data.get("status") == 429:
            found.count("throttled")
        self._connecting_since = None
        if self.ledger is not None:
            self.ledger.connected()

    def _attached(self, data: Mapping[str, Any]) -> None:
        if self.ledger is not None and self.session is not None:
            self.ledger.session = self.session()

    def _frame_in(self, data: Mapping[str, Any]) -> None:
        if self.ledger is not None:
            self.ledger.frame(data["text"])

    def _response(self, data: Mapping[str, Any]) -> None:
        found = self._measurements()
        found.count("attempts")
        if data.get("status") == 429:
            found.count("throttled")

    def _turn(self, data: Mapping[str, Any]) -> None:
        event, key = data.get("event"), data.get("key") or ""
        if event == "write":
            self._measurements().count("attempts")
            self.meter.written(key, self._monotonic())
        elif event == "accepted":
            if data.get("id"):
                self.accepted_ids.add(data["id"])
                self.see(data["id"])
            self.meter.accepted(key, self._monotonic())


_HANDLERS: Mapping[str, Callable[[GuestObserver, Mapping[str, Any]], None]] = {
    "close": GuestObserver._close,
    "connect": GuestObserver._connect,
    "upgrade": GuestObserver._upgrade,
    "attached": GuestObserver._attached,
    "frame_in": GuestObserver._frame_in,
    "response": GuestObserver._response,
    "turn": GuestObserver._turn,
}


@dataclass
class GuestRun(ScenarioRun):
    """One measured conversation.

    `observer` is that of the client. `measurements` returns where to count now. `think` returns the seconds between two
    messages. `before_connect` waits until the guest may connect.
    """

    observer: GuestObserver | None = None
    measurements: Callable[[], Measurements] = Measurements
    think: Callable[[], float] = lambda: 0.0
    before_connect: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.observer is not None
        self._observer = self.observer
        self._shown: set[str] = set()
        #: History at the end of the conversation, None if it was not read.
        self._stored: list[Message] | None = None

    @property
    def meter(self) -> TurnMeter:
        return self._observer.meter

    # --- the parts of a scenario run that are measured ---

    def _open(self) -> None:
        self.before_connect()
        self._begun = self._clock.monotonic()  # the turn to connect is not part of the scenario's time
        if self.scenario.timeout is not None:
            self._end = self._begun + self.scenario.timeout
        if self.client.dialect.has_socket:
            draft = Session(self.client.dialect.name, self.client.profile.name)
            self._observer.ledger = WireLedger(self.client.dialect, draft, self.measurements)
            self._observer.session = self.client.session
        super()._open()

    def _do(self, step: Step, *, teardown: bool = False) -> Trouble | None:
        if step.action in _SENDS:
            self._step = step
            trouble = self._guarded(self._wait_until_planned)
            if trouble is not None:
                return trouble
        trouble = super()._do(step, teardown=teardown)
        if trouble is not None:
            self._note_trouble(trouble)
        return trouble

    def _wait_until_planned(self) -> None:
        """Listen until the planned time of the next message, so that replies are measured when they come."""
        planned = self.meter.next_planned(self._clock.monotonic(), self.think())
        until = self._bounded(planned - self._clock.monotonic())
        while self._next_event(until):
            pass
        left = until - self._clock.monotonic()
        if left > 0:  # the stream has ended, and the next message may be refused
            self._clock.sleep(left)
        self._check_time()
        self.meter.begin_message(planned)

    def _expect(self, step: Step) -> None:
        self.meter.await_reply()
        super()._expect(step)

    def _note_trouble(self, trouble: Trouble) -> None:
        failure = trouble.failure
        if failure is not None and failure.delivery in {"in_doubt", "rejected", "not_sent"}:
            sent = getattr(failure.sent, "key", "")
            self.meter.not_accepted(sent or "", failure.delivery)
        else:
            self.meter.fail_turn()

    def _handle(self, event: Event | None) -> None:
        super()._handle(event)
        if isinstance(event, Message):
            self._shown.add(event.id)
            self._observer.see(event.id)
            if event.is_reply:
                self.meter.reply(self._clock.monotonic())
        elif isinstance(event, Gap):
            self.measurements().count("gaps")

    # --- the conversation ---

    def run_scenario(self) -> Trouble | None:
        """Connect and perform every step. Return what went wrong. Raises RunStopped."""
        trouble = self._run_steps()
        if trouble is not None and not self.opened:
            self._not_begun(trouble)
        return trouble

    def begin(self) -> Trouble | None:
        """Connect and create the session. Return what went wrong. Raises RunStopped."""
        trouble = self._guarded(self._open)
        if trouble is not None:
            self._not_begun(trouble)
        return trouble

    def perform(self, step: Step) -> Trouble | None:
        """Perform one step. Return what went wrong. Raises RunStopped."""
        return self._do(step)

    def _not_begun(self, trouble: Trouble) -> None:
        """A conversation that could not begin counts as a turn that failed."""
        self.measurements().count("turns")
        self.meter.fail_turn()

    def end(self, *, unfinished: bool = False) -> None:
        """End the last turn, and read history. Call it before the client is closed, and `count_lost` afterwards."""
        if not unfinished and self._events is not None and self._stream_failure is None:
            self._read_history()
        self.meter.end_turn(unfinished=unfinished)
        if self._events is not None:
            self._events.close()

    def _read_history(self) -> None:
        ledger = self._observer.ledger
        if ledger is None or Ability.HISTORY not in self.client.dialect.abilities:
            return
        try:
            self._stored = [item for item in self.client.history() if isinstance(item, Message)]
        except Failure as failure:
            self.measurements().failure(f"history: {failure.code}")
            return
        until = self._clock.monotonic() + SETTLE
        while ledger.missing(self._stored, self._shown) and self._next_event(until):
            pass

    def count_lost(self) -> None:
        """Count messages that arrived nowhere: replies that only history has, and sent ones that history lacks.

        A reply is lost if the service closed the socket in order without it. A sent message is lost if history has a
        later one. What neither proves is a gap.
        """
        observer, stored = self._observer, self._stored
        if observer.ledger is None or stored is None:
            return
        missing = len(observer.ledger.missing(stored, self._shown))
        known = {name for message in stored for name in (message.id, message.key) if name}
        latest = max((place for id_, place in observer.seen.items() if id_ in known), default=-1)
        places = [observer.seen[id_] for id_ in observer.accepted_ids if id_ not in known]
        vanished = sum(place < latest for place in places)
        found = self.measurements()
        found.count("lost", vanished + (missing if observer.closed_in_order else 0))
        found.count("gaps", len(places) - vanished + (0 if observer.closed_in_order else missing))
