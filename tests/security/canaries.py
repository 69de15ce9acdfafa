"""Canary secrets: where they come from, in which encodings they may appear, and the search for them.

Knows: which values of an exchange are secret, by what the wire and the database call them (its own list, not
the redactor's). Must not know: how guestctl masks anything.
"""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

#: Members that hold a secret, as the protocol documents name them.
_MEMBERS = re.compile(
    rb'"(?:token|guestToken|jwt|access_token|accessToken|refresh_token|refreshToken|resumeToken|sessionToken|'
    rb'authToken|secret|client_secret|adminKey|admin_key)"\s*:\s*"([^"]{12,})"'
)
_HEADER = re.compile(rb"^authorization: (?:bearer|basic) (\S+)", re.IGNORECASE | re.MULTILINE)
_SIGNED = re.compile(rb"[?&](?:[\w-]*signature|[\w-]*credential|token|client_secret)=([^&\s\"'\\]{8,})", re.IGNORECASE)
#: Of a secret that was cut in two, this much is still one.
_PART = 16


class Canaries:
    """All secrets seen so far, by kind."""

    def __init__(self, **known: str) -> None:
        self.known: dict[str, str] = {}
        self._disguised: dict[str, tuple[tuple[bytes, str], ...]] = {}
        for what, secret in known.items():
            self.add(what, secret)

    def add(self, what: str, secret: str) -> None:
        if len(secret) >= 6 and not secret.startswith("***"):
            self.known.setdefault(secret, what)
            if secret not in self._disguised:
                self._disguised[secret] = tuple({data: form for form, data in disguises(secret)}.items())

    def overhear(self, data: bytes) -> str | None:
        """Record every value on the wire that has the name of a secret. Return the last one."""
        last = None
        for what, pattern in (("member", _MEMBERS), ("header", _HEADER), ("signed address", _SIGNED)):
            for found in pattern.findall(data):
                last = found.decode("latin-1")
                self.add(what, last)
        return last

    def remember(self, database: Path) -> None:
        """Record every secret in the state database."""
        if not database.exists():
            return
        with sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True) as connection:
            for (body,) in connection.execute("SELECT body FROM session WHERE body IS NOT NULL"):
                for kind, held in json.loads(body)["credentials"].items():
                    for part in ("secret", "refresh"):
                        if held[part]:
                            self.add(f"stored {kind} {part}", held[part])
            for (body,) in connection.execute("SELECT body FROM credential"):
                self.add("stored oauth", json.loads(body)["secret"])
        connection.close()

    def found(self, data: bytes) -> list[str]:
        """Return the secrets in the data and their encodings. Line wrapping of a terminal does not hide one."""
        hits = []
        unfolded = re.sub(rb"\s+", b"", data)
        for secret, what in self.known.items():
            for disguised, form in self._disguised[secret]:
                if disguised in data or disguised in unfolded:
                    hits.append(f"{what} ({form}): {secret}")
        return hits


def disguises(secret: str) -> Iterator[tuple[str, bytes]]:
    """Return the encodings that reveal a secret. A masked secret matches none of them."""
    raw = secret.encode()
    yield "plain", raw
    yield "reversed case", raw.swapcase()
    yield "URL-encoded", quote(secret, safe="").encode()
    yield "URL-encoded form", quote_plus(secret).encode()
    yield "JSON", json.dumps(secret)[1:-1].encode()
    yield "JSON in JSON", json.dumps(json.dumps(secret))[3:-3].encode()
    yield "hex", raw.hex().encode()
    for shift in range(3):  # at any position in a longer encoded text
        for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            inner = encode(b"\0" * shift + raw)[(4 if shift else 0) : len(raw) // 3 * 4]
            if len(inner) >= 8:
                yield name, inner
    if len(secret) >= 2 * _PART:
        yield "first half", raw[len(raw) // 2 - _PART : len(raw) // 2]
        yield "end", raw[-_PART:]
