"""The state of a sandbox: deployments, conversations, messages, attachments, and the bot that answers.

Knows: how a conversation starts, grows and ends, and how the bot is asked. Must not know: HTTP, WebSocket, the wire of
any API.

Each API is called back with what happens and sends its own frames. The clock, the scheduler and the source of ids are
passed in. Everything runs in one thread.
"""

from __future__ import annotations

import json
import secrets
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

from guestctl.core.clock import Clock, rfc3339
from guestctl.core.patterns import PatternTimeout, SlowMatch
from guestctl.sandbox import DEPLOYMENT_ID
from guestctl.sandbox.issued_tokens import Tokens

if TYPE_CHECKING:
    from guestctl.sandbox.bot.bots import Bot, BotAction

Role: TypeAlias = Literal["guest", "bot", "agent", "system"]
State: TypeAlias = Literal["active", "read-only", "expired", "cleared", "ended"]
Kind: TypeAlias = Literal["text", "structured", "event"]
Later: TypeAlias = Callable[[float, Callable[[], None]], object]
Aside: TypeAlias = Callable[[Callable[[], object], Callable[[], None]], bool]
"""Runs the first function in another thread and then the second in the sandbox's; False if it cannot now."""
Item: TypeAlias = Mapping[str, Any]
"""One web-messaging content or event item (web-messaging.md §6.4, §6.5): the richest form there is."""

BLOCKED = (
    ".ade", ".adp", ".app", ".bat", ".chm", ".cmd", ".com", ".cpl", ".exe", ".hta", ".jar", ".js", ".lnk", ".msi",
    ".ps1", ".scr", ".vbs",
)  # fmt: skip


@dataclass(frozen=True)
class SandboxDeployment:
    """The settings of one deployment (web-messaging.md §3.2, §9). Sizes are in bytes unless named otherwise, times in
    seconds.
    """

    id: str = DEPLOYMENT_ID
    origins: tuple[str, ...] = ()  # allowed domains; empty: all
    auto_start: bool = False
    typing: bool = True
    clear: bool = True
    disconnect: str = "ReadOnly"  # what an ended conversation allows: ReadOnly, Send, off
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
    active: bool = True

    def allows(self, origin: str | None) -> bool:
        """Return whether an Origin is allowed. A domain includes its subdomains, and case does not matter (§2.3).

        For a bare domain, scheme and port do not matter either. An allowed origin with a scheme or a port is exact:
        another port is another origin.
        """
        if not self.origins:
            return True
        given = origin_parts(origin)
        return any(_matches(given, origin_parts(allowed)) for allowed in self.origins)


OriginParts: TypeAlias = tuple[str, str, "int | None"]


def _matches(given: OriginParts, allowed: OriginParts) -> bool:
    (scheme, host, port), (only_scheme, domain, only_port) = given, allowed
    if host != domain and not host.endswith("." + domain):
        return False
    if not only_scheme and only_port is None:
        return True
    if scheme and only_scheme and scheme != only_scheme:
        return False
    usual = _USUAL_PORTS.get(scheme or only_scheme)
    return (port or usual) == (only_port or usual)


_USUAL_PORTS = {"https": 443, "http": 80}


def origin_parts(origin: str | None) -> OriginParts:
    """Return scheme, host and port of `https://host:1`, `host:1` or `host` in lower case.

    A scheme that is missing is empty, and the port of an address without one is None; an unreadable host is empty.
    """
    text = (origin or "").strip().lower()
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        return parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        return "", "", None


@dataclass(slots=True)
class StoredMessage:
    """One stored message or event. `millis` is epoch milliseconds, unique and rising within its conversation."""

    id: str
    sequence: int
    millis: int
    time: str
    direction: Literal["inbound", "outbound"]
    role: Role
    kind: Kind = "text"
    name: str | None = None
    text: str | None = None
    key: str | None = None  # the client key
    content: Sequence[Item] = ()
    events: Sequence[Item] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)  # custom attributes that came with it


class Observer(Protocol):
    """A socket attached to a conversation. `request` is that of its upgrade."""

    request: Any

    @property
    def open(self) -> bool: ...

    def send(self, text: str, route: str | None = None) -> None: ...

    def close(self, code: int = 1000, reason: str = "") -> None: ...


