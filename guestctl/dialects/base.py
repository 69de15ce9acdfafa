"""The interface of every dialect: its addresses, its flows, its decoding of frames.

Knows: the operations of an API. Must not know: HTTP or WebSocket libraries, the clock, the state
database, a particular API.

A dialect is pure. It receives the resolved profile and a source of ids. Its flows yield the
steps that they want performed (see `flows`), and `decode` turns one frame into events and signals. APIs differ
in declarations (`capabilities`), in the meaning of refusals (`refusals`), in optional features (`features`)
and in the methods below. Code outside this folder therefore never asks which API it is using.

Every dialect implements `default_rest`, `create`, `send` and `history`. A dialect with a socket also implements
`default_socket`, `socket_address`, `attach` and `decode`; one with renewable tokens, `obtain`. Everything else
has a default.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeAlias
from urllib.parse import quote, urlsplit, urlunsplit

from guestctl.core.errors import Forbidden, NetworkError, Unauthorised, Unreadable, Unsupported, UsageError
from guestctl.core.model import (
    UNREADABLE,
    Credential,
    CredentialKind,
    Message,
    NewSession,
    Outgoing,
    Position,
    Presence,
    Profile,
    Secret,
    Session,
    Unknown,
)
from guestctl.core.values import Json, immutable
from guestctl.core.wire import Frame, Request, SocketAddress, load_json, optional, optional_identifier
from guestctl.dialects.capabilities import Ability
from guestctl.dialects.features import DeploymentConfiguration, FileTransfer, RichContent, SigningIn
from guestctl.dialects.flows import Flow, FrameRequest, Incoming, Rejection, done
from guestctl.dialects.refusals import Refusals, mark_written

#: The characters of a token: those that an HTTP header may have, without blanks.
_TOKEN = re.compile(r"[!-~]+")


#: Entries held while a position without a time is searched for. A caller reads on from there.
PASSED = 10_000


@immutable
class Omitted:
    """An entry of history that is not for the guest, such as a receipt. It only counts as a position."""


HistoryEntry: TypeAlias = Message | Presence | Unknown | Omitted


@immutable
class HistoryPage:
    """One page of history, oldest item first.

    An entry that cannot be read is `Unknown` with the label `UNREADABLE`: it does not hide the other entries.
    `next` is the cursor of the next page. `total` is the number of messages, if the service reports it.
    `anchored` is False for a FORWARD page after a position that history does not contain (yet, or any more): then
    messages before the first item may be missing. `announced_up_to` is set if history ends before the highest
    sequence number that the service announces.
    """

    items: tuple[HistoryEntry, ...]
    next: str | None = None
    total: int | None = None
    anchored: bool = True
    announced_up_to: int | None = None


class Dialect(Refusals, ABC):
    """The client side of one API. Subclasses have no state apart from their profile."""

    def __init__(self, profile: Profile, *, new_id: Callable[[], str]) -> None:
        self.profile = profile
        self.new_id = new_id
        #: The profile states that the service stores a repeated client key once, so that a send may be repeated.
        self.deduplicates = profile.deduplicates

    def check_profile(self) -> None:
        """Raise UsageError (config.key) if the profile lacks a value that this API requires."""
        for alternatives in self.required:
            if not any(getattr(self.profile, key) for key in alternatives):
                raise UsageError(
                    f'profile "{self.profile.name}": the {self.name} API needs '
                    + " or ".join(f'"{key}"' for key in alternatives),
                    code="config.key",
                )

    # --- addresses ---

    @abstractmethod
    def default_rest(self) -> str:
        """Return the REST base address without overrides. Raises UsageError if the profile lacks a value for it."""

    def default_socket(self) -> str:
        """Return the socket base address (scheme, host, optional path) without overrides. Raises UsageError."""
        raise self.unsupported(Ability.LISTEN)

    def rest(self, path: str) -> str:
        """Return the REST address of `path`, which starts with a slash."""
        return (self.profile.base_url or self.default_rest()).rstrip("/") + path

    def socket(self, path: str) -> str:
        """Return the socket URL: an override that has a path, or the base address with `path` appended."""
        override = self.profile.socket_url
        if override is None and self.profile.base_url is not None:
            parts = urlsplit(self.profile.base_url)
            override = urlunsplit(("wss" if parts.scheme == "https" else "ws", parts.netloc, "", "", ""))
        base = override or self.default_socket()
        return base if urlsplit(base).path.strip("/") else base.rstrip("/") + path

    def addresses(self) -> tuple[str, ...]:
        """Return each base address that may receive a token. They identify a stored session (contract.md §2)."""
        found = [self.profile.base_url or self.default_rest()]
        if self.has_socket:
            found.append(self.socket(""))
        return tuple(found)

    def all_addresses(self) -> tuple[str, ...]:
        """Return each base address that guestctl connects to."""
        return self.addresses()

    # --- a session ---

    @abstractmethod
    def create(self, new: NewSession) -> Flow[Session]:
        """Open a session. The first `attach` confirms a session that is returned as `draft`."""

    def default_attributes(self, new: NewSession) -> Mapping[str, str]:
        """Return the attributes that a new session has unless the profile or the command sets others."""
        return {}

    def refreshable(self, session: Session) -> CredentialKind | None:
        """Return the kind of credential that `refresh-token` renews, or None if the API has no refresh."""
        return "guest" if Ability.REFRESH in self.abilities else None

    def obtain(self, kind: CredentialKind, session: Session) -> Flow[Session]:
        """Return the session with a new credential of this kind. Its ids may change, too."""
        raise self.unsupported(Ability.REFRESH)

    def oauth(self) -> Flow[Credential]:
        """Exchange the profile's OAuth client for an access token (only if `uses_oauth`)."""
        raise UsageError(f"{self.name} uses no OAuth client", code="config.profile")

    def needs_new_token(self, session: Session) -> bool:
        """Return whether the token must be renewed before it opens another socket."""
        token = session.credential("guest")
        return self.renews_before_reconnect and token is not None and session.used_token == token.secret.placeholder

    def check_token(self, token: Secret) -> None:
        """Raise Unauthorised for a text that cannot be a guest's token. An expired token is no reason."""
        if not _TOKEN.fullmatch(token.reveal()):
            raise Unauthorised(
                "not a token: empty, or with characters that a token cannot have", code="auth.secret", api=self.name
            )

    # --- its socket ---

    def socket_address(self, session: Session) -> SocketAddress | None:
        """Return the address of the session's socket, or None: then listening polls history."""
        return None

    def attach(
        self, session: Session, *, start_new: NewSession | None = None, traceparent: str | None = None
    ) -> Flow[Session]:
        """Authenticate on a new socket and wait until the service confirms. Return the session as confirmed.

        `traceparent` is the trace context that the first frame states, if it is a JSON object of the client. With
        `start_new` (only if `can_start_new`), close the conversation and begin another one.
        """
        raise self.unsupported(Ability.LISTEN)

    def reattach(self, session: Session, *, traceparent: str | None = None) -> Flow[Session]:
        """Send a renewed token on the open socket (only if `reattaches`)."""
        return done(session)

    def heartbeat(self, session: Session) -> FrameRequest | None:
        """Return an application-level health check, or None: then only protocol pings are sent."""
        return None

    def decode(self, frame: Frame, session: Session) -> Sequence[Incoming]:
        """Return what one frame means. A JSON object that is not known becomes `Unknown`.

        Raises Unreadable for anything but a JSON object, and for a known frame without a member that it must have.
        """
        return ()

    # --- messages ---

    def check_message(self, session: Session, message: Outgoing) -> None:
        """Raise Refused or UsageError for a message that the service would refuse."""
        if message.attributes and "attr" not in self.send_fields:
            raise UsageError(f"the {self.name} API has no field for a message's attributes", code="usage.option")

    @abstractmethod
    def send(self, session: Session, message: Outgoing) -> Flow[Message]:
        """Send one message and return it as accepted. Raises the failure if the service refuses it."""

    def as_own(self, session: Session, message: Message) -> Message | None:
        """Return a message as the guest's own, or None if somebody else sent it.

        Where the API does not say who the guest is, this includes each message whose sender is unknown.
        """
        return message if message.direction == "inbound" else None

    def after_acceptance(self, session: Session, accepted: Message | None = None) -> Session:
        """Return the session after the service accepted a message in it; `accepted` is the message, if it was seen."""
        return session

    def began_with_join(self, session: Session) -> bool:
        """Return whether the guest has joined: then a session without messages cannot simply be replaced, either."""
        return False

    @abstractmethod
    def history(self, session: Session, *, after: Position | None, cursor: str | None, limit: int) -> Flow[HistoryPage]:
        """Return one page of at most `limit` items.

        FORWARD: the page after the position `after`, or the page of `cursor` if that is given.
        BY_PAGE_NUMBER: page number `cursor`; page 1 is the newest.
        """

    # --- operations that only some APIs have (see `abilities`) ---

    def typing(self, session: Session) -> Flow[None]:
        """Send a typing event."""
        raise self.unsupported(Ability.TYPING)

    def end(self, session: Session) -> Flow[Session]:
        """End the conversation as the guest."""
        raise self.unsupported(Ability.END)

    def clear(self, session: Session) -> Flow[Session]:
        """Clear the conversation, which also deletes its transcript."""
        raise self.unsupported(Ability.CLEAR)

    def sync(self, session: Session, attributes: Mapping[str, Json]) -> Flow[Mapping[str, Json]]:
        """Merge attributes into the guest's profile and return them with those that the API adds.

        Raises UsageError for an attribute that only the API may set.
        """
        raise self.unsupported(Ability.SYNC)

    @property
    def rich_content(self) -> RichContent | None:
        return None

    @property
    def files(self) -> FileTransfer | None:
        return None

    @property
    def signing_in(self) -> SigningIn | None:
        return None

    @property
    def deployment_configuration(self) -> DeploymentConfiguration | None:
        return None

    # --- what a 403 may be about ---

    def with_checked_values(self, text: str, request: Request) -> str:
        checked = {key: getattr(self.profile, key) for key in self.forbidden_by}
        if "queue" in checked:
            checked["queue"] = self.queue_in(request) or checked["queue"]
        found = [f'{key} "{value}"' if value else f"{key} (none set)" for key, value in checked.items()]
        if self.scopes:
            found.append(f'the scopes "{self.scopes}"')
        return f"{text.rstrip('. ')}; this API checks {' and '.join(found)}" if found else text

    def queue_in(self, request: Request) -> str | None:
        """Return the queue that a request names, None if it names none."""
        return None

    def read_queue(self, queue: str) -> Flow[str | None] | None:
        """Return the flow that reads a queue's name with the OAuth client's token; None if no call of the API can.

        Its request is refused with 404 for an unknown queue, and with 403 if the client may not read queues.
        """
        return None

    # --- errors for missing abilities and keys ---

    def unsupported(self, ability: Ability) -> Unsupported:
        """Return the failure for an operation that this API does not have."""
        return Unsupported(f'the {self.name} API has no "{ability.value}"', api=self.name)

    def need(self, key: str) -> str:
        """Return a value of the profile. Raises UsageError if the profile lacks it."""
        value = getattr(self.profile, key)
        if not value:
            raise UsageError(f'profile "{self.profile.name}": the {self.name} API needs "{key}"', code="config.key")
        return str(value)


