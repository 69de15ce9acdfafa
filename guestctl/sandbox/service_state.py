"""What is true in the sandbox: deployments, conversations, messages, attachments, and who answers.

Knows: how a conversation grows, lives and ends, and how the bot is asked. Must not know: HTTP,
WebSocket, any dialect's wire. A *api* per dialect is told what happened and says it in its words.
Clock, scheduler and ids are handed in. Everything runs in one thread.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

from guestctl.core.clock import Clock, rfc3339
from guestctl.sandbox import DEPLOYMENT_ID
from guestctl.sandbox.issued_tokens import Tokens

if TYPE_CHECKING:
    from guestctl.sandbox.bot.bots import Bot, BotAction

Role: TypeAlias = Literal["guest", "bot", "agent", "system"]
State: TypeAlias = Literal["active", "read-only", "expired", "cleared", "ended"]
Kind: TypeAlias = Literal["text", "structured", "event"]
Later: TypeAlias = Callable[[float, Callable[[], None]], object]
Item: TypeAlias = Mapping[str, Any]
"""One web-messaging content or event item (web-messaging.md §6.4, §6.5): the richest form there is."""

BLOCKED = (
    ".ade", ".adp", ".app", ".bat", ".chm", ".cmd", ".com", ".cpl", ".exe", ".hta", ".jar", ".js", ".lnk", ".msi",
    ".ps1", ".scr", ".vbs",
)  # fmt: skip


@dataclass(frozen=True)
class SandboxDeployment:
    """How one deployment is set up (web-messaging.md §3.2, §9). Sizes in bytes unless named; times in seconds."""

    id: str = DEPLOYMENT_ID
    origins: tuple[str, ...] = ()  # allowed domains; empty: all of them
    auto_start: bool = False
    typing: bool = True
    clear: bool = True
    disconnect: str = "ReadOnly"  # what the end of a conversation leaves: ReadOnly, Send, off
    sign_in: bool = False
    session_upgrade: bool = False
    attachments: bool = True
    file_types: tuple[str, ...] = ("*/*",)
    blocked_extensions: tuple[str, ...] = BLOCKED
    max_file_kb: int = 10240
    session_life: float = 259_200.0
    text_limit: int = 4096  # characters
    attributes_limit: int = 2048
    strict_attributes: bool = False  # ignore customAttributes in the legacy place (§5.5)
    return_message_id: bool = True  # history gives metadata.customMessageId back
    active: bool = True

    def allows(self, origin: str | None) -> bool:
        """Scheme, port and case of an Origin do not matter; a domain allows its subdomains (§2.3)."""
        if not self.origins:
            return True
        host = origin_host(origin)
        return any(host == domain or host.endswith("." + domain) for domain in map(origin_host, self.origins))


def origin_host(origin: str | None) -> str:
    """The host of `https://host:1`, `host:1` or `host`, lower case; empty when there is none."""
    text = (origin or "").strip().lower()
    try:
        return urlsplit(text if "://" in text else f"//{text}").hostname or ""
    except ValueError:
        return ""


@dataclass(slots=True)
class StoredMessage:
    """One stored message or event. `millis` is epoch milliseconds, unique and rising in its conversation."""

    id: str
    sequence: int
    millis: int
    time: str
    direction: Literal["inbound", "outbound"]
    role: Role
    kind: Kind = "text"
    name: str | None = None
    text: str | None = None
    key: str | None = None  # the guest's own id of it
    content: Sequence[Item] = ()
    events: Sequence[Item] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


class Observer(Protocol):
    """A socket that watches a conversation."""

    @property
    def open(self) -> bool: ...

    def send(self, text: str, route: str | None = None) -> None: ...

    def close(self, code: int = 1000, reason: str = "") -> None: ...


class ApiCallbacks(Protocol):
    """What a api is told. `cause` is whatever the api itself handed in with the request."""

    def message_stored(self, conversation: Conversation, message: StoredMessage, cause: Any) -> None: ...

    def typing(self, conversation: Conversation, role: Role, name: str | None, millis: int) -> None: ...

    def ended(self, conversation: Conversation, role: Role) -> None:
        """Bot, agent or admin ended it; what that means is the dialect's."""

    def expired(self, conversation: Conversation) -> None: ...

    def token_expired(self, conversation: Conversation) -> None: ...

    def pushed(self, conversation: Conversation, frame: str) -> None:
        """A test pushes a raw frame: deliver it as it is; keep it when it is a message of this dialect."""


