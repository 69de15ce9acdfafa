"""The one connection of a relay to the guest API: listens, and sends between two events.

Knows: `Client.listen` and `Client.send`, one thread per session. Must not know: readers, HTTP, how sends are
remembered.

A `Client` belongs to one thread, so that thread does everything: it stores what `listen` yields, and performs the jobs
of other threads between two events, as `chat` does. So there is one socket at the service, whatever the readers and
while sending. `submit` wakes the thread where it waits for the next frame.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from itertools import accumulate
from typing import Any, TypeAlias, TypeVar

from guestctl.client import Client
from guestctl.core.clock import Clock, rfc3339
from guestctl.core.errors import Failure, NetworkError, SessionOver, bug
from guestctl.core.model import Connection, Event, Gap, Message, Presence
from guestctl.core.waker import Waker
from guestctl.engine.listener import EventStream
from guestctl.engine.merge import position_of
from guestctl.output.records import stream_record
from guestctl.output.writer import exact_json
from guestctl.relay.hub import Hub
from guestctl.relay.log import Arrival
from guestctl.transport.network import Observer

T = TypeVar("T")

OpenClient: TypeAlias = Callable[[Waker | None, Observer | None], Client]

#: Seconds between two looks at the jobs where the thread does not wait on a socket: during a pause between two
#: connection attempts, and on an API without a socket.
TICK = 0.05
#: Events of one commit.
BATCH = 256
#: Seconds after the last frame or answer for which the connection counts as alive (`/readyz`).
ALIVE = 60.0
#: Observations of the client that prove that the service is there.
_HEARD = frozenset({"frame_in", "pong", "ping", "upgrade", "response"})


class ReplyTimes:
    """The times from a message of the guest to the next message to the guest, as a histogram."""

    #: Upper bounds of the buckets, in seconds.
    BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

    def __init__(self) -> None:
        self._counts = [0] * (len(self.BOUNDS) + 1)
        self._sum = 0.0
        self._asked_at: float | None = None

    def note(self, message: Message, now: float) -> None:
        """Note a message that arrived now, in monotonic seconds. Messages from history have no time of arrival."""
        if message.source != "live":
            self._asked_at = None
        elif message.direction == "inbound":
            self._asked_at = now if self._asked_at is None else self._asked_at
        elif self._asked_at is not None:
            seconds, self._asked_at = now - self._asked_at, None
            self._counts[sum(seconds > bound for bound in self.BOUNDS)] += 1
            self._sum += seconds

    def cumulative(self) -> tuple[list[tuple[str, int]], float]:
        """Return the counts up to each bound, the last of which is `+Inf`, and the sum of all seconds."""
        bounds = [*map(str, self.BOUNDS), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True)), self._sum


class Upstream:
    """The connection of one session.

    `open_client` makes the client with a waker for its network and with an observer. `masked` masks secrets in a text
    of the service. `notice` is called with a line of text when the connection is lost, and when it is there again.
    """

    def __init__(
        self,
        hub: Hub,
        open_client: OpenClient,
        clock: Clock,
        *,
        masked: Callable[[str], str] = str,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        #: connecting, live, lost, retrying, gave_up (as in a record of kind connection), or ended.
        self.state = "connecting"
        #: How often the connection was lost after it had been live.
        self.reconnects = 0
        self.reply_times = ReplyTimes()
        #: Why the stream ended, None while it runs and after `stop`.
        self.failure: Failure | None = None
        self._hub = hub
        self._waker = Waker()
        self._client = open_client(self._waker, self._observed)
        self._clock = clock
        self._masked = masked
        self._notice = notice
        self._reported_lost = False
        #: The service's id of the conversation, None while it is unknown.
        self.conversation: str | None = self._client.session().ids.get("conversation")
        self._heard_at: float | None = None
        self._arrived: list[Event] = []
        self._jobs: deque[tuple[Future[Any], Callable[[Client], Any]]] = deque()
        self._lock = threading.Lock()
        self._stopping = False
        self._ended = threading.Event()
        self._on_end: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._run, name=f"relay {hub.session}", daemon=True)

    def start(self) -> None:
        """Start listening. Returns at once."""
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Stop listening, store what was received, and close the socket. Return whether that was done in time."""
        self._stopping = True
        self._waker.wake()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def close(self) -> bool:
        """Release what the upstream opened. Return False if its thread still runs, and may store an event."""
        if self._thread.is_alive():
            return False
        self._waker.close()
        return True

    def on_end(self, call: Callable[[], None]) -> None:
        """Call a function, in the thread of the upstream, when the stream has ended. Call it before `start`."""
        self._on_end.append(call)

    @property
    def ended(self) -> bool:
        """Whether the stream has ended: nothing more will arrive."""
        return self._ended.is_set()

    @property
    def alive(self) -> bool:
        """Whether the session is attached, and the service was heard within the last 60 s."""
        heard = self._heard_at
        return self.state == "live" and heard is not None and self._clock.monotonic() - heard <= ALIVE

    def _observed(self, kind: str, data: Any) -> None:
        """Note what the client sends and receives. An `Observer`."""
        if kind in _HEARD and data.get("direction") != "out":
            self._heard_at = self._clock.monotonic()

    def submit(self, job: Callable[[Client], T]) -> Future[T]:
        """Perform a job with the client as soon as it is attached, and return its future result.

        `Future.cancel` withdraws a job that has not begun. After the end of the stream the future has the failure that
        ended it.
        """
        future: Future[T] = Future()
        with self._lock:
            if not self._ended.is_set():
                self._jobs.append((future, job))
                self._waker.wake()
                return future
        future.set_exception(self._over())
        return future

    # --- in the thread ---

    def _run(self) -> None:
        position = self._hub.log.position
        events = self._client.listen(after=position, from_start=position is None, forever=True, wake=self._wake)
        try:
            try:
                self._follow(events)
            finally:
                self._store()
        except Failure as failure:
            self.failure = failure
        except Exception as error:
            self.failure = bug(error)
        finally:
            with suppress(Exception):
                events.close()
                self._client.close()
            self.state = "ended"
            self._finish()

    def _follow(self, events: EventStream) -> None:
        for event in events:
            if event is not None:
                self._note(event)
                self._arrived.append(event)
            if events.has_ready and 0 < len(self._arrived) < BATCH:
                continue  # one commit for what arrived together
            self._store()
            self._perform()
            if self._stopping:
                break
        for event in events.rest():
            if isinstance(event, Gap):
                break  # the next run continues before it, and finds what is missing or reports it
            self._arrived.append(event)
        self._store()

    def _note(self, event: Event) -> None:
        if isinstance(event, Message):
            self.reply_times.note(event, self._clock.monotonic())
        elif isinstance(event, Connection):
            if event.state == "lost" and self.state == "live":
                self.reconnects += 1
            self.state = event.state
            name = self._hub.session
            if event.state == "lost" and not self._reported_lost:
                self._notice(f'session "{name}": not connected ({event.detail or "no reason given"}); reconnecting')
                self._reported_lost = True
            elif event.state == "live" and self._reported_lost:
                self._notice(f'session "{name}": connected again')
                self._reported_lost = False

    def _store(self) -> None:
        events, self._arrived = self._arrived, []
        if events:
            if self.conversation is None:
                with suppress(SessionOver):  # the stored session was deleted; its connection continues
                    self.conversation = self._client.session().ids.get("conversation")
            self._hub.publish([self._arrival(event) for event in events])

    def _arrival(self, event: Event) -> Arrival:
        record = stream_record(event, self._hub.session, now=lambda: rfc3339(self._clock.now()), masked=self._masked)
        return Arrival(
            record["kind"],
            exact_json(record).encode(),
            event.id or None if isinstance(event, (Message, Presence)) else None,
            position_of(event) if isinstance(event, Message) and event.id else None,
            self.conversation,
        )

    def _perform(self) -> None:
        """Perform the waiting jobs, if the session is attached."""
        while self._jobs and self.state == "live" and not self._stopping:
            future, job = self._jobs.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job(self._client))
            except Exception as error:  # the stream notices by itself that the session has ended
                future.set_exception(error)

    def _wake(self) -> float | None:
        """Return the seconds after which the thread wants control. On a socket, the waker ends the wait."""
        waits_on_socket = self.state == "live" and self._client.dialect.has_socket
        return None if waits_on_socket else TICK

    def _finish(self) -> None:
        with self._lock:
            self._ended.set()
            jobs = list(self._jobs)
            self._jobs.clear()
        for future, _ in jobs:
            if future.set_running_or_notify_cancel():
                future.set_exception(self._over())
        for call in self._on_end:
            call()

    def _over(self) -> Failure:
        return self.failure or NetworkError("the relay stops", written=False)
