"""The credentials that the sandbox issues: opaque tokens and JWTs.

Knows: which token was issued, to which conversation, until when. Must not know: HTTP, sockets, what an API calls its
tokens. A token is genuine because it is in the table, not because it can be decoded.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from guestctl.core.clock import Clock

#: Kinds that cannot be used for a refresh. They leave the table soon after they expire.
_SHORT_LIVED = ("history", "oauth")


@dataclass(slots=True)
class Grant:
    """One issued token. `expires_at` is epoch seconds (None: never). `facts` is data of the issuing API."""

    token: str = field(repr=False)
    kind: str
    conversation: str | None
    expires_at: float | None
    facts: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def exp(self) -> int:
        """The expiry as a JWT states it: whole seconds, never after the real expiry."""
        return int(self.expires_at or 0)


class GrantStore(Protocol):
    """Stores grants between runs."""

    def save_grant(self, grant: Grant) -> None: ...

    def delete_grant(self, token: str) -> None: ...


class Tokens:
    """Issues, finds, expires and revokes tokens.

    `life` replaces the default lifetime of guest credentials, in seconds (`--token-life`).
    """

    def __init__(
        self,
        clock: Clock,
        *,
        life: float | None = None,
        key: str | None = None,
        store: GrantStore | None = None,
    ) -> None:
        self._clock = clock
        self._life = life
        self.key = key or secrets.token_hex(32)
        self._store = store
        self._table: dict[str, Grant] = {}

    def life(self, default: float) -> float:
        """Return the lifetime of a guest credential in seconds."""
        return default if self._life is None else self._life

    def opaque(self, kind: str, *, life: float | None, conversation: str | None = None, **facts: Any) -> Grant:
        """Issue an opaque token. Its prefix shows that it comes from a sandbox."""
        expires = None if life is None else self._clock.now() + life
        return self.put(Grant(f"sandbox-{secrets.token_urlsafe(24)}", kind, conversation, expires, facts))

    def jwt(
        self, kind: str, *, life: float, claims: Mapping[str, Any], conversation: str | None = None, **facts: Any
    ) -> Grant:
        """Issue a signed JWT (HS256) with `iss`, `jti`, `iat`, `exp` and the given claims (web-messaging.md §11.6)."""
        import jwt

        now = self._clock.now()
        body = {"iss": "sandbox", "jti": secrets.token_hex(8), **claims, "iat": int(now), "exp": int(now + life)}
        return self.put(Grant(jwt.encode(body, self.key, algorithm="HS256"), kind, conversation, now + life, facts))

    def put(self, grant: Grant) -> Grant:
        """Store a grant, new or changed."""
        if len(self._table) % 512 == 511:
            self._forget_stale()
        if self._store is not None:
            self._store.save_grant(grant)
        return self.restore(grant)

    def restore(self, grant: Grant) -> Grant:
        """Add a grant loaded from a file."""
        self._table[grant.token] = grant
        return grant

    def find(self, token: str | None, *kinds: str) -> Grant | None:
        """Return a genuine token of one of these kinds, expired or not."""
        grant = self._table.get(token or "")
        return grant if grant is not None and grant.kind in kinds else None

    def conversation_of(self, token: str | None) -> str | None:
        """Return the id of the conversation to which a genuine token of any kind belongs, None without one."""
        grant = self._table.get(token or "")
        return None if grant is None else grant.conversation

    def live(self, token: str | None, *kinds: str) -> Grant | None:
        """Return a genuine token of one of these kinds that has not expired."""
        grant = self.find(token, *kinds)
        return None if grant is None or self.expired(grant) else grant

    def expired(self, grant: Grant) -> bool:
        return grant.expires_at is not None and self._clock.now() >= grant.expires_at

    def revoke(self, *grants: Grant) -> None:
        """Remove tokens, so that they are unknown."""
        for grant in grants:
            self._table.pop(grant.token, None)
            if self._store is not None:
                self._store.delete_grant(grant.token)

    def revoke_login(self, login: str) -> None:
        """Remove every token of one sign-in."""
        self.revoke(*[grant for grant in self._table.values() if grant.facts.get("login") == login])

    def of(self, conversation: str) -> list[Grant]:
        """Return every grant of a conversation, oldest first."""
        return [grant for grant in self._table.values() if grant.conversation == conversation]

    def expire(self, conversation: str) -> int:
        """Expire the live credentials of a conversation now; they stay genuine. Return how many."""
        now = self._clock.now()
        ended = [grant for grant in self.of(conversation) if not self.expired(grant)]
        for grant in ended:
            grant.expires_at = now
            self.put(grant)
        return len(ended)

    def _forget_stale(self) -> None:
        before = self._clock.now() - 60
        self.revoke(*[g for g in self._table.values() if g.kind in _SHORT_LIVED and (g.expires_at or before) < before])
