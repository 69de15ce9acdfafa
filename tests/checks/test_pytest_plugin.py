"""The pytest plugin in a project that uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks import scripts
from tests.checks.ai_front import CUSTOMER, JUDGE, PARCEL_BOT, good, script
from tests.checks.model_server import serving

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for name in ("GUESTCTL_PROFILE", "GUESTCTL_SANDBOX_URL", "GUESTCTL_PROFILES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(pytester.path / "config"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return pytester


def run(project: pytest.Pytester, *more: str) -> pytest.RunResult:
    # In a process of its own: in this one it would import everything a second time.
    return project.runpytest_subprocess("-p", "guestctl.pytest_plugin", "-p", "no:cacheprovider", *more)


def test_fixtures(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.fixture
        def guest_script():
            return "rules: [{contains: hours, reply: Nine to five}]"

        def test_hours(guest, guest_sandbox):
            assert "Nine" in guest.ask("opening hours?").text
            assert guest.profile.base_url == guest_sandbox.url

        class TestEcho:
            @pytest.fixture
            def guest_script(self):
                return None

            def test_each_test_has_its_own(self, guest):
                assert guest.sessions() == []
                assert guest.ask("hi").text == "echo: hi"
        """
    )
    run(project).assert_outcomes(passed=2)


def test_a_failure_shows_its_hint(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_said_too_early(guest):
            guest.send("x")

        def test_not_ours(guest):
            assert not "ours"
        """
    )
    result = run(project)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["*guestctl: hint*", "guest.create() creates a session; guest.ask(text) does so itself"]
    )
    assert result.stdout.str().count("guestctl: hint") == 1


def test_a_wrong_bot_script_is_reported(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.fixture
        def guest_script():
            return "rulez: []"

        def test_x(guest): pass
        """
    )
    result = run(project)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*guest_script:1: *unknown key*"])
    result.stdout.no_fnmatch_line("During handling*")


def test_files_are_collected_and_run_against_the_bot_next_to_them(project: pytest.Pytester) -> None:
    (project.path / "survey.guest.yaml").write_text(scripts.PASSING)
    (project.path / "survey.bot.yaml").write_text(scripts.BOT)
    (project.path / "wrong.guest.yaml").write_text(scripts.FAILING)
    (project.path / "wrong.bot.yaml").write_text(scripts.BOT)
    result = run(project, "-v", "-o", "guest_timeout=1")
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(
        [
            "survey.guest.yaml::Takes the survey PASSED*",
            '*expected: a reply containing "nothing of the kind", within 1 s*',
            "*came: * < bot: May we ask a question?*",
            "FAILED wrong.guest.yaml::* - expected a reply containing*",
        ]
    )


def test_settings_of_a_real_service_are_not_used_for_a_new_sandbox(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.path / "survey.guest.yaml").write_text(scripts.PASSING)
    (project.path / "survey.bot.yaml").write_text(scripts.BOT)
    monkeypatch.setenv("GUESTCTL_DEPLOYMENT_ID", "11111111-1111-4111-8111-111111111111")
    monkeypatch.setenv("GUESTCTL_API", "guest-sessions")
    run(project).assert_outcomes(passed=3)


@pytest.mark.parametrize("wait", ["2s", "-1", "0", "nan"])
def test_a_wrong_timeout_is_reported_once(project: pytest.Pytester, wait: str) -> None:
    result = run(project, "-o", f"guest_timeout={wait}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f'ERROR: guest_timeout "{wait}": must be a number of seconds above 0'])


def test_tags_are_keywords(project: pytest.Pytester) -> None:
    (project.path / "s.guest.yaml").write_text(
        "scenarios:\n  a: {tags: [smoke], steps: [{say: x}, {expect: x}]}\n  b: [{say: x}, {expect: x}]\n"
    )
    run(project, "--guest-profile", "sandbox", "-k", "smoke").assert_outcomes(passed=1, deselected=1)


def test_a_wrong_script_is_a_collection_error(project: pytest.Pytester) -> None:
    (project.path / "s.guest.yaml").write_text("scenarios: {a: [{sya: x}]}")
    result = run(project)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(['*s.guest.yaml:1: *unknown key "sya"; did you mean "say"?*'])


def test_without_a_profile_the_reason_is_reported(project: pytest.Pytester) -> None:
    (project.path / "s.guest.yaml").write_text("scenarios: {a: [{say: x}]}")
    result = run(project)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no profile found*"])


def test_a_script_with_ai_steps(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of the model comes from the environment, also where the file has a sandbox of its own."""
    (project.path / "talk.bot.yaml").write_text(PARCEL_BOT)
    (project.path / "talk.guest.yaml").write_text(script(CUSTOMER, JUDGE))
    failed = run(project)
    failed.assert_outcomes(errors=1)
    failed.stdout.fnmatch_lines(["*no address of a model for the AI steps*"])
    with serving(good) as model:
        monkeypatch.setenv("GUESTCTL_AI_BASE_URL", model.base_url)
        run(project).assert_outcomes(passed=1)
        assert len(model.asked) == 8
