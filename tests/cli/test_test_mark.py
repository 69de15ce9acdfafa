"""The attribute `IsAutomatedTest`, by which flows recognise the sessions of checks.

Knows: the command line, and the attributes that the sandbox received. Must not know: how a dialect sends them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guestctl.dialects import NAMES
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front, Result

MARKED = ("web-messaging", "guest-sessions", "guests", "conversation-guests", "messaging-conversations")
UNMARKED = ("external-contacts", "webmessaging-conversations")
STEPS = "steps: [{say: hello}, {expect: hello}]"


@pytest.fixture(scope="module")
def all_apis() -> Iterator[Sandbox]:
    with running(SandboxOptions(fast=True)) as found:
        yield found


@pytest.fixture
def check(all_apis: Sandbox, sandboxed: Callable[[Sandbox], Front], tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Run a script with an API and return the attributes that the service received."""
    front = sandboxed(all_apis)

    def run(api: str, script: str) -> dict[str, str]:
        (tmp_path / "s.yaml").write_text(script)
        result: Result = front("check", str(tmp_path / "s.yaml"), "--timeout", "10s", "--api", api)
        assert (result.code, result.err) == (0, ""), result
        [*_, session] = [one for one in front("sandbox", "sessions").records if one["api"] == api]
        usual = {"source", "locale", "user_agent"}  # sent by default on some APIs
        return {name: value for name, value in session["attributes"].items() if name not in usual}

    return run


def test_every_api_is_one_that_marks_or_has_no_field() -> None:
    assert {*MARKED, *UNMARKED} == set(NAMES)


@pytest.mark.parametrize("api", MARKED)
def test_a_check_marks_its_session(check: Callable[..., dict[str, str]], api: str) -> None:
    assert check(api, f"scenarios: {{a: {{{STEPS}}}}}") == {"IsAutomatedTest": "true"}
    own = f"attributes: {{plan: gold}}\nscenarios: {{a: {{attributes: {{x: y}}, {STEPS}}}}}"
    assert check(api, own) == {"IsAutomatedTest": "true", "plan": "gold", "x": "y"}


@pytest.mark.parametrize("api", UNMARKED)
def test_an_api_without_a_field_gets_no_mark(check: Callable[..., dict[str, str]], api: str) -> None:
    assert check(api, f"scenarios: {{a: {{{STEPS}}}}}") == {}


@pytest.mark.parametrize("api", MARKED)
@pytest.mark.parametrize("null", ["null", "~", ""])
def test_null_removes_the_mark(check: Callable[..., dict[str, str]], api: str, null: str) -> None:
    assert check(api, f"attributes:\n  IsAutomatedTest: {null}\nscenarios: {{a: {{{STEPS}}}}}") == {}
    nested = f"scenarios:\n  a:\n    {STEPS}\n    attributes:\n      plan: gold\n      IsAutomatedTest: {null}\n"
    assert check(api, nested) == {"plan": "gold"}


@pytest.mark.parametrize("api", MARKED)
def test_a_script_may_give_the_mark_another_value(check: Callable[..., dict[str, str]], api: str) -> None:
    for value, sent in (("false", "false"), ("No", "No"), ("'null'", "null")):
        script = f"attributes: {{IsAutomatedTest: {value}}}\nscenarios: {{a: {{{STEPS}}}}}"
        assert check(api, script) == {"IsAutomatedTest": sent}


@pytest.mark.parametrize("api", MARKED)
def test_only_check_marks_sessions(all_apis: Sandbox, sandboxed: Callable[[Sandbox], Front], api: str) -> None:
    front = sandboxed(all_apis)
    front("ask", "hello", "--api", api)
    [*_, session] = [one for one in front("sandbox", "sessions").records if one["api"] == api]
    assert "IsAutomatedTest" not in session["attributes"]
