"""Readers on the connections of the web server, for each protocol that it serves.

Knows: when a page of events is written, and that a busy connection gets no more. Must not know: how an entry is
encoded, paths, tornado.

All functions but `Pump.wake` run in the thread of the web server.
"""

from __future__ import annotations

from collections.abc import Callable

from guestctl.relay.hub import Subscription
from guestctl.relay.log import LogEntry
from guestctl.transport.web_routes import WebStream
from guestctl.transport.web_server import WebServer


class Pump:
    """Passes new events to `readers`. `wake` may be called from any thread."""

    def __init__(self, server: WebServer) -> None:
        self.readers: set[WebReader] = set()
        self._server = server
        self._awake = False

    def wake(self) -> None:
        """Serve all readers soon. Many calls until then count as one."""
        if not self._awake:
            self._awake = True
            self._server.call_soon(self._run)

    def add(self, reader: WebReader) -> None:
        """Serve a reader until its connection is gone."""
        self.readers.add(reader)

        def gone() -> None:
            reader.subscription.close()
            self.readers.discard(reader)

        reader.stream.on_close(gone)
        if reader.stream.closed:
            gone()
        reader.push()

    def _run(self) -> None:
        self._awake = False
        for reader in tuple(self.readers):
            reader.push()


class WebReader:
    """One reader. `encode` returns the bytes of an entry.

    `end` ends the stream with its last bytes, after an entry of the kind that it is given: `slow` or `end`.
    """

    def __init__(
        self,
        server: WebServer,
        stream: WebStream,
        subscription: Subscription,
        encode: Callable[[LogEntry], bytes],
        end: Callable[[bytes, str], None],
    ) -> None:
        self.subscription = subscription
        self.stream = stream
        self._server = server
        self._encode = encode
        self._end = end

    def push(self) -> None:
        """Send what is new, one page of it, unless the last page is still on its way."""
        reader = self.subscription
        if self.stream.closed or (reader.busy and not reader.is_slow):
            return
        entries = reader.take()
        if not entries:
            return
        data = b"".join([self._encode(entry) for entry in entries])
        if reader.ended is not None:
            reader.close()
            self._end(data, reader.ended)
        elif self.stream.write(data, self._drained):
            self._drained(soon=False)

    def _drained(self, *, soon: bool = True) -> None:
        self.subscription.ready()
        if self.subscription.has_more:
            self._server.call_soon(self.push)  # other readers have their turn in between
