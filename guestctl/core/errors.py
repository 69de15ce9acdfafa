"""Every way guestctl can fail: its exit code, its stable string code and its hint.

Knows: the exit codes (contract.md §5) and one table of failure codes. Must not know: any other module, any library,
any dialect. All layers raise these; only the command line turns them into text and an exit code.

    Failure
    ├── CheckFailed      1   the answer is no: an expectation was not met
    ├── UsageError       2   the command or the configuration is wrong
    ├── Refused          3   the service refused the request
    ├── Unauthorised     4   the token is not accepted and could not be refreshed
    ├── Forbidden        5   scope, origin or feature
    ├── Conflict         6   locked, read-only, ended
    ├── RateLimited      7   still limited when retries were used up
    ├── NetworkError     8   DNS, TCP, TLS, proxy, or the service is down
    ├── TimedOut         9   the service was reached, but the awaited answer did not arrive
    ├── SessionOver     10   expired, unknown, cleared, evicted, or none stored
    ├── Unreadable      11   an answer that cannot be read
    ├── Unsupported     12   this API has no such operation
    └── InDoubt         13   a message may or may not have arrived
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self


class Exit(IntEnum):
    """Process exit codes (contract.md §5)."""

    DONE = 0
    NO = 1
    USAGE = 2
    REFUSED = 3
    UNAUTHORISED = 4
    FORBIDDEN = 5
    CONFLICT = 6
    RATE_LIMITED = 7
    NETWORK = 8
    TIMED_OUT = 9
    SESSION_OVER = 10
    UNREADABLE = 11
    UNSUPPORTED = 12
    IN_DOUBT = 13
    BUG = 70
    HUNG_UP = 129
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


#: Stable failure code -> next step for the user. The only copy: errors and `explain` both read it.
NEXT_STEPS: dict[str, str] = {
    "check.failed": "compare the expectation with the messages above; `guestctl history` shows the whole conversation",
    "check.pattern_timeout": "simplify the pattern: avoid a repetition inside a repetition, such as (a+)+, and "
    "alternatives that match the same text",
    "check.undecided": "read the votes above: make the criterion more precise, raise `votes`, or use another model; "
    "`guestctl judge LABELLED.yaml` measures a judge",
    "check.customer": "make persona, goal and `knows` of the customer more precise, or use another model; "
    "`guestctl check --retries 1 FILE` tries again",
    "ai.recording": "restore what the recording was made with, or record again: `guestctl check "
    "--model-record DIR FILE`",
    "ai.budget": "raise `budget` or `scenario_budget`; `guestctl check --dry-run FILE` prints the "
    "most calls of a script",
    "ai.key": "correct `ai.key` (`guestctl profile show`) or GUESTCTL_AI_KEY",
    "ai.limited": "repeat the command later, or run fewer scenarios at once: `guestctl check --parallel 1 FILE`",
    "ai.refused": "check `ai.base_url` (`guestctl profile show`), `model` and `parameters` of the script",
    "ai.down": "try again later; the model server reported an internal error",
    "ai.answer": "check that `ai.base_url` (`guestctl profile show`) speaks the chat-completions wire; "
    "--trace FILE shows the answer",
    "load.slo": "compare the measured values above with the objectives",
    "load.worker": "see above why the worker ended, and run the test again: `guestctl load FILE`",
    "load.throttled": "run the test with fewer guests or a slower --ramp; the limits are in docs/load.md",
    "load.guard": "when the vendor has approved the test, add --yes-load-test with exactly this host, and --for",
    "load.python": "use Python 3.11 or newer for load tests; the other commands need 3.10",
    "load.extra": "install it: `pip install 'guestctl[load]'`",
    "load.address": "check the address of the master, and that no other program uses its port",
    "load.locustfile": "correct the locustfile; docs/load.md shows a complete one",
    "doctor.clock": "set this machine's clock (NTP): the service checks tokens against its own clock; "
    "then run `guestctl doctor` again",
    "doctor.inactive": "activate the deployment in the service's administration, or use another deployment "
    "(`guestctl profile show`)",
    "doctor.messenger": "turn on messaging in the deployment, or use another deployment (`guestctl profile show`)",
    "doctor.deployment": "check deployment_id, region and config_url: `guestctl profile show` shows where each value "
    "comes from",
    "doctor.origin": "set `origin` to an allowed domain (`guestctl profile show`), or allow this domain in the "
    "deployment",
    "doctor.queue": "correct `queue` (`guestctl profile show`), or create the queue in the service's administration",
    "doctor.url": "correct the address, or choose the API that it belongs to: `guestctl apis`",
    "conversation.ended": "run `guestctl history --all` to see how the conversation ended",
    "usage": "`guestctl --help` lists the commands; add --help to a command for its options and two examples",
    "usage.option": "remove the option, or use an API that supports it: `guestctl apis`",
    "usage.text": "leave out the text that cannot be encoded; where the service offered it (a choice, a form), answer "
    "with a text of your own",
    "config.profile": "list the profiles with `guestctl profile list`; check the file with `guestctl profile check`",
    "config.file": "correct the line named above, then run `guestctl profile check`",
    "config.key": "set the value in the profile (`guestctl help profiles`), with an option or a GUESTCTL_* variable",
    "config.untrusted": "read the file, then trust it: `guestctl profile trust PATH` (a script: `check --trust`)",
    "config.cleartext": "use https:// or wss://; `tls: {cleartext: true}` in a profile is for test networks only "
    "(`guestctl explain config.cleartext`)",
    "config.tls": "set `tls.ca` (or SSL_CERT_FILE) to a PEM file of the issuing CA; `guestctl doctor` tests it",
    "state.unusable": "free some space, set GUESTCTL_STATE to a writable directory, or add --no-state",
    "state.version": "use the newer guestctl that wrote it, or set GUESTCTL_STATE to another directory",
    "sandbox.absent": "start one with `guestctl sandbox serve`, or run the command under `guestctl sandbox exec --`",
    "sandbox.key": "unset GUESTCTL_SANDBOX_ADMIN_KEY to use the sandbox started last (`guestctl sandbox serve`)",
    "sandbox.session": "list the sandbox's sessions with `guestctl sandbox sessions`",
    "sandbox.answer": "unset or correct GUESTCTL_SANDBOX_URL; `guestctl sandbox serve` starts a sandbox",
    "service.refused": "read the service's reason above, correct the request and try again",
    "service.too_long": "shorten the text, or split it into lines and pipe them to `guestctl send - --lines`",
    "service.attributes": "shorten or remove attributes; `guestctl session show` shows the limit",
    "service.missing": "check that the service speaks this API (`guestctl apis`); --trace FILE shows the request",
    "service.file": "compare the file's type, size and name with the limits in `guestctl session show`",
    "service.not_found": "check the address and the deployment with `guestctl profile show`; "
    "the service does not know this id",
    "service.refresh_style": "if the conversation is still active, switch `refresh_style` to its other value "
    "(`guestctl profile show`)",
    "auth.refused": "renew the token with `guestctl refresh-token`; if that is refused too, "
    "run `guestctl session create`",
    "auth.no_refresh": "this API cannot renew a token; start again with `guestctl session create`",
    "auth.oauth": "check oauth.client_id and oauth.client_secret (`guestctl profile show`), and the client's scopes",
    "auth.secret": "copy the token, client id or secret again from where it was issued",
    "auth.token_expired": "repeat the command; if the service goes on issuing expired tokens, compare the clocks with "
    "`guestctl doctor`",
    "auth.token_routing": "give the guest a queue, a skill or a language: options of `guestctl session create`, or "
    "keys of the profile (`guestctl help profiles`)",
    "auth.downgrade": "sign in again, or run `guestctl session create`; this token belongs to a signed-in guest",
    "forbidden": "check deployment_id, scopes, `origin` (allowed domains) and features; `guestctl doctor` tests each",
    "forbidden.upgrade": "check deployment_id, region and `origin` (allowed domains); `guestctl doctor` tests each",
    "forbidden.gateway": "check base_url, socket_url, region and deployment_id (`guestctl profile show`): the gateway "
    "in front of the service did not pass the frame on",
    "forbidden.feature": "turn on the feature in the deployment; `guestctl doctor` shows which features are on",
    "conflict.read_only": "start another conversation with `guestctl session create --new`",
    "conflict.name": "choose another name with --as, or delete the stored session with `guestctl session forget NAME`",
    "conflict.key": "use another --id, or repeat exactly what was sent with this one",
    "conflict.locked": "run `guestctl resume` to wait for the other connection to close, then repeat the command",
    "conflict.ended": "start another conversation with `guestctl session create` or "
    "`guestctl resume --on-conflict new`",
    "conflict": "run `guestctl resume` to see the session's current state; something else changed it",
    "rate.limited": "repeat the command later, or raise --timeout so that guestctl waits as long as asked "
    "(`guestctl explain 429`)",
    "network.dns": "check region or base_url (`guestctl profile show`), and this machine's DNS",
    "network.connect": "check that the host and port are right and the service is up; behind a proxy, set HTTPS_PROXY; "
    "`guestctl doctor` tests the connection",
    "network.tls": "check the host name, the certificate's dates and the CA (`tls.ca`), because verification cannot be "
    "turned off; `guestctl doctor` tests each",
    "network.proxy": "check the proxy variable (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY) and NO_PROXY: the proxy is at "
    "fault, not the service",
    "network.lost": "repeat the command, or raise --timeout (of a model call: `ai.timeout` of the script); "
    "`guestctl explain close CODE` explains a close code",
    "network.gave_up": "run `guestctl listen --forever` to reconnect without a limit; "
    "`guestctl doctor` looks for the cause",
    "service.down": "try again later; the service reported an internal error",
    "timeout.input": "write to the pipe and close it, or raise --timeout (`guestctl explain timeout.input`)",
    "timeout": "raise --timeout, or run `guestctl history` to see what did arrive",
    "timeout.busy": "stop the other command (`guestctl listen` or `guestctl chat`?), or raise --timeout",
    "session.none": "create one with `guestctl session create`",
    "session.no_token": "use `guestctl ask`, which starts a session and keeps its token while it runs, "
    "or set `store_tokens: database`",
    "session.gone": "start another session with `guestctl session create`; the service no longer knows this one",
    "session.expired": "start another session with `guestctl session create`; `guestctl ask` does so automatically",
    "session.cleared": "start another session with `guestctl session create`",
    "session.ended": "start another session with `guestctl session create`",
    "session.evicted": "stop the other connection, which took over this session, or run `guestctl resume`",
    "session.replaced": "list the sessions with `guestctl session list`; another command replaced or deleted this one",
    "session.logged_out": "sign in again, or run `guestctl session create`; the guest was signed out",
    "answer.unreadable": "repeat the command with --trace FILE, and check that base_url serves this API "
    "(`guestctl apis`)",
    "answer.token": "check that base_url serves this API (`guestctl apis`); --trace FILE shows the answer, with its "
    "token masked",
    "answer.redirect": "correct the address (`guestctl profile show`); guestctl never follows a redirect",
    "answer.frame": "repeat the command with --trace FILE to see the frame that broke the WebSocket protocol",
    "api.unsupported": "`guestctl apis` shows which API supports it",
    "api.no_guest_id": "the service gave this session no guest id; sending, reading and listening work without it",
    "send.in_doubt": "later commands look for it and do not send it again: `guestctl history` shows whether it "
    "arrived, and `guestctl send --id KEY --resend` sends it again",
    "relay.key": "set GUESTCTL_RELAY_KEY to the key that `guestctl relay key` prints where the relay runs",
    "relay.refused": "correct the address and the session (-s); the relay answers to its own address and the names of "
    "`guestctl relay serve --allow-host NAME`",
    "relay.not_retained": "start without the old position (a new --cursor FILE), or let the relay keep more events "
    "(`guestctl relay serve --retain N`)",
    "trace.refused": "start or correct the collector, then repeat the command; URL names its port for OTLP over HTTP",
    "forward.failed": "start or correct the receiver, then repeat the command; with --cursor it continues with this "
    "record",
    "forward.refused": "correct the address or the receiver (its log says why); it must answer 2xx",
    "output.failed": "create the directory or free some space, or write the output somewhere else",
    "interrupted": "`guestctl resume` shows the session's state; nothing acknowledged was lost",
    "bug": "please report it with the output of the same command under --debug",
}


class Failure(Exception):
    """The base class of all failures.

    `exit` is the exit code, and `code` the stable code that `guestctl explain` knows. `message` is one line of text,
    and `hint` the next step (default: that of the code). `api`, `http_status` and `service_code` name the API, the
    status and the service's own code, None where there is none. `retry_after` is in seconds. `body` is the service's
    answer as text; it contains no secret.

    If sending a message failed, `delivery` is the outcome (`accepted`, `rejected`, `not_sent` or `in_doubt`), and
    `sent` is the `Sent` record. `retried` states that all useful retries have been made. `doubtful` states that an
    earlier try of the same request was written and that its outcome is unknown.
    """

    exit: ClassVar[Exit] = Exit.BUG
    default_code: ClassVar[str] = "bug"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        api: str | None = None,
        http_status: int | None = None,
        service_code: str | int | None = None,
        retry_after: float | None = None,
        body: str | None = None,
        delivery: str | None = None,
        retried: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint if hint is not None else NEXT_STEPS[self.code]
        self.api = api
        self.http_status = http_status
        self.service_code = service_code
        self.retry_after = retry_after
        self.body = body
        self.delivery = delivery
        self.sent: object | None = None
        self.retried = retried
        self.doubtful = False

    def after_retries(self, *, doubtful: bool) -> None:
        """Mark this failure as that of the last try of its request."""
        self.retried, self.doubtful = True, doubtful

    def with_outcome(self, delivery: str | None, sent: object | None = None) -> Self:
        """Set the outcome of the message whose send ended with this failure; return the failure."""
        self.delivery, self.sent = delivery, sent
        return self


class CheckFailed(Failure):
    """Exit code 1: the answer is no, for example because an expectation was not met."""

    exit = Exit.NO
    default_code = "check.failed"


class UsageError(Failure):
    """Exit code 2: an argument, the configuration or a local file cannot be used."""

    exit = Exit.USAGE
    default_code = "usage"


class Refused(Failure):
    """Exit code 3: the service refused the request."""

    exit = Exit.REFUSED
    default_code = "service.refused"


class Unauthorised(Failure):
    """Exit code 4: the token is invalid or has expired, and it could not be renewed."""

    exit = Exit.UNAUTHORISED
    default_code = "auth.refused"


class Forbidden(Failure):
    """Exit code 5: the scope, the Origin or the feature is not allowed."""

    exit = Exit.FORBIDDEN
    default_code = "forbidden"


class Conflict(Failure):
    """Exit code 6: the session is locked, read-only or has ended, or the client key belongs to another message."""

    exit = Exit.CONFLICT
    default_code = "conflict"


class RateLimited(Failure):
    """Exit code 7: a rate limit, after all retries or because the wait would exceed the timeout."""

    exit = Exit.RATE_LIMITED
    default_code = "rate.limited"


class NetworkError(Failure):
    """Exit code 8: DNS, TCP, TLS, a proxy, a broken connection, or an internal fault of the service.

    `written` states whether the last byte of the request or frame may have been handed to the operating system. False
    proves that the service cannot act on it. `transient` states whether a retry can help, which is never the case with
    an invalid certificate. `close_code` is the WebSocket close code if a close ended the connection (1006: the
    connection broke without one).
    """

    exit = Exit.NETWORK
    default_code = "network.lost"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        written: bool = False,
        transient: bool = True,
        close_code: int | None = None,
        api: str | None = None,
        http_status: int | None = None,
        service_code: str | int | None = None,
        retry_after: float | None = None,
        body: str | None = None,
        retried: bool = False,
    ) -> None:
        super().__init__(
            message,
            code=code,
            api=api,
            http_status=http_status,
            service_code=service_code,
            retry_after=retry_after,
            body=body,
            retried=retried,
        )
        self.written = written
        self.transient = transient
        self.close_code = close_code


class TimedOut(Failure):
    """Exit code 9: the service was reached, but the awaited answer did not arrive in time."""

    exit = Exit.TIMED_OUT
    default_code = "timeout"


class SessionOver(Failure):
    """Exit code 10: the session has ended, or none is stored."""

    exit = Exit.SESSION_OVER
    default_code = "session.gone"


class Unreadable(Failure):
    """Exit code 11: the service's answer cannot be understood."""

    exit = Exit.UNREADABLE
    default_code = "answer.unreadable"


class Unsupported(Failure):
    """Exit code 12: this API has no such operation."""

    exit = Exit.UNSUPPORTED
    default_code = "api.unsupported"


class InDoubt(Failure):
    """Exit code 13: the service may or may not have accepted the message. `key` is its client key."""

    exit = Exit.IN_DOUBT
    default_code = "send.in_doubt"

    def __init__(self, message: str, *, key: str, api: str | None = None) -> None:
        super().__init__(message, api=api, delivery="in_doubt")
        self.key = key


def bug(error: Exception) -> Failure:
    """Return the failure for an unexpected exception. It names only the place: the text may contain secrets."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = "" if frame is None else f" at {frame.tb_frame.f_globals.get('__name__')}:{frame.tb_lineno}"
    failure = Failure(f"internal error: {type(error).__name__}{place}")
    failure.__cause__ = error
    return failure
