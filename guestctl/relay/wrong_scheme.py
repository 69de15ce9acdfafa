"""Finds out whether the address of a relay has the wrong scheme: https for a port without TLS, or http for one with it.

Knows: what each of both ports does when it is addressed as the other. Must not know: keys, records, reconnects.

A port without TLS does not answer a TLS handshake, and a port with TLS closes a connection that begins with plain
HTTP. Neither proves anything, because a relay that is starting looks the same. So the port is asked once in the other
way, without the key.
"""

from __future__ import annotations

import ssl
from contextlib import closing

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import Failure, NetworkError, UsageError
from guestctl.transport.hosts import authority, is_loopback, target
from guestctl.transport.network import Network, dial
from guestctl.transport.stream import Limit

#: Seconds for the question. A port that needs longer proves nothing.
PATIENCE = 3.0
#: The failures that a wrong scheme causes: by the secure scheme, and by the other one.
_SECURE_CODES = frozenset({"network.tls", "network.connect", "network.lost"})
_PLAIN_CODES = frozenset({"network.lost", "answer.unreadable", "answer.frame"})


def wrong_scheme(address: str, failure: Failure, network: Network, clock: Clock) -> UsageError | None:
    """Return the error for an address (ws or wss) that failed because of its scheme, None if that is not proved."""
    secure, host, port = target(address)
    place = authority(host, port)
    try:
        limit = Limit(Deadline.after(clock, PATIENCE))
        if secure and failure.code in _SECURE_CODES and network.proxy_for(address) is None:
            if not isinstance(failure.__cause__, ssl.SSLCertVerificationError) and _speaks_http(host, port, limit):
                return UsageError(
                    f"--relay: the TLS handshake fails because {place} speaks plain HTTP",
                    hint=f"use http://{place}"
                    if is_loopback(host)
                    else "start the relay with --tls-cert and --tls-key: only loopback addresses may be without TLS",
                )
        elif not secure and failure.code in _PLAIN_CODES and _speaks_tls(place, network, limit):
            return UsageError(f"--relay: {place} speaks TLS, and http:// has none", hint=f"use https://{place}")
    except OSError:
        pass  # the port gives no answer
    return None


def _speaks_http(host: str, port: int, limit: Limit) -> bool:
    try:
        stream = dial(host, port, limit)
    except NetworkError:
        return False
    with closing(stream):
        stream.sendall(f"GET /healthz HTTP/1.1\r\nHost: {authority(host, port)}\r\nConnection: close\r\n\r\n".encode())
        found = bytearray(5)
        got = 0
        while got < len(found) and (size := stream.recv_into(memoryview(found)[got:])):
            got += size
        return bytes(found) == b"HTTP/"


def _speaks_tls(place: str, network: Network, limit: Limit) -> bool:
    try:
        network.open(f"wss://{place}/", limit).close()
    except NetworkError as failure:
        return isinstance(failure.__cause__, ssl.SSLCertVerificationError)  # its certificate came over TLS
    return True
