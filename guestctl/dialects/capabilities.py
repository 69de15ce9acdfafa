"""The declarations of an API: what differs between APIs and is known before any request.

Knows: each declaration, its meaning for a caller, and its default. Must not know: flows, frames, requests, a
particular API.

`name`, `summary` and `abilities` are mandatory. A dialect sets another declaration only if it differs from the
default.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import ClassVar

from guestctl.core.values import immutable


class Ability(str, Enum):
    """An operation that a guest may ask for. The command of the same name needs it."""

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
    """Whether the source documents the wire of an operation, or other-apis.md assumes it."""

    DOCUMENTED = "documented"
    ASSUMED = "assumed"


class Paging(Enum):
    """How history is read.

    FORWARD: oldest first, after a position; `HistoryPage.next` is the cursor of the next page.
    BY_PAGE_NUMBER: newest page first; `HistoryPage.total` is the number of messages.
    """

    FORWARD = "forward"
    BY_PAGE_NUMBER = "numbered"


@immutable
class Rate:
    """A token bucket: it gets `count` tokens in `period` seconds, and has `burst` (default: `count`) when it is full.

    The declaration that uses it states what needs a token.
    """

    count: int
    period: float
    burst: int | None = None


@immutable
class Backoff:
    """Full jitter: wait uniform(0, min(cap, base·2^n)) seconds, n from 0; at most `tries` tries."""

    base: float
    cap: float
    tries: int


class Capabilities:
    """The declarations of one API, as class attributes. Code outside this folder only reads them."""

    # --- identity and input ---

    name: ClassVar[str]
    summary: ClassVar[str]
    abilities: ClassVar[Mapping[Ability, Standing]]
    #: Required profile keys. Each tuple lists alternatives, of which one suffices.
    required: ClassVar[tuple[tuple[str, ...], ...]] = ()
    #: Options of `session create` that the API has a field for: attr, queue, skill, language, email, name.
    fields: ClassVar[frozenset[str]] = frozenset()
    #: Options of `send` that the API has a field for: attr.
    send_fields: ClassVar[frozenset[str]] = frozenset()
    #: Ids that identify a session, next to its token: `session attach` needs them.
    session_ids: ClassVar[tuple[str, ...]] = ()
    #: Every documented address: its purpose and its pattern, in which `{…}` stands for one part.
    documented_addresses: ClassVar[tuple[tuple[str, str], ...]] = ()

    # --- history ---

    paging: ClassVar[Paging] = Paging.FORWARD
    page_size: ClassVar[int] = 50
    #: No request starts at a message: its page is requested with a token that only the page before it states.
    pages_by_token: ClassVar[bool] = False
    #: History may lag behind accepted and pushed messages. Gap filling waits a limited time for known ones.
    history_lags: ClassVar[bool] = False

    # --- sending ---

    #: Guest messages are sent on the socket (a FrameRequest), not over REST.
    sends_on_socket: ClassVar[bool] = False
    #: Guest messages that a session may send. None: the service's 429 is the only limit.
    send_rate: ClassVar[Rate | None] = None
    #: REST requests that a profile may make. Its processes share this budget.
    request_rate: ClassVar[Rate | None] = None

    # --- credentials ---

    #: Seconds before expiry at which each kind of credential is renewed.
    renewal_margins: ClassVar[Mapping[str, float]] = {}
    #: How to wait after the renewal of a refused token before the request is repeated. The same backoff retries the
    #: refresh after 429 and 5xx. None: repeat the request at once, and retry the refresh like any request.
    renewal_backoff: ClassVar[Backoff | None] = None
    #: Claims that a guest's token must contain. Only set where the token is a JWT.
    token_claims: ClassVar[tuple[str, ...]] = ()
    #: Some requests need an access token of the profile's OAuth client.
    uses_oauth: ClassVar[bool] = False
    #: OAuth scopes that the requests of this API need, separated by blanks.
    scopes: ClassVar[str] = ""
    #: Profile keys whose values decide whether the service forbids a request (403): queue, origin, deployment_id.
    forbidden_by: ClassVar[tuple[str, ...]] = ()
    #: Requests contain the profile's `origin`, which the deployment's allowed domains must include.
    sends_origin: ClassVar[bool] = False

    # --- the socket ---

    #: False: listening polls history.
    has_socket: ClassVar[bool] = True
    #: The socket has the same address for every session, so that a 404 there says nothing about the session. An
    #: instance may override it, because a profile may choose among documented addresses.
    shared_socket_address: bool = False
    #: Sockets that one session may have at a time. The service then evicts the oldest.
    sockets_per_session: ClassVar[int] = 3
    #: Reconnect attempts, unless the profile sets another number.
    reconnect_attempts: ClassVar[int] = 10
    #: `attach` with `start_new` begins another conversation of the same guest.
    can_start_new: ClassVar[bool] = False
    #: `reattach` sends a renewed token on the open socket.
    reattaches: ClassVar[bool] = False
    #: The end of a socket spends its token: renew it before the next connect.
    renews_before_reconnect: ClassVar[bool] = False
    #: Close code and reason of a guest that may reconnect.
    close_frame: ClassVar[tuple[int, str]] = (1000, "")
    #: Close code and reason that end the conversation, if that is how the API ends one.
    end_close_frame: ClassVar[tuple[int, str] | None] = None
