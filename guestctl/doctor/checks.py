"""The doctor's checks: everything that a conversation needs, one thing at a time.

Knows: the checks, their order and their dependencies. Must not know: sockets, HTTP, the command line.
All network and state access goes through the `Probes` that the caller hands in.

The checks start nothing that a guest or an agent would see. A first configure uses a throw-away token,
and is sent only on APIs where it starts no conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar
from urllib.parse import urlsplit

from guestctl.core.clock import Clock, rfc3339
from guestctl.core.errors import Failure, Forbidden, NetworkError, Refused
from guestctl.core.humanize import as_written, format_duration
from guestctl.core.model import Credential, Session
from guestctl.core.redact import without
from guestctl.dialects.addresses import host_and_port
from guestctl.dialects.base import Dialect
from guestctl.doctor.findings import (
    Certificate,
    Finding,
    Probes,
    QueueAnswer,
    Result,
    TokenSummary,
    TrialSession,
    UpgradeAnswer,
)
from guestctl.doctor.judgements import (
    SKEW_FAILURE,
    advice,
    failed,
    from_failure,
    judge_address,
    judge_addresses,
    judge_attachments,
    judge_echo,
    judge_end,
    judge_sign_in,
    judge_skew,
    not_on_this_api,
    skipped,
    status_of,
)

T = TypeVar("T")

#: Seconds before a certificate's expiry from which the check warns.
CERTIFICATE_WARNING = 14 * 86_400.0
#: An Origin that no deployment allows.
WRONG_ORIGIN = "https://wrong-origin.invalid"

_OF_CONFIGURATION = ("messenger", "auto-start", "end of conversation", "attachments", "sign-in")
_AFTER_PROFILE = (
    "dns",
    "tcp",
    "tls",
    "clock",
    "configuration",
    *_OF_CONFIGURATION,
    "oauth",
    "queue",
    "origin",
    "without origin",
    "wrong origin",
    "upgrade",
    "configure",
    "echo",
    "history token",
    "session",
    "token",
)
#: The names of all checks, in order.
CHECKS = ("profile", "state", *_AFTER_PROFILE)


def examine(probes: Probes, clock: Clock) -> Iterator[Finding]:
    """Run every check of the profile in order. A check that depends on a failed one is skipped."""
    return _Examination(probes, clock).findings()


def examine_address(url: str, probes: Probes, clock: Clock, *, api: str | None) -> Iterator[Finding]:
    """Report which API an address belongs to and whether its host can be reached.

    `api` is the profile's API, None without a profile.
    """
    yield judge_address(url, api)
    yield from _Examination(probes, clock).hosts([url])


class _Examination:
    def __init__(self, probes: Probes, clock: Clock) -> None:
        self._probes = probes
        self._clock = clock
        self._unreachable: set[str] = set()
        #: Whether the deployment's configuration was found; None if the API publishes none.
        self._deployed: bool | None = None
        #: Origin -> the answer to an upgrade with it, and its duration in seconds.
        self._upgrades: dict[str | None, tuple[UpgradeAnswer | Failure | None, float]] = {}

    def findings(self) -> Iterator[Finding]:
        profile = self._profile()
        yield profile[0]
        yield from profile[1]
        yield self._try("state", self._probes.state, lambda where: ("ok", where))[0]
        if profile[0].result == "failed":
            for check in _AFTER_PROFILE:
                yield skipped(check, "fix the profile first")
            return
        dialect = self._probes.dialect
        yield from self.hosts(dialect.all_addresses())
        yield from self._deployment()
        yield self._of_this_api("oauth", self._probes.oauth_credential, self._judge_oauth)
        yield self._queue(dialect)
        yield from self._origins(dialect)
        yield self._upgrade(dialect)
        yield from self._trial_session()
        yield from self._stored_session()

    def _try(
        self,
        check: str,
        probe: Callable[[], T],
        judge: Callable[[T], tuple[Result, str]],
        *,
        target: str | None = None,
    ) -> tuple[Finding, T | None]:
        """Run one probe and judge its answer. A failure becomes a failed check with its own next step."""
        started = self._clock.monotonic()
        try:
            value = probe()
        except Failure as failure:
            return self._failed(check, failure, target=target, seconds=self._clock.monotonic() - started), None
        seconds = self._clock.monotonic() - started
        result, found = judge(value)
        return Finding(check, result, found, target, seconds=None if result == "skipped" else seconds), value

    def _of_this_api(self, check: str, probe: Callable[[], T], judge: Callable[[T], tuple[Result, str]]) -> Finding:
        """Run one probe as `_try` does. A skipped check means that the API does not have the feature."""
        finding, _ = self._try(check, probe, judge)
        return replace(finding, applies=finding.result != "skipped")

    def _failed(self, check: str, failure: Failure, *, target: str | None = None, seconds: float) -> Finding:
        """Return a failed check, or a skipped one if an earlier check has reported the unreachable host."""
        if self._unreachable and isinstance(failure, NetworkError) and not failure.written:
            return skipped(check, "the host is unreachable", target)
        return from_failure(check, failure, target=target, seconds=seconds)

    # --- profile ---

    def _profile(self) -> tuple[Finding, list[Finding]]:
        try:
            profile = self._probes.profile()
            dialect = self._probes.dialect
            dialect.all_addresses()
        except Failure as failure:
            return from_failure("profile", failure), []
        given = {key: pair for key, pair in profile.values.items() if pair[0] is not None and pair[1] != "default"}
        sources: dict[str, list[str]] = {}
        for key, (value, origin) in given.items():
            sources.setdefault(origin, []).append(f"{key} {as_written(value)}")
        listed = "; ".join(f"{', '.join(values)} ({origin})" for origin, values in sources.items())
        details = {key: {"value": value, "origin": origin} for key, (value, origin) in profile.values.items()}
        found = Finding("profile", "ok", f"{profile.name} uses {dialect.name}: {listed}", details={"values": details})
        return found, [Finding("profile", "warning", warning) for warning in profile.warnings]

    # --- network path ---

    def hosts(self, urls: Sequence[str]) -> Iterator[Finding]:
        """Check name, connection and TLS of each host, then the clock against the first reachable one."""
        seen: dict[str, str] = {}
        for url in urls:
            seen.setdefault(host_and_port(url), url)
        for place, url in seen.items():
            yield from self._host(place, url)
        clocks = [url for place, url in seen.items() if place not in self._unreachable]
        if clocks:
            finding, skew = self._try("clock", lambda: self._probes.clock_skew(clocks[0]), judge_skew)
            too_far = skew is not None and abs(skew) > SKEW_FAILURE
            yield failed("clock", finding.found, "doctor.clock") if too_far else finding
        else:
            yield skipped("clock", "no host is reachable")

    def _host(self, place: str, url: str) -> Iterator[Finding]:
        steps: list[Callable[[], Finding]] = [
            lambda: self._try("dns", lambda: self._probes.resolve(url), judge_addresses, target=place)[0],
            lambda: self._try("tcp", lambda: self._probes.connect(url), lambda _: self._connected(url), target=place)[
                0
            ],
            lambda: self._tls(place, url),
        ]
        for name, step in zip(("dns", "tcp", "tls"), steps, strict=True):
            if place in self._unreachable:
                yield skipped(name, "the host is unreachable", place)
                continue
            finding = step()
            if finding.result == "failed":
                self._unreachable.add(place)
            yield finding

    def _connected(self, url: str) -> tuple[Result, str]:
        proxy = self._probes.proxy(url)
        return "ok", f"connected to the proxy {proxy}" if proxy else "connected"

    def _tls(self, place: str, url: str) -> Finding:
        if urlsplit(url).scheme in {"http", "ws"}:
            return skipped("tls", "the address uses plain http", place)
        proxy = self._probes.proxy(url)

        def judge(shown: Certificate) -> tuple[Result, str]:
            left = None if shown.expires_at is None else shown.expires_at - self._clock.now()
            soon = left is not None and left < CERTIFICATE_WARNING
            until = "no expiry" if shown.expires_at is None else f"valid until {rfc3339(shown.expires_at)[:10]}"
            chain = ", issued by ".join((shown.subject, *shown.chain))
            through = f"; through the proxy {proxy}" if proxy else ""
            expiring = f" (in {left / 86_400:.0f} days)" if soon and left is not None else ""
            text = f"{shown.version}, {chain}, {until}{expiring}; trusted by {shown.authorities}{through}"
            return "warning" if soon else "ok", text

        return self._try("tls", lambda: self._probes.certificate(url), judge, target=place)[0]

    # --- deployment ---

    def _deployment(self) -> Iterator[Finding]:
        started = self._clock.monotonic()
        try:
            found = self._probes.deployment()
        except Failure as failure:
            seconds = self._clock.monotonic() - started
            self._deployed = False
            if isinstance(failure, (Forbidden, Refused)):
                yield replace(failed("configuration", failure.message, "doctor.deployment"), seconds=seconds)
            else:
                yield self._failed("configuration", failure, seconds=seconds)
            for check in _OF_CONFIGURATION:
                yield skipped(check, "no configuration")
            return
        seconds = self._clock.monotonic() - started
        self._deployed = None if found is None else True
        if found is None:
            for check in ("configuration", *_OF_CONFIGURATION):
                yield not_on_this_api(check, "this API publishes none")
            return
        if found.active:
            yield Finding("configuration", "ok", "active", seconds=seconds)
        else:
            yield failed("configuration", "the deployment is inactive", "doctor.inactive")
        if found.messenger:
            yield Finding("messenger", "ok", "enabled")
        else:
            yield failed("messenger", "messaging is switched off", "doctor.messenger")
        on, off = "on: a new session starts with a Presence Join", "off: the guest's first message starts it"
        yield Finding("auto-start", "ok", on if found.auto_start else off)
        yield judge_end(found)
        yield judge_attachments(found)
        yield judge_sign_in(found)

    def _judge_oauth(self, granted: Credential | None) -> tuple[Result, str]:
        if granted is None:
            return "skipped", "this API uses no OAuth client"
        return "ok", f"the client is accepted{self._valid_for(granted)}"

    def _queue(self, dialect: Dialect) -> Finding:
        """Check the profile's queue, as far as a call of the API shows it without starting a conversation."""
        profile = dialect.profile
        if "queue" not in dialect.fields:
            return not_on_this_api("queue", "this API has no queue")
        if profile.queue is None:
            if dialect.token_claims and not (profile.skill or profile.language):
                return advice("queue", "the profile has no queue, skill or language", "auth.token_routing", target=None)
            return skipped("queue", "the profile has none")

        def judge(found: QueueAnswer) -> tuple[Result, str]:
            return ("ok", found.name or "found") if found.readable else ("skipped", found.name or "")

        queue = profile.queue
        shown = str(without(profile.client_secret, queue))
        finding, _ = self._try("queue", lambda: self._probes.queue(queue), judge, target=shown)
        if finding.failure == "service.not_found":
            return failed("queue", "the service has no such queue", "doctor.queue", target=shown)
        return finding

    def _valid_for(self, credential: Credential) -> str:
        if credential.expires_at is None:
            return ""
        return f", valid for {format_duration(credential.expires_at - self._clock.now())}"

    # --- upgrade and Origin ---

    def _answer_to(self, origin: str | None) -> UpgradeAnswer | Failure | None:
        """Return the answer to an upgrade with this Origin; request it once only."""
        if origin not in self._upgrades:
            started = self._clock.monotonic()
            try:
                found: UpgradeAnswer | Failure | None = self._probes.upgrade(origin)
            except Failure as failure:
                found = failure
            self._upgrades[origin] = (found, self._clock.monotonic() - started)
        return self._upgrades[origin][0]

    def _origins(self, dialect: Dialect) -> Iterator[Finding]:
        configured = dialect.profile.origin
        targets = {"origin": configured, "without origin": None, "wrong origin": WRONG_ORIGIN}
        if not (dialect.has_socket and dialect.sends_origin):
            for check in targets:
                yield not_on_this_api(check, "guestctl sends this API no Origin")
            return
        accepted = {check: status_of(self._answer_to(origin)) == 101 for check, origin in targets.items()}
        refused = {check: status_of(self._answer_to(origin)) == 403 for check, origin in targets.items()}
        if configured is None:
            yield skipped("origin", "the profile has none")
        else:
            yield self._judge_origin("origin", configured, accepted["origin"], refused["origin"])
        if accepted["without origin"]:
            yield Finding("without origin", "ok", "accepted")
        elif refused["without origin"] and accepted["origin"]:
            yield Finding("without origin", "ok", "refused: this deployment requires an Origin")
        else:
            yield self._judge_origin("without origin", None, False, refused["without origin"])
        if accepted["wrong origin"]:
            yield Finding("wrong origin", "warning", "accepted: the deployment allows every domain", WRONG_ORIGIN)
        elif refused["wrong origin"] and (accepted["origin"] or accepted["without origin"]):
            yield Finding("wrong origin", "ok", "refused, as it should be", WRONG_ORIGIN)
        else:
            yield skipped("wrong origin", "every upgrade is refused: see upgrade", WRONG_ORIGIN)

    def _judge_origin(self, check: str, origin: str | None, accepted: bool, refused: bool) -> Finding:
        if accepted:
            return Finding(check, "ok", "accepted", origin)
        if not refused:
            return skipped(check, "no answer: see upgrade", origin)
        if self._deployed is False:
            return skipped(check, "refused, because the deployment does not exist", origin)
        return failed(check, "HTTP 403: refused", "doctor.origin", target=origin)

    def _upgrade(self, dialect: Dialect) -> Finding:
        if not dialect.has_socket:
            return not_on_this_api("upgrade", "this API has no socket: listen polls history")
        found, seconds = self._answer_to(dialect.profile.origin), self._upgrades[dialect.profile.origin][1]
        if found is None:
            return skipped("upgrade", "only a session gives the socket's address: `guestctl session create`")
        if isinstance(found, Failure):
            return self._failed("upgrade", found, seconds=seconds)
        if found.failure is None:
            return Finding("upgrade", "ok", f"HTTP {found.status}", seconds=seconds)
        body = " ".join(found.body.split())[:300] or "no body"
        if body.startswith("<"):  # an HTML page: the failure's message already has its title
            body = found.failure.message.partition(f"HTTP {found.status}: ")[2]
        text = f"HTTP {found.status}: {body}"
        if found.status == 403 and self._deployed and dialect.sends_origin:
            return skipped("upgrade", f"{text} (see origin)")
        return replace(from_failure("upgrade", found.failure, seconds=seconds), found=text)

    # --- trial session ---

    def _trial_session(self) -> Iterator[Finding]:
        def judge(trial: TrialSession | None) -> tuple[Result, str]:
            if trial is None:
                return "skipped", "on this API a trial would start a conversation"
            expiry = trial.session.expires_at
            until = "" if expiry is None else f", valid for {format_duration(expiry - self._clock.now())}"
            return "ok", f"configured a session with a throw-away token{until}; started no conversation"

        answer, _ = self._upgrades.get(self._probes.dialect.profile.origin, (None, 0.0))
        if isinstance(answer, UpgradeAnswer) and answer.failure is not None:
            for check in ("configure", "echo", "history token"):
                yield skipped(check, "the upgrade is refused")
            return
        finding, trial = self._try("configure", self._probes.open_trial_session, judge)
        if trial is None:
            tried = finding.result == "failed"
            yield finding if tried else replace(finding, applies=False)
            for check in ("echo", "history token"):
                yield skipped(check, "no session to use") if tried else not_on_this_api(check, finding.found)
            return
        yield finding
        try:
            yield self._of_this_api("echo", trial.echo, judge_echo)
            yield self._of_this_api("history token", trial.history_token, self._judge_history_token)
        finally:
            trial.close()

    def _judge_history_token(self, token: Credential | None) -> tuple[Result, str]:
        return ("skipped", "this API needs none") if token is None else ("ok", f"granted{self._valid_for(token)}")

    # --- stored session ---

    def _stored_session(self) -> Iterator[Finding]:
        try:
            session = self._probes.stored_session()
        except Failure as failure:
            yield from_failure("session", failure)
            yield skipped("token", "no session")
            return
        if session is None:
            yield skipped("session", "none is stored")
            yield skipped("token", "no session")
            return
        token = self._token(session)
        if session.state not in {"active", "read_only", "evicted"}:
            code = "session.expired" if session.state == "expired" else "session.gone"
            yield advice("session", f"no longer usable: {session.state}", code, target=session.name)
        else:
            yield self._verified(session)
        yield token

    def _token(self, session: Session) -> Finding:
        def judge(found: TokenSummary) -> tuple[Result, str]:
            return "ok", found.text

        result = self._try("token", lambda: self._probes.token_summary(session), judge, target=session.name)
        finding, summary = result
        if summary is None or not summary.problems:
            return finding
        code = "auth.refused" if self._probes.dialect.refreshable(session) == "guest" else "auth.no_refresh"
        found = f"{summary.text}: {', '.join(summary.problems)}"
        return failed("token", found, code, target=session.name)

    def _verified(self, session: Session) -> Finding:
        def judge(found: Session) -> tuple[Result, str]:
            left = "" if found.expires_at is None else f", {format_duration(found.expires_at - self._clock.now())} left"
            if found.state == "read_only":
                return "warning", f"usable, but read-only{left}: the other side has ended the conversation"
            return "ok", f"usable: {found.state.replace('_', ' ')}{left}"

        finding = self._try("session", lambda: self._probes.verify_session(session), judge, target=session.name)[0]
        if finding.result == "warning":
            return advice("session", finding.found, "conflict.read_only", target=session.name)
        if finding.failure == "timeout.busy":
            # Another process listens on the session, which proves that it is usable.
            return Finding("session", "warning", "in use by other guestctl processes", session.name)
        return finding
