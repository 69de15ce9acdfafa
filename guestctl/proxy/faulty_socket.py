"""Faults on the frames of one socket of the proxy.

Knows: how the sandbox delays, drops, repeats and damages frames (`SocketPeer`), and which action of the guest a frame
answers. Must not know: sockets, the wire of any API.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from guestctl.core.clock import Clock
from guestctl.proxy.route_names import RouteNames
from guestctl.sandbox.events import SocketEvents
from guestctl.sandbox.faults import Faults
from guestctl.sandbox.interfaces import ServerRequest
from guestctl.sandbox.peer import RawConnection, SocketPeer, WriteBatch

if TYPE_CHECKING:
    from guestctl.sandbox.faults import Fault

#: Frames that wait for their time before the service has to wait, too.
_MOST_DELAYED = 1000
#: Actions of the guest whose answers are recognised: the latest.
_MOST_ACTIONS = 64
#: Shortest text that is regarded as an id.
_SHORTEST_ID = 8


class GuestPeer(SocketPeer):
    """The guest's side of a socket. `deliver` writes one text to the guest; the sandbox's faults decide when."""

    def __init__(self, deliver: Callable[[str], None], *socket: Any) -> None:
        super().__init__(*socket)
        self._deliver = deliver

    def _write(self, text: str) -> None:
        self._deliver(text)

    def pass_on(self, perform: Callable[[], object]) -> None:
        """Perform something after the frames that wait, and after a silence."""
        if not self._closing:
            self._delay(perform, 0.0)

    async def has_room(self, most: int = _MOST_DELAYED) -> None:
        """Wait until at most so many frames wait for their time."""
        while len(self._delayed) > most and not self._connection.is_closing():
            await asyncio.sleep(0.02)


class SocketFaults:
    """The faults on one socket.

    `deliver` writes a text to the guest, `forward` bytes to the service.
    """

    def __init__(
        self,
        faults: Faults,
        names: RouteNames,
        clock: Clock,
        path: str,
        headers: Mapping[str, str],
        events: SocketEvents,
    ) -> None:
        self._faults = faults
        self._names = names
        self._clock = clock
        self._events = events
        plain, _, query = path.partition("?")
        lower = {name.lower(): value for name, value in headers.items()}
        self._request = ServerRequest("GET", plain, dict(parse_qsl(query)), lower, b"", "http://proxy", "ws://proxy")
        self._api = names.api_of_socket(path)
        self._actions: deque[tuple[str, frozenset[str]]] = deque(maxlen=_MOST_ACTIONS)
        self._late = 0
        self.peer: GuestPeer | None = None

    @property
    def active(self) -> bool:
        """Whether frames have to pass through here: faults are armed, or were since the socket was opened."""
        return self.peer is not None or bool(self._faults.list())

    def attach(self, deliver: Callable[[str], None], connection: RawConnection) -> GuestPeer:
        """Return the guest's side, which is made when it is first needed."""
        if self.peer is None:
            self.peer = GuestPeer(
                deliver,
                connection,
                self._request,
                self._faults,
                self._clock,
                _later,
                WriteBatch(),
                self._events,
            )
        return self.peer

    def from_guest(self, peer: GuestPeer, text: str, forward: Callable[[], object]) -> None:
        """Handle a text of the guest: forward it, now or later, or refuse what it asks for."""
        route = None if self._api is None else self._api.route_of(text)
        if route is not None:
            self._actions.append((route, _ids(text)))
        late = self._faults.late(route)
        if late > 0:
            self._late += 1
            _later(late, partial(self._late_one, peer, route, text, forward))
        else:
            self._perform(peer, route, text, forward)

    def _late_one(self, peer: GuestPeer, route: str | None, text: str, forward: Callable[[], object]) -> None:
        self._late -= 1
        self._perform(peer, route, text, forward)

    def _perform(self, peer: GuestPeer, route: str | None, text: str, forward: Callable[[], object]) -> None:
        fault: Fault | None = self._faults.action(route) if route is not None else None
        if fault is not None and self._api is not None:
            self._names.refuse(self._api, peer, text, fault)
        else:
            forward()

    async def none_is_late(self) -> None:
        """Wait until every frame that a fault holds back has been forwarded."""
        while self._late:
            await asyncio.sleep(0.02)

    def route_of_answer(self, text: str) -> str | None:
        """Return the action that a text of the service answers, None for a push: the latest whose id it contains."""
        for number in range(len(self._actions) - 1, -1, -1):
            route, ids = self._actions[number]
            if any(one in text for one in ids):
                return route
        return None


def _later(seconds: float, what: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(seconds, what)


def _ids(text: str) -> frozenset[str]:
    """Return the ids that a guest gave its action, which the answer repeats."""
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        return frozenset()
    found: set[str] = set()

    def look(value: Any, depth: int) -> None:
        for name, member in value.items() if isinstance(value, dict) else ():
            if isinstance(member, dict) and depth < 4:
                look(member, depth + 1)
            elif isinstance(member, str) and len(member) >= _SHORTEST_ID and _is_id(name):
                found.add(member)

    look(frame, 0)
    return frozenset(found)


def _is_id(name: str) -> bool:
    """Return whether a member identifies one action: `tracingId`, `messageId`, `correlationId` and the like."""
    lower = name.lower()
    return lower in ("id", "tracingid", "messageid", "correlationid", "requestid", "attachmentid", "custommessageid")
