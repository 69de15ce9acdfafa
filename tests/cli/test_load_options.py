"""The options of `load`, its objectives and the guard. Nothing is sent: tests/load runs Locust."""

from __future__ import annotations

import re
import sys

import pytest

from guestctl.load import installation
from guestctl.load.slo import SloError, parse
from tests.cli.conftest import Front

SCRIPT = "scenarios: {hello: [{say: hi}, {expect: hi}]}\n"
LIVE = ("--deployment-id", "x", "--region", "eu-central-1")
HOST = "webmessaging.mypurecloud.de"


@pytest.fixture
def here(front: Front, monkeypatch: pytest.MonkeyPatch) -> Front:
    """Run commands against a sandbox of this machine."""
    (front.cwd / "smoke.yaml").write_text(SCRIPT, encoding="utf-8")
    monkeypatch.chdir(front.cwd)
    return front


@pytest.fixture
def elsewhere(alone: Front, monkeypatch: pytest.MonkeyPatch) -> Front:
    (alone.cwd / "smoke.yaml").write_text(SCRIPT, encoding="utf-8")
    monkeypatch.chdir(alone.cwd)
    return alone


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "find_spec", lambda name: None)


@pytest.mark.usefixtures("without_packages")
def test_a_missing_extra_is_one_error_with_the_command_that_installs_it(here: Front) -> None:
    found = here("load", "smoke.yaml", "-o", "json")
    assert (found.code, found.out, found.error["code"]) == (2, "", "load.extra")
    assert "no locust and no gevent and no hdrhistogram" in found.error["message"]
    assert "pip install 'guestctl[load]'" in found.error["hint"]


def test_python_3_10_is_one_error(here: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    found = here("load", "smoke.yaml", "-o", "json")
    assert (found.code, found.error["code"]) == (2, "load.python")
    assert "load tests need Python 3.11 or newer, and this is 3.10" in found.error["message"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), f"{HOST} is not this machine; the vendor allows load tests only with a ticket"),
        (("--for", "1m"), "at least two weeks ahead and approved, and only at night, from 23:00 to 5:00"),
        (("--for", "1m", "--yes-load-test", "mypurecloud.de"), f'names "mypurecloud.de", but the target is {HOST}'),
        (("--for", "1m", "--yes-load-test", "api.mypurecloud.de"), f"but the target is {HOST}"),
        (("--yes-load-test", HOST), f"a load test of {HOST} needs a time limit"),
    ],
)
def test_another_machine_needs_its_exact_name_and_a_time_limit(
    elsewhere: Front, options: tuple[str, ...], why: str
) -> None:
    found = elsewhere("load", "smoke.yaml", *LIVE, *options, "-o", "json")
    assert (found.code, found.error["code"]) == (2, "load.guard")
    assert why in found.error["message"]


@pytest.mark.usefixtures("without_packages")
@pytest.mark.parametrize("options", [("--for", "10m"), ("--worker", "10.0.0.5")])
def test_the_vendors_rule_is_printed_before_anything_else(elsewhere: Front, options: tuple[str, ...]) -> None:
    found = elsewhere("load", "smoke.yaml", *LIVE, *options, "--yes-load-test", HOST, "-o", "table")
    assert found.err.startswith("the vendor allows load tests only with a ticket"), found.err
    assert "load.extra" not in found.err
    assert "guestctl[load]" in found.err


def test_this_machine_needs_no_confirmation(here: Front) -> None:
    found = here("load", "smoke.yaml", "--yes-load-test", "127.0.0.1", "-o", "json")
    assert found.code == 2
    assert "the target is this machine" in found.error["message"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--ramp", "10"), '--ramp: "10" is not a rate'),
        (("--ramp", "0/s"), '--ramp: "0/s" is not a rate'),
        (("--ramp", "1000/s"), "is not a rate"),
        (("--for", "soon"), '--for: "soon" is not a duration'),
        (("--guests", "0"), "--guests"),
        (("--workers", "0"), "--workers"),
        (("--master", "--worker", "10.0.0.5"), "--master cannot be combined with --worker"),
        (("--bind", "10.0.0.5:5557"), "--bind is the address of a master"),
        (("--worker", "10.0.0.5:port"), "is not an address"),
        (("--worker", "10.0.0.5", "--guests", "5"), "--guests cannot be combined with --worker"),
        (("--worker", "10.0.0.5", "--slo", "lost = 0"), "--slo cannot be combined with --worker"),
        (("--worker", "10.0.0.5", "--html", "x.html"), "--html cannot be combined with --worker"),
        (("--tag", "slow"), 'no scenario has the tag "slow"'),
        (("--trace", "load.trace"), "load records no traffic"),
        (("-v",), "load records no traffic"),
        (("--slo", "reply p95 < 2 parsecs"), "is not an objective"),
    ],
)
def test_wrong_options_send_nothing(here: Front, options: tuple[str, ...], why: str) -> None:
    found = here("load", "smoke.yaml", *options, "-o", "json")
    assert (found.code, found.out) == (2, "")
    assert why in found.error["message"]


