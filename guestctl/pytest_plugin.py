"""The pytest plugin: a fresh service, a guest on it, a bot script, and `*.guest.yaml` files as tests.

Knows: pytest's hooks and fixtures. Must not know: how a scenario runs or is reported. pytest loads this
module in every run where guestctl is installed, so it imports other modules only when they are used.

    def guest_script():            # as a fixture: this module's bot
        return "rules: [{contains: hours, reply: Nine to five}]"

    def test_hours(guest):
        assert "Nine" in guest.ask("opening hours?").text

`X.guest.yaml` is a check script. If `X.bot.yaml` is next to it, the script runs against a new sandbox
with that bot, else against the profile, as on the command line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from guestctl.checks.ai.model_calls import ModelCalls
    from guestctl.checks.outcomes import Outcome
    from guestctl.checks.runner import Job
    from guestctl.checks.script import Scenario, Script
    from guestctl.checks.service import ServiceUnderTest
    from guestctl.client import Client
    from guestctl.config.profiles import Resolved
    from guestctl.sandbox.bot.bots import Bot
    from guestctl.sandbox.server import Sandbox

SUFFIX = ".guest.yaml"
BOT_SUFFIX = ".bot.yaml"
#: Seconds a step, or a call of `guest`, may take.
TIMEOUT = 10.0


# --- fixtures ---


@pytest.fixture
def guest_script() -> str | Path | None:
    """The bot of `guest_sandbox`: YAML, or the path of a file. The default None is the echo bot.

    Override it in a module, a class or a conftest.
    """
    return None


@pytest.fixture
def guest_api() -> str:
    """The API family of `guest` (`guestctl apis`). Override it to test another."""
    return "web-messaging"


@pytest.fixture
def guest_sandbox(guest_script: str | Path | None) -> Iterator[Sandbox]:
    """A new service on loopback, without rate limits, that stops after the test."""
    with _sandbox(guest_script) as sandbox:
        yield sandbox


@pytest.fixture
def guest(guest_sandbox: Sandbox, guest_api: str) -> Iterator[Client]:
    """A client of `guest_sandbox`, with its state in memory. `guest.ask("hi")` creates the session."""
    from guestctl.client import Client
    from guestctl.core.clock import SystemClock
    from guestctl.storage.state import State

    profile = _resolved("sandbox", {"GUESTCTL_SANDBOX_URL": guest_sandbox.url, "GUESTCTL_API": guest_api}).profile
    with State.open(None, SystemClock()) as state, Client(profile, state=state, timeout=TIMEOUT) as client:
        yield client


class _sandbox:
    """A running sandbox with this bot."""

    def __init__(self, script: str | Path | None) -> None:
        self._script = script

    def __enter__(self) -> Sandbox:
        from guestctl.sandbox.server import Sandbox
        from guestctl.sandbox.settings import SandboxOptions

        self._sandbox = Sandbox(SandboxOptions(fast=True), bot=self._bot())
        return self._sandbox.start()

    def __exit__(self, *_: object) -> None:
        self._sandbox.stop()

    def _bot(self) -> Bot | None:
        if self._script is None:
            return None
        from guestctl.sandbox.bot.bot_script import ScriptError, load

        try:
            if isinstance(self._script, Path):
                return load(self._script.read_bytes(), str(self._script), delay=0.0)
            return load(self._script, "guest_script", delay=0.0)
        except (OSError, ScriptError) as error:
            raise _failed(f"guest_script: {error}") from None


def _failed(reason: str) -> BaseException:
    return pytest.fail.Exception(reason, pytrace=False)


def _resolved(name: str | None, environ: Mapping[str, str]) -> Resolved:
    from guestctl.config.profiles import resolve

    return resolve(name, options={}, environ=environ, cwd=Path.cwd(), profiles_option=None, sandbox=lambda: None)


#: Hints for failures whose usual hint is a command: error code -> what a test does.
_HINTS = {"session.none": "guest.create() creates a session; guest.ask(text) does so itself"}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Show the hint of a failure below its traceback."""
    report = yield
    errors = sys.modules.get("guestctl.core.errors")
    if errors is not None and call.excinfo is not None and isinstance(call.excinfo.value, errors.Failure):
        failure = call.excinfo.value
        report.get_result().sections.append(("guestctl: hint", _HINTS.get(failure.code, failure.hint)))


# --- *.guest.yaml ---


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("guestctl")
    text = f"profile that *{SUFFIX} files run against; `sandbox` starts a new one"
    group.addoption("--guest-profile", metavar="NAME", default=None, help=text)
    parser.addini("guest_profile", text, default=None)
    parser.addini("guest_timeout", f"maximum duration of a step of *{SUFFIX} files, in seconds", default=str(TIMEOUT))


def pytest_configure(config: pytest.Config) -> None:
    """Report a wrong setting once, not in every test."""
    _wait(config)


