"""Many clients at once in this process: each opens, asks and closes. argv: the number of clients. Prints JSON.

All are open at the same time, worked by a few threads. Raises when anything of them is left over.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from guestctl import Client
from guestctl.core.clock import SystemClock
from guestctl.storage.state import State

THREADS = 20


def main() -> None:
    count = int(sys.argv[1])
    clock = SystemClock()
    before = left()
    with ThreadPoolExecutor(THREADS) as pool:
        begun = time.perf_counter()
        guests = [Client("sandbox", state=State.open(None, clock)) for _ in range(count)]
        list(pool.map(Client.create, guests))
        replies = list(pool.map(lambda one: one[1].ask(f"question {one[0]}").text, enumerate(guests)))
        open_at_once = left()[0] - before[0]
        for guest in guests:
            guest.close()
            guest.state.close()
        took = time.perf_counter() - begun
        assert replies == [f"echo: question {number}" for number in range(count)]
        assert open_at_once >= count, open_at_once
    assert left() == before, (before, left())
    print(json.dumps({"seconds": took, "open": open_at_once}))


def left() -> tuple[int, int]:
    """Return the numbers of descriptors and threads of this process."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


if __name__ == "__main__":
    main()
