"""Every way guestctl can fail: its exit code, its stable string code and its next step.

Knows: the exit codes (contract.md §5) and one table of failure codes. Must not know: any other
module of ours, any library, any dialect. Layers raise these; only the command line turns them
into text and a number.

    Failure
    ├── CheckFailed      1   the answer is no
    ├── UsageError       2   the command or the configuration is wrong
    ├── Refused          3   the service refused the request
    ├── Unauthorised     4   the token is not accepted and could not be refreshed
    ├── Forbidden        5   scope, origin or feature
    ├── Conflict         6   locked, read-only, ended
    ├── RateLimited      7   still limited when retries were used up
    ├── NetworkError     8   DNS, TCP, TLS, proxy, or the service is down
    ├── TimedOut         9   reached, but the awaited thing did not come
    ├── SessionOver     10   expired, unknown, cleared, evicted, or none stored
    ├── Unreadable      11   an answer we cannot understand
    ├── Unsupported     12   this API has no such operation
    └── InDoubt         13   a message may or may not have arrived
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


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
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


#: Stable failure code -> next step for the user. The only copy: errors and `explain` both read it.
NEXT_STEPS: dict[str, str] = {
    "check.failed": "Read what came instead above; `guestctl history` shows the whole conversation.",
    "doctor.clock": "Set this machine's clock (NTP), tokens are judged by the service's; then `guestctl doctor` again.",
    "doctor.inactive": "Activate it in the service's administration, or take another one (`guestctl profile show`).",
    "doctor.messenger": "Switch messaging on in the deployment, or take another one (`guestctl profile show`).",
    "doctor.deployment": "Check deployment_id, region and config_url: `guestctl profile show` says whence each is.",
    "doctor.origin": "Set `origin` to an allowed domain (`guestctl profile show`), or have this one allowed.",
    "doctor.url": "Correct the address, or choose the API it belongs to: `guestctl apis`.",
    "conversation.ended": "The conversation ended before the awaited message; `guestctl history --all` shows how.",
    "usage": "`guestctl --help` lists the commands; each shows its options and two examples with --help.",
    "usage.option": "Drop the option, or use an API that has it: `guestctl apis`.",
    "config.profile": "List the profiles with `guestctl profile list`; check the file with `guestctl profile check`.",
    "config.file": "Mend the line named above, then run `guestctl profile check`.",
    "config.key": "Put the value into the profile (`guestctl help profiles`), an option or a GUESTCTL_* variable.",
    "config.cleartext": "Use https:// or wss://; `tls: {cleartext: true}` in a profile is for test networks. "
    "`guestctl explain config.cleartext`",
    "config.tls": "Point `tls.ca` (or SSL_CERT_FILE) at a PEM file of the issuing CA; `guestctl doctor` tries it.",
    "state.unusable": "Free some space, set GUESTCTL_STATE to a writable directory, or run with --no-state.",
    "state.version": "Use the newer guestctl that wrote it, or set GUESTCTL_STATE to another directory.",
    "sandbox.absent": "Start one with `guestctl sandbox serve`, or run the command under `guestctl sandbox exec --`.",
    "sandbox.key": "Unset GUESTCTL_SANDBOX_ADMIN_KEY to use the one started last (`guestctl sandbox serve`).",
    "sandbox.session": "List them with `guestctl sandbox sessions`.",
    "sandbox.answer": "Unset or correct GUESTCTL_SANDBOX_URL; `guestctl sandbox serve` starts a sandbox.",
    "service.refused": "The service's own words are above; correct the request and try again.",
    "service.too_long": "Shorten the text, or split it into lines and pipe them to `guestctl send - --lines`.",
    "service.attributes": "Shorten or drop attributes: keys and values together are limited (`guestctl session show`).",
    "service.missing": "The service misses a field: is it this API (`guestctl apis`)? --trace FILE shows the request.",
    "service.file": "Check the file's type, size and name against `guestctl session show`.",
    "service.not_found": "The service does not know this id; check where you talk to: `guestctl profile show`.",
    "service.refresh_style": "If the conversation lives, turn `refresh_style` the other way (`guestctl profile show`).",
    "auth.refused": "Try `guestctl refresh-token`; if that is refused too, `guestctl session create`.",
    "auth.no_refresh": "This API has no refresh: start again with `guestctl session create`.",
    "auth.oauth": "Check oauth.client_id and oauth.client_secret (`guestctl profile show`), and the client's scopes.",
    "auth.secret": "A token, client id or secret is malformed; take it again from where it was issued.",
    "auth.downgrade": "This token belongs to a signed-in guest: sign in again, or `guestctl session create`.",
    "forbidden": "Check deployment_id, scopes, `origin` (allowed domains), features; `guestctl doctor` tries them.",
    "forbidden.upgrade": "Check deployment_id, region and origin (allowed domains); `guestctl doctor` tries each.",
    "forbidden.feature": "The feature is off in the deployment; `guestctl doctor` shows which are on.",
    "conflict.read_only": "Start another conversation with `guestctl session create --new`.",
    "conflict.locked": "Another connection held the session a moment ago; `guestctl resume` waits, then repeat.",
    "conflict.ended": "Start another with `guestctl session create`, or `guestctl resume --on-conflict new`.",
    "conflict": "Something else changed the session; `guestctl resume` shows where it stands.",
    "rate.limited": "Repeat it later, or with more --timeout: then guestctl waits as asked (`guestctl explain 429`).",
    "network.dns": "Check region or base_url (`guestctl profile show`), and that this machine resolves names.",
    "network.connect": "Check host, port, and that it is up; behind a proxy set HTTPS_PROXY; `guestctl doctor` looks.",
    "network.tls": "Check host name, dates, CA (`tls.ca`): verification is never skipped; `guestctl doctor` tries it.",
    "network.proxy": "The proxy refused, not the service: check HTTPS_PROXY, its credentials and NO_PROXY.",
    "network.lost": "Repeat the command, or raise --timeout; `guestctl explain close CODE` has the close codes.",
    "network.gave_up": "Every reconnect failed, `guestctl listen --forever` goes on; `guestctl doctor` says why.",
    "service.down": "The service answers with an error of its own; try again later.",
    "timeout": "Raise --timeout, or look at `guestctl history` for what did arrive.",
    "timeout.busy": "Stop the other command (`guestctl listen` or `chat`?), or give this one more --timeout.",
    "session.none": "Create one with `guestctl session create`.",
    "session.no_token": "It lasts as long as its command, `guestctl ask` or `chat`; else set `store_tokens: database`.",
    "session.gone": "The service no longer knows this session; `guestctl session create` starts another.",
    "session.expired": "Start another with `guestctl session create`; `guestctl ask` does so by itself.",
    "session.cleared": "Start another with `guestctl session create`.",
    "session.ended": "Start another with `guestctl session create`.",
    "session.evicted": "Another connection took this session over; stop it, or `guestctl resume`.",
    "session.replaced": "Another command began or chose something else; `guestctl session list` shows what there is.",
    "session.logged_out": "The guest was signed out; sign in again or `guestctl session create`.",
    "answer.unreadable": "Repeat with --trace FILE: is base_url really this API? `guestctl apis` lists them.",
    "answer.redirect": "It answers with a redirect, which is never followed; correct it: `guestctl profile show`.",
    "answer.frame": "The peer broke the WebSocket protocol; repeat with --trace FILE.",
    "api.unsupported": "`guestctl apis` shows which API can do it.",
    "send.in_doubt": "Do not resend by hand: the next `guestctl send` or `resume` looks in history and settles it.",
    "output.failed": "Free some space, or give the output another place.",
    "interrupted": "Nothing acknowledged was lost; `guestctl resume` shows where the session stands.",
    "bug": "Please report it with the output of the same command under --debug.",
}


class Failure(Exception):
    """A failure with all that the user is told of it.

    `code` is stable and listed in `NEXT_STEPS`; `message` is one line in the user's terms;
    `retry_after` is in seconds; `body` is the service's own answer as text, never a secret.
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
        #: Whoever performs exchanges has tried again already, as often as that made sense.
        self.retried = False
        #: An earlier try of the same request left, and nobody knows what became of it.
        self.doubtful = False
        #: What became of the message, when sending one failed: rejected, not_sent or in_doubt.
        self.delivery: str | None = None
        #: The `Sent` a failed or unanswered send ends with, for whoever wants to show it.
        self.sent: object | None = None


