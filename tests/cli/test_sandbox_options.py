"""The options of `sandbox serve` and `sandbox exec` that decide how the service behaves."""

from __future__ import annotations

import json
import sys

import pytest

from tests.cli.conftest import Front
from tests.cli.test_signals import started

GUESTCTL = (sys.executable, "-m", "guestctl")


@pytest.mark.parametrize("command", [("serve",), ("exec",)])
@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--keys", "return", "returned, withheld"),
        ("--deduplicates", "true", "yes, no"),
        ("--answers", "bare", "full, published"),
        ("--unknown-deployment", "refuse", "answered, refused"),
        ("--domain", "https://x.test", "host name"),
        ("--domain", "a b", "host name"),
        ("--bot-delay", "soon", "duration"),
        ("--bot-delay", "-1", "duration"),
        ("--fault", "late:ms=x", "milliseconds"),
        ("--fault", "late:on=socket", "late concerns"),
    ],
)
def test_wrong_values_are_refused(alone: Front, command: tuple[str], option: str, value: str, named: str) -> None:
    rest = ("--", "true") if command == ("exec",) else ()
    result = alone("sandbox", *command, f"{option}={value}", *rest)
    assert (result.code, result.out) == (2, "")
    assert named in result.err


@pytest.mark.parametrize(("options", "stated"), [((), False), (("--deduplicates", "yes"), True)])
def test_the_sandbox_profile_states_whether_its_sandbox_deduplicates(
    alone: Front, options: tuple[str, ...], stated: bool
) -> None:
    shown = (*GUESTCTL, "profile", "show", "-o", "json")
    with started(alone, "sandbox", "exec", *options, "--", *shown) as process:
        assert process.stdout is not None
        under_exec = json.loads(process.stdout.read())
        assert process.wait(30) == 0
    with started(alone, "sandbox", "serve", *options, "-o", "json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["deduplicates"] == ("yes" if stated else "no")
        served = alone("-p", "sandbox", "profile", "show", "-o", "json").records[0]
    for found in (under_exec, served):
        assert str(stated).lower() in json.dumps(_entry(found, "service.deduplicates")).lower()


def _entry(shown: object, key: str) -> object:
    """Return what `profile show` prints about a key."""
    if isinstance(shown, dict):
        if key in shown:
            return shown[key]
        if shown.get("key") == key:
            return shown
        shown = list(shown.values())
    if isinstance(shown, list):
        return next((found for entry in shown if (found := _entry(entry, key)) is not None), None)
    return None


def test_a_symbolic_link_as_state_is_refused(alone: Front) -> None:
    target = alone.cwd / "target"
    (alone.cwd / "state").symlink_to(target)
    result = alone("sandbox", "exec", "--state", str(alone.cwd / "state"), "--", "true")
    assert (result.code, target.exists()) == (2, False)
    assert "symbolic link" in result.err


def test_the_faults_topic_lists_late(alone: Front) -> None:
    assert "late:ms=2000" in alone("help", "faults").out
