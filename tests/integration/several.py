"""Run several listeners of one session at once, each in its own thread and with its own connection to the state."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.cli.conftest import Result
from tests.integration.front import Guest, OnRecord, Record

#: Seconds after which something that has not happened never will.
STUCK = 60.0
KINDS = "message,presence,session,gap,unknown,connection"


@dataclass
class Listener:
    """One listener. `happened` has the text, the state or the kind of each record that it has printed."""

    happened: list[str] = field(default_factory=list)
    future: Future[Result] | None = None

    @property
    def result(self) -> Result:
        """What it has printed until its end."""
        assert self.future is not None
        return self.future.result(STUCK)


class Listeners:
    """The listeners, in the order in which they were started."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._pool = ThreadPoolExecutor(8)
        self._changed = threading.Condition()
        self.all: list[Listener] = []

    def start(self, *argv: str, on: OnRecord | None = None) -> Listener:
        """Start a listener. `on` is called with each of its records, in its thread."""
        listener = Listener()

        def happened(record: Record) -> None:
            with self._changed:
                listener.happened.append(record.get("text") or record.get("state") or record["kind"])
                self._changed.notify_all()
            if on is not None:
                on(record)

        argv = ("listen", "--only", KINDS, "-o", "jsonl", *argv)
        self.all.append(listener)
        listener.future = self._pool.submit(self._guest, *argv, on=happened)
        return listener

    def live(self, *argv: str, on: OnRecord | None = None) -> Listener:
        """Start a listener and wait until it is live."""
        listener = self.start(*argv, on=on)
        self.wait_for("live", of=listener)
        return listener

    def wait_for(self, what: str, times: int = 1, *, of: Listener | None = None) -> None:
        """Wait until each listener, or one, has printed a record with this text, state or kind so often."""
        awaited = self.all if of is None else [of]

        def reached() -> bool:
            return all(listener.happened.count(what) >= times for listener in awaited)

        with self._changed:
            assert self._changed.wait_for(reached, STUCK), [listener.happened for listener in awaited]
