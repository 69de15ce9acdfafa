"""What can be wrong between here and a conversation, checked one thing at a time.

Knows: which checks there are, their order, what each answer means, and which API an address belongs
to. Must not know: sockets, HTTP, the command line. Whatever reaches out is a `Probes`, handed in.

Nothing is begun that a guest or an agent would see: a first configure goes out under a throw-away
token only, and only where that begins no conversation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

from guestctl.core.clock import Clock, rfc3339
from guestctl.core.errors import NEXT_STEPS, Failure, Forbidden, NetworkError, Refused
from guestctl.core.humanize import format_duration
from guestctl.core.model import Credential, Deployment, Session
from guestctl.dialects.addresses import nearest_addresses, place_of, places_of
from guestctl.dialects.base import Dialect

T = TypeVar("T")

Result: TypeAlias = Literal["ok", "warning", "failed", "skipped"]

#: Seconds each check may take.
PATIENCE = 5.0
#: Seconds our clock may differ from the service's before that is remarked on, and before it is red.
SKEW, SKEW_RED = 5.0, 60.0
#: Seconds before a certificate's end from which on it is remarked on.
EXPIRING = 14 * 86_400.0
#: An Origin no deployment allows.
WRONG_ORIGIN = "https://wrong-origin.invalid"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `failure` is the stable code of what is wrong, `fix` its next step, `seconds` what it took.
    `applies` is False for what was skipped because this API has nothing of the kind."""

    check: str
    result: Result
    found: str
    target: str | None = None
    failure: str | None = None
    fix: str | None = None
    seconds: float | None = None
    details: Mapping[str, object] = field(default_factory=dict)
    applies: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """The profile as it takes effect: shown values with where each came from, secrets as placeholders."""

    name: str
    values: Mapping[str, tuple[object, str]]
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a verified TLS peer showed. `expires_at` in epoch seconds; `authorities`: who vouched for it here."""

    version: str
    subject: str
    chain: tuple[str, ...]
    expires_at: float | None
    authorities: str


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What an upgrade was answered with: 101, or another status with body and the failure it means."""

    status: int
    body: str = ""
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says of itself, unverified, and what is wrong with that."""

    said: str
    problems: tuple[str, ...] = ()


class Visit(Protocol):
    """A session configured under a throw-away token, its socket open."""

    session: Session

    def echo(self) -> bool:
        """Ask for a sign of life. False where this API has no such question. Raises Failure."""

    def history_token(self) -> Credential | None:
        """A short-lived token for history; None where this API needs none. Raises Failure."""

    def close(self) -> None: ...


class Probes(Protocol):
    """Everything that reaches out; each call is bounded by PATIENCE and raises Failure."""

    def profile(self) -> Facts: ...

    def state(self) -> str:
        """Where sessions are stored."""

    @property
    def dialect(self) -> Dialect:
        """The profile's; after `profile` has succeeded."""

    def proxy(self, url: str) -> str | None:
        """The proxy on the way, without its credentials."""

    def resolve(self, url: str) -> list[str]:
        """Addresses of the host, or of the proxy on the way to it; empty where nothing has to be resolved."""

    def reach(self, url: str) -> None:
        """A TCP connection to the host, or to the proxy."""

    def secure(self, url: str) -> Certificate: ...

    def skew(self, url: str) -> float | None:
        """Seconds our clock is ahead of the service's `Date`; None where it sends none."""

    def deployment(self) -> Deployment | None:
        """The published configuration; None where this API publishes none."""

    def grant(self) -> Credential | None:
        """The OAuth client's grant; None where this API uses none."""

    def knock(self, origin: str | None) -> ProbeAnswer | None:
        """An upgrade with this Origin, closed again without a word; None where only a session has an address."""

    def visit(self) -> Visit | None:
        """None where a new session would begin a conversation."""

    def stored(self) -> Session | None: ...

    def alive(self, session: Session) -> Session:
        """The stored session, after its history could be read."""

    def token(self, session: Session) -> Claims:
        """What the session's token says of itself."""


def examine(probes: Probes, clock: Clock) -> Iterator[Finding]:
    """Every check of the profile, in order; what cannot be checked because something before it failed is skipped."""
    return _Examination(probes, clock).findings()


def examine_address(url: str, probes: Probes, clock: Clock, *, api: str | None) -> Iterator[Finding]:
    """Which API an address belongs to, and whether its host can be reached. `api`: the profile's, if there is one."""
    yield judge_address(url, api)
    yield from _Examination(probes, clock).hosts([url])


