"""Measure the memory that hostile bytes cost a client, in a separate process that prints the growth of its peak.

Knows: the client's connections, and the kernel's high-water mark. Must not know: what is sent.
`python -m tests.security.memory socket|body URL` connects, hears what there is, and prints MiB.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from guestctl.core.clock import Deadline, SystemClock
from guestctl.core.errors import NetworkError, Unreadable
from guestctl.core.wire import Request
from guestctl.transport.http import Http
from guestctl.transport.network import Network
from guestctl.transport.socket import Socket

PATIENCE = 60.0
AGENT = "guestctl/test"


def peak(pid: int | str = "self") -> float:
    """Return the peak memory of the process in MiB, or 0 if the kernel does not report it.

    Not getrusage's figure: that one begins with its parent's.
    """
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii")) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0


def settled() -> float:
    """Reset the peak and return the present memory."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak()


def over_socket(url: str) -> float:
    """Measure the growth after a first message, until the service or the reader ends the connection."""
    clock = SystemClock()
    network = Network(ca=None, environ={})
    socket = Socket.connect(
        url, headers={}, network=network, clock=clock, deadline=Deadline.after(clock, PATIENCE), user_agent=AGENT
    )
    assert socket.receive(PATIENCE) is not None
    before = settled()
    try:
        while socket.receive(PATIENCE) is not None:
            pass
    except (NetworkError, Unreadable):
        pass
    socket.close()
    return peak() - before


def over_http(url: str) -> float:
    """Measure the growth after a first answer; the second one is hostile."""
    clock = SystemClock()
    http = Http(Network(ca=None, environ={}), clock, user_agent=AGENT)
    deadline = Deadline.after(clock, PATIENCE)
    http.perform(Request("GET", url, "history"), headers={}, deadline=deadline)
    before = settled()
    try:
        http.perform(Request("GET", url, "history"), headers={}, deadline=deadline)
    except Unreadable:
        return peak() - before
    finally:
        http.close()
    raise AssertionError("the answer was taken")


if __name__ == "__main__":
    print({"socket": over_socket, "body": over_http}[sys.argv[1]](sys.argv[2]))
