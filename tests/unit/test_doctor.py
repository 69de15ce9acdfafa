"""The doctor's checks and judgements, with fake probes and no socket. Every failed check is provoked."""

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
from guestctl.dialects.addresses import matching_addresses
from guestctl.dialects.base import Dialect
from guestctl.doctor.checks import CHECKS, WRONG_ORIGIN, examine, examine_address
from guestctl.doctor.findings import Certificate, EffectiveProfile, Finding, QueueAnswer, TokenSummary, UpgradeAnswer
from guestctl.doctor.judgements import judge_address
from tests.fakes import FakeClock
from tests.next_steps import fix_of

NOW = 1_770_000_000.0
GOOD = Deployment(attachments=True, disconnect="ReadOnly")
REFUSED = UpgradeAnswer(403, '{"message":"explicit deny"}', Forbidden("refused", code="forbidden.upgrade"))


@dataclass
class FakeTrialSession:
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
class FakeProbes:
    """Probes with fixed answers; an answer that is a Failure is raised."""

    dialect: Dialect
    answers: dict[str, Any] = field(default_factory=dict)
    upgrades: dict[str | None, Any] = field(default_factory=dict)

    def _answer(self, name: str, usual: Any) -> Any:
        found = self.answers.get(name, usual)
        if isinstance(found, Failure):
            raise found
        return found

    def profile(self) -> EffectiveProfile:
        found: EffectiveProfile = self._answer(
            "profile", EffectiveProfile("shop", {"api": ("web-messaging", "default")})
        )
        return found

    def state(self) -> str:
        return str(self._answer("state", "/state"))

    def proxy(self, url: str) -> str | None:
        found: str | None = self._answer("proxy", None)
        return found

    def resolve(self, url: str) -> list[str]:
        found: list[str] = self._answer("resolve", ["192.0.2.1"])
        return found

    def connect(self, url: str) -> None:
        self._answer("connect", None)

    def certificate(self, url: str) -> Certificate:
        found: Certificate = self._answer(
            "certificate", Certificate("TLSv1.3", "shop", ("CA",), NOW + 90 * 86_400, "system")
        )
        return found

    def clock_skew(self, url: str) -> float | None:
        found: float | None = self._answer("clock_skew", 0.2)
        return found

    def deployment(self) -> Deployment | None:
        found: Deployment | None = self._answer("deployment", GOOD)
        return found

    def oauth_credential(self) -> Credential | None:
        found: Credential | None = self._answer("oauth_credential", None)
        return found

    def queue(self, queue: str) -> QueueAnswer:
        found: QueueAnswer = self._answer("queue", QueueAnswer(True, "Sales"))
        return found

    def upgrade(self, origin: str | None) -> UpgradeAnswer | None:
        found = self.upgrades.get(origin, REFUSED if origin == WRONG_ORIGIN else UpgradeAnswer(101))
        if isinstance(found, Failure):
            raise found
        return found  # type: ignore[no-any-return]

    def open_trial_session(self) -> FakeTrialSession | None:
        found: FakeTrialSession | None = self._answer(
            "open_trial_session", FakeTrialSession(Session("web-messaging", "shop", expires_at=NOW + 7200))
        )
        return found

    def stored_session(self) -> Session | None:
        found: Session | None = self._answer("stored_session", Session("web-messaging", "shop", state="active"))
        return found

    def verify_session(self, session: Session) -> Session:
        found: Session = self._answer("verify_session", session)
        return found

    def token_summary(self, session: Session) -> TokenSummary:
        found: TokenSummary = self._answer("token_summary", TokenSummary("opaque"))
        return found


def fake_probes(
    api: str = "web-messaging", *, origin: str | None = "https://shop.example", **answers: Any
) -> FakeProbes:
    profile = Profile("shop", api=api, base_url="https://api.shop.example", deployment_id="d", origin=origin)
    return FakeProbes(dialect_class(api)(profile, new_id=str), answers)


def examined(probes: FakeProbes) -> dict[str, Finding]:
    found = list(examine(probes, FakeClock(NOW)))
    assert [f.check for f in found if f.result != "warning" or f.check != "profile"] == list(CHECKS)
    for finding in found:
        assert (finding.result == "failed") == (finding.failure is not None), finding
        if finding.result == "warning" and finding.check in {"session", "queue"}:
            assert finding.fix in {None, *map(fix_of, NEXT_STEPS)}, finding
        else:
            assert finding.fix == (fix_of(finding.failure) if finding.failure else None), finding
    return {finding.check: finding for finding in found}


def failures(probes: FakeProbes) -> dict[str, str | None]:
    return {check: finding.failure for check, finding in examined(probes).items() if finding.result == "failed"}


