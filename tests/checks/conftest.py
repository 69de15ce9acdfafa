"""A service, and scripts run against it by the library alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from guestctl.checks import golden
from guestctl.checks.outcomes import Outcome
from guestctl.checks.reader import load
from guestctl.checks.runner import Job, Rules, Runner
from guestctl.checks.service import ServiceUnderTest, profile_for
from guestctl.config.profiles import Resolved, resolve
from guestctl.core.clock import SystemClock
from guestctl.sandbox.bot.bot_script import load as load_bot
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.client_keys import RETURNED
from tests.ports import lasting_port

Checked = Callable[..., dict[str, Outcome]]


def resolved(url: str, api: str = "web-messaging") -> Resolved:
    environ = {"GUESTCTL_SANDBOX_URL": url, "GUESTCTL_SANDBOX_LIMITS": "none", "GUESTCTL_API": api}
    return resolve("sandbox", options={}, environ=environ, cwd=Path.cwd(), profiles_option=None, sandbox=lambda: None)


@pytest.fixture
def served() -> Iterator[Callable[..., Sandbox]]:
    """Start a sandbox with the bot of the test."""
    with ExitStack() as stack:

        def start(bot: str | None = None, **settings: Any) -> Sandbox:
            scripted = None if bot is None else load_bot(bot, "bot.yaml", delay=0.0)
            sandbox = Sandbox(
                SandboxOptions(**{**RETURNED, "fast": True, "port": lasting_port(), **settings}),
                bot=scripted,
            )
            stack.callback(sandbox.stop)
            return sandbox.start()

        yield start


@pytest.fixture
def checked(tmp_path: Path) -> Iterator[Checked]:
    """Run a script's scenarios against a sandbox. Return the outcomes by name."""
    with ExitStack() as stack:

        def run(
            sandbox: Sandbox,
            text: str,
            *,
            rules: Rules | None = None,
            variables: Mapping[str, str] | None = None,
            environ: Mapping[str, str] | None = None,
            api: str = "web-messaging",
        ) -> dict[str, Outcome]:
            path = tmp_path / "script.yaml"
            path.write_text(text, encoding="utf-8")
            script = load(path, variables or {}, environ or {})
            profile = profile_for(script, lambda: resolved(sandbox.url, api), {}, {})
            service = ServiceUnderTest(profile, clock=SystemClock(), environ={})
            stack.callback(service.close)
            transcripts = golden.load(script.golden)
            jobs = [Job(script, one, service, transcripts.get(one.name)) for one in script.scenarios]
            runner = Runner(rules or Rules(wait=5.0), environ or {})
            return {outcome.name: outcome for outcome in runner.run(jobs)}

        yield run
