"""Profiles: the file, its errors, precedence and origins, and the built-in sandbox."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestctl import dialects
from guestctl.config import profiles
from guestctl.config.profile_keys import KEYS
from guestctl.config.profiles import Resolved, find, load, locate, resolve
from guestctl.config.trust import record
from guestctl.core.errors import UsageError
from guestctl.core.humanize import parse_duration
from guestctl.core.model import Profile, Retry, Secret
from tests.properties import examples

CONTRACT = """\
default: staging
profiles:
  staging:
    api: web-messaging
    region: mypurecloud.de          # or base_url / socket_url / config_url, each overridable
    deployment_id: 0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10
    origin: https://shop.example
    attributes: {plan: gold}
    tls: {ca: corp.pem}             # proxies: HTTPS_PROXY / NO_PROXY as usual, for REST and socket alike
    retry: {attempts: 10, base: 1s, cap: 30s}
"""


def write(directory: Path, text: str) -> Path:
    path = directory / "profiles.yaml"
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    return path


def resolved(
    cwd: Path,
    name: str | None = None,
    *,
    options: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    sandbox: Mapping[str, Any] | None = None,
    file: str | None = None,
    found: bool = False,
) -> Resolved:
    """Resolve a profile of the file in `cwd`, which is named unless it is to be `found` there."""
    if not found and file is None and (cwd / "profiles.yaml").exists() and "GUESTCTL_PROFILES" not in (environ or {}):
        file = "profiles.yaml"
    return resolve(
        name, options=options or {}, environ=environ or {}, cwd=cwd, profiles_option=file, sandbox=lambda: sandbox
    )


def refused(cwd: Path, text: str, **more: Any) -> UsageError:
    write(cwd, text)
    with pytest.raises(UsageError) as caught:
        resolved(cwd, **more)
    return caught.value


# --- the file ---


def test_the_contracts_example(tmp_path: Path) -> None:
    write(tmp_path, CONTRACT)
    found = resolved(tmp_path, file="profiles.yaml")
    assert found.profile == Profile(
        name="staging",
        api="web-messaging",
        region="mypurecloud.de",
        deployment_id="0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10",
        origin="https://shop.example",
        attributes={"plan": "gold"},
        ca=str(tmp_path / "corp.pem"),
        retry=Retry(10, 1.0, 30.0),
    )
    assert found.origins["tls.ca"] == "profiles.yaml:9"
    assert found.origins["queue"] == "default"
    assert found.values["retry.cap"] == 30.0
    assert found.values["queue"] is None
    assert found.warnings == ()


def test_the_example_file_has_a_profile_for_every_api() -> None:
    path = Path(__file__).parents[2] / "profiles.example.yaml"
    file = load(path)
    environ = {"GENESYS_CLIENT_SECRET": "not a secret".replace(" ", "-")}
    found = {name: resolved(path.parent, name, environ=environ, file=str(path)).profile for name in file.names}
    assert {profile.api for profile in found.values()} == set(dialects.NAMES)
    assert found["local"].base_url == "http://127.0.0.1:8080"
    for profile in found.values():
        for alternatives in dialects.dialect_class(profile.api).required:
            assert any(getattr(profile, key) for key in alternatives), (profile.name, alternatives)


def test_every_key_there_is(tmp_path: Path) -> None:
    write(
        tmp_path,
        """\
profiles:
  full:
    api: guests
    region: EU-Central-1
    base_url: https://gateway.example/base
    socket_url: wss://gateway.example/socket
    config_url: http://gateway.example
    deployment_id: 12345
    origin: shop.example
    attributes: {plan: gold, since: 2026-03-04, level: 007, vip: true}
    tls: {ca: /etc/corp.pem, cleartext: true}
    retry: {attempts: 3, base: 500ms, cap: 2m}
    name: Guest
    email: guest@shop.example
    queue: 0123
    skill: no
    language: no
    environment: acme
    org: acme
    aws_region: us-east-1
    socket_path: /ws
    refresh_style: guest-token
    store_tokens: memory
    journey_context: {customer: {id: 7, since: 2026-03-04}, pages: [1, two, "${PAGE}"]}
    application: app/1.0
    oauth: {client_id: 99, client_secret: "${SECRET}"}
