"""The nouns of guest messaging, as plain values.

Knows: what a session, a message, an event, a credential is. Must not know: JSON, YAML, sockets,
any dialect. Times of messages are RFC 3339 UTC strings with milliseconds (they sort as text);
times of credentials and sessions are epoch seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Literal, TypeAlias

from guestctl.core.values import Json, immutable

Role: TypeAlias = Literal["guest", "bot", "agent", "system"]
Direction: TypeAlias = Literal["inbound", "outbound"]
"""The platform's view: guest to platform is inbound (web-messaging.md §6.3.1)."""

Source: TypeAlias = Literal["live", "history", "replayed"]
Delivery: TypeAlias = Literal["accepted", "rejected", "not_sent", "in_doubt"]


class Secret:
    """A value that must never be shown. Prints as a stable placeholder; equal secrets print equally."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the wire and the state database only."""
        return self._value

    @property
    def placeholder(self) -> str:
        """`***` and eight hex digits of a digest, so that equal secrets stay recognisably equal."""
        return "***" + hashlib.sha256(b"guestctl:" + self._value.encode("utf-8", "surrogatepass")).hexdigest()[:8]

    def __repr__(self) -> str:
        return self.placeholder

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(self.placeholder, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is never pickled")


CredentialKind: TypeAlias = Literal["guest", "history", "oauth", "sign-in"]
"""guest: the session's token · history: a short-lived JWT for REST · oauth: the profile's client
credentials grant, shared by its sessions · sign-in: the JWT of a signed-in guest."""


@immutable
class Credential:
    """A secret that authorises, and when it expires (epoch seconds, service time; None: not known).
    `life`: how many seconds it was good for when it was granted."""

    kind: CredentialKind
    secret: Secret
    expires_at: float | None = None
    refresh: Secret | None = None
    life: float | None = field(default=None, compare=False)

    def fresh_at(self, now: float, margin: float) -> bool:
        """Whether it is still good `margin` seconds after `now`; never asks for more than half its life,
        or a short-lived one would be renewed as soon as it was granted."""
        if self.life is not None:
            margin = min(margin, self.life / 2)
        return self.expires_at is None or now < self.expires_at - margin


@immutable
class Limits:
    """What one session accepts, as the service stated it; None where it did not."""

    attribute_bytes: int | None = None
    text_length: int | None = None
    file_kilobytes: int | None = None
    file_types: tuple[str, ...] = ()
    blocked_extensions: tuple[str, ...] = ()


@immutable
class Retry:
    """Reconnect policy: full jitter, uniform(0, min(cap, base·2^n)). Seconds; attempts None: the API's default."""

    attempts: int | None = None
    base: float = 1.0
    cap: float = 30.0


@immutable
class Profile:
    """Where and how to talk: every value resolved, secrets wrapped. Built by `profiles`, read by dialects.

    `base_url`, `socket_url`, `config_url` are overrides; a dialect derives what is None from
    `region`, `environment`, `org` or `aws_region`. `cleartext` lets go without TLS to other machines
    too. `sandbox` marks the built-in profile.
    """

    name: str
    api: str = "web-messaging"
    region: str | None = None
    base_url: str | None = None
    socket_url: str | None = None
    config_url: str | None = None
    deployment_id: str | None = None
    origin: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    ca: str | None = None
    cleartext: bool = False
    retry: Retry = Retry()
    guest_name: str | None = None
    email: str | None = None
    queue: str | None = None
    skill: str | None = None
    language: str | None = None
    environment: str | None = None
    org: str | None = None
    aws_region: str | None = None
    socket_path: str | None = None
    refresh_style: str | None = None
    store_tokens: Literal["database", "memory"] = "database"
    journey_context: Mapping[str, Json] | None = None
    application: str | None = None
    client_id: str | None = None
    client_secret: Secret | None = None
    sandbox: bool = False


@immutable
class Deployment:
    """What a deployment's configuration says of messaging (web-messaging.md §3.2)."""

    active: bool = True
    messenger: bool = True
    auto_start: bool = False
    guest_typing: bool = True
    clear: bool = True
    markdown: bool = False
    disconnect: str | None = None
    attachments: bool | None = None
    sign_in: bool = False
    #: A guest session may step up to a signed-in one; without, a deployment with sign-in takes no guests.
    session_upgrade: bool = False
    raw: Json = None


SessionState: TypeAlias = Literal["draft", "active", "read_only", "ended", "expired", "cleared", "evicted"]
OVER: frozenset[str] = frozenset({"ended", "expired", "cleared"})
"""States from which no message can be sent any more. An evicted session can be resumed."""


@immutable
class Session:
    """One guest session. A `draft` has been prepared but not yet confirmed by the service.

    `ids` are the service's public ids by short name (conversation, guest, session); `notes` is the
    dialect's own memory, JSON values, no secrets. `created_at`, `expires_at`: epoch seconds. `new_session`
    until it is taken up again: attached once more, resumed, or written to.
    """

    api: str
    profile: str
    name: str = "default"
    ids: Mapping[str, str | None] = field(default_factory=dict)
    state: SessionState = "draft"
    new_session: bool = True
    created_at: float = 0.0
    expires_at: float | None = None
    credentials: Mapping[str, Credential] = field(default_factory=dict)
    limits: Limits = Limits()
    notes: Mapping[str, Json] = field(default_factory=dict)
    #: The token a socket was last opened with, as its placeholder, where a closed socket spoils that.
    used_token: str | None = None
    #: The last message that offered something which history leaves out, as it came: it may yet be answered.
    offer: Json = None
    #: What it was opened with, as `NewSession` has it but for the name: the one that takes its place is, too.
    opening: Json = None
    #: Of a session begun on the connection of another (`--new` on an API that restarts): when the first of
    #: them was created. At the service they are one: its sockets, its turns and its limits.
    root: float | None = None

    @property
    def read_only(self) -> bool:
        return self.state == "read_only"

    def credential(self, kind: CredentialKind) -> Credential | None:
        return self.credentials.get(kind)

    def token(self, kind: CredentialKind = "guest") -> str:
        """The secret itself, for building a frame. Raises KeyError when the session holds none."""
        return self.credentials[kind].secret.reveal()

    def having(self, credential: Credential) -> Session:
        """This session with one credential added or replaced."""
        return replace(self, credentials={**self.credentials, credential.kind: credential})

    def without(self, kind: CredentialKind) -> Session:
        return replace(self, credentials={k: v for k, v in self.credentials.items() if k != kind})


@immutable
class Sender:
    """Who said it; None where the API does not say."""

    role: Role | None = None
    name: str | None = None


@immutable
class Option:
    """Something the guest can pick: a quick reply, a card action, a date, a list item.

    `kind` names the wire form of the answer: QuickReply, Button, DatePicker, ListPicker, Link.
    """

    text: str
    payload: str
    kind: str
    url: str | None = None
    group: str | None = None


@immutable
class Attachment:
    """A file that belongs to a message. `url` may be a presigned secret and is never shown."""

    id: str | None
    name: str | None
    mime: str | None
    size: int | None
    media_type: str | None = None
    url: Secret | None = None


@immutable
class Message:
    """One message. `id` is the service's; `key` the guest's own id of it; `sequence` where the API numbers them."""

    id: str
    direction: Direction
    text: str
    time: str | None
    key: str | None = None
    sender: Sender = Sender()
    sequence: int | None = None
    source: Source = "live"
    content: tuple[Json, ...] = ()
    options: tuple[Option, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    raw: Json = None


@immutable
class FormField:
    """One field of a form in a message. `items`: what a list, wheel or date offers, as title and payload."""

    id: str
    title: str
    kind: Literal["line", "lines", "date", "list", "wheel"]
    required: bool = False
    items: tuple[tuple[str, str], ...] = ()
    several: bool = False


@immutable
class Outgoing:
    """A message the guest wants to send. `key` is the client's own id of it (a UUID).

    `picks` answer options of an earlier message; `form` holds field id -> (text, payload).
    """

    key: str
    text: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    picks: tuple[Option, ...] = ()
    picks_from: str | None = None
    attachment_id: str | None = None
    form: Mapping[str, Json] | None = None


@immutable
class NewSession:
    """What `session create` was asked for (contract.md §2). Absent: None or empty."""

    name: str = "default"
    attributes: Mapping[str, str] = field(default_factory=dict)
    queue: str | None = None
    skill: str | None = None
    language: str | None = None
    email: str | None = None
    guest_name: str | None = None


@immutable
class SignIn:
    """What an identity provider gave the guest: an authorization code (with PKCE, or without), or an
    id token of the implicit flow."""

    code: Secret | None = None
    redirect_uri: str | None = None
    code_verifier: Secret | None = None
    id_token: Secret | None = None
    nonce: str | None = None


@immutable
class Typing:
    """Somebody is typing. `duration` in milliseconds, None where not said."""

    sender: Sender
    duration: int | None = None
    time: str | None = None


@immutable
class Presence:
    """Join, Disconnect, SignIn … as the platform spells it."""

    presence: str
    direction: Direction
    id: str | None = None
    time: str | None = None
    sender: Sender = Sender()
    key: str | None = None
    read_only: bool = False
    source: Source = "live"


SessionChange: TypeAlias = Literal[
    "read_only",
    "expired",
    "cleared",
    "evicted",
    "signed_in",
    "logged_out",
    "ended",
    "expiring",
    "new",
    "token_expired",
]


@immutable
class SessionEvent:
    """Something happened to the session as a whole. `reason` is the service's own word, if any."""

    change: SessionChange
    reason: str | None = None


ConnectionState: TypeAlias = Literal["connecting", "live", "lost", "retrying", "gave_up"]


@immutable
class Connection:
    """The state of our own connection. `delay` in seconds before the next attempt; `failure` is what it
    was lost to, for whoever stops listening meanwhile."""

    state: ConnectionState
    detail: str | None = None
    attempt: int = 0
    delay: float | None = None
    close_code: int | None = None
    recovered: int | None = None
    failure: Exception | None = None


@immutable
class Gap:
    """Contiguity between two message ids could not be proved."""

    after: str | None
    before: str | None
    reason: str


@immutable
class Unknown:
    """A frame or event guestctl does not know. `label` is its class or type as sent."""

    label: str
    raw: Json = None


Event: TypeAlias = Message | Typing | Presence | SessionEvent | Connection | Gap | Unknown
"""What a listener sees."""


@immutable
class Position:
    """A place in a conversation: everything after this message is wanted."""

    id: str
    sequence: int | None = None
    time: str | None = None
