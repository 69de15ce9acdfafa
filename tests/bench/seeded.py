"""A sandbox whose first conversation can be filled: a number on stdin adds that many messages of the agent.

With `--prepared`, a page of history that was read before is answered with the same bytes, until more messages are
added. Then the client is what is measured, and no token ends in the middle of a run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from guestctl.sandbox.apis import build
from guestctl.sandbox.faults import Faults
from guestctl.sandbox.interfaces import Api, Route, ServerReply, ServerRequest
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.service_state import Service
from guestctl.sandbox.settings import SandboxOptions

#: Messages between two checks of the sockets.
PIECE = 1_000


class PreparedPages:
    """Builds the APIs of a sandbox that remembers its answers to requests for history."""

    def __init__(self) -> None:
        self._replies: dict[tuple[str, tuple[tuple[str, str], ...]], ServerReply] = {}

    def clear(self) -> None:
        self._replies.clear()

    def build(self, service: Service, faults: Faults, options: SandboxOptions) -> Sequence[Api]:
        apis = build(service, faults, options)
        for api in apis:
            routes = [self._prepared(route) if route.name == "history" else route for route in api.routes()]
            vars(api)["routes"] = lambda routes=tuple(routes): routes
        return apis

    def _prepared(self, route: Route) -> Route:
        def answer(request: ServerRequest) -> ServerReply:
            place = request.path, tuple(sorted(request.query.items()))
            reply = self._replies.get(place)
            if reply is None:
                reply = self._replies[place] = route.handle(request)
            return ServerReply(reply.status, reply.body, dict(reply.headers))

        return replace(route, handle=answer)


def main() -> None:
    pages = PreparedPages()
    with Sandbox(fast=True, apis=pages.build if "--prepared" in sys.argv else build) as sandbox:
        found = {"url": sandbox.url, "socket_url": sandbox.socket_url, "deployment_id": sandbox.deployment_id}
        print(json.dumps(found), flush=True)
        for line in sys.stdin:
            wanted = int(line)
            pages.clear()
            for first in range(0, wanted, PIECE):
                sandbox.call(partial(fill, sandbox, min(PIECE, wanted - first)))
            print("filled", flush=True)


def fill(sandbox: Sandbox, count: int) -> None:
    for number in range(count):
        sandbox.admin.push(f"message {number} of the agent")


if __name__ == "__main__":
    main()
