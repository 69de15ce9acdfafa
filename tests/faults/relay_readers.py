"""Readers of a relay on counted time: they die, return where they were, and are slow.

Knows: the relay's HTTP routes and its hub, SSE, JSON Lines, WebSocket frames. Must not know: the log, the upstream,
what is right or wrong.

The relay's own handlers run, on a server and streams without sockets. Bytes reach a reader after a delay, and what
is on its way when the reader dies is lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from guestctl.output.records import EVENT_KINDS
from guestctl.relay.http_api import HttpApi
from guestctl.relay.hub import Subscription
from guestctl.relay.relay import RelaySession
from guestctl.transport.web_routes import WebRefusal, WebReply, WebRoute, WebSocketRoute
from tests.faults.model import Record
from tests.faults.relay_plans import ReaderPlan, Visit
from tests.faults.simulation import LATENCY, ZOMBIE, Time

#: Seconds between two attempts to connect while the relay is down.
RETRY = 0.5


class Serving(Protocol):
    """One process of the relay, as a reader sees it."""

    session: RelaySession
    api: HttpApi
    key: str
    #: Whether the process is gone.
    dead: bool
    readers: set[Reader]


class PlainServer:
    """Stands for the web server of one process: what it calls soon is called at the next wait."""

    def __init__(self, time: Time, dead: Callable[[], bool]) -> None:
        self._time, self._dead = time, dead

    def call_soon(self, call: Callable[[], object]) -> None:
        self.call_later(0.0, call)

    def call_later(self, seconds: float, call: Callable[[], object]) -> None:
        self._time.later(seconds, lambda: None if self._dead() else call())


class PlainRequest:
    """Stands for a request to the relay. Its stream is the reader's."""

    method, body, origin = "GET", b"", None

    def __init__(self, reader: Reader, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> None:
        self.path, self.query, self.headers = path, query, headers
        self._reader = reader

    def stream(self, content_type: str) -> PlainStream:
        return self._reader.open_stream()


class PlainStream:
    """One connection between the relay and a reader. Each piece takes `slow` seconds to arrive."""

    def __init__(self, reader: Reader, slow: float) -> None:
        self.closed = False
        self._reader, self._slow, self._time = reader, slow, reader.time
        self._call: Callable[[], None] = lambda: None
        self._free_at = 0.0
        self._ending = False
        #: What has not arrived yet.
        self.on_way: list[bytes] = []

    def on_close(self, call: Callable[[], None]) -> None:
        self._call = call

    def write(self, data: bytes, then: Callable[[], None]) -> bool:
        return not self._ending and self._write(data, then)

    def end(self, data: bytes, code: int = 1000) -> None:
        self._ending = True
        self._write(data, lambda: None)
        self._time.later(self._free_at - self._time.monotonic() + LATENCY, self._end)

    def abort(self) -> None:
        self._end()

    def gone(self) -> None:
        """The relay notices that the connection has ended."""
        if not self.closed:
            self.closed = True
            self._call()

    def _write(self, data: bytes, then: Callable[[], None]) -> bool:
        if self.closed:
            return False
        self._free_at = max(self._free_at, self._time.monotonic()) + self._slow
        delay = self._free_at - self._time.monotonic() + LATENCY

        def arrive() -> None:
            self._reader.arrive(self, data)
            if self._slow and not self.closed and not self._reader.relay_is_dead:
                then()

        self._time.later(delay, arrive)
        self.on_way.append(data)
        return not self._slow

    def _end(self) -> None:
        self.gone()
        self._reader.lost(self)


@dataclass
class Received:
    """One record as a reader got it, with its relay id, None without one."""

    id: str | None
    record: Record


class Reader:
    """One reader, over all its connections. `received` is everything it got, in order."""

    def __init__(self, plan: ReaderPlan, time: Time, relay: Callable[[], Serving | None]) -> None:
        self.plan, self.time = plan, time
        self.kinds = frozenset(EVENT_KINDS) if plan.everything else frozenset(EVENT_KINDS) - {"typing", "connection"}
        self.received: list[Received] = []
        #: The id with which the reader returns.
        self.last: str | None = None
        #: Answers other than a stream: a status and its body.
        self.refusals: list[tuple[int, bytes]] = []
        self._relay = relay
        self._visits: Iterator[Visit] = iter(plan.visits)
        self._visit: Visit | None = None
        self._stream: PlainStream | None = None
        self._hub: _HubReader | None = None
        self._serving: Serving | None = None
        self._buffer = b""
        time.later(plan.at, self._come)

    @property
    def connected(self) -> bool:
        return self._stream is not None or self._hub is not None

    @property
    def relay_is_dead(self) -> bool:
        return self._serving is None or self._serving.dead

    # --- coming and going ---

    def _come(self) -> None:
        self._visit = next(self._visits, None)
        self._connect()
        if self._visit is not None:
            visit = self._visit
            self.time.later(visit.seconds, lambda: self._die(visit))

    def _connect(self) -> None:
        if self.connected:
            return
        relay = self._relay()
        if relay is None or relay.dead or relay.session.hub.end_entry is not None:
            self.time.later(RETRY, self._again)
            return
        self._serving, self._buffer = relay, b""
        relay.readers.add(self)
        if self.plan.protocol == "hub":
            self._hub = _HubReader(self, relay.session)
            self._hub.begin(self.last or self.plan.after)
        elif not self._request(relay):
            self.time.later(RETRY, self._again)

    def _again(self) -> None:
        """Try to connect again, unless the reader stays away."""
        if self._visit is not None or not self._is_away:
            self._connect()

    _is_away = False

    def _request(self, relay: Serving) -> bool:
        routes = {route.path: route for route in relay.api.routes()}
        headers = {"Authorization": f"Bearer {relay.key}"}
        query = {"kinds": [",".join(EVENT_KINDS)]} if self.plan.everything else {}
        if self.plan.protocol == "websocket":
            query["after"] = [self.last or self.plan.after]
            asked: Any = PlainRequest(self, "/v1/ws", query, headers)
            web_socket = routes["/v1/ws"]
            assert isinstance(web_socket, WebSocketRoute)
            try:
                web_socket.admit(asked)
            except WebRefusal as refused:
                self.refusals.append((refused.reply.status, refused.reply.body))
                return False
            web_socket.opened(asked, self.open_stream())  # type: ignore[arg-type]
            return self._stream is not None
        if self.last is None:
            query["after"] = [self.plan.after]
        elif self.plan.protocol == "sse":
            headers["Last-Event-ID"] = self.last
        else:
            query["after"] = [self.last]
        if self.plan.protocol == "json lines":
            headers["Accept"] = "application/x-ndjson"
        asked = PlainRequest(self, "/v1/events", query, headers)
        events = routes["/v1/events"]
        assert isinstance(events, WebRoute)
        try:
            handling: Any = events.handle(asked)
            handling.send(None)
        except StopIteration as stop:
            reply: WebReply | None = stop.value
            assert reply is None
            return True
        except WebRefusal as refused:
            self.refusals.append((refused.reply.status, refused.reply.body))
            return False
        raise AssertionError("the handler waits")

    def open_stream(self) -> PlainStream:
        self._stream = PlainStream(self, 0.0 if self._visit is None else self._visit.slow)
        return self._stream

    def _die(self, visit: Visit) -> None:
        """Break the connection, and come back later."""
        stream, hub = self._stream, self._hub
        if stream is not None:
            if visit.torn and stream.on_way:
                data = stream.on_way[0]
                self._parse(data[: len(data) * 2 // 3])
            self._stream = None
            serving = self._serving
            self.time.later(ZOMBIE, lambda: None if serving is None or serving.dead else stream.gone())
        if hub is not None:
            self._hub = None
            hub.close()
        self._is_away, self._visit = True, None
        self.time.later(visit.away, self._return)

    def _return(self) -> None:
        self._is_away = False
        self._come()

    def lost(self, stream: PlainStream | None) -> None:
        """The relay has ended the connection. Connect again soon, unless it was an old one."""
        if stream is not self._stream or (stream is None and self._hub is None):
            return
        self._stream = self._hub = None
        if not self._is_away:
            self.time.later(LATENCY, self._again)

    def killed(self) -> None:
        """The relay was killed: what was on its way is lost."""
        if self._hub is not None:
            self._hub.closed = True
        self.lost(self._stream)

    # --- receiving ---

    def arrive(self, stream: PlainStream, data: bytes) -> None:
        if self._stream is stream:
            stream.on_way.pop(0)
            self._parse(data)

    def got(self, id_: str | None, record: Record) -> None:
        """Note a record, and the position with which the reader returns."""
        self.received.append(Received(id_, record))
        if id_ is not None:
            self.last = id_

    def _parse(self, data: bytes) -> None:
        self._buffer += data
        take = {"sse": self._take_event, "json lines": self._take_line, "websocket": self._take_frame}
        while take[self.plan.protocol]():
            pass

    def _take_event(self) -> bool:
        event, end, rest = self._buffer.partition(b"\n\n")
        if not end:
            return False
        self._buffer = rest
        fields: dict[str, str] = {}
        for line in event.decode().splitlines():
            name, _, value = line.partition(": ")
            fields[name] = value
        if "data" in fields:
            record = json.loads(fields["data"])
            assert record["kind"] == fields["event"]
            self.got(fields.get("id"), record)
        return True

    def _take_line(self) -> bool:
        line, end, rest = self._buffer.partition(b"\n")
        if end:
            self._buffer = rest
            self._got_json(line)
        return bool(end)

    def _take_frame(self) -> bool:
        data = self._buffer
        if len(data) < 2:
            return False
        assert data[0] == 0x81
        size, at = data[1], 2
        if size == 126:
            size, at = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, at = int.from_bytes(data[2:10], "big"), 10
        if len(data) < at + size:
            return False
        self._buffer = data[at + size :]
        self._got_json(data[at : at + size])
        return True

    def _got_json(self, data: bytes) -> None:
        record = json.loads(data)
        self.got(record.pop("relay_id"), record)


@dataclass
class _HubReader:
    """A reader that takes events from the hub, one page after the other."""

    reader: Reader
    session: RelaySession
    subscription: Subscription | None = None
    taking: bool = False
    closed: bool = False
    serving: Serving | None = field(default=None)

    def begin(self, after: str) -> None:
        self.serving = self.reader._serving
        self.subscription = self.session.hub.subscribe(after, self.reader.kinds, wake=self._wake)
        self._wake()

    def close(self) -> None:
        self.closed = True
        if self.subscription is not None and not self.gone:
            self.subscription.close()

    @property
    def gone(self) -> bool:
        return self.serving is None or self.serving.dead

    def _wake(self) -> None:
        if not self.taking:
            self.taking = True
            self.reader.time.later(0.0, self._take)

    def _take(self) -> None:
        self.taking = False
        if self.closed or self.gone:
            return
        assert self.subscription is not None
        entries = self.subscription.take()
        if not entries:
            return
        self.taking = True
        slow = 0.0 if self.reader._visit is None else self.reader._visit.slow
        self.reader.time.later(slow + LATENCY, lambda: self._arrive(entries))

    def _arrive(self, entries: Any) -> None:
        if self.closed:
            return
        for entry in entries:
            self.reader.got(None if entry.id is None else str(entry.id), json.loads(entry.body))
        if self.gone:
            return
        assert self.subscription is not None
        if self.subscription.ended is not None:
            self.close()
            if self.reader._hub is self:
                self.reader.lost(None)
        else:
            self._take()
