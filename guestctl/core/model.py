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
"""The kind of participant that sent a message."""

Direction: TypeAlias = Literal["inbound", "outbound"]
"""As on the wire: from the guest to the service is inbound (web-messaging.md §6.3)."""

Source: TypeAlias = Literal["live", "history", "replayed"]
"""Where a message comes from: the live stream, `history`, or history that fills a gap in the stream (`replayed`)."""

Delivery: TypeAlias = Literal["accepted", "rejected", "not_sent", "in_doubt"]
"""The outcome of a send (contract.md §5)."""


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
"""`guest`: the session's token. `history`: a short-lived JWT for REST calls. `oauth`: the OAuth token of the profile,
shared by its sessions. `sign-in`: the JWT of a signed-in guest."""


@immutable
class Credential:
    """A token with its kind and expiry.

    `expires_at` is in epoch seconds of the service's clock, None if unknown. `refresh` is the token that renews
    this one. `life` is the lifetime in seconds, counted from the moment when the token was granted.
    """

    kind: CredentialKind
    secret: Secret
    expires_at: float | None = None
    refresh: Secret | None = None
    life: float | None = field(default=None, compare=False)

    def fresh_at(self, now: float, margin: float) -> bool:
        """Return whether the credential is still valid `margin` seconds after `now`.

        A margin of more than half the lifetime counts as half. Otherwise a short-lived credential would be renewed as
        soon as it was granted.
        """
        if self.life is not None:
            margin = min(margin, self.life / 2)
        return self.expires_at is None or now < self.expires_at - margin


@immutable
class Limits:
    """The limits of a session as the service reported them; None or empty where it reported none."""

    attribute_bytes: int | None = None
    text_length: int | None = None
    file_kilobytes: int | None = None
    file_types: tuple[str, ...] = ()
    blocked_extensions: tuple[str, ...] = ()


@immutable
class Retry:
    """The reconnect policy: each wait is random between 0 and min(`cap`, `base`·2^n) seconds.

    `n` counts the attempts. `attempts` is their maximum number, None for the default of the API.
    """

    attempts: int | None = None
    base: float = 1.0
    cap: float = 30.0


@immutable
class Profile:
    """The service's addresses and the guest's settings, with every value resolved and secrets wrapped.

    `base_url`, `socket_url` and `config_url` are overrides. Where they are None, the address follows from `region`,
    `environment`, `org` or `aws_region`. `ca` is the path of a PEM file of certificate authorities. `cleartext`
    allows connections without TLS to other machines. `deduplicates` states that the service stores a repeated client
    key once. `paced` is False only for a sandbox on this machine that has stated that it enforces no rate limits.
    `guest_name`, `client_id` and `client_secret` are the profile keys `name`, `oauth.client_id` and
    `oauth.client_secret`; `ai_base_url`, `ai_key` and `ai_model` are `ai.base_url`, `ai.key` and `ai.model`.
    `sandbox` marks the built-in profile. `locale` is the language tag of this machine. `guestctl help profiles`
    describes the other keys.
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
    paced: bool = True
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
    locale: str | None = None
    client_id: str | None = None
    client_secret: Secret | None = None
    ai_base_url: str | None = None
    ai_key: Secret | None = None
    ai_model: str | None = None
    sandbox: bool = False


@immutable
class Deployment:
    """The messaging settings of a deployment (web-messaging.md §3.2).

    `disconnect` states what follows the end of a conversation: `Send`, `ReadOnly`, or None if the guest is not
    informed. `attachments` is None if the configuration does not state it. `raw` is the configuration as received.
    """

    active: bool = True
    messenger: bool = True
    auto_start: bool = False
    guest_typing: bool = True
    clear: bool = True
    markdown: bool = False
    disconnect: str | None = None
    attachments: bool | None = None
    sign_in: bool = False
    session_upgrade: bool = False
    """Whether a guest may sign in later. If not, a deployment with sign-in accepts signed-in guests only."""
    raw: Json = None


@immutable
class TraceContext:
    """A W3C trace context: the values of the headers `traceparent` and `tracestate`."""

    traceparent: str
    tracestate: str | None = None

    @property
    def trace_id(self) -> str:
        return self.traceparent.split("-")[1]


SessionState: TypeAlias = Literal["draft", "active", "read_only", "ended", "expired", "cleared", "evicted"]
"""The state of a session, as far as this machine knows.

