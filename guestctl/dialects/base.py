"""What every dialect promises: its abilities, its flows, its reading of frames and refusals.

Knows: the shape of an API family and the rules all seven share (dialects.md, "Shared rules").
Must not know: HTTP or WebSocket libraries, the clock, the state database, other dialects.

A dialect is pure: it is given the resolved profile, a source of ids and a trace context; its flows
yield what they want done (see `wire`) and its `decode` turns one frame into what was heard.
Everything that differs between families is *declared* here or answered by a method, so that
nothing outside this folder ever asks which API it is talking to.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import ClassVar, Literal, TypeAlias
from urllib.parse import quote, urlsplit, urlunsplit

from guestctl.errors import (
    Conflict,
    Failure,
    Forbidden,
    NetworkError,
    RateLimited,
    Refused,
    SessionOver,
    Unauthorised,
    Unreadable,
    Unsupported,
    UsageError,
)
from guestctl.model import (
    Credential,
    CredentialKind,
    Deployment,
    FormField,
    Json,
    Message,
    Opening,
    Outgoing,
    Presence,
    Profile,
    Session,
    SignIn,
    Unknown,
)
from guestctl.values import immutable
from guestctl.wire import Door, Flow, Frame, Heard, Reply, Request, Turn, load_json

TEXT_PLAIN_LIMIT = 500


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
    """Whether an operation's wire is published, or fixed by dialects.md where the source is silent."""

    PUBLISHED = "published"
    FIXED = "fixed by us"


class Paging(Enum):
    """How history is read. FORWARD: ascending after a position, `Page.next` leads on.
    NUMBERED: newest first by page number, `Page.total` tells how many messages there are."""

    FORWARD = "forward"
    NUMBERED = "numbered"


CloseAction: TypeAlias = Literal["done", "reconnect", "renew", "final", "too_big"]
"""What a close code asks of the client. `renew`: refresh the token, then a fresh socket.
`too_big`: our last frame was refused for its size, which rejects that send."""


@immutable
class Position:
    """A place in a conversation: everything after this message is wanted."""

    id: str
    sequence: int | None = None
    time: str | None = None


@immutable
class Page:
    """One page of history, always ascending within itself. `total` where the service counts.
    `highest`: the conversation's last sequence number, where it has them. An entry that is
    not for the guest stays in its place as `Unknown`, so that positions can be counted.
    `anchored` is False on a FORWARD page that was asked for with a position history does not
    have (yet, or any more): what is missing before its first item cannot be told."""

    items: tuple[Message | Presence | Unknown, ...]
    next: str | None = None
    total: int | None = None
    highest: int | None = None
    anchored: bool = True


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


