"""A TCP relay on loopback that injects faults into the connections that pass through it.

Knows: bytes, connections, who opened one (by the trace context every guest of the harness sends) and
whether it is a WebSocket. Must not know: frames, dialects, the expected effect of a fault.

One thread runs an event loop; every action happens in it. A `Rule` names a connection by who opened it,
its kind and its number, a direction and a byte position in it. So the same schedule hits the
same byte in every run.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

T = TypeVar("T")

Action: TypeAlias = Literal[
    "cut", "fin", "half-close", "stall", "delay", "throttle", "slice", "hole", "one-way hole", "late"
]
Direction: TypeAlias = Literal["up", "down"]
Kind: TypeAlias = Literal["socket", "request"]

ACTIONS: tuple[Action, ...] = (
    "cut", "fin", "half-close", "stall", "delay", "throttle", "slice", "hole", "one-way hole", "late",
)  # fmt: skip
_HEAD = 16 * 1024
_TRACE = re.compile(rb"\r\ntraceparent: *00-([0-9a-f]{32})", re.IGNORECASE)
#: Seconds after which the service notices that a guest in a hole has gone.
_ZOMBIE = 0.1


@dataclass(frozen=True)
class Rule:
    """A fault for one connection, injected after `at` bytes in `direction` ("up": guest to service).

    `number` counts, from 1, the connections of `kind` that `who` opened since the rules were armed.
    `seconds` is the length of a stall, or the delay of `late` and of each piece under `delay`. `size` is the
    number of bytes of a slice, or per second under `throttle`.
    """

    action: Action
    who: str
    kind: Kind
    number: int
    direction: Direction
    at: int
    seconds: float = 0.0
    size: int = 0


class Proxy:
    """Relays to the port given to `start`. `fault_counts` counts the injected faults."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listening.setblocking(False)
        self.port: int = self._listening.getsockname()[1]
        self.fault_counts: Counter[str] = Counter()
        #: Connections accepted, by who opened them.
        self.accepted: Counter[str] = Counter()
        self._target = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._connections: set[_Connection] = set()
        self._rules: tuple[Rule, ...] = ()
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._down_until = 0.0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def start(self, target: int) -> Proxy:
        """Start to relay to this port on loopback."""
        self._target = target
        self._thread.start()
        serving = self._loop.create_server(lambda: _Near(_Connection(self)), sock=self._listening)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)
        return self

    def stop(self) -> None:
        """Close all connections and end the thread before returning."""

        def end() -> None:
            self._server.close()
            for connection in tuple(self._connections):
                connection.cut()
            self._loop.call_later(0.01, self._loop.stop)

        self._loop.call_soon_threadsafe(end)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def arm(self, rules: Iterable[Rule]) -> None:
        """Replace the rules and count connections from 1 again."""
        self._call(lambda: self._arm(tuple(rules)))

    def heal(self) -> None:
        """Remove all faults. Delayed bytes pass; dropped bytes stay lost."""
        self._call(lambda: self._arm(()))

    def down(self, seconds: float) -> None:
        """Reset all connections and refuse new ones for some seconds."""

        def go() -> None:
            self._down_until = self._loop.time() + seconds
            self.fault_counts["down"] += 1
            for connection in tuple(self._connections):
                connection.cut()

        self._call(go)

    def inject(self, action: Action, who: str, kind: Kind, seconds: float = 0.0) -> None:
        """Inject a fault now into every such connection. Return at once; any thread may call this."""

        def go() -> None:
            for connection in tuple(self._connections):
                if connection.who == who and connection.kind == kind:
                    connection.up.apply(Rule(action, who, kind, 0, "up", 0, seconds, 1))

        self._loop.call_soon_threadsafe(go)

    def _arm(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self._numbers.clear()
        self._down_until = 0.0
        if not rules:
            for connection in tuple(self._connections):
                connection.heal()

    def _call(self, what: Callable[[], T]) -> T:
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(what())
            except BaseException as problem:
                done.set_exception(problem)

        self._loop.call_soon_threadsafe(run)
        return done.result(10)

    # --- for connections ---

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def is_down(self) -> bool:
        return self._loop.time() < self._down_until

    def joined(self, connection: _Connection) -> None:
        self._connections.add(connection)

    def gone(self, connection: _Connection) -> None:
        self._connections.discard(connection)

    def rules_for(self, who: str, kind: Kind) -> list[Rule]:
        """Return the rules for a newly identified connection, in the order of their positions."""
        self.accepted[who] += 1
        self._numbers[who, kind] += 1
        number = self._numbers[who, kind]
        mine = [rule for rule in self._rules if (rule.who, rule.kind, rule.number) == (who, kind, number)]
        return sorted(mine, key=lambda rule: rule.at)

    async def reach(self, connection: _Connection) -> None:
        """Open the connection to the service."""
        try:
            await self._loop.create_connection(lambda: _Far(connection), "127.0.0.1", self._target)
        except OSError:
            connection.cut()


class _Connection:
    """One relayed connection: a transport to the guest (near), one to the service (far), and a lane per direction."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.who = ""
        self.kind: Kind = "request"
        self.near: asyncio.Transport | None = None
        self.far: asyncio.Transport | None = None
        self.up = _Lane(self, "up")
        self.down = _Lane(self, "down")
        self._head = bytearray()
        self._delivering_late = False

    def opened(self, transport: asyncio.Transport) -> None:
        self.near = transport
        self.proxy.joined(self)
        if self.proxy.is_down:
            self.proxy.fault_counts["refused"] += 1
            self.cut()

    def received(self, data: bytes) -> None:
        """Process bytes from the guest. The HTTP head identifies it."""
        if self.who:
            self.up.feed(data)
            return
        self._head += data
        if b"\r\n\r\n" not in self._head and len(self._head) < _HEAD:
            return
        found = _TRACE.search(self._head)
        self.who = found[1].decode() if found else "?"
        self.kind = "socket" if b"upgrade: websocket" in self._head.lower() else "request"
        for rule in self.proxy.rules_for(self.who, self.kind):
            (self.up if rule.direction == "up" else self.down).rules.append(rule)
        task = self.proxy.loop.create_task(self.proxy.reach(self))
        task.add_done_callback(lambda done: done.exception())
        self.up.feed(bytes(self._head))

    def reached(self, transport: asyncio.Transport) -> None:
        self.far = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.near is None and not self._delivering_late:
            self.cut()
            return
        self.up.go()

    def near_lost(self) -> None:
        """The guest closed its side. The service notices, after a hole a little later."""
        self.near = None
        self.down.swallow = True
        self._forget_if_closed()
        if self._delivering_late:
            return
        if self.up.swallow:
            self.proxy.loop.call_later(_ZOMBIE, self.cut)
        elif self.far is None:
            self.cut()
        else:
            self.up.end()

    def far_lost(self) -> None:
        self.far = None
        self._forget_if_closed()
        if self.down.swallow:
            return  # the guest must not notice
        self.down.end()

    def _forget_if_closed(self) -> None:
        if self.near is None and self.far is None:
            self.proxy.gone(self)

    def cut(self) -> None:
        """Reset both sides."""
        for transport in (self.near, self.far):
            _reset(transport)

    def fin(self) -> None:
        for transport in (self.near, self.far):
            if transport is not None:
                transport.close()

    def deliver_late(self, seconds: float) -> None:
        """Reset the guest's side now. Deliver to the service what the guest had sent, some seconds later."""
        self._delivering_late = True
        self.down.swallow = True
        _reset(self.near)

        def arrive() -> None:
            self.up.heal()
            self.up.end()
            self.proxy.loop.call_later(_ZOMBIE, self.cut)

        self.up.blocked = True
        self.proxy.loop.call_later(seconds, arrive)

    def heal(self) -> None:
        """Remove all faults. Reset a request in a hole; the client must detect a dead socket itself."""
        if self.kind == "request" and (self.up.swallow or self.down.swallow):
            self.cut()
        for lane in (self.up, self.down):
            lane.heal()


class _Lane:
    """The bytes of one connection in one direction."""

    def __init__(self, connection: _Connection, direction: Direction) -> None:
        self.connection = connection
        self.direction = direction
        self.rules: list[Rule] = []
        self.blocked = False
        self.swallow = False
        self._waiting = bytearray()
        self._passed = 0
        self._ended = False
        self._piece = 0
        self._pause: Callable[[int], float] | None = None

    @property
    def to(self) -> asyncio.Transport | None:
        return self.connection.far if self.direction == "up" else self.connection.near

    def feed(self, data: bytes) -> None:
        self._waiting += data
        self.go()

    def end(self) -> None:
        """Close the other side once all bytes have passed."""
        self._ended = True
        self.go()

    def heal(self) -> None:
        self.rules.clear()
        self._piece, self._pause = 0, None
        self._unblock()

    def go(self) -> None:
        while not self.blocked:
            if self.rules and self._passed >= self.rules[0].at:
                self.apply(self.rules.pop(0))
                continue
            if self.to is None or not self._waiting:
                break
            room = self.rules[0].at - self._passed if self.rules else len(self._waiting)
            size = min(len(self._waiting), room, self._piece or len(self._waiting))
            piece = bytes(self._waiting[:size])
            del self._waiting[:size]
            self._passed += size
            if not self.swallow and not self.to.is_closing():
                self.to.write(piece)
            if self._pause is not None:
                self._block(self._pause(size))
        if self._ended and not self._waiting and self.to is not None and not self.blocked and not self.swallow:
            self.to.close()

    def apply(self, rule: Rule) -> None:
        connection, action = self.connection, rule.action
        connection.proxy.fault_counts[action] += 1
        if action == "cut":
            self.swallow = True
            connection.cut()
        elif action == "fin":
            self.swallow = True
            connection.fin()
        elif action == "half-close":
            if self.to is not None and self.to.can_write_eof() and not self.to.is_closing():
                self.to.write_eof()
            self.swallow = True
        elif action == "stall":
            self._block(rule.seconds)
        elif action == "delay":
            self._pause = lambda size: rule.seconds
            self._block(rule.seconds)
        elif action == "throttle":
            self._piece, self._pause = max(1, rule.size // 50), lambda size: size / rule.size
        elif action == "slice":
            self._piece, self._pause = max(1, rule.size), lambda size: 0.0
        elif action == "hole":
            connection.up.swallow = connection.down.swallow = True
        elif action == "one-way hole":
            self.swallow = True
        else:
            connection.deliver_late(rule.seconds)

    def _block(self, seconds: float) -> None:
        self.blocked = True
        self.connection.proxy.loop.call_later(seconds, self._unblock)

    def _unblock(self) -> None:
        self.blocked = False
        self.go()


class _Near(asyncio.Protocol):
    """The protocol of the guest's side."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.opened(transport)

    def data_received(self, data: bytes) -> None:
        self._connection.received(data)

    def connection_lost(self, problem: Exception | None) -> None:
        self._connection.near_lost()


class _Far(asyncio.Protocol):
    """The protocol of the service's side."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._connection.reached(transport)

    def data_received(self, data: bytes) -> None:
        self._connection.down.feed(data)

    def connection_lost(self, problem: Exception | None) -> None:
        self._connection.far_lost()


def _reset(transport: asyncio.Transport | None) -> None:
    """Close with RST, so that data in transit is lost."""
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # the socket is closed already
    transport.abort()