def _wait(config: pytest.Config) -> float:
    """Return the seconds that one step may take."""
    given = config.getini("guest_timeout")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < 1e9:
        raise pytest.UsageError(f'guest_timeout "{given}": must be a number of seconds above 0')
    return seconds


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> GuestFile | None:
    if file_path.name.endswith(SUFFIX):
        return GuestFile.from_parent(parent, path=file_path)
    return None


class GuestFile(pytest.File):
    """One check script; its scenarios are the tests."""

    script: Script
    service: ServiceUnderTest
    #: The model calls of the file's AI steps, None if it has none.
    calls: ModelCalls | None = None

    def collect(self) -> Iterator[GuestItem]:
        from guestctl.checks import golden
        from guestctl.checks.reader import load
        from guestctl.core.errors import UsageError

        try:
            self.script = load(self._shown_path(), {}, os.environ)
            self.transcripts = golden.load(self.script.golden)
        except UsageError as error:
            raise self.CollectError(error.message) from None
        for scenario in self.script.scenarios:
            yield GuestItem.from_parent(self, name=scenario.name, scenario=scenario)

    def setup(self) -> None:
        """Prepare the service that the scenarios of this file run against."""
        from guestctl.checks.ai.model_calls import calls_for
        from guestctl.checks.service import ServiceUnderTest, check_abilities, profile_for
        from guestctl.core.clock import SystemClock
        from guestctl.core.errors import UsageError

        self._stack = ExitStack()
        try:
            environ = self._environ()
            name = None if "GUESTCTL_PROFILE" in environ else self._profile()
            profile = profile_for(self.script, lambda: _resolved(name, environ), {}, environ, trusted=True)
            check_abilities(self.script, profile)
            if any(scenario.has_models for scenario in self.script.scenarios):
                name = str(self.script.path)
                self.calls = calls_for(name, self.script.ai, profile, clock=SystemClock(), environ=environ)
        except UsageError as error:
            self._stack.close()
            raise _failed(f"{error.message}; {error.hint}") from None
        self.service = ServiceUnderTest(profile, clock=SystemClock(), environ=environ)
        self._stack.callback(self.service.close)

    def teardown(self) -> None:
        self._stack.close()

    def _profile(self) -> str | None:
        return self.config.getoption("--guest-profile") or self.config.getini("guest_profile") or None

    def _environ(self) -> dict[str, str]:
        """Return the environment, with a new sandbox if the file runs against one."""
        environ = dict(os.environ)
        bot = self.path.with_name(self.path.name.removesuffix(SUFFIX) + BOT_SUFFIX)
        named = self._profile() or environ.get("GUESTCTL_PROFILE")
        if bot.is_file() or (named == "sandbox" and not environ.get("GUESTCTL_SANDBOX_URL")):
            sandbox = self._stack.enter_context(_sandbox(bot if bot.is_file() else None))
            # Other settings are meant for a real service. The sandbox would refuse its deployment.
            ours = ("GUESTCTL_API", "GUESTCTL_AI_BASE_URL", "GUESTCTL_AI_KEY", "GUESTCTL_AI_MODEL")
            kept = {k: v for k, v in environ.items() if k in ours or not k.startswith("GUESTCTL_")}
            return {**kept, "GUESTCTL_PROFILE": "sandbox", "GUESTCTL_SANDBOX_URL": sandbox.url}
        if named is not None:
            environ["GUESTCTL_PROFILE"] = named
        return environ

    def _shown_path(self) -> Path:
        root = self.config.rootpath
        return self.path.relative_to(root) if Path.cwd() == root and self.path.is_relative_to(root) else self.path


class GuestItem(pytest.Item):
    """One scenario. Its tags are keywords: `pytest -k smoke`."""

    def __init__(self, *, scenario: Scenario, **more: Any) -> None:
        super().__init__(**more)
        self.scenario = scenario
        self.extra_keyword_matches.update(scenario.tags)

    def runtest(self) -> None:
        from guestctl.checks.runner import Rules, Runner

        outcome = Runner(Rules(wait=_wait(self.config)), os.environ).one(self._job())
        for number, line in enumerate(outcome.remarks):
            self.add_report_section("call", f"remark {number}", line)
        if outcome.verdict != "passed":
            raise GuestCheckFailed(outcome)

    def _job(self) -> Job:
        from guestctl.checks.runner import Job

        parent = self.parent
        assert isinstance(parent, GuestFile)
        golden = parent.transcripts.get(self.scenario.name)
        return Job(parent.script, self.scenario, parent.service, golden, parent.calls)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the report of a failed check. Any other exception is shown as usual."""
        if isinstance(excinfo.value, GuestCheckFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.scenario.line - 1, self.name


class GuestCheckFailed(Exception):
    """A scenario did not pass. The text is the whole report; pytest's summary repeats its first line."""

    def __init__(self, outcome: Outcome) -> None:
        from guestctl.checks.reports.console import explanation, reason

        super().__init__("\n".join([reason(outcome), *(f"  {line}" for line in explanation(outcome))]))
        self.outcome = outcome
