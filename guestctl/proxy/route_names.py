"""The names of operations, as faults and traces use them: `create`, `send`, `history`, `refresh`, …

Knows: the addresses, actions and refusals of every API, from the sandbox, which has them for its own faults. Must not
know: how a request passes.
"""

from __future__ import annotations

from collections.abc import Mapping

from guestctl.core.clock import Clock
from guestctl.sandbox.apis import build
from guestctl.sandbox.bot.bots import QuietBot
from guestctl.sandbox.faults import Fault, Faults
from guestctl.sandbox.interfaces import Api, Peer, ServerRequest, Table
from guestctl.sandbox.service_state import Service
from guestctl.sandbox.settings import SandboxOptions


class _ChosenFault(Faults):
    """Faults of which one has been chosen already."""

    chosen: Fault | None = None

    def action(self, route: str | None) -> Fault | None:
        return self.chosen


class RouteNames:
    """Names requests and frames, and refuses frames. The service that it builds for this has no guests."""

    def __init__(self, clock: Clock) -> None:
        service = Service(clock=clock, later=lambda seconds, what: None, bot=QuietBot())
        self._faults = _ChosenFault(clock)
        self._table = Table()
        for api in build(service, self._faults, SandboxOptions()):
            self._table.add(api)

    def of_request(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[str | None, bool]:
        """Return the name of a request, None for one that no API documents, and whether faults concern it."""
        plain = path.partition("?")[0]
        found = self._table.route("GET" if method == "HEAD" else method, plain)
        if found is None:
            return None, True
        route, _, params = found
        lower = {name.lower(): value for name, value in headers.items()}
        return route.name_of(ServerRequest(method, plain, {}, lower, body, "", "", params)), route.counted

    def api_of_socket(self, path: str) -> Api | None:
        """Return the API of a socket's address, None for one that no API documents."""
        found = self._table.socket_route(path.partition("?")[0])
        return None if found is None else found[1]

    def refuse(self, api: Api, peer: Peer, text: str, fault: Fault) -> None:
        """Answer a frame of a guest as the service does when it refuses the action: with a frame, or a close."""
        self._faults.chosen = fault
        try:
            if peer.state is None:
                api.opened(peer)
            api.received(peer, text)
        finally:
            self._faults.chosen = None