""",
    )
    profile = resolved(tmp_path, environ={"PAGE": "3", "SECRET": "s3cret"}).profile
    assert profile == Profile(
        name="full",
        api="guests",
        region="mypurecloud.de",
        base_url="https://gateway.example/base",
        socket_url="wss://gateway.example/socket",
        config_url="http://gateway.example",
        deployment_id="12345",
        origin="shop.example",
        attributes={"plan": "gold", "since": "2026-03-04", "level": "007", "vip": "true"},
        ca="/etc/corp.pem",
        cleartext=True,
        retry=Retry(3, 0.5, 120.0),
        guest_name="Guest",
        email="guest@shop.example",
        queue="0123",
        skill="no",
        language="no",
        environment="acme",
        org="acme",
        aws_region="us-east-1",
        socket_path="/ws",
        refresh_style="guest-token",
        store_tokens="memory",
        journey_context={"customer": {"id": 7, "since": "2026-03-04"}, "pages": [1, "two", "3"]},
        application="app/1.0",
        client_id="99",
        client_secret=Secret("s3cret"),
    )
    assert "s3cret" not in repr(profile)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profile: {}", ':1: unknown key "profile"; did you mean "profiles"?'),
        ("- a", ":1: the file: expected a mapping with default and profiles"),
        ("profiles: [a]", ":1: profiles: expected a mapping with one entry per profile"),
        ("profiles:\n  a: x", ":2: a: expected a mapping with keys such as"),
        ("profiles:\n  sandbox: {}", ':2: the profile "sandbox" is built in'),
        ("profiles:\n  '': {}", ':2: "" is not a valid profile name'),
        ('profiles:\n  "a\\t": {}\n', ':2: "a\\t" is not a valid profile name'),
        ("default: stagin\nprofiles:\n  staging: {}", ':1: default: no profile "stagin"; did you mean "staging"?'),
        ("default: [a]\nprofiles:\n  a: {}", ":1: default: no profile of that name; there are: a, sandbox"),
        ("profiles:\n  a:\n    regoin: x", ':3: unknown key "regoin"; did you mean "region"?'),
        ("profiles:\n  a:\n    client_id: x", ':3: unknown key "client_id"; did you mean "oauth.client_id"?'),
        ("profiles:\n  a:\n    tls.ca: x", ':3: unknown key "tls.ca"'),
        ("profiles:\n  a:\n    tls: {cert: x}", ':3: unknown key "tls.cert"'),
        ("profiles:\n  a:\n    tls: corp.pem", ":3: tls: expected a mapping with ca"),
        ("profiles:\n  a:\n    retry:\n      attemps: 1", ':4: unknown key "retry.attemps"; did you mean'),
        ("profiles:\n  a:\n    retry: {attempts: true}", ":3: retry.attempts: expected a whole number"),
        ("profiles:\n  a:\n    retry: {base: soon}", ":3: retry.base: expected a duration"),
        ("profiles:\n  a:\n    api: webmessaging", ":3: api: expected one of web-messaging, "),
        ("profiles:\n  a:\n    region: nowhere", ':3: region: "nowhere" is neither a region'),
        ("profiles:\n  a:\n    region: [x]", ":3: region: expected one value, not a list or mapping"),
        ("profiles:\n  a:\n    region:", ":3: region: has no value"),
        ("profiles:\n  a:\n    base_url: mypurecloud.de", ":3: base_url: expected an address that starts with https"),
        ("profiles:\n  a:\n    base_url: wss://x", ":3: base_url: expected an address"),
        ("profiles:\n  a:\n    base_url: https://u:p@x", ":3: base_url: the address may not contain credentials"),
        ("profiles:\n  a:\n    base_url: https://x:port", ":3: base_url: "),
        ("profiles:\n  a:\n    base_url: https://[x", ":3: base_url: "),
        ("profiles:\n  a:\n    socket_url: https://x", ":3: socket_url: expected an address that starts with wss"),
        ("profiles:\n  a:\n    origin: a b", ":3: origin: expected one word"),
        ("profiles:\n  a:\n    queue: |\n      x\n", ":3: queue: control characters"),
        ("profiles:\n  a:\n    org: evil.example/x", ":3: org: expected part of a host name"),
        ("profiles:\n  a:\n    email: guest", ":3: email: expected an e-mail address"),
        ("profiles:\n  a:\n    socket_path: ws", ":3: socket_path: expected a path"),
        ("profiles:\n  a:\n    store_tokens: disk", ":3: store_tokens: expected one of database, memory"),
        ("profiles:\n  a:\n    attributes: gold", ":3: attributes: expected a mapping with keys and values"),
        ("profiles:\n  a:\n    attributes:\n      b: [x]", ":4: attributes.b: expected text"),
        ("profiles:\n  a:\n    attributes:\n      b:", ":4: attributes.b: expected text"),
        ("profiles:\n  a:\n    region: ${", ":3: region: expected ${NAME} or ${NAME:-default}"),
        ("profiles:\n  a:\n    attributes:\n      b: ${9}", ":4: attributes: expected ${NAME}"),
        ("profiles:\n  a:\n    region: x.y\n    region: x.z", ':4: key "region" is already set in line 3'),
    ],
)
def test_mistakes_are_named_with_file_line_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert caught.value.code == "config.file"
    assert caught.value.message.startswith(f"{path}{said}")


def test_a_mistake_in_another_profile_is_found_too(tmp_path: Path) -> None:
    assert refused(tmp_path, "default: a\nprofiles:\n  a: {}\n  b: {api: x}").code == "config.file"


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "profiles:\n", "profiles: {}\n"])
def test_a_file_may_be_empty(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path, text)).names == ()


# --- finding the file and choosing the profile ---


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    environ = {"GUESTCTL_PROFILES": "b.yaml"}
    assert locate("a.yaml", environ, tmp_path) == (tmp_path / "a.yaml", "option --profiles")
    assert locate(None, environ, tmp_path) == (tmp_path / "b.yaml", "environment GUESTCTL_PROFILES")
    path, why = locate(None, {}, tmp_path)
    assert (path.name, path.parent.name, why) == ("profiles.yaml", "guestctl", "user configuration directory")
    assert find(None, {}, tmp_path).names == ()
    write(tmp_path, CONTRACT)
    assert locate(None, {}, tmp_path) == (tmp_path / "profiles.yaml", "working directory")
    with pytest.raises(UsageError, match="No such file"):
        find("a.yaml", {}, tmp_path)


def test_which_profile_is_used(tmp_path: Path) -> None:
    two = "profiles:\n  a: {queue: qa}\n  b: {queue: qb}\n"
    write(tmp_path, two)
    assert resolved(tmp_path, "a", environ={"GUESTCTL_PROFILE": "b"}).profile.queue == "qa"
    assert resolved(tmp_path, environ={"GUESTCTL_PROFILE": "b"}).profile.queue == "qb"
    error = refused(tmp_path, two)
    assert (error.code, "a, b" in error.message) == ("config.profile", True)
    write(tmp_path, "default: b\n" + two)
    assert resolved(tmp_path).profile.queue == "qb"
    write(tmp_path, "profiles: {only: }")
    assert resolved(tmp_path).profile.name == "only"


def test_a_profile_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(tmp_path, CONTRACT, name="stagin")
    assert error.code == "config.profile"
    assert error.message.endswith('; did you mean "staging"?')
    assert error.hint == "available profiles: staging, sandbox"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with pytest.raises(UsageError, match="no profile found") as caught:
        resolved(tmp_path / "elsewhere")
    assert caught.value.code == "config.profile"


def test_options_and_variables_need_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    found = resolved(tmp_path, options={"region": "mypurecloud.de"}, environ={"GUESTCTL_DEPLOYMENT_ID": "d"})
    assert (found.profile.name, found.profile.region, found.profile.deployment_id) == ("default", "mypurecloud.de", "d")
    assert found.path is None
    with pytest.raises(UsageError, match="no profile found"):
        resolved(tmp_path, options={"api": "guests"})
    write(tmp_path, "profiles: {a: {region: mypurecloud.ie}, b: {}}")
    with pytest.raises(UsageError, match="several profiles"):
        resolved(tmp_path, options={"region": "mypurecloud.de"})


# --- values ---


def test_option_before_environment_before_profile_before_default(tmp_path: Path) -> None:
    write(tmp_path, "profiles:\n  p:\n    region: usw2.pure.cloud\n    queue: q\n    retry: {base: 2s}\n")
    environ = {"GUESTCTL_REGION": "eu-west-2", "GUESTCTL_RETRY_BASE": "3", "GUESTCTL_SKILL": ""}
    found = resolved(tmp_path, options={"region": "eu-west-1"}, environ=environ)
    assert (found.profile.region, found.origins["region"]) == ("mypurecloud.ie", "option --region")
    assert (found.profile.retry.base, found.origins["retry.base"]) == (3.0, "environment GUESTCTL_RETRY_BASE")
    assert (found.profile.queue, found.origins["queue"]) == ("q", "profiles.yaml:4")
    assert (found.profile.retry.cap, found.origins["retry.cap"]) == (30.0, "default")
    assert (found.profile.skill, found.origins["skill"]) == (None, "default")
    assert resolved(tmp_path, environ=environ).profile.region == "euw2.pure.cloud"


def test_trees_come_as_json_from_outside(tmp_path: Path) -> None:
    write(tmp_path, "profiles:\n  p:\n    attributes: {a: b}\n")
    environ = {"GUESTCTL_ATTRIBUTES": '{"plan": "gold"}', "GUESTCTL_JOURNEY_CONTEXT": '{"a": [1]}'}
    profile = resolved(tmp_path, environ=environ).profile
    assert (profile.attributes, profile.journey_context) == ({"plan": "gold"}, {"a": [1]})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GUESTCTL_API", "x"),
        ("GUESTCTL_RETRY_CAP", "-1"),
        ("GUESTCTL_ATTRIBUTES", "plan=gold"),
        ("GUESTCTL_ATTRIBUTES", '{"a": 1}'),
        ("GUESTCTL_JOURNEY_CONTEXT", "[1]"),
        ("GUESTCTL_JOURNEY_CONTEXT", "[" * 99_999),
        ("GUESTCTL_NAME", "caf\udce9"),
    ],
)
def test_a_wrong_value_outside_is_named_after_its_place(tmp_path: Path, variable: str, value: str) -> None:
    error = refused(tmp_path, CONTRACT, environ={variable: value})
    assert error.message.startswith(f"environment {variable}: ")
    assert variable in error.hint


def test_an_option_nobody_knows(tmp_path: Path) -> None:
    assert refused(tmp_path, CONTRACT, options={"regio": "x"}).message == 'unknown key "regio"; did you mean "region"?'


def test_certificates_are_found_next_to_the_file_or_in_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    write(tmp_path / "conf", CONTRACT)
    assert resolved(tmp_path, file="conf/profiles.yaml").profile.ca == str(tmp_path / "conf" / "corp.pem")
    environ = {"GUESTCTL_TLS_CA": "my.pem"}
    assert resolved(tmp_path, file="conf/profiles.yaml", environ=environ).profile.ca == str(tmp_path / "my.pem")


VARIABLES = """\
default: a
profiles:
  a:
    queue: ${QUEUE:-none}-${SUFFIX:-}
    attributes: {plan: "${PLAN:-gold}"}
    oauth:
      client_secret: ${SECRET}
  b:
    queue: ${NEVER}