class _Examination:
    def __init__(self, probes: Probes, clock: Clock) -> None:
        self._probes = probes
        self._clock = clock
        self._cut_off: set[str] = set()
        #: Whether the deployment's configuration was found; None where an API publishes none.
        self._deployed: bool | None = None
        self._knocks: dict[str | None, tuple[ProbeAnswer | Failure | None, float]] = {}

    def findings(self) -> Iterator[Finding]:
        profile = self._profile()
        yield profile[0]
        yield from profile[1]
        yield self._try("state", self._probes.state, lambda where: ("ok", where))[0]
        if profile[0].result == "failed":
            for check in _AFTER_PROFILE:
                yield _skipped(check, "the profile has to be mended first")
            return
        dialect = self._probes.dialect
        yield from self.hosts(dialect.hosts())
        yield from self._deployment()
        yield self._of_this_api("oauth", self._probes.grant, self._judge_grant)
        yield from self._origins(dialect)
        yield self._upgrade(dialect)
        yield from self._visit()
        yield from self._stored()

    def _try(
        self,
        check: str,
        probe: Callable[[], T],
        judge: Callable[[T], tuple[Result, str]],
        *,
        target: str | None = None,
    ) -> tuple[Finding, T | None]:
        """One probe and what its answer means; a failure is red with its own next step."""
        begun = self._clock.monotonic()
        try:
            value = probe()
        except Failure as failure:
            return self._failed(check, failure, target=target, seconds=self._clock.monotonic() - begun), None
        seconds = self._clock.monotonic() - begun
        result, found = judge(value)
        return Finding(check, result, found, target, seconds=None if result == "skipped" else seconds), value

    def _of_this_api(self, check: str, probe: Callable[[], T], judge: Callable[[T], tuple[Result, str]]) -> Finding:
        """As `_try`, for what an API may have nothing of: then it is skipped."""
        finding, _ = self._try(check, probe, judge)
        return replace(finding, applies=finding.result != "skipped")

    def _failed(self, check: str, failure: Failure, *, target: str | None = None, seconds: float) -> Finding:
        """Red; or, where a host that is not reached has been told already, nothing new."""
        if self._cut_off and isinstance(failure, NetworkError) and not failure.written:
            return _skipped(check, "the host is not reached", target)
        return _red(check, failure, target=target, seconds=seconds)

    # --- the profile ---

    def _profile(self) -> tuple[Finding, list[Finding]]:
        try:
            facts = self._probes.profile()
            dialect = self._probes.dialect
            dialect.hosts()
        except Failure as failure:
            return _red("profile", failure), []
        given = {key: pair for key, pair in facts.values.items() if pair[0] is not None and pair[1] != "default"}
        sources: dict[str, list[str]] = {}
        for key, (value, origin) in given.items():
            sources.setdefault(origin, []).append(f"{key} {value}")
        said = "; ".join(f"{', '.join(values)} ({origin})" for origin, values in sources.items())
        details = {key: {"value": value, "origin": origin} for key, (value, origin) in facts.values.items()}
        found = Finding("profile", "ok", f"{facts.name} speaks {dialect.name}: {said}", details={"values": details})
        return found, [Finding("profile", "warning", warning) for warning in facts.warnings]

    # --- the way there ---

    def hosts(self, urls: Sequence[str]) -> Iterator[Finding]:
        """Name, connection and TLS of each host, then the clock of the first that is reached."""
        seen: dict[str, str] = {}
        for url in urls:
            seen.setdefault(place_of(url), url)
        for place, url in seen.items():
            yield from self._way(place, url)
        clocks = [url for place, url in seen.items() if place not in self._cut_off]
        if clocks:
            finding, skew = self._try("clock", lambda: self._probes.skew(clocks[0]), _judge_skew)
            too_far = skew is not None and abs(skew) > SKEW_RED
            yield _wrong("clock", finding.found, "doctor.clock") if too_far else finding
        else:
            yield _skipped("clock", "no host is reached")

    def _way(self, place: str, url: str) -> Iterator[Finding]:
        steps: list[Callable[[], Finding]] = [
            lambda: self._try("dns", lambda: self._probes.resolve(url), _judge_addresses, target=place)[0],
            lambda: self._try("tcp", lambda: self._probes.reach(url), lambda _: self._reached(url), target=place)[0],
            lambda: self._secured(place, url),
        ]
        for name, step in zip(("dns", "tcp", "tls"), steps, strict=True):
            if place in self._cut_off:
                yield _skipped(name, "the host is not reached", place)
                continue
            finding = step()
            if finding.result == "failed":
                self._cut_off.add(place)
            yield finding

    def _reached(self, url: str) -> tuple[Result, str]:
        proxy = self._probes.proxy(url)
        return "ok", f"connected to the proxy {proxy} on the way" if proxy else "connected"

    def _secured(self, place: str, url: str) -> Finding:
        if urlsplit(url).scheme in {"http", "ws"}:
            return _skipped("tls", "plain http", place)
        proxy = self._probes.proxy(url)

        def judge(shown: Certificate) -> tuple[Result, str]:
            left = None if shown.expires_at is None else shown.expires_at - self._clock.now()
            soon = left is not None and left < EXPIRING
            until = "no end" if shown.expires_at is None else f"until {rfc3339(shown.expires_at)[:10]}"
            chain = ", issued by ".join((shown.subject, *shown.chain))
            through = f"; through the proxy {proxy}" if proxy else ""
            expiring = f", which is in {left / 86_400:.0f} days" if soon and left is not None else ""
            said = f"{shown.version}, {chain}, {until}{expiring}; trusted by {shown.authorities}{through}"
            return "warning" if soon else "ok", said

        return self._try("tls", lambda: self._probes.secure(url), judge, target=place)[0]

    # --- the deployment ---

    def _deployment(self) -> Iterator[Finding]:
        begun = self._clock.monotonic()
        try:
            found = self._probes.deployment()
        except Failure as failure:
            seconds = self._clock.monotonic() - begun
            self._deployed = False
            if isinstance(failure, (Forbidden, Refused)):
                yield replace(_wrong("configuration", failure.message, "doctor.deployment"), seconds=seconds)
            else:
                yield self._failed("configuration", failure, seconds=seconds)
            for check in _OF_CONFIGURATION:
                yield _skipped(check, "no configuration")
            return
        seconds = self._clock.monotonic() - begun
        self._deployed = None if found is None else True
        if found is None:
            for check in ("configuration", *_OF_CONFIGURATION):
                yield _not_here(check, "this API publishes none")
            return
        if found.active:
            yield Finding("configuration", "ok", "active", seconds=seconds)
        else:
            yield _wrong("configuration", "the deployment is inactive", "doctor.inactive")
        if found.messenger:
            yield Finding("messenger", "ok", "enabled")
        else:
            yield _wrong("messenger", "messaging is switched off", "doctor.messenger")
        start = "a new session begins with Presence Join" if found.auto_start else "off: the guest's first message"
        yield Finding("auto-start", "ok", start)
        yield _judge_end(found)
        yield _judge_attachments(found)
        yield _judge_sign_in(found)

    def _judge_grant(self, grant: Credential | None) -> tuple[Result, str]:
        if grant is None:
            return "skipped", "this API uses no OAuth client"
        return "ok", f"the client is accepted{self._until(grant)}"

    def _until(self, credential: Credential) -> str:
        if credential.expires_at is None:
            return ""
        return f", good for {format_duration(credential.expires_at - self._clock.now())}"

    # --- the door ---

    def _knock(self, origin: str | None) -> ProbeAnswer | Failure | None:
        if origin not in self._knocks:
            begun = self._clock.monotonic()
            try:
                found: ProbeAnswer | Failure | None = self._probes.knock(origin)
            except Failure as failure:
                found = failure
            self._knocks[origin] = (found, self._clock.monotonic() - begun)
        return self._knocks[origin][0]

    def _origins(self, dialect: Dialect) -> Iterator[Finding]:
        ours = dialect.profile.origin
        targets = {"origin": ours, "without origin": None, "wrong origin": WRONG_ORIGIN}
        if not (dialect.has_socket and dialect.sends_origin):
            for check in targets:
                yield _not_here(check, "this API is not asked with an Origin")
            return
        let_in = {check: _status(self._knock(origin)) == 101 for check, origin in targets.items()}
        refused = {check: _status(self._knock(origin)) == 403 for check, origin in targets.items()}
        if ours is None:
            yield _skipped("origin", "the profile has none")
        else:
            yield self._judge_origin("origin", ours, let_in["origin"], refused["origin"])
        if let_in["without origin"]:
            yield Finding("without origin", "ok", "accepted")
        elif refused["without origin"] and let_in["origin"]:
            yield Finding("without origin", "ok", "refused: this deployment wants an Origin")
        else:
            yield self._judge_origin("without origin", None, False, refused["without origin"])
        if let_in["wrong origin"]:
            yield Finding("wrong origin", "warning", "accepted too: the deployment allows every domain", WRONG_ORIGIN)
        elif refused["wrong origin"] and (let_in["origin"] or let_in["without origin"]):
            yield Finding("wrong origin", "ok", "refused, as it should be", WRONG_ORIGIN)
        else:
            yield _skipped("wrong origin", "nothing is accepted: see upgrade", WRONG_ORIGIN)

    def _judge_origin(self, check: str, origin: str | None, accepted: bool, refused: bool) -> Finding:
        if accepted:
            return Finding(check, "ok", "accepted", origin)
        if not refused:
            return _skipped(check, "not answered: see upgrade", origin)
        if self._deployed is False:
            return _skipped(check, "refused, as a deployment is that does not exist", origin)
        return _wrong(check, "HTTP 403: refused", "doctor.origin", target=origin)

    def _upgrade(self, dialect: Dialect) -> Finding:
        if not dialect.has_socket:
            return _not_here("upgrade", "this API has no socket: listening polls history")
        found, seconds = self._knock(dialect.profile.origin), self._knocks[dialect.profile.origin][1]
        if found is None:
            return _skipped("upgrade", "the socket's address needs a session: `guestctl session create`")
        if isinstance(found, Failure):
            return self._failed("upgrade", found, seconds=seconds)
        if found.failure is None:
            return Finding("upgrade", "ok", f"HTTP {found.status}", seconds=seconds)
        body = " ".join(found.body.split())[:300] or "no body"
        if body.startswith("<"):  # a page: its title is enough
            body = found.failure.message.partition(f"HTTP {found.status}: ")[2]
        said = f"HTTP {found.status}: {body}"
        if found.status == 403 and self._deployed and dialect.sends_origin:
            return _skipped("upgrade", f"{said} (see origin)")
        return replace(_red("upgrade", found.failure, seconds=seconds), found=said)

    # --- a throw-away session ---

    def _visit(self) -> Iterator[Finding]:
        def judge(visit: Visit | None) -> tuple[Result, str]:
            if visit is None:
                return "skipped", "on this API nothing can be tried without a session of one's own"
            expiry = visit.session.expires_at
            until = "" if expiry is None else f", good for {format_duration(expiry - self._clock.now())}"
            return "ok", f"a session under a throw-away token{until}; no conversation was begun"

        answer, _ = self._knocks.get(self._probes.dialect.profile.origin, (None, 0.0))
        if isinstance(answer, ProbeAnswer) and answer.failure is not None:
            for check in ("configure", "echo", "history token"):
                yield _skipped(check, "the upgrade is refused")
            return
        finding, visit = self._try("configure", self._probes.visit, judge)
        if visit is None:
            tried = finding.result == "failed"
            yield finding if tried else replace(finding, applies=False)
            for check in ("echo", "history token"):
                yield _skipped(check, "no session to ask in") if tried else _not_here(check, finding.found)
            return
        yield finding
        try:
            yield self._of_this_api("echo", visit.echo, _judge_echo)
            yield self._of_this_api("history token", visit.history_token, self._judge_token)
        finally:
            visit.close()

    def _judge_token(self, token: Credential | None) -> tuple[Result, str]:
        return ("skipped", "this API needs none") if token is None else ("ok", f"granted{self._until(token)}")

    # --- the stored session ---

    def _stored(self) -> Iterator[Finding]:
        try:
            session = self._probes.stored()
        except Failure as failure:
            yield _red("session", failure)
            yield _skipped("token", "no session")
            return
        if session is None:
            yield _skipped("session", "none is stored")
            yield _skipped("token", "no session")
            return
        claims: list[Claims] = []

        def look() -> Claims:
            claims.append(self._probes.token(session))
            return claims[0]

        token = self._try("token", look, lambda told: ("ok", told.said), target=session.name)[0]
        if claims and claims[0].problems:
            code = "auth.refused" if self._probes.dialect.refreshable(session) == "guest" else "auth.no_refresh"
            said = f"{claims[0].said}: {', '.join(claims[0].problems)}"
            token = _wrong("token", said, code, target=session.name)
        if session.state not in {"active", "read_only", "evicted"}:
            code = "session.expired" if session.state == "expired" else "session.gone"
            yield _advised("session", f"it is over: {session.state}", code, target=session.name)
        else:
            yield self._alive(session)
        yield token

    def _alive(self, session: Session) -> Finding:
        def judge(found: Session) -> tuple[Result, str]:
            left = "" if found.expires_at is None else f", {format_duration(found.expires_at - self._clock.now())} left"
            if found.state == "read_only":
                return "warning", f"alive, but read only{left}: the other side has ended the conversation"
            return "ok", f"alive: {found.state.replace('_', ' ')}{left}"

        finding = self._try("session", lambda: self._probes.alive(session), judge, target=session.name)[0]
        if finding.result == "warning":
            return _advised("session", finding.found, "conflict.read_only", target=session.name)
        if finding.failure == "timeout.busy":
            # Somebody listens on it, which is as good a sign of life.
            return Finding("session", "warning", "in use by other guestctl processes", session.name)
        return finding


