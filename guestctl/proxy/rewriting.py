"""Addresses in what the service sends: clients must stay on the proxy.

Knows: where JSON texts, headers and cookies contain addresses. Must not know: which hosts belong to the target
(`target` decides), sockets.

Only values that are addresses change. Everything else, also spaces, order and escapes, stays as it is.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping

#: Members whose value is what people wrote.
_TEXTS = frozenset({"text"})
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?')
_ADDRESS_VALUE = re.compile(r'"(?:https?|wss?):(?://|\\/\\/)', re.IGNORECASE)
_ADDRESS = re.compile(r"(?:https?|wss?):(?://|\\/\\/)", re.IGNORECASE)
#: The compressions that the proxy can read. It asks the service for no other.
_READABLE = ("gzip", "deflate", "identity", "*")
#: Largest decompressed body in which addresses are replaced, in bytes.
BODY_LIMIT = 10 << 20

Replace = Callable[[str], "str | None"]
"""Returns what replaces an address, None if it stays."""


def rewritten(text: str, replace: Replace) -> str:
    """Return a JSON text with its addresses replaced. A text that is cut off or damaged is read as far as possible."""
    if _ADDRESS_VALUE.search(text) is None:
        return text
    key = ""

    def token(found: re.Match[str]) -> str:
        nonlocal key
        inner, colon = found.groups()
        if colon is not None:
            key = inner
            return found[0]
        if key in _TEXTS or not _ADDRESS.match(inner):
            return found[0]
        try:
            new = replace(json.loads(found[0]))
        except ValueError:
            return found[0]
        if new is None:
            return found[0]
        written = json.dumps(new, ensure_ascii=False)
        return written.replace("/", "\\/") if "\\/" in inner else written

    return _TOKEN.sub(token, text)


def is_json(content_type: str) -> bool:
    """Return whether a body of this type is JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def acceptable(accept_encoding: str) -> str:
    """Return an Accept-Encoding header without the compressions that the proxy cannot read."""
    offered = [one.strip() for one in accept_encoding.split(",")]
    kept = [one for one in offered if one.partition(";")[0].strip().lower() in _READABLE]
    return ", ".join(kept) or "identity"


def decompressed(body: bytes, encoding: str) -> bytes | None:
    """Return a body without its compression; None if it cannot be read or is larger than BODY_LIMIT."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        return None
    for window in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):  # some services send deflate without its header
        reader = zlib.decompressobj(window)
        try:
            found = reader.decompress(body, BODY_LIMIT)
        except zlib.error:
            continue
        return found if reader.eof else None
    return None


def cookie(value: str, place: str, *, secure: bool) -> str:
    """Return a Set-Cookie header that a client of the proxy accepts.

    Its domain goes, because the proxy has another name. `place` precedes its path. Without TLS, the attributes that
    only TLS permits go, too.
    """
    kept: list[str] = []
    for number, part in enumerate(value.split(";")):
        name, _, rest = part.strip().partition("=")
        lower = name.lower()
        if number == 0:
            kept.append(part.strip())
        elif lower == "domain" or (not secure and _needs_tls(lower, rest)):
            continue
        elif lower == "path" and place:
            kept.append(f"{name}={place}{rest}")
        else:
            kept.append(part.strip())
    return "; ".join(kept)


def _needs_tls(attribute: str, value: str) -> bool:
    return attribute in ("secure", "partitioned") or (attribute == "samesite" and value.lower() == "none")


def allowed_origin(headers: Mapping[str, str], sent: str | None, client: str | None) -> str | None:
    """Return the Access-Control-Allow-Origin for a client whose Origin was replaced by `sent`; None: as it is."""
    if sent is None or client is None or headers.get("Access-Control-Allow-Origin") != sent:
        return None
    return client
