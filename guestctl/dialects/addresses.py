"""Which API an address belongs to.

Knows: the published addresses of every API. Must not know: the network, profiles.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from guestctl.dialects import NAMES, dialect_class


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """A published address that fits: of which API, what for, and whether the host fits too."""

    api: str
    purpose: str
    pattern: str
    host_fits: bool
    socket: bool


def host_and_port(url: str) -> str:
    """host:port of an address. A port of the scheme's own is written too."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme in {"https", "wss"} else 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def matching_addresses(url: str) -> list[ApiAddress]:
    """Every published address this one may be; those whose host fits alone, when there are any."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    found: list[ApiAddress] = []
    for name in NAMES:
        for purpose, pattern in dialect_class(name).documented_addresses:
            published = urlsplit(pattern)
            host_fits = re.fullmatch(_compiled(published.netloc, r"[^/]+?"), parts.hostname or "") is not None
            if path:
                fits = re.fullmatch(_compiled(published.path, "[^/]+"), path) is not None
            else:
                fits, purpose = host_fits, "base address"
            place = ApiAddress(name, purpose, pattern, host_fits, published.scheme == "wss")
            if fits and place not in found:
                found.append(place)
    exact = [place for place in found if place.host_fits]
    return exact or found


def _compiled(pattern: str, part: str) -> str:
    return re.sub(r"\\{\w+\\}", lambda _: part, re.escape(pattern))


def nearest_addresses(path: str) -> list[str]:
    """Up to two published paths that look like this one, with their API."""
    from guestctl.core.suggestions import nearest

    known: dict[str, str] = {}
    for name in NAMES:
        for _, pattern in dialect_class(name).documented_addresses:
            known.setdefault(urlsplit(pattern).path, name)
    return [f"{found} ({known[found]})" for found in nearest(path, known, 2)]
