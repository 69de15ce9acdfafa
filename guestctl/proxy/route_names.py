"""The names of operations, as faults and traces use them: `create`, `send`, `history`, `refresh`, …

Knows: the addresses and the actions of every API, from the sandbox, which names them for its own faults. Must not know:
how a request passes.
"""

from __future__ import annotations

from collections.abc import Mapping

from guestctl.core.clock import Clock
from guestctl.sandbox.apis import build
from guestctl.sandbox.bot.bots import QuietBot
from guestctl.sandbox.faults import Faults
from guestctl.sandbox.interfaces import Api, ServerRequest, Table
from guestctl.sandbox.service_state import Service
from guestctl.sandbox.settings import SandboxOptions


class RouteNames:
    """Names requests and frames. The service that it builds for this has no guests."""

    def __init__(self, clock: Clock) -> None:
        service = Service(clock=clock, later=lambda seconds, what: None, bot=QuietBot())
        self._table = Table()
        for api in build(service, Faults(clock), SandboxOptions()):
            self._table.add(api)

    def of_request(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> str | None:
        """Return the name of a request, None for one that no API documents."""
        plain = path.partition("?")[0]
        found = self._table.route("GET" if method == "HEAD" else method, plain)
        if found is None:
            return None
        route, _, params = found
        lower = {name.lower(): value for name, value in headers.items()}
        return route.name_of(ServerRequest(method, plain, {}, lower, body, "", "", params))

    def api_of_socket(self, path: str) -> Api | None:
        """Return the API of a socket's address, None for one that no API documents."""
        found = self._table.socket_route(path.partition("?")[0])
        return None if found is None else found[1]