`draft`: the service has not confirmed the session. `read_only`: the conversation has ended, and the session still
allows reading history and clearing. `evicted`: the service closed the socket in favour of another one, and the session
can be resumed.
"""
OVER: frozenset[str] = frozenset({"ended", "expired", "cleared"})
"""States in which no message can be sent any more. An evicted session can be resumed."""


@immutable
class Session:
    """A stored guest session.

    `api` and `profile` are names. `ids` are the service's public ids by short name (conversation, guest, session).
    `notes` are JSON values that the client stores for the API, without secrets. `created_at` and `expires_at` are in
    epoch seconds. `new_session` is True until a command attaches to the session again, resumes it or sends to it.
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
    used_token: str | None = None
    """Placeholder of the token of the last socket, on APIs where closing a socket invalidates its token."""
    refused_token: str | None = None
    """Placeholder of the guest's token that the service refused last, until the next success. It is only shown, because
    a passing fault can be the cause."""
    offer: Json = None
    """The last message with options that history omits, as received: the guest may still answer it."""
    opening: Json = None
    """The fields of `NewSession` without the name. A session that replaces this one is opened with them too."""
    root: float | None = None
    """For a session that continues an earlier one (`create` with `new`, on an API that supports this): when the first
    of them was created. To the service they are one session, with shared sockets and limits."""
    traceparent: str | None = None
    """The W3C trace context that the session was first used with. Later commands without one of their own send it."""
    tracestate: str | None = None
    """The vendors' part of that trace context, as a `tracestate` header has it."""
    attached_at: float | None = None
    """When the session was taken over from another client (`attach`), in epoch seconds. Such a session may have
    messages that guestctl has never seen."""

    @property
    def read_only(self) -> bool:
        """Whether the conversation has ended, so that the session only allows reading history and clearing."""
        return self.state == "read_only"

    @property
    def trace_context(self) -> TraceContext | None:
        """The stored trace context, None without one."""
        return None if self.traceparent is None else TraceContext(self.traceparent, self.tracestate)

    def credential(self, kind: CredentialKind) -> Credential | None:
        """Return the credential of this kind, None if the session has none."""
        return self.credentials.get(kind)

    def token(self, kind: CredentialKind = "guest") -> str:
        """Return the token itself, for the wire only. Raises KeyError if the session has none."""
        return self.credentials[kind].secret.reveal()

    def having(self, credential: Credential) -> Session:
        """Return this session with one credential added or replaced."""
        return replace(self, credentials={**self.credentials, credential.kind: credential})

    def without(self, kind: CredentialKind) -> Session:
        """Return this session without the credential of this kind."""
        return replace(self, credentials={k: v for k, v in self.credentials.items() if k != kind})


@immutable
class Sender:
    """The sender of a message. `role` and `name` are None where the API does not report them."""

    role: Role | None = None
    name: str | None = None


@immutable
class Option:
    """An option that the guest can pick: a quick reply, a card action, a date or a list item.

    `text` is the label. `kind` names the form of the answer on the wire: QuickReply, Button, DatePicker, ListPicker,
    Link. `url` is the address of a link. `group` is the title of the card, picker or section with the option.
    """

    text: str
    payload: str
    kind: str
    url: str | None = None
    group: str | None = None


@immutable
class Attachment:
    """A file that belongs to a message. `size` is in bytes. `url` may contain a secret and is never shown."""

    id: str | None
    name: str | None
    mime: str | None
    size: int | None
    media_type: str | None = None
    url: Secret | None = None


@immutable
class Message:
    """A message of the guest, a bot or an agent.

    `id` is the service id, and `key` the client key of a guest's message. `time` is RFC 3339 in UTC. `sequence` is the
    number of the message, on APIs that number messages. `content` has the service's structured parts as received, and
    `raw` the whole object.
    """

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
        """Whether the message is outbound and has a text, a file, or content that is not a guest's own choice."""
        kinds = {item.get("contentType") if isinstance(item, dict) else None for item in self.content}
        return self.direction == "outbound" and bool(self.text or self.attachments or kinds - {"ButtonResponse"})


