"""The service that a script runs against, and the lookup of conversation ids at the platform."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest
import responses
from responses import matchers

from guestctl.checks.reader import load
from guestctl.checks.script import Script
from guestctl.checks.service import ServiceUnderTest, check_abilities, profile_for
from guestctl.config.profiles import Resolved
from guestctl.core.errors import UsageError
from guestctl.core.model import Profile, Secret
from tests.fakes import FakeClock

STAGING = Profile(
    name="staging",
    region="mypurecloud.ie",
    deployment_id="profile-id",
    origin="https://profile.test",
    base_url="https://gateway.test",
)
HERE = "{deploymentId: d, region: eu-central-1}"


def script(tmp_path: Path, config: str = "{}", steps: str = "[{say: x}]") -> Script:
    path = tmp_path / "s.yaml"
    path.write_text(f"config: {config}\nscenarios: {{a: {steps}}}\n")
    return load(path, {}, {})


def resolved(profile: Profile) -> Resolved:
    return Resolved(profile, {}, {})


def absent() -> Resolved:
    raise UsageError("there is no profile yet", code="config.profile")


def test_without_a_config_the_profile_is_used(tmp_path: Path) -> None:
    assert profile_for(script(tmp_path), lambda: resolved(STAGING), {}, {}) == STAGING


def test_config_overrides_the_profile(tmp_path: Path) -> None:
    found = profile_for(
        script(tmp_path, "{deploymentId: d, region: eu-central-1, origin: https://o.test}"),
        lambda: resolved(STAGING),
        {},
        {},
    )
    assert (found.deployment_id, found.region, found.origin) == ("d", "mypurecloud.de", "https://o.test")
    assert found.base_url is None


@pytest.mark.parametrize("region", ["evil.example", "mypurecloud.de.evil.example", "${WHERE:-mypurecloud.de}"])
def test_a_script_needs_trust_for_other_hosts_and_for_variables_in_an_address(tmp_path: Path, region: str) -> None:
    guests = replace(STAGING, client_id="c", client_secret=Secret("hidden"))
    away = script(tmp_path, f"{{deploymentId: d, region: '{region}'}}")
    for resolve in (lambda: resolved(guests), lambda: resolved(STAGING), absent):
        with pytest.raises(UsageError, match=r"s\.yaml:1: config\.region ") as caught:
            profile_for(away, resolve, {}, {})
        assert caught.value.code == "config.untrusted"
        assert "--trust" in str(caught.value.hint)
        assert profile_for(away, resolve, {}, {}, trusted=True).region in {region, "mypurecloud.de"}
        assert profile_for(away, resolve, {"region": "mypurecloud.ie"}, {}).region == "mypurecloud.ie"
    assert profile_for(script(tmp_path, HERE), lambda: resolved(guests), {}, {}).region == "mypurecloud.de"


def test_options_and_environment_override_config(tmp_path: Path) -> None:
    found = profile_for(
        script(tmp_path, "{deploymentId: d, region: eu-central-1}"),
        lambda: resolved(STAGING),
        {"region": "mypurecloud.ie"},
        {"GUESTCTL_BASE_URL": "https://gateway.test"},
    )
    assert (found.deployment_id, found.region, found.base_url) == ("d", "mypurecloud.ie", "https://gateway.test")


def test_config_works_without_a_profile(tmp_path: Path) -> None:
    found = profile_for(
        script(tmp_path, "{deploymentId: d, region: eu-central-1}"), absent, {"origin": "https://o.test"}, {}
    )
    assert (found.api, found.deployment_id, found.region, found.origin) == (
        "web-messaging",
        "d",
        "mypurecloud.de",
        "https://o.test",
    )
    with pytest.raises(UsageError, match="no profile"):
        profile_for(script(tmp_path), absent, {}, {})


def test_the_sandbox_has_one_deployment(tmp_path: Path) -> None:
    sandbox = Profile(
        name="sandbox", deployment_id="s", region="sandbox.invalid", base_url="http://127.0.0.1:1", sandbox=True
    )
    assert (
        profile_for(script(tmp_path, "{deploymentId: d, region: eu-central-1}"), lambda: resolved(sandbox), {}, {})
        == sandbox
    )


def test_an_invalid_config_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r's\.yaml:1: config\.region "nowhere"'):
        profile_for(script(tmp_path, "{deploymentId: d, region: nowhere}"), absent, {}, {})


def test_an_unsupported_step_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    wanting = script(tmp_path, steps="[{say: x}, {pick: 1}]")
    with pytest.raises(UsageError, match=r"s\.yaml:2: the guests API has no `pick` \(APIs that do: .*web-messaging"):
        check_abilities(wanting, Profile(name="p", api="guests"))
    check_abilities(wanting, Profile(name="p"))


def test_the_conversation_id_is_looked_up_at_the_platform() -> None:
    profile = Profile(name="p", region="mypurecloud.de", client_id="c", client_secret=Secret("s3cret"))
    service = ServiceUnderTest(profile, clock=FakeClock(), environ={})
    basic = "Basic " + base64.b64encode(b"c:s3cret").decode()
    details = "https://api.mypurecloud.de/api/v2/conversations/messages/m%2F1/details"
    with responses.RequestsMock() as http:
        http.post(
            "https://login.mypurecloud.de/oauth/token",
            json={"access_token": "t", "token_type": "bearer", "expires_in": 3600},
            match=[matchers.header_matcher({"Authorization": basic})],
        )
        bearer = [matchers.header_matcher({"Authorization": "Bearer t"})]
        http.get(details, json={"code": "not.found"}, status=404, match=bearer)
        http.get(details, json={"conversationId": "c-9"}, match=bearer)
        http.get(details, json={"code": "missing.any.permissions"}, status=403, match=bearer)
        assert service.conversation_of("m/1") == "c-9"
        assert service.conversation_of("m/1") is None
    service.close()


def test_without_an_oauth_client_nothing_is_looked_up() -> None:
    service = ServiceUnderTest(Profile(name="p", region="mypurecloud.de"), clock=FakeClock(), environ={})
    assert service.conversation_of("m") is None
    service.close()
