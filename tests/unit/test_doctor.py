"""The doctor's judgement, every red provoked: probes by hand, no socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from guestctl.core.errors import (
    NEXT_STEPS,
    Failure,
    Forbidden,
    NetworkError,
    SessionOver,
    TimedOut,
    Unauthorised,
    UsageError,
)
from guestctl.core.model import Credential, Deployment, Profile, Secret, Session
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.addresses import places_of
from guestctl.dialects.base import Dialect
from guestctl.doctor.checks import (
    CHECKS,
    WRONG_ORIGIN,
    Certificate,
    Claims,
    Facts,
    Finding,
    ProbeAnswer,
    examine,
    examine_address,
    judge_address,
)
from tests.fakes import FakeClock
from tests.next_steps import fix_of

NOW = 1_770_000_000.0
GOOD = Deployment(attachments=True, disconnect="ReadOnly")
REFUSED = ProbeAnswer(403, '{"message":"explicit deny"}', Forbidden("refused", code="forbidden.upgrade"))


@dataclass
class Visited:
    session: Session
    echoes: Callable[[], bool] = lambda: True
    token: Callable[[], Credential | None] = lambda: Credential("history", Secret("jwt-jwt-jwt"), NOW + 60)
    closed: bool = False

    def echo(self) -> bool:
        return self.echoes()

    def history_token(self) -> Credential | None:
        return self.token()

    def close(self) -> None:
        self.closed = True


@dataclass
class Hand:
    """Probes whose answers are values, or failures to raise."""

    dialect: Dialect
    answers: dict[str, Any] = field(default_factory=dict)
    doors: dict[str | None, Any] = field(default_factory=dict)

    def _give(self, name: str, usual: Any) -> Any:
        found = self.answers.get(name, usual)
        if isinstance(found, Failure):
            raise found
        return found

    def profile(self) -> Facts:
        found: Facts = self._give("profile", Facts("shop", {"api": ("web-messaging", "default")}))
        return found

    def state(self) -> str:
        return str(self._give("state", "/state"))

    def proxy(self, url: str) -> str | None:
        found: str | None = self._give("proxy", None)
        return found

    def resolve(self, url: str) -> list[str]:
        found: list[str] = self._give("resolve", ["192.0.2.1"])
        return found

    def reach(self, url: str) -> None:
        self._give("reach", None)

    def secure(self, url: str) -> Certificate:
        found: Certificate = self._give("secure", Certificate("TLSv1.3", "shop", ("CA",), NOW + 90 * 86_400, "system"))
        return found

    def skew(self, url: str) -> float | None:
        found: float | None = self._give("skew", 0.2)
        return found

    def deployment(self) -> Deployment | None:
        found: Deployment | None = self._give("deployment", GOOD)
        return found

    def grant(self) -> Credential | None:
        found: Credential | None = self._give("grant", None)
        return found

    def knock(self, origin: str | None) -> ProbeAnswer | None:
        found = self.doors.get(origin, REFUSED if origin == WRONG_ORIGIN else ProbeAnswer(101))
        if isinstance(found, Failure):
            raise found
        return found  # type: ignore[no-any-return]

    def visit(self) -> Visited | None:
        found: Visited | None = self._give("visit", Visited(Session("web-messaging", "shop", expires_at=NOW + 7200)))
        return found

    def stored(self) -> Session | None:
        found: Session | None = self._give("stored", Session("web-messaging", "shop", state="active"))
        return found

    def alive(self, session: Session) -> Session:
        found: Session = self._give("alive", session)
        return found

    def token(self, session: Session) -> Claims:
        found: Claims = self._give("token", Claims("opaque"))
        return found


def hand(api: str = "web-messaging", *, origin: str | None = "https://shop.example", **answers: Any) -> Hand:
    profile = Profile("shop", api=api, base_url="https://api.shop.example", deployment_id="d", origin=origin)
    return Hand(dialect_class(api)(profile, new_id=str), answers)


def told(probes: Hand) -> dict[str, Finding]:
    found = list(examine(probes, FakeClock(NOW)))
    assert [f.check for f in found if f.result != "warning" or f.check != "profile"] == list(CHECKS)
    for finding in found:
        assert (finding.result == "failed") == (finding.failure is not None), finding
        if finding.result == "warning" and finding.check == "session":
            assert finding.fix in {None, *map(fix_of, NEXT_STEPS)}, finding
        else:
            assert finding.fix == (fix_of(finding.failure) if finding.failure else None), finding
    return {finding.check: finding for finding in found}


def reds(probes: Hand) -> dict[str, str | None]:
    return {check: finding.failure for check, finding in told(probes).items() if finding.result == "failed"}


def test_all_is_well() -> None:
    found = told(hand())
    assert {f.result for f in found.values()} == {"ok", "skipped"}
    assert [check for check, f in found.items() if f.result == "skipped"] == ["sign-in", "oauth"]


@pytest.mark.parametrize(
    ("probe", "failure", "check"),
    [
        ("profile", UsageError("none", code="config.profile"), "profile"),
        ("state", UsageError("full", code="state.unusable"), "state"),
        ("resolve", NetworkError("no name", code="network.dns"), "dns"),
        ("reach", NetworkError("refused", code="network.connect"), "tcp"),
        ("reach", NetworkError("407", code="network.proxy"), "tcp"),
        ("secure", NetworkError("self-signed", code="network.tls"), "tls"),
        ("skew", NetworkError("broke", code="network.lost"), "clock"),
        ("deployment", NetworkError("broke", code="network.lost"), "configuration"),
        ("grant", Unauthorised("client", code="auth.oauth"), "oauth"),
        ("visit", NetworkError("dropped", code="network.lost"), "configure"),
        ("stored", UsageError("damaged", code="state.unusable"), "session"),
        ("alive", SessionOver("gone", code="session.expired"), "session"),
        ("token", Unauthorised("malformed", code="auth.secret"), "token"),
    ],
)
def test_each_failing_probe_is_red_there_and_nowhere_else(probe: str, failure: Failure, check: str) -> None:
    given: dict[str, Any] = {probe: failure}
    assert reds(hand(**given)) == {check: failure.code}


def test_a_host_that_is_not_reached_is_not_asked_further() -> None:
    found = told(hand(resolve=NetworkError("no name", code="network.dns")))
    assert found["tcp"].result == found["tls"].result == found["clock"].result == "skipped"
    assert found["upgrade"].result == "ok"


def test_without_a_profile_nothing_else_is_asked() -> None:
    found = told(hand(profile=UsageError("none", code="config.profile")))
    assert {f.result for check, f in found.items() if check not in {"profile", "state"}} == {"skipped"}


def test_warnings_of_the_profile_are_lines() -> None:
    found = list(examine(hand(profile=Facts("shop", {}, ("a secret is readable by others",))), FakeClock(NOW)))
    assert (found[1].result, found[1].found) == ("warning", "a secret is readable by others")


@pytest.mark.parametrize(
    ("skew", "result"), [(0.0, "ok"), (-4.0, "ok"), (20.0, "warning"), (-61.0, "failed"), (None, "skipped")]
)
def test_clock(skew: float | None, result: str) -> None:
    found = told(hand(skew=skew))["clock"]
    assert found.result == result
    assert (found.failure == "doctor.clock") == (result == "failed")


def test_a_certificate_that_ends_soon_and_a_proxy() -> None:
    soon = Certificate("TLSv1.2", "shop", ("Corp CA",), NOW + 3 * 86_400, "tls.ca (corp.pem)")
    found = told(hand(secure=soon, proxy="proxy.corp:3128"))
    assert found["tls"].result == "warning"
    for words in ("3 days", "Corp CA", "corp.pem", "proxy.corp:3128"):
        assert words in found["tls"].found
    assert "proxy.corp:3128" in found["tcp"].found


def test_the_deployment() -> None:
    off = Deployment(active=False, messenger=False, auto_start=True, disconnect=None, attachments=False, sign_in=True)
    found = told(hand(deployment=off))
    assert found["configuration"].failure == "doctor.inactive"
    assert found["messenger"].failure == "doctor.messenger"
    assert "Join" in found["auto-start"].found
    assert found["end of conversation"].result == "warning"
    assert found["attachments"].found == "off"
    assert found["sign-in"].result == "warning"
    assert told(hand(deployment=replace(GOOD, sign_in=True, session_upgrade=True)))["sign-in"].result == "ok"
    assert told(hand(deployment=None))["messenger"].result == "skipped"


def test_origins() -> None:
    ours = "https://shop.example"
    probes = hand()
    probes.doors = {None: REFUSED}
    found = told(probes)
    assert found["without origin"].result == "ok"
    assert "wants an Origin" in found["without origin"].found
    probes.doors = {WRONG_ORIGIN: ProbeAnswer(101)}
    assert told(probes)["wrong origin"].result == "warning"
    probes.doors = {ours: REFUSED}
    assert reds(probes) == {"origin": "doctor.origin"}
    probes.doors = {ours: REFUSED, None: REFUSED}
    assert set(reds(probes)) == {"origin", "without origin"}
    assert "explicit deny" in told(probes)["upgrade"].found
    assert told(probes)["wrong origin"].result == "skipped"
    bare = hand(origin=None)
    bare.doors = {None: REFUSED}
    assert reds(bare) == {"without origin": "doctor.origin"}
    unknown = hand(deployment=Forbidden("explicit deny", code="forbidden.upgrade"))
    unknown.doors = {ours: REFUSED, None: REFUSED, WRONG_ORIGIN: REFUSED}
    assert reds(unknown) == {"configuration": "doctor.deployment", "upgrade": "forbidden.upgrade"}


def test_an_upgrade_that_breaks_is_red_once() -> None:
    broken = NetworkError("broke", code="network.lost")
    probes = hand()
    probes.doors = {"https://shop.example": broken, None: broken, WRONG_ORIGIN: broken}
    assert reds(probes) == {"upgrade": "network.lost"}


def test_echo_and_history_token() -> None:
    def silent() -> bool:
        raise TimedOut("echo: the service did not answer in time")

    def refused() -> Credential | None:
        raise Unauthorised("no")

    visit = Visited(Session("web-messaging", "shop"), silent, refused)
    assert reds(hand(visit=visit)) == {"echo": "timeout", "history token": "auth.refused"}
    assert visit.closed
    assert told(hand(visit=None))["echo"].result == "skipped"
    none = Visited(Session("web-messaging", "shop"), lambda: False, lambda: None)
    assert told(hand(visit=none))["history token"].result == "skipped"


def test_the_stored_session() -> None:
    assert told(hand(stored=None))["session"].result == "skipped"
    over = told(hand(stored=Session("web-messaging", "shop", state="expired")))
    assert (over["session"].result, over["session"].fix) == ("warning", NEXT_STEPS["session.expired"])
    read_only = told(hand(alive=Session("web-messaging", "shop", state="read_only")))
    assert (read_only["session"].result, read_only["session"].fix) == ("warning", NEXT_STEPS["conflict.read_only"])
    busy = told(hand(alive=TimedOut("held", code="timeout.busy")))
    assert busy["session"].result == "warning"
    expired = Claims("a JWT", ("expired 2026-01-01T00:00:00.000Z",))
    assert reds(hand("messaging-conversations", token=expired)) == {"token": "auth.refused"}
    assert reds(hand("guest-sessions", token=expired)) == {"token": "auth.no_refresh"}


@pytest.mark.parametrize("api", NAMES)
def test_every_api_is_examined_whole(api: str) -> None:
    assert reds(hand(api)) == {}


# --- addresses ---


@pytest.mark.parametrize("api", NAMES)
def test_every_published_address_is_placed(api: str) -> None:
    places = dialect_class(api).places
    assert places
    for purpose, pattern in places:
        url = pattern.replace("{domain}", "mypurecloud.de").replace("{region}", "mypurecloud.de")
        url = url.replace("{aws_region}", "eu-central-1").replace("{", "x").replace("}", "")
        assert (api, purpose) in {(place.api, place.purpose) for place in places_of(url)}, url
        assert judge_address(url, api).result == "ok"


def test_hosts_decide_where_paths_are_shared() -> None:
    assert {place.api for place in places_of("https://acme.mypurecloud.com/oauth/token")} == {"guests"}
    both = places_of("http://127.0.0.1:4000/oauth/token?x=1")
    assert {place.api for place in both} == {"guests", "webmessaging-conversations"}
    assert places_of("wss://webmessaging.mypurecloud.de")[0].purpose == "base address"


@pytest.mark.parametrize(
    ("url", "result", "words"),
    [
        ("https://webmessaging.mypurecloud.de/v1", "warning", "wss://"),
        ("wss://webmessaging.mypurecloud.de/v1?deploymentId=x", "ok", "web-messaging (socket)"),
        ("wss://api.mypurecloud.de/api/v2/guest/webmessaging/events", "failed", "/v2/guest/webmessaging/events"),
        ("https://api.mypurecloud.de/api/v2/users/me", "failed", "nearest"),
    ],
)
def test_an_address_is_judged(url: str, result: str, words: str) -> None:
    found = judge_address(url, None)
    assert found.result == result
    assert words in found.found
    assert "?" not in (found.target or "")


def test_an_address_of_another_api_than_the_profiles() -> None:
    found = judge_address("https://api.mypurecloud.de/api/v2/guest/webmessaging/sessions", "guests")
    assert (found.result, found.failure) == ("failed", "doctor.url")
    lines = list(examine_address("wss://u:secret@h.example/ws", hand(), FakeClock(NOW), api=None))
    assert [line.check for line in lines] == ["url", "dns", "tcp", "tls", "clock"]
    assert "secret" not in str(lines)