class AgentFiles(Protocol):
    """Stores files that the agent sends."""

    def offer(self, conversation: Conversation, name: str, type: str, data: bytes) -> Item:
        """Store a file and return the content item that offers it to the guest."""


class ApiCallbacks(Protocol):
    """What the service reports to an API. `cause` is the value that the API passed in with the request.

    `agent_files` is None if the messages of the API have only text: no content items and no files.
    """

    @property
    def agent_files(self) -> AgentFiles | None: ...

    def message_stored(self, conversation: Conversation, message: StoredMessage, cause: Any) -> None: ...

    def typing(self, conversation: Conversation, role: Role, name: str | None, millis: int) -> None: ...

    def ended(self, conversation: Conversation, role: Role) -> None:
        """The bot, the agent or the admin endpoint has ended the conversation. Its effect depends on the API."""

    def expired(self, conversation: Conversation) -> None: ...

    def token_expired(self, conversation: Conversation) -> None: ...

    def pushed(self, conversation: Conversation, frame: str) -> None:
        """Send a raw frame that a test pushes, as it is. Store it if it is a message of this API."""


@dataclass
class Conversation:
    """One conversation. `id` is never a credential. `notes` is data of its API (JSON)."""

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
    positions: dict[str, int] = field(default_factory=dict)  # message id -> its place in `messages`
    requests: Counter[str] = field(default_factory=Counter)
    traces: dict[str, str] = field(default_factory=dict)  # route -> its last traceparent, the latest last
    last_millis: int = 0
    inbound: int = 0
    shown: int = 0  # messages without events
    memory: dict[str, Any] = field(default_factory=dict)  # the bot's data
    handed_over: bool = False  # a person answers; the bot is silent
    attached: dict[str, StoredAttachment] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)  # mistakes that a test should see

    @property
    def expires_at(self) -> float:
        return self.last_activity + self.deployment.session_life

    def add(self, message: StoredMessage) -> None:
        """Append a message, new or loaded from a file."""
        self.positions.setdefault(message.id, len(self.messages))
        self.messages.append(message)
        self.last_millis = message.millis
        self.inbound += message.role == "guest" and message.kind != "event"
        self.shown += message.kind != "event"
        if message.key is not None:
            self.by_key.setdefault(message.key, message)

    def summary(self) -> dict[str, Any]:
        """Return what programs that watch sessions show: no texts, and counts instead of lists."""
        return {
            "api": self.api,
            "state": self.state,
            "sockets": sum(observer.open for observer in self.observers),
            "messages": self.shown,
            "requests": self.requests.total(),
            "started": rfc3339(self.created),
        }

    def broadcast(self, text: str, route: str | None = None) -> None:
        """Send the same frame to every socket of the conversation."""
        for observer in tuple(self.observers):
            observer.send(text, route)


@dataclass
class StoredAttachment:
    """A file of a guest. `key` signs its upload address; it is never shown in a message."""

    id: str
    name: str
    type: str
    size: int
    key: str = field(repr=False)
    state: Literal["presigned", "stored", "uploaded", "failed", "sent", "deleted"] = "presigned"
    data: bytes = field(default=b"", repr=False)