"""


def test_variables(tmp_path: Path) -> None:
    write(tmp_path, VARIABLES)
    profile = resolved(tmp_path, environ={"SECRET": "s3cret", "QUEUE": "", "SUFFIX": "x}${PLAN}"}).profile
    assert profile.queue == "none-x}${PLAN}", "what a variable holds is not expanded again"
    assert profile.attributes == {"plan": "gold"}
    assert profile.client_secret == Secret("s3cret")


def test_a_variable_that_is_not_set_matters_in_the_profile_in_use_only(tmp_path: Path) -> None:
    error = refused(tmp_path, VARIABLES, name="b")
    assert error.code == "config.key"
    path = tmp_path / "profiles.yaml"
    assert error.message == f"{path}:9: queue: the environment variable NEVER is not set"
    assert resolved(tmp_path, "a", environ={"SECRET": "x"}).profile.name == "a"
    assert resolved(tmp_path, "b", environ={"GUESTCTL_QUEUE": "q"}).profile.queue == "q"


def test_a_variable_that_is_not_text(tmp_path: Path) -> None:
    error = refused(tmp_path, VARIABLES, environ={"SECRET": "x", "PLAN": "caf\udce9"})
    assert error.message.endswith(":5: attributes.plan: the environment variable PLAN is not valid UTF-8")


def test_an_empty_variable_leaves_the_key_unset(tmp_path: Path) -> None:
    write(tmp_path, "profiles:\n  a:\n    queue: ${Q}\n    region: ${R}\n")
    assert resolved(tmp_path, environ={"Q": "", "R": ""}).profile == Profile("a")


def test_what_a_variable_holds_is_checked(tmp_path: Path) -> None:
    error = refused(tmp_path, "profiles:\n  a:\n    region: ${R}\n", environ={"R": "nowhere"})
    assert error.code == "config.file"
    assert ":3: region: " in error.message


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_literal_secret_in_a_file_others_can_read_earns_a_warning(tmp_path: Path) -> None:
    literal = "profiles:\n  a:\n    oauth:\n      client_secret: s3cret\n"
    path = write(tmp_path, literal)
    assert resolved(tmp_path).warnings == ()
    path.chmod(0o644)
    (warning,) = resolved(tmp_path).warnings
    assert warning.startswith(f"{path}:4: ")
    assert "chmod 600" in warning
    assert "s3cret" not in warning
    path.write_text(literal.replace("s3cret", "${S}"))
    assert resolved(tmp_path, environ={"S": "x"}).warnings == ()


@pytest.mark.parametrize(
    ("text", "value"), [("30", 30), ("1.5", 1.5), ("500ms", 0.5), ("30s", 30), ("2m", 120), ("1h", 3600), (" 2 s ", 2)]
)
def test_durations(text: str, value: float) -> None:
    assert parse_duration(text) == value


@pytest.mark.parametrize("text", ["", "s", "-1", "1d", "1e3", "nan", "inf", "1,5", "٣", "1" * 400])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


# --- the built-in sandbox ---


def test_the_sandbox_needs_no_file_and_has_a_value_for_every_need(tmp_path: Path) -> None:
    write(tmp_path, "profiles: [broken")
    environ = {"GUESTCTL_SANDBOX_URL": "https://127.0.0.1:8443/", "GUESTCTL_SANDBOX_CA": "ca.pem"}
    found = resolved(tmp_path, "sandbox", environ=environ)
    profile = found.profile
    assert profile.sandbox
    assert profile.api == "web-messaging"
    assert profile.base_url == profile.config_url == "https://127.0.0.1:8443"
    assert profile.socket_url == "wss://127.0.0.1:8443"
    assert profile.ca == str(tmp_path / "ca.pem")
    assert found.origins["base_url"] == "environment GUESTCTL_SANDBOX_URL"
    for field in ("region", "deployment_id", "origin", "email", "queue", "environment", "org", "aws_region"):
        assert getattr(profile, field), field
    assert profile.client_id
    assert profile.client_secret


def test_the_sandbox_is_also_chosen_by_variable_and_by_default(tmp_path: Path) -> None:
    url = {"GUESTCTL_SANDBOX_URL": "http://localhost:1"}
    assert resolved(tmp_path, environ={**url, "GUESTCTL_PROFILE": "sandbox"}).profile.name == "sandbox"
    write(tmp_path, "default: sandbox\nprofiles: {a: {}}")
    assert resolved(tmp_path, environ=url).profile.name == "sandbox"
    assert resolved(tmp_path, "sandbox", options={"api": "guests"}, environ=url).profile.api == "guests"
    assert resolved(tmp_path, "sandbox", environ={**url, "GUESTCTL_API": "guests"}).profile.api == "guests"


def test_the_sandbox_started_last(tmp_path: Path) -> None:
    running = {"url": "http://127.0.0.1:7", "ca": "/tmp/ca.pem"}
    found = resolved(tmp_path, "sandbox", sandbox=running)
    assert (found.profile.base_url, found.profile.ca) == ("http://127.0.0.1:7", "/tmp/ca.pem")
    other = {"GUESTCTL_SANDBOX_URL": "http://127.0.0.1:8"}
    assert resolved(tmp_path, "sandbox", sandbox=running, environ=other).profile.ca is None


def test_the_api_a_sandbox_was_started_for_gives_way_to_one_that_is_chosen(tmp_path: Path) -> None:
    running = {"url": "http://127.0.0.1:7", "api": "guests"}
    found = resolved(tmp_path, "sandbox", sandbox=running)
    assert (found.profile.api, found.origins["api"]) == ("guests", "sandbox started last")
    chosen = {"GUESTCTL_API": "guest-sessions"}
    assert resolved(tmp_path, "sandbox", sandbox=running, environ=chosen).profile.api == "guest-sessions"
    elsewhere = {"GUESTCTL_SANDBOX_URL": "http://127.0.0.1:8"}
    assert resolved(tmp_path, "sandbox", sandbox=running, environ=elsewhere).profile.api == "web-messaging"


def test_no_sandbox(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        resolved(tmp_path, "sandbox")
    assert caught.value.code == "sandbox.absent"
    with pytest.raises(UsageError, match="GUESTCTL_SANDBOX_URL: expected an address"):
        resolved(tmp_path, "sandbox", environ={"GUESTCTL_SANDBOX_URL": "localhost:80"})


def test_addresses_of_a_real_service_never_move_the_sandbox(tmp_path: Path) -> None:
    environ = {
        "GUESTCTL_SANDBOX_URL": "http://127.0.0.1:7",
        "GUESTCTL_BASE_URL": "https://real.example",
        "GUESTCTL_SOCKET_URL": "wss://real.example",
        "GUESTCTL_CONFIG_URL": "https://real.example",
        "GUESTCTL_DEPLOYMENT_ID": "other",
    }
    profile = resolved(tmp_path, "sandbox", environ=environ).profile
    assert "real.example" not in repr(profile)
    assert profile.deployment_id == "other"
    with pytest.raises(
        UsageError, match='--socket-url: the built-in profile "sandbox" uses the address of the running'
    ) as caught:
        resolved(tmp_path, "sandbox", options={"socket_url": "wss://real.example"}, environ=environ)
    assert caught.value.code == "usage.option", "an option is not silently without effect"


def test_the_sandbox_constants_are_the_sandboxes() -> None:
    from guestctl import sandbox

    values = profiles._SANDBOX_VALUES
    assert values["deployment_id"] == sandbox.DEPLOYMENT_ID
    assert values["oauth.client_id"] == sandbox.CLIENT_ID
    assert values["oauth.client_secret"] == sandbox.CLIENT_SECRET


# --- nothing but UsageError ---

LINES = st.sampled_from(
    [
        "default: a",
        "profiles:",
        "  a:",
        "  b: {}",
        "    region: eu-west-1",
        "    base_url: https://[::1",
        "    base_url: ${A:-http://x:99999}",
        "    attributes: {a: ${B}, b: [1]}",
        "    journey_context: [1, {a: ${}}]",
        "    tls: {ca: ~nobody/x}",
        "    retry:",
        "      cap: 1e9",
        "      attempts: 99999999999",
        "    - x",
        "    name: \"\\u0000\"",
        "    oauth: {client_id: a, client_secret: b}",
    ]
)  # fmt: skip


@given(st.lists(LINES, max_size=9).map("\n".join) | st.text(max_size=40), st.text(max_size=5))
@settings(max_examples=examples(200))
def test_any_file_loads_or_is_refused(tmp_path_factory: pytest.TempPathFactory, text: str, value: str) -> None:
    directory = tmp_path_factory.getbasetemp()
    path = directory / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with suppress(UsageError):
        for name in load(path).names:
            resolved(directory, name, file=str(path), environ={"A": value, "GUESTCTL_NAME": value})


@given(st.sampled_from(list(KEYS)), st.text(max_size=30))
@settings(max_examples=examples(200))
def test_any_value_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, key: str, value: str) -> None:
    path = tmp_path_factory.getbasetemp() / "given.yaml"
    path.write_text("profiles: {a: {}}")
    with suppress(UsageError):
        resolved(path.parent, "a", options={key: value}, file=str(path))


# --- without TLS, and files that came with a directory ---


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("base_url", "http://mock:8080"),
        ("socket_url", "ws://10.0.0.7/v1"),
        ("config_url", "http://localhost.example"),
        ("base_url", "http://[2001:db8::1]"),
    ],
)
def test_an_address_without_tls_is_refused_unless_the_profile_itself_says_so(
    tmp_path: Path, key: str, url: str
) -> None:
    place = "region: mypurecloud.de, deployment_id: d"
    error = refused(tmp_path, f"profiles:\n  a: {{{place}, {key}: '{url}'}}")
    assert (error.code, error.exit) == ("config.cleartext", 2)
    assert error.message.startswith(f"profiles.yaml:2: {key} {url} is not encrypted")
    write(tmp_path, f"profiles:\n  a: {{{place}, {key}: '{url}', tls: {{cleartext: true}}}}")
    found = resolved(tmp_path, file="profiles.yaml")
    assert found.profile.cleartext
    assert found.values["tls.cleartext"] is True
    assert found.warnings == (
        f"{key} {url} is not encrypted, so others on the network can read the tokens (tls.cleartext)",
    )


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[::1]:9", "http://localhost", "http://a.localhost:1"])
def test_loopback_needs_no_tls(tmp_path: Path, url: str) -> None:
    write(tmp_path, f"profiles:\n  a: {{base_url: '{url}', deployment_id: d}}")
    assert resolved(tmp_path).warnings == ()


def test_no_variable_leads_into_the_open(tmp_path: Path) -> None:
    """Neither by its own address, nor by allowing one: not for a profile, not for the sandbox."""
    open_, closed = {"GUESTCTL_BASE_URL": "http://mock:1"}, {"GUESTCTL_TLS_CLEARTEXT": "true"}
    own = "profiles:\n  a: {base_url: 'https://mock', deployment_id: d, tls: {cleartext: true}}"
    for environ in (open_, {**open_, **closed}):
        error = refused(tmp_path, own, environ=environ)
        assert error.code == "config.cleartext"
        assert error.message.startswith("environment GUESTCTL_BASE_URL: ")
    error = refused(tmp_path, "profiles:\n  a: {base_url: 'http://mock', deployment_id: d}", environ=closed)
    assert error.code == "config.cleartext"
    with pytest.raises(UsageError) as caught:
        resolved(tmp_path, "sandbox", environ={"GUESTCTL_SANDBOX_URL": "http://mock:1", **closed})
    assert caught.value.code == "config.cleartext"
    with pytest.raises(UsageError) as caught:
        resolved(tmp_path, "sandbox", sandbox={"url": "http://mock:1"})
    assert caught.value.code == "config.cleartext"
    with pytest.raises(UsageError, match="unknown key"):
        resolved(tmp_path, "sandbox", options={"tls.cleartext": "true"})


@pytest.mark.parametrize("value", ["yes", "1", "on"])
def test_allowing_it_takes_the_word(tmp_path: Path, value: str) -> None:
    assert (
        "expected one of true, false" in refused(tmp_path, f"profiles:\n  a: {{tls: {{cleartext: {value}}}}}").message
    )


@pytest.mark.parametrize(
    ("profile", "does"),
    [
        ("base_url: 'https://evil.example/x', deployment_id: d", "sends to evil.example"),
        ("region: mypurecloud.de.evil.example, deployment_id: d", "sends to mypurecloud.de.evil.example"),
        ("region: mypurecloud.de, socket_url: 'wss://203.0.113.9'", "sends to 203.0.113.9"),
        ("region: mypurecloud.de, config_url: 'https://evilpure.cloud'", "sends to evilpure.cloud"),
        (
            "base_url: 'https://a.example', socket_url: 'wss://b.example', config_url: 'https://a.example'",
            "sends to a.example and sends to b.example",
        ),
        ("region: mypurecloud.de, tls: {ca: ca.pem}", "trusts the certificate authorities in "),
        ("base_url: 'https://${WHERE:-evil.example}'", "reads $WHERE"),
        ("base_url: 'http://127.0.0.1:1', region: mypurecloud.de, queue: '${OAUTH_SECRET}'", "reads $OAUTH_SECRET"),
        ("region: mypurecloud.de, oauth: {client_id: x, client_secret: '${OAUTH_SECRET}'}", "reads $OAUTH_SECRET"),
        ("region: mypurecloud.de, attributes: {a: '${OAUTH_SECRET}'}", "reads $OAUTH_SECRET"),
        ("region: mypurecloud.de, journey_context: {a: ['${OAUTH_SECRET}']}", "reads $OAUTH_SECRET"),
        ("region: mypurecloud.de, tls: {cleartext: true}", "allows connections without TLS"),
        ("region: euw3.pure.cloud, base_url: 'https://api.euw3.pure.cloud'", None),
        ("region: eu-central-1, socket_url: 'wss://webmessaging.mypurecloud.de'", None),
        ("base_url: 'http://127.0.0.1:8080'", None),
        ("base_url: 'http://localhost:8080', tls: {ca: ca.pem}, queue: '${OAUTH_SECRET}'", None),
    ],
)
def test_a_file_found_in_the_directory_needs_trust(tmp_path: Path, profile: str, does: str | None) -> None:
    path = write(tmp_path, f"profiles:\n  a: {{{profile}}}")
    environ = {"OAUTH_SECRET": "s3cret", "XDG_STATE_HOME": str(tmp_path / "state"), "WHERE": "127.0.0.1"}
    if does is None:
        assert resolved(tmp_path, environ=environ, found=True).warnings == ()
        return
    with pytest.raises(UsageError) as caught:
        resolved(tmp_path, environ=environ, found=True)
    error = caught.value
    assert (error.code, error.exit) == ("config.untrusted", 2)
    assert does in error.message
    assert "s3cret" not in error.message
    assert error.hint == f"read the file, then run: guestctl profile trust {path}"
    for named in ({**environ, "GUESTCTL_PROFILES": "./profiles.yaml"}, environ):
        file = None if "GUESTCTL_PROFILES" in named else "profiles.yaml"
        assert resolved(tmp_path, environ=named, file=file).path == path
    record(load(path).digest, environ)
    assert resolved(tmp_path, environ=environ, found=True).path == path
    path.write_text(path.read_text() + "\n# changed\n")
    with pytest.raises(UsageError):
        resolved(tmp_path, environ=environ, found=True)


def test_a_variable_that_redirects_a_profiles_secret_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "profiles:\n  a: {region: mypurecloud.de, oauth: {client_id: x, client_secret: '${S}'}}")
    away = {"S": "s3cret", "GUESTCTL_BASE_URL": "https://evil.example"}
    assert resolved(tmp_path, environ=away).warnings == (
        'environment GUESTCTL_BASE_URL sends the OAuth client of profile "a" to evil.example',
    )
    assert resolved(tmp_path, environ={**away, "GUESTCTL_OAUTH_CLIENT_SECRET": "mine"}).warnings == ()
    assert resolved(tmp_path, environ={**away, "GUESTCTL_BASE_URL": "http://127.0.0.1:1"}).warnings == ()


def test_a_region_can_lead_it_away_as_well(tmp_path: Path) -> None:
    write(tmp_path, "profiles:\n  a: {region: mypurecloud.de, oauth: {client_id: x, client_secret: '${S}'}}")
    away = {"S": "s3cret", "GUESTCTL_REGION": "evil.example"}
    assert resolved(tmp_path, environ=away).warnings == (
        'environment GUESTCTL_REGION sends the OAuth client of profile "a" to evil.example',
    )
    assert resolved(tmp_path, environ={**away, "GUESTCTL_REGION": "us-east-1"}).warnings == ()
    write(tmp_path, "profiles:\n  a: {base_url: 'https://own.example', oauth: {client_id: x, client_secret: '${S}'}}")
    named = {**away, "GUESTCTL_PROFILES": "./profiles.yaml"}
    assert resolved(tmp_path, environ=named).warnings == (), "its address is its own"
