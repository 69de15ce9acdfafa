"""The terms of guest messaging as plain values: sessions, messages, events, credentials.

Knows: which fields each of them has. Must not know: JSON, YAML, sockets, any dialect. Times of messages are
RFC 3339 UTC strings with milliseconds (they sort as text). Times of credentials and sessions are epoch seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Literal, TypeAlias

from guestctl.core.values import Json, immutable

Role: TypeAlias = Literal["guest", "bot", "agent", "system"]
Direction: TypeAlias = Literal["inbound", "outbound"]
"""As on the wire: from the guest to the service is inbound (web-messaging.md §6.3)."""

Source: TypeAlias = Literal["live", "history", "replayed"]
Delivery: TypeAlias = Literal["accepted", "rejected", "not_sent", "in_doubt"]


class Secret:
    """A value that must never be shown. It prints as a placeholder that is the same for equal secrets."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself, for the wire and the state database only."""
        return self._value

    @property
    def placeholder(self) -> str:
        """`***` and eight hex digits of a digest, so that equal secrets are recognisable."""
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
"""guest: the session's token · history: a short-lived JWT for REST · oauth: the client credentials grant of
the profile, shared by its sessions · sign-in: the JWT of a signed-in guest."""


@immutable
class Credential:
    """A token with its kind and expiry.

    `expires_at` is in epoch seconds of the service's clock, None if unknown. `refresh` is the token that renews
    it. `life` is its lifetime in seconds when it was granted.
    """

    kind: CredentialKind
    secret: Secret
    expires_at: float | None = None
    refresh: Secret | None = None
    life: float | None = field(default=None, compare=False)

    def fresh_at(self, now: float, margin: float) -> bool:
        """Whether it is still valid `margin` seconds after `now`.

        The margin is at most half its lifetime. Otherwise a short-lived credential would be renewed as soon as
        it was granted.
        """
        if self.life is not None:
            margin = min(margin, self.life / 2)
        return self.expires_at is None or now < self.expires_at - margin


@immutable
class Limits:
    """The limits of a session as the service reported them; None where it reported none."""

    attribute_bytes: int | None = None
    text_length: int | None = None
    file_kilobytes: int | None = None
    file_types: tuple[str, ...] = ()
    blocked_extensions: tuple[str, ...] = ()


@immutable
class Retry:
    """Reconnect policy: full jitter, uniform(0, min(cap, base·2^n)) seconds. `attempts` None: the API's default."""

    attempts: int | None = None
    base: float = 1.0
    cap: float = 30.0


@immutable
class Profile:
    """The service's addresses and the guest's settings, with every value resolved and secrets wrapped.

    `base_url`, `socket_url` and `config_url` are overrides. Where they are None, a dialect derives the address
    from `region`, `environment`, `org` or `aws_region`. `cleartext` allows connections without TLS to other
    machines. `deduplicates` states that the service stores a repeated client key once. `sandbox` marks the built-in
    profile.
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
    deduplicates: bool = False
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
    """The messaging settings of a deployment (web-messaging.md §3.2)."""

    active: bool = True
    messenger: bool = True
    auto_start: bool = False
    guest_typing: bool = True
    clear: bool = True
    markdown: bool = False
    disconnect: str | None = None
    attachments: bool | None = None
    sign_in: bool = False
    #: Whether a guest may sign in later. If not, a deployment with sign-in accepts signed-in guests only.
    session_upgrade: bool = False
    raw: Json = None


SessionState: TypeAlias = Literal["draft", "active", "read_only", "ended", "expired", "cleared", "evicted"]
OVER: frozenset[str] = frozenset({"ended", "expired", "cleared"})
"""States in which no message can be sent any more. An evicted session can be resumed."""


@immutable
class Session:
    """A guest session. A `draft` has been prepared, but the service has not confirmed it.

    `ids` are the service's public ids by short name (conversation, guest, session). `notes` are JSON values that
    the dialect stores, without secrets. `created_at` and `expires_at` are in epoch seconds. `new_session` is True
    until a command attaches the session again, resumes it or sends to it.
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
    #: Placeholder of the token of the last socket, on APIs where closing a socket invalidates its token.
    used_token: str | None = None
    #: Placeholder of the guest's token that the service refused last. A passing fault can do that, so nothing but what
    #: is shown depends on it, and the next success removes it.
    refused_token: str | None = None
    #: The last message with options that history omits, as received: the guest may still answer it.
    offer: Json = None
    #: The fields of `NewSession` without the name. A session that replaces this one is opened with them too.
    opening: Json = None
    #: For a session that continues on another's connection (`--new` on an API that restarts): when the first of
    #: them was created. The service treats them as one, with shared sockets and limits.
    root: float | None = None

    @property
    def read_only(self) -> bool:
        return self.state == "read_only"

    def credential(self, kind: CredentialKind) -> Credential | None:
        return self.credentials.get(kind)

    def token(self, kind: CredentialKind = "guest") -> str:
        """Return the token itself, for a frame. Raises KeyError if the session has none."""
        return self.credentials[kind].secret.reveal()

    def having(self, credential: Credential) -> Session:
        """Return this session with one credential added or replaced."""
        return replace(self, credentials={**self.credentials, credential.kind: credential})

    def without(self, kind: CredentialKind) -> Session:
        return replace(self, credentials={k: v for k, v in self.credentials.items() if k != kind})


