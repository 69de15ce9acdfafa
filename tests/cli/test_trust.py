"""Profile files and check scripts that may have come with a downloaded directory.

Knows: the command line. Must not know: how trust is recorded.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import Front

SECRET = "s3cret-of-the-environment"
FOREIGN = "profiles:\n  a:\n    base_url: https://evil.invalid\n    deployment_id: d\n    attributes: {k: '${TAKEN}'}\n"
CONNECTING = (
    ("ask", "hi"), ("send", "hi"), ("session", "create"), ("history",), ("listen",), ("resume",),
    ("session", "list"), ("refresh-token",), ("typing",), ("download", "x"),
)  # fmt: skip


@pytest.fixture
def here(alone: Front, tmp_path: Path) -> Front:
    """Run commands in a directory with a profile file that nobody has named."""
    (alone.cwd / "profiles.yaml").write_text(FOREIGN)
    state = {"XDG_STATE_HOME": str(tmp_path / "of-user"), "TAKEN": SECRET}
    return replace(alone, environ={**alone.environ, **state})


@pytest.mark.parametrize("argv", CONNECTING)
@pytest.mark.parametrize("more", [(), ("-q",), ("-o", "json"), ("-q", "-o", "json")])
def test_a_command_that_connects_needs_trust(here: Front, argv: tuple[str, ...], more: tuple[str, ...]) -> None:
    refused = here(*argv, *more)
    assert refused.code == 2
    assert "guestctl profile trust" in refused.err
    assert "evil.invalid" in refused.err
    assert SECRET not in refused.out + refused.err


def test_trust_holds_for_the_content_and_our_own_edits_renew_it(here: Front) -> None:
    file = here.cwd / "profiles.yaml"
    assert here("profile", "trust", "profiles.yaml").record["path"] == str(file)
    assert here("session", "list").code == 0
    assert here("profile", "add", "b", "--region", "mypurecloud.de", "--deployment-id", "d").code == 0
    assert here("profile", "use", "a").code == 0
    assert here("session", "list").code == 0
    assert here("session", "list", GUESTCTL_STATE=str(here.cwd / "other")).code == 0, "not in GUESTCTL_STATE"
    file.write_text(file.read_text().replace("evil", "worse"))
    assert here("session", "list").code == 2
    assert here("profile", "add", "c", "--region", "mypurecloud.de").code == 0
    assert here("session", "list", "-p", "a").code == 2, "an edit gives no trust"


@pytest.mark.parametrize("argv", [("--profiles", "profiles.yaml"), ("--profiles", "./profiles.yaml")])
def test_a_named_file_is_trusted(here: Front, argv: tuple[str, ...]) -> None:
    assert here("session", "list", *argv).code == 0
    assert here("session", "list", GUESTCTL_PROFILES=argv[1]).code == 0
    assert here("session", "list").code == 2, "for this run only"


@pytest.mark.parametrize("argv", [("list",), ("show",), ("show", "a"), ("check",), ("path",)])
@pytest.mark.parametrize("mode", ["json", "table"])
def test_looking_at_profiles_needs_no_trust_and_expands_nothing(here: Front, argv: tuple[str, ...], mode: str) -> None:
    shown = here("profile", *argv, "-o", mode)
    assert shown.code == 0, shown.err
    assert SECRET not in shown.out + shown.err
    if argv[0] == "show":
        assert "${TAKEN}" in shown.out


def test_profile_check_does_not_need_the_variables(alone: Front) -> None:
    (alone.cwd / "p.yaml").write_text(
        "profiles:\n  a: {api: guests, base_url: 'https://x.example', queue: q,\n"
        "      oauth: {client_id: x, client_secret: '${NOT_SET}'}, retry: {attempts: '${ALSO_NOT_SET}'}}\n"
    )
    checked = alone("profile", "check", "--profiles", "p.yaml")
    assert checked.code == 0, checked.err
    assert any("NOT_SET" in warning for warning in checked.record["warnings"])


OTHERS = "profiles:\n  a:\n    base_url: http://127.0.0.2:9\n    deployment_id: d\n"
CLEAR = "profiles:\n  a: {base_url: 'http://nowhere.invalid', deployment_id: d, tls: {cleartext: true}}\n"


@pytest.mark.parametrize("quiet", [(), ("-q",)])
@pytest.mark.parametrize("mode", ["json", "auto", "table"])
def test_a_warning_about_safety_survives_failure_and_quiet(alone: Front, quiet: tuple[str, ...], mode: str) -> None:
    (alone.cwd / "p.yaml").write_text(CLEAR)
    argv = ("send", "hi", "--profiles", "p.yaml", "--timeout", "1", "-o", mode)
    failed = alone(*argv, *quiet)
    assert failed.code != 0
    assert "is not encrypted" in failed.err
    if mode == "json":
        assert "is not encrypted" in json.loads(failed.err)["error"]["warnings"][0]


def test_a_check_script_needs_trust_for_another_host(alone: Front) -> None:
    script = alone.cwd / "s.check.yaml"
    script.write_text("config: {deploymentId: d, region: evil.invalid}\nscenarios: {a: [{say: hi}]}\n")
    refused = alone("check", str(script), "-o", "json")
    assert (refused.code, refused.error["code"]) == (2, "config.untrusted")
    assert "evil.invalid" in refused.error["message"]
    assert "--trust" in refused.error["hint"]
    assert alone("check", str(script), "--trust", "--timeout", "1").code not in {0, 2}


def test_doctor_reports_a_file_without_trust(here: Front) -> None:
    told = here("doctor")
    assert told.code == 1
    assert "guestctl profile trust" in told.out
    assert SECRET not in told.out + told.err