class CheckFailed(Failure):
    exit = Exit.NO
    default_code = "check.failed"


class UsageError(Failure):
    exit = Exit.USAGE
    default_code = "usage"


class Refused(Failure):
    exit = Exit.REFUSED
    default_code = "service.refused"


class Unauthorised(Failure):
    exit = Exit.UNAUTHORISED
    default_code = "auth.refused"


class Forbidden(Failure):
    exit = Exit.FORBIDDEN
    default_code = "forbidden"


class Conflict(Failure):
    exit = Exit.CONFLICT
    default_code = "conflict"


class RateLimited(Failure):
    exit = Exit.RATE_LIMITED
    default_code = "rate.limited"


class NetworkError(Failure):
    """DNS, TCP, TLS, proxy, a broken connection, or the service being down.

    `written` says whether any byte of the request or frame may have left: False proves *not sent*.
    `transient` says whether trying again can help (a bad certificate never heals by retrying).
    `close_code` is the WebSocket close code when a close ended the connection (1006: none came).
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
    ) -> None:
        super().__init__(
            message,
            code=code,
            api=api,
            http_status=http_status,
            service_code=service_code,
            retry_after=retry_after,
            body=body,
        )
        self.written = written
        self.transient = transient
        self.close_code = close_code


class TimedOut(Failure):
    exit = Exit.TIMED_OUT
    default_code = "timeout"


class SessionOver(Failure):
    exit = Exit.SESSION_OVER
    default_code = "session.gone"


class Unreadable(Failure):
    exit = Exit.UNREADABLE
    default_code = "answer.unreadable"


class Unsupported(Failure):
    exit = Exit.UNSUPPORTED
    default_code = "api.unsupported"


class InDoubt(Failure):
    """The message may or may not have arrived; `key` is its client-made id."""

    exit = Exit.IN_DOUBT
    default_code = "send.in_doubt"

    def __init__(self, message: str, *, key: str, api: str | None = None) -> None:
        super().__init__(message, api=api)
        self.key = key


def bug(error: Exception) -> Failure:
    """An exception nobody foresaw. Its text may hold anything, so only its place is told."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = "" if frame is None else f" at {frame.tb_frame.f_globals.get('__name__')}:{frame.tb_lineno}"
    failure = Failure(f"this is a bug: {type(error).__name__}{place}")
    failure.__cause__ = error
    return failure
