"""What the numbers and names of this field mean, offline.

Knows: HTTP statuses, service codes, close codes, frame classes, exit codes and guestctl's own
failure codes; per entry the cause, what guestctl does, and where it is stated. Next steps are
`errors.NEXT_STEPS`, which hangs on every error too: there is no second copy. Must not know: the
network, a profile, how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from guestctl.errors import NEXT_STEPS, Exit


@dataclass(frozen=True, slots=True)
class Explanation:
    """One entry. `failure` is the stable failure code it leads to, whose next step is shown.
    `apis` names the APIs it belongs to, empty for all."""

    code: str
    kind: str
    meaning: str
    cause: str
    does: str
    failure: str | None
    source: str
    apis: tuple[str, ...] = ()

    @property
    def next_step(self) -> str:
        return NEXT_STEPS[self.failure] if self.failure else ""


_WM = ("web-messaging",)
_REFERENCE = "web-messaging-v1.md"
_DIALECTS = "dialects.md, Shared rules"

_HTTP = (
    ("400", "bad request", "a field is missing or malformed", "exits 3 with the service's words", "service.refused"),
    (
        "401",
        "not authorised",
        "the token is missing, wrong or expired",
        "renews the token once and repeats; then exits 4",
        "auth.refused",
    ),
    (
        "403",
        "forbidden",
        "a scope, the deployment's allowed domains, or a feature that is off",
        "never retries; exits 5",
        "forbidden",
    ),
    (
        "404",
        "not found",
        "an unknown conversation or guest, or an address that is not this API",
        "exits 10 for a session, 3 otherwise",
        "session.gone",
    ),
    (
        "409",
        "conflict",
        "the session is locked for a moment, read-only, or has ended",
        "waits up to 5 s for a lock; else exits 6",
        "conflict",
    ),
    (
        "415",
        "unsupported media type",
        "Content-Type is not exactly application/json",
        "exits 3; guestctl always sends it exactly",
        "service.refused",
    ),
    (
        "429",
        "too many requests",
        "a rate limit of the service",
        "waits Retry-After (seconds or date), at most 3 times; then exits 7",
        "rate.limited",
    ),
    (
        "500",
        "service error",
        "a fault on the other side",
        "repeats what is safe to repeat; then exits 8",
        "service.down",
    ),
    ("502", "bad gateway", "a proxy or gateway got no good answer", "as 500", "service.down"),
    (
        "503",
        "unavailable",
        "the service is overloaded or restarting",
        "as 500, waiting Retry-After when given",
        "service.down",
    ),
    ("504", "gateway timeout", "a gateway waited too long for the service", "as 500", "service.down"),
)

_CLOSES = (
    ("1000", "normal closure", "one side is done", "nothing, when we asked; a listener reconnects", None),
    (
        "1001",
        "going away",
        "idle limit, two-hour limit or a restart of the service",
        "reconnects and fills the gap",
        "network.lost",
    ),
    ("1002", "protocol error", "a peer broke RFC 6455", "stops", "answer.frame"),
    ("1003", "unsupported data", "a binary frame where text was expected", "stops", "answer.frame"),
    ("1005", "no status", "a close frame without a code", "reconnects and fills the gap", "network.lost"),
    (
        "1006",
        "abnormal closure",
        "the connection broke without a close frame: network, proxy, half-open socket",
        "reconnects with full jitter and fills the gap",
        "network.lost",
    ),
    ("1007", "invalid data", "text that is not UTF-8", "stops", "answer.frame"),
    (
        "1008",
        "policy violation",
        "the token was refused",
        "renews the token and takes a fresh socket; final on web-messaging",
        "auth.refused",
    ),
    (
        "1009",
        "message too big",
        "our last frame was too large; on messaging-conversations the token was refused",
        "that send is rejected; there, renews the token",
        "service.too_long",
    ),
    ("1011", "server error", "a fault on the other side", "reconnects and fills the gap", "network.lost"),
    ("1012", "service restart", "the service restarts", "reconnects and fills the gap", "network.lost"),
    ("1013", "try again later", "the service is overloaded", "reconnects with backoff", "network.lost"),
    ("1015", "TLS failure", "a local code: the handshake failed", "never skips verification; exits 8", "network.tls"),
    (
        "4001",
        "token refused",
        "the token expired or was refused (six of the seven APIs)",
        "renews the token and takes a fresh socket; exits 4 where there is no refresh",
        "auth.refused",
    ),
)

_SERVICE = (
    ("4000", "FeatureUnavailable", "the deployment has the feature switched off", "exits 5", "forbidden.feature"),
    (
        "4001",
        "FileTypeInvalid",
        "this type of file is not allowed",
        "exits 3; checked before the upload where the limits are known",
        "service.file",
    ),
    ("4002", "FileSizeInvalid", "the file is larger than the deployment allows", "as 4001", "service.file"),
    ("4003", "FileContentInvalid", "the scan refused the content", "exits 3", "service.file"),
    ("4004", "FileNameInvalid", "the name holds something it may not", "exits 3", "service.file"),
    ("4005", "FileNameTooLong", "the name is too long", "exits 3", "service.file"),
    (
        "4006",
        "SessionHasExpired",
        "no activity for the session's duration",
        "marks the session expired; exits 10",
        "session.expired",
    ),
    ("4007", "SessionNotFound", "the token is unknown here, or no configure came first", "exits 10", "session.gone"),
    ("4008", "AttachmentHasExpired", "the upload was not sent in time", "exits 3", "service.file"),
    ("4009", "AttachmentNotFound", "the attachment id is unknown", "exits 3", "service.file"),
    (
        "4010",
        "AttachmentNotSuccessfullyUploaded",
        "sent before the upload was accepted",
        "waits for the verdict, so that it does not happen",
        "service.file",
    ),
    (
        "4011",
        "MessageTooLong",
        "the text is longer than the service takes",
        "the send is rejected; exits 3",
        "service.too_long",
    ),
    (
        "4013",
        "CustomAttributeSizeTooLarge",
        "keys and values together exceed the session's limit in bytes",
        "checked before sending; exits 3",
        "service.attributes",
    ),
    (
        "4017",
        "CannotDowngradeToUnauthenticated",
        "a guest configure with the token of a signed-in guest",
        "exits 4",
        "auth.downgrade",
    ),
    ("4020", "MissingParameter", "a required field is missing", "exits 3", "service.missing"),
    (
        "4029",
        "RequestRateTooHigh",
        "more than two messages a second in one session",
        "paces itself, waits retryAfter, sends again; then exits 7",
        "rate.limited",
    ),
    ("4102", "FileEmpty", "the file has no content", "checked before the upload; exits 3", "service.file"),
    (
        "5000",
        "UnexpectedError",
        "a fault on the other side",
        "looks in history before anything is repeated",
        "service.down",
    ),
)

_CLASSES = (
    ("SessionResponse", "the session is configured", "answer to configureSession", "goes on", None, "§6.1"),
    (
        "StructuredMessage",
        "a message or an event",
        "somebody said or did something",
        "prints it once and in order",
        None,
        "§6.3",
    ),
    (
        "JwtResponse",
        "a short-lived JWT for history",
        "answer to getJwt",
        "keeps it until 5 s before it expires",
        None,
        "§6.6",
    ),
    (
        "ConnectionClosedEvent",
        "this socket was given up",
        "a fourth socket, a sign-in or a new chat elsewhere",
        "stops: never fights over a session; exits 10",
        "session.evicted",
        "§10.10",
    ),
    (
        "SessionExpiredEvent",
        "the session is over",
        "no activity for its duration",
        "exits 10",
        "session.expired",
        "§6.6",
    ),
    (
        "SessionClearedEvent",
        "the conversation was cleared",
        "the guest cleared it",
        "exits 10",
        "session.cleared",
        "§10.7",
    ),
    ("LogoutEvent", "the guest was signed out", "revoked, here or elsewhere", "exits 10", "session.logged_out", "§7.2"),
    (
        "TooManyRequestsErrorMessage",
        "a rate limit",
        "too many frames in a while",
        "waits retryAfter",
        "rate.limited",
        "§11.8",
    ),
    (
        "PresignedUrlResponse",
        "where to upload or fetch a file",
        "answer to onAttachment or getAttachment",
        "uses it once; never shows it",
        None,
        "§7.3",
    ),
    ("UploadFailureEvent", "the file was refused", "type, size or scan", "exits 3", "service.file", "§7.3"),
)

_EXITS = {
    Exit.DONE: "done",
    Exit.NO: "the answer is no: a check failed, the conversation ended before a match, doctor found red",
    Exit.USAGE: "usage or configuration",
    Exit.REFUSED: "the service refused the request",
    Exit.UNAUTHORISED: "not authorised: the token is invalid or expired and could not be refreshed",
    Exit.FORBIDDEN: "forbidden: scope, origin, feature",
    Exit.CONFLICT: "conflict: locked, read-only, ended",
    Exit.RATE_LIMITED: "rate limited, retries exhausted",
    Exit.NETWORK: "network, DNS, TLS, or the service is down",
    Exit.TIMED_OUT: "timed out waiting",
    Exit.SESSION_OVER: "the session is over, or there is none",
    Exit.UNREADABLE: "the service's answer cannot be understood",
    Exit.UNSUPPORTED: "this API has no such operation",
    Exit.IN_DOUBT: "in doubt: the message may or may not have arrived; the next run settles it",
    Exit.BUG: "a bug of ours",
    Exit.INTERRUPTED: "interrupted (SIGINT)",
    Exit.BROKEN_PIPE: "the reader of stdout went away",
    Exit.TERMINATED: "terminated (SIGTERM)",
}

_SAID = (
    (
        "User is not authorized to access this resource with an explicit deny",
        "the upgrade was refused",
        "origin, deployment id, region, or messaging is off",
        "stops; exits 5",
        "forbidden.upgrade",
        f"{_REFERENCE} §2.4",
    ),
    (
        "Session is read-only, no new messages allowed",
        "the conversation has ended",
        "an agent or the flow ended it and the deployment is read-only then",
        "exits 6",
        "conflict.read_only",
        f"{_REFERENCE} §10.6",
    ),
    (
        "Presence events Conversation Clear are not supported",
        "clearing is switched off",
        "the deployment does not let guests clear",
        "exits 5",
        "forbidden.feature",
        f"{_REFERENCE} §8",
    ),
    (
        "Session token is invalid or expired",
        "the send was refused",
        "the token is not in the Authorization header, or expired",
        "renews the token once and repeats",
        "auth.refused",
        "dialects.md, webmessaging-conversations",
    ),
)


def everything() -> Iterator[Explanation]:
    """Every entry, in the order of the contract: exits, failures, HTTP, closes, service codes, classes, words."""
    for code, meaning in _EXITS.items():
        yield Explanation(str(int(code)), "exit code", meaning, "", "", None, "contract.md §5")
    for failure in NEXT_STEPS:
        yield Explanation(failure, "failure", failure.replace(".", ": ").replace("_", " "), "", "", failure, "guestctl")
    for status, meaning, cause, does, failure in _HTTP:
        yield Explanation(status, "HTTP status", meaning, cause, does, failure, _DIALECTS)
    for close, meaning, cause, does, then in _CLOSES:
        yield Explanation(close, "close code", meaning, cause, does, then, f"RFC 6455 §7.4; {_DIALECTS}")
    for number, meaning, cause, does, failure in _SERVICE:
        yield Explanation(number, "service code", meaning, cause, does, failure, f"{_REFERENCE} §8", _WM)
    for name, meaning, cause, does, then, section in _CLASSES:
        yield Explanation(name, "frame class", meaning, cause, does, then, f"{_REFERENCE} {section}", _WM)
    for words, meaning, cause, does, failure, source in _SAID:
        yield Explanation(words, "message", meaning, cause, does, failure, source)


def explain(wanted: str) -> list[Explanation]:
    """Every entry a code, name or piece of a message means; empty when nothing is known.

    `exit 4`, `http 403`, `close 1006` narrow a number to one kind.
    """
    kind, _, rest = wanted.strip().partition(" ")
    kinds = {"exit": "exit code", "http": "HTTP status", "close": "close code", "code": "service code"}
    narrowed = kinds.get(kind.lower()) if rest else None
    sought = (rest if narrowed else wanted).strip().casefold()
    exact = [e for e in everything() if e.code.casefold() == sought and narrowed in (None, e.kind)]
    if exact or len(sought) < 4 or sought.isdigit():
        return exact
    return [e for e in everything() if sought in e.code.casefold() or sought == e.meaning.casefold()]
