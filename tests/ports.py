"""Ports that stay free when a test stops what served there.

A process that asks for port 0 gets one from the system's ephemeral range. A test that stops a service and expects the
port to be dead, or starts another service there, takes its port from outside that range, so that no other process
gets it by chance. The processes of one test run use separate slices.
"""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
_SLICES = 16


def _below_ephemeral() -> int:
    """Return the first port of the ephemeral range (IANA's 49152 where the system does not say)."""
    try:
        return int(_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 49_152


def lasting_port() -> int:
    """Return a free loopback port that no other process is given by chance."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    part = int("".join(filter(str.isdigit, worker)) or 0) % _SLICES
    size = (_below_ephemeral() - _LOWEST) // _SLICES
    first = _LOWEST + part * size
    while True:
        port = random.randrange(first, first + size)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