def read_entries(entries: Sequence[Json], read: Callable[[Json], HistoryEntry]) -> list[HistoryEntry]:
    """Return each entry as `read` does. One that it cannot read becomes `Unknown`, as the same body does live."""
    found: list[HistoryEntry] = []
    for entry in entries:
        try:
            found.append(read(entry))
        except Unreadable as failure:
            found.append(unreadable(entry, failure.message))
    return found


def unreadable(body: Json, reason: str) -> Unknown:
    """Return the event for a message, or an entry of history, that cannot be read."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return Unknown(UNREADABLE, {"reason": reason, "text": text[:200]}, id=own_id(body))


def unreadable_frame(frame: Frame, reason: str) -> Unknown:
    """Return the event for a frame that cannot be read. History may show the same message: it has the same body."""
    try:
        value = load_json(frame.text, "frame")
    except Unreadable:
        return unreadable(frame.text, reason)
    if isinstance(value, dict):
        for member in ("body", "message", "payload"):
            if isinstance(value.get(member), dict):
                return unreadable(value[member], reason)
    return unreadable(value if isinstance(value, dict) else frame.text, reason)


def own_id(body: Json) -> str | None:
    """Return the service's id of a message object, None if it has none."""
    for member in ("id", "messageId"):
        value = optional_identifier(body, member) if isinstance(body, dict) else None
        if value:
            return value
    return None


