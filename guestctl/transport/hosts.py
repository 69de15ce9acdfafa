"""Hosts: their names, ports and addresses.

Knows: URLs as far as the host, loopback, the resolver, why a connection failed. Must not know: proxies, TLS, HTTP.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import ssl
import threading
from typing import Any
from urllib.parse import urlsplit

from guestctl.core.errors import UsageError
from guestctl.core.interrupts import INTERRUPTS

_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


def target(url: str) -> tuple[bool, str, int]:
    """Return whether a URL asks for TLS, its host and its port. Raises UsageError, whose text omits the URL."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError) as error:
        raise UsageError("an address is not an http, https, ws or wss URL") from error
    if not host:
        raise UsageError("an address has no host")
    return parts.scheme in ("https", "wss"), host, port


def is_loopback(host: str) -> bool:
    """Return whether a host name or an address stands for this machine."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = address_of(host)
    return address is not None and address.is_loopback


def authority(host: str, port: int) -> str:
    """Return host:port as in a URL, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a host is written as, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def resolve(host: str, port: int, seconds: float | None) -> list[tuple[Any, ...]]:
    """Return the addresses of a host like `socket.getaddrinfo`. Raises OSError, UnicodeError, TimeoutError.

    A thread waits for the resolver, because nothing can interrupt the resolver.
    """
    if address_of(host) is not None:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    answer: queue.SimpleQueue[list[tuple[Any, ...]] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        with INTERRUPTS.allowed():
            addresses = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(addresses, Exception):
        raise addresses
    return addresses


def why(error: BaseException) -> str:
    """Return a short cause, without the URLs and headers that the texts of library errors contain."""
    # An SSLError created by Python code lacks this attribute.
    if isinstance(error, ssl.SSLError) and (reason := getattr(error, "reason", None)):
        return str(reason).replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return {"TimeoutError": "timed out", "RemoteDisconnected": "closed without a response"}.get(
        type(error).__name__, type(error).__name__
    )
