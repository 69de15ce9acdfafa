"""What the numbers and names of this field mean, offline.

Knows: HTTP statuses, service codes, close codes, frame classes, exit codes, common messages and
guestctl's own failure codes; per entry the cause, what guestctl does, and where it is stated. Next
steps are `errors.NEXT_STEPS`, which hangs on every error too: there is no second copy. Must not
know: the network, a profile, how it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

from guestctl.core.errors import NEXT_STEPS, Exit
from guestctl.core.values import immutable

Kind: TypeAlias = Literal["exit code", "failure", "HTTP status", "close code", "service code", "frame class", "message"]
#: The word that narrows what is asked for to one kind: `close 1006`, `http 403`.
KINDS: dict[str, Kind] = {
    "exit": "exit code",
    "failure": "failure",
    "http": "HTTP status",
    "close": "close code",
    "code": "service code",
    "frame": "frame class",
    "message": "message",
}


@immutable
class Explanation:
    """One entry. `failure` is the stable failure code it ends with, when it ends in one; its exit code
    and next step follow from that. `apis` names the APIs it belongs to, empty for all."""

    code: str
    kind: Kind
    meaning: str
    cause: str
    does: str
    failure: str | None
    source: str
    apis: tuple[str, ...] = ()

    @property
    def exit(self) -> Exit | None:
        if self.kind == "exit code":
            return Exit(int(self.code))
        return EXITS_OF[self.failure] if self.failure else None

    @property
    def next_step(self) -> str:
        if self.kind == "exit code":
            leading = [code for code, found in EXITS_OF.items() if found == int(self.code)]
            return f"stderr names the failure; `guestctl explain` has {', '.join(leading)}" if leading else ""
        return NEXT_STEPS[self.failure] if self.failure else ""


_WM = ("web-messaging",)
_GS = ("guest-sessions",)
_NUMBERED = ("guest-sessions", "external-contacts")
_CG = ("conversation-guests",)
_MC = ("messaging-conversations",)
_G = ("guests",)
_WC = ("webmessaging-conversations",)
_REFRESHING = (*_CG, *_MC, *_G)
_ALL: tuple[str, ...] = ()
_REFERENCE = "web-messaging.md"
_SHARED = "other-apis.md, Shared rules"
_OURS = "contract.md §5"

# One row is one entry: a table reads across.
# fmt: off

#: Failure code -> the exit code it ends with, what it means, its cause, what guestctl does about it.
_FAILURES: dict[str, tuple[Exit, str, str, str]] = {
    "check.failed": (Exit.NO, "an expectation was not met", "the service answered something else, or doctor found red", "tells what was expected and what came"),
    "doctor.deployment": (Exit.NO, "there is no such deployment", "another region's id, or a mistyped one", "asks for the public configuration, with `doctor`"),
    "doctor.origin": (Exit.NO, "the deployment refuses this Origin", "the domain is not among those the deployment allows", "knocks with the profile's Origin, without and with a wrong one, with `doctor`"),
    "doctor.clock": (Exit.NO, "this machine's clock is wrong", "no NTP, or a suspended machine", "judges expiry by the local clock"),
    "doctor.inactive": (Exit.NO, "the deployment is inactive", "an administrator's setting", "stops only where the service refuses"),
    "doctor.messenger": (Exit.NO, "the deployment has no messaging", "an administrator's setting", "stops only where the service refuses"),
    "doctor.url": (Exit.NO, "an address that belongs to none of the APIs, or to another one", "a typing error, a missing or superfluous /api, or another family", "compares it with every published address"),
    "conversation.ended": (Exit.NO, "the conversation ended before the awaited message", "an agent, the flow or a time limit ended it", "stops waiting"),
    "usage": (Exit.USAGE, "the command cannot be understood", "a word, option or value that makes no sense", "sends nothing"),
    "usage.option": (Exit.USAGE, "an option that does not fit", "this API has no field for it, or what it names is not there", "sends nothing"),
    "config.profile": (Exit.USAGE, "no usable profile", "a profile or API name that does not exist, or none to choose", "sends nothing"),
    "config.file": (Exit.USAGE, "the profile file is wrong", "the line and key named in the message", "uses nothing of the file"),
    "config.key": (Exit.USAGE, "a profile value is missing or wrong", "a value the API cannot do without, or one that is no URL, number or choice", "sends nothing"),
    "config.cleartext": (Exit.USAGE, "an address of another machine without TLS", "http:// or ws:// in the profile, an option, GUESTCTL_SANDBOX_URL or another variable, or in what the service gave as an address. `tls: {cleartext: true}` of a profile allows it for that profile's own addresses", "sends nothing: whoever is on the way could read the tokens"),
    "config.tls": (Exit.USAGE, "certificate authorities cannot be read", "tls.ca, SSL_CERT_FILE or REQUESTS_CA_BUNDLE names no PEM file", "never goes on without verification"),
    "state.unusable": (Exit.USAGE, "the state directory cannot be used", "no space, no permission, or another command holds it", "acknowledges nothing it could not store"),
    "state.version": (Exit.USAGE, "a newer guestctl wrote the state", "two versions share one directory", "leaves it as it is"),
    "sandbox.absent": (Exit.USAGE, "no sandbox to talk to", "none runs here, or its address or key is not known", "starts none silently"),
    "sandbox.key": (Exit.UNAUTHORISED, "the sandbox refuses the admin key", "GUESTCTL_SANDBOX_ADMIN_KEY belongs to another sandbox", "does nothing"),
    "sandbox.session": (Exit.REFUSED, "the sandbox has no such session", "an id that is not, or no longer, one of its sessions", "does nothing"),
    "sandbox.answer": (Exit.UNREADABLE, "what answers there is no sandbox", "GUESTCTL_SANDBOX_URL leads somewhere else", "does nothing"),
    "service.refused": (Exit.REFUSED, "the service refused the request", "a field it does not accept; its words are in the message", "never repeats it"),
    "service.too_long": (Exit.REFUSED, "the message is too long", "more characters, or a larger frame, than the service takes", "the send is rejected, whole"),
    "service.attributes": (Exit.REFUSED, "the attributes are too large", "keys and values together exceed the limit in bytes", "checks before sending where the limit is known"),
    "service.missing": (Exit.REFUSED, "the service misses a field", "an API other than the one it seems, or a change of the service", "never repeats it"),
    "service.file": (Exit.REFUSED, "the file is refused", "its type, size, name or content", "checks the session's own limits before the upload"),
    "service.not_found": (Exit.REFUSED, "the service does not know the id or the address", "another region or deployment, or an address of another API", "never repeats it"),
    "service.refresh_style": (Exit.REFUSED, "the service does not refresh this way", "two ways are published, and this service serves the other one; or the conversation is gone", "tells which is the other"),
    "auth.refused": (Exit.UNAUTHORISED, "the token is not accepted", "invalid, expired, or of another conversation", "renews it once and repeats; then gives up"),
    "auth.no_refresh": (Exit.UNAUTHORISED, "the token is not accepted and cannot be renewed", "it expired, and this API publishes no refresh", "ends; the conversation cannot be re-attached"),
    "auth.oauth": (Exit.UNAUTHORISED, "the OAuth client is refused", "client id, secret or scopes", "never tries the same ones again"),
    "auth.secret": (Exit.UNAUTHORISED, "a token or secret is malformed", "cut off, wrapped, or not a token at all", "never sends it"),
    "auth.downgrade": (Exit.UNAUTHORISED, "a signed-in guest cannot become an anonymous one", "a session that was signed in is configured without its sign-in", "keeps the session; sends nothing more"),
    "forbidden": (Exit.FORBIDDEN, "the service forbids it", "a scope, the allowed domains, or a feature that is off", "never retries"),
    "forbidden.upgrade": (Exit.FORBIDDEN, "the socket or the configuration is refused", "the Origin, the deployment id, the region, or messaging that is off", "never retries"),
    "forbidden.feature": (Exit.FORBIDDEN, "a feature of the deployment is off", "an administrator's setting", "never retries"),
    "conflict.read_only": (Exit.CONFLICT, "the conversation takes no more messages", "it has ended, and the deployment makes ended conversations read-only", "the send is rejected; history and clear still work"),
    "conflict.locked": (Exit.CONFLICT, "the session is locked for a moment", "another connection held it a moment ago", "asks again for up to 5 s"),
    "conflict.ended": (Exit.CONFLICT, "the session has ended", "ended by the other side or by a time limit", "`resume --on-conflict new` starts another, when asked"),
    "conflict": (Exit.CONFLICT, "something else changed the session", "two clients at once", "never overwrites"),
    "rate.limited": (Exit.RATE_LIMITED, "too many requests", "a limit of the service, or its budget shared by guestctl's processes", "waits as told, at most 3 times, within --timeout"),
    "network.dns": (Exit.NETWORK, "the name does not resolve", "a typing error in region or base_url, or no resolver", "nothing was sent; tries again only when that can help"),
    "network.connect": (Exit.NETWORK, "no connection", "host or port wrong, service down, or a firewall", "nothing was sent; tries again within --timeout"),
    "network.tls": (Exit.NETWORK, "TLS failed", "certificate, its dates, its name, or a CA that is not trusted", "never skips verification, never retries"),
    "network.proxy": (Exit.NETWORK, "the proxy refused", "HTTPS_PROXY, its credentials, or a rule of it", "the service has seen nothing"),
    "network.lost": (Exit.NETWORK, "the connection broke", "network, proxy, half-open socket, a restart of the service, or a close code that is final", "reconnects with full jitter where the code allows, then fills the gap"),
    "network.gave_up": (Exit.NETWORK, "every reconnect failed", "the service stayed out of reach for all attempts", "ends; nothing shown is lost"),
    "service.down": (Exit.NETWORK, "the service answers with a fault of its own", "HTTP 5xx, or UnexpectedError in the stream", "repeats only what is safe to repeat"),
    "timeout": (Exit.TIMED_OUT, "the awaited thing did not come in time", "the service was reached, but nobody answered", "leaves the session as it is"),
    "timeout.busy": (Exit.TIMED_OUT, "other guestctl processes hold what this one needs", "three sockets of one session, a send in flight, or a refresh under way", "waits for its turn, within --timeout"),
    "session.none": (Exit.SESSION_OVER, "there is no stored session", "none was created under this profile, API and address, or it was forgotten", "creates none silently"),
    "session.no_token": (Exit.SESSION_OVER, "the session's token was never stored", "`store_tokens: memory`, and another command made the session", "sends nothing; where the API gives another token, asks for that instead"),
    "session.gone": (Exit.SESSION_OVER, "the service does not know the session any more", "expired, cleared, or made by another deployment", "sends nothing more"),
    "session.expired": (Exit.SESSION_OVER, "the session expired", "no activity for the session's duration", "marks it over; `ask` starts another"),
    "session.cleared": (Exit.SESSION_OVER, "the conversation was cleared", "by the guest, here or on another device", "marks it over"),
    "session.ended": (Exit.SESSION_OVER, "the conversation has ended", "the other side ended it, or a time limit", "marks it over"),
    "session.evicted": (Exit.SESSION_OVER, "the service gave this socket up", "a fourth socket, a sign-in or a new chat elsewhere", "never fights over a session"),
    "session.replaced": (Exit.SESSION_OVER, "the session this command was using is not stored any more", "`session create --new`, `session forget` or `ask --new` in another command", "sends nothing for it and leaves its successor's records alone"),
    "session.logged_out": (Exit.SESSION_OVER, "the guest was signed out", "sign-out here or elsewhere", "drops its tokens"),
    "answer.unreadable": (Exit.UNREADABLE, "an answer that is not what the API documents", "another API, a gateway's page, or a truncated body", "acts on none of it"),
    "answer.redirect": (Exit.UNREADABLE, "the address answers with a redirect", "http instead of https, or a sign-in page", "never follows it with a token"),
    "answer.frame": (Exit.UNREADABLE, "the peer broke the WebSocket protocol", "a gateway or proxy that is not transparent", "closes with the code RFC 6455 names"),
    "api.unsupported": (Exit.UNSUPPORTED, "this API has no such operation", "its source publishes none", "sends nothing"),
    "send.in_doubt": (Exit.IN_DOUBT, "the message may or may not have arrived", "the connection broke between the write and its acknowledgement. Where the id does not come back (web-messaging), `--id` is idempotent only while the ledger has it", "looks in history for the message's id; sends again only when its absence is proved"),
    "output.failed": (Exit.USAGE, "output cannot be written", "a full disk, or a file without permission", "stops before more is lost"),
    "interrupted": (Exit.INTERRUPTED, "interrupted", "Ctrl-C", "leaves the state consistent"),
    "bug": (Exit.BUG, "a bug of ours", "a case nobody foresaw", "shows only where; values stay hidden"),
}

EXITS_OF: dict[str, Exit] = {code: row[0] for code, row in _FAILURES.items()}

_EXITS: dict[Exit, tuple[str, str]] = {
    Exit.DONE: ("done", "what was asked for was done and acknowledged"),
    Exit.NO: ("the answer is no: a check failed, the conversation ended before a match, doctor found red", "the command worked; its answer is no"),
    Exit.USAGE: ("usage or configuration", "nothing was sent"),
    Exit.REFUSED: ("the service refused the request", "another 4xx, or an error frame"),
    Exit.UNAUTHORISED: ("not authorised: the token is invalid or expired and could not be refreshed", "401, or a close that means it"),
    Exit.FORBIDDEN: ("forbidden: scope, origin, feature", "403"),
    Exit.CONFLICT: ("conflict: locked, read-only, ended", "409"),
    Exit.RATE_LIMITED: ("rate limited, retries exhausted", "429, or a limit in the stream"),
    Exit.NETWORK: ("network, DNS, TLS, or the service is down", "the service was not reached, or answered 5xx"),
    Exit.TIMED_OUT: ("timed out waiting", "the service was reached, and the awaited thing did not come"),
    Exit.SESSION_OVER: ("the session is over, or there is none", "expired, unknown, cleared, evicted, signed out"),
    Exit.UNREADABLE: ("the service's answer cannot be understood", "not JSON, a field missing, a redirect"),
    Exit.UNSUPPORTED: ("this API has no such operation", "`guestctl apis` shows which has"),
    Exit.IN_DOUBT: ("in doubt: the message may or may not have arrived; the next run settles it", "cut off between write and acknowledgement"),
    Exit.BUG: ("a bug of ours", "a case nobody foresaw"),
    Exit.INTERRUPTED: ("interrupted (SIGINT)", "Ctrl-C"),
    Exit.BROKEN_PIPE: ("the reader of stdout went away", "as in `guestctl … | head`"),
    Exit.TERMINATED: ("terminated (SIGTERM)", "somebody asked the process to end"),
}

#: Status, meaning, cause, what guestctl does, failure, APIs, source.
_HTTP = (
    ("101", "switching protocols", "the upgrade to a WebSocket was accepted", "says its first words", None, _ALL, "RFC 6455 §4"),
    ("3xx", "redirect", "the address has moved, or a sign-in page is in the way", "never follows it: a token would go along", "answer.redirect", _ALL, _SHARED),
    ("400", "bad request", "a field is missing or malformed", "exits with the service's words", "service.refused", _ALL, _SHARED),
    ("400", "bad request", "the body has no `type`", "always sends it; seen with other people's clients", "service.refused", _WC, "other-apis.md, webmessaging-conversations"),
    ("401", "not authorised", "the token is missing, wrong or expired", "renews the token once and repeats", "auth.refused", _ALL, _SHARED),
    ("401", "not authorised", "the token expired; it lives as long as its socket", "cannot renew it: this API publishes no refresh", "auth.no_refresh", _NUMBERED, "other-apis.md, guest-sessions"),
    ("401", "not authorised", "no bearer (a sessionToken in the body does not count), or no `guestId` in the body", "sends both; renews the token once and repeats", "auth.refused", _WC, "other-apis.md, webmessaging-conversations"),
    ("401", "the OAuth client is refused", "client_id, client_secret or the grant of /oauth/token", "stops", "auth.oauth", (*_G, *_WC), "other-apis.md, guests"),
    ("403", "forbidden", "a scope, the deployment's allowed domains, or a feature that is off", "never retries", "forbidden", _ALL, _SHARED),
    ("403", "the upgrade is refused", "Origin not among the allowed domains, unknown deploymentId, messaging off, or an OAuth token where none belongs", "final, never retried; `guestctl doctor` tells which", "forbidden.upgrade", _WM, f"{_REFERENCE} §2.4"),
    ("403", "no such configuration", "config.json of an unknown deployment id: the store says 403, not 404", "stops; check deployment_id and region", "forbidden.upgrade", _WM, f"{_REFERENCE} §3.1"),
    ("403", "the token is spoilt", "inside the stream, after CONNECT was accepted: a socket that used the token has closed", "re-attaches once, connects again, sends again under the same id", "forbidden", _CG, "other-apis.md, conversation-guests"),
    ("404", "not found", "an unknown conversation or guest: it expired or never was here", "exits 10", "session.gone", (*_NUMBERED, *_CG, *_MC, *_G, *_WC), _SHARED),
    ("404", "not found", "on create, OAuth, a download or a socket all share: an address that is not this API, or an unknown deployment", "stops", "service.not_found", _ALL, _SHARED),
    ("404", "not found", "on refresh: the service refreshes in the other of two published forms", "names the other `refresh_style`", "service.refresh_style", _WC, "other-apis.md, webmessaging-conversations"),
    ("404", "not found", "on sign-in or its refresh, or an upload: an unknown deployment, or an address that is stale", "stops", "service.not_found", _WM, f"{_REFERENCE} §7"),
    ("404", "not found", "on history: the service has nothing for this guest", "shows an empty history", None, _WM, f"{_REFERENCE} §7.1"),
    ("404", "not found", "on history after an id that is not there", "reads from the start", None, (*_CG, *_G, *_WC), _SHARED),
    ("408", "timeout", "the service waited too long for the request", "stops", "service.refused", _WM, f"{_REFERENCE} §8"),
    ("409", "conflict", "something else changed the session", "never overwrites", "conflict", _ALL, _SHARED),
    ("409", "the session is locked", "`session.locked`: a socket of it was lost less than 2 s ago", "asks again for up to 5 s", "conflict.locked", _NUMBERED, "other-apis.md, guest-sessions"),
    ("409", "the session has ended", "`session.invalid`: it needs a new session", "`resume --on-conflict new` starts one, only when asked", "conflict.ended", _NUMBERED, "other-apis.md, guest-sessions"),
    ("409", "the conversation has ended", "in the stream, which tells no code", "the send is rejected", "conflict.ended", _CG, "other-apis.md, conversation-guests"),
    ("409", "read-only", "in the stream: the conversation has ended", "the send is rejected", "conflict.read_only", _WM, f"{_REFERENCE} §8"),
    ("413", "request too large", "a body or file larger than the service takes", "stops", "service.refused", _ALL, _SHARED),
    ("415", "unsupported media type", "Content-Type is not exactly application/json", "always sends it exactly", "service.refused", _ALL, _SHARED),
    ("429", "too many requests", "a rate limit of the service", "waits Retry-After (seconds or date, default 1 s), at most 3 times", "rate.limited", _ALL, _SHARED),
    ("500", "service error", "a fault on the other side", "repeats what is safe to repeat", "service.down", _ALL, _SHARED),
    ("502", "bad gateway", "a proxy or gateway got no good answer", "as 500", "service.down", _ALL, _SHARED),
    ("503", "unavailable", "the service is overloaded or restarting", "as 500, waiting Retry-After when given", "service.down", _ALL, _SHARED),
    ("504", "gateway timeout", "a gateway waited too long for the service", "as 500", "service.down", _ALL, _SHARED),
    ("407", "proxy authentication required", "the proxy wants credentials, or others", "the service has seen nothing", "network.proxy", _ALL, "RFC 9110 §15.5.8"),
    ("421", "misdirected request", "the sandbox was called by a name that is not its own", "stops", "service.refused", _ALL, "contract.md §7"),
)

_RECONNECTS = "reconnects with full jitter and fills the gap from history"
_STOPS = "stops: trying again cannot help"
_RENEWS = "renews the token and takes a fresh socket; the closed one cannot be registered again"

#: Code, meaning, cause, what a client does of it (dialects: CloseAction), how guestctl does it, failure, APIs.
CLOSES: tuple[tuple[str, str, str, str, str, str | None, tuple[str, ...]], ...] = (
    ("1000", "normal closure", "one side is done; the conversation goes on", "done", "nothing, when we closed; a listener takes a fresh socket", None, _ALL),
    ("1000", "normal closure", "`Widget disconnect` from the guest ends the conversation", "done", "this is how `session end` says it", None, _G),
    ("1001", "going away", "idle limit (10 min), connection limit (2 h) or a restart of the service", "reconnect", _RECONNECTS, "network.lost", _ALL),
    ("1002", "protocol error", "a peer broke RFC 6455", "final", _STOPS, "network.lost", _ALL),
    ("1003", "unsupported data", "a binary frame where text was expected", "final", _STOPS, "network.lost", _ALL),
    ("1005", "no status", "a close frame without a code", "reconnect", _RECONNECTS, "network.lost", _ALL),
    ("1006", "abnormal closure", "the connection broke without a close frame: network, proxy, half-open socket", "reconnect", _RECONNECTS, "network.lost", _ALL),
    ("1006", "abnormal closure", "before the handshake's answer: the token may be dead", "reconnect", "looks at its expiry, renews it once, then reconnects", "network.lost", _G),
    ("1007", "invalid data", "text that is not UTF-8", "final", _STOPS, "network.lost", _ALL),
    ("1008", "policy violation", "the token was refused", "renew", _RENEWS, "auth.refused", _REFRESHING),
    ("1008", "policy violation", "the token was refused, and this API publishes no refresh", "renew", "ends: nothing can renew it", "auth.refused", _NUMBERED),
    ("1008", "policy violation", "the service's gateway refuses the connection: often a frame that is not an action, or a token that is not one", "final", _STOPS, "network.lost", _WM),
    ("1009", "message too big", "our last frame was over the limit (32 KiB a frame, 128 KiB a message)", "too_big", "that send is rejected", "service.too_long", _WM),
    ("1009", "message too big", "one more way of refusing the token here", "renew", _RENEWS, "auth.refused", _MC),
    ("1009", "message too big", "a frame larger than the peer takes", "final", _STOPS, "network.lost", (*_NUMBERED, *_CG, *_G)),
    ("1010", "mandatory extension", "a client that wanted an extension; ours wants none", "final", _STOPS, "network.lost", _ALL),
    ("1011", "server error", "a fault on the other side", "reconnect", _RECONNECTS, "network.lost", _ALL),
    ("1012", "service restart", "the service restarts", "reconnect", _RECONNECTS, "network.lost", _ALL),
    ("1013", "try again later", "the service is overloaded", "reconnect", _RECONNECTS, "network.lost", _ALL),
    ("1014", "bad gateway", "a gateway lost the service behind it", "reconnect", _RECONNECTS, "network.lost", _ALL),
    ("1015", "TLS failure", "a code that is never sent: the handshake failed", "final", "never skips verification", "network.tls", _ALL),
    ("4001", "token refused", "the token expired or was refused", "renew", _RENEWS, "auth.refused", _REFRESHING),
    ("4001", "token refused", "the token expired, after a `tokenExpired` frame; this API publishes no refresh", "renew", "ends: nothing can renew it", "auth.refused", _NUMBERED),
    ("4001", "undocumented here", "the service documents no 4xxx close code; 4001 is FileTypeInvalid as a code inside a frame", "final", _STOPS, "network.lost", _WM),
)

#: Service codes inside web-messaging frames: number, name, cause, what guestctl does, failure.
_SERVICE = (
    ("4000", "FeatureUnavailable", "the deployment has the feature switched off", "stops", "forbidden.feature"),
    ("4001", "FileTypeInvalid", "this type of file is not allowed", "checks before the upload where the limits are known", "service.file"),
    ("4002", "FileSizeInvalid", "the file is larger than the deployment allows", "checks before the upload where the limits are known", "service.file"),
    ("4003", "FileContentInvalid", "the scan refused the content", "stops", "service.file"),
    ("4004", "FileNameInvalid", "the name holds something it may not", "stops", "service.file"),
    ("4005", "FileNameTooLong", "the name is too long", "stops", "service.file"),
    ("4006", "SessionHasExpired", "no activity for the session's duration", "marks the session expired", "session.expired"),
    ("4007", "SessionNotFound", "the token is unknown here, or no configure came first", "sends nothing more", "session.gone"),
    ("4008", "AttachmentHasExpired", "the upload was not sent in time", "stops", "service.file"),
    ("4009", "AttachmentNotFound", "the attachment id is unknown", "stops", "service.file"),
    ("4010", "AttachmentNotSuccessfullyUploaded", "sent before the upload was accepted", "waits for the verdict, so that it does not happen", "service.file"),
    ("4011", "MessageTooLong", "the text is longer than the service takes", "the send is rejected", "service.too_long"),
    ("4013", "CustomAttributeSizeTooLarge", "keys and values together exceed the session's limit in bytes", "checks before sending", "service.attributes"),
    ("4017", "CannotDowngradeToUnauthenticated", "a guest configure with the token of a signed-in guest", "keeps the session; asks for the sign-in", "auth.downgrade"),
    ("4020", "MissingParameter", "a required field is missing", "stops", "service.missing"),
    ("4029", "RequestRateTooHigh", "more messages a second than one session may send", "paces itself, waits retryAfter, sends again", "rate.limited"),
    ("4102", "FileEmpty", "the file has no content", "checks before the upload", "service.file"),
    ("5000", "UnexpectedError", "a fault on the other side", "looks in history before anything is repeated", "service.down"),
)

#: Words the REST families put into `code`: word, meaning, cause, what guestctl does, failure, APIs.
_WORDS = (
    ("session.locked", "the session is locked for a moment", "a socket of it was lost less than 2 s ago", "asks again for up to 5 s", "conflict.locked", _NUMBERED),
    ("session.invalid", "the session has ended", "it needs a new session", "`resume --on-conflict new` starts one, only when asked", "conflict.ended", _NUMBERED),
    ("origin.not.allowed", "the Origin is refused", "it is not among the deployment's allowed domains", "never retries", "forbidden", _ALL),
    ("feature.toggle.disabled", "the feature is off", "an administrator's setting", "never retries", "forbidden", _ALL),
    ("bad.credentials", "the credential is refused", "a token, a code or a client secret", "renews once what can be renewed", "auth.refused", _ALL),
)

#: Class or type of a frame, meaning, cause, what guestctl does, failure, APIs, source.
_CLASSES = (
    ("SessionResponse", "the session is configured", "answer to configureSession", "goes on; `newSession:true` for a session with messages means that it had expired", None, _WM, f"{_REFERENCE} §6.1"),
    ("GetConfigurationResponse", "the deployment's configuration over the socket", "answer to getConfiguration", "reports it as unknown: it reads config.json instead", None, _WM, f"{_REFERENCE} §6.2"),
    ("StructuredMessage", "a message or an event", "somebody said or did something", "prints it once and in order", None, _WM, f"{_REFERENCE} §6.3"),
    ("JwtResponse", "a short-lived JWT for history", "answer to getJwt", "keeps it until 5 s before it expires", None, _WM, f"{_REFERENCE} §6.6"),
    ("PresignedUrlResponse", "where to upload or fetch a file", "answer to onAttachment or getAttachment", "uses it once; never shows it", None, _WM, f"{_REFERENCE} §6.6"),
    ("UploadSuccessEvent", "the file was accepted", "the scan found nothing", "sends the message it belongs to", None, _WM, f"{_REFERENCE} §6.6"),
    ("UploadFailureEvent", "the file was refused", "type, size or scan", "stops", "service.file", _WM, f"{_REFERENCE} §6.6"),
    ("GenerateUrlError", "no upload address is given", "type, size or name of the file", "stops", "service.file", _WM, f"{_REFERENCE} §6.6"),
    ("AttachmentDeletedResponse", "the upload was discarded", "answer to deleteAttachment", "nothing more", None, _WM, f"{_REFERENCE} §6.6"),
    ("ConnectionClosedEvent", "the service gives this socket up", "a fourth socket, a sign-in elsewhere (`signedIn`), a new chat elsewhere", "stops: never fights over a session", "session.evicted", _WM, f"{_REFERENCE} §10.10"),
    ("SessionExpiredEvent", "the session is over", "no activity for its duration", "marks it expired", "session.expired", _WM, f"{_REFERENCE} §6.6"),
    ("SessionClearedEvent", "the conversation was cleared", "the guest cleared it", "marks it cleared", "session.cleared", _WM, f"{_REFERENCE} §10.7"),
    ("LogoutEvent", "the guest was signed out", "revoked, here or elsewhere", "drops its tokens", "session.logged_out", _WM, f"{_REFERENCE} §10.8"),
    ("TooManyRequestsErrorMessage", "a rate limit", "too many frames in a while", "waits retryAfter", "rate.limited", _WM, f"{_REFERENCE} §11.8"),
    ("Error", "a refusal", "the body's `errorCode`, else the frame's `code`, says which", "does as that code asks: `guestctl explain CODE`", "service.refused", _WM, f"{_REFERENCE} §8"),
    ("string", "a refusal in words", "the frame's `code` is an HTTP status or a service code", "does as that code asks: `guestctl explain CODE`", "service.refused", _WM, f"{_REFERENCE} §8"),
    ("Presence", "Join, Disconnect, Clear, SignIn", "somebody came, left, or the conversation ended", "prints it; a Disconnect with readOnly ends the conversation. It never comes where conversationDisconnect is off", None, _WM, f"{_REFERENCE} §6.5"),
    ("message", "a message", "somebody said something", "prints it once and in order", None, (*_NUMBERED, *_MC, *_G), "other-apis.md"),
    ("typing", "somebody types", "the frame does not say who", "shows it", None, _NUMBERED, "other-apis.md, guest-sessions"),
    ("connected", "the events socket is ready", "the upgrade carried the token", "goes on", None, _NUMBERED, "other-apis.md, guest-sessions"),
    ("tokenExpired", "the token is over", "the socket lives as long as its token", "ends: this API publishes no refresh", "auth.refused", _NUMBERED, "other-apis.md, guest-sessions"),
    ("CONVERSATION_UPDATED", "the conversation's state", "answer to CONNECT (`connected`), or a change", "goes on, or ends with the conversation", None, _CG, "other-apis.md, conversation-guests"),
    ("MESSAGE_ACCEPTED", "our message is stored", "answer to SEND_MESSAGE", "reports it accepted", None, _CG, "other-apis.md, conversation-guests"),
    ("MESSAGE_RECEIVED", "a message", "somebody said something", "prints it once and in order", None, _CG, "other-apis.md, conversation-guests"),
    ("ERROR", "a refusal in the stream", "`status` is an HTTP status; 403 after CONNECT means a spoilt token", "on 403 re-attaches once and sends again", "forbidden", _CG, "other-apis.md, conversation-guests"),
    ("registered", "the guest is registered on this socket", "answer to register", "goes on; registers again after a refresh", None, _MC, "other-apis.md, messaging-conversations"),
    ("error", "a refusal in the stream", "`code` says which; `correlationId` names the send it answers", "does as the status of that name asks", "service.refused", _MC, "other-apis.md, messaging-conversations"),
    ("handshake", "the guest is let in, or not", "`payload.status` is ok, or why not", "goes on; renews the token once when refused", "auth.refused", _G, "other-apis.md, guests"),
)

#: The service's own words, meaning, cause, what guestctl does, failure, APIs, source.
_SAID = (
    ("User is not authorized to access this resource with an explicit deny", "the upgrade was refused", "origin, deployment id, region, or messaging is off", "stops", "forbidden.upgrade", _WM, f"{_REFERENCE} §2.4"),
    ("Session is read-only, no new messages allowed", "the conversation has ended", "an agent or the flow ended it and the deployment is read-only then", "the send is rejected", "conflict.read_only", _WM, f"{_REFERENCE} §10.6"),
    ("Presence events Conversation Clear are not supported", "clearing is switched off", "the deployment does not let guests clear", "stops", "forbidden.feature", _WM, f"{_REFERENCE} §8"),
    ("Turn on the Feature Toggle or fix the configuration.", "a feature is off", "typing, sign-in or another feature of the deployment", "stops", "forbidden.feature", _WM, f"{_REFERENCE} §8"),
    ("Session authentication failed", "the sign-in is not accepted", "its JWT is invalid or expired", "renews the sign-in, then asks for another", "auth.refused", _WM, f"{_REFERENCE} §8"),
    ("Try to authenticate again", "the guest must sign in", "the deployment wants signed-in guests, or this session was another person's", "asks for a sign-in", "auth.refused", _WM, f"{_REFERENCE} §8"),
    ("Custom Attributes in channel metadata is larger than 2048 bytes", "the attributes are too large", "keys and values together", "checks before sending", "service.attributes", _WM, f"{_REFERENCE} §8"),
    ("Message rate too high for this session", "a rate limit", "more messages a second than one session may send", "paces itself, waits, sends again", "rate.limited", _WM, f"{_REFERENCE} §6.6"),
    ("Internal server error", "the gateway in front of the service failed", "a fault on the other side; the frame has no class", "survives it, acts on none of it", None, _WM, f"{_REFERENCE} §2.5"),
    ("Session token is invalid or expired", "the send was refused", "the token is not in the Authorization header, or expired", "renews the token once and repeats", "auth.refused", _WC, "other-apis.md, webmessaging-conversations"),
    ("Guest not found. Session may have expired.", "the guest is gone", "the profile sync of a guest that does not exist any more", "stops", "session.gone", _G, "other-apis.md, guests"),
    ("self-signed certificate in certificate chain", "the certificate's issuer is not trusted", "a proxy that opens TLS, or a private CA", "never skips verification", "network.tls", _ALL, "RFC 5280 §6"),
    ("unable to get local issuer certificate", "the certificate's issuer is not known here", "a private CA, or a server that sends no intermediate certificate", "never skips verification", "network.tls", _ALL, "RFC 5280 §6"),
    ("certificate has expired", "the certificate is over", "the server's, or this machine's clock", "never skips verification", "network.tls", _ALL, "RFC 5280 §6"),
    ("Hostname mismatch", "the certificate belongs to another name", "another host answers, or base_url is an alias", "never skips verification", "network.tls", _ALL, "RFC 9525 §6"),
)
# fmt: on


def everything() -> Iterator[Explanation]:
    """Every entry, by kind: exits, failures, HTTP, closes, service codes, frames, words."""
    for code, (meaning, cause) in _EXITS.items():
        yield Explanation(str(int(code)), "exit code", meaning, cause, "", None, _OURS)
    for failure, (_, meaning, cause, does) in _FAILURES.items():
        yield Explanation(failure, "failure", meaning, cause, does, failure, _OURS)
    for status, meaning, cause, does, then, apis, source in sorted(_HTTP, key=lambda row: row[0]):
        yield Explanation(status, "HTTP status", meaning, cause, does, then, source, apis)
    for close, meaning, cause, _, does, then, apis in CLOSES:
        yield Explanation(close, "close code", meaning, cause, does, then, f"RFC 6455 §7.4; {_SHARED}", apis)
    for number, name, cause, does, then in _SERVICE:
        yield Explanation(number, "service code", name, cause, does, then, f"{_REFERENCE} §8", _WM)
    for word, meaning, cause, does, then, apis in _WORDS:
        yield Explanation(word, "service code", meaning, cause, does, then, _SHARED, apis)
    for name, meaning, cause, does, then, apis, source in _CLASSES:
        yield Explanation(name, "frame class", meaning, cause, does, then, source, apis)
    for words, meaning, cause, does, then, apis, source in _SAID:
        yield Explanation(words, "message", meaning, cause, does, then, source, apis)


def explain(wanted: str, *, api: str | None = None) -> list[Explanation]:
    """Every entry a code, name or piece of a message means, of one API or of all; empty when nothing is known.

    `exit 4`, `http 403`, `close 1006`, `code 4001` narrow a number to one kind.
    """
    first, _, rest = wanted.strip().partition(" ")
    kind = KINDS.get(first.lower()) if rest else None
    sought = (rest if kind else wanted).strip().casefold()
    known = [entry for entry in everything() if (kind is None or entry.kind == kind) and _concerns(entry, api)]
    exact = [entry for entry in known if entry.code.casefold() == sought]
    if exact or not sought:
        return exact
    if sought.isdigit():
        return [entry for entry in known if len(sought) == 3 and entry.code == f"{sought[0]}xx"]
    if len(sought) < 4:
        return []
    # Either side may be the longer one: people paste whole error lines, and remember half of them.
    found = [e for e in known if e.meaning.casefold() == sought or _said(e, sought)]
    return found or [e for e in known if _pasted(e, sought)]


def _pasted(entry: Explanation, line: str) -> bool:
    """Whether a whole error line, or object, of ours speaks of it: by its status, its code, or its next step."""
    if entry.kind == "HTTP status":
        return re.search(rf"\bhttp {entry.code}\b", line) is not None
    told = f'"code":"{entry.code}"' in line or entry.next_step.casefold() in line
    return entry.kind == "failure" and bool(entry.next_step) and told


def _said(entry: Explanation, sought: str) -> bool:
    code = entry.code.casefold()
    return sought in code or (entry.kind == "message" and code in sought)


def _concerns(entry: Explanation, api: str | None) -> bool:
    return api is None or not entry.apis or api in entry.apis


def nearest(unknown: str) -> Sequence[str]:
    """Up to three codes that look like one nobody knows."""
    from difflib import get_close_matches

    names = {name.casefold(): entry.code for entry in everything() for name in (entry.code, entry.meaning)}
    found = [names[name] for name in get_close_matches(unknown.strip().casefold(), names, 6, 0.6)]
    return list(dict.fromkeys(found))[:3]