@dataclass
class Conversation:
    """One conversation. `id` is never a credential; `notes` is its api's own memory (plain JSON)."""

    id: str
    api: str
    deployment: SandboxDeployment
    guest_id: str
    created: float
    last_activity: float
    state: State = "active"
    messages: list[StoredMessage] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    observers: list[Observer] = field(default_factory=list)
    by_key: dict[str, StoredMessage] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    traces: dict[str, str] = field(default_factory=dict)  # route -> its last traceparent, the latest at the end
    last_millis: int = 0
    inbound: int = 0
    memory: dict[str, Any] = field(default_factory=dict)  # the bot's
    handed_over: bool = False  # to a person; the bot is silent
    attached: dict[str, StoredAttachment] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)  # what a test should hear of this guest's wire

    @property
    def expires_at(self) -> float:
        return self.last_activity + self.deployment.session_life

    def broadcast(self, text: str, route: str | None = None) -> None:
        """The same frame to every socket of the conversation."""
        for observer in tuple(self.observers):
            observer.send(text, route)


@dataclass
class StoredAttachment:
    """A file of a guest. `key` opens its upload address, never its message."""

    id: str
    name: str
    type: str
    size: int
    key: str = field(repr=False)
    state: Literal["presigned", "stored", "uploaded", "failed", "sent", "deleted"] = "presigned"
    data: bytes = field(default=b"", repr=False)


