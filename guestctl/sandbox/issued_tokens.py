"""Credentials the sandbox hands out: opaque ones and JWTs.

Knows: what was issued, to which conversation, until when. Must not know: HTTP, sockets, what any
dialect calls its tokens. A token is genuine because it is in the table, never because it decodes.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from guestctl.core.clock import Clock

#: Kinds nobody refreshes with; they leave the table soon after they expire.
_SHORT_LIVED = ("history", "oauth")


@dataclass(slots=True)
class Grant:
    """One issued token. `expires_at` is epoch seconds (None: never); `facts` is the issuing api's own memory."""

    token: str = field(repr=False)
    kind: str
    conversation: str | None
    expires_at: float | None
    facts: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def exp(self) -> int:
        """Expiry as a JWT says it: whole seconds, never later than the truth."""
        return int(self.expires_at or 0)


class GrantStore(Protocol):
    """Where grants are kept between runs."""

    def save_grant(self, grant: Grant) -> None: ...

    def delete_grant(self, token: str) -> None: ...


class Tokens:
    """Issues, recognises, expires and revokes.

    `life` replaces the default life of guest credentials when given (`--token-life`).
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
        """Seconds a guest credential lives."""
        return default if self._life is None else self._life

    def opaque(self, kind: str, *, life: float | None, conversation: str | None = None, **facts: Any) -> Grant:
        """A token that says nothing. The prefix makes it visibly not a real one."""
        expires = None if life is None else self._clock.now() + life
        return self.put(Grant(f"sandbox-{secrets.token_urlsafe(24)}", kind, conversation, expires, facts))

    def jwt(
        self, kind: str, *, life: float, claims: Mapping[str, Any], conversation: str | None = None, **facts: Any
    ) -> Grant:
        """A signed token (HS256) with `iss`, `jti`, `iat`, `exp` and the claims given (web-messaging.md §11.6)."""
        import jwt

        now = self._clock.now()
        body = {"iss": "sandbox", "jti": secrets.token_hex(8), **claims, "iat": int(now), "exp": int(now + life)}
        return self.put(Grant(jwt.encode(body, self.key, algorithm="HS256"), kind, conversation, now + life, facts))

    def put(self, grant: Grant) -> Grant:
        """Remember a grant, new or changed."""
        if len(self._table) % 512 == 511:
            self._forget_stale()
        if self._store is not None:
            self._store.save_grant(grant)
        return self.restore(grant)

    def restore(self, grant: Grant) -> Grant:
        """Remember a grant read back from a file."""
        self._table[grant.token] = grant
        return grant

    def find(self, token: str | None, *kinds: str) -> Grant | None:
        """A genuine token of one of these kinds, expired or not."""
        grant = self._table.get(token or "")
        return grant if grant is not None and grant.kind in kinds else None

    def live(self, token: str | None, *kinds: str) -> Grant | None:
        """A genuine token of one of these kinds that has not expired."""
        grant = self.find(token, *kinds)
        return None if grant is None or self.expired(grant) else grant

    def expired(self, grant: Grant) -> bool:
        return grant.expires_at is not None and self._clock.now() >= grant.expires_at

    def revoke(self, *grants: Grant) -> None:
        """Make tokens unknown."""
        for grant in grants:
            self._table.pop(grant.token, None)
            if self._store is not None:
                self._store.delete_grant(grant.token)

    def revoke_login(self, login: str) -> None:
        """Make every token of one sign-in unknown."""
        self.revoke(*[grant for grant in self._table.values() if grant.facts.get("login") == login])

    def of(self, conversation: str) -> list[Grant]:
        """Every grant of a conversation, oldest first."""
        return [grant for grant in self._table.values() if grant.conversation == conversation]

    def expire(self, conversation: str) -> int:
        """End the life of a conversation's live credentials now; they stay genuine. Returns how many."""
        now = self._clock.now()
        ended = [grant for grant in self.of(conversation) if not self.expired(grant)]
        for grant in ended:
            grant.expires_at = now
            self.put(grant)
        return len(ended)

    def _forget_stale(self) -> None:
        before = self._clock.now() - 60
        self.revoke(*[g for g in self._table.values() if g.kind in _SHORT_LIVED and (g.expires_at or before) < before])
