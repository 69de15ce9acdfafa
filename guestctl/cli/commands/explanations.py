"""The meaning of the codes, frame names and error texts of web messaging, offline.

Knows: HTTP statuses, service codes, close codes, frame classes, exit codes, common error texts and
guestctl's own failure codes. For each entry it has the cause, what guestctl does, and the source. Next
steps come from `errors.NEXT_STEPS`, which errors use too. Must not know: the network, a profile, how an
entry is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

from guestctl.core.errors import NEXT_STEPS, Exit
from guestctl.core.values import immutable

Kind: TypeAlias = Literal["exit code", "failure", "HTTP status", "close code", "service code", "frame class", "message"]
#: The word that narrows a number to one kind: `close 1006`, `http 403`.
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
    """One entry. `failure` is the stable code of the failure that results, None if there is none. The exit
    code and the next step follow from it, unless `advice` replaces the next step. `apis` names the APIs that
    the entry belongs to; empty means all."""

    code: str
    kind: Kind
    meaning: str
    cause: str
    does: str
    failure: str | None
    source: str
    apis: tuple[str, ...] = ()
    advice: str | None = None

    @property
    def exit(self) -> Exit | None:
        if self.kind == "exit code":
            return Exit(int(self.code))
        return EXITS_OF[self.failure] if self.failure else None

    @property
    def next_step(self) -> str:
        if self.advice is not None:
            return self.advice
        if self.kind == "exit code":
            failures = [code for code, found in EXITS_OF.items() if found == int(self.code)]
            if not failures:
                return ""
            return f"look up the failure code on stderr with `guestctl explain`: {', '.join(failures)}"
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

_WIRE = "docs/protocol/web-messaging.md"
_CONTRACT = "docs/contract.md"


def _other(heading: str) -> str:
    return f'docs/protocol/other-apis.md, "{heading}"'


_SHARED = _other("Shared rules")

# One entry in each row, so that a table can be read across.
# fmt: off

#: Failure code -> the exit code it ends with, what it means, its cause, what guestctl does about it.
_FAILURES: dict[str, tuple[Exit, str, str, str]] = {
    "check.failed": (Exit.NO, "an expectation was not met", "the reply was a different one, or doctor found a failed check", "prints what was expected and what arrived"),
    "doctor.deployment": (Exit.NO, "the deployment does not exist", "the id is mistyped or belongs to another region", "`doctor` requests the public configuration"),
    "doctor.origin": (Exit.NO, "the deployment refuses this Origin", "it is not one of the deployment's allowed domains", "`doctor` tries an upgrade with the profile's Origin, without one and with a wrong one"),
    "doctor.clock": (Exit.NO, "this machine's clock is wrong", "no NTP, or a suspended machine", "computes expiry times with the service's clock where an answer reports it, else with the local clock"),
    "doctor.inactive": (Exit.NO, "the deployment is inactive", "an administrator's setting", "continues until the service refuses"),
    "doctor.messenger": (Exit.NO, "messaging is off in the deployment", "an administrator's setting", "continues until the service refuses"),
    "doctor.queue": (Exit.NO, "the service has no queue with this id", "the id is mistyped or belongs to another organisation", "`doctor` reads the queue, where a call of the API can"),
    "doctor.url": (Exit.NO, "the address belongs to no API, or to another one", "a typo, a missing or extra /api, or another API family", "compares it with every published address"),
    "conversation.ended": (Exit.NO, "the conversation ended before the awaited message arrived", "an agent, the flow or a time limit ended it", "stops waiting"),
    "usage": (Exit.USAGE, "guestctl does not understand the command", "a wrong argument, option or value", "sends nothing"),
    "usage.option": (Exit.USAGE, "the option cannot be used", "this API has no field for it, or its value names something that does not exist", "sends nothing"),
    "usage.text": (Exit.USAGE, "a text cannot be encoded", "it contains half of a surrogate pair, which JSON can write as an escape but UTF-8 cannot encode", "sends nothing"),
    "config.profile": (Exit.USAGE, "no usable profile", "the profile or API does not exist, or no profile is selected", "sends nothing"),
    "check.pattern_timeout": (Exit.USAGE, "a match of a regular expression took more than 2 s of CPU time, twice", "a repetition inside a repetition, or alternatives that match the same text: such a pattern can take very long on a text that does not match", "reports neither a match nor a mismatch"),
    "check.undecided": (Exit.TIMED_OUT, "the judge of an AI check decided nothing", "no strict majority of the votes, votes without evidence, answers that cannot be read, or a refusal of the model", "reports the votes; the scenario has neither passed nor failed"),
    "check.customer": (Exit.USAGE, "the customer of an AI check was at fault, not the bot", "it left its role, repeated itself, invented a fact that is not in `knows`, gave up, or its answer cannot be used", "stops the scenario, which says nothing about the bot"),
    "ai.recording": (Exit.USAGE, "a model call is not recorded", "a persona, a criterion, a model, a parameter or a text of the bot has changed since the recording, or the file is broken", "names the nearest recording and the first difference; never asks a model instead"),
    "ai.budget": (Exit.RATE_LIMITED, "the budget of model calls or tokens is used up", "`ai.budget` limits all scenarios of a script, `ai.scenario_budget` each of them", "makes no further call; the scenario has no verdict"),
    "ai.key": (Exit.UNAUTHORISED, "the model server does not accept the key", "the key is wrong, or may not use this model", "never tries the same key again in this scenario"),
    "ai.limited": (Exit.RATE_LIMITED, "the model server limits the calls", "too many calls at once, or the quota of the key is used up", "tries at most 3 times, waits as long as the server asks and the time allows"),
    "ai.refused": (Exit.REFUSED, "the model server refused the call", "an unknown model, a wrong address or a parameter that the server does not accept; the message quotes the server", "never repeats the call"),
    "ai.down": (Exit.NETWORK, "the model server reported an internal error", "a passing fault of the server", "tries at most 3 times"),
    "ai.answer": (Exit.UNREADABLE, "the answer of the model server cannot be read", "another program at this address, a redirect, or an answer of more than 10 MiB", "follows no redirect; uses no part of the answer"),
    "config.file": (Exit.USAGE, "the profile file has an error", "see the line and key in the message", "uses nothing from the file"),
    "config.key": (Exit.USAGE, "a profile value is missing or wrong", "a required value is missing, or a value is not a valid URL, number or choice", "sends nothing"),
    "timeout.input": (Exit.TIMED_OUT, "a file that the command reads is a pipe, and its writer has not closed it", "a FIFO without a writer, or a program that still writes", "sends nothing"),
    "config.untrusted": (Exit.USAGE, "a profile file or a check script needs trust for what it does", "./profiles.yaml of the working directory names a host outside the vendor's domains, reads a variable, names certificate authorities or allows cleartext; or a check script names such a host, or a variable in an address", "sends nothing. `guestctl profile trust PATH` trusts a profile file with its present content, `check --trust` trusts the scripts of one run"),
    "config.cleartext": (Exit.USAGE, "the address of another machine does not use TLS", "http:// or ws:// in the profile, an option, GUESTCTL_SANDBOX_URL or another variable, or in an address from the service. `tls: {cleartext: true}` in a profile allows it for that profile's own addresses", "sends nothing: anyone on the network path could read the tokens"),
    "config.tls": (Exit.USAGE, "the certificate authorities cannot be read", "tls.ca, SSL_CERT_FILE or REQUESTS_CA_BUNDLE does not name a PEM file", "never connects without verification"),
    "state.unusable": (Exit.USAGE, "the state directory cannot be used", "no space, no permission, or another command has locked it", "reports nothing as done that it could not store"),
    "state.version": (Exit.USAGE, "a newer guestctl wrote the state", "two versions share one directory", "does not change it"),
    "sandbox.absent": (Exit.USAGE, "no sandbox was found", "none is running here, or its address or key is unknown", "does not start one by itself"),
    "sandbox.key": (Exit.UNAUTHORISED, "the sandbox refuses the admin key", "GUESTCTL_SANDBOX_ADMIN_KEY belongs to another sandbox", "does nothing"),
    "sandbox.session": (Exit.REFUSED, "the sandbox has no such session", "the id is wrong, or the sandbox no longer has that session", "does nothing"),
    "sandbox.answer": (Exit.UNREADABLE, "the server at this address is not a sandbox", "GUESTCTL_SANDBOX_URL names another server", "does nothing"),
    "service.refused": (Exit.REFUSED, "the service refused the request", "a field that the service does not accept; the message quotes the service", "never repeats the request"),
    "service.too_long": (Exit.REFUSED, "the message is too long", "the text or the frame exceeds the service's limit", "reports the send as rejected; no part of it was accepted"),
    "service.attributes": (Exit.REFUSED, "the attributes are too large", "keys and values together exceed the limit in bytes", "checks before it sends, if it knows the limit"),
    "service.missing": (Exit.REFUSED, "the service reports a missing field", "the profile names another API, or the service has changed", "never repeats the request"),
    "service.file": (Exit.REFUSED, "the service refused the file", "its type, size, name or content", "checks the session's limits before the upload"),
    "service.not_found": (Exit.REFUSED, "the service does not know the id or the address", "another region or deployment, or an address of another API", "never repeats the request"),
    "service.refresh_style": (Exit.REFUSED, "the service does not support this form of token refresh", "two forms are published and this service uses the other one, or the conversation no longer exists", "names the other form"),
    "auth.refused": (Exit.UNAUTHORISED, "the token is not accepted", "it is invalid, has expired, or belongs to another conversation", "renews it once and repeats the request; then stops"),
    "auth.no_refresh": (Exit.UNAUTHORISED, "the token is not accepted and cannot be renewed", "it expired, and this API publishes no refresh", "stops; the conversation cannot be resumed"),
    "auth.oauth": (Exit.UNAUTHORISED, "the service refuses the OAuth client", "a wrong client id, client secret or scope", "never tries the same credentials again"),
    "auth.secret": (Exit.UNAUTHORISED, "a token or secret is malformed", "it is truncated, wrapped over several lines, or not a token", "never sends it"),
    "auth.token_expired": (Exit.UNAUTHORISED, "the service issued a token that has expired already", "a cached answer, or clocks that differ: the token's `exp` is in the past for this machine and for the service", "checks each token of `guests` when it receives it; stores nothing"),
    "auth.token_routing": (Exit.UNAUTHORISED, "the token has no routing hints", "the guest was created without a queue, a skill and a language", "checks each token of `guests` when it receives it; stores nothing"),
    "auth.downgrade": (Exit.UNAUTHORISED, "a signed-in guest cannot become anonymous", "the session was signed in and is now configured without a sign-in", "leaves the session unchanged and sends nothing more"),
    "forbidden": (Exit.FORBIDDEN, "the service forbids the request", "a missing scope, the allowed domains, or a feature that is off", "never retries"),
    "forbidden.upgrade": (Exit.FORBIDDEN, "the service refuses the socket or the configuration", "the Origin, the deployment id, the region, or messaging that is off", "never retries"),
    "forbidden.gateway": (Exit.FORBIDDEN, "the gateway in front of the service refuses a frame", "a wrong address, or a gateway that does not know the route", "reports the gateway's text; never retries"),
    "forbidden.feature": (Exit.FORBIDDEN, "the deployment has this feature switched off", "an administrator's setting", "never retries"),
    "conflict.read_only": (Exit.CONFLICT, "the conversation accepts no more messages", "it has ended, and the deployment makes ended conversations read-only", "reports the send as rejected; history and clear still work"),
    "conflict.name": (Exit.CONFLICT, "a session of this name is stored already", "`session attach` never replaces a stored session", "sends nothing and stores nothing"),
    "conflict.key": (Exit.CONFLICT, "the id of a message was used for another one", "`send --id` with the id of an earlier message", "sends nothing, and leaves the earlier message as it is"),
    "conflict.locked": (Exit.CONFLICT, "the session is briefly locked", "another connection used it a moment ago", "repeats the request for up to 5 s"),
    "conflict.ended": (Exit.CONFLICT, "the session has ended", "the other side or a time limit ended it", "starts a new session only on `resume --on-conflict new`"),
    "conflict": (Exit.CONFLICT, "another client changed the session", "two clients used it at once", "never overwrites the change"),
    "rate.limited": (Exit.RATE_LIMITED, "too many requests", "a limit of the service, or the budget that guestctl's processes share", "waits as long as the service asks, at most 3 times and within --timeout"),
    "network.dns": (Exit.NETWORK, "the host name does not resolve", "a typo in region or base_url, or no resolver", "has sent nothing; retries only if a retry can help"),
    "network.connect": (Exit.NETWORK, "no connection", "a wrong host or port, a service that is down, or a firewall", "has sent nothing; retries within --timeout"),
    "network.tls": (Exit.NETWORK, "the TLS handshake failed", "the certificate, its dates, its name, or an untrusted CA", "never skips verification and never retries"),
    "network.proxy": (Exit.NETWORK, "the proxy refused the connection", "HTTPS_PROXY, the proxy's credentials, or one of its rules", "has sent nothing to the service"),
    "network.lost": (Exit.NETWORK, "the connection broke", "the network, a proxy, a half-open socket, a restart of the service, or a final close code", "reconnects with full jitter if the close code allows it, then fills the gap"),
    "network.gave_up": (Exit.NETWORK, "every reconnect failed", "the service was unreachable during all attempts", "stops; `guestctl resume` prints the messages that it missed"),
    "service.down": (Exit.NETWORK, "the service reports an internal fault", "HTTP 5xx, or UnexpectedError in the stream", "repeats only requests that are safe to repeat"),
    "timeout": (Exit.TIMED_OUT, "timed out waiting", "the service was reached, but no matching answer arrived", "leaves the session unchanged"),
    "timeout.busy": (Exit.TIMED_OUT, "other guestctl processes use what this one needs", "three sockets on one session, a send in progress, or a token refresh in progress", "waits for its turn, within --timeout"),
    "session.none": (Exit.SESSION_OVER, "there is no stored session", "none was created for this profile, API and address, or it was forgotten", "creates one by itself only for `ask` and `chat`"),
    "session.no_token": (Exit.SESSION_OVER, "the session's token was never stored", "the profile has `store_tokens: memory`, and another command created the session", "sends nothing; requests another token if the API grants one"),
    "session.gone": (Exit.SESSION_OVER, "the service no longer knows the session", "it expired, was cleared, or belongs to another deployment", "sends nothing more"),
    "session.expired": (Exit.SESSION_OVER, "the session expired", "no activity during the session's lifetime", "marks the session as expired; `ask` starts another"),
    "session.cleared": (Exit.SESSION_OVER, "the conversation was cleared", "the guest cleared it, here or on another device", "marks the session as cleared"),
    "session.ended": (Exit.SESSION_OVER, "the conversation has ended", "the other side ended it, or a time limit", "marks the session as ended"),
    "session.evicted": (Exit.SESSION_OVER, "the service closed this socket in favour of another", "a fourth socket, or a sign-in or new chat elsewhere", "stops and never takes the session back by itself"),
    "session.replaced": (Exit.SESSION_OVER, "the session of this command is no longer stored", "another command ran `session create --new`, `session forget` or `ask --new`", "sends nothing more for it and does not change the new session's records"),
    "session.logged_out": (Exit.SESSION_OVER, "the guest was signed out", "a sign-out here or elsewhere", "deletes its tokens"),
    "answer.unreadable": (Exit.UNREADABLE, "the answer is not what the API documents", "another API, a gateway's error page, or a truncated body", "ignores the whole answer"),
    "answer.token": (Exit.UNREADABLE, "the service issued a text that is no token", "another API, or a gateway that changes answers", "checks each token of `guests` when it receives it; stores nothing"),
    "answer.redirect": (Exit.UNREADABLE, "the address answers with a redirect", "http instead of https, or a sign-in page", "never follows a redirect with a token"),
    "answer.frame": (Exit.UNREADABLE, "the peer broke the WebSocket protocol", "a gateway or proxy that changes frames", "closes with the code that RFC 6455 requires"),
    "api.no_guest_id": (Exit.UNSUPPORTED, "this session has no guest id", "the service's answer to create had none, as in two published examples", "sends nothing; everything that needs no guest id works"),
    "api.unsupported": (Exit.UNSUPPORTED, "this API has no such operation", "no published source of this API describes one", "sends nothing"),
    "send.in_doubt": (Exit.IN_DOUBT, "the message may or may not have arrived", "the connection broke after the last byte was written and before the acknowledgement. A proxy can hold back a message for any length of time, so its absence from history proves nothing. To decide, look for the text in `guestctl history`; if a second copy does no harm, use `guestctl send --id KEY --resend`", "looks for the message until the deadline, and once in each later command; never sends it again, unless the profile states that the service deduplicates"),
    "load.slo": (Exit.NO, "an objective of a load test was not met", "the service was slower, or failed more often, than `--slo` allows; or nothing was measured for an objective", "prints each objective with the measured value"),
    "load.worker": (Exit.NO, "a worker of a load test is gone", "it was killed, its machine or its network went down, or it used too much memory", "reports what the others measured, and never calls such a result good"),
    "load.throttled": (Exit.RATE_LIMITED, "the service throttled a load test", "more than 5 % of the attempts of the last 30 s were answered 429: another program uses the same deployment, or its limits are lower than the published ones", "stops the test and reports what was measured"),
    "load.guard": (Exit.USAGE, "a load test may not begin", "its target is another machine, and the command neither names it nor limits the time", "sends nothing"),
    "load.python": (Exit.USAGE, "load tests need Python 3.11", "Locust, which runs them, does not support Python 3.10", "sends nothing"),
    "load.extra": (Exit.USAGE, "a package for load tests is not installed", "guestctl was installed without its extra", "sends nothing"),
    "load.address": (Exit.USAGE, "the master and the workers of a load test do not reach each other", "the address is wrong, the port is in use, or no master runs there", "sends nothing"),
    "load.locustfile": (Exit.USAGE, "the locustfile cannot be used", "it raised an exception when it was imported, or has no user class", "sends nothing; the exception is printed"),
    "relay.key": (Exit.UNAUTHORISED, "the relay does not accept the reader's key", "there is no key, it was replaced with `guestctl relay key --rotate`, or it belongs to another session", "never repeats the request"),
    "relay.refused": (Exit.REFUSED, "the relay refuses the reader", "the address is not that of a relay, the host name is not one of the relay's, or the relay serves several sessions and none or another one was named", "never repeats the request"),
    "relay.not_retained": (Exit.REFUSED, "the relay's log no longer has the events after the reader's position", "the reader was away for longer than `relay serve --retain` covers, and the relay runs with --strict; HTTP 410", "prints nothing, so that the loss is noticed"),
    "trace.refused": (Exit.NETWORK, "the collector did not accept the spans of `trace export --otlp`", "it is down, does not answer in time, or is not a collector of OTLP over HTTP", "the trace is unchanged. A repeated export sends the same spans"),
    "forward.failed": (Exit.NETWORK, "the receiver of `listen --forward-to` did not accept a record", "it is down, does not answer in time, or answers 408, 425 or 5xx", "posts the record up to four times, then ends: no later record overtakes this one. With --cursor the record does not count as written"),
    "forward.refused": (Exit.REFUSED, "the receiver of `listen --forward-to` refuses a record", "it answers 3xx or 4xx, for example because the address or the signature's secret is wrong; redirects are not followed", "never repeats the post, and ends"),
    "output.failed": (Exit.USAGE, "the output cannot be written", "a full disk, or a file without write permission", "stops before it loses more output"),
    "interrupted": (Exit.INTERRUPTED, "interrupted", "Ctrl-C", "leaves the state consistent"),
    "bug": (Exit.BUG, "an internal error", "a case that guestctl does not handle", "names only the place in the code, because values could be secret"),
}

EXITS_OF: dict[str, Exit] = {code: row[0] for code, row in _FAILURES.items()}

_EXITS: dict[Exit, tuple[str, str]] = {
    Exit.DONE: ("success", "the command did what was asked, and the service acknowledged it"),
    Exit.NO: ("the answer is no: a check failed, the conversation ended before a match, or doctor found a failed check", "the command itself worked"),
    Exit.USAGE: ("wrong usage or configuration", "nothing was sent; if only a later step failed, such as writing the output, the error names the outcome of the message"),
    Exit.REFUSED: ("the service refused the request", "another 4xx status, or an error frame"),
    Exit.UNAUTHORISED: ("not authorised: the token is invalid or expired and could not be renewed", "HTTP 401, or a close code with that meaning"),
    Exit.FORBIDDEN: ("forbidden: scope, Origin or feature", "HTTP 403"),
    Exit.CONFLICT: ("conflict: locked, read-only or ended", "HTTP 409"),
    Exit.RATE_LIMITED: ("rate limited, and all retries are used up", "HTTP 429, or a limit reported in the stream"),
    Exit.NETWORK: ("network, DNS or TLS failure, or the service is down", "the service could not be reached, or answered 5xx"),
    Exit.TIMED_OUT: ("timed out waiting", "the service was reached, but no matching answer arrived"),
    Exit.SESSION_OVER: ("the session has ended, or none is stored", "expired, unknown, cleared, evicted or signed out"),
    Exit.UNREADABLE: ("the service's answer cannot be understood", "not JSON, a missing field, or a redirect"),
    Exit.UNSUPPORTED: ("this API has no such operation", "`guestctl apis` shows which APIs have it"),
    Exit.IN_DOUBT: ("in doubt: the message may or may not have arrived; later commands look for it", "the connection broke between the write and the acknowledgement"),
    Exit.BUG: ("an internal error", "a case that guestctl does not handle"),
    Exit.HUNG_UP: ("the terminal was closed (SIGHUP)", "a terminal window or a remote session ended; `nohup` keeps a command running"),
    Exit.INTERRUPTED: ("interrupted (SIGINT)", "Ctrl-C"),
    Exit.BROKEN_PIPE: ("the reader of stdout closed the pipe", "as in `guestctl … | head`"),
    Exit.TERMINATED: ("terminated (SIGTERM)", "a supervisor or a user terminated the process"),
}

#: Status, meaning, cause, what guestctl does, failure, APIs, source.
_HTTP = (
    ("101", "switching protocols", "the service accepted the upgrade to a WebSocket", "configures or joins the session", None, _ALL, "RFC 6455 §4"),
    ("3xx", "redirect", "the address has moved, or a sign-in page intercepts the request", "never follows it: the redirect would receive a token", "answer.redirect", _ALL, _SHARED),
    ("400", "bad request", "a field is missing or malformed", "exits and quotes the service", "service.refused", _ALL, _SHARED),
    ("400", "bad request", "the body has no `type`", "always sends it", "service.refused", _WC, _other("webmessaging-conversations")),
    ("400", "the OAuth client is refused", "/oauth/token does not accept client_id, client_secret, the grant or the scope", "stops", "auth.oauth", (*_G, *_WC), _other("guests")),
    ("401", "not authorised", "the token is missing, wrong or expired", "renews the token once and repeats the request", "auth.refused", _ALL, _SHARED),
    ("401", "not authorised", "the token expired; it lives as long as its socket", "cannot renew it: this API publishes no refresh", "auth.no_refresh", _NUMBERED, _other("guest-sessions")),
    ("401", "not authorised", "no bearer token (a sessionToken in the body does not count), or no `guestId` in the body", "sends both; renews the token once and repeats the request", "auth.refused", _WC, _other("webmessaging-conversations")),
    ("401", "the OAuth client is refused", "/oauth/token does not accept client_id, client_secret, the grant or the scope", "stops", "auth.oauth", (*_G, *_WC), _other("guests")),
    ("403", "forbidden", "a missing scope, the deployment's allowed domains, or a feature that is off", "never retries", "forbidden", _ALL, _SHARED),
    ("403", "the upgrade is refused", "the Origin is not an allowed domain, the deploymentId is unknown, messaging is off, or an OAuth token was sent where none belongs", "never retries; `guestctl doctor` finds the cause", "forbidden.upgrade", _WM, f"{_WIRE} §2.4"),
    ("403", "no such configuration", "config.json of an unknown deployment id: the file store answers 403 instead of 404", "stops; check deployment_id and region", "forbidden.upgrade", _WM, f"{_WIRE} §3.1"),
    ("403", "the token is invalidated", "in the stream, after CONNECT was accepted: a socket that used the token has closed", "joins the session again once, reconnects, and sends again with the same id", "forbidden", _CG, _other("conversation-guests")),
    ("404", "not found", "an unknown conversation or guest: it expired or never existed", "exits with 10", "session.gone", (*_NUMBERED, *_CG, *_MC, *_G, *_WC), _SHARED),
    ("404", "not found", "on create, OAuth, a download or a shared socket: the address is not of this API, or the deployment is unknown", "stops", "service.not_found", _ALL, _SHARED),
    ("404", "not found", "on refresh: the service uses the other of two published forms", "names the other `refresh_style`", "service.refresh_style", _WC, _other("webmessaging-conversations")),
    ("404", "not found", "on sign-in, its refresh, or an upload: the deployment is unknown, or the address is stale", "stops", "service.not_found", _WM, f"{_WIRE} §7"),
    ("404", "not found", "on history: the service has no messages for this guest", "shows an empty history", None, _WM, f"{_WIRE} §7.1"),
    ("404", "not found", "on history after an unknown message id", "reads history from the start", None, (*_CG, *_G, *_WC), _SHARED),
    ("408", "timeout", "the service waited too long for the request", "stops", "service.refused", _WM, f"{_WIRE} §8"),
    ("409", "conflict", "another client changed the session", "never overwrites the change", "conflict", _ALL, _SHARED),
    ("409", "the session is locked", "`session.locked`: one of its sockets was lost less than 2 s ago", "repeats the request for up to 5 s", "conflict.locked", _NUMBERED, _other("guest-sessions")),
    ("409", "the session has ended", "`session.invalid`: a new session is needed", "starts a new session only on `resume --on-conflict new`", "conflict.ended", _NUMBERED, _other("guest-sessions")),
    ("409", "the conversation has ended", "in the stream, without a service code", "reports the send as rejected", "conflict.ended", _CG, _other("conversation-guests")),
    ("409", "read-only", "in the stream: the conversation has ended", "reports the send as rejected", "conflict.read_only", _WM, f"{_WIRE} §8"),
    ("413", "request too large", "the body or file exceeds the service's limit", "stops", "service.refused", _ALL, _SHARED),
    ("415", "unsupported media type", "Content-Type is not exactly application/json", "always sends exactly that", "service.refused", _ALL, _SHARED),
    ("429", "too many requests", "a rate limit of the service", "waits as long as Retry-After states (seconds or a date; 1 s without it), at most 3 times", "rate.limited", _ALL, _SHARED),
    ("500", "service error", "an internal fault of the service", "repeats requests that are safe to repeat", "service.down", _ALL, _SHARED),
    ("502", "bad gateway", "a proxy or gateway received no valid answer", "handles it like 500", "service.down", _ALL, _SHARED),
    ("503", "unavailable", "the service is overloaded or restarting", "handles it like 500, and waits as long as Retry-After states", "service.down", _ALL, _SHARED),
    ("504", "gateway timeout", "a gateway waited too long for the service", "handles it like 500", "service.down", _ALL, _SHARED),
    ("407", "proxy authentication required", "the proxy needs credentials, or refuses the given ones", "has sent nothing to the service", "network.proxy", _ALL, "RFC 9110 §15.5.8"),
    ("421", "misdirected request", "the sandbox received a Host name that it does not serve", "stops", "service.refused", _ALL, f"{_CONTRACT} §7"),
)


@immutable
class Handling:
    """How a client handles a close code: the one value from which an entry's sentences and failure come.

    `action` is the dialects' `CloseAction`. `next_step` is None where that of the failure fits.
    """

    action: str
    does: str
    failure: str | None
    next_step: str | None = None


_RECONNECT = Handling("reconnect", "reconnects with full jitter and fills the gap from history", "network.lost")
_FINAL = Handling(
    "final",
    "stops: trying again cannot help",
    "network.lost",
    "find the cause first: --trace FILE records the frames; `guestctl doctor` checks the connection",
)
_RENEW = Handling("renew", "renews the token and opens a new socket", "auth.refused")
_NO_RENEWAL = Handling("renew", "stops: this API cannot renew a token", "auth.no_refresh")

#: One row for each close code and group of APIs: code, meaning, cause, handling, APIs.
_CLOSE_ROWS: tuple[tuple[str, str, str, Handling, tuple[str, ...]], ...] = (
    ("1000", "normal closure", "one side is done; the conversation goes on", Handling("done", "nothing, if guestctl closed the socket; `listen` opens a new one if the service closed it", None), _ALL),
    ("1000", "normal closure", "`Widget disconnect` from the guest ends the conversation", Handling("done", "`session end` sends it to end the conversation", None), _G),
    ("1001", "going away", "the idle limit (10 min), the connection limit (2 h) or a restart of the service", _RECONNECT, _ALL),
    ("1002", "protocol error", "a peer broke RFC 6455", _FINAL, _ALL),
    ("1003", "unsupported data", "a binary frame where text was expected", _FINAL, _ALL),
    ("1005", "no status", "a close frame without a code", _RECONNECT, _ALL),
    ("1006", "abnormal closure", "the connection broke without a close frame: network, proxy or half-open socket", _RECONNECT, _ALL),
    ("1006", "abnormal closure", "before the handshake was answered: the token may have expired", Handling("reconnect", "checks the token's expiry, renews the token once, then reconnects", "network.lost"), _G),
    ("1007", "invalid data", "text that is not UTF-8", _FINAL, _ALL),
    ("1008", "policy violation", "the token was refused", _RENEW, _REFRESHING),
    ("1008", "policy violation", "the token was refused, and this API publishes no refresh", _NO_RENEWAL, _NUMBERED),
    ("1008", "policy violation", "the service's gateway refuses the connection: often a frame without an action, or a malformed token", _FINAL, _WM),
    ("1009", "message too big", "guestctl's last frame was over the limit (32 KiB for a frame, 128 KiB for a message)", Handling("too_big", "reports that send as rejected", "service.too_long"), _WM),
    ("1009", "message too big", "this API also uses the code to refuse a token", _RENEW, _MC),
    ("1009", "message too big", "a frame larger than the peer accepts", _FINAL, (*_NUMBERED, *_CG, *_G)),
    ("1010", "mandatory extension", "a client that requires an extension; guestctl requires none", _FINAL, _ALL),
    ("1011", "server error", "an internal fault of the service", _RECONNECT, _ALL),
    ("1012", "service restart", "the service restarts", _RECONNECT, _ALL),
    ("1013", "try again later", "the service is overloaded", _RECONNECT, _ALL),
    ("1014", "bad gateway", "a gateway lost its connection to the service", _RECONNECT, _ALL),
    ("1015", "TLS failure", "the TLS handshake failed; this code is never sent in a frame", Handling("final", "never skips verification and never retries", "network.tls"), _ALL),
    ("4001", "token refused", "the token expired or was refused", _RENEW, _REFRESHING),
    ("4001", "token refused", "the token expired, after a `tokenExpired` frame; this API publishes no refresh", _NO_RENEWAL, _NUMBERED),
    ("4001", "undocumented here", "the service documents no 4xxx close code; 4001 is FileTypeInvalid as a code inside a frame", _FINAL, _WM),
)

#: Service codes inside web-messaging frames: number, name, cause, what guestctl does, failure.
_SERVICE = (
    ("4000", "FeatureUnavailable", "the deployment has the feature switched off", "stops", "forbidden.feature"),
    ("4001", "FileTypeInvalid", "this file type is not allowed", "checks before the upload, where it knows the limits", "service.file"),
    ("4002", "FileSizeInvalid", "the file is larger than the deployment allows", "checks before the upload, where it knows the limits", "service.file"),
    ("4003", "FileContentInvalid", "the scan refused the content", "stops", "service.file"),
    ("4004", "FileNameInvalid", "the file name contains a forbidden character", "stops", "service.file"),
    ("4005", "FileNameTooLong", "the file name is too long", "stops", "service.file"),
    ("4006", "SessionHasExpired", "no activity during the session's lifetime", "marks the session as expired", "session.expired"),
    ("4007", "SessionNotFound", "the service does not know the token, or the socket was not configured first", "sends nothing more", "session.gone"),
    ("4008", "AttachmentHasExpired", "the upload was not sent in time", "stops", "service.file"),
    ("4009", "AttachmentNotFound", "the attachment id is unknown", "stops", "service.file"),
    ("4010", "AttachmentNotSuccessfullyUploaded", "the message was sent before the upload was accepted", "waits for the result of the upload first", "service.file"),
    ("4011", "MessageTooLong", "the text is longer than the service accepts", "reports the send as rejected", "service.too_long"),
    ("4013", "CustomAttributeSizeTooLarge", "keys and values together exceed the session's limit in bytes", "checks before it sends", "service.attributes"),
    ("4017", "CannotDowngradeToUnauthenticated", "a configureSession with the token of a signed-in guest", "leaves the session unchanged and asks for a sign-in", "auth.downgrade"),
    ("4020", "MissingParameter", "a required field is missing", "stops", "service.missing"),
    ("4029", "RequestRateTooHigh", "more messages per second than a session may send", "waits for the seconds in `retryAfter`, and sends again", "rate.limited"),
    ("4102", "FileEmpty", "the file is empty", "checks before the upload", "service.file"),
    ("5000", "UnexpectedError", "an internal fault of the service", "checks history before it repeats anything", "service.down"),
)

#: Texts that the REST families send as `code`: text, meaning, cause, what guestctl does, failure, APIs.
_TEXT_CODES = (
    ("session.locked", "the session is briefly locked", "one of its sockets was lost less than 2 s ago", "repeats the request for up to 5 s", "conflict.locked", _NUMBERED),
    ("session.invalid", "the session has ended", "a new session is needed", "starts a new session only on `resume --on-conflict new`", "conflict.ended", _NUMBERED),
    ("origin.not.allowed", "the Origin is refused", "it is not one of the deployment's allowed domains", "never retries", "forbidden", _ALL),
    ("feature.toggle.disabled", "the feature is off", "an administrator's setting", "never retries", "forbidden", _ALL),
    ("bad.credentials", "the credential is refused", "a wrong token, authorization code or client secret", "renews the token once, if it can be renewed", "auth.refused", _ALL),
)

#: Class or type of a frame, meaning, cause, what guestctl does, failure, APIs, source.
_FRAME_CLASSES = (
    ("SessionResponse", "the session is configured", "the answer to configureSession", "continues; `newSession:true` for a session with messages means that the old one had expired", None, _WM, f"{_WIRE} §6.1"),
    ("GetConfigurationResponse", "the deployment's configuration, over the socket", "the answer to getConfiguration", "reports it as an unknown event: guestctl reads config.json instead", None, _WM, f"{_WIRE} §6.2"),
    ("StructuredMessage", "a message or an event", "a participant sent a message or did something", "prints it once and in order", None, _WM, f"{_WIRE} §6.3"),
    ("JwtResponse", "a short-lived JWT for history", "the answer to getJwt", "uses it until 5 s before it expires", None, _WM, f"{_WIRE} §6.6"),
    ("PresignedUrlResponse", "the address for an upload or a download", "the answer to onAttachment or getAttachment", "uses it once and never shows it", None, _WM, f"{_WIRE} §6.6"),
    ("UploadSuccessEvent", "the file was accepted", "the scan found no problem", "sends the message that the file belongs to", None, _WM, f"{_WIRE} §6.6"),
    ("UploadFailureEvent", "the file was refused", "its type, its size or the scan", "stops", "service.file", _WM, f"{_WIRE} §6.6"),
    ("GenerateUrlError", "the service gives no upload address", "the file's type, size or name", "stops", "service.file", _WM, f"{_WIRE} §6.6"),
    ("AttachmentDeletedResponse", "the upload was deleted", "the answer to deleteAttachment", "continues", None, _WM, f"{_WIRE} §6.6"),
    ("ConnectionClosedEvent", "the service closes this socket", "a fourth socket, a sign-in elsewhere (`signedIn`), or a new chat elsewhere", "stops and never takes the session back by itself", "session.evicted", _WM, f"{_WIRE} §10.10"),
    ("SessionExpiredEvent", "the session has expired", "no activity during its lifetime", "marks the session as expired", "session.expired", _WM, f"{_WIRE} §6.6"),
    ("SessionClearedEvent", "the conversation was cleared", "the guest cleared it", "marks the session as cleared", "session.cleared", _WM, f"{_WIRE} §10.7"),
    ("LogoutEvent", "the guest was signed out", "a sign-out here or elsewhere", "deletes its tokens", "session.logged_out", _WM, f"{_WIRE} §10.8"),
    ("TooManyRequestsErrorMessage", "a rate limit", "too many frames in a short time", "waits for the seconds in `retryAfter`", "rate.limited", _WM, f"{_WIRE} §11.8"),
    ("Error", "a refusal", "see the body's `errorCode`, or else the frame's `code`", "depends on that code: `guestctl explain CODE`", "service.refused", _WM, f"{_WIRE} §8"),
    ("string", "a refusal in plain text", "the frame's `code` is an HTTP status or a service code", "depends on that code: `guestctl explain CODE`", "service.refused", _WM, f"{_WIRE} §8"),
    ("Presence", "Join, Disconnect, Clear or SignIn", "a participant joined or left, or the conversation ended", "prints it. A Disconnect with readOnly ends the conversation; where conversationDisconnect is off, the service sends none", None, _WM, f"{_WIRE} §6.5"),
    ("message", "a message", "a participant sent a message", "prints it once and in order", None, (*_NUMBERED, *_MC, *_G), _SHARED),
    ("typing", "a participant is typing", "the frame does not name the participant", "prints it, in `listen` only with --typing", None, _NUMBERED, _other("guest-sessions")),
    ("connected", "the events socket is ready", "the upgrade request carried the token", "continues", None, _NUMBERED, _other("guest-sessions")),
    ("tokenExpired", "the token has expired", "the socket lives as long as its token", "stops: this API publishes no refresh", "auth.no_refresh", _NUMBERED, _other("guest-sessions")),
    ("CONVERSATION_UPDATED", "the conversation's state", "the answer to CONNECT (`connected`), or a change", "continues, or ends with the conversation", None, _CG, _other("conversation-guests")),
    ("MESSAGE_ACCEPTED", "the service has stored guestctl's message", "the answer to SEND_MESSAGE", "reports the message as accepted", None, _CG, _other("conversation-guests")),
    ("MESSAGE_RECEIVED", "a message", "a participant sent a message", "prints it once and in order", None, _CG, _other("conversation-guests")),
    ("ERROR", "a refusal in the stream", "`status` is an HTTP status; 403 after CONNECT means an invalidated token", "on 403, joins the session again once and sends again", "forbidden", _CG, _other("conversation-guests")),
    ("registered", "the guest is registered on this socket", "the answer to register", "continues; registers again after a token refresh", None, _MC, _other("messaging-conversations")),
    ("error", "a refusal in the stream", "`code` names the reason; `correlationId` names the send that it answers", "handles it like the HTTP status with that meaning", "service.refused", _MC, _other("messaging-conversations")),
    ("handshake", "the service admits or refuses the guest", "`payload.status` is ok, or the reason for the refusal", "continues; after a refusal, renews the token once", "auth.refused", _G, _other("guests")),
)

#: Error texts as the service or TLS library words them, meaning, cause, what guestctl does, failure, APIs, source.
_ERROR_TEXTS = (
    ("User is not authorized to access this resource with an explicit deny", "the upgrade was refused", "the Origin, the deployment id, the region, or messaging that is off", "stops", "forbidden.upgrade", _WM, f"{_WIRE} §2.4"),
    ("Session is read-only, no new messages allowed", "the conversation has ended", "an agent or the flow ended it, and the deployment then makes it read-only", "reports the send as rejected", "conflict.read_only", _WM, f"{_WIRE} §10.6"),
    ("Presence events Conversation Clear are not supported", "clearing is switched off", "the deployment does not let guests clear a conversation", "stops", "forbidden.feature", _WM, f"{_WIRE} §8"),
    ("Turn on the Feature Toggle or fix the configuration.", "a feature is off", "typing, sign-in or another feature of the deployment", "stops", "forbidden.feature", _WM, f"{_WIRE} §8"),
    ("Session authentication failed", "the sign-in is not accepted", "its JWT is invalid or expired", "renews the sign-in; if that does not help, asks for a new one", "auth.refused", _WM, f"{_WIRE} §8"),
    ("Try to authenticate again", "the guest must sign in", "the deployment requires sign-in, or this session belonged to another person", "asks for a sign-in", "auth.refused", _WM, f"{_WIRE} §8"),
    ("Custom Attributes in channel metadata is larger than 2048 bytes", "the attributes are too large", "keys and values together exceed the limit", "checks before it sends", "service.attributes", _WM, f"{_WIRE} §8"),
    ("Message rate too high for this session", "a rate limit", "more messages per second than a session may send", "waits for the seconds in `retryAfter`, and sends again", "rate.limited", _WM, f"{_WIRE} §6.6"),
    ("Internal server error", "the gateway in front of the service failed", "an internal fault of the service; the frame has no class", "fails a request that waits for an answer; `listen` reports the text and continues", "service.down", _WM, f"{_WIRE} §2.5"),
    ("Session token is invalid or expired", "the send was refused", "the token has expired, or is not in the Authorization header", "renews the token once and repeats the request", "auth.refused", _WC, _other("webmessaging-conversations")),
    ("Guest not found. Session may have expired.", "the guest no longer exists", "a profile sync for an unknown guest", "stops", "session.gone", _G, _other("guests")),
    ("self-signed certificate in certificate chain", "the certificate's issuer is not trusted", "a proxy that inspects TLS, or a private CA", "never skips verification", "network.tls", _ALL, "RFC 5280 §6"),
    ("unable to get local issuer certificate", "this machine does not know the certificate's issuer", "a private CA, or a server that sends no intermediate certificate", "never skips verification", "network.tls", _ALL, "RFC 5280 §6"),
    ("certificate has expired", "the certificate has expired", "the server's certificate, or this machine's clock", "never skips verification", "network.tls", _ALL, "RFC 5280 §6"),
    ("Hostname mismatch", "the certificate is for another host name", "another host answers, or base_url is an alias", "never skips verification", "network.tls", _ALL, "RFC 9525 §6"),
)
# fmt: on


@immutable
class CloseCode:
    """A close code as some APIs use it. `apis` is empty for all of them."""

    code: str
    meaning: str
    cause: str
    handling: Handling
    apis: tuple[str, ...]


CLOSES = tuple(CloseCode(*row) for row in _CLOSE_ROWS)


def everything() -> Iterator[Explanation]:
    """Yield every entry by kind: exit codes, failures, HTTP, closes, service codes, frames, error texts."""
    for code, (meaning, cause) in _EXITS.items():
        yield Explanation(str(int(code)), "exit code", meaning, cause, "", None, f"{_CONTRACT} §5")
    for failure, (_, meaning, cause, does) in _FAILURES.items():
        yield Explanation(failure, "failure", meaning, cause, does, failure, f"{_CONTRACT} §5")
    for status, meaning, cause, does, then, apis, source in sorted(_HTTP, key=lambda row: row[0]):
        yield Explanation(status, "HTTP status", meaning, cause, does, then, source, apis)
    for close in CLOSES:
        yield _of_close(close)
    for number, name, cause, does, then in _SERVICE:
        yield Explanation(number, "service code", name, cause, does, then, f"{_WIRE} §8", _WM)
    for text, meaning, cause, does, then, apis in _TEXT_CODES:
        yield Explanation(text, "service code", meaning, cause, does, then, _SHARED, apis)
    for name, meaning, cause, does, then, apis, source in _FRAME_CLASSES:
        yield Explanation(name, "frame class", meaning, cause, does, then, source, apis)
    for text, meaning, cause, does, then, apis, source in _ERROR_TEXTS:
        yield Explanation(text, "message", meaning, cause, does, then, source, apis)


def _of_close(close: CloseCode) -> Explanation:
    handling = close.handling
    return Explanation(
        close.code,
        "close code",
        close.meaning,
        close.cause,
        handling.does,
        handling.failure,
        f"RFC 6455 §7.4; {_SHARED}",
        close.apis,
        handling.next_step,
    )


def explain(wanted: str, *, api: str | None = None) -> list[Explanation]:
    """Return the entries for a code, a name or part of an error text, of one API or of all.

    `exit 4`, `http 403`, `close 1006` and `code 4001` narrow a number to one kind. The list is empty if
    nothing matches.
    """
    wanted = " ".join(wanted.split())  # a pasted error may be wrapped over several lines
    first, _, rest = wanted.partition(" ")
    kind = KINDS.get(first.lower()) if rest else None
    sought = (rest if kind else wanted).casefold()
    known = [entry for entry in everything() if (kind is None or entry.kind == kind) and _belongs_to(entry, api)]
    exact = [entry for entry in known if entry.code.casefold() == sought]
    if exact or not sought:
        return exact
    if sought.isdigit():
        return [entry for entry in known if len(sought) == 3 and entry.code == f"{sought[0]}xx"]
    if len(sought) < 4:
        return []
    # Users paste a whole error line or remember half of it: either text may contain the other.
    found = [e for e in known if e.meaning.casefold() == sought or _matches_text(e, sought)]
    return found or [e for e in known if _matches_error_line(e, sought)]


def _matches_error_line(entry: Explanation, line: str) -> bool:
    """Whether a pasted error line or JSON error object of guestctl has the entry's status, code or next step."""
    if entry.kind == "HTTP status":
        return re.search(rf"\bhttp {entry.code}\b", line) is not None
    matches = f'"code":"{entry.code}"' in line or entry.next_step.casefold() in line
    return entry.kind == "failure" and bool(entry.next_step) and matches


def _matches_text(entry: Explanation, sought: str) -> bool:
    code = entry.code.casefold()
    return sought in code or (entry.kind == "message" and code in sought)


def _belongs_to(entry: Explanation, api: str | None) -> bool:
    return api is None or not entry.apis or api in entry.apis


def nearest(unknown: str) -> Sequence[str]:
    """Return up to three codes that look like an unknown one."""
    from guestctl.core import suggestions

    names = {name.casefold(): entry.code for entry in everything() for name in (entry.code, entry.meaning)}
    found = [names[name] for name in suggestions.nearest(unknown.strip().casefold(), names, 6)]
    return list(dict.fromkeys(found))[:3]