@immutable
class FormField:
    """One field of a form in a message.

    `kind` is one line of text, several lines, a date, a list or a wheel. `items` are the choices of the last three,
    each with title and payload. `several` allows more than one choice.
    """

    id: str
    title: str
    kind: Literal["line", "lines", "date", "list", "wheel"]
    required: bool = False
    items: tuple[tuple[str, str], ...] = ()
    several: bool = False


@immutable
class Outgoing:
    """A message to send.

    `key` is the client key, a UUID. `picks` are the picked options of the message with the id `picks_from`. `form` maps
    a field id to (text, payload). `file` identifies the content of the attached file on this machine, because each
    upload of the same file has another `attachment_id`.
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
    """The options of a new session, as of `session create` (contract.md §2). An absent option is None or empty."""

    name: str = "default"
    attributes: Mapping[str, str] = field(default_factory=dict)
    queue: str | None = None
    skill: str | None = None
    language: str | None = None
    email: str | None = None
    guest_name: str | None = None


@immutable
class SignIn:
    """The result of signing in at an identity provider: an authorization code (with or without PKCE), or an id token of
    the implicit flow."""

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
    """A presence event. `presence` is Join, Disconnect, SignIn … as the service spells it.

    `read_only` states that the conversation accepts no more messages. `key` is the client key of the guest's own event.
    """

    presence: str
    direction: Direction
    id: str | None = None
    time: str | None = None
    sender: Sender = Sender()
    key: str | None = None
    read_only: bool = False
    source: Source = "live"


ParticipantEventKind: TypeAlias = Literal["receipt", "cobrowse", "video", "reactions"]
"""The kind of a `ParticipantEvent`, which is also the kind of its record."""


@immutable
class ParticipantEvent:
    """A receipt, an offer of co-browsing or a video call, or reactions to a message.

    `status` is the service's own name for the event (Delivered, Offering, …), None where there is none. `details`
    are the other fields as received. `id` is the service id of the event; for a receipt, of the message.
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
    """An error that the service reports in the stream. `code` is the service's own code, None if it sent none."""

    code: str | int | None
    message: str


SessionChange: TypeAlias = Literal[
    "read_only",
    "expired",
    "cleared",
    "evicted",
    "logged_out",
    "ended",
    "token_expired",
]
"""What happened to the session."""


@immutable
class SessionEvent:
    """A change of the session as a whole. `reason` is the service's own text, None if it sent none."""

    change: SessionChange
    reason: str | None = None


ConnectionState: TypeAlias = Literal["connecting", "live", "lost", "retrying", "gave_up"]
"""`live`: connected and authenticated. `retrying`: waiting before the next attempt. `gave_up`: all attempts failed."""


@immutable
class Connection:
    """The state of guestctl's own connection.

    `attempt` counts the attempts to reconnect, and `delay` is the time before the next one in seconds. `close_code` is
    the code with which the service closed the socket. `recovered` is the number of messages that were read from history
    after a reconnect. `failure` is the cause of a lost connection, for a caller that stops before the reconnect.
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
    """Messages may be missing between two message ids.

    `after` is None at the start of the conversation, and `before` at its end. `reason` is `missing`, `unproved`,
    `too_long` (reliability.md §6.4), or a text that states why history cannot be read.
    """

    after: str | None
    before: str | None
    reason: str


#: The label of an event or entry that guestctl cannot read.
UNREADABLE = "unreadable"


@immutable
class Unknown:
    """A frame, event or entry of history that guestctl does not know or cannot read.

    `label` is its class or type as received, or `unreadable`. `id` is the service id, None if there is none.
    """

    label: str
    raw: Json = None
    id: str | None = None


Event: TypeAlias = (
    Message | Typing | Presence | ParticipantEvent | ServiceError | SessionEvent | Connection | Gap | Unknown
)
"""Everything that `Client.listen` can yield."""


@immutable
class Position:
    """A position in a conversation: directly after the message with this `id`."""

    id: str
    sequence: int | None = None
    time: str | None = None
