"""The API that an address belongs to.

Knows: the documented addresses of every API. Must not know: the network, profiles.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from guestctl.dialects import NAMES, dialect_class


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """A documented address that matches: its API, its purpose, and whether the host matches, too."""

    api: str
    purpose: str
    pattern: str
    host_matches: bool
    socket: bool


def host_and_port(url: str) -> str:
    """Return host:port of a URL, with the scheme's default port if the URL has none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme in {"https", "wss"} else 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def matching_addresses(url: str) -> list[ApiAddress]:
    """Return the documented addresses that a URL matches. If the host matches any, only those."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    found: list[ApiAddress] = []
    for name in NAMES:
        for purpose, pattern in dialect_class(name).documented_addresses:
            documented = urlsplit(pattern)
            host_matches = re.fullmatch(_compiled(documented.netloc, r"[^/]+?"), parts.hostname or "") is not None
            if path:
                fits = re.fullmatch(_compiled(documented.path, "[^/]+"), path) is not None
            else:
                fits, purpose = host_matches, "base address"
            address = ApiAddress(name, purpose, pattern, host_matches, documented.scheme == "wss")
            if fits and address not in found:
                found.append(address)
    on_host = [address for address in found if address.host_matches]
    return on_host or found


def _compiled(pattern: str, part: str) -> str:
    return re.sub(r"\\{\w+\\}", lambda _: part, re.escape(pattern))


def nearest_addresses(path: str) -> list[str]:
    """Return up to two documented paths that resemble this one, with their API."""
    from guestctl.core.suggestions import nearest

    known: dict[str, str] = {}
    for name in NAMES:
        for _, pattern in dialect_class(name).documented_addresses:
            known.setdefault(urlsplit(pattern).path, name)
    return [f"{found} ({known[found]})" for found in nearest(path, known, 2)]