def test_no_check_fails_when_every_probe_succeeds() -> None:
    found = examined(fake_probes())
    assert {f.result for f in found.values()} == {"ok", "skipped"}
    assert [check for check, f in found.items() if f.result == "skipped"] == ["sign-in", "oauth", "queue"]


@pytest.mark.parametrize(
    ("probe", "failure", "check"),
    [
        ("profile", UsageError("none", code="config.profile"), "profile"),
        ("state", UsageError("full", code="state.unusable"), "state"),
        ("resolve", NetworkError("no name", code="network.dns"), "dns"),
        ("connect", NetworkError("refused", code="network.connect"), "tcp"),
        ("connect", NetworkError("407", code="network.proxy"), "tcp"),
        ("certificate", NetworkError("self-signed", code="network.tls"), "tls"),
        ("clock_skew", NetworkError("broke", code="network.lost"), "clock"),
        ("deployment", NetworkError("broke", code="network.lost"), "configuration"),
        ("oauth_credential", Unauthorised("client", code="auth.oauth"), "oauth"),
        ("open_trial_session", NetworkError("dropped", code="network.lost"), "configure"),
        ("stored_session", UsageError("damaged", code="state.unusable"), "session"),
        ("verify_session", SessionOver("gone", code="session.expired"), "session"),
        ("token_summary", Unauthorised("malformed", code="auth.secret"), "token"),
    ],
)
def test_a_failing_probe_fails_its_own_check_only(probe: str, failure: Failure, check: str) -> None:
    given: dict[str, Any] = {probe: failure}
    assert failures(fake_probes(**given)) == {check: failure.code}


def test_an_unreachable_host_skips_its_later_checks() -> None:
    found = examined(fake_probes(resolve=NetworkError("no name", code="network.dns")))
    assert found["tcp"].result == found["tls"].result == found["clock"].result == "skipped"
    assert found["upgrade"].result == "ok"


def test_a_failed_profile_skips_all_later_checks() -> None:
    found = examined(fake_probes(profile=UsageError("none", code="config.profile")))
    assert {f.result for check, f in found.items() if check not in {"profile", "state"}} == {"skipped"}


def test_profile_warnings_are_findings() -> None:
    found = list(
        examine(fake_probes(profile=EffectiveProfile("shop", {}, ("a secret is readable by others",))), FakeClock(NOW))
    )
    assert (found[1].result, found[1].found) == ("warning", "a secret is readable by others")


@pytest.mark.parametrize(
    ("skew", "result"), [(0.0, "ok"), (-4.0, "ok"), (20.0, "warning"), (-61.0, "failed"), (None, "skipped")]
)
def test_clock_skew(skew: float | None, result: str) -> None:
    found = examined(fake_probes(clock_skew=skew))["clock"]
    assert found.result == result
    assert (found.failure == "doctor.clock") == (result == "failed")


def test_tls_warns_of_an_expiring_certificate_and_names_the_proxy() -> None:
    soon = Certificate("TLSv1.2", "shop", ("Corp CA",), NOW + 3 * 86_400, "tls.ca (corp.pem)")
    found = examined(fake_probes(certificate=soon, proxy="proxy.corp:3128"))
    assert found["tls"].result == "warning"
    for words in ("3 days", "Corp CA", "corp.pem", "proxy.corp:3128"):
        assert words in found["tls"].found
    assert "proxy.corp:3128" in found["tcp"].found


def test_deployment_settings() -> None:
    off = Deployment(active=False, messenger=False, auto_start=True, disconnect=None, attachments=False, sign_in=True)
    found = examined(fake_probes(deployment=off))
    assert found["configuration"].failure == "doctor.inactive"
    assert found["messenger"].failure == "doctor.messenger"
    assert "Join" in found["auto-start"].found
    assert found["end of conversation"].result == "warning"
    assert found["attachments"].found == "off"
    assert found["sign-in"].result == "warning"
    assert examined(fake_probes(deployment=replace(GOOD, sign_in=True, session_upgrade=True)))["sign-in"].result == "ok"
    assert examined(fake_probes(deployment=None))["messenger"].result == "skipped"


def test_accepted_and_refused_origins() -> None:
    configured = "https://shop.example"
    probes = fake_probes()
    probes.upgrades = {None: REFUSED}
    found = examined(probes)
    assert found["without origin"].result == "ok"
    assert "requires an Origin" in found["without origin"].found
    probes.upgrades = {WRONG_ORIGIN: UpgradeAnswer(101)}
    assert examined(probes)["wrong origin"].result == "warning"
    probes.upgrades = {configured: REFUSED}
    assert failures(probes) == {"origin": "doctor.origin"}
    probes.upgrades = {configured: REFUSED, None: REFUSED}
    assert set(failures(probes)) == {"origin", "without origin"}
    assert "explicit deny" in examined(probes)["upgrade"].found
    assert examined(probes)["wrong origin"].result == "skipped"
    bare = fake_probes(origin=None)
    bare.upgrades = {None: REFUSED}
    assert failures(bare) == {"without origin": "doctor.origin"}
    unknown = fake_probes(deployment=Forbidden("explicit deny", code="forbidden.upgrade"))
    unknown.upgrades = {configured: REFUSED, None: REFUSED, WRONG_ORIGIN: REFUSED}
    assert failures(unknown) == {"configuration": "doctor.deployment", "upgrade": "forbidden.upgrade"}