class Bucket:
    """A token bucket: `count` requests at once, then `count` per `period` seconds.

    The extra fifth of a token tolerates a client that paces itself exactly and is a few milliseconds early on our
    clock. It never lets an extra request through at once.
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


def _at_once(work: Callable[[], object], then: Callable[[], None]) -> bool:
    work()
    then()
    return True


class MessageStore(Protocol):
    """Stores conversations, messages and attachments between runs."""

    def save_conversation(self, conversation: Conversation) -> None: ...

    def save_message(self, conversation: Conversation, message: StoredMessage) -> None: ...

    def save_attachment(self, conversation: Conversation, attachment: StoredAttachment) -> None: ...


def random_hex() -> str:
    """Return 32 lower-case hexadecimal digits, the form of a message id (§4.3)."""
    return secrets.token_hex(16)


class Service:
    """All conversations of one sandbox, of every API."""

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
        aside: Aside = _at_once,
    ) -> None:
        self.clock = clock
        self.later = later
        self._aside = aside
        self.bot = bot
        self.deployments = {deployment.id: deployment for deployment in deployments}
        self.tokens = tokens or Tokens(clock)
        self.fast = fast
        self._agent = agent  # at a handover a person answers, not the script
        self.conversations: dict[str, Conversation] = {}
        self.apis: dict[str, ApiCallbacks] = {}
        self.requests: Counter[str] = Counter()
        self._new_id = ids
        self._store = store
        self._watch = watch
        #: Called with each conversation whose state, messages, requests or sockets have changed, if somebody watches.
        self.on_change: Callable[[Conversation], None] | None = None
        self._guests: dict[str, Conversation] = {}
        self._second = (-1, "")

    def new_id(self) -> str:
        return self._new_id()

    def new_uuid(self) -> str:
        """Return a version 4 UUID from the same source of ids."""
        x = self._new_id()
        return f"{x[:8]}-{x[8:12]}-4{x[13:16]}-{'89ab'[int(x[16], 16) % 4]}{x[17:20]}-{x[20:]}"

    def allows(self, origin: str | None) -> bool:
        """Return whether any deployment allows this Origin."""
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
        """Start a conversation of an API, at the first deployment unless one is given."""
        now = self.clock.now()
        deployment = deployment or next(iter(self.deployments.values()))
        conversation = Conversation(self.new_uuid(), api, deployment, guest_id or self.new_uuid(), now, now)
        conversation.attributes.update(attributes or {})
        conversation.notes.update(notes or {})
        self.add(conversation)
        self.save(conversation)
        return conversation

    def add(self, conversation: Conversation) -> None:
        """Add a conversation, new or loaded from a file."""
        self.conversations[conversation.id] = conversation
        self._guests[conversation.guest_id] = conversation
        self.changed(conversation)

    def by_guest(self, guest_id: str) -> Conversation | None:
        """Return the latest conversation of a guest."""
        return self._guests.get(guest_id)

    def save(self, conversation: Conversation) -> None:
        """Store a conversation after its state, notes or attributes have changed."""
        if self._store is not None:
            self._store.save_conversation(conversation)
        self.changed(conversation)

    def changed(self, conversation: Conversation) -> None:
        """Report a change to those who watch the sessions."""
        if self.on_change is not None:
            self.on_change(conversation)

    def count(self, conversation: Conversation | None, route: str, trace: str | None = None) -> None:
        """Count one guest request for the admin report."""
        self.requests[route] += 1
        if conversation is not None:
            self.count_for(conversation, route, trace)

    def count_for(self, conversation: Conversation, route: str, trace: str | None = None) -> None:
        """Count one request of a conversation, with its trace context."""
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
        attributes: Mapping[str, str] | None = None,
        prompt: str | None = None,
        payload: str | None = None,
        message_id: str | None = None,
        cause: Any = None,
    ) -> StoredMessage:
        """Store a guest's message, report it to the API and ask the bot.

        `prompt` is what the bot gets instead of the text. Return the stored message.
        """
        message = self.append(
            conversation,
            "guest",
            kind,
            text=text,
            key=key,
            content=content,
            metadata=metadata or {},
            attributes=attributes,
            message_id=message_id,
            cause=cause,
        )
        if not conversation.handed_over:
            self._ask_bot(conversation, (text or "") if prompt is None else prompt, payload, conversation.inbound)
        return message

    def _ask_bot(self, conversation: Conversation, text: str, payload: str | None, count: int) -> None:
        """Let the bot answer a message.

        A rule whose pattern is slow on this text is tried in another thread, because other guests wait for this one.
        The bot is asked again when its result is known. If there is no result, the bot does not answer.
        """
        try:
            actions = self.bot.reply_to(
                text, payload=payload, attributes=conversation.attributes, count=count, memory=conversation.memory
            )
        except SlowMatch as slow:
            again = partial(self._ask_bot, conversation, text, payload, count)
            if not self._aside(slow.finish, again):
                slow.give_up()
                again()
            return
        except PatternTimeout as failure:
            self.complain(conversation, f"the bot did not answer: {failure.message}")
            return
        if conversation.memory:
            self.save(conversation)
        self._perform(conversation, actions)

    def complain(self, conversation: Conversation, text: str) -> None:
        """Note a mistake that a test should see, once."""
        if text not in conversation.complaints:
            conversation.complaints.append(text)
            self.save(conversation)

    def greet(self, conversation: Conversation) -> None:
        """Let the bot start the conversation."""
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
        """Store an outbound message. Send it to the attached sockets, too, unless `notify` is false."""
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
        attributes: Mapping[str, str] | None = None,
        message_id: str | None = None,
        time: str | None = None,
        cause: Any = None,
        notify: bool = True,
    ) -> StoredMessage:
        """Append to the transcript and report to the API. Every message is made here.

        A given `time` is only shown: messages are ordered by arrival.
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
            attributes=attributes or {},
        )
        conversation.add(message)
        if self._store is not None:
            self._store.save_message(conversation, message)
            self._store.save_conversation(conversation)
        self.changed(conversation)
        if notify:
            self.apis[conversation.api].message_stored(conversation, message, cause)
        if self._watch is not None:
            self._watch(conversation, message)
        return message

    def next_millis(self, conversation: Conversation) -> int:
        """Return the current epoch milliseconds, made greater than all before in this conversation (§11.5)."""
        conversation.last_millis = max(int(self.clock.now() * 1000), conversation.last_millis + 1)
        return conversation.last_millis

    def format_time(self, millis: int) -> str:
        """Return epoch milliseconds as RFC 3339. Most messages share their second with the previous one."""
        second, rest = divmod(millis, 1000)
        if second != self._second[0]:
            self._second = (second, rfc3339(second)[:-4])
        return f"{self._second[1]}{rest:03d}Z"

    def visible(self, conversation: Conversation, lag: float = 0.0) -> int:
        """Return how many messages history shows, events included: all but those of the last `lag` seconds.

        The cost of a page of history must not depend on the length of the conversation, so no list is made.
        """
        messages = conversation.messages
        if not lag:
            return len(messages)
        return bisect_right(messages, int((self.clock.now() - lag) * 1000), key=lambda message: message.millis)

    def find_message(self, message_id: str) -> tuple[Conversation, StoredMessage] | None:
        """Return a message by its id, with its conversation."""
        for conversation in self.conversations.values():
            position = conversation.positions.get(message_id)
            if position is not None:
                return conversation, conversation.messages[position]
        return None

    def live(self, conversation: Conversation) -> bool:
        """Return whether a conversation accepts messages. Expire it first if its session is too old."""
        if conversation.state == "active" and self.clock.now() >= conversation.expires_at:
            self.expire(conversation)
        return conversation.state == "active"

    def expire(self, conversation: Conversation) -> None:
        """Expire an active conversation, because of its age or on request of a test."""
        if conversation.state == "active":
            self.close(conversation, "expired")
            self.apis[conversation.api].expired(conversation)

    def expire_token(self, conversation: Conversation) -> None:
        """Expire only the credentials of a conversation."""
        self.tokens.expire(conversation.id)
        self.apis[conversation.api].token_expired(conversation)

    def close(self, conversation: Conversation, state: State) -> None:
        conversation.state = state
        self.save(conversation)

    def reset_bot(self, conversation: Conversation) -> None:
        """Clear the bot's memory of a conversation; the bot answers again."""
        conversation.memory.clear()
        conversation.handed_over = False
        self.save(conversation)

    def sweep(self) -> None:
        """Expire conversations that have sockets. The others expire when they are next used."""
        for conversation in tuple(self.conversations.values()):
            if conversation.observers:
                self.live(conversation)

    def attach(self, conversation: Conversation, attachment: StoredAttachment) -> None:
        """Store a file after its state has changed."""
        conversation.attached[attachment.id] = attachment
        if self._store is not None:
            self._store.save_attachment(conversation, attachment)

    def _perform(self, conversation: Conversation, actions: Sequence[BotAction]) -> None:
        """Perform the actions in order, each `delay` seconds after the previous one."""
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
    """Return the UTF-8 bytes of keys and values together (§5.5)."""
    return sum(len(key.encode()) + len(value.encode()) for key, value in attributes.items())


def dumps(value: Any) -> str:
    """Return compact JSON without escapes for non-ASCII text."""
    return _encode(value)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