class Dialect(ABC):
    """One API family. Subclasses are stateless apart from their profile."""

    name: ClassVar[str]
    summary: ClassVar[str]
    abilities: ClassVar[Mapping[Ability, Standing]]
    #: Options of `session create` this API has a field for: attr, queue, skill, language, email, name.
    fields: ClassVar[frozenset[str]] = frozenset()
    #: Those of `send`: attr.
    send_fields: ClassVar[frozenset[str]] = frozenset()
    #: Claims without which a guest's token, a JWT here, is of no use.
    token_claims: ClassVar[tuple[str, ...]] = ()
    #: Profile keys without which nothing can be addressed, each a tuple of alternatives.
    required: ClassVar[tuple[tuple[str, ...], ...]] = ()
    paging: ClassVar[Paging] = Paging.FORWARD
    page_size: ClassVar[int] = 50
    #: The service drops a repeated client id, so that a send may be repeated safely.
    deduplicates: ClassVar[bool] = True
    #: A message's client id comes back in pushes and in history.
    returns_key: ClassVar[bool] = True
    #: Reconnect attempts unless the profile says otherwise.
    attempts: ClassVar[int] = 10
    #: Guest messages a session may send; None: the service's 429 is the only limit.
    send_rate: ClassVar[Rate | None] = None
    #: REST requests one profile may make; shared by its processes.
    request_rate: ClassVar[Rate | None] = None
    #: Seconds before expiry at which each kind of credential is renewed ahead of use.
    margins: ClassVar[Mapping[str, float]] = {}
    #: The wait between renewing a refused token and repeating the request, growing with each try the
    #: refresh itself needs while it is answered 429 or 5xx; None: at once, and the refresh has the usual tries.
    renewal: ClassVar[Backoff | None] = None
    #: Once a socket that used the token has closed, the token must be renewed before the next CONNECT.
    spoilt_by_close: ClassVar[bool] = False
    #: A renewed token is announced on the open socket by `reattach`.
    reattaches: ClassVar[bool] = False
    #: `attach(start_new=True)` begins another conversation for the same guest.
    restarts: ClassVar[bool] = False
    #: History may lag behind accepted sends and pushes; catch-up waits (bounded) for known messages.
    history_lags: ClassVar[bool] = False
    #: A guest message goes over the socket (a Turn), not over REST.
    sends_on_socket: ClassVar[bool] = False
    #: Simultaneous sockets of one session before the service evicts the oldest.
    sockets_per_session: ClassVar[int] = 3
    #: A graceful close by the guest, who may come back.
    goodbye: ClassVar[tuple[int, str]] = (1000, "")
    #: The close that ends the conversation, where that is how `end` is said.
    farewell: ClassVar[tuple[int, str] | None] = None
    #: Every session's socket has the same address, so that 404 there does not speak of the session.
    shared_socket: ClassVar[bool] = False
    #: Without a socket, listening polls history.
    has_socket: ClassVar[bool] = True
    #: The profile's `origin` is sent, and the deployment's allowed domains decide.
    sends_origin: ClassVar[bool] = False
    #: The profile's OAuth client is exchanged for what authorises some of its requests.
    uses_oauth: ClassVar[bool] = False
    #: Every address of the family as its source writes it: what for, and where; `{…}` is one part of it.
    places: ClassVar[tuple[tuple[str, str], ...]] = ()

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

    def hosts(self) -> tuple[str, ...]:
        """Every base address that is talked to."""
        return self.addresses()

    # --- operations; each a flow ---

    @abstractmethod
    def create(self, opening: Opening) -> Flow[Session]:
        """Open a session. A session returned as `draft` is confirmed by the first `attach`."""

    def door(self, session: Session) -> Door | None:
        """The socket of this session; None: there is none and listening polls history."""
        return None

    def attach(self, session: Session, *, start_new: bool = False) -> Flow[Session]:
        """First words on a fresh socket, until the service confirms. Returns the session as told."""
        raise self.unsupported(Ability.LISTEN)
        yield

    def reattach(self, session: Session) -> Flow[Session]:
        """Announce a renewed token on the open socket (only where `reattaches`)."""
        return session
        yield

    def refreshable(self, session: Session) -> CredentialKind | None:
        """The credential `refresh-token` renews; None: this API has no refresh."""
        return "guest" if Ability.REFRESH in self.abilities else None

    def obtain(self, kind: CredentialKind, session: Session) -> Flow[Session]:
        """Get a fresh credential of one kind for the session; ids may change with it."""
        raise self.unsupported(Ability.REFRESH)
        yield

    def oauth(self) -> Flow[Credential]:
        """The profile's client credentials grant."""
        raise UsageError(f"{self.name} uses no OAuth client", code="config.profile")
        yield

    @abstractmethod
    def send(self, session: Session, message: Outgoing) -> Flow[Message]:
        """Send one message; returns it as the service accepted it. Raises what the service refused."""

    def check(self, session: Session, message: Outgoing) -> None:
        """Refuse what the service is bound to refuse, before anything is sent. Raises Refused or UsageError."""
        if message.attributes and "attr" not in self.send_fields:
            raise UsageError(f"the {self.name} API has no field for a message's attributes", code="usage.option")

    @abstractmethod
    def history(self, session: Session, *, after: Position | None, cursor: str | None, limit: int) -> Flow[Page]:
        """One page. FORWARD: what follows `after`, or leads on from `cursor`. NUMBERED: page `cursor` (1 = newest)."""

    def typing(self, session: Session) -> Flow[None]:
        raise self.unsupported(Ability.TYPING)
        yield

    def end(self, session: Session) -> Flow[Session]:
        """End the conversation as the guest."""
        raise self.unsupported(Ability.END)
        yield

    def clear(self, session: Session) -> Flow[Session]:
        """Clear the conversation: the transcript goes with it."""
        raise self.unsupported(Ability.CLEAR)
        yield

    def sign_in(self, proof: SignIn) -> Flow[Credential]:
        """Exchange what the identity provider gave for a credential of kind `sign-in`."""
        raise self.unsupported(Ability.SIGN_IN)
        yield

    def sign_out(self, session: Session) -> Flow[Session]:
        """Revoke the sign-in; the service then logs every socket of the session out."""
        raise self.unsupported(Ability.SIGN_IN)
        yield

    def heartbeat(self, session: Session) -> Turn | None:
        """An application-level question that proves the service is there; None: protocol pings only."""
        return None

    def configuration(self) -> Flow[Json]:
        """The deployment's public configuration as published; None where an API publishes none."""
        return None
        yield

    def deployment(self, configuration: Json) -> Deployment:
        """What a published configuration says of messaging."""
        return Deployment()

    def begin(self, session: Session, deployment: Deployment, opening: Opening) -> Flow[Session]:
        """What a guest says right after a *new* session was confirmed (auto-start); nothing by default."""
        return session
        yield

    def answer(
        self, outgoing: Outgoing, message: Message, pick: Sequence[str], form: Mapping[str, Json] | None
    ) -> Outgoing | None:
        """`outgoing` as the answer to `message`: what is picked of its options (by number, label, payload or
        date), or its form filled in (field -> value). None: it offers nothing of the kind. Raises UsageError
        for what it does not offer."""
        return None

    def history_omits(self, message: Message) -> bool:
        """Whether history will not show what a live message offers: it must be remembered to be answered."""
        return False

    def form_fields(self, message: Message) -> tuple[FormField, ...]:
        """The fields of the form in `message`; empty when it holds none."""
        return ()

    def upload(self, session: Session, name: str, mime: str, content: bytes) -> Flow[str]:
        """Upload one file; returns the attachment id once the service has accepted it."""
        raise self.unsupported(Ability.FILES)
        yield

    def discard(self, session: Session, attachment_id: str) -> Flow[None]:
        """Delete an uploaded file that no message refers to; nothing where an API has no such request."""
        return
        yield

    def download(self, session: Session, attachment_id: str) -> Flow[tuple[Request, str | None]]:
        """The request that fetches an attachment now (a fresh presigned address), and its offered name."""
        raise self.unsupported(Ability.FILES)
        yield

    def sync(self, session: Session, attributes: Mapping[str, Json]) -> Flow[None]:
        """Merge attributes into the guest's profile."""
        raise self.unsupported(Ability.SYNC)
        yield

    def healed_by_renewal(self, failure: Failure) -> bool:
        """Whether a refusal in the stream means that the token is spoilt: renew, re-attach, send again.

        Over REST the request itself has been repeated with a new token by then."""
        return self.sends_on_socket and isinstance(failure, Unauthorised)

    # --- reading ---

    def decode(self, frame: Frame, session: Session) -> Sequence[Heard]:
        """What one frame says. Total for well-formed JSON objects: what is not known is `Unknown`.
        Raises Unreadable when it is not JSON, or a known frame lacks what it must have."""
        return ()

    def on_close(self, code: int) -> CloseAction:
        """What a close code means (dialects.md, "Shared rules")."""
        if code == 1000:
            return "done"
        if code in {1001, 1005, 1006, 1011, 1012, 1013, 1014}:
            return "reconnect"
        return "renew" if code in {1008, 4001} else "final"

    def on_early_close(self, code: int) -> CloseAction:
        """The same for a close that comes before the service has confirmed our first words. `renew`
        here is tried once: when the new token fares no better, it was not the token."""
        return self.on_close(code)

    def refusal(self, request: Request, reply: Reply) -> Failure:
        """A non-2xx answer as the failure it means, with the service's own words."""
        body = reply.text()[:2000]
        said = self._said(body)
        words = said.get("message") or _plain_words(body) or "no explanation"
        service_code = said.get("code")
        what = f"{request.route}: HTTP {reply.status}: {words}"
        kind, code = self.status_failure(reply.status, service_code, request)
        if kind is NetworkError:
            return NetworkError(
                what,
                code=code,
                written=True,
                api=self.name,
                http_status=reply.status,
                service_code=service_code,
                retry_after=retry_after(reply),
                body=body,
            )
        return kind(
            what,
            code=code,
            api=self.name,
            http_status=reply.status,
            service_code=service_code,
            retry_after=retry_after(reply),
            body=body,
        )

    def status_failure(
        self, status: int, service_code: str | int | None, request: Request
    ) -> tuple[type[Failure], str]:
        """Failure class and stable code of an HTTP status (dialects.md, "Shared rules")."""
        if status < 400:
            # A socket's upgrade answered 200 is no refusal: what answers is not this service.
            return Unreadable, "answer.redirect" if status >= 300 else "answer.unreadable"
        if status >= 500:
            return NetworkError, "service.down"
        if status == 401:
            oauth = "oauth" in (request.credential, request.route)
            return Unauthorised, "auth.oauth" if oauth else "auth.refused"
        if status == 403:
            return Forbidden, "forbidden.upgrade" if request.route == "socket" else "forbidden"
        if status == 404:
            nobody = request.route in {"create", "oauth", "configuration", "download"}
            if nobody or (request.route == "socket" and self.shared_socket):
                return Refused, "service.not_found"
            return SessionOver, "session.gone"
        if status == 409:
            return Conflict, _CONFLICTS.get(service_code, "conflict")
        if status == 429:
            return RateLimited, "rate.limited"
        return Refused, "service.refused"

    def stream_failure(self, status: int, words: str, *, service_code: str | int | None = None) -> Failure:
        """A refusal in the stream whose code is an HTTP status, as the failure it means."""
        kind, code = self.status_failure(status, service_code, Request("GET", "", "send"))
        what = f"{words} ({status})"
        if kind is NetworkError:
            return NetworkError(
                what, code=code, written=True, api=self.name, service_code=service_code or status, body=words
            )
        return kind(what, code=code, api=self.name, service_code=service_code or status, body=words)

    @staticmethod
    def _said(body: str) -> dict[str, str]:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return {}
        if not isinstance(value, dict):
            return {}
        said = {
            "message": value.get("message", value.get("error_description")),  # RFC 6749 §5.2 names them so
            "code": value.get("code", value.get("error")),
        }
        return {k: str(v) for k, v in said.items() if isinstance(v, (str, int))}

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