def id_in_path(session: Session, name: str) -> str:
    """Return one of the session's ids, quoted as a path segment.

    Raises Unsupported if the service gave the session no such id: the answers that two APIs publish have none.
    """
    value = session.ids.get(name)
    if value is None:
        raise Unsupported(
            f"the service gave this session no {name} id, which this operation needs",
            code="api.no_guest_id",
            api=session.api,
        )
    return quote(value, safe="")


def frame_object(frame: Frame) -> dict[str, Json]:
    """Return the JSON object in a frame. Raises Unreadable for anything else."""
    value = load_json(frame.text, "frame")
    if not isinstance(value, dict):
        raise Unreadable(f"frame: expected an object, got {type(value).__name__}", body=frame.text[:200])
    return value


def other_frame(label: Json, value: dict[str, Json], api: str) -> Incoming:
    """Return what a frame of no known class means: a refusal by the gateway in front of the service, or `Unknown`.

    The gateway answers a frame that it cannot pass on with `message` and the ids of the connection and the request,
    and without a type (web-messaging.md §2.5). It names no request, so the refusal answers the one that waits.
    """
    text = optional(value, "message", str)
    gateway = label is None and text is not None and ("connectionId" in value or "requestId" in value)
    if not gateway:
        return Unknown(str(label) if label is not None else "gateway", value)
    kind, code = (Forbidden, "forbidden.gateway") if text == "Forbidden" else (NetworkError, "service.down")
    return Rejection(mark_written(kind(f"the gateway answers: {text}", code=code, api=api, body=text)))


