"""Fixtures of every test: no guestctl settings from outside, a state directory per test, no sockets in unit tests."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import socket
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import settings

from guestctl.dialects import NAMES
from tests.fakes import FakeClock
from tests.ports import lasting_port
from tests.properties import register_profiles
from tests.suites import ONE_CASE, SLOW, default_case, in_sample, sampled_api

if TYPE_CHECKING:
    from guestctl.sandbox.server import Sandbox

UNIT = Path(__file__).parent / "unit"
_PROXIES = {
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
}
_TERMINAL = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "TRACEPARENT", "TRACESTATE", "BAGGAGE"}

register_profiles()
settings.load_profile("guestctl")


# Tests start hundreds of processes. Where byte code is forbidden, each of them would compile the whole package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell may start background jobs with these signals ignored, and child processes would inherit that.
for _number, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _default)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("guestctl")
    group.addoption(
        "--sample", type=int, default=1, metavar="N", help="run about one slow test in N, and those that always run"
    )
    group.addoption("--sample-seed", type=int, default=0, metavar="SEED", help="which slow tests --sample chooses")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the slow tests. With `--sample N`, leave out all but about one in N of them."""
    _mark_slow_tests(items)
    share, seed = config.getoption("--sample"), config.getoption("--sample-seed")
    left_out = [
        item
        for item in items
        if item.get_closest_marker("slow") and not in_sample(_name(item), item.nodeid, share, seed)
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        leaving = set(left_out)
        items[:] = [item for item in items if item not in leaving]


def pytest_collection_finish() -> None:
    """Take the collected tests out of garbage collection: thousands of them would be searched again and again."""
    gc.collect()
    gc.freeze()


def _name(item: pytest.Item) -> str:
    """Return the name of a test as `tests/suites.py` writes it: file and function, without parameters."""
    return f"{_file(item.path)}::{getattr(item, 'originalname', item.name)}"


@cache
def _file(path: Path) -> str:
    return path.relative_to(UNIT.parent).as_posix() if UNIT.parent in path.parents else path.as_posix()


def _mark_slow_tests(items: list[pytest.Item]) -> None:
    """Mark the tests that `tests/suites.py` lists as slow, and those it leaves out of the samples of APIs and cases."""
    by_test: dict[str, list[tuple[pytest.Item, str]]] = defaultdict(list)
    for item in items:
        if UNIT.parent not in item.path.parents:
            continue
        name = _name(item)
        if name in SLOW or name.partition("::")[0] in SLOW:
            item.add_marker(pytest.mark.slow)
        elif UNIT not in item.path.parents and (api := _api(item)):
            by_test[name].append((item, api))
    for name, variants in by_test.items():
        sample = sampled_api(name, {api for _, api in variants})
        for item, api in variants:
            if api != sample:
                item.add_marker(pytest.mark.slow)
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if (name := _name(item)) in ONE_CASE and not item.get_closest_marker("slow"):
            cases[name].append(item)
    for name, found in cases.items():
        chosen = default_case(name, [item.nodeid for item in found])
        for item in found:
            if item.nodeid != chosen:
                item.add_marker(pytest.mark.slow)


def _api(item: pytest.Item) -> str | None:
    """Return the API whose name is a parameter of the test, if there is one."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return next((value for value in parameters.values() if isinstance(value, str) and value in NAMES), None)


class SocketUsed(AssertionError):
    """A unit test used the network."""


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a path for the home of each test. Most tests need none, so none is created."""
    parent = tmp_path_factory.mktemp("homes")
    return (parent / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, homes: Iterator[Path]) -> None:
    """Remove the settings of the machine: GUESTCTL_*, proxies, CAs and terminal variables."""
    for name in tuple(os.environ):
        if name.startswith(("GUESTCTL_", "OTEL_")) or name.upper() in _PROXIES or name in _TERMINAL:
            monkeypatch.delenv(name)
    home = next(homes)
    monkeypatch.setenv("GUESTCTL_STATE", str(home / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))  # not the user's own profiles


@pytest.fixture(autouse=True)
def no_sockets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid tests under `unit/` to connect, listen or resolve names. Socket pairs stay allowed."""
    if UNIT not in request.path.parents:
        return

    def refuse(*args: object, **options: object) -> NoReturn:
        raise SocketUsed(f"{request.node.nodeid} used the network: {args[1:]}")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Start a sandbox on loopback. Its bot replies at once, without rate limits."""
    from guestctl.sandbox.server import Sandbox

    with Sandbox(fast=True, keys="returned", deduplicates="yes", port=lasting_port()) as served:
        yield served