@immutable
class Sender:
    """The sender of a message; None where the API does not name it."""

    role: Role | None = None
    name: str | None = None


@immutable
class Option:
    """An option that the guest can pick: a quick reply, a card action, a date or a list item.

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
    """A message. `id` is the service id, `key` the client key, `sequence` its number on APIs that number messages."""

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

    @property
    def is_reply(self) -> bool:
        """Whether it comes from the service and is more than a guest's choice that the service repeats."""
        kinds = {item.get("contentType") if isinstance(item, dict) else None for item in self.content}
        return self.direction == "outbound" and (bool(self.text) or kinds != {"ButtonResponse"})


@immutable
class FormField:
    """One field of a form in a message. `items` are the choices of a list, wheel or date: title and payload."""

    id: str
    title: str
    kind: Literal["line", "lines", "date", "list", "wheel"]
    required: bool = False
    items: tuple[tuple[str, str], ...] = ()
    several: bool = False


@immutable
class Outgoing:
    """A message to send. `key` is the client key (a UUID).

    `picks` are picked options of an earlier message. `form` maps a field id to (text, payload). `file` identifies the
    content of the attached file on this machine: each upload of the same file has another `attachment_id`.
    """

    key: str
    text: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    picks: tuple[Option, ...] = ()
    picks_from: str | None = None
    attachment_id: str | None = None
    form: Mapping[str, Json] | None = None
    file: str | None = None


@immutable
class NewSession:
    """The options of `session create` (contract.md §2). An absent option is None or empty."""

    name: str = "default"
    attributes: Mapping[str, str] = field(default_factory=dict)
    queue: str | None = None
    skill: str | None = None
    language: str | None = None
    email: str | None = None
    guest_name: str | None = None


@immutable
class SignIn:
    """The result of signing in at an identity provider: an authorization code (with or without PKCE), or an
    id token of the implicit flow."""

    code: Secret | None = None
    redirect_uri: str | None = None
    code_verifier: Secret | None = None
    id_token: Secret | None = None
    nonce: str | None = None


@immutable
class Typing:
    """A participant is typing. `duration` is in milliseconds, None where the service sends none."""

    sender: Sender
    duration: int | None = None
    time: str | None = None


@immutable
class Presence:
    """Join, Disconnect, SignIn … as the service spells it."""

    presence: str
    direction: Direction
    id: str | None = None
    time: str | None = None
    sender: Sender = Sender()
    key: str | None = None
    read_only: bool = False
    source: Source = "live"


ParticipantEventKind: TypeAlias = Literal["receipt", "cobrowse", "video", "reactions"]


@immutable
class ParticipantEvent:
    """A receipt, an offer to co-browse or of a video call, or reactions to a message.

    `status` is the service's own name for what happened (Delivered, Offering, …), None where there is none. `details`
    are the other members as received. `id` is the service id of the event; for a receipt, of the message.
    """

    kind: ParticipantEventKind
    direction: Direction
    status: str | None = None
    id: str | None = None
    time: str | None = None
    sender: Sender = Sender()
    details: Mapping[str, Json] = field(default_factory=dict)
    raw: Json = None


@immutable
class ServiceError:
    """An error that the service reports in the stream. `code` is its own code, if it has one."""

    code: str | int | None
    message: str


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
    """A change of the session as a whole. `reason` is the service's own text, if any."""

    change: SessionChange
    reason: str | None = None


ConnectionState: TypeAlias = Literal["connecting", "live", "lost", "retrying", "gave_up"]


@immutable
class Connection:
    """The state of guestctl's own connection.

    `delay` is in seconds before the next attempt. `failure` is the cause of a lost connection, for a caller that
    stops listening before the reconnect.
    """

    state: ConnectionState
    detail: str | None = None
    attempt: int = 0
    delay: float | None = None
    close_code: int | None = None
    recovered: int | None = None
    failure: Exception | None = None


@immutable
class Gap:
    """Messages may be missing between two message ids."""

    after: str | None
    before: str | None
    reason: str


#: The label of what the service sent and guestctl cannot read, live or in history.
UNREADABLE = "unreadable"


@immutable
class Unknown:
    """A frame, event or entry of history that guestctl does not know, or cannot read (`UNREADABLE`).

    `label` is its class or type as received. `id` is the service's id, if it has one.
    """

    label: str
    raw: Json = None
    id: str | None = None


Event: TypeAlias = (
    Message | Typing | Presence | ParticipantEvent | ServiceError | SessionEvent | Connection | Gap | Unknown
)
"""Anything that a listener receives."""


@immutable
class Position:
    """A position in a conversation: the caller wants everything after this message."""

    id: str
    sequence: int | None = None
    time: str | None = None