def test_a_broken_upgrade_fails_one_check_only() -> None:
    broken = NetworkError("broke", code="network.lost")
    probes = fake_probes()
    probes.upgrades = {"https://shop.example": broken, None: broken, WRONG_ORIGIN: broken}
    assert failures(probes) == {"upgrade": "network.lost"}


def test_echo_and_history_token() -> None:
    def silent() -> bool:
        raise TimedOut("echo: the service did not answer in time")

    def refused() -> Credential | None:
        raise Unauthorised("no")

    trial = FakeTrialSession(Session("web-messaging", "shop"), silent, refused)
    assert failures(fake_probes(open_trial_session=trial)) == {"echo": "timeout", "history token": "auth.refused"}
    assert trial.closed
    assert examined(fake_probes(open_trial_session=None))["echo"].result == "skipped"
    none = FakeTrialSession(Session("web-messaging", "shop"), lambda: False, lambda: None)
    assert examined(fake_probes(open_trial_session=none))["history token"].result == "skipped"


def test_stored_session() -> None:
    assert examined(fake_probes(stored_session=None))["session"].result == "skipped"
    over = examined(fake_probes(stored_session=Session("web-messaging", "shop", state="expired")))
    assert (over["session"].result, over["session"].fix) == ("warning", NEXT_STEPS["session.expired"])
    read_only = examined(fake_probes(verify_session=Session("web-messaging", "shop", state="read_only")))
    assert (read_only["session"].result, read_only["session"].fix) == ("warning", NEXT_STEPS["conflict.read_only"])
    busy = examined(fake_probes(verify_session=TimedOut("held", code="timeout.busy")))
    assert busy["session"].result == "warning"
    expired = TokenSummary("a JWT", ("expired 2026-01-01T00:00:00.000Z",))
    assert failures(fake_probes("messaging-conversations", token_summary=expired)) == {"token": "auth.refused"}
    assert failures(fake_probes("guest-sessions", token_summary=expired)) == {"token": "auth.no_refresh"}


@pytest.mark.parametrize("api", NAMES)
def test_every_api_gets_every_check(api: str) -> None:
    assert failures(fake_probes(api)) == {}


# --- addresses ---


@pytest.mark.parametrize("api", NAMES)
def test_every_published_address_belongs_to_its_api(api: str) -> None:
    places = dialect_class(api).documented_addresses
    assert places
    for purpose, pattern in places:
        url = pattern.replace("{domain}", "mypurecloud.de").replace("{region}", "mypurecloud.de")
        url = url.replace("{aws_region}", "eu-central-1").replace("{", "x").replace("}", "")
        assert (api, purpose) in {(place.api, place.purpose) for place in matching_addresses(url)}, url
        assert judge_address(url, api).result == "ok"


def test_the_host_decides_when_apis_share_a_path() -> None:
    assert {place.api for place in matching_addresses("https://acme.mypurecloud.com/oauth/token")} == {"guests"}
    both = matching_addresses("http://127.0.0.1:4000/oauth/token?x=1")
    assert {place.api for place in both} == {"guests", "webmessaging-conversations"}
    assert matching_addresses("wss://webmessaging.mypurecloud.de")[0].purpose == "base address"


@pytest.mark.parametrize(
    ("url", "result", "words"),
    [
        ("https://webmessaging.mypurecloud.de/v1", "warning", "wss://"),
        ("wss://webmessaging.mypurecloud.de/v1?deploymentId=x", "ok", "web-messaging (socket)"),
        ("wss://api.mypurecloud.de/api/v2/guest/webmessaging/events", "failed", "/v2/guest/webmessaging/events"),
        ("https://api.mypurecloud.de/api/v2/users/me", "failed", "nearest"),
    ],
)
def test_judge_address(url: str, result: str, words: str) -> None:
    found = judge_address(url, None)
    assert found.result == result
    assert words in found.found
    assert "?" not in (found.target or "")


def test_an_address_of_another_api_fails() -> None:
    found = judge_address("https://api.mypurecloud.de/api/v2/guest/webmessaging/sessions", "guests")
    assert (found.result, found.failure) == ("failed", "doctor.url")
    lines = list(examine_address("wss://u:secret@h.example/ws", fake_probes(), FakeClock(NOW), api=None))
    assert [line.check for line in lines] == ["url", "dns", "tcp", "tls", "clock"]
    assert "secret" not in str(lines)
