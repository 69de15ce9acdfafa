"""What every dialect promises: its addresses, its flows, its reading of frames.

Knows: the shape of an API family. Must not know: HTTP or WebSocket libraries, the clock, the state
database, other dialects.

A dialect is pure: it is given the resolved profile, a source of ids and a trace context; its flows
yield what they want done (see `wire`) and its `decode` turns one frame into what was heard.
What differs between families is *declared* (`declared`), read from their refusals (`refusals`), handed out
as a part that some have (`parts`), or answered by a method here, so that nothing outside this folder ever
asks which API it is talking to.

A family writes `default_rest`, `create`, `send` and `history`; with a socket also `default_socket`,
`socket_address`, `attach` and `decode`; where a token can be renewed, `obtain`. Everything else has a default.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote, urlsplit, urlunsplit

from guestctl.core.errors import Unreadable, Unsupported, UsageError
from guestctl.core.model import (
    Credential,
    CredentialKind,
    Message,
    NewSession,
    Outgoing,
    Position,
    Presence,
    Profile,
    Session,
    Unknown,
)
from guestctl.core.values import Json, immutable
from guestctl.core.wire import Frame, SocketAddress, load_json
from guestctl.dialects.capabilities import Ability
from guestctl.dialects.features import DeploymentConfiguration, FileTransfer, RichContent, SigningIn
from guestctl.dialects.flows import Flow, FrameRequest, Incoming, done
from guestctl.dialects.refusals import Refusals


@immutable
class HistoryPage:
    """One page of history, always ascending within itself. `total` where the service counts.
    An entry that is not for the guest stays in its place as `Unknown`, so that positions can be counted.
    `anchored` is False on a FORWARD page that was asked for with a position history does not
    have (yet, or any more): what is missing before its first item cannot be told.
    `announced_up_to`: nothing more is shown, though the service tells of messages up to this number."""

    items: tuple[Message | Presence | Unknown, ...]
    next: str | None = None
    total: int | None = None
    anchored: bool = True
    announced_up_to: int | None = None


class Dialect(Refusals, ABC):
    """One API family. Subclasses are stateless apart from their profile."""

    def __init__(self, profile: Profile, *, new_id: Callable[[], str], traceparent: str | None = None) -> None:
        self.profile = profile
        self.new_id = new_id
        self.traceparent = traceparent

    def check_profile(self) -> None:
        """Raises UsageError `config.key` for a profile without a value that this API cannot do without."""
        for alternatives in self.required:
            if not any(getattr(self.profile, key) for key in alternatives):
                raise UsageError(
                    f"profile {self.profile.name!r}: the {self.name} API needs "
                    + " or ".join(f"`{key}`" for key in alternatives),
                    code="config.key",
                )

    # --- addresses ---

    @abstractmethod
    def default_rest(self) -> str:
        """REST base when the profile overrides nothing. Raises UsageError when it cannot be derived."""

    def default_socket(self) -> str:
        """Socket base (scheme and host, optional path) likewise."""
        raise self.unsupported(Ability.LISTEN)

    def rest(self, path: str) -> str:
        """The REST address of `path` (which begins with a slash)."""
        return (self.profile.base_url or self.default_rest()).rstrip("/") + path

    def socket(self, path: str) -> str:
        """The socket address: an override with a path is used as it is, else `path` is appended."""
        override = self.profile.socket_url
        if override is None and self.profile.base_url is not None:
            parts = urlsplit(self.profile.base_url)
            override = urlunsplit(("wss" if parts.scheme == "https" else "ws", parts.netloc, "", "", ""))
        base = override or self.default_socket()
        return base if urlsplit(base).path.strip("/") else base.rstrip("/") + path

    def addresses(self) -> tuple[str, ...]:
        """Every base address a token may go to; part of a stored session's identity (contract.md §2)."""
        found = [self.profile.base_url or self.default_rest()]
        if self.has_socket:
            found.append(self.socket(""))
        return tuple(found)

    def all_addresses(self) -> tuple[str, ...]:
        """Every base address that is talked to."""
        return self.addresses()

    # --- a session ---

    @abstractmethod
    def create(self, new: NewSession) -> Flow[Session]:
        """Open a session. A session returned as `draft` is confirmed by the first `attach`."""

    def refreshable(self, session: Session) -> CredentialKind | None:
        """The credential `refresh-token` renews; None: this API has no refresh."""
        return "guest" if Ability.REFRESH in self.abilities else None

    def obtain(self, kind: CredentialKind, session: Session) -> Flow[Session]:
        """Get a fresh credential of one kind for the session; ids may change with it."""
        raise self.unsupported(Ability.REFRESH)

    def oauth(self) -> Flow[Credential]:
        """The profile's client credentials grant (only where `uses_oauth`)."""
        raise UsageError(f"{self.name} uses no OAuth client", code="config.profile")

    def needs_new_token(self, session: Session) -> bool:
        """Whether the token must be renewed before a socket is opened with it."""
        token = session.credential("guest")
        return self.renews_before_reconnect and token is not None and session.used_token == token.secret.placeholder

    # --- its socket ---

    def socket_address(self, session: Session) -> SocketAddress | None:
        """The socket of this session; None: there is none and listening polls history."""
        return None

    def attach(self, session: Session, *, start_new: NewSession | None = None) -> Flow[Session]:
        """First words on a fresh socket, until the service confirms. Returns the session as told; with
        `start_new`, on an API that `can_start_new`, of another conversation, opened with that."""
        raise self.unsupported(Ability.LISTEN)

    def reattach(self, session: Session) -> Flow[Session]:
        """Announce a renewed token on the open socket (only where `reattaches`)."""
        return done(session)

    def heartbeat(self, session: Session) -> FrameRequest | None:
        """An application-level question that proves the service is there; None: protocol pings only."""
        return None

    def decode(self, frame: Frame, session: Session) -> Sequence[Incoming]:
        """What one frame says. Total for well-formed JSON objects: what is not known is `Unknown`.
        Raises Unreadable when it is not JSON, or a known frame lacks what it must have."""
        return ()

    # --- messages ---

    def check_message(self, session: Session, message: Outgoing) -> None:
        """Refuse what the service is bound to refuse, before anything is sent. Raises Refused or UsageError."""
        if message.attributes and "attr" not in self.send_fields:
            raise UsageError(f"the {self.name} API has no field for a message's attributes", code="usage.option")

    @abstractmethod
    def send(self, session: Session, message: Outgoing) -> Flow[Message]:
        """Send one message; returns it as the service accepted it. Raises what the service refused."""

    def after_acceptance(self, session: Session) -> Session:
        """The session, once the service has accepted a message of it."""
        return session

    def began_with_join(self, session: Session) -> bool:
        """Whether something else than messages was said in it, so that one which begins anew is another one."""
        return False

    @abstractmethod
    def history(self, session: Session, *, after: Position | None, cursor: str | None, limit: int) -> Flow[HistoryPage]:
        """One page. FORWARD: what follows `after`, or leads on from `cursor`.

        BY_PAGE_NUMBER: page `cursor` (1 = newest)."""

    # --- what a family may be able to do, as its abilities say ---

    def typing(self, session: Session) -> Flow[None]:
        """Say that the guest is typing."""
        raise self.unsupported(Ability.TYPING)

    def end(self, session: Session) -> Flow[Session]:
        """End the conversation as the guest."""
        raise self.unsupported(Ability.END)

    def clear(self, session: Session) -> Flow[Session]:
        """Clear the conversation: the transcript goes with it."""
        raise self.unsupported(Ability.CLEAR)

    def sync(self, session: Session, attributes: Mapping[str, Json]) -> Flow[Mapping[str, Json]]:
        """Merge attributes into the guest's profile; returns them with what the API adds. Raises UsageError for
        one that is the API's own."""
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

    # --- saying what is missing ---

    def unsupported(self, ability: Ability) -> Unsupported:
        return Unsupported(f"the {self.name} API has no `{ability.value}`", api=self.name)

    def need(self, key: str) -> str:
        """A profile value this dialect cannot do without. Raises UsageError naming the key."""
        value = getattr(self.profile, key)
        if not value:
            raise UsageError(
                f"profile {self.profile.name!r}: `{key}` is needed by the {self.name} API", code="config.key"
            )
        return str(value)


def id_in_path(session: Session, name: str) -> str:
    """One of the session's ids, as a path segment."""
    return quote(str(session.ids[name]), safe="")


def frame_object(frame: Frame) -> dict[str, Json]:
    """The frame's JSON object. Raises Unreadable."""
    value = load_json(frame.text, "frame")
    if not isinstance(value, dict):
        raise Unreadable(f"frame: expected an object, got {type(value).__name__}", body=frame.text[:200])
    return value


def normalised_time(value: object) -> str | None:
    """A service timestamp as RFC 3339 UTC with milliseconds; None when absent or not a time."""
    if not isinstance(value, str):
        return None
    if len(value) == 24 and value[10] == "T" and value[19] == "." and value[23] == "Z":
        return value
    from guestctl.core.clock import epoch_of, rfc3339

    try:
        return rfc3339(epoch_of(value))
    except (ValueError, OverflowError):
        return None