@pytest.mark.parametrize(
    ("load", "why"),
    [
        ("{wait: 1s}", 'smoke.yaml:2: load: unknown key "wait" (keys: think, scenarios)'),
        ("{think: often}", "smoke.yaml:2: load.think: must be a duration"),
        ("{think: {min: 1s}}", "smoke.yaml:2: load.think: `max` is missing"),
        ("{think: {min: 2s, max: 1s}}", "smoke.yaml:2: load.think.min: `min` is more than `max`"),
        ("{scenarios: {helo: {weight: 1}}}", 'load.scenarios: no scenario "helo"; did you mean "hello"?'),
        ("{scenarios: {hello: {weight: 0}}}", "load.scenarios.hello.weight: must be a whole number from 1 to 1000"),
        ("{scenarios: {hello: {wieght: 2}}}", 'unknown key "wieght"; did you mean "weight"?'),
        ("[1s]", "smoke.yaml:2: load: must be a mapping"),
    ],
)
@pytest.mark.parametrize("command", ["load", "check"])
def test_the_key_load_is_validated_by_both_commands(here: Front, command: str, load: str, why: str) -> None:
    (here.cwd / "smoke.yaml").write_text(f"{SCRIPT}load: {load}\n", encoding="utf-8")
    found = here(command, "smoke.yaml", "-o", "json")
    assert (found.code, found.error["code"]) == (2, "config.file")
    assert why in found.error["message"]


def test_check_runs_a_script_with_the_key_load(here: Front) -> None:
    text = f"{SCRIPT}load: {{think: {{min: 1s, max: 5s}}, scenarios: {{hello: {{weight: 3, think: 0s}}}}}}\n"
    (here.cwd / "smoke.yaml").write_text(text, encoding="utf-8")
    assert here("check", "smoke.yaml", "-o", "json").code == 0


def test_a_load_test_asks_no_model(here: Front) -> None:
    (here.cwd / "smoke.yaml").write_text("scenarios: {a: [{judge: {criteria: [polite]}}]}\n", encoding="utf-8")
    found = here("load", "smoke.yaml", "-o", "json")
    assert found.code == 2
    assert "smoke.yaml:1: `judge` asks a model, which a load test does not do" in found.error["message"]


@pytest.mark.parametrize(
    ("text", "measure", "statistic", "operator", "limit"),
    [
        ("reply p95 < 2s", "reply", "p95", "<", 2.0),
        ("reply p99.9<=500ms", "reply", "p99.9", "<=", 0.5),
        ("last_reply max < 1m", "last_reply", "max", "<", 60.0),
        ("failed < 0.5%", "failed", None, "<", 0.005),
        ("lost = 0", "lost", None, "=", 0.0),
        ("turns >= 150/s", "turns", None, ">=", 150.0),
    ],
)
def test_an_objective_is_read(text: str, measure: str, statistic: str | None, operator: str, limit: float) -> None:
    (found,) = parse(text)
    assert (found.measure, found.statistic, found.operator, found.limit) == (measure, statistic, operator, limit)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no objective"),
        ("lost = 0,", "an objective is empty"),
        ("reply", "is not an objective"),
        ("reply < 2s", "reply needs a statistic"),
        ("reply p101 < 2s", 'no statistic "p101"'),
        ("reply median < 2s", 'no statistic "median"'),
        ("reply p95 < 2%", '"2%" is not a time'),
        ("reply p95 < soon", '"soon" is not a time'),
        ("reply p95 == 2s", "is not an objective"),
        ("failed p95 < 1%", 'failed is a number, and has no "p95"'),
        ("failed < 101%", "a share is at most 100%"),
        ("failed < -1", "is not a number or a share"),
        ("turns > 150", "turns needs a rate"),
        ("replies p95 < 2s", 'no measure "replies"; did you mean "reply"?'),
    ],
)
def test_a_wrong_objective_is_explained(text: str, why: str) -> None:
    with pytest.raises(SloError, match=re.escape(why)):
        parse(text)