def history_from_start(
    page: Callable[[str | None], Flow[HistoryPage]], after: Position, cursor: str | None = None
) -> Flow[HistoryPage]:
    """Read history from the beginning, or from `cursor`, and return the page that contains `after`, without the items
    up to it.

    If history does not contain that message, return a page with `anchored` False: the items after its time, or the
    whole history if its time is unknown.
    """
    passed: list[HistoryEntry] = []
    cursors: set[str] = set()
    while True:
        read = yield from page(cursor)
        for index, item in enumerate(read.items):
            if isinstance(item, (Unknown, Omitted)):
                continue
            if item.id == after.id:
                return replace(read, items=read.items[index + 1 :])
            if after.time is not None and item.time is not None and item.time > after.time:
                return replace(read, items=read.items[index:], anchored=False)
        if after.time is None:
            passed.extend(read.items)
        if read.next is None or len(passed) >= PASSED:
            return replace(read, items=tuple(passed), anchored=False)
        if read.next in cursors or not read.items:
            raise Unreadable(f'history does not advance beyond the cursor "{read.next[:80]}"')
        cursor = read.next
        cursors.add(cursor)


def normalised_time(value: object) -> str | None:
    """Return a timestamp as RFC 3339 in UTC with milliseconds, or None if the value is not a time."""
    if not isinstance(value, str):
        return None
    try:
        if len(value) == 24 and value[4:11:3] == "--T" and value[19] == "." and value[23] == "Z":
            datetime.fromisoformat(value[:23])
            return value
        from guestctl.core.clock import epoch_of, rfc3339

        return rfc3339(epoch_of(value))
    except (ValueError, OverflowError):
        return None