_OF_CONFIGURATION = ("messenger", "auto-start", "end of conversation", "attachments", "sign-in")
_AFTER_PROFILE = (
    "dns",
    "tcp",
    "tls",
    "clock",
    "configuration",
    *_OF_CONFIGURATION,
    "oauth",
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
#: Every check there is, in order.
CHECKS = ("profile", "state", *_AFTER_PROFILE)


def _red(check: str, failure: Failure, *, target: str | None = None, seconds: float | None = None) -> Finding:
    said = failure.message.removeprefix(f"{target}: ")
    return Finding(check, "failed", said, target, failure.code, _fix(failure.hint), seconds)


def _fix(hint: str | None) -> str | None:
    """A next step without its last clause, where that sends to the doctor."""
    return hint and re.sub(r"; `guestctl doctor` [^;]*$", ".", hint)


def _wrong(check: str, found: str, code: str, *, target: str | None = None) -> Finding:
    return Finding(check, "failed", found, target, code, _fix(NEXT_STEPS[code]))


def _advised(check: str, found: str, code: str, *, target: str) -> Finding:
    """Nothing wrong between here and a conversation, but the next command will say no."""
    return Finding(check, "warning", found, target, fix=_fix(NEXT_STEPS[code]))


def _skipped(check: str, why: str, target: str | None = None) -> Finding:
    return Finding(check, "skipped", why, target)


def _not_here(check: str, why: str) -> Finding:
    return replace(_skipped(check, why), applies=False)


def _status(answer: ProbeAnswer | Failure | None) -> int | None:
    return answer.status if isinstance(answer, ProbeAnswer) else None


def _judge_addresses(addresses: list[str]) -> tuple[Result, str]:
    return ("ok", ", ".join(addresses)) if addresses else ("skipped", "an address: nothing to resolve")


def _judge_skew(skew: float | None) -> tuple[Result, str]:
    if skew is None:
        return "skipped", "the service sends no Date"
    if abs(skew) < 1.0:
        return "ok", "agrees with the service's"
    return "ok" if abs(
        skew
    ) <= SKEW else "warning", f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the service's"


def _judge_echo(answered: bool) -> tuple[Result, str]:
    return ("ok", "answered") if answered else ("skipped", "this API has no application heartbeat")


def _judge_end(found: Deployment) -> Finding:
    check = "end of conversation"
    if found.disconnect is None:
        return Finding(check, "warning", "no Disconnect event will come: conversationDisconnect is off")
    after = "read-only afterwards" if found.disconnect == "ReadOnly" else "messages are taken afterwards"
    return Finding(check, "ok", f"a Disconnect event comes; {after}")


def _judge_attachments(found: Deployment) -> Finding:
    if found.attachments is None:
        return _skipped("attachments", "the configuration does not say: the session will")
    return Finding("attachments", "ok", "on" if found.attachments else "off")


def _judge_sign_in(found: Deployment) -> Finding:
    if not found.sign_in:
        return _skipped("sign-in", "not configured: guests are anonymous")
    if found.session_upgrade:
        return Finding("sign-in", "ok", "guests may sign in, also later")
    return Finding("sign-in", "warning", "guests must sign in before they can send")


# --- addresses ---


def judge_address(url: str, api: str | None) -> Finding:
    """Which API an address belongs to. Red when it belongs to none, or not to the profile's."""
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    found = places_of(url)
    if not found:
        near = " or ".join(nearest_addresses(parts.path)) or "nothing like it is published"
        return _wrong("url", f"no API of guestctl's has this address; nearest: {near}", "doctor.url", target=shown)
    said = ", ".join(dict.fromkeys(f"{place.api} ({place.purpose})" for place in found))
    if api is not None and api not in {place.api for place in found}:
        return _wrong("url", f"{said}, but the profile speaks {api}", "doctor.url", target=shown)
    is_socket = parts.scheme in {"ws", "wss"}
    if parts.path.strip("/") and all(place.socket != is_socket for place in found):
        right = "wss" if not is_socket else "https"
        return Finding("url", "warning", f"{said}; it is asked with {right}://, not {parts.scheme}://", shown)
    return Finding("url", "ok", said, shown)