_CONFLICTS: Mapping[str | int | None, str] = {
    "session.locked": "conflict.locked",
    "session.invalid": "conflict.ended",
}


def id_in_path(session: Session, name: str) -> str:
    """One of the session's ids, as a path segment."""
    return quote(str(session.ids[name]), safe="")


def frame_object(frame: Frame) -> dict[str, Json]:
    """The frame's JSON object. Raises Unreadable."""
    value = load_json(frame.text, "frame")
    if not isinstance(value, dict):
        raise Unreadable(f"frame: expected an object, got {type(value).__name__}", body=frame.text[:200])
    return value


def _plain_words(body: str) -> str:
    """What a body without a `message` says, in one line; of a page, its title or what stands between its tags."""
    if body.lstrip().startswith("<"):
        title = re.search(r"<(title|message)>([^<]+)", body, re.IGNORECASE)
        body = title[2] if title else re.sub(r"<[^>]*>", " ", body)
    return " ".join(body.split())[:TEXT_PLAIN_LIMIT]


def retry_after(reply: Reply) -> float | None:
    """`Retry-After` in seconds from the reply's arrival: seconds or an HTTP date (RFC 9110 §10.2.3).
    None when absent or malformed; a date in the past is 0."""
    value = reply.headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, moment - reply.at)


def normalised_time(value: object) -> str | None:
    """A service timestamp as RFC 3339 UTC with milliseconds; None when absent or not a time."""
    if not isinstance(value, str):
        return None
    if len(value) == 24 and value[10] == "T" and value[19] == "." and value[23] == "Z":
        return value
    from guestctl.clock import epoch_of, rfc3339

    try:
        return rfc3339(epoch_of(value))
    except (ValueError, OverflowError):
        return None
