"""What a family declares: all that differs between APIs and can be said in advance.

Knows: each declaration, what it means for whoever talks to the API, and what holds where a family says
nothing. Must not know: flows, frames, requests, any family.

A family sets what is different for it and leaves the rest: `name`, `summary` and `abilities` are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import ClassVar

from guestctl.core.values import immutable


class Ability(str, Enum):
    """An operation a guest can ask for; the command of the same name needs it."""

    CREATE = "create"
    SEND = "send"
    HISTORY = "history"
    LISTEN = "listen"
    RESUME = "resume"
    REFRESH = "refresh-token"
    TYPING = "typing"
    END = "end"
    CLEAR = "clear"
    FILES = "files"
    PICK = "pick"
    SYNC = "guest sync"
    SIGN_IN = "sign-in"


class Standing(str, Enum):
    """Whether an operation's wire is published, or fixed by other-apis.md where the source is silent."""

    DOCUMENTED = "documented"
    ASSUMED = "assumed"


class Paging(Enum):
    """How history is read. FORWARD: ascending after a position, `Page.next` leads on.
    BY_PAGE_NUMBER: newest first by page number, `Page.total` tells how many messages there are."""

    FORWARD = "forward"
    BY_PAGE_NUMBER = "numbered"


@immutable
class Rate:
    """At most `count` in any `period` seconds; what it counts is the dialect's declaration."""

    count: int
    period: float


@immutable
class Backoff:
    """Full jitter: wait uniform(0, min(cap, base·2^n)) seconds, n from 0; at most `tries` tries."""

    base: float
    cap: float
    tries: int


class Capabilities:
    """The declarations of one API family, as class attributes; outside this folder they are only read."""

    # --- what it is, and what it takes ---

    name: ClassVar[str]
    summary: ClassVar[str]
    abilities: ClassVar[Mapping[Ability, Standing]]
    #: Profile keys without which nothing can be addressed, each a tuple of alternatives.
    required: ClassVar[tuple[tuple[str, ...], ...]] = ()
    #: Options of `session create` this API has a field for: attr, queue, skill, language, email, name.
    fields: ClassVar[frozenset[str]] = frozenset()
    #: Those of `send`: attr.
    send_fields: ClassVar[frozenset[str]] = frozenset()
    #: Every address of the family as its source writes it: what for, and where; `{…}` is one part of it.
    documented_addresses: ClassVar[tuple[tuple[str, str], ...]] = ()

    # --- history ---

    paging: ClassVar[Paging] = Paging.FORWARD
    page_size: ClassVar[int] = 50
    #: History may lag behind accepted sends and pushes; catch-up waits (bounded) for known messages.
    history_lags: ClassVar[bool] = False

    # --- sending ---

    #: A guest message goes over the socket (a Turn), not over REST.
    sends_on_socket: ClassVar[bool] = False
    #: The service drops a repeated client id, so that a send may be repeated safely.
    deduplicates: ClassVar[bool] = True
    #: A message's client id comes back in pushes and in history.
    returns_client_key: ClassVar[bool] = True
    #: Guest messages a session may send; None: the service's 429 is the only limit.
    send_rate: ClassVar[Rate | None] = None
    #: REST requests one profile may make; shared by its processes.
    request_rate: ClassVar[Rate | None] = None

    # --- credentials ---

    #: Seconds before expiry at which each kind of credential is renewed ahead of use.
    renewal_margins: ClassVar[Mapping[str, float]] = {}
    #: The wait between renewing a refused token and repeating the request, growing with each try the
    #: refresh itself needs while it is answered 429 or 5xx; None: at once, and the refresh has the usual tries.
    renewal_backoff: ClassVar[Backoff | None] = None
    #: Claims without which a guest's token, a JWT here, is of no use.
    token_claims: ClassVar[tuple[str, ...]] = ()
    #: The profile's OAuth client is exchanged for what authorises some of its requests.
    uses_oauth: ClassVar[bool] = False
    #: The profile's `origin` is sent, and the deployment's allowed domains decide.
    sends_origin: ClassVar[bool] = False

    # --- the socket ---

    #: Without a socket, listening polls history.
    has_socket: ClassVar[bool] = True
    #: Every session's socket has the same address, so that 404 there does not speak of the session. Where a
    #: profile may choose among published addresses, that decides.
    shared_socket_address: bool = False
    #: Simultaneous sockets of one session before the service evicts the oldest.
    sockets_per_session: ClassVar[int] = 3
    #: Reconnect attempts unless the profile says otherwise.
    reconnect_attempts: ClassVar[int] = 10
    #: `attach` with an new begins another conversation for the same guest.
    can_start_new: ClassVar[bool] = False
    #: A renewed token is announced on the open socket by `reattach`.
    reattaches: ClassVar[bool] = False
    #: Once a socket that used the token has closed, the token must be renewed before the next CONNECT.
    renews_before_reconnect: ClassVar[bool] = False
    #: A graceful close by the guest, who may come back.
    close_frame: ClassVar[tuple[int, str]] = (1000, "")
    #: The close that ends the conversation, where that is how `end` is said.
    end_close_frame: ClassVar[tuple[int, str] | None] = None
