"""A sandbox whose first conversation can be filled: a number on stdin adds that many messages of the agent."""

from __future__ import annotations

import json
import sys
from functools import partial

from guestctl.sandbox.server import Sandbox

#: Messages between two checks of the sockets.
PIECE = 1_000


def main() -> None:
    with Sandbox(fast=True) as sandbox:
        found = {"url": sandbox.url, "socket_url": sandbox.socket_url, "deployment_id": sandbox.deployment_id}
        print(json.dumps(found), flush=True)
        for line in sys.stdin:
            wanted = int(line)
            for first in range(0, wanted, PIECE):
                sandbox.call(partial(fill, sandbox, min(PIECE, wanted - first)))
            print("filled", flush=True)


def fill(sandbox: Sandbox, count: int) -> None:
    for number in range(count):
        sandbox.admin.push(f"message {number} of the agent")


if __name__ == "__main__":
    main()