class Bucket:
    """A token bucket: `count` at once, then `count` per `period` seconds.

    The fifth of a token on top forgives a client that paces itself exactly and is a few
    milliseconds early on our clock; it never lets one more through at once.
    """

    __slots__ = ("_at", "_clock", "_count", "_rate", "_tokens")

    def __init__(self, clock: Clock, count: int, period: float) -> None:
        self._clock = clock
        self._count = count + 0.2
        self._rate = count / period
        self._tokens = self._count
        self._at = clock.monotonic()

    def take(self) -> bool:
        now = self._clock.monotonic()
        self._tokens = min(self._count, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class MessageStore(Protocol):
    """Where a service is kept between runs."""

    def save_conversation(self, conversation: Conversation) -> None: ...

    def save_message(self, conversation: Conversation, message: StoredMessage) -> None: ...

    def save_attachment(self, conversation: Conversation, attachment: StoredAttachment) -> None: ...


def random_hex() -> str:
    """32 lower-case hex digits, the form of a message id (§4.3)."""
    return secrets.token_hex(16)


class Service:
    """All conversations of one sandbox, whatever dialect they speak."""

    def __init__(
        self,
        *,
        clock: Clock,
        later: Later,
        bot: Bot,
        deployments: Iterable[SandboxDeployment] = (SandboxDeployment(),),
        tokens: Tokens | None = None,
        ids: Callable[[], str] = random_hex,
        store: MessageStore | None = None,
        fast: bool = False,
        agent: bool = False,
        watch: Callable[[Conversation, StoredMessage], None] | None = None,
    ) -> None:
        self.clock = clock
        self.later = later
        self.bot = bot
        self.deployments = {deployment.id: deployment for deployment in deployments}
        self.tokens = tokens or Tokens(clock)
        self.fast = fast
        self._agent = agent  # a person takes over at a hand-over, not the script
        self.conversations: dict[str, Conversation] = {}
        self.apis: dict[str, ApiCallbacks] = {}
        self.requests: Counter[str] = Counter()
        self._new_id = ids
        self._store = store
        self._watch = watch
        self._guests: dict[str, Conversation] = {}
        self._second = (-1, "")

    def new_id(self) -> str:
        return self._new_id()

    def new_uuid(self) -> str:
        """A version 4 UUID from the same source of ids."""
        x = self._new_id()
        return f"{x[:8]}-{x[8:12]}-4{x[13:16]}-{'89ab'[int(x[16], 16) % 4]}{x[17:20]}-{x[20:]}"

    def allows(self, origin: str | None) -> bool:
        """Whether any deployment admits this Origin."""
        return any(deployment.allows(origin) for deployment in self.deployments.values())

    def open(
        self,
        api: str,
        deployment: SandboxDeployment | None = None,
        *,
        attributes: Mapping[str, str] | None = None,
        notes: Mapping[str, Any] | None = None,
        guest_id: str | None = None,
    ) -> Conversation:
        """A new conversation of a dialect. Without a deployment the first one serves."""
        now = self.clock.now()
        deployment = deployment or next(iter(self.deployments.values()))
        conversation = Conversation(self.new_uuid(), api, deployment, guest_id or self.new_uuid(), now, now)
        conversation.attributes.update(attributes or {})
        conversation.notes.update(notes or {})
        self.add(conversation)
        self.save(conversation)
        return conversation

    def add(self, conversation: Conversation) -> None:
        """Take in a conversation, new or read back from a file."""
        self.conversations[conversation.id] = conversation
        self._guests[conversation.guest_id] = conversation

    def by_guest(self, guest_id: str) -> Conversation | None:
        """The latest conversation of a guest."""
        return self._guests.get(guest_id)

    def save(self, conversation: Conversation) -> None:
        """A conversation's state, notes or attributes changed."""
        if self._store is not None:
            self._store.save_conversation(conversation)

    def count(self, conversation: Conversation | None, route: str, trace: str | None = None) -> None:
        """Book one guest request for the admin report."""
        self.requests[route] += 1
        if conversation is not None:
            self.count_for(conversation, route, trace)

    def count_for(self, conversation: Conversation, route: str, trace: str | None = None) -> None:
        """Count one request of a conversation, with the trace context it carried."""
        conversation.requests[route] += 1
        if trace is not None:
            conversation.traces.pop(route, None)
            conversation.traces[route] = trace
        self.save(conversation)

    def receive(
        self,
        conversation: Conversation,
        text: str | None,
        *,
        key: str | None = None,
        kind: Kind = "text",
        content: Sequence[Item] = (),
        metadata: Mapping[str, str] | None = None,
        prompt: str | None = None,
        payload: str | None = None,
        message_id: str | None = None,
        cause: Any = None,
    ) -> StoredMessage:
        """Store what the guest said, tell the api, ask the bot. `prompt` is what the bot is asked, if not the text."""
        message = self.append(
            conversation,
            "guest",
            kind,
            text=text,
            key=key,
            content=content,
            metadata=metadata or {},
            message_id=message_id,
            cause=cause,
        )
        if not conversation.handed_over:
            actions = self.bot.reply_to(
                (text or "") if prompt is None else prompt,
                payload=payload,
                attributes=conversation.attributes,
                count=conversation.inbound,
                memory=conversation.memory,
            )
            if conversation.memory:
                self.save(conversation)
            self._perform(conversation, actions)
        return message

    def greet(self, conversation: Conversation) -> None:
        """The bot speaks first."""
        self._perform(conversation, self.bot.greeting(conversation.attributes))

    def send(
        self,
        conversation: Conversation,
        text: str | None,
        *,
        role: Role = "agent",
        name: str | None = None,
        content: Sequence[Item] = (),
        message_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        time: str | None = None,
        notify: bool = True,
    ) -> StoredMessage:
        """Something said to the guest: stored, and told to whoever is connected unless `tell` is false."""
        files_only = all(item.get("contentType") == "Attachment" for item in content)
        return self.append(
            conversation,
            role,
            "text" if files_only else "structured",
            name=name,
            text=text,
            content=content,
            metadata=metadata or {},
            message_id=message_id,
            time=time,
            notify=notify,
        )

    def append(
        self,
        conversation: Conversation,
        role: Role,
        kind: Kind,
        *,
        name: str | None = None,
        text: str | None = None,
        key: str | None = None,
        content: Sequence[Item] = (),
        events: Sequence[Item] = (),
        metadata: Mapping[str, str] | None = None,
        message_id: str | None = None,
        time: str | None = None,
        cause: Any = None,
        notify: bool = True,
    ) -> StoredMessage:
        """Append to the transcript, then tell the api. The only place where messages are made.

        A `time` that is given is only shown: the order is that of arrival.
        """
        millis = self.next_millis(conversation)
        conversation.last_activity = max(millis / 1000, conversation.last_activity)
        message = StoredMessage(
            id=message_id or self._new_id(),
            sequence=len(conversation.messages) + 1,
            millis=millis,
            time=time or self.format_time(millis),
            direction="inbound" if role == "guest" else "outbound",
            role=role,
            kind=kind,
            name=name,
            text=text,
            key=key,
            content=content,
            events=events,
            metadata=metadata or {},
        )
        conversation.messages.append(message)
        conversation.inbound += role == "guest" and kind != "event"
        if key is not None:
            conversation.by_key.setdefault(key, message)
        if self._store is not None:
            self._store.save_message(conversation, message)
            self._store.save_conversation(conversation)
        if notify:
            self.apis[conversation.api].message_stored(conversation, message, cause)
        if self._watch is not None:
            self._watch(conversation, message)
        return message

    def next_millis(self, conversation: Conversation) -> int:
        """Now in epoch milliseconds; later than everything before it in this conversation (§11.5)."""
        conversation.last_millis = max(int(self.clock.now() * 1000), conversation.last_millis + 1)
        return conversation.last_millis

    def format_time(self, millis: int) -> str:
        """Epoch milliseconds as RFC 3339. Most messages share their second with the one before."""
        second, rest = divmod(millis, 1000)
        if second != self._second[0]:
            self._second = (second, rfc3339(second)[:-4])
        return f"{self._second[1]}{rest:03d}Z"

    def history(self, conversation: Conversation, lag: float = 0.0) -> Sequence[StoredMessage]:
        """The transcript in order, without the last `lag` seconds of it. Events included."""
        messages = conversation.messages
        if not lag:
            return messages
        until = int((self.clock.now() - lag) * 1000)
        end = len(messages)
        while end and messages[end - 1].millis > until:
            end -= 1
        return messages[:end]

    def live(self, conversation: Conversation) -> bool:
        """Whether it takes messages; an over-age one expires here."""
        if conversation.state == "active" and self.clock.now() >= conversation.expires_at:
            self.expire(conversation)
        return conversation.state == "active"

    def expire(self, conversation: Conversation) -> None:
        """Its session ends by age, or because a test says so."""
        if conversation.state == "active":
            self.close(conversation, "expired")
            self.apis[conversation.api].expired(conversation)

    def expire_token(self, conversation: Conversation) -> None:
        """Only its credentials end."""
        self.tokens.expire(conversation.id)
        self.apis[conversation.api].token_expired(conversation)

    def close(self, conversation: Conversation, state: State) -> None:
        conversation.state = state
        self.save(conversation)

    def reset_bot(self, conversation: Conversation) -> None:
        """The bot remembers nothing of it, and answers again."""
        conversation.memory.clear()
        conversation.handed_over = False
        self.save(conversation)

    def sweep(self) -> None:
        """Expire what somebody watches; the rest expires when it is next asked for."""
        for conversation in tuple(self.conversations.values()):
            if conversation.observers:
                self.live(conversation)

    def attach(self, conversation: Conversation, attachment: StoredAttachment) -> None:
        """A file was announced, stored, accepted or sent."""
        conversation.attached[attachment.id] = attachment
        if self._store is not None:
            self._store.save_attachment(conversation, attachment)

    def _perform(self, conversation: Conversation, actions: Sequence[BotAction]) -> None:
        """One action after the other, each `delay` seconds after the one before."""
        if not actions:
            return

        def step() -> None:
            if conversation.state == "active":
                self._act(conversation, actions[0])
                self._perform(conversation, actions[1:])

        if actions[0].delay > 0:
            self.later(actions[0].delay, step)
        else:
            step()

    def _act(self, conversation: Conversation, action: BotAction) -> None:
        role: Role = "agent" if action.role == "agent" else "bot"
        if action.kind == "typing":
            self.apis[conversation.api].typing(conversation, role, action.name, action.duration)
        elif action.kind == "disconnect":
            self.apis[conversation.api].ended(conversation, role)
        elif action.kind == "handover":
            conversation.handed_over = self._agent
            self.save(conversation)
        else:
            self.send(conversation, action.text, role=role, name=action.name, content=action.content)


def attributes_size(attributes: Mapping[str, str]) -> int:
    """UTF-8 bytes of keys and values together (§5.5)."""
    return sum(len(key.encode()) + len(value.encode()) for key, value in attributes.items())


def dumps(value: Any) -> str:
    """Compact JSON, the text as it is."""
    return _encode(value)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
